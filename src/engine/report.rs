//! What a change of a base came to: for machines as it is serialised, for people by the CLI.

use super::Engine;
use super::adopt::Landing;
use super::stale::Indexes;
use crate::adopt::Conflict;
use crate::audit::{Left, Stale};
use crate::base::diff::PackageChange;
use crate::store::{Name, Record};

/// What came of one container.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ContainerReport {
    /// Its name.
    pub name: Name,
    /// Whether it is at the new generation; with `--dry-run`, whether it would be.
    pub adopted: bool,
    /// Whether what runs in it sees the new `/usr`.
    pub swapped: bool,
    /// Whether it stays at its generation because it is held.
    pub held: bool,
    /// For a held one, in how many packages it lacks a security fix that its base has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixes_missing: Option<usize>,
    /// Files that the member and the base have changed, each in another way.
    pub conflicts: Vec<Conflict>,
    /// What runs old code still.
    pub stale: Vec<Stale>,
    /// The units that were restarted.
    pub restarted: Vec<String>,
    /// What was not restarted, and why.
    pub left: Vec<Left>,
    /// What else a person may want to know.
    pub notes: Vec<String>,
    /// Why it is not all done.
    pub error: Option<String>,
    /// What to do about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What a change of a base came to.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The base.
    pub base: Name,
    /// The generation that was current.
    pub from: u64,
    /// The one that is now; the same if there was nothing to do.
    pub to: u64,
    /// What is not the same in them.
    pub packages: Vec<PackageChange>,
    /// The base's containers, by name.
    pub containers: Vec<ContainerReport>,
    /// How long it all took.
    pub seconds: f64,
    /// Whether a change made by hand was not wanted after all.
    #[serde(skip)]
    pub discarded: bool,
}

impl Report {
    pub(super) fn new(base: &Name, from: u64, to: u64) -> Self {
        let (packages, containers) = (Vec::new(), Vec::new());
        Self { base: base.clone(), from, to, packages, containers, seconds: 0.0, discarded: false }
    }

    /// Whether something could not be done somewhere.
    pub fn failed(&self) -> bool {
        self.containers.iter().any(|c| c.error.is_some())
    }
}

impl From<Landing> for ContainerReport {
    fn from(landing: Landing) -> Self {
        let error = landing.error;
        Self {
            name: landing.name,
            adopted: landing.adopted,
            swapped: landing.swapped,
            held: landing.held,
            fixes_missing: None,
            conflicts: landing.conflicts,
            stale: Vec::new(),
            restarted: Vec::new(),
            left: Vec::new(),
            notes: landing.notes,
            hint: error.as_ref().and_then(|e| e.hint_text().map(str::to_string)),
            error: error.map(|e| e.to_string()),
        }
    }
}

impl Engine {
    /// The report of a container that adopted, or did not: with what is stale in it, after the
    /// restart of that, if it is asked for.
    pub(super) fn report_of(
        &self,
        landing: Landing,
        restart: bool,
        indexes: &mut Indexes,
    ) -> ContainerReport {
        let mut report = ContainerReport::from(landing);
        if report.held {
            let record = Record::load(&self.layout, &report.name).ok();
            report.fixes_missing =
                record.and_then(|r| self.fixes_missing(&r.base, r.generation).ok());
        }
        if !report.swapped {
            return report;
        }
        match self.look_for_stale(&report.name, restart, indexes) {
            Ok(after) => {
                report.stale = after.stale;
                report.restarted = after.restarted;
                report.left = after.left;
                report.notes.extend(after.notes);
            }
            Err(e) => report.notes.push(format!("what runs old code cannot be told: {e}")),
        }
        report
    }
}
