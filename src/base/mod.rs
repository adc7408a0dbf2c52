//! Bases: building a tree, turning it into an immutable generation, and checking one.
//!
//! [`build`] fills `staging/…/tree`, [`publish`] makes it a generation beside `manifest` and
//! `packages`, [`crate::tree::manifest`] says later whether it still is what was published;
//! [`transaction`] makes the next one out of it, [`diff`] says what is different. The engine moves the directory into place; nothing here knows of containers.

pub mod apt;
pub mod build;
pub mod diff;
mod guard;
pub mod hints;
mod ids;
mod import;
mod merged;
mod next;
pub mod prune;
pub mod publish;
mod room;
mod sandbox;
pub mod sources;
mod strip;
mod terminal;
pub mod transaction;

use std::path::Path;

pub use ids::Taken;

use crate::error::{Error, Kind, Result};
use crate::store::{Layout, atomic};

/// What is said while a base is made or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// What it is about now.
    Phase(String),
    /// How far that is: one package of many.
    Part(String),
    /// Something to know also when it is over.
    Notice(String),
}

/// What to build with mmdebstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSpec {
    /// The distribution's release, such as `bookworm`.
    pub suite: String,
    /// Where to get it; the host's own mirrors, if not set.
    pub mirror: Option<String>,
    /// The archive's components, with commas or spaces between.
    pub components: String,
    /// Packages beside the variant's.
    pub include: Vec<String>,
    /// mmdebstrap's variant, such as `minbase`.
    pub variant: String,
}

/// The package list of a new base where none is given; an admin can edit it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// In a line, what such a base is for.
    #[serde(default)]
    pub description: String,
    /// mmdebstrap's variant.
    pub variant: String,
    /// The archive's components.
    pub components: String,
    /// Packages beside the variant's.
    pub include: Vec<String>,
}

/// Reads `bases/debian.json` of the admin's settings, or else the one below `shipped`.
pub fn defaults(layout: &Layout, shipped: &Path) -> Result<Defaults> {
    let own = layout.etc().join("bases/debian.json");
    let candidates = [own.clone(), shipped.join("debian.json"), shipped.join("bases/debian.json")];
    for path in &candidates {
        if let Some(defaults) = atomic::read_json(path)? {
            return Ok(defaults);
        }
    }
    let shown = shipped.join("debian.json");
    Err(Error::new(
        Kind::NotFound,
        format!("there is no package list: neither {} nor {}", own.display(), shown.display()),
    )
    .hint("install coloc's files again, or write that list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admins_list_comes_before_the_shipped_one() {
        let dir = std::env::temp_dir().join(format!("coloc-defaults-{}", std::process::id()));
        let layout = Layout::new(&dir);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/bases");
        let list = defaults(&layout, &shipped).unwrap();
        assert_eq!(list.variant, "minbase");
        assert!(list.include.iter().any(|p| p == "systemd-sysv"));
        std::fs::create_dir_all(layout.etc().join("bases")).unwrap();
        let own = Defaults { include: vec!["nano".into()], ..list };
        atomic::write_json(&layout.etc().join("bases/debian.json"), &own, 0o644).unwrap();
        assert_eq!(defaults(&layout, &shipped).unwrap(), own);
        crate::tree::remove(&dir).unwrap();
        assert_eq!(defaults(&layout, &dir).unwrap_err().kind(), Kind::NotFound);
    }
}
