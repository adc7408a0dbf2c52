//! Members: an ordinary user of the host, who goes through the broker.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::{Container, Out, Store, coloc, run, run_within, sh, store, turn, until};

/// A host user whose containers these tests alone make.
pub(crate) fn member() -> &'static str {
    add("colocmem")
}

pub(crate) fn add(user: &'static str) -> &'static str {
    let _turn = turn();
    sh(&format!("id {user} >/dev/null 2>&1 || useradd -M {user}")).ok();
    user
}

/// A store whose broker runs until this process ends, and a coloc that members may execute.
pub(crate) struct Served<'a> {
    pub(crate) store: &'a Store,
    pub(crate) program: PathBuf,
    broker: Child,
}

const WATCH: &str = r#""$1" --root "$2" serve & broker=$!
trap 'kill $broker' TERM
while kill -0 "$3" 2>/dev/null && kill -0 $broker; do sleep 0.2; done; kill $broker"#;

impl<'a> Served<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        let mut broker = Command::new("sh");
        broker.args(["-c", WATCH, "sh"]).arg(coloc()).arg(&store.root);
        broker.arg(std::process::id().to_string());
        Self::by(store, broker)
    }

    fn by(store: &'a Store, mut broker: Command) -> Self {
        member();
        let program = store.root.join("coloc");
        std::fs::copy(coloc(), &program).unwrap();
        let _ = std::fs::remove_file(store.root.join("coloc-shell"));
        std::os::unix::fs::symlink("coloc", store.root.join("coloc-shell")).unwrap();
        broker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let served = Self { store, program, broker: broker.spawn().unwrap() };
        until("the broker listens", || UnixStream::connect(served.socket()).is_ok());
        served
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.store.root.join("run/coloc/coloc.sock")
    }

    /// The words that run a shell line as the member, `coloc` being ours.
    pub(crate) fn member(&self, script: &str) -> Command {
        self.user(member(), script)
    }

    pub(crate) fn user(&self, user: &str, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--init-groups", "env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=vt100"]);
        let define = format!(
            "PROGRAM={} ROOT={}; coloc() {{ $PROGRAM --root $ROOT \"$@\"; }}; \
             export PROGRAM ROOT; {script}",
            self.program.display(),
            self.store.root.display()
        );
        command.args(["bash", "-c", &define]).current_dir("/");
        command
    }

    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> Out {
        run(self.member(script))
    }

    /// The same on a terminal.
    #[track_caller]
    pub(crate) fn on_terminal(&self, script: &str) -> Out {
        self.sh(&format!(
            "export -f coloc; SHELL=/bin/bash script -qec '{}' /dev/null",
            script.replace('\'', r"'\''")
        ))
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.broker.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.broker.wait();
    }
}

pub(crate) struct House {
    pub(crate) served: Served<'static>,
    pub(crate) own: Container<'static>,
    pub(crate) other: Container<'static>,
}

/// One house for most of the tests.
pub(crate) fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| {
        let own = Container::started(store(), "mine", &["--owner", member()]);
        let other = Container::create(store(), "other", &[]);
        House { served: Served::new(store()), own, other }
    })
}

/// Runs a line as the member, where BOX is their container and OTHER somebody else's.
#[track_caller]
pub(crate) fn as_member(script: &str) -> Out {
    let h = house();
    h.served.sh(&script.replace("BOX", &h.own.name).replace("OTHER", &h.other.name))
}

#[track_caller]
pub(crate) fn on_terminal(script: &str) -> Out {
    let h = house();
    h.served.on_terminal(&script.replace("BOX", &h.own.name))
}

#[test]
fn a_member_sees_and_uses_what_is_theirs() {
    let h = house();
    let rows: serde_json::Value =
        serde_json::from_str(&as_member("coloc list --json").ok()).unwrap();
    let names: Vec<_> = rows.as_array().unwrap().iter().map(|r| r["name"].as_str()).collect();
    assert_eq!(names, [Some(h.own.name.as_str())]);
    assert!(as_member("coloc list").ok().contains(&h.own.name));
    assert!(as_member("coloc status").ok().contains(&h.own.name));
    assert!(as_member("coloc status BOX --json").ok().contains("machine_id"));
    assert_eq!(as_member("coloc exec BOX -- id -un").ok(), format!("{}\n", member()));
    assert_eq!(as_member("coloc exec BOX --user root -- id -u").ok(), "0\n");
    assert_eq!(
        as_member("coloc shell -- sh -c 'echo $USER:$HOME'").ok(),
        "colocmem:/home/colocmem\n"
    );
    assert!(as_member("coloc logs BOX").ok().contains("systemd"));
    assert!(as_member("coloc start BOX").ok().contains("already"));
    assert!(as_member("coloc start").ok().contains("already"));
}

#[test]
fn starting_and_stopping_is_the_members() {
    let store = Store::mini("memberlife", 4);
    let c = Container::create(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    let say = |line: &str| served.sh(&line.replace("BOX", &c.name)).ok();
    assert_eq!(say("coloc start BOX"), format!("started {}\n", c.name));
    assert_eq!(c.word(), "running");
    assert_eq!(say("coloc exec BOX -- id -un"), "colocmem\n");
    assert!(say("coloc restart --all --timeout 5").contains("started"));
    assert!(say("coloc stop BOX").contains("stopped"));
    assert_eq!(c.word(), "stopped");
    let said = served.sh(&format!("coloc exec {} -- true", c.name)).fails(125);
    assert!(said.contains("does not run"), "{said}");
    drop(c);
    let said = served.sh("coloc shell").fails(125);
    assert!(said.contains("has no container"), "{said}");
    assert_eq!(served.sh("coloc list --json").ok(), "[]\n");
}

#[test]
fn what_is_not_theirs_and_what_is_not_there_are_refused_alike() {
    let h = house();
    for line in [
        "status X",
        "show X",
        "show X --origin",
        "logs X",
        "logs -f X",
        "journal X",
        "console X",
        "start X",
        "start BOX X",
        "stop X --timeout 0",
        "restart X",
        "shell X",
        "shell X --user root",
        "exec X -- true",
        "exec X --user 0 -- true",
        "stale X",
        "stale X --restart",
        "conflicts X",
        "conflicts X /etc/passwd",
        "conflicts X /etc/passwd --take mine",
    ] {
        let mut told = Vec::new();
        for name in [h.other.name.as_str(), "no-such-container"] {
            let out = as_member(&format!(
                "coloc {}",
                line.replace('X', name).replace("BO", "BOX").replace(&format!("BO{name}"), "BOX")
            ));
            assert_eq!(out.text(), "", "{line}");
            told.push((out.code, out.stderr.replace(name, "X")));
        }
        assert_eq!(told[0], told[1], "{line}");
        let want = if line.starts_with("shell") || line.starts_with("exec") { 125 } else { 5 };
        assert_eq!(told[0].0, want, "{line}: {}", told[0].1);
        assert!(told[0].1.contains("no container of yours"), "{line}: {}", told[0].1);
    }
    assert_eq!(h.other.word(), "stopped");
    assert_eq!(h.own.word(), "running");
}

/// All but what the admin's hooks are: those are programs of the host's, with its words.
#[test]
fn the_settings_of_what_is_theirs_are_shown() {
    assert!(as_member("coloc show --origin").ok().contains("limits.pids"));
    let store = Store::mini("secret", 2);
    let served = Served::new(&store);
    let hook = r#"[{"path": "/bin/true", "env": ["PASSWORD=word"]}]"#;
    let text = format!(
        r#"{{"extends": "room", "oci": {{"hooks": {{"poststop": {hook}}}, "annotations": {{"a": "b"}}}}}}"#
    );
    std::fs::write(store.root.join("etc/coloc/profiles/secret.json"), text).unwrap();
    store.ok(&["create", "c", "--profile", "secret", "--owner", member()]);
    let said = served.sh("coloc show --json; coloc show c --origin").ok();
    assert!(said.contains("annotations") && !said.contains("PASSWORD"), "{said}");
    assert!(store.ok(&["show", "c"]).contains("PASSWORD"));
}

#[test]
fn everything_else_is_the_admins() {
    for line in [
        "create x",
        "delete BOX --yes",
        "delete OTHER --yes",
        "freeze BOX",
        "thaw BOX",
        "enable BOX",
        "disable BOX",
        "plan BOX",
        "spec BOX",
        "start --autostart",
        "base list",
        "base create x --suite bookworm",
        "init",
        "serve",
        "set BOX hold=true",
        "set BOX owners=root",
        "set BOX home=shared",
        "adopt BOX",
        "base update debian",
        "base update --all",
        "base shell debian -- true",
        "base rollback debian",
        "base prune debian",
        "supervise BOX",
    ] {
        let said = as_member(&format!("coloc {line}")).fails(5);
        assert!(said.contains("only the host's admin can"), "{line}: {said}");
    }
}

#[test]
fn exit_codes_and_streams_are_the_programs() {
    for (code, command) in [
        (0, "true"),
        (7, "sh -c 'exit 7'"),
        (255, "sh -c 'exit 255'"),
        (137, "sh -c 'kill -9 $$'"),
        (127, "no-such-program"),
        (126, "/etc"),
    ] {
        let out = as_member(&format!("coloc exec BOX -- {command}"));
        assert_eq!(out.code, code, "{command}: {}", out.stderr);
    }
    as_member("coloc exec BOX --cwd /no/such -- true").fails(125);
    as_member("coloc exec BOX").fails(125);
    let out = as_member("coloc exec BOX -- sh -c 'echo out; echo err >&2'");
    assert_eq!((out.text().as_str(), out.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(as_member("printf 'a\\nb\\n' | coloc exec BOX -- wc -l").ok(), "2\n");
    assert_eq!(as_member("coloc exec BOX -- cat < /dev/null").ok(), "");
    let out = as_member("coloc exec BOX -- sh -c 'sleep 1000 & echo begun'");
    assert_eq!(out.ok(), "begun\n");
    assert_eq!(as_member("coloc exec BOX -- yes | head -n 1").ok(), "y\n");
}

#[test]
fn five_megabytes_pass_unchanged_both_ways() {
    let bytes: Vec<u8> =
        (0..5u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let h = house();
    let cat = h.served.member(&format!("coloc exec {} -- cat", h.own.name));
    let out = run_within(cat, &bytes, Duration::from_secs(120));
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout == bytes, "{} bytes came back", out.stdout.len());
    let out = as_member("coloc exec BOX -- head -c 20000000 /dev/zero | (sleep 1; wc -c)");
    assert_eq!(out.ok().trim(), "20000000");
}

#[test]
fn nothing_of_the_members_process_gets_inside() {
    let out = as_member(
        "export FOO=leak LC_ALL=C LANG=C.UTF-8 COLOC_KILL_AT=x; umask 0; ulimit -n 77; cd /tmp; \
         exec 7</etc 8</etc/hostname; \
         coloc exec BOX -- sh -c 'env; umask; pwd; ulimit -n; echo /proc/self/fd/*'",
    );
    let text = out.ok();
    assert!(!text.contains("leak") && !text.contains("LC_ALL") && !text.contains("KILL"), "{text}");
    assert!(text.contains("LANG=C.UTF-8") && text.contains("TERM=vt100"), "{text}");
    assert!(text.contains("\n0022\n/home/colocmem\n") && !text.contains("\n77\n"), "{text}");
    assert!(!text.contains("/fd/4"), "{text}");
}

#[test]
fn a_terminal_is_made_inside_and_the_members_is_given_back() {
    let out =
        on_terminal("stty rows 33 cols 77; coloc exec BOX -- sh -c \"tty; stty size; exit 5\"");
    assert_eq!(out.code, 5, "{}", out.text());
    assert!(out.text().contains("/dev/pts/") && out.text().contains("33 77"), "{}", out.text());
    let out = on_terminal(
        "stty -g > /tmp/coloc-it-a; coloc shell BOX -- true; stty -g > /tmp/coloc-it-b; \
         cmp /tmp/coloc-it-a /tmp/coloc-it-b && rm /tmp/coloc-it-?",
    );
    out.ok();
    // In the pipe of a pager input is still the terminal.
    assert!(
        on_terminal("coloc exec BOX -- sh -c \"test -t 0 || echo no\" | cat").ok().contains("no")
    );
}

#[test]
fn keys_go_through_a_terminal() {
    let h = house();
    let script = format!("coloc shell {}", h.own.name);
    let mut command = h
        .served
        .member(&format!("export -f coloc; SHELL=/bin/bash exec script -qec '{script}' /dev/null"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut screen = Screen::of(child.stdout.take().unwrap());
    screen.wait_for("$ ");
    keys.write_all(b"echo si$((40+2))x; sleep 1000\n").unwrap();
    screen.wait_for("si42x");
    std::thread::sleep(Duration::from_millis(300));
    keys.write_all(b"\x03").unwrap();
    screen.wait_for("^C");
    keys.write_all(b"exit 3\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{}", screen.text);
}

/// What a program writes, while it writes it.
pub(crate) struct Screen {
    bytes: std::sync::mpsc::Receiver<Vec<u8>>,
    pub(crate) text: String,
}

impl Screen {
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let (send, bytes) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let _ = send.send(buffer[..n].to_vec());
            }
        });
        Self { bytes, text: String::new() }
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, word: &str) {
        while !self.text.contains(word) {
            let more = self.bytes.recv_timeout(Duration::from_secs(60));
            let more = more.unwrap_or_else(|_| panic!("no {word:?} in {}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&more));
        }
    }
}

/// A client that runs `script` inside until it is hung up, which leaves `mark` in /tmp inside.
fn waiting(mark: &str, terminal: bool) -> (Child, PathBuf) {
    let h = house();
    let inner =
        format!("trap 'touch /var/tmp/{mark}; exit' HUP; echo ready; while :; do sleep 0.1; done");
    let run = format!("coloc exec {} -- bash -c \"{inner}\"", h.own.name);
    let line = match terminal {
        true => format!(
            "export -f coloc; SHELL=/bin/bash exec script -qec '{}' /dev/null",
            run.replace('\'', r"'\''")
        ),
        false => run,
    };
    let mut child = h
        .served
        .member(&line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut screen = Screen::of(child.stdout.take().unwrap());
    screen.wait_for("ready");
    (child, h.own.private(&format!("var/tmp/{mark}")))
}

/// Processes of the member's that run `coloc` for `mark`: clients, and relays of the broker.
fn colocs(mark: &str) -> Vec<i32> {
    let out = sh(&format!("pgrep -f -- '^[^ ]*coloc .*{mark}'")).text();
    out.lines().filter_map(|l| l.parse().ok()).collect()
}

#[test]
fn a_client_that_is_killed_hangs_its_session_up() {
    for (mark, terminal) in [("hup-pipe", false), ("hup-pty", true)] {
        let (mut child, file) = waiting(mark, terminal);
        let clients = colocs(mark);
        assert!(!clients.is_empty());
        for pid in clients {
            crate::common::kill(pid.into());
        }
        until("the session is hung up", || file.exists());
        let _ = child.wait();
    }
}

#[test]
fn a_signal_to_the_client_is_the_programs() {
    let out = as_member(
        "coloc exec BOX -- sh -c 'trap \"exit 44\" TERM; echo up; while :; do sleep 0.1; done' > /tmp/coloc-it-up & \
         until grep -q up /tmp/coloc-it-up; do sleep 0.1; done; \
         kill -TERM $(pgrep -P $! coloc || echo $!); wait $!; code=$?; rm /tmp/coloc-it-up; exit $code",
    );
    assert_eq!(out.code, 44, "{}", out.stderr);
    let follow = "exec timeout --preserve-status -s INT 2 $PROGRAM --root $ROOT logs -f BOX";
    assert_eq!(as_member(follow).code, 130);
}

#[test]
fn a_broker_that_is_killed_leaves_no_raw_terminal() {
    let store = Store::mini("killed", 2);
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    // The process of this connection is the member's by now, and so theirs to kill.
    let script = "stty -g > /tmp/coloc-it-c; \
        coloc exec BOX -- sh -c \"echo up; exec sleep 1000\"; echo code $?; \
        stty -g > /tmp/coloc-it-d; cmp /tmp/coloc-it-c /tmp/coloc-it-d && echo same; \
        rm /tmp/coloc-it-[cd]";
    let line = format!(
        "export -f coloc; SHELL=/bin/bash exec script -qec '{}' /dev/null",
        script.replace("BOX", &c.name).replace('\'', r"'\''")
    );
    let mut child = served
        .member(&line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut screen = Screen::of(child.stdout.take().unwrap());
    screen.wait_for("up");
    let relays = relays(&store);
    assert_eq!(relays.len(), 1);
    served.sh(&format!("kill -KILL {}", relays[0])).ok();
    screen.wait_for("code 125");
    assert!(screen.text.contains("the broker ended"), "{}", screen.text);
    screen.wait_for("same");
    let _ = child.wait();
}

#[test]
fn a_relay_has_the_members_power_and_no_more() {
    let store = Store::mini("relay", 2);
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    let mut client = served.member(&format!("coloc exec {} -- sleep 1000", c.name));
    let mut client = client.stdin(Stdio::null()).spawn().unwrap();
    until("it is relayed", || !relays(&store).is_empty());
    let status = format!("/proc/{}/status", relays(&store)[0]);
    let status = std::fs::read_to_string(status).unwrap();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim();
    assert!(!field("Uid:").split_whitespace().any(|id| id == "0"), "{status}");
    assert_eq!(field("CapPrm:"), format!("{:016x}", 1 << 5), "CAP_KILL");
    assert_eq!(field("CapInh:"), format!("{:016x}", 0));
    assert_eq!(field("NoNewPrivs:"), "1");
    client.kill().unwrap();
    client.wait().unwrap();
    // What asks who writes gets the member's answer: -500 takes CAP_SYS_RESOURCE.
    let out = served.sh(&format!(
        "coloc exec {} -- echo -500 >/proc/$$/oom_score_adj; cat /proc/$$/oom_score_adj",
        c.name
    ));
    assert_eq!(out.text(), "0\n");
}

/// The processes of the broker of `store` that have become the member.
pub(crate) fn relays(store: &Store) -> Vec<i32> {
    let find = format!(
        "pgrep -u {} -f '^coloc --root {} serve --connection$'",
        member(),
        store.root.display()
    );
    sh(&find).text().lines().filter_map(|l| l.parse().ok()).collect()
}

#[test]
fn streams_that_are_none_are_an_error_and_no_more() {
    let said = as_member("coloc exec BOX -- true < /").fails(125);
    assert!(said.contains("directory"), "{said}");
    as_member("coloc exec BOX -- true <&- >&-").ok();
    assert_ne!(as_member("coloc exec BOX -- echo x > /dev/full").code, 125);
    let out = as_member("coloc exec BOX -- sh -c 'cat >/dev/null; echo done' < /etc/passwd");
    assert_eq!(out.ok(), "done\n");
}

pub(crate) fn all_of(socket: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn connections_that_say_nothing_hold_nobody_up() {
    let h = house();
    // As uid 0, so they are another member's than the one below.
    let many: Vec<UnixStream> =
        (0..900).map_while(|_| UnixStream::connect(h.served.socket()).ok()).collect();
    assert!(many.len() > 800, "{}", many.len());
    let begun = Instant::now();
    as_member("coloc exec BOX -- true").ok();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Their owner is told, when all slots are taken, and can go on when they are let go.
    let (mut greeted, mut refused) = (0, 0);
    for mut socket in many {
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let text = all_of(&mut socket);
        match text.contains("at work already") {
            true => refused += 1,
            // Hello, and after some seconds why it is closed.
            false => greeted += usize::from(text.contains("in time")),
        }
    }
    assert!(greeted > 0 && greeted <= 64, "{greeted} greeted, {refused} refused");
    assert!(refused > 700, "{greeted} greeted, {refused} refused");
    let mut socket = UnixStream::connect(h.served.socket()).unwrap();
    let mut hello = [0; 14];
    socket.read_exact(&mut hello).unwrap();
    assert_eq!(&hello[..4], b"colc");
}

#[test]
fn half_a_frame_and_a_gigabyte_are_dropped() {
    let store = Store::mini("frames", 2);
    let served = Served::new(&store);
    let hello = || {
        let mut socket = UnixStream::connect(served.socket()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.read_exact(&mut [0; 14]).unwrap();
        socket
    };
    for (bytes, want) in [
        (&b"colc\x01\x00\xff\xff\xff\x7f"[..], "too long"),
        (b"colc\x01\x00\x0a\x00\x00\x00{\"x", "in time"),
        (b"colc\x02\x00\x00\x00\x00\x00", "version 2"),
        (b"GET / HTTP/1.0\r\n\r\n", "not coloc's protocol"),
        (b"colc\x01\x00\x02\x00\x00\x00{}", "cannot be understood"),
        (b"colc\x01\x00\x4a\x00\x00\x00{\"request\":{\"list\":{\"json\":true}},\"from_terminal\":false,\"screen\":null}", ""),
    ] {
        let mut socket = hello();
        socket.write_all(bytes).unwrap();
        let text = all_of(&mut socket);
        assert!(text.contains("\"error\"") && text.contains(want), "{want}: {text}");
    }
    let mut socket = hello();
    socket.write_all(b"colc").unwrap();
    drop(socket);
    served.sh("coloc list").ok();
}

#[test]
fn a_socket_that_is_not_roots_gets_nothing() {
    let dir = std::env::temp_dir().join(format!("coloc-it-fake-{}", std::process::id()));
    let run = dir.join("run/coloc");
    std::fs::create_dir_all(&run).unwrap();
    let user = nix::unistd::User::from_name(member()).unwrap().unwrap();
    std::os::unix::fs::chown(&run, Some(user.uid.as_raw()), None).unwrap();
    let h = house();
    let out = h.served.sh(&format!(
        "perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Local => \"{0}/run/coloc/coloc.sock\", \
         Listen => 5) or die; sleep 20' & until test -S {0}/run/coloc/coloc.sock; do sleep 0.1; done; \
         COLOC_ROOT={0} {1} list; code=$?; kill $!; exit $code",
        dir.display(),
        h.served.program.display()
    ));
    let said = out.fails(5);
    assert!(said.contains("not root"), "{said}");
    std::fs::remove_dir_all(&dir).unwrap();
    let said =
        h.served.sh(&format!("COLOC_ROOT={} {} list", dir.display(), h.served.program.display()));
    assert!(said.fails(6).contains("nobody serves"));
}

#[test]
fn a_group_owns_and_its_members_get_an_account_when_they_come() {
    // Another user than in the other tests, who own one container and no more.
    let user = add("colocit2");
    let h = house();
    let say = |line: String| run(h.served.user(user, &line));
    let owner = format!("@{user}");
    let c = Container::started(store(), "group", &["--owner", &owner]);
    let accounts = std::fs::read_to_string(c.private("etc/passwd")).unwrap();
    assert!(!accounts.contains(user), "{accounts}");
    let out = say(format!("coloc exec {} -- sh -c 'id -un; sudo -n id -u; pwd'", c.name));
    assert_eq!(out.ok(), format!("{user}\n0\n/home/{user}\n"));
    assert_eq!(c.status()["owners"][0], owner.as_str());
    // With two of them it has to be said which.
    let second = Container::create(store(), "group2", &["--owner", &owner]);
    let said = say("coloc shell".into()).fails(125);
    assert!(said.contains("several") && said.contains(&second.name), "{said}");
    say(format!("coloc exec {} -- true", h.own.name)).fails(125);
    c.store.fails(3, &["create", "x", "--owner", "@no-such-group"]);
}

#[test]
fn the_journal_tells_the_member_what_the_admin_did() {
    let store = Store::mini("journal", 4);
    let c = Container::started(&store, "told", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    c.root(&["sh", "-c", "exit 6"]);
    c.run("exec", &["--env", "SECRET=hunter2", "--", "true", "\x1b[2J"]).ok();
    c.run("exec", &["--cwd", "/no/such", "--", "true"]).fails(125);
    let mut killed = store.command(&["exec", &c.name, "--", "sleep", "1000"]).spawn().unwrap();
    let journal = || -> serde_json::Value {
        serde_json::from_str(&served.sh(&format!("coloc journal {} --json", c.name)).ok()).unwrap()
    };
    let find = |word: &str| {
        let all = journal();
        let list = all.as_array().unwrap().clone();
        list.into_iter().find(|e| e["args"].to_string().contains(word))
    };
    until("it has begun", || find("sleep").is_some());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(find("sleep").unwrap()["code"], serde_json::Value::Null);
    let six = find("exit 6").unwrap();
    assert_eq!(
        (&six["code"], &six["who"]["uid"], &six["verb"]),
        (&6.into(), &0.into(), &"exec".into())
    );
    assert!(find("/no/such").unwrap()["code"] == 125);
    assert!(!journal().to_string().contains("hunter2"));
    let text = served.sh("coloc journal").ok();
    assert!(text.contains("\\u{1b}[2J") && !text.contains('\x1b'), "{text}");
    assert_eq!(served.sh("coloc journal -n 1").ok().lines().count(), 1);
    served.sh(&format!("echo x >> {}", store.state("events.jsonl").display())).fails(1);
    c.ok("delete", &["--yes", "--force"]);
    let host = store.json(&["journal", "--json"]);
    let verbs: Vec<_> =
        host.as_array().unwrap().iter().map(|e| e["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["base create", "create", "delete"]);
    assert!(host[2]["code"] == 0);
}

#[test]
fn who_comes_back_after_an_update_is_told_once() {
    let h = house();
    let seen = h.own.private("../seen.json");
    let shell = "echo exit | coloc shell BOX; true";
    assert!(!on_terminal(shell).ok().contains("was changed since"));
    let coloc_shell = || on_terminal("coloc shell BOX -- true").ok();
    assert!(!coloc_shell().contains("was changed since"));
    std::fs::write(&seen, r#"{"colocmem":7}"#).unwrap();
    let mut command = h.served.member(&format!(
        "export -f coloc; SHELL=/bin/bash exec script -qec 'coloc shell {}' /dev/null",
        h.own.name
    ));
    for told in [true, false] {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut keys = child.stdin.take().unwrap();
        let mut screen = Screen::of(child.stdout.take().unwrap());
        screen.wait_for("$ ");
        keys.write_all(b"exit\n").unwrap();
        child.wait().unwrap();
        assert_eq!(screen.text.contains("generation 7 is now 1"), told, "{}", screen.text);
    }
}

/// As systemd does it (sd_listen_fds(3)).
#[test]
fn a_socket_that_is_handed_over_is_served() {
    let store = Store::mini("handed", 2);
    let mut broker = Command::new("perl");
    broker.args(["-MSocket", "-MPOSIX", "-e"]).arg(
        "umask 0111; $^F = 9; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(shift)) or die; \
         listen(S, 9); POSIX::dup2(fileno(S), 3); exec @ARGV",
    );
    broker.arg(store.root.join("run/coloc/coloc.sock")).arg(coloc());
    broker.arg("--root").arg(&store.root).args(["serve", "--socket"]);
    let served = Served::by(&store, broker);
    assert_eq!(served.sh("coloc list --json").ok().trim(), "[]");
}
