//! What a process is: its ids, descriptors, capabilities; waiting for it and signalling it.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use nix::unistd::{Gid, Uid};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, capability_is_in_bounding_set,
    remove_capability_from_bounding_set,
};

use super::{Error, Named, Result};

/// The signal that asks systemd, and coloc's own init, to power off: `SIGRTMIN+3`
/// as the C library counts (systemd(1), "SIGNALS").
pub fn sig_poweroff() -> i32 {
    libc::SIGRTMIN() + 3
}

/// A descriptor for the process `pid`; ESRCH if there is none.
pub fn pidfd(pid: i32) -> Result<OwnedFd> {
    let call = || format!("pidfd_open({pid})");
    let raw = Pid::from_raw(pid).ok_or_else(|| Error::new(call(), libc::ESRCH))?;
    rustix::process::pidfd_open(raw, PidfdFlags::empty()).named(call)
}

/// Sends signal number `signal` to the very process that `pidfd` is for.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    // SAFETY: the call takes no pointer that it follows (the siginfo is null).
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if r == 0 { Ok(()) } else { Err(Error::last(format!("pidfd_send_signal({signal})"))) }
}

/// Whether the process `pid` would take `signal` now: it has a handler for it, or holds it back
/// until it asks (`SigCgt` and `SigBlk` of proc_pid_status(5)). The first process of a pid namespace
/// never hears of any other (pid_namespaces(7)).
pub fn takes(pid: i32, signal: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let set = |key: &str| {
        let word = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        u64::from_str_radix(word.trim(), 16).unwrap_or_default()
    };
    (set("SigCgt:") | set("SigBlk:")) & (1 << (signal - 1)) != 0
}

/// The signals that ask a program to end.
const END: u64 = (1 << (libc::SIGHUP - 1))
    | (1 << (libc::SIGINT - 1))
    | (1 << (libc::SIGQUIT - 1))
    | (1 << (libc::SIGKILL - 1))
    | (1 << (libc::SIGTERM - 1));
/// It was forked and has executed nothing yet, `PF_FORKNOEXEC` of the kernel's linux/sched.h.
const NOT_EXECUTED: u64 = 0x40;

/// Whether our child behind `pidfd`, which is not waited for yet, has not come to its program.
pub fn has_not_executed(pidfd: impl AsFd) -> bool {
    let stat = number(pidfd).and_then(|pid| {
        let path = format!("/proc/{pid}/stat");
        std::fs::read_to_string(&path).named(|| format!("read({path:?})"))
    });
    // proc_pid_stat(5): the command in parentheses can hold anything, so count from its end.
    let flags = stat.ok().and_then(|text| {
        let rest = text.rsplit_once(')')?.1;
        rest.split_whitespace().nth(6)?.parse::<u64>().ok()
    });
    flags.is_some_and(|flags| flags & NOT_EXECUTED != 0)
}

/// Whether our child behind `pidfd`, which is not waited for yet, was asked to end by a signal and does
/// not even take it: it waits for a file system, or is frozen or stopped.
pub fn is_deaf(pidfd: impl AsFd) -> bool {
    let Ok(pid) = number(pidfd) else { return false };
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let word =
        |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim();
    let set = |key: &str| u64::from_str_radix(word(key), 16).unwrap_or_default();
    let pending = (set("SigPnd:") | set("ShdPnd:")) & !set("SigBlk:");
    // One that runs has only had no time for it.
    !word("State:").starts_with('R') && pending & END != 0
}

/// Sends a signal to the process group that our child behind `pidfd` leads. The child is not
/// waited for yet, so its number is nobody else's.
pub fn signal_group(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let pid = number(pidfd)?;
    // SAFETY: kill(2) takes no pointer.
    let r = unsafe { libc::kill(-pid, signal) };
    if r == 0 { Ok(()) } else { Err(Error::last(format!("kill(-{pid}, {signal})"))) }
}

/// The pid of the process that `pidfd` is for, as this process sees it.
fn number(pidfd: impl AsFd) -> Result<i32> {
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&info).named(|| format!("read({info:?})"))?;
    let pid = text.lines().find_map(|l| l.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    pid.filter(|p| *p > 1).ok_or_else(|| Error::new(format!("read({info:?})"), libc::ESRCH))
}

/// Has this process killed when its parent, `parent`, ends, whatever ends that.
pub fn end_with(parent: i32) -> Result<()> {
    let kill = nix::sys::signal::Signal::SIGKILL;
    nix::sys::prctl::set_pdeathsig(kill).named(|| "prctl(PR_SET_PDEATHSIG)".into())?;
    // It may have ended before the call.
    match nix::unistd::getppid().as_raw() == parent {
        true => Ok(()),
        false => Err(Error::new("getppid", libc::ESRCH)),
    }
}

/// Forgets every variable of this process's environment but a PATH of the system's own. Must be
/// called before there is a second thread.
pub fn clear_environment() -> Result<()> {
    let (key, path) = (c"PATH", c"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    // SAFETY: clearenv and setenv race with readers in other threads, of which there are none;
    // the strings end in NUL, and setenv copies them.
    let r = unsafe { libc::clearenv() | libc::setenv(key.as_ptr(), path.as_ptr(), 1) };
    if r == 0 { Ok(()) } else { Err(Error::new("clearenv", libc::ENOMEM)) }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl End {
    /// The exit code as a shell tells it: 128 and more for a signal.
    pub fn shell_code(self) -> i32 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits until our child behind `pidfd` has ended.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<End> {
    ended(reap(libc::P_PIDFD, pidfd.as_raw_fd(), 0))
}

/// Waits until our child `pid` has ended.
pub fn wait_for(pid: i32) -> Result<End> {
    ended(reap(libc::P_PID, pid, 0))
}

fn ended(reaped: Result<Option<(i32, End)>>) -> Result<End> {
    // Without WNOHANG it returns with one that has.
    reaped?.map(|(_, end)| end).ok_or_else(|| Error::new("waitid", libc::ECHILD))
}

/// Takes a child that has ended already, whichever: its pid, and how it ended. None while all run,
/// ECHILD when there is none at all.
pub fn next_ended() -> Result<Option<(i32, End)>> {
    reap(libc::P_ALL, 0, libc::WNOHANG)
}

/// waitid(2) for children that end. By the kernel's own words, as nix's have no real-time signals: it
/// takes such a child and gives EINVAL, and nobody learns which one it was.
fn reap(kind: libc::idtype_t, id: i32, flags: i32) -> Result<Option<(i32, End)>> {
    loop {
        // SAFETY: an all-zero siginfo_t is valid, and lives through the call; of the fields of its
        // union those are read that the kernel fills in for an ended child. Without one it leaves the
        // pid zero.
        let (r, pid, code, status) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let r = libc::waitid(kind, id as libc::id_t, &raw mut info, libc::WEXITED | flags);
            (r, info.si_pid(), info.si_code, info.si_status())
        };
        if r == 0 {
            let end = match code {
                libc::CLD_EXITED => End::Code(status),
                _ => End::Signal(status),
            };
            return Ok((pid != 0).then_some((pid, end)));
        }
        match Error::last(format!("waitid({kind}, {id})")) {
            e if e.errno() == libc::EINTR => {}
            e => return Err(e),
        }
    }
}

/// Does `work` as the user `uid` by its effective id, with all the power that this process has.
pub fn as_user<T>(uid: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = nix::unistd::geteuid();
    let call = |uid: u32| move || format!("seteuid({uid})");
    with_all_power(|| {
        nix::unistd::seteuid(Uid::from_raw(uid)).named(call(uid))?;
        let done = work();
        nix::unistd::seteuid(own).named(call(own.as_raw()))?;
        Ok(done)
    })?
}

/// Does `work` with all the power that this thread has; what it makes on a file system is `uid`'s and
/// `gid`'s from the first moment.
pub fn making_for<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T> {
    use nix::unistd::{getegid, geteuid, setfsgid, setfsuid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if (uid, gid) == (geteuid(), getegid()) {
        return Ok(work());
    }
    with_all_power(|| {
        let own = (setfsuid(uid), setfsgid(gid));
        // The call tells no error, only what was before.
        let done = match (setfsuid(uid), setfsgid(gid)) == (uid, gid) {
            true => Ok(work()),
            false => Err(Error::new(format!("setfsuid({uid})"), libc::EPERM)),
        };
        setfsuid(own.0);
        setfsgid(own.1);
        done
    })
}

/// Does `work`, in which a change of an id takes no capability.
fn with_all_power<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before =
        rustix::thread::capabilities_secure_bits().named(|| "prctl(PR_GET_SECUREBITS)".into())?;
    let set = |bits| {
        rustix::thread::set_capabilities_secure_bits(bits)
            .named(|| format!("prctl(PR_SET_SECUREBITS, {bits:?})"))
    };
    set(before | CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let done = work();
    set(before)?;
    done
}

/// Becomes root of this process's user namespace, with no other group.
pub fn become_root() -> Result<()> {
    become_user(0, 0, &[])
}

/// Takes the ids for good. A change of ids makes a process undumpable, which keeps its
/// /proc entries, and with them our own binary, from everyone in the namespace.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let list: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::unistd::setgroups(&list).named(|| format!("setgroups({groups:?})"))?;
    nix::unistd::setresgid(gid, gid, gid).named(|| format!("setresgid({gid})"))?;
    nix::unistd::setresuid(uid, uid, uid).named(|| format!("setresuid({uid})"))
}

/// Becomes `uid` for good, and keeps no power but that to signal any process: for one that
/// reads and writes what a user handed over, and tells a program of other ids to end. No
/// program that it might execute gets any power back, and nobody can trace it.
pub fn become_relay(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    use caps::{CapSet, Capability};
    let call = |set: &str| format!("capset({set}, [CAP_KILL])");
    nix::sys::prctl::set_keepcaps(true).named(|| "prctl(PR_SET_KEEPCAPS, 1)".into())?;
    become_user(uid, gid, groups)?;
    let keep: caps::CapsHashSet = [Capability::CAP_KILL].into_iter().collect();
    caps::set(None, CapSet::Inheritable, &caps::CapsHashSet::new())
        .and_then(|()| caps::set(None, CapSet::Effective, &keep))
        .and_then(|()| caps::set(None, CapSet::Permitted, &keep))
        .map_err(|_| Error::new(call("permitted"), libc::EPERM))?;
    nix::sys::prctl::set_no_new_privs().named(|| "prctl(PR_SET_NO_NEW_PRIVS)".into())?;
    hide()
}

/// Drops from the bounding set every capability but those of which `keep` has the number, also those
/// that are newer than this program. The kernel is asked for each: a container's /proc is its root's,
/// who would have it say that there are none to drop.
pub fn bound_capabilities(keep: &[u8]) -> Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        let there = match capability_is_in_bounding_set(one) {
            // The kernel has no more of them.
            Err(rustix::io::Errno::INVAL) => break,
            other => other.named(|| format!("prctl(PR_CAPBSET_READ, {number})"))?,
        };
        if there && !keep.contains(&number) {
            remove_capability_from_bounding_set(one)
                .named(|| format!("prctl(PR_CAPBSET_DROP, {number})"))?;
        }
    }
    Ok(())
}

/// Keeps other processes from tracing this one or looking into its /proc entry until it
/// executes something else.
pub fn hide() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).named(|| "prctl(PR_SET_DUMPABLE, 0)".into())
}

/// Closes every descriptor above 2 at the next exec, whoever opened it.
pub fn close_others_on_exec() -> Result<()> {
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32, "CLOSE_RANGE_CLOEXEC")
}

/// Closes every descriptor above 2 but `kept`, now: what follows may be held up by a file system of a
/// container's for as long as that likes.
pub fn close_others(kept: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut first = 3;
    for kept in kept.into_iter().filter(|fd| *fd > 2) {
        if kept > first {
            close_range(first, kept - 1, 0, "0")?;
        }
        first = kept + 1;
    }
    close_from(first)
}

/// Closes every descriptor from `first` on, now.
pub fn close_from(first: u32) -> Result<()> {
    close_range(first, u32::MAX, 0, "0")
}

fn close_range(first: u32, last: u32, flags: i32, name: &str) -> Result<()> {
    // SAFETY: no pointers. With no flag this closes descriptors that some OwnedFd may still
    // hold; the callers have opened none yet, or are about to run a loop of their own or to exec,
    // and drop nothing.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if r == 0 { Ok(()) } else { Err(Error::last(format!("close_range({first}, {last}, {name})"))) }
}

/// Leaves `fd` open across exec, for a program that is told its number.
pub fn inherit(fd: impl AsFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).named(|| "fcntl(F_SETFD, 0)".into())
}

/// The descriptor that our own earlier image handed over by its number.
/// EBADF when it is not open.
pub fn inherited(number: i32) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: fcntl on any number is harmless.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(Error::new(format!("fcntl({number}, F_SETFD)"), libc::EBADF));
    }
    // SAFETY: it is open, above the standard ones, and the program that execed us gave it to
    // us by this number; this is called once for each.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Replaces this process; returns only on failure, with execve(2)'s error.
pub fn exec(program: &CString, args: &[CString], env: &[CString]) -> Error {
    match nix::unistd::execve(program, args, env) {
        Ok(never) => match never {},
        Err(e) => Error::new(format!("execve({program:?})"), e as i32),
    }
}

/// Unblocks every signal and gives each its default action: mask and ignored signals outlive
/// exec, and a caller's nohup(1) is not the business of what runs inside.
pub fn default_signals() -> Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    for signal in 1..=libc::SIGRTMAX() {
        // SIGKILL, SIGSTOP and the C library's own two refuse, and have no other action.
        ignore_signal(signal, false);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .named(|| "sigprocmask(SIG_SETMASK)".into())
}

/// Has the program that `command` starts take every signal, whatever this process blocks: a mask
/// outlives exec, and a service would never hear that it is to end.
pub fn with_no_mask(command: &mut std::process::Command) -> &mut std::process::Command {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    use std::os::unix::process::CommandExt;
    let unblock = || {
        let all = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).map_err(std::io::Error::from)
    };
    // SAFETY: between fork and exec the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(unblock) }
}

/// Has the program that `command` starts hold what `fd` is open on, lock included, for as long as it
/// runs: a lock of flock(2) is the open file's, and goes with the last descriptor of that.
pub fn with_hold_of(command: &mut std::process::Command, fd: impl AsFd) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3).named(|| "fcntl(F_DUPFD_CLOEXEC)".into())?;
    let keep = move || {
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).map_err(std::io::Error::from)
    };
    // SAFETY: between fork and exec the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(keep) };
    Ok(())
}

/// Blocks `signals` and gives a descriptor on which they arrive (signalfd(2)).
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd> {
    // nix's SigSet takes no real-time signal, so this is the C library's own set.
    // SAFETY: an all-zero sigset_t is storage that sigemptyset makes valid; all pointers are to
    // locals that live through the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd == -1 {
            return Err(Error::last("signalfd"));
        }
        use std::os::fd::FromRawFd;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The next signal that waits on a [`signal_fd`], if any.
pub fn next_signal(fd: impl AsFd) -> Option<i32> {
    let mut info = [0u8; 128];
    match rustix::io::read(fd, &mut info) {
        // ssi_signo is the first field of signalfd_siginfo.
        Ok(128) => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => None,
    }
}

/// Ignores a signal, or restores its default.
pub fn ignore_signal(signal: i32, ignore: bool) {
    let action = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: both actions are valid for any signal; no handler of ours is involved.
    unsafe { libc::signal(signal, action) };
}

/// This process's pid.
pub fn own_pid() -> i32 {
    std::process::id() as i32
}

/// While it lives, the first Ctrl-C only prints a text; the next one ends the process.
#[derive(Debug)]
pub struct Uninterrupted(());

static TEXT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

extern "C" fn print_text(_: libc::c_int) {
    let text = TEXT.load(Ordering::Acquire);
    if !text.is_null() {
        // SAFETY: TEXT and LENGTH are of one static string; write(2) may be called in a handler,
        // and what it leaves in errno is put back.
        unsafe {
            let errno = *libc::__errno_location();
            let _ = libc::write(2, text.cast(), LENGTH.load(Ordering::Acquire));
            *libc::__errno_location() = errno;
        }
    }
}

impl Uninterrupted {
    /// Begins, with what the first Ctrl-C prints.
    pub fn begin(text: &'static str) -> Self {
        LENGTH.store(text.len(), Ordering::Release);
        TEXT.store(text.as_ptr().cast_mut(), Ordering::Release);
        // SAFETY: an all-zero sigaction is valid; the handler calls nothing that must not be
        // called in one. Interrupted calls go on.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = print_text as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut());
        }
        Self(())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        ignore_signal(libc::SIGINT, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::zombie_processes, reason = "it is waited for by what is tested")]
    fn how_a_child_ended_is_told_as_it_was() {
        for (script, end) in [
            ("exit 0", End::Code(0)),
            ("exit 255", End::Code(255)),
            ("kill -TERM $$", End::Signal(libc::SIGTERM)),
            // Neither of these is in any enum of signals.
            ("kill -40 $$", End::Signal(40)),
            ("kill -64 $$", End::Signal(64)),
        ] {
            let child = || std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = child().id() as i32;
            assert_eq!(wait_for(pid).unwrap(), end, "{script}");
            assert_eq!(wait_for(pid).unwrap_err().errno(), libc::ECHILD, "taken: {script}");
            let pidfd = pidfd(child().id() as i32).unwrap();
            assert_eq!(wait(pidfd.as_fd()).unwrap(), end, "{script}");
        }
    }
}
