use std::process::ExitCode;

use super::{report, ui};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::request::Request;
use crate::store::Name;
use crate::tree::file::printable;

/// Show which processes still run code of an older generation.
#[derive(Debug, clap::Args)]
pub(super) struct StaleArgs {
    /// The container; all of them by default.
    name: Option<String>,
    /// Restart them where that harms nobody's session.
    #[arg(long)]
    restart: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "restart")]
    json: bool,
}

impl StaleArgs {
    pub(super) fn request(&self) -> Result<Request> {
        let name = ui::name(self.name.as_deref())?;
        Ok(Request::Stale { name, restart: self.restart, json: self.json })
    }
}

pub(super) fn run(
    engine: &Engine,
    name: Option<&Name>,
    restarts: bool,
    json: bool,
) -> Result<ExitCode> {
    if restarts {
        return restart(engine, name);
    }
    let stale = engine.stale(name)?;
    if json {
        return ui::json(&stale);
    }
    if stale.is_empty() {
        println!("nothing runs old code");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        ui::table(&["CONTAINER", "PID", "USER", "UNIT", "COMMAND", "PACKAGE", "FILE", "CERTAINTY"]);
    for s in &stale {
        let or_dash = |text: &Option<String>| text.as_deref().map_or("-".into(), printable);
        table.add_row(vec![
            s.container.clone(),
            s.pid.to_string(),
            printable(&s.user),
            printable(&s.unit),
            printable(&s.command),
            or_dash(&s.package),
            or_dash(&s.file),
            s.certainty.word().into(),
        ]);
    }
    ui::print(table);
    Ok(ExitCode::SUCCESS)
}

fn restart(engine: &Engine, name: Option<&Name>) -> Result<ExitCode> {
    let names = match name {
        Some(name) => vec![name.clone()],
        None => engine.own()?.into_iter().filter_map(|(n, r)| r.is_ok().then_some(n)).collect(),
    };
    Ok(ui::each(&names, |name| restart_in(engine, name)))
}

/// Restarts what can be restarted in one container, and says what was and what was not.
pub(super) fn restart_in(engine: &Engine, name: &Name) -> Result<()> {
    let after = engine.restart_stale(name)?;
    if !after.restarted.is_empty() {
        println!("{name}: restarted {}", printable(&after.restarted.join(", ")));
    }
    for left in &after.left {
        println!("{name}: {} is left alone: {}", printable(&report::named(left)), left.why);
    }
    if after.notes.is_empty() {
        return Ok(());
    }
    let notes = after.notes.join("; ");
    Err(Error::new(Kind::Failed, format!("not all of {name} could be restarted: {notes}"))
        .hint(format!("see why: coloc exec --user root {name} -- systemctl --failed")))
}
