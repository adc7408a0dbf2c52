//! What of the host's a container was given by its settings, mounts and device nodes, and how that
//! is changed while it runs.
//!
//! ```text
//! 1. look which of what it was given is still there       nothing is changed yet
//! 2. make what is new: detached, its flags locked
//! 3. write both into `given.json`                         so that a kill leaves nothing unknown
//! 4. put the new list of devices in the place of the old
//! 5. detach what goes, attach what comes                  by a helper with the power of the container's root
//! 6. write what is there now into `given.json`
//! ```
//!
//! A mount is known by its number and by the file that it shows, and both are known before it is
//! attached. So after a kill at any instruction the same steps lead on, or back. The caller holds
//! the container's lock. Places inside are its member's: they are looked up without links, and
//! made with no more power than its root has.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::aside::aside;
use super::devices::{self, Rule};
use super::inside::Inside;
use super::plan::Handed;
use super::{locked, parent};
use crate::error::{Error, Kind, Result};
use crate::store::running::State;
use crate::store::{atomic, journal};
use crate::sys::mount;
use crate::sys::mountinfo::Mount;
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{self, Named};

/// The file in the running state; it is not there for a container that was given nothing.
pub const FILE: &str = "given.json";
/// How many of a member's mounts over one of ours are looked under.
const COVERED: usize = 16;
/// The most places that are named to a person.
const PLACES: usize = 4;

/// A mount that coloc made in a container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Thing {
    /// What it is, as the plan says it: two with the same words are the same.
    what: String,
    /// Where it was attached.
    target: PathBuf,
    /// Whether it is a device node, and not a directory.
    node: bool,
    /// Device and inode of what it shows.
    file: (u64, u64),
    /// Its number.
    mount: u64,
}

impl Thing {
    fn new(handed: &Handed, fd: impl AsFd) -> Result<Self> {
        let stat = mount::stat(fd)?;
        Ok(Self {
            what: handed.to_string(),
            target: handed.target().to_path_buf(),
            node: matches!(handed, Handed::Device { .. }),
            file: stat.file,
            mount: stat.mount,
        })
    }
}

fn load(run: &Path) -> Result<Vec<Thing>> {
    Ok(atomic::read_json(&run.join(FILE))?.unwrap_or_default())
}

/// It means nothing in another boot, and so need not outlive a power cut.
fn save(run: &Path, things: &[Thing]) -> Result<()> {
    atomic::write_json_unsynced(&run.join(FILE), &things, 0o600)
}

/// Notes, at a start, what `handed` has become in the container whose first process is `pid` and
/// executes nothing of its own yet.
pub fn remember(run: &Path, pid: i32, handed: &[Handed]) -> Result<()> {
    if handed.is_empty() {
        return Ok(());
    }
    let root = open_dir(format!("/proc/{pid}/root"))?;
    let look =
        |h: &Handed| Thing::new(h, open_in(&root, h.target(), Links::Refuse, OFlags::PATH, 0)?);
    save(run, &handed.iter().map(look).collect::<Result<Vec<_>>>()?)
}

/// What a container that runs is to have.
#[derive(Debug)]
pub struct Wanted {
    /// The mounts and nodes of its settings; a mount comes before what is to be on it.
    pub handed: Vec<Handed>,
    /// The only devices that it may open; None for no such limit.
    pub rules: Option<Vec<Rule>>,
}

/// Has the container with this state and init have what is `wanted`, and nothing more that it was
/// given before; `run` is the directory of its running state. Gives what a person should know of
/// what went.
pub fn settle(state: &State, init: &OwnedFd, wanted: &Wanted, run: &Path) -> Result<Vec<String>> {
    let known = load(run)?;
    let there: Vec<bool> = aside(|| {
        let mounts = Inside::enter(init)?.mounts()?;
        Ok((known.iter().map(|t| mounts.iter().any(|m| m.id == t.mount)).collect(), vec![]))
    })?
    .0;
    let there = known.into_iter().zip(there).filter(|(_, there)| *there).map(|(t, _)| t).collect();
    let Sorted { kept, gone, new } = sort(there, &wanted.handed);
    let made = make(state, &new, run)?;
    let things =
        new.iter().zip(&made).map(|(h, fd)| Thing::new(h, fd)).collect::<Result<Vec<_>>>()?;
    save(run, &[&*kept, &*gone, &*things].concat())?;
    journal::step("give.written");
    if let Some(rules) = &wanted.rules {
        devices::confine(&state.cgroup, rules)?;
    }
    journal::step("give.listed");
    let notes = match gone.is_empty() && things.is_empty() {
        true => Vec::new(),
        false => aside(|| Ok((act(init, &gone, &things, &made, &kept)?, vec![])))?.0,
    };
    journal::step("give.changed");
    save(run, &[&*kept, &*things].concat())?;
    Ok(notes)
}

/// What there is and what is wanted, side by side.
struct Sorted<'a> {
    kept: Vec<Thing>,
    gone: Vec<Thing>,
    new: Vec<&'a Handed>,
}

/// What is the same stays, unless what it is mounted on changes.
fn sort(there: Vec<Thing>, wanted: &[Handed]) -> Sorted<'_> {
    let named: Vec<(String, &Handed)> = wanted.iter().map(|h| (h.to_string(), h)).collect();
    let (mut kept, mut gone): (Vec<Thing>, Vec<Thing>) =
        there.into_iter().partition(|t| named.iter().any(|(what, _)| *what == t.what));
    loop {
        let new = named.iter().filter(|(what, _)| kept.iter().all(|t| t.what != *what));
        let new: Vec<&Handed> = new.map(|(_, handed)| *handed).collect();
        let on = |place: &Path, t: &Thing| t.target != place && t.target.starts_with(place);
        let moved = |t: &Thing| {
            gone.iter().any(|g| on(&g.target, t)) || new.iter().any(|h| on(h.target(), t))
        };
        match kept.iter().position(moved) {
            Some(at) => gone.push(kept.remove(at)),
            None => return Sorted { kept, gone, new },
        }
    }
}

/// What is new, detached; the flags of a directory's mount are locked and proved to be.
fn make(state: &State, new: &[&Handed], run: &Path) -> Result<Vec<OwnedFd>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let userns = locked::user_namespace(state.init.pid)?;
    // Opened first, then seen to be of a process that still lives: the number was its own.
    if state.init.open().is_none() {
        return Err(Error::new(Kind::State, "the container ended meanwhile"));
    }
    let mut binds = Vec::new();
    for handed in new {
        if let Handed::Bind { attr, .. } = handed {
            binds.push((parent::bind(handed, &userns)?, *attr));
        }
    }
    let mut locked = match binds.is_empty() {
        true => Vec::new(),
        false => locked::lock(&binds, &userns, run)?.end()?.0,
    }
    .into_iter();
    let fd = |handed: &&Handed| match handed {
        Handed::Bind { .. } => {
            locked.next().ok_or_else(|| Error::failed("a locked mount is missing"))
        }
        Handed::Device { target, rdev, block } => parent::device(target, *rdev, *block),
    };
    new.iter().map(fd).collect()
}

/// The helper's part.
fn act(
    init: &OwnedFd,
    gone: &[Thing],
    new: &[Thing],
    made: &[OwnedFd],
    kept: &[Thing],
) -> Result<Vec<String>> {
    let inside = Inside::enter_as_its_root(init)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let ours: Vec<u64> = kept.iter().chain(gone).map(|t| t.mount).collect();
    let mut notes = Vec::new();
    let mut gone: Vec<&Thing> = gone.iter().collect();
    // What is mounted on another goes first.
    gone.sort_by(|a, b| b.target.cmp(&a.target));
    for thing in gone {
        notes.extend(inside.take_away(thing, &ours)?);
    }
    journal::step("give.taken");
    for (thing, fd) in new.iter().zip(made) {
        let place = inside.place(thing).map_err(|e| in_the_way(e, thing))?;
        mount::attach(fd, place)?;
    }
    Ok(notes)
}

fn in_the_way(e: sys::Error, thing: &Thing) -> Error {
    let at = thing.target.display();
    let why = match e.errno() {
        libc::ELOOP => "a link is in its path",
        libc::ENOTDIR => "something that is no directory is in its path",
        libc::EEXIST | libc::EISDIR => "something else is there",
        // On a directory of the host's, where root inside can make nothing, not even as itself.
        libc::EOVERFLOW | libc::EACCES | libc::EPERM | libc::EROFS => "there is no such directory",
        _ => return Error::from(e).context(format!("cannot put anything at {at} inside")),
    };
    Error::new(Kind::State, format!("cannot put anything at {at} inside: {why}"))
        .hint("have it moved out of the way, or choose another place")
}

impl Inside {
    /// Detaches `thing`, wherever somebody inside has moved it and whatever they have put over it.
    /// Gives what a person should know.
    fn take_away(&self, thing: &Thing, ours: &[u64]) -> Result<Vec<String>> {
        let (mut origin, mut notes) = (None, Vec::new());
        let place = thing.target.display();
        for _ in 0..COVERED {
            let mounts = self.mounts()?;
            let Some(own) = mounts.iter().find(|m| m.id == thing.mount) else { break };
            let Ok(top) = self.open(&own.at, OFlags::empty()) else { break };
            let stat = mount::stat(&top)?;
            if stat.mount != thing.mount {
                if self.detach(&top).is_err() {
                    break;
                }
                continue;
            }
            if stat.file != thing.file {
                // Ours is gone, and its number is another's by now.
                return Ok(notes);
            }
            origin = Some(own.origin.clone());
            drop(top);
            if !self.unmount_idle(&own.at)? {
                self.detach(&self.open(&own.at, OFlags::empty())?)?;
                notes.push(format!(
                    "{place} is in use: for programs inside that have it open it goes when they end"
                ));
            }
        }
        let mounts = self.mounts()?;
        if mounts.iter().any(|m| m.id == thing.mount) {
            notes.push(format!("{place} was covered or moved inside: it goes at the next restart"));
        }
        if thing.node {
            self.forget_node(&thing.target);
        }
        let copies = |m: &&Mount| origin.as_ref() == Some(&m.origin) && !ours.contains(&m.id);
        let copies: Vec<String> = mounts
            .iter()
            .filter(copies)
            .take(PLACES)
            .map(|m| m.at.to_string_lossy().chars().take(60).flat_map(char::escape_debug).collect())
            .collect();
        if !copies.is_empty() {
            let at = copies.join(", ");
            notes.push(format!(
                "{place} is mounted at {at} by somebody inside, until the next restart"
            ));
        }
        Ok(notes)
    }

    /// Unmounts what is at `at`; false if something in here, or in a namespace made here, uses it.
    fn unmount_idle(&self, at: &Path) -> Result<bool> {
        let (Some(above), Some(name)) = (at.parent(), at.file_name()) else { return Ok(false) };
        Ok(mount::unmount_idle(self.open(above, OFlags::DIRECTORY)?, name)?)
    }

    /// The place for `thing`, made if it is missing.
    fn place(&self, thing: &Thing) -> sys::Result<OwnedFd> {
        let (target, node) = (&thing.target, thing.node);
        let flags = if node { OFlags::empty() } else { OFlags::DIRECTORY };
        match self.open(target, flags) {
            Ok(there) if !node => return Ok(there),
            Ok(there) if is_file(&there)? => return Ok(there),
            Ok(_) => return Err(sys::Error::new(format!("open({target:?})"), libc::EEXIST)),
            Err(e) if e.errno() == libc::ENOENT => {}
            Err(e) => return Err(e),
        }
        let mut dir = self.root.try_clone().named(|| "dup".into())?;
        let mut names: Vec<_> = target.components().skip(1).map(|c| c.as_os_str()).collect();
        let last = if node { names.pop() } else { None };
        for name in names {
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Err(rustix::io::Errno::EXIST) => {}
                other => other.named(|| format!("mkdirat({name:?})"))?,
            }
            dir = open_in(&dir, name, Links::Refuse, OFlags::PATH | OFlags::DIRECTORY, 0)?;
        }
        let Some(name) = last else { return Ok(dir) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        drop(open_in(&dir, name, Links::Refuse, flags, 0o644)?);
        open_in(&dir, name, Links::Refuse, OFlags::PATH, 0)
    }

    /// Removes the empty file that a node was bound to. If it stays it is in nobody's way.
    fn forget_node(&self, target: &Path) {
        let (Some(above), Some(name)) = (target.parent(), target.file_name()) else { return };
        let Ok(above) = self.open(above, OFlags::DIRECTORY) else { return };
        let there = open_in(&above, name, Links::Refuse, OFlags::PATH, 0);
        if there.is_ok_and(|fd| is_file(fd).unwrap_or(false)) {
            let _ = rustix::fs::unlinkat(&above, name, AtFlags::empty());
        }
    }
}

/// Whether `fd` is an empty regular file, as nodes are bound to.
fn is_file(fd: impl AsFd) -> sys::Result<bool> {
    let stat = rustix::fs::fstat(fd).named(|| "fstat".into())?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::Ids;
    use crate::sys::mount::Attr;

    fn bind(source: &str, target: &str) -> Handed {
        Handed::Bind {
            source: source.into(),
            target: target.into(),
            attr: Attr::NODEV,
            ids: Ids::Same,
        }
    }

    fn thing(handed: &Handed) -> Thing {
        let (what, target) = (handed.to_string(), handed.target().to_path_buf());
        Thing { what, target, node: false, file: (1, 2), mount: 3 }
    }

    fn sorted(there: &[Handed], wanted: &[Handed]) -> [Vec<PathBuf>; 3] {
        let Sorted { kept, gone, new } = sort(there.iter().map(thing).collect(), wanted);
        let places = |t: Vec<Thing>| t.into_iter().map(|t| t.target).collect();
        [places(kept), places(gone), new.iter().map(|h| h.target().to_path_buf()).collect()]
    }

    #[test]
    fn what_is_the_same_stays() {
        let (a, b, c) = (bind("/1", "/a"), bind("/2", "/b"), bind("/3", "/b"));
        let [kept, gone, new] = sorted(&[a.clone(), b], &[a, c]);
        assert_eq!((kept, gone, new), (vec!["/a".into()], vec!["/b".into()], vec!["/b".into()]));
    }

    #[test]
    fn what_is_on_something_that_changes_is_made_anew() {
        let on = [bind("/2", "/a/b"), bind("/3", "/a/b/c"), bind("/4", "/ab")];
        let mut there = vec![bind("/1", "/a")];
        there.extend(on.clone());
        // Taken away from below them, put below them.
        for (there, wanted) in [(&there[..], &on[..]), (&on[..], &there[..])] {
            let [kept, gone, new] = sorted(there, wanted);
            assert_eq!(kept, [PathBuf::from("/ab")]);
            assert!(gone.contains(&"/a/b".into()) && gone.contains(&"/a/b/c".into()));
            assert!(new.contains(&"/a/b".into()) && new.contains(&"/a/b/c".into()));
            assert_eq!(gone.len() + new.len(), 5);
        }
    }
}
