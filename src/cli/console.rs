use std::process::ExitCode;

use crate::engine::Engine;
use crate::error::Result;
use crate::store::Name;

/// Attach to the console of a container; leave with ^] three times.
#[derive(Debug, clap::Args)]
pub(super) struct ConsoleArgs {
    /// The container.
    name: String,
}

pub(super) fn run(engine: &Engine, args: &ConsoleArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    eprintln!("coloc: on the console of {name}; leave with ^] three times");
    let left = engine.console(&name)?;
    eprintln!("\r\ncoloc: {}", if left { "left the console" } else { "the console is gone" });
    Ok(ExitCode::SUCCESS)
}
