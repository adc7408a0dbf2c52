//! How much memory a transaction may write to.
//!
//! dpkg keeps a second name of each file that it replaces, and for that the overlay copies the
//! old file up, to be thrown away moments later. In memory this costs next to nothing, and what is
//! left in the end goes to the disk once.

use std::path::{Path, PathBuf};

/// No less is of use, no more is needed.
const BOUNDS: std::ops::RangeInclusive<u64> = 256 << 20..=4 << 30;
/// Of the memory that is free, this part.
const PART: u64 = 4;
/// What a package takes: packed, unpacked, and the old one beside it. A part of it is gone before
/// the next begins; the rest is room for what its scripts write.
const UNPACKED: u64 = 16;

/// The environment variable that says how many bytes of memory a layer gets: tests find out with it
/// what comes of too few.
const FORCE: &str = "COLOC_ROOM";

/// The bytes that a layer in memory may hold; None where memory is short.
pub(super) fn free() -> Option<u64> {
    if let Some(bytes) = std::env::var(FORCE).ok().and_then(|text| text.parse().ok()) {
        return Some(bytes);
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = limits(&cgroups).iter().filter_map(|(max, used)| left(max, used)).min();
    let free = available(&text)?.min(left.unwrap_or(u64::MAX)) / PART;
    (free >= *BOUNDS.start()).then(|| free.min(*BOUNDS.end()))
}

/// Whether packages of that many bytes, packed, are sure to fit into `room`.
pub(super) fn fits(packed: u64, room: u64) -> bool {
    packed.saturating_mul(UNPACKED) <= room
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// For each of a process's memory cgroups and those above, the files of limit and use.
fn limits(cgroups: &str) -> Vec<(PathBuf, PathBuf)> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (top, max, used) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        for dir in Path::new(path.trim_start_matches('/')).ancestors() {
            let dir = Path::new(top).join(dir);
            files.push((dir.join(max), dir.join(used)));
        }
    }
    files
}

/// What a limit leaves; None where there is none.
fn left(max: &Path, used: &Path) -> Option<u64> {
    let number =
        |path| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    Some(number(max)?.saturating_sub(number(used)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:  24684200 kB\nMemAvailable:   1048576 kB\nBuffers: 1 kB\n";
        assert_eq!(available(text), Some(1 << 30));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(fits(64 << 20, 1 << 30) && !fits(65 << 20, 1 << 30) && !fits(u64::MAX, 1 << 30));
    }

    #[test]
    fn every_limit_above_counts() {
        let files = limits("4:memory:/a\n3:cpu,cpuacct:/b\n0::/x.slice/y.service\n");
        let dirs: Vec<_> = files.iter().map(|(max, _)| max.display().to_string()).collect();
        assert_eq!(
            dirs,
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/x.slice/y.service/memory.max",
                "/sys/fs/cgroup/x.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        let dir = std::env::temp_dir().join(format!("coloc-room-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.join(name);
            super::super::publish::put(&path, text.as_bytes()).unwrap();
            path
        };
        let used = put("used", "100\n");
        assert_eq!(left(&put("max", "400\n"), &used), Some(300));
        assert_eq!(left(&put("max", "50\n"), &used), Some(0));
        assert_eq!(left(&put("max", "max\n"), &used), None);
        assert_eq!(left(&dir.join("none"), &used), None);
        crate::tree::remove(&dir).unwrap();
    }
}
