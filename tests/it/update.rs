//! Update once: real packages, real services under load, every container.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::common::{CACHE, Container, Store, host_user, run, run_within, sh, suite};

/// The host's apt sources: address and suites of each `deb` line or stanza.
fn sources() -> Vec<(String, String)> {
    let text = sh("cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null; true");
    let mut found = Vec::new();
    for line in text.ok().lines().filter(|l| l.starts_with("deb ")) {
        let words: Vec<&str> =
            line.split_whitespace().filter(|w| !w.starts_with('[') && !w.ends_with(']')).collect();
        found.push((words[1].to_string(), words[2].to_string()));
    }
    let text = sh("cat /etc/apt/sources.list.d/*.sources 2>/dev/null; true").ok();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim().to_string()
        };
        for uri in field("URIs:").split_whitespace() {
            for suite in field("Suites:").split_whitespace() {
                found.push((uri.to_string(), suite.to_string()));
            }
        }
    }
    found
}

fn mirror() -> String {
    let suite = suite();
    let all = sources();
    let found = all.into_iter().find(|(_, s)| *s == suite);
    found.expect("the tests need the suite's main archive in apt's sources").0
}

fn security() -> String {
    let wanted = format!("{}-security", suite());
    let all = sources();
    let found = all.into_iter().find(|(_, s)| *s == wanted);
    let uri = found.expect("the tests need the suite's security archive in apt's sources").0;
    format!("deb {uri} {wanted} main")
}

const SERVICES: &str = "nginx-light,openssh-server,cron,openssl,python3,perl,curl,procps";

/// A store whose base `deb` is of the suite's main archive alone: what its security archive has
/// is to be updated. The tree is kept for other runs, as what it lacks only grows.
pub(crate) fn old_store(word: &str, containers: u32) -> Store {
    let store = Store::new(word, containers);
    std::fs::create_dir_all(CACHE).unwrap();
    let lock = std::fs::File::create(Path::new(CACHE).join("lock-old")).unwrap();
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let tar = PathBuf::from(format!("{CACHE}/{}-main-only.tar", suite()));
    if !tar.exists() {
        let args = ["base", "create", "deb", "--suite", &suite(), "--mirror", &mirror()];
        let build = store.command(&[&args[..], &["--include", SERVICES]].concat());
        run_within(build, b"", Duration::from_secs(900)).ok();
        let mut pack = Command::new("tar");
        pack.args(["--create", "--numeric-owner", "--xattrs", "--file"]);
        pack.arg(tar.with_extension("new"));
        pack.arg("-C").arg(store.state("bases/deb/generations/1/tree")).arg(".");
        run(pack).ok();
        std::fs::rename(tar.with_extension("new"), &tar).unwrap();
        return store;
    }
    store.ok(&["base", "create", "deb", "--from", &tar.to_string_lossy()]);
    store
}

/// Runs a change of a base, which may take its time; gives its report.
#[track_caller]
fn change(store: &Store, args: &[&str]) -> Value {
    // Before a `--`, where the command of a shell begins.
    let (verb, rest) = args.split_at(2);
    let command = store.command(&[&["base"], verb, &["--json"], rest].concat());
    let out = run_within(command, b"", Duration::from_secs(900));
    serde_json::from_str(&out.ok()).unwrap()
}

/// Asks the web server in a container for its page, again and again, from outside its file
/// system: requests, and those that were not answered.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(c: &Container<'_>) -> Self {
        let net = std::fs::File::open(format!("/proc/{}/ns/net", c.status()["pid"])).unwrap();
        let (stop, asked, failed) = (Arc::default(), Arc::default(), Arc::default());
        let load = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failed));
        let thread = std::thread::spawn(move || {
            nix::sched::setns(&net, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let (stop, asked, failed): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>) = load;
            while !stop.load(Ordering::Relaxed) {
                let answered = || -> std::io::Result<bool> {
                    let mut stream = TcpStream::connect("127.0.0.1:80")?;
                    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                    let mut text = String::new();
                    stream.read_to_string(&mut text)?;
                    Ok(text.starts_with("HTTP/1.1 200") && text.contains("nginx"))
                };
                if !answered().unwrap_or(false) {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, asked, failed, thread: Some(thread) }
    }

    #[track_caller]
    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let (asked, failed) =
            (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        // A rollback is over in a moment.
        assert!(asked > 10 && failed == 0, "{failed} of {asked} requests were not answered");
    }
}

/// Checksums and metadata of all of a generation.
fn sums(store: &Store, generation: u64) -> String {
    let dir = store.state(&format!("bases/deb/generations/{generation}"));
    sh(&format!(
        "cd {} && find . -type f -print0 | sort -z | xargs -0 sha256sum && \
         find . -printf '%p %y %m %U %G %s %T@ %l\n' | sort",
        dir.display()
    ))
    .ok()
}

fn packages(c: &Container<'_>) -> String {
    c.root(&["dpkg-query", "-W", "-f", "${Package} ${Version}\n"]).ok()
}

/// What dpkg finds changed, but for the two files that keep a container's system ids apart from
/// its base's.
fn verify(c: &Container<'_>) -> String {
    let said = c.root(&["dpkg", "--verify"]).text();
    let ours = ["/etc/adduser.conf", "/etc/login.defs"];
    said.lines().filter(|l| !ours.iter().any(|o| l.ends_with(o))).collect()
}

fn stale(c: &Container<'_>) -> Vec<Value> {
    c.store.json(&["stale", &c.name, "--json"]).as_array().unwrap().clone()
}

#[test]
fn an_update_lands_once_everywhere_live() {
    let store = old_store("update", 8);
    let web = [Container::started(&store, "web1", &[]), Container::started(&store, "web2", &[])];
    let own = Container::started(&store, "own", &["--owner", host_user()]);
    let off = Container::create(&store, "off", &[]);
    for c in &web {
        c.root_sh("systemctl is-active nginx ssh cron").ok();
        c.root_sh("systemd-run --unit=loop sh -c 'while :; do sleep 1; done'").ok();
    }
    own.root_sh(
        "sed -i 's/worker_connections 768/worker_connections 700/' /etc/nginx/nginx.conf && \
         echo 'PermitRootLogin no' >> /etc/ssh/sshd_config && useradd -m -s /bin/bash mine && \
         systemctl mask cron && rm /etc/nginx/fastcgi.conf && systemctl restart nginx",
    )
    .ok();
    let mine = |c: &Container<'_>| {
        c.root_sh(
            "grep -c 700 /etc/nginx/nginx.conf; tail -n1 /etc/ssh/sshd_config; id -u mine; \
             readlink /etc/systemd/system/cron.service; test ! -e /etc/nginx/fastcgi.conf; \
             echo $?; cat /etc/machine-id",
        )
        .ok()
    };
    let (was, first) = (mine(&own), sums(&store, 1));
    let before = packages(&web[0]);
    let loads = [Load::on(&web[0]), Load::on(&web[1]), Load::on(&own)];

    // The security archive comes, as a change by hand.
    let line = security();
    let add = format!("echo '{line}' > /etc/apt/sources.list.d/security.list");
    let report = change(&store, &["shell", "deb", "--", "sh", "-c", &add]);
    assert_eq!(report["to"], 2, "{report}");

    let report = change(&store, &["update", "deb"]);
    assert_eq!((&report["from"], &report["to"]), (&2.into(), &3.into()), "{report}");
    let updated = report["packages"].as_array().unwrap();
    assert!(updated.iter().any(|p| p["security"] == true), "{report}");
    // What nginx runs of it: which of these it is depends on the release and the day.
    let (package, files) = [
        (
            "libssl3",
            &["lib/x86_64-linux-gnu/libssl.so.3", "lib/x86_64-linux-gnu/libcrypto.so.3"][..],
        ),
        (
            "libssl3t64",
            &["lib/x86_64-linux-gnu/libssl.so.3", "lib/x86_64-linux-gnu/libcrypto.so.3"],
        ),
        ("nginx", &["sbin/nginx"]),
    ]
    .into_iter()
    .find(|(package, _)| updated.iter().any(|p| p["name"] == *package))
    .unwrap_or_else(|| panic!("nginx has nothing of it: {report}"));
    let containers = report["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 4);
    for c in containers {
        assert_eq!((&c["adopted"], &c["error"]), (&true.into(), &Value::Null), "{c}");
        let runs = c["name"] != off.name.as_str();
        assert_eq!(c["swapped"], runs, "{c}");
        assert_eq!(c["conflicts"].as_array().unwrap().len(), 0, "{c}");
    }
    assert_eq!(sums(&store, 1), first, "generation 1 was written to");
    for load in loads {
        load.end();
    }

    // In all of them, the stopped one too.
    off.ok("start", &["--wait"]);
    let after = packages(&off);
    assert_ne!(before, after);
    for c in web.iter().chain([&own]) {
        assert_eq!(packages(c), after);
        let version = c.root(&["openssl", "version"]).ok();
        assert_eq!(version, off.root(&["openssl", "version"]).ok());
        assert_eq!(c.root(&["dpkg", "--audit"]).ok(), "");
        c.root(&["apt-get", "check"]).ok();
        assert_eq!(c.root(&["systemctl", "is-system-running"]).ok(), "running\n");
    }
    assert_eq!(verify(&web[0]), "");
    assert_eq!(mine(&own), was, "the member's own changes");
    for p in updated {
        let line = format!("{} {}\n", p["name"].as_str().unwrap(), p["new"].as_str().unwrap());
        assert!(after.contains(&line), "{line}");
    }

    // Those that map its old files are named, no other is.
    for c in &web {
        let listed: Vec<i64> = stale(c)
            .iter()
            .filter(|s| s["package"] == package)
            .map(|s| s["pid"].as_i64().unwrap())
            .collect();
        assert!(!listed.is_empty(), "nginx maps {package}: {:?}", stale(c));
        let new: Vec<String> = files
            .iter()
            .map(|name| {
                let path = store.state("bases/deb/generations/3/tree/usr").join(name);
                std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap()).to_string()
            })
            .collect();
        let cgroup = c.status()["cgroup"].as_str().unwrap().to_string();
        let pids = sh(&format!("cat $(find {cgroup} -name cgroup.procs)")).ok();
        for pid in pids.lines().map(|p| p.parse::<i64>().unwrap()) {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            let old = maps.lines().any(|l| {
                let inode = l.split_whitespace().nth(4).unwrap_or("");
                files.iter().any(|name| l.ends_with(&format!("/{name}")))
                    && new.iter().all(|n| n != inode)
            });
            assert_eq!(old, listed.contains(&pid), "{pid}: {maps}");
        }
        assert!(stale(c).iter().any(|s| s["unit"] == "nginx.service"));
        c.store.ok(&["stale", &c.name, "--restart"]);
        let left = stale(c);
        assert!(left.iter().all(|s| s["unit"] == "dbus.service"), "{left:?}");
        assert_eq!(c.root(&["systemctl", "is-system-running"]).ok(), "running\n");
    }

    // Nothing more to do, and then all the way back.
    let again = change(&store, &["update", "deb"]);
    assert_eq!((&again["from"], &again["to"]), (&3.into(), &3.into()), "{again}");
    let loads = [Load::on(&web[0]), Load::on(&own)];
    let back = change(&store, &["rollback", "deb", "--to", "1"]);
    assert_eq!((&back["from"], &back["to"]), (&3.into(), &1.into()), "{back}");
    for load in loads {
        load.end();
    }
    for c in web.iter().chain([&own, &off]) {
        assert_eq!(packages(c), before);
        assert_eq!(c.root(&["dpkg", "--audit"]).ok(), "");
    }
    assert_eq!(verify(&web[0]), "");
    assert_eq!(mine(&own), was);
    for generation in ["1", "2", "3"] {
        store.ok(&["base", "verify", "deb", "--generation", generation]);
    }
    drop((web, own, off));
    store.assert_whole();
}
