//! One document of settings: a profile's, or a container's own.

use super::json::{Data, Fault, Node};
use super::keys::{self, Key, Place};
use super::oci;
use super::value::{Kind, Value};

/// What an entry does to what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// `"key"`: takes its place.
    Set,
    /// `"key+"`: adds to a list.
    Add,
    /// `"key-"`: takes from a list.
    Remove,
}

impl Op {
    pub(super) const ALL: [Self; 3] = [Self::Set, Self::Add, Self::Remove];

    /// What stands after the key in a document.
    pub(super) fn mark(self) -> &'static str {
        match self {
            Self::Set => "",
            Self::Add => "+",
            Self::Remove => "-",
        }
    }
}

/// One key of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: &'static Key,
    pub(super) op: Op,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// Whose document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Document {
    Profile,
    Container,
}

impl Document {
    fn places(self) -> &'static [Place] {
        match self {
            Self::Profile => &[Place::Profile, Place::Both],
            Self::Container => &[Place::Both],
        }
    }
}

/// The entries of a document, each checked.
pub(super) fn entries(node: &Node, document: Document) -> Result<Vec<Entry>, Fault> {
    let Data::Object(_) = &node.data else {
        return Err(Fault::new(node.line, format!("settings are an object, not {}", node.what())));
    };
    let mut found: Vec<Entry> = Vec::new();
    collect("", node, document, &mut found)?;
    for (n, entry) in found.iter().enumerate() {
        if found[..n].iter().any(|e| e.key == entry.key && e.op == entry.op) {
            return Err(Fault::new(entry.line, format!("{} is there twice", entry.key.name)));
        }
    }
    Ok(found)
}

fn collect(
    prefix: &str,
    node: &Node,
    document: Document,
    found: &mut Vec<Entry>,
) -> Result<(), Fault> {
    let Data::Object(pairs) = &node.data else { return Ok(()) };
    for (word, inner) in pairs {
        let path = format!("{prefix}{word}");
        // The short form of an object of which one key is the one that matters.
        let path = match (path.as_str(), &inner.data) {
            ("network", Data::Plain(_)) => "network.mode".to_string(),
            _ => path,
        };
        if let Some((key, op)) = key_and_op(&path) {
            found.push(entry(key, op, inner, document)?);
            continue;
        }
        let below = format!("{path}.");
        match (keys::KEYS.iter().any(|k| k.name.starts_with(&below)), &inner.data) {
            (true, Data::Object(_)) => collect(&below, inner, document, found)?,
            (true, _) => {
                let what = inner.what();
                return Err(Fault::new(inner.line, format!("{path} is an object, not {what}")));
            }
            (false, _) => return Err(unknown(&path, inner.line, document)),
        }
    }
    Ok(())
}

fn key_and_op(path: &str) -> Option<(&'static Key, Op)> {
    Op::ALL.into_iter().find_map(|op| {
        let key = keys::find(path.strip_suffix(op.mark())?)?;
        Some((key, op))
    })
}

fn unknown(path: &str, line: usize, document: Document) -> Fault {
    let bare = path.trim_end_matches(['+', '-']);
    let fault = Fault::new(line, format!("there is no key {path}"));
    match keys::nearest_key(bare, document.places()) {
        Some(near) => fault.hint(format!("did you mean {near}?")),
        None => fault.hint("coloc-profile(5) has the keys there are"),
    }
}

fn entry(key: &'static Key, op: Op, node: &Node, document: Document) -> Result<Entry, Fault> {
    let about = |f: Fault| Fault { message: format!("{}: {}", key.name, f.message), ..f };
    if !document.places().contains(&key.place) {
        let (why, hint) = match key.place {
            Place::Container => ("not for profiles", format!("coloc set NAME {}=…", key.name)),
            _ => ("for profiles only", "put it in a file in /etc/coloc/profiles".into()),
        };
        return Err(Fault::new(node.line, format!("{} is {why}", key.name)).hint(hint));
    }
    if op != Op::Set && !matches!(key.kind, Kind::List(_)) {
        return Err(Fault::new(node.line, format!("{} is no list", key.name))
            .hint(format!("leave the {} away", op.mark())));
    }
    let value = key.kind.read(node).map_err(about)?;
    if let (Value::Fragment(fragment), Document::Container) = (&value, document) {
        if oci::has_hooks(fragment) {
            return Err(Fault::new(node.line, "oci: hooks are for profiles only")
                .hint("root of the host runs them: put them in a profile in /etc/coloc/profiles"));
        }
    }
    Ok(Entry { key, op, value, line: node.line })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Entry>, Fault> {
        entries(&Node::parse(text).unwrap(), Document::Profile)
    }

    #[test]
    fn nested_and_flat_are_the_same() {
        let nested =
            read(r#"{"limits": {"memory": "1G", "memory.high": "1M"}, "network": "host"}"#);
        let flat = read(
            r#"{"limits.memory": "1G", "limits.memory.high": "1M", "network": {"mode": "host"}}"#,
        );
        assert_eq!(nested.unwrap(), flat.unwrap());
    }

    #[test]
    fn a_fault_has_its_line_and_a_neighbour() {
        for (text, line, words, hint) in [
            ("{\n\"netwrok\": \"host\"}", 2, "no key netwrok", "network"),
            ("{\n\n\"limits\": {\n\"memroy\": \"1G\"}}", 4, "limits.memroy", "limits.memory"),
            ("{\"processes\": 5}", 1, "processes", "limits.pids"),
            ("{\"limits\": 5}", 1, "limits is an object", ""),
            ("{\"init\": true}", 1, "init: it is true", "auto or builtin"),
            ("{\"init\": \"x\"}", 1, "init: it cannot be \"x\"", "auto or builtin"),
            ("{\"mounts\": [\n\"/srv\"]}", 2, "mounts: the place inside", "/srv/mirror"),
            ("{\"mounts\": [\n\n5]}", 3, "a number is in the list", ""),
            ("{\"hold\": true}", 1, "hold is not for profiles", ""),
            ("{\"init+\": \"auto\"}", 1, "init is no list", ""),
            ("{\"limits\": {\"pids\": 0}}", 1, "limits.pids: 0 is not from 1", ""),
            ("{\"limits\": {\"memory\": \"1K\"}}", 1, "less than the 8M", ""),
            ("{\"network\": \"host\", \"network.mode\": \"host\"}", 1, "twice", ""),
            ("[]", 1, "not a list", ""),
        ] {
            let f = read(text).unwrap_err();
            let said = f.hint.clone().unwrap_or_default();
            assert!(
                f.line == line && f.message.contains(words) && said.contains(hint),
                "{text}: {f:?}"
            );
        }
    }

    #[test]
    fn a_container_has_no_hooks_of_its_own() {
        let text = r#"{"oci": {"hooks": {"poststop": [{"path": "/x"}]}}}"#;
        assert!(read(text).is_ok());
        let f = entries(&Node::parse(text).unwrap(), Document::Container).unwrap_err();
        assert!(f.message.contains("profiles only"));
        let text = Node::parse(r#"{"extends": "room"}"#).unwrap();
        assert!(entries(&text, Document::Container).is_err());
    }
}
