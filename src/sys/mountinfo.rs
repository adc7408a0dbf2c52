//! What the kernel says of mounts, as text (proc(5), /proc/PID/mountinfo): asking it touches no
//! file system, so that one whose server is a hostile process cannot hold us up.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Named, Result};

/// The text of one namespace is not read beyond this.
pub const LIMIT: u64 = 8 << 20;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, and that of the mount that it is on.
    pub id: u64,
    /// See `id`.
    pub parent: u64,
    /// What of which file system it shows.
    pub origin: Origin,
    /// Where it is, as the process sees it.
    pub at: PathBuf,
}

/// A directory or file of a file system, whatever is mounted where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file system's device, which /proc/PID/maps shows too; on btrfs stat(2) does not.
    pub device: (u32, u32),
    /// The path from the file system's own root.
    pub root: PathBuf,
}

/// Reads the text, whose order is that of mounting. A line that is cut short is left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = || fields.next();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let (id, parent) = (number(next()?)?, number(next()?)?);
    let device = device(std::str::from_utf8(next()?).ok()?, 10)?;
    let (root, at) = (unescape(next()?), unescape(next()?));
    // The options, which end the part that is needed, are there in a whole line.
    next()?;
    Some(Mount { id, parent, origin: Origin { device, root }, at })
}

/// Reads `major:minor`.
pub fn device(text: &str, radix: u32) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((u32::from_str_radix(major, radix).ok()?, u32::from_str_radix(minor, radix).ok()?))
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and hash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(out).into()
}

/// What is on top at `at` for the process that `mounts` are the mounts of; None where nothing is
/// mounted.
pub fn top<'a>(mounts: &'a [Mount], at: &Path) -> Option<&'a Mount> {
    let here = || mounts.iter().filter(|m| m.at == at);
    // One mounted beneath comes later in the text: the order says nothing.
    here().find(|m| !here().any(|other| other.parent == m.id))
}

/// Whether what is on top at `at` is a bind mount of the very directory that it covers.
pub fn covers_itself(mounts: &[Mount], at: &Path) -> bool {
    let Some(top) = top(mounts, at) else { return false };
    let below = mounts.iter().find(|m| m.id == top.parent);
    below.is_some_and(|below| below.shows(at).as_ref() == Some(&top.origin))
}

impl Mount {
    /// What it shows at `path`, with nothing mounted on it.
    fn shows(&self, path: &Path) -> Option<Origin> {
        let inner = path.strip_prefix(&self.at).ok()?;
        // A join with nothing would end the path in a slash.
        let root = if inner.as_os_str().is_empty() {
            self.origin.root.clone()
        } else {
            self.origin.root.join(inner)
        };
        Some(Origin { device: self.origin.device, root })
    }
}

/// Which directory of which file system `path` is, on the mounts of this process.
pub fn origin(path: &Path) -> Result<Origin> {
    origin_by(&own()?, path)
}

/// The same of each of `paths`, those that have none left out. On a host with many containers the
/// list of mounts is long, so it is read once.
pub fn origins(paths: &[PathBuf]) -> Result<Vec<Origin>> {
    let mounts = own()?;
    Ok(paths.iter().filter_map(|path| origin_by(&mounts, path).ok()).collect())
}

/// The mounts of this process.
pub fn own() -> Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo").named(|| "read(mountinfo)".into())?))
}

fn origin_by(mounts: &[Mount], path: &Path) -> Result<Origin> {
    let call = || format!("origin of {path:?}");
    let path = path.canonicalize().named(|| format!("realpath({path:?})"))?;
    let fd = super::path::open_dir(&path)?;
    let id = super::mount::stat(&fd)?.mount;
    let mount = mounts.iter().find(|m| m.id == id);
    mount.and_then(|m| m.shows(&path)).ok_or_else(|| super::Error::new(call(), libc::ENOENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"20 1 254:0 /c/private / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        31 20 254:0 /b/1/tree/usr /usr ro,nodev shared:2 - ext4 /dev/vda rw,idmapped\n\
        32 31 254:0 /x\\040y /usr/my\\011\\134dir rw - ext4 /dev/vda rw\n\
        40 39 254:0 /b/1/tree/usr /usr ro,nodev - ext4 /dev/vda rw\n\
        39 20 254:0 /b/2/tree/usr /usr ro,nodev - ext4 /dev/vda rw\n\
        44 20 254:0 /cut";

    #[test]
    fn lines_are_read_and_escapes_undone() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 5);
        assert_eq!(mounts[2].at, Path::new("/usr/my\t\\dir"));
        assert_eq!(mounts[2].origin.root, Path::new("/x y"));
        assert_eq!((mounts[1].id, mounts[1].parent), (31, 20));
        assert_eq!(mounts[1].origin.device, (254, 0));
    }

    #[test]
    fn the_top_is_the_one_that_nothing_is_on() {
        let mounts = parse(TEXT);
        assert_eq!(top(&mounts[3..], Path::new("/usr")).map(|m| m.id), Some(40));
        assert_eq!(top(&mounts[..3], Path::new("/usr")).map(|m| m.id), Some(31));
        assert!(top(&mounts, Path::new("/home")).is_none());
    }

    #[test]
    fn a_directory_that_covers_itself_is_told_from_another_disk() {
        let text = b"20 1 254:0 /sub / rw - ext4 /dev/vda rw\n\
            21 20 254:0 /sub/c/x /c/x rw,nosuid - ext4 /dev/vda rw\n\
            22 20 254:0 /sub/c/y /c/z rw,nosuid - ext4 /dev/vda rw\n\
            23 20 254:1 / /disk rw,nosuid - ext4 /dev/vdb rw\n\
            24 23 254:1 / /disk rw,nosuid - ext4 /dev/vdb rw";
        let mounts = parse(text);
        let covers = |mounts: &[Mount], at: &str| covers_itself(mounts, Path::new(at));
        assert!(covers(&mounts, "/c/x") && covers(&mounts, "/disk"));
        assert!(!covers(&mounts, "/c/z") && !covers(&mounts, "/c"));
        assert!(!covers(&mounts[..4], "/disk"), "a disk of its own");
        assert!(!covers(&mounts[1..], "/c/x"), "what it covers is not in sight");
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        for text in [&b"\\"[..], b"\\04", b"1 2 x:y / / r", b"9 9 1:1 \\777 \\7 r", b"\xff \xff"] {
            let _ = parse(text);
        }
        assert_eq!(unescape(b"a\\040"), Path::new("a "));
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"\\777"), Path::new("\\777"));
    }

    #[test]
    fn our_own_directory_has_an_origin() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let origin = origin(dir).unwrap();
        assert!(dir.ends_with(origin.root.file_name().unwrap()) || origin.root == Path::new("/"));
    }
}
