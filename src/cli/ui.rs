//! What the verbs share: names, many at once, questions, tables, JSON.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use comfy_table::{ContentArrangement, Table, presets};

use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::request::Which;
use crate::store::Name;
use crate::sys::tty::{self, Size};

/// The containers that a verb with NAME… or --all is for.
pub(super) fn names(engine: &Engine, given: &[String], all: bool) -> Result<Vec<Name>> {
    match (given.is_empty(), all) {
        (false, true) => Err(Error::new(Kind::Usage, "names and --all exclude each other")
            .hint("give one or the other")),
        (true, false) => {
            Err(Error::new(Kind::Usage, "no container is named").hint("give names, or --all"))
        }
        (true, true) => Ok(engine.own()?.into_iter().map(|(n, _)| n).collect()),
        (false, false) => given.iter().map(|n| Name::parse("container", n)).collect(),
    }
}

/// The same, as a request carries it.
pub(super) fn which(given: &[String], all: bool) -> Result<Which> {
    let names = given.iter().map(|n| Name::parse("container", n)).collect::<Result<_>>()?;
    Ok(Which { names, all })
}

/// The containers that are meant; without a name a member means their only one.
pub(super) fn chosen(engine: &Engine, which: &Which) -> Result<Vec<Name>> {
    if which.names.is_empty() && !which.all && engine.caller.member().is_some() {
        return Ok(vec![engine.container_or_only(None)?]);
    }
    let given: Vec<String> = which.names.iter().map(Name::to_string).collect();
    names(engine, &given, which.all)
}

/// The name that a verb with an optional one was given.
pub(super) fn name(given: Option<&str>) -> Result<Option<Name>> {
    given.map(|n| Name::parse("container", n)).transpose()
}

/// The screen of somebody whose output this process writes into a pipe, in the broker.
static SCREEN: OnceLock<Option<Size>> = OnceLock::new();

/// From here on output is for a screen of this size, or for none.
pub(super) fn set_screen(size: Option<Size>) {
    let _ = SCREEN.set(size);
}

/// The size of the screen that output ends on; None if it is none. One that does not know its
/// size is one all the same: what is for a screen only must be left out on it, or escaped.
pub(super) fn screen() -> Option<Size> {
    *SCREEN.get_or_init(|| {
        let output = std::io::stdout();
        let unknown = Size { rows: 24, columns: 80 };
        tty::is_terminal(&output).then(|| tty::size(&output).unwrap_or(unknown))
    })
}

/// Does `work` for each name; one that fails does not keep the others from it. The exit code
/// is that of the first failure.
pub(super) fn each(names: &[Name], mut work: impl FnMut(&Name) -> Result<()>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let mut failed = false;
    for name in names {
        if let Err(e) = work(name) {
            let this = super::report(&e);
            if !failed {
                code = this;
            }
            failed = true;
        }
    }
    code
}

/// [`each`] for work that has an exit code of its own; the first that is not 0 counts.
pub(super) fn each_code(
    names: &[Name],
    mut work: impl FnMut(&Name) -> Result<ExitCode>,
) -> ExitCode {
    let mut first = ExitCode::SUCCESS;
    for name in names {
        let code = work(name).unwrap_or_else(|e| super::report(&e));
        if first == ExitCode::SUCCESS {
            first = code;
        }
    }
    first
}

/// Asks on the terminal; true without one, for scripts, and with `yes`.
pub(super) fn confirm(question: &str, yes: bool) -> Result<bool> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Has `file` edited by the caller's editor.
pub(super) fn edit(file: &Path) -> Result<()> {
    let editor = std::env::var("EDITOR").unwrap_or_else(|_| "editor".into());
    // EDITOR can have arguments, and so goes through a shell, as with everybody else's.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file)
        .status()
        .context(|| format!("cannot run {editor}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::failed(format!("{editor} failed; nothing is changed"))),
    }
}

/// Prints `value` as indented JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<ExitCode> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::failed(format!("cannot write JSON: {e}")))?;
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// An empty table with these columns, as wide as the terminal at most.
pub(super) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.to_vec());
    if let Some(width) = screen().map(|s| s.columns) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Prints a table without the spaces at the ends of its lines.
pub(super) fn print(table: &Table) {
    for line in table.to_string().lines() {
        println!("{}", line.trim_end());
    }
}
