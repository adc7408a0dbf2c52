//! Namespaces for the tools that fill and change trees: what they mount never reaches the host,
//! and when this process dies, by whatever, all of them die with it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use unshare::{Child, Namespace, Stdio};

use crate::error::{Context, Error, Result};
use crate::sys::Named;
use crate::sys::process::{self, End};
use crate::tree::file::printable;

/// How many of the last lines of a failed run are shown.
pub(super) const SHOWN: usize = 8;
/// A line that is longer is cut into pieces.
const LONGEST: usize = 64 << 10;

/// Where programs are looked for, on the host and in a tree.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Gives the tools a session of their own: a Ctrl-C is ours to answer, and none of them can
/// push characters into the caller's terminal.
const SETSID: &str = "/usr/bin/setsid";

/// Where the standard streams of a run go.
pub(super) enum Streams {
    /// Both kinds of output into the pipe of [`Running::output`]; no input.
    Pipe,
    /// The same, with our own standard input.
    PipeWithInput,
    /// All three are this terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// A tool at work.
pub(super) struct Running {
    /// Process 1 of its namespaces; when it ends, nothing of the run is left.
    pub(super) child: Child,
    /// What it says; nothing comes here from a run on a terminal.
    pub(super) output: File,
}

/// Runs `script` by the host's sh, with `args`, as process 1 of new namespaces (all but the
/// network), and with no environment but `env`, a search path and the host's proxies.
pub(super) fn spawn(
    script: &str,
    args: &[OsString],
    env: &[(&str, &str)],
    streams: Streams,
) -> Result<Running> {
    let name = args.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
    let (reader, writer) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).named(|| "pipe2".into())?;
    let mut command = unshare::Command::new(SETSID);
    if matches!(streams, Streams::Terminal(_)) {
        command.arg("--ctty");
    }
    command.args(&["sh", "-c", script]).args(args);
    command.unshare(&[Namespace::Mount, Namespace::Pid, Namespace::Ipc, Namespace::Uts]);
    command.set_parent_death_signal(unshare::Signal::SIGKILL);
    command.env_clear();
    // The one category in which C.UTF-8 differs from C: each further one is a file that every
    // process of the hundreds in a maintainer script opens, a seventh of its time.
    command.env("PATH", PATH).env("LC_CTYPE", "C.UTF-8");
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(env.iter().copied()).current_dir("/");
    let failed = || format!("cannot run {name}");
    match streams {
        Streams::Terminal(slave) => {
            let slave = File::from(slave);
            command.stdin(Stdio::dup_file(&slave).context(failed)?);
            command.stdout(Stdio::dup_file(&slave).context(failed)?);
            command.stderr(Stdio::from_file(slave));
        }
        piped => {
            let writer = File::from(writer);
            let own = matches!(piped, Streams::PipeWithInput);
            command.stdin(if own { Stdio::inherit() } else { Stdio::null() });
            command.stdout(Stdio::dup_file(&writer).context(failed)?);
            command.stderr(Stdio::from_file(writer));
        }
    }
    // Ours are closed on exec, but not what our own caller left open.
    process::close_others_on_exec()?;
    let child = command
        .spawn()
        .map_err(|e| Error::failed(format!("cannot run {name} in namespaces: {e}")))?;
    // Dropping the command closes our copies of the pipe's writing end.
    Ok(Running { child, output: File::from(reader) })
}

/// SIGINT and SIGTERM (and SIGWINCH) as something to wait for: whoever asks us to end is obeyed between two
/// steps, after the tools were killed and before anything was published. Dropping this gives
/// the signals back.
pub(super) struct Interrupt {
    fd: SignalFd,
    before: SigSet,
    resized: AtomicBool,
}

impl Interrupt {
    /// Catches the signals for this thread and those that it starts.
    pub(super) fn catch() -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGWINCH);
        let before = set
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .named(|| "pthread_sigmask(SIG_BLOCK)".into())?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .named(|| "signalfd".into())?;
        Ok(Self { fd, before, resized: AtomicBool::new(false) })
    }

    /// Fails if a signal has come.
    pub(super) fn check(&self) -> Result<()> {
        while let Ok(Some(info)) = self.fd.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGWINCH => self.resized.store(true, Ordering::Relaxed),
                signal => return Err(interrupted(signal)),
            }
        }
        Ok(())
    }

    /// Whether [`Interrupt::check`] saw that the terminal has another size now.
    pub(super) fn resized(&self) -> bool {
        self.resized.swap(false, Ordering::Relaxed)
    }

    /// Runs `wait` with the signals as they were: they end the process there, as anywhere.
    pub(super) fn released<T>(&self, wait: impl FnOnce() -> T) -> Result<T> {
        self.check()?;
        let ours = self
            .before
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .named(|| "pthread_sigmask".into())?;
        let result = wait();
        ours.thread_set_mask().named(|| "pthread_sigmask".into())?;
        Ok(result)
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // A second Ctrl-C meant the same thing.
        while let Ok(Some(_)) = self.fd.read_signal() {}
        let _ = self.before.thread_set_mask();
    }
}

fn interrupted(signal: i32) -> Error {
    let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
    Error::failed(format!("interrupted by {name}; nothing was changed"))
}

/// Opens the log of a run, empty.
pub(super) fn open_log(path: &Path) -> Result<File> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .context(|| format!("cannot write {}", path.display()))
}

/// Copies what comes to `log` and gives each line to `line`, fit to be shown, until the run's
/// end; gives its last lines. Fails at once when `interrupt` says so, or `line` does.
pub(super) fn follow(
    mut reader: File,
    log: &mut dyn Write,
    interrupt: Option<&Interrupt>,
    line: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<VecDeque<String>> {
    let mut last = VecDeque::new();
    let mut take = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let text = printable(text.trim_end());
        let taken = line(&text);
        if !text.is_empty() {
            last.push_back(text);
        }
        if last.len() > SHOWN {
            last.pop_front();
        }
        taken
    };
    let mut pending = Vec::new();
    let mut space = vec![0; 16 << 10];
    let mut written = Ok(());
    loop {
        if let Some(interrupt) = interrupt {
            readable(&reader, interrupt)?;
        }
        let n = match reader.read(&mut space) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).context(|| "cannot read what a tool says"),
        };
        // A full disk must not stop the reading, or the child would wait for ever.
        if written.is_ok() {
            written = log.write_all(&space[..n]);
        }
        pending.extend_from_slice(&space[..n]);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let bytes: Vec<u8> = pending.drain(..=end).collect();
            take(&bytes)?;
        }
        if pending.len() > LONGEST {
            take(&std::mem::take(&mut pending))?;
        }
    }
    if !pending.is_empty() {
        take(&pending)?;
    }
    written.context(|| "cannot write the log")?;
    Ok(last)
}

/// Waits until there is something to read; fails when `interrupt` comes first.
fn readable(reader: &File, interrupt: &Interrupt) -> Result<()> {
    loop {
        let mut fds = [
            PollFd::new(reader.as_fd(), PollFlags::POLLIN),
            PollFd::new(interrupt.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Ok(Err(e).named(|| "poll".into())?),
        }
        interrupt.check()?;
        if fds[0].any() == Some(true) {
            return Ok(());
        }
    }
}

/// Waits until a run has ended, and gives how. The crate's own way fails where a real-time signal
/// ended it.
pub(super) fn wait(child: Child) -> Result<End> {
    process::wait_for(child.pid()).context(|| "cannot wait for a tool")
}

/// Kills a run and waits until nothing of it is left.
pub(super) fn kill(child: Child) {
    let _ = child.kill();
    let _ = wait(child);
}

/// What failed, how, and what it said last.
pub(super) fn failure(what: &str, end: End, last: &VecDeque<String>, log: &Path) -> Error {
    let how = match end {
        End::Code(code) => format!("exit code {code}"),
        End::Signal(signal) => match Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
    };
    let mut message = format!("{what} failed ({how})");
    for line in last {
        message.push_str("\n  ");
        message.push_str(line);
    }
    Error::failed(message).hint(format!("everything that it said is in {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_passed_on_and_the_end_kept() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let text: String = (0..20).map(|n| format!("I: step {n}\nnoise {n}\n")).collect();
        File::from(writer).write_all(format!("{text}end").as_bytes()).unwrap();
        let (mut log, mut seen) = (Vec::new(), Vec::new());
        let last = follow(reader.into(), &mut log, None, &mut |l| {
            seen.push(l.to_string());
            Ok(())
        })
        .unwrap();
        assert_eq!((seen.len(), last.len()), (41, SHOWN));
        assert_eq!((seen[0].as_str(), last[7].as_str()), ("I: step 0", "end"));
        assert_eq!(log, format!("{text}end").as_bytes());
    }

    #[test]
    fn a_signal_ends_the_waiting_and_the_signals_come_back() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        let interrupt = Interrupt::catch().unwrap();
        // To this very thread: the test harness has others, which do not block it.
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        let e =
            follow(reader.into(), &mut Vec::new(), Some(&interrupt), &mut |_| Ok(())).unwrap_err();
        assert!(e.to_string().contains("SIGINT"), "{e}");
        drop(interrupt);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
