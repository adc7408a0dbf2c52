//! The swap of a running container's `/usr` from one generation to another.
//!
//! ```text
//! Beneath (Linux 6.5)                        Frozen
//! 1. lock the new mount's flags, prove it    1. the same
//! 2. attach it beneath the old one           2. write the marker, freeze the container
//! 3. copy over what is mounted in the old    3. detach the old one
//! 4. detach the old one                      4. attach the new one, and what was mounted in it
//! 5. look                                    5. look, thaw, remove the marker
//! ```
//!
//! Beneath, there is no moment at which a path in `/usr` leads nowhere or to a mixture: a name is
//! looked up in the old tree before step 4 and in the new one after it. Frozen, nobody is there
//! to look. Programs keep the files of the old generation that they have open or mapped.
//!
//! A kill at any instruction leaves what the next call finishes, wherever that leads: a second look
//! tells a new mount that is in its place already, or beneath, or a `/usr` that is missing while
//! the marker says who took it away. The caller holds the container's lock. What runs inside does not know
//! of it, and may mount and unmount as it likes meanwhile: the old mount is only ever named by a
//! descriptor that was looked at, and the worst that comes of a race is the container's own loss.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::aside::{Helper, aside};
use super::cgroup;
use super::held::{self, Marker};
use super::inside::Inside;
use super::locked::{self, USR};
use crate::error::{Error, Kind, Result};
use crate::store::journal;
use crate::store::running::State;
use crate::sys;
use crate::sys::mount::{self, Stat};
use crate::sys::mountinfo::{self, Mount, Origin};
use crate::sys::path::{Links, open_dir, open_in};

/// The environment variable that, set to `frozen`, makes every swap one of that kind.
pub const FORCE: &str = "COLOC_SWAP";
/// The most mounts in `/usr` that are carried over, and the most that are named as lost.
const SUBMOUNTS: usize = 256;
/// How many generations beneath others are brought to light; a member's own binds of `/usr` look
/// the same, and there may be any number of those.
const BENEATH: usize = 8;
const NAMED: usize = 8;

/// How a swap was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The new mount went beneath the old one.
    Beneath,
    /// The container was frozen meanwhile.
    Frozen,
}

/// What is to be swapped.
#[derive(Debug, Clone, Copy)]
pub struct Swap<'a> {
    /// The container's running state.
    pub state: &'a State,
    /// Its init.
    pub init: &'a OwnedFd,
    /// The `usr` of every generation that may be there now; one that is gone from the disk may
    /// be in the list.
    pub known: &'a [PathBuf],
    /// The `usr` of the generation that is to be there.
    pub new: &'a Path,
    /// The directory of its running state.
    pub run: &'a Path,
}

/// What a swap came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The container sees the new generation, and did not before.
    Swapped {
        /// How.
        how: How,
        /// What a member had mounted in `/usr` and could not be carried over.
        lost: Vec<String>,
    },
    /// It saw the new generation already.
    Already,
}

/// What is at `/usr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// The directory that this is the number of in the list that was asked about.
    Known(usize),
    /// The private tree's own directory, with nothing mounted on it.
    Bare,
    /// Something else: a member has mounted over it, or it is no directory.
    Other,
}

/// Which of `known` the container's init sees at `/usr`. Takes no lock and changes nothing.
pub fn seen(init: &OwnedFd, known: &[PathBuf]) -> Result<Seen> {
    let known = identities(known)?;
    Ok(aside(|| Ok((Inside::enter(init)?.look(&known)?.seen, Vec::new())))?.0)
}

/// Puts the new generation in the place of the old one.
pub fn swap(swap: &Swap<'_>) -> Result<Done> {
    let marker = Marker::of(swap.run, held::SWAP, &swap.state.init);
    let interrupted = marker.is_set();
    if !interrupted {
        // Cut short before anything was frozen, or of an init that is no more.
        marker.clear();
    }
    // The new one first: the number 0 is what the container is to see.
    let known: Vec<PathBuf> =
        std::iter::once(swap.new.to_path_buf()).chain(swap.known.iter().cloned()).collect();
    let (new, _helper) = prepare(swap)?;
    let task = Task {
        known: identities(&known)?,
        // One that is gone from the disk is mounted nowhere.
        origins: mountinfo::origins(&known)?,
        new,
    };
    if task.known.first().copied().flatten().is_none() {
        return Err(Error::new(Kind::Damaged, format!("{} is missing", swap.new.display())));
    }
    let forced = std::env::var_os(FORCE).is_some_and(|v| v == "frozen");
    if !forced && !interrupted {
        match ask(swap, &task, How::Beneath, false)? {
            Answer::Done(done) => return Ok(done),
            Answer::NoBeneath => {}
        }
    }
    frozen(swap, &task, &marker)
}

/// What the helper is told.
struct Task {
    known: Vec<Option<(u64, u64)>>,
    origins: Vec<Origin>,
    new: OwnedFd,
}

/// What it answers.
#[derive(Serialize, Deserialize)]
enum Answer {
    Done(Done),
    NoBeneath,
}

/// The new mount, detached, its flags locked and proved to be, and the process that did it.
fn prepare(swap: &Swap<'_>) -> Result<(OwnedFd, Helper)> {
    let userns = locked::user_namespace(swap.state.init.pid)?;
    // Opened first, then seen to be of a process that still lives: the number was its own.
    if swap.state.init.open().is_none() {
        return Err(Error::new(Kind::State, "the container ended meanwhile"));
    }
    let copy = locked::copy_of_own(open_dir(swap.new)?, USR, Some(&userns))?;
    let (locked, helper) = locked::lock(&[(copy, USR)], &userns, swap.run)?.end()?;
    let new = locked.into_iter().next();
    Ok((new.ok_or_else(|| Error::failed("the new mount is missing"))?, helper))
}

fn ask(swap: &Swap<'_>, task: &Task, how: How, may_be_bare: bool) -> Result<Answer> {
    Ok(aside(|| Ok((act(swap.init, task, how, may_be_bare)?, Vec::new())))?.0)
}

/// The swap of a container that is held still for it, unless an admin does that already.
fn frozen(swap: &Swap<'_>, task: &Task, marker: &Marker<'_>) -> Result<Done> {
    let interrupted = marker.is_set();
    let payload = &swap.state.cgroup;
    let ours = interrupted || !cgroup::frozen(payload);
    if ours {
        // There before it freezes: whoever finds it frozen must know who did it.
        marker.set()?;
    }
    let stopped = if ours { cgroup::freeze(payload, true) } else { Ok(()) };
    let result = stopped.and_then(|()| ask(swap, task, How::Frozen, interrupted));
    if ours {
        let bare = result.is_err() && matches!(seen(swap.init, &[]), Ok(Seen::Bare));
        cgroup::freeze(payload, false)?;
        if !bare {
            marker.clear();
        }
    }
    match result? {
        Answer::Done(done) => Ok(done),
        Answer::NoBeneath => Err(Error::failed("the kernel took back what it said")),
    }
}

/// Device and inode of each directory; None for one that is not there.
fn identities(paths: &[PathBuf]) -> Result<Vec<Option<(u64, u64)>>> {
    let one = |path: &PathBuf| match open_dir(path) {
        Ok(fd) => Ok(Some(mount::stat(&fd)?.file)),
        Err(e) if e.errno() == libc::ENOENT => Ok(None),
        Err(e) => Err(e.into()),
    };
    paths.iter().map(one).collect()
}

/// The helper's part, with the host's powers in the container's mount namespace.
fn act(init: &OwnedFd, task: &Task, how: How, may_be_bare: bool) -> Result<Answer> {
    let inside = Inside::enter(init)?;
    let (settled, mut lost) = inside.settle(task)?;
    let place = inside.look(&task.known)?;
    match place.seen {
        Seen::Known(0) if settled => return inside.finish(task, how, lost),
        Seen::Known(0) => return Ok(Answer::Done(Done::Already)),
        Seen::Known(_) => {}
        Seen::Bare if may_be_bare => {
            mount::attach(&task.new, inside.usr()?)?;
            return inside.finish(task, how, lost);
        }
        Seen::Bare | Seen::Other => return Err(strange(place.seen)),
    }
    let Some((top, stat)) = place.top else { return Err(strange(Seen::Other)) };
    let (carried, uncarried) = submounts(&inside.mounts()?, &top, stat.mount);
    lost.extend(uncarried);
    match how {
        How::Beneath => {
            match mount::attach_beneath(&task.new, &top) {
                Err(e) if e.errno() == libc::EINVAL => return Ok(Answer::NoBeneath),
                other => other?,
            }
            journal::step("swap.attached");
            lost.extend(carry(carried, &task.new));
            journal::step("swap.carried");
            inside.detach(&top)?;
        }
        How::Frozen => {
            let spare = mount::clone_at(&top)?;
            inside.detach(&top)?;
            let usr = inside.usr()?;
            if let Err(e) = mount::attach(&task.new, &usr) {
                // Old code is better than none.
                let _ = mount::attach(&spare, &usr);
                return Err(e.into());
            }
            lost.extend(carry(carried, &task.new));
        }
    }
    inside.finish(task, how, lost)
}

fn strange(seen: Seen) -> Error {
    let why = match seen {
        Seen::Bare => "somebody inside has unmounted its /usr",
        _ => "somebody inside has mounted something over its /usr",
    };
    Error::new(Kind::State, why).hint("it is put right at the next start")
}

/// Whether what is right under the mount `top`, at the same place, is a mount of one of `known`.
fn is_beneath(mounts: &[Mount], top: u64, known: &[Origin]) -> bool {
    let find = |id: u64| mounts.iter().find(|m| m.id == id);
    let under = find(top).and_then(|m| find(m.parent));
    under.is_some_and(|m| m.at == Path::new("/usr") && known.contains(&m.origin))
}

/// Copies of what is mounted in the mount `id` with the root `top`, by path below it; and the
/// paths of what cannot be copied.
fn submounts(mounts: &[Mount], top: &OwnedFd, id: u64) -> (Vec<(PathBuf, OwnedFd)>, Vec<String>) {
    let (mut carried, mut lost) = (Vec::new(), Vec::new());
    for mount in mounts.iter().filter(|m| m.parent == id) {
        let Ok(inner) = mount.at.strip_prefix("/usr") else { continue };
        if inner.as_os_str().is_empty() {
            continue;
        }
        let copy = open_in(top, inner, Links::Refuse, OFlags::PATH, 0)
            .and_then(|fd| mount::clone_tree(&fd));
        match copy {
            Ok(copy) if carried.len() < SUBMOUNTS => carried.push((inner.to_path_buf(), copy)),
            _ => name_lost(&mut lost, inner),
        }
    }
    (carried, lost)
}

/// Attaches the copies in the new mount, which must be attached itself; gives the paths of those
/// that have no place there.
fn carry(carried: Vec<(PathBuf, OwnedFd)>, new: &OwnedFd) -> Vec<String> {
    let mut lost = Vec::new();
    for (inner, copy) in carried {
        let done = open_in(new, &inner, Links::Refuse, OFlags::PATH, 0)
            .and_then(|place| mount::attach(&copy, &place));
        if done.is_err() {
            name_lost(&mut lost, &inner);
        }
    }
    lost
}

/// A member can mount as much as it likes under any name; this has to fit a message.
fn name_lost(lost: &mut Vec<String>, inner: &Path) {
    if lost.len() < NAMED {
        let name: String = inner.to_string_lossy().chars().take(60).collect();
        lost.push(format!("/usr/{}", name.escape_debug()));
    }
}

/// What is at `/usr`, and the mount itself if it is one of those asked about.
struct PlaceOfUsr {
    seen: Seen,
    top: Option<(OwnedFd, Stat)>,
}

impl Inside {
    fn usr(&self) -> sys::Result<OwnedFd> {
        self.open(Path::new("usr"), OFlags::DIRECTORY)
    }

    fn look(&self, known: &[Option<(u64, u64)>]) -> Result<PlaceOfUsr> {
        let Ok(top) = self.usr() else { return Ok(PlaceOfUsr { seen: Seen::Other, top: None }) };
        let stat = mount::stat(&top)?;
        if stat.mount == mount::stat(&self.root)?.mount {
            return Ok(PlaceOfUsr { seen: Seen::Bare, top: None });
        }
        let number = known.iter().position(|k| *k == Some(stat.file));
        Ok(match number {
            Some(number) => PlaceOfUsr { seen: Seen::Known(number), top: Some((top, stat)) },
            None => PlaceOfUsr { seen: Seen::Other, top: None },
        })
    }

    /// Ends what a swap that was killed between its steps 2 and 4 has begun: a generation that
    /// lies beneath another comes to light, wherever this swap is to lead. Gives whether there
    /// was one, and what could not be carried over.
    fn settle(&self, task: &Task) -> Result<(bool, Vec<String>)> {
        let (mut settled, mut lost) = (false, Vec::new());
        for _ in 0..BENEATH {
            let Some((top, stat)) = self.look(&task.known)?.top else { break };
            let mounts = self.mounts()?;
            if !is_beneath(&mounts, stat.mount, &task.origins) {
                break;
            }
            let (mut carried, uncarried) = submounts(&mounts, &top, stat.mount);
            self.detach(&top)?;
            settled = true;
            lost.extend(uncarried);
            let usr = self.usr()?;
            let id = mount::stat(&usr)?.mount;
            // The killed one may have come as far as this.
            let there: Vec<Mount> = self.mounts()?.into_iter().filter(|m| m.parent == id).collect();
            carried
                .retain(|(inner, _)| there.iter().all(|m| m.at != Path::new("/usr").join(inner)));
            lost.extend(carry(carried, &usr));
        }
        Ok((settled, lost))
    }

    /// Looks at what came of it.
    fn finish(&self, task: &Task, how: How, lost: Vec<String>) -> Result<Answer> {
        let place = self.look(&task.known)?;
        match place.top {
            Some((usr, _)) if place.seen == Seen::Known(0) => {
                if mount::look(&usr)?.attr.has(USR) {
                    return Ok(Answer::Done(Done::Swapped { how, lost }));
                }
                Err(Error::failed("the new /usr is not mounted read-only"))
            }
            _ => Err(strange(place.seen)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, parent: u64, generation: u64, at: &str) -> Mount {
        let root = format!("/b/generations/{generation}/tree/usr").into();
        Mount { id, parent, origin: Origin { device: (254, 0), root }, at: at.into() }
    }

    #[test]
    fn what_an_interrupted_swap_left_beneath_is_known() {
        let new = [mount(0, 0, 2, "").origin];
        let root = mount(10, 1, 9, "/");
        let mounts = [root.clone(), mount(12, 13, 1, "/usr"), mount(13, 10, 2, "/usr")];
        assert!(is_beneath(&mounts, 12, &new));
        assert!(!is_beneath(&mounts, 13, &new));
        let other = [root, mount(12, 13, 1, "/usr"), mount(13, 10, 3, "/usr")];
        assert!(!is_beneath(&other, 12, &new));
        assert!(!is_beneath(&other, 99, &new));
    }

    #[test]
    fn the_names_of_lost_mounts_are_few_and_plain() {
        let mut lost = Vec::new();
        for _ in 0..100 {
            name_lost(&mut lost, Path::new(&format!("a\x1b[2J{}", "x".repeat(5000))));
        }
        assert_eq!(lost.len(), NAMED);
        assert!(lost[0].starts_with("/usr/a\\u{1b}[2J") && lost[0].len() < 100, "{}", lost[0]);
    }
}
