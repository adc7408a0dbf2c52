//! Profiles and settings: what they say is what a container gets, and what is wrong is said
//! before anything changes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Container, Store, run, store};

/// A profile of the admin's in the common store.
fn profile(name: &str, text: &str) -> PathBuf {
    let file = store().root.join(format!("etc/coloc/profiles/{name}.json"));
    std::fs::write(&file, text).unwrap();
    file
}

/// The settings of a container as JSON, by key.
fn shown(c: &Container, key: &str) -> Value {
    let all = c.store.json(&["show", &c.name, "--json"]);
    all.as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone()
}

fn numbers(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn every_profile_that_comes_along_is_listed_and_right() {
    let list = store().json(&["profile", "list", "--json"]);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    for name in ["lab", "member", "nest", "room", "service"] {
        let row = list.as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        assert_eq!(row["damage"], Value::Null);
        assert!(store().ok(&["profile", "list"]).contains(name));
        assert!(store().ok(&["profile", "show", name]).contains("limits.pids"));
        let file = dir.join(format!("{name}.json"));
        assert!(store().ok(&["profile", "check", file.to_str().unwrap()]).contains("is right"));
    }
}

#[test]
fn a_wrong_profile_is_refused_with_file_line_and_the_nearest_key() {
    let file = profile("wrong", "{\n  \"limits\": {\n    \"memroy\": \"1G\"\n  }\n}\n");
    let file = file.to_str().unwrap();
    for args in [
        &["profile", "check", file][..],
        &["create", "no-such", "--profile", "wrong"],
        &["profile", "show", "wrong"],
    ] {
        let said = store().fails(2, args);
        assert!(said.contains("wrong.json:3: there is no key limits.memroy"), "{said}");
        assert!(said.contains("did you mean limits.memory?"), "{said}");
    }
    assert!(store().ok(&["profile", "list"]).contains("damaged"));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_profile_with_hooks_is_root_s_alone() {
    let file = profile("hooked", r#"{"oci": {"hooks": {"poststop": [{"path": "/bin/true"}]}}}"#);
    store().ok(&["profile", "check", file.to_str().unwrap()]);
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    let said = store().fails(5, &["profile", "check", file.to_str().unwrap()]);
    assert!(said.contains("not root's"), "{said}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn settings_are_set_shown_and_unset() {
    let store = Store::mini("set", 2);
    let c = Container::create(&store, "set", &["--profile", "room", "--set", "memory=1536M"]);
    let memory = shown(&c, "limits.memory");
    assert_eq!(memory["value"], json!(1536u64 << 20));
    assert_eq!(memory["origin"]["from"], "container");
    let said = c.ok("set", &["cpu=150%", "mount+=/srv:/mnt/a:ro", "publish=8080:80"]);
    assert!(said.contains("limits.cpu = 1.5"), "{said}");
    assert_eq!(shown(&c, "limits.cpu")["value"], json!(1.5));
    assert_eq!(shown(&c, "mounts")["value"], json!(["/srv:/mnt/a:ro"]));
    c.ok("set", &["mount-=/mnt/a"]);
    assert_eq!(shown(&c, "mounts")["value"], json!([]));
    c.ok("unset", &["memory", "cpu"]);
    assert_eq!(shown(&c, "limits.memory")["value"], Value::Null);
    let origin = c.ok("show", &["--origin"]);
    let init = origin.lines().find(|l| l.starts_with("init ")).unwrap();
    assert!(init.contains("builtin") && init.contains("profile room"), "{init}");
    assert!(c.ok("set", &["publish=8080:80"]).contains("already"));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let store = Store::mini("badset", 2);
    let c = Container::create(&store, "bad", &["--profile", "room"]);
    let record = store.state(&format!("containers/{}/container.json", c.name));
    let before = std::fs::read(&record).unwrap();
    for (code, change) in [
        (2, "limits.memory=1GB"),
        (2, "limits.memory=1K"),
        (2, "limits.cpu=0"),
        (2, "limits.cpus=3-1"),
        (2, "limits.pids=0"),
        (2, "limits.io.weight=0"),
        (2, "limits.io.rbps=sda:1M"),
        (2, "limits.disk=-1"),
        (2, "limits.nofile=1"),
        (2, "network=moon"),
        (2, "network=bridge=a/b"),
        (2, "publish=80"),
        (2, "mount=/srv"),
        (2, "mount=/srv:/usr"),
        (2, "mount=/proc:/mnt"),
        (2, "device=/dev/mem"),
        (2, "device=b:8:0"),
        (2, "autostart=yes"),
        (2, "init=systemd"),
        (2, "oci={\"linux\":{\"sysctl\":{}}}"),
        (2, "oci={\"hooks\":{\"poststop\":[{\"path\":\"/bin/true\"}]}}"),
        (2, "oci={\"process\":{\"selinuxLabel\":\"container_t\"}}"),
        (2, "memroy=1G"),
        (2, "description=x"),
        (2, "memory+=1G"),
        (3, "mount-=/mnt"),
        (3, "owners=no-such-user"),
        (3, "profile=no-such"),
    ] {
        let said = store.fails(code, &["set", &c.name, change]);
        assert!(said.contains("hint: "), "{change}: {said}");
        // Nor with one that is right beside it.
        store.fails(code, &["set", &c.name, "limits.pids=99", change]);
        assert_eq!(std::fs::read(&record).unwrap(), before, "{change}");
    }
    store.fails(2, &["set", &c.name, "memory=1G", "memory.high=2G"]);
    store.fails(2, &["set", &c.name, "network=host", "publish=80:80"]);
    store.fails(2, &["unset", &c.name, "memroy"]);
    assert_eq!(std::fs::read(&record).unwrap(), before);
}

#[test]
fn what_is_edited_is_checked_before_it_is_kept() {
    let store = Store::mini("edit", 2);
    let c = Container::create(&store, "edit", &["--profile", "room"]);
    let edit = |text: &str| {
        let mut command = store.command(&["edit", &c.name]);
        command.env("EDITOR", format!("printf '%s' '{text}' >"));
        run(command)
    };
    let said = edit("{\n\"limits\": {\n\"pids\": \"many\"}}").fails(2);
    assert!(said.contains("line:3: limits.pids"), "{said}");
    assert_eq!(shown(&c, "limits.pids")["value"], 8192);
    assert!(edit("{\"limits\": {\"pids\": 77}}").ok().contains("limits.pids = 77"));
    assert_eq!(shown(&c, "limits.pids")["value"], 77);
    assert!(edit("{\"limits.pids\": 77}").ok().contains("nothing is changed"));
    let mut broken = store.command(&["edit", &c.name]);
    broken.env("EDITOR", "false");
    run(broken).fails(1);
    store.assert_whole();
}

#[test]
fn a_running_container_is_told_what_waits() {
    let c = Container::started(store(), "waits", &["--profile", "room"]);
    let said = c.ok("set", &["nofile=4096", "pids=55"]);
    assert!(said.contains("limits.nofile = 4096, at the next start"), "{said}");
    assert!(!said.contains("limits.pids = 55, at"), "{said}");
    c.ok("restart", &[]);
    assert!(c.run("check", &[]).text().contains("processes 55"));
    assert_eq!(c.root_sh("ulimit -Hn").ok(), "4096\n");
}

#[test]
fn records_of_before_there_were_keys_still_count() {
    let c = Container::create(store(), "old", &[]);
    let record = store().state(&format!("containers/{}/container.json", c.name));
    let mut json: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    json["overrides"] = json!({"init": "builtin", "network": "host"});
    std::fs::write(&record, json.to_string()).unwrap();
    assert_eq!(shown(&c, "network.mode")["value"], "host");
    assert_eq!(shown(&c, "init")["value"], "builtin");
    c.ok("set", &["network=private"]);
    assert_eq!(c.status()["network"], "private");
    c.ok("unset", &["network"]);
    assert_eq!(shown(&c, "network.mode")["origin"]["from"], "profile");
}

/// What starts at boot is one word, wherever it is said: in the profile, in the settings, by `enable`.
#[test]
fn what_starts_at_boot_is_one_word() {
    let store = Store::mini("boot", 4);
    let file = store.root.join("etc/coloc/profiles/up.json");
    std::fs::write(&file, r#"{"extends": "room", "network": "none", "autostart": true}"#).unwrap();
    let command = format!("coloc --root {} start --autostart", store.root.display());
    let said = store.ok(&["create", "up", "--profile", "up"]);
    assert!(said.contains(&command), "{said}");
    for name in ["down", "late"] {
        let said = store.ok(&["create", name, "--profile", "room", "--network", "none"]);
        assert!(!said.contains("boot"), "{said}");
    }
    assert!(store.ok(&["enable", "late"]).contains(&command));
    let late = Container { store: &store, name: "late".into() };
    assert_eq!(shown(&late, "autostart")["value"], true);
    store.ok(&["start", "--autostart"]);
    let words = || {
        ["up", "down", "late"]
            .map(|n| store.json(&["status", n, "--json"])["state"].as_str().unwrap().to_string())
    };
    assert_eq!(words(), ["running", "stopped", "running"]);
    store.ok(&["stop", "--all", "--timeout", "2"]);
    store.ok(&["disable", "up"]);
    assert!(!store.ok(&["set", "late", "autostart=false"]).contains("host's init"));
    store.ok(&["start", "--autostart"]);
    assert_eq!(words(), ["stopped", "stopped", "stopped"]);
    store.run(&["start", "--autostart", "up"]).fails(2);
}

#[test]
fn a_network_of_none_is_a_loopback() {
    let c = Container::started(store(), "none", &["--profile", "room", "--network", "none"]);
    let said = c.root_sh("cut -d: -f1 /proc/net/dev | tail -n +3").ok();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["lo"]);
}

#[test]
fn member_is_a_system_with_services() {
    let c = Container::started(store(), "member", &["--profile", "member"]);
    assert_eq!(c.root_sh("systemctl is-system-running").ok(), "running\n");
    assert!(c.root_sh("systemctl list-units --state=running").ok().contains("journald"));
}

#[test]
fn room_is_small_and_has_no_services() {
    let c = Container::started(store(), "room", &["--profile", "room"]);
    assert_eq!(c.status()["init"], "builtin");
    assert_eq!(c.root_sh("cat /proc/1/comm").ok().trim(), "coloc-init");
    assert_eq!(c.root(&["true"]).code, 0);
}

#[test]
fn service_serves_and_has_no_user_namespaces() {
    let c = Container::started(store(), "service", &["--profile", "service"]);
    assert_eq!(c.root_sh("systemctl is-system-running").ok(), "running\n");
    // Something of the base's that listens, as a unit of its own, in a sandbox of systemd's.
    let serve = "systemd-run --quiet --unit=offer --property=PrivateTmp=yes --property=DynamicUser=yes \
                 perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(Listen => 5, \
                 LocalAddr => \"127.0.0.1:8080\", ReuseAddr => 1) or die $!; \
                 while (my $c = $s->accept) { print $c \"hello\\n\"; close $c }'";
    c.root_sh(serve).ok();
    let ask = "for n in $(seq 100); do perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(\
               \"127.0.0.1:8080\") or exit 1; print scalar <$s>' && exit 0; sleep 0.1; done; exit 1";
    let said = c.root_sh(ask);
    assert_eq!(
        said.text(),
        "hello\n",
        "{said:?} {}",
        c.root_sh("journalctl -n 20 -u offer").text()
    );
    for refused in
        ["unshare --user true", "unshare --user --map-root-user true", "mknod /tmp/x c 1 3"]
    {
        assert_ne!(c.root_sh(refused).code, 0, "{refused}");
    }
    let bound = numbers(&c.root_sh("cat /proc/1/status").ok(), "CapBnd:");
    let member = Container::started(store(), "no-service", &["--init", "builtin"]);
    let all = numbers(&member.root_sh("cat /proc/1/status").ok(), "CapBnd:");
    assert!(bound & !all == 0 && bound.count_ones() == 15, "{bound:x} of {all:x}");
    assert_eq!(member.root_sh("unshare --user true").code, 0);
}

#[test]
fn nest_runs_bubblewrap() {
    let c = Container::started(store(), "nest", &["--profile", "nest"]);
    assert_eq!(c.root_sh("systemctl is-system-running").ok(), "running\n");
    let inside = c.private("var/usrlocal/bin/bwrap");
    std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
    std::fs::copy("/usr/bin/bwrap", &inside).expect("the tests need the package bubblewrap");
    std::os::unix::fs::chown(&inside, Some(c.ids()), Some(c.ids())).unwrap();
    let sandbox = "useradd -m u; su u -c 'bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev \
                   --tmpfs /tmp sh -c \"echo \\$\\$; ls /proc | grep -c ^[0-9]\"'";
    let said = c.root_sh(sandbox).ok();
    let numbers: Vec<u32> = said.lines().filter_map(|l| l.parse().ok()).collect();
    assert!(numbers.len() == 2 && numbers[1] < 6, "{said}");
}

/// A whole tree of the host's into a container, as its root's.
fn hand_in(c: &Container, from: &str, to: &str) {
    let to = c.private(to);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copy = format!("cp -r {from} {0} && chown -hR {1}:{1} {0}", to.display(), c.ids());
    crate::common::sh(&copy).ok();
}

#[test]
fn nest_has_ids_for_containers_and_users_containers() {
    let c = Container::started(store(), "nest-ids", &["--profile", "nest"]);
    assert_eq!(shown(&c, "id_ranges")["value"], 8);
    let map = c.root(&["cat", "/proc/self/uid_map"]).ok();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &c.ids().to_string(), "524288"]);
    let said =
        c.root_sh("touch /root/x && chown 524287 /root/x && unshare -Urm mount -t tmpfs none /mnt");
    assert_eq!(said.code, 0, "{said:?}");
    assert_ne!(c.root_sh("chown 524288 /root/x").code, 0);
    // It is what it was made with.
    let said = store().fails(2, &["set", &c.name, "id_ranges=1"]);
    assert!(said.contains("made with 524288 ids"), "{said}");
    c.ok("set", &["profile=room"]);
    assert_eq!(shown(&c, "id_ranges")["value"], 8);
    c.ok("restart", &["--timeout", "5"]);
    assert_eq!(c.root_sh("stat -c %u /root/x").ok(), "524287\n");
}

#[test]
fn nest_runs_coloc() {
    let c = Container::started(store(), "nest-coloc", &["--profile", "nest"]);
    let tree = Store::empty("tree");
    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    hand_in(&c, &crate::common::mini_tree(&tree.root), "srv/mini");
    hand_in(&c, crate::common::coloc().to_str().unwrap(), "var/usrlocal/bin/coloc");
    std::fs::create_dir_all(c.private("var/usrlocal/share/coloc")).unwrap();
    hand_in(&c, profiles.to_str().unwrap(), "var/usrlocal/share/coloc/profiles");
    let all = |root: &str| {
        format!(
            "set -e; export COLOC_ROOT={root}; coloc init --containers 2; \
             coloc base create mini --from /srv/mini; \
             coloc create in --profile room --network none; coloc start in; \
             coloc exec in -- cat /proc/self/uid_map; coloc check in; coloc stop in --timeout 2"
        )
    };
    // The kernel maps ids on a disk for nobody in a user namespace: that is said.
    let out = c.root_sh(&all("/srv/disk"));
    assert_eq!(out.code, 6, "{out:?}");
    assert!(out.stderr.contains("the disk's own host alone"), "{out:?}");
    let clean = "COLOC_ROOT=/srv/disk coloc delete in --yes; rm -r /srv/disk; : >/etc/subuid; : >/etc/subgid";
    c.root_sh(clean).ok();
    let said =
        c.root_sh(&format!("mkdir /srv/t; mount -t tmpfs none /srv/t; {}", all("/srv/t"))).ok();
    let map = said.lines().find(|l| l.trim_start().starts_with("0 ")).unwrap();
    let map: Vec<u32> = map.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    assert_eq!((map[0], map[2]), (0, 65536), "{said}");
    assert!(said.contains("root inside cannot change it"), "{said}");
    // One that has no ids to spare says so.
    let small =
        Container::started(store(), "small", &["--profile", "nest", "--set", "id_ranges=1"]);
    hand_in(&small, crate::common::coloc().to_str().unwrap(), "var/usrlocal/bin/coloc");
    let out = small.root_sh("coloc init");
    assert!(out.stderr.contains("leave too few for others"), "{out:?}");
    assert_eq!(out.code, 6);
}

#[test]
fn lab_has_few_limits_and_more_of_the_kernel() {
    let c = Container::started(store(), "lab", &["--profile", "lab"]);
    assert_eq!(c.root_sh("systemctl is-system-running").ok(), "running\n");
    assert_eq!(shown(&c, "limits.pids")["value"], Value::Null);
    // io_uring_setup(2) without its argument: EFAULT where it is allowed, EPERM where not.
    let probe = "perl -e 'syscall(425, 1, 0); print $!+0'";
    assert_eq!(c.root_sh(probe).ok(), "14");
    let member = Container::started(store(), "no-lab", &["--init", "builtin"]);
    assert_eq!(member.root_sh(probe).ok(), "1");
}

/// The lines of a script that boots a bundle of `c` in crun, where only cgroup v2 is to be seen:
/// crun refuses a hybrid host.
fn in_crun(c: &Container, then: &str) -> crate::common::Out {
    let bundle = format!("/run/coloc-it-{}", c.name);
    let (private, name) = (c.private(""), &c.name);
    let script = format!(
        "set -e\n\
         umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup\n\
         mkdir -p -m 755 {bundle}/rootfs; mount --bind {} {bundle}/rootfs; mount -o remount,bind,suid,nodev {bundle}/rootfs; cd {bundle}\n\
         cat >config.json\n\
         script -qec 'crun run {name}' /dev/null </dev/null >console 2>&1 &\n\
         trap 'crun kill {name} KILL; wait; crun delete -f {name}; umount {bundle}/rootfs; rm -r {bundle}' EXIT\n\
         for n in $(seq 300); do crun exec {name} true 2>/dev/null && break; sleep 0.1; done\n\
         {then}",
        private.display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let mut json: Value = serde_json::from_str(&c.ok("spec", &[])).unwrap();
    // Limits need controllers of v2, which a hybrid host has not.
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if host.contains(" - cgroup cgroup ") {
        json["linux"]["resources"]["memory"] = json!({});
        json["linux"]["resources"]["unified"] = json!({});
    }
    // crun raises a limit of its own before it puts a list of devices in front of a cgroup. Where
    // that is forbidden even to root, in a container for one, it can boot none with such a list.
    const SYS_RESOURCE: u64 = 1 << 24;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    if numbers(&own, "CapEff:") & SYS_RESOURCE == 0 {
        json["linux"]["resources"]["devices"] = json!([]);
        json["process"]["rlimits"] = json!([]);
    }
    let spec = json.to_string();
    crate::common::run_within(command, spec.as_bytes(), std::time::Duration::from_secs(120))
}

#[test]
fn a_spec_is_one_of_oci() {
    let c = Container::create(store(), "spec", &["--profile", "service"]);
    let text = c.ok("spec", &[]);
    let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
    let mut again = serde_json::to_value(&spec).unwrap();
    for set in again["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
        set.as_array_mut().unwrap().sort_by_key(Value::to_string);
    }
    // Nothing in it that the types of the spec drop, and the same each time.
    assert_eq!(again, serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!(text, c.ok("spec", &[]));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.resources().as_ref().unwrap().pids().as_ref().unwrap().limit(), 2048);
    let usr = spec.mounts().as_ref().unwrap().iter();
    let usr = usr.into_iter().find(|m| m.destination() == Path::new("/usr")).unwrap();
    assert_eq!(usr.uid_mappings().as_ref().unwrap()[0].host_id(), c.ids());
}

/// runc is not tried: Debian 12 has 1.1.5 and Debian 13 1.1.15, and a bundle's mounts with mapped ids,
/// which the `/usr` of a container is, are known to 1.2 and later alone.
#[test]
fn a_spec_boots_in_crun_as_it_is() {
    // Limits need controllers of v2, which a hybrid host has not.
    let c = Container::create(store(), "crun", &["--set", "pids=max"]);
    let name = &c.name;
    let out = in_crun(
        &c,
        &format!(
            "for n in $(seq 300); do case $(crun exec {name} systemctl is-system-running 2>&1) in \
             running|degraded) break;; esac; sleep 0.1; done\n\
             crun exec {name} systemctl is-system-running || crun exec {name} systemctl --failed\n\
             crun exec {name} sh -c 'touch /usr/x; grep ^Seccomp: /proc/1/status; \
             stat -c %u /usr/bin/sudo /usr/bin/env; cat /proc/self/uid_map; \
             cp /usr/bin/id /home/as-daemon; chown daemon /home/as-daemon; \
             chmod 4755 /home/as-daemon; /home/as-daemon -un'\n\
             crun exec {name} sh -c 'perl -e \"syscall(425, 1, 0); print \\$!+0\"'"
        ),
    );
    let said = out.text();
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    assert_eq!(lines.first(), Some(&"running"), "{out:?}");
    assert!(lines.contains(&"Seccomp:\t2") && lines.last() == Some(&"1"), "{out:?}");
    assert!(lines.iter().filter(|l| **l == "0").count() >= 1, "{out:?}");
    assert!(lines.contains(&"daemon"), "{out:?}");
    assert!(out.stderr.contains("Read-only file system"), "{out:?}");
    // And in coloc again, as if nothing had been.
    c.ok("start", &["--wait"]);
}

#[test]
fn a_room_boots_in_crun_too() {
    let c = Container::create(store(), "crun-room", &["--profile", "room", "--set", "pids=max"]);
    let out = in_crun(&c, &format!("crun exec {} id -u", c.name));
    assert_eq!(out.text(), "0\n", "{out:?}");
}

#[test]
fn hooks_run_at_their_points_with_the_state() {
    use std::os::unix::fs::PermissionsExt;
    let dir = store().root.join("hooks");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let script = store().root.join("hook.sh");
    // Where it is, by the inode of its root and its mount namespace.
    let text = "#!/bin/sh\n{ cat; echo; id -u; readlink /proc/self/ns/mnt; echo $WORD; } >$1\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hook = |point: &str| {
        let to = dir.join(point);
        json!([{"path": script, "args": ["hook", to], "env": ["WORD=there", "PATH=/bin:/usr/bin"]}])
    };
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat >/root/started; id -u >>/root/started"]}]);
    let fragment = json!({"extends": "room", "oci": {"hooks": {
        "createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"),
        "startContainer": inside, "poststart": hook("poststart"), "poststop": hook("poststop")
    }}});
    profile("hooks", &fragment.to_string());
    let c = Container::started(store(), "hooks", &["--profile", "hooks"]);
    let plan = c.ok("plan", &[]);
    assert!(
        plan.contains("run the hooks createContainer") && plan.contains("at poststop run"),
        "{plan}"
    );
    let mount_namespace = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let read = |point: &str| {
        let text = std::fs::read_to_string(dir.join(point)).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        let state: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((state["id"].as_str(), lines[3].as_str()), (Some(&*c.name), "there"), "{text}");
        assert_eq!(lines[1], "0");
        (state, lines[2] == mount_namespace.to_string_lossy())
    };
    assert!(!dir.join("poststop").exists());
    let init = c.status()["pid"].clone();
    for (point, status, pid, on_host) in [
        ("createRuntime", "creating", init.clone(), true),
        ("createContainer", "creating", json!(1), false),
        ("poststart", "running", init, true),
    ] {
        let (state, host) = read(point);
        assert_eq!(
            (state["status"].as_str(), &state["pid"], host),
            (Some(status), &pid, on_host),
            "{point}"
        );
    }
    let started = c.root_sh("cat /root/started").ok();
    assert!(started.contains("\"status\":\"created\"") && started.ends_with("0\n"), "{started}");
    c.ok("stop", &["--timeout", "0"]);
    crate::common::until("poststop", || dir.join("poststop").exists());
    let (state, host) = read("poststop");
    assert_eq!((state["status"].as_str(), state.get("pid"), host), (Some("stopped"), None, true));
}

/// A hook can look at the container's limits, and change them.
#[test]
fn a_hook_finds_the_limits_in_force() {
    use std::os::unix::fs::PermissionsExt;
    let (script, seen) = (store().root.join("look.sh"), store().root.join("limit-seen"));
    let text = r#"#!/bin/sh
        pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
        at=/sys/fs/cgroup/pids$(sed -n 's/^[0-9]*:pids://p' /proc/$pid/cgroup)
        [ -e $at/pids.max ] || at=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)
        cat $at/pids.max >$1
    "#;
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hook = json!([{"path": script, "args": ["look", seen], "env": ["PATH=/bin:/usr/bin"]}]);
    let fragment = json!({"extends": "room", "oci": {"hooks": {"createRuntime": hook}}});
    profile("looking", &fragment.to_string());
    let c = Container::create(store(), "looking", &["--profile", "looking", "--set", "pids=41"]);
    for verb in ["start", "restart"] {
        c.ok(verb, &[]);
        assert_eq!(std::fs::read_to_string(&seen).unwrap(), "41\n");
        std::fs::remove_file(&seen).unwrap();
    }
}

#[test]
fn a_hook_that_fails_ends_the_start_and_leaves_nothing() {
    for (point, path) in [
        ("createRuntime", "/bin/false"),
        ("createContainer", "/nowhere"),
        ("startContainer", "/bin/false"),
    ] {
        let text = json!({"extends": "room", "oci": {"hooks": {point: [{"path": path}]}}});
        profile("bad-hook", &text.to_string());
        let c = Container::create(store(), "bad-hook", &["--profile", "bad-hook"]);
        let said = c.run("start", &[]).fails(1);
        assert!(said.contains(&format!("hook {point} {path}")), "{said}");
        assert_eq!(c.word(), "stopped");
        assert!(c.cgroups().is_empty(), "{:?}", c.cgroups());
    }
    let slow = json!({"extends": "room", "oci": {"hooks": {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1}]}}});
    profile("slow-hook", &slow.to_string());
    let c = Container::create(store(), "slow-hook", &["--profile", "slow-hook"]);
    assert!(c.run("start", &[]).fails(1).contains("takes too long"));
}
