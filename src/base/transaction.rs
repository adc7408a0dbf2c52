//! A change of a base: generation N stays as it is, N+1 comes out of the directory `staging`.
//!
//! ```text
//! thread of its own, in a mount namespace of its own          this thread
//!   overlay: N below, above a layer in memory, or on disk       progress
//!   apt, or a shell, in namespaces of their own; beside it
//!   apt's word on the same change, over a layer of its own      a thread links all of N
//!   what publishing changes, on the merged tree: every
//!   write goes to the layer, none through a link to N
//!   unmount; the thread ends  ──────────────────────────────>   staging/generation, which is N
//!                                                               by then, by the layer; one syncfs
//! ```
//!
//! The layer lies in memory where apt's work is sure to fit (see [`room`]); what does not is done
//! again on disk. A shell's work could not be, so it is there from the beginning.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::diff::{self, PackageChange};
use super::hints::Hints;
use super::ids::{self, Rules, Taken};
use super::merged::{self, Layer, Merged};
use super::next::{self, Changes, Linked};
use super::publish::{self, Package, Published};
use super::sandbox::{self, Interrupt, Running, Streams};
use super::{Said, apt, room, terminal};
use crate::error::{Context, Error, Kind, Result};
use crate::store::journal;
use crate::sys::process::End;
use crate::tree::inside::Inside;
use crate::tree::manifest;

/// Run as process 1 of a tool's namespaces. Without exec: the shell stays, and reaps what the
/// tool leaves behind. Nobody sets the host's kernel from in there.
const RUN: &str = "umask 022\n\
    mount -t proc proc \"$0/proc\" && mount -o bind,ro \"$0/proc/sys\" \"$0/proc/sys\" || exit 125\n\
    chroot \"$0\" \"$@\"\n\
    exit $?\n";

/// The bytes in memory for what a simulation writes, which is next to nothing.
const AHEAD: u64 = 64 << 20;

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Every package to its newest version.
    Upgrade,
    /// These packages, and what they need.
    Install(Vec<String>),
    /// These packages and their configuration go.
    Remove(Vec<String>),
    /// What this command does; none is a shell. On the caller's terminal, if there is one.
    Shell(Vec<String>),
}

/// A change to make.
#[derive(Debug)]
pub struct Job<'a> {
    /// Generation N with `tree`, `manifest` and `packages`. Never written to.
    pub from: &'a Path,
    /// An empty directory on the same file system; afterwards it has N+1 as `generation`, and
    /// beside it what was left over, which is to be removed when nobody waits for it.
    pub staging: &'a Path,
    /// A directory that outlives the job: apt's indexes.
    pub cache: &'a Path,
    /// Gets everything that the tools say.
    pub log: &'a Path,
    /// What to do.
    pub change: &'a Change,
    /// Ids that containers gave away.
    pub taken: &'a Taken,
}

/// What a job came to.
#[derive(Debug)]
pub enum Outcome {
    /// There was nothing to do.
    Nothing,
    /// Whoever was asked did not want it.
    Discarded,
    /// N+1 is in the staging directory, on disk.
    Ready(Ready),
}

/// A generation that waits to be put in its place.
#[derive(Debug)]
pub struct Ready {
    /// As for a first generation.
    pub published: Published,
    /// The packages that are not what they were.
    pub changes: Vec<PackageChange>,
}

/// Makes the next generation. On a terminal `confirm` is asked before a shell's work becomes
/// one; `progress` gets a few words now and then.
pub fn run(
    job: &Job<'_>,
    confirm: &mut dyn FnMut(&[PackageChange]) -> bool,
    progress: &mut dyn FnMut(Said),
) -> Result<Outcome> {
    let interrupt = Interrupt::catch()?;
    let (announce, announced) = mpsc::channel();
    let (done, ahead) = std::thread::scope(|scope| {
        let ahead = std::thread::Builder::new()
            .name("ahead".into())
            .spawn_scoped(scope, move || Ahead::of(job, &announced))
            .context(|| "cannot start a thread")?;
        let done = on_thread(job, &interrupt, announce, progress, |w| w.transaction())?;
        let ahead = ahead.join().map_err(|_| Error::failed("the thread that links died"))?;
        Ok::<_, Error>((done, ahead))
    })?;
    match done {
        Some(done) => finish(job, done, ahead?, &interrupt, confirm, progress),
        None => Ok(Outcome::Nothing),
    }
}

/// What can be done while the tools are at work.
struct Ahead {
    /// N's manifest.
    old: next::Manifest,
    /// All of N in the place of N+1, if it was known early that there will be one.
    linked: Option<Linked>,
}

impl Ahead {
    /// Waits until it is `announced` that something changes, or that nobody will say so.
    fn of(job: &Job<'_>, announced: &mpsc::Receiver<()>) -> Result<Self> {
        let old = next::manifest_of(job.from)?;
        let linked = match announced.recv() {
            Ok(()) => Some(link(job, &old)?),
            Err(mpsc::RecvError) => None,
        };
        Ok(Self { old, linked })
    }
}

/// Where N+1 is made.
fn generation(job: &Job<'_>) -> PathBuf {
    job.staging.join("generation")
}

/// Begins N+1 with all of N.
fn link(job: &Job<'_>, old: &next::Manifest) -> Result<Linked> {
    let place = generation(job);
    std::fs::create_dir(&place)
        .and_then(|()| std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)))
        .context(|| format!("cannot make {}", place.display()))?;
    next::link_all(&job.from.join("tree"), &place.join("tree"), old)
        .context(|| "cannot make the next generation")
}

/// Runs `work` in a thread of its own, which has its mounts to itself and takes them along.
fn on_thread<T: Send>(
    job: &Job<'_>,
    interrupt: &Interrupt,
    announce: mpsc::Sender<()>,
    progress: &mut dyn FnMut(Said),
    work: impl FnOnce(&mut Worker<'_>) -> Result<T> + Send,
) -> Result<T> {
    let names: &[String] = match job.change {
        Change::Install(names) | Change::Remove(names) => names,
        Change::Upgrade | Change::Shell(_) => &[],
    };
    names.iter().try_for_each(|name| apt::check_name(name))?;
    let log = sandbox::open_log(job.log)?;
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        let body = || {
            let mut worker = Worker { job, interrupt, log, announce, progress: send };
            work(&mut worker)
        };
        let thread = std::thread::Builder::new()
            .name("transaction".into())
            .spawn_scoped(scope, body)
            .context(|| "cannot start a thread")?;
        receive.into_iter().for_each(progress);
        thread.join().map_err(|_| Error::failed("the transaction's thread died"))?
    })
}

/// What the tools left.
struct Done {
    layer: Layer,
    /// Installed packages now.
    packages: Vec<Package>,
    foreseen: Vec<PackageChange>,
    /// What maintainer scripts wanted done to services.
    services: Vec<String>,
    moved_ids: BTreeMap<String, u32>,
    /// Somebody sat at a terminal, and can be asked.
    asked: bool,
}

struct Worker<'a> {
    job: &'a Job<'a>,
    interrupt: &'a Interrupt,
    log: File,
    /// Gets a word when it is sure that packages change.
    announce: mpsc::Sender<()>,
    progress: mpsc::Sender<Said>,
}

impl Worker<'_> {
    fn say(&self, words: impl Into<String>) {
        // Nobody listens any more only when all is over.
        let _ = self.progress.send(Said::Phase(words.into()));
    }

    /// The merged tree, with what tools need in it, made in `staging`.
    fn open(&self, staging: &Path, room: Option<u64>) -> Result<Merged> {
        let mut merged = Merged::mount(&self.job.from.join("tree"), staging, room)?;
        merged.furnish(self.job.cache)?;
        Ok(merged)
    }

    /// Everything up to the finished layer; None if there is nothing to do.
    fn transaction(&mut self) -> Result<Option<Done>> {
        let before = ids::accounts(&Inside::open(&self.job.from.join("tree"))?)?;
        merged::enter_namespace()?;
        let shell = matches!(self.job.change, Change::Shell(_));
        let room = if shell { None } else { room::free() };
        let merged = self.open(self.job.staging, room)?;
        journal::step("update.mounted");
        let result = match self.job.change {
            Change::Shell(command) => self.shell(&merged, command).map(|()| (merged, Vec::new())),
            _ => self.packages(merged, room),
        };
        self.forget_archives();
        let (mut merged, foreseen) = result?;
        if foreseen.is_empty() && !shell {
            merged.unmount()?;
            return Ok(None);
        }
        journal::step("update.transaction");
        let services = merged.services();
        merged.clear()?;
        let status = publish::status_of(&Inside::open(merged.path())?)?;
        if let Some(package) = publish::unfinished(&status).first() {
            return Err(Error::new(
                Kind::State,
                format!("the change leaves the package {} half installed", package.name),
            )
            .hint(
                "in the shell, dpkg --configure -a and apt-get -f install finish what was begun",
            ));
        }
        self.say("making it a generation");
        let rules = Rules { before: before.unwrap_or_default(), taken: Some(self.job.taken) };
        let moved_ids = publish::prepare(merged.path(), &rules)?;
        let layer = merged.unmount()?;
        self.interrupt.check()?;
        let packages = publish::installed(&status);
        let asked = shell && terminal::is_there();
        Ok(Some(Done { layer, packages, foreseen, services, moved_ids, asked }))
    }

    /// Has apt change packages in `merged`, or where that is too small in another tree like it.
    /// Gives the tree and what the change was announced to be.
    fn packages(
        &mut self,
        merged: Merged,
        room: Option<u64>,
    ) -> Result<(Merged, Vec<PackageChange>)> {
        self.load_indexes(&merged)?;
        // Only -s says which archives the packages are from. It looks at N while the other is at
        // work, so neither waits; what it says fits the pipe, or waits there until it is read.
        let ahead = self.open(&self.job.staging.join("ahead"), room.map(|_| AHEAD))?;
        let simulate = [&["-s"], verb(self.job.change).as_slice()].concat();
        let simulation = spawn_apt(&ahead, &simulate)?;
        let merged = match self.change(merged, room) {
            Ok(merged) => merged,
            Err(e) => {
                sandbox::kill(simulation.child);
                return Err(e);
            }
        };
        let said = self.follow_apt(simulation, &simulate, &mut |_| Ok(()))?;
        ahead.unmount()?;
        Ok((merged, apt::foreseen(&said)))
    }

    /// Loads new indexes, where they matter.
    fn load_indexes(&mut self, merged: &Merged) -> Result<()> {
        if Inside::open(merged.path())?.kind("usr/bin/apt-get")?.is_none() {
            return Err(Error::new(Kind::Unsupported, "the base has no apt-get")
                .hint("coloc base shell runs whatever the base has instead"));
        }
        if matches!(self.job.change, Change::Remove(_)) {
            return Ok(());
        }
        self.say("looking for new packages");
        let args = ["update"];
        let said = self.follow_apt(spawn_apt(merged, &args)?, &args, &mut |_| Ok(()))?;
        match said.iter().find(|line| apt::lost_index(line)) {
            Some(line) => Err(Error::failed(line.trim_start_matches("W: "))
                .context("apt-get update failed")
                .hint("nothing was changed; try again when the mirror can be reached")),
            None => Ok(()),
        }
    }

    fn change(&mut self, merged: Merged, room: Option<u64>) -> Result<Merged> {
        let mut full = false;
        let result = self.run_change(&merged, room, &mut full);
        if !full && !merged.is_full()? {
            return result.map(|()| merged);
        }
        let _ = writeln!(self.log, "\n# this needs more room than there is in memory");
        drop(merged.unmount()?);
        let merged = self.open(self.job.staging, None)?;
        self.run_change(&merged, None, &mut full)?;
        Ok(merged)
    }

    /// Runs apt-get. With a `room`, says in `full` whether that was too small for it.
    fn run_change(&mut self, merged: &Merged, room: Option<u64>, full: &mut bool) -> Result<()> {
        let verb = verb(self.job.change);
        let (progress, announce) = (self.progress.clone(), self.announce.clone());
        let said = self.follow_apt(spawn_apt(merged, &verb)?, &verb, &mut |line| {
            let too_large = |room| apt::to_get(line).is_some_and(|n| !room::fits(n, room));
            if room.is_some_and(too_large) {
                *full = true;
                return Err(Error::failed("it needs more room than there is in memory"));
            }
            *full |= room.is_some() && line.contains("No space left on device");
            let total = apt::total(line);
            if total.is_some_and(|n| n > 0) {
                // Only the first word counts, and nobody hears another.
                let _ = announce.send(());
            }
            let words = match total {
                Some(0) | None => apt::step(line).map(Said::Part),
                Some(1) => Some(Said::Phase("1 package changes".into())),
                Some(n) => Some(Said::Phase(format!("{n} packages change"))),
            };
            words.map(|said| progress.send(said));
            Ok(())
        });
        said.map(drop)
    }

    /// Follows a run of apt-get with `args`; gives what it said.
    fn follow_apt(
        &mut self,
        run: Running,
        args: &[&str],
        each: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Vec<String>> {
        let what = format!("apt-get {}", args.join(" "));
        let mut lines = Vec::new();
        let (end, last) = self.follow(run, &what, &mut |line| {
            lines.push(line.to_string());
            each(line)
        })?;
        if end == End::Code(0) {
            return Ok(lines);
        }
        let failed = || sandbox::failure(&what, end, &last, self.job.log);
        Err(apt::unknown(&lines).unwrap_or_else(failed))
    }

    /// Runs the admin's command, or a shell.
    fn shell(&mut self, merged: &Merged, command: &[String]) -> Result<()> {
        let bash = Inside::open(merged.path())?.kind("usr/bin/bash")?.is_some();
        let own = [if bash { "bash" } else { "sh" }.to_string()];
        let command = if command.is_empty() { &own[..] } else { command };
        let args = arguments(merged, command.iter().map(OsString::from));
        if terminal::is_there() {
            return self.shell_on_terminal(merged, &args);
        }
        // A terminal that is ours on one side only is not handed over.
        let input = match crate::sys::tty::is_terminal(std::io::stdin()) {
            true => Streams::Pipe,
            false => Streams::PipeWithInput,
        };
        // Not to our output: that is the report's.
        let mut show = |line: &str| {
            let _ = writeln!(std::io::stderr(), "{line}");
            Ok(())
        };
        let env =
            [("HOME", "/root"), ("DEBIAN_FRONTEND", "noninteractive"), ("debian_chroot", "base")];
        let run = sandbox::spawn(RUN, &args, &env, input)?;
        let (end, _) = self.follow(run, &command.join(" "), &mut show)?;
        ended_well(end)
    }

    fn shell_on_terminal(&mut self, merged: &Merged, args: &[OsString]) -> Result<()> {
        let pty = merged.open_pty()?;
        let term = std::env::var("TERM").unwrap_or("dumb".into());
        let env = [("HOME", "/root"), ("TERM", term.as_str()), ("debian_chroot", "base")];
        let run = sandbox::spawn(RUN, args, &env, Streams::Terminal(pty.slave))?;
        if let Err(e) = terminal::relay(&pty.master, self.interrupt, &mut self.log) {
            sandbox::kill(run.child);
            return Err(e);
        }
        ended_well(sandbox::wait(run.child)?)
    }

    /// Follows a tool, by the words of `what`, to its end; gives that, and the last lines that it
    /// said.
    fn follow(
        &mut self,
        run: Running,
        what: &str,
        line: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<(End, VecDeque<String>)> {
        let _ = writeln!(self.log, "\n# {what}");
        match sandbox::follow(run.output, &mut self.log, Some(self.interrupt), line) {
            Ok(last) => Ok((sandbox::wait(run.child)?, last)),
            Err(e) => {
                sandbox::kill(run.child);
                Err(e)
            }
        }
    }

    /// Downloaded packages are of no use once they are installed, or could not be.
    fn forget_archives(&self) {
        let archives = self.job.cache.join("apt/archives");
        for dir in [archives.join("partial"), archives] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Begins a run of apt-get with `args`.
fn spawn_apt(merged: &Merged, args: &[&str]) -> Result<Running> {
    let command = ["apt-get"].iter().chain(&apt::OPTIONS).chain(args).map(OsString::from);
    let env =
        [("HOME", "/root"), ("DEBIAN_FRONTEND", "noninteractive"), ("UCF_FORCE_CONFFOLD", "1")];
    sandbox::spawn(RUN, &arguments(merged, command), &env, Streams::Pipe)
}

/// The change in apt-get's words.
fn verb(change: &Change) -> Vec<&str> {
    match change {
        Change::Install(names) => words(&["install", "--"], names),
        Change::Remove(names) => words(&["purge", "--"], names),
        Change::Upgrade | Change::Shell(_) => vec!["full-upgrade"],
    }
}

fn words<'a>(first: &[&'a str], names: &'a [String]) -> Vec<&'a str> {
    first.iter().copied().chain(names.iter().map(String::as_str)).collect()
}

/// The tree, then what runs in it.
fn arguments(merged: &Merged, command: impl Iterator<Item = OsString>) -> Vec<OsString> {
    std::iter::once(merged.path().as_os_str().to_owned()).chain(command).collect()
}

/// Exit code 0 is the admin's word that the work is good.
fn ended_well(end: End) -> Result<()> {
    match end {
        End::Code(0) => Ok(()),
        End::Code(code) => Err(Error::failed(format!(
            "the command ended with exit code {code}, so its work is discarded"
        ))),
        End::Signal(_) => Err(Error::failed("the command was killed, so its work is discarded")),
    }
}

/// From the layer to a generation on disk.
fn finish(
    job: &Job<'_>,
    done: Done,
    ahead: Ahead,
    interrupt: &Interrupt,
    confirm: &mut dyn FnMut(&[PackageChange]) -> bool,
    progress: &mut dyn FnMut(Said),
) -> Result<Outcome> {
    let (lower, upper, old) = (job.from.join("tree"), done.layer.path, ahead.old);
    let layer = Changes::read(&lower, &upper, &old)?;
    if layer.is_empty() {
        return Ok(Outcome::Nothing);
    }
    let security = apt::security(&done.foreseen);
    let before = publish::package_list(job.from)?;
    let changes = diff::compare(&before, &done.packages, &security);
    if done.asked && !interrupt.released(|| confirm(&changes))? {
        return Ok(Outcome::Discarded);
    }
    progress(Said::Phase("writing the generation".into()));
    let linked = ahead.linked.map_or_else(|| link(job, &old), Ok)?;
    let entries: Vec<manifest::Entry> = next::materialise(linked, &layer, &lower, &upper, &old)
        .context(|| "cannot make the next generation")?;
    let generation = generation(job);
    journal::step("update.materialised");
    interrupt.check()?;
    diff::write(&generation, &changes)?;
    Hints::read(job.from)?.then(&changes, &done.services).write(&generation)?;
    let published = publish::conclude(&generation, &entries, done.moved_ids)?;
    journal::step("update.synced");
    interrupt.check()?;
    Ok(Outcome::Ready(Ready { published, changes }))
}
