use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;

/// Hold every process of containers where it is.
#[derive(Debug, clap::Args)]
pub(super) struct FreezeArgs {
    /// The containers.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

/// Let frozen containers go on.
#[derive(Debug, clap::Args)]
pub(super) struct ThawArgs {
    /// The containers.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

pub(super) fn run(engine: &Engine, names: &[String], freeze: bool) -> Result<ExitCode> {
    let names = ui::names(engine, names, false)?;
    Ok(ui::each(&names, |name| {
        let (done, was) = match freeze {
            true => ("froze", "is frozen already"),
            false => ("thawed", "is not frozen"),
        };
        match engine.freeze(name, freeze)? {
            true => println!("{done} {name}"),
            false => println!("{name} {was}"),
        }
        Ok(())
    }))
}
