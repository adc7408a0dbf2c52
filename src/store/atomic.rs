//! The one writer of state files.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};

/// Replaces `path` by `bytes` with permissions `mode`. After a crash at any instruction the file
/// has either its old content or the new one, whole; once this has returned, the new one.
///
/// The directory must be one that only root can write to.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, Synced::All)
}

/// What is on the disk for sure when a write returns.
#[derive(Clone, Copy, PartialEq)]
enum Synced {
    /// The new content, in its place.
    All,
    /// The new content before it gets its place: a power cut leaves the old or the new, whole.
    Content,
    /// Neither.
    Nothing,
}

fn replace(path: &Path, bytes: &[u8], mode: u32, synced: Synced) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The pid keeps two writers apart; a name left by a dead one is simply written over.
    let temporary = dir.join(format!(".{name}.{}.new", std::process::id()));
    let result = (|| -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(bytes)?;
        if synced != Synced::Nothing {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if synced == Synced::All {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result.context(|| format!("cannot write {}", path.display()))
}

/// As [`write`], for what a power cut may take; see [`write_json_unsynced`].
pub fn write_unsynced(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, Synced::Nothing)
}

/// [`write`] of `value` as indented JSON.
pub fn write_json(path: &Path, value: &impl serde::Serialize, mode: u32) -> Result<()> {
    write(path, &json(path, value)?, mode)
}

/// As [`write_json`], for what a power cut may take: every reader sees the old content or the new
/// one, whole, for as long as the machine is up; after a power cut the file can be damaged.
///
/// For what is true of one boot, what can be made anew, and what is synced before it counts.
pub fn write_json_unsynced(path: &Path, value: &impl serde::Serialize, mode: u32) -> Result<()> {
    replace(path, &json(path, value)?, mode, Synced::Nothing)
}

/// As [`write_json`], but a power cut may still bring the old content back.
///
/// For what a journal entry, which goes after it, has written anew in that case.
pub fn write_json_whole(path: &Path, value: &impl serde::Serialize, mode: u32) -> Result<()> {
    replace(path, &json(path, value)?, mode, Synced::Content)
}

fn json(path: &Path, value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Removes from `dir` what writers that were killed have left: temporary files of processes that
/// are not there any more. What cannot be removed stays; it harms nobody.
pub fn sweep(dir: &Path) {
    let writer = |name: &str| -> Option<u32> {
        let rest = name.strip_prefix('.')?.strip_suffix(".new")?;
        rest.rsplit_once('.')?.1.parse().ok()
    };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(writer);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Reads JSON; a missing file is None, one that cannot be understood or is no file at all
/// [`Kind::Damaged`] with its path and line.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    // A FIFO would be waited for: for ever, if nobody writes to it.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context(|| format!("cannot read {}", path.display())),
    };
    let meta = file.metadata().context(|| format!("cannot read {}", path.display()))?;
    if !meta.is_file() {
        return Err(damaged(path, "it is not a file"));
    }
    let mut bytes = Vec::with_capacity(meta.len().min(1 << 20) as usize);
    file.read_to_end(&mut bytes).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(path, e))
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Damaged, format!("{} is damaged: {why}", path.display()))
        .hint("repair the file by hand, or restore it from a backup; nothing was changed")
}

/// Makes the rename of `path` last through a power cut.
pub fn sync_parent(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|d| d.sync_all()).context(|| format!("cannot write {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_or_new_and_no_leftover() {
        let dir = std::env::temp_dir().join(format!("coloc-atomic-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("x.json");
        assert!(read_json::<u32>(&path).unwrap().is_none());
        write_json(&path, &1, 0o600).unwrap();
        write_json(&path, &2, 0o600).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(2));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        for name in [".x.json.4194305.new", &format!(".x.json.{}.new", std::process::id())] {
            write(&dir.join(name), b"", 0o600).unwrap();
        }
        sweep(&dir);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "that of a living writer stays");
        std::fs::remove_file(dir.join(format!(".x.json.{}.new", std::process::id()))).unwrap();
        write(&path, b"{", 0o600).unwrap();
        let e = read_json::<u32>(&path).unwrap_err();
        assert_eq!(e.kind(), Kind::Damaged);
        assert!(e.to_string().contains("x.json"), "{e}");
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(&dir).unwrap();
    }
}
