//! What coloc knows of a container and of a base for as long as they exist.

use std::collections::BTreeMap;

use super::{Layout, Name, atomic};
use crate::error::{Context, Error, Kind, Result};

/// The format of records that this program writes.
const VERSION: u32 = 1;

/// The record of a container, `container.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The format, [`VERSION`].
    pub version: u32,
    /// The container's name, the same as its directory's.
    pub name: Name,
    /// Its machine-id: 32 hex digits, of no other machine.
    pub machine_id: String,
    /// The base it is over.
    pub base: Name,
    /// The generation of the base that it is at.
    pub generation: u64,
    /// Its id range.
    pub ids: Range,
    /// The host users that it belongs to; the first one's account is the default inside.
    pub owners: Vec<String>,
    /// The profile that its settings start from.
    pub profile: Name,
    /// Settings that differ from the profile's.
    #[serde(default)]
    pub overrides: Overrides,
    /// Whether it stays at its generation when its base is updated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// Whether its owner's home on the host is mounted inside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared_home: bool,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// A container's own settings over its profile's: key → value, in the words of profiles.
pub type Overrides = BTreeMap<String, serde_json::Value>;

/// The ids of one container: uid and gid N inside are START+N on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Range {
    /// The host's id for the container's 0.
    pub start: u32,
    /// How many ids there are.
    pub count: u32,
}

impl Range {
    /// Whether a container can have it.
    fn is_possible(self) -> bool {
        let whole = self.count > 0 && self.count % RANGE == 0;
        whole && self.start > 0 && self.start.checked_add(self.count).is_some()
    }
}

/// How many ids a range has: all that 16 bits hold, `nobody` at 65534 included. A container has one
/// range, or several in a row.
pub const RANGE: u32 = 65536;

impl Record {
    /// A new record in the current format.
    pub fn new(name: Name, base: Name, generation: u64, profile: Name) -> Self {
        Self {
            version: VERSION,
            name,
            machine_id: String::new(),
            base,
            generation,
            ids: Range { start: 0, count: RANGE },
            owners: Vec::new(),
            profile,
            overrides: Overrides::default(),
            hold: false,
            shared_home: false,
            created: now(),
        }
    }

    /// Reads a container's record; [`Kind::NotFound`] when there is no such container.
    pub fn load(layout: &Layout, name: &Name) -> Result<Self> {
        let path = layout.record(name);
        let record: Option<Self> = atomic::read_json(&path)?;
        let record = match record {
            Some(record) => record,
            None if layout.container(name).exists() => {
                return Err(Error::new(Kind::Damaged, format!("{} is missing", path.display()))
                    .hint("restore it from a backup, or delete the container"));
            }
            None => {
                return Err(Error::new(Kind::NotFound, format!("there is no container {name}"))
                    .hint("coloc list shows the containers there are"));
            }
        };
        let wrong = if record.version > VERSION {
            format!("was written by a newer coloc (format {})", record.version)
        } else if record.name != *name {
            format!("is the record of {}", record.name)
        } else if !record.ids.is_possible() {
            "has an impossible id range".into()
        } else {
            return Ok(record);
        };
        Err(Error::new(Kind::Damaged, format!("{} {wrong}", path.display()))
            .hint("repair the file by hand, or restore it from a backup; nothing was changed"))
    }

    /// Writes the record of a container that is in its place.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        atomic::write_json(&layout.record(&self.name), self, 0o600)
    }

    /// The same in the course of a work of which the journal knows, and which it would do again.
    pub fn save_in_work(&self, layout: &Layout) -> Result<()> {
        atomic::write_json_whole(&layout.record(&self.name), self, 0o600)
    }

    /// Writes the record to `dir`, a directory in staging that is synced before it counts.
    pub fn save_in(&self, dir: &std::path::Path) -> Result<()> {
        atomic::write_json_unsynced(&dir.join("container.json"), self, 0o600)
    }
}

/// The names of all containers.
pub fn names(layout: &Layout) -> Result<Vec<Name>> {
    names_in(&layout.containers(), "container")
}

/// Every container by name, with its record or why that cannot be read.
pub fn all(layout: &Layout) -> Result<Vec<(Name, Result<Record>)>> {
    Ok(names(layout)?.into_iter().map(|n| (n.clone(), Record::load(layout, &n))).collect())
}

/// The record of a base, `base.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BaseRecord {
    /// The format, [`VERSION`].
    pub version: u32,
    /// The base's name, the same as its directory's.
    pub name: Name,
    /// Where it came from.
    pub origin: Origin,
    /// When it was made, RFC 3339.
    pub created: String,
    /// System accounts whose ids were moved below 500 when it was published: name → id.
    #[serde(default)]
    pub moved_ids: BTreeMap<String, u32>,
}

/// How a base was built.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// By mmdebstrap.
    Mmdebstrap {
        /// The distribution's release, such as `bookworm`.
        suite: String,
        /// The sources.list lines it was built from.
        sources: Vec<String>,
        /// mmdebstrap's variant.
        variant: String,
        /// The packages asked for beside the variant's.
        include: Vec<String>,
    },
    /// From a root file system made elsewhere.
    Import {
        /// The directory or tarball, as it was given.
        from: String,
    },
}

impl Origin {
    /// In a word or two, for a table.
    pub fn words(&self) -> String {
        match self {
            Origin::Mmdebstrap { suite, .. } => suite.clone(),
            Origin::Import { from } => format!("from {from}"),
        }
    }
}

impl BaseRecord {
    /// A new record in the current format.
    pub fn new(name: Name, origin: Origin) -> Self {
        Self { version: VERSION, name, origin, created: now(), moved_ids: BTreeMap::new() }
    }

    /// Reads a base's record; [`Kind::NotFound`] when there is no such base.
    pub fn load(layout: &Layout, name: &Name) -> Result<Self> {
        atomic::read_json(&layout.base(name).join("base.json"))?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no base {name}"))
                .hint("coloc base list shows the bases there are; coloc base create makes one")
        })
    }

    /// Writes the record to `dir`, the base's directory.
    pub fn save_in(&self, dir: &std::path::Path) -> Result<()> {
        atomic::write_json(&dir.join("base.json"), self, 0o600)
    }
}

/// The names of all bases.
pub fn bases(layout: &Layout) -> Result<Vec<Name>> {
    names_in(&layout.bases(), "base")
}

/// The generation that new containers of `base` get.
pub fn current_generation(layout: &Layout, base: &Name) -> Result<u64> {
    let link = layout.base(base).join("current");
    let target = std::fs::read_link(&link).context(|| format!("cannot read {}", link.display()))?;
    let there: Vec<u64> = generations(layout, base)?;
    let number = target.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
    number.filter(|n| there.contains(n)).ok_or_else(|| {
        let newest = there.last().map_or("N".into(), u64::to_string);
        Error::new(Kind::Damaged, format!("{} points to {}", link.display(), target.display()))
            .hint(format!(
                "it must be a link to a generation that is there: \
                 ln -sfn generations/{newest} {}",
                link.display()
            ))
    })
}

/// Every generation of `base` that there is, ascending.
pub fn generations(layout: &Layout, base: &Name) -> Result<Vec<u64>> {
    let dir = layout.base(base).join("generations");
    let mut list: Vec<u64> = std::fs::read_dir(&dir)
        .context(|| format!("cannot read {}", dir.display()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    list.sort_unstable();
    Ok(list)
}

fn names_in(dir: &std::path::Path, what: &str) -> Result<Vec<Name>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(|| format!("cannot read {}", dir.display())),
    };
    let mut names: Vec<Name> = entries
        .filter_map(|entry| Name::parse(what, entry.ok()?.file_name().to_str()?).ok())
        .collect();
    names.sort();
    Ok(names)
}

/// This moment, RFC 3339 with whole seconds.
pub fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string()
}
