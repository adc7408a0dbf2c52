//! What the verbs share: names, many at once, questions, tables, JSON.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

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

/// Spaces between two columns.
const GAP: usize = 2;

/// An empty table with these columns, as wide as the terminal at most.
pub(super) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.to_vec());
    if let Some(width) = screen().map(|s| s.columns) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP as u16));
    }
    table
}

/// Prints a table without the spaces at the ends of its lines. Where it has to be narrower than it
/// is, lines are broken between words as long as that will do: half an address is none.
pub(super) fn print(mut table: Table) {
    if let Some(width) = table.width() {
        let longest = longest_words(&table);
        keep_whole(&mut table, floors(&longest, width.into()));
    }
    for line in table.to_string().lines() {
        println!("{}", line.trim_end());
    }
}

fn keep_whole(table: &mut Table, floors: Vec<u16>) {
    for (column, floor) in table.column_iter_mut().zip(floors) {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(floor)));
    }
}

/// Of each column the longest word, in characters.
fn longest_words(table: &Table) -> Vec<usize> {
    let mut longest = Vec::new();
    for row in table.header().into_iter().chain(table.row_iter()) {
        for (n, cell) in row.cell_iter().enumerate() {
            let text = cell.content();
            let word = text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
            match longest.get_mut(n) {
                Some(most) => *most = word.max(*most),
                None => longest.push(word),
            }
        }
    }
    longest
}

/// How narrow each column can be, the space after it included, so that no word of it is broken; if
/// `width` is too little for that, the longest words give way first.
fn floors(longest: &[usize], width: usize) -> Vec<u16> {
    let of = |limit: usize| longest.iter().map(move |word| word.min(&limit) + GAP);
    let most = longest.iter().copied().max().unwrap_or(0);
    let limit = (1..=most).rev().find(|limit| of(*limit).sum::<usize>() <= width).unwrap_or(1);
    of(limit).map(|floor| u16::try_from(floor).unwrap_or(u16::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(width: u16) -> Vec<String> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["NAME", "BASE", "OWNERS", "ADDRESS"]);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP as u16));
        }
        table.add_row([
            "a-long-name-of-one",
            "debian 3 (held; now 5)",
            "ann, bob",
            "10.132.160.31",
        ]);
        table.add_row(["b", "debian 5", "carol", "-"]);
        let longest = longest_words(&table);
        assert_eq!(longest, [18, 6, 6, 13]);
        keep_whole(&mut table, floors(&longest, width.into()));
        table.to_string().lines().map(|line| line.trim_end().to_string()).collect()
    }

    #[test]
    fn no_word_of_a_table_is_broken_as_long_as_all_fit() {
        for width in 51..90 {
            let lines = example(width);
            let all = lines.join("\n");
            for word in ["a-long-name-of-one", "debian", "(held;", "ann,", "carol", "10.132.160.31"]
            {
                assert!(all.contains(word), "{width}: {all}");
            }
            assert!(lines.iter().all(|l| l.chars().count() <= width.into()), "{width}: {all}");
        }
        // The longest first.
        assert!(example(46).join("\n").contains("10.132.160.31"));
        assert!(!example(46).join("\n").contains("a-long-name-of-one"));
    }

    proptest::proptest! {
        #[test]
        fn floors_fit_into_the_width(
            longest in proptest::collection::vec(0usize..100, 0..10),
            width in 0usize..200,
        ) {
            let floors = floors(&longest, width);
            let sum: usize = floors.iter().map(|f| usize::from(*f)).sum();
            proptest::prop_assert!(sum <= width.max(longest.len() * (1 + GAP)));
            let whole: usize = longest.iter().map(|word| word + GAP).sum();
            proptest::prop_assert_eq!(sum == whole, whole <= width || longest.iter().all(|w| *w < 2));
        }
    }
}
