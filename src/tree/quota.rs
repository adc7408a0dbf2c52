//! How much disk all of a container may take: its directory is a project of the file system's, or
//! holds a subvolume.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::path::open_dir;
use crate::sys::{Named, quota};
use crate::tree::volume;

/// How deep a tree may be that is given to a project: each level is an open directory.
const DEPTH: usize = 512;
/// A file takes at least a block of this, so there is one for each; and never fewer than
/// [`FILES`], which a small system has.
const BLOCK: u64 = 4096;
const FILES: u64 = 65_536;

/// A limit, and what is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Bytes taken.
    pub bytes: u64,
    /// Bytes that may be taken, if there is a limit.
    pub most: Option<u64>,
}

/// Lets the tree at `dir`, and what will be made in it, take `most` bytes; None for as much as
/// there is. `project` is a number that no other tree has. Nothing may run in the tree.
///
/// The directory itself gets the number last, so that a walk that was interrupted is begun anew.
pub fn limit(dir: &Path, project: u32, most: Option<u64>) -> Result<()> {
    if volume::is_btrfs(dir)? {
        return volume::limit(dir, most);
    }
    let top = readable(dir)?;
    if most.is_none() && quota::project(top.as_fd()).unwrap_or(0) != project {
        return Ok(());
    }
    let files = most.map_or(0, |bytes| (bytes / BLOCK).max(FILES));
    quota::set_limit(top.as_fd(), project, most.unwrap_or(0), files)
        .map_err(|e| unsupported(dir, &e.to_string()))?;
    if quota::project(top.as_fd()).map_err(|e| unsupported(dir, &e.to_string()))? == project {
        return Ok(());
    }
    below(&top, project, 0).context(|| format!("cannot count the files in {}", dir.display()))?;
    Ok(quota::set_project(top.as_fd(), project, true)?)
}

/// Whether a limit counts for the tree at `dir` as it is: it has been given to `project`, wholly, or
/// the file system has other means.
pub fn is_of(dir: &Path, project: u32) -> bool {
    if volume::is_btrfs(dir).unwrap_or(false) {
        return true;
    }
    readable(dir).is_ok_and(|top| quota::project(top.as_fd()).is_ok_and(|p| p == project))
}

/// What the tree at `dir` takes, by its file system's own count; None if it is no project.
pub fn usage(dir: &Path, project: u32) -> Option<Use> {
    if volume::is_btrfs(dir).ok()? {
        return volume::usage(dir);
    }
    let top = readable(dir).ok()?;
    if quota::project(top.as_fd()).ok()? != project {
        return None;
    }
    let (bytes, most) = quota::usage(top.as_fd(), project).ok()?;
    Some(Use { bytes, most: Some(most).filter(|n| *n > 0) })
}

pub(super) fn readable(dir: &Path) -> Result<OwnedFd> {
    let place = open_dir(dir)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(&place, ".", flags, Mode::empty())
        .named(|| "open(.)".into())
        .context(|| format!("cannot read {}", dir.display()))
}

fn unsupported(dir: &Path, why: &str) -> Error {
    let message = format!("the file system of {} keeps no project quotas: {why}", dir.display());
    Error::new(Kind::Unsupported, message).hint(
        "on ext4: tune2fs -O project,quota on the unmounted disk, then mount it with prjquota; on \
         XFS: mount it with prjquota; on btrfs it is: btrfs quota enable; others have none",
    )
}

/// Gives all below `dir` to the project: a directory before what is in it, so that what is made
/// in it meanwhile inherits.
fn below(dir: &OwnedFd, project: u32, depth: usize) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::failed(format!("it is deeper than {DEPTH} directories")));
    }
    let mut space = Vec::with_capacity(16 * 1024);
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.named(|| "getdents64".into())?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        if let Some((fd, directory)) = opened(dir.as_fd(), &name)? {
            quota::set_project(fd.as_fd(), project, directory)?;
            if directory {
                below(&fd, project, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Opens a file or directory of a tree that a container made; None for all else, which takes no
/// room and cannot be opened without harm, and for what is on another file system.
fn opened(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<(OwnedFd, bool)>> {
    let Ok(found) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(None) };
    let kind = FileType::from_raw_mode(found.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    let here = rustix::fs::fstat(dir).named(|| "fstat".into())?;
    if here.st_dev != found.st_dev {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some((fd, kind == FileType::Directory))),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => Ok(None),
        Err(e) => Err(e).named(|| format!("open({})", name.to_string_lossy()))?,
    }
}
