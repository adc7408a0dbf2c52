use std::process::ExitCode;

use crate::engine::Engine;
use crate::engine::create::Wish;
use crate::error::Result;
use crate::store::Name;
use crate::store::record::Overrides;

/// Make a container.
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Its name: 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// The base it is over; the only one there is by default.
    #[arg(long)]
    base: Option<String>,
    /// A host user, or @ and a group, that it belongs to; may be given again.
    #[arg(long = "owner", value_name = "USER")]
    owners: Vec<String>,
    /// The profile that its settings start from.
    #[arg(long)]
    profile: Option<String>,
    /// Its init: auto (the base's own) or builtin.
    #[arg(long)]
    init: Option<String>,
    /// Its network: private or host.
    #[arg(long)]
    network: Option<String>,
}

pub(super) fn run(engine: &Engine, args: &CreateArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let wish = Wish {
        base: args.base.clone(),
        owners: args.owners.clone(),
        profile: args.profile.clone(),
        overrides: Overrides { init: args.init.clone(), network: args.network.clone() },
    };
    let record = engine.create(&name, &wish)?;
    let owners = match record.owners.as_slice() {
        [] => String::new(),
        list => format!(" for {}", list.join(", ")),
    };
    println!(
        "created {name}{owners} on {} generation {}, ids {}-{}",
        record.base,
        record.generation,
        record.ids.start,
        record.ids.start + record.ids.count - 1
    );
    Ok(ExitCode::SUCCESS)
}
