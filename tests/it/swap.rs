//! The swap of `/usr` under programs that are started and files that are opened without pause.

use std::process::Stdio;

use crate::common::{Store, run, until};

/// Starts programs, lists and reads files of `/usr` until it is told to stop; counts rounds, and
/// writes down what failed or was of neither generation.
const LOAD: &str = "while [ ! -e /root/stop ]; do
        x=$(/usr/bin/cat /usr/lib/data 2>&1) || echo \"exec or read: $? $x\" >> /root/failed.$0
        case $x in one|two) ;; *) echo \"read: $x\" >> /root/failed.$0 ;; esac
        read y < /usr/lib/data || echo \"open: $?\" >> /root/failed.$0
        case $y in one|two) ;; *) echo \"read by the shell: $y\" >> /root/failed.$0 ;; esac
        /bin/ls /usr/bin > /dev/null || echo \"ls: $?\" >> /root/failed.$0
        echo >> /root/count.$0
    done";

fn swaps_under_load(word: &str, swaps: usize, how: Option<&str>) {
    let store = Store::mini(word, 2);
    store.ok(&["create", "busy", "--init", "builtin"]);
    for word in ["one", "two"] {
        let script = format!("echo {word} > /usr/lib/data");
        store.ok(&["base", "shell", "mini", "--", "sh", "-c", &script]);
    }
    store.ok(&["start", "busy"]);
    let private = store.state("containers/busy/private/root");
    let read = |name: &str| std::fs::read_to_string(private.join(name)).unwrap_or_default();
    // A line for each round: a number that is written anew is not there for a moment.
    let count = |n: usize| read(&format!("count.{n}")).len();
    let mut load: Vec<_> = (0..2)
        .map(|n| {
            let args = ["exec", "busy", "--user", "root", "--", "sh", "-c", LOAD, &n.to_string()];
            let mut command = store.command(&args);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    until("the load runs", || count(0) > 0 && count(1) > 0);
    let before = count(0) + count(1);
    for n in 0..swaps {
        let to = if n % 2 == 0 { "2" } else { "3" };
        let mut command = store.command(&["adopt", "busy", "--to", to]);
        command.envs(how.map(|how| ("COLOC_SWAP", how)));
        let said = run(command).ok();
        assert!(said.contains(&format!("busy is at generation {to}, live")), "{said}");
    }
    let rounds = count(0) + count(1) - before;
    std::fs::write(private.join("stop"), "").unwrap();
    for child in &mut load {
        child.wait().unwrap();
    }
    let failed = read("failed.0") + &read("failed.1");
    assert_eq!(failed, "", "in {rounds} rounds with {swaps} swaps");
    assert!(rounds >= swaps, "{rounds} rounds for {swaps} swaps are no load");
    let mounts = store.ok(&["exec", "busy", "--", "cat", "/proc/self/mounts"]);
    let usr = mounts.lines().filter(|l| l.split(' ').nth(1) == Some("/usr")).count();
    assert_eq!(usr, 1, "{mounts}");
    assert_eq!(store.json(&["list", "--json"])[0]["state"], "running");
    store.assert_whole();
}

/// On kernels before 6.5, which have no mounting beneath, all swaps are of the other kind.
#[test]
fn no_program_fails_while_usr_is_swapped_beneath() {
    swaps_under_load("beneath", swaps(100), None);
}

#[test]
fn no_program_fails_while_usr_is_swapped_frozen() {
    swaps_under_load("frozen", swaps(30), Some("frozen"));
}

/// A swap that dies between its steps leaves the new mount beneath the old one: the next one ends
/// that first, also where it leads back, and keeps what is mounted in there.
#[test]
fn a_swap_that_was_killed_leaves_nothing_hidden() {
    let store = Store::mini("hidden", 2);
    store.ok(&["create", "c", "--init", "builtin"]);
    store.ok(&["base", "shell", "mini", "--", "sh", "-c", "echo two > /usr/lib/data"]);
    store.ok(&["base", "shell", "mini", "--", "sh", "-c", "echo three > /usr/lib/data"]);
    store.ok(&["start", "c"]);
    let root = |script: &str| {
        let args = ["exec", "c", "--user", "root", "--", "sh", "-c", script];
        store.ok(&args)
    };
    if root("mount -t tmpfs none /usr/sbin && touch /usr/sbin/own && uname -r").starts_with("6.1.")
    {
        return;
    }
    let mounted = |path: &str| {
        let mounts = root("cat /proc/self/mounts");
        mounts.lines().filter(|l| l.split(' ').nth(1) == Some(path)).count()
    };
    for step in ["swap.attached", "swap.carried"] {
        for (to, then, word) in [("2", "3", "three"), ("2", "2", "two"), ("3", "1", "some text")] {
            store.ok(&["adopt", "c", "--to", "1"]);
            let mut command = store.command(&["adopt", "c", "--to", to]);
            command.env("COLOC_KILL_AT", step);
            assert_ne!(run(command).code, 0, "{step} {to}");
            assert_eq!(mounted("/usr"), 2, "{step} {to}");
            store.ok(&["adopt", "c", "--to", then]);
            assert_eq!((mounted("/usr"), mounted("/usr/sbin")), (1, 1), "{step} {to} {then}");
            assert_eq!(root("cat /usr/lib/data; ls /usr/sbin").trim(), format!("{word}\nown"));
        }
    }
    store.assert_whole();
}

/// More of them, when asked for.
fn swaps(default: usize) -> usize {
    std::env::var("COLOC_TEST_SWAPS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
