use std::process::ExitCode;

use crate::engine::Engine;
use crate::error::Result;
use crate::store::{Name, Record};
use crate::tree::file::printable;

/// Print the steps of a start without doing them.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// The container.
    name: String,
}

pub(super) fn run(engine: &Engine, args: &PlanArgs) -> Result<ExitCode> {
    let record = Record::load(&engine.layout, &Name::parse("container", &args.name)?)?;
    let (_, plan, _) = engine.plan(&record)?;
    println!("map ids 0-{} to {}-{}", plan.ids.1 - 1, plan.ids.0, plan.ids.0 + plan.ids.1 - 1);
    if let Some(most) = plan.processes {
        println!("allow {most} processes");
    }
    for line in plan.resources.words() {
        println!("limit {line}");
    }
    let limits: Vec<String> = plan.limits.iter().map(ToString::to_string).collect();
    println!("limit each process to {}", limits.join(", "));
    if let Some(rules) = &plan.devices {
        let words: Vec<String> = rules.iter().map(ToString::to_string).collect();
        println!("let no device be opened but {}", words.join(", "));
    }
    if let Some(label) = &plan.label {
        println!("confine by the AppArmor profile {label}");
    }
    if let Some(label) = &plan.selinux {
        println!("confine by the SELinux label {}", printable(label));
    }
    for hook in plan.hooks.all() {
        println!("at {} run {}", hook.point, printable(&hook.path.to_string_lossy()));
    }
    for line in plan.handed.iter().map(ToString::to_string) {
        println!("{}", printable(&line));
    }
    for line in plan.steps.iter().map(ToString::to_string) {
        println!("{}", printable(&line));
    }
    Ok(ExitCode::SUCCESS)
}
