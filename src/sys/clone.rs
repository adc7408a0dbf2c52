//! clone3(2): children in new namespaces, born in their cgroup, known by pidfd.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Error, Result};

/// A new user namespace.
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
/// A new mount namespace.
pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
/// A new pid namespace: the child is its pid 1.
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// A new host name.
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
/// New System V and POSIX message queues.
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
/// A new network, with a loopback that is down.
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
/// The child's parent is the caller's parent.
pub const PARENT: u64 = libc::CLONE_PARENT as u64;

// The C library's constants are 32 bits wide, and these two come out as 0.
const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const INTO_CGROUP: u64 = 0x2_0000_0000;
const PIDFD: u64 = libc::CLONE_PIDFD as u64;

/// Set once this process was seen to have one thread. coloc itself starts none after that.
static ALONE: AtomicBool = AtomicBool::new(false);

/// A child that was started here.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller sees it.
    pub pid: i32,
    /// Refers to this process and never to another that gets its number.
    pub pidfd: OwnedFd,
}

/// `struct clone_args` of clone3(2), the 88 bytes of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Runs `child` in a new process with `flags`, in the v2 cgroup `cgroup` if given; the child
/// ends with the code that `child` returns. It has none of our signal handlers; what we
/// ignore it ignores.
///
/// Like fork(2) the child has a copy of this process's memory and descriptors. Refused with
/// EBUSY when this process has a second thread, for then the copy could hold a lock for ever.
pub fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> Result<Child> {
    let call = || format!("clone3(flags={flags:#x})");
    if !alone() {
        return Err(Error::new(call(), libc::EBUSY));
    }
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | CLEAR_SIGHAND | PIDFD,
        pidfd: &raw mut pidfd as u64,
        // With PARENT the kernel takes the caller's own exit signal and wants 0 here.
        exit_signal: if flags & PARENT == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given, `pidfd` outlives the call. No
    // stack is given, so the child runs on a copy of ours as after fork; the check above made
    // sure that no other thread can have held the allocator's lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(Error::last(call())),
        0 => {
            let code = child();
            // SAFETY: ends this process at once, without the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        _ => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: pid as i32, pidfd })
        }
    }
}

/// Whether this process has one thread, as [`spawn`] wants it.
pub fn alone() -> bool {
    if !ALONE.load(Ordering::Relaxed) && threads() == 1 {
        // A child asks no more: by then its /proc may be one that a container's root made.
        ALONE.store(true, Ordering::Relaxed);
    }
    ALONE.load(Ordering::Relaxed)
}

/// How many threads this process has.
fn threads() -> u64 {
    use std::os::unix::fs::MetadataExt;
    // A directory of /proc has one link per thread beside its own two.
    std::fs::metadata("/proc/self/task").map_or(1, |m| m.nlink().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_thread_is_refused() {
        // The test harness itself runs this in a thread beside the main one.
        let e = spawn(0, None, || 0).unwrap_err();
        assert_eq!(e.errno(), libc::EBUSY);
    }
}
