//! Finishing or undoing what an earlier command, killed in the middle, has left.

use super::Engine;
use crate::error::Result;
use crate::runtime::held;
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Subject};
use crate::store::running::State;
use crate::store::{Name, atomic, ids};
use crate::tree::volume;

impl Engine {
    /// Goes through the journal. What cannot be recovered now is told and left for later: it
    /// stands in nobody's way.
    pub(super) fn recover(&self) {
        atomic::sweep(&self.layout.journal());
        self.recover_network();
        self.recover_held();
        for work in journal::pending(&self.layout) {
            if let Err(e) = self.recover_one(&work) {
                eprintln!("coloc: cannot clean up after an interrupted command: {e}");
            }
        }
    }

    /// Lets go on what an interrupted command held still.
    fn recover_held(&self) {
        let dir = self.layout.run().join("containers");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_str().and_then(|n| Name::parse("container", n).ok());
            if let Some(name) = name.filter(|_| held::is_left(&entry.path())) {
                match self.let_go(&name) {
                    // What an update left that found it frozen.
                    Ok(true) => drop(self.run_pending(&name)),
                    Ok(false) => {}
                    Err(e) => eprintln!("coloc: an interrupted command holds {name} still: {e}"),
                }
            }
        }
    }

    /// Lets `name` go on if an interrupted command held it still, and not if an admin froze it; true
    /// if it did.
    pub(super) fn let_go(&self, name: &Name) -> Result<bool> {
        let subject = Subject::Container(name.clone());
        // Held: its command is not interrupted but at work.
        let Some(_lock) = lock::try_exclusive(&self.layout, &subject)? else { return Ok(false) };
        let run = self.layout.run_of(name);
        match State::alive(&self.layout, name) {
            Some((state, _)) => held::let_go(&state, &run),
            None => Ok(false),
        }
    }

    fn recover_one(&self, work: &Work) -> Result<()> {
        let subject = match work {
            Work::Create { name } | Work::Delete { name, .. } => Subject::Container(name.clone()),
            Work::CreateBase { name } | Work::DeleteBase { name } => Subject::Base(name.clone()),
            Work::Adopt { name, .. } | Work::Give { name } => Subject::Container(name.clone()),
            Work::Update { base, .. } => Subject::Transaction(base.clone()),
            Work::Prune { base, .. } => Subject::Base(base.clone()),
        };
        // Held: its command is not interrupted but at work.
        let Some(_lock) = lock::try_exclusive(&self.layout, &subject)? else { return Ok(()) };
        if !journal::pending(&self.layout).contains(work) {
            return Ok(());
        }
        match work {
            Work::Adopt { name, .. } => {
                self.finish_adoption(name)?;
                self.run_pending(name);
                return Ok(());
            }
            Work::Update { base, .. } => return self.finish_update(base, true),
            Work::Give { name } => self.follow_record(name)?,
            _ => {}
        }
        volume::remove_container(&work.staging(&self.layout))?;
        if let Work::Create { name } | Work::Delete { name, .. } = work {
            // Where earlier versions had it: its ids are given back only when that has gone too.
            volume::remove_container(&self.layout.staging().join(work.id()))?;
            self.release_unless_there(name)?;
            self.let_trees_go();
        }
        work.end(&self.layout)
    }

    /// A container that is in its place keeps its ids: it was made in full, or it was to be
    /// deleted and had not left yet.
    pub(super) fn release_unless_there(&self, name: &Name) -> Result<()> {
        if self.layout.container(name).exists() {
            return Ok(());
        }
        ids::release_all(&self.layout, name)
    }
}
