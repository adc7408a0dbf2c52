//! Which containers are started when the host boots: those whose setting `autostart` says so. The
//! links that systemd goes by follow it, when the setting changes and at each start; a host
//! without systemd goes by the setting itself, with `coloc start --autostart`.

use super::{Engine, set, unit};
use crate::error::Result;
use crate::profile::own::{self, Act, Change};
use crate::profile::value::Value;
use crate::request::Verb;
use crate::store::{Name, Record};

impl Engine {
    /// `coloc enable` and `disable`: sets what `autostart` says.
    pub fn enable(&self, name: &Name, on: bool) -> Result<set::Outcome> {
        let verb = if on { Verb::Enable } else { Verb::Disable };
        let change = Change { key: own::key("autostart")?, act: Act::Set(Value::Flag(on)) };
        self.change(verb, name, &[], |record| self.make(record, &change))
    }

    /// The containers that are to be started when the host boots.
    pub fn started_at_boot(&self) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for (name, record) in self.own()? {
            match record.and_then(|r| self.settings(&r)) {
                Ok(settings) if settings.autostart => names.push(name),
                Ok(_) => {}
                // The others are to come up all the same.
                Err(e) => eprintln!("coloc: {name}: {e}"),
            }
        }
        Ok(names)
    }

    /// Has systemd start `record`'s container at boot, or not, as its settings say. Where systemd does
    /// not do it, says who has to.
    pub fn follow_autostart(&self, record: &Record) -> Result<Option<String>> {
        let on = self.settings(record)?.autostart;
        if unit::can_enable(&self.layout) {
            unit::enable(&self.layout, &record.name, on)?;
            return Ok(None);
        }
        Ok(on.then(|| {
            let root = match self.layout.is_default() {
                true => String::new(),
                false => format!(" --root {}", self.layout.root().display()),
            };
            format!("it starts at boot if the host's init runs: coloc{root} start --autostart")
        }))
    }
}
