//! Changes to single files of a tree under construction. Nothing runs in it, but where it was
//! imported from anybody may have put links: every path is resolved as inside the tree, and
//! its last component is never followed.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, mkdirat, openat,
    readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{self, Named};
use crate::tree;

/// The name of a file that is being written, in its directory.
const TEMPORARY: &str = ".coloc-new";

/// A tree that only this process changes.
pub struct Inside {
    root: OwnedFd,
}

impl Inside {
    /// Opens the tree at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { root: open_dir(path)? })
    }

    /// The directory of `path` and its last component; None if there is no such directory.
    fn parent<'a>(&self, path: &'a str) -> Result<Option<(OwnedFd, &'a str)>> {
        let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
        Ok(self.dir(dir)?.map(|dir| (dir, name)))
    }

    fn dir(&self, path: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open_in(&self.root, path, Links::InRoot, flags, 0) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if absent(&e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What `path` is; None if it is not there.
    pub fn stat(&self, path: &str) -> Result<Option<Stat>> {
        let Some((dir, name)) = self.parent(path)? else { return Ok(None) };
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).named(|| format!("fstatat({path:?})")).context(|| "the tree"),
        }
    }

    /// What kind of file `path` is; None if it is not there.
    pub fn kind(&self, path: &str) -> Result<Option<FileType>> {
        Ok(self.stat(path)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    /// Where the link `path` points to; None if it is not a link.
    pub fn link(&self, path: &str) -> Result<Option<String>> {
        let Some((dir, name)) = self.parent(path)? else { return Ok(None) };
        let target = readlinkat(&dir, name, Vec::new()).ok();
        Ok(target.map(|t| t.to_string_lossy().into_owned()))
    }

    /// The content of `path` as text, links followed inside the tree; None if it is not there.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        let bytes = self.bytes(path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The content of `path`, links followed inside the tree; None if it is not there.
    pub fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        if self.stat(path)?.is_none() {
            return Ok(None);
        }
        tree::file::read(&self.root, path, 256 << 20).map(Some)
    }

    /// Makes the directory `path` if it is missing, and its parents.
    pub fn make_dir(&self, path: &str) -> Result<()> {
        if self.dir(path)?.is_some() {
            return Ok(());
        }
        if let Some((up, _)) = path.rsplit_once('/') {
            self.make_dir(up)?;
        }
        if let Some((dir, name)) = self.parent(path)? {
            let mode = Mode::from_raw_mode(0o755);
            mkdirat(&dir, name, mode).named(|| format!("mkdirat({path:?})"))?;
            // The mask of whoever runs us must not show in a base.
            let made = openat(&dir, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty());
            fchmod(made.named(|| format!("openat({path:?})"))?, mode).named(|| "fchmod".into())?;
        }
        Ok(())
    }

    /// Sets the mode of the directory `path`.
    pub fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        if let Some(dir) = self.dir(path)? {
            fchmod(dir, Mode::from_raw_mode(mode)).named(|| format!("fchmod({path:?})"))?;
        }
        Ok(())
    }

    /// Gives `path` itself to a user and a group.
    pub fn give(&self, path: &str, uid: u32, gid: u32) -> Result<()> {
        let Some((dir, name)) = self.parent(path)? else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .named(|| format!("fchownat({path:?})"))?)
    }

    /// Renames `from` to `to`.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (Some((a, x)), Some((b, y))) = (self.parent(from)?, self.parent(to)?) else {
            return Ok(());
        };
        Ok(renameat(a, x, b, y).named(|| format!("renameat({from:?}, {to:?})"))?)
    }

    /// Makes the link `path` to `target`, in place of whatever is there.
    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        if self.link(path)?.as_deref() == Some(target) {
            return Ok(());
        }
        self.remove(path)?;
        let Some((dir, name)) = self.parent(path)? else { return Ok(()) };
        Ok(symlinkat(target, dir, name).named(|| format!("symlinkat({target:?}, {path:?})"))?)
    }

    /// Replaces `path` by a file with `bytes`; owner and mode stay, a new one is root's with
    /// `mode`. A missing directory means there is nothing to write.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let Some((dir, name)) = self.parent(path)? else { return Ok(()) };
        let old = self.stat(path)?;
        let old = old.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
        let (uid, gid, mode) = old.map_or((0, 0, mode), |s| (s.st_uid, s.st_gid, s.st_mode));
        match unlinkat(&dir, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => Err(e).named(|| format!("unlinkat({TEMPORARY:?})"))?,
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, TEMPORARY, flags, Mode::RUSR).named(|| "openat".into())?;
        let mut file = std::fs::File::from(file);
        std::io::Write::write_all(&mut file, bytes).context(|| format!("cannot write {path}"))?;
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .named(|| format!("fchown({path:?})"))?;
        fchmod(&file, Mode::from_raw_mode(mode)).named(|| format!("fchmod({path:?})"))?;
        Ok(renameat(&dir, TEMPORARY, &dir, name).named(|| format!("renameat({path:?})"))?)
    }

    /// Replaces `path` by a file with `bytes` and exactly `mode`, root's.
    pub fn reset(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.remove(path)?;
        self.write(path, bytes, mode)
    }

    /// Makes the file `path` anew, whatever was there, and gives it to a user and a group. Its
    /// directory has to be there.
    pub fn put(&self, path: &str, bytes: &[u8], mode: u32, uid: u32, gid: u32) -> Result<File> {
        self.remove(path)?;
        let Some((dir, name)) = self.parent(path)? else {
            return Err(Error::new(Kind::State, format!("/{path} has no directory")));
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, name, flags, Mode::RUSR).named(|| format!("openat({path:?})"))?;
        let mut file = File::from(file);
        std::io::Write::write_all(&mut file, bytes).context(|| format!("cannot write /{path}"))?;
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .named(|| format!("fchown({path:?})"))?;
        // After the owner, which takes set-user-ID bits away.
        fchmod(&file, Mode::from_raw_mode(mode)).named(|| format!("fchmod({path:?})"))?;
        Ok(file)
    }

    /// The names in the directory `path`, none if it is not there.
    pub fn names(&self, path: &str) -> Result<Vec<String>> {
        let names = match self.dir(path)? {
            Some(dir) => tree::copy::names(dir)?,
            None => Vec::new(),
        };
        // A name that is not text is nothing that is looked for; `empty` takes it all the same.
        Ok(names.into_iter().filter_map(|n| n.into_string().ok()).collect())
    }

    /// Removes `path` and what is in it; no error if it is not there.
    pub fn remove(&self, path: &str) -> Result<()> {
        match self.parent(path)? {
            Some((dir, name)) => remove_at(&dir, OsStr::new(name), path),
            None => Ok(()),
        }
    }

    /// Removes everything in the directory `path`.
    pub fn empty(&self, path: &str) -> Result<()> {
        let Some(dir) = self.dir(path)? else { return Ok(()) };
        let names: Vec<CString> = tree::copy::names(&dir)?;
        for name in names {
            remove_at(&dir, OsStr::from_bytes(name.to_bytes()), path)?;
        }
        Ok(())
    }
}

/// Removes `name` in `dir`, with everything in it.
fn remove_at(dir: &OwnedFd, name: &OsStr, shown: &str) -> Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            // By our descriptor rm finds the very directory, whatever lies on the way to it.
            let own = format!("/proc/{}/fd/{}", std::process::id(), dir.as_raw_fd());
            tree::remove(&PathBuf::from(own).join(name)).context(|| format!("/{shown}"))
        }
        Err(e) => Ok(Err(e).named(|| format!("unlinkat({shown:?}, {name:?})"))?),
    }
}

fn absent(e: &sys::Error) -> bool {
    matches!(e.errno(), libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
}
