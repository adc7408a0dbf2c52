//! Opening paths in a tree that somebody else controls: openat2(2), never strings.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{Named, Result};

/// How links on the way are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Resolved as a process rooted at the tree would.
    InRoot,
    /// Refused with ELOOP, in every component.
    Refuse,
}

/// Opens `path` below the directory `root`, which is `/` for it: neither `..` nor an absolute
/// link leads out. The descriptor is close-on-exec.
///
/// A rename beside us makes the kernel answer EAGAIN; that is tried again some times.
pub fn open_in(
    root: impl AsFd,
    path: impl AsRef<Path>,
    links: Links,
    flags: OFlags,
    mode: u32,
) -> Result<OwnedFd> {
    let path = path.as_ref();
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let mode = Mode::from_raw_mode(mode);
    let mut tries = 0;
    loop {
        match openat2(&root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < 128 => tries += 1,
            r => return r.named(|| format!("openat2({path:?})")),
        }
    }
}

/// Opens a directory by its path on the host, to be used with the other calls here.
pub fn open_dir(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).named(|| format!("open({path:?}, O_DIRECTORY)"))
}

/// A handle on the very file that `fd` (which may be O_PATH) refers to, opened with `flags`,
/// by our own /proc: what was checked is what is opened.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
        .named(|| format!("open({path:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_dots_nor_links_lead_out() {
        let dir = std::env::temp_dir().join(format!("coloc-path-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let _ = std::os::unix::fs::symlink("/etc", dir.join("out"));
        let root = open_dir(&dir).unwrap();
        let read = |path, links| open_in(&root, path, links, OFlags::RDONLY, 0);
        assert_eq!(read("../../etc/passwd", Links::InRoot).unwrap_err().errno(), libc::ENOENT);
        assert_eq!(read("out/passwd", Links::InRoot).unwrap_err().errno(), libc::ENOENT);
        assert_eq!(read("out/passwd", Links::Refuse).unwrap_err().errno(), libc::ELOOP);
        std::fs::remove_file(dir.join("out")).unwrap();
        std::fs::remove_dir(&dir).unwrap();
    }
}
