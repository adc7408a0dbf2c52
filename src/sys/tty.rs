//! Terminals: sizes, raw mode, ptys (ioctl_tty(2), pts(4)).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};

use super::path::{Links, open_in};
use super::{Error, Named, Result};

/// What statfs(2) says of devpts.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both ends of a new pty.
#[derive(Debug)]
pub struct Pty {
    /// The end that a proxy holds.
    pub master: OwnedFd,
    /// The end that programs have as their terminal.
    pub slave: OwnedFd,
}

/// A new pty of the devpts mounted at `dev/pts` below `root`. The caller has joined the user
/// namespace that owns it, so that the slave belongs to somebody who exists there, and has no
/// other power. Whatever else lies at that path, in a tree that its root controls, is refused
/// with ENOTTY: what counts is what was opened, so there is no gap between look and use.
pub fn open_pty(root: impl AsFd) -> Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = open_in(root, "dev/pts/ptmx", Links::Refuse, flags, 0)?;
    let stat = rustix::fs::fstat(&master).named(|| "fstat(dev/pts/ptmx)".into())?;
    let is_ptmx = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device()
        && stat.st_rdev == rustix::fs::makedev(5, 2)
        && super::mount::file_system(&master)? == DEVPTS_MAGIC;
    if !is_ptmx {
        return Err(Error::new("dev/pts/ptmx is not a pty multiplexer", libc::ENOTTY));
    }
    rustix::pty::unlockpt(&master).named(|| "ioctl(TIOCSPTLCK)".into())?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, flags).named(|| "ioctl(TIOCGPTPEER)".into())?;
    Ok(Pty { master, slave })
}

/// The number of a pty's slave: `N` of `/dev/pts/N`.
pub fn pty_number(master: impl AsFd) -> Result<u32> {
    let name = rustix::pty::ptsname(master, Vec::new()).named(|| "ptsname".into())?;
    let name = name.to_string_lossy();
    name.rsplit('/')
        .next()
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| Error::new(format!("ptsname gave {name:?}"), libc::EINVAL))
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The size of a terminal; None if `fd` is none or does not know.
pub fn size(fd: impl AsFd) -> Option<Size> {
    let w = rustix::termios::tcgetwinsize(fd).ok()?;
    (w.ws_row > 0 && w.ws_col > 0).then_some(Size { rows: w.ws_row, columns: w.ws_col })
}

/// Tells a terminal its size; its foreground processes get SIGWINCH.
pub fn set_size(fd: impl AsFd, size: Size) -> Result<()> {
    let w = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(fd, w).named(|| "ioctl(TIOCSWINSZ)".into())
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// Makes the terminal `slave` the controlling one of a new session of this process, and its
/// standard input, output and error.
pub fn take_terminal(slave: impl AsFd) -> Result<()> {
    rustix::process::setsid().named(|| "setsid".into())?;
    rustix::process::ioctl_tiocsctty(&slave).named(|| "ioctl(TIOCSCTTY)".into())?;
    take_stdio([slave.as_fd(); 3])
}

/// Makes `fds` this process's standard input, output and error.
pub fn take_stdio(fds: [std::os::fd::BorrowedFd<'_>; 3]) -> Result<()> {
    rustix::stdio::dup2_stdin(fds[0]).named(|| "dup2(0)".into())?;
    rustix::stdio::dup2_stdout(fds[1]).named(|| "dup2(1)".into())?;
    rustix::stdio::dup2_stderr(fds[2]).named(|| "dup2(2)".into())
}

/// Has this process's standard streams lead nowhere.
pub fn let_go_of_stdio() -> Result<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty())
        .named(|| "open(\"/dev/null\")".into())?;
    take_stdio([null.as_fd(); 3])
}

/// A terminal in raw mode; dropping this gives it back as it was.
#[derive(Debug)]
pub struct RawMode {
    fd: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Keys of the terminal `fd` go through as bytes from now on (cfmakeraw(3)).
    pub fn set(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned().named(|| "dup(terminal)".into())?;
        let before = rustix::termios::tcgetattr(&fd).named(|| "tcgetattr".into())?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&fd, OptionalActions::Drain, &raw)
            .named(|| "tcsetattr(raw)".into())?;
        Ok(Self { fd, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(&self.fd, OptionalActions::Drain, &self.before);
    }
}
