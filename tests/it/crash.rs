//! A command that is killed at each of its steps leaves a whole thing or nothing.

use crate::common::{Container, Store, debian, run, sh, until};

#[track_caller]
fn kill_at(store: &Store, step: &str, args: &[&str]) {
    let mut command = store.command(args);
    command.env("COLOC_KILL_AT", step);
    let out = run(command);
    assert_eq!(out.code, 137, "{step}: {} {}", out.text(), out.stderr);
}

fn create_killed_at(step: &str, is_made: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    kill_at(&store, step, &["create", "victim", "--init", "builtin"]);
    store.ok(&["list"]);
    store.ok(&["create", "other", "--init", "builtin"]);
    store.assert_whole();
    let there = store.containers().contains(&"victim".to_string());
    assert_eq!(there, is_made, "{step}");
    if !is_made {
        store.ok(&["create", "victim", "--init", "builtin"]);
    }
    store.assert_whole();
    store.ok(&["start", "victim"]);
    store.ok(&["exec", "victim", "--", "true"]);
}

#[test]
fn create_killed_when_the_trees_are_mounted() {
    create_killed_at("create.mounted", false);
}

#[test]
fn create_killed_when_ids_are_claimed() {
    create_killed_at("create.claimed", false);
}

#[test]
fn create_killed_when_the_tree_is_copied() {
    create_killed_at("create.copied", false);
}

#[test]
fn create_killed_when_all_is_built() {
    create_killed_at("create.built", false);
}

#[test]
fn create_killed_when_it_is_in_its_place() {
    create_killed_at("create.placed", true);
}

fn delete_killed_at(step: &str, stays: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    store.ok(&["create", "victim", "--init", "builtin"]);
    kill_at(&store, step, &["delete", "victim", "--yes"]);
    store.ok(&["list"]);
    store.ok(&["create", "other", "--init", "builtin"]);
    store.assert_whole();
    let there = store.containers().contains(&"victim".to_string());
    assert_eq!(there, stays, "{step}");
    if stays {
        store.ok(&["start", "victim"]);
        store.ok(&["delete", "victim", "--force", "--yes"]);
    }
    store.ok(&["create", "victim", "--init", "builtin"]);
    store.assert_whole();
}

#[test]
fn delete_killed_when_it_has_begun() {
    delete_killed_at("delete.begun", true);
}

#[test]
fn delete_killed_when_it_has_left_its_place() {
    delete_killed_at("delete.moved", false);
}

#[test]
fn delete_killed_when_the_tree_is_gone() {
    delete_killed_at("delete.removed", false);
}

#[test]
fn delete_killed_when_the_mount_is_gone() {
    delete_killed_at("delete.unmounted", false);
}

/// Whatever comes next takes the mount away again, and what is there is an ordinary directory.
#[test]
fn the_mount_over_no_container_does_not_stay() {
    let store = Store::mini("no-shield", 4);
    let ends = ["create.mounted", "create.built", "delete.moved", "delete.removed"];
    for step in ends {
        if step.starts_with("delete") {
            store.ok(&["create", "victim", "--init", "builtin"]);
            kill_at(&store, step, &["delete", "victim", "--yes"]);
        } else {
            kill_at(&store, step, &["create", "victim", "--init", "builtin"]);
        }
        assert_eq!(store.shields().len(), 1, "{step}");
        store.fails(3, &["start", "victim"]);
        store.assert_whole();
        assert_eq!(store.names_in("containers"), [""; 0], "{step}");
    }
    std::fs::remove_dir(store.state("containers")).unwrap();
}

/// What earlier versions had in the other staging directory goes all the same, before its ids do.
#[test]
fn what_an_earlier_version_left_is_taken_apart() {
    let store = Store::mini("earlier", 4);
    for (work, verb) in [("create", "create.built"), ("delete", "delete.moved")] {
        if work == "delete" {
            store.ok(&["create", "victim", "--init", "builtin"]);
            kill_at(&store, verb, &["delete", "victim", "--yes"]);
        } else {
            kill_at(&store, verb, &["create", "victim", "--init", "builtin"]);
        }
        let name = format!("{work}.victim");
        let (new, old) = (format!("containers/.staging/{name}"), format!("staging/{name}"));
        crate::common::sh(&format!(
            "mv {} {} && umount {}",
            store.state(&new).display(),
            store.state(&old).display(),
            store.state("containers").display()
        ))
        .ok();
        store.fails(3, &["start", "victim"]);
        assert!(!store.state(&old).exists());
        store.assert_whole();
    }
}

/// Its supervisor, which is a child of it, gives up too, and has nothing of the network's.
#[test]
fn start_killed_when_its_supervisor_is_at_work() {
    let store = debian("start-killed", 2);
    store.ok(&["create", "victim"]);
    for step in ["network.admitted", "network.settled"] {
        kill_at(&store, step, &["start", "victim"]);
        store.ok(&["start", "victim"]);
        store.ok(&["stop", "victim", "--timeout", "0"]);
        store.assert_whole();
    }
}

/// What its supervisor had made by then is on no record.
#[test]
fn start_killed_before_its_state_is_written_leaves_no_cgroup_to_a_delete() {
    let store = debian("start-lost", 2);
    let c = Container::create(&store, "lost", &[]);
    for verb in ["stop", "start", "delete"] {
        let mut command = store.command(&["start", &c.name]);
        command.env("COLOC_KILL_AT", "network.connected");
        assert_ne!(run(command).code, 0);
        let dirs = c.cgroups();
        assert!(!dirs.is_empty(), "nothing was made");
        // Its init, half made, sees that nobody is there any more.
        let procs = format!("cat $(find {} -name cgroup.procs)", dirs.join(" "));
        until("the last process of it is gone", || sh(&procs).text().is_empty());
        match verb {
            "delete" => c.ok("delete", &["--yes"]),
            other => c.ok(other, &[]),
        };
        if verb == "start" {
            c.root(&["true"]).ok();
            c.ok("stop", &["--timeout", "0"]);
        }
        assert_eq!(c.cgroups(), [""; 0], "{verb}");
    }
    store.assert_whole();
}

fn base_killed_at(step: &str, is_made: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    let tree = store.root.join("mini-tree").to_string_lossy().into_owned();
    kill_at(&store, step, &["base", "create", "victim", "--from", &tree]);
    store.ok(&["base", "list"]);
    store.ok(&["create", "other", "--init", "builtin", "--base", "mini"]);
    store.assert_whole();
    let there = store.names_in("bases").contains(&"victim".to_string());
    assert_eq!(there, is_made, "{step}");
    if !is_made {
        store.ok(&["base", "create", "victim", "--from", &tree]);
    }
    store.ok(&["base", "verify", "victim"]);
    store.ok(&["create", "over-it", "--init", "builtin", "--base", "victim"]);
    store.assert_whole();
}

#[test]
fn base_create_killed_when_the_tree_is_built() {
    base_killed_at("base.built", false);
}

#[test]
fn base_create_killed_when_it_is_published() {
    base_killed_at("base.published", false);
}

#[test]
fn base_create_killed_when_it_is_in_its_place() {
    base_killed_at("base.placed", true);
}

fn base_delete_killed_at(step: &str, stays: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    let tree = store.root.join("mini-tree").to_string_lossy().into_owned();
    store.ok(&["base", "create", "victim", "--from", &tree]);
    kill_at(&store, step, &["base", "delete", "victim", "--yes"]);
    store.ok(&["create", "other", "--init", "builtin", "--base", "mini"]);
    store.assert_whole();
    let there = store.names_in("bases").contains(&"victim".to_string());
    assert_eq!(there, stays, "{step}");
    if stays {
        store.ok(&["base", "verify", "victim"]);
        store.ok(&["base", "delete", "victim", "--yes"]);
    }
    store.ok(&["base", "create", "victim", "--from", &tree]);
    store.assert_whole();
}

#[test]
fn base_delete_killed_when_it_has_begun() {
    base_delete_killed_at("base-delete.begun", true);
}

#[test]
fn base_delete_killed_when_it_has_left_its_place() {
    base_delete_killed_at("base-delete.moved", false);
}

/// A store whose base has been at two generations, with a container that runs and one that does
/// not, both at the first.
fn two_generations(word: &str) -> Store {
    let store = Store::mini(word, 4);
    for name in ["runs", "rests"] {
        store.ok(&["create", name, "--init", "builtin"]);
    }
    store.ok(&["start", "runs"]);
    store
}

/// A change by hand that an eye can follow: the same word in /usr and in /etc.
fn change(word: &str) -> Vec<String> {
    let script = format!("echo {word} > /usr/lib/data; echo {word} > /etc/word");
    ["base", "shell", "mini", "--", "sh", "-c", &script].map(String::from).into()
}

/// What an interrupted change may leave is either all of it or nothing, in every container.
#[track_caller]
fn assert_one_state(store: &Store) -> u64 {
    // Any command that changes something finishes or undoes first; what is still at work, such as a
    // helper that has not noticed that its parent died, is left alone.
    let begun = std::time::Instant::now();
    while !{
        let said = store.run(&["set", "rests", "hold=false"]);
        let empty = store.names_in("journal").is_empty();
        assert!(
            empty || begun.elapsed() < std::time::Duration::from_secs(30),
            "{:?} {} is left: {}",
            store.names_in("journal"),
            store.names_in("staging").join(" "),
            said.stderr
        );
        empty
    } {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    store.assert_whole();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // What runs has its sockets on the host.
    let root = store.root.to_string_lossy();
    let sockets = format!("{root}/run/coloc/sockets/");
    let trees = format!(" {root}/var/lib/coloc/containers ");
    let is_left = |l: &&str| l.contains(&*root) && !l.contains(&sockets) && !l.contains(&trees);
    let left: Vec<_> = mounts.lines().filter(is_left).collect();
    assert!(left.is_empty(), "something is mounted: {left:?}");
    let rows = store.json(&["list", "--json"]);
    let current = rows[0]["current_generation"].as_u64().unwrap();
    let dir = store.state("bases/mini/generations");
    let word = std::fs::read_to_string(dir.join(format!("{current}/tree/usr/lib/data"))).unwrap();
    for row in rows.as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        assert_eq!(row["generation"], current, "{row}");
        assert!(!store.state("containers").join(name).join("adopt").exists());
        let own = store.state("containers").join(name).join("private/etc/word");
        let own = std::fs::read_to_string(own).unwrap_or("some text\n".into());
        assert_eq!(own, word, "/etc and /usr of {name} are not of one generation");
        assert_eq!(row["state"], if name == "runs" { "running" } else { "stopped" }, "{row}");
    }
    assert_eq!(store.ok(&["exec", "runs", "--", "cat", "/usr/lib/data"]), word);
    for generation in store.names_in("bases/mini/generations") {
        store.ok(&["base", "verify", "mini", "--generation", &generation]);
    }
    current
}

fn change_killed_at(step: &str, comes: bool) {
    let store = two_generations(&step.replace('.', "-"));
    let args = change("new");
    kill_at(&store, step, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(assert_one_state(&store), if comes { 2 } else { 1 }, "{step}");
    let args = change("newer");
    store.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(assert_one_state(&store), if comes { 3 } else { 2 }, "{step}");
}

#[test]
fn a_change_killed_before_it_is_published_is_undone() {
    for step in ["update.transaction", "update.materialised", "update.built", "update.placed"] {
        change_killed_at(step, false);
    }
}

#[test]
fn a_change_killed_after_it_is_published_is_carried_on() {
    for step in ["update.switched", "update.adopted"] {
        change_killed_at(step, true);
    }
}

#[test]
fn an_adoption_killed_at_any_step_is_carried_on_with_its_update() {
    let steps = ["begun", "staged", "committed", "applied", "swapped", "recorded"];
    for step in steps {
        change_killed_at(&format!("adopt.{step}"), true);
    }
}

#[test]
fn a_rollback_killed_at_any_step_is_undone_or_carried_on() {
    for (step, back) in [("begun", false), ("switched", true)] {
        let store = two_generations(&format!("rollback-{step}"));
        let args = change("new");
        store.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        kill_at(&store, &format!("rollback.{step}"), &["base", "rollback", "mini"]);
        assert_eq!(assert_one_state(&store), if back { 1 } else { 2 }, "{step}");
    }
}

#[test]
fn a_prune_killed_at_any_step_leaves_whole_generations() {
    for step in ["prune.begun", "prune.moved"] {
        let store = two_generations(&step.replace('.', "-"));
        for n in 2..=5 {
            let args = change(&format!("n{n}"));
            store.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        }
        kill_at(&store, step, &["base", "prune", "mini"]);
        assert_eq!(assert_one_state(&store), 5);
        store.ok(&["base", "prune", "mini"]);
        assert_eq!(store.names_in("bases/mini/generations"), ["3", "4", "5"]);
    }
}

/// Changes, rollbacks, adoptions and prunes, killed at a moment of chance, a hundred times.
#[test]
fn changes_killed_at_any_moment_leave_one_state() {
    let store = two_generations("random");
    let args = change("first");
    let begun = std::time::Instant::now();
    store.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = begun.elapsed().as_micros() as u64;
    let mut chance = 0x9e37_79b9_u64;
    for round in 0..100 {
        chance =
            chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = std::time::Duration::from_micros((chance >> 33) % (whole * 6 / 5));
        let args: Vec<String> = match round % 4 {
            0 | 1 => change(&format!("round{round}")),
            2 => ["base", "rollback", "mini"].map(String::from).into(),
            _ => ["base", "prune", "mini"].map(String::from).into(),
        };
        let mut command = store.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdin(std::process::Stdio::null());
        let quiet = || std::process::Stdio::null();
        let mut child = command.stdout(quiet()).stderr(quiet()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_one_state(&store);
    }
}

/// The first limit of the disk walks through the whole tree, in which nothing may move: a Ctrl-C is
/// likely then.
#[test]
fn a_limit_of_the_disk_that_is_killed_leaves_nothing_frozen() {
    let store = Store::mini("walk", 2);
    if sh(&format!("stat -f -c %T {}", store.root.display())).ok().trim() == "btrfs" {
        // There a limit needs no walk.
        return;
    }
    store.ok(&["create", "victim", "--init", "builtin"]);
    store.ok(&["start", "victim"]);
    let state = || store.json(&["status", "victim", "--json"])["state"].clone();
    let killed = || kill_at(&store, "walk.frozen", &["set", "victim", "disk=1G"]);
    killed();
    assert_eq!(state(), "frozen", "who only looks changes nothing");
    store.ok(&["create", "other", "--init", "builtin"]);
    assert_eq!(state(), "running");
    killed();
    store.ok(&["exec", "victim", "--", "true"]);
    killed();
    store.ok(&["start", "victim"]);
    assert_eq!(state(), "running");
    killed();
    store.ok(&["stop", "victim"]);
    store.ok(&["start", "victim"]);

    // One that an admin froze stays so, before the kill or after it.
    store.ok(&["freeze", "victim"]);
    killed();
    store.ok(&["set", "other", "hold=true"]);
    store.fails(125, &["exec", "victim", "--", "true"]);
    assert_eq!(state(), "frozen");
    store.ok(&["thaw", "victim"]);
    killed();
    store.ok(&["freeze", "victim"]);
    store.ok(&["set", "other", "hold=false"]);
    assert_eq!(state(), "frozen");
    assert!(store.ok(&["thaw", "victim"]).contains("thawed"));
    store.ok(&["exec", "victim", "--", "true"]);
    store.assert_whole();
}
