//! Work begun and not finished. An entry is written before the first change and removed after
//! the last; what a later command finds in here was interrupted, unless its lock is held.

use std::path::PathBuf;

use super::record::Range;
use super::{Layout, Name, atomic};
use crate::error::{Context, Result};

/// What was begun. Each says how it is recovered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "work")]
pub enum Work {
    /// Undone, unless the container is in its place: then there is nothing left to do.
    Create {
        /// The new container.
        name: Name,
    },
    /// Carried on: the container has left its place, its tree and ids follow.
    Delete {
        /// The container that goes.
        name: Name,
        /// The range to give back.
        ids: Option<Range>,
    },
    /// Undone, unless the base is in its place.
    CreateBase {
        /// The new base.
        name: Name,
    },
    /// Carried on.
    DeleteBase {
        /// The base that goes.
        name: Name,
    },
    /// Undone, until the base's `current` leads to `to`; from then on carried on: the containers
    /// adopt it.
    Update {
        /// The base that changes.
        base: Name,
        /// The generation that is being published, once it is built.
        to: Option<u64>,
        /// Whether this work made that generation: then it goes if it is undone. One that was
        /// there before, to which the base was to go back or forward, stays.
        made: bool,
        /// Whether its containers are to adopt it.
        adopt: bool,
    },
    /// Undone, until it is committed; from then on carried on.
    Adopt {
        /// The container that goes to another generation.
        name: Name,
        /// Where it comes from.
        from: u64,
        /// Where it goes.
        to: u64,
        /// Whether its private files may have been touched.
        committed: bool,
    },
    /// What the container that runs was given follows its record, whatever that says by now.
    Give {
        /// The container.
        name: Name,
    },
    /// Carried on.
    Prune {
        /// The base.
        base: Name,
        /// The generation that goes.
        generation: u64,
    },
}

impl Work {
    /// The entry's file name, and that of its directory in staging. There is one of each kind
    /// for a name at a time, as the name's lock is held while it runs.
    pub fn id(&self) -> String {
        match self {
            Work::Create { name } => format!("create.{name}"),
            Work::Delete { name, .. } => format!("delete.{name}"),
            Work::CreateBase { name } => format!("create-base.{name}"),
            Work::DeleteBase { name } => format!("delete-base.{name}"),
            Work::Give { name } => format!("give.{name}"),
            Work::Update { base, .. } => format!("update.{base}"),
            Work::Adopt { name, .. } => format!("adopt.{name}"),
            Work::Prune { base, generation } => format!("prune.{base}.{generation}"),
        }
    }

    /// The directory that the work may use, and recovery removes.
    pub fn staging(&self, layout: &Layout) -> PathBuf {
        match self {
            Work::Create { .. } | Work::Delete { .. } => layout.container_staging(),
            _ => layout.staging(),
        }
        .join(self.id())
    }

    fn path(&self, layout: &Layout) -> PathBuf {
        layout.journal().join(format!("{}.json", self.id()))
    }

    /// Writes the entry: from here on the work is finished or undone by whoever comes next.
    pub fn begin(&self, layout: &Layout) -> Result<()> {
        atomic::write_json(&self.path(layout), self, 0o600)
    }

    /// Removes the entry. Without a sync: an entry that a power cut brings back is of work that
    /// is done, which recovery finds so.
    pub fn end(&self, layout: &Layout) -> Result<()> {
        let path = self.path(layout);
        std::fs::remove_file(&path)
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
            .context(|| format!("cannot remove {}", path.display()))
    }
}

/// Everything in the journal. A file that cannot be read is reported and left: it is the
/// admin's to look at.
pub fn pending(layout: &Layout) -> Vec<Work> {
    let Ok(entries) = std::fs::read_dir(layout.journal()) else { return Vec::new() };
    let mut list = Vec::new();
    for entry in entries.flatten() {
        if entry.path().extension().is_none_or(|e| e != "json") {
            continue;
        }
        match atomic::read_json(&entry.path()) {
            Ok(Some(work)) => list.push(work),
            Ok(None) => {}
            Err(e) => eprintln!("coloc: {e}"),
        }
    }
    list
}

/// The variable that names a step to die at.
pub const KILL_AT: &str = "COLOC_KILL_AT";

/// A step of journalled work is done. With `COLOC_KILL_AT` set to `step`, the process dies
/// here as by kill -9: tests use it to see that the next command finishes or undoes the rest.
pub fn step(step: &str) {
    if std::env::var_os(KILL_AT).is_some_and(|at| at == step) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
