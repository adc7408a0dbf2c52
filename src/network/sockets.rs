//! `/srv/coloc/sockets` of a container, seen on the host at `/run/coloc/sockets/NAME`: where a web
//! server of the host's finds the sockets of programs inside.
//!
//! It is a bind mount of the directory in the private tree. Whoever is root inside puts there
//! what they like, so nothing in it is a device, is executed, gains anybody rights, or leads
//! elsewhere: the mount is nosuid, nodev, noexec and nosymfollow. And it is read-only, for programs of
//! any user inside make sockets there, and users of the host would be as free to: to connect to a socket
//! is not to write.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::store::{Layout, Name};
use crate::sys::mount::{self, Attr};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{self, Named};

const FLAGS: Attr =
    Attr::RDONLY.with(Attr::NOSUID).with(Attr::NODEV).with(Attr::NOEXEC).with(Attr::NOSYMFOLLOW);

/// Shows the sockets of `name`, whose root has the host's id `root`. The caller holds its lock.
pub fn show(layout: &Layout, name: &Name, root: u32) -> Result<()> {
    hide(layout, name)?;
    let Some(inside) = directory(&layout.private(name), root)? else { return Ok(()) };
    let place = layout.sockets().join(name.as_str());
    let context = || format!("cannot make {}", place.display());
    for (dir, mode) in [(layout.sockets(), 0o755), (place.clone(), 0o000)] {
        std::fs::create_dir_all(&dir).context(context)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&dir, mode).context(context)?;
    }
    let copy = mount::clone_at(&inside)?;
    mount::prepare(&copy, FLAGS, Attr::NONE, None)?;
    mount::attach(&copy, open_dir(&place)?)?;
    Ok(())
}

/// Takes the view away; no error if there is none.
pub fn hide(layout: &Layout, name: &Name) -> Result<()> {
    let place = layout.sockets().join(name.as_str());
    if std::fs::symlink_metadata(&place).is_err() {
        return Ok(());
    }
    mount::detach_path(&place)?;
    std::fs::remove_dir(&place).context(|| format!("cannot remove {}", place.display()))
}

/// Takes away what is shown of containers that do not run, by the word of `runs`.
pub fn sweep(layout: &Layout, runs: &dyn Fn(&Name) -> bool) {
    for entry in std::fs::read_dir(layout.sockets()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|n| Name::parse("container", n).ok());
        if let Some(name) = name.filter(|n| !runs(n)) {
            let _ = hide(layout, &name);
        }
    }
}

/// The directory in the private tree, made if it is missing; None if its member put something else
/// there. Every program inside may make sockets in it, and remove its own alone.
fn directory(private: &Path, root: u32) -> Result<Option<OwnedFd>> {
    let mut dir = open_dir(private)?;
    for (word, mode) in [("srv", 0o755), ("coloc", 0o755), ("sockets", 0o1777)] {
        let Some(next) = step(&dir, word, mode, root)? else { return Ok(None) };
        dir = next;
    }
    Ok(Some(dir))
}

fn step(dir: &OwnedFd, word: &str, mode: u32, root: u32) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || open_in(dir, word, Links::Refuse, flags, 0);
    match open() {
        Ok(fd) => return Ok(Some(fd)),
        Err(e) if e.errno() != libc::ENOENT => return Ok(None),
        Err(_) => {}
    }
    let call = || format!("mkdirat({word:?})");
    match rustix::fs::mkdirat(dir, word, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        other => other.named(call)?,
    }
    let made = match open() {
        Ok(made) => made,
        Err(_) => return Ok(None),
    };
    // Its member does not run and cannot have put another in its place; root's alone is ours.
    let stat = rustix::fs::statat(&made, "", AtFlags::EMPTY_PATH).named(call)?;
    if stat.st_uid == 0 && FileType::from_raw_mode(stat.st_mode).is_dir() {
        let (uid, gid) = (Uid::from_raw(root), Gid::from_raw(root));
        rustix::fs::fchown(&made, Some(uid), Some(gid)).named(call)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).named(call)?;
    }
    Ok(Some(made))
}

/// Whether `name`'s sockets are shown.
pub fn shown(layout: &Layout, name: &Name) -> bool {
    let place = layout.sockets().join(name.as_str());
    let here = open_dir(&place).and_then(|d| mount::stat(d.as_fd()));
    let above = open_dir(layout.sockets()).and_then(|d| sys::mount::stat(d.as_fd()));
    matches!((here, above), (Ok(a), Ok(b)) if a.mount != b.mount)
}
