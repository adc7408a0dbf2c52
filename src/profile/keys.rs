//! The table of settings. `set`, `unset`, `show`, the JSON schema and coloc-profile(5) all go by
//! it, so that a key which is here is everywhere.

use super::value::{Items, Kind};

/// When a change of a key takes effect in a container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// When it is next started.
    Start,
    /// Never: it counts when a container is made.
    Create,
}

/// Where a key can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In profiles only: what says something of the profile itself.
    Profile,
    /// In profiles, and in a container's own settings over them.
    Both,
    /// Of a container alone.
    Container,
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its name, `.` between an object and what is in it.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value that it has if nobody says anything, as [`Kind::parse`] reads it.
    pub default: &'static str,
    /// When a change takes effect.
    pub when: When,
    /// Where it can stand.
    pub place: Place,
    /// What it is: sentences.
    pub doc: &'static str,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, when: When::Start, place: Place::Both, doc }
}

const fn now(key: Key) -> Key {
    Key { when: When::Now, ..key }
}

const fn only(place: Place, key: Key) -> Key {
    Key { place, ..key }
}

const fn size(least: u64) -> Kind {
    Kind::Size { least }
}

const fn count(least: u64, most: u64, none: &'static str) -> Kind {
    Kind::Count { least, most, none }
}

const MIB: u64 = 1 << 20;

/// Every key, in the order of the manual.
pub const KEYS: &[Key] = &[
    only(Place::Profile, key("description", Kind::Text, "", "What the profile is for, in a line.")),
    only(
        Place::Profile,
        key(
            "extends",
            Kind::Profile,
            "",
            "The profile that this one begins from. \
             A profile of the admin's that extends its own name begins from the one that came along.",
        ),
    ),
    key(
        "init",
        Kind::Choice(&["auto", "builtin"]),
        "auto",
        "Which init runs: the base's own, systemd where it has that, or coloc's own small one, \
         which starts nothing; that is for a room that people log in to, without services.",
    ),
    Key {
        when: When::Create,
        ..key(
            "id_ranges",
            count(1, 64, ""),
            "1",
            "How many times 65536 ids it has, for users and groups alike. One is enough for a whole \
             system; containers and users' own ranges of ids inside, as of rootless podman, need more.",
        )
    },
    key(
        "network.mode",
        Kind::Network,
        "private",
        "Which network it sees: one of its own, or the host's with its addresses and ports. \
         Root inside has no power over the host's, but reaches all that listens on its loopback. \
         none is a loopback and nothing else; bridge=NAME a network of its own whose interface is \
         in that bridge of the host's, macvlan=NAME one with an address beside the host's on that \
         interface. The key network with one of these words alone says the same.",
    ),
    now(key(
        "network.neighbours",
        Kind::Flag,
        "false",
        "Whether it and other containers that have this reach each other over the private network.",
    )),
    now(key(
        "network.publish",
        Kind::List(Items::Publish),
        "",
        "Ports of the host that lead into it: the host's, then the one inside. \
         By TCP unless it says udp; on every address of the host's unless it names one. \
         See coloc publish in coloc(1).",
    )),
    now(key(
        "limits.memory",
        size(8 * MIB),
        "max",
        "How much memory it can have. What needs more is killed. max is 85 % of the host's.",
    )),
    now(key(
        "limits.memory.high",
        size(MIB),
        "max",
        "From how much memory on it is slowed down and its caches are taken back. Where nothing is \
             said of memory, max is 70 % of the host's.",
    )),
    now(key(
        "limits.swap",
        size(0),
        "max",
        "How much of it can be swapped out, beside its memory.",
    )),
    now(key(
        "limits.cpu",
        Kind::Cores,
        "max",
        "How much processor time it can have: cores, or per cent of one.",
    )),
    now(key(
        "limits.cpu.weight",
        count(1, 10_000, ""),
        "100",
        "Its share of processor time where there is not enough for all.",
    )),
    now(key(
        "limits.cpus",
        Kind::Cpus,
        "all",
        "On which of the processors that the host has it runs.",
    )),
    now(key(
        "limits.pids",
        count(1, 4_194_304, "max"),
        // A host has 32768 pids by default, and a desktop some 2000 threads.
        "8192",
        "How many processes and threads it can have, so that a fork bomb stays inside.",
    )),
    now(key(
        "limits.io.weight",
        count(1, 10_000, ""),
        "100",
        "Its share of disk time where there is not enough for all.",
    )),
    now(key("limits.io.rbps", Kind::List(Items::Bytes), "", "Bytes read in a second, by disk.")),
    now(key("limits.io.wbps", Kind::List(Items::Bytes), "", "Bytes written in a second, by disk.")),
    now(key("limits.io.riops", Kind::List(Items::Operations), "", "Reads in a second, by disk.")),
    now(key("limits.io.wiops", Kind::List(Items::Operations), "", "Writes in a second, by disk.")),
    now(key(
        "limits.disk",
        size(MIB),
        "max",
        "How much disk everything of the container's can take: its private tree and its snapshots. \
             It needs a file system with quotas: ext4 or XFS, mounted with prjquota, or btrfs, after btrfs \
             quota enable, where the kernel counts anew with each commit, every half minute.",
    )),
    key(
        "limits.nofile",
        count(64, 1 << 30, "host"),
        "host",
        "How many files a process can have open; host is 524288.",
    ),
    key(
        "limits.inotify.instances",
        count(1, 1 << 30, "host"),
        "host",
        "How many watchers of files each user inside can have; host is 1024.",
    ),
    key(
        "limits.inotify.watches",
        count(1, 1 << 30, "host"),
        "host",
        "How many files each user inside can watch; host is 524288.",
    ),
    key(
        "limits.namespaces",
        // What coloc does inside needs one for a moment.
        count(16, 1 << 30, "host"),
        "host",
        "How many namespaces of each kind each user inside can make; host is 512 of networks, 64 of \
         clocks, 4096 of users and of mounts, 1024 of the others.",
    ),
    key(
        "limits.terminals",
        count(16, 1 << 20, "host"),
        "host",
        "How many pseudoterminals it can have; host is 512.",
    ),
    key(
        "limits.memlock",
        size(64 << 10),
        "64M",
        "How much memory can be locked, so that none of it is swapped out: by a process, and by all.",
    ),
    key(
        "limits.sigpending",
        count(64, 1 << 30, "host"),
        "host",
        "How many signals can wait to be taken, for a process and for all; host is 32768.",
    ),
    key(
        "limits.msgqueue",
        size(0),
        "800K",
        "How much the POSIX message queues of a process, and of all, can hold.",
    ),
    now(key(
        "mounts",
        Kind::List(Items::Mount),
        "",
        "Directories of the host's that are mounted inside: the host's path, the one inside, options. \
         Links in the host's path are not followed. \
         ro: nothing can be written through it; noexec: no program on it runs; \
         idmap: ids on it are those of the container with the same numbers; \
         idmap=HOST:INSIDE: that one id of the host's, of user and group, is that one inside. \
         Without idmap all on it is nobody's inside. \
         What a program inside has open, or somebody inside has mounted elsewhere, it keeps until it \
         ends, or until a restart.",
    )),
    now(key(
        "devices",
        Kind::List(Items::Device),
        "",
        "Devices of the host's that it gets, by path, or by numbers, which allows them without a node. \
         Those inside have what everybody has by the node's mode; \
         r or w: it can be opened for that alone. \
         A block device needs ,block after it: whoever can write to a disk past its file system \
         can become root of the host. \
         Other ways out (raw disks, firmware, what is typed and shown on the host, watchdogs) need \
         ,host after them; the host's memory, log and console are never given. \
         What a program inside has open it keeps until it ends.",
    )),
    now(key(
        "autostart",
        Kind::Flag,
        "false",
        "Whether it is started when the host boots; coloc enable and disable set it. \
         Where the host's init is not systemd, that has to run coloc start --autostart.",
    )),
    key("allow.io_uring", Kind::Flag, "false", "The system calls of io_uring(7)."),
    key("allow.userfaultfd", Kind::Flag, "false", "The system call userfaultfd(2)."),
    key(
        "allow.socketcall",
        Kind::Flag,
        "false",
        "Sockets by socketcall(2), which 32-bit x86 programs over the GNU C library need for any \
         network. No filter can look at what they ask for: such a program can then use address \
         families that are refused otherwise.",
    ),
    key(
        "allow.nesting",
        Kind::Flag,
        "false",
        "Containers in the container: a /proc and a /sys with nothing mounted over them are kept in \
         /run/host, which the kernel asks for before a user namespace gets its own.",
    ),
    key(
        "allow.user_namespaces",
        Kind::Flag,
        "true",
        "User namespaces made inside, which sandboxes and containers begin with, and many holes of \
         the kernel's too.",
    ),
    key(
        "oci",
        Kind::Fragment,
        "{}",
        "A fragment of an OCI runtime spec, merged over what the other keys make: \
         process.capabilities, process.selinuxLabel, linux.mountLabel, linux.seccomp, \
         linux.resources, linux.devices, mounts, hooks and annotations.",
    ),
    now(only(
        Place::Container,
        key(
            "hold",
            Kind::Flag,
            "false",
            "Whether it stays at its generation when its base is updated.",
        ),
    )),
    now(only(
        Place::Container,
        key(
            "owners",
            Kind::List(Items::Owner),
            "",
            "Whose it is: users of the host, and groups with @.",
        ),
    )),
    only(
        Place::Container,
        key(
            "home",
            Kind::Choice(&["private", "shared"]),
            "private",
            "Whether its owner's home on the host is mounted at the same path inside.",
        ),
    ),
    only(
        Place::Container,
        key("profile", Kind::Profile, "", "The profile that its settings start from."),
    ),
];

/// Shorter words for keys on the command line, beside those without `limits.`.
const SHORT: [(&str, &str); 7] = [
    ("network", "network.mode"),
    ("neighbours", "network.neighbours"),
    ("publish", "network.publish"),
    ("mount", "mounts"),
    ("device", "devices"),
    ("owner", "owners"),
    ("processes", "limits.pids"),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The key that a word of the command line means.
pub fn find_short(word: &str) -> Option<&'static Key> {
    let short = SHORT.iter().find(|(short, _)| *short == word).and_then(|(_, name)| find(name));
    find(word).or(short).or_else(|| find(&format!("limits.{word}")))
}

/// What of `names` is most like `word`, if anything is.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let likeness = |name: &'a str| {
        let bare = word.rsplit('.').next().unwrap_or(word);
        strsim::jaro_winkler(word, name).max(0.95 * strsim::jaro_winkler(bare, last(name)))
    };
    let scored = names.into_iter().map(|name| (likeness(name), name));
    scored.filter(|(l, _)| *l > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// The key that is most like `word`, of those that can stand in `places`.
pub fn nearest_key(word: &str, places: &[Place]) -> Option<&'static str> {
    if let Some(key) = find_short(word).filter(|k| places.contains(&k.place)) {
        return Some(key.name);
    }
    nearest(word, KEYS.iter().filter(|k| places.contains(&k.place)).map(|k| k.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_and_every_name_is_one() {
        for key in KEYS {
            let none = key.default.is_empty() && key.place != Place::Both;
            assert!(none || key.kind.parse(key.default).is_ok(), "{}", key.name);
            assert_eq!(KEYS.iter().filter(|k| k.name == key.name).count(), 1);
            assert!(key.doc.ends_with('.'), "{}", key.name);
        }
        for (short, name) in SHORT {
            assert!(find(short).is_none() && find(name).is_some(), "{short}");
        }
    }

    #[test]
    fn what_is_misspelt_has_a_neighbour() {
        let all = [Place::Both];
        for (word, want) in [
            ("netwrok", "network.mode"),
            ("memory", "limits.memory"),
            ("limits.memroy", "limits.memory"),
            ("processes", "limits.pids"),
            ("autostrat", "autostart"),
            ("mount", "mounts"),
        ] {
            let near = nearest_key(word, &all).unwrap();
            assert!(near == want || near.starts_with("network."), "{word}: {near}");
        }
        assert_eq!(nearest_key("xyzzy", &all), None);
    }
}
