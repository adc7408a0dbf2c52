use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::engine::set::to_json;
use crate::error::Result;
use crate::profile::Setting;
use crate::request::{Request, Verb};
use crate::store::Name;
use crate::tree::file::printable;

/// Show the settings of a container.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The container; the only one by default.
    name: Option<String>,
    /// Say where each comes from.
    #[arg(long)]
    origin: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub(super) fn request(&self) -> Result<Request> {
        let name = ui::name(self.name.as_deref())?;
        Ok(Request::Show { name, origin: self.origin, json: self.json })
    }
}

pub(super) fn run(
    engine: &Engine,
    name: Option<&Name>,
    origin: bool,
    json: bool,
) -> Result<ExitCode> {
    let record = engine.permit(Verb::Show, &engine.container_or_only(name)?)?;
    let settings = engine.shown_settings(&record)?;
    if json {
        return ui::json(&settings.iter().map(to_json).collect::<Vec<_>>());
    }
    ui::print(table(&settings, origin));
    Ok(ExitCode::SUCCESS)
}

/// Settings, with `origin` where each comes from too.
pub(super) fn table(settings: &[Setting], origin: bool) -> comfy_table::Table {
    let columns: &[&str] = if origin { &["KEY", "VALUE", "FROM"] } else { &["KEY", "VALUE"] };
    let mut table = ui::table(columns);
    for setting in settings {
        let words = printable(&setting.key.kind.words(&setting.value));
        let value = if words.is_empty() { "-".to_string() } else { words };
        let mut row = vec![setting.key.name.to_string(), value];
        if origin {
            row.push(printable(&setting.origin.to_string()));
        }
        table.add_row(row);
    }
    table
}
