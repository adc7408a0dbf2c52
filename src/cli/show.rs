use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::engine::set::to_json;
use crate::error::Result;
use crate::profile::Setting;
use crate::request::Verb;
use crate::store::Name;
use crate::tree::file::printable;

/// Show the settings of a container.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The container.
    name: String,
    /// Say where each comes from.
    #[arg(long)]
    origin: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(engine: &Engine, args: &ShowArgs) -> Result<ExitCode> {
    let record = engine.permit(Verb::Show, &Name::parse("container", &args.name)?)?;
    let settings = engine.all_settings(&record)?;
    if args.json {
        return ui::json(&settings.iter().map(to_json).collect::<Vec<_>>());
    }
    ui::print(&table(&settings, args.origin));
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
