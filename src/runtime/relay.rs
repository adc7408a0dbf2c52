//! The caller's side of a program that runs inside: bytes, window size and signals go through,
//! descriptors do not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::Result;
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

/// One direction: what was read and is not written yet is all it holds.
struct Flow<'a> {
    from: Option<BorrowedFd<'a>>,
    to: Option<BorrowedFd<'a>>,
    pending: Vec<u8>,
}

impl<'a> Flow<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Self { from: Some(from), to: Some(to), pending: Vec::new() }
    }

    /// What it waits for: something to read, or room to write what it has.
    fn wants(&self) -> Option<PollFd<'a>> {
        if !self.pending.is_empty() {
            return self.to.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
        self.from.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
    }

    /// One read, or one write. Either end that is over ends the flow.
    fn advance(&mut self) {
        if self.pending.is_empty() {
            let mut buffer = [0; CHUNK];
            match self.from.map(|fd| rustix::io::read(fd, &mut buffer)) {
                Some(Ok(n)) if n > 0 => self.pending.extend_from_slice(&buffer[..n]),
                Some(Err(Errno::AGAIN | Errno::INTR)) => {}
                _ => self.from = None,
            }
        } else {
            let n = self.pending.len().min(CHUNK);
            match self.to.map(|fd| rustix::io::write(fd, &self.pending[..n])) {
                Some(Ok(n)) => drop(self.pending.drain(..n)),
                Some(Err(Errno::AGAIN | Errno::INTR)) => {}
                _ => (self.from, self.to, self.pending) = (None, None, Vec::new()),
            }
        }
    }

    fn over(&self) -> bool {
        self.pending.is_empty() && (self.from.is_none() || self.to.is_none())
    }

    /// After the end of the program: passes on what is there already, and waits for no more.
    fn finish(&mut self) {
        let mut left = LAST_BYTES;
        while left > 0 && !self.over() {
            if self.pending.is_empty() {
                let Some(mut fd) = self.wants() else { return };
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                if poll(std::slice::from_mut(&mut fd), Some(&now)).unwrap_or(0) == 0 {
                    return;
                }
                self.advance();
                left = left.saturating_sub(self.pending.len().max(1));
            } else {
                if let Some(mut fd) = self.wants() {
                    let _ = poll(std::slice::from_mut(&mut fd), None);
                }
                self.advance();
            }
        }
    }
}

/// Works until the program behind `pidfd` has ended, and tells how it did.
pub fn run(line: Line, pidfd: &OwnedFd) -> Result<End> {
    let caught =
        [libc::SIGWINCH, libc::SIGHUP, libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE];
    let signals = process::signal_fd(&caught)?;
    match line {
        Line::Pty(master) => {
            nonblocking(&master)?;
            run_pty(master, pidfd, &signals)
        }
        Line::Pipes(pipes) => {
            for pipe in &pipes {
                nonblocking(pipe)?;
            }
            run_pipes(pipes, pidfd, &signals)
        }
    }
}

fn nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).named(|| "fcntl(F_GETFL)".into())?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).named(|| "fcntl(F_SETFL)".into())?)
}

fn run_pty(master: OwnedFd, pidfd: &OwnedFd, signals: &OwnedFd) -> Result<End> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let raw = tty::RawMode::set(&input)?;
    let hung_up = {
        let mut flows =
            [Flow::new(input.as_fd(), master.as_fd()), Flow::new(master.as_fd(), output.as_fd())];
        let hung_up = turn(&mut flows, pidfd, signals, &mut |signal| match signal {
            libc::SIGWINCH => {
                if let Some(size) = tty::size(&input) {
                    let _ = tty::set_size(&master, size);
                }
                false
            }
            // Our own terminal is gone, or we are to be: the session inside is hung up.
            libc::SIGHUP | libc::SIGTERM => true,
            _ => false,
        });
        if !hung_up {
            flows[1].finish();
        }
        hung_up
    };
    drop(raw);
    // With the master goes the terminal inside: its session gets SIGHUP.
    drop(master);
    if hung_up {
        let _ = process::signal(pidfd, libc::SIGHUP);
        return Ok(end_within(pidfd, GRACE)?.unwrap_or(End::Signal(libc::SIGHUP)));
    }
    Ok(process::wait(pidfd.as_fd())?)
}

fn run_pipes(pipes: [OwnedFd; 3], pidfd: &OwnedFd, signals: &OwnedFd) -> Result<End> {
    let [to_input, from_output, from_errors] = pipes;
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let ended = {
        let mut flows = [
            Flow::new(input.as_fd(), to_input.as_fd()),
            Flow::new(from_output.as_fd(), output.as_fd()),
            Flow::new(from_errors.as_fd(), errors.as_fd()),
        ];
        let ended = turn_until(&mut flows, pidfd, signals, &mut |s| forward(pidfd, s), true);
        // At the end, or because what is on its way must not be lost with these flows.
        flows[1].finish();
        flows[2].finish();
        ended
    };
    // The program's input is over the moment that ours is.
    drop(to_input);
    if ended {
        return Ok(process::wait(pidfd.as_fd())?);
    }
    let mut flows = [
        Flow::new(from_output.as_fd(), output.as_fd()),
        Flow::new(from_errors.as_fd(), errors.as_fd()),
    ];
    turn(&mut flows, pidfd, signals, &mut |s| forward(pidfd, s));
    flows[0].finish();
    flows[1].finish();
    Ok(process::wait(pidfd.as_fd())?)
}

/// Without a terminal of its own the program gets what we are sent.
fn forward(pidfd: &OwnedFd, signal: i32) -> bool {
    if signal != libc::SIGWINCH && signal != libc::SIGPIPE {
        let _ = process::signal(pidfd, signal);
    }
    false
}

/// Turns until the program ends (false), or `on_signal` says to leave (true).
fn turn(
    flows: &mut [Flow<'_>],
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    on_signal: &mut dyn FnMut(i32) -> bool,
) -> bool {
    let mut left = false;
    turn_until(
        flows,
        pidfd,
        signals,
        &mut |s| {
            left = on_signal(s);
            left
        },
        false,
    );
    left
}

/// Turns until the program ends or `on_signal` says so (true), or, if `first_matters`, the
/// first flow is over (false).
fn turn_until(
    flows: &mut [Flow<'_>],
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    on_signal: &mut dyn FnMut(i32) -> bool,
    first_matters: bool,
) -> bool {
    loop {
        if first_matters && flows.first().is_some_and(Flow::over) {
            return false;
        }
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let mut which = Vec::with_capacity(flows.len());
        for (n, flow) in flows.iter().enumerate() {
            if let Some(fd) = flow.wants() {
                fds.push(fd);
                which.push(n);
            }
        }
        let _ = poll(&mut fds, None);
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (n, ready) in which.iter().zip(&ready[2..]) {
            if *ready {
                flows[*n].advance();
            }
        }
        while let Some(signal) = process::next_signal(signals) {
            if on_signal(signal) {
                return true;
            }
        }
        if ready[0] {
            return true;
        }
    }
}

/// How the program ended, if it does within `limit`.
fn end_within(pidfd: &OwnedFd, limit: Duration) -> Result<Option<End>> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(process::wait(pidfd.as_fd())?)),
            Err(_) if left.is_zero() => return Ok(None),
            Err(_) => {}
        }
    }
}

/// Waits until the process behind `pidfd`, anybody's child, has ended; false if it has not
/// within `limit`.
pub fn gone_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}
