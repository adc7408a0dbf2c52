//! `coloc stop`, `freeze` and `thaw`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::events::Noted;
use super::{Engine, unit};
use crate::error::{Error, Kind, Result};
use crate::request::Verb;
use crate::runtime::relay::gone_within;
use crate::runtime::{InitKind, cgroup, held};
use crate::store::Name;
use crate::store::lock::{self, Subject};
use crate::store::running::State;
use crate::sys::process;

/// For how long what was killed may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// What a stop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ended when it was asked to.
    Stopped,
    /// It did not within the time-out, and was killed.
    Killed,
    /// It did not run.
    Already,
}

impl Engine {
    /// Stops `name`: asks its init, and kills everything in it after `timeout`.
    pub fn stop(&self, name: &Name, timeout: Duration) -> Result<Outcome> {
        self.permit(Verb::Stop, name)?;
        let noted = self.note(Verb::Stop, name, &stop_args(timeout))?;
        self.stop_noted(name, timeout, noted)
    }

    /// [`stop`](Self::stop) for one of those that [`ask_all`](Self::ask_all) asked.
    pub fn stop_asked(&self, name: &Name, timeout: Duration, noted: Noted) -> Result<Outcome> {
        Ok(match self.stop_noted(name, timeout, noted)? {
            // It has ended meanwhile.
            Outcome::Already => Outcome::Stopped,
            other => other,
        })
    }

    fn stop_noted(&self, name: &Name, timeout: Duration, noted: Noted) -> Result<Outcome> {
        let check = || self.permit(Verb::Stop, name).map(drop);
        let result = self.stop_under(name, timeout, check);
        noted.end(result.as_ref().map(|_| 0));
        result
    }

    /// Asks the inits of all of `names` to power off, and waits for none: before they are stopped one by
    /// one, so that the time it takes is that of the slowest, not of all together. What is not as it should be
    /// is left to its own [`stop`](Self::stop). Gives those that were asked, with the lines of their
    /// journals that say so, which [`stop_asked`](Self::stop_asked) ends.
    pub fn ask_all(&self, names: &[Name], timeout: Duration) -> BTreeMap<Name, Noted> {
        let ask = |name: &Name| Some((name.clone(), self.ask_ahead(name, timeout)?));
        names.iter().filter_map(ask).collect()
    }

    fn ask_ahead(&self, name: &Name, timeout: Duration) -> Option<Noted> {
        let _lock = lock::try_exclusive(&self.layout, &Subject::Container(name.clone())).ok()??;
        self.permit(Verb::Stop, name).ok()?;
        let (state, init) = State::alive(&self.layout, name)?;
        let signal = InitKind::of_word(&state.init_kind).poweroff_signal()?;
        let hears = !cgroup::frozen(&state.cgroup) && process::takes(state.init.pid, signal);
        // Without a supervisor it gets another one first.
        (hears && state.supervisor.open().is_some()).then_some(())?;
        // Before it is done, so that its owners can read it whatever becomes of this command.
        let noted = self.note(Verb::Stop, name, &stop_args(timeout)).ok()?;
        let _ = process::signal(&init, signal);
        Some(noted)
    }

    /// [`stop`](Self::stop) for a container whose record may be damaged.
    pub(super) fn stop_any(&self, name: &Name, timeout: Duration) -> Result<Outcome> {
        self.stop_under(name, timeout, || Ok(()))
    }

    /// Takes the lock, makes sure by `check` that the container is still the one that was meant,
    /// and stops it.
    fn stop_under(
        &self,
        name: &Name,
        timeout: Duration,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<Outcome> {
        self.regain_unlocked(name)?;
        // An init whose console hangs up waits a second for it with each line that it wants to
        // write there, and would not get done in time.
        if timeout > Duration::ZERO
            && State::alive(&self.layout, name).is_some_and(|(s, _)| s.supervisor.open().is_none())
        {
            let _ = self.spawn(name);
        }
        let subject = Subject::Container(name.clone());
        let lock = match lock::try_exclusive(&self.layout, &subject)? {
            Some(lock) => lock,
            None => {
                // A helper of the one that has it may be stuck on a file system whose server is in there,
                // and lets go when that ends.
                if let Some((state, _)) =
                    State::alive(&self.layout, name).filter(|_| timeout.is_zero())
                {
                    cgroup::kill(&state.cgroup)?;
                }
                lock::exclusive(&self.layout, &subject)?
            }
        };
        check()?;
        let (outcome, supervisor) = self.stop_locked(name, timeout)?;
        drop(lock);
        // It had to wait for the lock to see that there is nothing left to do.
        if let Some(supervisor) = supervisor {
            gone_within(&supervisor, Duration::from_secs(5));
        }
        unit::settle(&self.layout, name);
        Ok(outcome)
    }

    fn stop_locked(&self, name: &Name, timeout: Duration) -> Result<(Outcome, Option<OwnedFd>)> {
        let Some((state, init)) = State::alive(&self.layout, name) else {
            let orphans = self.orphans(name);
            if let Some(payload) = &orphans {
                cgroup::kill(payload)?;
                if !cgroup::empty_within(payload, DEATH_LIMIT) {
                    return Err(does_not_die(name));
                }
            }
            self.clean_up(name);
            let outcome = if orphans.is_some() { Outcome::Killed } else { Outcome::Already };
            return Ok((outcome, None));
        };
        if cgroup::frozen(&state.cgroup) {
            cgroup::freeze(&state.cgroup, false)?;
        }
        let mut outcome = Outcome::Stopped;
        if !(timeout > Duration::ZERO
            && self.ask(&state, &init, name, timeout)
            && gone_within(&init, timeout))
        {
            outcome = Outcome::Killed;
            cgroup::kill(&state.cgroup)?;
            let _ = process::signal(&init, libc::SIGKILL);
            if !gone_within(&init, DEATH_LIMIT) {
                return Err(does_not_die(name));
            }
        }
        let supervisor = state.supervisor.open();
        self.clean_up(name);
        Ok((outcome, supervisor))
    }

    /// Asks the init to power off; false if it cannot be asked.
    fn ask(&self, state: &State, init: &OwnedFd, name: &Name, limit: Duration) -> bool {
        match InitKind::of_word(&state.init_kind).poweroff_signal() {
            Some(signal) => {
                // An init that has only just started would never hear of it.
                let until = Instant::now() + limit;
                while !process::takes(state.init.pid, signal) && Instant::now() < until {
                    if gone_within(init, Duration::from_millis(5)) {
                        break;
                    }
                }
                process::signal(init, signal).is_ok()
            }
            None => self.run_quietly(name, &["/sbin/init", "0"], limit),
        }
    }

    /// Stops every process of a container, or lets them go on; false if it was so already.
    pub fn freeze(&self, name: &Name, freeze: bool) -> Result<bool> {
        let verb = if freeze { Verb::Freeze } else { Verb::Thaw };
        self.permit(verb, name)?;
        self.noting(verb, name, &[], || self.freeze_noted(name, freeze))
    }

    fn freeze_noted(&self, name: &Name, freeze: bool) -> Result<bool> {
        let lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        let Some((state, _)) = State::alive(&self.layout, name) else {
            return Err(Error::new(Kind::State, format!("{name} does not run"))
                .hint(format!("start it: coloc start {name}")));
        };
        // From now on it is as the admin says, whoever had it frozen.
        let held = held::let_go(&state, &self.layout.run_of(name))?;
        if !held && cgroup::frozen(&state.cgroup) == freeze {
            return Ok(false);
        }
        let what = if freeze { "freeze" } else { "thaw" };
        cgroup::freeze(&state.cgroup, freeze)
            .map_err(|e| e.context(format!("cannot {what} {name}")))?;
        drop(lock);
        if !freeze {
            // An update that came while it was frozen has left these.
            self.run_pending(name);
        }
        Ok(true)
    }
}

fn does_not_die(name: &Name) -> Error {
    Error::failed(format!("{name} does not die"))
        .hint("a process of it is stuck in the kernel; dmesg may say on what")
}

/// What the journal says of the arguments of a stop.
fn stop_args(timeout: Duration) -> [String; 1] {
    [format!("--timeout={}", timeout.as_secs())]
}
