//! A container's own settings, and how `coloc set`, `unset` and `edit` change them.

use serde_json::Value as Json;

use super::json::{Fault, Node};
use super::keys::{self, Key, Place};
use super::layer::{self, Document, Entry, Op};
use super::settings::Effective;
use super::value::{Item, Kind as ValueKind, Value, add};
use crate::error::{Error, Kind, Result};
use crate::store::record::Overrides;

/// One word of `coloc set`: `KEY=VALUE`, `KEY+=VALUE` or `KEY-=VALUE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key.
    pub key: &'static Key,
    /// What is done.
    pub act: Act,
}

/// What is done to a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// It gets this value.
    Set(Value),
    /// These are added to its list.
    Add(Vec<Item>),
    /// These are taken from its list, each by its text or by what there is one of.
    Remove(Vec<String>),
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

/// The key that a word of the command line means, of those that a container can have.
pub fn key(word: &str) -> Result<&'static Key> {
    let places = [Place::Both, Place::Container];
    if let Some(key) = keys::find_short(word).filter(|k| places.contains(&k.place)) {
        return Ok(key);
    }
    let e = usage(format!("there is no setting {word:?}"));
    Err(match keys::nearest_key(word, &places) {
        Some(near) => e.hint(format!("did you mean {near}? coloc-profile(5) has them all")),
        None => e.hint("coloc-profile(5) has those there are, coloc show NAME prints them"),
    })
}

impl Change {
    /// Reads one word of `coloc set`.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((left, value)) = text.split_once('=') else {
            return Err(usage(format!("{text:?} is no KEY=VALUE"))
                .hint("for example: coloc set alice limits.memory=1G"));
        };
        let (word, op) = match (left.strip_suffix('+'), left.strip_suffix('-')) {
            (Some(word), _) => (word, Op::Add),
            (_, Some(word)) => (word, Op::Remove),
            _ => (left, Op::Set),
        };
        let key = key(word)?;
        let wrong = |why: String| usage(format!("{}: {why}", key.name)).hint(key.kind.expects());
        if op != Op::Set && !matches!(key.kind, ValueKind::List(_)) {
            return Err(usage(format!("{} is no list", key.name))
                .hint(format!("coloc set NAME {word}={value}")));
        }
        if op == Op::Remove {
            let words = value.split([' ', '\t']).filter(|w| !w.is_empty());
            return Ok(Self { key, act: Act::Remove(words.map(String::from).collect()) });
        }
        let value = key.kind.parse(value).map_err(wrong)?;
        let act = match (op, value) {
            (Op::Add, Value::List(items)) => Act::Add(items),
            (_, value) => Act::Set(value),
        };
        let change = Self { key, act };
        change.check_entry()?;
        Ok(change)
    }

    /// What documents of containers refuse, the command line refuses too.
    fn check_entry(&self) -> Result<()> {
        let (Place::Both, Act::Set(value)) = (self.key.place, &self.act) else { return Ok(()) };
        let own = Overrides::from([(self.key.name.to_string(), self.key.kind.json(value))]);
        entries(&own).map(drop).map_err(|f| fault(f, ""))
    }

    /// As it is given.
    pub fn words(&self) -> String {
        let (op, value) = match &self.act {
            Act::Set(value) => ("=", self.key.kind.words(value)),
            Act::Add(items) => {
                ("+=", items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            Act::Remove(words) => ("-=", words.join(" ")),
        };
        format!("{}{op}{value}", self.key.name)
    }

    /// Makes the change to a list, of which `below` is what it is without the container's own.
    pub fn on_list(&self, list: &[Item]) -> Result<Vec<Item>> {
        match &self.act {
            Act::Set(Value::List(items)) => Ok(items.clone()),
            Act::Set(_) => Ok(list.to_vec()),
            Act::Add(items) => Ok(items.iter().cloned().fold(list.to_vec(), add)),
            Act::Remove(words) => words.iter().try_fold(list.to_vec(), |list, word| {
                let at = list.iter().position(|i| self.is(i, word));
                let at = at.ok_or_else(|| self.not_there(word))?;
                Ok(list.into_iter().enumerate().filter(|(n, _)| *n != at).map(|(_, i)| i).collect())
            }),
        }
    }

    fn is(&self, item: &Item, word: &str) -> bool {
        let ValueKind::List(items) = self.key.kind else { return false };
        let same = items.parse(word).is_ok_and(|w| w == *item);
        same || item.identity() == word || item.to_string() == word
    }

    fn not_there(&self, word: &str) -> Error {
        Error::new(Kind::NotFound, format!("{} has no {word}", self.key.name))
            .hint("coloc show NAME prints what it has")
    }

    /// Makes the change to a container's own settings, over those `below`.
    pub fn apply(&self, own: &mut Overrides, below: &Effective) -> Result<()> {
        let old = entries(own).map_err(|f| fault(f, "its own settings"))?;
        let of = |op: Op| -> Option<Vec<Item>> {
            let entry = old.iter().find(|e| e.key == self.key && e.op == op)?;
            if let Value::List(list) = &entry.value { Some(list.clone()) } else { None }
        };
        let whole = of(Op::Set);
        let (mut plus, mut minus) =
            (of(Op::Add).unwrap_or_default(), of(Op::Remove).unwrap_or_default());
        remove(own, self.key);
        match (&self.act, whole) {
            (Act::Set(value), _) => {
                insert(own, self.key, Op::Set, value);
                return Ok(());
            }
            (_, Some(list)) => {
                insert(own, self.key, Op::Set, &Value::List(self.on_list(&list)?));
                return Ok(());
            }
            (Act::Add(items), None) => {
                minus.retain(|m| items.iter().all(|i| i.identity() != m.identity()));
                plus = items.iter().cloned().fold(plus, add);
            }
            (Act::Remove(words), None) => {
                for word in words {
                    let added = plus.iter().position(|i| self.is(i, word));
                    let given = self.given(below, word);
                    if added.is_none() && given.is_none() {
                        return Err(self.not_there(word));
                    }
                    added.map(|at| plus.remove(at));
                    minus = given.into_iter().fold(minus, add);
                }
            }
        }
        for (op, list) in [(Op::Add, plus), (Op::Remove, minus)] {
            if !list.is_empty() {
                insert(own, self.key, op, &Value::List(list));
            }
        }
        Ok(())
    }

    /// What of the list below `word` means.
    fn given(&self, below: &Effective, word: &str) -> Option<Item> {
        let Value::List(list) = &below.get(self.key)?.value else { return None };
        list.iter().find(|i| self.is(i, word)).cloned()
    }
}

fn insert(own: &mut Overrides, key: &Key, op: Op, value: &Value) {
    own.insert(format!("{}{}", key.name, op.mark()), key.kind.json(value));
}

/// Takes all that is said of `key` out of a container's own settings; whether there was any.
pub fn remove(own: &mut Overrides, key: &Key) -> bool {
    let before = own.len();
    // The first records had the network under this name.
    let old = if key.name == "network.mode" { "network" } else { key.name };
    let name = |op: Op| format!("{}{}", key.name, op.mark());
    own.retain(|k, _| k != old && Op::ALL.iter().all(|op| *k != name(*op)));
    own.len() < before
}

/// The entries of a container's own settings.
pub(super) fn entries(own: &Overrides) -> std::result::Result<Vec<Entry>, Fault> {
    let json: Json =
        own.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<serde_json::Map<_, _>>().into();
    layer::entries(&Node::from(&json), Document::Container)
}

/// Reads the document that `coloc edit` got; `file` is what its lines are of.
pub fn read(text: &str, file: &str) -> Result<Overrides> {
    let entries = Node::parse(text)
        .and_then(|node| layer::entries(&node, Document::Container))
        .map_err(|f| fault(f, file))?;
    let mut own = Overrides::default();
    for entry in entries {
        insert(&mut own, entry.key, entry.op, &entry.value);
    }
    Ok(own)
}

/// A fault of `file` as an error.
pub(super) fn fault(fault: Fault, file: &str) -> Error {
    let place = match (file, fault.line) {
        ("", _) => String::new(),
        (file, 0) => format!("{file}: "),
        (file, line) => format!("{file}:{line}: "),
    };
    let e = usage(format!("{place}{}", fault.message));
    match fault.hint {
        Some(hint) => e.hint(hint),
        None => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn changed(own: &mut Overrides, text: &str) -> Result<()> {
        Change::parse(text)?.apply(own, &Effective::defaults())
    }

    #[test]
    fn values_are_set_and_taken_away() {
        let mut own = Overrides::from([("network".to_string(), json!("host"))]);
        changed(&mut own, "memory=1536M").unwrap();
        changed(&mut own, "network=none").unwrap();
        changed(&mut own, "pids=100").unwrap();
        changed(&mut own, "autostart=true").unwrap();
        let want = json!({"autostart": true, "limits.memory": "1536M", "limits.pids": 100, "network.mode": "none"});
        assert_eq!(json!(own), want);
        assert!(remove(&mut own, key("memory").unwrap()));
        assert!(!remove(&mut own, key("memory").unwrap()));
        assert_eq!(own.len(), 3);
    }

    #[test]
    fn lists_grow_and_shrink() {
        let mut own = Overrides::default();
        changed(&mut own, "mount+=/a:/x").unwrap();
        changed(&mut own, "mount+=/b:/y:ro /c:/x").unwrap();
        assert_eq!(json!(own), json!({"mounts+": ["/c:/x:rw", "/b:/y:ro"]}));
        changed(&mut own, "mount-=/x").unwrap();
        assert_eq!(json!(own), json!({"mounts+": ["/b:/y:ro"]}));
        assert_eq!(changed(&mut own, "mount-=/x").unwrap_err().kind(), Kind::NotFound);
        changed(&mut own, "mount=/d:/z").unwrap();
        assert_eq!(json!(own), json!({"mounts": ["/d:/z:rw"]}));
        changed(&mut own, "mount+=/e:/v").unwrap();
        changed(&mut own, "mount-=/d:/z").unwrap();
        assert_eq!(json!(own), json!({"mounts": ["/e:/v:rw"]}));
    }

    #[test]
    fn what_a_profile_gives_can_be_taken_away_and_put_back() {
        let mut below = Effective::defaults();
        let profile = Overrides::from([("devices".to_string(), json!(["/dev/fuse", "/dev/kvm"]))]);
        below.put(&entries(&profile).unwrap(), |_| super::super::settings::Origin::Default);
        let mut own = Overrides::default();
        Change::parse("device-=/dev/kvm").unwrap().apply(&mut own, &below).unwrap();
        assert_eq!(json!(own), json!({"devices-": ["/dev/kvm"]}));
        let mut all = below.clone();
        all.put(&entries(&own).unwrap(), |_| super::super::settings::Origin::Container);
        assert_eq!(all.settings().devices.len(), 1);
        Change::parse("device+=/dev/kvm").unwrap().apply(&mut own, &below).unwrap();
        assert_eq!(json!(own), json!({"devices+": ["/dev/kvm"]}));
    }

    #[test]
    fn only_what_there_is_can_be_set() {
        for bad in [
            "hold",
            "hold=",
            "hold=yes",
            "home=yes",
            "x=1",
            "=",
            "",
            "memory+=1G",
            "description=x",
            "extends=room",
            "limits.pids=0",
            "owners=a:b",
            r#"oci={"hooks":{"poststop":[{"path":"/x"}]}}"#,
            "oci={",
            "cpus=3-1",
        ] {
            assert_eq!(Change::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        let e = Change::parse("memroy=1G").unwrap_err();
        assert!(e.hint_text().unwrap().contains("limits.memory"), "{e}");
    }

    #[test]
    fn what_is_edited_becomes_flat() {
        let own =
            read("{\"network\": \"host\", \"limits\": {\"memory\": 1073741824}}", "f").unwrap();
        assert_eq!(json!(own), json!({"limits.memory": "1G", "network.mode": "host"}));
        let e = read("{\n\"memory\": 5}", "f").unwrap_err();
        assert_eq!(e.to_string(), "f:2: there is no key memory");
    }
}
