//! Files and the disk beneath them.

use std::os::fd::{AsFd, AsRawFd};

use super::{Error, Result};

/// Has the kernel begin to write what is dirty of `file`, and waits for nothing
/// (sync_file_range(2)); by itself that makes nothing last.
pub fn begin_writing(file: impl AsFd) -> Result<()> {
    // SAFETY: no pointers; 0 and 0 are the whole file.
    let r = unsafe {
        libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE)
    };
    if r == 0 { Ok(()) } else { Err(Error::last("sync_file_range(SYNC_FILE_RANGE_WRITE)")) }
}
