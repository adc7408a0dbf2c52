//! Setting up, bases, creating and deleting; bad input.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use crate::common::{Container, Store, debian, host_user, mini_tree, run, sh, store, suite};

fn mode(path: impl AsRef<std::path::Path>) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn init_again_has_nothing_to_do() {
    let store = Store::new("init", 2);
    let before = std::fs::read_to_string("/etc/subuid").unwrap();
    assert_eq!(store.ok(&["init"]), "this host is set up for coloc already\n");
    let claim = store.claim();
    assert_eq!(before.lines().filter(|l| **l == claim).count(), 1);
}

#[test]
fn init_makes_directories_with_their_modes() {
    let store = Store::new("modes", 2);
    for (path, want) in [
        ("var/lib/coloc", 0o700),
        ("var/lib/coloc/bases", 0o700),
        ("var/lib/coloc/containers", 0o700),
        ("var/lib/coloc/ids", 0o700),
        ("var/lib/coloc/journal", 0o700),
        ("var/lib/coloc/staging", 0o700),
        ("etc/coloc", 0o755),
        ("run/coloc", 0o755),
        ("run/coloc/locks", 0o700),
        ("run/coloc/containers", 0o700),
    ] {
        assert_eq!(mode(store.root.join(path)), want, "{path}");
    }
}

#[test]
fn the_id_pool_is_in_subuid_and_subgid_and_overlaps_nothing() {
    let store = Store::new("pool", 3);
    let claim = store.claim();
    let range = |line: &str| {
        let mut fields = line.split(':').skip(1).filter_map(|f| f.parse::<u64>().ok());
        fields.next().zip(fields.next()).map(|(start, count)| (start, start + count))
    };
    let own = range(&claim).unwrap();
    assert_eq!(own.1 - own.0, 3 * 65536);
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.lines().any(|l| l == claim), "{file}: {text}");
        for line in text.lines().filter(|l| *l != claim) {
            let other = range(line).unwrap();
            assert!(other.1 <= own.0 || own.1 <= other.0, "{file}: {line} and {claim}");
        }
    }
}

#[test]
fn a_state_directory_of_another_user_is_refused() {
    let store = Store::new("owned", 2);
    chown(store.state(""), Some(12345), None).unwrap();
    for args in [&["list"][..], &["create", "x"], &["init"], &["base", "list"]] {
        let said = store.run(args);
        assert_ne!(said.code, 0, "{args:?}");
        assert!(said.stderr.contains("var/lib/coloc"), "{}", said.stderr);
    }
    chown(store.state(""), Some(0), None).unwrap();
    store.ok(&["list"]);
}

#[test]
fn a_config_of_another_user_is_refused() {
    let store = Store::new("config-owned", 2);
    let config = store.root.join("etc/coloc/coloc.json");
    chown(&config, Some(12345), None).unwrap();
    for args in [&["list"][..], &["create", "x"], &["init"]] {
        let said = store.fails(4, args);
        assert!(said.contains("coloc.json belongs to uid 12345"), "{said}");
    }
    chown(&config, Some(0), None).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o666)).unwrap();
    assert!(store.fails(4, &["list"]).contains("(mode 0666)"));
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    store.ok(&["list"]);
}

/// As a pool does, one that grows ends before the ids that systemd has for other things.
#[test]
fn a_pool_does_not_grow_into_others_ids() {
    let store = Store::new("grows", 2);
    let before = store.claim();
    let start: u32 = before.split(':').nth(1).unwrap().parse().unwrap();
    let room = (2_147_352_576 - start) / 65536;
    if start >= 0x7000_0000 && room < 4000 {
        let said = store.fails(4, &["init", "--containers", &(room + 1).to_string()]);
        assert!(said.contains(&format!("ask for {room} at most")), "{said}");
    }
    assert_eq!(store.claim(), before);
}

#[test]
fn the_umask_of_whoever_sets_up_makes_no_store_that_is_refused() {
    let store = Store::new("umask", 2);
    let said = sh(&format!(
        "umask 000; rm -r {1}/var {1}/run && {0} --root {1} init && rm -r {1}/run && \
         {0} --root {1} create x --base x",
        crate::common::coloc().display(),
        store.root.display()
    ));
    // No base: all else was right.
    assert!(said.fails(3).contains("no base"), "the store is refused");
    store.ok(&["list"]);
}

/// Whoever owns a directory above can put another store in the place of this one.
#[test]
fn a_store_below_a_users_directory_is_refused() {
    let store = Store::new("below", 2);
    for (dir, mode) in [(".", 0o755), ("var", 0o755), ("var/lib", 0o1777), ("etc", 0o755)] {
        let dir = store.root.join(dir).canonicalize().unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).unwrap();
        chown(&dir, Some(12345), None).unwrap();
        for args in [&["list"][..], &["create", "x"], &["init"]] {
            let said = store.fails(4, args);
            assert!(said.contains("belongs to uid 12345, not to root"), "{said}");
            assert!(said.contains(&format!("{} ", dir.display())), "{said}");
        }
        chown(&dir, Some(0), None).unwrap();
    }
    // Where everybody can write, but not take away, as in /tmp, it is safe; else it is not.
    store.ok(&["list"]);
    let dir = store.root.join("var/lib");
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(store.fails(4, &["list"]).contains("can be written by others"));
}

/// What is left of mmdebstrap's temporary files goes with the staging directory.
#[test]
fn a_base_that_is_interrupted_leaves_nothing_in_tmp() {
    let store = Store::new("interrupted", 2);
    let tmp = tempfiles();
    let mut create = store
        .command(&["base", "create", "debian", "--suite", &suite(), "--variant", "essential"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(create.stderr.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if line.contains("apt-get update") {
            let pid = nix::unistd::Pid::from_raw(create.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
    }
    assert!(!create.wait().unwrap().success());
    assert_eq!(tempfiles(), tmp);
    store.fails(3, &["base", "delete", "debian", "--yes"]);
    assert_eq!(std::fs::read_dir(store.state("staging")).unwrap().count(), 0);
    store.assert_whole();
}

/// mmdebstrap's, in /tmp.
fn tempfiles() -> Vec<std::ffi::OsString> {
    let names = std::fs::read_dir("/tmp").unwrap().map(|e| e.unwrap().file_name());
    names.filter(|n| n.to_string_lossy().starts_with("mmdebstrap.")).collect()
}

#[test]
fn only_root_makes_containers_and_others_are_told_so() {
    let store = Store::new("denied", 2);
    let user = host_user();
    let copy = store.root.join("coloc");
    std::fs::copy(crate::common::coloc(), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--clear-groups"]).arg(&copy);
    let said = run({
        command.arg("--root").arg(&store.root).args(["create", "x"]);
        command
    })
    .fails(5);
    assert!(said.contains("only the host's admin can"), "{said}");
}

#[test]
fn bases_are_listed_and_shown_as_json() {
    let store = Store::mini("bases", 2);
    let c = Container::create(&store, "user", &["--init", "builtin"]);
    let list = store.json(&["base", "list", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    let shown = store.json(&["base", "show", "mini", "--json"]);
    assert_eq!(list[0], shown);
    assert_eq!(shown["name"], "mini");
    assert_eq!(shown["generation"], 1);
    assert_eq!(shown["containers"][0], c.name.as_str());
    assert!(store.ok(&["base", "show", "mini"]).contains("mini"));
    assert!(store.ok(&["base", "list"]).contains("mini"));
}

#[test]
fn a_base_in_use_is_not_deleted_and_its_users_are_named() {
    let store = Store::mini("inuse", 2);
    let c = Container::create(&store, "user", &["--init", "builtin"]);
    let said = store.fails(4, &["base", "delete", "mini", "--yes"]);
    assert!(said.contains(&c.name), "{said}");
    drop(c);
    store.ok(&["base", "delete", "mini", "--yes"]);
    store.assert_whole();
    assert!(store.names_in("bases").is_empty());
}

#[test]
fn verify_names_exactly_what_differs() {
    let store = Store::mini("verify", 2);
    store.ok(&["base", "verify", "mini"]);
    let file = store.state("bases/mini/generations/1/tree/usr/lib/data");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push('x');
    std::fs::write(&file, text).unwrap();
    let out = store.run(&["base", "verify", "mini", "--json"]);
    assert_eq!(out.code, 1, "{}", out.stderr);
    let list: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
    let paths: Vec<_> = list.as_array().unwrap().iter().map(|d| d["path"].as_str()).collect();
    assert!(paths.iter().all(|p| p.unwrap().ends_with("usr/lib/data")), "{list}");
    assert!(!paths.is_empty());
}

#[test]
fn a_base_of_the_same_name_is_refused() {
    let store = Store::mini("twice", 2);
    let tree = store.root.join("mini-tree");
    store.fails(4, &["base", "create", "mini", "--from", &tree.to_string_lossy()]);
    store.assert_whole();
    store.ok(&["base", "verify", "mini"]);
}

#[test]
fn bases_that_cannot_be_made_leave_nothing() {
    let store = Store::new("badbase", 2);
    let tree = mini_tree(&store.root);
    for (code, args) in [
        (2, &["base", "create", "b", "--suite", "../x"][..]),
        (2, &["base", "create", "b", "--suite", "-x=y"]),
        (2, &["base", "create", "b", "--suite", "bookworm", "--include", "a;b"]),
        (2, &["base", "create", "b", "--suite", "bookworm", "--mirror", "[trusted=yes] http://x/"]),
        (2, &["base", "create", "../b", "--from", &tree]),
        (2, &["base", "create", "B", "--from", &tree]),
        (3, &["base", "create", "b", "--from", "/nowhere"]),
        (3, &["base", "show", "b"]),
        (3, &["base", "verify", "b"]),
        (3, &["base", "delete", "b", "--yes"]),
    ] {
        let out = store.run(args);
        assert_eq!(out.code, code, "{args:?}: {}", out.stderr);
        assert!(store.names_in("bases").is_empty(), "{args:?}");
        store.assert_whole();
    }
}

#[test]
fn a_missing_mmdebstrap_is_named() {
    let store = Store::new("nommd", 2);
    let coloc = crate::common::coloc().display();
    let root = store.root.display();
    let out = sh(&format!(
        "exec unshare -m sh -c 'for p in /usr/bin/mmdebstrap /usr/local/bin/mmdebstrap; do \
         if [ -e $p ]; then mount --bind /dev/null $p || exit 99; fi; done; \
         {coloc} --root {root} base create b --suite bookworm'"
    ));
    let said = out.fails(6);
    assert!(said.contains("mmdebstrap is not installed"), "{said}");
    store.assert_whole();
}

#[test]
fn a_failing_mmdebstrap_shows_its_last_lines() {
    let store = Store::new("badmmd", 2);
    let mirror = "http://127.0.0.1:9/debian";
    let said = store.fails(1, &["base", "create", "b", "--suite", "bookworm", "--mirror", mirror]);
    assert!(said.contains("mmdebstrap failed") && said.lines().count() > 2, "{said}");
    store.assert_whole();
}

#[test]
fn a_full_disk_leaves_no_base_and_no_container() {
    let store = Store::empty("full-disk");
    let root = store.root.display().to_string();
    let tree = mini_tree(&store.root);
    let disk = store.root.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let (coloc, at) = (crate::common::coloc().display(), disk.display());
    // A small file system that only this shell sees.
    let turn = crate::common::turn();
    let out = sh(&format!(
        "exec unshare -m sh -c '\
         truncate -s 12M {root}/image && mkfs.ext4 -q -m 0 {root}/image && \
         mount -o loop {root}/image {at} || exit 99; \
         c=\"{coloc} --root {at}\"; $c init --containers 2 >&2 || exit 98; \
         $c base create b --from {tree} >&2 || exit 97; \
         dd if=/dev/zero of={at}/fill bs=4k 2>/dev/null; \
         $c base create b2 --from {tree} && exit 96; \
         $c create x --init builtin --base b && exit 95; \
         tar -C {tree} -cf {root}/tree.tar . || exit 92; truncate -s -600K {at}/fill; \
         for from in {tree} {root}/tree.tar; do $c base create b3 --from $from && exit 93; done; \
         ls -A {at}/var/lib/coloc/staging {at}/var/lib/coloc/containers {at}/var/lib/coloc/bases >&2; \
         rm {at}/fill; $c create y --init builtin --base b >&2 || exit 94; \
         ls {at}/var/lib/coloc/staging {at}/var/lib/coloc/journal {at}/var/lib/coloc/containers; \
         ls {at}/var/lib/coloc/containers/.staging; \
         cat {at}/etc/coloc/coloc.json > {root}/config'"
    ));
    drop(turn);
    let text = std::fs::read_to_string(store.root.join("config")).unwrap_or_default();
    if let Ok(config) = serde_json::from_str::<serde_json::Value>(&text) {
        let line = format!("coloc:{}:{}", config["ids"]["start"], config["ids"]["count"]);
        std::fs::write(store.root.join("claim"), line).unwrap();
    }
    assert_eq!(out.stderr.matches("the disk is full").count(), 4, "{}", out.stderr);
    let left = out.ok();
    assert!(!left.contains("create") && left.contains("y\n"), "{left}");
}

#[test]
fn bad_names_are_refused_and_leave_nothing() {
    let store = Store::mini("names", 2);
    let long = "a".repeat(64);
    for name in ["", "-a", "a-", "A", "a/b", "..", ".", "a\nb", "a b", "é", "a.b", &long] {
        let out = store.run(&["create", "--init", "builtin", "--", name]);
        assert_eq!(out.code, 2, "{name:?}: {}", out.stderr);
        assert!(out.stderr.lines().count() <= 8, "{}", out.stderr);
    }
    assert!(store.containers().is_empty());
    assert!(store.names_in("ids").is_empty());
    store.assert_whole();
}

#[test]
fn help_is_given_in_each_way_that_one_asks_for_it() {
    let store = Store::empty("help");
    assert_eq!(store.ok(&["help"]), store.ok(&["--help"]));
    assert_eq!(store.ok(&["help", "start"]), store.ok(&["start", "--help"]));
    let said = store.run(&["base", "create", "b"]).fails(2);
    assert!(said.contains("--suite") && said.contains("--from"), "{said}");
}

#[test]
fn an_argument_that_is_no_text_is_refused_as_any_other() {
    use std::os::unix::ffi::OsStrExt;
    let store = Store::empty("bytes");
    for (verb, code) in [("create", 2), ("status", 2), ("start", 2), ("exec", 125)] {
        let mut command = store.command(&[verb]);
        command.arg(std::ffi::OsStr::from_bytes(b"a\xff"));
        let said = run(command).fails(code);
        assert!(said.contains("UTF-8") && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn what_is_not_there_is_refused_with_3() {
    let store = Store::mini("unknown", 2);
    for args in [
        &["create", "x", "--base", "nobase"][..],
        &["create", "x", "--profile", "noprofile"],
        &["create", "x", "--owner", "no-such-user"],
        &["create", "x", "--owner", "../../etc"],
        &["start", "x"],
        &["stop", "x"],
        &["delete", "x", "--yes"],
        &["status", "x"],
        &["logs", "x"],
        &["freeze", "x"],
    ] {
        store.fails(3, args);
    }
    store.fails(2, &["create", "x", "--init", "upstart"]);
    store.fails(2, &["create", "x", "--network", "token-ring"]);
    store.fails(2, &["start"]);
    store.assert_whole();
    assert!(store.containers().is_empty());
}

#[test]
fn a_duplicate_is_refused_with_4_and_the_first_stays() {
    let store = Store::mini("duplicate", 3);
    let c = Container::create(&store, "same", &["--init", "builtin"]);
    let before = c.status();
    store.fails(4, &["create", &c.name, "--init", "builtin"]);
    assert_eq!(c.status(), before);
    store.assert_whole();
}

#[test]
fn when_no_ids_are_left_it_says_so_and_a_delete_helps() {
    let store = Store::mini("noids", 1);
    let first = Container::create(&store, "first", &["--init", "builtin"]);
    let said = store.fails(4, &["create", "second", "--init", "builtin"]);
    assert!(said.contains("no id range is left"), "{said}");
    store.assert_whole();
    drop(first);
    store.ok(&["create", "second", "--init", "builtin"]);
    store.assert_whole();
}

#[test]
fn two_containers_and_the_base_share_no_secret() {
    let store = store();
    let (a, b) = (Container::create(store, "own-a", &[]), Container::create(store, "own-b", &[]));
    let base = store.state("bases/debian/generations/1/tree");
    for path in ["etc/machine-id", "etc/hostname", "etc/ssh/ssh_host_ed25519_key"] {
        let read = |at: std::path::PathBuf| std::fs::read(at).unwrap_or_default();
        let (in_a, in_b) = (read(a.private(path)), read(b.private(path)));
        assert!(!in_a.is_empty() && in_a != in_b, "{path}");
        assert_ne!(in_a, read(base.join(path)), "{path}");
    }
    assert_eq!(mode(a.private("etc/ssh/ssh_host_ed25519_key")), 0o600);
    let host_name = std::fs::read_to_string(a.private("etc/hostname")).unwrap();
    assert_eq!(host_name.trim(), a.name);
}

#[test]
fn an_owner_has_an_account_a_home_and_sudo() {
    let c = Container::create(store(), "owned", &["--owner", host_user()]);
    let passwd = std::fs::read_to_string(c.private("etc/passwd")).unwrap();
    let line = passwd.lines().find(|l| l.starts_with("colocit:")).unwrap();
    let id: u64 = line.split(':').nth(2).unwrap().parse().unwrap();
    let group = std::fs::read_to_string(c.private("etc/group")).unwrap();
    let sudo = group.lines().find(|l| l.starts_with("sudo:")).unwrap();
    assert!(sudo.contains("colocit"), "{sudo}");
    let home = std::fs::metadata(c.private("home/colocit")).unwrap();
    let start = c.status()["ids"]["start"].as_u64().unwrap();
    assert_eq!(u64::from(home.uid()), start + id);
}

#[test]
fn a_new_container_takes_at_most_4_mib() {
    let c = Container::create(store(), "disk", &["--owner", host_user()]);
    let disk = c.status()["disk"].as_u64().unwrap();
    assert!(disk <= 4 << 20, "{disk} bytes");
}

#[test]
fn a_damaged_record_is_shown_and_spares_the_others() {
    let store = Store::mini("damaged", 4);
    let good = Container::create(&store, "good", &["--init", "builtin"]);
    for (word, text) in [("empty", ""), ("cut", "{\"name\": \"c"), ("odd", "[1]")] {
        let bad = Container::create(&store, word, &["--init", "builtin"]);
        let record = store.state("containers").join(&bad.name).join("container.json");
        std::fs::write(&record, text).unwrap();
        let out = store.run(&["list"]);
        assert!(out.stderr.contains(&record.display().to_string()), "{}", out.stderr);
        assert!(out.text().contains(&good.name));
        assert_eq!(out.code, 0);
        let rows = store.json(&["list", "--json"]);
        let row = |name: &str| rows.as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        assert_eq!(row(&bad.name)["state"], "damaged");
        assert_eq!(row(&good.name)["state"], "stopped");
        store.fails(7, &["start", &bad.name]);
        store.fails(7, &["delete", &bad.name, "--yes"]);
        store.ok(&["start", &good.name]);
        store.ok(&["stop", &good.name]);
        store.ok(&["delete", &bad.name, "--yes", "--force"]);
        store.assert_whole();
    }
    // Nothing to read comes from a FIFO: it is damaged too, and nobody waits.
    let bad = Container::create(&store, "fifo", &["--init", "builtin"]);
    let record = store.state("containers").join(&bad.name).join("container.json");
    std::fs::remove_file(&record).unwrap();
    nix::unistd::mkfifo(&record, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(store.run(&["list"]).stderr.contains("it is not a file"));
    store.ok(&["delete", &bad.name, "--yes", "--force"]);
    store.assert_whole();
}

/// Where the base has Debian's ssl-cert, without the key that its package made.
#[test]
fn each_container_makes_the_certificate_that_services_begin_with() {
    let store = debian("certificate", 4);
    let program = "/usr/sbin/make-ssl-cert";
    let script = format!(
        "mkdir -p /etc/ssl/private; k=/etc/ssl/private/ssl-cert-snakeoil.key; echo base > $k; \
         printf '#!/bin/sh\\nhostname >> %s\\n' $k > {program}; chmod 755 {program}"
    );
    store.ok(&["base", "shell", "debian", "--", "sh", "-c", &script]);
    let key = "etc/ssl/private/ssl-cert-snakeoil.key";
    for word in ["one", "two"] {
        let c = Container::create(&store, word, &[]);
        assert!(!c.private(key).exists());
        c.ok("start", &["--wait"]);
        assert_eq!(std::fs::read_to_string(c.private(key)).unwrap(), format!("{}\n", c.name));
        // Once and for all.
        c.ok("restart", &["--wait"]);
        assert_eq!(std::fs::read_to_string(c.private(key)).unwrap(), format!("{}\n", c.name));
    }
}
