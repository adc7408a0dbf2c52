//! Network namespaces and their devices, as far as they need no netlink.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Error, Named, Result};

/// Brings `lo` of this network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .named(|| "socket(AF_INET, SOCK_DGRAM)".into())?;
    // SAFETY: ifreq is plain data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is and stays through the call.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if r == 0 { Ok(()) } else { Err(Error::last("ioctl(SIOCSIFFLAGS, \"lo\")")) }
}

/// The devices of the network namespace that this thread was in when it asked.
pub struct Devices(OwnedFd);

impl Devices {
    /// Those of here and now.
    pub fn here() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
        Ok(Self(socket.named(|| "socket(AF_UNIX)".into())?))
    }

    /// The number of the device `name`; None if there is none.
    pub fn index(&self, name: &str) -> Option<u32> {
        rustix::net::netdevice::name_to_index(&self.0, name).ok()
    }
}

/// Runs `work` with this thread in another network namespace, and comes back. A thread that
/// could not come back must not go on: then the process ends.
pub fn in_namespace<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
    let own =
        rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .named(|| "open(/proc/self/ns/net)".into())?;
    setns(namespace, CloneFlags::CLONE_NEWNET).named(|| "setns(CLONE_NEWNET)".into())?;
    let result = work();
    if setns(&own, CloneFlags::CLONE_NEWNET).is_err() {
        std::process::abort();
    }
    Ok(result)
}
