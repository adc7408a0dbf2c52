//! The file that this process executes, out of the reach of whoever sees it.
//!
//! A process of ours in a container's pid namespace has a link to its executable there,
//! /proc/PID/exe, and through that link goes a write to the host's own program (CVE-2019-5736).
//! It is refused, as the program belongs to an id that no container has. So that this is not
//! all, the executable of what enters is on a detached read-only bind mount: the very same file, so
//! no copy is made, but through this link it cannot be opened for writing, whoever asks. The mount
//! is in no mount namespace: nobody can change it.
//!
//! To get there the process executes itself again from that mount; or, which takes a tenth of the
//! time, it has the kernel say that it did: `PR_SET_MM_MAP` of prctl(2), which wants that
//! nothing of the old file is mapped any more.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags};

use super::mount::{self, Attr};
use super::{Error, Named, Result};
use super::{clone, remap};

const OWN: &str = "/proc/self/exe";
/// Where the program lies, for an image that cannot tell by its link.
const VARIABLE: &str = "COLOC_PROGRAM";

fn open() -> Result<OwnedFd> {
    rustix::fs::open(OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .named(|| format!("open({OWN:?}, O_PATH)"))
}

fn is_read_only(file: impl AsFd) -> Result<bool> {
    let found = rustix::fs::fstatvfs(file).named(|| format!("fstatvfs({OWN:?})"))?;
    Ok(found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether this process's executable is on a read-only mount.
pub fn is_sealed() -> Result<bool> {
    is_read_only(open()?)
}

/// A command that executes this very image again.
pub fn again() -> Command {
    let mut command = Command::new(OWN);
    command.arg0("coloc").envs(variable());
    command
}

/// What [`again`] has in its environment, for who clears it: where the program lies.
pub fn variable() -> Option<(&'static str, PathBuf)> {
    path().ok().map(|place| (VARIABLE, place))
}

/// Puts this process's executable on a read-only mount, if it is not on one; for that the program
/// may begin anew, with the same arguments. Returns when it is so, or with what went wrong.
pub fn seal() -> Result<()> {
    match seal_here()? {
        None => Ok(()),
        Some((copy, place)) => execute(&copy, &place),
    }
}

/// Does so if it can be done without beginning anew; whether it is on one now.
pub fn seal_in_place() -> bool {
    matches!(seal_here(), Ok(None))
}

/// None when it is done; else the read-only mount of the program, and where it lies.
fn seal_here() -> Result<Option<(OwnedFd, PathBuf)>> {
    let own = open()?;
    if is_read_only(&own)? {
        // The kernel names an image without a path by the number of its descriptor.
        let _ = nix::sys::prctl::set_name(c"coloc");
        let _ = path();
        return Ok(None);
    }
    let copy = mount::clone_at(&own)?;
    mount::prepare(&copy, Attr::RDONLY.with(Attr::NOSUID).with(Attr::NODEV), Attr::NONE, None)?;
    // While the link still leads there.
    let place = path()?;
    if clone::alone() && remap::onto(&copy).is_ok() && is_sealed()? {
        return Ok(None);
    }
    Ok(Some((copy, place)))
}

/// Begins anew as the program behind `copy`, which lies at `place`.
fn execute(copy: &OwnedFd, place: &Path) -> Result<()> {
    let string = |text: &OsStr| {
        CString::new(text.as_bytes()).map_err(|_| Error::new("execveat", libc::EINVAL))
    };
    let args: Vec<CString> = std::env::args_os().map(|a| string(&a)).collect::<Result<_>>()?;
    let mut env: Vec<CString> = std::env::vars_os()
        .filter(|(key, _)| key != VARIABLE)
        .map(|(key, value)| string(&join(&key, &value)))
        .collect::<Result<_>>()?;
    env.push(string(&join(OsStr::new(VARIABLE), place.as_os_str()))?);
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    match nix::unistd::execveat(copy, c"", &args, &env, flags) {
        Ok(never) => match never {},
        Err(e) => Err(Error::new("execveat(own program, AT_EMPTY_PATH)", e as i32)),
    }
}

fn join(key: &OsStr, value: &OsStr) -> OsString {
    let mut both = key.to_os_string();
    both.push("=");
    both.push(value);
    both
}

/// Where this program lies; asked of the system once, as the environment may be cleared later.
pub fn path() -> Result<PathBuf> {
    static PLACE: OnceLock<Result<PathBuf>> = OnceLock::new();
    PLACE.get_or_init(find).clone()
}

fn find() -> Result<PathBuf> {
    let linked = std::env::current_exe().named(|| format!("readlink({OWN:?})"))?;
    let stat = |path: &OsStr| rustix::fs::statat(rustix::fs::CWD, path, AtFlags::empty()).ok();
    let same =
        |a: &rustix::fs::Stat, b: &rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let there = match (stat(OsStr::new(OWN)), stat(linked.as_os_str())) {
        (Some(own), Some(found)) => same(&own, &found),
        _ => false,
    };
    // The link of an image on a detached mount leads nowhere. Only such a one believes its
    // environment, which is that of root, or of a process of ours.
    match std::env::var_os(VARIABLE) {
        Some(place) if !there && is_sealed()? => Ok(place.into()),
        _ => Ok(linked),
    }
}
