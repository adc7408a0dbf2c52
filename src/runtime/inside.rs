//! A process in a container's mount namespace, for work on what is mounted there.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rustix::fs::OFlags;

use crate::error::Result;
use crate::sys::mountinfo::{self, Mount};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{self, Named, mount, process};

/// This process, a helper's, in a container's mount namespace, with a way to its own /proc on the
/// host.
pub(super) struct Inside {
    own: OwnedFd,
    fds: OwnedFd,
    /// The root of the namespace.
    pub(super) root: OwnedFd,
}

impl Inside {
    /// Joins the namespace, whose root is then this process's, wherever init's own is. The powers
    /// are still the host's.
    pub(super) fn enter(init: &OwnedFd) -> Result<Self> {
        let own = open_dir("/proc/self")?;
        let fds = open_dir("/proc/self/fd")?;
        setns(init, CloneFlags::CLONE_NEWNS).named(|| "setns(pidfd, CLONE_NEWNS)".into())?;
        Ok(Self { own, fds, root: open_dir("/")? })
    }

    /// As [`enter`](Self::enter), as the container's root and with no more power than it has.
    pub(super) fn enter_as_its_root(init: &OwnedFd) -> Result<Self> {
        let inside = Self::enter(init)?;
        setns(init, CloneFlags::CLONE_NEWUSER).named(|| "setns(pidfd, CLONE_NEWUSER)".into())?;
        process::become_root()?;
        Ok(inside)
    }

    /// What is at `path`, with no link on the way.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> sys::Result<OwnedFd> {
        open_in(&self.root, path, Links::Refuse, OFlags::PATH | flags, 0)
    }

    /// The mounts of the namespace.
    pub(super) fn mounts(&self) -> Result<Vec<Mount>> {
        let file = open_in(&self.own, "mountinfo", Links::Refuse, OFlags::RDONLY, 0)?;
        let mut text = Vec::new();
        std::fs::File::from(file).take(mountinfo::LIMIT).read_to_end(&mut text)?;
        Ok(mountinfo::parse(&text))
    }

    /// Detaches the very mount that `top` is the root of.
    pub(super) fn detach(&self, top: &OwnedFd) -> Result<()> {
        Ok(mount::detach(&self.fds, top)?)
    }
}
