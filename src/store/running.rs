//! What is true of a container while it runs: `/run/coloc/containers/NAME/state.json`.
//!
//! The file is a pointer, not the truth: whether the container runs is what the kernel says of
//! the process that it names.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::{Layout, Name, atomic};
use crate::error::{Context, Result};
use crate::sys;

/// A process by number and by when it began, which together name it for one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Process {
    /// Its pid on the host.
    pub pid: i32,
    /// When it began, in clock ticks since boot (proc(5), /proc/PID/stat, field 22).
    pub start: u64,
}

impl Process {
    /// The process that has `pid` now.
    pub fn now(pid: i32) -> Option<Self> {
        Some(Self { pid, start: state_and_start(pid)?.1 })
    }

    /// When it began, RFC 3339.
    pub fn began(&self) -> Option<String> {
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let age = uptime - self.start as f64 / rustix::param::clock_ticks_per_second() as f64;
        let age = jiff::SignedDuration::from_secs(age.max(0.0) as i64);
        let moment = jiff::Timestamp::now().checked_sub(age).ok()?;
        Some(moment.round(jiff::Unit::Second).ok()?.to_string())
    }

    /// A descriptor for exactly this process, if it is alive.
    pub fn open(&self) -> Option<OwnedFd> {
        let fd = sys::process::pidfd(self.pid).ok()?;
        // The order matters: the descriptor is for whoever has the number now, and that is
        // ours if it began when ours did.
        let (state, start) = state_and_start(self.pid)?;
        (start == self.start && state != 'Z' && state != 'X').then_some(fd)
    }
}

/// The third field of proc_pid_stat(5), and the 22nd.
fn state_and_start(pid: i32) -> Option<(char, u64)> {
    use std::io::Read;
    // Asked of each container by nearly every command: one read has all of the line.
    let mut space = [0; 4096];
    let n = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut space).ok()?;
    let stat = String::from_utf8_lossy(&space[..n]);
    // The command in parentheses can hold anything, so count from its end.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

/// The state of a container that was started.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// The kernel's word for this boot: state of an earlier one means nothing.
    pub boot: String,
    /// The container's init.
    pub init: Process,
    /// The process beside it that holds its console.
    pub supervisor: Process,
    /// The init's kind, such as `systemd`.
    pub init_kind: String,
    /// The generation that `/usr` is of.
    pub generation: u64,
    /// When its `/usr` was last changed under it, in clock ticks since boot as a process's
    /// start is; None if it has the one that it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swapped: Option<u64>,
    /// Units for which packages asked for a restart, with the moment of the swap that brought
    /// those, told as above.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub asked: BTreeMap<String, u64>,
    /// The v2 cgroup of everything in the container.
    pub cgroup: PathBuf,
    /// Every cgroup directory that was made for it, children before parents.
    pub cgroups: Vec<PathBuf>,
    /// When it was started, RFC 3339.
    pub started: String,
}

/// The kernel's id of this boot.
pub fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    Ok(ID.get_or_init(|| text.trim().to_string()))
}

impl State {
    /// Whether both are of one start, under one supervisor.
    pub fn is_of_start(&self, other: &Self) -> bool {
        (&self.boot, self.init, self.supervisor) == (&other.boot, other.init, other.supervisor)
    }

    fn path(layout: &Layout, name: &Name) -> PathBuf {
        layout.run_of(name).join("state.json")
    }

    /// What was last started of this boot, alive or not. State that cannot be read counts as
    /// none: it says nothing of anything that outlives a boot.
    pub fn load(layout: &Layout, name: &Name) -> Option<Self> {
        let state: Self = atomic::read_json(&Self::path(layout, name)).ok()??;
        (state.boot == boot_id().ok()?).then_some(state)
    }

    /// The state and a descriptor for the init, if the container runs.
    pub fn alive(layout: &Layout, name: &Name) -> Option<(Self, OwnedFd)> {
        let state = Self::load(layout, name)?;
        let pidfd = state.init.open()?;
        Some((state, pidfd))
    }

    /// Writes the state. It need not outlive a power cut: what comes after that is another boot,
    /// for which it means nothing.
    pub fn save(&self, layout: &Layout, name: &Name) -> Result<()> {
        atomic::write_json_unsynced(&Self::path(layout, name), self, 0o600)
    }

    /// Forgets the state.
    pub fn forget(layout: &Layout, name: &Name) {
        let _ = std::fs::remove_file(Self::path(layout, name));
    }
}
