//! Names of containers and bases.

use std::fmt;

use crate::error::{Error, Kind, Result};

/// A DNS label: 1 to 63 of a–z, 0–9 and `-`, not first or last (RFC 1123, section 2.1). So it
/// is safe as a file name, a host name, a cgroup and a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Checks `text`; `what` is the word for it in the error, such as "container".
    pub fn parse(what: &str, text: &str) -> Result<Self> {
        let bytes = text.as_bytes();
        let label = !bytes.is_empty()
            && bytes.len() <= 63
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-';
        if label {
            return Ok(Self(text.to_string()));
        }
        let shown: String = text.chars().take(40).collect();
        let more = if text.chars().count() > 40 { "…" } else { "" };
        Err(Error::new(Kind::Usage, format!("{shown:?}{more} cannot be the name of a {what}"))
            .hint("a name has 1 to 63 of a-z, 0-9 and -, and neither starts nor ends with -"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse("thing", &text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names() {
        for good in ["a", "alice", "a-b", "0", "x9", &"a".repeat(63)] {
            assert!(Name::parse("container", good).is_ok(), "{good}");
        }
    }

    #[test]
    fn all_else_is_not() {
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", ".", "a b", "a\n", "a\0", "é", &long]
        {
            let e = Name::parse("container", bad).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(!e.to_string().contains('\n'), "{e}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_name_is_one_safe_path_component(text in ".{0,80}") {
            if let Ok(name) = Name::parse("container", &text) {
                let path = std::path::Path::new("/x").join(name.as_str());
                assert_eq!(path.components().count(), 3);
                assert_eq!(path.parent(), Some(std::path::Path::new("/x")));
            }
        }
    }
}
