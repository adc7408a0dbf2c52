//! What still runs old code in containers whose `/usr` was swapped, and its restart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Engine;
use crate::audit::{self, Index, Left, Stale, Target};
use crate::base::publish;
use crate::error::Result;
use crate::request::Verb;
use crate::runtime::cgroup;
use crate::store::record::generations;
use crate::store::running::State;
use crate::store::{Name, Record};

/// For how long a restart inside may take.
const RESTART_LIMIT: Duration = Duration::from_secs(180);

/// What a look at a container, or a restart in it, came to.
#[derive(Debug, Clone, Default)]
pub struct After {
    /// What runs old code now.
    pub stale: Vec<Stale>,
    /// The units that were restarted.
    pub restarted: Vec<String>,
    /// What was not restarted, and why.
    pub left: Vec<Left>,
    /// What went wrong.
    pub notes: Vec<String>,
}

/// Indexes of generations, made once for all containers at the same one.
#[derive(Default)]
pub(super) struct Indexes(BTreeMap<(Name, u64), Index>);

impl Indexes {
    fn get(&mut self, engine: &Engine, base: &Name, generation: u64) -> Result<&Index> {
        let key = (base.clone(), generation);
        if !self.0.contains_key(&key) {
            let dir = |n| engine.layout.generation(base, n);
            let others: Vec<PathBuf> = generations(&engine.layout, base)?
                .into_iter()
                .rev()
                .filter(|n| *n != generation)
                .map(dir)
                .collect();
            self.0.insert(key.clone(), Index::build(&dir(generation), &others)?);
        }
        Ok(&self.0[&key])
    }
}

impl Engine {
    /// What runs old code in `name`, or in every container.
    pub fn stale(&self, name: Option<&Name>) -> Result<Vec<Stale>> {
        let mut indexes = Indexes::default();
        let mut found = Vec::new();
        let records: Vec<Record> = match name {
            Some(name) => vec![self.permit(Verb::Stale, name)?],
            None => self.own()?.into_iter().filter_map(|(_, r)| r.ok()).collect(),
        };
        for record in &records {
            found.extend(self.stale_in(record, &mut indexes)?);
        }
        Ok(found)
    }

    fn stale_in(&self, record: &Record, indexes: &mut Indexes) -> Result<Vec<Stale>> {
        let Some((state, _)) = State::alive(&self.layout, &record.name) else {
            return Ok(Vec::new());
        };
        // With the /usr that it was started with nothing can be older.
        if state.swapped.is_none() {
            return Ok(Vec::new());
        }
        let target = Target {
            container: record.name.as_str(),
            state: &state,
            ids_start: record.ids.start,
            private: &self.layout.private(&record.name),
            swapped: state.swapped,
        };
        audit::stale(&target, indexes.get(self, &record.base, state.generation)?)
    }

    /// Restarts in `name` what runs old code and can be restarted without harm to a person's
    /// session; says what is left.
    pub fn restart_stale(&self, name: &Name) -> Result<After> {
        self.permit(Verb::Stale, name)?;
        self.noting(Verb::Stale, name, &["--restart".into()], || {
            self.look_for_stale(name, true, &mut Indexes::default())
        })
    }

    /// What is stale in `name`, after its restart where that is asked for.
    pub(super) fn look_for_stale(
        &self,
        name: &Name,
        restart: bool,
        indexes: &mut Indexes,
    ) -> Result<After> {
        let record = Record::load(&self.layout, name)?;
        let stale = self.stale_in(&record, indexes)?;
        if stale.is_empty() || !restart {
            return Ok(After { stale, ..After::default() });
        }
        let mut after = self.restart_in(&record, &stale);
        after.stale = self.stale_in(&record, indexes)?;
        Ok(after)
    }

    fn restart_in(&self, record: &Record, stale: &[Stale]) -> After {
        let name = &record.name;
        let mut after = After::default();
        let Some((state, _)) = State::alive(&self.layout, name) else { return after };
        if cgroup::frozen(&state.cgroup) {
            after.notes.push("it is frozen: nothing in it can be restarted".into());
            return after;
        }
        let plan = audit::restart_plan(stale);
        after.left = plan.left;
        let mut run = |command: &[&str]| {
            let well = self.run_quietly(name, command, RESTART_LIMIT);
            if !well {
                after.notes.push(format!("`{}` inside failed", command.join(" ")));
            }
            well
        };
        if plan.reexec {
            run(&["systemctl", "daemon-reexec"]);
        }
        // An older one would die of the signal.
        let users =
            if self.systemd_of(record) >= Some(250) { plan.reexec_users } else { Vec::new() };
        for user in users {
            let unit = format!("user@{user}.service");
            run(&["systemctl", "kill", "--kill-who=main", "--signal=RTMIN+25", &unit]);
        }
        let units: Vec<&str> = plan.units.iter().map(String::as_str).collect();
        if !units.is_empty() {
            let command: Vec<&str> =
                ["systemctl", "try-restart", "--"].into_iter().chain(units.clone()).collect();
            run(&command);
        }
        after.restarted = plan.units;
        after
    }

    /// The number of the systemd version that the container's base has.
    fn systemd_of(&self, record: &Record) -> Option<u32> {
        let dir = self.layout.generation(&record.base, record.generation);
        let (_, version) = publish::packages(&dir).ok()?.into_iter().find(|p| p.0 == "systemd")?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}
