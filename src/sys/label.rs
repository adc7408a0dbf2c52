//! The label that a security module gives a process (AppArmor's files in /proc/PID/attr).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::{Named, Result};

/// When a process goes under its new label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// When it executes another program.
    OnExec,
}

/// The way to another label for the process that opened it, and for no other.
#[derive(Debug)]
pub struct Door {
    file: OwnedFd,
    when: When,
}

impl Door {
    /// Opens it below `proc`, which has to be the host's /proc: that of a container may be
    /// anything that its root put there.
    pub fn open(proc: impl AsFd, when: When) -> Result<Self> {
        let path = match when {
            When::Now => "self/attr/apparmor/current",
            When::OnExec => "self/attr/apparmor/exec",
        };
        let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .named(|| format!("openat({path:?}, O_WRONLY)"))?;
        Ok(Self { file, when })
    }

    /// Goes through it to `label`.
    pub fn enter(self, label: &str) -> Result<()> {
        let text = match self.when {
            When::Now => format!("changeprofile {label}"),
            When::OnExec => format!("exec {label}"),
        };
        // The kernel wants all of it in one write.
        rustix::io::write(&self.file, text.as_bytes())
            .named(|| format!("write(attr, {text:?})"))
            .map(|_| ())
    }
}
