//! What is to be done in one container: looks at each path that differs between the
//! generations, and decides. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts;
use super::class::{self, ACCOUNTS, Class, STAMPS};
use super::delta::{Change, Delta, below};
use super::look::{Kind, Seen, Spot, Tree, host_path};
use super::merge::{self, Budget, Choice, Clash, Mine};
use super::{Conflict, Inside, Place};
use crate::error::{Context, Result};
use crate::tree::manifest::Entry;

/// Mode and host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What is put somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// What the new generation has at this path.
    Base(String),
    /// A file with this content.
    Bytes(Vec<u8>),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Puts a file, link or empty directory in, where `expect` was seen.
    Put {
        source: Source,
        meta: Meta,
        expect: Option<Seen>,
        /// Whether the base's version goes beside if the place has been taken meanwhile.
        beside: bool,
        /// The base's version of another path, with the reason.
        conflict: Option<(String, String)>,
    },
    /// Takes a file or link out.
    Remove { expect: Seen },
    /// Takes a directory out if it is empty.
    RemoveDir { expect: Seen },
    /// Changes mode and owner.
    Meta { expect: Seen, meta: Meta },
    /// Sets the time of a stamp.
    Stamp { expect: Seen, to: (i64, u64) },
}

/// A thing to do, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) path: String,
    /// Before anything is put in: a directory that makes room for a file.
    pub(super) early: bool,
    pub(super) deed: Deed,
}

/// All that is to be done in a container.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) items: Vec<Item>,
    /// Conflicts for which nothing has to be written.
    pub(super) conflicts: Vec<Conflict>,
    pub(super) notes: Vec<String>,
    pub(super) inside: BTreeSet<Inside>,
    /// What else the decisions rest on.
    pub(super) inputs: Vec<(String, Option<Seen>)>,
}

/// Looks at the container and decides.
pub(super) fn decide(delta: &Delta, place: &Place<'_>) -> Result<Draft> {
    let mut scan = Scan {
        delta,
        place,
        tree: Tree::open(place.private)?,
        budget: Budget::default(),
        draft: Draft { inside: delta.inside.clone(), ..Draft::default() },
        as_new: BTreeMap::new(),
        coming: BTreeSet::new(),
        turning: BTreeSet::new(),
        generated: Vec::new(),
        links: BTreeSet::new(),
    };
    for change in &delta.changes {
        scan.change(change).context(|| format!("/{}", change.path))?;
    }
    scan.generated()?;
    scan.accounts().context(|| "the account files")?;
    scan.stamps()?;
    let behind = |link| format!("/{link} is a link; what the base changes below it is not put in");
    scan.draft.notes.extend(std::mem::take(&mut scan.links).into_iter().map(behind));
    let reads_units =
        |item: &Item| below(&item.path, "etc/systemd") || below(&item.path, "etc/init.d");
    if scan.draft.items.iter().any(reads_units) {
        scan.draft.inside.insert(Inside::DaemonReload);
    }
    scan.draft.items.sort_by_key(order);
    Ok(scan.draft)
}

/// What makes room comes first; then what is new, so that nothing is missing in between; then
/// what goes, directories last. Up the tree for what goes, down the tree for what comes.
fn order(item: &Item) -> (u8, std::cmp::Reverse<String>, String) {
    let phase = match item.deed {
        _ if item.early => 0,
        Deed::Put { .. } => 1,
        Deed::Remove { .. } => 2,
        Deed::RemoveDir { .. } => 3,
        Deed::Meta { .. } => 4,
        Deed::Stamp { .. } => 5,
    };
    match phase {
        0 | 3 => (phase, std::cmp::Reverse(item.path.clone()), String::new()),
        _ => (phase, std::cmp::Reverse(String::new()), item.path.clone()),
    }
}

pub(super) struct Scan<'a> {
    pub(super) delta: &'a Delta,
    place: &'a Place<'a>,
    pub(super) tree: Tree,
    budget: Budget,
    pub(super) draft: Draft,
    /// Whether a path will be as the new generation has it.
    pub(super) as_new: BTreeMap<&'a str, bool>,
    /// Directories that will be made.
    coming: BTreeSet<&'a str>,
    /// Directories that become something else.
    turning: BTreeSet<&'a str>,
    pub(super) generated: Vec<Found<'a>>,
    /// The member's links where the base has directories in which something changes.
    links: BTreeSet<String>,
}

/// A path that differs, as the container has it.
pub(super) struct Found<'a> {
    pub(super) change: &'a Change,
    /// None where the parent directory is still to be made.
    spot: Option<Spot>,
    pub(super) seen: Option<Seen>,
    pub(super) mine: Mine,
    /// The generations have the same content, and so has the container.
    only_meta: bool,
}

impl<'a> Scan<'a> {
    fn change(&mut self, change: &'a Change) -> Result<()> {
        let spot = self.tree.spot(&change.path)?;
        let parent = change.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        if spot.is_none() && !self.coming.contains(parent) {
            // The member has removed the directory, and with it all that would come; or there is
            // a link in its place, and what that leads to is not the base's.
            let link = self.tree.link_on(parent)?;
            self.as_new.insert(&change.path, link.is_none() && change.new.is_none());
            self.links.extend(link);
            return Ok(());
        }
        let seen = spot.as_ref().map(Spot::look).transpose()?.flatten();
        let [is_old, is_new] = match (&spot, &seen) {
            (Some(spot), Some(seen)) => {
                spot.same_as(seen, [change.old.as_ref(), change.new.as_ref()])?
            }
            _ => [false; 2],
        };
        let mine = match seen {
            None => Mine::Absent,
            Some(_) if is_old => Mine::Old,
            Some(_) if is_new => Mine::New,
            Some(_) => Mine::Other,
        };
        let found = Found { change, spot, seen, mine, only_meta: is_old && is_new };
        match change.class {
            Class::CaGenerated | Class::LdCache => self.generated.push(found),
            Class::OwnTree if !is_of_dirs(change) => {}
            Class::Base if mine == Mine::Other && change.new.is_some() => self.take(&found),
            _ => self.merge(&found)?,
        }
        Ok(())
    }

    pub(super) fn merge(&mut self, found: &Found<'a>) -> Result<()> {
        let change = found.change;
        if found.only_meta {
            self.as_new.insert(&change.path, true);
            self.meta(found);
            return Ok(());
        }
        let choice = merge::choose(change.old.is_some(), change.new.is_some(), found.mine);
        self.as_new.insert(&change.path, is_as_new(choice, found));
        match choice {
            Choice::Keep if found.mine == Mine::New => self.withdraw(found)?,
            Choice::Keep => {}
            Choice::KeepGivenUp => {
                self.withdraw(found)?;
                if !class::is_choice(&change.path) {
                    let note =
                        format!("/{} is no longer in the base; the changed one stays", change.path);
                    self.draft.notes.push(note);
                }
            }
            Choice::Take if self.is_in_the_way(found)? => {
                self.as_new.insert(&change.path, false);
                let what = "the base has a file where the container has files of its own";
                self.conflict(change, found.seen.as_ref(), what)?;
            }
            Choice::Take => self.take(found),
            Choice::Remove => self.remove(found),
            Choice::Both => self.both(found)?,
        }
        Ok(())
    }

    /// Whether a directory is to become something else, and holds what will not go.
    fn is_in_the_way(&self, found: &Found<'a>) -> Result<bool> {
        let is_dir = found.seen.as_ref().is_some_and(|s| s.kind == Kind::Dir);
        let stays_dir = found.change.new.as_ref().is_some_and(|e| Kind::of(e) == Kind::Dir);
        if !is_dir || stays_dir {
            return Ok(false);
        }
        let mut todo = vec![found.change.path.clone()];
        while let Some(dir) = todo.pop() {
            let Some(names) = self.tree.names(&dir, 1000)? else { return Ok(true) };
            for name in names {
                let path = format!("{dir}/{name}");
                let known = self.delta.changes.binary_search_by(|c| c.path.as_str().cmp(&path));
                let change = known.ok().map(|at| &self.delta.changes[at]);
                let Some(old) = change.and_then(|c| c.old.as_ref()) else { return Ok(true) };
                let Some(spot) = self.tree.spot(&path)? else { return Ok(true) };
                let Some(seen) = spot.look()? else { continue };
                if !spot.same_as(&seen, [Some(old), None])?[0] {
                    return Ok(true);
                }
                if seen.kind == Kind::Dir {
                    todo.push(path);
                }
            }
        }
        Ok(false)
    }

    fn item(&mut self, path: &str, deed: Deed) {
        let early = self.turning.iter().any(|dir| below(path, dir))
            && matches!(deed, Deed::Remove { .. } | Deed::RemoveDir { .. });
        self.draft.items.push(Item { path: path.into(), early, deed });
    }

    /// Puts the new generation's version in.
    pub(super) fn take(&mut self, found: &Found<'a>) {
        let change = found.change;
        let Some(new) = &change.new else { return };
        let mut expect = found.seen.clone();
        if Kind::of(new) == Kind::Dir {
            self.coming.insert(&change.path);
        } else if let Some(dir) = expect.take_if(|seen| seen.kind == Kind::Dir) {
            self.turning.insert(&change.path);
            self.item(&change.path, Deed::RemoveDir { expect: dir });
        }
        let meta = match (&change.old, &found.seen, found.mine) {
            (Some(old), Some(seen), Mine::Old) if old.kind == new.kind => {
                self.merged_meta(old, seen, new)
            }
            _ => self.meta_of(new),
        };
        let beside = Kind::of(new) == Kind::File;
        let source = Source::Base(change.path.clone());
        self.item(&change.path, Deed::Put { source, meta, expect, beside, conflict: None });
    }

    fn remove(&mut self, found: &Found<'a>) {
        let Some(seen) = found.seen.clone() else { return };
        let deed = match seen.kind {
            Kind::Dir => Deed::RemoveDir { expect: seen },
            _ => Deed::Remove { expect: seen },
        };
        self.item(&found.change.path, deed);
    }

    fn meta(&mut self, found: &Found<'a>) {
        let (Some(old), Some(new), Some(seen)) =
            (&found.change.old, &found.change.new, &found.seen)
        else {
            return;
        };
        let meta = self.merged_meta(old, seen, new);
        if meta != (Meta { mode: seen.mode, uid: seen.uid, gid: seen.gid }) {
            self.item(&found.change.path, Deed::Meta { expect: seen.clone(), meta });
        }
    }

    fn meta_of(&self, entry: &Entry) -> Meta {
        // An id outside a container's range would be somebody else's on the host.
        let host = |id: u32| self.place.shift + if id < 65_536 { id } else { 65_534 };
        Meta { mode: entry.mode, uid: host(entry.uid), gid: host(entry.gid) }
    }

    fn merged_meta(&self, old: &Entry, seen: &Seen, new: &Entry) -> Meta {
        let (old, new) = (self.meta_of(old), self.meta_of(new));
        Meta {
            mode: merge::value(old.mode, seen.mode, new.mode),
            uid: merge::value(old.uid, seen.uid, new.uid),
            gid: merge::value(old.gid, seen.gid, new.gid),
        }
    }

    /// Both the member and the base have changed it.
    fn both(&mut self, found: &Found<'a>) -> Result<()> {
        let change = found.change;
        let (Some(new), Some(seen)) = (&change.new, &found.seen) else { return Ok(()) };
        let waiting = self.waiting(change)?;
        let back = self.place.new_generation < self.place.old_generation;
        if back && change.old.is_none() {
            // On the way there the base gave it up, and the changed one stayed.
            let note = format!("/{} is not as in the base, and stays as it is", change.path);
            self.draft.notes.push(note);
            return Ok(());
        }
        if back && waiting.is_some() && self.conflicted_before(found)? {
            // The way back from a conflict: the member's text was never touched.
            return self.withdraw(found);
        }
        let bytes = match (&change.old, self.merged(found)?) {
            (Some(_), Ok(bytes)) => bytes,
            (_, Err(clash)) => return self.conflict(change, Some(seen), clash.words()),
            (None, Ok(_)) => return Ok(()),
        };
        let is_new = change.texts.as_ref().is_some_and(|(_, new)| *new == bytes.0);
        self.as_new.insert(&change.path, is_new);
        if waiting.is_some() {
            self.conflict(change, Some(seen), "an earlier conflict is not resolved")?;
        }
        if bytes.1 {
            let meta = match &change.old {
                Some(old) => self.merged_meta(old, seen, new),
                None => self.meta_of(new),
            };
            let source = Source::Bytes(bytes.0);
            let expect = Some(seen.clone());
            self.item(
                &change.path,
                Deed::Put { source, meta, expect, beside: true, conflict: None },
            );
        }
        Ok(())
    }

    /// The merged content, and whether it differs from the member's.
    fn merged(&mut self, found: &Found<'a>) -> Result<Result<(Vec<u8>, bool), Clash>> {
        let change = found.change;
        let Some((old, new)) = &change.texts else { return Ok(Err(self.untold(found))) };
        let Some(mine) = self.own_text(found)? else { return Ok(Err(Clash::TooLarge)) };
        let merged = match change.class {
            Class::Keyed(kind) => {
                let texts = [old, &mine, new].map(|t| std::str::from_utf8(t));
                let [Ok(old), Ok(mine), Ok(new)] = texts else { return Ok(Err(Clash::Binary)) };
                kind.merge(old, mine, new).into_bytes()
            }
            _ => match merge::text(&mut self.budget, old, &mine, new) {
                Ok(text) => text.into_owned(),
                Err(clash) => return Ok(Err(clash)),
            },
        };
        let differs = merged != mine;
        Ok(Ok((merged, differs)))
    }

    /// Why there were no texts to merge.
    fn untold(&self, found: &Found<'a>) -> Clash {
        let file = |e: &Option<Entry>| e.as_ref().is_some_and(|e| Kind::of(e) == Kind::File);
        match (&found.change.old, file(&found.change.new)) {
            (None, _) => Clash::Another,
            (Some(_), true) if file(&found.change.old) => Clash::TooLarge,
            _ => Clash::Binary,
        }
    }

    fn own_text(&self, found: &Found<'a>) -> Result<Option<Vec<u8>>> {
        let (Some(spot), Some(seen)) = (&found.spot, &found.seen) else { return Ok(None) };
        let limit = match found.change.class {
            Class::Keyed(kind) => kind.limit(),
            _ => merge::TEXT_LIMIT,
        };
        spot.read(seen, limit)
    }

    /// Whether going from the new generation to the old one would have been a conflict.
    fn conflicted_before(&mut self, found: &Found<'a>) -> Result<bool> {
        let Some((old, new)) = &found.change.texts else { return Ok(true) };
        let Some(mine) = self.own_text(found)? else { return Ok(true) };
        Ok(merge::text(&mut self.budget, new, &mine, old).is_err())
    }

    /// The old generation's version, where an earlier conflict left it beside.
    fn waiting(&self, change: &Change) -> Result<Option<Seen>> {
        let is_file = |e: &&Entry| Kind::of(e) == Kind::File;
        let Some(old) = change.old.as_ref().filter(is_file) else { return Ok(None) };
        let path = class::beside(&change.path, self.place.new_generation, 0);
        let Some(spot) = self.tree.spot(&path)? else { return Ok(None) };
        let Some(seen) = spot.look()? else { return Ok(None) };
        let [same, _] = spot.same_as(&seen, [Some(old), None])?;
        Ok(same.then_some(seen))
    }

    /// Takes away what an earlier conflict left beside: it is a conflict no longer.
    fn withdraw(&mut self, found: &Found<'a>) -> Result<()> {
        if let Some(expect) = self.waiting(found.change)? {
            let path = class::beside(&found.change.path, self.place.new_generation, 0);
            self.item(&path, Deed::Remove { expect });
        }
        Ok(())
    }

    /// Keeps the member's and puts the base's beside.
    fn conflict(&mut self, change: &'a Change, seen: Option<&Seen>, what: &str) -> Result<()> {
        let Some(new) = &change.new else { return Ok(()) };
        let link = seen.is_some_and(|s| s.kind == Kind::Link);
        if Kind::of(new) != Kind::File || link {
            // A second link or directory would help nobody, and where links are read as
            // settings it would do harm.
            if !class::is_choice(&change.path) {
                let note = format!("/{} is not as in the base, and stays as it is", change.path);
                self.draft.notes.push(note);
            }
            return Ok(());
        }
        for nth in 0..4 {
            let path = class::beside(&change.path, self.place.new_generation, nth);
            let Some(spot) = self.tree.spot(&path)? else { break };
            let there = spot.look()?;
            let [is_old, is_new] = match &there {
                Some(there) => spot.same_as(there, [change.old.as_ref(), Some(new)])?,
                None => [false; 2],
            };
            if is_new {
                let (path, theirs) = (change.path.clone(), path);
                self.draft.conflicts.push(Conflict { path, theirs, what: what.into() });
                return Ok(());
            }
            if there.is_none() || is_old {
                let deed = Deed::Put {
                    source: Source::Base(change.path.clone()),
                    meta: self.meta_of(new),
                    expect: there,
                    beside: true,
                    conflict: Some((change.path.clone(), what.into())),
                };
                self.item(&path, deed);
                return Ok(());
            }
        }
        let (path, theirs) = (change.path.clone(), String::new());
        self.draft.conflicts.push(Conflict { path, theirs, what: what.into() });
        Ok(())
    }

    fn accounts(&mut self) -> Result<()> {
        let delta = self.delta;
        let Some((old, new)) = &delta.accounts else { return Ok(()) };
        let mut mine = accounts::Texts::default();
        let mut seen: [Option<Seen>; 6] = Default::default();
        for (n, path) in ACCOUNTS.into_iter().enumerate() {
            let Some(spot) = self.tree.spot(path)? else { continue };
            seen[n] = spot.look()?;
            self.draft.inputs.push((path.into(), seen[n].clone()));
            let Some(there) = &seen[n] else { continue };
            let bytes = spot.read(there, merge::TEXT_LIMIT)?;
            match bytes.and_then(|b| String::from_utf8(b).ok()) {
                Some(text) => mine[n] = Some(text),
                None => {
                    let what = "is no text of a sane size; no account of the base was added".into();
                    let path = path.into();
                    self.draft.conflicts.push(Conflict { path, theirs: String::new(), what });
                    return Ok(());
                }
            }
        }
        let merged = accounts::merge(old, &mine, new);
        self.draft.notes.extend(merged.notes);
        for (n, path) in ACCOUNTS.into_iter().enumerate() {
            let Some(text) = &merged.texts[n] else { continue };
            if mine[n].as_ref() == Some(text) {
                continue;
            }
            let meta = match &seen[n] {
                Some(seen) => Meta { mode: seen.mode, uid: seen.uid, gid: seen.gid },
                None => self.meta_in_base(path)?,
            };
            let (source, expect) = (Source::Bytes(text.clone().into_bytes()), seen[n].clone());
            self.item(path, Deed::Put { source, meta, expect, beside: false, conflict: None });
        }
        for change in &delta.account_changes {
            let here = merged.clashes.iter().filter(|(path, _)| *path == change.path);
            let what: Vec<&str> = here.map(|(_, what)| what.as_str()).collect();
            if !what.is_empty() {
                self.conflict(change, None, &what.join("; "))?;
            }
        }
        Ok(())
    }

    fn meta_in_base(&self, path: &str) -> Result<Meta> {
        use std::os::unix::fs::MetadataExt;
        let full = host_path(&self.delta.new_tree, path);
        let meta = std::fs::symlink_metadata(&full)
            .context(|| format!("cannot read {}", full.display()))?;
        let shift = self.place.shift;
        Ok(Meta { mode: meta.mode() & 0o7777, uid: meta.uid() + shift, gid: meta.gid() + shift })
    }

    /// The stamps say for which `/usr` the caches are; the caches have come with it.
    fn stamps(&mut self) -> Result<()> {
        let [old, new] = self.delta.stamps;
        for path in STAMPS {
            let seen = self.tree.look(path)?;
            let of_old = |s: &Seen| s.kind == Kind::File && s.mtime() == old && old != new;
            if let Some(expect) = seen.filter(of_old) {
                self.item(path, Deed::Stamp { expect, to: new });
            }
        }
        Ok(())
    }
}

fn is_as_new(choice: Choice, found: &Found<'_>) -> bool {
    match choice {
        Choice::Take | Choice::Remove => true,
        Choice::Keep => match found.mine {
            Mine::New => true,
            _ => found.change.new.is_none(),
        },
        Choice::KeepGivenUp | Choice::Both => false,
    }
}

/// Whether it is a directory in each generation that has it.
fn is_of_dirs(change: &Change) -> bool {
    change.old.iter().chain(&change.new).all(|e| Kind::of(e) == Kind::Dir)
}
