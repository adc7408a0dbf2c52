//! The report of a change of a base, for people: what landed where, then only what needs them.

use std::process::ExitCode;

use super::ui;
use crate::audit::{Left, Stale, restart_plan};
use crate::engine::report::{ContainerReport, Report};
use crate::error::Result;
use crate::tree::file::printable;

/// How many packages are listed by name.
const LISTED: usize = 60;

/// Shows what a change came to; exit code 1 if something could not be done in a container.
pub(super) fn show(report: &Report, json: bool, dry_run: bool) -> Result<ExitCode> {
    if json {
        ui::json(report)?;
    } else if report.from == report.to && report.containers.is_empty() {
        let why = if report.discarded { "discarded" } else { "nothing to do" };
        println!("base {}: {why}, generation {} stays", report.base, report.to);
    } else {
        println!("{}", first_line(report, dry_run));
        for p in report.packages.iter().take(LISTED) {
            let line = package(&p.name, p.old.as_deref(), p.new.as_deref());
            println!("  {line}{}", if p.security { "  (security)" } else { "" });
        }
        if report.packages.len() > LISTED {
            println!("  and {} more", report.packages.len() - LISTED);
        }
        for c in &report.containers {
            container(c, dry_run);
        }
    }
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn first_line(report: &Report, dry_run: bool) -> String {
    let landed = report.containers.iter().filter(|c| if dry_run { !c.held } else { c.adopted });
    let (landed, live) = landed.fold((0, 0), |(n, live), c| (n + 1, live + usize::from(c.swapped)));
    let changed = match report.packages.len() {
        0 => String::new(),
        1 => " (1 package)".into(),
        n => format!(" ({n} packages)"),
    };
    let base = &report.base;
    let to = report.to;
    let containers = if landed == 1 { "container" } else { "containers" };
    if dry_run {
        return format!(
            "base {base}: would become generation {to}{changed}, in {landed} {containers}; \
             nothing is changed"
        );
    }
    let new = if report.from == report.to { "nothing new; " } else { "" };
    let running = if live > 0 { format!(", {live} of them running") } else { String::new() };
    format!(
        "base {base}: {new}generation {to}{changed} is in {landed} {containers}{running}, \
         after {:.1} s",
        report.seconds
    )
}

/// A package with its versions.
pub(super) fn package(name: &str, old: Option<&str>, new: Option<&str>) -> String {
    match (old, new) {
        (Some(old), Some(new)) => format!("{name} {old} → {new}"),
        (None, Some(new)) => format!("{name} {new} (new)"),
        (Some(old), None) => format!("{name} {old} (removed)"),
        (None, None) => name.to_string(),
    }
}

fn container(c: &ContainerReport, dry_run: bool) {
    let say = |text: &str| println!("{}: {}", c.name, printable(text));
    if let Some(error) = &c.error {
        say(&format!("failed: {error}"));
        if let Some(hint) = &c.hint {
            println!("  hint: {}", printable(hint));
        }
    }
    if c.held {
        say(&match c.fixes_missing {
            Some(n) if n > 0 => format!("held at its generation; {}", fixes(n)),
            _ => "held at its generation".into(),
        });
    }
    for conflict in &c.conflicts {
        let would = if dry_run { "would stay" } else { "stays" };
        say(&format!("your /{} {would}; the base's is /{}", conflict.path, conflict.theirs));
    }
    if !c.conflicts.is_empty() && !dry_run {
        println!("  settle it: coloc conflicts {}", c.name);
    }
    for note in &c.notes {
        say(note);
    }
    if !c.restarted.is_empty() {
        say(&format!("restarted {}", c.restarted.join(", ")));
    }
    for left in &c.left {
        say(&format!("{} is left alone: {}", named(left), left.why));
    }
    if c.left.is_empty() && !c.stale.is_empty() {
        for line in old_code(&c.name, &c.stale) {
            println!("{line}");
        }
    }
}

/// What a held container lacks.
pub(super) fn fixes(packages: usize) -> String {
    let word = if packages == 1 { "package" } else { "packages" };
    format!("it lacks security fixes in {packages} {word}")
}

/// What is said of stale processes: what to type if that would end any, else why it would not.
fn old_code(name: impl std::fmt::Display, stale: &[Stale]) -> Vec<String> {
    let plan = restart_plan(stale);
    let mut lines = vec![format!("{name}: old code still runs in {}", printable(&units(stale)))];
    if plan.reexec || !plan.reexec_users.is_empty() || !plan.units.is_empty() {
        lines.push(format!("  restart it: coloc stale --restart {name}"));
    } else {
        let why = |left: &Left| format!("  {}: {}", printable(&named(left)), left.why);
        lines.extend(plan.left.iter().map(why));
    }
    lines
}

/// What is left alone, by its unit or its processes.
pub(super) fn named(left: &Left) -> String {
    let pids: Vec<String> = left.pids.iter().map(i32::to_string).collect();
    let processes = if pids.len() == 1 { "process" } else { "processes" };
    match left.unit.as_str() {
        "" => format!("{processes} {}", pids.join(", ")),
        unit => format!("{unit} ({processes} {})", pids.join(", ")),
    }
}

/// The units of stale processes, each once; a process that is in none by its number.
pub(super) fn units(stale: &[Stale]) -> String {
    let one = |s: &Stale| match s.unit.as_str() {
        // What was brought in by coloc is in no unit that a person knows.
        "" | ".coloc" => format!("{} (process {})", s.command, s.pid),
        unit => unit.to_string(),
    };
    let mut list: Vec<String> = stale.iter().map(one).collect();
    list.sort_unstable();
    list.dedup();
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Certainty;

    fn row(unit: &str) -> Stale {
        Stale {
            container: "alice".into(),
            pid: 7,
            user: "root".into(),
            unit: unit.into(),
            command: "x".into(),
            package: None,
            file: None,
            certainty: Certainty::Exact,
        }
    }

    #[test]
    fn a_restart_is_only_proposed_where_it_would_do_something() {
        let lines = old_code("alice", &[row("dbus.service"), row("nginx.service")]);
        assert_eq!(lines[0], "alice: old code still runs in dbus.service, nginx.service");
        assert_eq!(lines[1..], ["  restart it: coloc stale --restart alice"]);

        let lines = old_code("alice", &[row("dbus.service")]);
        assert!(lines[1].starts_with("  dbus.service (process 7): the message bus"), "{lines:?}");
        assert_eq!(lines.len(), 2);
    }
}
