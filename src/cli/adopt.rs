use std::process::ExitCode;

use super::{report, ui};
use crate::engine::Engine;
use crate::error::Result;
use crate::tree::file::printable;

/// Bring containers to their base's current generation, held ones too.
#[derive(Debug, clap::Args)]
pub(super) struct AdoptArgs {
    /// The containers.
    names: Vec<String>,
    /// Every container.
    #[arg(long)]
    all: bool,
    /// Another generation than the current one.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Only run inside what an earlier adoption has left to be run.
    #[arg(long, hide = true, conflicts_with = "to")]
    pending: bool,
    /// Do a share of a base's change, and report each container as a line of JSON.
    #[arg(long, hide = true, requires = "to")]
    worker: bool,
    /// Restart inside what still runs old code.
    #[arg(long)]
    restart_stale: bool,
}

impl AdoptArgs {
    /// Whether it is part of another command, which has done what comes first.
    pub(super) fn is_part(&self) -> bool {
        self.worker
    }
}

pub(super) fn run(engine: &Engine, args: &AdoptArgs) -> Result<ExitCode> {
    let names = ui::names(engine, &args.names, args.all)?;
    if let (true, Some(to)) = (args.worker, args.to) {
        engine.bring(&names, to, args.restart_stale, &mut |report| {
            if let Ok(line) = serde_json::to_string(&report) {
                println!("{line}");
            }
        });
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ui::each(&names, |name| {
        if args.pending {
            return engine.run_pending_of_unit(name);
        }
        let (landing, generation) = engine.adopt(name, args.to)?;
        let live = if landing.swapped { ", live" } else { "" };
        println!("{name} is at generation {generation}{live}");
        for conflict in &landing.conflicts {
            println!(
                "{name}: your /{} stays; the base's is /{}",
                printable(&conflict.path),
                printable(&conflict.theirs)
            );
        }
        for note in &landing.notes {
            println!("{name}: {}", printable(note));
        }
        if args.restart_stale {
            super::stale::restart_in(engine, name)?;
        }
        let stale = engine.stale(Some(name))?;
        if !stale.is_empty() {
            println!("{name}: old code still runs in {}", printable(&report::units(&stale)));
        }
        landing.error.map_or(Ok(()), Err)
    }))
}
