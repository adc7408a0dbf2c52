//! Stores, containers and commands, as the tests need them.

use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const BUILD_LIMIT: Duration = Duration::from_secs(900);
const STORES: &str = "/var/tmp/coloc-it-";
pub(crate) const CACHE: &str = "/var/cache/coloc-test";
/// What is in the base of these tests.
const PACKAGES: &str = include_str!("../../profiles/bases/debian.json");
const REAP: &str = include_str!("reap.sh");
pub(crate) const OWNER: &str = "colocit";

/// A limit of time as it is here: `COLOC_TEST_PATIENCE` says how many times slower than usual.
fn patient(limit: Duration) -> Duration {
    let times = std::env::var("COLOC_TEST_PATIENCE").ok().and_then(|t| t.parse().ok());
    limit * times.unwrap_or(1)
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Out {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self.text()
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self.stderr
    }
}

fn reader(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive
}

fn end_of(child: &mut Child, limit: Duration, what: &str) -> std::process::ExitStatus {
    let (begun, limit) = (Instant::now(), patient(limit));
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it hangs: {what}");
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Runs `command` with `input`; panics if it, or whoever holds its output, does not end.
#[track_caller]
pub(crate) fn run_within(mut command: Command, input: &[u8], limit: Duration) -> Out {
    use std::os::unix::process::ExitStatusExt;
    let what = format!("{command:?}");
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        std::thread::spawn(move || pipe.write_all(&input));
    }
    let stdout = reader(child.stdout.take().unwrap());
    let stderr = reader(child.stderr.take().unwrap());
    let status = end_of(&mut child, limit, &what);
    let rest = |pipe: mpsc::Receiver<Vec<u8>>| {
        pipe.recv_timeout(patient(Duration::from_secs(20)))
            .unwrap_or_else(|_| panic!("somebody holds the output of {what}"))
    };
    Out {
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: rest(stdout),
        stderr: String::from_utf8_lossy(&rest(stderr)).into_owned(),
    }
}

#[track_caller]
pub(crate) fn run(command: Command) -> Out {
    run_within(command, b"", LIMIT)
}

#[track_caller]
pub(crate) fn sh(script: &str) -> Out {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    run(command)
}

/// The program under test.
pub(crate) fn coloc() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests start containers and need root: sudo scripts/test"
        );
        if let Some(installed) = std::env::var_os("COLOC_BIN") {
            return installed.into();
        }
        let built = PathBuf::from(env!("CARGO_BIN_EXE_coloc"));
        let share = built.parent().unwrap().parent().unwrap().join("share");
        std::fs::create_dir_all(&share).unwrap();
        let _ = std::os::unix::fs::symlink(env!("CARGO_MANIFEST_DIR"), share.join("coloc"));
        built
    })
}

fn reap(args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", REAP, "reap.sh"]).arg(coloc()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Cleans up after earlier runs that were killed, and sees that this one is cleaned up after.
#[allow(clippy::zombie_processes, reason = "it outlives this process, which it waits for")]
fn begin_run() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for entry in std::fs::read_dir("/var/tmp").unwrap().flatten() {
            let path = entry.path().to_string_lossy().into_owned();
            let pid = path.strip_prefix(STORES).and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = reap(&[&path]).status();
            }
        }
        let mut after = reap(&["--after", &std::process::id().to_string()]);
        std::os::unix::process::CommandExt::process_group(&mut after, 0);
        after.spawn().unwrap();
    });
}

/// Tests run side by side, and those that change /etc/subuid take turns.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A host user to own containers.
pub(crate) fn host_user() -> &'static str {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _turn = turn();
        sh(&format!("id {OWNER} >/dev/null 2>&1 || useradd -M {OWNER}")).ok();
    });
    OWNER
}

/// A store of its own.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) root: PathBuf,
}

impl Store {
    pub(crate) fn empty(word: &str) -> Self {
        begin_run();
        let root = PathBuf::from(format!("{STORES}{}-{word}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        Self { root }
    }

    /// Somewhere below another one, which is to outlive it.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn new(word: &str, containers: u32) -> Self {
        let store = Self::empty(word);
        store.init(containers);
        store
    }

    /// With a base `mini`, of nothing but busybox.
    pub(crate) fn mini(word: &str, containers: u32) -> Self {
        let store = Self::new(word, containers);
        store.ok(&["base", "create", "mini", "--from", &mini_tree(&store.root)]);
        store
    }

    pub(crate) fn init(&self, containers: u32) -> String {
        let _turn = turn();
        let said = self.ok(&["init", "--containers", &containers.to_string()]);
        std::fs::write(self.root.join("claim"), self.claim()).unwrap();
        std::fs::write(self.root.join("etc/coloc/bases/debian.json"), PACKAGES).unwrap();
        said
    }

    /// The store's line in /etc/subuid.
    pub(crate) fn claim(&self) -> String {
        let text = std::fs::read_to_string(self.root.join("etc/coloc/coloc.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        format!("coloc:{}:{}", config["ids"]["start"], config["ids"]["count"])
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(coloc());
        command.env_remove("COLOC_ROOT").arg("--root").arg(&self.root).args(args);
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Out {
        run(self.command(args))
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.run(args).ok()
    }

    #[track_caller]
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let said = self.run(args).fails(code);
        assert!(said.contains("coloc: ") && !said.contains("panicked"), "{said}");
        said
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    pub(crate) fn state(&self, path: &str) -> PathBuf {
        self.root.join("var/lib/coloc").join(path)
    }

    pub(crate) fn names_in(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.state(path)).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Names of containers, and of whatever else lies among them but their staging.
    pub(crate) fn containers(&self) -> Vec<String> {
        let mut names = self.names_in("containers");
        names.retain(|name| name != ".staging");
        names
    }

    /// How many mounts of its own the directory of all containers is under, with the options of each.
    pub(crate) fn shields(&self) -> Vec<String> {
        let place = self.state("containers").display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        fields.filter(|f| f[4] == place).map(|f| f[5].to_string()).collect()
    }

    /// Names that hold an id range.
    pub(crate) fn claims(&self) -> Vec<String> {
        let slots = self.names_in("ids");
        let text = |slot: String| {
            std::fs::read_to_string(self.state("ids").join(slot)).unwrap_or_default()
        };
        let taken = slots.into_iter().map(text);
        let mut names: Vec<_> =
            taken.filter_map(|t| t.trim().strip_prefix("taken ").map(str::to_string)).collect();
        names.sort();
        // Of those with several ranges.
        names.dedup();
        names
    }

    /// Nothing is half-way: every container and base is whole, and nothing else holds anything.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        assert_eq!(self.names_in("journal"), [""; 0], "journal");
        assert_eq!(self.names_in("staging"), [""; 0], "staging");
        if self.state("containers/.staging").exists() {
            assert_eq!(self.names_in("containers/.staging"), [""; 0], "staging of containers");
        }
        let containers = self.containers();
        let shields = self.shields();
        assert_eq!(shields.len(), usize::from(!containers.is_empty()), "{shields:?}");
        assert_eq!(self.claims(), containers, "each container has one id range");
        let rows = self.json(&["list", "--json"]);
        for row in rows.as_array().unwrap() {
            assert_ne!(row["state"], "damaged", "{row}");
        }
        let mut starts: Vec<u64> = containers
            .iter()
            .map(|n| self.json(&["status", n, "--json"])["ids"]["start"].as_u64().unwrap())
            .collect();
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), containers.len(), "an id range was given twice");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _turn = turn();
        let _ = reap(&[&self.root.to_string_lossy()]).status();
    }
}

/// A root file system with busybox, laid out as Debian's; gives its path.
pub(crate) fn mini_tree(under: &Path) -> String {
    let tree = under.join("mini-tree");
    for dir in ["usr/bin", "usr/sbin", "usr/lib", "etc", "root", "home", "var/lib", "tmp"] {
        std::fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for name in ["bin", "sbin", "lib"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name)).unwrap();
    }
    let busybox = "/usr/bin/busybox";
    let busybox = if Path::new(busybox).exists() { busybox } else { "/bin/busybox" };
    std::fs::copy(busybox, tree.join("usr/bin/busybox"))
        .expect("the tests need the package busybox-static");
    for name in ["sh", "true", "cat", "sleep", "id", "ls", "touch", "ps"] {
        std::os::unix::fs::symlink("busybox", tree.join("usr/bin").join(name)).unwrap();
    }
    for (path, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/shadow", "root:*:19000:0:99999:7:::\n"),
        ("etc/os-release", "ID=mini\n"),
        ("usr/lib/data", "some text\n"),
    ] {
        std::fs::write(tree.join(path), text).unwrap();
    }
    tree.to_string_lossy().into_owned()
}

pub(crate) fn suite() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    line.expect("the tests need a Debian host").trim_matches('"').to_string()
}

fn cached_base() -> PathBuf {
    let mut hash = std::hash::DefaultHasher::new();
    PACKAGES.as_bytes().hash(&mut hash);
    Path::new(CACHE).join(format!("{}-{:016x}.tar", suite(), hash.finish()))
}

fn is_fresh(tar: &Path) -> bool {
    let week = Duration::from_secs(7 * 24 * 3600);
    let age = |m: std::fs::Metadata| m.modified().ok()?.elapsed().ok();
    std::fs::metadata(tar).ok().and_then(age).is_some_and(|age| age < week)
}

/// A store of its own with the base `debian`.
pub(crate) fn debian(word: &str, containers: u32) -> Store {
    store();
    let store = Store::new(word, containers);
    store.ok(&["base", "create", "debian", "--from", &cached_base().to_string_lossy()]);
    store
}

/// The store of this run, with the base `debian`: built once, and kept for a week.
pub(crate) fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = Store::new("main", 160);
        std::fs::create_dir_all(CACHE).unwrap();
        let lock = std::fs::File::create(Path::new(CACHE).join("lock")).unwrap();
        let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let tar = cached_base();
        if is_fresh(&tar) {
            store.ok(&["base", "create", "debian", "--from", &tar.to_string_lossy()]);
            return store;
        }
        let build = store.command(&["base", "create", "debian", "--suite", &suite()]);
        run_within(build, b"", BUILD_LIMIT).ok();
        let new = tar.with_extension("new");
        let mut pack = Command::new("tar");
        pack.args(["--create", "--numeric-owner", "--xattrs", "--file"]).arg(&new);
        pack.arg("-C").arg(store.state("bases/debian/generations/1/tree")).arg(".");
        run(pack).ok();
        std::fs::rename(new, tar).unwrap();
        store
    })
}

/// A container that is deleted when the test is over.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(crate) store: &'a Store,
    pub(crate) name: String,
}

impl<'a> Container<'a> {
    /// Its name has this run's pid in it, and so differs from all others on this host.
    #[track_caller]
    pub(crate) fn create(store: &'a Store, word: &str, args: &[&str]) -> Self {
        let name = format!("{word}-{}", std::process::id());
        let container = Self { store, name };
        store.ok(&[&["create", &container.name], args].concat());
        container
    }

    #[track_caller]
    pub(crate) fn started(store: &'a Store, word: &str, args: &[&str]) -> Self {
        let container = Self::create(store, word, args);
        container.ok("start", &["--wait"]);
        container
    }

    #[track_caller]
    pub(crate) fn run(&self, verb: &str, args: &[&str]) -> Out {
        self.store.run(&[&[verb, &self.name], args].concat())
    }

    #[track_caller]
    pub(crate) fn ok(&self, verb: &str, args: &[&str]) -> String {
        self.run(verb, args).ok()
    }

    /// Runs something inside as root.
    #[track_caller]
    pub(crate) fn root(&self, command: &[&str]) -> Out {
        self.run("exec", &[&["--user", "root", "--"], command].concat())
    }

    #[track_caller]
    pub(crate) fn root_sh(&self, script: &str) -> Out {
        self.root(&["sh", "-c", script])
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.store.json(&["status", &self.name, "--json"])
    }

    pub(crate) fn word(&self) -> String {
        self.status()["state"].as_str().unwrap().to_string()
    }

    /// Its root's id on the host.
    pub(crate) fn ids(&self) -> u32 {
        u32::try_from(self.status()["ids"]["start"].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn private(&self, path: &str) -> PathBuf {
        self.store.state("containers").join(&self.name).join("private").join(path)
    }

    /// Its cgroups on the host, in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<String> {
        let find = format!(
            "find /sys/fs/cgroup -depth -type d \\( -path '*/coloc*/{0}' -o -name '*@{0}.service' \\)",
            self.name
        );
        sh(&find).text().lines().map(str::to_string).collect()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut delete = self.store.command(&["delete", &self.name, "--force", "--yes"]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Waits until `is` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < patient(LIMIT), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn kill(pid: i64) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
