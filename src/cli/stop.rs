use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use super::{start, ui};
use crate::engine::Engine;
use crate::engine::stop::Outcome;
use crate::error::Result;
use crate::request::{Request, Which};
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
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=LONGEST))]
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

impl StopArgs {
    pub(super) fn request(&self) -> Result<Request> {
        let which = ui::which(&self.names, self.all)?;
        Ok(Request::Stop { which, timeout: self.timeout })
    }
}

impl RestartArgs {
    pub(super) fn request(&self) -> Result<Request> {
        let which = ui::which(&self.stop.names, self.stop.all)?;
        Ok(Request::Restart { which, timeout: self.stop.timeout, wait: self.wait })
    }
}

pub(super) fn run(engine: &Engine, which: &Which, timeout: u64) -> Result<ExitCode> {
    let names = ui::chosen(engine, which)?;
    let limit = limit(timeout);
    let mut asked = match names.len() {
        2.. if timeout > 0 => engine.ask_all(&names, limit),
        _ => BTreeMap::new(),
    };
    Ok(ui::each(&names, |name| {
        let outcome = match asked.remove(name) {
            Some(noted) => engine.stop_asked(name, limit, noted),
            None => engine.stop(name, limit),
        };
        say(name, outcome?);
        Ok(())
    }))
}

pub(super) fn run_restart(
    engine: &Engine,
    which: &Which,
    timeout: u64,
    wait: bool,
) -> Result<ExitCode> {
    let names = ui::chosen(engine, which)?;
    Ok(ui::each(&names, |name| {
        say(name, engine.stop(name, limit(timeout))?);
        start::start(engine, name, wait)
    }))
}

/// The longest that the command line takes, too.
const LONGEST: u64 = 3600;

fn limit(timeout: u64) -> Duration {
    Duration::from_secs(timeout.min(LONGEST))
}

fn say(name: &Name, outcome: Outcome) {
    match outcome {
        Outcome::Stopped => println!("stopped {name}"),
        Outcome::Killed => println!("killed {name}"),
        Outcome::Already => println!("{name} does not run"),
    }
}
