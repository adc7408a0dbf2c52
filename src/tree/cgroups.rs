//! The cgroups below one, which are a member's to make: as deep as the kernel lets them, and with names by
//! which a path is soon longer than any system call takes (PATH_MAX). So they are walked from directory to
//! directory, by one descriptor at a time and without recursion, however deep it goes.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, openat, openat2, unlinkat,
};
use rustix::io::{Errno, Result};

/// What has more processes than this is looked at in part: it is no container.
const PROCESSES: usize = 65_536;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Gives `found` every cgroup from `top` down that has processes: the names that lead to it from there,
/// and those processes, as far as they have a number here. One that is gone has none.
pub fn each(top: &Path, mut found: impl FnMut(&[CString], &[i32])) {
    let mut count = 0;
    let look = |dir: BorrowedFd<'_>, names: &[CString]| {
        let pids = pids(dir);
        if !pids.is_empty() {
            found(names, &pids);
        }
        count += pids.len();
        if count > PROCESSES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    // A walk that cannot go on has seen what there was to see.
    let _ = walk(top, look, |_, _| {});
}

/// The processes in the cgroup `top` and below it, as far as they have a number here.
pub fn processes(top: &Path) -> Vec<i32> {
    let mut all = Vec::new();
    each(top, |_, pids| all.extend_from_slice(pids));
    all
}

/// Removes the cgroup `top` with those below it; no error if it is not there. Where a process is in one,
/// that and those above it stay, and the error is EBUSY.
pub fn remove(top: &Path) -> Result<()> {
    let gone = |above: BorrowedFd<'_>, name: &CStr| {
        // What is in its way is in the way of those above it, too.
        let _ = unlinkat(above, name, AtFlags::REMOVEDIR);
    };
    let walked = walk(top, |_, _| ControlFlow::Continue(()), gone);
    match unlinkat(CWD, top, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => walked.and(Err(e)),
    }
}

/// Calls `enter` with each directory from `top` down, and the names that lead there, before it goes on into
/// those in it, until told to stop; and `leave`, with the one above and its name, when it has come back out.
fn walk(
    top: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>, &[CString]) -> ControlFlow<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr),
) -> Result<()> {
    // An admin may have mounted something there, which is none of this.
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let mut at = openat(CWD, top, DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    if enter(at.as_fd(), &names).is_break() {
        return Ok(());
    }
    // For each directory on the way here, those in it that are still to be seen.
    let mut left = vec![directories(&at)];
    while let Some(next) = left.last_mut() {
        if let Some(name) = next.pop() {
            // One that has gone meanwhile has nothing in it.
            let Ok(inner) = openat2(&at, &name, DIRECTORY, Mode::empty(), how) else { continue };
            at = inner;
            names.push(name);
            if enter(at.as_fd(), &names).is_break() {
                return Ok(());
            }
            left.push(directories(&at));
            continue;
        }
        left.pop();
        let Some(name) = names.pop() else { break };
        // A cgroup stays below the one that it was made in: on v2 none is renamed, on v1 only in its place
        // (kernfs_iop_rename() in the kernel); and one that was removed still knows it.
        at = openat(&at, c"..", DIRECTORY, Mode::empty())?;
        leave(at.as_fd(), &name);
    }
    Ok(())
}

/// The directories in `dir`; of one that is gone there are none.
fn directories(dir: &OwnedFd) -> Vec<CString> {
    let mut found = Vec::new();
    let mut space = Vec::with_capacity(16 * 1024);
    let mut entries = RawDir::new(dir, space.spare_capacity_mut());
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && ![c".", c".."].contains(&name) {
            found.push(name.to_owned());
        }
    }
    found
}

/// The processes in one cgroup; those of no pid namespace that we are in are 0.
fn pids(dir: BorrowedFd<'_>) -> Vec<i32> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut text = String::new();
    if let Ok(file) = openat(dir, c"cgroup.procs", flags, Mode::empty()) {
        // Part of a list is better than none.
        let _ = std::fs::File::from(file).read_to_string(&mut text);
    }
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    /// A chain of directories below `top` whose path no system call takes, with a file of processes in the last.
    fn deep(top: &Path, depth: usize, name: &str) {
        let mut at = openat(CWD, top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&at, name, Mode::RWXU).unwrap();
            at = openat(&at, name, DIRECTORY, Mode::empty()).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = openat(&at, "cgroup.procs", flags, Mode::RWXU).unwrap();
        rustix::io::write(&file, b"7\n0\n8\n").unwrap();
    }

    #[test]
    fn what_no_path_leads_to_is_found_and_goes() {
        let top = std::env::temp_dir().join(format!("coloc-cgroups-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        // Far more than there may be descriptors, or frames of a stack.
        deep(&top, 3_000, &"n".repeat(250));
        std::os::unix::fs::symlink("/", top.join("a/link")).unwrap();
        let mut found = Vec::new();
        each(&top, |names, pids| found.push((names.len(), pids.to_vec())));
        assert_eq!(found, [(3_000, vec![7, 8])]);
        assert_eq!(processes(&top), [7, 8]);
        // On a disk what has a file in it stays, as a cgroup does that has a process; the rest goes.
        assert!(remove(&top).is_err());
        assert!(!top.join("a/b").exists() && top.join("a").exists());
        crate::tree::remove(&top).unwrap();
        remove(&top).unwrap();
        assert_eq!(processes(&top), [0; 0]);
    }

    #[test]
    fn all_that_is_empty_goes() {
        let top = std::env::temp_dir().join(format!("coloc-empty-{}", std::process::id()));
        for path in ["a/b/c", "a/d", "e"] {
            std::fs::create_dir_all(top.join(path)).unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
    }
}
