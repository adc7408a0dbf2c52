//! Looking at a private tree whose member may be changing it this very moment: by descriptors,
//! without following the last component, without waiting, and never more than a bound.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::{Context, Result};
use crate::sys::path::{Links, open_dir, open_in, reopen};
use crate::sys::{self, Named};
use crate::tree::manifest::{self, Entry};

/// A file larger than this is not compared but taken to be the member's own.
const HASH_LIMIT: u64 = 64 << 20;

/// What sort of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Special,
}

impl Kind {
    /// The kind of a manifest's entry.
    pub(super) fn of(entry: &Entry) -> Self {
        match entry.kind.as_str() {
            "file" => Kind::File,
            "dir" => Kind::Dir,
            "link" => Kind::Link,
            _ => Kind::Special,
        }
    }
}

/// What was at a path, well enough to tell later whether it is still that.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    /// Host ids.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    dev: u64,
    pub(super) ino: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Seen {
    pub(super) fn new(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            dev: stat.st_dev,
            ino: stat.st_ino,
            mtime: (stat.st_mtime as _, stat.st_mtime_nsec as _),
            ctime: (stat.st_ctime as _, stat.st_ctime_nsec as _),
        }
    }

    /// Whether it is the same file with the same content, but for a rename, which shows in
    /// ctime.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        Self { ctime: other.ctime, ..self.clone() } == *other
    }

    /// Whether it is the same file, nothing done to it. What is in a directory is another
    /// matter.
    pub(super) fn untouched(&self, other: &Self) -> bool {
        match self.kind {
            Kind::Dir => {
                (self.dev, self.ino, self.mode, self.uid, self.gid)
                    == (other.dev, other.ino, other.mode, other.uid, other.gid)
            }
            _ => self == other,
        }
    }

    /// When it was last written to: seconds and nanoseconds.
    pub(super) fn mtime(&self) -> (i64, u64) {
        self.mtime
    }
}

/// An open parent directory, with the last component of a path.
pub(super) struct Spot {
    pub(super) dir: Rc<OwnedFd>,
    pub(super) name: Vec<u8>,
}

impl Spot {
    pub(super) fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// What is there, links not followed.
    pub(super) fn look(&self) -> Result<Option<Seen>> {
        look_at(&self.dir, self.name())
    }

    /// Opens what is there if it is the very file that was seen.
    fn open(&self, seen: &Seen) -> Result<Option<File>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let Ok(found) =
            rustix::fs::openat(&self.dir, self.name(), flags | OFlags::CLOEXEC, 0.into())
        else {
            return Ok(None);
        };
        let now = Seen::new(&fstat(&found).named(|| "fstat".into())?);
        if now != *seen || seen.kind != Kind::File {
            return Ok(None);
        }
        // A lease that the member holds would keep us waiting; so it fails instead.
        Ok(reopen(&found, OFlags::RDONLY | OFlags::NONBLOCK).ok().map(File::from))
    }

    /// The content of the file that was seen; None if it is larger, not to be read, or another
    /// one by now.
    pub(super) fn read(&self, seen: &Seen, limit: u64) -> Result<Option<Vec<u8>>> {
        if seen.size > limit {
            return Ok(None);
        }
        let Some(file) = self.open(seen)? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(seen.size as usize + 1);
        // One that cannot be read is the member's matter, and their file stays.
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        Ok((read.is_ok() && bytes.len() as u64 <= limit).then_some(bytes))
    }

    /// The checksum of the file that was seen, as in a manifest.
    fn checksum(&self, seen: &Seen) -> Result<Option<String>> {
        let Some(file) = self.open(seen)? else { return Ok(None) };
        let mut file = file.take(HASH_LIMIT);
        let mut sum = Sha256::new();
        let mut space = [0; 16 * 1024];
        loop {
            match file.read(&mut space) {
                Ok(0) => break,
                Ok(n) => sum.update(&space[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(sum.finalize().iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// Which of `entries` has the content of what was seen, modes and owners aside.
    pub(super) fn same_as(&self, seen: &Seen, entries: [Option<&Entry>; 2]) -> Result<[bool; 2]> {
        let candidate = |entry: &Entry| {
            let size = seen.kind != Kind::File || seen.size == entry.size;
            Kind::of(entry) == seen.kind && size
        };
        if !entries.iter().flatten().any(|e| candidate(e)) {
            return Ok([false; 2]);
        }
        let content = match seen.kind {
            Kind::File if seen.size <= HASH_LIMIT => self.checksum(seen)?,
            Kind::Link => self.target(),
            Kind::Dir => return Ok(entries.map(|e| e.is_some_and(candidate))),
            Kind::File | Kind::Special => None,
        };
        let same = |entry: &Entry| candidate(entry) && content.as_ref() == Some(&entry.sum);
        Ok(entries.map(|e| e.is_some_and(same)))
    }

    /// Where the link leads, as in a manifest.
    fn target(&self) -> Option<String> {
        let target = readlinkat(&self.dir, self.name(), Vec::new()).ok()?;
        Some(manifest::escape(target.to_bytes()))
    }
}

/// What `name` in `dir` is; None if it is not there.
pub(super) fn look_at(dir: impl AsFd, name: &OsStr) -> Result<Option<Seen>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Seen::new(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e).named(|| format!("fstatat({name:?})")).context(|| "the private tree"),
    }
}

/// The private tree of a container.
pub(super) struct Tree {
    root: OwnedFd,
    // Paths come sorted, so most have the parent of the one before.
    last: RefCell<Option<(String, Option<Rc<OwnedFd>>)>>,
}

impl Tree {
    /// Opens the tree at the host's `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { root: open_dir(path)?, last: RefCell::new(None) })
    }

    /// The directory `path` (as a manifest writes it); None if there is none, or a link is on the
    /// way. In a generation no path leads through a link, so one here is the member's: what lies
    /// behind it has a path of its own, by which it is looked at, and merging it by two would
    /// make the end depend on the order.
    pub(super) fn dir(&self, path: &str) -> Result<Option<Rc<OwnedFd>>> {
        if let Some((last, dir)) = self.last.borrow().as_ref() {
            if last == path {
                return Ok(dir.clone());
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let place = if path.is_empty() { b".".to_vec() } else { unescape(path) };
        let opened = open_in(&self.root, OsStr::from_bytes(&place), Links::Refuse, flags, 0);
        let dir = match opened {
            Ok(dir) => Some(Rc::new(dir)),
            Err(e) if is_absent(&e) => None,
            Err(e) => return Err(e.into()),
        };
        *self.last.borrow_mut() = Some((path.into(), dir.clone()));
        Ok(dir)
    }

    /// Forgets what was opened: directories have come or gone.
    pub(super) fn refresh(&self) {
        *self.last.borrow_mut() = None;
    }

    /// The first link that `path` would lead through, itself included.
    pub(super) fn link_on(&self, path: &str) -> Result<Option<String>> {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let part = &path[..end];
            match self.look(part)? {
                None => break,
                Some(seen) if seen.kind == Kind::Link => return Ok(Some(part.into())),
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// The place of `path`; None if it has no parent directory.
    pub(super) fn spot(&self, path: &str) -> Result<Option<Spot>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.dir(parent)?.map(|dir| Spot { dir, name: unescape(name) }))
    }

    /// What is at `path`.
    pub(super) fn look(&self, path: &str) -> Result<Option<Seen>> {
        match self.spot(path)? {
            Some(spot) => spot.look(),
            None => Ok(None),
        }
    }

    /// The first `limit` names in the directory `path`, escaped; None if there are more, it
    /// cannot be read, or lies behind a link.
    pub(super) fn names(&self, path: &str, limit: usize) -> Result<Option<Vec<String>>> {
        let Some(dir) = self.dir(path)? else {
            return Ok(self.link_on(path)?.is_none().then(Vec::new));
        };
        let Ok(dir) = reopen(&dir, OFlags::RDONLY | OFlags::DIRECTORY) else { return Ok(None) };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir).named(|| "getdents64".into())? {
            let entry = entry.named(|| "getdents64".into())?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == limit {
                return Ok(None);
            }
            names.push(manifest::escape(name));
        }
        names.sort();
        Ok(Some(names))
    }
}

fn is_absent(e: &sys::Error) -> bool {
    matches!(e.errno(), libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG)
}

/// The bytes of what [`manifest::escape`] wrote.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let (byte, used) = match tail {
            [b't', ..] => (b'\t', 1),
            [b'n', ..] => (b'\n', 1),
            [b'x', a, b, ..] => hex(&[*a, *b]).map_or((b'\\', 0), |byte| (byte, 3)),
            [b'\\', ..] => (b'\\', 1),
            _ => (b'\\', 0),
        };
        out.push(byte);
        rest = &tail[used..];
    }
    out
}

/// A path of the host's made of a trusted directory and a path of a manifest.
pub(super) fn host_path(tree: &Path, path: &str) -> std::path::PathBuf {
    tree.join(std::ffi::OsString::from_vec(unescape(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unescape_undoes_escape(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&manifest::escape(&bytes)), bytes);
        }
    }
}
