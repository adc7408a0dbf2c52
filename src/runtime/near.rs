//! Who is at this end of a program that runs inside: whoever typed the command in this very
//! process, or a member at the other end of the broker's socket.
//!
//! A member's descriptors are hostile: a read or write of them with root's power could do what
//! the member may not (fill a quota, write to a file in /proc that asks who writes). So before
//! the first byte passes this process becomes the member, for good. What it keeps is the power
//! to signal the program, which has an id of the container's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;

use super::agent;
use crate::error::Result;
use crate::sys::tty::{self, RawMode, Size};
use crate::sys::{Named, fdpass, process};

/// What happens at this end beside bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The window has another size.
    Size(Size),
    /// The command was sent this signal.
    Signal(i32),
    /// Nobody is there any more.
    Gone,
}

/// How long a control frame of a member's client is: a letter and two numbers.
pub const FRAME: usize = 5;
/// The signals that pass, by their numbers in a frame; the kernel's own differ by machine.
const SIGNALS: [(u16, i32); 4] =
    [(1, libc::SIGHUP), (2, libc::SIGINT), (3, libc::SIGQUIT), (15, libc::SIGTERM)];

impl Event {
    /// The frame that says so; None for what has no frame.
    pub fn to_frame(self) -> Option<[u8; FRAME]> {
        let (kind, a, b) = match self {
            Event::Size(size) => (b'w', size.rows, size.columns),
            Event::Signal(signal) => (b's', SIGNALS.iter().find(|s| s.1 == signal)?.0, 0),
            Event::Gone => return None,
        };
        let ([a0, a1], [b0, b1]) = (a.to_le_bytes(), b.to_le_bytes());
        Some([kind, a0, a1, b0, b1])
    }

    /// What a frame says; what is no frame counts as the end of whoever sent it.
    pub fn of_frame(frame: [u8; FRAME]) -> Self {
        let a = u16::from_le_bytes([frame[1], frame[2]]);
        let b = u16::from_le_bytes([frame[3], frame[4]]);
        match frame[0] {
            b'w' if a > 0 && b > 0 => Event::Size(Size { rows: a, columns: b }),
            b's' if b == 0 => match SIGNALS.iter().find(|s| s.0 == a) {
                Some((_, signal)) => Event::Signal(*signal),
                None => Event::Gone,
            },
            _ => Event::Gone,
        }
    }
}

/// As whom a member's bytes are read and written.
#[derive(Debug, Clone)]
pub struct Ids {
    /// Their uid.
    pub uid: u32,
    /// Their main group.
    pub gid: u32,
    /// All of their groups.
    pub groups: Vec<u32>,
}

/// This end.
#[derive(Debug)]
pub struct Near {
    /// Standard input, output and errors.
    pub streams: [OwnedFd; 3],
    /// The size of the terminal, if input and output are one.
    pub terminal: Option<Size>,
    member: Option<Far>,
}

/// A member at the other end of the broker's socket.
#[derive(Debug)]
struct Far {
    control: OwnedFd,
    ids: Ids,
    /// The message with which the agent's socket is handed over.
    agent: Vec<u8>,
}

impl Near {
    /// The caller in this very process.
    pub fn local() -> Result<Self> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let terminal = match tty::is_terminal(&input) && tty::is_terminal(&output) {
            true => Some(tty::size(&input).unwrap_or(Size { rows: 24, columns: 80 })),
            false => None,
        };
        let streams = [copy(input.as_fd())?, copy(output.as_fd())?, copy(errors.as_fd())?];
        Ok(Self { streams, terminal, member: None })
    }

    /// A member with these streams; `control` is where their frames come from, and `agent` the
    /// message to it that comes with the socket for their agent.
    pub fn member(
        streams: [OwnedFd; 3],
        terminal: Option<Size>,
        control: OwnedFd,
        ids: Ids,
        agent: Vec<u8>,
    ) -> Self {
        Self { streams, terminal, member: Some(Far { control, ids, agent }) }
    }

    /// Gives whoever is at this end the socket on which programs inside ask for their ssh agent:
    /// it is for them to answer, or have answered, with no more power than their own.
    pub fn take_agent(&self, listener: OwnedFd) -> Result<()> {
        match &self.member {
            Some(far) => Ok(fdpass::send(&far.control, &far.agent, &[listener.as_fd()])?),
            None => match agent::own() {
                Some(path) => agent::serve(&listener, &path),
                None => Ok(()),
            },
        }
    }

    /// Whether it is the caller in this very process.
    pub fn is_local(&self) -> bool {
        self.member.is_none()
    }

    /// Takes the signals of this process or becomes the member; with `raw` the caller's keys go
    /// through as they are. Gives the streams, and where events come from.
    pub fn attach(self, raw: bool) -> Result<([OwnedFd; 3], Events)> {
        let Some(Far { control, ids, .. }) = self.member else {
            let raw = raw.then(|| RawMode::set(&self.streams[0])).transpose()?;
            let caught = [
                libc::SIGWINCH,
                libc::SIGHUP,
                libc::SIGTERM,
                libc::SIGINT,
                libc::SIGQUIT,
                libc::SIGPIPE,
            ];
            let source = process::signal_fd(&caught)?;
            let frame = None;
            return Ok((self.streams, Events { source, frame, _raw: raw }));
        };
        process::become_relay(ids.uid, ids.gid, &ids.groups)?;
        let frame = Some(Vec::with_capacity(FRAME));
        Ok((self.streams, Events { source: control, frame, _raw: None }))
    }
}

/// Where events come from. Dropping it gives the caller's terminal back as it was.
#[derive(Debug)]
pub struct Events {
    source: OwnedFd,
    /// What there is of a frame; None when the source is our own signals.
    frame: Option<Vec<u8>>,
    _raw: Option<RawMode>,
}

impl Events {
    /// Can be read when there is an event.
    pub fn source(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    /// The next event, if there is one; does not wait.
    pub fn take(&mut self) -> Option<Event> {
        let Some(frame) = &mut self.frame else {
            return loop {
                match process::next_signal(&self.source)? {
                    libc::SIGPIPE => {}
                    libc::SIGWINCH => {
                        if let Some(size) = tty::size(std::io::stdin()) {
                            break Some(Event::Size(size));
                        }
                    }
                    signal => break Some(Event::Signal(signal)),
                }
            };
        };
        let mut rest = [0; FRAME];
        let want = FRAME - frame.len();
        match rustix::net::recv(&self.source, &mut rest[..want], RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => frame.extend_from_slice(&rest[..n.min(want)]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
            _ => return Some(Event::Gone),
        }
        let whole: [u8; FRAME] = frame.as_slice().try_into().ok()?;
        frame.clear();
        Some(Event::of_frame(whole))
    }
}

/// Sends the frame for `event`, if it has one; whoever is to read it may be gone.
pub fn send(socket: impl AsFd, event: Event) {
    if let Some(frame) = event.to_frame() {
        let _ = rustix::net::send(socket, &frame, rustix::net::SendFlags::NOSIGNAL)
            .named(|| "send".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_are_read_as_they_were_meant() {
        for event in [
            Event::Size(Size { rows: 24, columns: 80 }),
            Event::Signal(libc::SIGINT),
            Event::Signal(libc::SIGTERM),
            Event::Signal(libc::SIGHUP),
            Event::Signal(libc::SIGQUIT),
        ] {
            assert_eq!(Event::of_frame(event.to_frame().unwrap()), event);
        }
        for other in [libc::SIGKILL, libc::SIGSTOP, libc::SIGUSR1, libc::SIGCONT] {
            assert_eq!(Event::Signal(other).to_frame(), None);
        }
    }

    proptest! {
        #[test]
        fn no_frame_means_another_signal(frame in any::<[u8; FRAME]>()) {
            if let Event::Signal(signal) = Event::of_frame(frame) {
                prop_assert!(SIGNALS.iter().any(|s| s.1 == signal));
            }
        }
    }
}
