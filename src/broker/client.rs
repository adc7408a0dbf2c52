//! The member's side: asks, hands over its streams, waits for the exit code. It has no more
//! power than whoever typed the command.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::frames::{self, Ask, Reply};
use super::{peer, serve};
use crate::error::{Error, Kind, Result};
use crate::request::Request;
use crate::runtime::agent;
use crate::runtime::near::{self, Event};
use crate::runtime::relay::Flow;
use crate::store::Layout;
use crate::sys::tty::{self, RawMode};
use crate::sys::{Named, process};

/// For how long to wait for the server's hello.
const HELLO: Duration = Duration::from_secs(20);
/// After a signal that ends us the server has this long to hang up.
const GRACE: Duration = Duration::from_secs(5);
/// How often, and at first how long apart, to try again when the server is too busy to say hello.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

/// Has `request` done by the broker of the store, and gives the exit code.
pub fn call(layout: &Layout, request: Request) -> Result<u8> {
    let socket = hello(layout)?;
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let own_agent = match &request {
        Request::Shell(e) | Request::Exec(e) if e.agent => agent::own(),
        _ => None,
    };
    let bytes = matches!(request, Request::Shell(_) | Request::Exec(_) | Request::Console { .. });
    let ask = Ask {
        from_terminal: bytes && tty::is_terminal(&input),
        screen: tty::is_terminal(&output)
            .then(|| tty::size(&output).map_or((24, 80), |s| (s.rows, s.columns))),
        request,
    };
    let frame = frames::encode(&ask)?;
    let caught =
        [libc::SIGWINCH, libc::SIGHUP, libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE];
    let signals = process::signal_fd(&caught)?;
    // In the background this stops us, as it should, before anything is asked for.
    let _raw = ask.terminal().map(|_| RawMode::set(&input)).transpose()?;
    // The terminal is ours to read; what is typed goes by a pipe. All else goes as it is.
    let mut typed = None;
    let stdin: OwnedFd = match (bytes, ask.from_terminal) {
        (true, true) => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).named(|| "pipe2".into())?;
            typed = Some(Flow::new(input.as_fd().try_clone_to_owned()?, write));
            read
        }
        (true, false) => input.as_fd().try_clone_to_owned()?,
        (false, _) => std::fs::File::open("/dev/null")?.into(),
    };
    frames::send(&socket, &frame, &[stdin.as_fd(), output.as_fd(), std::io::stderr().as_fd()])?;
    drop(stdin);
    wait(&socket, &signals, typed, own_agent)
}

/// Turns until the reply is there.
fn wait(
    socket: &OwnedFd,
    signals: &OwnedFd,
    mut typed: Option<Flow>,
    mut agent: Option<PathBuf>,
) -> Result<u8> {
    let mut until: Option<(Instant, i32)> = None;
    loop {
        let mut fds = vec![PollFd::new(socket, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        fds.extend(typed.as_ref().and_then(Flow::wants));
        let left = until.map(|(until, _)| until.saturating_duration_since(Instant::now()));
        let wait = left.map(|left| Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        });
        let _ = poll(&mut fds, wait.as_ref());
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            match answer(socket)? {
                Answer::Code(code) => return Ok(code),
                Answer::Agent(listener) => {
                    if let Some(path) = agent.take() {
                        agent::serve(&listener, &path)?;
                    }
                }
            }
        }
        while let Some(signal) = process::next_signal(signals) {
            match signal {
                libc::SIGPIPE => {}
                libc::SIGWINCH => {
                    if let Some(size) = tty::size(std::io::stdin()) {
                        near::send(socket, Event::Size(size));
                    }
                }
                _ => near::send(socket, Event::Signal(signal)),
            }
            if matches!(signal, libc::SIGHUP | libc::SIGTERM) && until.is_none() {
                until = Some((Instant::now() + GRACE, signal));
            }
        }
        if let (Some(true), Some(flow)) = (ready.get(2), &mut typed) {
            flow.advance();
        }
        match until {
            // A session on a terminal is hung up by then, and nobody waits for one whose
            // terminal is gone. A program on pipes may take SIGTERM in its own time.
            Some((when, signal))
                if Instant::now() >= when && (typed.is_some() || signal == libc::SIGHUP) =>
            {
                return Ok((128 + signal) as u8);
            }
            Some((when, _)) if Instant::now() >= when => until = None,
            _ => {}
        }
    }
}

/// What the server says once it is at work.
enum Answer {
    /// It is done, with this exit code.
    Code(u8),
    /// Programs inside come to this socket for our ssh agent.
    Agent(OwnedFd),
}

fn answer(socket: &OwnedFd) -> Result<Answer> {
    let gone = || {
        Error::failed("the broker ended before it had an answer")
            .hint("try again; if it stays so, tell the host's admin")
    };
    let received = frames::receive(socket, GRACE).map_err(|_| gone())?;
    let (body, mut fds) = received.ok_or_else(gone)?;
    if frames::decode::<String>(&body).is_ok_and(|word| word == frames::AGENT) {
        return fds.pop().map(Answer::Agent).ok_or_else(gone);
    }
    let reply: Reply = frames::decode(&body)?;
    match reply.error {
        Some(error) => Err(error),
        None => Ok(Answer::Code(reply.code)),
    }
}

/// A connection to a broker that is root's and has said hello. One that hangs up before that
/// has too many guests at the moment.
fn hello(layout: &Layout) -> Result<OwnedFd> {
    let mut pause = PAUSE;
    for _ in 0..TRIES {
        let socket = serve::connect(layout).map_err(|_| {
            Error::new(Kind::Unsupported, format!("nobody serves {}", layout.socket().display()))
                .hint(
                    "this needs the host's admin: systemctl enable --now coloc-broker.socket, \
                 or, without systemd, coloc serve",
                )
        })?;
        // Before it gets anything of ours.
        if peer::uid(&socket)? != 0 {
            return Err(Error::new(
                Kind::Denied,
                format!("{} is served by somebody who is not root", layout.socket().display()),
            )
            .hint("look at COLOC_ROOT, and at who made that file"));
        }
        if let Some((body, _)) = frames::receive(&socket, HELLO).unwrap_or(None) {
            if frames::decode::<()>(&body).is_ok() {
                return Ok(socket);
            }
            return Err(frames::decode::<Reply>(&body)?
                .error
                .unwrap_or_else(|| Error::failed("the broker answers before it is asked")));
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Err(Error::new(Kind::State, "the broker has too much to do").hint("try again in a while"))
}
