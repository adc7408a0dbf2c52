//! The caller's side of a program that runs inside: bytes, window size and signals go through,
//! descriptors do not.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::near::{Event, Events, Near};
use crate::error::{Error, Result};
use crate::sys::process::{self, End};
use crate::sys::{Named, tty};

/// What is between the caller and the program.
#[derive(Debug)]
pub enum Line {
    /// One pty for all three streams.
    Pty(OwnedFd),
    /// A pipe for each: to its input, from its output, from its errors.
    Pipes([OwnedFd; 3]),
}

/// No more than this is read after the program's end: a background job could write for ever.
const LAST_BYTES: usize = 1 << 20;
/// As much as poll(2) promises room for in a pipe.
const CHUNK: usize = 4096;
/// For how long a hung-up session may take to end before the caller leaves it.
const GRACE: Duration = Duration::from_secs(2);
/// How often a program that was asked to end is looked at, and how many times it must be deaf.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 2;
/// Ctrl-C and Ctrl-\, as a terminal sends them.
const KEYS: [u8; 2] = [0x03, 0x1c];

/// One direction: what was read and is not written yet is all it holds. It owns its ends, so
/// that the program sees the end of its input the moment that ours is over.
#[derive(Debug)]
pub struct Flow {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    pending: Vec<u8>,
}

impl Flow {
    /// From one end to the other.
    pub fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self { from: Some(from), to: Some(to), pending: Vec::new() }
    }

    /// What it waits for: something to read, or room to write what it has.
    pub fn wants(&self) -> Option<PollFd<'_>> {
        if !self.pending.is_empty() {
            return self.to.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT));
        }
        self.from.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN))
    }

    /// One read, or one write. Either end that is over ends the flow.
    pub fn advance(&mut self) {
        if self.pending.is_empty() {
            let mut buffer = [0; CHUNK];
            match self.from.as_ref().map(|fd| rustix::io::read(fd, &mut buffer)) {
                Some(Ok(n)) if n > 0 => self.pending.extend_from_slice(&buffer[..n]),
                Some(Err(Errno::AGAIN | Errno::INTR)) => {}
                _ => self.end(),
            }
        } else {
            let n = self.pending.len().min(CHUNK);
            match self.to.as_ref().map(|fd| rustix::io::write(fd, &self.pending[..n])) {
                Some(Ok(n)) => drop(self.pending.drain(..n)),
                Some(Err(Errno::AGAIN | Errno::INTR)) => {}
                _ => self.end(),
            }
        }
    }

    /// Whether what was read last has a key that asks the program to end.
    fn asks_to_end(&self) -> bool {
        self.pending.iter().any(|byte| KEYS.contains(byte))
    }

    /// Whether there is nothing more to come of it.
    pub fn is_over(&self) -> bool {
        self.from.is_none()
    }

    fn end(&mut self) {
        (self.from, self.to, self.pending) = (None, None, Vec::new());
    }

    /// After the end of the program: passes on what is there already, and waits for no more;
    /// a signal to us ends it, as whoever reads our output may have stopped doing so.
    fn finish(&mut self, events: &mut Events) {
        let mut left = LAST_BYTES;
        while left > 0 || !self.pending.is_empty() {
            let reading = self.pending.is_empty();
            let Some(fd) = self.wants() else { return };
            let mut fds = [fd, PollFd::from_borrowed_fd(events.source(), PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = poll(&mut fds, reading.then_some(&now)).unwrap_or(0);
            let [own, event] = fds.map(|fd| !fd.revents().is_empty());
            if event && matches!(events.take(), Some(Event::Signal(_) | Event::Gone)) {
                return;
            }
            if own {
                self.advance();
            } else if reading && ready == 0 {
                return;
            }
            if reading {
                left = left.saturating_sub(self.pending.len().max(1));
            }
        }
    }
}

/// Works until the program behind `pidfd` has ended, and tells how it did. `first` is shown on
/// a terminal before what the program says.
pub fn run(line: Line, pidfd: &OwnedFd, near: Near, first: &[u8]) -> Result<End> {
    match line {
        Line::Pty(master) => {
            nonblocking(&master)?;
            let (streams, events) = near.attach(true)?;
            run_pty(master, pidfd, streams, events, first)
        }
        Line::Pipes(pipes) => {
            for pipe in &pipes {
                nonblocking(pipe)?;
            }
            let (streams, events) = near.attach(false)?;
            run_pipes(pipes, pidfd, streams, events)
        }
    }
}

/// Has reads and writes of `fd` not wait.
pub(super) fn nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).named(|| "fcntl(F_GETFL)".into())?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).named(|| "fcntl(F_SETFL)".into())?)
}

fn run_pty(
    master: OwnedFd,
    pidfd: &OwnedFd,
    [input, output, errors]: [OwnedFd; 3],
    mut events: Events,
    first: &[u8],
) -> Result<End> {
    drop(errors);
    let copy = master.try_clone()?;
    let mut flows = [Flow::new(input, copy.try_clone()?), Flow::new(copy, output)];
    flows[1].pending.extend_from_slice(first);
    let over = turn(&mut flows, pidfd, &mut events, true, &mut |event| match event {
        Event::Size(size) => {
            let _ = tty::set_size(&master, size);
            false
        }
        // The caller's terminal is gone, or they are to be: the session inside is hung up.
        Event::Gone | Event::Signal(libc::SIGHUP | libc::SIGTERM) => true,
        Event::Signal(_) => false,
    });
    if over == Over::Ended {
        flows[1].finish(&mut events);
    }
    drop(events);
    // With the master goes the terminal inside: its session gets SIGHUP.
    drop((flows, master));
    match over {
        Over::Ended => Ok(process::wait(pidfd.as_fd())?),
        Over::HungUp => hang_up(pidfd),
        Over::Deaf => Err(leave(pidfd)),
    }
}

fn run_pipes(
    pipes: [OwnedFd; 3],
    pidfd: &OwnedFd,
    [input, output, errors]: [OwnedFd; 3],
    mut events: Events,
) -> Result<End> {
    let [to_input, from_output, from_errors] = pipes;
    let mut flows = [
        Flow::new(input, to_input),
        Flow::new(from_output, output),
        Flow::new(from_errors, errors),
    ];
    // Without a terminal of its own the program gets what we are sent.
    let over = turn(&mut flows, pidfd, &mut events, false, &mut |event| {
        if let Event::Signal(signal) = event {
            let _ = process::signal(pidfd, signal);
        }
        event == Event::Gone
    });
    match over {
        Over::Ended => {}
        Over::HungUp => {
            flows[0].end();
            // Its output stays open for as long: whoever takes the signal in an orderly way may
            // have something to say, and is not to die of SIGPIPE for it.
            return hang_up(pidfd);
        }
        Over::Deaf => return Err(leave(pidfd)),
    }
    flows[1].finish(&mut events);
    flows[2].finish(&mut events);
    Ok(process::wait(pidfd.as_fd())?)
}

/// Tells the program that nobody is there any more, and waits no longer than is decent.
fn hang_up(pidfd: &OwnedFd) -> Result<End> {
    let _ = process::signal(pidfd, libc::SIGHUP);
    let _ = process::signal_group(pidfd, libc::SIGHUP);
    Ok(end_within(pidfd, GRACE)?.unwrap_or(End::Signal(libc::SIGHUP)))
}

/// Leaves a program behind that was asked to end and takes no signal. Before it is one, it is only a
/// process of ours, and will never be.
fn leave(pidfd: &OwnedFd) -> Error {
    let last = if process::has_not_executed(pidfd) { libc::SIGKILL } else { libc::SIGHUP };
    let _ = process::signal(pidfd, last);
    let _ = process::signal_group(pidfd, last);
    Error::failed("it takes no signal, and was left behind").hint(
        "it is frozen, or a file system inside does not answer; coloc stop --timeout 0 ends all",
    )
}

/// Why [`turn`] is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The program has ended.
    Ended,
    /// Nobody is at this end any more.
    HungUp,
    /// The caller wants it to end, and it does not hear that.
    Deaf,
}

/// Whether the program hears that it is to end.
#[derive(Debug, Default)]
struct Asked {
    /// When it is to be looked at.
    next: Option<Instant>,
    /// How many times it was deaf.
    deaf: u32,
}

impl Asked {
    fn ask(&mut self) {
        self.next = self.next.or_else(|| Some(Instant::now() + LOOK));
    }

    /// For how long nobody has to look; None for ever.
    fn rest(&self) -> Option<Timespec> {
        let left = self.next?.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ })
    }

    /// Looks, if it is time; whether the program was deaf long enough.
    fn look(&mut self, pidfd: &OwnedFd) -> bool {
        if self.next.is_none_or(|next| next > Instant::now()) {
            return false;
        }
        let deaf = process::has_not_executed(pidfd) || process::is_deaf(pidfd);
        self.deaf = if deaf { self.deaf + 1 } else { 0 };
        self.next = deaf.then(|| Instant::now() + LOOK);
        self.deaf >= LOOKS
    }
}

/// Turns until the program ends, or `on_event` says to leave, or the program does not hear that it
/// is to end: by a signal that is passed on, or with `keys` by a key.
fn turn(
    flows: &mut [Flow],
    pidfd: &OwnedFd,
    events: &mut Events,
    keys: bool,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> Over {
    let mut asked = Asked::default();
    loop {
        let mut fds = vec![
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(events.source(), PollFlags::IN),
        ];
        let mut which = Vec::with_capacity(flows.len());
        for (n, flow) in flows.iter().enumerate() {
            if let Some(fd) = flow.wants() {
                fds.push(fd);
                which.push(n);
            }
        }
        let _ = poll(&mut fds, asked.rest().as_ref());
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (n, ready) in which.iter().zip(&ready[2..]) {
            if *ready {
                flows[*n].advance();
                if keys && *n == 0 && flows[0].asks_to_end() {
                    asked.ask();
                }
            }
        }
        // One a turn: a flood of them does not hold the bytes up.
        if let Some(event) = ready[1].then(|| events.take()).flatten() {
            if on_event(event) {
                return Over::HungUp;
            }
            if !keys && matches!(event, Event::Signal(_)) {
                asked.ask();
            }
        }
        if ready[0] {
            return Over::Ended;
        }
        if asked.look(pidfd) {
            return Over::Deaf;
        }
    }
}

/// How the program ended, if it does within `limit`.
fn end_within(pidfd: &OwnedFd, limit: Duration) -> Result<Option<End>> {
    if !readable_within(pidfd, limit) {
        return Ok(None);
    }
    Ok(Some(process::wait(pidfd.as_fd())?))
}

/// Waits until the process behind `pidfd`, anybody's child, has ended; false if it has not
/// within `limit`.
pub fn gone_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    readable_within(pidfd, limit)
}

/// How long the kernel may take to end what was killed.
const DIES_WITHIN: Duration = Duration::from_secs(2);

/// Kills our child behind `pidfd`. One that waits for the answer of a file system in a container, which
/// nothing cuts short, is left behind: when that answers or ends, it dies before it does anything more.
pub fn end(pidfd: &OwnedFd) {
    let _ = process::signal(pidfd, libc::SIGKILL);
    if gone_within(pidfd, DIES_WITHIN) {
        let _ = process::wait(pidfd.as_fd());
    }
}

/// Waits until there is something to read, or the end of it; false if not within `limit`.
pub fn readable_within(fd: &OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}
