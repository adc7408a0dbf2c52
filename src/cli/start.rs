use std::process::ExitCode;
use std::time::Duration;

use super::ui;
use crate::engine::Engine;
use crate::engine::start::Outcome;
use crate::error::{Error, Result};
use crate::request::{Request, Which};
use crate::store::Name;

/// Start containers; returns when their init runs.
#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// The containers.
    names: Vec<String>,
    /// Every container.
    #[arg(long)]
    all: bool,
    /// Those that are to be started when the host boots; for hosts without systemd.
    #[arg(long, conflicts_with_all = ["all", "names"])]
    pub(super) autostart: bool,
    /// Wait until systemd inside says that it is running.
    #[arg(long)]
    wait: bool,
}

/// For how long --wait waits. A small old machine takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

impl StartArgs {
    pub(super) fn request(&self) -> Result<Request> {
        Ok(Request::Start { which: ui::which(&self.names, self.all)?, wait: self.wait })
    }
}

/// `coloc start --autostart`, which is the admin's alone.
pub(super) fn run_autostart(engine: &Engine, args: &StartArgs) -> Result<ExitCode> {
    Ok(ui::each(&engine.started_at_boot()?, |name| start(engine, name, args.wait)))
}

pub(super) fn run(engine: &Engine, which: &Which, wait: bool) -> Result<ExitCode> {
    let names = ui::chosen(engine, which)?;
    Ok(ui::each(&names, |name| start(engine, name, wait)))
}

pub(super) fn start(engine: &Engine, name: &Name, wait: bool) -> Result<()> {
    match engine.start(name)? {
        Outcome::Started => println!("started {name}"),
        Outcome::Already => println!("{name} runs already"),
        Outcome::TakenOver => println!("{name} runs already; its supervisor was gone and is back"),
    }
    if !wait {
        return Ok(());
    }
    match engine.wait_until_up(name, PATIENCE)?.as_deref() {
        None | Some("running") => Ok(()),
        Some(state) => Err(Error::failed(format!("{name} is up, but systemd says {state}"))
            .hint(format!("see what failed: coloc exec {name} -- systemctl --failed"))),
    }
}
