//! JSON with the line that each value is on, so that an error can say where it is.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How deep a document may be; those of profiles have six levels.
const DEPTH: usize = 32;

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The line, from 1; 0 for what has none.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) message: String,
    /// What would be right.
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A value and its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) data: Data,
}

/// A value; a list or an object of nodes, or all else as it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Plain(serde_json::Value),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads a document. A key that is there twice is an error, as the one would hide the other.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| {
            let message = e.to_string();
            let bare = message.split(" at line ").next().unwrap_or_default();
            Fault::new(e.line(), format!("this is not JSON: {bare}"))
        })?;
        Reader { text }.node(raw, 0)
    }

    /// The value without its lines.
    pub(super) fn plain(&self) -> serde_json::Value {
        match &self.data {
            Data::Plain(value) => value.clone(),
            Data::List(list) => list.iter().map(Self::plain).collect(),
            Data::Object(pairs) => pairs.iter().map(|(k, n)| (k.clone(), n.plain())).collect(),
        }
    }

    /// What it is, for people.
    pub(super) fn what(&self) -> &'static str {
        match &self.data {
            Data::Plain(serde_json::Value::Null) => "null",
            Data::Plain(serde_json::Value::Bool(_)) => "true or false",
            Data::Plain(serde_json::Value::Number(_)) => "a number",
            Data::Plain(_) => "a string",
            Data::List(_) => "a list",
            Data::Object(_) => "an object",
        }
    }
}

impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        let data = match value {
            serde_json::Value::Array(list) => Data::List(list.iter().map(Self::from).collect()),
            serde_json::Value::Object(map) => {
                Data::Object(map.iter().map(|(k, v)| (k.clone(), Self::from(v))).collect())
            }
            plain => Data::Plain(plain.clone()),
        };
        Self { line: 0, data }
    }
}

struct Reader<'a> {
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn node(&self, raw: &'a RawValue, depth: usize) -> Result<Node, Fault> {
        let text = raw.get();
        let line = self.line(text);
        if depth > DEPTH {
            return Err(Fault::new(line, "this is nested too deep"));
        }
        let wrong = |e: serde_json::Error| Fault::new(line, e.to_string());
        let data = match text.as_bytes().first() {
            Some(b'{') => {
                let mut pairs: Vec<(String, Node)> = Vec::new();
                for (key, raw) in serde_json::from_str::<Pairs<'a>>(text).map_err(wrong)?.0 {
                    let node = self.node(raw, depth + 1)?;
                    if pairs.iter().any(|(k, _)| *k == key) {
                        return Err(Fault::new(node.line, format!("{key:?} is there twice")));
                    }
                    pairs.push((key, node));
                }
                Data::Object(pairs)
            }
            Some(b'[') => {
                let list: Vec<&'a RawValue> = serde_json::from_str(text).map_err(wrong)?;
                Data::List(
                    list.into_iter().map(|r| self.node(r, depth + 1)).collect::<Result<_, _>>()?,
                )
            }
            _ => Data::Plain(serde_json::from_str(text).map_err(wrong)?),
        };
        Ok(Node { line, data })
    }

    /// The line that `part`, a slice of the text, begins on.
    fn line(&self, part: &str) -> usize {
        let before = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let bytes = self.text.as_bytes().get(..before).unwrap_or_default();
        1 + bytes.iter().filter(|b| **b == b'\n').count()
    }
}

/// The keys of an object in their order, with their values as they are written.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_line() {
        let node = Node::parse("{\n \"a\": 1,\n \"b\": [\n  2,\n  {\"c\": null}\n ]\n}").unwrap();
        let Data::Object(pairs) = &node.data else { panic!("{node:?}") };
        assert_eq!((node.line, pairs[0].1.line, pairs[1].1.line), (1, 2, 3));
        let Data::List(list) = &pairs[1].1.data else { panic!("{node:?}") };
        assert_eq!((list[0].line, list[1].line), (4, 5));
        assert_eq!(node.plain(), serde_json::json!({"a": 1, "b": [2, {"c": null}]}));
    }

    #[test]
    fn what_is_no_json_is_said_with_its_line() {
        let fault = |text: &str| Node::parse(text).unwrap_err();
        assert_eq!(fault("{\n\"a\": 1,\n}").line, 3);
        assert_eq!(fault("{\"a\": 1,\n \"a\": 2}").line, 2);
        assert!(fault("").message.contains("not JSON"));
        assert!(Node::parse(&"[".repeat(100_000)).is_err());
        let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
        assert!(fault(&deep).message.contains("too deep"));
    }
}
