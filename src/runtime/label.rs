//! The AppArmor profile of a container: filled in from what its plan allows, loaded by the host's
//! own parser, and put on its init and on whatever enters. Where the host has SELinux, the label
//! that its profile says is.
//!
//! One profile for each container, as signals and sockets within it are told from those of
//! another by the profile's name. Nothing inside may load or change profiles.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::plan::{Plan, Step};
use crate::error::{Context, Error, Kind, Result};
use crate::store::atomic;

const TEMPLATE: &str = include_str!("../../profiles/apparmor/container");
/// The vocabulary of its rules.
const ABI: &str = "abi <abi/3.0>,";
/// The same without sockets: apparmor.d/abi/3.0 but for `network` and `network_v8`.
const FEATURES: &str = include_str!("../../profiles/apparmor/features-without-network");
/// A kernel that tells the sockets of a label from those of another.
const PEERS: &str = "/sys/kernel/security/apparmor/features/network/af_unix";
/// What the kernel has loaded, a profile a line.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const REMOVE: &str = "/sys/kernel/security/apparmor/.remove";

/// What a container has in its own file system that no other profile has anything to do with.
const NESTING: &str = "/run/host/proc";

/// The profile of the container `name` of the store `store`. Neither word has a `_` in it, so no
/// two containers of a host get one profile.
pub fn name(store: &str, name: &str) -> String {
    format!("{store}_{name}")
}

/// Whether this kernel confines programs by AppArmor.
pub fn kernel_has() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.first() == Some(&b'Y'))
}

/// Whether this kernel confines programs by SELinux, permissively or not.
pub fn kernel_has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The program that loads profiles.
pub fn parser() -> Option<PathBuf> {
    let dirs = ["/usr/sbin", "/sbin"];
    dirs.iter().map(|d| Path::new(d).join("apparmor_parser")).find(|p| p.exists())
}

/// The text of `label`'s profile for what `plan` starts.
pub fn text(plan: &Plan, label: &str) -> String {
    let bounding = plan.steps.iter().find_map(|s| match s {
        Step::Bound(keep) => Some(keep),
        _ => None,
    });
    let mut capabilities = String::new();
    let words: Vec<String> = bounding.into_iter().flatten().map(|c| word(c)).collect();
    for known in caps::all().iter().map(|c| word(&c.to_string())) {
        // What this parser may not know is refused all the same, by not being listed.
        let new = ["perfmon", "bpf", "checkpoint_restore"].contains(&known.as_str());
        match words.contains(&known) {
            true => capabilities.push_str(&format!("  capability {known},\n")),
            false if new => {}
            false => capabilities.push_str(&format!("  deny capability {known},\n")),
        }
    }
    let mut lines: Vec<&str> = capabilities.lines().collect();
    lines.sort_unstable();
    TEMPLATE
        .replace("@CAPABILITIES@", &lines.join("\n"))
        .replace("@MASKS@", &masks(plan))
        .replace("@NAME@", label)
}

fn word(capability: &str) -> String {
    capability.trim_start_matches("CAP_").to_ascii_lowercase()
}

/// What covers the host's /proc and /sys stays where it is. A container in which others may be
/// made has to be able to mount these for them.
fn masks(plan: &Plan) -> String {
    let nesting = |s: &Step| matches!(s, Step::Attach { target } if target == Path::new(NESTING));
    if plan.steps.iter().any(nesting) {
        return String::new();
    }
    "\n  # What covers the host's settings stays there, and nothing else is put over them.\n  \
     deny mount -> /proc/?**,\n  \
     deny mount -> /sys/?**,\n  \
     deny mount options=bind /proc/{,**} -> /**,\n  \
     deny mount options=(bind,rw) /proc/{,**} -> /**,\n  \
     deny mount options=move /proc/{,**} -> /**,\n  \
     deny mount options=bind /sys/{,**} -> /**,\n  \
     deny mount options=(bind,rw) /sys/{,**} -> /**,\n  \
     deny mount options=move /sys/{,**} -> /**,\n  \
     deny umount /{,**/}proc/?**,\n  \
     deny umount /{,**/}sys/?**,\n"
        .to_string()
}

/// Where the profiles of a store lie, and what of this boot says that one is loaded.
#[derive(Debug)]
pub struct Place {
    /// The texts, one a file, and the parser's cache of what it made of them.
    pub dir: PathBuf,
    /// A copy of the text that was loaded last, in a directory that does not outlive the boot.
    pub marker: PathBuf,
}

/// Whether the kernel `release` lets nobody under a profile that has words on sockets lock one,
/// whatever the words are; with that systemd gives no user to DynamicUser= units. Linux has had a word
/// for it since 6.2; those kernels (`peers`) on which sockets are told by their labels had it before.
fn refuses_locks(release: &str, peers: bool) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (6, 2) && !peers
}

/// `text` in words that this kernel understands as they are meant.
fn spoken(place: &Place, text: &str) -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !refuses_locks(&release, Path::new(PEERS).exists()) {
        return Ok(text.to_string());
    }
    std::fs::create_dir_all(&place.dir)
        .context(|| format!("cannot make {}", place.dir.display()))?;
    let features = place.dir.join("features");
    if !std::fs::read_to_string(&features).is_ok_and(|t| t == FEATURES) {
        atomic::write(&features, FEATURES.as_bytes(), 0o600)?;
    }
    Ok(text.replace(ABI, &format!("abi \"{}\",", features.display())))
}

/// Loads `text` as the profile `label`, unless it is loaded.
pub fn load(place: &Place, label: &str, text: &str) -> Result<()> {
    let text = &spoken(place, text)?;
    let same = std::fs::read_to_string(&place.marker).is_ok_and(|t| t == *text);
    if same && is_loaded(label) {
        return Ok(());
    }
    let parser = parser().ok_or_else(|| Error::failed("apparmor_parser is gone"))?;
    let cache = place.dir.join("cache");
    std::fs::create_dir_all(&cache).context(|| format!("cannot make {}", cache.display()))?;
    let file = place.dir.join(label);
    atomic::write(&file, text.as_bytes(), 0o600)?;
    let out = Command::new(parser)
        .args(["--replace", "--write-cache", "--quiet", "--cache-loc"])
        .args([&cache, &file])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run apparmor_parser")?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let line = said.lines().next().unwrap_or("it failed without a word").to_string();
        return Err(Error::new(
            Kind::Failed,
            format!("cannot load the AppArmor profile {label}: {line}"),
        )
        .hint(format!("see for yourself: apparmor_parser --replace {}", file.display())));
    }
    atomic::write(&place.marker, text.as_bytes(), 0o600)
}

fn is_loaded(label: &str) -> bool {
    let text = std::fs::read_to_string(LOADED).unwrap_or_default();
    text.lines().any(|l| l.split_once(' ').is_some_and(|(name, _)| name == label))
}

/// Forgets the profile of a container that is deleted. What cannot be removed does no harm.
pub fn forget(place: &Place, label: &str) {
    if is_loaded(label) {
        // A file of the kernel's, which takes a name in one write.
        let _ = std::fs::OpenOptions::new()
            .write(true)
            .open(REMOVE)
            .and_then(|mut f| std::io::Write::write_all(&mut f, label.as_bytes()));
    }
    let _ = std::fs::remove_file(&place.marker);
    let _ = std::fs::remove_file(place.dir.join(label));
    for dir in std::fs::read_dir(place.dir.join("cache")).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(dir.path().join(label));
    }
}

/// The label that the process `pid` of the host runs under, without its mode; None for none.
pub fn of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).ok()?;
    let label = text.trim_end_matches(['\n', '\0']);
    let bare = label.rsplit_once(" (").map_or(label, |(name, _)| name);
    (bare != "unconfined" && !bare.is_empty()).then(|| bare.to_string())
}

/// The SELinux label of the process `pid` of the host.
pub fn selinux_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).ok()?;
    let label = text.trim_end_matches(['\n', '\0']);
    (kernel_has_selinux() && !label.is_empty()).then(|| label.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(steps: Vec<Step>) -> Plan {
        Plan {
            handed: Vec::new(),
            steps,
            own_network: true,
            ids: (100_000, 65536),
            processes: None,
            resources: crate::runtime::resources::Resources::default(),
            label: Some("coloc_a".into()),
            selinux: None,
            devices: None,
            limits: Vec::new(),
            hooks: Default::default(),
        }
    }

    #[test]
    fn a_profile_has_the_bounding_set_and_peers_of_its_own_name() {
        let bound = Step::Bound(vec!["CHOWN".into(), "CAP_NET_ADMIN".into()]);
        let text = text(&plan(vec![bound]), "coloc_a");
        for line in [
            "profile \"coloc_a\" flags",
            "\n  capability chown,\n",
            "\n  capability net_admin,\n",
            "\n  deny capability sys_module,\n",
            "signal (send) peer=\"coloc_a\"",
            "deny umount /{,**/}proc/?**,",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(!text.contains('@'), "{text}");
        assert!(!text.contains("\n  capability sys_module"));
    }

    #[test]
    fn where_locks_are_refused_nothing_is_said_of_sockets() {
        for (release, peers, want) in [
            ("6.1.0-41-cloud-amd64", false, true),
            ("5.15.0-100-generic", true, false),
            ("6.2.0", false, false),
            ("6.12.117+deb13-cloud-amd64", false, false),
        ] {
            assert_eq!(refuses_locks(release, peers), want, "{release}");
        }
        assert!(TEMPLATE.contains(ABI) && !FEATURES.contains("network"));
    }

    #[test]
    fn a_container_with_others_in_it_may_mount_their_proc() {
        let steps = vec![Step::Attach { target: NESTING.into() }];
        assert!(!text(&plan(steps), "a").contains("deny mount"));
    }
}
