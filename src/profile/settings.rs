//! What a container runs with: defaults, profiles and its own settings, one over the other.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::device::Device;
use super::item::{MountPoint, Publish, Rate};
use super::keys::{KEYS, Key, Place};
use super::layer::{Entry, Op};
use super::oci;
use super::value::{Item, Value, add};
use crate::store::Name;

/// Which init a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitChoice {
    /// The base's own.
    #[default]
    Auto,
    /// coloc's reaper, for a room without services.
    Builtin,
}

/// Which network a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// A loopback.
    None,
    /// One of its own, in this bridge of the host's.
    Bridge(String),
    /// One of its own, beside the host's on this interface.
    Macvlan(String),
}

impl Mode {
    fn of_word(word: &str) -> Self {
        match word.split_once('=') {
            Some(("bridge", name)) => Self::Bridge(name.into()),
            Some(("macvlan", name)) => Self::Macvlan(name.into()),
            _ => match word {
                "host" => Self::Host,
                "none" => Self::None,
                _ => Self::Private,
            },
        }
    }

    /// The word of the setting.
    pub fn word(&self) -> String {
        match self {
            Self::Private => "private".into(),
            Self::Host => "host".into(),
            Self::None => "none".into(),
            Self::Bridge(name) => format!("bridge={name}"),
            Self::Macvlan(name) => format!("macvlan={name}"),
        }
    }
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// Which.
    pub mode: Mode,
    /// Whether it and others that have this reach each other.
    pub neighbours: bool,
    /// Ports of the host that lead into it.
    pub publish: Vec<Publish>,
}

/// What a container can use up; None is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory from which on it is slowed down.
    pub memory_high: Option<u64>,
    /// Bytes that can be swapped out, beside the memory.
    pub swap: Option<u64>,
    /// Processor time, in microseconds of each [`PERIOD`](super::value::PERIOD).
    pub cpu: Option<u64>,
    /// Share of processor time, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// Processors, as the kernel writes such a list.
    pub cpus: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Share of disk time, 1 to 10000.
    pub io_weight: Option<u64>,
    /// Bytes read in a second.
    pub read_bytes: Vec<Rate>,
    /// Bytes written in a second.
    pub write_bytes: Vec<Rate>,
    /// Reads in a second.
    pub reads: Vec<Rate>,
    /// Writes in a second.
    pub writes: Vec<Rate>,
    /// Bytes on disk.
    pub disk: Option<u64>,
    /// Open files of a process.
    pub open_files: Option<u64>,
    /// Watchers of files.
    pub inotify_instances: Option<u64>,
    /// Files that are watched.
    pub inotify_watches: Option<u64>,
    /// Namespaces of each kind.
    pub namespaces: Option<u64>,
    /// Pseudoterminals.
    pub terminals: Option<u64>,
    /// Bytes of locked memory.
    pub locked: Option<u64>,
    /// Queued signals.
    pub signals: Option<u64>,
    /// Bytes in POSIX message queues.
    pub queues: Option<u64>,
}

/// What a container can do beyond what all can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    /// io_uring(7).
    pub io_uring: bool,
    /// userfaultfd(2).
    pub userfaultfd: bool,
    /// socketcall(2).
    pub socketcall: bool,
    /// Containers in the container.
    pub nesting: bool,
    /// User namespaces made inside.
    pub user_namespaces: bool,
}

impl Default for Allow {
    fn default() -> Self {
        Self {
            io_uring: false,
            userfaultfd: false,
            socketcall: false,
            nesting: false,
            user_namespaces: true,
        }
    }
}

/// What a container runs with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// The init.
    pub init: InitChoice,
    /// How many times 65536 ids it is made with.
    pub id_ranges: u32,
    /// The network.
    pub network: Network,
    /// What it can use up.
    pub limits: Limits,
    /// What of the host's is mounted.
    pub mounts: Vec<MountPoint>,
    /// The devices that it gets.
    pub devices: Vec<Device>,
    /// Whether it is started when the host boots.
    pub autostart: bool,
    /// What goes beyond the default.
    pub allow: Allow,
    /// The fragment of an OCI runtime spec.
    pub oci: Json,
}

impl Value {
    fn flag(&self) -> bool {
        *self == Self::Flag(true)
    }

    fn number(&self) -> Option<u64> {
        if let Self::Number(n) = self { Some(*n) } else { None }
    }

    fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    fn items(&self) -> &[Item] {
        if let Self::List(list) = self { list } else { &[] }
    }
}

fn pick<T: Clone>(value: &Value, of: fn(&Item) -> Option<&T>) -> Vec<T> {
    value.items().iter().filter_map(of).cloned().collect()
}

impl Settings {
    /// Puts the value of one key in its place; false if it has none here.
    fn put(&mut self, key: &str, value: &Value) -> bool {
        let (network, allow) = (&mut self.network, &mut self.allow);
        match key {
            "init" => {
                self.init = match value.word() {
                    Some("builtin") => InitChoice::Builtin,
                    _ => InitChoice::Auto,
                };
            }
            "id_ranges" => {
                let ranges = value.number().and_then(|n| u32::try_from(n).ok());
                self.id_ranges = ranges.unwrap_or(1);
            }
            "network.mode" => network.mode = Mode::of_word(value.word().unwrap_or_default()),
            "network.neighbours" => network.neighbours = value.flag(),
            "network.publish" => {
                network.publish =
                    pick(value, |i| if let Item::Publish(p) = i { Some(p) } else { None });
            }
            "mounts" => {
                self.mounts = pick(value, |i| if let Item::Mount(m) = i { Some(m) } else { None });
            }
            "devices" => {
                self.devices =
                    pick(value, |i| if let Item::Device(d) = i { Some(d) } else { None });
            }
            "autostart" => self.autostart = value.flag(),
            "allow.io_uring" => allow.io_uring = value.flag(),
            "allow.userfaultfd" => allow.userfaultfd = value.flag(),
            "allow.socketcall" => allow.socketcall = value.flag(),
            "allow.nesting" => allow.nesting = value.flag(),
            "allow.user_namespaces" => allow.user_namespaces = value.flag(),
            "oci" => self.oci = if let Value::Fragment(f) = value { f.clone() } else { Json::Null },
            _ => return self.limits.put(key, value),
        }
        true
    }
}

impl Limits {
    fn put(&mut self, key: &str, value: &Value) -> bool {
        let rates = || pick(value, |i| if let Item::Rate(r) = i { Some(r) } else { None });
        match key {
            "limits.memory" => self.memory = value.number(),
            "limits.memory.high" => self.memory_high = value.number(),
            "limits.swap" => self.swap = value.number(),
            "limits.cpu" => self.cpu = value.number(),
            "limits.cpu.weight" => self.cpu_weight = value.number(),
            "limits.cpus" => self.cpus = value.word().map(str::to_string),
            "limits.pids" => self.pids = value.number(),
            "limits.io.weight" => self.io_weight = value.number(),
            "limits.io.rbps" => self.read_bytes = rates(),
            "limits.io.wbps" => self.write_bytes = rates(),
            "limits.io.riops" => self.reads = rates(),
            "limits.io.wiops" => self.writes = rates(),
            "limits.disk" => self.disk = value.number(),
            "limits.nofile" => self.open_files = value.number(),
            "limits.inotify.instances" => self.inotify_instances = value.number(),
            "limits.inotify.watches" => self.inotify_watches = value.number(),
            "limits.namespaces" => self.namespaces = value.number(),
            "limits.terminals" => self.terminals = value.number(),
            "limits.memlock" => self.locked = value.number(),
            "limits.sigpending" => self.signals = value.number(),
            "limits.msgqueue" => self.queues = value.number(),
            _ => return false,
        }
        true
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "from")]
pub enum Origin {
    /// Nobody says anything.
    Default,
    /// A profile.
    Profile {
        /// Its name.
        name: Name,
        /// Its file.
        file: PathBuf,
        /// The line there.
        line: usize,
    },
    /// The container's own settings.
    Container,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile { name, file, line } => {
                write!(f, "profile {name}, {}:{line}", file.display())
            }
            Self::Container => f.write_str("container"),
        }
    }
}

/// A key with its value and where that comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// The value.
    pub value: Value,
    /// The last that had a say in it.
    pub origin: Origin,
}

/// All keys that a container has through its profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective(Vec<Setting>);

impl Effective {
    /// What there is if nobody says anything.
    pub fn defaults() -> Self {
        let keys = KEYS.iter().filter(|k| k.place == Place::Both);
        let value = |k: &'static Key| {
            // A test parses every default.
            let value = k.kind.parse(k.default).unwrap_or(Value::Unlimited);
            Setting { key: k, value, origin: Origin::Default }
        };
        Self(keys.map(value).collect())
    }

    /// Puts a document over what there is.
    pub(super) fn put(&mut self, entries: &[Entry], origin: impl Fn(usize) -> Origin) {
        for entry in entries {
            if let Some(setting) = self.0.iter_mut().find(|s| s.key == entry.key) {
                setting.value = combine(&setting.value, entry);
                setting.origin = origin(entry.line);
            }
        }
    }

    /// Every setting, in the order of the table.
    pub fn all(&self) -> &[Setting] {
        &self.0
    }

    /// The setting of `key`.
    pub fn get(&self, key: &Key) -> Option<&Setting> {
        self.0.iter().find(|s| s.key == key)
    }

    /// The settings as what works with them takes them.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        for Setting { key, value, .. } in &self.0 {
            settings.put(key.name, value);
        }
        settings
    }
}

/// What `entry` makes of the value below it.
fn combine(below: &Value, entry: &Entry) -> Value {
    match (below, &entry.value, entry.op) {
        (Value::List(below), Value::List(list), Op::Add) => {
            Value::List(list.iter().cloned().fold(below.clone(), add))
        }
        (Value::List(below), Value::List(list), Op::Remove) => {
            let gone = |i: &&Item| list.iter().all(|l| l.identity() != i.identity());
            Value::List(below.iter().filter(gone).cloned().collect())
        }
        (Value::Fragment(below), Value::Fragment(over), _) => {
            let mut merged = below.clone();
            oci::merge(&mut merged, over);
            Value::Fragment(merged)
        }
        (_, value, _) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place_in_the_settings() {
        let defaults = Effective::defaults();
        for setting in defaults.all() {
            let value = &setting.value;
            assert!(Settings::default().put(setting.key.name, value), "{}", setting.key.name);
        }
        let settings = defaults.settings();
        assert_eq!(settings.limits.pids, Some(8192));
        assert!(settings.allow.user_namespaces && !settings.allow.nesting);
        assert_eq!(settings.network, Network::default());
        assert_eq!(settings.limits.memory, None);
    }
}
