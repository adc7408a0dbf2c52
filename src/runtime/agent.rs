//! The ssh agent of whoever entered, for programs inside that they started.
//!
//! A socket is made inside, by the helper that enters; whoever entered gets it, accepts, and
//! connects each caller to their own agent. So no path of the host's crosses the broker's socket,
//! and the broker has nothing to do with an agent. While the session lasts, root inside can use
//! the agent too, as root can on any machine that an agent is forwarded to.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::relay::{self, Flow};
use crate::error::{Context, Result};
use crate::sys::{Named, clone, process, tty};

/// Where a program looks for its agent (ssh-agent(1)).
pub const VARIABLE: &str = "SSH_AUTH_SOCK";

/// Where the sockets are inside. /run is empty at each start.
const DIR: &str = "/run/coloc-agent";
/// No more connections at once.
const MOST: usize = 16;
/// A socket is not looked at before it is this old: another helper may be about to listen.
const SETTLED: Duration = Duration::from_secs(60);
/// No more old sockets are looked at.
const SWEEP: usize = 256;

/// The agent of this process's user, if they have one.
pub fn own() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Makes a socket that only `uid` and root can connect to, and gives its path. For a process
/// that is the container's root, in its namespaces: paths are the container's, and what it put
/// there can hurt nobody else.
pub(super) fn listen(uid: u32) -> Result<(OwnedFd, String)> {
    let context = || "cannot make a socket for the agent in /run";
    match rustix::fs::mkdir(DIR, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => sweep(),
        other => other.named(|| format!("mkdir({DIR:?})")).context(context)?,
    }
    // Whatever our umask is, its owners have to get through.
    rustix::fs::chmod(DIR, Mode::from_raw_mode(0o755)).named(|| format!("chmod({DIR:?})"))?;
    let socket = unix_socket()?;
    let path = format!("{DIR}/{:x}", jiff::Timestamp::now().as_nanosecond());
    rustix::net::bind(&socket, &address(&path)?)
        .named(|| format!("bind({path:?})"))
        .context(context)?;
    rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(0o600)).named(|| "chmod".into())?;
    let owner = Some(Uid::from_raw(uid));
    rustix::fs::chownat(CWD, path.as_str(), owner, None, AtFlags::SYMLINK_NOFOLLOW)
        .named(|| format!("chown({path:?}, {uid})"))?;
    rustix::net::listen(&socket, MOST as i32).named(|| "listen".into())?;
    Ok((socket, path))
}

/// Removes the sockets of sessions that are over: nobody listens on those any more.
fn sweep() {
    for entry in std::fs::read_dir(DIR).into_iter().flatten().flatten().take(SWEEP) {
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| t.elapsed());
        if !matches!(age, Ok(Ok(age)) if age > SETTLED) {
            continue;
        }
        let path = entry.path();
        let connected = path.to_str().map(connect);
        if let Some(Ok(Err(Errno::CONNREFUSED))) = connected {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Connects without waiting for somebody who does not accept.
fn connect(path: &str) -> Result<std::result::Result<OwnedFd, Errno>> {
    let socket = unix_socket()?;
    let connected = rustix::net::connect(&socket, &address(path)?);
    Ok(connected.map(|()| socket))
}

fn unix_socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .named(|| "socket(AF_UNIX)".into())?)
}

fn address(path: &str) -> Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(path).named(|| format!("address {path:?}"))?)
}

/// Connects whoever comes to `listener` to the agent at `path`, in a process that ends with
/// this one.
pub fn serve(listener: &OwnedFd, path: &Path) -> Result<()> {
    let parent = process::own_pid();
    let null = std::fs::File::open("/dev/null")?;
    relay::nonblocking(listener)?;
    clone::spawn(0, None, || {
        // The listener takes the place of standard input, so that all else can be closed: whoever
        // reads our output is to see its end when the command ends.
        let alone = tty::take_stdio([listener.as_fd(), null.as_fd(), null.as_fd()])
            .and_then(|()| process::default_signals())
            .and_then(|()| process::end_with(parent))
            .and_then(|()| process::close_from(3));
        match alone {
            Ok(()) => turn(path),
            Err(_) => 1,
        }
    })?;
    Ok(())
}

/// Accepts and relays, until the socket fails. A talk is over when either side leaves it.
fn turn(path: &Path) -> i32 {
    let listener = std::io::stdin();
    let mut talks: Vec<[Flow; 2]> = Vec::new();
    loop {
        let mut fds = Vec::with_capacity(1 + 2 * talks.len());
        let mut which = Vec::with_capacity(2 * talks.len());
        for (n, talk) in talks.iter().enumerate() {
            for (side, flow) in talk.iter().enumerate() {
                if let Some(fd) = flow.wants() {
                    fds.push(fd);
                    which.push((n, side));
                }
            }
        }
        if talks.len() < MOST {
            fds.push(PollFd::new(&listener, PollFlags::IN));
        }
        let _ = poll(&mut fds, None);
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for ((n, side), ready) in which.iter().zip(&ready) {
            if *ready {
                talks[*n][*side].advance();
            }
        }
        if ready.len() > which.len() && ready[which.len()] {
            match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(caller) => talks.extend(talk(caller, path)),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::MFILE) => {}
                Err(_) => return 1,
            }
        }
        talks.retain(|talk| !talk.iter().any(Flow::is_over));
    }
}

/// Both directions between `caller` and the agent; None if that does not answer.
fn talk(caller: OwnedFd, path: &Path) -> Option<[Flow; 2]> {
    relay::nonblocking(&caller).ok()?;
    let agent = connect(path.to_str()?).ok()?.ok()?;
    let flow = |from: &OwnedFd, to: &OwnedFd| {
        Some(Flow::new(from.try_clone().ok()?, to.try_clone().ok()?))
    };
    Some([flow(&caller, &agent)?, flow(&agent, &caller)?])
}
