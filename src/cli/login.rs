//! `coloc-shell`: the login shell of members. It is this program by another name.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{ask, enter, layout, report};
use crate::error::{Error, Kind, Result};
use crate::request::{Enter, Request};
use crate::runtime::agent;
use crate::runtime::enter::OWN_FAILURE;
use crate::store::{Config, Layout, Name, atomic};
use crate::tree::file::printable;

/// The name under which the program is a login shell.
pub(super) const NAME: &str = "coloc-shell";

/// Whether this process was called as one; login(1), su(1) and sshd(8) put a dash before the name.
pub(super) fn is_login_shell() -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = called.to_string_lossy();
    let name = called.rsplit('/').next().unwrap_or_default();
    name.trim_start_matches('-') == NAME
}

/// The whole of it: into the only container of whoever logs in, which is started if it has to be.
pub(super) fn main() -> ExitCode {
    let root = std::env::var_os("COLOC_ROOT").filter(|r| !r.is_empty()).map(PathBuf::from);
    let layout = match layout(root) {
        Ok(layout) => layout,
        Err(e) => return failed(&e, None),
    };
    // The admin's settings are for everyone to read. Without them there is nothing to add.
    let config: Option<Config> = atomic::read_json(&layout.config()).ok().flatten();
    match come_in(&layout, config.as_ref()) {
        Ok(code) => code,
        Err(e) => failed(&e, config.as_ref().and_then(|c| c.contact.as_deref())),
    }
}

fn come_in(layout: &Layout, config: Option<&Config>) -> Result<ExitCode> {
    let line = line_of(std::env::args_os().skip(1).collect())?;
    let name = match std::env::var("COLOC_NAME") {
        Ok(text) => Some(Name::parse("container", &text)?),
        Err(_) => None,
    };
    let enter = Enter {
        name,
        line,
        start: true,
        agent: config.is_some_and(|c| c.agent) && agent::own().is_some(),
        ..enter::of_caller()
    };
    ask_which(&Request::Shell(enter), |request| ask(layout.clone(), request))
}

/// Says why they cannot come in, and who can help.
fn failed(error: &Error, contact: Option<&str>) -> ExitCode {
    report(error);
    let said = |contact: &&str| error.hint_text().is_some_and(|hint| hint.contains(*contact));
    if let Some(contact) = contact.filter(|c| error.kind() != Kind::Usage && !said(c)) {
        eprintln!("if it stays so, write to {}", printable(contact));
    }
    ExitCode::from(OWN_FAILURE as u8)
}

/// The line to run, of a login shell's arguments; None for a session.
fn line_of(args: Vec<OsString>) -> Result<Option<String>> {
    let usage = |message: &str| {
        Error::new(Kind::Usage, message.to_string())
            .hint("it is a login shell: coloc-shell, or coloc-shell -c LINE")
    };
    let mut args = args.into_iter().skip_while(|a| a == "-l" || a == "--login" || a == "-i");
    match (args.next(), args.next(), args.next()) {
        (None, ..) => Ok(None),
        (Some(option), Some(line), None) if option == "-c" => match line.into_string() {
            Ok(line) => Ok(Some(line)),
            Err(_) => Err(usage("the line is not UTF-8")),
        },
        _ => Err(usage("coloc-shell was given something that it does not know")),
    }
}

/// Has `request`, for a session, done by `ask`. Somebody who has several containers, named
/// none and sits at a terminal is asked which they mean.
pub(super) fn ask_which(
    request: &Request,
    ask: impl Fn(Request) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let error = match (ask(request.clone()), request) {
        (Err(e), Request::Shell(Enter { name: None, .. })) if e.kind() == Kind::Usage => e,
        (other, _) => return other,
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let (true, Some(hint), Request::Shell(enter)) = (terminal, error.hint_text(), request) else {
        return Err(error);
    };
    eprintln!("coloc: {}", printable(&error.to_string()));
    eprint!("{} ", printable(hint));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    let name = Name::parse("container", answer.trim())?;
    ask(Request::Shell(Enter { name: Some(name), ..enter.clone() }))
}

/// Where the program lies under its other name, if it does: beside itself.
pub(super) fn installed() -> Option<PathBuf> {
    let path = crate::sys::image::path().ok()?.parent()?.join(NAME);
    is_ours(&path).then_some(path)
}

fn is_ours(path: &Path) -> bool {
    match (path.canonicalize(), crate::sys::image::path()) {
        (Ok(target), Ok(own)) => own.canonicalize().is_ok_and(|own| own == target),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> Result<Option<String>> {
        line_of(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn it_is_called_as_login_shells_are() {
        assert_eq!(line(&[]).unwrap(), None);
        assert_eq!(line(&["-l"]).unwrap(), None);
        assert_eq!(line(&["-c", "scp -t ."]).unwrap().unwrap(), "scp -t .");
        assert_eq!(line(&["--login", "-c", "--help"]).unwrap().unwrap(), "--help");
        for bad in [&["-c"][..], &["x"], &["-c", "a", "b"], &["--root", "/", "-c", "x"]] {
            assert_eq!(line(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }
}
