//! The supervisor: starts a container, then watches over it as [`crate::runtime::monitor`], and
//! comes back here when its init has ended.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use oci_spec::runtime::Spec;

use super::apart::Apart;
use super::{Engine, given, unit};
use crate::error::{Context, Error, Kind, Result};
use crate::network::Admitted;
use crate::network::plan::Member;
use crate::profile::spec::{Home, Place, derive};
use crate::profile::{Chain, Effective, InitChoice, Settings};
use crate::runtime::bounds::{self, Bounds};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::hooks::Hooks;
use crate::runtime::monitor::{self, Job};
use crate::runtime::parent::Calls;
use crate::runtime::plan::{Handed, Plan, plan};
use crate::runtime::{InitKind, cgroup, console, devices, held, label, parent};
use crate::store::lock::{self, Lock, Subject};
use crate::store::record::now;
use crate::store::running::{Process, State, boot_id};
use crate::store::{Layout, Name, Record, atomic};
use crate::sys::clone::{self, Child};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{Named, image, process};

const GIVEN: &str = crate::runtime::given::FILE;
/// Where a start that failed under systemd says why.
pub const FAILED: &str = "failed.json";
/// What a command that started a container has to end in, before its supervisor goes on.
const FINISHING: Duration = Duration::from_millis(20);

impl Engine {
    /// Starts `name`, reports to whoever started this process, and becomes its monitor. With
    /// the container running and its supervisor gone it takes that one's place.
    pub fn supervise(&self, name: &Name) -> Result<std::convert::Infallible> {
        alone();
        let lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        if let Some((state, init)) = State::alive(&self.layout, name) {
            let running = self.take_over(name, state, init)?;
            return watch(lock, running);
        }
        let record = Record::load(&self.layout, name)?;
        let settings = self.settings(&record)?;
        let (start, network) = self.prepare(record, settings)?;
        if let Err(e) = self.furnish_before(&start) {
            drop(network);
            self.undo(&start);
            return Err(e);
        }
        match &start.cgroups.birthplace {
            None => self.begin_and_watch(lock, &start, network),
            Some(place) => open_dir(place)
                .map_err(Error::from)
                .and_then(|place| self.begin_reborn(lock, &start, network, &place))
                .inspect_err(|_| self.undo(&start)),
        }
    }

    /// Starts `name` with a child of this process as its supervisor, and returns when its init runs;
    /// false if that takes a process of a fresh image, as [`supervise`](Self::supervise) wants it.
    ///
    /// For an init of its own alone: that is executed, and shows nothing of this process. The built-in
    /// one goes on as it is, and everyone inside would see this command line, and others' names in it.
    pub(super) fn supervise_apart(&self, name: &Name) -> Result<bool> {
        if of_systemd() || !clone::alone() || !image::seal_in_place() {
            return Ok(false);
        }
        let lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        if State::alive(&self.layout, name).is_some() {
            return Ok(false);
        }
        let record = Record::load(&self.layout, name)?;
        let settings = self.settings(&record)?;
        if settings.init == InitChoice::Builtin {
            return Ok(false);
        }
        let (start, mut network) = self.prepare(record, settings)?;
        let furnished = self.furnish_before(&start);
        match furnished.and_then(|()| Apart::begin(self, lock, &start, &mut network)) {
            Ok(apart) => apart.watch_over(self, &start, network).map(|()| true),
            Err(e) => {
                // What undoes the rest takes the network's lock, which is in here.
                drop(network);
                self.undo(&start);
                Err(e)
            }
        }
    }

    /// Takes back what [`prepare`](Self::prepare) made.
    fn undo(&self, start: &Start) {
        cgroup::remove(&start.cgroups.made);
        self.off_network(&start.record.name);
    }

    /// Goes on in a child that is born in the supervisor's cgroup; this process ends.
    fn begin_reborn(
        &self,
        lock: Lock,
        start: &Start,
        network: Option<Admitted>,
        place: &OwnedFd,
    ) -> Result<std::convert::Infallible> {
        // Whoever began to load rules is to hear how it went.
        let mut network = network;
        network.as_mut().map_or(Ok(()), |admitted| self.complete(admitted))?;
        self.announce(network);
        let mut lock = Some(lock);
        clone::spawn(0, Some(place.as_fd()), || {
            let _ = rustix::process::setsid();
            let Some(lock) = lock.take() else { return 1 };
            match self.begin_and_watch(lock, start, None) {
                Ok(never) => match never {},
                Err(e) => {
                    report_failure(&self.layout, &start.record.name, &e);
                    e.kind().exit_code()
                }
            }
        })
        .context(|| "cannot make a process in its cgroup")?;
        // flock(2): a lock is one for parent and child, and this drop would unlock the child's.
        std::mem::forget(lock);
        std::process::exit(0)
    }

    fn begin_and_watch(
        &self,
        lock: Lock,
        start: &Start,
        mut network: Option<Admitted>,
    ) -> Result<std::convert::Infallible> {
        let begun = self.begin(start, &mut || {
            self.furnish_beside(start)?;
            network.as_mut().map_or(Ok(()), |admitted| self.complete(admitted))
        });
        // Before the clean-up, which waits for it.
        self.announce(network);
        let name = &start.record.name;
        let running = begun.inspect_err(|_| self.off_network(name))?;
        // A command that starts a container has it done, but what systemd starts at boot has none.
        if of_systemd() {
            self.have_pending_run(name).unwrap_or_else(|e| eprintln!("coloc: {name}: {e}"));
        }
        watch(lock, running)
    }

    /// The supervisor's part of a start, in a process of its own; `connected` as for
    /// [`begin`](Self::begin).
    pub(super) fn begin_apart(
        &self,
        lock: Lock,
        start: &Start,
        connected: &mut dyn FnMut() -> Result<()>,
    ) -> Result<std::convert::Infallible> {
        let begun = self.begin(start, connected);
        let running = begun.inspect_err(|_| self.off_network(&start.record.name))?;
        announce(lock)?;
        // To become the monitor is work that nobody waits for. Who does wait, for that word, is woken
        // on any processor, and may have to let whoever works there finish its slice, of 3 ms.
        std::thread::sleep(FINISHING);
        become_monitor(running)
    }

    /// What a start goes by, and what its supervisor is born in; [`furnish`](Self::furnish) has the rest.
    fn prepare(&self, record: Record, settings: Settings) -> Result<(Start, Option<Admitted>)> {
        let name = &record.name.clone();
        self.refuse_orphans(name)?;
        self.clean_up(name);
        // systemd starts at boot what no other command came before.
        self.shield_trees()?;
        let mut network = self.admit(&record).inspect_err(|_| self.off_network(name))?;
        let member = network.as_ref().map(|admitted| admitted.member.clone());
        // What loads the rules is in the cgroup of this process. If that is a unit of systemd's, it
        // would keep the kernel from passing controllers on to the container.
        let apart = !of_systemd();
        let waited = network.as_mut().filter(|_| !apart).map_or(Ok(()), |n| self.complete(n));
        match waited.and_then(|()| self.prepare_rest(record, settings, member)) {
            Ok(start) => Ok((start, network)),
            Err(e) => {
                drop(network);
                self.off_network(name);
                Err(e)
            }
        }
    }

    fn prepare_rest(
        &self,
        record: Record,
        settings: Settings,
        member: Option<Member>,
    ) -> Result<Start> {
        let name = &record.name;
        let home = self.home_of(&record)?;
        let (spec, plan, kind) = self.plan_of(&record, &settings, home.as_ref())?;
        let run = self.layout.run_of(name);
        std::fs::create_dir_all(&run).context(|| format!("cannot make {}", run.display()))?;
        // Now, for it walks through a tree in which nothing may move.
        self.limit_disk(&record, &settings)?;
        let cgroups = cgroup::prepare(&self.layout.id(), name.as_str(), record.ids.start)?;
        let given = given::own(&plan, &settings);
        Ok(Start { record, member, spec, plan, kind, run, cgroups, given })
    }

    /// What a hook is to find there, for it is called while the container is made.
    fn furnish_before(&self, start: &Start) -> Result<()> {
        if start.plan.hooks.is_empty() { Ok(()) } else { self.furnish(start) }
    }

    /// The same for a container without hooks, while it is made.
    pub(super) fn furnish_beside(&self, start: &Start) -> Result<()> {
        if start.plan.hooks.is_empty() { self.furnish(start) } else { Ok(()) }
    }

    /// All else that has to be there before init is executed: the spec, the label, the limits, the devices.
    /// After an error the cgroups are still to be removed.
    fn furnish(&self, start: &Start) -> Result<()> {
        let Start { record, plan, cgroups, .. } = start;
        let name = &record.name;
        self.keep_spec(record, &start.spec)?;
        if let Some(label) = &plan.label {
            label::load(&self.labels(name), label, &label::text(plan, label))?;
        }
        plan.resources.apply(&cgroups.payload, &cgroups.v1)?;
        self.share(name, &cgroups.payload, &plan.resources)?;
        plan.devices.as_ref().map_or(Ok(()), |rules| devices::confine(&cgroups.payload, rules))
    }

    /// Starts the container; its state is on record before its init is executed. `connected` returns
    /// when it may be connected to the network. After an error it is still to be taken off that.
    fn begin(&self, start: &Start, connected: &mut dyn FnMut() -> Result<()>) -> Result<Running> {
        let Start { record, member, plan, kind, run, cgroups, given, .. } = start;
        let name = &record.name;
        // Before anything of it runs, it has its addresses.
        let mut connect = |init: &Child| {
            connected()?;
            member.as_ref().map_or(Ok(()), |member| self.house()?.connect(member, init.pid))
        };
        let mut record_state = |init: &Child| {
            let process =
                |pid| Process::now(pid).ok_or_else(|| Error::failed("its init died at once"));
            let state = State {
                boot: boot_id()?.into(),
                init: process(init.pid)?,
                supervisor: process(process::own_pid())?,
                init_kind: kind.word().into(),
                generation: record.generation,
                swapped: None,
                asked: BTreeMap::new(),
                cgroup: cgroups.payload.clone(),
                cgroups: cgroups.made.clone(),
                started: now(),
            };
            Bounds::of(plan).save(run)?;
            crate::runtime::given::remember(run, init.pid, given)?;
            state.save(&self.layout, name)
        };
        let calls = Calls { connect: &mut connect, record: &mut record_state };
        let result = parent::start(plan, cgroups, run, calls);
        let started = match result {
            Ok(started) => started,
            Err(e) => {
                // What a hook at the beginning did, one at the end undoes.
                plan.hooks.run_all("poststop", None);
                State::forget(&self.layout, name);
                leave(&cgroups.made);
                cgroup::remove(&cgroups.made);
                return Err(e);
            }
        };
        // By the spec a failure of these is only said.
        for e in plan.hooks.run_all("poststart", Some(started.init.pid)) {
            eprintln!("coloc: {name}: {e}");
        }
        let job = Job {
            init: started.init.pidfd.as_raw_fd(),
            console: started.console.as_raw_fd(),
            slave: started.slave.as_raw_fd(),
            notify: started.notify.as_raw_fd(),
            poweroff: poweroff_signal(*kind),
            ..self.job(name)
        };
        let held = vec![started.init.pidfd, started.console, started.slave, started.notify];
        Ok(Running { job, held, helper: Some(started.helper) })
    }

    fn take_over(&self, name: &Name, mut state: State, init: OwnedFd) -> Result<Running> {
        if state.supervisor.open().is_some() {
            return Err(Error::new(
                Kind::State,
                format!("{name} runs already, with its supervisor"),
            ));
        }
        state.supervisor = Process::now(process::own_pid())
            .ok_or_else(|| Error::failed("cannot find this process in /proc"))?;
        if let Some(dir) = state.cgroup.parent() {
            let _ = cgroup::put(&dir.join("supervisor"), process::own_pid());
        }
        state.save(&self.layout, name)?;
        let poweroff = poweroff_signal(InitKind::of_word(&state.init_kind));
        let mut job = Job { init: init.as_raw_fd(), poweroff, ..self.job(name) };
        let mut held = vec![];
        // The old console was hung up when its master went. Without a new one it is watched all
        // the same.
        if let Ok(pty) = console::renew(&init) {
            (job.console, job.slave) = (pty.master.as_raw_fd(), pty.slave.as_raw_fd());
            held.extend([pty.master, pty.slave]);
        }
        held.push(init);
        Ok(Running { job, held, helper: None })
    }

    fn job(&self, name: &Name) -> Job {
        Job {
            root: self.layout.root().to_path_buf(),
            name: name.to_string(),
            run: self.layout.run_of(name),
            log: self.layout.console_log(name),
            init: -1,
            console: -1,
            slave: -1,
            notify: -1,
            poweroff: 0,
        }
    }

    /// What is left to do when the init has ended: clean up, and start again after a reboot.
    pub fn ended(&self, name: &Name, rebooted: bool) -> Result<()> {
        let mine = State::load(&self.layout, name)
            .filter(|s| s.supervisor.pid == process::own_pid())
            .inspect(|s| leave(&s.cgroups));
        let lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        // Whoever stopped it has cleaned up, and wants no other start. That of the same start can say
        // more by now: an update has taken it to another generation.
        let now = State::load(&self.layout, name);
        if !mine.is_some_and(|mine| now.is_some_and(|now| now.is_of_start(&mine))) {
            return Ok(());
        }
        self.clean_up(name);
        drop(lock);
        if !rebooted {
            return Ok(());
        }
        let args = ["supervise".into(), name.as_str().into()];
        Err(monitor::exec_self(self.layout.root(), &args))
    }

    /// The payload cgroup of `name`, if processes are in it of which no state is on record: the
    /// file in /run was lost, or a newer coloc wrote it. The kernel's word counts, not the file's.
    pub(super) fn orphans(&self, name: &Name) -> Option<std::path::PathBuf> {
        if State::load(&self.layout, name).is_some() {
            return None;
        }
        self.payloads(name).into_iter().find(|payload| cgroup::populated(payload))
    }

    /// Where the payload cgroup of `name` can be: the store's own place, and that of its unit.
    fn payloads(&self, name: &Name) -> Vec<std::path::PathBuf> {
        let Ok(hierarchies) = cgroup::host() else { return Vec::new() };
        let (v2, unit) = (&hierarchies.v2, unit::name(&self.layout, name));
        [v2.join(self.layout.id()).join(name.as_str()), v2.join("coloc.slice").join(unit)]
            .map(|dir| dir.join("payload"))
            .into()
    }

    /// Refuses to touch a container that runs without a record of it.
    pub(super) fn refuse_orphans(&self, name: &Name) -> Result<()> {
        if self.orphans(name).is_none() {
            return Ok(());
        }
        Err(Error::new(
            Kind::State,
            format!("{name} runs, but its state in {} is lost", self.layout.run_of(name).display()),
        )
        .hint(format!("end what runs: coloc stop {name}")))
    }

    /// Removes what is left in /run and the cgroups of a container that does not run. The
    /// caller holds its lock.
    pub(super) fn clean_up(&self, name: &Name) {
        if let Some(state) = State::load(&self.layout, name) {
            let _ = cgroup::kill(&state.cgroup);
            cgroup::remove(&state.cgroups);
            // Before it is forgotten, so that they run again rather than not at all.
            for e in self.started_hooks(name).iter().flat_map(|h| h.run_all("poststop", None)) {
                eprintln!("coloc: {name}: {e}");
            }
        } else {
            // A start that was killed before it had written its state has left some of these.
            for payload in self.payloads(name) {
                cgroup::remove(&cgroup::made(&self.layout.id(), name.as_str(), &payload));
            }
        }
        State::forget(&self.layout, name);
        self.off_network(name);
        let held = [held::SWAP, held::WALK];
        let others = [monitor::BOOTED, "console.sock", FAILED, bounds::FILE, GIVEN];
        for file in held.into_iter().chain(others) {
            let _ = std::fs::remove_file(self.layout.run_of(name).join(file));
        }
    }

    /// The hooks of the spec that `name` was started by.
    fn started_hooks(&self, name: &Name) -> Option<Hooks> {
        let dir = self.layout.container(name);
        let spec: Option<Spec> = atomic::read_json(&dir.join("config.json")).ok().flatten();
        spec.map(|spec| Hooks::of(&spec, &dir))
    }

    /// Keeps the spec beside the record, for people and other runtimes; a write that would change
    /// nothing is saved. No sync: whatever a power cut makes of it, the next start puts it right.
    fn keep_spec(&self, record: &Record, spec: &Spec) -> Result<()> {
        let path = self.layout.container(&record.name).join("config.json");
        let same = matches!(atomic::read_json::<Spec>(&path), Ok(Some(old)) if old == *spec);
        if same { Ok(()) } else { atomic::write_json_unsynced(&path, spec, 0o600) }
    }

    /// The spec of `record`'s container, the steps of a start by it, and the kind of its init.
    pub fn plan(&self, record: &Record) -> Result<(Spec, Plan, InitKind)> {
        self.plan_with(record, self.home_of(record)?.as_ref())
    }

    /// [`plan`](Self::plan) with this home, which is looked at by nobody but who starts it.
    pub(super) fn plan_with(
        &self,
        record: &Record,
        home: Option<&Home>,
    ) -> Result<(Spec, Plan, InitKind)> {
        self.plan_of(record, &self.settings(record)?, home)
    }

    fn plan_of(
        &self,
        record: &Record,
        settings: &Settings,
        home: Option<&Home>,
    ) -> Result<(Spec, Plan, InitKind)> {
        let tree = self.layout.generation(&record.base, record.generation).join("tree");
        if !tree.join("usr").is_dir() {
            return Err(Error::new(
                Kind::Damaged,
                format!("generation {} of base {} is missing", record.generation, record.base),
            )
            .hint(format!("look for it in {}", tree.display())));
        }
        let kind = init_kind(&tree, settings)?;
        let label = self.label_of(&record.name);
        let place = Place {
            private: &self.layout.private(&record.name),
            usr: &tree.join("usr"),
            cgroup: &format!("/{}/{}/payload", self.layout.id(), record.name),
            init_kind: kind.word(),
            home,
            label: label.as_deref(),
            memory: memory_of_host(),
        };
        let spec = derive(record, settings, &place)?;
        let plan = plan(&spec, &self.host_facts(record, settings)?)?;
        Ok((spec, plan, kind))
    }

    /// The AppArmor profile of `name`, if this host can load it.
    pub(super) fn label_of(&self, name: &Name) -> Option<String> {
        let can = label::kernel_has() && label::parser().is_some();
        can.then(|| label::name(&self.layout.id(), name.as_str()))
    }

    /// Where the AppArmor profile of `name` lies.
    pub(super) fn labels(&self, name: &Name) -> label::Place {
        label::Place {
            dir: self.layout.state().join("apparmor"),
            marker: self.layout.run_of(name).join("apparmor"),
        }
    }

    /// The settings that a container runs with.
    pub fn settings(&self, record: &Record) -> Result<Settings> {
        Ok(self.effective(record)?.settings())
    }

    /// The same, each with where it comes from.
    pub fn effective(&self, record: &Record) -> Result<Effective> {
        Chain::load(&self.layout, &record.profile)?
            .with(&record.overrides)
            .map_err(|e| e.context(&record.name))
    }
}

/// Whether this process is the main one of a unit of systemd's.
fn of_systemd() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Of no terminal and no session but our own from here on.
pub(super) fn alone() {
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let _ = std::env::set_current_dir("/");
}

/// A container that was just started, or found running.
struct Running {
    job: Job,
    /// The descriptors that the job is about.
    held: Vec<OwnedFd>,
    helper: Option<parent::Helper>,
}

/// What a start goes by.
pub(super) struct Start {
    pub(super) record: Record,
    member: Option<Member>,
    spec: Spec,
    plan: Plan,
    kind: InitKind,
    run: std::path::PathBuf,
    pub(super) cgroups: Cgroups,
    given: Vec<Handed>,
}

/// Lets the next command in, reports that the container runs, and becomes its monitor.
fn watch(lock: Lock, running: Running) -> Result<std::convert::Infallible> {
    announce(lock)?;
    become_monitor(running)
}

fn announce(lock: Lock) -> Result<()> {
    drop(lock);
    unit::ready();
    if !of_systemd() {
        report_to_pipe()?;
    }
    Ok(())
}

fn become_monitor(running: Running) -> Result<std::convert::Infallible> {
    // The monitor would not know of it.
    drop(running.helper);
    monitor::hand_over(&running.job, &running.held.iter().collect::<Vec<_>>())
}

/// What a supervisor sends that is asked to end; sysvinit knows SIGPWR, of all signals.
fn poweroff_signal(kind: InitKind) -> i32 {
    kind.poweroff_signal().unwrap_or(libc::SIGPWR)
}

/// Bytes of memory that the host has; by its own word, which its root alone could bend.
fn memory_of_host() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    // Where /proc does not tell, no less than any machine of the last twenty years has.
    kib.unwrap_or(1 << 20) * 1024
}

/// The init that the base's `/sbin/init` leads to, links followed within the base.
fn init_kind(tree: &std::path::Path, settings: &Settings) -> Result<InitKind> {
    if settings.init == InitChoice::Builtin {
        return Ok(InitKind::Builtin);
    }
    let root = open_dir(tree)?;
    let found = match open_in(&root, "sbin/init", Links::InRoot, rustix::fs::OFlags::PATH, 0) {
        Ok(found) => found,
        Err(e) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&e.errno()) => {
            return Err(Error::new(Kind::State, "the base has no init: no /sbin/init is in it")
                .hint(
                    "create the container with --init builtin, or put systemd-sysv in the base",
                ));
        }
        Err(e) => return Err(e.into()),
    };
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", found.as_raw_fd()), Vec::new())
        .named(|| "readlink(/proc/self/fd)".into())?;
    let path = path.to_string_lossy();
    Ok(InitKind::of_program(path.rsplit('/').next().unwrap_or("")))
}

/// The word for the init that a stopped container will have; None if its base has none.
pub(super) fn init_word(layout: &Layout, record: &Record, settings: &Settings) -> Option<String> {
    let tree = layout.generation(&record.base, record.generation).join("tree");
    init_kind(&tree, settings).ok().map(|kind| kind.word().to_string())
}

/// Moves this process out of the cgroups of a container that has ended, where that is ours to
/// do: in a unit of systemd's it is not, nor needed.
fn leave(made: &[std::path::PathBuf]) {
    let in_store = made.iter().any(|dir| dir.ends_with("supervisor"));
    if let (true, Ok(hierarchies)) = (in_store, cgroup::host()) {
        let _ = cgroup::put(&hierarchies.v2, process::own_pid());
    }
}

/// Tells the `coloc start` that waits at the other end of our standard output, and lets go of
/// it and of the caller's streams.
fn report_to_pipe() -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout();
    let _ = out.write_all(b"ok\n").and_then(|()| out.flush());
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    use std::os::fd::AsFd;
    Ok(crate::sys::tty::take_stdio([null.as_fd(); 3])?)
}

/// Leaves word of a failed start for the `coloc start` that asked for it.
pub fn report_failure(layout: &Layout, name: &Name, error: &Error) {
    if of_systemd() {
        let _ = std::fs::create_dir_all(layout.run_of(name));
        let _ = atomic::write_json(&layout.run_of(name).join(FAILED), error, 0o600);
    } else if let Ok(text) = serde_json::to_string(error) {
        println!("{text}");
    }
}
