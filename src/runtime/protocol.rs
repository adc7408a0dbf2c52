//! How a start goes, between the supervisor (P) and the child (C) that becomes init.
//!
//! ```text
//!  P                                     C
//!  1 clone3: user, mount, pid, uts, ipc, net; into the cgroup
//!  2 id maps               -- Mapped -->   (into its v1 cgroups meanwhile)
//!                                        3 root of its namespace; cgroup namespace
//!                         <-- Ready ---
//!  4 helper locks /usr and the private
//!    tree; device nodes   -- Mounts -->
//!                                        5 carries out the plan up to init, /usr proved
//!                         <-- Built ---    (console master and notify socket)
//!  6 looks at /usr from outside,
//!    records the state      -- Go ---->
//!                                        7 execs init: the socket closes
//! ```
//!
//! At any point either side may send Failed instead, or be gone: then the start has failed, and
//! before Go nothing of it is left but a dead child.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::fdpass;

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The supervisor.
    Parent,
    /// The container's init to be.
    Child,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The child's ids are mapped.
    Mapped,
    /// The child is in all its cgroups and has its cgroup namespace.
    Ready,
    /// The mounts and devices, as descriptors.
    Mounts,
    /// Everything but init is there; console master and notify socket.
    Built,
    /// The state is on record: become init.
    Go,
}

/// Who sends what, in order.
pub const ORDER: [(Side, Message); 5] = [
    (Side::Parent, Message::Mapped),
    (Side::Child, Message::Ready),
    (Side::Parent, Message::Mounts),
    (Side::Child, Message::Built),
    (Side::Parent, Message::Go),
];

impl Message {
    fn byte(self) -> u8 {
        match self {
            Message::Mapped => b'1',
            Message::Ready => b'2',
            Message::Mounts => b'3',
            Message::Built => b'4',
            Message::Go => b'5',
        }
    }
}

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress(usize);

impl Progress {
    /// Steps over `message` of `from`, if it is its turn.
    pub fn pass(&mut self, from: Side, message: Message) -> Result<()> {
        if ORDER.get(self.0) != Some(&(from, message)) {
            return Err(Error::failed(format!("{message:?} out of turn in the start protocol")));
        }
        self.0 += 1;
        Ok(())
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    side: Side,
    progress: Progress,
}

impl Channel {
    /// The end of `side`.
    pub fn new(socket: OwnedFd, side: Side) -> Self {
        Self { socket, side, progress: Progress::default() }
    }

    /// Says `message`.
    pub fn say(&mut self, message: Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.progress.pass(self.side, message)?;
        Ok(fdpass::send(&self.socket, &[message.byte()], fds)?)
    }

    /// Says why this side gives up.
    pub fn fail(&self, error: &Error) {
        let mut text = serde_json::to_vec(error).unwrap_or_default();
        text.truncate(fdpass::MAX_BYTES - 1);
        text.insert(0, b'!');
        let _ = fdpass::send(&self.socket, &text, &[]);
    }

    /// Waits for `message` of the other side and gives its descriptors.
    pub fn hear(&mut self, message: Message) -> Result<Vec<OwnedFd>> {
        let other = match self.side {
            Side::Parent => Side::Child,
            Side::Child => Side::Parent,
        };
        self.progress.pass(other, message)?;
        let (bytes, fds) = fdpass::receive(&self.socket)?;
        match bytes.split_first() {
            Some((b, _)) if *b == message.byte() => Ok(fds),
            Some((b'!', text)) => Err(serde_json::from_slice(text)
                .unwrap_or_else(|_| Error::failed("the other side gave up"))),
            Some(_) => Err(Error::failed("nonsense in the start protocol")),
            None => Err(Error::failed(format!("the {} is gone", other_word(other)))),
        }
    }

    /// Waits for the other side to be gone without a word, as init is when it execs.
    pub fn hear_end(&self) -> Result<()> {
        let (bytes, _) = fdpass::receive(&self.socket)?;
        match bytes.split_first() {
            None => Ok(()),
            Some((b'!', text)) => Err(serde_json::from_slice(text)
                .unwrap_or_else(|_| Error::failed("the other side gave up"))),
            Some(_) => Err(Error::failed("nonsense in the start protocol")),
        }
    }
}

fn other_word(side: Side) -> &'static str {
    match side {
        Side::Parent => "supervisor",
        Side::Child => "init process",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_only_one() {
        let mut p = Progress::default();
        for (side, message) in ORDER {
            assert!(p.pass(Side::Child, Message::Go).is_err());
            p.pass(side, message).unwrap();
        }
        assert!(p.pass(Side::Parent, Message::Go).is_err());
    }

    #[test]
    fn a_failure_arrives_with_its_hint_and_an_end_is_seen() {
        let (a, b) = fdpass::pair().unwrap();
        let mut parent = Channel::new(a, Side::Parent);
        let child = Channel::new(b, Side::Child);
        parent.say(Message::Mapped, &[]).unwrap();
        child.fail(&Error::failed("no sysfs").hint("mount it"));
        let e = parent.hear(Message::Ready).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.hint_text()), ("no sysfs", Some("mount it")));
        drop(child);
        assert!(parent.hear_end().is_ok());
        assert!(parent.hear(Message::Ready).is_err());
    }
}
