//! `coloc check`: the host, and what really confines a container.

use std::collections::BTreeSet;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use oci_spec::runtime::Spec;

use super::{Engine, unit};
use crate::base::sources;
use crate::error::{Error, Kind, Result};
use crate::profile::Mode;
use crate::runtime::plan::{Plan, Step};
use crate::runtime::swap::Seen;
use crate::runtime::{cgroup, devices, label, probe, swap};
use crate::status::check::{self, Check, Verdict};
use crate::status::size_words;
use crate::store::running::State;
use crate::store::{Name, Record, config};
use crate::sys::path::open_dir;
use crate::sys::{mount, mountinfo};

/// File systems that take an id mapping, by their magic number: ext4, xfs, btrfs, tmpfs, f2fs.
const MAPPABLE: [i64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];

fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|t| t.trim_end().to_string())
}

impl Engine {
    /// What this host has and lacks.
    pub fn check_host(&self) -> Vec<Check> {
        vec![
            kernel(),
            user_namespaces(),
            filters(),
            cgroups(),
            self.file_system(),
            self.ids(),
            self.state_is_roots(),
            self.check_trees(),
            shared_limits(),
            security_module(),
            mirror(),
            tool("mmdebstrap", "base create --suite needs it: apt-get install mmdebstrap"),
            tool("nft", "network=private needs it: apt-get install nftables"),
            tool("dnsmasq", "names of containers need it: apt-get install dnsmasq-base"),
            match unit::booted() {
                true => Check::new("systemd", Verdict::Good, "containers are units"),
                false => Check::new("systemd", Verdict::Note, "none: containers are processes")
                    .hint("have the host's init run coloc start --autostart at boot"),
            },
        ]
    }

    fn file_system(&self) -> Check {
        const WHAT: &str = "file system";
        let dir = self.layout.bases();
        match open_dir(&dir).and_then(|d| mount::file_system(&d)) {
            Err(e) => Check::new(WHAT, Verdict::Unknown, e.to_string()),
            Ok(magic) => Check::that(
                WHAT,
                MAPPABLE.contains(&magic),
                format!("{magic:#x} at {}", dir.display()),
                "it may take no id mapping; ext4, xfs and btrfs do",
            ),
        }
    }

    fn ids(&self) -> Check {
        let pool = self.config.ids;
        let claim = format!("coloc:{}:{}", pool.start, pool.count);
        let has = |path| text(path).is_some_and(|t| t.lines().any(|l| l == claim));
        let holds = has("/etc/subuid") && has("/etc/subgid");
        let hint = format!("put the line {claim} into /etc/subuid and /etc/subgid");
        Check::that("ids", holds, format!("{claim} in /etc/subuid and /etc/subgid"), &hint)
    }

    fn state_is_roots(&self) -> Check {
        const WHAT: &str = "state";
        let state = self.layout.state();
        let mode = std::fs::metadata(&state).map(|m| m.mode() & 0o7777);
        match (config::check_owner(&self.layout), mode) {
            (Ok(()), Ok(mode)) => Check::that(
                WHAT,
                mode & 0o077 == 0,
                format!("{} has mode {mode:04o}", state.display()),
                "host users can walk in: chmod 0700 it",
            ),
            (Err(e), _) => Check::new(WHAT, Verdict::Bad, e.to_string()),
            (_, Err(e)) => Check::new(WHAT, Verdict::Unknown, e.to_string()),
        }
    }

    /// What confines `name`, by the kernel's word on its init.
    pub fn check_container(&self, name: &Name) -> Result<Vec<Check>> {
        let record = Record::load(&self.layout, name)?;
        let Some((state, init)) = State::alive(&self.layout, name) else {
            return Err(Error::new(Kind::State, format!("{name} does not run"))
                .hint(format!("start it: coloc start {name}")));
        };
        let (spec, plan, _) = self.plan(&record)?;
        let network = self.settings(&record)?.network.mode;
        let proc = PathBuf::from(format!("/proc/{}", state.init.pid));
        let status = text(proc.join("status")).unwrap_or_default();
        let read = |file: &str| text(proc.join(file)).unwrap_or_default();
        let usr = [self.layout.generation(&record.base, record.generation).join("tree/usr")];
        let mut rows = vec![
            check::seccomp(&status),
            check::capabilities(&status, &bound_of(&plan), &number),
            check::ids(&read("uid_map"), &read("gid_map"), (record.ids.start, record.ids.count)),
            namespaces(&proc, &network),
            self.network_row(name),
            match swap::seen(&init, &usr) {
                Err(e) => Check::new("base", Verdict::Unknown, e.to_string()),
                Ok(seen) => Check::that(
                    "base",
                    seen == Seen::Known(0),
                    format!("{}, generation {}", record.base, record.generation),
                    "/usr inside is another: coloc adopt, or a restart, puts it right",
                ),
            },
            match probe::usr_is_locked(&init) {
                Ok(()) => Check::new("base locked", Verdict::Good, "root inside cannot change it"),
                Err(e) if e.kind() == Kind::Unsupported => {
                    Check::new("base locked", Verdict::Bad, e.to_string()).hint("stop it at once")
                }
                Err(e) => Check::new("base locked", Verdict::Unknown, e.to_string()),
            },
            check::devices(devices::is_confined(&state.cgroup).ok()),
            masks(&proc, &plan),
            confined(&proc, &plan, spec_label(&spec)),
            limits(&read("limits"), &state, &plan),
            user_limits(&init, &plan),
        ];
        // What was read by number was its init's only if that still lives.
        if state.init.open().is_none() {
            return Err(Error::new(Kind::State, format!("{name} ended meanwhile")));
        }
        rows.retain(|r| !r.found.is_empty());
        Ok(rows)
    }
}

fn bound_of(plan: &Plan) -> Vec<String> {
    let bound = plan.steps.iter().find_map(|s| match s {
        Step::Bound(keep) => Some(keep.clone()),
        _ => None,
    });
    bound.unwrap_or_default()
}

fn number(name: &str) -> Option<u8> {
    let bare = name.trim_start_matches("CAP_");
    caps::Capability::from_str(&format!("CAP_{bare}")).ok().map(|c| c.index())
}

fn namespaces(proc: &Path, network: &Mode) -> Check {
    let number = |path: PathBuf| std::fs::metadata(path).ok().map(|m| m.ino());
    let kinds = ["user", "mnt", "pid", "uts", "ipc", "net", "cgroup"];
    let pairs = kinds.map(|kind| {
        let host = Path::new("/proc/self/ns").join(kind);
        (kind, number(proc.join("ns").join(kind)), number(host))
    });
    check::namespaces(&pairs, (*network == Mode::Host).then_some("net"))
}

/// A mask is wanted where the kernel has something to cover; this host's own /proc and /sys
/// tell, which are of the same kernel.
fn masks(proc: &Path, plan: &Plan) -> Check {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(proc.join("mountinfo"));
    let read = file.and_then(|f| f.take(mountinfo::LIMIT).read_to_end(&mut bytes));
    if let Err(e) = read {
        return Check::new("/proc and /sys", Verdict::Unknown, e.to_string());
    }
    let mounts: BTreeSet<PathBuf> = mountinfo::parse(&bytes).into_iter().map(|m| m.at).collect();
    let wanted: Vec<PathBuf> = plan
        .steps
        .iter()
        .filter_map(|s| match s {
            Step::Mask { at } | Step::ReadOnly { at, .. } => Some(at.clone()),
            _ => None,
        })
        .filter(|at| at.exists() && shown_in_a_container(at))
        .collect();
    check::masks(&wanted, &mounts)
}

/// These the kernel shows to the first pid or user namespace alone.
fn shown_in_a_container(at: &Path) -> bool {
    !["/proc/kcore", "/proc/sysrq-trigger"].iter().any(|p| at == Path::new(p))
}

/// What a process may have at most by the kernel's word on init, and the container by its cgroup's.
fn limits(limits: &str, state: &State, plan: &Plan) -> Check {
    let files = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    let files = files.and_then(|l| l.split_whitespace().nth(1)).unwrap_or("unknown");
    let number = |file: &str| {
        let dirs = state.cgroups.iter().chain([&state.cgroup]);
        let mut found = dirs.filter_map(|dir| text(dir.join(file))?.parse::<u64>().ok());
        found.next()
    };
    let tasks = number("pids.max");
    let high = number("memory.high");
    let max = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
    let processes = plan.processes.and_then(|n| u64::try_from(n).ok());
    let wanted = |file| plan.resources.number(file);
    let wanted = [(tasks, processes), (high, wanted("memory.high")), (max, wanted("memory.max"))];
    let words = |n: Option<u64>| n.map_or("unlimited".into(), size_words);
    check::limits(
        format!(
            "open files {files}, processes {}, memory {} of {}",
            tasks.map_or("unlimited".into(), |n| n.to_string()),
            words(high),
            words(max)
        ),
        &wanted,
    )
}

/// What the users of its user namespace may have of namespaces and the like.
fn user_limits(init: &std::os::fd::OwnedFd, plan: &Plan) -> Check {
    let wanted: Vec<(&str, u32)> = plan
        .steps
        .iter()
        .filter_map(|s| match s {
            Step::UserLimits(list) => Some(list.iter().map(|(name, n)| (name.as_str(), *n))),
            _ => None,
        })
        .flatten()
        .collect();
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    match probe::user_limits(init, &names) {
        Ok(found) => check::user_limits(&wanted, &found),
        Err(e) => Check::new("user limits", Verdict::Unknown, e.to_string()),
    }
}

/// Whether the host has what it takes to load profiles, or another module.
fn security_module() -> Check {
    let selinux = label::kernel_has_selinux();
    check::security_module(label::kernel_has(), label::parser().is_some(), selinux)
}

/// The SELinux label that a spec asks for, whether this host has SELinux or not.
fn spec_label(spec: &Spec) -> Option<&str> {
    spec.process().as_ref()?.selinux_label().as_deref()
}

fn confined(proc: &Path, plan: &Plan, asked: Option<&str>) -> Check {
    if let Some(want) = &plan.label {
        return check::label(text(proc.join("attr/apparmor/current")).as_deref(), want);
    }
    match (&plan.selinux, asked) {
        (Some(want), _) => check::context(text(proc.join("attr/current")).as_deref(), want),
        (None, Some(label)) => {
            let mut row = security_module();
            row.found = format!("{}; for a host with SELinux: {label}", row.found);
            row
        }
        (None, None) => security_module(),
    }
}

/// 5.15 is the first that has every call: mappable btrfs mounts came with it; before it, in 5.14,
/// cgroup.kill and limits that are counted by user namespace, in 5.12 mount_setattr. Older ones
/// than 6.1 are not tested.
fn kernel() -> Check {
    let release = text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-', '+']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    check::kernel(version, release)
}

fn user_namespaces() -> Check {
    let most = text("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let holds = most.parse::<u64>().is_ok_and(|n| n > 0);
    let hint = "switch them on: sysctl user.max_user_namespaces=10000";
    Check::that("user namespaces", holds, format!("{most} at most"), hint)
}

fn filters() -> Check {
    let actions = text("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let holds = ["allow", "errno", "kill_process"]
        .iter()
        .all(|a| actions.split(' ').any(|word| word == *a));
    Check::that("system call filters", holds, actions, "the kernel needs CONFIG_SECCOMP_FILTER")
}

fn cgroups() -> Check {
    match cgroup::host() {
        Err(e) => {
            let hint = e.hint_text().unwrap_or("mount a cgroup2 file system").to_string();
            Check::new("cgroups", Verdict::Bad, e.to_string()).hint(hint)
        }
        Ok(h) if h.v1.is_empty() => {
            Check::new("cgroups", Verdict::Good, format!("v2 at {}", h.v2.display()))
        }
        Ok(h) => Check::new("cgroups", Verdict::Note, format!("hybrid, v2 at {}", h.v2.display()))
            .hint("v1 limits less; for v2 alone boot with systemd.unified_cgroup_hierarchy=1"),
    }
}

/// Of what the host has one number for all containers, which scripts/sysctl.d raises.
fn shared_limits() -> Check {
    let read = |name: &str| text(format!("/proc/sys/{name}")).and_then(|t| t.parse().ok());
    check::shared_limits(read("fs/inotify/max_user_instances"), read("kernel/pty/max"))
}

/// Where a base of the host's own release would come from, and whether anybody is there. Nothing
/// that runs needs it, so it is no alarm.
fn mirror() -> Check {
    const WHAT: &str = "mirror";
    let os = text("/etc/os-release").unwrap_or_default();
    let suite = os.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    let suite = suite.map_or("stable", |s| s.trim_matches('"'));
    let Some(address) = sources::archive(suite) else {
        return Check::new(WHAT, Verdict::Note, "this host's apt has none of its own release")
            .hint(
                "name one where a base is made: coloc base create NAME --suite SUITE --mirror URL",
            );
    };
    let proxy = sources::proxy(&address);
    let by = proxy.as_ref().map_or(String::new(), |p| format!(", by the proxy {p}"));
    let Some((host, port)) = sources::server(proxy.as_ref().unwrap_or(&address)) else {
        return Check::new(WHAT, Verdict::Good, format!("{address}{by}"));
    };
    match answers(host.clone(), port) {
        Ok(()) => Check::new(WHAT, Verdict::Good, format!("{address}{by}")),
        Err(why) => Check::new(WHAT, Verdict::Note, format!("{address}{by}: {why}")).hint(format!(
            "new bases and updates need it: see that this host reaches port {port} of {host}"
        )),
    }
}

/// Whether somebody takes a connection. A resolver that does not answer can take longer than anybody
/// wants to wait, so a thread asks, and is left behind.
fn answers(host: String, port: u16) -> std::result::Result<(), String> {
    const LIMIT: Duration = Duration::from_secs(5);
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let found = (host.as_str(), port).to_socket_addrs().map_err(|e| e.to_string());
        let tried = found.and_then(|all| {
            let mut last = "it has no address".to_string();
            for address in all {
                match TcpStream::connect_timeout(&address, LIMIT) {
                    Ok(_) => return Ok(()),
                    Err(e) => last = e.to_string(),
                }
            }
            Err(last)
        });
        let _ = send.send(tried);
    });
    receive.recv_timeout(LIMIT).unwrap_or_else(|_| Err("no answer in time".into()))
}

fn tool(name: &'static str, hint: &str) -> Check {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    match dirs.iter().map(|d| Path::new(d).join(name)).find(|p| p.exists()) {
        Some(path) => Check::new(name, Verdict::Good, path.display().to_string()),
        None => Check::new(name, Verdict::Note, "not there").hint(hint),
    }
}
