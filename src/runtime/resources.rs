//! The resources of a spec, put into cgroups: what a container can use up of the machine. On v2
//! it is in files of the payload, which belong to the host's root and which systemd, whose unit the
//! payload's parent may be, does not touch; shares alone are in the parent's. On a hybrid host it is in
//! the v1 hierarchies.
//!
//! What stays out of a spec is written as the kernel's "no limit", so that applying a spec to a
//! container that runs also takes back what the one before it said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};

use super::cgroup;
use crate::error::{Context, Error, Kind, Result};
use crate::store::usage::Usage;

/// The share that a cgroup has if nobody says anything, of processor and disk time alike.
pub const WEIGHT: u64 = 100;
/// The same in the v1 file.
const SHARES: u64 = 1024;

/// A value and the files that take it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// What it limits, for people.
    what: &'static str,
    /// The v2 file, and the text for it.
    v2: (String, String),
    /// v1 files, each with its text, in an order that works when limits grow.
    v1: Vec<(&'static str, String)>,
    /// Whether there is anything to limit; without, a host that cannot is no error.
    needed: bool,
}

/// Bytes and operations in a second by disk, `io.max` in the kernel's cgroup-v2 document.
type Rates = BTreeMap<(i64, i64), [Option<u64>; 4]>;

/// The words of `io.max`, and the v1 files for the same.
const RATES: [(&str, &str); 4] = [
    ("rbps", "blkio.throttle.read_bps_device"),
    ("wbps", "blkio.throttle.write_bps_device"),
    ("riops", "blkio.throttle.read_iops_device"),
    ("wiops", "blkio.throttle.write_iops_device"),
];

/// What a container can use up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    writes: Vec<Write>,
    rates: Rates,
}

impl Resources {
    /// Those of a spec.
    pub fn of(spec: Option<&LinuxResources>) -> Self {
        let none = LinuxResources::default();
        let spec = spec.unwrap_or(&none);
        let mut left: BTreeMap<String, String> =
            spec.unified().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut writes = memory(spec, &mut left);
        writes.extend(processor(spec, &mut left));
        writes.push(processes(spec, &mut left));
        writes.push(disk_share(spec, &mut left));
        // What else a fragment of a profile's says, word for word.
        writes.extend(left.into_iter().map(|file| Write {
            what: "this",
            v2: file,
            v1: Vec::new(),
            needed: true,
        }));
        Self { writes, rates: spec.block_io().as_ref().map(rates).unwrap_or_default() }
    }

    /// Puts them into the cgroups of a container: `payload`, and on a hybrid host those of `made`.
    /// What this host cannot limit is left out: that is said when it is set, and by `coloc check`.
    pub fn apply(&self, payload: &Path, made: &[PathBuf]) -> Result<()> {
        for write in &self.writes {
            write.apply(payload, made)?;
        }
        apply_rates(&self.rates, payload, made)
    }

    /// Whether this host can keep to what is said of `files`, by their v2 names; the error names
    /// what it cannot.
    pub fn possible(&self, files: &[&str]) -> Result<()> {
        let host = cgroup::host()?;
        // Limits are in no root cgroup; a controller that is listed there has its files below.
        let v2 = std::fs::read_to_string(host.v2.join("cgroup.controllers")).unwrap_or_default();
        let v1: Vec<&str> = host.v1.iter().flat_map(|(_, options)| options.split(',')).collect();
        for write in self.writes.iter().filter(|w| w.needed && files.contains(&w.v2.0.as_str())) {
            let controller = write.v2.0.split('.').next().unwrap_or_default();
            let in_v2 = v2.split_whitespace().any(|c| c == controller);
            let in_v1 = write
                .v1
                .iter()
                .any(|(file, _)| v1.contains(&file.split('.').next().unwrap_or_default()));
            if !in_v2 && !in_v1 {
                return Err(write.refused());
            }
        }
        let io = v2.split_whitespace().any(|c| c == "io") || v1.contains(&"blkio");
        if io || self.rates.is_empty() || !files.contains(&"io.max") {
            Ok(())
        } else {
            Err(refused("rates of a disk", "io"))
        }
    }

    /// What is said of a v2 file, if that is a number.
    pub fn number(&self, file: &str) -> Option<u64> {
        self.writes.iter().find(|w| w.v2.0 == file)?.v2.1.parse().ok()
    }

    /// The shares of processor and disk time, which are among containers.
    pub fn shares(&self) -> [u64; 2] {
        ["cpu.weight", "io.weight"].map(|file| {
            let text = self.writes.iter().find(|w| w.v2.0 == file).map_or("", |w| &w.v2.1);
            text.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(WEIGHT)
        })
    }

    /// In words, for people, what is limited.
    pub fn words(&self) -> Vec<String> {
        let disk = |((major, minor), values): (&(i64, i64), &[Option<u64>; 4])| {
            format!("io.max = {}", io_max(*major, *minor, values))
        };
        let needed = self.writes.iter().filter(|w| w.needed);
        needed
            .map(|w| format!("{} = {}", w.v2.0, w.v2.1))
            .chain(self.rates.iter().map(disk))
            .collect()
    }
}

impl Write {
    fn apply(&self, payload: &Path, made: &[PathBuf]) -> Result<()> {
        let place = self.place(payload);
        if place.join(&self.v2.0).exists() {
            return put(place, &self.v2.0, &self.v2.1);
        }
        if let ("io.weight", Some(weight)) = (self.v2.0.as_str(), bfq_file(place)) {
            return put(place, weight, &bfq(&self.v2.1));
        }
        let dir = |file: &str| cgroup::v1_with(made, file);
        let found: Vec<_> =
            self.v1.iter().filter_map(|(file, text)| Some((dir(file)?, *file, text))).collect();
        // Of memory alone and memory with swap the second is never the smaller one: when both grow
        // it is written first, when both shrink last.
        let mut late = Vec::new();
        for (dir, file, text) in found {
            if put(dir, file, text).is_err() {
                late.push((dir, file, text));
            }
        }
        late.into_iter().rev().try_for_each(|(dir, file, text)| put(dir, file, text))
    }

    /// The cgroup in which it counts. A share is a share among siblings, and the payload's only
    /// one is the supervisor: those of other containers' are siblings of the one above.
    fn place<'a>(&self, payload: &'a Path) -> &'a Path {
        match self.v2.0.as_str() {
            "cpu.weight" | "io.weight" => payload.parent().unwrap_or(payload),
            _ => payload,
        }
    }

    fn refused(&self) -> Error {
        refused(self.what, &self.v2.0)
    }
}

fn refused(what: &str, file: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("this host cannot limit {what}: its kernel has no {file}"),
    )
    .hint("see what it has: coloc check; or leave that limit away")
}

fn put(dir: &Path, file: &str, text: &str) -> Result<()> {
    let done = cgroup::set(dir, file, text);
    // A cpuset that processes are in cannot be emptied, by which it would follow the one above.
    let above = dir.parent().map(|dir| dir.join(format!("{file}.effective")));
    match above.filter(|_| done.is_err() && text.is_empty()).map(std::fs::read_to_string) {
        Some(Ok(all)) => cgroup::set(dir, file, all.trim()),
        _ => done,
    }
}

/// The file for a share of disk time where BFQ schedules the disk, and nothing else counts it.
fn bfq_file(dir: &Path) -> Option<&'static str> {
    dir.join("io.bfq.weight").exists().then_some("io.bfq.weight")
}

/// BFQ's weights go from 1 to 1000, with the same default.
fn bfq(weight: &str) -> String {
    let weight: u64 = weight.rsplit(' ').next().and_then(|w| w.parse().ok()).unwrap_or(WEIGHT);
    let scaled = if weight <= WEIGHT { weight } else { WEIGHT + (weight - WEIGHT) * 900 / 9900 };
    scaled.to_string()
}

fn or_max(number: Option<i64>) -> String {
    number.filter(|n| *n >= 0).map_or("max".into(), |n| n.to_string())
}

/// As v1 writes what has no limit.
fn or_minus(number: Option<i64>) -> String {
    number.unwrap_or(-1).to_string()
}

fn memory(spec: &LinuxResources, left: &mut BTreeMap<String, String>) -> Vec<Write> {
    let memory = spec.memory().as_ref();
    let limit = memory.and_then(|m| m.limit()).filter(|n| *n >= 0);
    // In a spec, as in v1, swap is the sum of both.
    let sum = memory.and_then(|m| m.swap()).filter(|n| *n >= 0);
    let alone = match (left.remove("memory.swap.max"), sum, limit) {
        (Some(text), ..) => text.parse().ok(),
        (None, Some(sum), Some(limit)) => Some((sum - limit).max(0)),
        _ => None,
    };
    let sum = limit.zip(alone).map(|(limit, alone)| limit.saturating_add(alone));
    let mut v1 = vec![("memory.limit_in_bytes", or_minus(limit))];
    if sum.is_some() || alone.is_none() {
        v1.push(("memory.memsw.limit_in_bytes", or_minus(sum)));
    }
    let high = left.remove("memory.high");
    let low = memory.and_then(|m| m.reservation()).filter(|n| *n > 0);
    let file = |name: &str, text: String| (name.to_string(), text);
    vec![
        Write {
            what: "memory",
            v2: file("memory.max", or_max(limit)),
            v1,
            needed: limit.is_some(),
        },
        Write {
            what: "swap",
            v2: file("memory.swap.max", or_max(alone)),
            // Written above, with the memory that it is counted with.
            v1: if sum.is_some() {
                vec![("memory.memsw.limit_in_bytes", or_minus(sum))]
            } else {
                Vec::new()
            },
            needed: alone.is_some(),
        },
        Write {
            what: "memory softly",
            needed: high.as_deref().is_some_and(|h| h != "max"),
            v2: file("memory.high", high.unwrap_or_else(|| "max".into())),
            v1: Vec::new(),
        },
        Write {
            what: "what memory is left to it",
            v2: file("memory.low", low.unwrap_or(0).to_string()),
            v1: Vec::new(),
            needed: low.is_some(),
        },
    ]
}

fn processor(spec: &LinuxResources, left: &mut BTreeMap<String, String>) -> Vec<Write> {
    let cpu = spec.cpu().as_ref();
    let period = cpu.and_then(|c| c.period()).unwrap_or(100_000);
    let quota = cpu.and_then(|c| c.quota()).filter(|n| *n > 0);
    let shares = cpu.and_then(|c| c.shares());
    // The kernel's own words for one in terms of the other are in neither document; a spec's
    // shares are v1's, 1024 where v2 says 100.
    let weight = match left.remove("cpu.weight").and_then(|w| w.parse().ok()) {
        Some(weight) => weight,
        None => shares.map_or(WEIGHT, |s| (s * WEIGHT / SHARES).clamp(1, 10_000)),
    };
    let cpus = cpu.and_then(|c| c.cpus().clone()).unwrap_or_default();
    let mems = cpu.and_then(|c| c.mems().clone()).unwrap_or_default();
    let file = |name: &str, text: String| (name.to_string(), text);
    let mut writes = vec![
        Write {
            what: "processor time",
            v2: file("cpu.max", format!("{} {period}", or_max(quota))),
            v1: vec![
                ("cpu.cfs_period_us", period.to_string()),
                ("cpu.cfs_quota_us", or_minus(quota)),
            ],
            needed: quota.is_some(),
        },
        Write {
            what: "its share of processor time",
            v2: file("cpu.weight", weight.to_string()),
            v1: vec![("cpu.shares", (weight * SHARES / WEIGHT).max(2).to_string())],
            needed: weight != WEIGHT,
        },
    ];
    for (name, list) in [("cpuset.cpus", cpus), ("cpuset.mems", mems)] {
        // An empty v1 file would take no process; what is there was inherited.
        let v1 = if list.is_empty() { everything(name) } else { Some(list.clone()) };
        writes.push(Write {
            what: "the processors that it runs on",
            needed: !list.is_empty(),
            v2: file(name, list),
            v1: v1
                .map(|text| {
                    (if name == "cpuset.cpus" { "cpuset.cpus" } else { "cpuset.mems" }, text)
                })
                .into_iter()
                .collect(),
        });
    }
    writes
}

/// All that the host has, as the root of the v1 hierarchy says.
fn everything(file: &str) -> Option<String> {
    let host = cgroup::host().ok()?;
    let (mount, _) =
        host.v1.iter().find(|(_, options)| options.split(',').any(|o| o == "cpuset"))?;
    let text = std::fs::read_to_string(mount.join(file)).ok()?;
    Some(text.trim().to_string()).filter(|t| !t.is_empty())
}

fn processes(spec: &LinuxResources, left: &mut BTreeMap<String, String>) -> Write {
    let most = spec.pids().as_ref().map(|p| p.limit()).filter(|n| *n > 0);
    let text = left.remove("pids.max").unwrap_or_else(|| or_max(most));
    Write {
        what: "processes",
        v1: vec![("pids.max", text.clone())],
        v2: ("pids.max".into(), text),
        // Every container has this limit: it must not keep one from starting.
        needed: false,
    }
}

fn disk_share(spec: &LinuxResources, left: &mut BTreeMap<String, String>) -> Write {
    let of_spec = spec.block_io().as_ref().and_then(|b| b.weight()).map(u64::from);
    let given = left.remove("io.weight");
    let weight =
        given.as_deref().map(|w| w.trim_start_matches("default ")).and_then(|w| w.parse().ok());
    let weight: u64 = weight.or(of_spec).unwrap_or(WEIGHT);
    let text = format!("default {weight}");
    Write {
        what: "its share of disk time",
        v1: vec![("blkio.bfq.weight", bfq(&text))],
        v2: ("io.weight".into(), text),
        needed: weight != WEIGHT,
    }
}

fn rates(io: &LinuxBlockIo) -> Rates {
    let lists: [Option<&Vec<LinuxThrottleDevice>>; 4] = [
        io.throttle_read_bps_device().as_ref(),
        io.throttle_write_bps_device().as_ref(),
        io.throttle_read_iops_device().as_ref(),
        io.throttle_write_iops_device().as_ref(),
    ];
    let mut rates = Rates::new();
    for (n, list) in lists.iter().enumerate() {
        for device in list.iter().flat_map(|l| l.iter()) {
            let values = rates.entry((device.major(), device.minor())).or_default();
            if let Some(value) = values.get_mut(n) {
                *value = Some(device.rate());
            }
        }
    }
    rates
}

fn io_max(major: i64, minor: i64, values: &[Option<u64>; 4]) -> String {
    let mut line = format!("{major}:{minor}");
    for ((word, _), value) in RATES.iter().zip(values) {
        let value = value.map_or("max".into(), |v| v.to_string());
        line.push_str(&format!(" {word}={value}"));
    }
    line
}

/// The disks that lines of a cgroup file begin with.
fn disks(text: &str) -> Vec<(i64, i64)> {
    let numbers = |line: &str| {
        let (major, minor) = line.split(' ').next()?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    text.lines().filter_map(numbers).collect()
}

fn apply_rates(rates: &Rates, payload: &Path, made: &[PathBuf]) -> Result<()> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))
    };
    let file = payload.join("io.max");
    if file.exists() {
        let gone = disks(&read(&file)?).into_iter().filter(|d| !rates.contains_key(d));
        let gone: Vec<_> = gone.map(|(a, b)| io_max(a, b, &[None; 4])).collect();
        let new = rates.iter().map(|((a, b), values)| io_max(*a, *b, values));
        return gone.into_iter().chain(new).try_for_each(|line| put(payload, "io.max", &line));
    }
    for (n, (_, file)) in RATES.iter().enumerate() {
        let Some(dir) = cgroup::v1_with(made, file) else { continue };
        let wanted = |disk: &(i64, i64)| rates.get(disk).and_then(|v| v.get(n).copied().flatten());
        for (a, b) in disks(&read(&dir.join(file))?).iter().filter(|d| wanted(d).is_none()) {
            put(dir, file, &format!("{a}:{b} 0"))?;
        }
        for (disk, value) in rates.keys().filter_map(|d| Some((d, wanted(d)?))) {
            put(dir, file, &format!("{}:{} {value}", disk.0, disk.1))?;
        }
    }
    Ok(())
}

/// Larger numbers are v1's word for no limit.
const NO_LIMIT: u64 = 1 << 62;

/// Reads all but the disk from the cgroups, and the network that the process `init` is in.
pub fn usage(payload: &Path, made: &[PathBuf], init: Option<i32>) -> Usage {
    let text = |file: &str, old: &str| {
        let new = std::fs::read_to_string(payload.join(file)).ok();
        new.or_else(|| made.iter().find_map(|d| std::fs::read_to_string(d.join(old)).ok()))
    };
    let number = |file: &str, old: &str| text(file, old)?.trim().parse::<u64>().ok();
    let limit = |file: &str, old: &str| number(file, old).filter(|n| *n < NO_LIMIT);
    let memory_max = limit("memory.max", "memory.limit_in_bytes");
    let both = |file: &str, old: &str, memory: Option<u64>| match text(file, "") {
        Some(own) => own.trim().parse().ok(),
        None => Some(limit("", old)?.saturating_sub(memory?)),
    };
    let memory = number("memory.current", "memory.usage_in_bytes");
    let (read, written) = text("io.stat", "blkio.throttle.io_service_bytes_recursive")
        .map_or((None, None), |t| disk_bytes(&t));
    let network = init.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
    let (received, sent) = network.map_or((None, None), |t| network_bytes(&t));
    let quota = |file: &str| number("", file);
    let cpu_max = match text("cpu.max", "") {
        Some(line) => cpu_max(&line),
        None => quota("cpu.cfs_quota_us")
            .zip(quota("cpu.cfs_period_us").filter(|n| *n > 0))
            .map(|(quota, period)| quota * 1_000_000 / period),
    };
    Usage {
        processes: number("pids.current", "pids.current"),
        processes_max: limit("pids.max", "pids.max"),
        memory,
        memory_max,
        memory_high: limit("memory.high", ""),
        swap: both("memory.swap.current", "memory.memsw.usage_in_bytes", memory),
        swap_max: both("memory.swap.max", "memory.memsw.limit_in_bytes", memory_max),
        cpu: text("cpu.stat", "").and_then(|t| keyed(&t, "usage_usec")),
        cpu_max,
        read,
        written,
        received,
        sent,
        ..Usage::default()
    }
}

/// The number after `key` at the beginning of a line.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok())
}

/// Microseconds in each second, from the v2 file's quota and period.
fn cpu_max(line: &str) -> Option<u64> {
    let (quota, period) = line.trim().split_once(' ')?;
    let period: u64 = period.parse().ok().filter(|n| *n > 0)?;
    Some(quota.parse::<u64>().ok()? * 1_000_000 / period)
}

/// Bytes read and written, of all disks together, from `io.stat` or its v1 like.
fn disk_bytes(text: &str) -> (Option<u64>, Option<u64>) {
    let sum = |new: &str, old: &str| {
        let of_line = |line: &str| -> Option<u64> {
            let mut words = line.split(' ').skip(1).peekable();
            if words.peek() == Some(&old) {
                return words.nth(1)?.trim().parse().ok();
            }
            words.find_map(|w| w.strip_prefix(new))?.parse().ok()
        };
        Some(text.lines().filter_map(of_line).sum())
    };
    (sum("rbytes=", "Read"), sum("wbytes=", "Write"))
}

/// Bytes received and sent, of all interfaces but the loopback together, from proc(5)'s net/dev.
/// Root inside gives them their names, and nothing else of it.
fn network_bytes(text: &str) -> (Option<u64>, Option<u64>) {
    let mut sums = (0u64, 0u64);
    for line in text.lines().skip(2) {
        let Some((name, numbers)) = line.rsplit_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        if let (false, Some(received), Some(sent)) =
            (name.trim() == "lo", numbers.first(), numbers.get(8))
        {
            sums = (sums.0.saturating_add(*received), sums.1.saturating_add(*sent));
        }
    }
    (Some(sums.0), Some(sums.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> Resources {
        Resources::of(Some(&serde_json::from_value(json).unwrap()))
    }

    #[test]
    fn nothing_said_is_nothing_limited() {
        let none = Resources::of(None);
        assert_eq!(none.words(), Vec::<String>::new());
        none.possible(&["memory.max"]).unwrap();
        assert!(none.writes.iter().any(|w| w.v2 == ("memory.max".into(), "max".into())));
    }

    #[test]
    fn swap_is_counted_apart_on_v2_and_together_on_v1() {
        let both = of(serde_json::json!({
            "memory": { "limit": 1000 }, "unified": { "memory.swap.max": "500" }
        }));
        assert_eq!(both.words(), ["memory.max = 1000", "memory.swap.max = 500"]);
        assert_eq!(
            both.writes[0].v1,
            [
                ("memory.limit_in_bytes", "1000".to_string()),
                ("memory.memsw.limit_in_bytes", "1500".to_string())
            ]
        );
        let sum = of(serde_json::json!({ "memory": { "limit": 1000, "swap": 1500 } }));
        assert_eq!(sum.words(), both.words());
        let none = of(serde_json::json!({ "memory": { "limit": 1000 } }));
        assert_eq!(none.words(), ["memory.max = 1000"]);
        assert_eq!(none.writes[0].v1[1].1, "-1");
    }

    #[test]
    fn shares_rates_and_what_is_not_known_are_in_it() {
        let all = of(serde_json::json!({
            "cpu": { "quota": 150_000, "period": 100_000, "shares": 2048, "cpus": "0-1" },
            "blockIO": {
                "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1024 }],
                "throttleWriteIOPSDevice": [{ "major": 8, "minor": 0, "rate": 7 }]
            },
            "unified": { "io.weight": "default 1090", "memory.oom.group": "1" }
        }));
        assert_eq!(
            all.words(),
            [
                "cpu.max = 150000 100000",
                "cpu.weight = 200",
                "cpuset.cpus = 0-1",
                "io.weight = default 1090",
                "memory.oom.group = 1",
                "io.max = 8:0 rbps=1024 wbps=max riops=max wiops=7"
            ]
        );
        let share = all.writes.iter().find(|w| w.v2.0 == "io.weight").unwrap();
        assert_eq!(share.v1, [("blkio.bfq.weight", "190".to_string())]);
    }

    #[test]
    fn shares_are_among_containers_and_limits_are_the_payloads() {
        let unit = std::env::temp_dir().join(format!("coloc-shares-{}", std::process::id()));
        let payload = unit.join("payload");
        std::fs::create_dir_all(&payload).unwrap();
        for dir in [&unit, &payload] {
            for file in ["cpu.weight", "io.bfq.weight", "pids.max"] {
                crate::store::atomic::write_unsynced(&dir.join(file), b"", 0o644).unwrap();
            }
        }
        let all = of(serde_json::json!({
            "pids": { "limit": 7 }, "unified": { "cpu.weight": "300", "io.weight": "200" }
        }));
        all.apply(&payload, &[]).unwrap();
        assert_eq!((all.shares(), Resources::of(None).shares()), ([300, 200], [WEIGHT; 2]));
        let text = |dir: &Path, file| std::fs::read_to_string(dir.join(file)).unwrap();
        let found = ["cpu.weight", "io.bfq.weight", "pids.max"]
            .map(|file| [text(&unit, file), text(&payload, file)]);
        crate::tree::remove(&unit).unwrap();
        assert_eq!(found, [["300", ""], ["109", ""], ["", "7"]]);
    }

    #[test]
    fn disks_are_read_from_what_the_kernel_writes() {
        assert_eq!(disks("8:0 rbps=1 wbps=max\n259:3 rbps=2\n"), [(8, 0), (259, 3)]);
        assert_eq!(disks(""), []);
    }

    #[test]
    fn counters_of_both_versions_are_read() {
        let new =
            "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n259:0 rbytes=1 wbytes=2\n";
        assert_eq!(disk_bytes(new), (Some(11), Some(22)));
        let old = "254:0 Read 5\n254:0 Write 7\n254:0 Total 12\nTotal 12\n";
        assert_eq!(disk_bytes(old), (Some(5), Some(7)));
        assert_eq!(cpu_max("150000 100000\n"), Some(1_500_000));
        assert_eq!(cpu_max("max 100000\n"), None);
        let net = "Inter-|\n face |\n    lo: 9 0 0 0 0 0 0 0 9 0\n host0: 5 1 0 0 0 0 0 0 6 1\n";
        assert_eq!(network_bytes(net), (Some(5), Some(6)));
    }
}
