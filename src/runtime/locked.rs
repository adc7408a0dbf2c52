//! Mounts for one container whose flags its root cannot change.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};

use super::aside::{self, Helper};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount::{self, Attr};
use crate::sys::path::open_dir;
use crate::sys::{Named, clone, process};

/// For how long a process that is there for its namespace may be.
const LIMIT: Duration = Duration::from_secs(20);
const CANNOT: &str = "cannot lock the base";
/// The flags of a container's `/usr`.
pub const USR: Attr = Attr::RDONLY.with(Attr::NODEV);

/// A detached copy of the mount at the directory `source` with the flags `attr`, and for `idmap`
/// with the ids of that user namespace. Its flags are not locked yet.
pub(super) fn copy(source: OwnedFd, attr: Attr, idmap: Option<&OwnedFd>) -> Result<OwnedFd> {
    changed(source, attr, Attr::NONE, idmap)
}

/// The same of a container's `/` or its `/usr`, in which sudo works whatever the host's mount says:
/// set-user-ID programs gain nothing there but ids of the container's own.
pub(super) fn copy_of_own(source: OwnedFd, attr: Attr, idmap: Option<&OwnedFd>) -> Result<OwnedFd> {
    changed(source, attr, Attr::NOSUID, idmap)
}

fn changed(source: OwnedFd, attr: Attr, clear: Attr, idmap: Option<&OwnedFd>) -> Result<OwnedFd> {
    let copy = mount::clone_at(source)?;
    let idmap_fd = || idmap.map(|fd| fd.as_fd());
    let mut prepared = mount::prepare(&copy, attr, clear, idmap_fd());
    // A host that is a container may have the flag locked by its own host: then it stays.
    if clear != Attr::NONE && prepared.as_ref().is_err_and(|e| e.errno() == libc::EPERM) {
        prepared = mount::prepare(&copy, attr, Attr::NONE, idmap_fd());
    }
    prepared.map_err(|e| match e.errno() {
        libc::EINVAL if idmap.is_some() => {
            Error::from(e).hint("its file system takes no id mapping: ext4, xfs, btrfs do")
        }
        libc::EPERM if idmap.is_some() => Error::new(
            Kind::Unsupported,
            "this host is a container, and the kernel maps ids on a disk for the disk's own host alone",
        )
        .hint("in a container keep the store on a tmpfs that was mounted there: coloc --root DIR"),
        _ => e.into(),
    })?;
    Ok(copy)
}

/// The user namespace of the process `pid`.
pub(super) fn user_namespace(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(&path, flags, Mode::empty()).named(|| format!("open({path:?})"))?)
}

/// A user namespace in which there is one user and one group: `uid.0` stands for `uid.1` of the
/// host's, and so do the groups. Its only process is there until the namespace is at hand.
pub(super) fn person(uid: (u32, u32), gid: (u32, u32)) -> Result<OwnedFd> {
    let parent = process::own_pid();
    let child = clone::spawn(clone::NEWUSER, None, || {
        if process::end_with(parent).is_ok() {
            std::thread::sleep(LIMIT);
        }
        0
    })?;
    let made = (|| {
        for (file, (on_disk, seen)) in [("uid_map", uid), ("gid_map", gid)] {
            let path = format!("/proc/{}/{file}", child.pid);
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut f| f.write_all(format!("{on_disk} {seen} 1\n").as_bytes()))
                .context(|| format!("cannot write {path}"))?;
        }
        user_namespace(child.pid)
    })();
    let _ = process::signal(&child.pidfd, libc::SIGKILL);
    process::wait(child.pidfd.as_fd())?;
    made
}

/// Takes mounts once across the user-namespace boundary, which is what locks their flags: a
/// read-only mount that was handed straight to a container can be remounted by its root.
/// Proves of each that root there cannot take its flags away.
///
/// A helper process does it in mount namespaces of its own (mount_namespaces(7), "Restrictions
/// on mount namespaces"): the first, ours, to attach the detached mounts; the second, owned by
/// the container's user namespace, to copy them; and out of that one they are cloned.
///
/// That process begins here; [`Crossing::end`] has the mounts.
pub(super) fn lock(
    mounts: &[(OwnedFd, Attr)],
    userns: &OwnedFd,
    scratch: &Path,
) -> Result<Crossing> {
    let pending = aside::begin(|| Ok(((), cross(mounts, userns, scratch)?))).context(|| CANNOT)?;
    Ok(Crossing { pending, count: mounts.len() })
}

/// Mounts on their way across the boundary; see [`lock`].
pub(super) struct Crossing {
    pending: aside::Pending<()>,
    count: usize,
}

impl Crossing {
    /// The mounts, in order, and the process that locked them, which may not have ended yet.
    pub(super) fn end(self) -> Result<(Vec<OwnedFd>, Helper)> {
        let (((), fds), helper) = self.pending.end().context(|| CANNOT)?;
        if fds.len() == self.count {
            return Ok((fds, helper));
        }
        Err(Error::failed(format!("{CANNOT}: a mount is missing")))
    }
}

fn cross(mounts: &[(OwnedFd, Attr)], userns: &OwnedFd, scratch: &Path) -> Result<Vec<OwnedFd>> {
    let new_mounts = || unshare(CloneFlags::CLONE_NEWNS).named(|| "unshare(CLONE_NEWNS)".into());
    new_mounts()?;
    mount::make_all_private()?;
    mount::attach(mount::make("tmpfs", &[("mode", "755")], Attr::NONE)?, open_dir(scratch)?)?;
    // From here on all is relative: the second namespace's copy of this very directory is
    // where the working directory is then.
    std::env::set_current_dir(scratch)?;
    for (n, (fd, _)) in mounts.iter().enumerate() {
        let name = n.to_string();
        rustix::fs::mkdir(&name, Mode::from_raw_mode(0o755)).named(|| "mkdir".into())?;
        mount::attach(fd, open_dir(&name)?)?;
    }
    setns(userns, CloneFlags::CLONE_NEWUSER).named(|| "setns(CLONE_NEWUSER)".into())?;
    process::become_root()?;
    new_mounts()?;
    let mut locked = Vec::new();
    for (n, (_, attr)) in mounts.iter().enumerate() {
        let copy = mount::clone_path(&n.to_string())?;
        prove(&copy, *attr)?;
        locked.push(copy);
    }
    Ok(locked)
}

/// With all the power that the container's root has, no flag of `attr` must go away. Each is
/// tried by itself: together, one that is locked would hide one that is not.
pub(super) fn prove(mount: impl AsFd, attr: Attr) -> Result<()> {
    for flag in [Attr::RDONLY, Attr::NOSUID, Attr::NODEV, Attr::NOEXEC] {
        if !attr.has(flag) {
            continue;
        }
        match mount::clear(&mount, flag) {
            Err(e) if e.errno() == libc::EPERM => {}
            Err(e) => return Err(e.into()),
            Ok(()) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "root inside could change the flags of a mount of the host's",
                )
                .hint("this kernel does not lock mount flags; coloc will not run on it"));
            }
        }
    }
    Ok(())
}
