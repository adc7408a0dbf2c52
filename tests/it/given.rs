//! Mounts and devices that a container gets and loses while it runs.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use crate::common::{Container, Store, run, sh, until};

/// A store with a container that runs, and directories of the host's to be mounted.
fn set_up(word: &str) -> Store {
    let store = Store::mini(word, 2);
    for name in ["one", "two"] {
        std::fs::create_dir(store.root.join(name)).unwrap();
        std::fs::write(store.root.join(name).join("file"), name).unwrap();
    }
    store.ok(&["create", "c", "--init", "builtin", "--network", "none"]);
    store.ok(&["start", "c"]);
    store
}

fn container(store: &Store) -> Container<'_> {
    Container { store, name: "c".into() }
}

fn host(store: &Store, name: &str) -> String {
    store.root.join(name).display().to_string()
}

/// What the container shows at `path`, or nothing.
fn cat(c: &Container<'_>, path: &str) -> String {
    c.root(&["cat", path]).text()
}

fn mounts_at(c: &Container<'_>, path: &str) -> usize {
    let text = c.root(&["cat", "/proc/self/mounts"]).ok();
    text.lines().filter(|l| l.split(' ').nth(1) == Some(path)).count()
}

/// A device of the host's that everybody may open, for a moment.
struct Node(String);

impl Node {
    fn new(word: &str, major: u64, minor: u64) -> Self {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let path = format!("/dev/coloc-it-{}-{word}", std::process::id());
        mknod(
            path.as_str(),
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major, minor),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        Self(path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn record(store: &Store) -> PathBuf {
    store.state("containers/c/container.json")
}

#[test]
fn a_mount_comes_and_goes_while_it_runs() {
    let store = set_up("livemount");
    let c = container(&store);
    let (one, two) = (host(&store, "one"), host(&store, "two"));
    std::fs::create_dir(store.root.join("two/on")).unwrap();
    let said = c.ok("set", &[&format!("mount+={one}:/mnt/deep/er:ro")]);
    assert!(!said.contains("at the next start"), "{said}");
    assert_eq!(cat(&c, "/mnt/deep/er/file"), "one");
    assert_eq!(
        c.root_sh("busybox stat -c %u:%a /mnt/deep /mnt/deep/er/file").ok(),
        "0:755\n65534:644\n"
    );
    // Nothing that root inside can do makes it another mount.
    for attempt in [
        "busybox touch /mnt/deep/er/new",
        "busybox mount -o remount,bind,rw /mnt/deep/er",
        "busybox mount -o remount,bind,ro,dev /mnt/deep/er",
        "busybox mount -o remount,bind,ro,suid /mnt/deep/er",
        "mkdir -p /x; busybox mount -o bind /mnt/deep/er /x; busybox mount -o remount,bind,rw /x",
        "busybox unshare -Urm sh -c 'busybox mount -o remount,bind,rw /mnt/deep/er'",
    ] {
        assert_ne!(c.root_sh(attempt).code, 0, "{attempt}");
    }
    let gone = "busybox umount /x";
    c.root_sh(gone).ok();
    // In its place another, for one person's files; and one that is on it.
    let uid = std::fs::metadata("/var").unwrap().uid() + 4711;
    std::os::unix::fs::chown(store.root.join("two/file"), Some(uid), Some(uid)).unwrap();
    c.ok(
        "set",
        &[
            &format!("mount+={two}:/mnt/deep/er:idmap={uid}:33"),
            &format!("mount+={one}:/mnt/deep/er/on"),
        ],
    );
    assert_eq!(cat(&c, "/mnt/deep/er/file"), "two");
    assert_eq!(c.root_sh("busybox stat -c %u:%g /mnt/deep/er/file").ok(), "33:33\n");
    assert_eq!(cat(&c, "/mnt/deep/er/on/file"), "one");
    // A restart and a change of what is below keep it.
    c.ok("set", &[&format!("mount+={two}:/mnt/deep/er:ro")]);
    assert_eq!(cat(&c, "/mnt/deep/er/on/file"), "one");
    c.ok("restart", &["--timeout", "2"]);
    assert_eq!(
        (cat(&c, "/mnt/deep/er/file"), cat(&c, "/mnt/deep/er/on/file")),
        ("two".into(), "one".into())
    );
    // What was mounted by the start goes too.
    c.ok("set", &["mount-=/mnt/deep/er/on"]);
    assert_eq!(
        (cat(&c, "/mnt/deep/er/on/file"), cat(&c, "/mnt/deep/er/file")),
        ("".into(), "two".into())
    );
    c.ok("unset", &["mounts"]);
    assert_eq!((mounts_at(&c, "/mnt/deep/er"), cat(&c, "/mnt/deep/er/file")), (0, "".into()));
    store.assert_whole();
}

#[test]
fn what_is_in_use_goes_when_its_user_ends() {
    let store = set_up("busy");
    let c = container(&store);
    c.ok("set", &[&format!("mount+={}:/mnt/a", host(&store, "one"))]);
    let mut user = store.command(&[
        "exec",
        "c",
        "--user",
        "root",
        "--",
        "sh",
        "-c",
        "cd /mnt/a; touch /tmp/in; sleep 600",
    ]);
    let mut user = user.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let inside = store.state("containers/c/private/tmp/in");
    until("it is in the directory", || inside.exists());
    let said = c.ok("set", &["mount-=/mnt/a"]);
    assert!(said.contains("/mnt/a is in use"), "{said}");
    assert_eq!((mounts_at(&c, "/mnt/a"), cat(&c, "/mnt/a/file")), (0, "".into()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(user.id() as i32), nix::sys::signal::SIGTERM)
        .unwrap();
    user.wait().unwrap();
    // One that nobody uses goes without a word, and copies of it are told of.
    c.ok("set", &[&format!("mount+={}:/mnt/a", host(&store, "one"))]);
    c.root_sh("busybox mkdir -p /keep; busybox mount -o bind /mnt/a /keep; busybox mount -t tmpfs none /mnt/a").ok();
    let said = c.ok("set", &["mount-=/mnt/a"]);
    assert!(!said.contains("in use") && said.contains("at /keep by somebody inside"), "{said}");
    assert_eq!(mounts_at(&c, "/mnt/a"), 0);
    c.ok("restart", &["--timeout", "2"]);
    assert_eq!(cat(&c, "/keep/file"), "");
}

#[test]
fn a_place_that_is_no_place_changes_nothing() {
    let store = set_up("noplace");
    let c = container(&store);
    let one = host(&store, "one");
    c.root_sh("busybox mkdir -p /d; busybox ln -s /d /link; touch /file; busybox ln -s / /root/up")
        .ok();
    let before = std::fs::read(record(&store)).unwrap();
    symlink(&one, store.root.join("ln")).unwrap();
    std::fs::write(store.root.join("text"), "").unwrap();
    for (code, what, why) in [
        (4, format!("{one}:/link"), "a link is in its path"),
        (4, format!("{one}:/link/x"), "a link is in its path"),
        (4, format!("{one}:/root/up/d"), "a link is in its path"),
        (4, format!("{one}:/file"), "no directory"),
        (4, format!("{one}:/file/x"), "no directory"),
        (2, format!("{}:/mnt/x", host(&store, "none")), "it is not there"),
        (2, format!("{}:/mnt/x", host(&store, "text")), "it is no directory"),
        (2, format!("{}:/mnt/x", host(&store, "ln")), "a link is in its path"),
    ] {
        // With one that is right beside it, which comes first.
        let said = store.fails(code, &["set", "c", &format!("mount+={one}:/a/a {what}")]);
        assert!(
            said.contains(why) && said.contains("hint: ") && !said.contains("openat2"),
            "{said}"
        );
        assert_eq!(std::fs::read(record(&store)).unwrap(), before, "{what}");
        assert_eq!((mounts_at(&c, "/a/a"), cat(&c, "/a/a/file")), (0, "".into()), "{what}");
    }
    store.assert_whole();
}

/// Wherever it is killed, the next command has what runs and the record say the same.
#[test]
fn a_change_that_is_killed_is_finished_or_undone() {
    let store = set_up("killed");
    let (fuse, tun) = (Node::new("fuse-k", 10, 229), Node::new("tun-k", 10, 200));
    let c = container(&store);
    let (one, two) = (host(&store, "one"), host(&store, "two"));
    for step in [
        "give.begun",
        "give.written",
        "give.listed",
        "give.taken",
        "give.changed",
        "give.settled",
        "give.saved",
    ] {
        c.ok("set", &[&format!("mount={one}:/mnt/a {one}:/mnt/b"), &format!("device={}", fuse.0)]);
        let change = format!("mount={two}:/mnt/a:ro {one}:/mnt/c");
        let mut command = store.command(&["set", "c", &change, &format!("device={}", tun.0)]);
        command.env("COLOC_KILL_AT", step);
        assert_ne!(run(command).code, 0, "{step}");
        store.ok(&["freeze", "c"]);
        store.ok(&["thaw", "c"]);
        store.assert_whole();
        let all = store.json(&["show", "c", "--json"]);
        let list = |key: &str| {
            all.as_array().unwrap().iter().find(|s| s["key"] == key).unwrap()["value"].to_string()
        };
        let new = list("mounts").contains("/mnt/c");
        assert_eq!(new, step == "give.saved", "{step}");
        assert_eq!(list("devices").contains(&tun.0), new);
        assert_eq!(cat(&c, "/mnt/a/file"), if new { "two" } else { "one" }, "{step}");
        assert_eq!(cat(&c, "/mnt/b/file") == "one", !new, "{step}");
        assert_eq!(cat(&c, "/mnt/c/file") == "one", new, "{step}");
        for path in ["/mnt/a", "/mnt/b", "/mnt/c", &fuse.0, &tun.0] {
            assert!(mounts_at(&c, path) <= 1, "{step} {path}");
        }
        let open = |device: &str| c.root_sh(&format!(": <{device}")).code == 0;
        assert_eq!((open(&tun.0), open(&fuse.0)), (new, !new), "{step}");
    }
}

#[test]
fn devices_come_and_go_while_it_runs() {
    let store = set_up("livedevice");
    let c = container(&store);
    let (fuse, tun) = (Node::new("fuse", 10, 229), Node::new("tun", 10, 200));
    let (fuse, tun) = (&*fuse.0, &*tun.0);
    let open = |how: &str, device: &str| c.root_sh(&format!(": {how}{device}")).code == 0;
    let there = |device: &str| c.root(&["ls", device]).code == 0;
    assert!(!open("<", fuse) && !there(fuse));
    let said = c.ok("set", &[&format!("device+={fuse}")]);
    assert!(!said.contains("at the next start"), "{said}");
    assert_eq!(c.root_sh(&format!("busybox stat -c %t:%T {fuse}")).ok(), "a:e5\n");
    assert!(open("<>", fuse));
    // In a directory that is not there yet, too.
    c.ok("set", &["device+=/dev/net/tun"]);
    assert_eq!(c.root_sh("busybox stat -c %t:%T /dev/net/tun").ok(), "a:c8\n");
    c.ok("set", &[&format!("device={tun}")]);
    assert_eq!((open("<>", tun), there(fuse), there("/dev/net/tun")), (true, false, false));
    // Only to be read, now and after a restart.
    c.ok("set", &[&format!("device={fuse},r")]);
    assert!(open("<", fuse) && !open("<>", fuse) && !there(tun));
    c.ok("restart", &["--timeout", "2"]);
    assert!(open("<", fuse) && !open("<>", fuse));
    // By its numbers it may be opened, and has no node.
    c.ok("set", &["device=c:10:200"]);
    assert!(!there(fuse));
    c.ok("set", &[&format!("device={fuse}")]);
    // One beside it has the same list, by the same program in the kernel, and keeps it.
    let beside = Container::started(&store, "d", &["--init", "builtin"]);
    beside.ok("set", &[&format!("device={fuse}")]);
    c.root_sh(&format!("touch /root/node; busybox mount -o bind {fuse} /root/node")).ok();
    assert!(open("<", "/root/node"));
    // What somebody inside has kept of the node is of no use to them.
    let said = c.ok("unset", &["devices"]);
    assert!(said.contains("at /root/node by somebody inside"), "{said}");
    assert!(there("/root/node") && !open("<", "/root/node"));
    assert!(open("<", "/dev/null") && open(">", "/dev/null"));
    assert_eq!(beside.root_sh(&format!(": <>{fuse}")).code, 0);
    assert!(store.ok(&["check", "c"]).contains("a list of those that may be opened"));
}

#[test]
fn devices_that_lead_out_need_a_word_that_says_so() {
    let store = set_up("risk");
    let c = container(&store);
    // A disk that every host has, or has once its driver is asked for.
    let lo = sh("losetup -f").ok();
    let lo = lo.trim();
    let (watchdog, disk) = (Node::new("w", 10, 130), Node::new("d", 1, 1));
    let before = std::fs::read(record(&store)).unwrap();
    for (device, why) in [
        (lo, "can become root of the host"),
        ("b:7:0", "can become root of the host"),
        ("/dev/loop-control", "it makes disks and devices"),
        ("c:10:237", "it makes disks and devices"),
        ("/dev/tty1", "what is typed on the host"),
        (&*watchdog.0, "it resets the host"),
        (&*disk.0, "the host's memory"),
        ("/dev/kmsg,host", "the host's memory or log"),
    ] {
        let said = store.fails(2, &["set", "c", &format!("device+={device}")]);
        assert!(said.contains(why) && said.contains("hint: "), "{device}: {said}");
        assert_eq!(std::fs::read(record(&store)).unwrap(), before, "{device}");
    }
    c.ok("set", &[&format!("device+={lo},block,r"), &format!("device+={},host", watchdog.0)]);
    assert_eq!(c.root_sh(&format!("busybox stat -c %F {lo}")).ok(), "block special file\n");
    c.ok("unset", &["devices"]);
    assert_ne!(c.root(&["ls", lo]).code, 0);
}
