//! What a member can try: on the host, at the broker's socket, and as root inside. Each is named by
//! what must happen. Other attacks are in `attack` (root inside against the base and a start) and
//! `member` (floods, half frames, other people's containers by every verb).

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use coloc::broker::frames;
use rustix::fs::{Mode, OFlags};

use crate::common::{Container, Out, Store, debian, sh, store, until};
use crate::member::{Screen, Served, all_of, as_member, house, member, on_terminal, relays};

/// A connection by the process of another user: what the kernel notes is who connects.
fn connection_of(served: &Served<'_>, uid: u32) -> UnixStream {
    let socket = served.socket();
    let connect = move || {
        let id = rustix::fs::Uid::from_raw(uid);
        // Of this thread alone, and for good.
        rustix::thread::set_thread_res_uid(id, id, id).unwrap();
        UnixStream::connect(socket).unwrap()
    };
    let mut stream = std::thread::spawn(connect).join().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.read_exact(&mut [0; 14]).unwrap();
    stream
}

fn uid_of(user: &str) -> u32 {
    nix::unistd::User::from_name(user).unwrap().unwrap().uid.as_raw()
}

/// Sends a request as it stands, and gives the answer.
fn ask(mut stream: UnixStream, request: &str, fds: &[BorrowedFd<'_>]) -> String {
    let body = format!(r#"{{"request":{request},"from_terminal":false,"screen":null}}"#);
    let mut frame = b"colc\x01\x00".to_vec();
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    frame.extend_from_slice(body.as_bytes());
    let socket: OwnedFd = stream.try_clone().unwrap().into();
    // A frame that is too long is refused before it is read.
    let _ = frames::send(&socket, &frame, fds);
    all_of(&mut stream)
}

fn null() -> OwnedFd {
    rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap()
}

fn exec_request(name: &str, command: &[&str]) -> String {
    serde_json::json!({"exec": {
        "name": name, "user": null, "command": command, "env": [], "cwd": null, "line": null,
        "start": false, "agent": false, "term": null, "lang": null,
    }})
    .to_string()
}

#[test]
fn names_that_are_none_are_refused_by_the_client_and_by_the_broker() {
    let h = house();
    let before = h.own.store.containers();
    let long = "a".repeat(70);
    for name in [
        "",
        ".",
        "..",
        "../other",
        "a/b",
        "/etc/passwd",
        "./x",
        "a\u{0}b",
        "a\nb",
        "\u{1b}[2Jx",
        "a b",
        "--help",
        "-x",
        "A",
        "é",
        "%s",
        "$(id)",
        "a;id",
        &long,
    ] {
        let quoted = serde_json::to_string(name).unwrap();
        for request in [
            exec_request(name, &["true"]),
            format!(r#"{{"console":{{"name":{quoted}}}}}"#),
            format!(r#"{{"status":{{"name":{quoted},"json":false}}}}"#),
            format!(r#"{{"journal":{{"name":{quoted},"json":true,"last":null}}}}"#),
            format!(r#"{{"start":{{"which":{{"names":[{quoted}],"all":false}},"wait":false}}}}"#),
            format!(r#"{{"stop":{{"which":{{"names":[{quoted}],"all":false}},"timeout":0}}}}"#),
        ] {
            let fd = null();
            let stream = connection_of(&h.served, uid_of(member()));
            let told = ask(stream, &request, &[fd.as_fd(), fd.as_fd(), fd.as_fd()]);
            assert!(told.contains("cannot be understood"), "{request}: {told}");
            assert!(!told.contains('\u{1b}'), "{told:?}");
        }
        if !name.contains('\u{0}') {
            let line = format!("NAME=$(printf '%b' '{}'); coloc status -- \"$NAME\"", octal(name));
            let out = h.served.sh(&line);
            assert!([2, 5].contains(&out.code), "{name:?}: {} {}", out.code, out.stderr);
        }
    }
    assert_eq!(h.own.store.containers(), before);
}

fn octal(text: &str) -> String {
    text.bytes().map(|b| format!("\\0{b:o}")).collect()
}

#[test]
fn ten_megabytes_of_a_name_are_refused_at_once() {
    let h = house();
    let fd = null();
    let begun = Instant::now();
    let request = exec_request(&"a".repeat(10 << 20), &["true"]);
    let stream = connection_of(&h.served, uid_of(member()));
    let told = ask(stream, &request, &[fd.as_fd(), fd.as_fd(), fd.as_fd()]);
    assert!(told.is_empty() || told.contains("too long"), "{told}");
    let out = as_member("coloc exec BOX --env X=$(head -c 100000 /dev/zero | tr '\\0' x) -- true");
    assert!(out.fails(125).contains("too long"));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_is_no_request_is_refused_whole() {
    let h = house();
    let own = &h.own.name;
    for request in [
        format!(r#"{{"delete":{{"names":["{own}"]}}}}"#),
        format!(r#"{{"set":{{"name":"{own}","settings":["hold=true"]}}}}"#),
        r#"{"create":{"name":"x"}}"#.into(),
        r#"{"supervise":{"name":"x"}}"#.into(),
        format!(r#"{{"console":{{"name":"{own}","root":"/"}}}}"#),
        format!(r#"{{"console":{{"name":"{own}"}},"list":{{"json":true}}}}"#),
        exec_request(own, &["true"]).replace("\"start\":false", "\"start\":false,\"uid\":0"),
        exec_request(own, &["true"]).replace("\"agent\":false", "\"agent\":\"/etc/shadow\""),
        "null".into(),
        "[".repeat(10000),
    ] {
        let fd = null();
        let stream = connection_of(&h.served, uid_of(member()));
        let told = ask(stream, &request, &[fd.as_fd(), fd.as_fd(), fd.as_fd()]);
        assert!(told.contains("cannot be understood"), "{request:.80}: {told}");
    }
    // A NUL where the kernel wants none.
    let fd = null();
    let stream = connection_of(&h.served, uid_of(member()));
    let told = ask(stream, &exec_request(own, &["tr\u{0}ue"]), &[fd.as_fd(); 3]);
    assert!(told.contains("NUL byte"), "{told}");
}

#[test]
fn descriptors_that_are_no_streams_are_refused() {
    let h = house();
    let open = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let bad: Vec<(&str, OwnedFd)> = vec![
        ("a directory", open("/", OFlags::RDONLY)),
        ("a path of a directory", open("/etc", OFlags::PATH)),
        ("a path of a file", open("/etc/shadow", OFlags::PATH)),
        ("a disk", open_disk()),
        ("eventfd", rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap()),
        ("pidfd", coloc::sys::process::pidfd(std::process::id() as i32).unwrap()),
        ("a namespace's directory", open("/proc/self/ns", OFlags::RDONLY)),
    ];
    let fine = null();
    for (what, fd) in &bad {
        for place in 0..3 {
            let mut fds = [fine.as_fd(); 3];
            fds[place] = fd.as_fd();
            let stream = connection_of(&h.served, uid_of(member()));
            let told = ask(stream, &exec_request(&h.own.name, &["true"]), &fds);
            assert!(told.contains("\"error\""), "{what} as {place}: {told}");
        }
    }
    // Too few and too many.
    for n in [0, 1, 2, 4, 16] {
        let stream = connection_of(&h.served, uid_of(member()));
        let told = ask(stream, &exec_request(&h.own.name, &["true"]), &vec![fine.as_fd(); n]);
        assert!(told.contains("\"error\""), "{n}: {told}");
    }
    // What is odd but takes bytes is used as the member would use it.
    let (left, right) = UnixStream::pair().unwrap();
    drop(right);
    let odd = [left.into(), open("/dev/full", OFlags::RDWR), open("/dev/zero", OFlags::RDWR)];
    for fd in &odd {
        let stream = connection_of(&h.served, uid_of(member()));
        let told = ask(stream, &exec_request(&h.own.name, &["true"]), &[fd.as_fd(); 3]);
        assert!(told.contains("\"code\":0"), "{told}");
    }
}

/// A block device, which is no stream; a loop device or a ramdisk will do. On a host without any
/// a directory stands in.
fn open_disk() -> OwnedFd {
    let found = sh("find /dev -type b | head -n 1").text();
    let path = if found.trim().is_empty() { "/dev".into() } else { found.trim().to_string() };
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        .unwrap_or_else(|_| rustix::fs::open("/dev", OFlags::RDONLY, Mode::empty()).unwrap())
}

#[test]
fn a_terminal_of_somebody_else_is_written_to_and_no_more() {
    let h = house();
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let path = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let before = format!("{:?}", rustix::termios::tcgetattr(&slave).unwrap());
    let body = exec_request(&h.own.name, &["sh", "-c", "tty; exit 3"]);
    let body = format!(r#"{{"request":{body},"from_terminal":true,"screen":[24,80]}}"#);
    let mut stream = connection_of(&h.served, uid_of(member()));
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    let socket: OwnedFd = stream.try_clone().unwrap().into();
    let fds = [slave.as_fd(), slave.as_fd(), slave.as_fd()];
    frames::send(&socket, &frames::encode(&value).unwrap(), &fds).unwrap();
    assert!(all_of(&mut stream).contains("\"code\":3"));
    // Its settings are as they were, and it is nobody's controlling terminal now.
    assert_eq!(format!("{:?}", rustix::termios::tcgetattr(&slave).unwrap()), before);
    assert!(rustix::termios::tcgetsid(&slave).is_err());
    let mut said = [0; 200];
    let n = rustix::io::read(&master, &mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..n]).into_owned();
    assert!(said.contains("/dev/pts/"), "the terminal inside is another: {said}");
}

#[test]
fn who_connected_counts_and_not_who_speaks() {
    let h = house();
    let fd = null();
    let streams = [fd.as_fd(), fd.as_fd(), fd.as_fd()];
    // The member connects, and then is root, as after executing something setuid.
    let stream = connection_of(&h.served, uid_of(member()));
    let told = ask(stream, &exec_request(&h.other.name, &["true"]), &streams);
    assert!(told.contains("no container of yours"), "{told}");
    // A setuid program is talked into connecting, and the member speaks: root owns nothing here.
    let stream = connection_of(&h.served, 0);
    let told = ask(stream, &exec_request(&h.own.name, &["true"]), &streams);
    assert!(told.contains("no container of yours"), "{told}");
    // Somebody whom the host does not know.
    let socket = h.served.socket();
    let id = rustix::fs::Uid::from_raw(3_999_999);
    let connect = move || {
        rustix::thread::set_thread_res_uid(id, id, id).unwrap();
        UnixStream::connect(socket).unwrap()
    };
    let mut stream = std::thread::spawn(connect).join().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(all_of(&mut stream).contains("no name on this host"));
}

#[test]
fn a_pid_that_another_process_has_by_now_is_not_the_container() {
    let store = Store::mini("pids", 2);
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    let path = store.root.join("run/coloc/containers").join(&c.name).join("state.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    c.ok("stop", &["--timeout", "1"]);
    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    state["init"]["pid"] = victim.id().into();
    std::fs::write(&path, state.to_string()).unwrap();
    served.sh(&format!("coloc exec {} -- true", c.name)).fails(125);
    assert!(served.sh(&format!("coloc stop {} --timeout 0", c.name)).code == 0);
    assert!(victim.try_wait().unwrap().is_none(), "a process of the host's was killed");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn a_user_inside_with_the_id_of_a_host_user_is_nobody_outside() {
    let h = house();
    let uid = uid_of(member());
    let c = &h.own;
    c.root_sh(&format!("useradd -m -u {uid}9 same; useradd -o -m -u {uid} twin; id twin")).ok();
    c.root_sh("su twin -c 'touch /var/tmp/by-twin'").ok();
    let start = c.status()["ids"]["start"].as_u64().unwrap();
    let made = std::fs::metadata(c.private("var/tmp/by-twin")).unwrap();
    assert_eq!(u64::from(made.uid()), start + u64::from(uid));
    let mut victim = h.served.member("exec sleep 1000").spawn().unwrap();
    for who in ["twin", "root"] {
        // Neither its pids nor its socket are in sight.
        let script = "kill -9 -1 2>/dev/null; ls /run/coloc/coloc.sock /var/lib/coloc";
        if who == "twin" {
            assert_ne!(
                as_member(&format!("coloc exec BOX --user twin -- sh -c '{script}'")).code,
                0
            );
        }
        let out = c.root_sh(&format!("kill -0 {}; ls /proc/{0}", victim.id()));
        assert_ne!(out.code, 0, "{who}: {}", out.text());
    }
    assert!(victim.try_wait().unwrap().is_none());
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn a_setuid_file_made_inside_is_of_nobody_outside_and_out_of_reach() {
    let h = house();
    let c = Container::started(store(), "suid", &["--init", "builtin", "--owner", member()]);
    c.root_sh("cp /usr/bin/id /srv/id && chmod 6755 /srv/id && chmod 777 /srv").ok();
    let file = c.private("srv/id");
    let start = u32::try_from(c.status()["ids"]["start"].as_u64().unwrap()).unwrap();
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (start, start, 0o6755));
    // Nobody walks in.
    h.served.sh(&file.display().to_string()).fails(126);
    // And whoever does stays who they are; without the mount they would be an id that is nobody's.
    let out = sh(&format!("{} -u", file.display())).ok();
    assert_eq!(out.trim(), "0");
    let bare = format!("umount {} && {} -u", c.store.state("containers").display(), file.display());
    let out = sh(&format!("unshare -m sh -c '{bare}'")).ok();
    assert_eq!(out.trim(), start.to_string());
}

#[test]
fn links_pipes_and_giants_in_the_place_of_files_are_no_way_out() {
    let store = Store::mini("places", 12);
    let served = Served::new(&store);
    let secret = store.root.join("secret");
    std::fs::write(&secret, "root:x:0:0::/:/bin/sh\nsecret\n").unwrap();
    let before = (std::fs::read(&secret).unwrap(), std::fs::metadata(&secret).unwrap().ino());
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let paths = ["etc/passwd", "etc/group", "etc/word", "run/coloc-agent", "etc"];
    for path in paths {
        for trick in ["ln -s SECRET", "mkfifo", "truncate -s 1T", "mkdir", "mknod-socket"] {
            let place = c.private(path);
            let backup = place.with_extension("backup");
            let _ = std::fs::rename(&place, &backup);
            match trick {
                "mkfifo" => {
                    nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
                }
                "mkdir" => std::fs::create_dir(&place).unwrap(),
                "truncate -s 1T" => {
                    std::fs::File::create(&place).unwrap().set_len(1 << 40).unwrap();
                }
                "mknod-socket" => drop(std::os::unix::net::UnixDatagram::bind(
                    // Its path is longer than an address may be.
                    short(&place).join(place.file_name().unwrap()),
                )),
                _ => symlink(&secret, &place).unwrap(),
            }
            let begun = Instant::now();
            for line in ["exec BOX -- true", "exec BOX --user root -- true", "status BOX", "list"] {
                let out = served.sh(&format!("coloc {}", line.replace("BOX", &c.name)));
                assert!(!out.stderr.contains("panicked"), "{path} {trick} {line}: {}", out.stderr);
                assert!(!out.text().contains("secret"), "{path} {trick} {line}");
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{path} {trick}");
            if path == "etc/word" {
                change_etc(&store, trick);
            }
            let _ = std::fs::remove_file(&place);
            let _ = std::fs::remove_dir_all(&place);
            let _ = std::fs::rename(&backup, &place);
        }
    }
    assert_eq!(
        (std::fs::read(&secret).unwrap(), std::fs::metadata(&secret).unwrap().ino()),
        before
    );
}

/// A directory by a path that fits the address of a socket.
fn short(place: &Path) -> std::path::PathBuf {
    use std::os::fd::{AsRawFd, IntoRawFd};
    let dir = std::fs::File::open(place.parent().unwrap()).unwrap();
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let _ = dir.into_raw_fd();
    path.into()
}

/// A new generation with another /etc/word, which is brought to what is in its place.
fn change_etc(store: &Store, word: &str) {
    let script = format!("echo '{word}' > /etc/word; echo '{word}' > /usr/lib/data");
    let out = store.run(&["base", "shell", "mini", "--", "sh", "-c", &script]);
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
}

const HOSTILE: &str = r#"#!/bin/sh
{ id -u; echo "$0 $*"; env; ls -l /proc/self/fd; } > /var/tmp/hostile.$$ 2>&1
kill -9 $PPID 2>/dev/null
kill -STOP 1 2>/dev/null
touch /var/lib/coloc/x /run/coloc/x 2>/dev/null
exit 0
"#;

#[test]
fn hostile_shells_pam_and_login_programs_hurt_only_their_owner() {
    let store = debian("hostile", 2);
    let c = Container::started(&store, "room", &["--owner", member()]);
    let served = Served::new(&store);
    std::fs::write(c.private("var/usrlocal/bin/hostile"), HOSTILE).unwrap();
    let shift = u32::try_from(c.status()["ids"]["start"].as_u64().unwrap()).unwrap();
    for name in ["hostile", "useradd", "adduser", "systemctl", "su", "ldconfig"] {
        let at = c.private("var/usrlocal/bin").join(name);
        std::fs::write(&at, HOSTILE).unwrap();
        std::os::unix::fs::chown(&at, Some(shift), Some(shift)).unwrap();
        std::fs::set_permissions(&at, PermissionsExt::from_mode(0o6755)).unwrap();
    }
    let passwd = std::fs::read_to_string(c.private("etc/passwd")).unwrap();
    let hostile = passwd.replace("/bin/bash", "/usr/local/bin/hostile");
    let su = c.private("etc/pam.d/su");
    let session = "session optional pam_exec.so quiet /usr/local/bin/hostile\n";
    let pam = format!("auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n{session}");
    for (path, text) in [
        (c.private("etc/passwd"), hostile.as_str()),
        (su, pam.as_str()),
        (c.private("etc/profile"), "/usr/local/bin/hostile\n"),
        (c.private("etc/ld.so.preload"), "/usr/local/lib/none.so\n"),
    ] {
        std::fs::write(path, text).unwrap();
    }
    for line in [
        "shell BOX -- true",
        "exec BOX -- hostile",
        "exec BOX --user root -- true",
        "exec BOX --user root -- systemctl",
    ] {
        let out = served.sh(&format!("coloc {}", line.replace("BOX", &c.name)));
        assert!(!out.stderr.contains("panicked"), "{line}: {}", out.stderr);
        let admin: Vec<String> =
            line.replace("BOX", &c.name).split(' ').map(String::from).collect();
        let admin: Vec<&str> = admin.iter().map(String::as_str).collect();
        assert!(!store.run(&admin).stderr.contains("panicked"));
    }
    c.root_sh("true");
    // It ran, as somebody of the container's, with nothing of the host's in hand.
    let mut seen = 0;
    for entry in std::fs::read_dir(c.private("var/tmp")).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().starts_with("hostile.") {
            continue;
        }
        seen += 1;
        let meta = entry.metadata().unwrap();
        assert!(meta.uid() >= shift && meta.uid() < shift + 65536, "{}", meta.uid());
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert!(
            !text.contains("COLOC_") && !text.contains(&*store.root.to_string_lossy()),
            "{text}"
        );
        // Its own three, and the directory that ls reads.
        let open = text.lines().filter(|l| l.contains(" -> ")).count();
        assert!(open <= 5, "{text}");
        assert!(!text.contains("socket:") || !text.contains("coloc"), "{text}");
    }
    assert!(seen > 0, "the hostile program did not run at all");
    assert!(
        !store.root.join("var/lib/coloc/x").exists() && !store.root.join("run/coloc/x").exists()
    );
    served.sh("coloc list").ok();
    c.ok("stop", &["--timeout", "5"]);
}

#[test]
fn escapes_in_names_of_processes_and_in_logs_are_shown_and_not_obeyed() {
    let h = house();
    let bell = "\\033]0;owned\\007\\033[2J";
    as_member(&format!(
        "coloc exec BOX --user root -- sh -c \"printf '{bell}\\n' > /dev/console; \
         cp /usr/bin/sleep /var/tmp/$(printf '{bell}' | tr -d /); \
         /var/tmp/*owned* 100 >/dev/null 2>&1 & true\""
    ));
    as_member(&format!("coloc exec BOX -- true \"$(printf '{bell}')\"")).ok();
    until("the console has it", || as_member("coloc logs BOX").text().contains("owned"));
    for line in ["logs BOX", "status BOX", "stale BOX", "journal BOX", "list"] {
        for text in [
            on_terminal(&format!("coloc {line}")).text(),
            // The admin's, as a table or as lines.
            sh(&format!(
                "SHELL=/bin/bash script -qec '{} --root {} {}' /dev/null",
                crate::common::coloc().display(),
                h.own.store.root.display(),
                line.replace("BOX", &h.own.name)
            ))
            .text(),
        ] {
            assert!(!text.contains("\u{1b}]0;") && !text.contains("\u{1b}[2J"), "{line}: {text:?}");
            assert!(!text.contains('\u{7}'), "{line}: {text:?}");
        }
    }
    sh(&format!("rm -f {}/*owned*", h.own.private("var/tmp").display()));
}

/// Puts a command into the input of the terminal on which it runs: TIOCSTI, and TIOCLINUX's paste.
const INJECT: &str = r#"for my $c (split //, "touch /tmp/coloc-it-injected\n") { ioctl(STDIN, 0x5412, $c); }
ioctl(STDIN, 0x541C, my $x = chr(3)); ioctl(STDERR, 0x5412, my $y = "x\n"); exit 0;"#;

#[test]
fn nothing_inside_types_on_the_terminal_of_a_member_or_an_admin() {
    let h = house();
    let _ = std::fs::remove_file("/tmp/coloc-it-injected");
    std::fs::write(h.own.private("var/tmp/inject"), INJECT).unwrap();
    std::fs::set_permissions(h.own.private("var/tmp/inject"), PermissionsExt::from_mode(0o644))
        .unwrap();
    let program =
        format!("{} --root {}", crate::common::coloc().display(), h.own.store.root.display());
    for verb in ["shell BOX --user root", "exec BOX --user root", "shell BOX"] {
        let line = format!("{verb} -- perl /var/tmp/inject").replace("BOX", &h.own.name);
        let after = "read -t 1 line; echo \"typed:[$line]\"";
        let out = h.served.on_terminal(&format!("coloc {line}; {after}"));
        assert_eq!(typed(&out.text()), "", "{verb}: {:?}", out.text());
        let admin = sh(&format!(
            "SHELL=/bin/bash script -qec '{program} {line}; {after}' /dev/null < /dev/null"
        ));
        assert_eq!(typed(&admin.text()), "", "{verb}: {:?}", admin.text());
    }
    assert!(!Path::new("/tmp/coloc-it-injected").exists());
}

/// What was read from the terminal, but for the end of input that script(1) types when its own ends.
fn typed(text: &str) -> String {
    let after = text.split_once("typed:[").map_or("not read at all", |(_, after)| after);
    let line = after.split(']').next().unwrap_or("").replace("^D", "");
    line.chars().filter(|c| !c.is_control()).collect()
}

#[test]
fn what_serves_a_member_is_neither_killed_nor_traced_from_inside() {
    let store = Store::mini("helpers", 4);
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    let supervisor = c.status()["supervisor_pid"].as_i64().unwrap();
    let mut client =
        served.member(&format!("exec $PROGRAM --root $ROOT exec {} -- sleep 1000", c.name));
    let mut client = client.stdin(Stdio::null()).spawn().unwrap();
    until("it is relayed", || !relays(&store).is_empty());
    let relay = relays(&store)[0];
    // Root inside signals and stops all that it sees, and looks for helpers' files.
    c.root_sh("kill -STOP -1; kill -9 -1; true");
    // The built-in init is the host's program, and cannot be got at through it.
    for attempt in
        ["readlink /proc/1/exe", "cat /proc/1/exe", "cat /proc/1/environ", "ls /proc/1/fd/"]
    {
        assert_ne!(c.root_sh(&format!("busybox {attempt}")).code, 0, "{attempt}");
    }
    assert_ne!(c.root_sh("exec 3</proc/1/exe").code, 0);
    assert_ne!(c.root_sh("echo x >> /proc/1/exe").code, 0);
    assert!(Path::new(&format!("/proc/{supervisor}")).exists(), "the supervisor was killed");
    assert_eq!(c.word(), "running");
    client.wait().unwrap();
    until("its relay is gone", || !relays(&store).contains(&relay));
    served.sh(&format!("coloc exec {} -- true", c.name)).ok();
    c.ok("stop", &["--timeout", "1"]);
}

/// The relays are the member's, and a real-time signal is one that few enums know.
#[test]
fn relays_that_any_signal_ended_take_no_place() {
    let store = Store::mini("relayends", 2);
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    let signals = ["9", "40", "64"];
    // More of each than the connections that one may have at once.
    for round in 0..15 {
        let line = format!("for i in $(seq 8); do coloc exec {} -- sleep 60 & done; wait", c.name);
        let mut clients = served.member(&line);
        let clients = clients.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut clients = clients.spawn().unwrap();
        until("all are relayed", || relays(&store).len() == 8);
        let pids: Vec<String> = relays(&store).iter().map(ToString::to_string).collect();
        let signal = signals[round % signals.len()];
        served.sh(&format!("kill -{signal} {}", pids.join(" "))).ok();
        clients.wait().unwrap();
        until("they are gone", || relays(&store).is_empty());
    }
    let many = (0..32).map(|_| format!("coloc exec {} -- true & ", c.name)).collect::<String>();
    let said = served.sh(&format!("{many} wait")).stderr;
    assert_eq!(said, "", "all of their places are free");
}

#[test]
fn a_members_host_session_has_no_power_over_what_is_roots() {
    let store = Store::mini("session", 4);
    let c = Container::started(&store, "room", &["--init", "builtin", "--owner", member()]);
    let served = Served::new(&store);
    let supervisor = c.status()["supervisor_pid"].as_i64().unwrap();
    let init = c.status()["pid"].as_i64().unwrap();
    let mut client = served.member(&format!("exec $PROGRAM --root $ROOT exec {} -- cat", c.name));
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    until("it is relayed", || !relays(&store).is_empty());
    let relay = relays(&store)[0];
    let listener = sh(&format!("pgrep -f -- '--root {} serve$'", store.root.display())).text();
    for pid in listener.split_whitespace().chain([&*supervisor.to_string(), &*init.to_string()]) {
        for attempt in [
            "kill -9",
            "kill -STOP",
            "cat /proc/PID/environ; false",
            "ls /proc/PID/fd/ && cat /proc/PID/mem",
        ] {
            let line = match attempt.contains("PID") {
                true => attempt.replace("PID", pid),
                false => format!("{attempt} {pid}"),
            };
            assert_ne!(served.sh(&line).code, 0, "{line}");
        }
    }
    // The relay has the member's id: they may end it, and look into it they may not.
    for line in [
        "cat /proc/PID/mem | head -c 1",
        "cat /proc/PID/environ",
        "ls /proc/PID/fd/",
        "readlink /proc/PID/exe",
    ] {
        let out = served.sh(&line.replace("PID", &relay.to_string()));
        assert!(out.code != 0 || out.stdout.is_empty(), "{line}: {}", out.text());
    }
    if cfg!(target_arch = "x86_64") {
        // PTRACE_ATTACH and PTRACE_SEIZE.
        let trace = format!(
            "perl -e 'exit(syscall(101, 16, {relay}, 0, 0) == -1 && syscall(101, 0x4206, {relay}, 0, 0) == -1 ? 0 : 1)'"
        );
        served.sh(&trace).ok();
    }
    // One that is stopped holds up nobody but its own session.
    served.sh(&format!("kill -STOP {relay}")).ok();
    let begun = Instant::now();
    served.sh(&format!("coloc exec {} -- true", c.name)).ok();
    c.root(&["true"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(20));
    served.sh(&format!("kill -CONT {relay}")).ok();
    client.stdin.take().unwrap().write_all(b"still there\n").unwrap();
    Screen::of(client.stdout.take().unwrap()).wait_for("still there");
    client.wait().unwrap();
}

#[test]
fn the_place_of_the_socket_is_roots() {
    let store = Store::mini("place", 2);
    let run_dir = store.root.join("run/coloc");
    {
        let served = Served::new(&store);
        for attempt in [
            "touch RUN/coloc.sock2",
            "mv RUN/coloc.sock RUN/x",
            "rm -f RUN/coloc.sock",
            "mkdir RUN/x",
            "ln -sf /tmp/x RUN/coloc.sock",
            "mv RUN RUN2",
            "ls RUN/containers RUN/locks",
        ] {
            let line = attempt.replace("RUN", &run_dir.display().to_string());
            assert_ne!(served.sh(&line).code, 0, "{line}");
        }
        served.sh("coloc list").ok();
    }
    // What is left in its place, whatever it is, is replaced or named.
    let at = run_dir.join("coloc.sock");
    let taken: [fn(&Path); 3] = [
        |at| std::fs::write(at, "x").unwrap(),
        |at| symlink("/etc/passwd", at).unwrap(),
        |at| drop(std::os::unix::net::UnixListener::bind(at).unwrap()),
    ];
    for take in taken {
        let _ = std::fs::remove_file(&at);
        take(&at);
        let served = Served::new(&store);
        served.sh("coloc list").ok();
    }
    assert!(std::fs::metadata("/etc/passwd").unwrap().is_file());
    let _ = std::fs::remove_file(&at);
    std::fs::create_dir(&at).unwrap();
    assert!(store.fails(1, &["serve"]).contains("cannot listen"));
    std::fs::remove_dir(&at).unwrap();
    // A directory that somebody else could write to is none to listen in.
    std::os::unix::fs::chown(&run_dir, Some(uid_of(member())), None).unwrap();
    assert!(store.fails(4, &["serve"]).contains("not to root"));
    std::os::unix::fs::chown(&run_dir, Some(0), None).unwrap();
}

#[test]
fn a_container_that_is_deleted_and_made_anew_is_never_entered_by_its_former_owner() {
    let store = &Store::mini("remade", 4);
    let served = &Served::new(store);
    let done = &std::sync::atomic::AtomicBool::new(false);
    let entered = std::thread::scope(|scope| {
        let shells = scope.spawn(move || {
            let mut mine = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let out = served.sh("coloc exec box -- cat /var/whose");
                assert!(
                    [0, 1, 125, 129, 137, 143].contains(&out.code),
                    "{} {}",
                    out.code,
                    out.stderr
                );
                assert!(!out.text().contains("others"), "{}", out.text());
                assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
                mine += usize::from(out.text() == "mine\n");
            }
            mine
        });
        for round in 0..12 {
            let (owner, whose) = match round % 2 {
                0 => (member(), "mine\n"),
                _ => (crate::common::host_user(), "others\n"),
            };
            store.ok(&["create", "box", "--init", "builtin", "--owner", owner]);
            std::fs::write(store.state("containers/box/private/var/whose"), whose).unwrap();
            store.ok(&["start", "box"]);
            std::thread::sleep(Duration::from_millis(300));
            store.ok(&["delete", "box", "--force", "--yes"]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        shells.join().unwrap()
    });
    assert!(entered > 0, "the member never came in");
    store.assert_whole();
}

#[test]
fn variables_of_a_member_lead_nowhere() {
    let h = house();
    let fake = std::env::temp_dir().join(format!("coloc-it-vars-{}", std::process::id()));
    let own: Vec<(&str, Out)> = {
        let at = fake.display();
        let make = format!(
            "mkdir -p {at}/etc/coloc {at}/var/lib/coloc/containers/x {at}/run/coloc {at}/bin; \
             echo '{{\"ids\":{{\"start\":1,\"count\":65536}}}}' > {at}/etc/coloc/coloc.json; \
             printf '#!/bin/sh\\ntouch {at}/ran\\n' > {at}/bin/su; cp {at}/bin/su {at}/bin/id; \
             cp {at}/bin/su {at}/bin/sh; chmod 755 {at}/bin/*"
        );
        h.served.sh(&make).ok();
        [
            "COLOC_ROOT={AT} $PROGRAM list",
            "COLOC_ROOT={AT} $PROGRAM exec x -- true",
            "COLOC_ROOT={AT} $ROOT/coloc-shell -c id",
            "COLOC_ROOT= $PROGRAM list",
            "COLOC_ROOT=/proc/self/root $PROGRAM create x",
        ]
        .map(|line| (line, h.served.sh(&line.replace("{AT}", &at.to_string()))))
        .into()
    };
    for (line, out) in own {
        assert!([2, 5, 6, 125].contains(&out.code), "{line}: {} {}", out.code, out.stderr);
        assert!(!out.stderr.contains("panicked"), "{line}: {}", out.stderr);
    }
    let hostile = format!(
        "export PATH={0}/bin:$PATH LD_PRELOAD={0}/none.so LD_LIBRARY_PATH={0} HOME=/root IFS=x \
         ENV={0}/bin/su BASH_ENV={0}/bin/su SUDO_USER=root SSH_CONNECTION='6.6.6.6 1 2 3' \
         NOTIFY_SOCKET=/tmp/x LISTEN_FDS=1 COLOC_SWAP=frozen COLOC_KILL_AT=create.copied \
         RUST_BACKTRACE=full TERM=$(head -c 1000 /dev/zero | tr '\\0' a) SHELL={0}/bin/su; \
         coloc exec BOX -- /usr/bin/env 2>/dev/null",
        fake.display()
    );
    let seen = as_member(&hostile).ok();
    for word in [
        "LD_", "IFS", "BASH_ENV", "SUDO", "6.6.6.6", "NOTIFY", "COLOC", "aaaa", "/root\n", "LISTEN",
    ] {
        assert!(!seen.contains(word), "{word}: {seen}");
    }
    let ran = fake.join("ran");
    // What their own shell runs of theirs is their affair; root and the container run nothing of it.
    if ran.exists() {
        assert_eq!(std::fs::metadata(&ran).unwrap().uid(), uid_of(member()));
    }
    let journal = as_member("coloc journal BOX --json").ok();
    assert!(!journal.contains("6.6.6.6"), "{journal}");
    std::fs::remove_dir_all(&fake).unwrap();
}

#[test]
fn an_agent_s_socket_is_no_way_into_the_host() {
    let store = debian("agent", 2);
    let c = Container::started(&store, "room", &["--owner", member()]);
    let served = Served::new(&store);
    let with = |script: &str| {
        let script = script.replace("BOX", &c.name);
        served
            .sh(&format!("eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; {script}"))
    };
    assert!(with("coloc exec --agent BOX -- ssh-add -l").text().contains("no identities"));
    // Root inside puts something else where the sockets go.
    for trick in [
        "rm -rf D; ln -s /etc D",
        "rm -rf D; ln -s /proc/1/root/tmp D",
        "rm -rf D; mkfifo D",
        "rm -rf D; touch D",
        "rm -rf D; mkdir D; for i in $(seq 300); do touch -d yesterday D/$i; done",
    ] {
        c.root_sh(&trick.replace('D', "/run/coloc-agent")).ok();
        let begun = Instant::now();
        let out = with("coloc exec --agent BOX -- true");
        assert!([0, 125].contains(&out.code), "{trick}: {} {}", out.code, out.stderr);
        assert!(begun.elapsed() < Duration::from_secs(30), "{trick}");
    }
    assert!(
        std::fs::read_dir("/etc").unwrap().flatten().all(|e| !e.file_type().unwrap().is_file()
            || e.metadata().unwrap().mode() & 0o170000 != 0o140000)
    );
    c.root_sh("rm -rf /run/coloc-agent").ok();
    // A flood of connections costs the one who asked for it, and ends with their session.
    let out = with(
        "coloc exec --agent BOX -- timeout 5 perl -MIO::Socket::UNIX -e '\
         @s = map { IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) } 1..60'",
    );
    assert!(out.code == 0 || out.code == 124, "{} {}", out.code, out.stderr);
    served.sh(&format!("coloc exec {} -- true", c.name)).ok();
}
