use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::ui;
use crate::engine::set::to_json;
use crate::error::{Error, Kind, Result};
use crate::profile::{Chain, Profile, known, schema};
use crate::store::{Layout, Name};
use crate::tree::file::printable;

/// Look at profiles: the settings that containers start from.
#[derive(Debug, clap::Args)]
pub(super) struct ProfileArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the profiles.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the settings that a profile gives, and where each comes from.
    Show {
        /// The profile.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a file that is to become a profile.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the JSON schema of profiles, for editors.
    Schema,
}

pub(super) fn run(layout: &Layout, args: &ProfileArgs) -> Result<ExitCode> {
    match &args.what {
        What::List { json } => list(layout, *json),
        What::Show { name, json } => show(layout, &Name::parse("profile", name)?, *json),
        What::Check { file } => check(layout, file),
        What::Schema => ui::json(&schema::schema()),
    }
}

/// What a profile is, or why it cannot be read: one that is damaged must not hide the others.
fn list(layout: &Layout, json: bool) -> Result<ExitCode> {
    let all = known(layout).into_iter().map(|name| (Chain::load(layout, &name), name));
    let rows = all.map(|(chain, name)| match &chain {
        Err(e) => (name, String::new(), String::new(), Some(e.to_string())),
        Ok(chain) => {
            let (what, file) = chain.top().map_or_else(Default::default, |top| {
                (top.description().to_string(), top.file.display().to_string())
            });
            (name, what, file, None)
        }
    });
    if json {
        let rows = rows.map(|(name, what, file, damage)| {
            serde_json::json!({"name": name, "description": what, "file": file, "damage": damage})
        });
        return ui::json(&rows.collect::<Vec<_>>());
    }
    let mut table = ui::table(&["PROFILE", "WHAT FOR"]);
    for (name, what, _, damage) in rows {
        let words = damage.map_or(what, |why| format!("damaged: {why}"));
        table.add_row(vec![name.to_string(), printable(&words)]);
    }
    ui::print(table);
    Ok(ExitCode::SUCCESS)
}

fn show(layout: &Layout, name: &Name, json: bool) -> Result<ExitCode> {
    let effective = Chain::load(layout, name)?.with(&Default::default())?;
    if json {
        return ui::json(&effective.all().iter().map(to_json).collect::<Vec<_>>());
    }
    ui::print(super::show::table(effective.all(), true));
    Ok(ExitCode::SUCCESS)
}

fn check(layout: &Layout, file: &std::path::Path) -> Result<ExitCode> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let name = Name::parse("profile", stem)?;
    if file.extension().is_none_or(|e| e != "json") {
        return Err(Error::new(Kind::Usage, format!("{} is no profile's name", file.display()))
            .hint(format!("a profile is a file NAME.json: {name}.json")));
    }
    let chain = Chain::over(layout, Profile::read(name, file.to_path_buf())?)?;
    chain.with(&Default::default())?;
    let names: Vec<&str> = chain.names().iter().rev().map(|n| n.as_str()).collect();
    println!("{} is right: {}", file.display(), names.join(", which extends "));
    Ok(ExitCode::SUCCESS)
}
