use std::process::ExitCode;
use std::time::Duration;

use super::{start, ui};
use crate::engine::Engine;
use crate::engine::stop::Outcome;
use crate::error::Result;
use crate::store::Name;

/// Stop containers: ask their init, and kill what is left after the time-out.
#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    /// The containers.
    names: Vec<String>,
    /// Every container.
    #[arg(long)]
    all: bool,
    /// For how long to wait before killing; 0 kills at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
    timeout: u64,
}

/// Stop containers, and start them again.
#[derive(Debug, clap::Args)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    stop: StopArgs,
    /// Wait until systemd inside says that it is running.
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(engine: &Engine, args: &StopArgs) -> Result<ExitCode> {
    let names = ui::names(engine, &args.names, args.all)?;
    Ok(ui::each(&names, |name| stop(engine, name, args.timeout)))
}

pub(super) fn run_restart(engine: &Engine, args: &RestartArgs) -> Result<ExitCode> {
    let names = ui::names(engine, &args.stop.names, args.stop.all)?;
    Ok(ui::each(&names, |name| {
        stop(engine, name, args.stop.timeout)?;
        start::start(engine, name, args.wait)
    }))
}

fn stop(engine: &Engine, name: &Name, timeout: u64) -> Result<()> {
    match engine.stop(name, Duration::from_secs(timeout))? {
        Outcome::Stopped => println!("stopped {name}"),
        Outcome::Killed => println!("killed {name}"),
        Outcome::Already => println!("{name} does not run"),
    }
    Ok(())
}
