//! What can be tried in a container that runs, to see whether its walls stand.

use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns};
use rustix::fs::OFlags;

use super::aside::aside;
use super::locked::{self, USR};
use crate::error::Result;
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{Named, process};

/// With all the power of the container's root, tries to take from `/usr` what locks it; an
/// error says which flag went away, or that there is no `/usr` to look at.
pub fn usr_is_locked(init: &OwnedFd) -> Result<()> {
    let tried = aside(|| {
        process::hide()?;
        let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
        setns(init, both).named(|| "setns(pidfd, CLONE_NEWUSER|CLONE_NEWNS)".into())?;
        process::become_root()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let usr = open_in(open_dir("/")?, "usr", Links::Refuse, flags, 0)?;
        locked::prove(&usr, USR)?;
        Ok(((), Vec::new()))
    });
    tried.map(|((), _)| ())
}

/// What each user of the container's user namespace may have of the things named in `names`.
pub fn user_limits(init: &OwnedFd, names: &[&str]) -> Result<Vec<Option<u32>>> {
    let read = aside(|| {
        process::hide()?;
        setns(init, CloneFlags::CLONE_NEWUSER).named(|| "setns(pidfd, CLONE_NEWUSER)".into())?;
        // By the host's /proc, as the mount namespace is still ours.
        let number = |name: &&str| {
            let text = std::fs::read_to_string(format!("/proc/sys/user/{name}")).ok()?;
            text.trim().parse::<u32>().ok()
        };
        Ok((names.iter().map(number).collect::<Vec<_>>(), Vec::new()))
    });
    read.map(|(found, _)| found)
}
