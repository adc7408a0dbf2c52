//! Parsers of what a container, a member or a hostile archive writes, fed with what is nearly right.
//! None may panic, hang or take much memory, whatever they say to it. `scripts/fuzz` runs them for
//! longer (PROPTEST_CASES).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use coloc::broker::frames;
use coloc::profile::Profile;
use coloc::runtime::{cgroup, limits, plan};
use coloc::store::{Name, Record, events, running};
use coloc::sys::mountinfo;
use coloc::tree::{accounts, file, manifest};
use proptest::prelude::*;

/// A change to a text that is well-formed.
#[derive(Debug, Clone)]
enum Edit {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
    Word(usize, &'static str),
}

fn edit() -> impl Strategy<Value = Edit> {
    let words = prop::sample::select(vec![
        "-1",
        "0",
        "4294967296",
        "18446744073709551616",
        "\0",
        "\n",
        ":",
        "\t",
        "..",
        "/",
        "{",
        "[",
        "\"",
        "\\u0000",
        "\\x",
        "\u{202e}",
        "null",
        "1e999",
        "%s",
        " - ",
        "\r",
        "\u{feff}",
    ]);
    let at = 0usize..4096;
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(a, b)| Edit::Set(a, b)),
        (at.clone(), any::<u8>()).prop_map(|(a, b)| Edit::Insert(a, b)),
        (at.clone(), 1usize..64).prop_map(|(a, n)| Edit::Remove(a, n)),
        (at.clone(), 1usize..64, 1usize..200).prop_map(|(a, n, m)| Edit::Repeat(a, n, m)),
        (at, words).prop_map(|(a, w)| Edit::Word(a, w)),
    ]
}

/// One of `seeds` with some edits.
fn nearly(seeds: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(seeds), prop::collection::vec(edit(), 0..12)).prop_map(|(seed, edits)| {
        let mut bytes = seed.as_bytes().to_vec();
        for e in edits {
            let end = bytes.len();
            match e {
                Edit::Set(at, b) if end > 0 => bytes[at % end] = b,
                Edit::Set(..) => {}
                Edit::Insert(at, b) => bytes.insert(at % (end + 1), b),
                Edit::Remove(at, n) => {
                    let at = at % (end + 1);
                    bytes.drain(at..(at + n).min(end));
                }
                Edit::Repeat(at, n, times) => {
                    let at = at % (end + 1);
                    let part = bytes[at..(at + n).min(end)].repeat(times);
                    bytes.splice(at..at, part);
                }
                Edit::Word(at, word) => {
                    let at = at % (end + 1);
                    bytes.splice(at..at, word.bytes());
                }
            }
        }
        bytes
    })
}

const PASSWD: &[&str] = &[
    "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice,,,:/home/alice:/bin/sh\n",
    "root:x:0:\nsudo:x:27:alice,bob\nalice:x:1000:\n",
    "root:$6$x$y:19000:0:99999:7:::\nalice:!:19000::::::\n",
];
const MOUNTS: &[&str] = &[
    "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
     31 25 0:27 / /sys/fs/cgroup rw,relatime shared:9 master:1 - cgroup2 none rw\n",
    "22 1 8:1 /a\\040b /mnt/x\\134y rw,nosuid - ext4 /dev/sda1 rw,errors=remount-ro\n",
];
const ASK: &[&str] = &[
    r#"{"request":{"exec":{"name":"alice","user":"root","command":["ls","-l"],"env":["A=b"]}},
        "from_terminal":true,"screen":[24,80]}"#,
    r#"{"request":{"start":{"which":{"names":["a","b"]},"wait":true}},"from_terminal":false,
        "screen":null}"#,
    r#"{"request":{"list":{"json":true}},"from_terminal":false,"screen":null}"#,
];
const DOCUMENTS: &[&str] = &[
    r#"{"description":"x","init":"auto","network":"private","allow":{"nesting":true},"processes":9}"#,
    r#"{"name":"a","owners":["a","@b"],"base":"debian","generation":3,"ids":{"start":1,"count":2},
        "profile":"member","overrides":{},"machine_id":"0"}"#,
    r#"{"boot":"x","init":{"pid":1,"start":2},"supervisor":{"pid":3,"start":4},"init_kind":"systemd",
        "generation":1,"cgroup":"/a","cgroups":["/a/b"],"started":"2026-01-01T00:00:00Z"}"#,
    r#"{"ociVersion":"1.2.0","root":{"path":"/p"},"process":{"cwd":"/","args":["/sbin/init"],
        "user":{"uid":0,"gid":0},"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}]},
        "mounts":[{"destination":"/usr","type":"bind","source":"/u","options":["ro","idmap"]}],
        "linux":{"uidMappings":[{"hostID":1,"containerID":0,"size":2}],
        "resources":{"devices":[{"allow":false}],"unified":{"memory.high":"7"}},
        "seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_ALLOW"}]}}}"#,
];
const MANIFEST: &[&str] = &[
    "coloc-manifest 1\nusr/bin/sh\tf\t755\t0\t0\t12\t34\tabc\nusr/x\\x0ay\tl\t777\t0\t0\t1\t2\tto\tcap\n",
];
const EVENTS: &[&str] = &[
    "{\"id\":\"1\",\"time\":\"2026-01-01T00:00:00Z\",\"who\":\"alice\",\"uid\":1000,\"verb\":\"exec\",\
     \"container\":\"a\",\"args\":[\"ls\"]}\n{\"id\":\"1\",\"end\":0}\n",
];

/// A file of its own for each case, as these parsers take a path.
fn kept(name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("coloc-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), bytes).unwrap();
    dir
}

proptest! {
    #[test]
    fn accounts_of_a_container(bytes in nearly(PASSWD)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for user in accounts::users(&text) {
            prop_assert!(!user.name.contains([':', '\n']));
            accounts::groups_of(&text, &user.name);
        }
        accounts::gid_of(&text, "sudo");
        prop_assert!(accounts::ids_of(&text).count() <= text.len());
        let mut four = accounts::Accounts {
            passwd: text.clone(),
            group: text.clone(),
            shadow: Some(text.clone()),
            gshadow: Some(text),
        };
        four.add_user("zoe", "/bin/sh");
        four.add_member("sudo", "zoe");
        prop_assert!(four.knows("zoe"));
        four.strip_passwords();
    }

    #[test]
    fn mounts_of_a_process(bytes in nearly(MOUNTS)) {
        let found = mountinfo::parse(&bytes);
        prop_assert!(found.len() <= bytes.len());
        mountinfo::top(&found, std::path::Path::new("/usr"));
        cgroup::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn requests_of_a_member(bytes in nearly(ASK)) {
        if let Ok(ask) = frames::decode::<frames::Ask>(&bytes) {
            // What is understood is said again in the same way.
            let again = serde_json::to_vec(&ask).unwrap();
            prop_assert_eq!(frames::decode::<frames::Ask>(&again).unwrap(), ask);
        }
        if let Some(header) = bytes.first_chunk() {
            prop_assert!(frames::decode_header(*header).map_or(0, |n| n) <= frames::LIMIT);
        }
    }

    #[test]
    fn frames_on_a_socket(bytes in prop::collection::vec(any::<u8>(), 0..64), length in any::<u32>()) {
        let (ours, theirs) = coloc::sys::fdpass::pair().unwrap();
        let mut frame = frames::encode(&()).unwrap();
        frame.truncate(6);
        frame.extend(length.to_le_bytes());
        frame.extend(&bytes);
        frames::tell(&theirs, &frame);
        drop(theirs);
        let _ = frames::receive(&ours, std::time::Duration::from_secs(5));
    }

    #[test]
    fn documents(bytes in nearly(DOCUMENTS)) {
        let place = std::env::temp_dir().join(format!("coloc-fuzz-{}.json", std::process::id()));
        coloc::store::atomic::write(&place, &bytes, 0o600).unwrap();
        let _ = Profile::read(Name::parse("profile", "fuzz").unwrap(), place.clone());
        std::fs::remove_file(&place).unwrap();
        let _ = serde_json::from_slice::<Record>(&bytes);
        let _ = serde_json::from_slice::<running::State>(&bytes);
        if let Ok(spec) = serde_json::from_slice::<oci_spec::runtime::Spec>(&bytes) {
            if let Ok(plan) = plan::plan(&spec, &plan::HostFacts::default()) {
                for step in &plan.steps {
                    prop_assert!(!step.to_string().is_empty());
                }
            }
        }
        let _ = limits::of_user(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn manifests(bytes in nearly(MANIFEST)) {
        let dir = kept("manifest", &bytes);
        if let Ok(entries) = manifest::read(&dir) {
            prop_assert!(entries.len() <= bytes.len());
            manifest::text(&entries);
        }
    }

    #[test]
    fn journals_of_events(bytes in nearly(EVENTS)) {
        let dir = kept("events.jsonl", &bytes);
        let _ = events::read(&dir.join("events.jsonl"));
    }

    #[test]
    fn what_reaches_a_terminal(bytes in nearly(PASSWD)) {
        let shown = file::printable(&String::from_utf8_lossy(&bytes));
        let harmless = |c: char| !c.is_control() || ['\n', '\t'].contains(&c);
        prop_assert!(shown.chars().all(harmless), "{shown:?}");
    }
}
