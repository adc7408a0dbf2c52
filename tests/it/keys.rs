//! Every key of coloc-profile(5): what it says is what the kernel, or a program inside, has; and what
//! it cannot say is refused before anything changes. The table below is checked against the
//! program's own, so that no key is without a line here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coloc::profile::keys::{KEYS, Key, When};
use serde_json::{Value, json};

use crate::common::{Container, Store, store};

/// How the effect of a value is seen.
enum Seen {
    /// What a script prints that root inside runs.
    Inside(&'static str, &'static str),
    /// What is in a file of the container's cgroups, by v2's name or by v1's.
    Cgroup { v2: (&'static str, &'static str), v1: (&'static str, &'static str) },
    /// By tests of their own, as it takes more than one container that runs: file and name.
    By(&'static [(&'static str, &'static str)]),
}
use Seen::{By, Cgroup, Inside};

struct Line {
    key: &'static str,
    value: &'static str,
    /// What else is said with it.
    beside: &'static [&'static str],
    seen: Seen,
    /// What it cannot be.
    bad: &'static [&'static str],
    /// What it could be if the host had such a thing.
    absent: &'static [&'static str],
}

const fn line(
    key: &'static str,
    value: &'static str,
    seen: Seen,
    bad: &'static [&'static str],
) -> Line {
    Line { key, value, beside: &[], seen, bad, absent: &[] }
}

const fn absent(what: &'static [&'static str], line: Line) -> Line {
    Line { absent: what, ..line }
}

const fn cgroup(v2: &'static str, text: &'static str, v1: &'static str, old: &'static str) -> Seen {
    Cgroup { v2: (v2, text), v1: (v1, old) }
}

/// What the v1 controllers of a hybrid host cannot do, and why; such a host has to say so.
/// scripts/guest-test runs these tests on hosts that have nothing but v2, where all has to be there.
const V2_ALONE: [(&str, &str); 2] = [
    ("limits.memory.high", "v1 has no limit from which on memory is slowed down"),
    ("limits.io.weight", "v1 has a weight only where BFQ is in the kernel"),
];

/// The errno of a system call of x86_64 with senseless arguments: EPERM where the filter stops it.
const URING: &str = "perl -e 'syscall(425, 1, 0); print $!+0'";
/// Its first flag is what those may have it by who have no power over the host.
const USERFAULTFD: &str = "perl -e 'syscall(323, 1 | 1 << 20); print $!+0'";

const FLAG: &[&str] = &["yes", "1", ""];
const SIZE: &[&str] = &["1GB", "-1", "much", "", "1.5"];
const BYTES: &[&str] =
    &["/dev/null:1M", "/dev/no-such-disk:1M", "1M", "4095:77:5", "DISK:0", "DISK:-1"];
const OPERATIONS: &[&str] =
    &["/dev/null:10", "/dev/no-such-disk:10", "10", "4095:77:5", "DISK:0", "DISK:1M"];

/// In a file for each of the four, or a line for all of them.
const RATES: Seen = By(&[("keys", "rates_of_a_disk_are_the_kernels")]);

/// What the kernel has of its own for a container, all of it in one start.
const KERNEL: Seen =
    By(&[("limits", "what_the_kernel_has_of_its_own_is_limited_shown_and_changed")]);

const LINES: &[Line] = &[
    line("description", "", By(&[("keys", "what_is_in_profiles_alone")]), &["x"]),
    line("extends", "", By(&[("keys", "what_is_in_profiles_alone")]), &["room"]),
    line("init", "auto", Inside("cat /proc/1/comm", "systemd"), &["systemd", ""]),
    line(
        "id_ranges",
        "",
        By(&[("profile", "nest_has_ids_for_containers_and_users_containers")]),
        &["0", "65", "2", "x"],
    ),
    absent(
        &["bridge=nowhere", "macvlan=nowhere"],
        line(
            "network.mode",
            "",
            By(&[
                ("profile", "a_network_of_none_is_a_loopback"),
                ("network", "a_bridge_of_the_admins_and_no_network_at_all"),
                ("network", "a_device_beside_the_hosts_is_on_the_cable_and_not_on_the_host"),
            ]),
            &["moon", "bridge=a/b", "macvlan=", "bridge=lo", ""],
        ),
    ),
    line(
        "network.neighbours",
        "",
        By(&[("network", "neighbours_reach_each_other_only_if_both_are_to")]),
        FLAG,
    ),
    line(
        "network.publish",
        "",
        By(&[("network", "published_ports_are_reached_from_everywhere_and_nothing_else_is")]),
        &["80", "0:80", "80:65536", "80:80/sctp", "a:80:80"],
    ),
    line(
        "limits.memory",
        "64M",
        cgroup("memory.max", "67108864", "memory.limit_in_bytes", "67108864"),
        SIZE,
    ),
    line("limits.memory.high", "48M", cgroup("memory.high", "50331648", "", ""), SIZE),
    Line {
        // v1 counts swap with memory, and only where that has a limit.
        beside: &["limits.memory=32M"],
        ..line(
            "limits.swap",
            "16M",
            cgroup("memory.swap.max", "16777216", "memory.memsw.limit_in_bytes", "50331648"),
            SIZE,
        )
    },
    line(
        "limits.cpu",
        "50%",
        cgroup("cpu.max", "50000 100000", "cpu.cfs_quota_us", "50000"),
        &["0", "9000", "1,5", "-1"],
    ),
    line(
        "limits.cpu.weight",
        "300",
        cgroup("../cpu.weight", "300", "cpu.shares", "3072"),
        &["0", "10001", "x"],
    ),
    line(
        "limits.cpus",
        "0",
        Inside("grep -o 'Cpus_allowed_list.*' /proc/self/status | cut -f2", "0"),
        &["3-1", "a", "9000"],
    ),
    line("limits.pids", "40", cgroup("pids.max", "40", "pids.max", "40"), &["0", "-1", "many"]),
    line(
        "limits.io.weight",
        "300",
        cgroup("../io.weight", "default 300", "blkio.bfq.weight", "118"),
        &["0", "10001", "x"],
    ),
    line("limits.io.rbps", "DISK:1M", RATES, BYTES),
    line("limits.io.wbps", "DISK:2M", RATES, BYTES),
    line("limits.io.riops", "DISK:500", RATES, OPERATIONS),
    line("limits.io.wiops", "DISK:600", RATES, OPERATIONS),
    line(
        "limits.disk",
        "",
        By(&[
            ("limits", "a_disk_is_limited_or_it_is_said_why_not"),
            ("limits", "a_disk_of_btrfs_is_limited_by_subvolume"),
        ]),
        SIZE,
    ),
    line("limits.nofile", "4096", Inside("ulimit -Hn", "4096"), &["1", "max", "-1"]),
    line(
        "limits.inotify.instances",
        "77",
        Inside("cat /proc/sys/user/max_inotify_instances", "77"),
        &["0", "max", "-1"],
    ),
    line(
        "limits.inotify.watches",
        "7777",
        Inside("cat /proc/sys/user/max_inotify_watches", "7777"),
        &["0", "max", "-1"],
    ),
    line("limits.namespaces", "", KERNEL, &["1", "max", "-1", "x"]),
    line("limits.terminals", "", KERNEL, &["0", "max", "-1", "x"]),
    line("limits.memlock", "", KERNEL, SIZE),
    line("limits.sigpending", "", KERNEL, &["1", "max", "-1", "x"]),
    line("limits.msgqueue", "", KERNEL, SIZE),
    line(
        "mounts",
        "STORE/shared:/mnt/a:ro,noexec",
        Inside(
            "cat /mnt/a/file; grep -c ' /mnt/a [a-z0-9]* ro,nosuid,nodev,noexec,' /proc/self/mounts",
            "text\n1",
        ),
        &["/srv", "/srv:/usr", "/proc:/mnt", "/no-such:/mnt", "/srv:/mnt:suid", "srv:/mnt"],
    ),
    line(
        "devices",
        "/dev/fuse",
        Inside("stat -c %t:%T /dev/fuse", "a:e5"),
        &["/dev/mem", "b:8:0", "c:10:130", "/dev/no-such", "/etc/passwd"],
    ),
    line("autostart", "", By(&[("profile", "what_starts_at_boot_is_one_word")]), FLAG),
    // EFAULT and EINVAL are the kernel's answers.
    line("allow.io_uring", "true", Inside(URING, "14"), FLAG),
    line("allow.userfaultfd", "true", Inside(USERFAULTFD, "22"), FLAG),
    line("allow.socketcall", "", By(&[("filter", "a_profile_can_allow_socketcall")]), FLAG),
    line(
        "allow.nesting",
        "true",
        Inside(
            "ls -d /run/host/proc/1 && unshare -Urmpf --mount-proc true && echo made",
            "/run/host/proc/1\nmade",
        ),
        FLAG,
    ),
    line(
        "allow.user_namespaces",
        "false",
        Inside("unshare -U true 2>/dev/null || echo none", "none"),
        FLAG,
    ),
    line(
        "oci",
        r#"{"linux":{"resources":{"pids":{"limit":33}}}}"#,
        cgroup("pids.max", "33", "pids.max", "33"),
        &[
            "{",
            r#"{"linux":{"sysctl":{}}}"#,
            r#"{"hooks":{"poststop":[{"path":"/bin/true"}]}}"#,
            r#"{"process":{"capabilities":{"bounding":["CAP_MOON"]}}}"#,
        ],
    ),
    line(
        "hold",
        "",
        By(&[("change", "numbers_go_on_and_going_forward_again_loses_nothing")]),
        FLAG,
    ),
    absent(
        &["no-such-user", "@no-such-group"],
        line(
            "owners",
            "",
            By(&[("member", "a_group_owns_and_its_members_get_an_account_when_they_come")]),
            &["a:b", "-x"],
        ),
    ),
    line(
        "home",
        "",
        By(&[("home", "the_owner_is_one_person_and_nobody_else_is_anybody")]),
        &["yes", ""],
    ),
    absent(
        &["no-such-profile"],
        line("profile", "keys", cgroup("pids.max", "44", "pids.max", "44"), &["A/b", ""]),
    ),
];

fn key_of(line: &Line) -> &'static Key {
    let key = KEYS.iter().find(|k| k.name == line.key);
    key.unwrap_or_else(|| panic!("there is no key {}", line.key))
}

/// The disk that the tests' stores are on, as settings and cgroups name it.
fn disk() -> String {
    let device = std::fs::metadata("/var/tmp").unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let place = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"));
    let Ok(place) = place else { return format!("{major}:{minor}") };
    // Rates are of whole disks; a partition's directory lies in its disk's.
    let whole = if place.join("partition").exists() { place.parent().unwrap() } else { &place };
    std::fs::read_to_string(whole.join("dev")).unwrap().trim().to_string()
}

fn fill(text: &str) -> String {
    text.replace("DISK", &disk()).replace("STORE", &store().root.display().to_string())
}

/// The content of a file of the container's cgroups and what it should be, v2 first; None if this
/// host has no such file.
fn in_cgroup(c: &Container<'_>, seen: &Seen) -> Option<(String, String)> {
    let Cgroup { v2, v1 } = seen else { return None };
    let payload = PathBuf::from(c.status()["cgroup"].as_str().unwrap()).join(v2.0);
    let old = c.cgroups().into_iter().map(|d| Path::new(&d).join(v1.0));
    let (path, want) = std::iter::once((payload, v2.1))
        .chain(old.map(|path| (path, v1.1)))
        .find(|(path, _)| path.is_file())?;
    Some((std::fs::read_to_string(path).unwrap().trim().to_string(), fill(want)))
}

fn record(c: &Container<'_>) -> Vec<u8> {
    let path = format!("containers/{}/container.json", c.name);
    std::fs::read(store().state(&path)).unwrap()
}

#[test]
fn every_key_has_a_line() {
    for key in KEYS {
        let line = LINES.iter().find(|l| l.key == key.name);
        let line = line.unwrap_or_else(|| panic!("no line in this table for {}", key.name));
        assert!(!line.bad.is_empty(), "{} can be everything", key.name);
        let By(tests) = line.seen else { continue };
        for (file, test) in tests {
            let path = format!("{}/tests/it/{file}.rs", env!("CARGO_MANIFEST_DIR"));
            let Ok(text) = std::fs::read_to_string(path) else { return };
            assert!(text.contains(&format!("fn {test}(")), "{}: no test {file}::{test}", key.name);
        }
    }
    assert_eq!(LINES.len(), KEYS.len(), "a line for a key that there is not");
}

#[test]
fn every_bad_value_is_refused_before_anything_changes() {
    let c = Container::started(store(), "keys-bad", &["--profile", "room", "--network", "none"]);
    let pids = || in_cgroup(&c, &cgroup("pids.max", "", "pids.max", ""));
    let (before, kernel) = (record(&c), pids());
    for line in LINES {
        let bad = line.bad.iter().map(|bad| (2, bad));
        for (code, bad) in bad.chain(line.absent.iter().map(|bad| (3, bad))) {
            let change = format!("{}={}", line.key, fill(bad));
            // Something that could be is beside it, and does not happen either.
            let said = store().fails(code, &["set", &c.name, "limits.pids=99", &change]);
            assert!(said.starts_with("coloc: ") && said.contains(line.key), "{change}: {said}");
            assert!(said.contains("\nhint: "), "{change}: {said}");
            assert_eq!(record(&c), before, "{change}");
        }
    }
    assert_eq!(pids(), kernel);
}

#[test]
fn every_bad_value_in_a_profile_is_told_with_its_line() {
    let dir = Store::empty("keysbad");
    let file = dir.root.join("bad.json");
    for line in LINES {
        let key = key_of(line);
        // What only a host can tell is not wrong in a document.
        for bad in line.bad.iter().map(|b| fill(b)).filter(|b| key.kind.parse(b).is_err()) {
            let value = match key.kind {
                coloc::profile::value::Kind::List(_) => json!([bad]),
                _ => json!(bad),
            };
            std::fs::write(&file, format!("{{\n\n\"{}\": {value}}}", line.key)).unwrap();
            let said = dir.fails(2, &["profile", "check", file.to_str().unwrap()]);
            let place = format!("{}:3", file.display());
            assert!(said.contains(&place) && said.contains(line.key), "{value}: {said}");
            assert!(said.contains("\nhint: "), "{value}: {said}");
        }
    }
}

/// The host cannot do what `line` says, and has to have a reason, and to say so.
fn assert_refused(c: &Container<'_>, line: &Line, change: &str) {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok();
    let known = !v2 && V2_ALONE.iter().any(|(key, _)| *key == line.key);
    assert!(known, "no file for {change}");
    let before = record(c);
    let said = c.run("set", &[change]).fails(6);
    assert!(said.contains("this host cannot limit"), "{change}: {said}");
    assert_eq!(record(c), before, "{change}");
}

fn check_effect(c: &Container<'_>, line: &Line) {
    let key = key_of(line);
    let change = format!("{}={}", line.key, fill(line.value));
    let look = || match line.seen {
        Inside(script, want) => Some((c.root_sh(script).text().trim().to_string(), want.into())),
        _ => in_cgroup(c, &line.seen),
    };
    let Some((text, want)) = look() else { return assert_refused(c, line, &change) };
    assert!(text.lines().all(|l| l != want), "{change} is so without being said: {text}");
    let said = c.ok("set", &[line.beside, &[&change]].concat());
    let waits = said.contains("at the next start");
    assert_eq!(waits, key.when == When::Start, "{change}: {said}");
    if waits {
        c.ok("restart", &["--timeout", "2"]);
    }
    let (text, want) = look().unwrap();
    assert!(text == want || text.lines().any(|l| l == want), "{change}: {text}, not {want}");
    c.ok("unset", &[line.key]);
    if waits {
        c.ok("restart", &["--timeout", "2"]);
    }
    let (text, want) = look().unwrap();
    assert!(text != want && text.lines().all(|l| l != want), "{change} stays: {text}");
}

#[test]
fn every_key_does_what_it_says() {
    let dir = store().root.join("shared");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "text\n").unwrap();
    let profile = store().root.join("etc/coloc/profiles/keys.json");
    std::fs::write(profile, r#"{"extends": "room", "limits.pids": 44}"#).unwrap();
    let args = ["--profile", "room", "--network", "none"];
    for line in LINES.iter().filter(|l| !matches!(l.seen, By(..))) {
        // Each in one that nothing else was done to.
        let c = Container::started(store(), "each-key", &args);
        check_effect(&c, line);
    }
}

/// `resources` is in the table, hooks have tests of their own in profile.rs, and SELinux labels need
/// a host with SELinux.
#[test]
fn each_part_of_oci_counts() {
    let args = ["--profile", "room", "--network", "none"];
    let c = Container::started(store(), "keys-oci", &args);
    let fragment = json!({
        "process": { "capabilities": { "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"] } },
        "linux": {
            "seccomp": { "syscalls": [
                { "names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }
            ] },
            "devices": [{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 }],
        },
        "mounts": [{
            "destination": "/mnt/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]
        }],
        "annotations": { "org.example.word": "moon" },
    });
    let looks = [
        ("grep CapBnd /proc/1/status", "CapBnd:\t0000000000200021"),
        ("perl -e 'chroot(q(/)); print $!+0'", "77"),
        ("stat -c %t:%T /dev/fuse", "a:e5"),
        ("grep -c ' /mnt/small tmpfs .*size=1024k' /proc/self/mounts", "1"),
    ];
    for (script, want) in looks {
        assert_ne!(c.root_sh(script).text().trim(), want, "{script}");
    }
    c.ok("set", &[&format!("oci={fragment}")]);
    c.ok("restart", &["--timeout", "2"]);
    for (script, want) in looks {
        assert_eq!(c.root_sh(script).text().trim(), want, "{script}");
    }
    let spec = store().json(&["spec", &c.name]);
    assert_eq!(spec["annotations"]["org.example.word"], "moon");
    let state = store().state(&format!("containers/{}/config.json", c.name));
    assert!(std::fs::read_to_string(state).unwrap().contains("org.example.word"));
}

#[test]
fn rates_of_a_disk_are_the_kernels() {
    let args = ["--profile", "room", "--network", "none"];
    let c = Container::started(store(), "keys-rates", &args);
    let file = |n: usize| {
        let old = ["read_bps", "write_bps", "read_iops", "write_iops"][n];
        let words = [old, "_device"].concat();
        let v1 = c.cgroups().into_iter().map(|d| format!("{d}/blkio.throttle.{words}"));
        let v2 = format!("{}/io.max", c.status()["cgroup"].as_str().unwrap());
        let found = std::iter::once(v2).chain(v1).find_map(|f| std::fs::read_to_string(f).ok());
        found.expect("a host that can limit rates of disks").trim().to_string()
    };
    let all = [("rbps", "1M"), ("wbps", "2M"), ("riops", "500"), ("wiops", "600")];
    for (n, (word, value)) in all.into_iter().enumerate() {
        assert_eq!(file(n), "", "{word}");
        let said = c.ok("set", &[&format!("limits.io.{word}={}:{value}", disk())]);
        assert!(!said.contains("at the next start"), "{said}");
        let exact = value.replace('M', "").parse::<u64>().unwrap();
        let exact = if value.ends_with('M') { exact << 20 } else { exact };
        let text = file(n);
        let (old, new) = (format!("{} {exact}", disk()), format!("{word}={exact}"));
        let of_disk = text.starts_with(&format!("{} ", disk()));
        assert!(text == old || of_disk && text.contains(&new), "{word}: {text}");
        assert!(text == old || text.matches("=max").count() == 3, "{word}: {text}");
        c.ok("unset", &[&format!("limits.io.{word}")]);
        assert_eq!(file(n), "", "{word}");
    }
}

#[test]
fn what_is_in_profiles_alone() {
    let store = Store::mini("keysprofile", 2);
    let dir = store.root.join("etc/coloc/profiles");
    let text = |d: &str, e: &str| format!("{{\"description\": {d}, \"extends\": {e}}}");
    let file = dir.join("mine.json");
    std::fs::write(&file, text("\"a word of mine\"", "\"room\"")).unwrap();
    let list = store.json(&["profile", "list", "--json"]);
    let row = list.as_array().unwrap().iter().find(|r| r["name"] == "mine").unwrap();
    assert_eq!(row["description"], "a word of mine");
    store.ok(&["create", "c", "--profile", "mine"]);
    let all = store.json(&["show", "c", "--json"]);
    let init = all.as_array().unwrap().iter().find(|s| s["key"] == "init").unwrap();
    assert_eq!(init["value"], Value::from("builtin"));
    for (code, d, e) in [
        (2, "\"two\\nlines\"", "\"room\""),
        (2, "5", "\"room\""),
        (2, "\"x\"", "\"A/b\""),
        (3, "\"x\"", "\"no-such\""),
        (2, "\"x\"", "5"),
    ] {
        std::fs::write(&file, text(d, e)).unwrap();
        let said = store.fails(code, &["profile", "check", file.to_str().unwrap()]);
        assert!(said.contains("hint: "), "{d} {e}: {said}");
    }
}
