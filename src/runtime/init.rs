//! coloc's own init, for a room without services: reaps what dies and ends when it is asked to.
//!
//! It is the start's child that goes on instead of becoming another program: nothing of the
//! host has to be visible inside for it. It cannot be traced or looked into from there, as it
//! is undumpable and was never executed in the container's user namespace.

use rustix::event::{PollFd, PollFlags, poll};

use crate::sys::process;

/// Runs until a power-off (or SIGTERM, SIGINT) is asked for; the kernel then ends whatever
/// is left in the pid namespace. Does not return.
pub fn run() -> ! {
    let _ = nix::sys::prctl::set_name(c"coloc-init");
    let wanted = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, process::sig_poweroff()];
    let Ok(signals) = process::signal_fd(&wanted) else { std::process::exit(1) };
    // The descriptors of the start are close-on-exec, and there is no exec: close them here,
    // the socket to the supervisor among them, which is how it knows that init runs.
    let keep = rustix::stdio::dup2_stdin(&signals);
    drop(signals);
    let _ = process::close_from(3);
    if keep.is_err() {
        std::process::exit(1);
    }
    let signals = rustix::stdio::stdin();
    loop {
        let mut fds = [PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        let _ = poll(&mut fds, None);
        while let Some(signal) = process::next_signal(signals) {
            if signal != libc::SIGCHLD {
                stop_all();
                std::process::exit(0);
            }
        }
        reap();
    }
}

/// Takes all that have ended; false if nobody is left.
fn reap() -> bool {
    loop {
        match process::next_ended() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Gives every process two seconds to end by itself.
fn stop_all() {
    use nix::sys::signal::{Signal, kill};
    let everyone = nix::unistd::Pid::from_raw(-1);
    let _ = kill(everyone, Signal::SIGTERM);
    let _ = kill(everyone, Signal::SIGCONT);
    for _ in 0..40 {
        if !reap() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
