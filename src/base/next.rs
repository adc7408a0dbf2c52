//! Generation N+1 out of N and the layer that a transaction wrote over it.
//!
//! What did not change is a hard link to N's inode, so it is the same page in memory and the
//! same file to whoever maps it; what did is renamed out of the layer, or copied where that is in
//! memory. Only directories are made anew. Nobody else is in any of the three trees, so paths are
//! safe here.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr,
    lremovexattr, lsetxattr, mknodat, utimensat,
};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::sys::Named;
use crate::tree::copy::{self, Shift};
use crate::tree::manifest::{self, Entry, checksums, name_of, walk};

/// What an overlay writes down for itself.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &str = "trusted.overlay.opaque";

/// What the layer says of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It is not there any more.
    Gone,
    /// A directory; if it is opaque, nothing of N's shows through.
    Directory { opaque: bool },
    /// Written, but to what it was.
    Same,
    /// New, or changed.
    New,
}

/// What a layer changes.
pub(super) struct Changes {
    said: BTreeMap<PathBuf, Said>,
    sums: BTreeMap<u64, String>,
    any: bool,
}

impl Changes {
    /// Reads the layer `upper` over the tree `lower`, whose manifest is `old`.
    pub(super) fn read(lower: &Path, upper: &Path, old: &Manifest) -> Result<Self> {
        let found = walk(upper)?;
        let sums = checksums(upper, &found)?;
        let mut changes = Self { said: BTreeMap::new(), sums, any: false };
        // Names of one inode are decided on together, or they would not be one file any more.
        let mut linked: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, (path, meta)) in found.iter().enumerate() {
            let said = if meta.is_dir() {
                changes.directory(lower, upper, path, meta)?
            } else if meta.file_type().is_char_device() && meta.rdev() == 0 {
                // The overlay writes one only over what is there.
                changes.any = true;
                Said::Gone
            } else if changes.same(lower, upper, path, meta, old)? {
                Said::Same
            } else {
                Said::New
            };
            if meta.nlink() > 1 && matches!(said, Said::Same | Said::New) {
                linked.entry(meta.ino()).or_default().push(at);
            }
            changes.said.insert(path.clone(), said);
        }
        for names in linked.values() {
            let paths: Vec<&PathBuf> = names.iter().map(|at| &found[*at].0).collect();
            changes.together(&paths, old);
        }
        changes.any |= changes.said.values().any(|said| *said == Said::New);
        Ok(changes)
    }

    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    fn directory(
        &mut self,
        lower: &Path,
        upper: &Path,
        path: &Path,
        meta: &std::fs::Metadata,
    ) -> Result<Said> {
        let opaque = xattr(&upper.join(path), OPAQUE)?.is_some_and(|value| value == b"y");
        let was = std::fs::symlink_metadata(lower.join(path)).ok().filter(|m| m.is_dir());
        let same = match was {
            Some(was) => {
                !opaque
                    && (was.mode(), was.uid(), was.gid()) == (meta.mode(), meta.uid(), meta.gid())
                    && xattrs(&lower.join(path))? == xattrs(&upper.join(path))?
            }
            None => false,
        };
        self.any |= !same;
        Ok(Said::Directory { opaque })
    }

    /// Whether a file or link is what N has: then it stays N's inode. A Python module's time
    /// counts too, as the compiled one beside it holds it.
    fn same(
        &self,
        lower: &Path,
        upper: &Path,
        path: &Path,
        meta: &std::fs::Metadata,
        old: &Manifest,
    ) -> Result<bool> {
        let Some(was) = old.get(&name_of(path)) else { return Ok(false) };
        let is = manifest::entry(upper, path, meta, &self.sums)?;
        if !matches!(is.kind.as_str(), "file" | "link")
            || *was != (Entry { inode: was.inode, ..is.clone() })
        {
            return Ok(false);
        }
        let (old_path, new_path) = (lower.join(path), upper.join(path));
        let Ok(old_meta) = std::fs::symlink_metadata(&old_path) else { return Ok(false) };
        // The manifest says what N was; what counts is what is there. A file that was damaged
        // and is now mended must not be given away again.
        if old_meta.ino() != was.inode || xattrs(&old_path)? != xattrs(&new_path)? {
            return Ok(false);
        }
        let time = |m: &std::fs::Metadata| (m.mtime(), m.mtime_nsec());
        if path.extension().is_some_and(|e| e == "py") && time(&old_meta) != time(meta) {
            return Ok(false);
        }
        let attributes = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.gid(), m.len());
        Ok(attributes(&old_meta) == attributes(meta)
            && (is.kind == "link" || equal(&old_path, &new_path)?))
    }

    /// Names of one file stay so: they all go to N's file, if that is one for all, or none.
    fn together(&mut self, names: &[&PathBuf], old: &Manifest) {
        let inode = |path: &PathBuf| old.get(&name_of(path)).map(|e| e.inode);
        let first = names.first().and_then(|path| inode(path));
        let all = names
            .iter()
            .all(|path| self.said.get(*path) == Some(&Said::Same) && inode(path) == first);
        if !all {
            for path in names {
                self.said.insert((*path).clone(), Said::New);
            }
        }
    }
}

/// The manifest of N, by path.
pub(super) type Manifest = HashMap<String, Entry>;

/// Reads the manifest of a generation for lookups.
pub(super) fn manifest_of(generation_dir: &Path) -> Result<Manifest> {
    let entries = manifest::read(generation_dir)?;
    Ok(entries.into_iter().map(|e| (e.path.clone(), e)).collect())
}

/// A generation in the making: so far all of N, by links.
pub(super) struct Linked {
    tree: PathBuf,
    made: BTreeMap<PathBuf, Entry>,
}

/// Makes `tree` what `lower`, of the manifest `old`, is: before it is known what changes, as that
/// takes long and only one processor.
pub(super) fn link_all(lower: &Path, tree: &Path, old: &Manifest) -> Result<Linked> {
    let nothing = Changes { said: BTreeMap::new(), sums: BTreeMap::new(), any: false };
    let linked = Linked { tree: tree.to_path_buf(), made: BTreeMap::new() };
    let mut maker = Maker::new(linked, &nothing, lower, lower, old);
    maker.all_of(Path::new(""))?;
    Ok(maker.linked)
}

/// Changes what is `linked` by the layer `upper`, which is used up. Gives the manifest.
pub(super) fn materialise(
    linked: Linked,
    changes: &Changes,
    lower: &Path,
    upper: &Path,
    old: &Manifest,
) -> Result<Vec<Entry>> {
    let mut maker = Maker::new(linked, changes, lower, upper, old);
    maker.directory(Path::new(""))?;
    let mut made: Vec<(PathBuf, Entry)> = maker.linked.made.into_iter().collect();
    made.sort_by(|a, b| a.0.as_os_str().as_bytes().cmp(b.0.as_os_str().as_bytes()));
    Ok(made.into_iter().map(|(_, entry)| entry).collect())
}

struct Maker<'a> {
    linked: Linked,
    changes: &'a Changes,
    lower: &'a Path,
    upper: &'a Path,
    old: &'a Manifest,
    /// Where a file of several names was copied to, by its inode in the layer.
    copied: HashMap<u64, PathBuf>,
}

impl<'a> Maker<'a> {
    fn new(
        linked: Linked,
        changes: &'a Changes,
        lower: &'a Path,
        upper: &'a Path,
        old: &'a Manifest,
    ) -> Self {
        Self { linked, changes, lower, upper, old, copied: HashMap::new() }
    }

    fn own(&self, path: &Path) -> PathBuf {
        self.linked.tree.join(path)
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        let own = self.own(path);
        std::fs::create_dir(&own).context(|| format!("cannot make {}", own.display()))
    }

    /// Makes N's directory `path` and everything below it.
    fn all_of(&mut self, path: &Path) -> Result<()> {
        self.make_directory(path)?;
        for (name, is_dir) in children(&self.lower.join(path))? {
            let inner = path.join(name);
            if is_dir { self.all_of(&inner)? } else { self.link(&inner)? }
        }
        // Last, for every name that was added set the directory's time.
        copy_attributes(&self.lower.join(path), &self.own(path))?;
        self.note(path)
    }

    /// Changes the directory `path`, which is there, and everything below it by what the layer has.
    fn directory(&mut self, path: &Path) -> Result<()> {
        let mut there = children(&self.own(path))?;
        // Nothing of N's shows in such a one.
        if self.changes.said.get(path) == Some(&Said::Directory { opaque: true }) {
            for (name, is_dir) in std::mem::take(&mut there) {
                self.drop(&path.join(name), is_dir)?;
            }
        }
        for name in children(&self.upper.join(path))?.keys() {
            let (inner, was) = (path.join(name), there.get(name).copied());
            let said = self.changes.said.get(&inner).copied();
            let stays = match said {
                Some(Said::Same) => true,
                Some(Said::Directory { .. }) => was == Some(true),
                Some(Said::New | Said::Gone) | None => false,
            };
            if let (false, Some(is_dir)) = (stays, was) {
                self.drop(&inner, is_dir)?;
            }
            match said {
                Some(Said::Directory { .. }) => {
                    if !stays {
                        self.make_directory(&inner)?;
                    }
                    self.directory(&inner)?;
                }
                Some(Said::Same) if was.is_none() => self.link(&inner)?,
                Some(Said::New) => self.bring(&inner)?,
                Some(Said::Same | Said::Gone) | None => {}
            }
        }
        copy_attributes(&self.upper.join(path), &self.own(path))?;
        self.note(path)
    }

    /// Takes away what N has at `path`.
    fn drop(&mut self, path: &Path, is_dir: bool) -> Result<()> {
        let own = self.own(path);
        if !is_dir {
            self.linked.made.remove(path);
            return std::fs::remove_file(&own)
                .context(|| format!("cannot remove {}", own.display()));
        }
        // In this order a directory is followed by what is in it.
        let below = self.linked.made.range(path.to_path_buf()..);
        let gone: Vec<PathBuf> =
            below.map(|(path, _)| path.clone()).take_while(|p| p.starts_with(path)).collect();
        for path in gone {
            self.linked.made.remove(&path);
        }
        crate::tree::remove(&own)
    }

    fn link(&mut self, path: &Path) -> Result<()> {
        let (from, to) = (self.lower.join(path), self.own(path));
        match std::fs::hard_link(&from, &to) {
            Ok(()) => {}
            // The file system allows no more names for that inode (ext4: 65000).
            Err(e) if e.raw_os_error() == Some(libc::EMLINK) => {
                copy_file(&from, &to)?;
                return self.note_as(path, self.old.get(&name_of(path)).cloned());
            }
            Err(e) => {
                return Err(e).context(|| format!("cannot link {}", to.display()));
            }
        }
        match self.old.get(&name_of(path)) {
            Some(entry) => {
                self.made(path, entry.clone());
                Ok(())
            }
            None => self.note_as(path, None),
        }
    }

    /// Takes over what the layer has.
    fn bring(&mut self, path: &Path) -> Result<()> {
        let (from, to) = (self.upper.join(path), self.own(path));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => return self.copy(path, &from, &to),
            Err(e) => return Err(e).context(|| format!("cannot move {}", from.display())),
        }
        for name in names(&to)? {
            if name.as_bytes().starts_with(OVERLAY) {
                lremovexattr(&to, &name).named(|| format!("lremovexattr({to:?}, {name:?})"))?;
            }
        }
        self.note(path)
    }

    /// The same from another file system.
    fn copy(&mut self, path: &Path, from: &Path, to: &Path) -> Result<()> {
        let meta = std::fs::symlink_metadata(from)
            .context(|| format!("cannot read {}", from.display()))?;
        match self.copied.get(&meta.ino()) {
            Some(first) => std::fs::hard_link(self.own(first), to)
                .context(|| format!("cannot link {}", to.display()))?,
            None => copy_one(from, to, &meta)?,
        }
        if meta.nlink() > 1 {
            self.copied.entry(meta.ino()).or_insert_with(|| path.to_path_buf());
        }
        let sum = self.changes.sums.get(&meta.ino()).cloned();
        let own = std::fs::symlink_metadata(to).context(|| format!("cannot read {to:?}"))?;
        let sums = sum.into_iter().map(|sum| (own.ino(), sum)).collect();
        let entry = manifest::entry(&self.linked.tree, path, &own, &sums)?;
        self.made(path, entry);
        Ok(())
    }

    fn made(&mut self, path: &Path, entry: Entry) {
        self.linked.made.insert(path.to_path_buf(), entry);
    }

    /// Writes down what was made at `path`, by the checksums of the layer.
    fn note(&mut self, path: &Path) -> Result<()> {
        let own = self.own(path);
        let meta = std::fs::symlink_metadata(&own).context(|| format!("cannot read {own:?}"))?;
        let entry = manifest::entry(&self.linked.tree, path, &meta, &self.changes.sums)?;
        self.made(path, entry);
        Ok(())
    }

    /// Writes down a file of N's that has another inode now, or that N's manifest (`known`)
    /// does not have.
    fn note_as(&mut self, path: &Path, known: Option<Entry>) -> Result<()> {
        let own = self.own(path);
        let meta = std::fs::symlink_metadata(&own).context(|| format!("cannot read {own:?}"))?;
        let entry = match known {
            Some(entry) => Entry { inode: meta.ino(), ..entry },
            None => {
                let sums = checksums(&self.linked.tree, &[(path.to_path_buf(), meta.clone())])?;
                manifest::entry(&self.linked.tree, path, &meta, &sums)?
            }
        };
        self.made(path, entry);
        Ok(())
    }
}

/// The names in a directory, and whether each is one.
fn children(path: &Path) -> Result<BTreeMap<OsString, bool>> {
    let read = || format!("cannot read {}", path.display());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).context(read)? {
        let entry = entry.context(read)?;
        found.insert(entry.file_name(), entry.file_type().context(read)?.is_dir());
    }
    Ok(found)
}

/// Copies one file of a layer, whatever it is, to another file system.
fn copy_one(from: &Path, to: &Path, meta: &std::fs::Metadata) -> Result<()> {
    let failed = || format!("cannot copy {}", from.display());
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = std::fs::read_link(from).context(failed)?;
        std::os::unix::fs::symlink(target, to).context(failed)?;
        std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid())).context(failed)?;
        copy_xattrs(from, to)?;
        return copy_time(meta, to);
    }
    if kind.is_file() {
        let mut source = std::fs::File::open(from).context(failed)?;
        let mut copy = std::fs::File::create_new(to).context(failed)?;
        std::io::copy(&mut source, &mut copy).context(failed)?;
        // The sync at the end finds it written, or nearly. Only a hint.
        let _ = crate::sys::file::begin_writing(&copy);
    } else {
        let kind = FileType::from_raw_mode(meta.mode());
        mknodat(CWD, to, kind, Mode::RUSR | Mode::WUSR, meta.rdev())
            .named(|| format!("mknodat({to:?})"))?;
    }
    copy_attributes(from, to)
}

/// Copies one file as it is, beside the directory entry that could not be had.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let dirs = [from, to].map(|p| p.parent().unwrap_or(Path::new("/")));
    let open =
        |dir: &Path| std::fs::File::open(dir).context(|| format!("cannot read {}", dir.display()));
    let (source, target) = (open(dirs[0])?, open(dirs[1])?);
    let name = from.file_name().unwrap_or_default();
    use std::os::fd::AsFd;
    copy::contents(source.as_fd(), target.as_fd(), Shift(0), &|other| other != name)?;
    copy_xattrs(from, to)
}

/// Gives `to`, which is no link, owner, mode, extended attributes and time of `from`.
pub(super) fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let meta = std::fs::symlink_metadata(from).context(|| format!("cannot read {from:?}"))?;
    let failed = || format!("cannot set the attributes of {}", to.display());
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).context(failed)?;
    let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777);
    std::fs::set_permissions(to, mode).context(failed)?;
    copy_xattrs(from, to)?;
    copy_time(&meta, to)
}

fn copy_time(meta: &std::fs::Metadata, to: &Path) -> Result<()> {
    let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).named(|| format!("utimensat({to:?})"))?;
    Ok(())
}

fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    for (name, value) in xattrs(from)? {
        lsetxattr(to, &name, &value, XattrFlags::empty())
            .named(|| format!("lsetxattr({to:?}, {name:?})"))?;
    }
    Ok(())
}

/// The names of all extended attributes; none where the file system knows none.
fn names(path: &Path) -> Result<Vec<OsString>> {
    let mut space = vec![0; 64 << 10];
    let n = match llistxattr(path, &mut space) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => Err(e).named(|| format!("llistxattr({path:?})"))?,
    };
    let names = space[..n].split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| std::ffi::OsStr::from_bytes(name).to_owned()).collect())
}

/// All extended attributes but the overlay's own.
fn xattrs(path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for name in names(path)? {
        if !name.as_bytes().starts_with(OVERLAY) {
            if let Some(value) = xattr(path, &name)? {
                all.insert(name, value);
            }
        }
    }
    Ok(all)
}

fn xattr(path: &Path, name: impl AsRef<std::ffi::OsStr>) -> Result<Option<Vec<u8>>> {
    let name = name.as_ref();
    // As large as one may be.
    let mut space = vec![0; 64 << 10];
    match lgetxattr(path, name, &mut space) {
        Ok(n) => {
            space.truncate(n);
            Ok(Some(space))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Ok(Err(e).named(|| format!("lgetxattr({path:?}, {name:?})"))?),
    }
}

/// Whether two files of one size have the same bytes.
fn equal(a: &Path, b: &Path) -> Result<bool> {
    let open = |path: &Path| {
        std::fs::File::open(path).context(|| format!("cannot read {}", path.display()))
    };
    let (mut a, mut b) = (open(a)?, open(b)?);
    let (mut x, mut y) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let n = a.read(&mut x).context(|| "cannot compare")?;
        if n == 0 {
            return Ok(true);
        }
        if b.read_exact(&mut y[..n]).is_err() || x[..n] != y[..n] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests;
