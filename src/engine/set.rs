//! `coloc set`, `unset` and `edit`: settings of a container, which an admin may change at any time.

use serde_json::Value as Json;

use super::{Engine, home, owners};
use crate::error::{Error, Kind, Result};
use crate::profile::keys::{KEYS, Key, Place, When};
use crate::profile::own::{self, Act, Change};
use crate::profile::value::{Item, Value};
use crate::profile::{Chain, Effective, Origin, Setting};
use crate::request::Verb;
use crate::runtime::parent;
use crate::store::lock::{self, Subject};
use crate::store::record::{Overrides, RANGE};
use crate::store::running::State;
use crate::store::{Name, Record};

/// What a change came to.
#[derive(Debug)]
pub struct Outcome {
    /// The container as it is now.
    pub record: Record,
    /// The settings whose value is another, as they are now.
    pub changed: Vec<Setting>,
    /// Whether the container runs, so that some of it waits for its next start.
    pub running: bool,
    /// What a person should know of it: who still uses what was taken away, and what is left to do.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Whether the value of `key` changed, and takes effect only when the container is next
    /// started.
    pub fn waits(&self, key: &Key) -> bool {
        self.running && key.when == When::Start
    }
}

impl Engine {
    /// Changes settings of `name`, all of them or none.
    pub fn set(&self, name: &Name, changes: &[Change]) -> Result<Outcome> {
        let words: Vec<String> = changes.iter().map(Change::words).collect();
        self.change(Verb::Set, name, &words, |record| {
            for change in changes {
                self.make(record, change)?;
            }
            Ok(())
        })
    }

    /// Has `keys` of `name` say what they say in its profile.
    pub fn unset(&self, name: &Name, keys: &[&'static Key]) -> Result<Outcome> {
        let words: Vec<String> = keys.iter().map(|k| k.name.to_string()).collect();
        self.change(Verb::Unset, name, &words, |record| {
            for key in keys {
                match key.name {
                    "hold" => record.hold = false,
                    "owners" => record.owners.clear(),
                    "home" => record.shared_home = false,
                    "profile" => record.profile = self.config.default_profile.clone(),
                    _ => drop(own::remove(&mut record.overrides, key)),
                }
            }
            Ok(())
        })
    }

    /// Puts `own` in the place of what `name` says itself, if that is still `before`.
    pub fn replace(&self, name: &Name, before: &Overrides, own: &Overrides) -> Result<Outcome> {
        self.change(Verb::Edit, name, &[], |record| {
            if record.overrides != *before {
                return Err(Error::new(Kind::State, format!("{name} was changed meanwhile"))
                    .hint("coloc edit it again"));
            }
            record.overrides = own.clone();
            Ok(())
        })
    }

    pub(super) fn change(
        &self,
        verb: Verb,
        name: &Name,
        words: &[String],
        work: impl FnOnce(&mut Record) -> Result<()>,
    ) -> Result<Outcome> {
        let _lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        let mut record = self.permit(verb, name)?;
        self.noting(verb, name, words, || {
            // A profile that was damaged must not keep this from naming another.
            let before = self.effective(&record).unwrap_or_else(|_| Effective::defaults());
            let before = with_record(&before, &record);
            let ranges = record.overrides.get(ID_RANGES).cloned();
            work(&mut record)?;
            if record.overrides.get(ID_RANGES) != ranges.as_ref() {
                return Err(made_with_its_ids(&record));
            }
            let after = self.all_settings(&record)?;
            let changed: Vec<Setting> = after
                .into_iter()
                .filter(|s| before.iter().all(|b| b.key != s.key || b.value != s.value))
                .collect();
            // Now, and not when it is to start: that may be at night, and by somebody else.
            home::of_host(&self.layout, &record)?;
            self.check_network(&record, &changed)?;
            check_mounts(&changed)?;
            let limited = self.limits_changed(&record, &changed)?;
            let given = self.given_changed(&record, &changed)?;
            let boot = self.follow_autostart(&record)?;
            let save = || record.save(&self.layout);
            let mut notes = match given {
                Some(wanted) => self.give(name, &wanted, save)?,
                None => save().map(|()| Vec::new())?,
            };
            // What runs follows the record: if it cannot now, it does at the next start.
            if let Some(resources) = limited {
                self.limit(name, &resources)?;
            }
            self.network_takes_effect(&record, &changed)?;
            let asked = |s: &Setting| s.key.name == "autostart";
            notes.extend(boot.filter(|_| changed.iter().any(asked)));
            let running = State::alive(&self.layout, name).is_some();
            Ok(Outcome { record, changed, running, notes })
        })
    }

    pub(super) fn make(&self, record: &mut Record, change: &Change) -> Result<()> {
        match (change.key.name, &change.act) {
            ("hold", Act::Set(value)) => record.hold = *value == Value::Flag(true),
            ("home", Act::Set(value)) => {
                record.shared_home = *value == Value::Word("shared".into())
            }
            ("profile", Act::Set(Value::Word(word))) => {
                let profile = Name::parse("profile", word)?;
                Chain::load(&self.layout, &profile).map_err(|e| e.context("profile"))?;
                record.profile = profile;
            }
            ("owners", _) => {
                let now: Vec<Item> = record.owners.iter().cloned().map(Item::Owner).collect();
                let new: Vec<String> =
                    change.on_list(&now)?.iter().map(ToString::to_string).collect();
                for owner in new.iter().filter(|o| !record.owners.contains(o)) {
                    owners::check(owner).map_err(|e| e.context("owners"))?;
                }
                record.owners = new;
            }
            _ => {
                let below = Chain::load(&self.layout, &record.profile)?.effective();
                change.apply(&mut record.overrides, &below)?;
            }
        }
        Ok(())
    }

    /// Every setting of `record`'s container, as the caller may see them. A member sees what their
    /// container is made of; a hook is a program of the host's, whose arguments and environment are
    /// its admin's.
    pub fn shown_settings(&self, record: &Record) -> Result<Vec<Setting>> {
        let mut all = self.all_settings(record)?;
        if self.caller.member().is_some() {
            for setting in &mut all {
                if let Value::Fragment(Json::Object(fragment)) = &mut setting.value {
                    fragment.remove("hooks");
                }
            }
        }
        Ok(all)
    }

    /// Every setting of `record`'s container, what it has through its profile first.
    pub fn all_settings(&self, record: &Record) -> Result<Vec<Setting>> {
        Ok(with_record(&self.effective(record)?, record))
    }
}

/// Whether what is to be mounted is there now; the start looks again.
fn check_mounts(changed: &[Setting]) -> Result<()> {
    let Some(Value::List(list)) = changed.iter().find(|s| s.key.name == "mounts").map(|s| &s.value)
    else {
        return Ok(());
    };
    for item in list {
        if let Item::Mount(mount) = item {
            parent::source(&mount.source).map_err(|e| {
                let what = format!("mounts: cannot mount {}: {e}", mount.source.display());
                let hint = e.hint_text().unwrap_or("give a directory of the host's");
                Error::new(Kind::Usage, what).hint(hint)
            })?;
        }
    }
    Ok(())
}

const ID_RANGES: &str = "id_ranges";

fn made_with_its_ids(record: &Record) -> Error {
    let ids = record.ids.count;
    Error::new(
        Kind::Usage,
        format!("id_ranges: {} was made with {ids} ids, and keeps them", record.name),
    )
    .hint("make another container: coloc create NAME --set id_ranges=NUMBER")
}

fn with_record(effective: &Effective, record: &Record) -> Vec<Setting> {
    let own = KEYS.iter().filter(|k| k.place == Place::Container);
    let through_profile = |setting: &Setting| match setting.key.name {
        // As it was made, whatever its profile says by now.
        ID_RANGES => {
            Setting { value: Value::Number(u64::from(record.ids.count / RANGE)), ..setting.clone() }
        }
        _ => setting.clone(),
    };
    effective
        .all()
        .iter()
        .map(through_profile)
        .chain(own.map(|key| of_record(record, key)))
        .collect()
}

/// The setting of a key that is a container's alone.
fn of_record(record: &Record, key: &'static Key) -> Setting {
    let value = match key.name {
        "hold" => Value::Flag(record.hold),
        "home" => Value::Word(if record.shared_home { "shared" } else { "private" }.into()),
        "owners" => Value::List(record.owners.iter().cloned().map(Item::Owner).collect()),
        _ => Value::Word(record.profile.to_string()),
    };
    let default = key.kind.words(&value) == key.default;
    Setting { key, value, origin: if default { Origin::Default } else { Origin::Container } }
}

/// What `coloc show --json` prints of a setting.
pub fn to_json(setting: &Setting) -> Json {
    serde_json::json!({
        "key": setting.key.name,
        "value": setting.key.kind.exact(&setting.value),
        "origin": setting.origin,
        "live": setting.key.when == When::Now,
    })
}
