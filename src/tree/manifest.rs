//! The list of everything in a generation: what it was when it was published.
//!
//! A text file: a line with the format, then one line for each path, sorted, with tabs between
//! path, kind, mode, uid, gid, size, inode, sum, and for a program with file capabilities those.
//! `sum` is the sha-256 of a file, the target of a link, the numbers of a device.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Kind, Result};

/// The extended attribute with a program's capabilities.
pub const CAPABILITY: &str = "security.capability";

/// The first line: the format that this program reads and writes.
const HEADER: &str = "coloc-manifest 1";

/// One path of a generation, as its line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path below the tree, escaped; `.` is the tree itself.
    pub path: String,
    /// `file`, `dir`, `link`, `char`, `block`, `fifo` or `socket`.
    pub kind: String,
    /// Permissions, with setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file, else 0.
    pub size: u64,
    /// Inode number: processes map inodes.
    pub inode: u64,
    /// Checksum of a file, escaped target of a link, numbers of a device, else `-`.
    pub sum: String,
    /// The file's capabilities, in hex; empty for none.
    pub capability: String,
}

/// How one path is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The path below the tree, control characters escaped.
    pub path: String,
    /// What differs: `missing`, `new`, or `content`, `mode`, `owner`, `inode`, `kind`,
    /// `link target`, `capabilities` or `device`, with what it is and was.
    pub what: String,
}

/// Everything below `root`, itself included as an empty path, links not followed, unsorted.
pub fn walk(root: &Path) -> Result<Vec<(PathBuf, std::fs::Metadata)>> {
    let read = |path: &Path| format!("cannot read {}", path.display());
    let meta = std::fs::symlink_metadata(root).context(|| read(root))?;
    let mut found = vec![(PathBuf::new(), meta)];
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let full = root.join(&dir);
        for entry in std::fs::read_dir(&full).context(|| read(&full))? {
            let entry = entry.context(|| read(&full))?;
            let meta = entry.metadata().context(|| read(&entry.path()))?;
            let path = dir.join(entry.file_name());
            if meta.is_dir() {
                todo.push(path.clone());
            }
            found.push((path, meta));
        }
    }
    Ok(found)
}

/// Looks at every path of `tree` and reads every file.
pub fn scan(tree: &Path) -> Result<Vec<Entry>> {
    let mut found = walk(tree)?;
    found.sort_by(|a, b| a.0.as_os_str().as_bytes().cmp(b.0.as_os_str().as_bytes()));
    let sums = checksums(tree, &found)?;
    found.iter().map(|(path, meta)| entry(tree, path, meta, &sums)).collect()
}

/// The entry of `path` below `tree`, with the checksums of [`checksums`].
pub fn entry(
    tree: &Path,
    path: &Path,
    meta: &std::fs::Metadata,
    sums: &BTreeMap<u64, String>,
) -> Result<Entry> {
    let kind = kind_of(&meta.file_type());
    let sum = match kind {
        "file" => sums.get(&meta.ino()).cloned().unwrap_or_default(),
        "link" => {
            let target = std::fs::read_link(tree.join(path))
                .context(|| format!("cannot read {}", path.display()))?;
            escape(target.as_os_str().as_bytes())
        }
        "char" | "block" => {
            format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
        }
        _ => "-".into(),
    };
    let mut space = [0; 64];
    let capability = match kind {
        "file" => rustix::fs::lgetxattr(tree.join(path), CAPABILITY, &mut space).unwrap_or(0),
        _ => 0,
    };
    Ok(Entry {
        path: name_of(path),
        kind: kind.into(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: if kind == "file" { meta.size() } else { 0 },
        inode: meta.ino(),
        sum,
        capability: hex(&space[..capability]),
    })
}

/// How the manifest writes `path`.
pub fn name_of(path: &Path) -> String {
    match path.as_os_str().as_bytes() {
        b"" => ".".into(),
        bytes => escape(bytes),
    }
}

fn kind_of(kind: &std::fs::FileType) -> &'static str {
    match kind {
        k if k.is_file() => "file",
        k if k.is_dir() => "dir",
        k if k.is_symlink() => "link",
        k if k.is_char_device() => "char",
        k if k.is_block_device() => "block",
        k if k.is_fifo() => "fifo",
        _ => "socket",
    }
}

/// The checksum of every regular file of `found` below `tree`, by inode, so that hard links are read once.
pub fn checksums(
    tree: &Path,
    found: &[(PathBuf, std::fs::Metadata)],
) -> Result<BTreeMap<u64, String>> {
    let distinct: BTreeMap<u64, &Path> = found
        .iter()
        .filter(|(_, meta)| meta.is_file())
        .map(|(path, meta)| (meta.ino(), path.as_path()))
        .collect();
    // By inode number is about the order on disk.
    let work: Vec<(u64, &Path)> = distinct.into_iter().collect();
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(u64, String)>> {
        let mut done = Vec::new();
        let mut space = vec![0; 128 * 1024];
        while let Some((inode, path)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((*inode, checksum(&tree.join(path), &mut space)?));
        }
        Ok(done)
    };
    std::thread::scope(|scope| {
        let second = std::thread::Builder::new().spawn_scoped(scope, worker);
        let mut all: BTreeMap<u64, String> = worker()?.into_iter().collect();
        // Where no second thread could be had, the first has done everything.
        if let Ok(second) = second {
            let done = second.join().map_err(|_| Error::failed("a checksum thread died"))?;
            all.extend(done?);
        }
        Ok(all)
    })
}

fn checksum(path: &Path, space: &mut [u8]) -> Result<String> {
    let mut sum = Sha256::new();
    let mut read = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        loop {
            match file.read(space) {
                Ok(0) => return Ok(()),
                Ok(n) => sum.update(&space[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    read().context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&sum.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Any bytes as text without tabs, newlines and other control characters; what is no UTF-8
/// becomes `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => {
                    let mut space = [0; 4];
                    for b in c.encode_utf8(&mut space).bytes() {
                        let _ = write!(out, "\\x{b:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// The manifest of a generation as it is written.
pub fn text(entries: &[Entry]) -> String {
    let mut text = format!("{HEADER}\n");
    for e in entries {
        let _ = write!(text, "{}\t{}\t{:04o}\t{}\t{}", e.path, e.kind, e.mode, e.uid, e.gid);
        let _ = write!(text, "\t{}\t{}\t{}", e.size, e.inode, e.sum);
        if !e.capability.is_empty() {
            let _ = write!(text, "\t{}", e.capability);
        }
        text.push('\n');
    }
    text
}

/// A line of a manifest; see [`Entry`] for its fields.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "they are those of Entry")]
pub struct Line<'a> {
    pub path: &'a str,
    pub kind: &'a str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub inode: u64,
    pub sum: &'a str,
    pub capability: &'a str,
}

impl From<Line<'_>> for Entry {
    fn from(line: Line<'_>) -> Self {
        Self {
            path: line.path.into(),
            kind: line.kind.into(),
            mode: line.mode,
            uid: line.uid,
            gid: line.gid,
            size: line.size,
            inode: line.inode,
            sum: line.sum.into(),
            capability: line.capability.into(),
        }
    }
}

/// Reads the manifest of a generation, sorted as it is.
pub fn read(generation_dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    each(generation_dir, |line| entries.push(line.into()))?;
    Ok(entries)
}

/// Calls `look` with each line of a generation's manifest, in order: whoever wants few of the many
/// thousand paths need not keep them all.
pub fn each(generation_dir: &Path, mut look: impl FnMut(Line<'_>)) -> Result<()> {
    let path = generation_dir.join("manifest");
    let text =
        std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
    let damaged = |line: usize, why: &str| {
        Error::new(Kind::Damaged, format!("{} is damaged: line {line} {why}", path.display()))
    };
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(damaged(1, &format!("is not {HEADER:?}")));
    }
    for (n, line) in lines.enumerate() {
        look(parse(line).ok_or_else(|| damaged(n + 2, "cannot be understood"))?);
    }
    Ok(())
}

fn parse(line: &str) -> Option<Line<'_>> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let line = Line {
        path: next()?,
        kind: next()?,
        mode: u32::from_str_radix(next()?, 8).ok()?,
        uid: next()?.parse().ok()?,
        gid: next()?.parse().ok()?,
        size: next()?.parse().ok()?,
        inode: next()?.parse().ok()?,
        sum: next()?,
        capability: next().unwrap_or_default(),
    };
    fields.next().is_none().then_some(line)
}

/// Compares a generation's tree with its manifest; names each difference, by path.
pub fn verify(generation_dir: &Path) -> Result<Vec<Difference>> {
    let was = read(generation_dir)?;
    let is = scan(&generation_dir.join("tree"))?;
    let by_path = |list: Vec<Entry>| -> BTreeMap<String, Entry> {
        list.into_iter().map(|e| (e.path.clone(), e)).collect()
    };
    let (was, mut is) = (by_path(was), by_path(is));
    let mut out = Vec::new();
    for (path, was) in was {
        match is.remove(&path) {
            None => out.push(Difference { path, what: "missing".into() }),
            Some(is) => {
                let whats = compare(&was, &is).into_iter();
                out.extend(whats.map(|what| Difference { path: path.clone(), what }));
            }
        }
    }
    out.extend(is.into_keys().map(|path| Difference { path, what: "new".into() }));
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

/// Names what `is` has otherwise than `was`.
pub fn compare(was: &Entry, is: &Entry) -> Vec<String> {
    if was.kind != is.kind {
        // All the rest differs as a matter of course.
        return vec![format!("kind: is {}, was {}", is.kind, was.kind)];
    }
    let mut out = Vec::new();
    if was.sum != is.sum || was.size != is.size {
        out.push(match was.kind.as_str() {
            "link" => format!("link target: is {}, was {}", is.sum, was.sum),
            "char" | "block" => format!("device: is {}, was {}", is.sum, was.sum),
            _ => "content".into(),
        });
    }
    if was.mode != is.mode {
        out.push(format!("mode: is {:04o}, was {:04o}", is.mode, was.mode));
    }
    if (was.uid, was.gid) != (is.uid, is.gid) {
        out.push(format!("owner: is {}:{}, was {}:{}", is.uid, is.gid, was.uid, was.gid));
    }
    if was.capability != is.capability {
        out.push("capabilities".into());
    }
    if was.inode != is.inode {
        out.push(format!("inode: is {}, was {}", is.inode, was.inode));
    }
    out
}
