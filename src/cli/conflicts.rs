use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::ValueEnum;

use super::ui;
use crate::adopt::{self, Conflict, Take};
use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::request::{Request, Side};
use crate::store::Name;
use crate::tree::file::printable;

/// Show files that both the member and the base have changed, and settle which text counts.
#[derive(Debug, clap::Args)]
pub(super) struct ConflictsArgs {
    /// The container; all of them by default.
    name: Option<String>,
    /// One file, with the difference; all of them by default.
    path: Option<String>,
    /// Settle it: take the base's text, keep mine, or edit both into one.
    #[arg(long, value_enum, requires = "path")]
    take: Option<Which>,
    /// Print JSON.
    #[arg(long, conflicts_with = "take")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The base's text replaces the member's.
    Base,
    /// The member's text stays as it is.
    Mine,
    /// Both go into $EDITOR with marks; what is saved counts.
    Edit,
}

#[derive(serde::Serialize)]
struct Listed {
    container: Name,
    #[serde(flatten)]
    conflict: Conflict,
}

impl ConflictsArgs {
    pub(super) fn request(&self) -> Result<Request> {
        let take = self.take.map(|which| match which {
            Which::Base => Side::Base,
            Which::Mine => Side::Mine,
            Which::Edit => Side::Edit,
        });
        let name = ui::name(self.name.as_deref())?;
        Ok(Request::Conflicts { name, path: self.path.clone(), take, json: self.json })
    }
}

pub(super) fn run(
    engine: &Engine,
    name: Option<&Name>,
    path: Option<&str>,
    take: Option<Side>,
    json: bool,
) -> Result<ExitCode> {
    if let (Some(name), Some(path)) = (name, path) {
        let conflict = engine.conflict(name, path)?;
        return match take {
            Some(side) => settle(engine, name, &conflict, side),
            None => difference(engine, name, &conflict),
        };
    }
    let names: Vec<Name> = match name {
        Some(name) => vec![name.clone()],
        None => engine.own()?.into_iter().filter_map(|(n, r)| r.is_ok().then_some(n)).collect(),
    };
    let mut all = Vec::new();
    for name in &names {
        for conflict in engine.conflicts(name)? {
            all.push(Listed { container: name.clone(), conflict });
        }
    }
    if json {
        return ui::json(&all);
    }
    if all.is_empty() {
        println!("no conflict is open");
    }
    for Listed { container, conflict } in &all {
        println!("{container}: {} ({})", printable(&conflict.path), printable(&conflict.what));
        println!("  the base's text: {}", printable(&conflict.theirs));
    }
    if let (Some(first), true) = (all.first(), ui::screen().is_some()) {
        eprintln!(
            "see one: coloc conflicts {0} {1}; settle it: coloc conflicts {0} {1} --take \
             base|mine|edit",
            first.container,
            printable(&first.conflict.path)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn difference(engine: &Engine, name: &Name, conflict: &Conflict) -> Result<ExitCode> {
    let (mine, base) = engine.conflict_texts(name, conflict)?;
    match adopt::difference(conflict, &mine, &base) {
        Some(text) => print!("{}", printable(&text)),
        None => println!("/{} is no text that could be compared", printable(&conflict.path)),
    }
    Ok(ExitCode::SUCCESS)
}

fn settle(engine: &Engine, name: &Name, conflict: &Conflict, side: Side) -> Result<ExitCode> {
    let (take, what) = match side {
        Side::Base => (Take::Base, "the base's text counts now"),
        Side::Mine => (Take::Mine, "the member's text stays"),
        Side::Edit => (Take::Text(edited(engine, name, conflict)?), "the edited text counts now"),
    };
    engine.settle(name, conflict, take)?;
    println!("{name}: {}: {what}", printable(&conflict.path));
    Ok(ExitCode::SUCCESS)
}

/// Both texts, with marks where they differ, as an editor leaves them.
fn edited(engine: &Engine, name: &Name, conflict: &Conflict) -> Result<Vec<u8>> {
    if engine.caller.member().is_some() {
        return Err(Error::new(Kind::Usage, "an editor for both texts runs on the host, for its admin")
            .hint(format!(
                "edit /{0} inside, with /{1} beside it, and then: coloc conflicts {name} /{0} --take mine",
                conflict.path, conflict.theirs
            )));
    }
    let (mine, base) = engine.conflict_texts(name, conflict)?;
    let dir = engine.layout.staging().join(format!("edit.{name}.{}", std::process::id()));
    std::fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
    let file = dir.join("text");
    let result = (|| {
        crate::store::atomic::write(&file, &both(&dir, &mine, &base)?, 0o600)?;
        ui::edit(&file)?;
        let text = std::fs::read(&file).context(|| "cannot read what was edited")?;
        if has_marks(&text) {
            return Err(Error::new(Kind::Usage, "marks are left in the text; nothing is changed")
                .hint("remove the lines that begin with <<<<<<<, ======= and >>>>>>>"));
        }
        Ok(text)
    })();
    crate::tree::remove(&dir)?;
    result
}

const MINE: &str = "<<<<<<< mine";
const BASE: &str = ">>>>>>> base";

/// Both texts as one, by diff(1): what is the same once, what differs twice between marks.
fn both(dir: &Path, mine: &[u8], base: &[u8]) -> Result<Vec<u8>> {
    let place = |name: &str, text: &[u8]| -> Result<PathBuf> {
        let path = dir.join(name);
        crate::store::atomic::write(&path, text, 0o600)?;
        Ok(path)
    };
    let group = format!("--changed-group-format={MINE}\n%<=======\n%>{BASE}\n");
    let out = Command::new("diff")
        .args(["--text", "--unchanged-group-format=%=", &group])
        .args([place("mine", mine)?, place("base", base)?])
        .output()
        .context(|| "cannot run diff")?;
    match out.status.code() {
        Some(0 | 1) => Ok(out.stdout),
        _ => Err(Error::failed("diff could not compare the two texts")),
    }
}

fn has_marks(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().any(|line| line == MINE || line == BASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_are_there_between_marks() {
        let dir = std::env::temp_dir().join(format!("coloc-both-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let text = both(&dir, b"same\nmy own\n", b"same\nthe base's\n").unwrap();
        let wanted = "same\n<<<<<<< mine\nmy own\n=======\nthe base's\n>>>>>>> base\n";
        assert_eq!(String::from_utf8_lossy(&text), wanted);
        assert!(has_marks(&text) && !has_marks(b"a = <<<<<<< mine\n"));
        crate::tree::remove(&dir).unwrap();
    }
}
