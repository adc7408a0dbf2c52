use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::request::Request;
use crate::store::Name;
use crate::store::events::{Event, Who};
use crate::tree::file::printable;

/// Show who did what with a container, and how it ended.
#[derive(Debug, clap::Args)]
pub(super) struct JournalArgs {
    /// The container; your only one by default, for the admin the host's journal.
    name: Option<String>,
    /// Only the last N.
    #[arg(short = 'n', long = "lines", value_name = "N")]
    last: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl JournalArgs {
    pub(super) fn request(&self) -> Result<Request> {
        let name = ui::name(self.name.as_deref())?;
        Ok(Request::Journal { name, json: self.json, last: self.last })
    }
}

pub(super) fn run(
    engine: &Engine,
    name: Option<&Name>,
    json: bool,
    last: Option<u32>,
) -> Result<ExitCode> {
    let name = match (name, engine.caller.member()) {
        (None, None) => None,
        _ => Some(engine.container_or_only(name)?),
    };
    let mut events = engine.events(name.as_ref())?;
    let from = last.map_or(0, |n| events.len().saturating_sub(n as usize));
    events.drain(..from);
    if json {
        return ui::json(&events);
    }
    for event in &events {
        println!("{}", printable(&line(event)).replace(['\n', '\t'], " "));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(event: &Event) -> String {
    let what = [&[event.verb.clone(), event.subject.clone()][..], &event.args].concat().join(" ");
    let result = match (event.code, &event.error) {
        (_, Some(error)) => format!("failed: {error}"),
        (Some(0), None) => "ok".into(),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "has not ended".into(),
    };
    format!("{}  {}  {what}  [{result}]", moment(&event.time), who(&event.who))
}

/// The local time of an RFC 3339 moment.
fn moment(time: &str) -> String {
    let Ok(at) = time.parse::<jiff::Timestamp>() else { return time.into() };
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn who(who: &Who) -> String {
    let mut more: Vec<String> = Vec::new();
    let other = |name: &&String| **name != who.name;
    more.extend(who.login.iter().filter(other).map(|l| format!("logged in as {l}")));
    let sudo = who.sudo.iter().filter(other).filter(|s| Some(*s) != who.login.as_ref());
    more.extend(sudo.map(|s| format!("by sudo of {s}")));
    more.extend(who.from.iter().map(|f| format!("from {f}")));
    match more.is_empty() {
        true => who.name.clone(),
        false => format!("{} ({})", who.name, more.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_is_told_apart_by_how_they_came() {
        let some = |text: &str| Some(text.to_string());
        let plain = Who { uid: 0, name: "root".into(), ..Who::default() };
        assert_eq!(who(&plain), "root");
        let came = Who { login: some("carol"), sudo: some("carol"), ..plain.clone() };
        assert_eq!(who(&came), "root (logged in as carol)");
        let far = Who { sudo: some("carol"), from: some("192.0.2.1"), ..plain };
        assert_eq!(who(&far), "root (by sudo of carol, from 192.0.2.1)");
    }
}
