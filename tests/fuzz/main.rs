//! Parsers of what a container, a member or a hostile archive writes, fed with what is nearly right.
//! `scripts/fuzz` runs them for longer (PROPTEST_CASES), and by libFuzzer.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod bodies;

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
const THREE: &[&str] = &[
    "a\nb\nc\n\0a\nmine\nc\n\0a\nb\nnew\n",
    "root:x:0:0::/:/bin/sh\na:x:100:100::/:/bin/sh\n\0root:x:0:0::/:/bin/sh\nm:x:500:500::/:/bin/sh\n\
     \0root:x:0:0::/:/bin/sh\nb:x:101:101::/:/bin/sh\n",
    "a.crt\n!b.crt\n\0a.crt\n\0c.crt\n",
    "Name: a\nValue: 1\n\nName: b\n\0Name: a\nValue: 2\n\0Name: b\n\nName: c\n",
];
const APT: &[&str] = &[
    "Inst libssl3 [3.0.1] (3.0.2 Debian-Security:12/stable-security [amd64]) []\nRemv cron [1]\n",
    "Get:1 http://mirror.example.org/debian bookworm/main amd64 nginx amd64 1.22 [1 kB]\n\
     Setting up nginx (1.22) ...\nProcessing triggers for libc-bin (2.36) ...\n",
    "E: Unable to locate package x\nE: Package 'y' has no installation candidate\n",
    "nginx restart\nssh.service try-restart\n",
];
const DPKG: &[&str] = &[
    "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\nDescription: x\n y\n\
     \nPackage: b\nStatus: install ok half-configured\nVersion: 2:1-1\n",
    "nginx\t1.22\tamd64\nlibc6\t2.36\tamd64\n",
];
const PROCESS: &[&str] = &[
    "55d0c8a2e000-55d0c8a30000 r--p 00000000 fe:00 1183411                    /usr/sbin/nginx\n\
     7ffe1c9f2000-7ffe1c9f4000 r-xp 00000000 00:00 0                          [vdso]\n",
    "77 (a) S 1 2) R 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4242 9 9\n",
    "Name:\tx\\nUid:\t0\nUmask:\t0022\nUid:\t100033\t100034\t100034\t100034\n",
];
const SETTINGS: &[&str] = &[
    r#"{"extends":"member","limits":{"memory":"1G","cpu":1.5},"mounts+":["/srv:/mnt:ro"],
        "publish":["8080:80/tcp"],"oci":{"process":{"selinuxLabel":"a:b:c"}}}"#,
    "/srv:/mnt:ro,idmap",
    "127.0.0.1:8080:80/tcp",
    "c:10:200",
    "1.5G",
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

proptest! {
    #[test]
    fn accounts_of_a_container(bytes in nearly(PASSWD)) {
        bodies::accounts_of_a_container(&bytes);
    }

    #[test]
    fn adoption(bytes in nearly(THREE)) {
        bodies::adoption(&bytes);
    }

    #[test]
    fn words_of_apt(bytes in nearly(APT)) {
        bodies::words_of_apt(&bytes);
    }

    #[test]
    fn documents(bytes in nearly(DOCUMENTS)) {
        bodies::documents(&bytes);
    }

    #[test]
    fn packages(bytes in nearly(DPKG)) {
        bodies::packages(&bytes);
    }

    #[test]
    fn journals_of_events(bytes in nearly(EVENTS)) {
        bodies::journals_of_events(&bytes);
    }

    #[test]
    fn frames_on_a_socket(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        bodies::frames_on_a_socket(&bytes);
    }

    #[test]
    fn manifests(bytes in nearly(MANIFEST)) {
        bodies::manifests(&bytes);
    }

    #[test]
    fn mounts_of_a_process(bytes in nearly(MOUNTS)) {
        bodies::mounts_of_a_process(&bytes);
    }

    #[test]
    fn processes(bytes in nearly(PROCESS)) {
        bodies::processes(&bytes);
    }

    #[test]
    fn profiles(bytes in nearly(SETTINGS)) {
        bodies::profiles(&bytes);
    }

    #[test]
    fn requests_of_a_member(bytes in nearly(ASK)) {
        bodies::requests_of_a_member(&bytes);
    }

    #[test]
    fn what_reaches_a_terminal(bytes in nearly(PASSWD)) {
        bodies::what_reaches_a_terminal(&bytes);
    }
}

/// No body without a target for libFuzzer, and none the other way.
#[test]
fn each_has_its_target() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    let mut named: Vec<&str> = bodies::BODIES.iter().map(|(name, _)| *name).collect();
    for name in &named {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        assert!(dir.join(format!("fuzz_targets/{name}.rs")).exists(), "{name}");
    }
    let count = std::fs::read_dir(dir.join("fuzz_targets")).unwrap().count();
    named.dedup();
    assert_eq!(named.len(), count);
}
