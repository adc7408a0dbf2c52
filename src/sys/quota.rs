//! Project quotas of ext4 and XFS: a number that files carry and that new ones in a directory
//! inherit, and how much files of one number may take (quotactl(2), ioctl_xfs_fsgetxattr(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Error, Result};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk` of linux/quota.h; blocks are of 1024 bytes.
#[repr(C)]
#[derive(Default)]
struct Quota {
    blocks_hard: u64,
    blocks_soft: u64,
    space: u64,
    files_hard: u64,
    files_soft: u64,
    files: u64,
    blocks_time: u64,
    files_time: u64,
    valid: u32,
}

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// What is made in a directory has its project.
const INHERIT: u32 = 0x200;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const PROJECT: u32 = 2;
/// Both limits are meant, `QIF_BLIMITS | QIF_ILIMITS`.
const LIMITS: u32 = 1 | 4;

fn attributes(fd: BorrowedFd<'_>) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the call writes one fsxattr, which `attributes` is, and nothing else.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    if r == 0 { Ok(attributes) } else { Err(Error::last("ioctl(FS_IOC_FSGETXATTR)")) }
}

/// The project of an open file or directory; 0 is none.
pub fn project(fd: BorrowedFd<'_>) -> Result<u32> {
    Ok(attributes(fd)?.project)
}

/// Gives an open file, or a directory and what will be made in it, to `project`.
pub fn set_project(fd: BorrowedFd<'_>, project: u32, directory: bool) -> Result<()> {
    let mut attributes = attributes(fd)?;
    let flags = attributes.flags | if directory { INHERIT } else { 0 };
    if (attributes.project, attributes.flags) == (project, flags) {
        return Ok(());
    }
    (attributes.project, attributes.flags) = (project, flags);
    // SAFETY: the call reads one fsxattr, which `attributes` is.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) };
    if r == 0 { Ok(()) } else { Err(Error::last("ioctl(FS_IOC_FSSETXATTR)")) }
}

fn control(fd: BorrowedFd<'_>, command: u32, project: u32, quota: &mut Quota) -> Result<()> {
    let call = (command << 8) | PROJECT;
    // SAFETY: the kernel reads or writes one if_dqblk, which `quota` is.
    let r = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, fd.as_raw_fd(), call, project, &raw mut *quota)
    };
    if r == 0 { Ok(()) } else { Err(Error::last(format!("quotactl_fd({command:#x})"))) }
}

/// Lets files of `project` on the file system of `fd` take `bytes` and be `files` many; 0 is no
/// limit.
pub fn set_limit(fd: BorrowedFd<'_>, project: u32, bytes: u64, files: u64) -> Result<()> {
    let mut quota = Quota {
        blocks_hard: bytes.div_ceil(1024),
        files_hard: files,
        valid: LIMITS,
        ..Quota::default()
    };
    control(fd, Q_SETQUOTA, project, &mut quota)
}

/// Bytes that files of `project` take, and how many they may; 0 is no limit.
pub fn usage(fd: BorrowedFd<'_>, project: u32) -> Result<(u64, u64)> {
    let mut quota = Quota::default();
    control(fd, Q_GETQUOTA, project, &mut quota)?;
    Ok((quota.space, quota.blocks_hard * 1024))
}
