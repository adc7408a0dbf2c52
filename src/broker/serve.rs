//! The server's side: a listener that only counts, and one process a connection.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::frames::{self, Ask, Reply};
use super::peer;
use crate::engine::{Engine, require_root};
use crate::error::{Context, Error, Kind, Result};
use crate::request::{Request, policy};
use crate::runtime::near::{Ids, Near};
use crate::runtime::relay::{self, Line};
use crate::store::{Config, Layout};
use crate::sys::process::{self, End};
use crate::sys::tty::{self, Size};
use crate::sys::{Named, clone, path};

/// Does a verb that only talks, on the standard streams of this process, for a screen of this
/// size if there is one; gives the exit code. It is the command line's, as for root.
pub type Talk = fn(&Engine, &Request, Option<Size>) -> u8;

/// A connection that has not said what it wants after this long is closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many connections one member may have at once.
const SLOTS: usize = 32;
/// No more connections at once, of all members together; more wait.
const MOST: usize = 1024;
/// For how long to be there for nobody.
const IDLE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What a process of the broker's begins with, whoever started it: nothing of theirs.
fn begin_clean() -> Result<()> {
    process::clear_environment()?;
    std::env::set_current_dir("/").context(|| "cannot enter /")?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    process::ignore_signal(libc::SIGPIPE, true);
    Ok(())
}

/// Serves the connection that is this process's standard input.
pub fn serve_one(layout: &Layout, talk: Talk) -> Result<()> {
    require_root("serve members")?;
    // The keys of the listener's terminal are not for us, should it have one.
    let _ = rustix::process::setsid();
    process::default_signals()?;
    begin_clean()?;
    process::close_from(3)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).named(|| "dup2(0)".into())?;
    serve(layout, &socket, talk);
    Ok(())
}

/// Listens on the store's socket until a signal ends it. What runs then goes on.
pub fn listen(layout: &Layout) -> Result<()> {
    require_root("serve members")?;
    begin_clean()?;
    process::close_from(3)?;
    Config::load(layout)?;
    let listener = bind(layout)?;
    eprintln!("coloc: serving {}", layout.socket().display());
    turn(layout, &listener, None)?;
    let _ = std::fs::remove_file(layout.socket());
    Ok(())
}

/// Listens on the socket that systemd hands over (sd_listen_fds(3)), until nobody has asked for
/// anything, and nobody is served, for a while: systemd starts it again for whoever comes.
pub fn listen_handed(layout: &Layout) -> Result<()> {
    require_root("serve members")?;
    let listener = process::inherited(3).context(|| "systemd handed over no socket")?;
    begin_clean()?;
    process::close_from(4)?;
    turn(layout, &listener, Some(IDLE))
}

/// Gives each connection a process, which is a fresh image of the program: it shares no memory
/// with any other, and after an update of coloc it is the new one.
fn turn(layout: &Layout, listener: &OwnedFd, idle: Option<Timespec>) -> Result<()> {
    let program = crate::sys::image::path().context(|| "cannot tell where coloc is")?;
    let ends = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
    let signals = process::signal_fd(&[&ends[..], &[libc::SIGCHLD]].concat())?;
    nonblocking(listener)?;
    let mut served: HashMap<i32, u32> = HashMap::new();
    loop {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN)];
        if served.len() < MOST {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        let patience = idle.as_ref().filter(|_| served.is_empty());
        if poll(&mut fds, patience) == Ok(0) {
            return Ok(());
        }
        let ready = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        while let Some(signal) = process::next_signal(&signals) {
            if ends.contains(&signal) {
                return Ok(());
            }
        }
        // However it ended: it was the member by then, who may send it any signal.
        while let Ok(Some((pid, _))) = process::next_ended() {
            served.remove(&pid);
        }
        if ready {
            if let Some((pid, uid)) = accept(layout, listener, &program, &served) {
                served.insert(pid, uid);
            }
        }
    }
}

/// Takes one connection, if it is still there and its owner has not too many: gives the process
/// that serves it, and whose it is.
fn accept(
    layout: &Layout,
    listener: &OwnedFd,
    program: &std::path::Path,
    served: &HashMap<i32, u32>,
) -> Option<(i32, u32)> {
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC).ok()?;
    let uid = peer::uid(&socket).ok()?;
    if served.values().filter(|other| **other == uid).count() >= SLOTS {
        let busy =
            Error::new(Kind::State, format!("you have {SLOTS} coloc commands at work already"))
                .hint("let one of them end; pgrep -u $USER coloc shows them");
        answer_with(&socket, Err(busy));
        return None;
    }
    let child = Command::new(program)
        .arg0("coloc")
        .arg("--root")
        .arg(layout.root())
        .args(["serve", "--connection"])
        .stdin(socket)
        .spawn();
    match child {
        Ok(child) => Some((child.id() as i32, uid)),
        Err(e) => {
            eprintln!("coloc: cannot run {}: {e}", program.display());
            None
        }
    }
}

fn nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).named(|| "fcntl(F_GETFL)".into())?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).named(|| "fcntl(F_SETFL)".into())?)
}

/// The socket, in a directory that only root can write to, for everyone to connect to.
fn bind(layout: &Layout) -> Result<OwnedFd> {
    let place = layout.socket();
    let context = || format!("cannot listen on {}", place.display());
    let run = layout.run();
    layout.make_run().context(context)?;
    if connect(layout).is_ok() {
        return Err(Error::new(Kind::State, format!("{} is served already", place.display()))
            .hint("see who does: fuser -v, or systemctl status coloc-broker.socket"));
    }
    let dir = path::open_dir(&run)?;
    let _ = rustix::fs::unlinkat(&dir, "coloc.sock", AtFlags::empty());
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .named(|| "socket(AF_UNIX)".into())?;
    rustix::net::bind(&socket, &address(&dir)?).named(|| "bind".into()).context(context)?;
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&place, everyone).context(context)?;
    rustix::net::listen(&socket, 4096).named(|| "listen".into()).context(context)?;
    Ok(socket)
}

/// By our own /proc, as the path of a store can be longer than the address of a socket.
fn address(dir: &OwnedFd) -> Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/coloc.sock", dir.as_raw_fd());
    Ok(SocketAddrUnix::new(&path).named(|| format!("address {path:?}"))?)
}

/// A connection to whoever serves the store of `layout`.
pub(super) fn connect(layout: &Layout) -> Result<OwnedFd> {
    let dir = path::open_dir(layout.run())?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .named(|| "socket(AF_UNIX)".into())?;
    rustix::net::connect(&socket, &address(&dir)?).named(|| "connect".into())?;
    Ok(socket)
}

/// One connection, from hello to reply.
fn serve(layout: &Layout, socket: &OwnedFd, talk: Talk) {
    // Without an answer they went before they had said anything.
    if let Some(result) = answer(layout, socket, talk).transpose() {
        answer_with(socket, result);
    }
}

fn answer_with(socket: &OwnedFd, result: Result<u8>) {
    let reply = match result {
        Ok(code) => Reply { code, error: None },
        Err(error) => Reply { code: 0, error: Some(error) },
    };
    if let Ok(frame) = frames::encode(&reply) {
        frames::tell(socket, &frame);
    }
}

fn answer(layout: &Layout, socket: &OwnedFd, talk: Talk) -> Result<Option<u8>> {
    let (member, ids) = peer::who(socket)?;
    frames::tell(socket, &frames::encode(&())?);
    let Some((body, fds)) = frames::receive(socket, PATIENCE)? else { return Ok(None) };
    let ask: Ask = frames::decode(&body)?;
    let streams = frames::streams(fds)?;
    let engine = Engine::open_for(layout.clone(), member, ask.request.changes())?;
    act(&engine, &ask, streams, socket, ids, talk).map(Some)
}

/// Does what was asked for. From the moment that a byte passes this process is the member.
fn act(
    engine: &Engine,
    ask: &Ask,
    streams: [OwnedFd; 3],
    socket: &OwnedFd,
    ids: Ids,
    talk: Talk,
) -> Result<u8> {
    let control = socket.try_clone()?;
    let agent = frames::encode(&frames::AGENT)?;
    let near = Near::member(streams, ask.terminal(), control, ids, agent);
    let verb = ask.request.verb();
    let end = match &ask.request {
        Request::Shell(enter) | Request::Exec(enter) => {
            let name = engine.container_or_only(enter.name.as_ref())?;
            engine.enter(verb, &name, enter, near)?
        }
        Request::Console { name } => {
            engine.console(&engine.container_or_only(name.as_ref())?, near)?;
            End::Code(0)
        }
        request => {
            // Before anything is done: one that is not theirs among several stops all of it.
            for name in request.names() {
                engine.permit(verb, name)?;
            }
            if !policy::OWNERS_MAY.contains(&verb) {
                return Err(policy::admins_only(verb.word()));
            }
            talk_through(near, || talk(engine, request, ask.size()))?
        }
    };
    Ok(end.shell_code() as u8)
}

/// Has `work` done by a child that prints to pipes, and relays them as for a program inside:
/// the child is root and does not have the member's streams, we have them and are the member.
fn talk_through(near: Near, work: impl FnOnce() -> u8) -> Result<End> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).named(|| "pipe2".into());
    let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
    let parent = process::own_pid();
    let child = clone::spawn(0, None, || {
        let prepared = tty::take_stdio([input.0.as_fd(), output.1.as_fd(), errors.1.as_fd()])
            .and_then(|()| process::default_signals())
            .and_then(|()| process::end_with(parent))
            .and_then(|()| process::close_from(3));
        if prepared.is_err() {
            return 1;
        }
        let code = work();
        let _ = std::io::stdout().flush();
        code.into()
    })?;
    let (to_input, from_output, from_errors) = (input.1, output.0, errors.0);
    drop((input.0, output.1, errors.1));
    relay::run(Line::Pipes([to_input, from_output, from_errors]), &child.pidfd, near, b"")
}
