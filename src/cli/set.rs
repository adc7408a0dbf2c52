use std::process::ExitCode;

use crate::engine::Engine;
use crate::engine::set::Setting;
use crate::error::Result;
use crate::store::Name;

/// Change settings of a container: hold=true keeps it at its generation, owners=USER,@GROUP
/// says whose it is, home=shared mounts its owner's home on the host.
#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The container.
    name: String,
    /// The settings.
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &SetArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let settings = args.settings.iter().map(|s| Setting::parse(s)).collect::<Result<Vec<_>>>()?;
    let record = engine.set(&name, &settings)?;
    if settings.iter().any(|s| matches!(s, Setting::Owners(_))) {
        match record.owners.as_slice() {
            [] => println!("{name} belongs to nobody"),
            owners => println!("{name} belongs to {}", owners.join(", ")),
        }
    }
    if settings.iter().any(|s| matches!(s, Setting::Home(_))) {
        match (record.shared_home, record.owners.first()) {
            (true, Some(owner)) => println!("{name} has {owner}'s home from its next start on"),
            _ => println!("{name} has a home of its own from its next start on"),
        }
    }
    if !settings.iter().any(|s| matches!(s, Setting::Hold(_))) {
        return Ok(ExitCode::SUCCESS);
    }
    if record.hold {
        println!("{name} stays at generation {} until hold=false", record.generation);
    } else {
        println!("{name} follows its base; coloc adopt {name} brings it there now");
    }
    Ok(ExitCode::SUCCESS)
}
