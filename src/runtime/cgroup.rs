//! The cgroups of a container, on a v2 host, a hybrid one, under systemd and without it.
//!
//! ```text
//! <unit or coloc/NAME>/            limits and accounting of the whole
//!   supervisor/                    the supervisor, whose cost is the container's too
//!   payload/                       delegated: the root of the container's cgroup namespace
//!     .coloc/                      where what enters begins, as a leaf must
//! ```
//!
//! On a hybrid host each v1 hierarchy gets one directory, `coloc/NAME`, for accounting.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::path::open_dir;
use crate::tree::cgroups;

/// The host's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hierarchies {
    /// Where cgroup2 is mounted.
    pub v2: PathBuf,
    /// Where v1 controllers are mounted, with what they control.
    pub v1: Vec<(PathBuf, String)>,
}

/// Finds the hierarchies in the text of /proc/self/mountinfo (proc(5)).
pub fn parse(mountinfo: &str) -> Option<Hierarchies> {
    let mut found = Hierarchies::default();
    for line in mountinfo.lines() {
        let (left, right) = line.split_once(" - ")?;
        let at = PathBuf::from(left.split(' ').nth(4)?);
        let mut kind = right.split(' ');
        match kind.next() {
            Some("cgroup2") if found.v2.as_os_str().is_empty() => found.v2 = at,
            Some("cgroup") => found.v1.push((at, kind.nth(1).unwrap_or("").to_string())),
            _ => {}
        }
    }
    (!found.v2.as_os_str().is_empty()).then_some(found)
}

/// The hierarchies of this host, as they were when first asked for.
pub fn host() -> Result<&'static Hierarchies> {
    static FOUND: OnceLock<Hierarchies> = OnceLock::new();
    if FOUND.get().is_none() {
        let _ = FOUND.set(find()?);
    }
    FOUND.get().ok_or_else(|| Error::failed("the cgroup hierarchies are not known"))
}

fn find() -> Result<Hierarchies> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    parse(&text).ok_or_else(|| {
        Error::new(Kind::Unsupported, "this host has no cgroup v2 hierarchy").hint(
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    })
}

/// The one of the v1 cgroups `made` that has `file`. Only that of its controller is asked: there may be a
/// dozen hierarchies.
pub fn v1_with<'a>(made: &'a [PathBuf], file: &str) -> Option<&'a PathBuf> {
    let controller = file.split('.').next()?;
    let mut of_it = host().ok()?.v1.iter().filter(|(_, o)| o.split(',').any(|o| o == controller));
    let (mount, _) = of_it.next()?;
    made.iter().find(|dir| dir.starts_with(mount) && dir.join(file).exists())
}

/// The cgroups that were made for one start.
#[derive(Debug)]
pub struct Cgroups {
    /// Where the supervisor is to be born; None when this process is it, and in its place.
    pub birthplace: Option<PathBuf>,
    /// The v2 one that the container sees as its root.
    pub payload: PathBuf,
    /// The v1 ones.
    pub v1: Vec<PathBuf>,
    /// All directories made, children before parents.
    pub made: Vec<PathBuf>,
}

/// The v2 cgroup that this process is in.
fn own(hierarchies: &Hierarchies) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some(hierarchies.v2.join(own))
}

/// The cgroup of the systemd unit that this process is the main one of, if it is.
fn own_unit(hierarchies: &Hierarchies) -> Option<PathBuf> {
    std::env::var_os("INVOCATION_ID")?;
    std::env::var_os("NOTIFY_SOCKET")?;
    let own = own(hierarchies)?;
    // After a reboot from inside this process is in the leaf that it made before.
    let unit = if own.ends_with("supervisor") { own.parent()? } else { &own };
    unit.extension().is_some_and(|e| e == "service").then(|| unit.to_path_buf())
}

/// Makes the cgroups of the container `name` of the store `store`, and gives the payload to
/// `root_id`, the container's root.
///
/// The supervisor is to be born in the cgroup for it: a process that is moved waits for a grace
/// period of the kernel's RCU, some 10 ms, and so does a controller that is passed on past a
/// process. Only the main process of a systemd unit, which has to stay the one that systemd
/// knows, is moved into it here.
pub fn prepare(store: &str, name: &str, root_id: u32) -> Result<Cgroups> {
    let hierarchies = host()?;
    let unit = own_unit(hierarchies);
    let base = match &unit {
        Some(unit) => unit.clone(),
        None => hierarchies.v2.join(store).join(name),
    };
    let (supervisor, payload) = (base.join("supervisor"), base.join("payload"));
    make(&supervisor)?;
    if unit.is_some() && own(hierarchies).as_deref() != Some(&*supervisor) {
        put(&supervisor, std::process::id() as i32)?;
    }
    if unit.is_none() {
        // From the top, as a controller must be passed on at each level.
        enable(&hierarchies.v2);
        enable(&hierarchies.v2.join(store));
    }
    enable(&base);
    // A member's root may nest cgroups, but not without end: each costs kernel memory.
    let _ = set(&base, "cgroup.max.depth", "32");
    let _ = set(&base, "cgroup.max.descendants", "4096");
    make_anew(&payload)?;
    delegate(&payload, root_id)?;
    // systemd removes a unit's cgroup itself, with the supervisor's in it.
    let mut made = vec![payload.clone()];
    let mut birthplace = None;
    if unit.is_none() {
        birthplace = Some(supervisor.clone());
        made.extend([supervisor, base]);
    }
    let mut v1 = Vec::new();
    for (mount, options) in &hierarchies.v1 {
        let dir = mount.join(store).join(name);
        make(&dir)?;
        if options.split(',').any(|o| o == "cpuset") {
            inherit_cpuset(mount, &dir)?;
        }
        v1.push(dir.clone());
        made.push(dir);
    }
    Ok(Cgroups { birthplace, payload, v1, made })
}

fn make(dir: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        match std::fs::create_dir_all(dir) {
            // The store's own cgroup goes with its last container, which may be this moment.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && tries < 100 => tries += 1,
            other => return other.context(|| format!("cannot make cgroup {}", dir.display())),
        }
    }
}

/// Makes a cgroup that is to be as new. In one whose processes were once killed by [`kill`] the kernel (6.18)
/// kills whatever is born in it.
fn make_anew(dir: &Path) -> Result<()> {
    if let Err(e) = remove_within(dir, START_LIMIT) {
        return Err(Error::new(
            Kind::State,
            format!(
                "cgroup {} of an earlier start cannot be removed: {}",
                dir.display(),
                Error::from(std::io::Error::from(e))
            ),
        )
        .hint(
            "a process of it may be stuck in the kernel (see dmesg), or something mounted there",
        ));
    }
    make(dir)
}

// The files of cgroupfs are commands to the kernel, not state: they are not written atomically.
pub(super) fn set(dir: &Path, file: &str, text: &str) -> Result<()> {
    use std::io::Write;
    let path = dir.join(file);
    // A write of no bytes is none: a list is emptied by a line without anything.
    let line = if text.is_empty() { "\n" } else { text };
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(line.as_bytes()))
        .context(|| format!("cannot write {text:?} to {}", path.display()))
}

/// Puts a process into a cgroup.
pub fn put(dir: &Path, pid: i32) -> Result<()> {
    set(dir, "cgroup.procs", &pid.to_string())
}

/// The way into v1 cgroups for one process, opened while it may.
#[derive(Debug)]
pub struct Doors(Vec<(PathBuf, File)>);

impl Doors {
    /// Opens the way into the cgroups `dirs`.
    pub fn open<'a>(dirs: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self> {
        let open = |dir: &PathBuf| {
            let path = dir.join("tasks");
            let file = std::fs::OpenOptions::new().write(true).open(&path);
            Ok((path.clone(), file.context(|| format!("cannot open {}", path.display()))?))
        };
        dirs.into_iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// Takes this process, which has one thread, through all of them. The one move that takes no
    /// lock on all processes, and so does not wait for the kernel's RCU, is that of a thread by
    /// itself: `0` to `tasks` (cgroup_procs_write_start() in the kernel).
    pub fn enter(self) -> Result<()> {
        use std::io::Write;
        for (path, mut file) in self.0 {
            file.write_all(b"0").context(|| format!("cannot go through {}", path.display()))?;
        }
        Ok(())
    }
}

/// Passes on every controller that there is; one that cannot be is left out.
fn enable(dir: &Path) {
    const FILE: &str = "cgroup.subtree_control";
    let text = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (have, passed) = (text("cgroup.controllers"), text(FILE));
    let missing: Vec<String> = have
        .split_whitespace()
        .filter(|controller| !passed.split_whitespace().any(|p| p == *controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    // All or none of a line counts (the kernel's cgroup-v2 document, "Enabling and Disabling").
    if !missing.is_empty() && set(dir, FILE, &missing.join(" ")).is_err() {
        for controller in &missing {
            let _ = set(dir, FILE, controller);
        }
    }
}

/// What a delegate may write is in the kernel's cgroup-v2 document, "Delegation".
fn delegate(dir: &Path, root_id: u32) -> Result<()> {
    // Users inside, too, must get through to cgroups that their systemd gives them.
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .context(|| format!("cannot open {} to the container", dir.display()))?;
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        let path = if file.is_empty() { dir.to_path_buf() } else { dir.join(file) };
        std::os::unix::fs::chown(&path, Some(root_id), Some(root_id))
            .context(|| format!("cannot give {} to the container", path.display()))?;
    }
    Ok(())
}

/// A v1 cpuset takes no process before it has cpus and memory nodes.
fn inherit_cpuset(mount: &Path, dir: &Path) -> Result<()> {
    let mut chain: Vec<&Path> = dir.ancestors().take_while(|p| *p != mount).collect();
    chain.reverse();
    for level in chain {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = std::fs::read_to_string(level.join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                let above = level.parent().unwrap_or(mount).join(file);
                let text = std::fs::read_to_string(&above)
                    .context(|| format!("cannot read {}", above.display()))?;
                set(level, file, text.trim())?;
            }
        }
    }
    Ok(())
}

/// Opens the leaf where what enters a container begins, made if it is missing: beside the
/// cgroups of its systemd, as one that has children can hold no process.
pub fn entrance(payload: &Path) -> Result<OwnedFd> {
    let dir = payload.join(".coloc");
    make(&dir)?;
    Ok(open_dir(&dir)?)
}

/// Kills every process in the cgroup and below it.
pub fn kill(payload: &Path) -> Result<()> {
    match set(payload, "cgroup.kill", "1") {
        Err(_) if !payload.exists() => Ok(()),
        other => other,
    }
}

/// Waits until no process is in the cgroup or below it; false if one still is after `limit`.
pub fn empty_within(payload: &Path, limit: Duration) -> bool {
    let (begun, mut pause) = (Instant::now(), Duration::from_micros(500));
    while populated(payload) {
        if begun.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    true
}

/// The directories that [`prepare`] made for a container of which nothing is known but its
/// payload, as far as they are there, children before parents.
pub fn made(store: &str, name: &str, payload: &Path) -> Vec<PathBuf> {
    let Ok(hierarchies) = host() else { return vec![payload.to_path_buf()] };
    let mut made = vec![payload.to_path_buf()];
    let base = hierarchies.v2.join(store).join(name);
    if payload.parent() == Some(&*base) {
        made.extend([base.join("supervisor"), base]);
    }
    made.extend(hierarchies.v1.iter().map(|(mount, _)| mount.join(store).join(name)));
    made.retain(|dir| dir.is_dir());
    made
}

fn events(payload: &Path, key: &str) -> Option<bool> {
    let text = std::fs::read_to_string(payload.join("cgroup.events")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim() == "1")
}

/// Whether any process is in the cgroup or below it.
pub fn populated(payload: &Path) -> bool {
    events(payload, "populated ").unwrap_or(false)
}

/// Whether the cgroup is frozen.
pub fn frozen(payload: &Path) -> bool {
    std::fs::read_to_string(payload.join("cgroup.freeze")).is_ok_and(|t| t.trim() == "1")
}

/// For how long a freeze may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Stops every process in the cgroup, or lets them go on; returns when it is so.
pub fn freeze(payload: &Path, freeze: bool) -> Result<()> {
    set(payload, "cgroup.freeze", if freeze { "1" } else { "0" })?;
    let (begun, mut pause) = (Instant::now(), Duration::from_micros(50));
    while begun.elapsed() < FREEZE_LIMIT {
        if events(payload, "frozen ") == Some(freeze) {
            return Ok(());
        }
        std::thread::sleep(pause);
        // Short at first: whoever waits for the thaw waits for this too.
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    // A process deep in the kernel can hold out, on a dead network disk for one.
    let undo = if freeze { "0" } else { "1" };
    let _ = set(payload, "cgroup.freeze", undo);
    Err(Error::failed("some of its processes do not stop").hint("try again in a while"))
}

/// For how long the processes of a cgroup may take to be gone.
const REMOVE_LIMIT: Duration = Duration::from_millis(500);
/// The same where a start waits for it, which cannot go on with them.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Removes the directories that were made for a container that has ended, with whatever
/// cgroups were made inside. What stays is in the way of nobody but the next start, which says so.
pub fn remove(made: &[PathBuf]) {
    for dir in made {
        let _ = remove_within(dir, REMOVE_LIMIT);
        // The store's, if this was the last container in it; else the kernel refuses.
        let of_store =
            |p: &Path| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"coloc"));
        if let Some(parent) = dir.parent().filter(|p| of_store(p)) {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn remove_within(dir: &Path, limit: Duration) -> rustix::io::Result<()> {
    let (begun, mut pause) = (Instant::now(), Duration::from_micros(500));
    loop {
        match cgroups::remove(dir) {
            // A process that was just killed is counted until its parent has noticed.
            Err(Errno::BUSY) if begun.elapsed() < limit => std::thread::sleep(pause),
            other => return other,
        }
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure_hosts_are_told_apart() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 none rw\n";
        let found = parse(hybrid).unwrap();
        assert_eq!(found.v2, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(found.v1, [("/sys/fs/cgroup/memory".into(), "rw,memory".into())]);
        let pure = "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert!(parse(pure).unwrap().v1.is_empty());
        assert!(parse("1 2 0:1 / / rw - ext4 /dev/vda rw\n").is_none());
    }
}
