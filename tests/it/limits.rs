//! What a container can use up: said in settings, kept by the kernel, changed while it runs.

use serde_json::Value;

use crate::common::{Container, Store, coloc, mini_tree, sh, store, turn};

fn sample(c: &Container<'_>) -> Value {
    let all = c.store.json(&["top", "--json"]);
    all.as_array().unwrap().iter().find(|s| s["name"] == c.name.as_str()).unwrap().clone()
}

#[test]
fn limits_are_kept_and_changed_while_it_runs() {
    let c = Container::started(store(), "limited", &["--profile", "room"]);
    let whole = c.status()["memory_max"].as_u64().unwrap();
    let said = c.ok("set", &["memory=64M", "cpu=50%", "cpu.weight=300", "pids=40", "cpus=0"]);
    assert!(!said.contains("at the next start"), "{said}");
    let limited = |c: &Container<'_>| {
        let status = c.status();
        assert_eq!(status["memory_max"], 64 << 20, "{status}");
        assert_eq!(status["cpu_max"], 500_000);
        assert_eq!(status["processes_max"], 40);
        assert_eq!(
            c.root_sh("grep -o 'Cpus_allowed_list.*' /proc/self/status").ok(),
            "Cpus_allowed_list:\t0\n"
        );
    };
    limited(&c);
    // What needs more is killed, and the rest goes on.
    assert_eq!(c.root_sh("tail /dev/zero").code, 137);
    // Fork bombs end at the limit.
    let out = c.root_sh("for i in $(seq 60); do sleep 3 & done; wait");
    assert!(out.stderr.contains("fork") || out.stderr.contains("Resource"), "{}", out.stderr);
    c.ok("restart", &[]);
    limited(&c);
    let shown = c.store.ok(&["status", &c.name]);
    assert!(shown.contains("of 64.0 MiB") && shown.contains("of 40"), "{shown}");
    assert!(c.store.ok(&["plan", &c.name]).contains("limit memory.max = 67108864"));

    c.ok("unset", &["memory", "cpu", "cpus"]);
    let status = c.status();
    assert_eq!((&status["memory_max"], &status["cpu_max"]), (&whole.into(), &Value::Null));
    assert_eq!(status["processes_max"], 40);
}

/// What is neither memory nor processes, and not in a cgroup: shown by the kernel's word, and for
/// each container as its settings say.
#[test]
fn what_the_kernel_has_of_its_own_is_limited_shown_and_changed() {
    let c = Container::started(store(), "kernel-own", &["--profile", "room"]);
    let limits = || c.status()["limits"].clone();
    let usual = limits();
    // Where these tests run in a container themselves, not even root may raise it to that.
    let hard = sh("(ulimit -l 65536) 2>/dev/null && echo 65536 || ulimit -Hl").ok();
    for (key, most) in [
        ("locked_memory", hard.trim().parse::<u64>().unwrap() << 10),
        ("queued_signals", 32_768),
        ("message_queues", 819_200),
        ("terminals", 512),
    ] {
        assert_eq!(usual[key], most, "{usual}");
    }
    assert_eq!(usual["users"]["max_net_namespaces"], 512);
    let set = "nofile=900 inotify.instances=7 inotify.watches=70 namespaces=40 terminals=20 \
               memlock=1M sigpending=99 msgqueue=64K";
    let said = c.ok("set", &set.split_whitespace().collect::<Vec<_>>());
    assert!(said.contains("limits.namespaces = 40, at the next start"), "{said}");
    assert_eq!(limits(), usual);
    c.ok("restart", &[]);
    let inside = |script: &str| c.root(&["bash", "-c", script]).ok();
    assert_eq!(inside("ulimit -Hn; ulimit -Hl; ulimit -Hi; ulimit -Hq"), "900\n1024\n99\n65536\n");
    let users = "cd /proc/sys/user; cat max_{inotify_instances,inotify_watches,net_namespaces,user_namespaces}";
    assert_eq!(inside(users), "7\n70\n40\n40\n");
    let terminals = "perl -e 'while (open $t[$n], \"+<\", \"/dev/ptmx\") { $n++ } print $n'";
    let opened: u64 = inside(terminals).parse().unwrap();
    // The console, and that of no exec without a terminal.
    assert!((18..=20).contains(&opened), "{opened}");
    let found = limits();
    for (key, most) in [
        ("open_files", 900),
        ("locked_memory", 1 << 20),
        ("queued_signals", 99),
        ("message_queues", 64 << 10),
        ("terminals", 20),
    ] {
        assert_eq!(found[key], most, "{found}");
    }
    assert_eq!(found["users"]["max_mnt_namespaces"], 40);
    let shown = c.store.ok(&["status", &c.name]);
    assert!(shown.contains("open files 900, locked memory 1.0 MiB"), "{shown}");
    assert!(shown.contains("net namespaces 40"), "{shown}");
    let words = ["nofile", "inotify.instances", "inotify.watches", "namespaces", "terminals"];
    c.ok("unset", &[&words[..], &["memlock", "sigpending", "msgqueue"]].concat());
    c.ok("restart", &[]);
    assert_eq!(limits(), usual);
    for bad in ["namespaces=1", "terminals=0", "memlock=1", "sigpending=x", "msgqueue=-1"] {
        c.store.fails(2, &["set", &c.name, bad]);
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_changes() {
    let c = Container::create(store(), "impossible", &["--profile", "room"]);
    let before = c.store.json(&["show", &c.name, "--json"]);
    for bad in [
        "memory=1K",
        "memory=much",
        "cpu=0",
        "cpu.weight=0",
        "cpus=banana",
        "cpus=0,8191",
        "pids=0",
        "io.weight=10001",
        "io.rbps=/dev/null:1M",
        "io.rbps=/dev/no-such-disk:1M",
        "io.wiops=4095:77:5",
        "disk=12",
    ] {
        let said = c.store.fails(2, &["set", &c.name, bad]);
        assert!(said.contains("hint: "), "{bad}: {said}");
    }
    // One bad word, and none of the others counts.
    c.store.fails(2, &["set", &c.name, "memory=64M", "pids=0"]);
    assert_eq!(c.store.json(&["show", &c.name, "--json"]), before);
}

#[test]
fn top_shows_who_uses_what() {
    let c = Container::started(store(), "busy", &["--profile", "room"]);
    let first = sample(&c);
    c.root_sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").ok();
    let second = sample(&c);
    let cpu = |s: &Value| s["cpu"].as_u64().unwrap();
    assert!(cpu(&second) > cpu(&first) + 10_000, "{first} {second}");
    assert!(second["at"].as_u64() > first["at"].as_u64());
    assert!(second["memory"].as_u64().unwrap() > 0 && second["processes"].as_u64().unwrap() > 0);
    for sort in ["cpu", "memory", "io", "processes", "disk", "network", "stale", "name"] {
        let table = c.store.ok(&["top", "--once", "--sort", sort]);
        assert!(table.starts_with("NAME") && table.contains(&c.name), "{table}");
    }
    let said = c.store.fails(2, &["top"]);
    assert!(said.contains("--once"), "{said}");
}

/// Where the kernel has project quotas a container ends at its own; elsewhere that is said.
#[test]
fn a_disk_is_limited_or_it_is_said_why_not() {
    let store = Store::empty("quota");
    let disk = store.root.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let tree = mini_tree(&store.root);
    let (root, coloc, at) = (store.root.display(), coloc().display(), disk.display());
    let turn = turn();
    let out = sh(&format!(
        "exec unshare -m sh -c '\
         truncate -s 100M {root}/image && \
         mkfs.ext4 -q -m 0 -O quota,project -E quotatype=prjquota {root}/image || exit 99; \
         mount -o loop,prjquota {root}/image {at} && echo quota || \
         {{ tune2fs -O ^quota,^project {root}/image >&2; mount -o loop {root}/image {at} || exit 98; }}; \
         c=\"{coloc} --root {at}\"; $c init --containers 2 >&2 || exit 97; \
         cat {at}/etc/coloc/coloc.json > {root}/config; \
         $c base create b --from {tree} >&2 || exit 96; \
         $c create x --init builtin --base b >&2 || exit 95; $c start x >&2 || exit 94; \
         $c set x disk=8M; echo set $?; \
         $c exec x --user root -- sh -c \"dd if=/dev/zero of=/root/fill bs=1M count=20\"; echo fill $?; \
         $c status x | grep ^disk; $c unset x disk >&2; $c stop x >&2; $c delete x >&2'"
    ));
    drop(turn);
    let text = std::fs::read_to_string(store.root.join("config")).unwrap_or_default();
    if let Ok(config) = serde_json::from_str::<Value>(&text) {
        let line = format!("coloc:{}:{}", config["ids"]["start"], config["ids"]["count"]);
        std::fs::write(store.root.join("claim"), line).unwrap();
    }
    let (said, text) = (out.stderr.clone(), out.ok());
    if text.starts_with("quota") {
        assert!(text.contains("set 0") && text.contains("fill 1"), "{text}{said}");
        assert!(text.contains("of 8.0 MiB"), "{text}");
    } else {
        assert!(said.contains("keeps no project quotas") && said.contains("tune2fs"), "{said}");
        assert!(text.contains("fill 0") && !text.contains("of 8.0 MiB"), "{text}");
    }
}

#[test]
fn directories_and_devices_of_the_host_are_inside_if_said_so() {
    let store = store();
    let dir = store.root.join("mirror");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "text\n").unwrap();
    std::os::unix::fs::symlink(&dir, store.root.join("link")).unwrap();
    let c = Container::create(store, "mounts", &["--profile", "room"]);
    let of = |options: &str| format!("mounts+={}:/mnt/mirror{options}", dir.display());
    for bad in [
        format!("mounts+={}/link:/mnt/x", store.root.display()),
        format!("mounts+={}/none:/mnt/x", store.root.display()),
        format!("mounts+={}:/usr/x", dir.display()),
        "mounts+=/proc:/mnt/x".into(),
        "devices+=/dev/no-such".into(),
        "devices+=/dev/mem".into(),
        "devices+=/dev/stdin".into(),
    ] {
        let said = c.store.fails(2, &["set", &c.name, &bad]);
        assert!(said.contains("hint: "), "{bad}: {said}");
    }
    c.ok("set", &[&of(":ro")]);
    c.ok("start", &[]);
    assert_eq!(
        c.root_sh("cat /mnt/mirror/file; stat -c %U /mnt/mirror/file").ok(),
        "text\nnobody\n"
    );
    assert_ne!(c.root_sh("touch /mnt/mirror/new").code, 0);
    assert_ne!(c.root_sh("mount -o remount,rw,bind /mnt/mirror && touch /mnt/mirror/new").code, 0);

    c.ok("set", &[&of(":idmap"), "devices+=/dev/net/tun"]);
    c.ok("restart", &[]);
    c.root_sh("touch /mnt/mirror/new && chown 7:7 /mnt/mirror/new").ok();
    let new = std::fs::metadata(dir.join("new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&new), 7);
    assert_eq!(c.root_sh("stat -c %t:%T /dev/net/tun").ok(), "a:c8\n");
    // Whether it can be opened is for the host's mode of it to say, and the list in front lets it.
    let node = std::fs::metadata("/dev/net/tun").unwrap();
    let everybody = std::os::unix::fs::MetadataExt::mode(&node) & 0o6 == 0o6;
    assert_eq!(c.root_sh(": < /dev/net/tun").code == 0, everybody);
    c.ok("unset", &["mounts", "devices"]);
    c.ok("restart", &[]);
    assert_ne!(c.root_sh("cat /mnt/mirror/file").code, 0);
    assert_ne!(c.root_sh("test -e /dev/net/tun").code, 0);
}

/// A disk of btrfs, of a file, that is mounted until the test is over.
struct Btrfs(std::path::PathBuf);

impl Btrfs {
    fn new(at: &std::path::Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let (image, place) = (at.with_extension("image"), at.display());
        sh(&format!(
            "truncate -s 400M {0} && mkfs.btrfs -q {0} && mount -o loop {0} {place}",
            image.display()
        ))
        .ok();
        Self(at.to_path_buf())
    }

    #[track_caller]
    fn btrfs(&self, words: &str) -> String {
        sh(&format!("btrfs {words} {}", self.0.display())).ok()
    }

    /// Subvolumes, but for the one of those that were deleted and are still being taken apart.
    fn volumes(&self) -> Vec<String> {
        let list = self.btrfs("subvolume list");
        list.lines().filter_map(|l| Some(l.split_once(" path ")?.1.to_string())).collect()
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        sh(&format!("umount {0} || umount -l {0}", self.0.display()));
    }
}

/// Makes a subvolume where it stands, by the call that its argument is the number of.
const SUBVOLUME: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
int main(int argc, char **argv)
{
    struct { long long fd; char rest[4088]; } args = { 0, "nested" };
    int dir = open(".", O_RDONLY);
    int r = ioctl(dir, strtoul(argv[1], 0, 16), &args);
    printf("%d\n", r ? errno : 0);
}
"#;

/// On btrfs the private tree is in a subvolume of its own, and that has the limit.
#[test]
fn a_disk_of_btrfs_is_limited_by_subvolume() {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if !known.contains("btrfs") {
        eprintln!("this kernel has no btrfs: scripts/guest-test disks shows it where there is one");
        return;
    }
    let outer = Store::empty("btrfs");
    let disk = Btrfs::new(&outer.root.join("disk"));
    let store = Store::at(disk.0.join("store"));
    std::fs::create_dir(&store.root).unwrap();
    store.init(4);
    let tree = mini_tree(&outer.root);
    let code = outer.root.join("subvolume.c");
    std::fs::write(&code, SUBVOLUME).unwrap();
    sh(&format!("cc -static -O1 -o {tree}/usr/bin/subvolume {}", code.display())).ok();
    store.ok(&["base", "create", "mini", "--from", &tree]);

    // Killed while it is made, it leaves no subvolume.
    for step in ["create.claimed", "create.copied", "create.built"] {
        let mut create = store.command(&["create", "killed", "--init", "builtin"]);
        create.env("COLOC_KILL_AT", step);
        assert_eq!(crate::common::run(create).code, 137);
        store.run(&["delete", "killed", "--yes"]);
        assert_eq!(disk.volumes(), [""; 0], "{step}");
    }
    let c = Container::create(&store, "x", &["--init", "builtin", "--network", "none"]);
    let place = format!("store/var/lib/coloc/containers/{}/disk", c.name);
    assert_eq!(disk.volumes(), [place.as_str()]);
    let said = c.run("set", &["disk=8M"]).fails(6);
    assert!(said.contains("btrfs quota enable"), "{said}");
    disk.btrfs("quota enable");
    c.ok("start", &[]);
    c.ok("set", &["disk=8M"]);
    let fill = |name: &str, megabytes: u32| {
        let dd = "busybox dd if=/dev/zero bs=1M conv=fsync";
        c.root_sh(&format!("{dd} of=/root/{name} count={megabytes} 2>&1")).code
    };
    assert_ne!(fill("fill", 20), 0);
    let size = std::fs::metadata(c.private("root/fill")).unwrap().len();
    assert!(size > 4 << 20 && size < 8 << 20, "{size}");
    // Full is full for what is inside, and for nobody else.
    assert_ne!(fill("more", 4), 0);
    sh("sync").ok();
    let shown = store.ok(&["status", &c.name]);
    assert!(shown.contains("of 8.0 MiB"), "{shown}");
    let used = sample(&c)["disk"].as_u64().unwrap();
    assert!(used > 4 << 20 && used <= 8 << 20, "{used}");
    c.ok("restart", &["--timeout", "2"]);
    assert_ne!(fill("more", 4), 0);
    // A subvolume of its own would be outside of it.
    for call in ["5000940e", "50009418"] {
        assert_eq!(c.root_sh(&format!("cd /root && subvolume {call}")).ok(), "1\n", "{call}");
    }
    assert_eq!(disk.volumes().len(), 1);
    c.ok("set", &["disk=16M"]);
    assert_eq!(fill("more", 4), 0);
    c.root_sh("busybox rm /root/fill /root/more").ok();

    // What an update brings is put into it.
    let change = "echo two > /usr/lib/data; echo two > /etc/word";
    store.ok(&["base", "shell", "mini", "--", "sh", "-c", change]);
    assert_eq!(c.root_sh("cat /usr/lib/data /etc/word").ok(), "two\ntwo\n");
    c.ok("unset", &["disk"]);
    assert_eq!(fill("fill", 20), 0);
    c.ok("delete", &["--force", "--yes"]);
    assert_eq!(disk.volumes(), [""; 0]);
    store.assert_whole();
}
