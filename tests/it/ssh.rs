//! Members whose login shell is coloc-shell, by a real sshd on the loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::common::{Container, Out, Store, debian, run, sh, turn, until};
use crate::member::{Screen, Served};

/// A store, its broker, a sshd, a member who logs in by ssh, and their container.
struct Host {
    served: Served<'static>,
    own: Container<'static>,
    user: String,
    dir: PathBuf,
    port: u16,
}

const WATCH: &str = r#"/usr/sbin/sshd -D -e -f "$1" & sshd=$!
while kill -0 "$2" 2>/dev/null && kill -0 $sshd; do sleep 0.2; done; kill $sshd"#;

/// Has `path` read or written by nobody else, as ssh wants it.
fn key(path: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    run(keygen).ok();
}

#[allow(clippy::zombie_processes, reason = "it ends after this process")]
fn new_host() -> Host {
    let store: &'static Store = Box::leak(Box::new(debian("ssh", 6)));
    let served = Served::new(store);
    let user = format!("colocssh{}", std::process::id());
    {
        let _turn = turn();
        let shell = store.root.join("coloc-shell");
        // A password that nobody has: with `!` sshd would take the account for locked.
        sh(&format!("useradd -m -p '*' -s {} {user}", shell.display())).ok();
        std::fs::write(store.root.join("user"), &user).unwrap();
    }
    let own = Container::create(store, "room", &["--owner", &user]);
    let dir = store.root.join("ssh");
    std::fs::create_dir(&dir).unwrap();
    std::fs::create_dir_all("/run/sshd").unwrap();
    key(&dir.join("host_key"));
    key(&dir.join("key"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = dir.display();
    std::fs::write(
        dir.join("sshd_config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nPidFile none\n\
             AuthorizedKeysFile {at}/key.pub\nStrictModes no\nUsePAM no\nAllowUsers {user}\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\nAcceptEnv COLOC_NAME\n\
             SetEnv COLOC_ROOT={}\n",
            store.root.display()
        ),
    )
    .unwrap();
    let common = format!(
        "User {user}\nIdentityFile {at}/key\nIdentitiesOnly yes\nStrictHostKeyChecking no\n\
         UserKnownHostsFile /dev/null\nLogLevel ERROR\nBatchMode yes\n"
    );
    std::fs::write(
        dir.join("config"),
        format!(
            "Host host\nHostName 127.0.0.1\nPort {port}\nHost inside\n\
             ProxyCommand ssh -F {at}/config host sudo /usr/sbin/sshd -i\nHost *\n{common}"
        ),
    )
    .unwrap();
    let mut sshd = Command::new("sh");
    sshd.args(["-c", WATCH, "sh"]).arg(dir.join("sshd_config"));
    sshd.arg(std::process::id().to_string());
    sshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    Host { served, own, user, dir, port }
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(new_host)
}

/// A line on the member's own machine, where OPTS is the options of every program of ssh's, and
/// `host` the host.
fn line(script: &str) -> Command {
    let h = host();
    let mut command = Command::new("bash");
    let config = format!("-F {}/config", h.dir.display());
    command.args(["-c", &script.replace("OPTS", &config)]);
    command.current_dir(&h.dir).env_remove("SSH_AUTH_SOCK").env("HOME", &h.dir);
    command
}

#[track_caller]
fn at_home(script: &str) -> Out {
    run(line(script))
}

#[test]
fn ssh_is_in_the_container_which_is_started() {
    let h = host();
    let out = at_home("ssh OPTS host 'id -un; hostname; pwd; exit 7'");
    let want = format!("{0}\n{1}\n/home/{0}\n", h.user, h.own.name);
    assert_eq!((out.code, out.text()), (7, want), "{}", out.stderr);
    assert_eq!(h.own.word(), "running");
    let out = at_home("ssh OPTS host 'echo out; echo err >&2; cat' < host_key.pub");
    let key = std::fs::read_to_string(h.dir.join("host_key.pub")).unwrap();
    assert_eq!((out.text(), out.stderr.as_str()), (format!("out\n{key}"), "err\n"));
    assert_eq!(at_home("ssh OPTS host 'sudo -n id -u'").ok(), "0\n");
    // Not a word beside what was asked for, which would break what talks through this.
    let out = at_home("ssh OPTS host true");
    assert_eq!((out.code, out.text(), out.stderr), (0, String::new(), String::new()));
    assert_eq!(at_home("ssh OPTS host 'kill -9 $$'").code, 137);
    assert_eq!(
        at_home("ssh OPTS host \"echo 'a  b' | tr b c; echo $'x\\ny'\"").ok(),
        "a  c\nx\ny\n"
    );
    let who = h.own.store.json(&["journal", &h.own.name, "--json"]).to_string();
    assert!(who.contains("kill -9") && who.contains(&h.user), "{who}");
}

#[test]
fn ssh_on_a_terminal_is_a_login_session() {
    let h = host();
    let mut child = line("exec script -qec 'ssh OPTS host' /dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut screen = Screen::of(child.stdout.take().unwrap());
    screen.wait_for("$ ");
    use std::io::Write;
    keys.write_all(b"shopt -q login_shell && echo lo$((7))in $XDG_SESSION_ID @$HOSTNAME; tty\n")
        .unwrap();
    screen.wait_for("lo7in ");
    screen.wait_for(&format!("@{}", h.own.name));
    screen.wait_for("/dev/pts/");
    keys.write_all(b"exit 5\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{}", screen.text);
    let out = at_home("exec script -qec \"ssh -t OPTS host 'test -t 0 && tty'\" /dev/null");
    assert!(out.text().contains("/dev/pts/"), "{}", out.text());
}

#[test]
fn when_the_connection_dies_the_session_is_hung_up() {
    let h = host();
    let script = "trap 'touch /var/tmp/hung-up; exit' HUP; echo rea$((1))dy; \
                  while :; do sleep 0.1; done";
    let mut client = line(&format!("exec ssh -tt OPTS host \"{}\"", script.replace('$', r"\$")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Screen::of(client.stdout.take().unwrap()).wait_for("rea1dy");
    client.kill().unwrap();
    client.wait().unwrap();
    until("the session is hung up", || h.own.private("var/tmp/hung-up").exists());
}

#[test]
fn scp_and_sftp_copy_both_ways() {
    at_home("head -c 3000000 /dev/urandom > scp.a").ok();
    for (n, how) in ["", "-O"].iter().enumerate() {
        at_home(&format!(
            "scp -q {how} OPTS scp.a host:scp.{n} && scp -q {how} OPTS host:scp.{n} scp.{n}"
        ))
        .ok();
        at_home(&format!("cmp scp.a scp.{n}")).ok();
    }
    at_home("printf 'put scp.a sftp.a\\nget sftp.a sftp.b\\nls -l\\n' | sftp OPTS -b - host").ok();
    at_home("cmp scp.a sftp.b").ok();
    // What came is inside, and nothing of it is on the host.
    let h = host();
    assert!(h.own.private(&format!("home/{}/sftp.a", h.user)).exists());
    assert!(!Path::new(&format!("/home/{}/sftp.a", h.user)).exists());
    let told = at_home("scp -q OPTS host:/etc/hostname scp.name && cat scp.name").ok();
    assert_eq!(told.trim(), h.own.name);
}

#[test]
fn rsync_goes_both_ways() {
    at_home("mkdir -p rs/a && seq 9999 > rs/a/n && ln -s n rs/a/l && chmod 750 rs/a").ok();
    at_home("rsync -a -e 'ssh OPTS' rs/ host:rs/ && rsync -a -e 'ssh OPTS' host:rs/ rs2/").ok();
    assert_eq!(at_home("rsync -ai --delete -e 'ssh OPTS' rs/ host:rs/").ok(), "");
    at_home("diff -r rs rs2 && test -L rs2/a/l").ok();
}

#[test]
fn git_pushes_and_clones() {
    let h = host();
    // The base of the tests has no git. The member puts one where theirs goes.
    let bin = h.own.private("var/usrlocal/bin");
    std::fs::copy("/usr/bin/git", bin.join("git")).unwrap();
    for name in ["git-receive-pack", "git-upload-pack"] {
        std::os::unix::fs::symlink("git", bin.join(name)).unwrap();
    }
    at_home(
        "export GIT_SSH_COMMAND='ssh OPTS' GIT_CONFIG_NOSYSTEM=1; git=/usr/bin/git; set -e
         ssh OPTS host git init -q --bare project.git 2>/dev/null
         $git init -q work; cd work; seq 5000 > file; $git add file
         $git -c user.name=a -c user.email=a@example.org commit -q -m one
         $git push -q host:project.git HEAD:refs/heads/main; cd ..
         $git clone -q -b main host:project.git copy; cmp work/file copy/file",
    )
    .ok();
}

#[test]
fn ports_of_the_container_are_reached_by_an_sshd_inside() {
    let h = host();
    let inside = "mkdir -p -m 700 .ssh; cat > .ssh/authorized_keys";
    at_home(&format!("ssh OPTS host '{inside}' < key.pub")).ok();
    let out = at_home("ssh OPTS inside 'id -un; hostname'");
    assert_eq!(out.ok(), format!("{}\n{}\n", h.user, h.own.name));
    let listen = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => \
                  q(127.0.0.1), LocalPort => 7777) or die; $| = 1; print qq(up\\n); $c = $s->accept; \
                  print $c qq(from inside\\n)'";
    let mut server = line(&format!("exec ssh OPTS host \"{}\"", listen.replace('$', r"\$")))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Screen::of(server.stdout.take().unwrap()).wait_for("up");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let out = at_home(&format!(
        "ssh -N -L {free}:127.0.0.1:7777 OPTS inside & \
         until exec 3<>/dev/tcp/127.0.0.1/{free}; do sleep 0.2; done 2>/dev/null; \
         cat <&3; kill $!; wait $!"
    ));
    assert_eq!(out.text(), "from inside\n", "{}", out.stderr);
    server.wait().unwrap();
    // Without it, forwarding is sshd's: its ports are the host's.
    let out = at_home(&format!("timeout 5 ssh -W 127.0.0.1:{} OPTS host < /dev/null", h.port));
    assert!(out.text().starts_with("SSH-2.0"), "{}", out.text());
}

/// Changes what the admin has set.
fn configure(store: &Store, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap();
    let path = store.root.join("etc/coloc/coloc.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    let new = path.with_extension("new");
    std::fs::write(&new, config.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn an_agent_comes_along_only_when_both_say_so() {
    let h = host();
    let with = |script: &str| {
        at_home(&format!(
            "eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-add -q key; {script}"
        ))
    };
    assert_eq!(with("ssh -A OPTS host 'echo \"[$SSH_AUTH_SOCK]\"'").ok(), "[]\n");
    configure(h.own.store, |c| drop(c.insert("agent".into(), true.into())));
    let keys =
        with("ssh -A OPTS host 'for i in 1 2 3 4 5 6; do ssh-add -l & done; wait; ssh-add -l'");
    assert_eq!(keys.ok().matches("ED25519").count(), 7);
    // In a login session, and with nobody else inside.
    let out = with(
        "ssh -A OPTS host 'stat -c %U:%a $SSH_AUTH_SOCK; \
         sudo -u nobody --preserve-env=SSH_AUTH_SOCK ssh-add -l 2>&1'",
    );
    let said = out.text();
    assert!(said.starts_with(&format!("{}:600\n", h.user)), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    let out =
        with("(sleep 3; echo ssh-add -l; echo exit) | script -qec 'ssh -A OPTS host' /dev/null");
    assert!(out.text().contains("ED25519"), "{}", out.text());
    assert_eq!(with("ssh OPTS host 'echo \"[$SSH_AUTH_SOCK]\"'").ok(), "[]\n");
    // The same for who has a shell on the host and says --agent.
    let agent = "eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; \
                 coloc exec --agent NAME -- ssh-add -l; coloc exec NAME -- sh -c 'echo [$SSH_AUTH_SOCK]'";
    let out = run(h.served.user(&h.user, &agent.replace("NAME", &h.own.name)));
    assert!(out.text().contains("no identities") && out.text().ends_with("[]\n"), "{}", out.text());
    let none = run(h.served.user(&h.user, &format!("coloc exec --agent {} -- true", h.own.name)));
    assert!(none.fails(125).contains("no ssh agent"));
    configure(h.own.store, |c| drop(c.remove("agent")));
}

/// A second member, whose containers a test alone has.
fn other(word: &str, containers: usize) -> (String, Vec<Container<'static>>) {
    let h = host();
    let group = format!("{}-{word}", h.user);
    // By sshd's config there is one user, so the others log in on the host.
    let user = {
        let _turn = turn();
        let shell = h.served.store.root.join("coloc-shell");
        sh(&format!("useradd -M -p '*' -s {} {group}", shell.display())).ok();
        group
    };
    let make = |n| {
        let args = ["--init", "builtin", "--owner", user.as_str()];
        Container::create(h.served.store, &format!("{word}{n}"), &args)
    };
    let list = (0..containers).map(make).collect();
    (user, list)
}

fn remove(user: &str) {
    let _turn = turn();
    sh(&format!("userdel -f {user}")).ok();
}

#[test]
fn who_cannot_come_in_is_told_why_and_whom_to_write_to() {
    let h = host();
    configure(h.own.store, |c| drop(c.insert("contact".into(), "admin@example.org".into())));
    let (user, list) = other("no", 1);
    let shell = |line: &str| {
        run(h
            .served
            .user(&user, &format!("export COLOC_ROOT=$ROOT; $ROOT/coloc-shell -c '{line}'")))
    };
    assert_eq!(shell("echo $0").ok(), "bash\n");
    list[0].ok("stop", &["--timeout", "0"]);
    let proc_dir = list[0].private("proc");
    std::fs::remove_dir(&proc_dir).unwrap();
    std::fs::write(&proc_dir, "").unwrap();
    let said = shell("true").fails(125);
    assert!(said.contains("cannot start") && said.contains("is not a directory"), "{said}");
    assert!(said.contains("write to admin@example.org"), "{said}");
    drop(list);
    let said = shell("true").fails(125);
    assert!(said.contains("has no container") && said.contains("admin@example.org"), "{said}");
    let said = run(h.served.user(&user, "COLOC_ROOT=/nowhere $ROOT/coloc-shell")).fails(125);
    assert!(said.contains("nobody serves"), "{said}");
    let said = run(h.served.user(&user, "$ROOT/coloc-shell --root / -c id")).fails(125);
    assert!(said.contains("does not know"), "{said}");
    remove(&user);
}

#[test]
fn who_has_several_says_which_or_is_asked() {
    let h = host();
    let (user, list) = other("two", 2);
    let shell = |line: &str| run(h.served.user(&user, &format!("export COLOC_ROOT=$ROOT; {line}")));
    let said = shell("$ROOT/coloc-shell -c true").fails(125);
    assert!(said.contains("several") && said.contains(&list[1].name), "{said}");
    let named = format!("COLOC_NAME={} $ROOT/coloc-shell -c hostname", list[1].name);
    assert_eq!(shell(&named).ok().trim(), list[1].name);
    let ask = |command: &str| {
        shell(&format!(
            "(sleep 2; echo {}; sleep 2; echo hostname; echo exit) | \
             SHELL=/bin/bash script -qec '{command}' /dev/null",
            list[1].name
        ))
    };
    for command in ["$ROOT/coloc-shell", "$PROGRAM shell"] {
        let out = ask(command);
        assert!(out.text().contains("say which"), "{}", out.text());
        assert!(out.text().matches(&list[1].name).count() >= 3, "{}", out.text());
    }
    drop(list);
    remove(&user);
}
