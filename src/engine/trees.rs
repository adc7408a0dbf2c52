//! The mount over all private trees: where the host sees them they are nosuid and nodev. Behind a
//! directory of mode 0700 and ids of nobody's, it is the third thing in the way of a set-user-ID
//! program or a device node that somebody finds in one.
//!
//! `containers/` is a bind mount of itself, there as soon as there is a container, and gone with the
//! last one, so that a store without containers is removed like any directory. After a boot the
//! next command that changes something makes it anew; a start does not go on without it.
//!
//! It is made in the mount namespace of whoever acts, and seen in those that follow that one. For the
//! host's own store this is the host's: our units have no namespace of their own (no `Private…=`, no
//! `Protect…=`), and an admin's shell has none. To join that of pid 1 from elsewhere would
//! mount in a place that whoever acts cannot see; a command in a namespace apart gets a mount of its own there, and works.

use std::os::unix::fs::DirBuilderExt;

use super::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::status::check::{Check, Verdict};
use crate::store::lock::{self, Lock, Subject};
use crate::store::record;
use crate::sys::mount::{self, Attr};
use crate::sys::mountinfo;
use crate::sys::path::open_dir;

/// How often it is made for one command.
const ROUNDS: u32 = 100;
const WANTED: Attr = Attr::NOSUID.with(Attr::NODEV);

impl Engine {
    /// Makes the mount if there are containers and it is missing.
    pub(super) fn shield_trees(&self) -> Result<()> {
        if self.is_shielded() || record::names(&self.layout)?.is_empty() {
            return Ok(());
        }
        self.make_shield()
    }

    /// Makes the mount if it is missing, and the directory for staging on it. Both stay while the
    /// lock is held.
    pub(super) fn hold_trees(&self) -> Result<Lock> {
        for _ in 0..ROUNDS {
            let lock = lock::shared(&self.layout, &Subject::Trees)?;
            if self.is_shielded() {
                let staging = self.layout.container_staging();
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&staging);
                made.context(|| format!("cannot make {}", staging.display()))?;
                return Ok(lock);
            }
            drop(lock);
            // Whose container is the last may take it away again before we have the lock.
            self.make_shield()?;
        }
        let place = self.layout.containers();
        Err(Error::new(Kind::State, format!("{} does not stay mounted", place.display()))
            .hint("see who unmounts it: findmnt, and what else runs coloc"))
    }

    /// Takes the mount away if no container is left. What keeps it is no error: the next last
    /// container's end tries again.
    pub(super) fn let_trees_go(&self) {
        let Ok(Some(_lock)) = lock::try_exclusive(&self.layout, &Subject::Trees) else { return };
        let _ = std::fs::remove_dir(self.layout.container_staging());
        let place = self.layout.containers();
        if std::fs::read_dir(&place).map_or(true, |mut entries| entries.next().is_some()) {
            return;
        }
        let (Ok(place), Ok(mounts)) = (place.canonicalize(), mountinfo::own()) else { return };
        // Not a disk that an admin has mounted there, nor what they have mounted below.
        let below = |m: &mountinfo::Mount| m.at != place && m.at.starts_with(&place);
        if !mountinfo::covers_itself(&mounts, &place) || mounts.iter().any(below) {
            return;
        }
        if mount::unmount_path(&place).is_ok_and(|gone| !gone) {
            // A shell stands in it. What it sees is the same directory.
            let _ = mount::detach_top(&place);
        }
    }

    /// Whether what the host sees is as it should be. An admin's own mount will do.
    fn is_shielded(&self) -> bool {
        mount::attr_at(&self.layout.containers()).is_ok_and(|attr| attr.has(WANTED))
    }

    fn make_shield(&self) -> Result<()> {
        let _lock = lock::exclusive(&self.layout, &Subject::Trees)?;
        if self.is_shielded() {
            return Ok(());
        }
        let place = self.layout.containers();
        // With what an admin has mounted below, such as a disk for one container.
        let made = open_dir(&place).and_then(|dir| {
            let copy = mount::clone_tree(&dir)?;
            mount::prepare(&copy, WANTED, Attr::NONE, None)?;
            mount::attach(&copy, &dir)
        });
        made.context(|| format!("cannot mount {} on itself, nosuid and nodev", place.display()))
    }

    /// What the host sees of private trees, for `coloc check`.
    pub(super) fn check_trees(&self) -> Check {
        const WHAT: &str = "private trees";
        let names = match record::names(&self.layout) {
            Ok(names) => names,
            Err(e) => return Check::new(WHAT, Verdict::Unknown, e.to_string()),
        };
        let mut bare = Vec::new();
        for name in &names {
            // An admin may have mounted something at either.
            let places = [self.layout.container(name), self.layout.private(name)];
            for place in places.iter().filter(|place| place.exists()) {
                match mount::attr_at(place) {
                    Ok(attr) if attr.has(WANTED) => continue,
                    Ok(_) => bare.push(name.as_str()),
                    Err(e) => return Check::new(WHAT, Verdict::Unknown, e.to_string()),
                }
                break;
            }
        }
        if names.is_empty() {
            return Check::new(WHAT, Verdict::Good, "none yet");
        }
        let found = match bare.is_empty() {
            true => format!("nosuid, nodev for the host ({})", names.len()),
            false => format!("not nosuid and nodev for the host: {}", bare.join(" ")),
        };
        let hint = "the next start mounts them so; what is mounted below since, remount with \
                    nosuid,nodev";
        Check::that(WHAT, bare.is_empty(), found, hint)
    }
}
