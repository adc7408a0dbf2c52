//! What differs between two generations outside `/usr`: the same for every container, so it is
//! found once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Inside;
use super::accounts;
use super::class::{self, ACCOUNTS, CA_INPUTS, Class, LD_INPUTS};
use super::look::host_path;
use super::merge::TEXT_LIMIT;
use crate::error::{Context, Result};
use crate::tree::manifest::{self, Entry};

/// One path that differs.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: String,
    pub(super) class: Class,
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
    /// Both contents, where they may have to be merged.
    pub(super) texts: Option<(Vec<u8>, Vec<u8>)>,
}

/// What differs between an old and a new generation, as far as containers have copies of it.
#[derive(Debug)]
pub struct Delta {
    /// By path.
    pub(super) changes: Vec<Change>,
    /// The account files of both, if they differ.
    pub(super) accounts: Option<(accounts::Texts, accounts::Texts)>,
    /// Which of them do.
    pub(super) account_changes: Vec<Change>,
    /// What generated files are made of, in the new generation.
    pub(super) inputs: BTreeMap<String, Entry>,
    /// Directories outside `/usr` in which the new generation's ldconfig looks.
    pub(super) library_dirs: Vec<String>,
    /// The times of `/usr`.
    pub(super) stamps: [(i64, u64); 2],
    /// What is to be done inside because of what `/usr` has.
    pub(super) inside: BTreeSet<Inside>,
    pub(super) new_tree: PathBuf,
}

/// What is to be done inside where something in these differs.
const ACTED_ON: [(Inside, &str); 3] = [
    (Inside::DaemonReload, "usr/lib/systemd/system"),
    (Inside::DaemonReload, "usr/lib/systemd/system-generators"),
    (Inside::Tmpfiles, "usr/lib/tmpfiles.d"),
];

/// Compares two generations by their manifests.
pub fn delta(old_generation_dir: &Path, new_generation_dir: &Path) -> Result<Delta> {
    let mut old = looked_at(old_generation_dir)?;
    let mut new = looked_at(new_generation_dir)?;
    let trees = [old_generation_dir.join("tree"), new_generation_dir.join("tree")];
    let inside = inside(&old, &new);
    // Devices and sockets are not copied into containers.
    for map in [&mut old, &mut new] {
        let copied = |e: &Entry| matches!(e.kind.as_str(), "file" | "dir" | "link");
        map.retain(|path, entry| class::is_private(path) && copied(entry));
    }
    let mut changes = Vec::new();
    let mut account_changes = Vec::new();
    for path in old.keys().chain(new.keys().filter(|p| !old.contains_key(*p))) {
        let (a, b) = (old.get(path), new.get(path));
        if !differ(a, b) {
            continue;
        }
        match class::of(path) {
            Class::Own => {}
            Class::Accounts => account_changes.push(change(path, Class::Accounts, a, b, &trees)?),
            class => changes.push(change(path, class, a, b, &trees)?),
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    let accounts = match account_changes.is_empty() {
        false => Some((account_texts(&trees[0], &old)?, account_texts(&trees[1], &new)?)),
        true => None,
    };
    let library_dirs = library_dirs(&trees[1], &new)?;
    let [old_tree, new_tree] = trees;
    let is_input = |path: &String| CA_INPUTS.iter().chain(&LD_INPUTS).any(|i| below(path, i));
    new.retain(|path, _| is_input(path));
    Ok(Delta {
        changes,
        accounts,
        account_changes,
        inputs: new,
        library_dirs,
        stamps: [usr_time(&old_tree)?, usr_time(&new_tree)?],
        inside,
        new_tree,
    })
}

/// What is asked about of a generation: all outside `/usr`, and what has to be acted on inside.
fn looked_at(generation_dir: &Path) -> Result<BTreeMap<String, Entry>> {
    let mut found = BTreeMap::new();
    manifest::each(generation_dir, |line| {
        if class::is_private(line.path) || ACTED_ON.iter().any(|(_, dir)| below(line.path, dir)) {
            found.insert(line.path.to_string(), line.into());
        }
    })?;
    Ok(found)
}

/// Whether `path` is `dir` or in it.
pub(super) fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn differ(old: Option<&Entry>, new: Option<&Entry>) -> bool {
    let parts = |e: &Entry| (e.kind.clone(), e.mode, e.uid, e.gid, e.size, e.sum.clone());
    // Capabilities are not copied into containers when they are made, so they tell nothing.
    old.map(parts) != new.map(parts)
}

fn change(
    path: &str,
    class: Class,
    old: Option<&Entry>,
    new: Option<&Entry>,
    trees: &[PathBuf; 2],
) -> Result<Change> {
    let limit = match class {
        Class::Keyed(kind) => kind.limit(),
        _ => TEXT_LIMIT,
    };
    let merges = matches!(class, Class::Keyed(_) | Class::Generic);
    let small = |e: &Entry| e.kind == "file" && e.size <= limit;
    let texts = match (old, new) {
        (Some(a), Some(b)) if merges && small(a) && small(b) && a.sum != b.sum => {
            Some((read(&trees[0], path)?, read(&trees[1], path)?))
        }
        _ => None,
    };
    Ok(Change { path: path.into(), class, old: old.cloned(), new: new.cloned(), texts })
}

fn read(tree: &Path, path: &str) -> Result<Vec<u8>> {
    let path = host_path(tree, path);
    std::fs::read(&path).context(|| format!("cannot read {}", path.display()))
}

fn account_texts(tree: &Path, entries: &BTreeMap<String, Entry>) -> Result<accounts::Texts> {
    let mut texts = accounts::Texts::default();
    for (text, path) in texts.iter_mut().zip(ACCOUNTS) {
        if entries.get(path).is_some_and(|e| e.kind == "file") {
            *text = Some(String::from_utf8_lossy(&read(tree, path)?).into_owned());
        }
    }
    Ok(texts)
}

/// The directories outside `/usr` that ld.so.conf(5) names.
fn library_dirs(tree: &Path, entries: &BTreeMap<String, Entry>) -> Result<Vec<String>> {
    let mut dirs = Vec::new();
    let files = entries.values().filter(|e| {
        e.kind == "file" && LD_INPUTS.iter().any(|i| below(&e.path, i)) && e.size <= TEXT_LIMIT
    });
    for entry in files {
        let text = String::from_utf8_lossy(&read(tree, &entry.path)?).into_owned();
        for line in text.lines().map(str::trim).filter(|l| l.starts_with('/')) {
            let path = line.trim_start_matches('/');
            match path.strip_prefix("usr/local/") {
                Some(local) => dirs.push(format!("var/usrlocal/{local}")),
                None if class::is_private(path) && !path.starts_with("lib") => {
                    dirs.push(path.to_string());
                }
                None => {}
            }
        }
    }
    Ok(dirs)
}

/// What the change of `/usr` itself calls for.
fn inside(old: &BTreeMap<String, Entry>, new: &BTreeMap<String, Entry>) -> BTreeSet<Inside> {
    let changed = |dir: &str| {
        let range = |map: &'_ BTreeMap<String, Entry>| -> Vec<(String, String)> {
            // '0' comes right after '/'.
            let range = map.range(format!("{dir}/")..format!("{dir}0"));
            range.map(|(path, e)| (path.clone(), e.sum.clone())).collect()
        };
        range(old) != range(new)
    };
    ACTED_ON.into_iter().filter(|(_, dir)| changed(dir)).map(|(what, _)| what).collect()
}

fn usr_time(tree: &Path) -> Result<(i64, u64)> {
    let path = tree.join("usr");
    let time = std::fs::metadata(&path).and_then(|m| m.modified());
    let time = time.context(|| format!("cannot read {}", path.display()))?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((since.as_secs() as i64, u64::from(since.subsec_nanos())))
}
