//! What a generation tells those who come to it from an older one: beside its tree, as
//! `hints.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::diff::PackageChange;
use super::publish::{package_list, put};
use crate::error::{Error, Result};
use crate::store::atomic;

const FILE: &str = "hints.json";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Hints {
    /// Versions that came from a security archive, by package: in this generation or in one
    /// that it was made from, which may have been pruned.
    security: BTreeMap<String, BTreeSet<String>>,
    /// The units for which this generation's own packages asked for a restart.
    #[serde(default)]
    restarts: BTreeSet<String>,
}

impl Hints {
    /// Those of a generation; none for the first.
    pub(super) fn read(generation_dir: &Path) -> Result<Self> {
        Ok(atomic::read_json(&generation_dir.join(FILE))?.unwrap_or_default())
    }

    /// Those of a generation that is made from the one with these; `services` is what its
    /// maintainer scripts wanted, such as `nginx restart`.
    pub(super) fn then(mut self, changes: &[PackageChange], services: &[String]) -> Self {
        self.restarts = services.iter().filter_map(|line| restart(line)).collect();
        for change in changes.iter().filter(|c| c.security) {
            if let Some(version) = &change.new {
                let versions = self.security.entry(plain(&change.name).into()).or_default();
                versions.insert(version.clone());
            }
        }
        self
    }

    pub(super) fn write(&self, generation_dir: &Path) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::failed(format!("cannot write {FILE}: {e}")))?;
        bytes.push(b'\n');
        put(&generation_dir.join(FILE), &bytes)
    }
}

/// The unit that a line asks to have restarted. What was to be started or stopped is another
/// matter: the container's own links say whether it runs.
pub fn restart(line: &str) -> Option<String> {
    let (service, action) = line.split_once(' ')?;
    let is_unit = [".service", ".socket"].iter().any(|end| service.ends_with(end));
    let asks = ["restart", "try-restart"].contains(&action);
    asks.then(|| if is_unit { service.into() } else { format!("{service}.service") })
}

/// The units that the generations in `dirs` asked to have restarted.
pub fn restarts(dirs: &[PathBuf]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for dir in dirs {
        all.extend(Hints::read(dir)?.restarts);
    }
    Ok(all)
}

/// A package without its architecture.
fn plain(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

/// How many packages of the generation in `from_dir` are newer from a security archive in the one
/// in `current_dir`.
pub fn fixes_missing(from_dir: &Path, current_dir: &Path) -> Result<usize> {
    let (had, has) = (Hints::read(from_dir)?.security, Hints::read(current_dir)?.security);
    let mut installed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in package_list(from_dir)? {
        installed.entry(package.name).or_default().insert(package.version);
    }
    let holds = |map: &BTreeMap<String, BTreeSet<String>>, name: &String, version: &String| {
        map.get(name).is_some_and(|versions| versions.contains(version))
    };
    let lacks = |(name, versions): &(&String, &BTreeSet<String>)| {
        let new = |v: &&String| !holds(&had, name, v) && !holds(&installed, name, v);
        installed.contains_key(*name) && versions.iter().any(|v| new(&v))
    };
    Ok(has.iter().filter(lacks).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixes_are_counted_by_package() {
        let dir = std::env::temp_dir().join(format!("coloc-hints-{}", std::process::id()));
        let made = |n: &str, packages: &str, hints: &Hints| {
            let dir = dir.join(n);
            std::fs::create_dir_all(&dir).unwrap();
            put(&dir.join("packages"), packages.as_bytes()).unwrap();
            hints.write(&dir).unwrap();
            assert_eq!(&Hints::read(&dir).unwrap(), hints);
            dir
        };
        let change = |name: &str, new: &str, security| {
            let (name, new) = (name.into(), Some(new.into()));
            PackageChange { name, old: Some("1".into()), new, security }
        };
        let first = Hints::default();
        let second = first.clone().then(
            &[
                change("ssl:amd64", "2", true),
                change("ssl:i386", "2", true),
                change("plain", "2", false),
                change("other", "2", true),
                change("known", "1", true),
            ],
            &["a restart", "a start", "b try-restart", "c.socket restart", "d reload", "e"]
                .map(String::from),
        );
        // A later version from elsewhere does not take the fix back.
        let third =
            second.clone().then(&[change("ssl", "3", true), change("other", "3", false)], &[]);
        let list = "ssl\t1\tamd64\nssl\t1\ti386\nplain\t1\tall\nother\t1\tall\nknown\t1\tall\n";
        let (a, b) = (made("1", list, &first), made("2", "ssl\t2\tamd64\n", &second));
        let c = made("3", "ssl\t3\tamd64\n", &third);
        assert_eq!(fixes_missing(&a, &b).unwrap(), 2);
        assert_eq!(fixes_missing(&a, &c).unwrap(), 2);
        assert_eq!(fixes_missing(&b, &c).unwrap(), 1);
        assert_eq!(fixes_missing(&c, &a).unwrap(), 0);
        assert_eq!(fixes_missing(&c, &c).unwrap(), 0);
        let asked = restarts(&[a, b, c]).unwrap();
        assert_eq!(Vec::from_iter(asked), ["a.service", "b.service", "c.socket"]);
        crate::tree::remove(&dir).unwrap();
    }
}
