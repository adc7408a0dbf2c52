//! What still runs old code: the processes of a container that map files of a generation which is
//! not the container's any more.
//!
//! From the host, by reading /proc and the manifests; nothing of a container is run, no path
//! of it is opened, and no memory of it is read (a command line is memory: its owner could make
//! whoever reads it wait for ever). All text that a process has a say in is escaped.
//!
//! A swap does not show in a process's maps: no `(deleted)`, no path that begins with `/usr`. What
//! tells is the inode, as generations share the inodes of what is the same in both.

mod index;
mod plan;
mod process;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

pub use index::Index;
pub use plan::{Left, restart_plan};
pub use process::{Mapping, each_mapping, moment, start_in, user_in};

use crate::error::Result;
use crate::store::running::State;
use crate::sys::path::open_dir;
use crate::tree::accounts::{self, User};
use crate::tree::cgroups;
use crate::tree::file::{self, printable};

/// An account file of a member's that is larger than this is not one.
const ACCOUNT_LIMIT: u64 = 8 << 20;

/// A container to look into. The index is of its base, with the generation that it is at now.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its name.
    pub container: &'a str,
    /// Its running state.
    pub state: &'a State,
    /// The host's number for its id 0.
    pub ids_start: u32,
    /// Its private tree.
    pub private: &'a Path,
    /// When its `/usr` was last swapped since it was started, as [`moment`] tells time; None if
    /// it never was, and then there is nothing to find.
    pub swapped: Option<u64>,
}

/// How sure it is that a process runs old code.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Certainty {
    /// It maps a file of another generation.
    #[serde(rename = "exact")]
    Exact,
    /// Its unit has a `/usr` of its own, bound from another generation: whatever it starts is
    /// old too.
    #[serde(rename = "restart unit")]
    RestartUnit,
    /// It is older than the swap, and an interpreter of a language whose modules have changed; or
    /// a package that changed asked for a restart of its unit.
    #[serde(rename = "maybe")]
    Maybe,
}

impl Certainty {
    /// The word in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::RestartUnit => "restart unit",
            Self::Maybe => "maybe",
        }
    }
}

/// A process that runs old code, and one package of which it does.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stale {
    /// The container.
    pub container: String,
    /// The process's pid on the host.
    pub pid: i32,
    /// Its user inside: a name, or a number that has none.
    pub user: String,
    /// The unit of the container's systemd that it belongs to, with the user's own behind a
    /// slash; `.coloc` for what was brought in by coloc, and empty where there are no units.
    pub unit: String,
    /// The name of its program, as the kernel keeps it.
    pub command: String,
    /// The package whose old file it maps.
    pub package: Option<String>,
    /// The first such file.
    pub file: Option<String>,
    /// How sure this is.
    pub certainty: Certainty,
}

/// The stale processes of one container, by pid and package.
pub fn stale(target: &Target<'_>, index: &Index) -> Result<Vec<Stale>> {
    let asked = &target.state.asked;
    let Some(swapped) = target.swapped.filter(|_| !index.is_empty() || !asked.is_empty()) else {
        return Ok(Vec::new());
    };
    let users = users(target.private);
    let own_view = process::view(target.state.init.pid);
    let mut views: HashMap<process::View, bool> = HashMap::new();
    let mut found = Vec::new();
    for (unit, pid) in processes(&target.state.cgroup) {
        let Some(started) = process::start(pid) else { continue };
        let mut rows = mapped(pid, index);
        if rows.is_empty() {
            let bound = process::view(pid).filter(|v| Some(v) != own_view.as_ref());
            // Many processes share a view, and its text is long.
            let old = bound
                .is_some_and(|view| *views.entry(view).or_insert_with(|| sees_old(pid, index)));
            if old {
                rows.push((None, None, Certainty::RestartUnit));
            } else if asked.get(&unit).is_some_and(|moment| started < *moment)
                || started < swapped && process::languages(pid, index)
            {
                rows.push((None, None, Certainty::Maybe));
            }
        }
        if rows.is_empty() {
            continue;
        }
        let user = process::user(pid).map_or_else(String::new, |uid| {
            user_name(&users, uid.checked_sub(target.ids_start), uid)
        });
        found.extend(rows.into_iter().map(|(package, file, certainty)| {
            let stale = Stale {
                container: target.container.into(),
                pid,
                user: user.clone(),
                unit: unit.clone(),
                command: process::command(pid),
                package,
                file,
                certainty,
            };
            (started, stale)
        }));
    }
    // A number may by now be another's, even one of the host's. What has it in the container, and began when
    // the one did that was looked at, had it all the time.
    let there: HashSet<i32> = match found.is_empty() {
        true => HashSet::new(),
        false => cgroups::processes(&target.state.cgroup).into_iter().collect(),
    };
    found.retain(|(started, s)| there.contains(&s.pid) && process::start(s.pid) == Some(*started));
    let mut found: Vec<Stale> = found.into_iter().map(|(_, stale)| stale).collect();
    found.sort_by(|a, b| (a.pid, &a.package).cmp(&(b.pid, &b.package)));
    Ok(found)
}

/// How many processes a list is of that has a line for each package that one runs old code of.
pub fn processes_in<'a>(stale: impl IntoIterator<Item = &'a Stale>) -> usize {
    stale.into_iter().map(|s| (&s.container, s.pid)).collect::<BTreeSet<_>>().len()
}

/// The packages whose old files `pid` maps, each with the first of them.
fn mapped(pid: i32, index: &Index) -> Vec<(Option<String>, Option<String>, Certainty)> {
    let mut by_package: BTreeMap<Option<String>, String> = BTreeMap::new();
    for old in process::old_files(pid, index) {
        let file = format!("/{}", old.path);
        let first = by_package.entry(index.package(old)).or_insert_with(|| file.clone());
        if file < *first {
            *first = file;
        }
    }
    let row = |(package, file)| (package, Some(file), Certainty::Exact);
    by_package.into_iter().map(row).collect()
}

/// Whether the mounts that `pid` sees at `/usr` and below are, one at least, of another generation.
fn sees_old(pid: i32, index: &Index) -> bool {
    process::mounts(pid).is_some_and(|mounts| index.shows_old(&mounts).is_some())
}

/// Which of the other generations of `index` something in the cgroup `payload` still maps or
/// sees, as numbers in the order in which they were given to it.
pub fn in_use(payload: &Path, index: &Index) -> BTreeSet<usize> {
    let mut used = BTreeSet::new();
    let mut views: HashSet<process::View> = HashSet::new();
    for pid in cgroups::processes(payload) {
        used.extend(process::old_files(pid, index).iter().map(|old| old.generation));
        if process::view(pid).is_some_and(|view| views.insert(view)) {
            used.extend(process::mounts(pid).and_then(|mounts| index.shows_old(&mounts)));
        }
    }
    used
}

fn users(private: &Path) -> Vec<User> {
    let read = || -> Result<Vec<User>> {
        let bytes = file::read(open_dir(private)?, "etc/passwd", ACCOUNT_LIMIT)?;
        Ok(accounts::users(&String::from_utf8_lossy(&bytes)))
    };
    // It is the member's file; without it there are numbers.
    read().unwrap_or_default()
}

fn user_name(users: &[User], inside: Option<u32>, outside: u32) -> String {
    let known = users.iter().find(|u| Some(u.uid) == inside);
    known.map_or_else(|| inside.unwrap_or(outside).to_string(), |u| printable(&u.name))
}

/// Every process of the cgroup `payload` and below, with its unit.
fn processes(payload: &Path) -> Vec<(String, i32)> {
    let mut found = Vec::new();
    cgroups::each(payload, |names, pids| {
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        let unit = unit(&names.join("/"));
        found.extend(pids.iter().map(|pid| (unit.clone(), *pid)));
    });
    found
}

/// The unit that a cgroup, by its path below the container's, belongs to.
fn unit(path: &str) -> String {
    let is_unit = |part: &&str| {
        [".service", ".scope", ".mount", ".socket", ".swap"].iter().any(|end| part.ends_with(end))
    };
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    if path == ".coloc" || path.starts_with(".coloc/") {
        return ".coloc".into();
    }
    let Some(first) = parts.find(is_unit) else { return String::new() };
    // A user's systemd has units of its own below its service.
    match first.starts_with("user@").then(|| parts.find(is_unit)).flatten() {
        Some(own) => printable(&format!("{first}/{own}")),
        None => printable(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_by_cgroup() {
        for (path, word) in [
            ("system.slice/nginx.service", "nginx.service"),
            ("system.slice/docker.service/inner/x.service", "docker.service"),
            ("system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            ("user.slice/user-1000.slice/session-c1.scope", "session-c1.scope"),
            (
                "user.slice/user-1000.slice/user@1000.service/app.slice/a.service",
                "user@1000.service/a.service",
            ),
            ("user.slice/user-0.slice/user@0.service/init.scope", "user@0.service/init.scope"),
            ("init.scope", "init.scope"),
            (".coloc", ".coloc"),
            ("a\x1bb.service", "a\\u{1b}b.service"),
            ("", ""),
            ("system.slice", ""),
        ] {
            assert_eq!(unit(path), word);
        }
    }

    #[test]
    fn ids_without_a_name_are_numbers() {
        let users = accounts::users("root:x:0:0::/root:/bin/sh\nmi\x1b[m:x:5:5::/:/bin/sh\n");
        assert_eq!(user_name(&users, Some(0), 100_000), "root");
        assert_eq!(user_name(&users, Some(5), 100_005), "mi\\u{1b}[m");
        assert_eq!(user_name(&users, Some(7), 100_007), "7");
        assert_eq!(user_name(&users, None, 65_534), "65534");
    }

    #[test]
    fn json_has_the_documented_words() {
        let row = Stale {
            container: "alice".into(),
            pid: 7,
            user: "root".into(),
            unit: "nginx.service".into(),
            command: "nginx".into(),
            package: Some("libssl3".into()),
            file: Some("/usr/lib/libssl.so.3".into()),
            certainty: Certainty::RestartUnit,
        };
        let again = Stale { package: None, ..row.clone() };
        let another = Stale { pid: 8, ..row.clone() };
        assert_eq!(processes_in(&[row.clone(), again, another]), 2);
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            "{\"container\":\"alice\",\"pid\":7,\"user\":\"root\",\"unit\":\"nginx.service\",\
             \"command\":\"nginx\",\"package\":\"libssl3\",\"file\":\"/usr/lib/libssl.so.3\",\
             \"certainty\":\"restart unit\"}"
        );
        for one in [Certainty::Exact, Certainty::RestartUnit, Certainty::Maybe] {
            assert_eq!(serde_json::to_value(one).unwrap(), one.word());
        }
    }
}
