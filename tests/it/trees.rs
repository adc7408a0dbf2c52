//! Private trees where the host sees them: nosuid and nodev, by a mount that is there as long as
//! there are containers.

use crate::common::{Container, Store, coloc, sh, store};

/// What its root can make a set-user-ID program of another user's of, and have it run by anybody.
const PLANT: &str = "for dir in /usr/local/bin /home; do cp /usr/bin/id $dir/as-daemon && \
                     chown daemon:daemon $dir/as-daemon && chmod 4755 $dir/as-daemon || exit 1; done";

#[test]
fn set_user_id_works_inside_and_not_on_the_host() {
    let c = Container::started(store(), "setuid", &["--init", "builtin"]);
    c.root_sh(PLANT).ok();
    for program in ["/usr/local/bin/as-daemon", "/home/as-daemon"] {
        for user in ["root", "nobody"] {
            let out = c.run("exec", &["--user", user, "--", program, "-un"]);
            assert_eq!(out.ok(), "daemon\n", "{program} {user}");
        }
    }
    // In what is shared too, for whoever may.
    assert_eq!(
        c.run("exec", &["--user", "root", "--", "sudo", "-u", "nobody", "id", "-un"]).ok(),
        "nobody\n"
    );

    let (private, trees) = (c.private(""), c.store.state("containers"));
    let options = sh(&format!("findmnt -no OPTIONS -T {}", private.display())).ok();
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
    let euid = |script: &str| sh(script).ok().trim().to_string();
    let program = c.private("home/as-daemon").display().to_string();
    assert_eq!(euid(&format!("{program} -u")), "0");
    let node = c.private("root/zero").display().to_string();
    sh(&format!("mknod {node} c 1 5")).ok();
    let read = sh(&format!("head -c1 {node}"));
    assert!(read.code != 0 && read.stderr.contains("Permission denied"), "{read:?}");
    // Without the mount they would: nobody is looking at something else.
    let bare = format!("umount {} && {program} -u && head -c1 {node} | wc -c", trees.display());
    let daemon = (c.ids() + 1).to_string();
    let seen = sh(&format!("unshare -m sh -c '{bare}'")).ok();
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), [daemon.as_str(), "1"]);
    // Nor can its root use the node.
    assert_ne!(c.root_sh("head -c1 /root/zero").code, 0);
}

#[test]
fn the_mount_comes_with_the_first_container_and_goes_with_the_last() {
    let store = &Store::mini("shield", 8);
    let row = || {
        let rows = store.run(&["check", "--json"]).text();
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let all = rows.as_array().unwrap();
        let row = all.iter().find(|r| r["what"] == "private trees").unwrap();
        (row["verdict"].as_str().unwrap().to_string(), row["found"].as_str().unwrap().to_string())
    };
    assert_eq!(store.shields(), [""; 0]);
    assert_eq!(row().0, "good");
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            scope.spawn(move || store.ok(&["create", name, "--init", "builtin"]));
        }
    });
    let shields = store.shields();
    assert_eq!(shields.len(), 1, "{shields:?}");
    assert!(shields[0].contains("nosuid") && shields[0].contains("nodev"), "{shields:?}");
    assert_eq!(row(), ("good".into(), "nosuid, nodev for the host (4)".into()));

    // After a boot it is not there, until somebody changes something.
    let place = store.state("containers").display().to_string();
    // Supervisors have their logs open in it.
    let unmount = || sh(&format!("umount -l {place}")).ok();
    for args in [&["start", "a"][..], &["set", "b", "hold=true"], &["stop", "a", "--timeout", "0"]]
    {
        unmount();
        assert_eq!((row().0, store.shields().len()), ("bad".into(), 0));
        store.ok(args);
        assert_eq!((row().0, store.shields().len()), ("good".into(), 1), "{args:?}");
    }
    unmount();
    started_by_its_unit(store);
    assert_eq!(store.shields().len(), 1);
    store.ok(&["stop", "a", "--timeout", "0"]);

    // Whoever stands in it does not keep it.
    let mut shell = std::process::Command::new("sleep");
    let mut shell = shell.arg("100").current_dir(&place).spawn().unwrap();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            scope.spawn(move || store.ok(&["delete", name, "--yes"]));
        }
    });
    store.assert_whole();
    assert_eq!(store.shields().len(), 1);
    store.ok(&["delete", "d", "--yes"]);
    store.assert_whole();
    assert_eq!(store.shields(), [""; 0]);
    shell.kill().unwrap();
    shell.wait().unwrap();
    std::fs::remove_dir_all(store.root.join("var")).unwrap();
}

/// The last one goes while the first one comes, again and again.
#[test]
fn containers_that_come_and_go_at_once_get_over_the_mount() {
    let store = &Store::mini("shield-race", 8);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            scope.spawn(move || {
                for _ in 0..8 {
                    store.ok(&["create", name, "--init", "builtin"]);
                    store.ok(&["delete", name, "--yes"]);
                }
            });
        }
    });
    store.assert_whole();
    assert_eq!(store.shields(), [""; 0]);
}

/// An admin's own mount will do; what they mounted there, or below, is not taken away.
#[test]
fn a_store_on_a_nosuid_disk_gets_no_mount_and_works_inside() {
    let outer = Store::empty("nosuid-disk");
    let disk = outer.root.join("disk");
    std::fs::create_dir(&disk).unwrap();
    // Not a tmpfs, which takes no mapping of ids before Linux 6.3.
    sh(&format!(
        "truncate -s 200M {0}.image && mkfs.ext4 -q -m 0 {0}.image && \
         mount -o loop,nosuid,nodev {0}.image {0}",
        disk.display()
    ))
    .ok();
    let store = Store::at(disk.join("store"));
    std::fs::create_dir(&store.root).unwrap();
    store.init(4);
    store.ok(&["base", "create", "mini", "--from", &crate::common::mini_tree(&outer.root)]);
    {
        let c = Container::started(&store, "x", &["--init", "builtin", "--network", "none"]);
        assert_eq!(store.shields(), [""; 0]);
        let mounts = c.root(&["cat", "/proc/self/mountinfo"]).ok();
        let options = |at: &str| {
            let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
            let mut found = fields.filter(|f| f[4] == at).map(|f| f[5].to_string());
            found.next().unwrap()
        };
        for at in ["/", "/usr"] {
            assert!(options(at).contains("nodev") && !options(at).contains("nosuid"), "{mounts}");
        }
    }
    // A disk of their own for all containers, without these flags: it is covered, and stays.
    let place = store.state("containers").display().to_string();
    sh(&format!("mount -t tmpfs -o mode=700 none {place}")).ok();
    store.ok(&["create", "x", "--init", "builtin"]);
    assert_eq!(store.shields().len(), 2);
    // And one below, from before and from after.
    sh(&format!("mkdir {place}/own && mount -t tmpfs none {place}/own")).ok();
    store.ok(&["delete", "x", "--yes"]);
    assert_eq!(store.shields().len(), 2);
    sh(&format!("umount {place}/own && rmdir {place}/own")).ok();
    store.ok(&["create", "x", "--init", "builtin"]);
    store.ok(&["delete", "x", "--yes"]);
    assert_eq!(store.shields().len(), 1);
    sh(&format!("umount {place}")).ok();
}

/// Starts `a` as systemd does at boot, when no command of coloc's came before.
fn started_by_its_unit(store: &Store) {
    if std::path::Path::new("/run/systemd/system").exists() {
        // There a supervisor is refused that is not in its unit, which this starts.
        store.ok(&["start", "a"]);
        return;
    }
    let root = store.root.display();
    let log = store.root.join("supervise.log");
    let supervise = format!("exec {} --root {root} supervise a", coloc().display());
    let begun = format!("({supervise}) </dev/null >{} 2>&1 &", log.display());
    sh(&begun).ok();
    crate::common::until("it runs", || {
        store.json(&["status", "a", "--json"])["state"] == "running"
    });
}
