//! seccomp(2): a filter for all system calls that this process and its children make.

use super::{Error, Result};

/// One instruction of a filter, `struct sock_filter` of the kernel's classic BPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if it holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Puts `filter` before every system call of this process from here on, for good. Needs
/// CAP_SYS_ADMIN in the user namespace, so that set-user-ID programs go on working.
pub fn install(filter: &[Instruction]) -> Result<()> {
    let call = || format!("seccomp(SECCOMP_SET_MODE_FILTER, {} instructions)", filter.len());
    let len = u16::try_from(filter.len()).map_err(|_| Error::new(call(), libc::E2BIG))?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: `program` is a sock_fprog whose pointer and length are of one slice; both live
    // through the call, which copies them.
    let r = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if r == 0 { Ok(()) } else { Err(Error::last(call())) }
}
