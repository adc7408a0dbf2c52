//! A shell in the sandbox on the caller's terminal, by a pty of the sandbox's own: job control
//! works, and nothing in there has the caller's terminal in hand.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;

use super::sandbox::Interrupt;
use crate::error::Result;
use crate::sys::{Named, tty};

/// Whether there is a terminal to work on.
pub(super) fn is_there() -> bool {
    tty::is_terminal(std::io::stdin()) && tty::is_terminal(std::io::stdout())
}

/// Passes on bytes and sizes between the caller's terminal and `master` until nobody has the
/// other end open any more. What comes out goes to `log` too.
pub(super) fn relay(master: &OwnedFd, interrupt: &Interrupt, log: &mut File) -> Result<()> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let _raw = tty::RawMode::set(&input)?;
    resize(master);
    let mut typed: Vec<u8> = Vec::new();
    let mut typing = true;
    let mut space = [0; 4096];
    loop {
        let writing = !typed.is_empty();
        let wants =
            if writing { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds = vec![
            PollFd::new(master.as_fd(), wants),
            PollFd::new(interrupt.as_fd(), PollFlags::POLLIN),
        ];
        if typing && !writing {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Ok(Err(e).named(|| "poll".into())?),
        }
        let ready: Vec<PollFlags> =
            fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        interrupt.check()?;
        if interrupt.resized() {
            resize(master);
        }
        if ready.get(2).is_some_and(|r| !r.is_empty()) {
            match rustix::io::read(&input, &mut space) {
                Ok(0) | Err(Errno::IO) => typing = false,
                Ok(n) => typed.extend_from_slice(&space[..n]),
                Err(_) => {}
            }
        }
        if writing && ready[0].contains(PollFlags::POLLOUT) {
            if let Ok(n) = rustix::io::write(master, &typed) {
                typed.drain(..n);
            }
        }
        if ready[0].intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            match rustix::io::read(master, &mut space) {
                Ok(0) | Err(Errno::IO) => return Ok(()),
                Ok(n) => {
                    // A log that cannot be written is no reason to lose the session.
                    let _ = log.write_all(&space[..n]);
                    let mut output = output.lock();
                    let _ = output.write_all(&space[..n]).and_then(|()| output.flush());
                }
                Err(_) => {}
            }
        }
    }
}

fn resize(master: &OwnedFd) {
    if let Some(size) = tty::size(std::io::stdin()) {
        let _ = tty::set_size(master, size);
    }
}
