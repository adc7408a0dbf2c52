//! That this host passes packets on: switched on for containers, and off after the last one if nobody
//! else can need it by then.
//!
//! Who relies on a setting cannot be asked. But whoever passes packets on for others has rules for
//! it: as long as any of those are there, or another store's, it stays on.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tool;
use crate::error::{Context, Result};
use crate::store::{Layout, atomic};

/// The keys of /proc/sys/net that were changed, each with what it was, line by line.
fn file(layout: &Layout) -> PathBuf {
    layout.network().join("forwarding")
}

/// Reads one of /proc/sys/net.
pub(super) fn read(key: &str) -> String {
    let text = std::fs::read_to_string(Path::new("/proc/sys/net").join(key));
    text.unwrap_or_default().trim().to_string()
}

/// Sets one of /proc/sys/net, if it is not so.
pub(super) fn set(key: &str, value: &str) -> Result<()> {
    if read(key) == value {
        return Ok(());
    }
    let path = Path::new("/proc/sys/net").join(key);
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut f| std::io::Write::write_all(&mut f, value.as_bytes()))
        .context(|| format!("cannot set net.{} to {value}", key.replace('/', ".")))
}

/// Has the host pass packets on, of IPv6 too if `six` says so.
pub(super) fn on(layout: &Layout, six: bool) -> Result<()> {
    let mut wanted = Vec::new();
    if read("ipv4/ip_forward") != "1" {
        wanted.push(("ipv4/ip_forward".to_string(), "1"));
    }
    if six && read("ipv6/conf/all/forwarding") != "1" {
        // Before the one that would have routes from routers be forgotten.
        wanted.extend(advertised().into_iter().map(|key| (key, "2")));
        wanted.push(("ipv6/conf/all/forwarding".to_string(), "1"));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    // On record before it is so: whatever kills this, it is undone.
    let mut text = std::fs::read_to_string(file(layout)).unwrap_or_default();
    for (key, _) in &wanted {
        text.push_str(&format!("{key} {}\n", read(key)));
    }
    atomic::write_unsynced(&file(layout), text.as_bytes(), 0o644)?;
    for (key, value) in wanted {
        match set(&key, value) {
            // A device may go at any moment.
            Err(_) if key.ends_with("accept_ra") => {}
            other => other?,
        }
    }
    Ok(())
}

/// The settings of devices that take routes from routers. A host that passes packets on does not,
/// unless told that it should all the same: else IPv6 would be switched on for containers and off
/// for the host.
fn advertised() -> Vec<String> {
    let devices = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    let key = |name: std::ffi::OsString| format!("ipv6/conf/{}/accept_ra", name.to_string_lossy());
    devices.map(|device| key(device.file_name())).filter(|key| read(key) == "1").collect()
}

/// Undoes what [`on`] did, unless others have rules for packets that are passed on.
pub(super) fn off(layout: &Layout, table: &str) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(file(layout)) else { return Ok(()) };
    if !others_route(&tool::nft_list(&["chains"])?, table) {
        for (key, before) in text.lines().rev().filter_map(|line| line.split_once(' ')) {
            if !key.contains("..") && !read(key).is_empty() {
                let _ = set(key, before);
            }
        }
    }
    std::fs::remove_file(file(layout)).context(|| "cannot forget that packets are passed on")
}

/// Whether a table but our own has a chain through which packets are passed on, or changed on
/// their way out.
fn others_route(list: &[Value], table: &str) -> bool {
    list.iter().filter_map(|v| v.get("chain")).any(|chain| {
        let routed = ["ip", "ip6", "inet"].iter().any(|f| chain["family"] == *f);
        let way = chain["hook"] == "forward" || chain["hook"] == "postrouting";
        routed && way && chain["table"] != table
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_has_rules_for_it_may_need_it() {
        let chain = |family: &str, table: &str, hook: &str| json!({"chain": {"family": family, "table": table, "name": "x", "hook": hook}});
        let ours = [chain("inet", "coloc", "forward"), chain("bridge", "filter", "forward")];
        assert!(!others_route(&ours, "coloc"));
        assert!(!others_route(&[chain("inet", "filter", "input")], "coloc"));
        for (family, table, hook) in [
            ("ip", "filter", "forward"),
            ("ip6", "nat", "postrouting"),
            ("inet", "coloc-1a", "forward"),
        ] {
            assert!(others_route(&[chain(family, table, hook)], "coloc"), "{family} {table}");
        }
    }
}
