//! What root inside can try.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Container, Store, host_user, mini_tree, run, sh, store, until};

#[test]
fn root_inside_cannot_write_to_the_base() {
    let c = Container::started(store(), "attack", &[]);
    let attempts = [
        "touch /usr/x",
        "touch /usr/bin/true",
        "echo x >> /usr/bin/env",
        "mount -o remount,bind,rw /usr && touch /usr/x",
        "mount -o remount,rw /usr && touch /usr/x",
        "mount --make-private /usr; mount -o remount,bind,rw,suid,dev,exec /usr && touch /usr/x",
        "mkdir -p /mnt/u && mount --bind /usr /mnt/u && mount -o remount,bind,rw /mnt/u && touch /mnt/u/x",
        "mkdir -p /mnt/r && mount --rbind / /mnt/r && mount -o remount,bind,rw /mnt/r/usr && touch /mnt/r/usr/x",
        "unshare -m sh -c 'mount -o remount,bind,rw /usr && touch /usr/x'",
        "unshare -Urm sh -c 'mount -o remount,bind,rw /usr && touch /usr/x'",
        "unshare -Urm sh -c 'mount --bind /usr /mnt && mount -o remount,bind,rw /mnt && touch /mnt/x'",
        "unshare -Um --map-auto --map-root-user sh -c 'touch /usr/x'",
        "umount /usr && touch /usr/bin/true",
        "nsenter -t 1 -m sh -c 'mount -o remount,bind,rw /usr && touch /usr/x'",
        "nsenter -t 1 -a sh -c 'mount -o remount,bind,rw /usr && touch /usr/x'",
        "chown 1:1 /usr/bin/true",
        "chmod 4777 /usr/bin/true",
        "setfattr -n user.x -v y /usr/bin/true",
        "mv /usr/bin/true /usr/bin/false",
        "rm -f /usr/bin/true && ! test -e /usr/bin/true",
    ];
    for attempt in attempts {
        let out = c.root_sh(attempt);
        assert_ne!(out.code, 0, "{attempt}: {} {}", out.text(), out.stderr);
        assert_ne!(out.code, 125, "{attempt}: {}", out.stderr);
    }
    let said = c.store.run(&["base", "verify", "debian"]);
    assert_eq!(said.code, 0, "{}", said.text());
}

#[test]
fn dev_has_only_what_is_listed() {
    let c = Container::started(store(), "dev", &[]);
    let allowed = [
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "console",
        "ptmx",
        "pts",
        "shm",
        "mqueue",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "core",
        "initctl",
        "log",
        "hugepages",
        "char",
        "block",
    ];
    let text = c.root(&["ls", "-A", "/dev"]).ok();
    for name in text.lines() {
        assert!(allowed.contains(&name), "/dev/{name}");
    }
    for name in &allowed[..9] {
        assert!(text.lines().any(|l| l == *name), "/dev/{name} is missing");
    }
    assert_ne!(c.root_sh("mknod /tmp/sda b 8 0 && head -c1 /tmp/sda").code, 0);
    assert_ne!(c.root_sh("mknod /root/mem c 1 1 && head -c1 /root/mem").code, 0);
}

#[test]
fn root_inside_has_no_power_over_the_host() {
    let c = Container::started(store(), "power", &["--init", "builtin"]);
    for attempt in [
        "v=$(cat /proc/sys/kernel/panic); echo $v > /proc/sys/kernel/panic",
        "v=$(cat /proc/sys/kernel/core_pattern); echo \"$v\" > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        "date -s @$(date +%s)",
        "mount -t ext4 /dev/vda /mnt",
        "mount -o remount,rw /sys",
        "mount -o remount,rw /proc/sys; v=$(cat /proc/sys/kernel/panic); \
         echo $v > /proc/sys/kernel/panic",
        "mount -o remount,rw /proc/sys; v=$(cat /proc/sys/kernel/core_pattern); \
         echo \"$v\" > /proc/sys/kernel/core_pattern",
        "echo $$ > /sys/fs/cgroup/../cgroup.procs && test -e /sys/fs/cgroup/../cgroup.procs",
    ] {
        let out = c.root_sh(attempt);
        assert_ne!(out.code, 0, "{attempt}: {}", out.stderr);
    }
    let pids = c.root_sh("ls /proc | grep -c '^[0-9]'").ok();
    assert!(pids.trim().parse::<u32>().unwrap() < 10, "{pids}");
}

#[derive(Debug, Clone, Copy)]
enum Trick {
    Link(&'static str),
    Fifo,
    File,
}

fn play(c: &Container<'_>, path: &str, trick: Trick) {
    play_at(&c.private(path), trick);
}

fn play_at(at: &Path, trick: Trick) {
    match at.symlink_metadata() {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(at).unwrap(),
        Ok(_) => std::fs::remove_file(at).unwrap(),
        Err(_) => {}
    }
    match trick {
        Trick::Link(to) => symlink(to, at).unwrap(),
        Trick::Fifo => {
            nix::unistd::mkfifo(at, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        }
        Trick::File => std::fs::write(at, "x").unwrap(),
    }
}

type Mark = (u64, i64, u32);

/// Inode, time and mode of files that a link could lead to.
fn host_marks() -> Vec<(String, Option<Mark>)> {
    use std::os::unix::fs::MetadataExt;
    let paths =
        ["/etc/passwd", "/etc/hostname", "/etc/machine-id", "/dev", "/proc", "/", "/bin/sh"];
    let paths = paths.iter().chain(&["/run", "/sys", "/usr", "/dev/null", "/etc/group"]);
    let mark = |p: &str| {
        std::fs::metadata(p)
            .ok()
            .map(|m| (m.ino(), if m.is_file() { m.mtime() } else { 0 }, m.mode()))
    };
    paths.map(|p| (p.to_string(), mark(p))).collect()
}

#[test]
fn hostile_trees_start_or_fail_clearly_and_never_touch_the_host() {
    // Another test may be the first that needs this user, and /etc/passwd is looked at here.
    host_user();
    let store = Store::mini("tricks", 60);
    let secret = store.root.join("secret");
    std::fs::create_dir(&secret).unwrap();
    let to_secret: &'static str = secret.to_string_lossy().into_owned().leak();
    let before = host_marks();
    let tricks = [
        Trick::Link("/"),
        Trick::Link("/etc"),
        Trick::Link("../../../../../../../../etc"),
        Trick::Link("loop"),
        Trick::Link(to_secret),
        Trick::Fifo,
        Trick::File,
    ];
    let paths =
        ["dev", "proc", "sys", "run", "usr", "etc", "etc/passwd", "etc/group", "tmp", "root"];
    for path in paths {
        for (n, trick) in tricks.into_iter().enumerate() {
            let word = format!("t{}-{n}", path.replace('/', "-"));
            let c = Container::create(&store, &word, &["--init", "builtin"]);
            play(&c, path, trick);
            let started = c.run("start", &[]);
            if started.code == 0 {
                let entered = c.root(&["true"]);
                assert!(
                    entered.code == 0 || entered.stderr.contains("coloc: "),
                    "{path} {trick:?}: {} {}",
                    entered.code,
                    entered.stderr
                );
                let out = c.ok("stop", &["--timeout", "5"]);
                assert!(out.contains("stopped") || out.contains("killed"), "{out}");
            } else {
                let said = &started.stderr;
                assert!(
                    said.starts_with("coloc: cannot start") && !said.contains("panicked"),
                    "{path} {trick:?}: {said}"
                );
            }
            c.store.ok(&["list"]);
            c.ok("status", &[]);
            c.ok("delete", &["--yes", "--force"]);
        }
    }
    assert_eq!(host_marks(), before);
    assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
    assert!(!Path::new("/loop").exists());
    store.ok(&["base", "verify", "mini"]);
}

/// What a base's maker left in the places that a container gets something of its own in, or that
/// are read on the host.
#[test]
fn links_and_pipes_of_a_base_lead_nothing_to_the_host() {
    let store = Store::new("base-tricks", 30);
    let outside = store.root.join("outside");
    std::fs::create_dir(&outside).unwrap();
    let write = |name: &str, text: &str| std::fs::write(outside.join(name), text).unwrap();
    let owner = host_user();
    let secret = format!("{owner}:$6$secret:1::::::\n");
    write("secret", &secret);
    write("ssh_host_ed25519_key", "the host's");
    std::fs::create_dir(outside.join("keep")).unwrap();
    let listing = || sh(&format!("cd {} && ls -AlRn --time-style=+%s; cat *", outside.display()));
    let before = listing().text();
    let dir: &'static str = outside.display().to_string().leak();
    let file: &'static str = format!("{dir}/secret").leak();
    let tricks = [
        ("etc/ssh", Trick::Link(dir)),
        ("home", Trick::Link(dir)),
        ("etc/sudoers.d", Trick::Link(dir)),
        ("etc/skel", Trick::Link(dir)),
        ("etc/passwd", Trick::Link(file)),
        ("etc/group", Trick::Link(file)),
        ("etc/shadow", Trick::Link(file)),
        ("etc/gshadow", Trick::Link(file)),
        ("etc/adduser.conf", Trick::Link(file)),
        ("etc/login.defs", Trick::Link(file)),
        ("etc/hosts", Trick::Link(file)),
        ("etc/passwd", Trick::Fifo),
        ("etc/shadow", Trick::Fifo),
        ("etc/adduser.conf", Trick::Fifo),
        ("etc/skel", Trick::Fifo),
        ("home", Trick::File),
    ];
    for (n, (path, trick)) in tricks.into_iter().enumerate() {
        let tree = std::path::PathBuf::from(mini_tree(&store.root));
        for (name, text) in [("usr/sbin/sshd", "x"), ("etc/gshadow", "root:*::\n")] {
            std::fs::write(tree.join(name), text).unwrap();
        }
        for dir in ["etc/ssh", "etc/skel", "etc/sudoers.d"] {
            std::fs::create_dir_all(tree.join(dir)).unwrap();
        }
        std::fs::write(tree.join("etc/skel/.profile"), "x").unwrap();
        play_at(&tree.join(path), trick);
        let (base, name) = (format!("b{n}"), format!("base-trick{n}-{}", std::process::id()));
        let made = store.run(&["base", "create", &base, "--from", &tree.display().to_string()]);
        std::fs::remove_dir_all(&tree).unwrap();
        if made.code != 0 {
            assert!(made.stderr.contains("coloc: "), "{path} {trick:?}: {}", made.stderr);
            continue;
        }
        let create = ["create", &name, "--base", &base, "--owner", owner, "--init", "builtin"];
        let created = store.run(&create);
        assert_eq!(listing().text(), before, "{path} {trick:?}");
        if created.code == 0 {
            let private = store.state("containers").join(&name).join("private");
            let leak = sh(&format!("grep -rl '6.secret' {}", private.display())).text();
            assert_eq!(leak, "", "{path} {trick:?}");
            let started = store.run(&["start", &name]);
            assert!(started.code == 0 || started.stderr.contains("coloc: "), "{started:?}");
            store.ok(&["delete", &name, "--yes", "--force"]);
        } else {
            assert!(created.stderr.contains("coloc: "), "{path} {trick:?}: {}", created.stderr);
        }
        store.assert_whole();
    }
    assert_eq!(listing().text(), before);
}

#[test]
fn a_hostile_account_file_is_no_way_out() {
    let store = Store::mini("accounts", 4);
    let c = Container::started(&store, "passwd", &["--init", "builtin"]);
    for text in [
        "root:x:4294967295:4294967295::/:/bin/sh\n",
        "root:x:65536:65536::/:/bin/sh\n",
        "root:x:-1:-1::/:/bin/sh\n",
        "root\n:::::\n\0\0",
        "",
    ] {
        std::fs::write(c.private("etc/passwd"), text).unwrap();
        let out = c.root(&["id", "-u"]);
        assert!(out.code == 125 || out.text() == "0\n", "{text:?}: {out:?}");
    }
}

/// Texts by which programs go that show something to somebody: release, language, terminals, time.
#[test]
fn hostile_texts_of_a_systems_make_lead_no_command_anywhere() {
    let store = Store::mini("texts", 4);
    let before = host_marks();
    let c = Container::create(&store, "texts", &["--init", "builtin"]);
    let paths = [
        "etc/os-release",
        "etc/default/locale",
        "etc/locale.conf",
        "etc/environment",
        "etc/localtime",
        "etc/timezone",
        "etc/terminfo/x/xterm",
        "root/.terminfo/x/xterm",
        "etc/nsswitch.conf",
        "etc/ld.so.preload",
        "etc/ld.so.cache",
        "etc/hostname",
        "etc/machine-id",
    ];
    let huge = |path: &str| {
        let at = c.private(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&at);
        std::fs::write(&at, b"NAME=\x1b]0;owned\x07\x1b[2J\0\xff\nLD_PRELOAD=/evil.so\n").unwrap();
        std::fs::File::options().write(true).open(&at).unwrap().set_len(1 << 38).unwrap();
    };
    let tricks: [&dyn Fn(&str); 3] =
        [&huge, &|path| play(&c, path, Trick::Link("/etc/shadow")), &|path| {
            play(&c, path, Trick::Fifo)
        }];
    for trick in tricks {
        paths.into_iter().for_each(trick);
        c.ok("start", &[]);
        for (term, lang) in [("xterm", "C.UTF-8"), ("../../etc/passwd", "../x"), ("%n", "\x1b[2J")]
        {
            let mut command = store.command(&["exec", &c.name, "--user", "root", "--", "true"]);
            command.env("TERM", term).env("LANG", lang).env("TERMINFO", c.private("etc/terminfo"));
            assert_eq!(crate::common::run(command).code, 0, "{term} {lang}");
        }
        for verb in ["status", "check", "stale", "logs", "show"] {
            let out = c.run(verb, &[]);
            assert!(!out.text().contains('\x1b') && !out.text().contains("root:"), "{verb}");
            assert!(!out.stderr.contains("panicked") && out.code <= 1, "{verb}: {}", out.stderr);
        }
        store.ok(&["list"]);
        c.ok("stop", &["--timeout", "5"]);
    }
    c.ok("delete", &["--yes"]);
    assert_eq!(host_marks(), before);
}

#[test]
fn a_frozen_entrance_holds_up_neither_exec_nor_stop() {
    let c = Container::started(store(), "frozen-door", &["--init", "builtin"]);
    // The entrance is in use while root inside is in it, so it moves away first.
    c.root_sh(
        "cd /sys/fs/cgroup && mkdir aside && echo $$ > aside/cgroup.procs && rmdir .coloc \
         && mkdir .coloc && echo 1 > .coloc/cgroup.freeze",
    )
    .ok();
    let said = c.run("exec", &["--", "true"]).fails(125);
    assert!(said.contains("lets nothing in"), "{said}");
    c.ok("stop", &[]);
    assert_eq!(c.cgroups(), [""; 0]);
}

/// Twenty cgroups, one in the other, by names whose path no system call takes; the pid inside of what is in
/// the last.
const DEEP: &str = "cd /sys/fs/cgroup; n=$(printf %0250d 0); i=0; \
    while [ $i -lt 20 ]; do mkdir $n && cd -P $n || exit 9; i=$((i+1)); done; \
    sleep 1000 <&- >&- 2>&- & echo $! > cgroup.procs && cat cgroup.procs";

#[test]
fn cgroups_that_no_path_leads_to_are_no_obstacle() {
    let store = Store::mini("deep", 4);
    let c = Container::started(&store, "deep", &["--init", "builtin"]);
    let nest = || assert!(!c.root_sh(DEEP).ok().is_empty());
    nest();
    c.ok("stop", &[]);
    assert_eq!(c.cgroups(), [""; 0]);
    c.ok("start", &[]);
    nest();
    c.ok("stop", &["--timeout", "0"]);
    c.ok("start", &[]);
    nest();
    // Not even without a word of it on record.
    std::fs::remove_file(store.root.join("run/coloc/containers").join(&c.name).join("state.json"))
        .unwrap();
    c.ok("stop", &[]);
    assert_eq!(c.cgroups(), [""; 0]);
    c.ok("start", &[]);
    nest();
    c.ok("delete", &["--yes", "--force"]);
    assert_eq!(c.cgroups(), [""; 0]);
    store.ok(&["create", &c.name, "--init", "builtin"]);
    c.ok("start", &[]);
    c.root(&["true"]).ok();
}

#[test]
fn a_process_in_a_cgroup_that_no_path_leads_to_is_seen() {
    let store = Store::mini("deep-seen", 4);
    let c = Container::started(&store, "deep-seen", &["--init", "builtin"]);
    let inside = c.root_sh(DEEP).ok();
    let program = "cp -p /usr/bin/busybox /usr/bin/new && echo >> /usr/bin/new && \
                   mv /usr/bin/new /usr/bin/busybox";
    let change = |script: &str| store.ok(&["base", "shell", "mini", "--", "sh", "-c", script]);
    change(program);
    let rows = store.json(&["stale", &c.name, "--json"]);
    let deep = |row: &&serde_json::Value| row["command"] == "sleep" && row["certainty"] == "exact";
    assert!(rows.as_array().unwrap().iter().any(|r| deep(&r)), "{inside}: {rows}");
    // The only one that still runs the first generation, or knows of it.
    let init = c.status()["pid"].as_i64().unwrap().to_string();
    for row in rows.as_array().unwrap().iter().filter(|r| !deep(r)) {
        assert_eq!(row["pid"].to_string(), init, "{rows}");
    }
    for n in 0..3 {
        change(&format!("echo {n} > /usr/lib/data"));
    }
    let pruned = store.json(&["base", "prune", "mini", "--dry-run", "--json"]);
    assert!(pruned["in_use"].as_array().unwrap().contains(&1.into()), "{pruned}");
}

/// A file system that says that it is there, and takes every question after that without a word.
const SILENT: &str = r#"
my ($device, $at) = @ARGV; mkdir $at;
open my $f, "+<", $device or die "open: $!"; binmode $f;
my ($s, $t) = ("none", "fuse");
my $o = "fd=" . fileno($f) . ",rootmode=40000,user_id=0,group_id=0,allow_other";
syscall(165, $s, $at, $t, 0, $o) == 0 or die "mount: $!";
sub answer { my ($unique, $body) = @_; syswrite $f, pack("Ll", 16 + length $body, 0) . $unique . $body }
while (sysread $f, my $question, 1 << 20) {
    my ($op, $unique) = ((unpack("LL", $question))[1], substr($question, 8, 8));
    if ($op == 26) { answer($unique, substr(pack("LLLLSSL", 7, 31, 65536, 0, 12, 9, 65536) . "\0" x 64, 0, 64)) }
    elsif ($op == 3) { answer($unique, pack("QLLQ6L10", 1, 0, 0, 1, (0) x 5, 0, 0, 0, 040755, 2, (0) x 4, 4096, 0)) }
    else { open my $said, ">>", "/srv/asked"; print $said "$op\n" }
}
"#;

/// A container whose root can have such a file system.
struct Silent {
    c: Container<'static>,
    device: String,
}

impl Silent {
    fn new(word: &str) -> Self {
        let device = format!("/dev/coloc-it-{word}-{}", std::process::id());
        sh(&format!("modprobe fuse; rm -f {device}; mknod -m 666 {device} c 10 229")).ok();
        let devices = format!("devices={device}");
        let c = Container::create(store(), word, &["--init", "builtin", "--set", &devices]);
        std::fs::write(c.private("srv/silent.pl"), SILENT).unwrap();
        Self { c, device }
    }

    /// Starts the container, and mounts one at `at`.
    fn serve(&self, at: &str) {
        self.c.ok("start", &[]);
        let _ = std::fs::remove_file(self.c.private("srv/asked"));
        let out = self.c.root_sh(&format!(
            // Not by the link /usr/local, which leads by way of what is mounted on the root; and from then on
            // no other program, which might wait for it too.
            "PATH=/usr/bin; cd /srv; perl silent.pl {} {at} >said 2>&1 & while kill -0 $!; do \
             while read -r line; do case $line in *' {at} '*' - fuse '*) exit 0;; esac; \
             done </proc/$!/mountinfo; done; exit 1",
            self.device
        ));
        out.ok();
    }

    /// Whether somebody asks it something.
    fn asked(&self) -> bool {
        std::fs::read_to_string(self.c.private("srv/asked")).is_ok_and(|t| !t.is_empty())
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.device);
    }
}

/// A process that waits for such a file system cannot even be killed, before that one is.
#[test]
fn a_file_system_that_never_answers_holds_up_no_command() {
    let store = store();
    let source = store.root.join("silent-source");
    std::fs::create_dir(&source).unwrap();
    let given = format!("mounts+={}:/mnt/x/y", source.display());
    let silent = Silent::new("silent");
    let c = &silent.c;

    silent.serve("/mnt/x");
    let said = c.run("set", &[&given]).fails(1);
    assert!(said.contains("does not answer"), "{said}");
    for verb in ["status", "check", "stale"] {
        c.run(verb, &[]);
    }
    assert_eq!(c.ok("exec", &["--", "echo", "in"]), "in\n");
    c.ok("stop", &["--timeout", "0"]);
    assert!(!c.store.ok(&["show", &c.name]).contains("/mnt/x/y"));

    // Of the one that is killed, too, nothing stands in the way.
    silent.serve("/mnt/x");
    let mut killed = c.store.command(&["set", &c.name, &given]);
    let mut killed = killed.stderr(std::process::Stdio::null()).spawn().unwrap();
    until("the file system is asked", || silent.asked());
    killed.kill().unwrap();
    killed.wait().unwrap();
    c.ok("stop", &["--timeout", "0"]);
    c.ok("start", &[]);
    assert_eq!(c.ok("exec", &["--", "echo", "in"]), "in\n");
    store.assert_whole();
}

/// Whoever comes in gives up by themselves, or by Ctrl-C: before there is a program, and when that
/// waits for ever.
#[test]
fn a_file_system_that_never_answers_keeps_nobody_who_comes_in() {
    let silent = Silent::new("mute");
    let c = &silent.c;
    let words = |args: &[&str]| {
        let own = ["exec", c.name.as_str(), "--user", "root"];
        c.store.command(&[&own, args].concat())
    };
    // Where it lies, and what waits for it: the helper, a directory to begin in, a file to execute, the
    // program.
    let cases = [
        ("/", &["--", "/usr/bin/true"][..], true),
        ("/root", &["--", "/usr/bin/true"], true),
        ("/mnt/x", &["--cwd", "/", "--", "/mnt/x/program"], false),
        ("/etc", &["--cwd", "/", "--", "/usr/bin/true"], false),
    ];
    for (at, args, own) in cases {
        silent.serve(at);
        // By itself, after a while.
        if at == "/root" {
            let said = run(words(args)).fails(125);
            assert!(said.contains("lets nothing in"), "{at}: {said}");
        }
        // By a signal, without a terminal, once and for all.
        for signal in ["INT", "TERM"] {
            // In the background of a script, where the tests may run, SIGINT is ignored.
            let inner = words(args);
            let mut program = Command::new("env");
            program.arg("--default-signal=INT,TERM").arg(inner.get_program());
            program.args(inner.get_args()).env_remove("COLOC_ROOT");
            program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut program = program.spawn().unwrap();
            // By the first: others wait for the same answer.
            if !own {
                until("it is asked", || silent.asked());
            }
            std::thread::sleep(Duration::from_secs(1));
            sh(&format!("kill -{signal} {}", program.id())).ok();
            until("it ends", || program.try_wait().unwrap().is_some());
            let out = program.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            match own {
                true => assert!(out.status.code().is_none(), "{at} {signal}: {said}"),
                false => {
                    assert_eq!(out.status.code(), Some(125), "{at} {signal}: {said}");
                    assert!(said.contains("takes no signal"), "{at} {signal}: {said}");
                }
            }
        }
        // By a key on a terminal.
        let line = format!("{:?}", words(args)).replace('"', "");
        let keys = format!(
            "(sleep 2; printf '\\003'; sleep 5) | timeout 60 script -qec '{line}' /dev/null"
        );
        let out = sh(&keys);
        // From the terminal itself, if there is no program yet.
        assert!([125, 130].contains(&out.code), "{at}: {out:?}");
        c.ok("stop", &["--timeout", "0"]);
    }
    c.ok("start", &[]);
    assert_eq!(c.ok("exec", &["--", "echo", "in"]), "in\n");
}

/// Exchanges what is at each of `places` in `tree` with a link to `outside` that lies beside it, over
/// and over; gives how often.
fn exchange(tree: &Path, places: &[&str], outside: &Path, stop: &AtomicBool) -> u64 {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    let beside = |place: &str| tree.join(format!("{place}.other"));
    for place in places {
        let _ = symlink(outside.join(place.rsplit('/').next().unwrap()), beside(place));
    }
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        for place in places {
            let (from, to) = (beside(place), tree.join(place));
            let flags = RenameFlags::RENAME_EXCHANGE;
            times += u64::from(renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags).is_ok());
        }
    }
    times
}

/// The tree changes under every command, at each of its steps in one of the rounds.
#[test]
fn renames_under_every_command_lead_nothing_to_the_host() {
    let store = Store::mini("renames", 20);
    let outside = store.root.join("outside");
    for dir in ["etc", "srv/coloc/sockets", "home", "root", "tmp", "coloc/sockets", "lib"] {
        std::fs::create_dir_all(outside.join(dir)).unwrap();
    }
    for file in ["passwd", "etc/passwd", "group", "hostname", "hosts", "machine-id"] {
        std::fs::write(outside.join(file), "root:x:0:0:outside:/:/bin/sh\n").unwrap();
    }
    let source = store.root.join("source");
    std::fs::create_dir(&source).unwrap();
    let listing = || {
        let list = "find . -printf '%p %i %m %U %G %s %l %T@\\n' | sort; grep -c outside";
        sh(&format!("cd {}; {list} /proc/self/mountinfo", outside.display())).text()
    };
    let (before, marks) = (listing(), host_marks());
    let places = [
        "etc",
        "etc/passwd",
        "etc/group",
        "etc/hostname",
        "etc/hosts",
        "etc/machine-id",
        "srv",
        "srv/coloc",
        "home",
        "root",
        "tmp",
        "var/lib",
    ];
    let given = format!("mounts+={}:/srv/coloc/in", source.display());
    let mut times = 0;
    for round in 0..8 {
        let c = Container::create(&store, &format!("r{round}"), &["--init", "builtin"]);
        let (tree, stop) = (c.private(""), AtomicBool::new(false));
        times += std::thread::scope(|scope| {
            let flips = scope.spawn(|| exchange(&tree, &places, &outside, &stop));
            let commands: [&[&str]; 9] = [
                &["start", &c.name],
                &["exec", &c.name, "--user", "root", "--", "true"],
                &["exec", &c.name, "--", "true"],
                &["set", &c.name, &given],
                &["unset", &c.name, "mounts"],
                &["adopt", &c.name],
                &["status", &c.name],
                &["restart", &c.name, "--timeout", "0"],
                &["stop", &c.name, "--timeout", "0"],
            ];
            for _ in 0..4 {
                for args in commands {
                    let out = store.run(args);
                    let clear = out.stderr.contains("coloc: ") && !out.stderr.contains("panicked");
                    assert!(out.code == 0 || clear, "{args:?}: {out:?}");
                }
            }
            let gone = store.run(&["delete", &c.name, "--yes", "--force"]);
            stop.store(true, Ordering::Relaxed);
            assert!(gone.code == 0 || gone.stderr.contains("coloc: "), "{gone:?}");
            flips.join().unwrap()
        });
        c.run("delete", &["--yes", "--force"]);
        assert_eq!(listing(), before, "round {round}");
    }
    assert!(times > 5000, "{times} exchanges");
    assert_eq!(host_marks(), marks);
    store.assert_whole();
}
