use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::tree::file::printable;

/// Have containers started at boot: sets autostart=true.
#[derive(Debug, clap::Args)]
pub(super) struct EnableArgs {
    /// The containers.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

/// Have containers no longer started at boot: sets autostart=false.
#[derive(Debug, clap::Args)]
pub(super) struct DisableArgs {
    /// The containers.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

pub(super) fn run(engine: &Engine, names: &[String], on: bool) -> Result<ExitCode> {
    let names = ui::names(engine, names, false)?;
    Ok(ui::each(&names, |name| {
        let outcome = engine.enable(name, on)?;
        println!("{} {name}", if on { "enabled" } else { "disabled" });
        for note in &outcome.notes {
            println!("{name}: {}", printable(note));
        }
        Ok(())
    }))
}
