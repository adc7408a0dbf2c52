use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::status::size_words;
use crate::tree::disk_use;

/// Delete containers with everything in them.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// The containers.
    names: Vec<String>,
    /// Every container.
    #[arg(long)]
    all: bool,
    /// Running ones too, and damaged ones.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(engine: &Engine, args: &DeleteArgs) -> Result<ExitCode> {
    let names = ui::names(engine, &args.names, args.all)?;
    Ok(ui::each(&names, |name| {
        engine.check_delete(name, args.force)?;
        let size = disk_use(&engine.layout.private(name)).map_or("?".into(), size_words);
        if !ui::confirm(&format!("Delete {name} and everything in it ({size})?"), args.yes)? {
            println!("{name} stays");
            return Ok(());
        }
        engine.delete(name, args.force)?;
        println!("deleted {name}");
        Ok(())
    }))
}
