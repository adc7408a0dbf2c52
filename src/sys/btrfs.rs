//! Subvolumes of btrfs: directories that the file system counts, and can limit, each on its own
//! (linux/btrfs.h, ioctl(2)).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Error, Result};

/// The inode that the top of every subvolume has.
pub const TOP: u64 = 256;
/// The type of the file system, as fstatfs(2) says it.
pub const MAGIC: i64 = 0x9123_683E;

const SUBVOL_CREATE: libc::c_ulong = 0x5000_940e;
const INO_LOOKUP: libc::c_ulong = 0xd000_9412;
const FS_INFO: libc::c_ulong = 0x8400_941f;
const QGROUP_LIMIT: libc::c_ulong = 0x8030_942b;
/// What is referenced is limited, `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const REFERENCED: u64 = 1;

const NAME: usize = 4088;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Volume {
    fd: i64,
    name: [u8; NAME],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_fs_info_args`, of 1024 bytes.
#[repr(C)]
struct Info {
    devices: [u64; 2],
    id: [u8; 16],
    rest: [u64; 124],
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
#[derive(Default)]
struct Limit {
    group: u64,
    flags: u64,
    most_referenced: u64,
    most_exclusive: u64,
    reserved: [u64; 2],
}

/// Makes a subvolume `name` in the directory `dir`.
pub fn create(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let mut volume = Volume { fd: 0, name: [0; NAME] };
    let bytes = name.to_bytes();
    let call = || format!("ioctl(BTRFS_IOC_SUBVOL_CREATE, {name:?})");
    // The kernel wants a zero after it.
    if bytes.len() >= NAME {
        return Err(Error::new(call(), libc::ENAMETOOLONG));
    }
    volume.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: the call reads one btrfs_ioctl_vol_args, which `volume` is.
    let r = unsafe { libc::ioctl(dir.as_raw_fd(), SUBVOL_CREATE, &raw const volume) };
    if r == 0 { Ok(()) } else { Err(Error::last(call())) }
}

/// The number of the subvolume that `fd` is in.
pub fn number(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut lookup = Lookup { tree: 0, object: TOP, name: [0; 4080] };
    // SAFETY: the call reads and writes one btrfs_ioctl_ino_lookup_args, which `lookup` is.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), INO_LOOKUP, &raw mut lookup) };
    if r == 0 { Ok(lookup.tree) } else { Err(Error::last("ioctl(BTRFS_IOC_INO_LOOKUP)")) }
}

/// The id of the file system that `fd` is on, a UUID.
pub fn id(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    let mut info = Info { devices: [0; 2], id: [0; 16], rest: [0; 124] };
    // SAFETY: the call reads and writes one btrfs_ioctl_fs_info_args, which `info` is.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FS_INFO, &raw mut info) };
    if r == 0 { Ok(info.id) } else { Err(Error::last("ioctl(BTRFS_IOC_FS_INFO)")) }
}

/// Lets what is in the subvolume `number` take `most` bytes; None for as much as there is. With
/// quotas off, ENOTCONN.
pub fn set_limit(fd: BorrowedFd<'_>, number: u64, most: Option<u64>) -> Result<()> {
    let limit = Limit {
        group: number,
        flags: REFERENCED,
        // The kernel's word for none.
        most_referenced: most.unwrap_or(u64::MAX),
        ..Limit::default()
    };
    // SAFETY: the call reads one btrfs_ioctl_qgroup_limit_args, which `limit` is.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), QGROUP_LIMIT, &raw const limit) };
    if r == 0 { Ok(()) } else { Err(Error::last("ioctl(BTRFS_IOC_QGROUP_LIMIT)")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_that_the_numbers_of_their_calls_say() {
        let size = |call: libc::c_ulong| (call >> 16) as usize & 0x3fff;
        assert_eq!(size_of::<Volume>(), size(SUBVOL_CREATE));
        assert_eq!(size_of::<Lookup>(), size(INO_LOOKUP));
        assert_eq!(size_of::<Info>(), size(FS_INFO));
        assert_eq!(size_of::<Limit>(), size(QGROUP_LIMIT));
    }
}
