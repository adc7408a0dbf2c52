//! What a member is told when they come in, once.

use std::collections::BTreeMap;

use super::Engine;
use crate::audit;
use crate::store::{Record, atomic};

/// Who saw which generation last.
type Seen = BTreeMap<String, u64>;

impl Engine {
    /// A line for each thing that needs `who`; mostly there is none.
    pub(super) fn notes(&self, record: &Record, who: &str) -> Vec<String> {
        let mut notes: Vec<String> = self.base_note(record, who).into_iter().collect();
        let name = &record.name;
        match self.stale(Some(name)).map_or(0, |list| audit::processes_in(&list)) {
            0 => {}
            1 => notes.push(format!("1 process still runs old code: coloc stale {name}")),
            n => notes.push(format!("{n} processes still run old code: coloc stale {name}")),
        }
        match self.conflicts(name).map_or(0, |list| list.len()) {
            0 => {}
            n => notes.push(format!("{n} files wait for your decision: coloc conflicts {name}")),
        }
        notes
    }

    /// That the base was updated since `who` was here last. The first time there is no "since".
    fn base_note(&self, record: &Record, who: &str) -> Option<String> {
        let path = self.layout.seen(&record.name);
        // A file that cannot be read costs one note.
        let mut seen: Seen = atomic::read_json(&path).ok().flatten().unwrap_or_default();
        let before = seen.insert(who.to_string(), record.generation);
        if before == Some(record.generation) {
            return None;
        }
        let _ = atomic::write_json(&path, &seen, 0o600);
        let before = before?;
        Some(format!(
            "base {} was changed since you were here: generation {before} is now {}",
            record.base, record.generation
        ))
    }
}
