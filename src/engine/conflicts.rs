//! Files where a member's text and the base's differ: which there are, and how each is settled.

use std::path::PathBuf;

use super::Engine;
use crate::adopt::{self, Conflict, Take};
use crate::error::{Error, Kind, Result};
use crate::request::Verb;
use crate::store::lock::{self, Subject};
use crate::store::{Name, Record, atomic};

impl Engine {
    fn conflicts_file(&self, name: &Name) -> PathBuf {
        self.layout.container(name).join("conflicts.json")
    }

    fn noted_conflicts(&self, name: &Name) -> Result<Vec<Conflict>> {
        Ok(atomic::read_json(&self.conflicts_file(name))?.unwrap_or_default())
    }

    /// Notes conflicts of an adoption beside those that are still open.
    pub(super) fn add_conflicts(&self, name: &Name, new: &[Conflict]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let mut all = self.noted_conflicts(name)?;
        all.retain(|c| new.iter().all(|n| n.path != c.path));
        all.extend(new.iter().cloned());
        atomic::write_json(&self.conflicts_file(name), &all, 0o600)
    }

    /// The files of `name` for which nobody has decided yet: the base's text is beside them.
    pub fn conflicts(&self, name: &Name) -> Result<Vec<Conflict>> {
        self.permit(Verb::Conflicts, name)?;
        let noted = self.noted_conflicts(name)?;
        Ok(adopt::unresolved(&self.layout.private(name), &noted))
    }

    /// The conflict about `path` in `name`.
    pub fn conflict(&self, name: &Name, path: &str) -> Result<Conflict> {
        let wanted = path.trim_start_matches('/');
        let all = self.conflicts(name)?;
        all.into_iter().find(|c| c.path.trim_start_matches('/') == wanted).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no conflict about /{wanted} in {name}"))
                .hint(format!("coloc conflicts {name} lists those there are"))
        })
    }

    /// The member's text and the base's.
    pub fn conflict_texts(&self, name: &Name, conflict: &Conflict) -> Result<(Vec<u8>, Vec<u8>)> {
        adopt::texts(&self.layout.private(name), conflict)
    }

    /// Settles a conflict.
    pub fn settle(&self, name: &Name, conflict: &Conflict, take: Take) -> Result<()> {
        let _lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        let record = self.permit(Verb::Conflicts, name)?;
        let words = [format!("/{}", conflict.path), format!("--take={}", word(&take))];
        self.noting(Verb::Conflicts, name, &words, || self.settle_locked(&record, conflict, &take))
    }

    fn settle_locked(&self, record: &Record, conflict: &Conflict, take: &Take) -> Result<()> {
        let name = &record.name;
        adopt::resolve(&self.layout.private(name), record.ids.start, conflict, take)?;
        let mut noted = self.noted_conflicts(name)?;
        noted.retain(|c| c.path != conflict.path);
        atomic::write_json(&self.conflicts_file(name), &noted, 0o600)
    }
}

fn word(take: &Take) -> &'static str {
    match take {
        Take::Base => "base",
        Take::Mine => "mine",
        Take::Text(_) => "edit",
    }
}
