//! Kinds of values and values: read from the text of `coloc set` or from JSON, exact from then on.

use std::fmt::Write;

use serde_json::Value as Json;

use super::device::Device;
use super::item::{MountPoint, Publish, Rate};
use super::json::{Data, Fault, Node};
use super::oci;

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Which network.
    Network,
    /// The name of a profile.
    Profile,
    /// A line of text.
    Text,
    /// Bytes, or `max`.
    Size {
        /// The fewest that make sense.
        least: u64,
    },
    /// A number, or a word for "no limit of its own".
    Count {
        /// The lowest.
        least: u64,
        /// The highest.
        most: u64,
        /// The word; empty if there is none.
        none: &'static str,
    },
    /// Processor time, in microseconds of each 100 ms, or `max`.
    Cores,
    /// Numbers of processors, or `all`.
    Cpus,
    /// A list.
    List(Items),
    /// A fragment of an OCI runtime spec.
    Fragment,
}

/// What a list is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Items {
    /// [`Publish`]
    Publish,
    /// [`MountPoint`]
    Mount,
    /// [`Device`]
    Device,
    /// [`Rate`] of bytes.
    Bytes,
    /// [`Rate`] of operations.
    Operations,
    /// Users of the host, and `@` groups.
    Owner,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of the kinds that are a word.
    Word(String),
    /// Of the kinds that are a number.
    Number(u64),
    /// The word of those kinds that says "no limit".
    Unlimited,
    /// Of [`Kind::List`].
    List(Vec<Item>),
    /// Of [`Kind::Fragment`].
    Fragment(Json),
}

/// One of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// See [`Publish`].
    Publish(Publish),
    /// See [`MountPoint`].
    Mount(MountPoint),
    /// See [`Device`].
    Device(Device),
    /// See [`Rate`].
    Rate(Rate),
    /// An owner.
    Owner(String),
}

/// A whole number in decimal digits, and nothing else.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Units of bytes, largest first. Those by thousands are not among them: people mean either.
const UNITS: [(char, u64); 5] =
    [('P', 1 << 50), ('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// Bytes: `512M`, `1.5G`, `1GiB`, `1048576`.
pub(super) fn size(text: &str) -> Option<u64> {
    let bare = text.strip_suffix("iB").or(text.strip_suffix('i')).unwrap_or(text);
    let unit = UNITS.iter().find(|(c, _)| bare.ends_with([*c, c.to_ascii_lowercase()]));
    match unit {
        Some((_, scale)) => decimal(bare.get(..bare.len() - 1)?, *scale),
        None if bare.len() == text.len() => whole(text.strip_suffix('B').unwrap_or(text)),
        None => None,
    }
}

/// `text`, a number with or without a fraction, times `scale`, rounded down.
fn decimal(text: &str, scale: u64) -> Option<u64> {
    let (int, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if int.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let part = whole(fraction)? as u128 * scale as u128 / 10u128.pow(fraction.len() as u32);
    let sum = whole(int)? as u128 * scale as u128 + part;
    u64::try_from(sum).ok()
}

/// Bytes as text that says exactly the same.
pub(super) fn size_words(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, scale)| bytes > 0 && bytes % scale == 0);
    unit.map_or_else(|| bytes.to_string(), |(c, scale)| format!("{}{c}", bytes / scale))
}

/// The period that processor time is counted in, in microseconds.
pub const PERIOD: u64 = 100_000;

/// `1.5` cores or `150%` of one.
fn cores(text: &str) -> Option<u64> {
    match text.strip_suffix('%') {
        Some(percent) => decimal(percent, PERIOD / 100),
        None => decimal(text, PERIOD),
    }
}

fn cores_words(quota: u64) -> String {
    let text = format!("{}.{:05}", quota / PERIOD, quota % PERIOD);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// `0-3,8` in the kernel's way of writing it; None if it is no list of processors.
fn cpus(text: &str) -> Option<String> {
    const MOST: u64 = 8192;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (whole(first)?, whole(last)?);
        if first > last || last >= MOST {
            return None;
        }
        ranges.push((first, last));
    }
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    let mut out = String::new();
    for (first, last) in joined {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = match first == last {
            true => write!(out, "{comma}{first}"),
            false => write!(out, "{comma}{first}-{last}"),
        };
    }
    Some(out)
}

/// A name that an interface can have (the kernel's dev_valid_name).
fn interface(name: &str) -> bool {
    let bad = |b: u8| !b.is_ascii_graphic() || b == b'/' || b == b':';
    !name.is_empty() && name.len() < 16 && name != "." && name != ".." && !name.bytes().any(bad)
}

/// An owner by its words; whether the host knows them is another question.
fn owner(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('@').unwrap_or(text);
    let sane = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match !name.is_empty() && name.len() <= 32 && !name.starts_with('-') && name.bytes().all(sane) {
        true => Ok(text.to_string()),
        false => Err(format!("{text:?} is no user and no @group")),
    }
}

fn network(text: &str) -> Result<(), String> {
    match text.split_once('=') {
        None if ["private", "host", "none"].contains(&text) => Ok(()),
        Some(("bridge" | "macvlan", name)) if interface(name) => Ok(()),
        Some(("bridge" | "macvlan", name)) => Err(format!("{name:?} is no interface")),
        _ => Err(String::new()),
    }
}

impl Items {
    /// Reads one.
    pub fn parse(self, text: &str) -> Result<Item, String> {
        match self {
            Self::Publish => Publish::parse(text).map(Item::Publish),
            Self::Mount => MountPoint::parse(text).map(Item::Mount),
            Self::Device => Device::parse(text).map(Item::Device),
            Self::Bytes => Rate::parse(text, true).map(Item::Rate),
            Self::Operations => Rate::parse(text, false).map(Item::Rate),
            Self::Owner => owner(text).map(Item::Owner),
        }
    }

    /// What one looks like.
    fn form(self) -> &'static str {
        match self {
            Self::Publish => "8080:80, 8080:80/udp or ADDRESS:8080:80",
            Self::Mount => {
                "/srv/mirror:/mnt/mirror:ro, with options ro, noexec, idmap, idmap=HOST:INSIDE"
            }
            Self::Device => "/dev/net/tun or c:MAJOR:MINOR, with options r, w, block, host",
            Self::Bytes => "/dev/sda:10M",
            Self::Operations => "/dev/sda:500",
            Self::Owner => "a user of the host, or @ and a group",
        }
    }
}

impl Item {
    /// What there can be only one of: a mount at a place, a rate for a disk.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Mount(m) => m.target.display().to_string(),
            Self::Rate(r) => r.device.clone(),
            Self::Device(d) => d.name(),
            Self::Publish(p) => Publish { inside: 1, ..*p }.to_string(),
            Self::Owner(name) => name.clone(),
        }
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Publish(p) => p.fmt(f),
            Self::Mount(m) => m.fmt(f),
            Self::Device(d) => d.fmt(f),
            Self::Rate(r) => r.fmt(f),
            Self::Owner(name) => f.write_str(name),
        }
    }
}

impl Kind {
    /// Reads the text of `coloc set`.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let word = || Value::Word(text.to_string());
        let bad = || format!("it cannot be {:?}", text.chars().take(60).collect::<String>());
        match self {
            Self::Flag => text.parse().map(Value::Flag).map_err(|_| bad()),
            Self::Choice(words) if words.contains(&text) => Ok(word()),
            Self::Choice(_) => Err(bad()),
            Self::Network => match network(text) {
                Ok(()) => Ok(word()),
                Err(why) if why.is_empty() => Err(bad()),
                Err(why) => Err(why),
            },
            Self::Profile => match crate::store::Name::parse("profile", text) {
                Ok(_) => Ok(word()),
                Err(e) => Err(e.to_string()),
            },
            Self::Text => match text.chars().any(char::is_control) || text.len() > 200 {
                true => Err("it is one line of at most 200 bytes".into()),
                false => Ok(word()),
            },
            Self::Size { .. } | Self::Cores if text == "max" => Ok(Value::Unlimited),
            Self::Size { least } => match size(text) {
                Some(n) if n >= least => Ok(Value::Number(n)),
                Some(_) => {
                    Err(format!("{text} is less than the {} that it takes", size_words(least)))
                }
                None => Err(bad()),
            },
            Self::Count { none, .. } if text == none && !none.is_empty() => Ok(Value::Unlimited),
            Self::Count { least, most, .. } => match whole(text) {
                Some(n) if (least..=most).contains(&n) => Ok(Value::Number(n)),
                Some(_) => Err(format!("{text} is not from {least} to {most}")),
                None => Err(bad()),
            },
            Self::Cores => match cores(text) {
                // The kernel takes no less than a millisecond.
                Some(n) if (1000..=PERIOD * 8192).contains(&n) => Ok(Value::Number(n)),
                Some(_) => Err(format!("{text} is not from 0.01 to 8192 cores")),
                None => Err(bad()),
            },
            Self::Cpus if text == "all" => Ok(Value::Unlimited),
            Self::Cpus => cpus(text).map(Value::Word).ok_or_else(bad),
            Self::List(items) => {
                let parts = text.split([' ', '\t']).filter(|t| !t.is_empty());
                // Owners were a list with commas before there were others.
                let parts = parts.flat_map(|p| match items {
                    Items::Owner => p.split(',').filter(|t| !t.is_empty()).collect::<Vec<_>>(),
                    _ => vec![p],
                });
                parts.map(|p| items.parse(p)).collect::<Result<Vec<_>, _>>().map(distinct)
            }
            Self::Fragment => {
                let node = Node::parse(text).map_err(|f| f.message)?;
                oci::check(&node).map_err(|f| f.message)?;
                Ok(Value::Fragment(node.plain()))
            }
        }
    }

    /// Reads the value of a document.
    pub(super) fn read(self, node: &Node) -> Result<Value, Fault> {
        let wrong = || Fault::new(node.line, format!("it is {}", node.what())).hint(self.expects());
        let fault = |line: usize| move |why: String| Fault::new(line, why).hint(self.expects());
        match (&node.data, self) {
            (Data::Plain(Json::Bool(on)), Self::Flag) => Ok(Value::Flag(*on)),
            (_, Self::Flag) => Err(wrong()),
            (
                Data::Plain(Json::Number(n)),
                Self::Size { .. } | Self::Count { .. } | Self::Cores,
            ) => self.parse(&n.to_string()).map_err(fault(node.line)),
            (Data::List(list), Self::List(items)) => {
                let one = |node: &Node| match &node.data {
                    Data::Plain(Json::String(text)) => items.parse(text).map_err(fault(node.line)),
                    _ => Err(Fault::new(node.line, format!("{} is in the list", node.what()))
                        .hint(self.expects())),
                };
                list.iter().map(one).collect::<Result<Vec<_>, _>>().map(distinct)
            }
            (Data::Object(_), Self::Fragment) => {
                oci::check(node)?;
                Ok(Value::Fragment(node.plain()))
            }
            (_, Self::List(_) | Self::Fragment) => Err(wrong()),
            (Data::Plain(Json::String(text)), _) => self.parse(text).map_err(fault(node.line)),
            _ => Err(wrong()),
        }
    }

    /// What it is, for people: the end of "it is …".
    pub fn expects(self) -> String {
        match self {
            Self::Flag => "it is true or false".into(),
            Self::Choice(words) => format!("it is {}", words.join(" or ")),
            Self::Network => "it is private, host, none, bridge=NAME or macvlan=NAME".into(),
            Self::Profile => "it is the name of a profile: coloc profile list".into(),
            Self::Text => "it is a line of text".into(),
            Self::Size { .. } => "it is a size such as 512M or 1.5G, or max".into(),
            Self::Count { least, most, none: "" } => {
                format!("it is a number from {least} to {most}")
            }
            Self::Count { least, most, none } => {
                format!("it is a number from {least} to {most}, or {none}")
            }
            Self::Cores => "it is cores such as 1.5, a share of one such as 50%, or max".into(),
            Self::Cpus => "it is a list of processors such as 0-3,8, or all".into(),
            Self::List(items) => format!("it is a list of {}", items.form()),
            Self::Fragment => "it is an object: a fragment of an OCI runtime spec".into(),
        }
    }

    /// The word for a value that is no limit.
    fn none(self) -> &'static str {
        match self {
            Self::Count { none, .. } => none,
            Self::Cpus => "all",
            _ => "max",
        }
    }

    /// `value` as text that [`parse`](Self::parse) reads again.
    pub fn words(self, value: &Value) -> String {
        match (value, self) {
            (Value::Flag(on), _) => on.to_string(),
            (Value::Word(word), _) => word.clone(),
            (Value::Unlimited, _) => self.none().into(),
            (Value::Number(n), Self::Size { .. }) => size_words(*n),
            (Value::Number(n), Self::Cores) => cores_words(*n),
            (Value::Number(n), _) => n.to_string(),
            (Value::List(list), _) => {
                list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            (Value::Fragment(json), _) => json.to_string(),
        }
    }

    /// `value` as documents have it; [`read`](Self::read) reads it again.
    pub(super) fn json(self, value: &Value) -> Json {
        match value {
            Value::Flag(on) => Json::Bool(*on),
            Value::Number(n) if matches!(self, Self::Count { .. }) => Json::from(*n),
            Value::List(list) => list.iter().map(|i| Json::String(i.to_string())).collect(),
            Value::Fragment(json) => json.clone(),
            _ => Json::String(self.words(value)),
        }
    }

    /// `value` for programs: bytes and cores as numbers, "no limit" as null.
    pub fn exact(self, value: &Value) -> Json {
        match value {
            Value::Unlimited => Json::Null,
            Value::Number(n) if self == Self::Cores => Json::from(*n as f64 / PERIOD as f64),
            Value::Number(n) => Json::from(*n),
            _ => self.json(value),
        }
    }
}

/// A list in which what there can be one of is there once: the last.
fn distinct(items: Vec<Item>) -> Value {
    Value::List(items.into_iter().fold(Vec::new(), add))
}

/// `list` with `item` in the place of the one with its identity.
pub(super) fn add(mut list: Vec<Item>, item: Item) -> Vec<Item> {
    match list.iter().position(|i| i.identity() == item.identity()) {
        Some(at) => list[at] = item,
        None => list.push(item),
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Kind = Kind::Size { least: 0 };

    #[test]
    fn sizes_are_exact() {
        for (text, want) in [
            ("0", 0),
            ("4096", 4096),
            ("1K", 1024),
            ("1k", 1024),
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            ("1GiB", 1 << 30),
            ("1Gi", 1 << 30),
        ] {
            assert_eq!(size(text), Some(want), "{text}");
        }
        for bad in
            ["", "G", "1GB", "1 G", "-1", "+1", "1e3", "0x10", "1.G", ".5G", "1.5", "1iB", "16384P"]
        {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(SIZE.words(&Value::Number(3 << 29)), "1536M");
        assert_eq!(SIZE.words(&Value::Number(1025)), "1025");
    }

    #[test]
    fn cores_are_microseconds_of_a_tenth_of_a_second() {
        for (text, quota, words) in [
            ("1.5", 150_000, "1.5"),
            ("150%", 150_000, "1.5"),
            ("2", 200_000, "2"),
            ("33.333%", 33_333, "0.33333"),
        ] {
            assert_eq!(Kind::Cores.parse(text), Ok(Value::Number(quota)));
            assert_eq!(Kind::Cores.words(&Value::Number(quota)), words);
        }
        for bad in ["0", "0.001", "9000", "-1", "1,5", "%", "all"] {
            assert!(Kind::Cores.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_sorted_and_joined() {
        assert_eq!(cpus("3,0-1,2").as_deref(), Some("0-3"));
        assert_eq!(cpus("8,0-3,2-5").as_deref(), Some("0-5,8"));
        for bad in ["", "a", "3-1", "0-", ",", "1,,2", "8192", "0-99999999999"] {
            assert_eq!(cpus(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks() {
        for good in ["private", "host", "none", "bridge=br0", "macvlan=eth0.5"] {
            assert!(Kind::Network.parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "moon",
            "bridge",
            "bridge=",
            "bridge=a/b",
            "bridge=0123456789abcdef",
            "private=x",
            "macvlan=a b",
        ] {
            assert!(Kind::Network.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_place_has_one_mount() {
        let list = Kind::List(Items::Mount).parse("/a:/x /b:/y /c:/x:ro").unwrap();
        assert_eq!(Kind::List(Items::Mount).words(&list), "/c:/x:ro /b:/y:rw");
    }

    proptest::proptest! {
        #[test]
        fn a_size_reads_its_own_words(n: u64) {
            proptest::prop_assert_eq!(size(&size_words(n)), Some(n));
        }

        #[test]
        fn cores_read_their_own_words(n in 1000u64..PERIOD * 8192) {
            proptest::prop_assert_eq!(cores(&cores_words(n)), Some(n));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,40}") {
            for kind in [SIZE, Kind::Cores, Kind::Cpus, Kind::Network, Kind::List(Items::Mount), Kind::List(Items::Publish), Kind::List(Items::Device), Kind::List(Items::Bytes), Kind::Fragment] {
                if let Ok(value) = kind.parse(&text) {
                    proptest::prop_assert_eq!(kind.parse(&kind.words(&value)), Ok(value));
                }
            }
        }
    }
}
