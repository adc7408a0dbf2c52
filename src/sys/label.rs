//! The label that a security module gives a process (the files in /proc/PID/attr).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

/// Whose label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// A profile's name.
    AppArmor,
    /// A context, such as `system_u:system_r:container_t:s0`.
    SeLinux,
}

/// The way to another label for the process that opened it, and for no other.
#[derive(Debug)]
pub struct Door {
    file: OwnedFd,
    module: Module,
    when: When,
}

impl Door {
    /// Opens it below `proc`, which has to be the host's /proc: that of a container may be
    /// anything that its root put there.
    pub fn open(proc: impl AsFd, module: Module, when: When) -> Result<Self> {
        let path = match (module, when) {
            (Module::AppArmor, When::Now) => "self/attr/apparmor/current",
            (Module::AppArmor, When::OnExec) => "self/attr/apparmor/exec",
            // The files of the one module that has no directory of its own.
            (Module::SeLinux, When::Now) => "self/attr/current",
            (Module::SeLinux, When::OnExec) => "self/attr/exec",
        };
        let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .named(|| format!("openat({path:?}, O_WRONLY)"))?;
        Ok(Self { file, module, when })
    }

    /// Its descriptor, for whoever closes all others.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Goes through it to `label`.
    pub fn enter(self, label: &str) -> Result<()> {
        let text = match (self.module, self.when) {
            (Module::AppArmor, When::Now) => format!("changeprofile {label}"),
            (Module::AppArmor, When::OnExec) => format!("exec {label}"),
            (Module::SeLinux, _) => label.to_string(),
        };
        // The kernel wants all of it in one write.
        rustix::io::write(&self.file, text.as_bytes())
            .named(|| format!("write(attr, {text:?})"))
            .map(|_| ())
    }
}
