use std::process::ExitCode;

use super::ui;
use crate::engine::{Engine, unit};
use crate::error::Result;
use crate::request::Verb;

/// Have containers started at boot (systemd hosts).
#[derive(Debug, clap::Args)]
pub(super) struct EnableArgs {
    /// The containers.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

/// Have containers no longer started at boot (systemd hosts).
#[derive(Debug, clap::Args)]
pub(super) struct DisableArgs {
    /// The containers.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

pub(super) fn run(engine: &Engine, names: &[String], on: bool) -> Result<ExitCode> {
    let names = ui::names(engine, names, false)?;
    Ok(ui::each(&names, |name| {
        let verb = if on { Verb::Enable } else { Verb::Disable };
        engine.permit(verb, name)?;
        engine.noting(verb, name, &[], || unit::enable(&engine.layout, name, on))?;
        println!("{} {name}", if on { "enabled" } else { "disabled" });
        Ok(())
    }))
}
