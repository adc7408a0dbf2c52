//! The part of a container's directory that can be limited where the file system is btrfs, which
//! knows no projects: a subvolume `disk`, with the private tree and all that is renamed into it,
//! for nothing is renamed from one subvolume to another. `private` beside it is then a link into it.
//! What coloc itself writes beside stays outside: a container whose disk is full can be entered,
//! stopped and given more.

use std::fs::Permissions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::path::open_dir;
use crate::sys::{btrfs, mount};
use crate::tree::quota::{Use, readable};

/// The subvolume in a container's directory.
pub const DISK: &str = "disk";

/// Makes the private tree's directory in that of a container, and gives its path.
pub fn make_private(dir: &Path) -> Result<PathBuf> {
    let place = dir.join("private");
    if !is_btrfs(dir)? || btrfs::create(readable(dir)?.as_fd(), c"disk").is_err() {
        // Whoever is not to make one, in a container of coloc's, cannot limit one either.
        std::fs::create_dir(&place)?;
        return Ok(place);
    }
    std::fs::set_permissions(dir.join(DISK), Permissions::from_mode(0o700))?;
    std::fs::create_dir(dir.join(DISK).join("private"))?;
    symlink(Path::new(DISK).join("private"), &place)?;
    Ok(place)
}

/// Removes a container's directory with all in it; no error if it is not there.
pub fn remove_container(dir: &Path) -> Result<()> {
    // rm(1) takes what it is given with all that is on the same file system: a subvolume is one.
    super::remove(&dir.join(DISK))?;
    super::remove(dir)
}

/// Whether `dir` is on btrfs.
pub(super) fn is_btrfs(dir: &Path) -> Result<bool> {
    Ok(mount::file_system(&open_dir(dir)?)? == btrfs::MAGIC)
}

/// The subvolume of the container's directory `dir`, with its number, if it has one.
pub(super) fn of(dir: &Path) -> Option<(OwnedFd, u64)> {
    let disk = dir.join(DISK);
    // A store that was copied may have a directory of that name.
    is_btrfs(&disk).ok().filter(|is| *is)?;
    let top = readable(&disk).ok()?;
    let inode = rustix::fs::fstat(&top).ok()?.st_ino;
    let number = btrfs::number(top.as_fd()).ok()?;
    (inode == btrfs::TOP).then_some((top, number))
}

/// Lets a container's directory, on btrfs, take `most` bytes; None for as much as there is.
pub(super) fn limit(dir: &Path, most: Option<u64>) -> Result<()> {
    let refused = |what: String| Error::new(Kind::Unsupported, what);
    let Some((top, number)) = of(dir) else {
        return match most {
            None => Ok(()),
            Some(_) => Err(refused(format!("{} has no subvolume of its own", dir.display())).hint(
                "one that is made on btrfs from now on has; or stop this one, and in its \
                     directory: btrfs subvolume create disk; cp -a --reflink private disk/; \
                     rm -rf private; ln -s disk/private private",
            )),
        };
    };
    match btrfs::set_limit(top.as_fd(), number, most) {
        Err(e) if e.errno() == libc::ENOTCONN && most.is_none() => Ok(()),
        Err(e) if e.errno() == libc::ENOTCONN => {
            Err(refused(format!("the file system of {} keeps no quotas", dir.display()))
                .hint(format!("switch them on: btrfs quota enable {}", dir.display())))
        }
        other => other.context(|| format!("cannot limit {}", dir.display())),
    }
}

/// What is in the subvolume of a container's directory, by the file system's own count, which is
/// as old as its last commit: half a minute at most. None if it keeps none.
pub(super) fn usage(dir: &Path) -> Option<Use> {
    let (top, number) = of(dir)?;
    let id = uuid(&btrfs::id(top.as_fd()).ok()?);
    let group = PathBuf::from(format!("/sys/fs/btrfs/{id}/qgroups/0_{number}"));
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
    };
    Some(Use { bytes: read("referenced")?, most: read("max_referenced").filter(|n| *n > 0) })
}

fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_the_kernel_writes_it() {
        let bytes = std::array::from_fn(|n| n as u8 * 16 + 1);
        assert_eq!(uuid(&bytes), "01112131-4151-6171-8191-a1b1c1d1e1f1");
    }

    #[test]
    fn elsewhere_the_private_tree_is_a_directory() {
        let dir = std::env::temp_dir().join(format!("coloc-volume-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        if !is_btrfs(&dir).unwrap() {
            let place = make_private(&dir).unwrap();
            assert!(place.is_dir() && !place.is_symlink());
            std::fs::create_dir(dir.join(DISK)).unwrap();
            assert!(of(&dir).is_none() && usage(&dir).is_none());
        }
        remove_container(&dir).unwrap();
        remove_container(&dir).unwrap();
        assert!(!dir.exists());
    }
}
