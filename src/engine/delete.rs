//! `coloc delete`.

use std::time::Duration;

use super::{Engine, unit};
use crate::error::{Context, Error, Kind, Result};
use crate::request::Verb;
use crate::runtime::label;
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Subject};
use crate::store::running::State;
use crate::store::{Name, Record, atomic, ids};
use crate::tree::volume;

impl Engine {
    /// Deletes `name` and everything in it; a running one, or one whose record cannot be
    /// read, only with `force`.
    pub fn delete(&self, name: &Name, force: bool) -> Result<()> {
        self.regain_unlocked(name)?;
        self.check_delete(name, force)?;
        let args: Vec<String> = force.then(|| "--force".into()).into_iter().collect();
        self.noting(Verb::Delete, name, &args, || self.delete_noted(name, force))
    }

    fn delete_noted(&self, name: &Name, force: bool) -> Result<()> {
        if State::alive(&self.layout, name).is_some() || (force && self.orphans(name).is_some()) {
            self.stop_any(name, Duration::from_secs(10))?;
        }
        let _lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        // Meanwhile another admin may have started, or deleted, it.
        let range = self.check_delete(name, false).or_else(|e| match e.kind() {
            Kind::Damaged if force => Ok(None),
            _ => Err(e),
        })?;
        self.refuse_orphans(name)?;
        self.clean_up(name);
        let work = Work::Delete { name: name.clone(), ids: range };
        work.begin(&self.layout)?;
        let trees = self.hold_trees()?;
        let gone = work.staging(&self.layout);
        volume::remove_container(&gone)?;
        journal::step("delete.begun");
        let place = self.layout.container(name);
        std::fs::rename(&place, &gone).context(|| format!("cannot delete {name}"))?;
        atomic::sync_parent(&place)?;
        journal::step("delete.moved");
        volume::remove_container(&gone)?;
        journal::step("delete.removed");
        drop(trees);
        ids::release_all(&self.layout, name)?;
        let label = label::name(&self.layout.id(), name.as_str());
        label::forget(&self.labels(name), &label);
        let _ = std::fs::remove_dir(self.layout.run_of(name));
        unit::forget(&self.layout, name);
        self.let_trees_go();
        journal::step("delete.unmounted");
        work.end(&self.layout)
    }

    /// Whether `name` may be deleted; gives its id range.
    pub fn check_delete(
        &self,
        name: &Name,
        force: bool,
    ) -> Result<Option<crate::store::record::Range>> {
        let range = match Record::load(&self.layout, name) {
            Ok(record) => Some(record.ids),
            Err(e) if e.kind() == Kind::Damaged && force => None,
            Err(e) if e.kind() == Kind::Damaged => {
                return Err(e.hint("to delete it as it is: coloc delete --force"));
            }
            Err(e) => return Err(e),
        };
        if !force && State::alive(&self.layout, name).is_some() {
            return Err(Error::new(Kind::State, format!("{name} is running"))
                .hint(format!("stop it first, or: coloc delete --force {name}")));
        }
        Ok(range)
    }
}
