//! Copying the private parts of a generation for a new container, every id shifted.
//!
//! The source is a published generation, which nobody changes; the destination is in staging,
//! where nobody else is yet. So one thread walks both by descriptors and makes each inode once.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, chownat,
    fchmod, fchown, futimens, mkdirat, openat, readlinkat, statat, symlinkat,
};

use crate::error::{Context, Error, Result};
use crate::sys::Named;

/// Adds `shift` to every uid and gid.
#[derive(Debug, Clone, Copy)]
pub struct Shift(pub u32);

impl Shift {
    /// The host ids of what has `uid` and `gid` in the base.
    pub fn ids(self, uid: u32, gid: u32) -> (Uid, Gid) {
        (Uid::from_raw(uid + self.0), Gid::from_raw(gid + self.0))
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
        entry(from, to, &name, shift)
            .context(|| format!("cannot copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

fn entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    shift: Shift,
) -> Result<()> {
    let call = |what: &'static str| move || format!("{what}({name:?})");
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).named(call("fstatat"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let inner = open(from, name, OFlags::DIRECTORY)?;
            mkdirat(to, name, Mode::RWXU).named(call("mkdirat"))?;
            let copy = open(to, name, OFlags::DIRECTORY)?;
            contents(inner.as_fd(), copy.as_fd(), shift, &|_| false)?;
            finish(&copy, &stat, shift)
        }
        FileType::RegularFile => {
            let source = open(from, name, OFlags::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = openat(to, name, flags, Mode::RUSR).named(call("openat"))?;
            bytes(&source, &copy, stat.st_size as u64).context(|| "cannot write")?;
            finish(&copy, &stat, shift)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new()).named(call("readlinkat"))?;
            symlinkat(&target, to, name).named(call("symlinkat"))?;
            let (uid, gid) = shift.ids(stat.st_uid, stat.st_gid);
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .named(call("fchownat"))?;
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
    Ok(())
}

/// Owner, then mode (a change of owner clears setuid bits), then times.
fn finish(fd: &OwnedFd, stat: &Stat, shift: Shift) -> Result<()> {
    let (uid, gid) = shift.ids(stat.st_uid, stat.st_gid);
    fchown(fd, Some(uid), Some(gid)).named(|| "fchown".into())?;
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
