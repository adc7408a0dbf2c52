//! The plan of an adoption, and the staging of all that it puts in.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, mkdirat, openat, symlinkat, utimensat,
};

use super::decide::{self, Deed, Draft, Item, Meta, Source};
use super::delta::Delta;
use super::look::{Seen, Tree, host_path, look_at};
use super::{Conflict, Inside, Place, Summary};
use crate::error::{Context, Error, Result};
use crate::store::{atomic, journal};
use crate::sys::Named;
use crate::sys::path::open_dir;
use crate::tree::manifest::CAPABILITY;

/// What will be done in one container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// The generation that the container leaves.
    pub old_generation: u64,
    /// The generation that it goes to.
    pub new_generation: u64,
    pub(super) actions: Vec<Action>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) notes: Vec<String>,
    pub(super) inside: Vec<Inside>,
    /// What was seen besides: the decisions rest on it.
    inputs: Vec<(String, Option<Seen>)>,
}

/// One thing to do; its number names its files in the stage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Action {
    pub(super) path: String,
    pub(super) act: Act,
}

/// See [`Deed`]; what is put in lies in the stage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    Put {
        /// The inode of what was staged.
        staged: u64,
        expect: Option<Seen>,
        beside: bool,
        conflict: Option<(String, String)>,
    },
    Remove {
        expect: Seen,
    },
    RemoveDir {
        expect: Seen,
    },
    Meta {
        expect: Seen,
        meta: Meta,
    },
    Stamp {
        expect: Seen,
        to: (i64, u64),
    },
}

impl Action {
    /// What was seen at the path.
    pub(super) fn expect(&self) -> Option<&Seen> {
        match &self.act {
            Act::Put { expect, .. } => expect.as_ref(),
            Act::Remove { expect }
            | Act::RemoveDir { expect }
            | Act::Meta { expect, .. }
            | Act::Stamp { expect, .. } => Some(expect),
        }
    }
}

impl Plan {
    /// Whether anything on which the plan rests has changed in the container since.
    pub fn moved(&self, place: &Place<'_>) -> Result<bool> {
        let tree = Tree::open(place.private)?;
        for (path, seen) in &self.inputs {
            if tree.look(path)? != *seen {
                return Ok(true);
            }
        }
        for action in &self.actions {
            let same = match (action.expect(), tree.look(&action.path)?) {
                (Some(then), Some(now)) => then.untouched(&now),
                (None, None) => true,
                _ => false,
            };
            if !same && !self.is_made_room_for(action) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the path is free only once the directory there now is gone.
    fn is_made_room_for(&self, action: &Action) -> bool {
        let goes = |a: &Action| a.path == action.path && matches!(a.act, Act::RemoveDir { .. });
        action.expect().is_none() && self.actions.iter().any(goes)
    }
}

/// What an adoption would do, without doing anything.
pub fn predict(delta: &Delta, place: &Place<'_>) -> Result<Summary> {
    let draft = decide::decide(delta, place)?;
    let planned = draft.items.iter().filter_map(|item| match &item.deed {
        Deed::Put { conflict: Some((path, what)), .. } => {
            let (path, what) = (path.clone(), what.clone());
            Some(Conflict { path, theirs: item.path.clone(), what })
        }
        _ => None,
    });
    let conflicts = draft.conflicts.iter().cloned().chain(planned).collect();
    Ok(Summary {
        changed: draft.items.len(),
        conflicts,
        notes: draft.notes,
        inside: draft.inside.into_iter().collect(),
    })
}

/// Decides, and stages all that will be put in. Nothing in the container changes. When this
/// returns, stage and plan are on disk.
pub fn plan(delta: &Delta, place: &Place<'_>) -> Result<Plan> {
    let draft = decide::decide(delta, place)?;
    journal::step("adopt.decided");
    let Draft { items, conflicts, notes, inside, inputs } = draft;
    let new = prepare(place.stage)?;
    let actions = items.into_iter().enumerate();
    let stage = Stage { new, tree: &delta.new_tree, shift: place.shift };
    let actions: Result<Vec<Action>> = actions.map(|(n, item)| stage.action(n, item)).collect();
    let plan = Plan {
        old_generation: place.old_generation,
        new_generation: place.new_generation,
        actions: actions?,
        conflicts,
        notes,
        inside: inside.into_iter().collect(),
        inputs,
    };
    // Before the plan: a rename must never bring in a file whose content is not on disk.
    rustix::fs::syncfs(&stage.new).named(|| "syncfs".into())?;
    journal::step("adopt.staged");
    let bytes = serde_json::to_vec(&plan)
        .map_err(|e| Error::failed(format!("cannot write the plan: {e}")))?;
    atomic::write(&place.stage.join("plan.json"), &bytes, 0o600)?;
    journal::step("adopt.planned");
    Ok(plan)
}

/// The plan in a stage; None if there is none, and so nothing has happened yet.
pub fn load(stage: &Path) -> Result<Option<Plan>> {
    atomic::read_json(&stage.join("plan.json"))
}

/// Makes an empty stage; gives the directory of what is to be put in.
fn prepare(stage: &Path) -> Result<OwnedFd> {
    crate::tree::remove(stage)?;
    for dir in [stage, &stage.join("new"), &stage.join("out")] {
        let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
        made.context(|| format!("cannot make {}", dir.display()))?;
    }
    let new = File::open(stage.join("new")).context(|| "cannot open the stage")?;
    Ok(new.into())
}

struct Stage<'a> {
    new: OwnedFd,
    tree: &'a Path,
    shift: u32,
}

impl Stage<'_> {
    fn action(&self, n: usize, item: Item) -> Result<Action> {
        let act = match item.deed {
            Deed::Put { source, meta, expect, beside, conflict } => {
                let staged = self
                    .put(&n.to_string(), &source, meta)
                    .context(|| format!("cannot stage /{}", item.path))?;
                Act::Put { staged, expect, beside, conflict }
            }
            Deed::Remove { expect } => Act::Remove { expect },
            Deed::RemoveDir { expect } => Act::RemoveDir { expect },
            Deed::Meta { expect, meta } => Act::Meta { expect, meta },
            Deed::Stamp { expect, to } => Act::Stamp { expect, to },
        };
        Ok(Action { path: item.path, act })
    }

    fn put(&self, name: &str, source: &Source, meta: Meta) -> Result<u64> {
        match source {
            Source::Bytes(bytes) => {
                let mut file = self.create(name)?;
                file.write_all(bytes)?;
                own(&file, meta)?;
            }
            Source::Base(path) => self.put_base(name, path, meta)?,
        }
        let seen = look_at(&self.new, name.as_ref())?;
        seen.map(|s| s.ino).ok_or_else(|| Error::failed("it is not in the stage"))
    }

    fn put_base(&self, name: &str, path: &str, meta: Meta) -> Result<()> {
        let from = host_path(self.tree, path);
        let read = || format!("cannot read {}", from.display());
        let there = std::fs::symlink_metadata(&from).context(read)?;
        if there.is_symlink() {
            let target = std::fs::read_link(&from).context(read)?;
            symlinkat(&target, &self.new, name).named(|| format!("symlinkat({name:?})"))?;
            let (uid, gid) = ids(meta);
            chownat(&self.new, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .named(|| format!("fchownat({name:?})"))?;
        } else if there.is_dir() {
            mkdirat(&self.new, name, Mode::RWXU).named(|| format!("mkdirat({name:?})"))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = openat(&self.new, name, flags, Mode::empty());
            own(&dir.named(|| format!("openat({name:?})"))?, meta)?;
        } else if !there.is_file() {
            return Err(Error::failed(format!("{} is a special file", from.display())));
        } else {
            let mut file = self.create(name)?;
            let mut source = File::open(&from).context(read)?;
            std::io::copy(&mut source, &mut file).context(read)?;
            own(&file, meta)?;
            capability(&from, &file, self.shift)?;
        }
        self.time(name, &there)
    }

    fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.new, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(file.named(|| format!("openat({name:?}, O_EXCL)"))?.into())
    }

    fn time(&self, name: &str, there: &std::fs::Metadata) -> Result<()> {
        let time = Timespec { tv_sec: there.mtime(), tv_nsec: there.mtime_nsec() as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(&self.new, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .named(|| format!("utimensat({name:?})"))?;
        Ok(())
    }
}

fn ids(meta: Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

/// Owner, then mode: a change of owner clears set-user-ID.
pub(super) fn own(file: impl AsFd, meta: Meta) -> Result<()> {
    let (uid, gid) = ids(meta);
    fchown(&file, uid, gid).named(|| "fchown".into())?;
    Ok(fchmod(&file, Mode::from_raw_mode(meta.mode)).named(|| "fchmod".into())?)
}

/// Gives the copy the capabilities of `from`, good in the user namespace of the container alone:
/// revision 3 of the attribute says whose root it is for (capabilities(7)).
fn capability(from: &Path, to: &File, root: u32) -> Result<()> {
    let mut space = [0; 32];
    let Ok(length) = rustix::fs::lgetxattr(from, CAPABILITY, &mut space) else { return Ok(()) };
    let Some(value) = namespaced(&space[..length], root) else { return Ok(()) };
    fsetxattr(to, CAPABILITY, &value, XattrFlags::empty())
        .named(|| format!("fsetxattr({CAPABILITY:?})"))?;
    Ok(())
}

/// A capability attribute of revision 2 as one of revision 3 for the root with host id `root`.
fn namespaced(value: &[u8], root: u32) -> Option<Vec<u8>> {
    const REVISION: u32 = 0xff00_0000;
    let [a, b, c, d, rest @ ..] = value else { return None };
    let magic = u32::from_le_bytes([*a, *b, *c, *d]);
    if magic & REVISION != 0x0200_0000 || rest.len() != 16 {
        return None;
    }
    let mut out = (magic & !REVISION | 0x0300_0000).to_le_bytes().to_vec();
    out.extend_from_slice(rest);
    out.extend_from_slice(&root.to_le_bytes());
    Some(out)
}

/// The two directories of a stage: what comes and what goes.
pub(super) fn directories(stage: &Path) -> Result<(OwnedFd, OwnedFd)> {
    Ok((open_dir(stage.join("new"))?, open_dir(stage.join("out"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_become_the_container_s() {
        let mut value = 0x0200_0001_u32.to_le_bytes().to_vec();
        value.extend_from_slice(&[7; 16]);
        let new = namespaced(&value, 0x0102_0304).unwrap();
        assert_eq!(new.len(), 24);
        assert_eq!(new[..4], 0x0300_0001_u32.to_le_bytes());
        assert_eq!(new[20..], [4, 3, 2, 1]);
        assert!(namespaced(&value[..8], 0).is_none() && namespaced(&new, 0).is_none());
    }
}
