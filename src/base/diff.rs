//! What is different between two generations: packages, then files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::publish::{Package, package_list, put};
use crate::error::{Error, Result};
use crate::store::atomic;
use crate::tree::manifest::{self, Entry};

/// The name of the file beside a generation's manifest.
const FILE: &str = "changes.json";

/// A package that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PackageChange {
    /// Its name, with the architecture if the base has it for several.
    pub name: String,
    /// The version before; None for a new one.
    pub old: Option<String>,
    /// The version now; None for one that is gone.
    pub new: Option<String>,
    /// Whether the new version came from a security archive.
    #[serde(default)]
    pub security: bool,
}

/// How a path is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

/// A path that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileChange {
    /// The path below the tree, control characters escaped.
    pub path: String,
    /// How.
    pub change: Change,
    /// Of a changed one, what: `content`, `mode: is … was …`, and so on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
}

/// Everything that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Diff {
    /// By name.
    pub packages: Vec<PackageChange>,
    /// By path.
    pub files: Vec<FileChange>,
}

/// What the transaction that made a generation changed; nothing for the first.
fn changes(generation_dir: &Path) -> Result<Vec<PackageChange>> {
    Ok(atomic::read_json(&generation_dir.join(FILE))?.unwrap_or_default())
}

/// Writes what [`changes`] reads.
pub(super) fn write(generation_dir: &Path, changes: &[PackageChange]) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(changes)
        .map_err(|e| Error::failed(format!("cannot write {FILE}: {e}")))?;
    bytes.push(b'\n');
    put(&generation_dir.join(FILE), &bytes)
}

/// Compares two generations by what stands beside their trees. Inodes do not count.
pub fn diff(old_dir: &Path, new_dir: &Path) -> Result<Diff> {
    let security: BTreeSet<String> =
        changes(new_dir)?.into_iter().filter(|c| c.security).map(|c| c.name).collect();
    let packages = compare(&package_list(old_dir)?, &package_list(new_dir)?, &security);
    Ok(Diff { packages, files: files(manifest::read(old_dir)?, manifest::read(new_dir)?) })
}

/// Versions by name; where one name is there for several architectures, by both.
fn by_name(list: &[Package], several: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let name = |p: &Package| match several.contains(p.name.as_str()) {
        true => format!("{}:{}", p.name, p.architecture),
        false => p.name.clone(),
    };
    list.iter().map(|p| (name(p), p.version.clone())).collect()
}

/// What differs between two lists of packages.
pub(super) fn compare(
    old: &[Package],
    new: &[Package],
    security: &BTreeSet<String>,
) -> Vec<PackageChange> {
    let mut several = BTreeSet::new();
    for list in [old, new] {
        let mut seen = BTreeSet::new();
        several.extend(list.iter().map(|p| p.name.as_str()).filter(|n| !seen.insert(*n)));
    }
    let (old, mut new) = (by_name(old, &several), by_name(new, &several));
    let mut changes = Vec::new();
    let mut add = |name: String, old: Option<String>, new: Option<String>| {
        let plain = name.split(':').next().unwrap_or_default();
        let security = new.is_some() && (security.contains(&name) || security.contains(plain));
        changes.push(PackageChange { name, old, new, security });
    };
    for (name, version) in old {
        let now = new.remove(&name);
        if now.as_ref() != Some(&version) {
            add(name, Some(version), now);
        }
    }
    for (name, version) in new {
        add(name, None, Some(version));
    }
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

fn files(old: Vec<Entry>, new: Vec<Entry>) -> Vec<FileChange> {
    let mut new: BTreeMap<String, Entry> = new.into_iter().map(|e| (e.path.clone(), e)).collect();
    let mut found = Vec::new();
    for was in old {
        let path = was.path.clone();
        match new.remove(&path) {
            None => found.push(FileChange { path, change: Change::Removed, what: Vec::new() }),
            Some(is) => {
                let what = manifest::compare(&was, &Entry { inode: was.inode, ..is });
                if !what.is_empty() {
                    found.push(FileChange { path, change: Change::Changed, what });
                }
            }
        }
    }
    let added = |path| FileChange { path, change: Change::Added, what: Vec::new() };
    found.extend(new.into_keys().map(added));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, architecture: &str) -> Package {
        Package { name: name.into(), version: version.into(), architecture: architecture.into() }
    }

    #[test]
    fn packages_are_compared_by_name() {
        let old = [
            package("gone", "1", "all"),
            package("libc6", "1", "amd64"),
            package("same", "1", "all"),
            package("ssl", "1", "amd64"),
        ];
        let new = [
            package("libc6", "2", "amd64"),
            package("libc6", "2", "i386"),
            package("new", "1", "all"),
            package("same", "1", "amd64"),
            package("ssl", "2", "amd64"),
        ];
        let security = BTreeSet::from(["ssl".to_string(), "gone".to_string()]);
        let shown: Vec<String> = compare(&old, &new, &security)
            .iter()
            .map(|c| format!("{} {:?} {:?} {}", c.name, c.old, c.new, c.security))
            .collect();
        assert_eq!(
            shown,
            [
                "gone Some(\"1\") None false",
                "libc6:amd64 Some(\"1\") Some(\"2\") false",
                "libc6:i386 None Some(\"2\") false",
                "new None Some(\"1\") false",
                "ssl Some(\"1\") Some(\"2\") true",
            ]
        );
    }

    #[test]
    fn generations_are_compared_by_their_manifests() {
        let dir = std::env::temp_dir().join(format!("coloc-diff-{}", std::process::id()));
        let line = |path: &str, sum: &str, inode: u64| Entry {
            path: path.into(),
            kind: "file".into(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 1,
            inode,
            sum: sum.into(),
            capability: String::new(),
        };
        let make = |name: &str, entries: &[Entry], packages: &str| {
            let dir = dir.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            put(&dir.join("manifest"), manifest::text(entries).as_bytes()).unwrap();
            put(&dir.join("packages"), packages.as_bytes()).unwrap();
            dir
        };
        let old =
            make("1", &[line("a", "1", 1), line("b", "1", 2), line("c", "1", 3)], "x\t1\tall\n");
        let new =
            make("2", &[line("a", "1", 9), line("b", "2", 2), line("d", "1", 3)], "x\t2\tall\n");
        assert!(changes(&new).unwrap().is_empty());
        let change = PackageChange {
            name: "x".into(),
            old: Some("1".into()),
            new: Some("2".into()),
            security: true,
        };
        write(&new, std::slice::from_ref(&change)).unwrap();
        assert_eq!(changes(&new).unwrap(), std::slice::from_ref(&change));
        let found = diff(&old, &new).unwrap();
        assert_eq!(found.packages, [change]);
        let shown: Vec<_> = found.files.iter().map(|f| (f.path.as_str(), f.change)).collect();
        let expected = [("b", Change::Changed), ("c", Change::Removed), ("d", Change::Added)];
        assert_eq!(shown, expected);
        assert_eq!(found.files[0].what, ["content"]);
        crate::tree::remove(&dir).unwrap();
    }
}
