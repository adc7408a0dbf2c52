//! File trees: copying one with shifted ids, the accounts in it, the list of everything in it,
//! writing it to the disk, its removal and its size.
//!
//! Trees that a container can write to are walked by descriptors and `openat2`, or by the
//! distribution's own tools that are made for hostile trees; never by path strings.

pub mod accounts;
pub mod copy;
pub mod file;
pub mod inside;
pub mod manifest;
pub mod quota;
pub mod sync;
pub mod volume;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

/// Removes the tree at `path`, mount points left alone; no error if it is not there. Runs
/// rm(1), which follows no link and copes with any depth; nothing may run in the tree.
pub fn remove(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let out = Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(path)
        .stdin(Stdio::null())
        // Whoever lets a Ctrl-C wait means this too.
        .process_group(0)
        .output()
        .context(|| "cannot run rm")?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().next().unwrap_or("rm failed").to_string();
    Err(Error::failed(line).context(format!("cannot remove {}", path.display())))
}

/// Bytes on disk of the tree at `path`, by du(1), on this file system alone. None when it
/// takes longer than ten seconds: a member can make a tree of any size.
pub fn disk_use(path: &Path) -> Option<u64> {
    let out = Command::new("timeout")
        // The tree may be a link into the part that is counted by itself.
        .args(["10", "du", "-D", "-s", "-x", "--block-size=1", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    // du tells a total even when a file went away under it, with exit code 1.
    if out.status.code() == Some(124) {
        return None;
    }
    String::from_utf8_lossy(&out.stdout).split_whitespace().next()?.parse().ok()
}
