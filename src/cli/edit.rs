use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use super::{set, ui};
use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::profile::Chain;
use crate::profile::own;
use crate::request::Verb;
use crate::store::record::Overrides;
use crate::store::{Name, Record, atomic};

/// Edit a container's own settings, as JSON, in $EDITOR.
///
/// They are checked before they are kept; what is not right can be edited again.
#[derive(Debug, clap::Args)]
pub(super) struct EditArgs {
    /// The container.
    name: String,
}

/// How long a container's own settings can be.
const LIMIT: u64 = 256 * 1024;

pub(super) fn run(engine: &Engine, args: &EditArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let record = engine.permit(Verb::Edit, &name)?;
    let dir = engine.layout.staging().join(format!("edit.{name}.{}", std::process::id()));
    std::fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
    let result = edited(engine, &record, &dir.join(format!("{name}.json")));
    crate::tree::remove(&dir)?;
    match result? {
        None => println!("{name}: nothing is changed"),
        Some(own) => set::print(&engine.replace(&name, &record.overrides, &own)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// What the editor makes of the settings; None if it is what it was.
fn edited(engine: &Engine, record: &Record, file: &Path) -> Result<Option<Overrides>> {
    atomic::write_json_unsynced(file, &record.overrides, 0o600)?;
    loop {
        ui::edit(file)?;
        match read(engine, record, file) {
            Ok(own) if own == record.overrides => return Ok(None),
            Ok(own) => return Ok(Some(own)),
            Err(e) if std::io::stdin().is_terminal() => {
                super::report(&e);
                if !ui::confirm("edit it again?", false)? {
                    return Ok(None);
                }
            }
            Err(e) => return Err(e.hint("nothing is changed")),
        }
    }
}

fn read(engine: &Engine, record: &Record, file: &Path) -> Result<Overrides> {
    use std::io::Read;
    let mut text = String::new();
    let opened = std::fs::File::open(file).context(|| "cannot read what was edited")?;
    opened.take(LIMIT + 1).read_to_string(&mut text).context(|| "cannot read what was edited")?;
    if text.len() as u64 > LIMIT {
        return Err(Error::new(Kind::Usage, "these settings are too long"));
    }
    // Lines are of this file, which is gone afterwards: its path would help nobody.
    let own = own::read(&text, "line")?;
    Chain::load(&engine.layout, &record.profile)?.with(&own)?;
    Ok(own)
}
