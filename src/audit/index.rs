//! What is old in a base: the files of its other generations that its current one does not have.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::sys::mount;
use crate::sys::mountinfo::{self, Mount, Origin};
use crate::sys::path::open_dir;
use crate::tree::inside::Inside;
use crate::tree::manifest::{self, Line};

/// Where a generation keeps what dpkg knows.
const LISTS: &str = "usr/lib/sysimage/dpkg/info";

/// A file that the current generation does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// Its path below the tree, control characters escaped.
    pub path: String,
    /// Which of the other generations has it; the first that was named.
    pub(super) generation: usize,
}

/// One generation that is not the current one.
#[derive(Debug)]
struct Other {
    dir: PathBuf,
    usr: Origin,
    packages: OnceCell<HashMap<String, String>>,
}

/// The old files of a base by inode. It is built once for all containers that are at `current`.
#[derive(Debug)]
pub struct Index {
    device: (u32, u32),
    stat_device: u64,
    others: Vec<Other>,
    old: HashMap<u64, Old>,
    interpreters: HashMap<u64, Language>,
    changed: HashSet<Language>,
}

/// A language whose programs load modules that they do not map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Language {
    Python,
    Perl,
    Ruby,
    Node,
    Php,
    Guile,
    Lua,
    Tcl,
}

use Language::{Guile, Lua, Node, Perl, Php, Python, Ruby, Tcl};

/// How the names of interpreters and of module directories begin.
const LANGUAGES: [(&str, Language); 12] = [
    ("python", Python),
    ("pypy", Python),
    ("perl", Perl),
    ("ruby", Ruby),
    ("node", Node),
    ("php", Php),
    ("guile", Guile),
    ("luajit", Lua),
    ("lua", Lua),
    ("tclsh", Tcl),
    ("tcltk", Tcl),
    ("tcl", Tcl),
];

fn by_name(name: &str) -> Option<Language> {
    LANGUAGES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, language)| *language)
}

/// The language of an interpreter, or of the library that another program embeds it by.
fn interpreter(path: &str) -> Option<Language> {
    let (dir, name) = path.rsplit_once('/')?;
    match dir {
        "usr/bin" | "usr/sbin" => by_name(name),
        _ if name.contains(".so") => by_name(name.strip_prefix("lib")?),
        _ => None,
    }
}

/// The language of a module. What is mapped is found exactly and does not count.
fn module(path: &str) -> Option<Language> {
    if path.contains(".so") || path.contains("__pycache__") {
        return None;
    }
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["usr", "share", dir, _, ..] => by_name(dir),
        // Some are below the architecture's own directory.
        ["usr", "lib", dir, _, ..] if by_name(dir).is_some() => by_name(dir),
        ["usr", "lib", _, dir, _, ..] => by_name(dir),
        _ => None,
    }
}

impl Index {
    /// Compares the manifest of the generation in `current` with those in `others`.
    pub fn build(current: &Path, others: &[PathBuf]) -> Result<Self> {
        let usr = current.join("tree/usr");
        let mut index = Self {
            device: mountinfo::origin(&usr)?.device,
            stat_device: mount::stat(open_dir(&usr)?)?.file.0,
            others: Vec::new(),
            old: HashMap::new(),
            interpreters: HashMap::new(),
            changed: HashSet::new(),
        };
        let mut now = HashSet::new();
        manifest::each(current, |line| {
            now.insert(line.inode);
            index.add_interpreter(line);
        })?;
        for dir in others {
            manifest::each(dir, |line| {
                index.add_interpreter(line);
                index.add_old(line, &now);
            })?;
            let usr = mountinfo::origin(&dir.join("tree/usr"))?;
            index.others.push(Other { dir: dir.clone(), usr, packages: OnceCell::new() });
        }
        Ok(index)
    }

    fn add_interpreter(&mut self, line: Line<'_>) {
        if let ("file", Some(language)) = (line.kind, interpreter(line.path)) {
            self.interpreters.insert(line.inode, language);
        }
    }

    fn add_old(&mut self, line: Line<'_>, now: &HashSet<u64>) {
        let generation = self.others.len();
        let in_usr = line.kind == "file" && line.path.starts_with("usr/");
        if !in_usr || now.contains(&line.inode) {
            return;
        }
        self.changed.extend(module(line.path));
        // A file of several names goes by the first.
        self.old.entry(line.inode).or_insert_with(|| Old { path: line.path.into(), generation });
    }

    /// Whether nothing is old.
    pub fn is_empty(&self) -> bool {
        self.old.is_empty()
    }

    /// The package that had an old file, by the lists of its own generation.
    pub fn package(&self, old: &Old) -> Option<String> {
        let other = self.others.get(old.generation)?;
        let packages = other.packages.get_or_init(|| {
            let mine = self.old.values().filter(|o| o.generation == old.generation);
            owners(&other.dir.join("tree"), &mine.map(|o| o.path.as_str()).collect())
        });
        packages.get(&old.path).cloned()
    }

    pub(super) fn old(&self, inode: u64) -> Option<&Old> {
        self.old.get(&inode)
    }

    /// The device that the base's files have in /proc/PID/maps.
    pub(super) fn device(&self) -> (u32, u32) {
        self.device
    }

    /// The device that they have for stat(2).
    pub(super) fn stat_device(&self) -> u64 {
        self.stat_device
    }

    /// Whether these two are the same, so that no other file can have such an inode.
    pub(super) fn maps_tell_all(&self) -> bool {
        self.stat_device == rustix::fs::makedev(self.device.0, self.device.1)
    }

    pub(super) fn any_language_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(super) fn language_changed(&self, inode: u64) -> bool {
        self.interpreters.get(&inode).is_some_and(|language| self.changed.contains(language))
    }

    /// Which of the other generations `/usr` as seen with these mounts, or a part of it, is of.
    pub(super) fn shows_old(&self, mounts: &[Mount]) -> Option<usize> {
        let old = |mount: &Mount| {
            self.others.iter().position(|other| {
                mount.origin.device == other.usr.device
                    && mount.origin.root.starts_with(&other.usr.root)
            })
        };
        // One that another is mounted on is not seen.
        let seen = |mount: &&Mount| {
            mount.at.starts_with("/usr") && mountinfo::top(mounts, &mount.at) == Some(*mount)
        };
        mounts.iter().filter(seen).find_map(old)
    }
}

/// The packages of the files in `wanted`, by dpkg's lists in `dir`. With a merged /usr a list
/// may say /lib/x for what is usr/lib/x. Whoever made the base may have put anything there.
fn owners(tree: &Path, wanted: &HashSet<&str>) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let Ok(tree) = Inside::open(tree) else { return found };
    for name in tree.names(LISTS).unwrap_or_default() {
        let Some(bare) = name.strip_suffix(".list") else { continue };
        let package = bare.split(':').next().unwrap_or(bare);
        let Ok(Some(text)) = tree.bytes(&format!("{LISTS}/{name}")) else { continue };
        for line in String::from_utf8_lossy(&text).lines() {
            let path = line.trim_start_matches('/');
            let merged = format!("usr/{path}");
            for path in [path, &merged] {
                if wanted.contains(path) {
                    found.insert(path.to_string(), package.to_string());
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_and_their_modules() {
        for (path, language) in [
            ("usr/bin/python3.11", Some(Python)),
            ("usr/bin/perl", Some(Perl)),
            ("usr/sbin/php-fpm8.2", Some(Php)),
            ("usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", Some(Python)),
            ("usr/lib/x86_64-linux-gnu/libperl.so.5.36.0", Some(Perl)),
            ("usr/lib/x86_64-linux-gnu/libssl.so.3", None),
            ("usr/bin/bash", None),
        ] {
            assert_eq!(interpreter(path), language, "{path}");
        }
        for (path, language) in [
            ("usr/lib/python3/dist-packages/apt/cache.py", Some(Python)),
            ("usr/lib/python3.11/ssl.py", Some(Python)),
            ("usr/lib/python3/dist-packages/x.cpython-311.so", None),
            ("usr/lib/python3.11/__pycache__/ssl.cpython-311.pyc", None),
            ("usr/lib/x86_64-linux-gnu/perl-base/strict.pm", Some(Perl)),
            ("usr/share/perl5/Debconf/Db.pm", Some(Perl)),
            ("usr/share/nodejs/npm/index.js", Some(Node)),
            ("usr/share/doc/python3/copyright", None),
            ("usr/share/python3", None),
            ("usr/lib/systemd/system/x.service", None),
        ] {
            assert_eq!(module(path), language, "{path}");
        }
    }

    #[test]
    fn a_view_with_an_old_usr_on_top_is_old() {
        let usr = |n: u32| Origin { device: (254, 0), root: format!("/b/{n}/tree/usr").into() };
        let index = Index {
            device: (254, 0),
            stat_device: 0,
            others: vec![Other { dir: "/b/1".into(), usr: usr(1), packages: OnceCell::new() }],
            old: HashMap::new(),
            interpreters: HashMap::new(),
            changed: HashSet::new(),
        };
        let mount =
            |id, parent, origin: Origin, at: &str| Mount { id, parent, origin, at: at.into() };
        let new = mount(2, 1, usr(2), "/usr");
        // A unit's own bind stays on top of what the swap brought.
        assert!(index.shows_old(&[new.clone(), mount(3, 2, usr(1), "/usr")]).is_some());
        assert!(
            index.shows_old(&[mount(3, 1, usr(1), "/usr"), mount(2, 3, usr(2), "/usr")]).is_none()
        );
        assert!(index.shows_old(std::slice::from_ref(&new)).is_none());
        let mut part = usr(1);
        part.root.push("lib");
        assert!(index.shows_old(&[new.clone(), mount(3, 2, part.clone(), "/usr/lib")]).is_some());
        assert!(index.shows_old(&[new, mount(3, 1, part, "/srv/lib")]).is_none());
        assert!(index.shows_old(&[mount(2, 1, usr(12), "/usr")]).is_none());
    }

    #[test]
    fn lists_name_owners_through_a_merged_usr() {
        let dir = std::env::temp_dir().join(format!("coloc-owners-{}", std::process::id()));
        let lists = dir.join(LISTS);
        std::fs::create_dir_all(&lists).unwrap();
        let write = |name: &str, text: &str| {
            crate::store::atomic::write(&lists.join(name), text.as_bytes(), 0o600).unwrap();
        };
        nix::unistd::mkfifo(&lists.join("pipe.list"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/usr/bin/true", lists.join("out.list")).unwrap();
        write("libc6:amd64.list", "/.\n/lib\n/lib/x/libc.so.6\n/usr/share/doc/libc6\n");
        write("true.list", "/usr/bin/true\n");
        write("other.md5sums", "/usr/bin/true\n");
        let wanted = HashSet::from(["usr/lib/x/libc.so.6", "usr/bin/true", "usr/bin/x"]);
        let found = owners(&dir, &wanted);
        crate::tree::remove(&dir).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found["usr/lib/x/libc.so.6"], "libc6");
        assert_eq!(found["usr/bin/true"], "true");
    }
}
