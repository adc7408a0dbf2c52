use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::request::Request;
use crate::tree::file::printable;

/// List the containers.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) fn request(&self) -> Request {
        Request::List { json: self.json }
    }
}

pub(super) fn run(engine: &Engine, json: bool) -> Result<ExitCode> {
    let rows = engine.rows()?;
    if json {
        return ui::json(&rows);
    }
    if rows.is_empty() && ui::screen().is_some() {
        match engine.caller.member() {
            None => eprintln!("no container yet; make one: coloc create NAME --owner USER"),
            Some(name) => eprintln!("{name} has no container on this host"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        ui::table(&["NAME", "STATE", "BASE", "OWNERS", "INIT", "PID", "ADDRESS", "STALE"]);
    for row in &rows {
        let base = match (&row.base, row.generation, row.current_generation) {
            (Some(base), Some(g), Some(c)) if g != c && row.hold => {
                format!("{base} {g} (held; now {c})")
            }
            (Some(base), Some(g), Some(c)) if g != c => format!("{base} {g} (now {c})"),
            (Some(base), Some(g), _) => format!("{base} {g}"),
            _ => "-".into(),
        };
        let or_dash = |text: String| if text.is_empty() { "-".into() } else { printable(&text) };
        table.add_row(vec![
            row.name.to_string(),
            row.state.word().into(),
            base,
            or_dash(row.owners.join(", ")),
            or_dash(row.init.clone().unwrap_or_default()),
            row.pid.map_or("-".into(), |p| p.to_string()),
            row.addresses.first().map_or("-".into(), ToString::to_string),
            if row.stale > 0 { row.stale.to_string() } else { "-".into() },
        ]);
    }
    ui::print(table);
    for damage in rows.iter().filter_map(|r| r.damage.as_ref()) {
        eprintln!("coloc: {}", printable(damage));
    }
    Ok(ExitCode::SUCCESS)
}
