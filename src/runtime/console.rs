//! `coloc console`: the caller's terminal on the container's console; and a new console for a
//! container whose supervisor took the old one with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::UnmountFlags;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::monitor::socket_path;
use super::near::{Event, Events, Near};
use super::relay;
use crate::error::{Error, Kind, Result};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::tty::{self, Pty, Size};
use crate::sys::{Named, clone, fdpass, mount, process};

/// The key that leaves the console when it is typed three times: `^]`.
const LEAVE: u8 = 0x1d;

/// Talks until the caller leaves or the container ends, and tells them which.
pub fn attach(run: &Path, near: Near, name: &str) -> Result<()> {
    let socket = connect(run)?;
    let raw = tty::is_terminal(&near.streams[0]) && near.is_local();
    let size = near.terminal;
    let ([input, output, errors], mut events) = near.attach(raw)?;
    let say = |text: &str| {
        let _ = rustix::io::write(&errors, format!("coloc: {text}\r\n").as_bytes());
    };
    say(&format!("on the console of {name}; leave with ^] three times"));
    if let Some(size) = size {
        tell_size(&socket, size);
    }
    let left = talk(&socket, input, &output, &mut events);
    drop(events);
    say(if left { "left the console" } else { "the console is gone" });
    Ok(())
}

/// True when the caller left, false when the console is gone.
fn talk(socket: &OwnedFd, input: OwnedFd, output: &OwnedFd, events: &mut Events) -> bool {
    let mut typed = 0;
    let mut input = Some(input);
    loop {
        let (from_socket, from_events, from_input) = wait_for(socket, events, input.as_ref());
        if from_socket {
            let mut buffer = [0; 4096];
            let n = rustix::io::read(socket, &mut buffer).unwrap_or(0);
            if n == 0 {
                return false;
            }
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                match rustix::io::write(output, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(_) => return true,
                }
            }
        }
        if from_events {
            match events.take() {
                Some(Event::Size(size)) => tell_size(socket, size),
                Some(_) => return true,
                None => {}
            }
        }
        if let (true, Some(fd)) = (from_input, &input) {
            let mut keys = [0; 1024];
            let n = rustix::io::read(fd, &mut keys).unwrap_or(0);
            if n == 0 {
                input = None;
                continue;
            }
            for key in &keys[..n] {
                typed = if *key == LEAVE { typed + 1 } else { 0 };
                if typed == 3 {
                    return true;
                }
            }
            send(socket, b'd', &keys[..n]);
        }
    }
}

fn wait_for(socket: &OwnedFd, events: &Events, input: Option<&OwnedFd>) -> (bool, bool, bool) {
    let mut fds = vec![
        PollFd::new(socket, PollFlags::IN),
        PollFd::from_borrowed_fd(events.source(), PollFlags::IN),
    ];
    if let Some(input) = input {
        fds.push(PollFd::new(input, PollFlags::IN));
    }
    let _ = poll(&mut fds, None);
    let has = |n: usize| fds.get(n).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
    (has(0), has(1), has(2))
}

/// For how long a new supervisor may take until it serves the console.
const LISTENS_WITHIN: Duration = Duration::from_secs(2);

fn connect(run: &Path) -> Result<OwnedFd> {
    let (_dir, path) = socket_path(run)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .named(|| "socket(AF_UNIX, SOCK_SEQPACKET)".into())?;
    let address = SocketAddrUnix::new(&path).named(|| format!("address {path:?}"))?;
    // A start is over before the supervisor has executed itself again and listens.
    let until = Instant::now() + LISTENS_WITHIN;
    while rustix::net::connect(&socket, &address).is_err() {
        if Instant::now() > until {
            let gone = "nobody holds its console: the supervisor is gone";
            return Err(Error::new(Kind::State, gone)
                .hint("coloc start NAME puts a new one beside it; coloc shell works meanwhile"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(socket)
}

fn send(socket: &OwnedFd, kind: u8, bytes: &[u8]) {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(kind);
    message.extend_from_slice(bytes);
    let _ = rustix::net::send(socket.as_fd(), &message, SendFlags::NOSIGNAL);
}

fn tell_size(socket: &OwnedFd, size: Size) {
    let [r1, r2] = size.rows.to_le_bytes();
    let [c1, c2] = size.columns.to_le_bytes();
    send(socket, b'w', &[r1, r2, c1, c2]);
}

/// Root inside can put a file system in the helper's way that never answers.
const RENEW_LIMIT: Duration = Duration::from_secs(20);

/// Makes a new pty in the container that `init` is the init of, and puts it over /dev/console.
pub fn renew(init: &OwnedFd) -> Result<Pty> {
    let (ours, theirs) = fdpass::pair()?;
    let helper = clone::spawn(0, None, || {
        let sent = match renew_inside(init) {
            Ok(pty) => fdpass::send(&theirs, b"ok", &[pty.master.as_fd(), pty.slave.as_fd()]),
            Err(e) => fdpass::send(&theirs, e.to_string().as_bytes(), &[] as &[BorrowedFd<'_>]),
        };
        i32::from(sent.is_err())
    })?;
    drop(theirs);
    if !relay::readable_within(&ours, RENEW_LIMIT) {
        relay::end(&helper.pidfd);
        return Err(Error::failed("a mount in the container does not answer"));
    }
    let answer = fdpass::receive(&ours);
    process::wait(helper.pidfd.as_fd())?;
    let (bytes, fds) = answer?;
    match <[OwnedFd; 2]>::try_from(fds) {
        Ok([master, slave]) => Ok(Pty { master, slave }),
        Err(_) => Err(Error::failed(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// In a process of its own, which becomes the container's root before it looks at a path.
fn renew_inside(init: &OwnedFd) -> Result<Pty> {
    use nix::sched::{CloneFlags, setns};
    process::hide()?;
    setns(init, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .named(|| "setns(pidfd)".into())?;
    process::become_root()?;
    let root = open_dir("/")?;
    let look_up = |path: &Path| open_in(&root, path, Links::Refuse, rustix::fs::OFlags::PATH, 0);
    let pty = tty::open_pty(&root)?;
    let slave = PathBuf::from(format!("/dev/pts/{}", tty::pty_number(&pty.master)?));
    let node = mount::clone_at(look_up(&slave)?)?;
    // The old one's file went with its master, and nothing can be mounted on what is gone.
    let at = "/dev/console";
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let _ = rustix::mount::unmount(at, flags);
    mount::attach(&node, look_up(Path::new(at))?)?;
    Ok(pty)
}
