//! Making a new tree last through a power cut.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Context, Result};

/// How many files are synced at the same time. Waiting is all that it is about: the file system
/// answers all who wait at one moment with one commit and one flush of the disk.
const AT_ONCE: usize = 24;

/// Writes every file and directory of the tree at `root` to the disk, by fsync(2) of each; in
/// the tree nobody else may be yet. Unlike syncfs(2) it does not wait for what everyone else on
/// this file system has written.
pub fn tree(root: &Path) -> Result<()> {
    let mut list = vec![root.to_path_buf()];
    gather(root, &mut list)?;
    // With every file's blocks chosen and under way, the first commit is for all of them; else
    // each round of fsync would make one of its own.
    for path in &list {
        begin(path)?;
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(path) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            one(path)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work);
        // Where the host lets us have no thread, this one does it all.
        let helpers: Vec<_> = (1..AT_ONCE.min(list.len())).map_while(|n| spawn(n).ok()).collect();
        let mut result = work();
        for helper in helpers {
            // A panic counts as not synced.
            let other = helper.join().unwrap_or_else(|_| Err(std::io::Error::other("sync").into()));
            result = result.and(other);
        }
        result
    })
}

fn gather(dir: &Path, list: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            gather(&entry.path(), list)?;
        }
        // Links and the like have no content but their names, which are their directories'.
        if kind.is_dir() || kind.is_file() {
            list.push(entry.path());
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
    // Only a hint: what it does not do, or cannot for a directory, fsync does.
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
        tree(&dir).unwrap();
        assert!(tree(&dir.join("missing")).is_err());
        crate::tree::remove(&dir).unwrap();
    }
}
