//! The verbs of `coloc base` that change a base, and those that go through its generations.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use super::progress::Progress;
use super::{report, ui};
use crate::base::diff::{self, Diff, PackageChange};
use crate::base::transaction::Change;
use crate::engine::Engine;
use crate::engine::update::{Order, Ui};
use crate::error::{Error, Kind, Result};
use crate::status::size_words;
use crate::store::{Name, record};
use crate::tree::file::printable;

/// What all changes of a base have in common.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Try it, say what would come of it, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Restart inside what still runs old code.
    #[arg(long, conflicts_with = "no_adopt")]
    restart_stale: bool,
    /// Leave the containers at their generation; bring them along later with coloc adopt.
    #[arg(long)]
    no_adopt: bool,
}

/// Upgrade the packages of a base, and bring the result to its containers, running ones too.
#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// The base.
    #[arg(required_unless_present = "all")]
    name: Option<String>,
    /// Every base, one after the other.
    #[arg(long, conflicts_with = "name")]
    all: bool,
    #[command(flatten)]
    how: How,
}

/// Install packages in a base, and bring them to its containers.
#[derive(Debug, Args)]
pub(super) struct PackagesArgs {
    /// The base.
    name: String,
    /// The packages.
    #[arg(required = true, value_name = "PKG")]
    packages: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Change a base by hand: exit code 0 of the shell or command publishes what was done, any
/// other discards it.
#[derive(Debug, Args)]
pub(super) struct BaseShellArgs {
    /// The base.
    name: String,
    #[command(flatten)]
    how: How,
    /// A command in place of a shell.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Go back to an older generation, everywhere, live.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The base.
    name: String,
    /// The generation; by default the one before the current.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Restart inside what still runs the newer code.
    #[arg(long)]
    restart_stale: bool,
}

/// Show what differs between two generations: packages, then files.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The base.
    name: String,
    /// The older generation.
    old: u64,
    /// The newer one; the current one by default.
    new: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Remove generations that are neither among the last three nor in use.
#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// The base.
    name: String,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn update(engine: &Engine, args: &UpdateArgs) -> Result<ExitCode> {
    let bases = match &args.name {
        Some(name) => vec![Name::parse("base", name)?],
        None => record::bases(&engine.layout)?,
    };
    Ok(ui::each_code(&bases, |base| change(engine, base, Change::Upgrade, &args.how)))
}

pub(super) fn install(engine: &Engine, args: &PackagesArgs) -> Result<ExitCode> {
    let base = Name::parse("base", &args.name)?;
    change(engine, &base, Change::Install(args.packages.clone()), &args.how)
}

pub(super) fn remove(engine: &Engine, args: &PackagesArgs) -> Result<ExitCode> {
    let base = Name::parse("base", &args.name)?;
    change(engine, &base, Change::Remove(args.packages.clone()), &args.how)
}

pub(super) fn shell(engine: &Engine, args: &BaseShellArgs) -> Result<ExitCode> {
    let base = Name::parse("base", &args.name)?;
    if args.command.is_empty() && !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "there is no terminal for a shell")
            .hint(format!("give a command: coloc base shell {base} -- CMD…")));
    }
    change(engine, &base, Change::Shell(args.command.clone()), &args.how)
}

fn change(engine: &Engine, base: &Name, change: Change, how: &How) -> Result<ExitCode> {
    let order =
        Order { change, adopt: !how.no_adopt, restart: how.restart_stale, dry_run: how.dry_run };
    let line = Progress::new();
    let progress = |said| line.tell(&said);
    let mut confirm = |packages: &[PackageChange]| {
        line.clear();
        let question = match packages.len() {
            0 => "Publish what you did?".into(),
            n => format!("Publish what you did, {n} packages among it?"),
        };
        ui::confirm(&question, false).unwrap_or(false)
    };
    let mut ui = Ui { confirm: &mut confirm, progress: &progress };
    let outcome = engine.change_base(base, &order, &mut ui)?;
    line.clear();
    report::show(&outcome, how.json, how.dry_run)
}

pub(super) fn rollback(engine: &Engine, args: &RollbackArgs) -> Result<ExitCode> {
    let base = Name::parse("base", &args.name)?;
    let line = Progress::new();
    let progress = |said| line.tell(&said);
    let ui = Ui { confirm: &mut |_| true, progress: &progress };
    let outcome = engine.rollback_base(&base, args.to, args.restart_stale, &ui)?;
    line.clear();
    report::show(&outcome, args.json, false)
}

pub(super) fn diff(engine: &Engine, args: &DiffArgs) -> Result<ExitCode> {
    let base = Name::parse("base", &args.name)?;
    let found: Diff = engine.diff_base(&base, args.old, args.new)?;
    if args.json {
        return ui::json(&found);
    }
    for p in &found.packages {
        println!("{}", report::package(&p.name, p.old.as_deref(), p.new.as_deref()));
    }
    if !found.packages.is_empty() && !found.files.is_empty() {
        println!();
    }
    for f in &found.files {
        println!("{} {}", sign(f.change), printable(&f.path));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn prune(engine: &Engine, args: &PruneArgs) -> Result<ExitCode> {
    let base = Name::parse("base", &args.name)?;
    let pruned = engine.prune_base(&base, args.dry_run)?;
    if args.json {
        return ui::json(&pruned);
    }
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    if pruned.generations.is_empty() {
        println!("base {base}: nothing to prune; generations {} stay", list(&pruned.kept));
        return Ok(ExitCode::SUCCESS);
    }
    let (verb, frees) = match args.dry_run {
        true => ("would remove", "would free"),
        false => ("removed", "freed"),
    };
    println!(
        "base {base}: {verb} generation {}, {frees} {}; {} stay",
        list(&pruned.generations),
        size_words(pruned.freed),
        list(&pruned.kept)
    );
    Ok(ExitCode::SUCCESS)
}

fn sign(change: diff::Change) -> char {
    match change {
        diff::Change::Added => '+',
        diff::Change::Removed => '-',
        diff::Change::Changed => '~',
    }
}
