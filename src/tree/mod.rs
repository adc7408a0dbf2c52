//! File trees: copying one with shifted ids, the accounts in it, the list of everything in it,
//! writing it to the disk, its removal and its size; and the tree of a container's cgroups.
//!
//! Trees that a container can write to are walked by descriptors and `openat2`, or by the
//! distribution's own tools that are made for hostile trees; never by path strings.

pub mod accounts;
pub mod cgroups;
pub mod copy;
pub mod file;
pub mod inside;
pub mod manifest;
pub mod quota;
pub mod sync;
pub mod volume;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, ResolveFlags, openat, openat2, unlinkat};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// Removes the tree at `path`, mount points left alone; no error if it is not there. What is deep is
/// left to rm(1), which follows no link and copes with any depth; nothing may run in the tree.
pub fn remove(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    // Most are a directory of a few files, for which another program costs more than the work.
    if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
        let dir =
            openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let name = CString::new(name.as_bytes()).ok();
        let gone = dir.is_ok_and(|dir| {
            name.is_some_and(|name| remove_shallow(dir.as_fd(), &name, SHALLOW).is_ok())
        });
        if gone {
            return Ok(());
        }
    }
    let out = Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(path)
        .stdin(Stdio::null())
        // Whoever lets a Ctrl-C wait means this too.
        .process_group(0)
        .output()
        .context(|| "cannot run rm")?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().next().unwrap_or("rm failed").to_string();
    Err(Error::failed(line).context(format!("cannot remove {}", path.display())))
}

/// How many directories deep a tree may be that is removed without rm(1).
const SHALLOW: u8 = 2;

/// Removes `name` in `dir`, with what is in it if that is no deeper than `depth`. Follows no link and
/// enters no mount; after an error, whatever it is, some of it may be gone.
fn remove_shallow(dir: BorrowedFd<'_>, name: &CStr, depth: u8) -> rustix::io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) if depth > 0 => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let inner = openat2(dir, name, flags, Mode::empty(), how)?;
    let mut space = Vec::with_capacity(16 * 1024);
    let mut entries = RawDir::new(&inner, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            remove_shallow(inner.as_fd(), entry.file_name(), depth - 1)?;
        }
    }
    unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Bytes on disk of the tree at `path`, by du(1), on this file system alone. None when it
/// takes longer than ten seconds: a member can make a tree of any size.
pub fn disk_use(path: &Path) -> Option<u64> {
    let out = Command::new("timeout")
        // The tree may be a link into the part that is counted by itself.
        .args(["10", "du", "-D", "-s", "-x", "--block-size=1", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    // du tells a total even when a file went away under it, with exit code 1.
    if out.status.code() == Some(124) {
        return None;
    }
    String::from_utf8_lossy(&out.stdout).split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_any_depth_go_and_what_links_lead_to_stays() {
        let top = std::env::temp_dir().join(format!("coloc-remove-{}", std::process::id()));
        std::fs::create_dir_all(top.join("kept/inner")).unwrap();
        for path in ["tree", "tree/a", "tree/a/b", "tree/a/b/c/d"] {
            let dir = top.join(path);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::File::create(dir.join("file")).unwrap();
            std::os::unix::fs::symlink(top.join("kept"), dir.join("link")).unwrap();
            remove(&top.join("tree")).unwrap();
            assert!(!top.join("tree").exists(), "{path}");
        }
        std::os::unix::fs::symlink("kept", top.join("link")).unwrap();
        remove(&top.join("link")).unwrap();
        remove(&top.join("link")).unwrap();
        assert!(top.join("kept/inner").exists());
        remove(&top).unwrap();
    }
}
