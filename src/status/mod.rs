//! What there is and what runs, as data: what `coloc list` and `coloc status` show. The keys are
//! documented in coloc(1) and do not change their meaning.

pub mod check;
pub mod top;

use std::net::IpAddr;

use crate::store::Name;
use crate::store::record::Range;
use crate::store::usage::{Allowance, Usage};

/// A container's state in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Its init runs.
    Running,
    /// It does not run.
    Stopped,
    /// It runs, and every process of it is held.
    Frozen,
    /// Its record cannot be read.
    Damaged,
}

impl Condition {
    /// The word in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Frozen => "frozen",
            Self::Damaged => "damaged",
        }
    }
}

/// One line of `coloc list`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// The container.
    pub name: Name,
    /// Its state.
    pub state: Condition,
    /// Its init's pid on the host.
    pub pid: Option<i32>,
    /// Its base.
    pub base: Option<Name>,
    /// The generation that it is at.
    pub generation: Option<u64>,
    /// The generation that its base is at.
    pub current_generation: Option<u64>,
    /// Its owners.
    pub owners: Vec<String>,
    /// Its init's kind: of the running one, else what its settings say.
    pub init: Option<String>,
    /// Its profile.
    pub profile: Option<Name>,
    /// Its network.
    pub network: Option<String>,
    /// The addresses that coloc gives it on its network.
    pub addresses: Vec<IpAddr>,
    /// Whether it stays at its generation when its base is updated.
    pub hold: bool,
    /// How many processes run code of another generation than it is at.
    pub stale: usize,
    /// Why the record cannot be read, with its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// What `coloc status` says of one container, beside its row.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Detail {
    /// The row.
    #[serde(flatten)]
    pub row: Row,
    /// When it was started, RFC 3339.
    pub started: Option<String>,
    /// For how long it has run.
    pub uptime_seconds: Option<i64>,
    /// What it uses, and may.
    #[serde(flatten)]
    pub usage: Usage,
    /// What it may have beside; None if it does not run.
    pub limits: Option<Allowance>,
    /// For a held one, in how many packages it lacks a security fix that its base has.
    pub fixes_missing: Option<usize>,
    /// Files that it and its base have changed, each in another way, for somebody to decide.
    pub conflicts: Vec<String>,
    /// Its name on the network, if it has one.
    pub full_name: Option<String>,
    /// Ports of the host that lead into it, `[ADDRESS:]PORT:INSIDE/PROTOCOL`.
    pub published: Vec<String>,
    /// Where the host's programs find its sockets, while it runs.
    pub sockets: Option<String>,
    /// Its id range.
    pub ids: Option<Range>,
    /// Its machine-id.
    pub machine_id: Option<String>,
    /// The process beside it; None when it is gone.
    pub supervisor_pid: Option<i32>,
    /// Its cgroup on the host.
    pub cgroup: Option<String>,
    /// The profile or label of a security module that its init is under.
    pub label: Option<String>,
    /// Whose that is.
    pub security_module: Option<&'static str>,
    /// Its private tree on the host.
    pub path: String,
}

/// Seconds since an RFC 3339 moment.
pub fn seconds_since(moment: &str) -> Option<i64> {
    let then: jiff::Timestamp = moment.parse().ok()?;
    Some((jiff::Timestamp::now().as_second() - then.as_second()).max(0))
}

/// A length of time in two units, such as `3d 4h`.
pub fn duration_words(seconds: i64) -> String {
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m {}s", s / 60, s % 60),
        s if s < 86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        s => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A number of bytes in binary units, such as `3.1 MiB`.
pub fn size_words(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        assert_eq!(size_words(512), "512 B");
        assert_eq!(size_words(3_250_585), "3.1 MiB");
        assert_eq!(duration_words(59), "59s");
        assert_eq!(duration_words(90_061), "1d 1h");
    }
}
