//! A container goes from one generation of its base to another: private files merged, `/usr`
//! swapped under what runs, then what has to be run inside.
//!
//! The order, and what a kill leaves: an entry in the journal; the plan and every new file staged
//! outside the member's reach (until here it is undone); the entry says *committed*; the private
//! files change, the mount is swapped, the record says the new generation; what is to be run
//! inside is run, or noted for the next start; the entry goes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Engine;
use super::report::ContainerReport;
use super::stale::Indexes;
use crate::adopt::{self, Conflict, Delta, Inside, Place, Summary};
use crate::audit;
use crate::base::hints;
use crate::error::{Context, Error, Kind, Result};
use crate::request::Verb;
use crate::runtime::cgroup;
use crate::runtime::swap::{self, Done, Swap};
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Lock, Subject};
use crate::store::record::generations;
use crate::store::running::State;
use crate::store::{Name, Record, atomic};
use crate::sys::{clone, image, process};
use crate::tree;

/// What came of one container.
#[derive(Debug, Clone)]
pub struct Landing {
    /// The container.
    pub name: Name,
    /// Whether it is at the new generation now.
    pub adopted: bool,
    /// Whether what runs in it sees the new `/usr` since then.
    pub swapped: bool,
    /// Whether it was left where it is because it is to stay there.
    pub held: bool,
    /// Files of the member's that the base has another text for.
    pub conflicts: Vec<Conflict>,
    /// What else a person may want to know.
    pub notes: Vec<String>,
    /// Why it is not all done.
    pub error: Option<Error>,
}

impl Landing {
    pub(super) fn new(name: &Name) -> Self {
        Self {
            name: name.clone(),
            adopted: false,
            swapped: false,
            held: false,
            conflicts: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }
}

impl Landing {
    fn has_swapped(&mut self, swapped: Option<Vec<String>>) {
        self.swapped = swapped.is_some();
        let lost = swapped.unwrap_or_default().into_iter();
        self.notes.extend(lost.map(|at| format!("what was mounted at {at} is not any more")));
    }
}

/// What differs between generations of one base, looked up once for all its containers.
#[derive(Default)]
pub(super) struct Deltas(RefCell<BTreeMap<(Name, u64, u64), Rc<Delta>>>);

impl Deltas {
    fn get(&self, engine: &Engine, base: &Name, from: u64, to: u64) -> Result<Rc<Delta>> {
        let key = (base.clone(), from, to);
        if let Some(delta) = self.0.borrow().get(&key) {
            return Ok(delta.clone());
        }
        let dir = |n| engine.layout.generation(base, n);
        let delta = Rc::new(adopt::delta(&dir(from), &dir(to))?);
        self.0.borrow_mut().insert(key, delta.clone());
        Ok(delta)
    }
}

/// The reports of a worker; a container that it did not get to has a report that says so.
fn collect(share: &[Name], worker: Result<Child>) -> Vec<ContainerReport> {
    let mut reports: Vec<ContainerReport> = Vec::new();
    let mut error = Error::failed("the coloc that was at work on it died");
    match worker {
        Ok(mut child) => {
            let lines = child.stdout.take().map(|pipe| BufReader::new(pipe).lines());
            let parsed = lines.into_iter().flatten().map_while(std::result::Result::ok);
            reports.extend(parsed.filter_map(|line| serde_json::from_str(&line).ok()));
            let _ = child.wait();
        }
        Err(e) => error = e,
    }
    for name in share {
        if reports.iter().all(|r| r.name != *name) {
            let landing = Landing { error: Some(error.clone()), ..Landing::new(name) };
            reports.push(ContainerReport::from(landing));
        }
    }
    reports
}

/// For how long commands of coloc's own may run in a container, all of an adoption's together.
const INSIDE_LIMIT: Duration = Duration::from_secs(120);

/// How often a plan is made anew because the member's files change all the time.
const PLANS: usize = 5;

impl Engine {
    /// Brings `name` to generation `to` of its base, whether it is held or not.
    pub fn adopt(&self, name: &Name, to: Option<u64>) -> Result<(Landing, u64)> {
        let record = Record::load(&self.layout, name)?;
        let to = match to {
            Some(to) => self.known_generation(&record.base, to)?,
            None => crate::store::record::current_generation(&self.layout, &record.base)?,
        };
        let landing = self
            .adopt_with(name, to, &Deltas::default())
            .context(|| format!("cannot bring {name} to generation {to}"))?;
        Ok((landing, to))
    }

    /// `generation`, if `base` has it.
    pub(super) fn known_generation(&self, base: &Name, generation: u64) -> Result<u64> {
        if generations(&self.layout, base)?.contains(&generation) {
            return Ok(generation);
        }
        Err(Error::new(Kind::NotFound, format!("base {base} has no generation {generation}"))
            .hint(format!("coloc base show {base} lists those it has")))
    }

    /// Brings every container of `base` that is not held to generation `to`, several at a time.
    pub(super) fn adopt_all(
        &self,
        base: &Name,
        to: u64,
        restart: bool,
    ) -> Result<Vec<ContainerReport>> {
        let names: Vec<Name> = self.containers_of(base)?.into_iter().map(|r| r.name).collect();
        let workers = std::thread::available_parallelism().map_or(4, |n| (2 * n.get()).clamp(4, 8));
        let mut shares = vec![Vec::new(); workers.min(names.len()).max(1)];
        let count = shares.len();
        for (n, name) in names.into_iter().enumerate() {
            shares[n % count].push(name);
        }
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        let others: Vec<(Vec<Name>, Result<Child>)> = shares
            .map(|share| {
                let worker = self.worker(&share, to, restart);
                (share, worker)
            })
            .collect();
        let mut reports = Vec::new();
        self.bring(&own, to, restart, &mut |report| reports.push(report));
        for (share, worker) in others {
            reports.extend(collect(&share, worker));
        }
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(reports)
    }

    /// A process of its own for a share of the containers: entering a container takes a fork,
    /// which a process with threads must not do.
    fn worker(&self, share: &[Name], to: u64, restart: bool) -> Result<Child> {
        let mut command = image::again();
        command.env_clear().envs(image::variable()).env("COLOC_ROOT", self.layout.root());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        // The events journal tells who it was, also where a worker writes to it.
        for name in [swap::FORCE, journal::KILL_AT, "SUDO_USER", "SSH_CONNECTION"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.args(["adopt", "--worker", "--to", &to.to_string()]);
        if restart {
            command.arg("--restart-stale");
        }
        command.arg("--").args(share.iter().map(Name::as_str));
        // A Ctrl-C is our own to answer.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().context(|| "cannot start another coloc")
    }

    /// Brings each of `names` that is not held to generation `to` of its base.
    pub fn bring(
        &self,
        names: &[Name],
        to: u64,
        restart: bool,
        tell: &mut dyn FnMut(ContainerReport),
    ) {
        let (deltas, mut indexes) = (Deltas::default(), Indexes::default());
        for name in names {
            let landing = self.land(name, to, &deltas);
            tell(self.report_of(landing, restart, &mut indexes));
        }
    }

    fn land(&self, name: &Name, to: u64, deltas: &Deltas) -> Landing {
        let held = Record::load(&self.layout, name).is_ok_and(|record| record.hold);
        if held {
            return Landing { held, ..Landing::new(name) };
        }
        self.adopt_with(name, to, deltas)
            .unwrap_or_else(|e| Landing { error: Some(e), ..Landing::new(name) })
    }

    fn adopt_with(&self, name: &Name, to: u64, deltas: &Deltas) -> Result<Landing> {
        self.noting(Verb::Adopt, name, &[format!("--to={to}")], || {
            self.adopt_noted(name, to, deltas)
        })
    }

    fn adopt_noted(&self, name: &Name, to: u64, deltas: &Deltas) -> Result<Landing> {
        let lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        // What was interrupted comes first: a plan is made from where the container really is.
        self.finish_adoption(name)?;
        let record = Record::load(&self.layout, name)?;
        let _base = lock::shared(&self.layout, &Subject::Base(record.base.clone()))?;
        self.regain(name);
        self.refuse_orphans(name)?;
        let mut landing = Landing::new(name);
        if record.generation == to {
            // Its files are there; what runs may not be, if a swap could not be made then.
            landing.adopted = true;
            landing.has_swapped(self.swap(&record, to)?);
            drop(lock);
            landing.notes.extend(self.run_pending(name));
            return Ok(landing);
        }
        let from = record.generation;
        let delta = deltas.get(self, &record.base, from, to)?;
        let work = Work::Adopt { name: name.clone(), from, to, committed: false };
        work.begin(&self.layout)?;
        journal::step("adopt.begun");
        if let Err(e) = self.stage(&record, &delta, to) {
            tree::remove(&self.adopt_stage(name))?;
            work.end(&self.layout)?;
            return Err(e);
        }
        journal::step("adopt.staged");
        Work::Adopt { name: name.clone(), from, to, committed: true }.begin(&self.layout)?;
        journal::step("adopt.committed");
        self.carry_on(record, from, to, &mut landing)?;
        drop(lock);
        landing.notes.extend(self.run_pending(name));
        Ok(landing)
    }

    fn adopt_stage(&self, name: &Name) -> PathBuf {
        self.layout.adopt(name)
    }

    /// Plans and stages, again for as long as the files that the plan is made from change.
    fn stage(&self, record: &Record, delta: &Delta, to: u64) -> Result<()> {
        let stage = self.adopt_stage(&record.name);
        for _ in 0..PLANS {
            tree::remove(&stage)?;
            std::fs::create_dir(&stage).context(|| format!("cannot make {}", stage.display()))?;
            let private = self.layout.private(&record.name);
            let place = place(record, &private, &stage, record.generation, to);
            let plan = adopt::plan(delta, &place)?;
            if !plan.moved(&place)? {
                return Ok(());
            }
        }
        Err(Error::new(Kind::State, "files in its /etc or /var change all the time")
            .hint("stop what writes to them, or the container, and run coloc adopt again"))
    }

    /// From the commit on: each of these steps can be done again.
    fn carry_on(
        &self,
        mut record: Record,
        from: u64,
        to: u64,
        landing: &mut Landing,
    ) -> Result<()> {
        let name = record.name.clone();
        let stage = self.adopt_stage(&name);
        let private = self.layout.private(&name);
        let place = place(&record, &private, &stage, from, to);
        let applied = match adopt::load(&stage)? {
            Some(plan) => adopt::commit(&plan, &place)?,
            // The stage goes only after everything that follows it here.
            None => return Err(Error::failed(format!("{} is gone", stage.display()))),
        };
        journal::step("adopt.applied");
        self.add_conflicts(&name, &applied.conflicts)?;
        let swapped = self.swap(&record, to);
        journal::step("adopt.swapped");
        record.generation = to;
        record.save_in_work(&self.layout)?;
        self.note_pending(&name, &applied.inside)?;
        journal::step("adopt.recorded");
        tree::remove(&stage)?;
        Work::Adopt { name: name.clone(), from, to, committed: true }.end(&self.layout)?;
        landing.adopted = true;
        landing.conflicts = applied.conflicts;
        landing.notes = applied.notes;
        match swapped {
            Ok(swapped) => landing.has_swapped(swapped),
            Err(e) => landing.error = Some(e.hint(format!("coloc restart {name} puts it right"))),
        }
        Ok(())
    }

    /// Finishes or undoes an adoption that was interrupted. The caller has the lock.
    pub(super) fn finish_adoption(&self, name: &Name) -> Result<()> {
        let found = journal::pending(&self.layout).into_iter().find_map(|work| match work {
            Work::Adopt { name: n, from, to, committed } if n == *name => {
                Some((from, to, committed))
            }
            _ => None,
        });
        let Some((from, to, committed)) = found else { return Ok(()) };
        let work = Work::Adopt { name: name.clone(), from, to, committed };
        atomic::sweep(&self.layout.container(name));
        let stage = self.adopt_stage(name);
        if !committed || !self.layout.container(name).exists() {
            tree::remove(&stage)?;
            return work.end(&self.layout);
        }
        let record = Record::load(&self.layout, name)?;
        // The record is written before the stage goes.
        if record.generation == to && adopt::load(&stage)?.is_none() {
            tree::remove(&stage)?;
            return work.end(&self.layout);
        }
        let _base = lock::shared(&self.layout, &Subject::Base(record.base.clone()))?;
        let mut landing = Landing::new(name);
        self.carry_on(record, from, to, &mut landing)?;
        landing.error.map_or(Ok(()), Err)
    }

    /// Gives what runs in the container the `/usr` of generation `to`; None if nothing runs, else
    /// the mounts of the member's in the old one that could not be taken along.
    fn swap(&self, record: &Record, to: u64) -> Result<Option<Vec<String>>> {
        let name = &record.name;
        let Some((mut state, init)) = State::alive(&self.layout, name) else { return Ok(None) };
        let usr = |n| self.layout.generation(&record.base, n).join("tree/usr");
        let known: Vec<PathBuf> =
            generations(&self.layout, &record.base)?.into_iter().map(usr).collect();
        let swap = Swap {
            state: &state,
            init: &init,
            known: &known,
            new: &usr(to),
            run: &self.layout.run_of(name),
        };
        let done = swap::swap(&swap)?;
        let lost = match done {
            Done::Swapped { lost, .. } => lost,
            Done::Already if state.generation == to => return Ok(Some(Vec::new())),
            // Swapped by a command that was killed before it could write that down.
            Done::Already => Vec::new(),
        };
        let between = state.generation.min(to) + 1..=state.generation.max(to);
        state.generation = to;
        state.swapped = audit::moment();
        let dirs: Vec<PathBuf> = generations(&self.layout, &record.base)?
            .into_iter()
            .filter(|n| between.contains(n))
            .map(|n| self.layout.generation(&record.base, n))
            .collect();
        // Without them a restart less is proposed; the swap is done all the same.
        for unit in hints::restarts(&dirs).unwrap_or_default() {
            state.asked.extend(state.swapped.map(|moment| (unit, moment)));
        }
        state.save(&self.layout, name)?;
        Ok(Some(lost))
    }

    /// What would become of `record`'s container, with nothing changed.
    pub(super) fn predict(
        &self,
        record: &Record,
        old: &std::path::Path,
        new: &std::path::Path,
        to: u64,
    ) -> Result<Summary> {
        let delta = adopt::delta(old, new)?;
        let private = self.layout.private(&record.name);
        let stage = self.adopt_stage(&record.name);
        adopt::predict(&delta, &place(record, &private, &stage, record.generation, to))
    }

    fn pending_file(&self, name: &Name) -> PathBuf {
        self.layout.container(name).join("pending.json")
    }

    /// Notes what is to be run inside, beside what is noted already.
    fn note_pending(&self, name: &Name, inside: &[Inside]) -> Result<()> {
        let mut all: Vec<Inside> = self.pending_inside(name);
        let known = all.clone();
        all.extend(inside.iter().filter(|i| !known.contains(i)));
        match all.is_empty() {
            true => Ok(()),
            false => atomic::write_json(&self.pending_file(name), &all, 0o600),
        }
    }

    fn pending_inside(&self, name: &Name) -> Vec<Inside> {
        atomic::read_json(&self.pending_file(name)).ok().flatten().unwrap_or_default()
    }

    /// Runs in the container what its last adoption left to be run; gives a line for each that
    /// went wrong. A container that does not run, or is frozen, keeps it for its next start, and
    /// so does one where it failed, if no start does it anyway.
    pub fn run_pending(&self, name: &Name) -> Vec<String> {
        if self.pending_inside(name).is_empty() {
            return Vec::new();
        }
        match lock::exclusive(&self.layout, &Subject::Pending(name.clone())) {
            Ok(lock) => self.run_pending_under(name, &lock),
            Err(e) => vec![e.to_string()],
        }
    }

    /// The same, unless somebody else does it.
    pub fn run_pending_of_unit(&self, name: &Name) -> Result<()> {
        if let Some(lock) = self.claim_pending(name)? {
            self.run_pending_under(name, &lock);
        }
        Ok(())
    }

    /// Has nobody else do it until the lock is dropped; None if somebody is about it.
    pub(super) fn claim_pending(&self, name: &Name) -> Result<Option<Lock>> {
        lock::try_exclusive(&self.layout, &Subject::Pending(name.clone()))
    }

    /// [`run_pending`](Self::run_pending) by who has its lock.
    pub(super) fn run_pending_under(&self, name: &Name, _lock: &Lock) -> Vec<String> {
        let pending = self.pending_inside(name);
        if pending.is_empty() {
            return Vec::new();
        }
        match State::alive(&self.layout, name) {
            Some((state, _)) if !cgroup::frozen(&state.cgroup) => {}
            _ => return Vec::new(),
        }
        let end = Instant::now() + INSIDE_LIMIT;
        // A systemd that is starting empties /tmp, and takes their files from those who are
        // faster: update-ca-certificates fails so. One that never says it is up is not waited
        // for in vain for long.
        let _ = self.wait_for_boot(name, INSIDE_LIMIT / 2);
        let (mut notes, mut done) = (Vec::new(), Vec::new());
        for inside in pending {
            let command = command(inside);
            let left = end.saturating_duration_since(Instant::now());
            let well = !left.is_zero() && self.run_quietly(name, command, left);
            if !well {
                notes.push(format!("`{}` inside failed", command.join(" ")));
            }
            if well || each_start_does(inside) {
                done.push(inside);
            }
        }
        if let Err(e) = self.forget_pending(name, &done) {
            notes.push(e.to_string());
        }
        notes
    }

    /// Has it run by a process of its own, if there is anything: for a supervisor, which has to go on,
    /// as the console of what starts is not read by anybody else.
    pub(super) fn have_pending_run(&self, name: &Name) -> Result<()> {
        if self.pending_inside(name).is_empty() {
            return Ok(());
        }
        // The child of a child that has ended: the monitor waits for nobody but init.
        let between = clone::spawn(0, None, || {
            let runner = image::again()
                .args(["adopt", "--pending", name.as_str()])
                .env("COLOC_ROOT", self.layout.root())
                .env_remove("NOTIFY_SOCKET")
                .spawn();
            i32::from(runner.is_err())
        })?;
        match process::wait(between.pidfd.as_fd())? {
            process::End::Code(0) => Ok(()),
            _ => Err(Error::failed("cannot run what its last update left to be run inside")
                .hint(format!("do it by hand: coloc adopt {name}"))),
        }
    }

    /// Takes away what is done. What an adoption has noted meanwhile stays.
    fn forget_pending(&self, name: &Name, done: &[Inside]) -> Result<()> {
        let mut all = self.pending_inside(name);
        all.retain(|inside| !done.contains(inside));
        let file = self.pending_file(name);
        match all.is_empty() {
            true => Ok(std::fs::remove_file(&file)?),
            false => atomic::write_json(&file, &all, 0o600),
        }
    }
}

/// Whether a container's init does it by itself when it starts, so that it need not be kept.
fn each_start_does(inside: Inside) -> bool {
    match inside {
        Inside::Tmpfiles | Inside::DaemonReload => true,
        Inside::Ldconfig | Inside::CaCertificates => false,
    }
}

fn command(inside: Inside) -> &'static [&'static str] {
    match inside {
        Inside::Ldconfig => &["ldconfig"],
        Inside::CaCertificates => &["update-ca-certificates"],
        Inside::Tmpfiles => &["systemd-tmpfiles", "--create"],
        Inside::DaemonReload => &["systemctl", "daemon-reload"],
    }
}

fn place<'a>(
    record: &Record,
    private: &'a std::path::Path,
    stage: &'a std::path::Path,
    from: u64,
    to: u64,
) -> Place<'a> {
    Place { private, shift: record.ids.start, stage, old_generation: from, new_generation: to }
}
