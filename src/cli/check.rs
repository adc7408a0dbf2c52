use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::status::check::Verdict;
use crate::store::Name;
use crate::tree::file::printable;

/// Check the host, or what really confines a container.
///
/// What is said of a container is the kernel's word on its init. The exit code is 1 if anything
/// is bad or cannot be told.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The container; the host by default.
    name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(engine: &Engine, args: &CheckArgs) -> Result<ExitCode> {
    let rows = match &args.name {
        Some(name) => engine.check_container(&Name::parse("container", name)?)?,
        None => engine.check_host(),
    };
    if args.json {
        ui::json(&rows)?;
    } else {
        let mut table = ui::table(&["CHECK", "IS", "FOUND"]);
        for row in &rows {
            table.add_row(vec![
                row.what.to_string(),
                row.verdict.word().into(),
                printable(&row.found),
            ]);
        }
        ui::print(table);
        for row in rows.iter().filter(|r| r.verdict != Verdict::Good) {
            if let Some(hint) = &row.hint {
                println!("hint: {}: {}", row.what, printable(hint));
            }
        }
    }
    let alarm = rows.iter().any(|r| r.verdict.is_alarm());
    Ok(if alarm { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
