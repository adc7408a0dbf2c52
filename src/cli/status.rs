use std::process::ExitCode;

use super::{report, ui};
use crate::engine::Engine;
use crate::error::Result;
use crate::request::Request;
use crate::status::{Detail, duration_words, size_words};
use crate::store::Name;
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
    line("processes", d.processes.map(|n| n.to_string()));
    line("memory", d.memory.map(size_words));
    line("disk", Some(d.disk.map_or("takes too long to tell".into(), size_words)));
    line("confined by", d.label.as_ref().map(|l| format!("AppArmor profile {l}")));
    line("ids", d.ids.map(|i| format!("{}-{}", i.start, i.start + i.count - 1)));
    line("tree", Some(d.path.clone()));
}
