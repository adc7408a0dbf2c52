//! Names of containers, and names of the world inside: dnsmasq(8) on the bridge, as LXC has it.
//!
//! dnsmasq knows the containers by a hosts file and asks the host's own resolvers for all
//! else, so what containers see follows the host. The host itself asks dnsmasq for names of
//! the domain where systemd-resolved can be told so; elsewhere they stand in /etc/hosts,
//! between two marks.

use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::plan::{Member, Net};
use super::{link, tool};

use crate::error::{Error, Kind, Result};
use crate::store::lock::{self, Subject};
use crate::store::running::Process;
use crate::store::{Layout, atomic};
use crate::sys::process;

fn file(layout: &Layout, name: &str) -> PathBuf {
    layout.network().join(name)
}

/// Each address of each member with its name.
fn lines(net: &Net, members: &[Member]) -> String {
    let mut text = String::new();
    for member in members {
        for address in member.addresses() {
            text.push_str(&format!("{address}\t{}\n", net.full_name(&member.name)));
        }
    }
    text
}

/// dnsmasq's settings.
fn settings(layout: &Layout, net: &Net) -> String {
    let at = |name: &str| file(layout, name).display().to_string();
    format!(
        "# Made by coloc.\n\
         interface={bridge}\nexcept-interface=lo\nbind-dynamic\n\
         no-hosts\naddn-hosts={hosts}\n\
         domain={domain}\nlocal=/{domain}/\n\
         cache-size=1000\npid-file={pid}\n",
        bridge = net.bridge,
        domain = net.domain,
        hosts = at("hosts"),
        pid = at("dnsmasq.pid"),
    )
}

/// The dnsmasq of this store, if it runs: the process of that number has to be one, and to have
/// been started with our settings.
fn running(layout: &Layout) -> Option<(i32, std::os::fd::OwnedFd)> {
    let text = std::fs::read_to_string(file(layout, "dnsmasq.pid")).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let process = Process::now(pid)?;
    let fd = process.open()?;
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let conf = format!("--conf-file={}", file(layout, "dnsmasq.conf").display());
    let ours = args.split(|b| *b == 0).any(|arg| arg == conf.as_bytes());
    (ours && process.open().is_some()).then_some((pid, fd))
}

/// Makes names what `members` say, but for the host's own file; without dnsmasq there are none, and
/// no error.
pub(super) fn update(layout: &Layout, net: &Net, members: &[Member]) -> Result<()> {
    let hosts = lines(net, members);
    let path = file(layout, "hosts");
    let same = std::fs::read(&path).is_ok_and(|old| old == hosts.as_bytes());
    if !same {
        write(&path, &hosts, 0o644)?;
    }
    match running(layout) {
        // It reads the file again.
        Some((_, fd)) if !same => process::signal(&fd, libc::SIGHUP)?,
        Some(_) => {}
        None => start(layout, net),
    }
    tell_resolved(layout, net);
    Ok(())
}

/// Has the host know the names of whoever `members` gives, by its /etc/hosts if by nothing else. They
/// are asked for once nobody else writes there: the last one to come knows of all before.
pub(super) fn tell_host(net: &Net, members: impl FnOnce() -> Vec<Member>) {
    host_names(net, || lines(net, &members()));
}

/// A file that need not outlive this boot, or can be made anew.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    atomic::write_unsynced(path, text.as_bytes(), mode)
}

/// Starts dnsmasq, away from this process and its cgroup. A failure is told in a file, for
/// `coloc check`: containers run without it.
fn start(layout: &Layout, net: &Net) {
    let failed = file(layout, "dnsmasq.failed");
    match try_start(layout, net) {
        Ok(()) => {
            let _ = std::fs::remove_file(failed);
        }
        Err(e) => {
            let _ = write(&failed, &format!("{e}\n"), 0o644);
        }
    }
}

fn try_start(layout: &Layout, net: &Net) -> Result<()> {
    if !tool::there("dnsmasq") {
        return Err(Error::new(Kind::Unsupported, "dnsmasq is not installed"));
    }
    let conf = file(layout, "dnsmasq.conf");
    write(&conf, &settings(layout, net), 0o644)?;
    let conf = format!("--conf-file={}", conf.display());
    if !Path::new("/run/systemd/system").is_dir() {
        return tool::run_service("dnsmasq", "dnsmasq-base", &[&conf]);
    }
    let unit = format!("--unit={}-names", net.table);
    let pid = format!("--property=PIDFile={}", file(layout, "dnsmasq.pid").display());
    let args = ["--quiet", "--collect", "--service-type=forking", &pid, &unit, "dnsmasq", &conf];
    tool::run("systemd-run", "systemd", &args, "").map(drop)
}

/// Why there are no names, if there are none.
pub(super) fn trouble(layout: &Layout) -> Option<String> {
    if running(layout).is_some() {
        return None;
    }
    let why = std::fs::read_to_string(file(layout, "dnsmasq.failed")).ok();
    Some(why.map_or("dnsmasq does not run".into(), |w| w.trim_end().to_string()))
}

/// Ends dnsmasq, and forgets what the host was told.
pub(super) fn end(layout: &Layout, net: &Net) {
    if let Some((_, fd)) = running(layout) {
        let _ = process::signal(&fd, libc::SIGTERM);
    }
    for name in ["hosts", "dnsmasq.pid", "dnsmasq.conf", "dnsmasq.failed", "resolved"] {
        let _ = std::fs::remove_file(file(layout, name));
    }
    tell_host(net, Vec::new);
}

/// Whether systemd-resolved answers for this host.
fn resolved() -> bool {
    Path::new("/run/systemd/resolve/stub-resolv.conf").exists() && tool::there("resolvectl")
}

/// Has systemd-resolved ask dnsmasq for names of the domain, once for each bridge that was made: it
/// forgets what it was told with the bridge, so there is nothing to undo. It may be installed later,
/// or not know the bridge yet: then the next change tells it.
fn tell_resolved(layout: &Layout, net: &Net) {
    let told = file(layout, "resolved");
    let Some(bridge) = link::index(&net.bridge).map(|n| n.to_string()) else { return };
    if !resolved() || std::fs::read_to_string(&told).is_ok_and(|old| old == bridge) {
        return;
    }
    let gateway = net.gateway4().to_string();
    let tell = |args: [&str; 3]| {
        // One that is there and does not answer would have it wait for half a minute.
        let mut command = tool::command("timeout");
        command.args(["10", "resolvectl"]).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if tell(["dns", &net.bridge, &gateway])
        && tell(["domain", &net.bridge, &format!("~{}", net.domain)])
    {
        let _ = write(&told, &bridge, 0o644);
    }
}

/// Has systemd-resolved be told anew, for it may have lost what it knew.
pub(super) fn forget(layout: &Layout) {
    let _ = std::fs::remove_file(file(layout, "resolved"));
}

const HOSTS: &str = "/etc/hosts";

fn marks(net: &Net) -> [String; 2] {
    ["begin", "end"]
        .map(|word| format!("# {word} of {}: made by coloc, not for editing", net.table))
}

/// `old` with `lines` between our marks; without marks if there are no lines.
fn between_marks(old: &str, [begin, end]: &[String; 2], lines: &str) -> String {
    let mut new = String::new();
    let mut inside = false;
    for line in old.lines() {
        if line == begin {
            inside = true;
        }
        if !inside {
            new.push_str(line);
            new.push('\n');
        }
        if line == end {
            inside = false;
        }
    }
    if inside {
        // Somebody took the end mark away: then what follows the first is not ours to tell.
        return old.to_string();
    }
    if !lines.is_empty() {
        new.push_str(&format!("{begin}\n{lines}{end}\n"));
    }
    new
}

/// Whether our marks are in /etc/hosts.
pub(super) fn in_hosts_file(net: &Net) -> bool {
    std::fs::read_to_string(HOSTS).is_ok_and(|t| t.lines().any(|l| l == marks(net)[0]))
}

/// Puts the names into the host's /etc/hosts, where nothing better is there. That file may be
/// one that cannot be replaced, in a container for instance: then the host knows no names.
fn host_names(net: &Net, lines: impl FnOnce() -> String) {
    let path = Path::new(HOSTS);
    // Two stores change the same file. A lock on something that others can open would be theirs to
    // keep.
    let Ok(_turn) = lock::exclusive(&Layout::new("/"), &Subject::Hosts) else { return };
    let lines = if net.hosts && !resolved() { lines() } else { String::new() };
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let Ok(old) = std::fs::read_to_string(path) else { return };
    if !meta.is_file() || meta.uid() != 0 {
        return;
    }
    let new = between_marks(&old, &marks(net), &lines);
    if new != old {
        let _ = atomic::write(path, new.as_bytes(), meta.permissions().mode() & 0o7777);
    }
}

/// resolv.conf of a container on the bridge: dnsmasq, or without it the host's own resolvers
/// where a container can reach them.
pub(super) fn resolv_conf(layout: &Layout, net: &Net) -> String {
    if running(layout).is_some() {
        return format!("nameserver {}\nsearch {}\n", net.gateway4(), net.domain);
    }
    reachable_resolvers()
}

/// The host's own resolvers, but those that only the host can reach.
pub(super) fn reachable_resolvers() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host = read("/etc/resolv.conf");
    match reachable(&host) {
        text if text.contains("nameserver") => text,
        // systemd-resolved keeps what it asks itself in a file of its own.
        _ => reachable(&read("/run/systemd/resolve/resolv.conf")),
    }
}

/// `text` without the resolvers on the host's loopback.
fn reachable(text: &str) -> String {
    let far = |line: &&str| {
        let mut words = line.split_whitespace();
        let resolver = (words.next() == Some("nameserver")).then(|| words.next()).flatten();
        let address = resolver.and_then(|a| a.parse::<IpAddr>().ok());
        !address.is_some_and(|a| a.is_loopback())
    };
    text.lines().filter(far).map(|l| format!("{l}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_in_hosts_comes_goes_and_leaves_the_rest() {
        let marks = ["# b".to_string(), "# e".to_string()];
        let old = "127.0.0.1 localhost\n";
        let one = between_marks(old, &marks, "10.0.0.2\ta.coloc\n");
        assert_eq!(one, "127.0.0.1 localhost\n# b\n10.0.0.2\ta.coloc\n# e\n");
        let two = between_marks(&format!("{one}::1 x\n"), &marks, "10.0.0.3\tb.coloc\n");
        assert_eq!(two, "127.0.0.1 localhost\n::1 x\n# b\n10.0.0.3\tb.coloc\n# e\n");
        assert_eq!(between_marks(&one, &marks, ""), old);
        assert_eq!(between_marks("# b\nmine\n", &marks, "x\n"), "# b\nmine\n");
    }

    #[test]
    fn resolvers_of_the_loopback_are_no_use_inside() {
        let text = "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\n";
        assert_eq!(reachable(text), "nameserver 192.0.2.1\nsearch example.org\n");
    }
}
