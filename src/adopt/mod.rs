//! Adopting: the private files of a container go from one generation of its base to another.
//!
//! ```text
//! delta    what differs between the generations, once for all containers
//!   └─ decide   looks at a container and decides, path by path  (class, merge, keyed, accounts: pure)
//!        └─ plan     stages what is to be put in, then writes the plan
//!             └─ apply    carries the plan out
//! conflict what was left beside, and its end
//! ```
//!
//! The stage is a directory that its member cannot reach, on the container's file system:
//!
//! ```text
//! containers/NAME/adopt/
//!   plan.json   written last: from here on the adoption is carried on, before it discarded
//!   new/N       what action N puts in; once it has, what was there before
//!   out/N       what action N has taken out
//! ```
//!
//! The member may change files all the while. So nothing of theirs is ever overwritten: a file is
//! exchanged for the new one in one step, and if what comes out is not what was looked at, it
//! goes back.

mod accounts;
mod apply;
mod class;
mod conflict;
mod decide;
mod delta;
mod generated;
mod keyed;
mod look;
mod merge;
mod plan;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use accounts::{Merged, Texts, merge as merge_accounts};
pub use apply::commit;
pub use class::Keyed;
pub use conflict::{Take, difference, resolve, texts, unresolved};
pub use delta::{Delta, delta};
pub use merge::{Budget, Clash, text as merge_text};
pub use plan::{Plan, load, plan, predict};

/// Where a container is, and between which generations it goes.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The private tree on the host.
    pub private: &'a Path,
    /// Host ids are ids of the container plus this.
    pub shift: u32,
    /// The stage: root's alone, on the same file system. It need not be there.
    pub stage: &'a Path,
    /// The generation that the container is at.
    pub old_generation: u64,
    /// The generation that it goes to; an older one in a rollback.
    pub new_generation: u64,
}

/// A file that the member and the base have both changed: the member's stays.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Conflict {
    /// The file, below the private tree.
    pub path: String,
    /// Where the base's version was put; empty if it could not be put anywhere.
    pub theirs: String,
    /// Why, in words.
    pub what: String,
}

/// What must be run in the container afterwards, in this order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Inside {
    /// `ldconfig`: there are libraries of the member's.
    Ldconfig,
    /// `update-ca-certificates`: there are certificates of the member's.
    CaCertificates,
    /// `systemd-tmpfiles --create`.
    Tmpfiles,
    /// `systemctl daemon-reload`.
    DaemonReload,
}

/// What an adoption would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// How many paths change.
    pub changed: usize,
    /// What needs a person.
    pub conflicts: Vec<Conflict>,
    /// What a person may want to know.
    pub notes: Vec<String>,
    /// What is to be run in the container.
    pub inside: Vec<Inside>,
}

/// What an adoption did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Applied {
    /// How many paths changed.
    pub changed: usize,
    /// What needs a person.
    pub conflicts: Vec<Conflict>,
    /// What a person may want to know.
    pub notes: Vec<String>,
    /// What is to be run in the container.
    pub inside: Vec<Inside>,
}
