//! Copying the private parts of a generation for a new container, every id shifted.
//!
//! The source is a published generation, which nobody changes; the destination is in staging,
//! where nobody else is yet. So one thread walks both by descriptors and makes each inode once.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, chownat,
    fchmod, fchown, fstat, futimens, mkdirat, openat, readlinkat, statat, symlinkat,
};

use crate::error::{Context, Error, Result};
use crate::sys::{Named, process};

/// Adds `shift` to every uid and gid.
#[derive(Debug, Clone, Copy)]
pub struct Shift(pub u32);

impl Shift {
    /// The host ids of what has `uid` and `gid` in the base.
    pub fn ids(self, uid: u32, gid: u32) -> (Uid, Gid) {
        (Uid::from_raw(uid + self.0), Gid::from_raw(gid + self.0))
    }
}

/// How a tree is copied.
#[derive(Clone, Copy)]
struct Way {
    shift: Shift,
    /// What is made belongs to the shifted root by itself.
    roots: bool,
}

impl Way {
    /// To whom what is made has to be given.
    fn owner(self, stat: &Stat) -> Option<(Uid, Gid)> {
        match (stat.st_uid, stat.st_gid) {
            (0, 0) if self.roots => None,
            (uid, gid) => Some(self.shift.ids(uid, gid)),
        }
    }
}

/// Copies what is in the directory `from` into the directory `to`, for which `skip` (of the
/// name) is false. Links stay links, hard links become files of their own, times are kept.
/// Sockets and devices are left out; so are extended attributes.
pub fn contents(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    shift: Shift,
    skip: &dyn Fn(&OsStr) -> bool,
) -> Result<()> {
    // Nearly all of it is root's, and need not be given to anybody after it was made; but where a
    // directory hands down its group. Those of the tree begin to do so when they are finished.
    let mode = fstat(to).named(|| "fstat".into())?.st_mode;
    let way = Way { shift, roots: !Mode::from_raw_mode(mode).contains(Mode::SGID) };
    let (uid, gid) = shift.ids(0, 0);
    process::making_for(uid.as_raw(), gid.as_raw(), || entries(from, to, way, skip))?
}

fn entries(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    way: Way,
    skip: &dyn Fn(&OsStr) -> bool,
) -> Result<()> {
    let mut space = Vec::with_capacity(16 * 1024);
    let mut names = Vec::new();
    let mut entries = RawDir::new(from, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.named(|| "getdents64".into())?;
        let name = entry.file_name().to_owned();
        let bytes = name.to_bytes();
        if bytes != b"." && bytes != b".." && !skip(OsStr::from_bytes(bytes)) {
            names.push(name);
        }
    }
    for name in names {
        entry(from, to, &name, way)
            .context(|| format!("cannot copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::CStr, way: Way) -> Result<()> {
    let call = |what: &'static str| move || format!("{what}({name:?})");
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).named(call("fstatat"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let inner = open(from, name, OFlags::DIRECTORY)?;
            mkdirat(to, name, Mode::RWXU).named(call("mkdirat"))?;
            let copy = open(to, name, OFlags::DIRECTORY)?;
            entries(inner.as_fd(), copy.as_fd(), way, &|_| false)?;
            finish(&copy, &stat, way)
        }
        FileType::RegularFile => {
            let source = open(from, name, OFlags::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = openat(to, name, flags, Mode::RUSR).named(call("openat"))?;
            bytes(&source, &copy, stat.st_size as u64).context(|| "cannot write")?;
            finish(&copy, &stat, way)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new()).named(call("readlinkat"))?;
            symlinkat(&target, to, name).named(call("symlinkat"))?;
            if let Some((uid, gid)) = way.owner(&stat) {
                chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .named(call("fchownat"))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn open(dir: BorrowedFd<'_>, name: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty()).named(|| format!("openat({name:?})"))?)
}

/// Copies `size` bytes; shares the blocks where the file system can.
fn bytes(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    if size <= 64 * 1024 {
        // One read and one write cost less than asking the file system for anything better.
        let mut data = vec![0; size as usize];
        let mut at = 0;
        while at < data.len() {
            match rustix::io::read(from, &mut data[at..]).named(|| "read".into())? {
                0 => break,
                n => at += n,
            }
        }
        let mut rest = &data[..at];
        while !rest.is_empty() {
            let n = rustix::io::write(to, rest).named(|| "write".into())?;
            rest = &rest[n..];
        }
        return Ok(());
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut left = size;
    while left > 0 {
        let n = rustix::fs::copy_file_range(from, None, to, None, left as usize)
            .named(|| "copy_file_range".into())?;
        if n == 0 {
            return Err(Error::failed("the file is shorter than it was"));
        }
        left -= n as u64;
    }
    // Whoever syncs the tree in the end finds most of it written. Only a hint.
    let _ = crate::sys::file::begin_writing(to);
    Ok(())
}

/// Owner, then mode (a change of owner clears setuid bits), then times.
fn finish(fd: &OwnedFd, stat: &Stat, way: Way) -> Result<()> {
    if let Some((uid, gid)) = way.owner(stat) {
        fchown(fd, Some(uid), Some(gid)).named(|| "fchown".into())?;
    }
    fchmod(fd, Mode::from_raw_mode(stat.st_mode)).named(|| "fchmod".into())?;
    let mtime = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    Ok(futimens(fd, &times).named(|| "futimens".into())?)
}

/// The names in a directory, `.` and `..` left out, sorted.
pub fn names(dir: impl AsFd) -> Result<Vec<std::ffi::CString>> {
    let mut list = Vec::new();
    for entry in Dir::read_from(dir).named(|| "getdents64".into())? {
        let entry = entry.named(|| "getdents64".into())?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            list.push(name.to_owned());
        }
    }
    list.sort();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn who_owned_what_owns_it_shifted_also_where_a_directory_hands_down_its_group() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let top = std::env::temp_dir().join(format!("coloc-copy-{}", std::process::id()));
        let from = top.join("from");
        std::fs::create_dir_all(from.join("dir")).unwrap();
        for path in ["file", "dir/file"] {
            File::create(from.join(path)).unwrap();
        }
        symlink("file", from.join("link")).unwrap();
        chown(from.join("dir/file"), Some(7), Some(9)).unwrap();
        chown(from.join("dir"), Some(0), Some(50)).unwrap();
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(from.join("dir"), mode(0o2775)).unwrap();
        std::fs::set_permissions(from.join("file"), mode(0o4755)).unwrap();
        for (n, bits) in [0o755, 0o2755].into_iter().enumerate() {
            let to = top.join(n.to_string());
            std::fs::create_dir(&to).unwrap();
            chown(&to, None, Some(77)).unwrap();
            std::fs::set_permissions(&to, mode(bits)).unwrap();
            let (old, new) = (File::open(&from).unwrap(), File::open(&to).unwrap());
            contents(old.as_fd(), new.as_fd(), Shift(100_000), &|_| false).unwrap();
            let of = |path: &str| {
                let m = std::fs::symlink_metadata(to.join(path)).unwrap();
                (m.uid(), m.gid(), m.mode() & 0o7777)
            };
            assert_eq!(of("file"), (100_000, 100_000, 0o4755));
            assert_eq!(of("dir"), (100_000, 100_050, 0o2775));
            assert_eq!(of("dir/file"), (100_007, 100_009, 0o644));
            assert_eq!(of("link"), (100_000, 100_000, 0o777));
        }
        // This thread makes files of its own again, and has its power.
        File::create(top.join("own")).unwrap();
        assert_eq!(std::fs::metadata(top.join("own")).unwrap().uid(), 0);
        crate::tree::remove(&top).unwrap();
    }
}
