//! A supervisor that is made of the process of `coloc start`, which goes on beside it.
//!
//! ```text
//! coloc start ── clone3 into the supervisor's cgroup ──> makes the container, all but its cable
//!   │  gives it its limits, waits for the network's rules  │
//!   ├── "go", or why not ────────────────────────────────> connects it, has init executed
//!   │ <──────────────────────────────── "ok", or why not ──┤
//!   └ ends                                                 └ executes the monitor
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};

use super::Engine;
use super::supervise::{Start, report_failure};
use crate::error::{Context, Error, Result};
use crate::network::Admitted;
use crate::store::lock::Lock;
use crate::sys::clone::{self, Child};
use crate::sys::path::open_dir;
use crate::sys::{Named, fdpass, process, tty};

const GO: &[u8] = b"go";

/// A supervisor at work.
pub(super) struct Apart {
    child: Child,
    /// What it says.
    said: OwnedFd,
    /// By which it is told to go on.
    go: OwnedFd,
}

impl Apart {
    /// Makes it. It has `lock`, the container's, from here on; `network` stays with this process.
    pub(super) fn begin(
        engine: &Engine,
        lock: Lock,
        start: &Start,
        network: &mut Option<Admitted>,
    ) -> Result<Self> {
        let place = start.cgroups.birthplace.as_ref();
        let place = open_dir(place.ok_or_else(|| Error::failed("it has no cgroup of its own"))?)?;
        let (said, says) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).named(|| "pipe2".into())?;
        let (go, hears) = fdpass::pair()?;
        let (mut near, mut lock) = (Some((said, go)), Some(lock));
        let child = clone::spawn(0, Some(place.as_fd()), || {
            // With a copy of these ends it would never hear that this process died, and with one of the
            // network's lock it would then wait for itself.
            drop(near.take());
            if let Some(admitted) = network.take() {
                admitted.leave_to_parent();
            }
            let begun = on_its_own(&says).and_then(|()| match lock.take() {
                Some(lock) => engine.begin_apart(lock, start, &mut || hear(&hears)),
                None => Err(Error::failed("it has no lock")),
            });
            match begun {
                Ok(never) => match never {},
                Err(e) => {
                    report_failure(&engine.layout, &start.record.name, &e);
                    e.kind().exit_code()
                }
            }
        })
        .context(|| "cannot make its supervisor")?;
        if let Some(lock) = lock {
            lock.leave_to_other();
        }
        let (said, go) = near.ok_or_else(|| Error::failed("its supervisor cannot be heard"))?;
        Ok(Self { child, said, go })
    }

    /// Tells it when the network is there, and waits for its word; returns when init runs.
    pub(super) fn watch_over(
        self,
        engine: &Engine,
        start: &Start,
        mut network: Option<Admitted>,
    ) -> Result<()> {
        let mut connected =
            || network.as_mut().map_or(Ok(()), |admitted| engine.complete(admitted));
        let word = match engine.furnish_beside(start).and_then(|()| connected()) {
            Ok(()) => GO.to_vec(),
            Err(e) => {
                // It takes the container off the network, for which it has to get in.
                network = None;
                serde_json::to_vec(&e).unwrap_or_default()
            }
        };
        // One that has died has said why, or is missed below.
        let _ = fdpass::send(&self.go, &word, &[]);
        engine.announce(network);
        let mut answer = String::new();
        // Its word is one line. The end of the file comes later: when it has become the monitor.
        BufReader::new(File::from(self.said).take(1 << 16)).read_line(&mut answer)?;
        if answer == "ok\n" {
            return Ok(());
        }
        let _ = process::wait(self.child.pidfd.as_fd());
        let error = serde_json::from_str(answer.trim());
        Err(error.unwrap_or_else(|_| Error::failed("its supervisor died without a word")))
    }
}

/// Has this process be of no terminal and no session but its own; what it prints goes to `says`.
fn on_its_own(says: &OwnedFd) -> Result<()> {
    super::supervise::alone();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    Ok(tty::take_stdio([null.as_fd(), says.as_fd(), null.as_fd()])?)
}

/// Waits until it may go on.
fn hear(go: &OwnedFd) -> Result<()> {
    let (word, _) = fdpass::receive(go)?;
    if word == GO {
        return Ok(());
    }
    let error = serde_json::from_slice(&word);
    Err(error.unwrap_or_else(|_| Error::failed("the command that started it has ended")))
}
