//! What goes in and comes out by exec and shell.

use std::process::Command;
use std::sync::OnceLock;

use crate::common::{Container, Out, Store, coloc, host_user, run, run_within, sh, store, until};

/// One container for all tests in here; it goes with its store.
fn inside() -> &'static Container<'static> {
    static CONTAINER: OnceLock<Container<'static>> = OnceLock::new();
    CONTAINER.get_or_init(|| Container::started(store(), "enter", &["--owner", host_user()]))
}

#[track_caller]
fn exec(command: &[&str]) -> Out {
    inside().run("exec", &[&["--"], command].concat())
}

fn program(verb: &str) -> String {
    let c = inside();
    format!("{} --root {} {verb} {}", coloc().display(), c.store.root.display(), c.name)
}

#[test]
fn exit_codes_are_the_programs() {
    for (code, command) in [
        (0, &["true"][..]),
        (1, &["false"]),
        (7, &["sh", "-c", "exit 7"]),
        (255, &["sh", "-c", "exit 255"]),
        (137, &["sh", "-c", "kill -9 $$"]),
        (143, &["sh", "-c", "kill -TERM $$"]),
        (168, &["sh", "-c", "kill -40 $$"]),
        (192, &["sh", "-c", "kill -64 $$"]),
        (127, &["no-such-program"]),
        (127, &["/no/such/program"]),
        (126, &["/etc"]),
        (126, &["/etc/passwd"]),
    ] {
        let out = exec(command);
        assert_eq!(out.code, code, "{command:?}: {}", out.stderr);
    }
}

#[test]
fn whatever_signal_ended_it_is_told() {
    let tiny = Store::mini("signals", 2);
    let room = Container::started(&tiny, "room", &["--init", "builtin"]);
    for c in [inside(), &room] {
        for (code, script) in [(143, "kill -15 $$"), (168, "kill -40 $$"), (192, "kill -64 $$")] {
            assert_eq!(c.root_sh(script).code, code, "{}: {script}", c.name);
            let line = format!(
                "{} --root {} exec {} --user root -- sh -c '{script}'",
                coloc().display(),
                c.store.root.display(),
                c.name
            );
            let mut on_terminal = Command::new("script");
            on_terminal.args(["-qec", &line, "/dev/null"]);
            let out = run(on_terminal);
            assert_eq!(out.code, code, "on a terminal, {}: {script}: {}", c.name, out.text());
        }
    }
    // The room's init takes those that died so for its own.
    room.root_sh("for i in 1 2 3; do sh -c 'sh -c \"kill -40 \\$\\$\" &' & done; wait").ok();
    until("all are reaped", || !room.root_sh("ps -o stat").ok().contains('Z'));
}

#[test]
fn coloc_own_failures_are_125() {
    let c = inside();
    let said = c.run("exec", &["--user", "nobody-at-all", "--", "true"]).fails(125);
    assert!(said.contains("nobody-at-all"), "{said}");
    c.run("exec", &["--cwd", "/no/such/dir", "--", "true"]).fails(125);
    c.run("exec", &["--env", "novalue", "--", "true"]).fails(125);
    c.run("exec", &["--user", "70000", "--", "true"]).fails(125);
    c.run("exec", &[]).fails(125);
    c.store.fails(125, &["exec", "no-such-container", "--", "true"]);
    let stopped = Container::create(store(), "stopped", &[]);
    let said = stopped.root(&["true"]).fails(125);
    assert!(said.contains("does not run"), "{said}");
    stopped.run("shell", &["--", "true"]).fails(125);
}

#[test]
fn output_and_errors_stay_apart() {
    let out = exec(&["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((out.text().as_str(), out.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn five_megabytes_pass_unchanged_both_ways() {
    let mut x: u32 = 1;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    })
    .take(5 << 20)
    .collect();
    let c = inside();
    let cat = c.store.command(&["exec", &c.name, "--", "cat"]);
    let out = run_within(cat, &bytes, std::time::Duration::from_secs(120));
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout == bytes, "{} bytes came back", out.stdout.len());
}

#[test]
fn the_end_of_input_is_passed_on() {
    let out = sh(&format!("printf 'a\\nb\\n' | {} -- wc -l", program("exec")));
    assert_eq!(out.ok().trim(), "2");
    assert_eq!(exec(&["cat"]).ok(), "");
}

#[test]
fn a_program_that_does_not_read_its_input_ends_all_the_same() {
    sh(&format!("sleep 300 | {{ {} -- true; kill -9 $(pgrep -P $$ -x sleep); }}", program("exec")))
        .ok();
}

#[test]
fn a_job_in_the_background_holds_nothing_up() {
    let out = exec(&["sh", "-c", "sleep 1000 & echo begun"]);
    assert_eq!(out.ok(), "begun\n");
    inside().root(&["pkill", "-x", "sleep"]);
}

#[test]
fn the_environment_is_clean() {
    let c = inside();
    let mut command = c.store.command(&["exec", &c.name, "--", "env"]);
    command.env("FOO", "leak").env("TERM", "vt100").env("LANG", "C.UTF-8").env("LC_ALL", "C");
    let text = run(command).ok();
    let mut keys: Vec<_> = text.lines().filter_map(|l| l.split_once('=')).map(|p| p.0).collect();
    keys.sort_unstable();
    let want = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "container"];
    assert_eq!(keys, want, "{text}");
}

#[test]
fn variables_and_a_directory_can_be_given() {
    let args = ["--env", "A=1", "--env", "HOME=/x y", "--cwd", "/var/log", "--"];
    let script = ["sh", "-c", "echo $A-$HOME-$PWD"];
    assert_eq!(inside().ok("exec", &[&args[..], &script].concat()), "1-/x y-/var/log\n");
}

#[test]
fn the_user_is_the_owner_or_whoever_is_asked_for() {
    let who = |args: &[&str]| {
        let script = ["--", "sh", "-c", "echo $(id -un):$(id -u):$PWD"];
        inside().ok("exec", &[args, &script].concat())
    };
    assert!(who(&[]).starts_with("colocit:"), "{}", who(&[]));
    assert!(who(&[]).ends_with(":/home/colocit\n"), "{}", who(&[]));
    assert_eq!(who(&["--user", "root"]), "root:0:/root\n");
    assert_eq!(who(&["--user", "0"]), "root:0:/root\n");
    let groups = exec(&["id", "-Gn"]).ok();
    assert!(groups.split_whitespace().any(|g| g == "sudo"), "{groups}");
    let ids = inside().ok("exec", &["--user", "4321:1234", "--", "sh", "-c", "id -u; id -g"]);
    assert_eq!(ids, "4321\n1234\n");
    assert_eq!(exec(&["sudo", "-n", "id", "-u"]).ok(), "0\n");
}

#[test]
fn no_descriptor_of_the_host_is_inside() {
    for user in ["root", "colocit"] {
        let list = format!("{} --user {user} -- ls /proc/self/fd", program("exec"));
        let out = sh(&format!("exec 7</etc 8</etc/hostname; exec {list}"));
        // The fourth is the directory that ls reads.
        assert_eq!(out.ok(), "0\n1\n2\n3\n");
    }
    let init = inside().root_sh("ls -l /proc/1/fd /proc/*/fd").text();
    for line in init.lines().filter(|l| l.contains(" -> /")) {
        let to = line.rsplit(" -> ").next().unwrap();
        assert!(!to.contains("coloc-it") && !to.starts_with("/work"), "{line}");
    }
}

#[test]
fn the_standard_streams_can_be_opened_again() {
    let out = exec(&["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"]);
    assert_eq!((out.text().as_str(), out.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn shell_is_a_login_session() {
    let c = inside();
    let sessions = c.ok("shell", &["--", "loginctl", "list-sessions", "--no-legend"]);
    assert!(sessions.contains("colocit"), "{sessions}");
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do s=$(systemctl --user is-system-running); \
                  [ \"$s\" = running ] && break; sleep 1; done; echo $s";
    assert_eq!(c.ok("shell", &["--", "sh", "-c", script]), "running\n");
}

#[test]
fn shell_passes_words_and_exit_codes() {
    let c = inside();
    let out = c.run(
        "shell",
        &["--", "sh", "-c", "printf '%s|' \"$@\"; exit 9", "-", "a b", "it's", "$HOME"],
    );
    assert_eq!((out.code, out.text().as_str()), (9, "a b|it's|$HOME|"), "{}", out.stderr);
    assert_eq!(c.ok("shell", &["--user", "root", "--", "id", "-u"]), "0\n");
}

#[test]
fn on_a_terminal_there_is_a_terminal_inside() {
    for verb in ["shell", "exec"] {
        let out = sh(&format!("script -qec '{} -- tty' /dev/null", program(verb)));
        let text = out.ok();
        assert!(text.contains("/dev/pts/"), "{verb}: {text}");
    }
    let out = sh(&format!(
        "script -qec 'stty rows 33 cols 77; {} -- stty size' /dev/null",
        program("exec")
    ));
    assert!(out.text().contains("33 77"), "{}", out.text());
    let out = sh(&format!("script -qec '{} -- sh -c \"exit 5\"' /dev/null", program("exec")));
    assert_eq!(out.code, 5);
}

#[test]
fn nothing_is_lost_when_input_ends_before_a_slow_reader_reads() {
    let out = sh(&format!(
        "sleep 0.7 | {} -- head -c 20000000 /dev/zero | (sleep 1.5; wc -c)",
        program("exec")
    ));
    assert_eq!(out.ok().trim(), "20000000");
}

#[test]
fn signals_that_the_caller_ignores_are_not_ignored_inside() {
    let out = sh(&format!(
        "env --ignore-signal=HUP,INT,QUIT,USR1 {} -- grep SigIgn /proc/self/status",
        program("exec")
    ));
    let mask = out.ok();
    let bits = u64::from_str_radix(mask.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(bits & 0b10_0000_0111, 0, "{mask}");
}
