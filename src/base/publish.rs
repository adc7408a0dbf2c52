//! From a tree to an immutable generation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FileType;

use super::ids::Rules;
use super::{guard, ids, strip};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::Named;
use crate::tree::inside::Inside;
use crate::tree::manifest;

/// Where a base has its package database, below the tree; `/var/lib/dpkg` is a link to it.
const DPKG: &str = "usr/lib/sysimage/dpkg";

/// What became a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// How many packages are installed in it.
    pub packages: usize,
    /// The size of its files, hard links counted once.
    pub bytes: u64,
    /// How many paths it has.
    pub files: usize,
    /// System accounts whose ids were moved below 500: name → new id.
    pub moved_ids: BTreeMap<String, u32>,
}

/// Turns `tree` in `generation_dir` into an immutable generation, and writes `packages` and
/// `manifest` beside it. When this returns, all of it is on disk. Each step can be done again,
/// so after a failure the whole can.
pub fn publish(generation_dir: &Path) -> Result<Published> {
    let path = generation_dir.join("tree");
    nothing_mounted(&path)?;
    let moved_ids = prepare(&path, &Rules::default())?;
    let entries = manifest::scan(&path)?;
    conclude(generation_dir, &entries, moved_ids)
}

/// Makes of the whole system at `path` what a generation's tree is. Gives the ids that moved.
pub(super) fn prepare(path: &Path, rules: &Rules<'_>) -> Result<BTreeMap<String, u32>> {
    let tree = Inside::open(path)?;
    check(&tree)?;
    move_dpkg(&tree)?;
    move_local(&tree)?;
    strip::strip(&tree).context(|| "cannot strip the base of what is one machine's own")?;
    guard::write(&tree).context(|| "cannot write the guard of the base's packages")?;
    ids::settle(&tree, path, rules).context(|| "cannot move the base's system ids")
}

/// Writes what stands beside a generation's tree, and then everything to disk.
pub(super) fn conclude(
    generation_dir: &Path,
    entries: &[manifest::Entry],
    moved_ids: BTreeMap<String, u32>,
) -> Result<Published> {
    let tree = Inside::open(&generation_dir.join("tree"))?;
    let packages = installed(&status_of(&tree)?);
    let text: String = packages.iter().map(|p| format!("{}\n", p.line())).collect();
    put(&generation_dir.join("packages"), text.as_bytes())?;
    put(&generation_dir.join("manifest"), manifest::text(entries).as_bytes())?;
    let dir = std::fs::File::open(generation_dir)
        .context(|| format!("cannot open {}", generation_dir.display()))?;
    rustix::fs::syncfs(&dir).named(|| "syncfs".into())?;
    let mut seen = BTreeSet::new();
    let once = entries.iter().filter(|e| seen.insert(e.inode));
    let bytes = once.map(|e| e.size).sum();
    Ok(Published { packages: packages.len(), bytes, files: entries.len(), moved_ids })
}

/// Writes a file of a generation that nobody has seen yet: one sync of all is to come.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .context(|| format!("cannot write {}", path.display()))
}

/// The text of dpkg's status file; empty where there is none.
pub(super) fn status_of(tree: &Inside) -> Result<String> {
    Ok(tree.text(&format!("{DPKG}/status"))?.unwrap_or_default())
}

/// The installed packages of a generation: name and version, by name.
pub fn packages(generation_dir: &Path) -> Result<Vec<(String, String)>> {
    let list = package_list(generation_dir)?;
    Ok(list.into_iter().map(|p| (p.name, p.version)).collect())
}

/// The installed packages of a generation, by name.
pub(super) fn package_list(generation_dir: &Path) -> Result<Vec<Package>> {
    let path = generation_dir.join("packages");
    let text =
        std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(n, line)| {
            Package::parse(line).ok_or_else(|| {
                let place = format!("{} is damaged: line {}", path.display(), n + 1);
                Error::new(Kind::Damaged, place)
            })
        })
        .collect()
}

/// A package as dpkg has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture; `-` where dpkg says none.
    pub architecture: String,
}

impl Package {
    fn line(&self) -> String {
        format!("{}\t{}\t{}", self.name, self.version, self.architecture)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').map(str::to_string);
        let (name, version) = fields.next().zip(fields.next())?;
        Some(Self { name, version, architecture: fields.next().unwrap_or("-".into()) })
    }
}

/// Refuses a tree with something mounted in it: what is stripped could be the host's own.
fn nothing_mounted(tree: &Path) -> Result<()> {
    let tree = std::fs::canonicalize(tree).context(|| format!("cannot read {}", tree.display()))?;
    let table = std::fs::read("/proc/self/mountinfo").context(|| "cannot read the mounts")?;
    for line in table.split(|b| *b == b'\n') {
        let Some(escaped) = line.split(|b| *b == b' ').nth(4) else { continue };
        let point = unescape(escaped);
        let point = Path::new(std::ffi::OsStr::from_bytes(&point));
        if point != tree && point.starts_with(&tree) {
            return Err(Error::new(Kind::State, format!("{} is mounted", point.display()))
                .hint(format!("umount {}", point.display())));
        }
    }
    Ok(())
}

/// A path of mountinfo: space, tab, newline and backslash are `\` and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a, b, c, ..] if *first == b'\\' => std::str::from_utf8(&[*a, *b, *c])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok()),
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    out
}

/// Refuses what is no merged-/usr system: its programs would not be in what is shared.
fn check(tree: &Inside) -> Result<()> {
    for dir in ["usr", "etc", "var"] {
        if tree.kind(dir)? != Some(FileType::Directory) {
            return Err(Error::new(Kind::State, format!("the tree has no directory /{dir}"))
                .hint("it must be the root directory of a whole system"));
        }
    }
    for dir in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let needed = matches!(dir, "bin" | "sbin" | "lib");
        if tree.kind(dir)?.is_none() && !needed {
            continue;
        }
        let target = tree.link(dir)?.unwrap_or_default();
        if !target.trim_start_matches(['/', '.']).trim_end_matches('/').starts_with("usr/") {
            return Err(Error::new(
                Kind::State,
                format!(
                    "/{dir} of the tree is no link into /usr, so /usr is not all of the system"
                ),
            )
            .hint("install the package usrmerge in it first; Debian has it by default since 12"));
        }
    }
    Ok(())
}

/// The package database goes with the `/usr` that it describes.
fn move_dpkg(tree: &Inside) -> Result<()> {
    let moved = tree.kind(DPKG)?.is_some();
    match tree.kind("var/lib/dpkg")? {
        Some(FileType::Directory) if moved => {
            return Err(Error::new(
                Kind::State,
                format!("the tree has two package databases, /var/lib/dpkg and /{DPKG}"),
            )
            .hint("remove the one that is not the system's"));
        }
        Some(FileType::Directory) => {
            tree.make_dir("usr/lib/sysimage")?;
            tree.rename("var/lib/dpkg", DPKG)?;
        }
        _ if !moved => return Ok(()),
        _ => {}
    }
    tree.symlink("../../usr/lib/sysimage/dpkg", "var/lib/dpkg")
}

/// `/usr/local` is a container's own.
fn move_local(tree: &Inside) -> Result<()> {
    if tree.kind("usr/local")? == Some(FileType::Directory) {
        if !tree.names("var/usrlocal")?.is_empty() {
            return Err(Error::new(Kind::State, "the tree has both /usr/local and /var/usrlocal")
                .hint("move what is needed to /var/usrlocal and remove /usr/local"));
        }
        tree.remove("var/usrlocal")?;
        tree.rename("usr/local", "var/usrlocal")?;
    }
    tree.make_dir("var/usrlocal")?;
    tree.symlink("../var/usrlocal", "usr/local")
}

/// The packages of a dpkg status file that are in the state `installed`.
pub fn installed(status: &str) -> Vec<Package> {
    let mut list: Vec<Package> = in_state(status, |state| state == "installed").collect();
    list.sort();
    list
}

/// The packages of a dpkg status file that are neither installed nor gone.
pub fn unfinished(status: &str) -> Vec<Package> {
    let rest = ["installed", "not-installed", "config-files"];
    in_state(status, |state| !rest.contains(&state)).collect()
}

fn in_state<'a>(
    status: &'a str,
    wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = Package> + 'a {
    status.split("\n\n").filter_map(move |text| {
        let field = |name: &str| {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
        };
        let state = field("Status")?.split_whitespace().nth(2)?;
        let (name, version) = (field("Package")?, field("Version").unwrap_or_default());
        let architecture = field("Architecture").unwrap_or("-").to_string();
        let package = || Package { name: name.into(), version: version.into(), architecture };
        wanted(state).then(package)
    })
}

#[cfg(test)]
mod tests;
