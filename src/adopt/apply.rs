//! Carrying a plan out: each action can be done again, whatever has been done of it.
//!
//! A file is exchanged with the staged one (`RENAME_EXCHANGE`), so at no moment is there none,
//! and only then looked at: if it is not the file on which the plan rests, it goes back. Which of
//! the two lies in the stage tells a later run how far this one came.
//!
//! Directories are never taken into the stage on purpose. Should a member put one in the place of
//! a file at the very moment of an exchange, it is out of their tree until it is put back; a
//! process that has it as its working directory cannot go up from there, as the kernel refuses
//! `..` that leads out of a mount.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, chownat, fstat,
    openat, renameat_with, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::class;
use super::decide::Meta;
use super::look::{Kind, Seen, Spot, Tree, look_at};
use super::plan::{Act, Action, Plan, directories, own};
use super::{Applied, Conflict, Place};
use crate::error::{Context, Result};
use crate::store::journal;
use crate::sys::Named;
use crate::sys::path::reopen;

/// How often a file that its member keeps replacing is put back.
const TRIES: u32 = 16;

/// Carries the plan out; what has been done of it already is not done again. When this returns,
/// all of it is on disk. The stage stays: it holds what was taken out.
pub fn commit(plan: &Plan, place: &Place<'_>) -> Result<Applied> {
    run(plan, place, &mut |step| {
        journal::step(step);
        Ok(())
    })
}

/// [`commit`], which calls `step` after each step and fails where that fails.
pub(super) fn run(
    plan: &Plan,
    place: &Place<'_>,
    step: &mut dyn FnMut(&'static str) -> Result<()>,
) -> Result<Applied> {
    let (new, out) = directories(place.stage)?;
    let done = Applied {
        changed: 0,
        conflicts: plan.conflicts.clone(),
        notes: plan.notes.clone(),
        inside: plan.inside.clone(),
    };
    let tree = Tree::open(place.private)?;
    let mut run = Run { place, tree, new, out, done, step };
    (run.step)("adopt.commit")?;
    for (n, action) in plan.actions.iter().enumerate() {
        run.action(n, action).context(|| format!("cannot adopt /{}", action.path))?;
        (run.step)("adopt.action")?;
    }
    rustix::fs::syncfs(&open_for_sync(place)?).named(|| "syncfs".into())?;
    (run.step)("adopt.committed")?;
    Ok(run.done)
}

fn open_for_sync(place: &Place<'_>) -> Result<std::fs::File> {
    let file = std::fs::File::open(place.stage);
    file.context(|| format!("cannot open {}", place.stage.display()))
}

struct Run<'a> {
    place: &'a Place<'a>,
    tree: Tree,
    new: OwnedFd,
    out: OwnedFd,
    done: Applied,
    step: &'a mut dyn FnMut(&'static str) -> Result<()>,
}

impl Run<'_> {
    fn action(&mut self, n: usize, action: &Action) -> Result<()> {
        let number = n.to_string();
        let number = OsStr::new(&number);
        let path = action.path.as_str();
        let Some(spot) = self.tree.spot(path)? else {
            // The member has removed the directory meanwhile; what is gone stays gone. A link in
            // its place is not followed.
            return Ok(());
        };
        match &action.act {
            Act::Put { staged, expect: None, .. } => self.add(number, action, &spot, *staged),
            Act::Put { staged, expect: Some(expect), .. } => {
                self.exchange(number, action, &spot, *staged, expect)
            }
            Act::Remove { expect } => self.remove(number, path, &spot, expect),
            Act::RemoveDir { expect } => self.remove_dir(&spot, expect),
            Act::Meta { expect, meta } => self.meta(path, &spot, expect, *meta),
            Act::Stamp { expect, to } => self.stamp(&spot, expect, *to),
        }
    }

    /// A path that was free.
    fn add(&mut self, number: &OsStr, action: &Action, spot: &Spot, staged: u64) -> Result<()> {
        if look_at(&self.new, number)?.is_none() {
            // Done before: it is in its place, or beside.
            let there = spot.look()?.is_some_and(|s| s.ino == staged);
            self.done.changed += usize::from(there);
            return if there {
                self.report(action, &action.path)
            } else {
                self.find_beside(action, staged)
            };
        }
        if rename(&self.new, number, spot, RenameFlags::NOREPLACE)? {
            (self.step)("adopt.added")?;
            self.tree.refresh();
            self.done.changed += 1;
            return self.report(action, &action.path);
        }
        match spot.look()? {
            None => Ok(()),
            Some(_) => self.refuse(number, action, staged),
        }
    }

    /// A path where something was.
    fn exchange(
        &mut self,
        number: &OsStr,
        action: &Action,
        spot: &Spot,
        staged: u64,
        expect: &Seen,
    ) -> Result<()> {
        let Some(here) = look_at(&self.new, number)? else {
            return self.find_beside(action, staged);
        };
        // Held until the end: the number of a file that the member replaces can be given to their
        // next one at once, and would make that look like ours.
        let _staged = self.hold(number)?;
        if here.ino == staged {
            match spot.look()? {
                // The member has removed it; what is gone stays gone.
                None => return Ok(()),
                Some(now) if !now.untouched(expect) => return self.refuse(number, action, staged),
                Some(_) => {}
            }
            if !rename(&self.new, number, spot, RenameFlags::EXCHANGE)? {
                return self.refuse(number, action, staged);
            }
            (self.step)("adopt.exchanged")?;
            self.tree.refresh();
        }
        match look_at(&self.new, number)? {
            Some(was) if was.same_content(expect) => {
                self.done.changed += 1;
                self.report(action, &action.path)
            }
            _ => self.put_back(number, action, spot, staged),
        }
    }

    /// What came out was not what the plan rests on: it goes back, and the base's beside.
    fn put_back(
        &mut self,
        number: &OsStr,
        action: &Action,
        spot: &Spot,
        staged: u64,
    ) -> Result<()> {
        let mut put = None;
        for _ in 0..TRIES {
            let putting = self.hold(number)?;
            if !rename(&self.new, number, spot, RenameFlags::EXCHANGE)?
                && !rename(&self.new, number, spot, RenameFlags::NOREPLACE)?
            {
                break;
            }
            (self.step)("adopt.returned")?;
            match look_at(&self.new, number)? {
                None => return self.find_beside(action, staged),
                Some(here) if here.ino == staged => return self.refuse(number, action, staged),
                // What the last turn put in: the one that it took out is in its place again, and
                // nothing newer has come.
                Some(here) if put.as_ref().is_some_and(|(_, ino)| *ino == here.ino) => break,
                // The member has put yet another there meanwhile. That one is the newest, and the
                // next turn puts it back in its place.
                Some(_) => put = putting,
            }
        }
        self.save(number, action)
    }

    /// Opens what is in the stage, and tells its inode: as long as it is open, no other file can
    /// have that number.
    fn hold(&self, number: &OsStr) -> Result<Option<(OwnedFd, u64)>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.new, number, flags, Mode::empty()) {
            Ok(fd) => {
                let ino = fstat(&fd).named(|| format!("fstat({number:?})"))?.st_ino;
                Ok(Some((fd, ino)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Ok(Err(e).named(|| format!("openat({number:?}, O_PATH)"))?),
        }
    }

    /// Puts what is the member's, and has no place any more, beside its path.
    fn save(&mut self, number: &OsStr, action: &Action) -> Result<()> {
        for nth in 0..TRIES {
            let path = format!("{}.{}.{nth}.dpkg-old", action.path, self.place.new_generation);
            let Some(spot) = self.tree.spot(&path)? else { break };
            if rename(&self.new, number, &spot, RenameFlags::NOREPLACE)? {
                let note =
                    format!("/{} changed all the time; an older one is /{path}", action.path);
                self.done.notes.push(note);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The path is not as it was: the member's stays, and the base's goes beside.
    fn refuse(&mut self, number: &OsStr, action: &Action, staged: u64) -> Result<()> {
        let Act::Put { beside, .. } = &action.act else { return Ok(()) };
        if !beside {
            let note = format!("/{} has changed meanwhile, and stays as it is", action.path);
            self.done.notes.push(note);
            return Ok(());
        }
        let main = self.main(action);
        for nth in 0..4 {
            let path = class::beside(main, self.place.new_generation, nth);
            let Some(spot) = self.tree.spot(&path)? else { break };
            if rename(&self.new, number, &spot, RenameFlags::NOREPLACE)? {
                (self.step)("adopt.beside")?;
                return self.find_beside(action, staged);
            }
        }
        self.conflict(action, "")
    }

    /// Reports the base's version of the action, where it lies beside.
    fn find_beside(&mut self, action: &Action, staged: u64) -> Result<()> {
        for nth in 0..4 {
            let path = class::beside(self.main(action), self.place.new_generation, nth);
            if self.tree.look(&path)?.is_some_and(|s| s.ino == staged) {
                return self.conflict(action, &path);
            }
        }
        Ok(())
    }

    /// The path that a conflict is about.
    fn main<'b>(&self, action: &'b Action) -> &'b str {
        match &action.act {
            Act::Put { conflict: Some((path, _)), .. } => path,
            _ => &action.path,
        }
    }

    /// Reports the conflict that the action was planned for, if it was.
    fn report(&mut self, action: &Action, theirs: &str) -> Result<()> {
        match &action.act {
            Act::Put { conflict: Some(_), .. } => self.conflict(action, theirs),
            _ => Ok(()),
        }
    }

    fn conflict(&mut self, action: &Action, theirs: &str) -> Result<()> {
        let what = match &action.act {
            Act::Put { conflict: Some((_, what)), .. } => what.as_str(),
            _ => "it was changed while the base's was put in",
        };
        let (path, theirs, what) = (self.main(action).into(), theirs.into(), what.into());
        self.done.conflicts.push(Conflict { path, theirs, what });
        Ok(())
    }

    fn remove(&mut self, number: &OsStr, path: &str, spot: &Spot, expect: &Seen) -> Result<()> {
        if look_at(&self.out, number)?.is_none() {
            match spot.look()? {
                None => return Ok(()),
                Some(now) if !now.untouched(expect) => {
                    self.done.notes.push(format!("/{path} has changed meanwhile, and stays"));
                    return Ok(());
                }
                Some(_) => {}
            }
            let taken =
                renameat_with(&spot.dir, spot.name(), &self.out, number, RenameFlags::NOREPLACE);
            if !went(taken)? {
                return Ok(());
            }
            (self.step)("adopt.removed")?;
        }
        match look_at(&self.out, number)? {
            Some(was) if !was.same_content(expect) => self.give_back(number, path, spot),
            _ => {
                self.done.changed += 1;
                Ok(())
            }
        }
    }

    /// What was taken out was another by then.
    fn give_back(&mut self, number: &OsStr, path: &str, spot: &Spot) -> Result<()> {
        if rename(&self.out, number, spot, RenameFlags::NOREPLACE)? {
            self.done.notes.push(format!("/{path} has changed meanwhile, and stays"));
            return Ok(());
        }
        for nth in 0..TRIES {
            let aside = format!("{path}.{}.{nth}.dpkg-old", self.place.new_generation);
            let Some(spot) = self.tree.spot(&aside)? else { break };
            if rename(&self.out, number, &spot, RenameFlags::NOREPLACE)? {
                self.done
                    .notes
                    .push(format!("/{path} changed all the time; an older one is /{aside}"));
                break;
            }
        }
        Ok(())
    }

    fn remove_dir(&mut self, spot: &Spot, expect: &Seen) -> Result<()> {
        if spot.look()?.is_none_or(|now| now.kind != Kind::Dir || now.ino != expect.ino) {
            return Ok(());
        }
        match unlinkat(&spot.dir, spot.name(), AtFlags::REMOVEDIR) {
            Ok(()) => self.done.changed += 1,
            // What the member has put in it keeps it.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::BUSY) => {}
            Err(e) => Err(e).named(|| format!("unlinkat({:?}, AT_REMOVEDIR)", spot.name()))?,
        }
        self.tree.refresh();
        Ok(())
    }

    fn meta(&mut self, path: &str, spot: &Spot, expect: &Seen, meta: Meta) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(found) = openat(&spot.dir, spot.name(), flags, Mode::empty()) else { return Ok(()) };
        let stat = fstat(&found).named(|| format!("fstat({path:?})"))?;
        let now = Seen::new(&stat);
        if (now.ino, now.kind) != (expect.ino, expect.kind) {
            return Ok(());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
                chownat(&found, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                    .named(|| format!("fchownat({path:?})"))?;
            }
            FileType::RegularFile | FileType::Directory => {
                match reopen(&found, OFlags::RDONLY | OFlags::NONBLOCK) {
                    Ok(file) => own(&file, meta)?,
                    // The member holds a lease on it; it stays as it is.
                    Err(e) if e.errno() == libc::EWOULDBLOCK => return Ok(()),
                    Err(e) => return Err(e.into()),
                }
            }
            _ => return Ok(()),
        }
        self.done.changed += 1;
        Ok(())
    }

    fn stamp(&mut self, spot: &Spot, expect: &Seen, to: (i64, u64)) -> Result<()> {
        if spot.look()?.is_none_or(|now| now.ino != expect.ino || now.kind != Kind::File) {
            return Ok(());
        }
        let time = Timespec { tv_sec: to.0, tv_nsec: to.1 as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        match utimensat(&spot.dir, spot.name(), &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => self.done.changed += 1,
            Err(Errno::NOENT) => {}
            Err(e) => Err(e).named(|| format!("utimensat({:?})", spot.name()))?,
        }
        Ok(())
    }
}

/// Renames `name` in the stage to `spot`, or exchanges both; false if what is there, or is not,
/// does not let it.
fn rename(stage: &OwnedFd, name: &OsStr, spot: &Spot, flags: RenameFlags) -> Result<bool> {
    debug_assert!(!name.as_bytes().is_empty());
    went(renameat_with(stage, name, &spot.dir, spot.name(), flags))
}

fn went(result: rustix::io::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        // EXDEV: an admin has mounted something there.
        Err(Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::BUSY) => Ok(false),
        Err(e) => Ok(Err(e).named(|| "renameat2".into())?),
    }
}
