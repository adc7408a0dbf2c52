//! Start, stop, reboot, freeze, and a supervisor that is killed.

use std::process::Command;

use crate::common::{Container, Store, coloc, host_user, kill, run, sh, store, until};

#[test]
fn systemd_inside_is_running_with_no_failed_unit() {
    let c = Container::started(store(), "boot", &["--owner", host_user()]);
    assert_eq!(c.root(&["systemctl", "is-system-running"]).ok(), "running\n");
    assert_eq!(c.root(&["systemctl", "--failed", "--no-legend", "--plain"]).ok(), "");
    assert_eq!(c.status()["init"], "systemd");
    assert_eq!(c.root(&["hostname"]).ok().trim(), c.name);
}

#[test]
fn starting_and_stopping_twice_is_no_error() {
    let c = Container::create(store(), "twice", &[]);
    assert!(c.ok("stop", &[]).contains("does not run"));
    c.ok("start", &["--wait"]);
    let pid = c.status()["pid"].clone();
    assert!(c.ok("start", &[]).contains("already"));
    assert_eq!(c.status()["pid"], pid);
    assert!(c.ok("stop", &[]).contains("stopped"));
    assert!(c.ok("stop", &[]).contains("does not run"));
    assert_eq!(c.word(), "stopped");
    assert_eq!(c.cgroups(), [""; 0]);
}

#[test]
fn list_and_status_have_their_keys() {
    let c = Container::started(store(), "keys", &["--owner", host_user()]);
    let rows = c.store.json(&["list", "--json"]);
    let row = rows.as_array().unwrap().iter().find(|r| r["name"] == c.name.as_str()).unwrap();
    assert_eq!(row["state"], "running");
    assert_eq!(row["base"], "debian");
    assert_eq!((&row["generation"], &row["current_generation"]), (&1.into(), &1.into()));
    assert_eq!(row["owners"][0], host_user());
    assert_eq!((&row["init"], &row["network"]), (&"systemd".into(), &"private".into()));
    assert!(row["pid"].as_i64().unwrap() > 1 && row["profile"].is_string());
    let status = c.status();
    for key in ["uptime_seconds", "processes", "memory", "disk", "supervisor_pid"] {
        assert!(status[key].is_u64(), "{key}: {status}");
    }
    for key in ["started", "machine_id", "cgroup", "path"] {
        assert!(status[key].is_string(), "{key}: {status}");
    }
    assert_eq!(status["ids"]["count"], 65536);
    let everything = c.store.ok(&["status"]);
    assert!(everything.contains(&c.name) && c.store.ok(&["list"]).contains(&c.name));
}

/// Its supervisor has signals blocked, and so had what it started.
#[test]
fn what_a_reboot_starts_anew_ends_with_the_last_container() {
    let store = Store::mini("reboot-names", 2);
    store.ok(&["create", "again", "--init", "builtin"]);
    store.ok(&["start", "again"]);
    let pid = || store.json(&["status", "again", "--json"])["pid"].as_i64();
    let before = pid().unwrap();
    store.run(&["exec", "again", "--user", "root", "--", "busybox", "reboot", "-f"]);
    until("it is there again", || pid().is_some_and(|now| now != before));
    let names = format!("pgrep -f -- '[-]-conf-file={}/run/coloc'", store.root.display());
    assert_eq!(sh(&names).code, 0, "there is no dnsmasq");
    store.ok(&["delete", "again", "--force", "--yes"]);
    until("dnsmasq has ended", || sh(&names).code != 0);
}

#[test]
fn a_reboot_from_inside_comes_back() {
    let c = Container::started(store(), "reboot", &[]);
    let first = c.status()["pid"].as_i64().unwrap();
    c.root(&["systemctl", "--no-block", "reboot"]);
    until("another init runs", || c.status()["pid"].as_i64().is_some_and(|pid| pid != first));
    c.ok("start", &["--wait"]);
    assert_eq!(c.root(&["systemctl", "is-system-running"]).ok(), "running\n");
    c.ok("stop", &[]);
    assert_eq!(c.cgroups(), [""; 0]);
}

/// While the lock of an update keeps its supervisor waiting, that one writes down what it has changed.
#[test]
fn what_ends_in_the_middle_of_an_update_is_cleaned_up() {
    let c = Container::started(store(), "ends-updated", &["--init", "builtin"]);
    let (first, run) = (c.status()["pid"].as_i64().unwrap(), c.store.root.join("run/coloc"));
    let lock = std::fs::File::open(run.join(format!("locks/container.{}", c.name))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    kill(first);
    until("its init has ended", || !std::path::Path::new(&format!("/proc/{first}")).exists());
    let file = run.join(format!("containers/{}/state.json", c.name));
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["swapped"] = 1.into();
    std::fs::write(&file, state.to_string()).unwrap();
    drop(lock);
    until("it is cleaned up", || c.cgroups().is_empty());
    assert_eq!(c.word(), "stopped");
}

#[test]
fn a_poweroff_from_inside_stops_it_and_leaves_no_cgroup() {
    let c = Container::started(store(), "poweroff", &[]);
    assert!(!c.cgroups().is_empty());
    c.root(&["systemctl", "--no-block", "poweroff"]);
    until("it is stopped", || c.word() == "stopped");
    until("its cgroups are gone", || c.cgroups().is_empty());
    c.ok("start", &[]);
    assert_eq!(c.word(), "running");
}

#[test]
fn a_frozen_container_is_not_entered_and_goes_on_when_thawed() {
    let c = Container::started(store(), "frozen", &[]);
    c.ok("freeze", &[]);
    assert_eq!(c.word(), "frozen");
    let said = c.root(&["true"]).fails(125);
    assert!(said.contains("frozen"), "{said}");
    c.ok("freeze", &[]);
    c.ok("thaw", &[]);
    assert_eq!(c.word(), "running");
    c.root(&["true"]).ok();
    c.ok("freeze", &[]);
    c.ok("stop", &[]);
    assert_eq!(c.word(), "stopped");
    let said = c.run("freeze", &[]).fails(4);
    assert!(said.contains("does not run"), "{said}");
}

#[test]
fn a_running_container_is_deleted_only_by_force() {
    let c = Container::started(store(), "force", &[]);
    let said = c.run("delete", &["--yes"]).fails(4);
    assert!(said.contains("running"), "{said}");
    c.root(&["true"]).ok();
    c.ok("delete", &["--yes", "--force"]);
    c.run("status", &[]).fails(3);
    assert_eq!(c.cgroups(), [""; 0]);
}

#[test]
fn stop_with_no_time_kills() {
    let c = Container::started(store(), "killed", &[]);
    assert!(c.ok("stop", &["--timeout", "0"]).contains("killed"));
    assert_eq!(c.word(), "stopped");
    assert_eq!(c.cgroups(), [""; 0]);
}

#[test]
fn a_stop_right_after_a_start_is_heard() {
    let c = Container::create(store(), "hasty", &[]);
    for _ in 0..3 {
        c.ok("start", &[]);
        let said = c.ok("stop", &["--timeout", "50"]);
        assert!(said.contains("stopped"), "{said}");
    }
}

/// One that is slow to end does not keep the next from beginning to.
#[test]
fn those_that_are_stopped_together_end_together() {
    let slow = ["slow-a", "slow-b"].map(|word| Container::started(store(), word, &[]));
    for c in &slow {
        c.root_sh(
            "systemd-run --quiet --collect --unit slow -p RemainAfterExit=yes \
             -p ExecStop='sh -c \"touch /var/asked; until test -e /var/let-go; do sleep 0.1; done\"' true",
        )
        .ok();
    }
    let names = [slow[0].name.as_str(), slow[1].name.as_str()];
    let mut stop = store().command(&["stop", names[0], names[1], "--timeout", "80"]);
    let stop = stop.stdout(std::process::Stdio::piped()).spawn().unwrap();
    until("both were asked", || slow.iter().all(|c| c.private("var/asked").exists()));
    let stops = |c: &Container| {
        let told = store().json(&["journal", &c.name, "--json"]);
        told.as_array().unwrap().iter().filter(|event| event["verb"] == "stop").count()
    };
    // Were the command killed now, both have been told who does this.
    assert_eq!(slow.each_ref().map(stops), [1, 1]);
    for c in &slow {
        std::fs::write(c.private("var/let-go"), "").unwrap();
    }
    let said = String::from_utf8(stop.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said, format!("stopped {}\nstopped {}\n", names[0], names[1]));
    assert_eq!(slow.each_ref().map(stops), [1, 1]);
    // With no time nobody is asked.
    for c in &slow {
        c.ok("start", &[]);
    }
    let said = store().ok(&["stop", names[0], names[1], "--timeout", "0"]);
    assert_eq!(said, format!("killed {}\nkilled {}\n", names[0], names[1]));
}

#[test]
fn restart_gives_a_new_init() {
    let c = Container::started(store(), "restart", &["--init", "builtin"]);
    let pid = c.status()["pid"].clone();
    c.ok("restart", &[]);
    assert_ne!(c.status()["pid"], pid);
    assert_eq!(c.word(), "running");
}

#[test]
fn a_room_with_the_builtin_init_runs_and_stops_when_asked() {
    let c = Container::started(store(), "room", &["--init", "builtin"]);
    assert_eq!(c.status()["init"], "builtin");
    c.root(&["true"]).ok();
    c.root_sh("sleep 1000 >/dev/null 2>&1 & exit 0").ok();
    assert_eq!(c.ok("stop", &["--timeout", "30"]), format!("stopped {}\n", c.name));
    assert_eq!(c.cgroups(), [""; 0]);
}

#[test]
fn names_that_fail_do_not_keep_the_others() {
    let store = Store::mini("many", 3);
    let c = Container::create(&store, "one", &["--init", "builtin"]);
    store.fails(3, &["start", "missing", &c.name]);
    assert_eq!(c.word(), "running");
    store.fails(3, &["stop", "--timeout", "5", "missing", &c.name]);
    assert_eq!(c.word(), "stopped");
    store.ok(&["start", "--all"]);
    assert_eq!(c.word(), "running");
    store.ok(&["stop", "--all"]);
    assert_eq!(c.word(), "stopped");
}

fn interfaces(text: &str) -> Vec<String> {
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(name, _)| name.trim().to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn the_network_is_private_or_the_hosts() {
    let host = Container::started(store(), "net-host", &["--network", "host", "--init", "builtin"]);
    let own = Container::started(store(), "net-own", &["--init", "builtin"]);
    let here = std::fs::read_to_string("/proc/net/dev").unwrap();
    let inside = |c: &Container<'_>| interfaces(&c.root(&["cat", "/proc/net/dev"]).ok());
    assert_eq!(inside(&host), interfaces(&here));
    assert_eq!(inside(&own), ["host0", "lo"]);
    let lo = own.root(&["ip", "-o", "link", "show", "lo"]).ok();
    assert!(lo.contains("UP"), "{lo}");
}

#[test]
fn systemd_on_the_hosts_network_is_running_with_no_failed_unit() {
    let c = Container::create(store(), "net-boot", &["--network", "host"]);
    let out = c.run("start", &["--wait"]);
    let failed = c.root(&["systemctl", "--failed", "--no-legend", "--plain"]).text();
    assert_eq!((out.code, failed.as_str()), (0, ""), "{}", out.stderr);
}

#[test]
fn without_its_supervisor_a_container_goes_on_and_gets_a_new_one() {
    let c = Container::started(store(), "orphan", &[]);
    let init = c.status()["pid"].clone();
    kill(c.status()["supervisor_pid"].as_i64().unwrap());
    until("the supervisor is gone", || c.status()["supervisor_pid"].is_null());
    assert_eq!(c.word(), "running");
    assert!(c.ok("status", &[]).contains("gone"));
    c.root(&["true"]).ok();
    let said = c.ok("start", &[]);
    assert!(said.contains("its supervisor was gone"), "{said}");
    assert_eq!(c.status()["pid"], init);
    assert!(c.status()["supervisor_pid"].is_u64());
    c.root(&["true"]).ok();
    c.ok("stop", &[]);
    assert_eq!(c.word(), "stopped");
    assert_eq!(c.cgroups(), [""; 0]);
}

#[test]
fn what_a_caller_has_open_is_not_kept_open() {
    for (word, init) in [("held", "auto"), ("held2", "builtin")] {
        let c = Container::create(store(), word, &["--init", init]);
        let root = c.store.root.display();
        for verb in ["start", "restart"] {
            sh(&format!(
                "exec 7>{root}/{word} && flock -n 7 && exec {} --root {root} {verb} {}",
                coloc().display(),
                c.name
            ))
            .ok();
            assert_eq!(c.word(), "running");
            // The lock went with the command, and is not the supervisor's.
            sh(&format!("flock -n {root}/{word} true")).ok();
        }
    }
}

#[test]
fn without_its_supervisor_a_container_can_be_stopped_and_cleaned_up() {
    let c = Container::started(store(), "orphan2", &["--init", "builtin"]);
    kill(c.status()["supervisor_pid"].as_i64().unwrap());
    until("the supervisor is gone", || c.status()["supervisor_pid"].is_null());
    c.ok("stop", &[]);
    assert_eq!(c.cgroups(), [""; 0]);
    c.ok("start", &[]);
    // Both die: the next start has to clean up what they left.
    let status = c.status();
    kill(status["supervisor_pid"].as_i64().unwrap());
    kill(status["pid"].as_i64().unwrap());
    until("it is stopped", || c.word() == "stopped");
    c.ok("start", &[]);
    c.root(&["true"]).ok();
}

#[test]
fn logs_show_what_init_wrote() {
    let c = Container::started(store(), "logs", &[]);
    let log = c.ok("logs", &[]);
    assert!(log.contains("systemd") || log.contains("Debian"), "{log}");
    c.root_sh("echo a-line-on-the-console > /dev/console").ok();
    until("the line is in the log", || c.ok("logs", &[]).contains("a-line-on-the-console"));
}

#[test]
fn the_console_is_attached_to_and_left() {
    let c = Container::started(store(), "console", &["--init", "builtin"]);
    let program = format!(
        "{} --root {} console {}",
        crate::common::coloc().display(),
        c.store.root.display(),
        c.name
    );
    // script(1) gives it a terminal; three times ^] leave it.
    let out = sh(&format!(
        "(sleep 1; printf '\\035\\035\\035'; sleep 5) | timeout 60 script -qec '{program}' /dev/null"
    ));
    assert_eq!(out.code, 0, "{} {}", out.text(), out.stderr);
    assert_eq!(c.word(), "running");
}

#[test]
fn the_plan_is_printed_without_doing_it() {
    let c = Container::create(store(), "plan", &[]);
    let plan = c.ok("plan", &[]);
    assert!(plan.contains("map ids") && plan.contains("/usr"), "{plan}");
    assert_eq!(c.word(), "stopped");
}

#[test]
fn a_container_whose_state_is_lost_is_found_again() {
    let c = Container::started(store(), "lost", &[]);
    let state = c.store.root.join(format!("run/coloc/containers/{}/state.json", c.name));
    let before = c.status();
    let lose = || std::fs::remove_file(&state).unwrap();
    lose();
    // Looking changes nothing.
    assert_eq!(c.word(), "damaged");
    c.store.fails(4, &["delete", "--yes", &c.name]);
    lose();
    let said = c.run("start", &[]);
    assert!(said.stderr.contains("found again"), "{}", said.stderr);
    assert_eq!(said.code, 0);
    let after = c.status();
    for key in ["state", "pid", "supervisor_pid", "generation", "init", "cgroup"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    c.root(&["true"]).ok();
    // Its services are stopped one by one, as by any other stop, and nothing is left.
    let unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=touch /root/asked\n";
    c.root_sh(&format!("printf '{unit}' > /run/systemd/system/polite.service")).ok();
    c.root_sh("systemctl start polite.service").ok();
    lose();
    let said = c.ok("stop", &[]);
    assert!(said.contains("stopped"), "{said}");
    assert!(c.private("root/asked").exists());
    assert_eq!(c.cgroups(), [""; 0]);
    c.ok("start", &[]);
    // With its supervisor gone too.
    kill(c.status()["supervisor_pid"].as_i64().unwrap());
    until("the supervisor is gone", || c.status()["supervisor_pid"].is_null());
    lose();
    assert!(c.ok("stop", &[]).contains("stopped"));
    assert_eq!(c.cgroups(), [""; 0]);
}

/// Without an init there is nobody to ask.
#[test]
fn what_is_left_in_the_cgroup_of_a_container_is_killed() {
    let c = Container::started(store(), "rest", &["--init", "builtin"]);
    let cgroup = std::path::PathBuf::from(c.status()["cgroup"].as_str().unwrap());
    c.ok("stop", &[]);
    std::fs::create_dir_all(&cgroup).unwrap();
    let mut stray = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(cgroup.join("cgroup.procs"), stray.id().to_string()).unwrap();
    let said = c.store.fails(4, &["start", &c.name]);
    assert!(said.contains("is lost"), "{said}");
    c.store.fails(4, &["delete", "--yes", &c.name]);
    assert!(c.ok("stop", &[]).contains("killed"));
    stray.wait().unwrap();
    c.ok("start", &[]);
    c.root(&["true"]).ok();
}

/// What is born in a cgroup whose processes were once killed together is killed at once.
#[test]
fn a_cgroup_that_an_earlier_start_left_is_made_anew() {
    let c = Container::started(store(), "left-over", &["--init", "builtin"]);
    let payload = std::path::PathBuf::from(c.status()["cgroup"].as_str().unwrap());
    c.ok("stop", &[]);
    let leave = || {
        std::fs::create_dir_all(payload.join("inner")).unwrap();
        std::fs::write(payload.join("cgroup.kill"), "1").unwrap();
    };
    leave();
    c.ok("start", &[]);
    c.root(&["true"]).ok();
    c.ok("stop", &[]);
    leave();
    let inner = payload.join("inner").display().to_string();
    sh(&format!("mount -t tmpfs none {inner} && mkdir {inner}/others")).ok();
    let said = c.run("start", &[]);
    let kept = payload.join("inner/others").exists();
    sh(&format!("umount {inner}")).ok();
    let said = said.fails(4);
    assert!(said.contains("payload of an earlier start cannot be removed: Device"), "{said}");
    assert!(kept, "what others have mounted there is theirs");
    c.ok("start", &[]);
    c.root(&["true"]).ok();
    c.ok("stop", &[]);
    assert_eq!(c.cgroups(), [""; 0]);
}

/// The container is half made by then.
#[test]
fn what_cannot_be_furnished_does_not_start_and_leaves_nothing() {
    let c = Container::create(store(), "unfurnished", &[]);
    let spec = c.private("..").join("config.json");
    let _ = std::fs::remove_file(&spec);
    std::fs::create_dir_all(spec.join("in the way")).unwrap();
    let said = c.store.fails(1, &["start", &c.name]);
    assert!(said.contains("config.json"), "{said}");
    assert_eq!(c.word(), "stopped");
    assert_eq!(c.cgroups(), [""; 0]);
    std::fs::remove_dir_all(&spec).unwrap();
    c.ok("start", &[]);
    c.root(&["true"]).ok();
}

/// Has the rest of its arguments run without a system call, as a kernel that is too old would.
#[cfg(target_arch = "x86_64")]
const WITHOUT: &str = r#"$p = pack "SCCL" x 4, 0x20, 0, 0, 0, 0x15, 0, 1, shift, 6, 0, 0, 0x50026, 6, 0, 0, 0x7fff0000;
$f = pack "Sx6P", 4, $p; syscall(157, 22, 2, $f) == 0 or die "prctl: $!"; exec @ARGV"#;

#[cfg(target_arch = "x86_64")]
#[test]
fn what_the_kernel_lacks_is_named_and_nothing_is_left() {
    for (word, args) in [("lacking", &[][..]), ("lacking-builtin", &["--init", "builtin"])] {
        let c = Container::create(store(), word, args);
        for (name, number) in [
            ("clone3", 435),
            ("openat2", 437),
            ("mount_setattr", 442),
            ("open_tree", 428),
            ("move_mount", 429),
            ("fsopen", 430),
            ("close_range", 436),
            ("seccomp", 317),
        ] {
            let mut command = Command::new("perl");
            command.args(["-e", WITHOUT, &number.to_string()]).arg(coloc());
            command.arg("--root").arg(&c.store.root).args(["start", &c.name]);
            let said = run(command).fails(6);
            assert!(
                said.contains(&format!("{name}(")) || said.contains(&format!("{name}:")),
                "{said}"
            );
            assert!(said.contains("Linux 6.1 or newer") && said.len() < 300, "{said}");
            assert_eq!(c.word(), "stopped");
            assert!(c.cgroups().is_empty(), "{name}: {:?}", c.cgroups());
        }
        c.ok("start", &[]);
    }
}
