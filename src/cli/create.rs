use std::process::ExitCode;

use crate::engine::Engine;
use crate::engine::create::Wish;
use crate::error::Result;
use crate::profile::own::Change;
use crate::store::Name;
use crate::tree::file::printable;

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
    /// Its network: private, host, none, bridge=NAME or macvlan=NAME.
    #[arg(long)]
    network: Option<String>,
    /// A setting over the profile's, see coloc-profile(5); may be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &CreateArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let init = args.init.iter().map(|v| format!("init={v}"));
    let network = args.network.iter().map(|v| format!("network.mode={v}"));
    let settings = init.chain(network).chain(args.settings.iter().cloned());
    let changes = settings.map(|s| Change::parse(&s)).collect::<Result<Vec<_>>>()?;
    let wish = Wish {
        base: args.base.clone(),
        owners: args.owners.clone(),
        profile: args.profile.clone(),
        changes,
    };
    let record = engine.create(&name, &wish)?;
    let boot = engine
        .follow_autostart(&record)
        .map_err(|e| e.context(format!("{name} is made, but will not start at boot")))?;
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
    if let Some(note) = boot {
        println!("{name}: {}", printable(&note));
    }
    Ok(ExitCode::SUCCESS)
}
