//! Running a program in a container that runs.
//!
//! ```text
//! coloc ── clone3 into the container's cgroup ──> helper: joins the namespaces, becomes the
//!   │                                             container's root, opens a pty in its devpts
//!   │ <───── pidfd, pty master ────────────────── clone3(CLONE_PARENT) ──> the program
//!   └ relays bytes, waits for the program         ends
//! ```
//!
//! Just before it executes anything the program's process says so to us, on the socket by which the
//! helper did. Until then all that is done is coloc's, and may take no longer than a limit, whatever
//! file systems root inside has put in the way: a directory to begin in is one.
//!
//! The program is our own child, so its end is known exactly. No descriptor of ours is in it:
//! its terminal is the container's own, its pipes belong to its user. From the first instruction
//! in the container's namespaces the helper cannot be traced.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rustix::fs::Mode;

use super::agent;
use super::bounds::Bounds;
use super::cgroup;
use super::child::{bound, c_strings};
use super::limits;
use super::near::Near;
use super::relay::{self, Line};
use crate::error::{Context, Error, Result};
use crate::store::running::State;
use crate::sys::label::{Door, Module, When};
use crate::sys::process::{self, End};
use crate::sys::seccomp;
use crate::sys::tty::{self, Pty, Size};
use crate::sys::{Named, clone, fdpass, image, path};

/// What is to run, all of it the container's: its paths, its ids.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program's name for execve, and its arguments; searched in PATH without a slash.
    pub path: String,
    /// Its arguments, argv[0] first.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    /// Ids inside.
    pub uid: u32,
    /// Main group inside.
    pub gid: u32,
    /// Other groups inside.
    pub groups: Vec<u32>,
    /// Directories to begin in: the first that can be entered, in this order.
    pub cwd: Vec<String>,
    /// Who is to own the terminal and the pipes; differs from `uid` for `su`.
    pub stream_uid: u32,
    /// What confines it.
    pub bounds: Bounds,
    /// The label that it comes under: that of the container's init.
    pub label: Option<(Module, String)>,
    /// First host id of the container.
    pub ids_start: u32,
    /// Whether it is to reach the caller's ssh agent.
    pub agent: bool,
}

/// What the program's process says before it executes the program.
const READY: &[u8] = b"ready";
/// Exit code for a program that is there and cannot be run.
const CANNOT_RUN: i32 = 126;
/// Exit code for a program that is not there.
const NOT_FOUND: i32 = 127;
/// Exit code for a failure of coloc's own.
pub const OWN_FAILURE: i32 = 125;

/// For how long it may take to come to the program. Root inside can freeze the cgroup that it is born in.
const HELPER_LIMIT: Duration = Duration::from_secs(20);

/// Runs `program` in the container of `state`, whose init `init` refers to, with a pty if `near`
/// is on a terminal, or with pipes; relays until it ends. `first` is shown before what it says.
pub fn run(
    state: &State,
    init: &OwnedFd,
    program: &Program,
    near: Near,
    first: &[u8],
) -> Result<End> {
    let (line, pidfd, agent) = start(state, init, program, near.terminal)?;
    if let Some(listener) = agent {
        near.take_agent(listener)?;
    }
    relay::run(line, &pidfd, near, first)
}

/// Starts `program`, and gives what is between us and it: its streams, itself, and the socket
/// for its caller's agent if there is to be one.
fn start(
    state: &State,
    init: &OwnedFd,
    program: &Program,
    terminal: Option<Size>,
) -> Result<(Line, OwnedFd, Option<OwnedFd>)> {
    refuse_unsealed()?;
    let entrance = cgroup::entrance(&state.cgroup)?;
    let v1: Vec<_> = state.cgroups.iter().filter(|d| !d.starts_with(unified(state))).collect();
    let mut v1 = Some(cgroup::Doors::open(v1)?);
    let (ours, theirs) = fdpass::pair()?;
    let (mut far, near) = match terminal {
        Some(_) => (None, None),
        None => {
            let (far, near) = pipes(program)?;
            (Some(far), Some(near))
        }
    };
    let helper = clone::spawn(0, Some(entrance.as_fd()), || {
        let entered = v1.take().map_or(Ok(()), cgroup::Doors::enter);
        match entered.and_then(|()| help(init, program, terminal, far.take(), &theirs)) {
            Ok(()) => 0,
            Err(e) => {
                let _ = fdpass::send(&theirs, &serde_json::to_vec(&e).unwrap_or_default(), &[]);
                OWN_FAILURE
            }
        }
    })
    .context(|| "cannot enter its cgroup")?;
    drop((theirs, far.take(), v1.take()));
    let met = meet(&ours, &helper.pidfd)?;
    process::wait(helper.pidfd.as_fd())?;
    let mut fds = met.into_iter();
    let Some(pidfd) = fds.next() else {
        return Err(Error::failed("the container ended meanwhile"));
    };
    let line = match near {
        Some(near) => Line::Pipes(near),
        None => Line::Pty(
            fds.next().ok_or_else(|| Error::failed("the helper handed over no terminal"))?,
        ),
    };
    Ok((line, pidfd, fds.next()))
}

/// Waits until the program's process has come to its program, or has ended and said itself why, and gives
/// what the helper handed over: first the pidfd of that process. None if there is nobody any more.
///
/// The two say so each by itself, in any order.
fn meet(socket: &OwnedFd, helper: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let until = Instant::now() + HELPER_LIMIT;
    let (mut ready, mut handed) = (false, Vec::new());
    while !ready || handed.is_empty() {
        if !relay::readable_within(socket, until.saturating_duration_since(Instant::now())) {
            relay::end(handed.first().unwrap_or(helper));
            return Err(Error::failed("its cgroup, or a mount in it, lets nothing in")
                .hint("coloc stop --timeout 0 ends it whatever it does"));
        }
        let (bytes, fds) = fdpass::receive(socket)?;
        match bytes.as_slice() {
            [] if fds.is_empty() => break,
            READY if fds.is_empty() => ready = true,
            _ if !fds.is_empty() => handed = fds,
            error => {
                let error = serde_json::from_slice(error);
                process::wait(helper.as_fd())?;
                return Err(error.unwrap_or_else(|_| Error::failed("its helper said nonsense")));
            }
        }
    }
    Ok(handed)
}

/// Nobody is to see a process of ours inside whose executable could be written to.
pub(super) fn refuse_unsealed() -> Result<()> {
    match image::is_sealed()? {
        true => Ok(()),
        false => Err(Error::failed("this process executes the program itself, not a sealed one")),
    }
}

/// The v2 mount: what of `state.cgroups` lies there is the payload's own and its parents'.
fn unified(state: &State) -> &std::path::Path {
    // payload is <v2>/<store>/<name>/payload or <v2>/…/<unit>/payload; every v1 directory is
    // outside the payload's parent.
    state.cgroup.parent().unwrap_or(&state.cgroup)
}

/// The program's three streams, and our ends of them. A pipe belongs to whoever made it, and
/// its reader must be able to open /dev/stdin and the like, so ours are given to the user.
fn pipes(program: &Program) -> Result<([OwnedFd; 3], [OwnedFd; 3])> {
    let pipe = || -> Result<_> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).named(|| "pipe2".into())?;
        let owner = rustix::fs::Uid::from_raw(program.ids_start + program.stream_uid);
        for end in [&read, &write] {
            rustix::fs::fchown(end, Some(owner), None).named(|| "fchown(pipe)".into())?;
        }
        Ok((read, write))
    };
    let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
    Ok(([input.0, output.1, errors.1], [input.1, output.0, errors.0]))
}

/// The helper's life, in a process of its own.
fn help(
    init: &OwnedFd,
    program: &Program,
    terminal: Option<Size>,
    far: Option<[OwnedFd; 3]>,
    socket: &OwnedFd,
) -> Result<()> {
    process::hide()?;
    // While the host's root may still raise them.
    limits::apply(&program.bounds.limits)?;
    let proc = path::open_dir("/proc")?;
    // All in one call, while the host's root may still look at an init that cannot be traced.
    let namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    setns(init, namespaces).named(|| "setns(pidfd)".into())?;
    process::become_root()?;
    let pty = terminal.map(|size| pty(program, size)).transpose()?;
    let streams: [BorrowedFd<'_>; 3] = match (&pty, &far) {
        (Some(pty), _) => [pty.slave.as_fd(); 3],
        (None, Some(far)) => [far[0].as_fd(), far[1].as_fd(), far[2].as_fd()],
        (None, None) => return Err(Error::failed("no streams")),
    };
    // All that can fail for a reason of ours is done before; the rest is the program's own.
    let agent = program.agent.then(|| agent::listen(program.stream_uid)).transpose()?;
    let args = c_strings(&program.args)?;
    let mut env = c_strings(&program.env)?;
    if let Some((_, path)) = &agent {
        env.extend(c_strings(&[format!("{}={path}", agent::VARIABLE)])?);
    }
    let has_pty = pty.is_some();
    let child = clone::spawn(clone::PARENT, None, || {
        become_program(program, &args, &env, streams, has_pty, &proc, socket)
    })?;
    let mut fds = vec![child.pidfd.as_fd()];
    fds.extend(pty.as_ref().map(|p| p.master.as_fd()));
    fds.extend(agent.as_ref().map(|(listener, _)| listener.as_fd()));
    Ok(fdpass::send(socket, b"ok", &fds)?)
}

fn pty(program: &Program, size: Size) -> Result<Pty> {
    let pty = tty::open_pty(path::open_dir("/")?).context(|| "cannot open a terminal inside")?;
    let owner = rustix::fs::Uid::from_raw(program.stream_uid);
    rustix::fs::fchown(&pty.slave, Some(owner), None).named(|| "fchown(pty)".into())?;
    rustix::fs::fchmod(&pty.slave, Mode::from_raw_mode(0o620)).named(|| "fchmod(pty)".into())?;
    tty::set_size(&pty.master, size)?;
    Ok(pty)
}

/// The program's process, up to exec; gives the exit code if it does not get there.
fn become_program(
    program: &Program,
    args: &[CString],
    env: &[CString],
    streams: [BorrowedFd<'_>; 3],
    has_pty: bool,
    proc: &OwnedFd,
    socket: &OwnedFd,
) -> i32 {
    let prepared = (|| -> Result<()> {
        // The kernel lets a process open no other's.
        let door = |module| Door::open(proc, module, When::OnExec);
        let door = program.label.as_ref().map(|(module, _)| door(*module)).transpose()?;
        if has_pty {
            tty::take_terminal(streams[0])?;
        } else {
            rustix::process::setsid().named(|| "setsid".into())?;
            tty::take_stdio(streams)?;
        }
        let kept = door.iter().map(|d| d.as_fd()).chain([socket.as_fd()]);
        process::close_others(&kept.collect::<Vec<_>>())?;
        process::default_signals()?;
        bound(&program.bounds.capabilities)?;
        // While it still has the power to do so without giving up set-user-ID programs.
        if !program.bounds.filter.is_empty() {
            seccomp::install(&program.bounds.filter)?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        process::become_user(program.uid, program.gid, &program.groups)?;
        enter_directory(&program.cwd)?;
        if let (Some((_, label)), Some(door)) = (&program.label, door) {
            door.enter(label).context(|| format!("the kernel refuses the label {label}"))?;
        }
        // Written, as a message is a call that a filter may refuse. If nobody is there any more, nothing
        // is to run either: SIGPIPE sees to that.
        rustix::io::write(socket, READY).named(|| "write".into())?;
        Ok(())
    })();
    if let Err(e) = prepared {
        eprintln!("coloc: {e}");
        return OWN_FAILURE;
    }
    let e = exec(program, args, env);
    let why = Error::from(std::io::Error::from_raw_os_error(e));
    eprintln!("coloc: cannot run {}: {why}", program.path);
    if e == libc::ENOENT { NOT_FOUND } else { CANNOT_RUN }
}

fn enter_directory(choices: &[String]) -> Result<()> {
    let mut last = Ok(());
    for dir in choices {
        last = rustix::process::chdir(dir.as_str())
            .named(|| format!("chdir({dir:?})"))
            .context(|| format!("cannot begin in {dir}"));
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Executes the first that there is; gives the errno that says most.
fn exec(program: &Program, args: &[CString], env: &[CString]) -> i32 {
    if program.path.contains('/') {
        return match CString::new(program.path.as_str()) {
            Ok(path) => process::exec(&path, args, env).errno(),
            Err(_) => libc::ENOENT,
        };
    }
    let search = program.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    let mut worst = libc::ENOENT;
    for dir in search.split(':').filter(|d| !d.is_empty()) {
        let Ok(path) = CString::new(format!("{dir}/{}", program.path)) else { continue };
        match process::exec(&path, args, env).errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            e => worst = e,
        }
    }
    worst
}
