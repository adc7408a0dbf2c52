//! Mounts and devices of a container's settings, which it gets and loses while it runs.
//!
//! What runs follows the record. The journal's entry stands from before the first change until
//! both say the same; whoever finds it has what runs follow the record that there is then.

use super::Engine;
use crate::error::Result;
use crate::profile::{DeviceKind, Setting, Settings};
use crate::runtime::given::{self, Wanted};
use crate::runtime::plan::{Handed, Plan};
use crate::store::journal::{self, Work};
use crate::store::running::State;
use crate::store::{Name, Record};

/// What of a plan is there because of the keys `mounts` and `devices`.
pub(super) fn own(plan: &Plan, settings: &Settings) -> Vec<Handed> {
    let is_own = |handed: &&Handed| match handed {
        Handed::Bind { target, .. } => settings.mounts.iter().any(|m| m.target == *target),
        Handed::Device { target, .. } => {
            settings.devices.iter().any(|d| d.kind == DeviceKind::Path(target.clone()))
        }
    };
    plan.handed.iter().filter(is_own).cloned().collect()
}

impl Engine {
    /// What `record`'s container is to have from now on, if it runs and `changed` says anything of
    /// that.
    pub(super) fn given_changed(
        &self,
        record: &Record,
        changed: &[Setting],
    ) -> Result<Option<Wanted>> {
        let runs = State::alive(&self.layout, &record.name).is_some();
        if runs && changed.iter().any(|s| matches!(s.key.name, "mounts" | "devices")) {
            return self.wanted(record).map(Some);
        }
        Ok(None)
    }

    fn wanted(&self, record: &Record) -> Result<Wanted> {
        let settings = self.settings(record)?;
        // A home is no business of these keys, and is looked at by whoever starts the container.
        let (_, plan, _) = self.plan_with(record, None)?;
        Ok(Wanted { handed: own(&plan, &settings), rules: plan.devices })
    }

    /// Gives what runs of `name` what is `wanted`, and has `record` say so with `save`. What fails
    /// leaves both as they were. Gives what a person should know of it.
    pub(super) fn give(
        &self,
        name: &Name,
        wanted: &Wanted,
        save: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<String>> {
        let work = Work::Give { name: name.clone() };
        work.begin(&self.layout)?;
        journal::step("give.begun");
        let done = self.settle_given(name, wanted).and_then(|notes| {
            journal::step("give.settled");
            save().map(|()| notes)
        });
        journal::step("give.saved");
        match done {
            Ok(notes) => work.end(&self.layout).map(|()| notes),
            Err(e) => {
                // Back to what the record says, now or by the next command.
                match self.follow_record(name) {
                    Ok(()) => work.end(&self.layout)?,
                    Err(undo) => eprintln!("coloc: {name}: {undo}"),
                }
                Err(e)
            }
        }
    }

    fn settle_given(&self, name: &Name, wanted: &Wanted) -> Result<Vec<String>> {
        match State::alive(&self.layout, name) {
            Some((state, init)) => given::settle(&state, &init, wanted, &self.layout.run_of(name)),
            None => Ok(Vec::new()),
        }
    }

    /// Has what runs of `name` have what its record says.
    pub(super) fn follow_record(&self, name: &Name) -> Result<()> {
        if State::alive(&self.layout, name).is_none() {
            return Ok(());
        }
        let record = Record::load(&self.layout, name)?;
        self.settle_given(name, &self.wanted(&record)?).map(drop)
    }
}
