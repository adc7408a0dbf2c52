use std::process::ExitCode;

use crate::engine::Engine;
use crate::engine::set::Outcome;
use crate::error::Result;
use crate::profile::own::{self, Change};
use crate::store::Name;
use crate::tree::file::printable;

/// Change settings of a container, see coloc-profile(5): limits.memory=1G, mounts+=/srv/a:/mnt/a,
/// hold=true keeps it at its generation, owners=USER,@GROUP says whose it is.
#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The container.
    name: String,
    /// The settings; += adds to a list, -= takes from it.
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Have settings of a container say again what its profile says.
#[derive(Debug, clap::Args)]
pub(super) struct UnsetArgs {
    /// The container.
    name: String,
    /// The settings.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &SetArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let changes = args.settings.iter().map(|s| Change::parse(s)).collect::<Result<Vec<_>>>()?;
    print(&engine.set(&name, &changes)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run_unset(engine: &Engine, args: &UnsetArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let keys = args.keys.iter().map(|k| own::key(k)).collect::<Result<Vec<_>>>()?;
    print(&engine.unset(&name, &keys)?);
    Ok(ExitCode::SUCCESS)
}

/// Says what is so now, and what will be.
pub(super) fn print(outcome: &Outcome) {
    let name = &outcome.record.name;
    if outcome.changed.is_empty() {
        println!("{name} has these settings already");
    }
    for setting in &outcome.changed {
        let line = match setting.key.name {
            "owners" => owners(&outcome.record.owners),
            "home" => home(outcome),
            "hold" => hold(outcome),
            key => {
                let value = setting.key.kind.words(&setting.value);
                let when = if outcome.waits(setting.key) { ", at the next start" } else { "" };
                format!("has {key} = {}{when}", if value.is_empty() { "nothing" } else { &value })
            }
        };
        println!("{name} {}", printable(&line));
    }
    for note in &outcome.notes {
        println!("{name}: {}", printable(note));
    }
}

fn owners(owners: &[String]) -> String {
    match owners {
        [] => "belongs to nobody".into(),
        owners => format!("belongs to {}", owners.join(", ")),
    }
}

fn home(outcome: &Outcome) -> String {
    match (outcome.record.shared_home, outcome.record.owners.first()) {
        (true, Some(owner)) => format!("has {owner}'s home from its next start on"),
        _ => "has a home of its own from its next start on".into(),
    }
}

fn hold(outcome: &Outcome) -> String {
    let Outcome { record, .. } = outcome;
    match record.hold {
        true => format!("stays at generation {} until hold=false", record.generation),
        false => format!("follows its base; coloc adopt {} brings it there now", record.name),
    }
}
