//! Changes of a base: a transaction makes generation N+1, publication makes it the current one,
//! every container adopts it. Going back is publication and adoption of an older one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::Engine;
use super::adopt::Landing;
use super::report::Report;
use super::stale::Indexes;
use crate::adopt::Summary;
use crate::base::diff::{self, PackageChange};
use crate::base::hints;
use crate::base::transaction::{self, Change, Job, Outcome, Ready};
use crate::base::{Said, Taken};
use crate::error::{Context, Error, Kind, Result};
use crate::request::Verb;
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Subject};
use crate::store::record::{current_generation, generations};
use crate::store::{BaseRecord, Name, Record, atomic, record};
use crate::sys::path::open_dir;
use crate::sys::process;
use crate::tree::accounts::ids_of;
use crate::tree::inside::Inside;
use crate::tree::{self, file};

/// What a first Ctrl-C is answered from then on.
const PUBLISHED: &str = "\ncoloc: it is published and on its way into the containers; \
    interrupt again to leave the rest to the next command\n";

/// What is to be done with a base.
#[derive(Debug)]
pub struct Order {
    /// The change.
    pub change: Change,
    /// Whether its containers adopt it.
    pub adopt: bool,
    /// Whether what still runs old code is restarted.
    pub restart: bool,
    /// Whether it is only tried.
    pub dry_run: bool,
}

impl Order {
    /// The verb and its words for the events journal.
    fn noted(&self) -> (Verb, Vec<String>) {
        let (verb, mut words) = match &self.change {
            Change::Upgrade => (Verb::BaseUpdate, Vec::new()),
            Change::Install(packages) => (Verb::BaseInstall, packages.clone()),
            Change::Remove(packages) => (Verb::BaseRemove, packages.clone()),
            Change::Shell(command) => (Verb::BaseShell, command.clone()),
        };
        if self.dry_run {
            words.insert(0, "--dry-run".into());
        }
        (verb, words)
    }
}

/// The two that a change is told by while it runs.
pub struct Ui<'a> {
    /// Asked before a change made by hand is published.
    pub confirm: &'a mut dyn FnMut(&[PackageChange]) -> bool,
    /// Gets a line now and then.
    pub progress: &'a dyn Fn(Said),
}

impl Engine {
    /// Changes `base` by `order` and brings it to its containers.
    pub fn change_base(&self, base: &Name, order: &Order, ui: &mut Ui<'_>) -> Result<Report> {
        let (verb, words) = order.noted();
        BaseRecord::load(&self.layout, base)?;
        self.noting(verb, base, &words, || self.change_noted(base, order, ui))
    }

    fn change_noted(&self, base: &Name, order: &Order, ui: &mut Ui<'_>) -> Result<Report> {
        let begun = Instant::now();
        let _lock = self.transaction(base)?;
        let from = current_generation(&self.layout, base)?;
        let work = Work::Update { base: base.clone(), to: None, made: false, adopt: order.adopt };
        let staging = work.staging(&self.layout);
        tree::remove(&staging)?;
        work.begin(&self.layout)?;
        let result = self.transact(base, from, order, &staging, ui);
        let mut report = match result {
            Ok(report) => report,
            Err(e) => {
                // Published or not: what the journal says is carried on or undone right here.
                // What cannot be done now is left to the next command.
                let _ = self.finish_update(base, false);
                return Err(e.context(format!("base {base} is not changed")));
            }
        };
        let behind = order.change == Change::Upgrade
            && report.to == report.from
            && self.containers_of(base)?.iter().any(|r| !r.hold && r.generation != report.to);
        if order.dry_run || (report.to == report.from && !(behind && order.adopt)) {
            tree::remove(&staging)?;
            work.end(&self.layout)?;
            report.seconds = begun.elapsed().as_secs_f64();
            return Ok(report);
        }
        if behind {
            // Where an earlier change did not get to, for a full disk or at the admin's wish.
            Work::Update { base: base.clone(), to: Some(from), made: false, adopt: true }
                .begin(&self.layout)?;
        }
        self.deliver(&mut report, order.adopt, order.restart, ui.progress)?;
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Makes generation `to`, by default the one before the current, current again.
    pub fn rollback_base(
        &self,
        base: &Name,
        to: Option<u64>,
        restart: bool,
        ui: &Ui<'_>,
    ) -> Result<Report> {
        BaseRecord::load(&self.layout, base)?;
        let words: Vec<String> = to.iter().map(|n| format!("--to={n}")).collect();
        self.noting(Verb::BaseRollback, base, &words, || self.rollback_noted(base, to, restart, ui))
    }

    fn rollback_noted(
        &self,
        base: &Name,
        to: Option<u64>,
        restart: bool,
        ui: &Ui<'_>,
    ) -> Result<Report> {
        let begun = Instant::now();
        let _lock = self.transaction(base)?;
        let from = current_generation(&self.layout, base)?;
        let to = match to {
            Some(to) => self.known_generation(base, to)?,
            None => generations(&self.layout, base)?.into_iter().rfind(|n| *n < from).ok_or_else(
                || {
                    Error::new(Kind::State, format!("base {base} has no generation before {from}"))
                        .hint(format!("coloc base show {base} lists those it has"))
                },
            )?,
        };
        let mut report = Report::new(base, from, to);
        let dir = |n| self.layout.generation(base, n);
        report.packages = diff::diff(&dir(from), &dir(to))?.packages;
        if to == from {
            return Ok(report);
        }
        self.switch(base, to)?;
        self.deliver(&mut report, true, restart, ui.progress)?;
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    /// The lock of whoever changes `base`.
    pub(super) fn transaction_lock(&self, base: &Name) -> Result<lock::Lock> {
        let subject = Subject::Transaction(base.clone());
        lock::try_exclusive(&self.layout, &subject)?.ok_or_else(|| {
            Error::new(Kind::State, format!("base {base} is being changed by another command"))
                .hint("wait until it is done; pgrep -a coloc shows it")
        })
    }

    /// The same, with an interrupted change finished or undone first.
    fn transaction(&self, base: &Name) -> Result<lock::Lock> {
        let lock = self.transaction_lock(base)?;
        BaseRecord::load(&self.layout, base)?;
        self.finish_update(base, true)?;
        Ok(lock)
    }

    /// Builds the next generation in `staging`, and unless it is only tried makes it current.
    fn transact(
        &self,
        base: &Name,
        from: u64,
        order: &Order,
        staging: &Path,
        ui: &mut Ui<'_>,
    ) -> Result<Report> {
        std::fs::create_dir(staging).context(|| format!("cannot make {}", staging.display()))?;
        let dir = self.layout.generation(base, from);
        let taken = self.taken_ids(base)?;
        let cache = self.layout.base(base).join("apt");
        std::fs::create_dir_all(&cache).context(|| format!("cannot make {}", cache.display()))?;
        let job = Job {
            from: &dir,
            staging,
            cache: &cache,
            log: &self.layout.base(base).join("update.log"),
            change: &order.change,
            taken: &taken,
        };
        let progress = ui.progress;
        let outcome = transaction::run(&job, ui.confirm, &mut |said| progress(said))?;
        let mut report = Report::new(base, from, from);
        let ready = match outcome {
            Outcome::Ready(ready) => ready,
            Outcome::Nothing => return Ok(report),
            Outcome::Discarded => {
                report.discarded = true;
                return Ok(report);
            }
        };
        journal::step("update.built");
        let new = staging.join("generation");
        report.packages = ready.changes.clone();
        let to = generations(&self.layout, base)?.last().copied().unwrap_or(from) + 1;
        report.to = to;
        if order.dry_run {
            self.foresee(&mut report, &dir, &new, to, order.adopt)?;
            return Ok(report);
        }
        self.publish_next(base, &new, to, order.adopt, &ready)?;
        Ok(report)
    }

    /// Puts the built generation in its place and makes it current: the moment that counts.
    fn publish_next(
        &self,
        base: &Name,
        built: &Path,
        to: u64,
        adopt: bool,
        ready: &Ready,
    ) -> Result<()> {
        let _base = lock::exclusive(&self.layout, &Subject::Base(base.clone()))?;
        Work::Update { base: base.clone(), to: Some(to), made: true, adopt }.begin(&self.layout)?;
        let place = self.layout.generation(base, to);
        std::fs::rename(built, &place)
            .context(|| format!("cannot put generation {to} in its place"))?;
        atomic::sync_parent(&place)?;
        journal::step("update.placed");
        let mut record = BaseRecord::load(&self.layout, base)?;
        if !ready.published.moved_ids.is_empty() {
            record.moved_ids.extend(ready.published.moved_ids.clone());
            record.save_in(&self.layout.base(base))?;
        }
        self.make_current(base, to)?;
        journal::step("update.switched");
        Ok(())
    }

    /// Makes `to`, which is there already, the current generation.
    fn switch(&self, base: &Name, to: u64) -> Result<()> {
        // A prune may have come first, and none may come between.
        let _base = lock::exclusive(&self.layout, &Subject::Base(base.clone()))?;
        self.known_generation(base, to)?;
        Work::Update { base: base.clone(), to: Some(to), made: false, adopt: true }
            .begin(&self.layout)?;
        journal::step("rollback.begun");
        self.make_current(base, to)?;
        journal::step("rollback.switched");
        Ok(())
    }

    /// Points `current` to generation `to`, in one step.
    fn make_current(&self, base: &Name, to: u64) -> Result<()> {
        let link = self.layout.base(base).join("current");
        let temporary = self.layout.base(base).join(".current.new");
        let context = || format!("cannot make generation {to} of base {base} the current one");
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(context),
            _ => {}
        }
        std::os::unix::fs::symlink(format!("generations/{to}"), &temporary).context(context)?;
        std::fs::rename(&temporary, &link).context(context)?;
        atomic::sync_parent(&link)
    }

    /// Brings the current generation to the containers, and closes the journal.
    fn deliver(
        &self,
        report: &mut Report,
        adopt: bool,
        restart: bool,
        progress: &dyn Fn(Said),
    ) -> Result<()> {
        let base = &report.base;
        let _uninterrupted = process::Uninterrupted::begin(PUBLISHED);
        if adopt {
            let total = self.containers_of(base)?.len();
            let containers = if total == 1 { "container" } else { "containers" };
            let words = format!("bringing generation {} to {total} {containers}", report.to);
            progress(Said::Phase(words));
            for (name, _) in record::all(&self.layout)?.iter().filter(|(_, r)| r.is_err()) {
                let words = format!("{name} is left as it is: its record is damaged");
                progress(Said::Notice(words));
            }
            report.containers = self.adopt_all(base, report.to, restart)?;
            journal::step("update.adopted");
        }
        let work = Work::Update { base: base.clone(), to: Some(report.to), made: false, adopt };
        tree::remove(&work.staging(&self.layout))?;
        work.end(&self.layout)
    }

    /// Finishes or undoes an interrupted change of `base`; its lock is the caller's.
    pub(super) fn finish_update(&self, base: &Name, told: bool) -> Result<()> {
        let found = journal::pending(&self.layout).into_iter().find_map(|work| match &work {
            Work::Update { base: b, to, made, adopt } if b == base => {
                Some((*to, *made, *adopt, work.clone()))
            }
            _ => None,
        });
        let Some((to, made, adopt, work)) = found else { return Ok(()) };
        if !self.layout.base(base).exists() {
            tree::remove(&work.staging(&self.layout))?;
            return work.end(&self.layout);
        }
        atomic::sweep(&self.layout.base(base));
        let current = current_generation(&self.layout, base)?;
        match to {
            Some(to) if to == current && adopt => {
                if told {
                    eprintln!("coloc: finishing an interrupted change of base {base}");
                }
                let reports = self.adopt_all(base, to, false)?;
                for (name, e) in reports.iter().filter_map(|r| Some((&r.name, r.error.as_ref()?))) {
                    eprintln!("coloc: cannot bring {name} to generation {to}: {e}");
                }
            }
            // Placed but never current: nobody has seen it.
            Some(to) if made && to != current => {
                let _base = lock::exclusive(&self.layout, &Subject::Base(base.clone()))?;
                tree::remove(&self.layout.generation(base, to))?;
            }
            _ => {}
        }
        tree::remove(&work.staging(&self.layout))?;
        work.end(&self.layout)
    }

    /// What the containers would come to.
    fn foresee(
        &self,
        report: &mut Report,
        old: &Path,
        new: &Path,
        to: u64,
        adopt: bool,
    ) -> Result<()> {
        for record in self.containers_of(&report.base)? {
            let mut landing = Landing::new(&record.name);
            landing.held = record.hold;
            if adopt && !record.hold {
                let own = self.layout.generation(&record.base, record.generation);
                let from = if own.exists() { own.as_path() } else { old };
                let Summary { conflicts, notes, .. } = self.predict(&record, from, new, to)?;
                (landing.conflicts, landing.notes) = (conflicts, notes);
            }
            report.containers.push(self.report_of(landing, false, &mut Indexes::default()));
        }
        Ok(())
    }

    /// Ids that containers of `base` have given away themselves, with who has them.
    fn taken_ids(&self, base: &Name) -> Result<Taken> {
        let mut taken = Taken::default();
        for record in self.containers_of(base)? {
            let tree = self.layout.generation(base, record.generation).join("tree");
            let tree = Inside::open(&tree)?;
            let (passwd, group) = self.private_accounts(&record)?;
            for (file, own, taken) in
                [("etc/passwd", passwd, &mut taken.users), ("etc/group", group, &mut taken.groups)]
            {
                let known: BTreeMap<String, u32> =
                    ids_of(&tree.text(file)?.unwrap_or_default()).collect();
                let own = ids_of(&own).filter(|(name, _)| !known.contains_key(name));
                taken.extend(own.map(|(name, id)| (id, format!("{name} in {}", record.name))));
            }
        }
        Ok(taken)
    }

    /// passwd and group of a container, as far as they can be read: they are its member's.
    fn private_accounts(&self, record: &Record) -> Result<(String, String)> {
        let tree = open_dir(self.layout.private(&record.name))?;
        let read = |path| -> String {
            let bytes = file::read(&tree, path, 8 << 20).unwrap_or_default();
            file::printable(&String::from_utf8_lossy(&bytes))
        };
        Ok((read("etc/passwd"), read("etc/group")))
    }

    /// How many packages of generation `from` are newer, from a security archive, in the current
    /// one.
    pub fn fixes_missing(&self, base: &Name, from: u64) -> Result<usize> {
        let dir = |n| self.layout.generation(base, n);
        hints::fixes_missing(&dir(from), &dir(current_generation(&self.layout, base)?))
    }
}
