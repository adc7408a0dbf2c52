//! Work in namespaces that this process must not join itself: done by a short-lived process,
//! which hands back what it found.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::relay;
use crate::error::{Error, Result};
use crate::sys::{Named, clone, fdpass, process, tty};

/// For how long it may take. A container's file systems can be served by its own processes.
const LIMIT: Duration = Duration::from_secs(20);

/// A process that has done its work, or was given up. It is waited for when this goes: the kernel takes
/// up to some milliseconds to undo namespaces of its own, in which there is other work to do.
#[derive(Debug)]
pub struct Helper(Option<OwnedFd>);

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = process::wait(pidfd.as_fd());
        }
    }
}

/// Work that a process of its own is at.
pub(super) struct Pending<T> {
    helper: Helper,
    answer: OwnedFd,
    kind: PhantomData<T>,
}

/// Runs `work` in a process of its own and gives back its result, with any descriptors. If this
/// process is killed, the other one is too. As it has a copy of every lock that is held
/// here, nobody who takes that lock can meet it.
pub(super) fn aside<T: Serialize + DeserializeOwned>(
    work: impl FnOnce() -> Result<(T, Vec<OwnedFd>)>,
) -> Result<(T, Vec<OwnedFd>)> {
    Ok(begin(work)?.end()?.0)
}

/// Begins what [`aside`] does; [`Pending::end`] has the result.
pub(super) fn begin<T: Serialize + DeserializeOwned>(
    work: impl FnOnce() -> Result<(T, Vec<OwnedFd>)>,
) -> Result<Pending<T>> {
    let (ours, theirs) = fdpass::pair()?;
    // A Ctrl-C is this process's to answer; the other one has a copy of the mask.
    let before = only(Signal::SIGINT)
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .named(|| "pthread_sigmask(SIG_BLOCK)".into())?;
    let helper = clone::spawn(0, None, || {
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        // Should it be left behind, nobody waits for the end of what it would have written.
        let _ = tty::let_go_of_stdio();
        let (answer, fds) = match work() {
            Ok((found, fds)) => (Ok(found), fds),
            Err(e) => (Err(e), Vec::new()),
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        let bytes = serde_json::to_vec(&answer).unwrap_or_default();
        i32::from(fdpass::send(&theirs, &bytes, &fds).is_err())
    });
    before.thread_set_mask().named(|| "pthread_sigmask(SIG_SETMASK)".into())?;
    Ok(Pending { helper: Helper(Some(helper?.pidfd)), answer: ours, kind: PhantomData })
}

impl<T: DeserializeOwned> Pending<T> {
    /// Its result, and the process, which may not have ended yet.
    pub(super) fn end(mut self) -> Result<((T, Vec<OwnedFd>), Helper)> {
        if !relay::readable_within(&self.answer, LIMIT) {
            // It may be left behind: then nobody waits for it any more.
            if let Some(pidfd) = self.helper.0.take() {
                relay::end(&pidfd);
            }
            return Err(Error::failed("a mount in the container does not answer")
                .hint("coloc stop --timeout 0 ends it whatever it does"));
        }
        let (bytes, fds) = fdpass::receive(&self.answer)?;
        let answer: Result<T> = serde_json::from_slice(&bytes)
            .map_err(|_| Error::failed("the process that was to do it died"))?;
        Ok(((answer?, fds), self.helper))
    }
}

fn only(signal: Signal) -> SigSet {
    let mut set = SigSet::empty();
    set.add(signal);
    set
}
