//! The supervisor of a running container once the start is over: a process of its own image,
//! re-executed to be small, asleep in poll(2) until something happens.
//!
//! It holds the console's master, so that the container's console is there for life; writes what
//! comes out of it to `console.log`; serves one `coloc console` at a time; and notices the end
//! of init. Whatever follows from that end it leaves to a fresh image of the program, which
//! [`run`] becomes at last. It never parses anything and allocates next to nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::net::RecvFlags;

use crate::error::{Context, Error, Result};
use crate::sys::{self, Named, process};

/// The first argument that makes the program the monitor.
pub const ROLE: &str = "--monitor";
/// The file in the running state that appears when init has said that it is up.
pub const BOOTED: &str = "booted";
/// Bytes after which the console log is put aside as `console.log.1` and begun anew.
const LOG_LIMIT: u64 = 1 << 20;

/// What systemd tells the main process of a unit by its environment.
const OWN: [&str; 3] = ["NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM"];

/// What the monitor is told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `--root` of the store.
    pub root: PathBuf,
    /// The container.
    pub name: String,
    /// The directory of its running state.
    pub run: PathBuf,
    /// Its console log.
    pub log: PathBuf,
    /// Descriptor of init.
    pub init: i32,
    /// Descriptor of the console master; -1 when it was lost with an earlier supervisor.
    pub console: i32,
    /// Descriptor of the console's slave; -1 as above.
    pub slave: i32,
    /// The signal that asks init to power off.
    pub poweroff: i32,
    /// Descriptor of the notify socket; -1 when init has reported.
    pub notify: i32,
}

impl Job {
    /// The command line after the program's name.
    pub fn to_args(&self) -> Vec<OsString> {
        let number = |n: i32| OsString::from(n.to_string());
        vec![
            ROLE.into(),
            self.root.clone().into(),
            self.name.clone().into(),
            self.run.clone().into(),
            self.log.clone().into(),
            number(self.init),
            number(self.console),
            number(self.slave),
            number(self.notify),
            number(self.poweroff),
        ]
    }

    /// Reads the command line after the program's name and [`ROLE`].
    pub fn from_args(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut next = || args.next();
        let (root, name, run, log) = (next()?, next()?, next()?, next()?);
        let mut number = || args.next()?.to_str()?.parse().ok();
        Some(Self {
            root: root.into(),
            name: name.into_string().ok()?,
            run: run.into(),
            log: log.into(),
            init: number()?,
            console: number()?,
            slave: number()?,
            notify: number()?,
            poweroff: number()?,
        })
    }

    /// Becomes the monitor; the descriptors must be ones that [`process::inherit`] has seen.
    pub fn exec(&self) -> Error {
        exec_self(&self.root, &self.to_args())
    }
}

/// Replaces this process by a fresh image of the program, on the store `root`. That goes by the
/// environment, as a container's built-in init, which is forked from the supervisor, shows its
/// arguments to everyone inside.
pub fn exec_self(root: &Path, args: &[OsString]) -> Error {
    use std::os::unix::process::CommandExt;
    let mut command = crate::sys::image::again();
    let own = std::env::vars_os().filter(|(key, _)| OWN.iter().any(|o| key == o));
    let own: Vec<_> = own.collect();
    // Of whoever started it nothing is to stay for years.
    command.args(args).env_clear().envs(own).envs(crate::sys::image::variable());
    command.env("COLOC_ROOT", root).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let e = command.exec();
    Error::from(e).context("cannot run coloc again")
}

/// The supervisor's working life. Returns only on failure.
pub fn run(job: &Job) -> Error {
    match watch(job) {
        // A dead init is ours to wait for, unless an earlier supervisor was its parent.
        Ok(init) => {
            let end = match process::wait(init.as_fd()) {
                Ok(process::End::Signal(libc::SIGHUP)) => "reboot",
                _ => "off",
            };
            let args = ["supervise".into(), "--ended".into(), end.into(), job.name.clone().into()];
            exec_self(&job.root, &args)
        }
        Err(e) => e,
    }
}

/// The console's clients and log.
struct Desk {
    console: Option<OwnedFd>,
    log: Option<File>,
    log_path: PathBuf,
    client: Option<OwnedFd>,
    to_journal: bool,
}

fn watch(job: &Job) -> Result<OwnedFd> {
    // The kernel would call it "exe", after the link that it was executed by.
    let _ = nix::sys::prctl::set_name(c"coloc");
    let init = process::inherited(job.init)?;
    let mut notify = process::inherited(job.notify).ok();
    let console = process::inherited(job.console).ok();
    // Held, not used: without it the master would end whenever nobody has the console open.
    let _slave = process::inherited(job.slave).ok();
    if let Some(console) = &console {
        nonblocking(console)?;
    }
    let listener = listen(&job.run)?;
    let term = process::signal_fd(&[libc::SIGTERM, libc::SIGINT])?;
    process::ignore_signal(libc::SIGHUP, true);
    process::ignore_signal(libc::SIGPIPE, true);
    let mut desk = Desk {
        console,
        log: open_log(&job.log),
        log_path: job.log.clone(),
        client: None,
        to_journal: std::env::var_os("JOURNAL_STREAM").is_some(),
    };
    loop {
        let ready = wait_for(&init, &listener, &term, notify.as_ref(), &desk);
        if ready[3] && desk.drain() {
            desk.console = None;
        }
        if ready[0] {
            return Ok(init);
        }
        if ready[2] && process::next_signal(&term).is_some() {
            let _ = process::signal(&init, job.poweroff);
        }
        if ready[4] {
            desk.serve();
        }
        // After it, which is for the client that was heard.
        if ready[1] {
            desk.client = rustix::net::accept(&listener).ok();
        }
        if ready[5] && notify.as_ref().is_some_and(says_ready) {
            let _ = File::create(job.run.join(BOOTED));
            // Said once; with the socket gone nobody inside can wake us through it.
            notify = None;
        }
    }
}

/// Sleeps; tells which of init, listener, signals, console, client, notify have something.
fn wait_for(
    init: &OwnedFd,
    listener: &OwnedFd,
    term: &OwnedFd,
    notify: Option<&OwnedFd>,
    desk: &Desk,
) -> [bool; 6] {
    let sources = [
        Some(init),
        Some(listener),
        Some(term),
        desk.console.as_ref(),
        desk.client.as_ref(),
        notify,
    ];
    let mut fds = Vec::with_capacity(6);
    fds.extend(sources.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::IN)));
    let _ = poll(&mut fds, None);
    let mut events = fds.iter();
    sources.map(|s| s.is_some() && events.next().is_some_and(|e| !e.revents().is_empty()))
}

fn nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).named(|| "fcntl(F_GETFL)".into())?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).named(|| "fcntl(F_SETFL)".into())?;
    Ok(())
}

fn open_log(path: &Path) -> Option<File> {
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).ok()
}

fn says_ready(socket: &OwnedFd) -> bool {
    let mut text = [0; 512];
    let n = rustix::io::read(socket, &mut text).unwrap_or(0);
    text[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1")
}

impl Desk {
    /// Takes what the console has said; true when it is gone for good.
    fn drain(&mut self) -> bool {
        let Some(console) = &self.console else { return false };
        let mut buffer = [0; 4096];
        let n = match rustix::io::read(console, &mut buffer) {
            Ok(0) => return true,
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return false,
            Err(_) => return true,
        };
        let bytes = &buffer[..n];
        if let Some(log) = &mut self.log {
            let _ = log.write_all(bytes);
            if log.metadata().is_ok_and(|m| m.len() > LOG_LIMIT) {
                let mut aside = self.log_path.clone().into_os_string();
                aside.push(".1");
                let _ = std::fs::rename(&self.log_path, aside);
                self.log = open_log(&self.log_path);
            }
        }
        if self.to_journal {
            let _ = std::io::stdout().write_all(bytes);
            let _ = std::io::stdout().flush();
        }
        if let Some(client) = &self.client {
            // A client that does not read loses output; it cannot stop the container.
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            match rustix::net::send(client, bytes, flags) {
                Err(e) if e != rustix::io::Errno::AGAIN => self.client = None,
                _ => {}
            }
        }
        false
    }

    /// Takes one message of the client: `d` and keys, or `w` and a window size.
    fn serve(&mut self) {
        let Some(client) = &self.client else { return };
        let mut buffer = [0; 4096];
        let n = match rustix::net::recv(client, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((n, _)) => n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => 0,
        };
        match (buffer[..n].split_first(), &self.console) {
            (None, _) => self.client = None,
            (Some((b'd', keys)), Some(console)) => {
                let _ = rustix::io::write(console, keys);
            }
            (Some((b'w', &[r1, r2, c1, c2])), Some(console)) => {
                let size = sys::tty::Size {
                    rows: u16::from_le_bytes([r1, r2]),
                    columns: u16::from_le_bytes([c1, c2]),
                };
                let _ = sys::tty::set_size(console, size);
            }
            _ => {}
        }
    }
}

/// The socket of `coloc console`, in the directory `run` that only root enters.
fn listen(run: &Path) -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let path = socket_path(run)?;
    let _ = std::fs::remove_file(run.join("console.sock"));
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .named(|| "socket(AF_UNIX, SOCK_SEQPACKET)".into())?;
    let address = SocketAddrUnix::new(&path.1).named(|| format!("address {:?}", path.1))?;
    rustix::net::bind(&socket, &address).named(|| format!("bind({:?})", path.1))?;
    rustix::net::listen(&socket, 4).named(|| "listen".into())?;
    Ok(socket)
}

/// The socket's path by way of a descriptor of its directory, as a socket's address holds no
/// more than 107 bytes (unix(7)). The descriptor must live while the path is used.
pub fn socket_path(run: &Path) -> Result<(OwnedFd, PathBuf)> {
    use std::os::fd::AsRawFd;
    let dir = sys::path::open_dir(run)?;
    let path = format!("/proc/self/fd/{}/console.sock", dir.as_raw_fd()).into();
    Ok((dir, path))
}

/// Hands the descriptors of a start over to the monitor's image.
pub fn hand_over(job: &Job, fds: &[&OwnedFd]) -> Result<std::convert::Infallible> {
    for fd in fds {
        process::inherit(fd).context(|| "cannot hand over a descriptor")?;
    }
    Err(job.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_back() {
        let job = Job {
            root: "/x y".into(),
            name: "alice".into(),
            run: "/run/a".into(),
            log: "/l".into(),
            init: 3,
            console: 4,
            slave: 5,
            notify: -1,
            poweroff: 37,
        };
        assert_eq!(Job::from_args(job.to_args().into_iter().skip(1)), Some(job));
        assert_eq!(Job::from_args(std::iter::empty()), None);
    }
}
