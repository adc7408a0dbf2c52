//! `coloc start`.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::supervise::FAILED;
use super::{Engine, unit};
use crate::error::{Context, Error, Kind, Result};
use crate::request::Verb;
use crate::runtime::monitor::BOOTED;
use crate::runtime::{InitKind, cgroup};
use crate::store::running::State;
use crate::store::{Name, Record, atomic};
use crate::sys::image;

/// What a start came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It runs now, and did not before.
    Started,
    /// It ran already.
    Already,
    /// It ran already without a supervisor, and has one again.
    TakenOver,
}

impl Engine {
    /// Starts `name`; returns when its init runs.
    pub fn start(&self, name: &Name) -> Result<Outcome> {
        self.permit(Verb::Start, name)?;
        self.noting(Verb::Start, name, &[], || self.start_noted(name))
    }

    fn start_noted(&self, name: &Name) -> Result<Outcome> {
        self.regain_unlocked(name)?;
        // Its profile may say something else by now.
        if let Err(e) = Record::load(&self.layout, name).and_then(|r| self.follow_autostart(&r)) {
            eprintln!("coloc: {name}: {e}");
        }
        let mut outcome = Outcome::Started;
        if let Some((state, _)) = State::alive(&self.layout, name) {
            if state.supervisor.open().is_some() {
                return Ok(Outcome::Already);
            }
            outcome = Outcome::TakenOver;
        } else {
            // systemd would say that its unit is active, which is not what was asked.
            self.refuse_orphans(name)?;
        }
        // A new supervisor for a container that runs is a process of ours under systemd too: the
        // unit's cgroup has children, and takes no new main process.
        let by_unit = unit::booted() && outcome == Outcome::Started;
        // Who asks for the unit has it done, and hears of its end; else its supervisor would.
        let pending = if by_unit { self.claim_pending(name)? } else { None };
        let result = if by_unit { self.start_unit(name) } else { self.spawn(name) };
        match result {
            Ok(()) => {
                match pending {
                    Some(lock) => self.run_pending_under(name, &lock),
                    None => self.run_pending(name),
                };
                Ok(outcome)
            }
            // Another admin was faster by a moment.
            Err(e) if e.kind() == Kind::State && State::alive(&self.layout, name).is_some() => {
                Ok(Outcome::Already)
            }
            Err(e) => Err(e.context(format!("cannot start {name}"))),
        }
    }

    fn start_unit(&self, name: &Name) -> Result<()> {
        let failed = self.layout.run_of(name).join(FAILED);
        let _ = std::fs::remove_file(&failed);
        match unit::start(&self.layout, name) {
            Ok(()) => Ok(()),
            Err(e) => Err(atomic::read_json(&failed).ok().flatten().unwrap_or(e)),
        }
    }

    /// Starts a supervisor of our own, which lives on without this command and its terminal.
    pub(super) fn spawn(&self, name: &Name) -> Result<()> {
        if self.supervise_apart(name)? {
            return Ok(());
        }
        let mut child = image::again()
            .args(["supervise", name.as_str()])
            .env_clear()
            .envs(image::variable())
            .env("COLOC_ROOT", self.layout.root())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context(|| "cannot start its supervisor")?;
        let mut answer = String::new();
        if let Some(pipe) = child.stdout.take() {
            pipe.take(1 << 16).read_to_string(&mut answer)?;
        }
        if answer == "ok\n" {
            return Ok(());
        }
        let _ = child.wait();
        let error = serde_json::from_str(answer.trim());
        Err(error.unwrap_or_else(|_| Error::failed("its supervisor died without a word")))
    }

    /// Waits until the init of a running container says that it is up, for at most `limit`;
    /// gives systemd's word for its state, or None for an init that says nothing.
    pub fn wait_until_up(&self, name: &Name, limit: Duration) -> Result<Option<String>> {
        match self.wait_for_boot(name, limit)? {
            true => self.system_state(name).map(Some),
            false => Ok(None),
        }
    }

    /// The same, but for systemd's word: whether it is an init that says that it is up.
    pub(super) fn wait_for_boot(&self, name: &Name, limit: Duration) -> Result<bool> {
        let begun = Instant::now();
        let marker = self.layout.run_of(name).join(BOOTED);
        loop {
            let Some((state, _)) = State::alive(&self.layout, name) else {
                return Err(Error::failed(format!("{name} ended while it was starting"))
                    .hint(format!("see what it said: coloc logs {name}")));
            };
            if InitKind::of_word(&state.init_kind) != InitKind::Systemd {
                return Ok(false);
            }
            if marker.exists() {
                return Ok(true);
            }
            if begun.elapsed() > limit || cgroup::frozen(&state.cgroup) {
                return Err(Error::failed(format!("{name} is not up after {} s", limit.as_secs()))
                    .hint(format!("it goes on starting; see: coloc logs {name}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
