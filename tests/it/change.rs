//! Changes of a base by hand and by apt: what can go wrong, who comes in between, and what
//! people and machines are told.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Container, Store, coloc, debian, kill, run, run_within, sh, until};
use crate::update::old_store;

/// A change that an eye can follow: the same word in /usr and in /etc.
fn change_to(store: &Store, word: &str) -> String {
    let script = format!("echo {word} > /usr/lib/data; echo {word} > /etc/word");
    store.ok(&["base", "shell", "mini", "--", "sh", "-c", &script])
}

#[track_caller]
fn assert_word(store: &Store, name: &str, word: &str) {
    let said = store.ok(&["exec", name, "--", "cat", "/usr/lib/data", "/etc/word"]);
    assert_eq!(said, format!("{word}\n{word}\n"), "{name}");
}

fn row(store: &Store, name: &str) -> Value {
    let rows = store.json(&["list", "--json"]);
    rows.as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone()
}

/// Builtin inits over a tiny base: `runs` runs, `rests` does not.
fn mini(word: &str) -> Store {
    let store = Store::mini(word, 6);
    for name in ["runs", "rests"] {
        store.ok(&["create", name, "--init", "builtin"]);
    }
    store.ok(&["start", "runs"]);
    store
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let store = mini("cannot");
    let said = store.ok(&["base", "shell", "mini", "--", "true"]);
    assert!(said.contains("nothing to do, generation 1 stays"), "{said}");
    let said = store.fails(1, &["base", "shell", "mini", "--", "sh", "-c", "echo x >/x; exit 77"]);
    assert!(said.contains("exit code 77") && said.contains("discarded"), "{said}");
    for (code, args, words) in [
        (1, &["base", "shell", "mini", "--", "no-such-program"][..], "127"),
        (2, &["base", "shell", "mini"], "no terminal"),
        (3, &["base", "shell", "nobase", "--", "true"], "nobase"),
        (3, &["base", "update", "nobase"], "nobase"),
        (6, &["base", "update", "mini"], "no apt-get"),
        (6, &["base", "install", "mini", "hello"], "no apt-get"),
        (2, &["base", "install", "mini"], "PKG"),
        (4, &["base", "rollback", "mini"], "no generation before 1"),
        (3, &["base", "rollback", "mini", "--to", "9"], "no generation 9"),
        (3, &["base", "diff", "mini", "0"], "no generation 0"),
        (3, &["base", "diff", "mini", "1", "9"], "no generation 9"),
        (2, &["base", "diff", "mini", "one"], "one"),
        (3, &["base", "prune", "nobase"], "nobase"),
        (3, &["adopt", "nobody"], "nobody"),
        (3, &["adopt", "runs", "--to", "9"], "no generation 9"),
        (3, &["stale", "nobody"], "nobody"),
        (3, &["conflicts", "nobody"], "nobody"),
        (3, &["conflicts", "runs", "/etc/passwd"], "/etc/passwd"),
        (2, &["set", "runs", "hold=maybe"], "maybe"),
        (3, &["set", "nobody", "hold=true"], "nobody"),
    ] {
        let said = store.run(args).fails(code);
        assert!(said.contains(words) && !said.contains("panicked"), "{args:?}: {said}");
    }
    for bad in ["-y", "--allow-remove-essential", "a=1", "hello;id", "nano-", "n*", "$(id)", "a/b"]
    {
        let said = store.fails(2, &["base", "install", "mini", "--", bad]);
        assert!(said.contains("cannot be the name of a package"), "{said}");
    }
    assert_eq!(store.names_in("bases/mini/generations"), ["1"]);
    store.assert_whole();

    // A link that leads nowhere is named, with what to do, and nothing is made of it.
    change_to(&store, "two");
    let link = store.state("bases/mini/current");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("generations/77", &link).unwrap();
    for args in [
        &["base", "shell", "mini", "--", "true"][..],
        &["base", "show", "mini"],
        &["base", "rollback", "mini", "--to", "1"],
        &["create", "new", "--init", "builtin"],
        &["adopt", "runs"],
    ] {
        let said = store.fails(7, args);
        let mend = format!("ln -sfn generations/2 {}", link.display());
        assert!(said.contains("generations/77") && said.contains(&mend), "{args:?}: {said}");
    }
    store.ok(&["list"]);
    sh(&format!("ln -sfn generations/2 {}", link.display())).ok();
    change_to(&store, "three");
    assert_word(&store, "runs", "three");
    store.assert_whole();
}

#[test]
fn numbers_go_on_and_going_forward_again_loses_nothing() {
    let store = mini("forward");
    store.ok(&["create", "held", "--init", "builtin"]);
    change_to(&store, "two");
    change_to(&store, "three");
    store.ok(&["set", "held", "hold=true"]);
    store.ok(&["base", "rollback", "mini", "--to", "1"]);
    assert_eq!(row(&store, "held")["generation"], 3);

    // Killed on the way to a newer one that is there: it stays, one that somebody is at.
    for (step, at) in [("rollback.begun", 1), ("rollback.switched", 3)] {
        let mut command = store.command(&["base", "rollback", "mini", "--to", "3"]);
        command.env("COLOC_KILL_AT", step);
        assert_eq!(run(command).code, 128 + 9);
        store.ok(&["set", "held", "hold=true"]);
        assert_eq!(store.names_in("bases/mini/generations"), ["1", "2", "3"], "{step}");
        assert_eq!(row(&store, "runs")["generation"], at, "{step}");
        store.assert_whole();
    }
    assert_word(&store, "runs", "three");
    store.ok(&["base", "rollback", "mini"]);
    assert_word(&store, "runs", "two");
    change_to(&store, "four");
    assert_eq!(store.names_in("bases/mini/generations"), ["1", "2", "3", "4"]);
    store.ok(&["base", "rollback", "mini", "--to", "1"]);
    change_to(&store, "five");
    assert_eq!(row(&store, "runs")["generation"], 5);
    let diff = store.ok(&["base", "diff", "mini", "4", "5"]);
    assert_eq!(diff, "~ etc/word\n~ usr/lib/data\n");
    store.assert_whole();
}

/// A change of `mini` that is begun, and waits to be told to go on.
struct Waiting(Child);

impl Waiting {
    fn begin(store: &Store, script: &str) -> Self {
        let script = format!("read x; {script}");
        let mut command = store.command(&["base", "shell", "mini", "--", "sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        until("it is begun", || store.names_in("journal") == ["update.mini.json"]);
        Self(child)
    }

    #[track_caller]
    fn go(mut self) -> String {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let out = self.0.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

#[test]
fn whoever_comes_while_a_base_changes_waits_or_goes_along() {
    let store = mini("meanwhile");
    store.ok(&["create", "goes", "--init", "builtin"]);
    store.ok(&["start", "goes"]);
    store.ok(&["create", "stays", "--init", "builtin"]);
    let change = Waiting::begin(&store, "echo new > /usr/lib/data; echo new > /etc/word");
    for args in [
        &["base", "shell", "mini", "--", "true"][..],
        &["base", "rollback", "mini"],
        &["base", "delete", "mini", "--yes"],
    ] {
        let said = store.fails(4, args);
        assert!(said.contains("mini is ") && !said.contains("damaged"), "{args:?}: {said}");
    }
    store.ok(&["base", "prune", "mini"]);
    store.ok(&["create", "comes", "--init", "builtin"]);
    store.ok(&["start", "comes", "rests"]);
    store.ok(&["delete", "goes", "--force", "--yes"]);
    store.ok(&["set", "stays", "hold=true"]);
    store.ok(&["freeze", "runs"]);
    let said = change.go();
    assert!(said.contains("generation 2 is in 3 containers, 3 of them running"), "{said}");
    assert!(said.contains("stays: held at its generation"), "{said}");
    store.ok(&["thaw", "runs"]);
    for name in ["runs", "rests", "comes"] {
        assert_word(&store, name, "new");
    }
    assert_eq!(row(&store, "stays")["generation"], 1);
    let list = store.ok(&["list"]);
    assert!(list.contains("mini 1 (held; now 2)"), "{list}");
    store.ok(&["set", "stays", "hold=false"]);
    store.ok(&["adopt", "stays"]);
    assert_eq!(row(&store, "stays")["generation"], 2);
    store.assert_whole();
}

/// A Ctrl-C that comes when the change is published already is answered, and all get it.
#[test]
fn a_first_interrupt_of_an_adoption_lets_it_end() {
    use std::os::unix::process::CommandExt;
    let store = mini("interrupt");
    let script = "echo two > /usr/lib/data; echo two > /etc/word";
    let mut command = store.command(&["base", "shell", "mini", "--", "sh", "-c", script]);
    // What is held by another command has to be waited for.
    let lock = std::fs::File::open(store.root.join("run/coloc/locks/container.runs")).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let link = store.state("bases/mini/current");
    until("it is published", || {
        std::fs::read_link(&link).unwrap() == Path::new("generations/2")
            && row(&store, "rests")["generation"] == 2
    });
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    drop(lock);
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("interrupt again"), "{said}");
    assert_word(&store, "runs", "two");
    store.assert_whole();
}

/// A base without containers may be deleted, but not while it is being changed.
#[test]
fn a_base_is_not_deleted_under_its_own_change() {
    let store = Store::mini("delete-under", 2);
    let change = Waiting::begin(&store, "echo > /x");
    let said = store.fails(4, &["base", "delete", "mini", "--yes"]);
    assert!(said.contains("is being changed"), "{said}");
    change.go();
    store.assert_whole();
    store.ok(&["base", "delete", "mini", "--yes"]);
    store.assert_whole();
    assert_eq!(store.names_in("bases"), [""; 0]);
}

#[test]
fn what_a_container_does_to_itself_is_its_own_loss() {
    let store = mini("itself");
    for name in ["bare", "over", "damaged", "behind"] {
        store.ok(&["create", name, "--init", "builtin"]);
    }
    store.ok(&["start", "bare", "over"]);
    let root = |name: &str, words: &[&str]| {
        store.ok(&[&["exec", "--user", "root", name, "--", "/usr/bin/busybox"], words].concat())
    };
    root("bare", &["umount", "-l", "/usr"]);
    root("over", &["mount", "-t", "tmpfs", "x", "/usr"]);
    let record = store.state("containers/damaged/container.json");
    let good = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    store.ok(&["set", "behind", "hold=true"]);

    let script = "echo two > /usr/lib/data; echo two > /etc/word";
    let out = store.run(&["base", "shell", "mini", "--", "sh", "-c", script]);
    assert!(out.stderr.contains("damaged is left as it is"), "{}", out.stderr);
    let said = out.text();
    assert_eq!(out.code, 1, "{said}");
    assert!(said.contains("bare: failed: somebody inside has unmounted its /usr"), "{said}");
    assert!(said.contains("over: failed: somebody inside has mounted something"), "{said}");
    assert_word(&store, "runs", "two");
    store.ok(&["restart", "bare", "over", "--timeout", "0"]);
    store.ok(&["start", "rests"]);
    for name in ["bare", "over", "rests"] {
        assert_word(&store, name, "two");
    }
    // What a damaged record may stand for stays, and mended it is brought along.
    let pruned = store.json(&["base", "prune", "mini", "--json"]);
    assert_eq!(pruned["kept"], serde_json::json!([1, 2]));
    std::fs::write(&record, good).unwrap();
    store.ok(&["adopt", "damaged"]);
    assert_eq!(row(&store, "damaged")["generation"], 2);
    assert_eq!(row(&store, "behind")["generation"], 1);
    store.assert_whole();
}

#[test]
fn a_generation_that_a_process_still_maps_is_kept() {
    let store = mini("maps");
    let mut sleeper = store.command(&["exec", "runs", "--", "sleep", "600"]);
    let mut sleeper =
        sleeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it sleeps", || store.ok(&["exec", "runs", "--", "ps"]).contains("sleep 600"));
    assert_eq!(store.json(&["stale", "--json"]), serde_json::json!([]));
    let script = "busybox cp /usr/bin/busybox /usr/bin/new; echo >> /usr/bin/new; \
                  busybox mv /usr/bin/new /usr/bin/busybox";
    let said = store.ok(&["base", "shell", "mini", "--", "sh", "-c", script]);
    assert!(said.contains("runs: old code still runs in "), "{said}");
    for n in 3..=6 {
        change_to(&store, &format!("n{n}"));
    }
    let stale = store.json(&["stale", "runs", "--json"]);
    let mut mapped: Vec<&Value> = stale.as_array().unwrap().iter().collect();
    mapped.retain(|s| s["command"] == "sleep");
    let keys: Vec<&String> = mapped[0].as_object().unwrap().keys().collect();
    let wanted = ["certainty", "command", "container", "file", "package", "pid", "unit", "user"];
    let mut sorted: Vec<&str> = keys.iter().map(|k| k.as_str()).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted);
    assert_eq!(
        (&mapped[0]["file"], &mapped[0]["certainty"]),
        (&"/usr/bin/busybox".into(), &"exact".into())
    );
    // One number for one process, however many files it maps.
    let pids: std::collections::BTreeSet<i64> =
        stale.as_array().unwrap().iter().map(|s| s["pid"].as_i64().unwrap()).collect();
    assert_eq!(row(&store, "runs")["stale"], pids.len());

    let dry = store.json(&["base", "prune", "mini", "--dry-run", "--json"]);
    assert_eq!(dry["generations"], serde_json::json!([2, 3]), "{dry}");
    assert_eq!(store.names_in("bases/mini/generations").len(), 6);
    let done = store.json(&["base", "prune", "mini", "--json"]);
    assert_eq!((&done["generations"], &done["freed"]), (&dry["generations"], &dry["freed"]));
    assert_eq!(store.names_in("bases/mini/generations"), ["1", "4", "5", "6"]);
    kill(mapped[0]["pid"].as_i64().unwrap());
    sleeper.wait().unwrap();
    store.ok(&["restart", "runs", "--timeout", "0"]);
    store.ok(&["base", "prune", "mini"]);
    assert_eq!(store.names_in("bases/mini/generations"), ["4", "5", "6"]);
    store.assert_whole();
}

#[test]
fn conflicts_are_listed_shown_and_settled() {
    let store = mini("conflicts");
    let write =
        |word: &str| format!("for f in c1 c2 c3 c4; do printf 'a\\n{word}\\nc\\n' > /etc/$f; done");
    store.ok(&["base", "shell", "mini", "--", "sh", "-c", &write("b")]);
    store.ok(&["exec", "--user", "root", "runs", "--", "sh", "-c", &write("MINE")]);
    let dry = store.ok(&["base", "shell", "mini", "--dry-run", "--", "sh", "-c", &write("BASE")]);
    assert!(dry.contains("nothing is changed"), "{dry}");
    assert!(
        dry.contains("runs: your /etc/c1 would stay; the base's is /etc/c1.dpkg-dist"),
        "{dry}"
    );
    assert_eq!(store.json(&["conflicts", "--json"]), serde_json::json!([]));
    let args = ["base", "shell", "mini", "--json", "--", "sh", "-c", &write("BASE")];
    let report = store.json(&args);
    let of = |name: &str| {
        let all = report["containers"].as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap()["conflicts"].as_array().unwrap().len()
    };
    assert_eq!((of("runs"), of("rests")), (4, 0), "{report}");
    assert_eq!(store.json(&["conflicts", "runs", "--json"]).as_array().unwrap().len(), 4);
    let shown = store.ok(&["conflicts", "runs", "/etc/c1"]);
    assert!(shown.contains("\n-MINE\n+BASE\n"), "{shown}");
    let text = |name: &str| store.ok(&["exec", "runs", "--", "cat", &format!("/etc/{name}")]);

    store.ok(&["conflicts", "runs", "/etc/c1", "--take", "base"]);
    assert_eq!(text("c1"), "a\nBASE\nc\n");
    store.ok(&["conflicts", "runs", "etc/c2", "--take", "mine"]);
    assert_eq!(text("c2"), "a\nMINE\nc\n");
    let edit = |editor: &str| {
        let mut command = store.command(&["conflicts", "runs", "/etc/c3", "--take", "edit"]);
        command.env("EDITOR", editor);
        run(command)
    };
    assert!(edit("false").fails(1).contains("nothing is changed"));
    assert!(edit("true").fails(2).contains("marks are left"));
    assert_eq!(text("c3"), "a\nMINE\nc\n");
    let script = store.root.join("editor");
    std::fs::write(&script, "#!/bin/sh\nsed -i -e '/^[<=>]/d' -e s/MINE/both/ \"$1\"\n").unwrap();
    sh(&format!("chmod 755 {}", script.display())).ok();
    edit(&script.to_string_lossy()).ok();
    assert_eq!(text("c3"), "a\nboth\nBASE\nc\n");
    store.fails(3, &["conflicts", "runs", "/etc/c3", "--take", "mine"]);
    // Settled inside by hand: the text that was beside it is gone.
    std::fs::remove_file(store.state("containers/runs/private/etc/c4.dpkg-dist")).unwrap();
    assert_eq!(store.json(&["conflicts", "--json"]), serde_json::json!([]));
    let left = store.ok(&["exec", "runs", "--", "ls", "/etc"]);
    assert!(!left.contains("dpkg-dist"), "{left}");
    store.assert_whole();
}

/// A small file system of its own, to be filled.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Self {
        let image = at.with_extension("img");
        sh(&format!(
            "mkdir {0} && truncate -s 40M {1} && mkfs.ext4 -q -m 0 {1} && mount -o loop {1} {0}",
            at.display(),
            image.display()
        ))
        .ok();
        Self(at.to_path_buf())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let image = self.0.with_extension("img");
        sh(&format!("umount -l {0}; rmdir {0}; rm -f {1}", self.0.display(), image.display()));
    }
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let outer = Store::empty("full");
    let disk = SmallDisk::new(&outer.root.join("disk"));
    let store = Store::at(disk.0.join("store"));
    store.init(4);
    let tree = crate::common::mini_tree(&outer.root);
    store.ok(&["base", "create", "mini", "--from", &tree]);
    for name in ["runs", "rests"] {
        store.ok(&["create", name, "--init", "builtin"]);
    }
    store.ok(&["start", "runs"]);
    change_to(&store, "two");

    // In the transaction.
    let fill = "busybox dd if=/dev/zero of=/usr/lib/big bs=1M count=100";
    let said = store.fails(1, &["base", "shell", "mini", "--", "sh", "-c", fill]);
    assert!(said.contains("No space left") && said.contains("is not changed"), "{said}");
    assert_word(&store, "runs", "two");
    store.assert_whole();

    // In the adoption: there is room for one copy of it, and not for three.
    let free = || -> u64 {
        let said = sh(&format!("df --output=avail {} | tail -n 1", disk.0.display())).ok();
        said.trim().parse().unwrap()
    };
    let script = format!(
        "busybox dd if=/dev/zero of=/etc/big bs=1k count={}; echo three > /etc/word; \
         echo three > /usr/lib/data",
        free() * 6 / 10
    );
    let out = store.run(&["base", "shell", "mini", "--", "sh", "-c", &script]);
    let said = out.text();
    assert_eq!(out.code, 1, "{said}{}", out.stderr);
    assert!(said.contains("failed: ") && said.contains("the disk is full"), "{said}");
    assert_word(&store, "runs", "two");
    assert_eq!(row(&store, "runs")["generation"], 2);
    assert_eq!(row(&store, "runs")["current_generation"], 3);
    store.assert_whole();

    // To the brim: nothing can be begun, everything can be looked at.
    let brim = disk.0.join("brim");
    // What was deleted is free only a moment later.
    let fill =
        "for n in 1 2 3; do sync -f .; dd if=/dev/zero bs=1k >> brim 2>/dev/null; done; true";
    sh(&format!("cd {} && {fill}", disk.0.display())).ok();
    let said = store.fails(1, &["base", "rollback", "mini", "--to", "1"]);
    assert!(said.contains("the disk is full"), "{said}");
    store.ok(&["list"]);
    assert_word(&store, "runs", "two");
    std::fs::remove_file(brim).unwrap();
    store.ok(&["base", "rollback", "mini", "--to", "2"]);
    store.ok(&["base", "verify", "mini", "--generation", "3"]);
    assert_word(&store, "runs", "two");
    store.assert_whole();
    store.ok(&["stop", "--all", "--timeout", "0"]);
    drop(store);
    drop(disk);
}

/// An archive of tiny packages in `/opt/repo` of the base `deb`, and nothing else: no network.
struct Archive<'a> {
    store: &'a Store,
    dir: std::path::PathBuf,
}

impl<'a> Archive<'a> {
    fn new(store: &'a Store) -> Self {
        let dir = store.root.join("repo");
        std::fs::create_dir(&dir).unwrap();
        Self { store, dir }
    }

    /// Builds a package with one file in /usr, and a script that is run when it is set up.
    fn add(&self, name: &str, version: &str, postinst: &str) -> &Self {
        let tree = self.dir.join("tree");
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        std::fs::create_dir_all(tree.join("usr/share").join(name)).unwrap();
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\n\
             Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
        );
        std::fs::write(tree.join("DEBIAN/control"), &control).unwrap();
        std::fs::write(tree.join("DEBIAN/conffiles"), format!("/etc/{name}.conf\n")).unwrap();
        std::fs::write(tree.join("DEBIAN/postinst"), format!("#!/bin/sh\nset -e\n{postinst}\n"))
            .unwrap();
        std::fs::write(tree.join("usr/share").join(name).join("version"), version).unwrap();
        std::fs::write(tree.join(format!("etc/{name}.conf")), format!("of {version}\n")).unwrap();
        let file = format!("{name}_{version}.deb");
        sh(&format!(
            "cd {} && chmod 755 tree/DEBIAN/postinst && dpkg-deb --root-owner-group -b tree {file} \
             && {{ printf '%s' '{control}'; echo 'Filename: ./{file}'; stat -c 'Size: %s' {file}; \
             echo \"SHA256: $(sha256sum {file} | cut -d' ' -f1)\"; echo; }} >> Packages; rm -r tree",
            self.dir.display()
        ))
        .ok();
        self
    }

    /// Puts it into the base.
    #[track_caller]
    fn publish(&self) {
        let tar = run_tar(&self.dir);
        let script = "rm -rf /opt/repo && mkdir -p /opt/repo && tar -x -C /opt/repo && \
                      rm -f /etc/apt/sources.list.d/* && : > /etc/apt/sources.list && \
                      echo 'deb [trusted=yes] file:/opt/repo ./' > /etc/apt/sources.list";
        let command = self.store.command(&["base", "shell", "deb", "--", "sh", "-c", script]);
        run_within(command, &tar, Duration::from_secs(120)).ok();
    }
}

fn run_tar(dir: &Path) -> Vec<u8> {
    let mut command = std::process::Command::new("tar");
    command.arg("-c").arg("-C").arg(dir).arg(".");
    run(command).stdout
}

fn generation(store: &Store) -> u64 {
    let view = store.json(&["base", "show", "deb", "--json"]);
    view["generation"].as_u64().unwrap()
}

#[track_caller]
fn assert_clean(c: &Container<'_>) {
    assert_eq!(c.root(&["dpkg", "--audit"]).ok(), "");
    c.root(&["apt-get", "check"]).ok();
    assert_eq!(c.root(&["systemctl", "is-system-running"]).ok(), "running\n");
}

#[test]
fn packages_come_and_go_or_nothing_changes() {
    let store = old_store("apt", 4);
    let c = Container::started(&store, "apt", &[]);
    let off = Container::create(&store, "off", &[]);
    let archive = Archive::new(&store);
    archive
        .add("one-thing", "1", "")
        .add("broken", "1", "echo it is about to fail; echo x >> /etc/motd; exit 3")
        .add("slow", "1", "touch /usr/share/slow/begun; sleep 119.731")
        .add("roomy", "1", "dd if=/dev/zero of=/var/big bs=1M count=4 && rm /var/big")
        .add("group-maker", "1", "addgroup --system group-maker; chgrp group-maker /usr/share/group-maker/version; chmod 2755 /usr/share/group-maker/version")
        .publish();
    let first = generation(&store);

    // Nothing of what fails is left, and the reason is shown.
    for (code, args, words) in [
        (3, &["install", "deb", "no-such-package"][..], "no package no-such-package"),
        (3, &["remove", "deb", "no-such-package"], "no package no-such-package"),
        (1, &["install", "deb", "one-thing", "broken"], "it is about to fail"),
        (1, &["remove", "deb", "bash"], "Essential packages"),
        (4, &["shell", "deb", "--", "sh", "-c", "dpkg -i /opt/repo/broken*; true"], "broken half"),
        (1, &["shell", "deb", "--", "dpkg", "-i", "/opt/repo/broken_1.deb"], "exit code 1"),
    ] {
        let said = store.fails(code, &[&["base"], args].concat());
        assert!(said.contains(words) && said.contains("is not changed"), "{args:?}: {said}");
        assert_eq!(generation(&store), first, "{args:?}");
    }
    // Ctrl-C in the middle of a maintainer script: to coloc alone, as a terminal sends it to all.
    let mut command = store.command(&["base", "install", "deb", "slow"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // What it writes is nowhere to be seen.
    until("the script runs", || sh("pgrep -x -f 'sleep 119.731'").code == 0);
    sh(&format!("kill -INT {}", child.id())).ok();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(
        sh("pgrep -x -f 'sleep 119.731'").text().is_empty(),
        "a script outlives its transaction"
    );
    store.assert_whole();

    // What there is already, or is not there, is no reason for a generation.
    store.ok(&["base", "install", "deb", "bash"]);
    store.ok(&["base", "remove", "deb", "one-thing"]);
    store.ok(&["base", "update", "deb"]);
    assert_eq!(generation(&store), first);

    // A trial says what would come, and changes nothing.
    let dry = store.ok(&["base", "install", "deb", "one-thing", "--dry-run"]);
    assert!(dry.contains("one-thing 1 (new)") && dry.contains("nothing is changed"), "{dry}");
    assert_eq!(generation(&store), first);
    store.assert_whole();

    // What memory has no room for is done on the disk: known before, or found out.
    for (room, packages) in [("4096", &["one-thing"][..]), ("3000000", &["roomy"])] {
        let mut command =
            store.command(&[&["base", "install", "deb", "--dry-run"], packages].concat());
        command.env("COLOC_ROOM", room);
        let out = crate::common::run(command);
        assert_eq!(out.code, 0, "{}{}", out.text(), out.stderr);
        assert!(out.text().contains(&format!("{} 1 (new)", packages[0])), "{}", out.text());
        let log = std::fs::read_to_string(store.state("bases/deb/update.log")).unwrap();
        assert!(log.contains("needs more room"), "{log}");
    }

    // An id that a container gave away is not the base's.
    let dir = store.state(&format!("bases/deb/generations/{first}/tree/etc/group"));
    let taken: Vec<u32> = std::fs::read_to_string(dir)
        .unwrap()
        .lines()
        .filter_map(|l| l.split(':').nth(2)?.parse().ok())
        .collect();
    let next = (100..).find(|id| !taken.contains(id)).unwrap();
    c.root(&["addgroup", "--system", "--gid", &next.to_string(), "mine"]).ok();
    store.ok(&["base", "install", "deb", "one-thing", "group-maker", "--no-adopt"]);
    let list = store.ok(&["list"]);
    assert_eq!(list.matches(&format!("(now {})", first + 1)).count(), 2, "{list}");
    c.root(&["test", "!", "-e", "/usr/share/one-thing"]).ok();
    // Nothing new, but there are those who stayed behind.
    let said = store.ok(&["base", "update", "deb"]);
    assert!(said.contains("nothing new") && said.contains("in 2 containers"), "{said}");
    assert_eq!(generation(&store), first + 1);
    let shown = "getent group mine group-maker; stat -c '%G %a' /usr/share/group-maker/version";
    let said = c.root_sh(shown).ok();
    assert!(said.contains(&format!("mine:x:{next}:\n")), "{said}");
    assert!(said.ends_with("group-maker 2755\n"), "{said}");
    assert_clean(&c);

    guarded(&archive, &c);
    held_then_adopted(&archive, &c, &off);

    // A mirror that is lost, even if others are there.
    let line = "deb http://mirror.invalid/debian some-suite main";
    let script = format!("echo '{line}' > /etc/apt/sources.list.d/lost.list");
    store.ok(&["base", "shell", "deb", "--", "sh", "-c", &script]);
    let was = generation(&store);
    for args in [&["update", "deb"][..], &["install", "deb", "broken"]] {
        let said = store.fails(1, &[&["base"], args].concat());
        assert!(said.contains("mirror.invalid") && said.contains("is not changed"), "{said}");
    }
    store.ok(&["base", "remove", "deb", "one-thing", "group-maker"]);
    assert_eq!(generation(&store), was + 1);
    c.root(&["test", "!", "-e", "/usr/share/one-thing"]).ok();
    assert_clean(&c);
    drop((c, off));
    store.assert_whole();
}

/// What cannot work on a shared /usr stops before dpkg begins, and says what to do.
fn guarded(archive: &Archive<'_>, c: &Container<'_>) {
    let repo = c.private("opt/repo");
    sh(&format!("cp -r {} {}", archive.dir.display(), repo.display())).ok();
    c.root_sh(
        "rm -f /etc/apt/sources.list.d/*; \
         echo 'deb [trusted=yes] file:/opt/repo ./' > /etc/apt/sources.list; apt-get update",
    )
    .ok();
    let before = c.root_sh("dpkg -l | sha256sum").ok();
    for command in [
        "apt-get install -y broken",
        "apt-get install -y /opt/repo/broken_1.deb",
        "apt install -y slow",
        "apt-get remove -y one-thing",
        "dpkg -i /opt/repo/broken_1.deb",
        "dpkg --unpack /opt/repo/broken_1.deb",
        "dpkg -r one-thing",
        "dpkg --purge one-thing",
    ] {
        let out = c.root_sh(&format!("{command} </dev/null 2>&1; test $? -ne 0"));
        let said = out.text();
        assert_eq!(out.code, 0, "{command}: {said}");
        let told = said.lines().find(|l| l.contains("coloc: packages cannot be changed in here"));
        let told = told.unwrap_or_else(|| panic!("{command}: {said}"));
        assert!(told.contains("coloc base install") && told.contains("/usr/local"), "{told}");
        assert!(!said.contains("Unpacking"), "{said}");
    }
    assert_eq!(c.root_sh("dpkg -l | sha256sum").ok(), before);
    assert_clean(c);
}

/// A new version: not where it is held, then by hand; and a conffile that its member changed.
fn held_then_adopted(archive: &Archive<'_>, c: &Container<'_>, off: &Container<'_>) {
    let store = archive.store;
    c.root_sh("echo mine > /etc/one-thing.conf").ok();
    // A service that maps nothing of its package, as of a shell script.
    let unit = "[Service]\\nExecStart=/usr/bin/sleep infinity\\n";
    c.root_sh(&format!("printf '{unit}' > /etc/systemd/system/asked.service")).ok();
    c.root_sh("systemctl daemon-reload && systemctl start asked.service").ok();
    archive.add("one-thing", "2", "/usr/sbin/policy-rc.d asked.service restart || :").publish();
    store.ok(&["set", &off.name, "hold=true"]);
    let dry = store.ok(&["base", "update", "deb", "--dry-run"]);
    assert!(dry.contains("one-thing 1 → 2"), "{dry}");
    assert!(dry.contains(&format!("{}: your /etc/one-thing.conf would stay", c.name)), "{dry}");
    assert!(dry.contains(&format!("{}: held at its generation", off.name)), "{dry}");
    let report = store.json(&["base", "update", "deb", "--json"]);
    let mut keys: Vec<&String> = report["containers"][0].as_object().unwrap().keys().collect();
    keys.retain(|k| {
        ["name", "adopted", "swapped", "conflicts", "stale", "restarted", "error"]
            .contains(&k.as_str())
    });
    assert_eq!(keys.len(), 7, "{report}");
    let of = |name: &str| {
        let all = report["containers"].as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap().clone()
    };
    assert_eq!((&of(&c.name)["adopted"], &of(&c.name)["swapped"]), (&true.into(), &true.into()));
    assert_eq!(of(&c.name)["conflicts"][0]["path"], "etc/one-thing.conf", "{report}");
    assert_eq!((&of(&off.name)["adopted"], &of(&off.name)["held"]), (&false.into(), &true.into()));
    assert_eq!(report["packages"][0]["new"], "2", "{report}");
    assert_eq!(c.root_sh("cat /etc/one-thing.conf /usr/share/one-thing/version").ok(), "mine\n2");
    let asked = |list: &serde_json::Value| -> Vec<String> {
        let rows = list.as_array().unwrap().iter().filter(|row| row["unit"] == "asked.service");
        rows.map(|row| row["certainty"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(asked(&of(&c.name)["stale"]), ["maybe"], "{report}");
    store.ok(&["stale", &c.name, "--restart"]);
    assert_eq!(asked(&store.json(&["stale", &c.name, "--json"])), [""; 0]);
    let status = store.json(&["status", &off.name, "--json"]);
    assert_eq!((&status["hold"], &status["fixes_missing"]), (&true.into(), &0.into()), "{status}");
    store.ok(&["adopt", &off.name]);
    store.ok(&["set", &off.name, "hold=false"]);
    let conf = std::fs::read_to_string(off.private("etc/one-thing.conf")).unwrap();
    assert_eq!(conf, "of 2\n");
    assert_clean(c);
}

/// A systemd that starts empties /tmp under the tools that an adoption left to be run.
#[test]
fn what_an_update_left_for_a_start_waits_for_it_and_is_kept_while_it_fails() {
    let store = debian("pending", 2);
    let c = Container::started(&store, "certs", &[]);
    let tool = "#!/bin/sh\nsystemctl is-system-running >> /root/ran\ntest -e /root/again\n";
    c.root_sh(&format!(
        "cp $(ls /usr/share/ca-certificates/mozilla/*.crt | head -1) \
            /usr/local/share/ca-certificates/own.crt
         printf '{tool}' > /usr/local/sbin/update-ca-certificates
         chmod 755 /usr/local/sbin/update-ca-certificates",
    ))
    .ok();
    let pending = store.state(&format!("containers/{}/pending.json", c.name));
    let ran = || std::fs::read_to_string(c.private("root/ran")).unwrap_or_default();

    c.ok("stop", &[]);
    let fewer = "rm $(ls /usr/share/ca-certificates/mozilla/*.crt | tail -1); \
                 update-ca-certificates";
    store.ok(&["base", "shell", "debian", "--", "sh", "-c", fewer]);
    assert!(pending.exists() && ran().is_empty());
    c.ok("start", &[]);
    assert!(["running\n", "degraded\n"].contains(&ran().as_str()), "{}", ran());
    assert!(pending.exists(), "what failed is forgotten");

    c.root_sh("touch /root/again").ok();
    c.ok("restart", &[]);
    assert_eq!(ran().lines().count(), 2, "{}", ran());
    assert!(!pending.exists());
}

/// No command waits for that one.
#[test]
fn what_an_update_left_is_run_where_systemd_starts_a_container() {
    if std::path::Path::new("/run/systemd/system").exists() {
        // There it would want its unit, which is of the host's own store.
        return;
    }
    let store = Store::mini("left", 1);
    let c = Container::started(&store, "left", &["--init", "builtin"]);
    let tool = "/usr/local/sbin/ldconfig";
    let put = r"mkdir -p /usr/local/sbin; printf '#!/bin/sh\necho ran >> /root/ran\n'";
    c.root_sh(&format!("{put} > {tool} && chmod 755 {tool}")).ok();
    c.ok("stop", &[]);
    let pending = store.state(&format!("containers/{}/pending.json", c.name));
    std::fs::write(&pending, "[\"ldconfig\"]").unwrap();

    let log = store.root.join("supervise.log").display().to_string();
    let (coloc, root) = (coloc().display().to_string(), store.root.display());
    let supervise =
        format!("NOTIFY_SOCKET=/nowhere exec {coloc} --root {root} supervise {}", c.name);
    sh(&format!("({supervise}) </dev/null >{log} 2>&1 &")).ok();
    until("it is run", || !pending.exists());
    assert_eq!(std::fs::read_to_string(c.private("root/ran")).unwrap(), "ran\n");
    // Who ran it has ended, and is nobody's to wait for.
    let pid = store.json(&["status", &c.name, "--json"])["supervisor_pid"].as_i64().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
}
