//! From limits to the resources of a spec. What a spec has no word for, or only v1's, is in
//! `unified`: the files of cgroup v2 by name.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
};

use super::Limits;
use super::item::Rate;
use super::limits::{MEMORY_HIGH, MEMORY_MAX};
use super::value::PERIOD;
use crate::error::{Error, Kind, Result};

/// All but what is of single disks. `memory` is how much the host has: who says nothing of it has
/// a part of that.
pub(super) fn of(
    limits: &Limits,
    memory: u64,
) -> std::result::Result<LinuxResources, oci_spec::OciSpecError> {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    // 0 is "no limit" there.
    let pids = LinuxPidsBuilder::default().limit(limits.pids.map_or(0, signed)).build()?;
    let mut all = LinuxResourcesBuilder::default().pids(pids);
    let part = |percent| (memory / 100 * percent) & !0xfff;
    let limit = signed(limits.memory.unwrap_or_else(|| part(MEMORY_MAX)));
    let high = limits.memory_high.or_else(|| limits.memory.is_none().then(|| part(MEMORY_HIGH)));
    let mut bytes = LinuxMemoryBuilder::default().limit(limit);
    if let Some(swap) = limits.swap {
        bytes = bytes.swap(limit.saturating_add(signed(swap)));
    }
    all = all.memory(bytes.build()?);
    if limits.cpu.is_some() || limits.cpus.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(quota) = limits.cpu {
            cpu = cpu.quota(signed(quota)).period(PERIOD);
        }
        if let Some(cpus) = &limits.cpus {
            cpu = cpu.cpus(cpus.clone());
        }
        all = all.cpu(cpu.build()?);
    }
    let mut unified = HashMap::new();
    let mut say = |file: &str, text: Option<String>| {
        unified.extend(text.map(|text| (file.to_string(), text)));
    };
    let number = |n: u64| n.to_string();
    let other = |weight: &u64| *weight != 100;
    say("memory.high", high.map(number));
    say("cpu.weight", limits.cpu_weight.filter(other).map(number));
    say("io.weight", limits.io_weight.filter(other).map(|w| format!("default {w}")));
    if !unified.is_empty() {
        all = all.unified(unified);
    }
    all.build()
}

/// Refuses processors that this host has not: the kernel would, at the next start, with a number.
pub(super) fn processors(limits: &Limits) -> Result<()> {
    let Some(wanted) = &limits.cpus else { return Ok(()) };
    let there = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let there = there.trim();
    if there.is_empty() || are_among(wanted, there) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("limits.cpus = {wanted}: this host has processors {there}"),
    )
    .hint("name some of those, or all"))
}

/// Whether all that the list `wanted` names is in the list `there`, both in the kernel's way of writing.
fn are_among(wanted: &str, there: &str) -> bool {
    let ranges = |list: &str| -> Vec<(u32, u32)> {
        let number = |text: &str| text.parse().ok();
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((number(first)?, number(last)?))
        };
        list.split(',').filter_map(range).collect()
    };
    let there = ranges(there);
    ranges(wanted).iter().all(|w| there.iter().any(|t| t.0 <= w.0 && w.1 <= t.1))
}

/// Rates of disks; None if there are none.
pub(super) fn io(limits: &Limits) -> Result<Option<LinuxBlockIo>> {
    let all = [
        ("rbps", &limits.read_bytes),
        ("wbps", &limits.write_bytes),
        ("riops", &limits.reads),
        ("wiops", &limits.writes),
    ];
    if all.iter().all(|(_, list)| list.is_empty()) {
        return Ok(None);
    }
    let [read_bytes, write_bytes, reads, writes] = all.map(|(word, list)| {
        let list = list.iter().map(throttle).collect::<Result<Vec<_>>>();
        list.map_err(|e| e.context(format!("limits.io.{word}")))
    });
    let io = LinuxBlockIoBuilder::default()
        .throttle_read_bps_device(read_bytes?)
        .throttle_write_bps_device(write_bytes?)
        .throttle_read_iops_device(reads?)
        .throttle_write_iops_device(writes?)
        .build();
    io.map(Some).map_err(|e| Error::failed(format!("cannot write limits of disks: {e}")))
}

fn throttle(rate: &Rate) -> Result<LinuxThrottleDevice> {
    let (major, minor) = disk(&rate.device)?;
    LinuxThrottleDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .rate(rate.most)
        .build()
        .map_err(|e| Error::failed(format!("cannot limit {}: {e}", rate.device)))
}

/// The numbers of the whole disk that `device` is, or is a part of: the kernel counts no parts.
fn disk(device: &str) -> Result<(i64, i64)> {
    let none = |why: &str| {
        Error::new(Kind::Usage, format!("{device} cannot be limited: {why}"))
            .hint("see which disks there are: lsblk")
    };
    let pair = |text: &str| {
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse::<i64>().ok()?, minor.parse::<i64>().ok()?))
    };
    let (major, minor) = match pair(device) {
        Some(numbers) => numbers,
        None => {
            let found = std::fs::metadata(device).map_err(|_| none("it is not there"))?;
            if !found.file_type().is_block_device() {
                return Err(none("it is no disk"));
            }
            (libc::major(found.rdev()).into(), libc::minor(found.rdev()).into())
        }
    };
    let sys = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    if !sys.exists() {
        return Err(none("there is no such disk"));
    }
    if !sys.join("partition").exists() {
        return Ok((major, minor));
    }
    let whole = std::fs::read_to_string(sys.join("../dev")).ok();
    whole.as_deref().and_then(pair).ok_or_else(|| none("its whole disk is not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spec_has_words_for_is_in_them() {
        let limits = Limits {
            memory: Some(1 << 30),
            swap: Some(1 << 20),
            cpu: Some(150_000),
            cpu_weight: Some(300),
            io_weight: Some(100),
            ..Limits::default()
        };
        let json = serde_json::to_value(of(&limits, 1 << 33).unwrap()).unwrap();
        assert_eq!(json["memory"]["swap"], (1u64 << 30) + (1 << 20));
        assert_eq!(json["cpu"]["quota"], 150_000);
        assert_eq!(json["unified"], serde_json::json!({ "cpu.weight": "300" }));
        let swap = Limits { swap: Some(0), ..Limits::default() };
        let json = serde_json::to_value(of(&swap, 100 << 20).unwrap()).unwrap();
        assert_eq!(json["memory"]["limit"], 85 << 20);
        assert_eq!(json["memory"]["swap"], 85 << 20);
        assert_eq!(json["unified"]["memory.high"], (70u64 << 20).to_string());
    }

    #[test]
    fn processors_are_those_of_the_host() {
        for (wanted, there, is) in [
            ("0", "0-1", true),
            ("0-1,4", "0-2,4-7", true),
            ("1-3", "0-2", false),
            ("7", "0", false),
        ] {
            assert_eq!(are_among(wanted, there), is, "{wanted} of {there}");
        }
        let limits = Limits { cpus: Some("0,8191".into()), ..Limits::default() };
        assert_eq!(processors(&limits).unwrap_err().kind(), Kind::Usage);
        assert!(processors(&Limits::default()).is_ok());
    }

    #[test]
    fn no_disk_is_an_error_that_names_it() {
        for bad in ["/dev/null", "/dev/no-such-disk", "4095:77"] {
            assert!(disk(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
