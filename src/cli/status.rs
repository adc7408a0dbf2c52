use std::collections::BTreeMap;
use std::process::ExitCode;

use super::{report, ui};
use crate::engine::Engine;
use crate::error::Result;
use crate::request::Request;
use crate::status::{Detail, duration_words, size_words};
use crate::store::Name;
use crate::store::usage::{Allowance, Usage};
use crate::tree::file::printable;

/// Show what a container is and what it uses; all of them by default.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// The container.
    name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(super) fn request(&self) -> Result<Request> {
        Ok(Request::Status { name: ui::name(self.name.as_deref())?, json: self.json })
    }
}

pub(super) fn run(engine: &Engine, name: Option<&Name>, json: bool) -> Result<ExitCode> {
    if let Some(name) = name {
        let detail = engine.detail(name)?;
        if json {
            return ui::json(&detail);
        }
        show(&detail);
        return Ok(ExitCode::SUCCESS);
    }
    let details = engine.details()?;
    if json {
        return ui::json(&details);
    }
    for (n, detail) in details.iter().enumerate() {
        if n > 0 {
            println!();
        }
        show(detail);
    }
    Ok(ExitCode::SUCCESS)
}

fn join(list: impl Iterator<Item = impl ToString>) -> String {
    list.map(|x| x.to_string()).collect::<Vec<_>>().join(", ")
}

fn show(d: &Detail) {
    let line = |key: &str, text: Option<String>| {
        if let Some(text) = text.filter(|t| !t.is_empty()) {
            println!("{key:<12} {}", printable(&text));
        }
    };
    let r = &d.row;
    let since = d.uptime_seconds.map(|s| format!(" for {}", duration_words(s)));
    let generation = r.base.as_ref().map(|base| {
        let own = r.generation.unwrap_or(0);
        match r.current_generation {
            Some(now) if now != own => format!("{base}, generation {own} (now {now})"),
            _ => format!("{base}, generation {own}"),
        }
    });
    line("name", Some(r.name.to_string()));
    line("state", Some(format!("{}{}", r.state.word(), since.unwrap_or_default())));
    line("damage", r.damage.clone());
    line("base", generation);
    line(
        "held",
        r.hold.then(|| match d.fixes_missing {
            Some(n) if n > 0 => format!("yes; {}", report::fixes(n)),
            _ => "yes".into(),
        }),
    );
    line(
        "stale",
        (r.stale > 0).then(|| {
            let processes = if r.stale == 1 { "process" } else { "processes" };
            format!("{} {processes}; see: coloc stale {}", r.stale, r.name)
        }),
    );
    line("conflicts", Some(d.conflicts.join(", ")));
    line("owners", Some(r.owners.join(", ")));
    line("profile", r.profile.as_ref().map(Name::to_string));
    line("network", r.network.clone());
    line("address", Some(join(r.addresses.iter())));
    line("name there", d.full_name.clone());
    line("published", Some(d.published.join(", ")));
    line("sockets", d.sockets.clone());
    line(
        "init",
        r.init.as_ref().map(|i| match r.pid {
            Some(pid) => format!("{i}, pid {pid}"),
            None => i.clone(),
        }),
    );
    let running = r.pid.is_some();
    let supervisor = d.supervisor_pid.map_or("gone".into(), |p| format!("pid {p}"));
    line("supervisor", running.then_some(supervisor));
    usage(&d.usage, line);
    if let Some(limits) = &d.limits {
        line("at most", Some(allowance(limits)));
        line("each user", Some(of_users(&limits.users)));
    }
    let module = match (&d.label, d.security_module) {
        (Some(label), Some("SELinux")) => format!("SELinux label {label}"),
        (Some(label), _) => format!("AppArmor profile {label}"),
        (None, _) => format!("no security module; all walls: coloc check {}", r.name),
    };
    line("confined by", running.then_some(module));
    line("ids", d.ids.map(|i| format!("{}-{}", i.start, i.start + i.count - 1)));
    line("tree", Some(d.path.clone()));
}

/// What it may have of what is not counted for people.
fn allowance(a: &Allowance) -> String {
    let words = |what: &str, most: Option<u64>, words: fn(u64) -> String| {
        format!("{what} {}", most.map_or("unlimited".into(), words))
    };
    let number: fn(u64) -> String = |n| n.to_string();
    [
        words("open files", a.open_files, number),
        words("locked memory", a.locked_memory, size_words),
        words("queued signals", a.queued_signals, number),
        words("message queues", a.message_queues, size_words),
        words("terminals", a.terminals, number),
    ]
    .join(", ")
}

/// The kernel's `max_net_namespaces` is `net namespaces` to people.
fn of_users(users: &BTreeMap<String, u64>) -> String {
    let word = |name: &str| name.trim_start_matches("max_").replace('_', " ");
    join(users.iter().map(|(name, most)| format!("{} {most}", word(name))))
}

/// What it uses, each with how much it may.
fn usage(u: &Usage, line: impl Fn(&str, Option<String>)) {
    let of = |used: Option<u64>, most: Option<u64>, words: fn(u64) -> String| match (used, most) {
        (Some(used), Some(most)) => Some(format!("{} of {}", words(used), words(most))),
        (Some(used), None) => Some(words(used)),
        (None, most) => most.map(|most| format!("at most {}", words(most))),
    };
    line("processes", of(u.processes, u.processes_max, |n| n.to_string()));
    let high = u.memory_high.map(|n| format!(", slowed down from {}", size_words(n)));
    let memory = of(u.memory, u.memory_max, size_words);
    line("memory", memory.map(|m| format!("{m}{}", high.unwrap_or_default())));
    line("swap", of(u.swap.filter(|n| *n > 0 || u.swap_max.is_some()), u.swap_max, size_words));
    let cores = u.cpu_max.map(|most| format!(", at most {} cores", most as f64 / 1e6));
    let seconds = |micros| duration_words(i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX));
    line("cpu", u.cpu.map(|micros| format!("{}{}", seconds(micros), cores.unwrap_or_default())));
    let disk = of(u.disk, u.disk_max, size_words);
    line("disk", Some(disk.unwrap_or_else(|| "takes too long to tell".into())));
}
