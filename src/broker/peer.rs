//! Who is at the other end of a connection.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Group, User};

use crate::error::{Error, Kind, Result};
use crate::request::Member;
use crate::runtime::near::Ids;
use crate::runtime::relay::gone_within;
use crate::sys::Named;

/// What the kernel says for an id that has none in our user namespace (user_namespaces(7)).
const NOBODY: u32 = 65534;

/// Whose process is at the other end.
pub(super) fn uid(socket: &OwnedFd) -> Result<u32> {
    let peer =
        getsockopt(socket, sockopt::PeerCredentials).named(|| "getsockopt(SO_PEERCRED)".into())?;
    Ok(peer.uid())
}

/// Whoever connected, with what the host knows of them. What they have executed since, and to
/// whom they gave the socket, makes no difference: the kernel noted it when they connected.
pub(super) fn who(socket: &OwnedFd) -> Result<(Member, Ids)> {
    let peer =
        getsockopt(socket, sockopt::PeerCredentials).named(|| "getsockopt(SO_PEERCRED)".into())?;
    let uid = peer.uid();
    let user = match User::from_uid(uid.into()) {
        Ok(Some(user)) if uid != NOBODY => user,
        _ => {
            return Err(Error::new(Kind::Denied, format!("uid {uid} has no name on this host")));
        }
    };
    let name = std::ffi::CString::new(user.name.as_str())
        .map_err(|_| Error::failed("a user name holds a NUL byte"))?;
    let groups =
        nix::unistd::getgrouplist(&name, user.gid).named(|| format!("getgrouplist({name:?})"))?;
    let named = |gid: &nix::unistd::Gid| Group::from_gid(*gid).ok().flatten().map(|g| g.name);
    let member = Member {
        uid,
        name: user.name,
        groups: groups.iter().filter_map(named).collect(),
        login: login(socket, peer.pid()),
    };
    let groups = groups.iter().map(|g| g.as_raw()).collect();
    Ok((member, Ids { uid, gid: user.gid.as_raw(), groups }))
}

/// As whom the peer logged in. None where the kernel cannot say for sure whose /proc entry that
/// is (before Linux 6.5), or nobody did.
fn login(socket: &OwnedFd, pid: i32) -> Option<u32> {
    let pidfd = getsockopt(socket, sockopt::PeerPidfd).ok()?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    // Alive after the look, so the number was nobody else's during it.
    let alive = !gone_within(&pidfd, Duration::ZERO);
    text.trim().parse().ok().filter(|uid| alive && *uid != u32::MAX)
}
