//! Making a new tree last through a power cut.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Context, Result};
use crate::sys::Named;

/// How many files are synced at the same time. Waiting is all that it is about: the file system
/// answers all who wait at one moment with one commit and one flush of the disk.
const AT_ONCE: usize = 24;

/// How much the host may have that waits to be written, in bytes, for a sync of the whole file system
/// to cost less than one of each file.
const LITTLE: u64 = 16 << 20;

/// Writes every file and directory of the tree at `root` to the disk; in the tree nobody else may be
/// yet. It does not wait for all that everyone else on this file system has written, if that is much.
pub fn tree(root: &Path) -> Result<()> {
    let dirty = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| dirty(&text));
    match dirty.is_some_and(|bytes| bytes <= LITTLE) {
        true => all_of_it(root),
        false => each_file(root),
    }
}

/// How much waits to be written, by /proc/meminfo (proc(5)), in bytes.
fn dirty(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Dirty:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// syncfs(2): one request, but it is everybody's.
fn all_of_it(root: &Path) -> Result<()> {
    let done = rustix::fs::syncfs(open(root)?).named(|| format!("syncfs({root:?})"));
    Ok(done?)
}

/// fsync(2) of each.
fn each_file(root: &Path) -> Result<()> {
    let (mut files, mut list) = (Vec::new(), vec![root.to_path_buf()]);
    gather(root, &mut files, &mut list)?;
    // With every file's blocks chosen and under way, the first commit is for all of them; else
    // each round of fsync would make one of its own.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    each(&files, cores, begin)?;
    list.append(&mut files);
    each(&list, AT_ONCE, one)
}

/// Has `threads` threads do `work` for all of `list`.
fn each(list: &[PathBuf], threads: usize, work: fn(&Path) -> Result<()>) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(path) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(path)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work);
        // Where the host lets us have no thread, this one does it all.
        let helpers: Vec<_> = (1..threads.min(list.len())).map_while(|n| spawn(n).ok()).collect();
        let mut result = work();
        for helper in helpers {
            // A panic counts as not synced.
            let other = helper.join().unwrap_or_else(|_| Err(std::io::Error::other("sync").into()));
            result = result.and(other);
        }
        result
    })
}

/// The files and the directories below `dir`. Links and the like have no content but their names,
/// which are their directories'.
fn gather(dir: &Path, files: &mut Vec<PathBuf>, dirs: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            gather(&entry.path(), files, dirs)?;
            dirs.push(entry.path());
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    options.open(path).context(|| format!("cannot open {}", path.display()))
}

fn begin(path: &Path) -> Result<()> {
    // Only a hint: what it does not do, fsync does.
    let _ = crate::sys::file::begin_writing(open(path)?);
    Ok(())
}

fn one(path: &Path) -> Result<()> {
    let file = open(path)?;
    file.sync_all().context(|| format!("cannot write {} to the disk", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_left_alone_and_what_is_missing_is_told() {
        let dir = std::env::temp_dir().join(format!("coloc-sync-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        File::create(dir.join("a/f")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.join("a/l")).unwrap();
        for sync in [tree, all_of_it, each_file] {
            sync(&dir).unwrap();
            assert!(sync(&dir.join("missing")).is_err());
        }
        crate::tree::remove(&dir).unwrap();
    }
    #[test]
    fn what_waits_to_be_written_is_read() {
        assert_eq!(dirty("MemFree: 7 kB\nDirty:             1234 kB\n"), Some(1234 * 1024));
        assert_eq!(dirty("Dirty: much kB"), None);
        assert_eq!(dirty(""), None);
    }
}
