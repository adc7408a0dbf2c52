//! A spec as a list of steps. Pure: nothing is looked at or touched here; `coloc plan` prints
//! the list, and [`super::child`] carries it out.

use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, Mount, Process, Spec,
};

use super::InitKind;
use super::devices::{self, Rule};
use super::hooks::Hooks;
use super::limits::{self, Limit};
use super::resources::Resources;
use super::seccomp::{self, Summary};
use crate::error::{Error, Kind, Result};
use crate::store::annotation::{INIT_KIND, MACHINE_ID, USER_LIMITS};
use crate::sys::mount::Attr;
use crate::sys::seccomp::Instruction;

/// One thing that the child does, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a file system and keep it for its `Attach`. proc and sysfs are made while the
    /// host's are still in sight: the kernel allows new ones only beside those.
    Make {
        /// Its place, absolute.
        target: PathBuf,
        /// The file system's type.
        kind: String,
        /// Its options; one without a value is a flag.
        options: Vec<(String, String)>,
        /// The mount's flags.
        attr: Attr,
    },
    /// Set what each user inside may have of the kernel's own things: by the host's /proc, which is
    /// the kernel's word.
    UserLimits(Vec<(String, u32)>),
    /// Make the private tree the root, and let go of the host's mounts.
    EnterRoot,
    /// Put what was made, or what the parent handed over, in its place.
    Attach {
        /// Where, absolute; a directory that is made if it is missing.
        target: PathBuf,
    },
    /// Try to make `/usr` writable, and refuse to go on if that works.
    ProveLocked {
        /// The base's place.
        target: PathBuf,
    },
    /// Bind a device node that the parent has checked.
    Device {
        /// Its place.
        target: PathBuf,
    },
    /// Make a symbolic link.
    Link {
        /// The link.
        at: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// Write a small file in one of the file systems made here.
    Write {
        /// The file.
        at: PathBuf,
        /// Its content.
        text: String,
    },
    /// Make a directory in one of the file systems made here.
    Directory {
        /// The directory.
        at: PathBuf,
    },
    /// Bind the directory read-only over itself, all but one directory in it.
    ReadOnly {
        /// The directory.
        at: PathBuf,
        /// What stays writable, if anything.
        except: Option<PathBuf>,
    },
    /// Put an empty file or directory over what is there, if something is.
    Mask {
        /// What is covered.
        at: PathBuf,
    },
    /// A boot id of the container's own.
    BootId,
    /// Make the console pty and the socket on which init says that it is up.
    Console,
    /// Flags on a mount after it was filled.
    Seal {
        /// The mount.
        at: PathBuf,
    },
    /// Let mount namespaces that services get inside follow the swap of `/usr`.
    Share,
    /// Set the host name.
    HostName(String),
    /// Bring the loopback up.
    Loopback,
    /// Set a kernel parameter of the container's own network, sysctl(8).
    Sysctl {
        /// Its name, with dots.
        name: String,
        /// What it is set to.
        value: String,
    },
    /// Drop every capability that is not in the list from the bounding set.
    Bound(Vec<String>),
    /// Filter system calls from here on, for init and all that comes of it.
    Filter {
        /// What the kernel gets.
        program: Vec<Instruction>,
        /// What it says, for people.
        summary: Summary,
    },
    /// Run the hooks of a point.
    Hooks(&'static str),
    /// Become init.
    Init {
        /// Its kind.
        kind: &'static str,
        /// Program and arguments.
        args: Vec<String>,
        /// The whole environment.
        env: Vec<String>,
    },
}

/// What the parent hands to the child as descriptors, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handed {
    /// A bind mount that goes to `target`; flags and id mapping are set, then locked.
    Bind {
        /// The host's directory.
        source: PathBuf,
        /// Its place; `/` is the private tree itself.
        target: PathBuf,
        /// Flags to lock.
        attr: Attr,
        /// Whose ids are mapped onto the tree's.
        ids: Ids,
    },
    /// A device node.
    Device {
        /// Its place, and the host's.
        target: PathBuf,
        /// Major and minor number that it must have.
        rdev: (u32, u32),
        /// Whether it is a block device.
        block: bool,
    },
}

/// How ids on a file system are seen through a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// As they are.
    Same,
    /// As the container's ids with the same numbers.
    Container,
    /// One user and one group, each with its id on the file system and on the host's side of the
    /// container's range; all others are nobody's.
    Person {
        /// The user.
        uid: (u32, u32),
        /// The group.
        gid: (u32, u32),
    },
}

impl Handed {
    /// The place it goes to.
    pub fn target(&self) -> &Path {
        match self {
            Handed::Bind { target, .. } | Handed::Device { target, .. } => target,
        }
    }
}

/// A whole start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the parent prepares.
    pub handed: Vec<Handed>,
    /// What the child does.
    pub steps: Vec<Step>,
    /// Whether the network is the container's own.
    pub own_network: bool,
    /// First host id and number of ids.
    pub ids: (u32, u32),
    /// How many processes there may be.
    pub processes: Option<i64>,
    /// What it can use up, those processes included.
    pub resources: Resources,
    /// The AppArmor profile that it is under, where the host has AppArmor.
    pub label: Option<String>,
    /// The SELinux label that its init gets, where the host has SELinux.
    pub selinux: Option<String>,
    /// The only devices that it may open; None for no such limit.
    pub devices: Option<Vec<Rule>>,
    /// What a process of it may have at most.
    pub limits: Vec<Limit>,
    /// Programs to run at points of its life.
    pub hooks: Hooks,
}

fn missing(what: &str) -> Error {
    Error::new(Kind::Damaged, format!("the spec has no {what}"))
}

/// What files of the host's say that the container may know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// /etc/os-release of the host.
    pub os_release: String,
    /// Which resolvers a container on its network can ask, as resolv.conf(5).
    pub resolv_conf: String,
    /// What systemd-networkd inside has to know of the network; empty if it has nothing to do.
    pub networkd: String,
    /// Whether the kernel confines by SELinux. Elsewhere a spec's labels mean nothing.
    pub selinux: bool,
}

/// Makes the plan of `spec`.
pub fn plan(spec: &Spec, host: &HostFacts) -> Result<Plan> {
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux section"))?;
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?.path();
    let map = linux.uid_mappings().iter().flatten().next().ok_or_else(|| missing("id mapping"))?;
    let mounts: Vec<&Mount> = spec.mounts().iter().flatten().collect();
    let handed = handed(linux, root, &mounts);
    let hooks = Hooks::of(spec, root.parent().unwrap_or(root));
    let run = |point: &'static str| hooks.at(point).next().map(|_| Step::Hooks(point));

    let users = limits::of_user(&note(spec, USER_LIMITS))?;
    let mut steps = vec![Step::UserLimits(users)];
    // These two the kernel refuses once the host's own are out of sight.
    steps.extend(mounts.iter().filter(|m| !is_bind(m) && early(m)).map(|m| make(m, None)));
    steps.extend(run("createContainer"));
    steps.push(Step::EnterRoot);
    let context = linux.mount_label().as_deref().filter(|_| host.selinux);
    steps.extend(fill(&mounts, &handed, context));
    steps.extend(cover(linux, own_network(spec)));
    steps.extend(furnish(spec, host));
    steps.extend(confine(linux, process)?);
    steps.extend(run("startContainer"));
    steps.push(Step::Init {
        kind: kind(spec).word(),
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
    });
    let resources = linux.resources().as_ref();
    let rules = resources.and_then(|r| r.devices().as_deref());
    let pids = resources.and_then(|r| r.pids().as_ref());
    Ok(Plan {
        handed,
        steps,
        own_network: own_network(spec),
        ids: (map.host_id(), map.size()),
        processes: pids.map(|p| p.limit()).filter(|n| *n > 0),
        resources: Resources::of(resources),
        label: process.apparmor_profile().clone(),
        selinux: process.selinux_label().clone().filter(|_| host.selinux),
        devices: rules.map(devices::rules).transpose()?,
        limits: limits::limits(process.rlimits().as_deref().unwrap_or_default()),
        hooks,
    })
}

/// An annotation of the spec; empty if there is none.
fn note(spec: &Spec, key: &str) -> String {
    spec.annotations().as_ref().and_then(|a| a.get(key)).cloned().unwrap_or_default()
}

fn kind(spec: &Spec) -> InitKind {
    InitKind::of_word(&note(spec, INIT_KIND))
}

/// The private tree, what is bound into it, and devices.
fn handed(linux: &Linux, root: &Path, mounts: &[&Mount]) -> Vec<Handed> {
    let tree = Handed::Bind {
        source: root.to_path_buf(),
        target: "/".into(),
        attr: Attr::NODEV,
        ids: Ids::Same,
    };
    let device = |device: &LinuxDevice| Handed::Device {
        target: device.path().clone(),
        rdev: (device.major() as u32, device.minor() as u32),
        block: device.typ() == LinuxDeviceType::B,
    };
    std::iter::once(tree)
        .chain(mounts.iter().filter(|m| is_bind(m)).map(|m| bind(m)))
        .chain(linux.devices().iter().flatten().map(device))
        .collect()
}

/// Every mount to its place, in the spec's order.
fn fill(mounts: &[&Mount], handed: &[Handed], context: Option<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    for mount in mounts {
        let target = mount.destination().clone();
        if !is_bind(mount) && !early(mount) {
            steps.push(make(mount, context));
        }
        steps.push(Step::Attach { target: target.clone() });
        if target == Path::new("/usr") {
            steps.push(Step::ProveLocked { target });
        } else if target == Path::new("/dev") {
            steps.extend(nodes(handed));
        }
    }
    steps
}

/// What tells of the host, or is not to be written to.
fn cover(linux: &Linux, own_network: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for path in linux.readonly_paths().iter().flatten() {
        let except = (own_network && path == "/proc/sys").then(|| PathBuf::from("/proc/sys/net"));
        steps.push(Step::ReadOnly { at: path.into(), except });
    }
    steps.extend(inaccessible());
    let masked = linux.masked_paths().iter().flatten();
    steps.extend(masked.map(|path| Step::Mask { at: path.into() }));
    steps.push(Step::BootId);
    steps
}

/// What init finds when it begins.
fn furnish(spec: &Spec, host: &HostFacts) -> Vec<Step> {
    let mut steps = vec![Step::Console];
    steps.extend(host_files(&note(spec, MACHINE_ID), &host.os_release, &host.resolv_conf));
    if kind(spec) == InitKind::Systemd {
        steps.extend(masks(own_network(spec)));
        steps.extend(certificate());
        steps.extend(networkd(&host.networkd));
    }
    // systemd does so itself only where it is not in a container.
    steps.push(Step::Share);
    steps.extend(spec.hostname().clone().map(Step::HostName));
    if own_network(spec) {
        steps.push(Step::Loopback);
    }
    let parameters = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut parameters: Vec<_> = parameters.into_iter().flatten().collect();
    parameters.sort();
    steps.extend(
        parameters
            .into_iter()
            .map(|(name, value)| Step::Sysctl { name: name.clone(), value: value.clone() }),
    );
    steps
}

/// What init is never to have.
fn confine(linux: &Linux, process: &Process) -> Result<Vec<Step>> {
    let bounding = process.capabilities().as_ref().and_then(|c| c.bounding().as_ref());
    let mut keep: Vec<String> = bounding.into_iter().flatten().map(|c| c.to_string()).collect();
    keep.sort();
    let mut steps = vec![Step::Bound(keep)];
    if let Some(filter) = linux.seccomp() {
        let program = seccomp::compile(filter)?;
        steps.push(Step::Filter { program, summary: seccomp::summary(filter) });
    }
    Ok(steps)
}

/// Whether a spec's network is the container's own.
pub fn own_network(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|n| n.typ() == LinuxNamespaceType::Network)
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
}

fn early(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("proc" | "sysfs"))
}

/// Sorts OCI mount options into flags of the mount and options of the file system.
fn options(mount: &Mount) -> (Attr, Vec<(String, String)>, bool) {
    let (mut attr, mut rest, mut idmap) = (Attr::NONE, Vec::new(), false);
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "ro" => attr = attr.with(Attr::RDONLY),
            "nosuid" => attr = attr.with(Attr::NOSUID),
            "nodev" => attr = attr.with(Attr::NODEV),
            "noexec" => attr = attr.with(Attr::NOEXEC),
            "idmap" => idmap = true,
            "bind" | "rw" => {}
            other => {
                let (key, value) = other.split_once('=').unwrap_or((other, ""));
                rest.push((key.to_string(), value.to_string()));
            }
        }
    }
    (attr, rest, idmap)
}

/// `context` is the SELinux label of all that is in it. The kernel takes one from a user namespace
/// only for these file systems.
fn make(mount: &Mount, context: Option<&str>) -> Step {
    let (attr, mut options, _) = options(mount);
    let kind = mount.typ().clone().unwrap_or_default();
    if let Some(context) = context.filter(|_| ["tmpfs", "devpts"].contains(&kind.as_str())) {
        options.push(("context".into(), context.into()));
    }
    Step::Make { target: mount.destination().clone(), kind, options, attr }
}

fn bind(mount: &Mount) -> Handed {
    let (attr, _, idmap) = options(mount);
    let source = mount.source().clone().unwrap_or_default();
    let one = |list: &Option<Vec<LinuxIdMapping>>| {
        // One that maps all ids is what "idmap" says; a person has one.
        let first = list.as_deref().and_then(|l| l.first()).filter(|m| m.size() == 1);
        first.map(|m| (m.container_id(), m.host_id()))
    };
    let ids = match (one(mount.uid_mappings()), one(mount.gid_mappings())) {
        (Some(uid), Some(gid)) => Ids::Person { uid, gid },
        _ if idmap => Ids::Container,
        _ => Ids::Same,
    };
    Handed::Bind { source, target: mount.destination().clone(), attr, ids }
}

fn nodes(handed: &[Handed]) -> Vec<Step> {
    let mut steps: Vec<Step> = handed
        .iter()
        .filter(|h| matches!(h, Handed::Device { .. }))
        .map(|h| Step::Device { target: h.target().to_path_buf() })
        .collect();
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (at, to) in links {
        steps.push(Step::Link { at: Path::new("/dev").join(at), to: to.into() });
    }
    steps
}

/// The empty file and directory that masks are made of.
pub(super) const MASK_FILE: &str = "/run/host/inaccessible/reg";
/// See [`MASK_FILE`].
pub(super) const MASK_DIR: &str = "/run/host/inaccessible/dir";

/// They have the place and the names that systemd-nspawn gives them.
fn inaccessible() -> Vec<Step> {
    vec![
        Step::Directory { at: "/run/host/inaccessible".into() },
        Step::Directory { at: MASK_DIR.into() },
        Step::Write { at: MASK_FILE.into(), text: String::new() },
    ]
}

/// /run/host as systemd's Container Interface has it, read-only once it is filled.
fn host_files(machine_id: &str, os_release: &str, resolv_conf: &str) -> Vec<Step> {
    let file = |name: &str, text: &str| Step::Write {
        at: Path::new("/run/host").join(name),
        text: text.to_string(),
    };
    vec![
        file("container-manager", "coloc\n"),
        file("container-uuid", &format!("{machine_id}\n")),
        file("os-release", os_release),
        file("resolv.conf", resolv_conf),
        Step::Seal { at: "/run/host".into() },
    ]
}

/// The first by name of all that systemd-networkd reads. A file of the same name in
/// /etc/systemd/network wins.
fn networkd(text: &str) -> Vec<Step> {
    let dir = Path::new("/run/systemd/network");
    match text.is_empty() {
        true => Vec::new(),
        false => vec![
            Step::Directory { at: dir.into() },
            Step::Write { at: dir.join("00-coloc.network"), text: text.into() },
        ],
    }
}

/// Units that cannot work in a user namespace, or that do for each member what the host does
/// once for all. A member who wants one anyway puts it in /etc/systemd/system, which wins.
const MASKED: [&str; 14] = [
    // File systems that only the host can mount.
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount",
    // The kernel's, not the container's.
    "systemd-modules-load.service",
    "systemd-pstore.service",
    // Packages and disks are looked after on the host.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
];

/// Units that would only fail on the host's network, where no port below 1024 is a container's
/// to take, and where the host has an sshd of its own.
const MASKED_ON_HOST_NETWORK: [&str; 2] = ["ssh.service", "ssh.socket"];

/// Where a masked unit is a link to /dev/null.
pub const MASKED_UNITS_DIR: &str = "/run/systemd/system";

/// The units that are masked, with a network of the container's own or without.
pub fn masked_units(own_network: bool) -> impl Iterator<Item = &'static str> {
    let more: &[&str] = if own_network { &[] } else { &MASKED_ON_HOST_NETWORK };
    MASKED.iter().chain(more).copied()
}

fn masks(own_network: bool) -> Vec<Step> {
    let dir = Path::new(MASKED_UNITS_DIR);
    let mut steps = vec![
        Step::Directory { at: "/run/systemd".into() },
        Step::Directory { at: dir.to_path_buf() },
    ];
    let units = masked_units(own_network);
    steps.extend(units.map(|u| Step::Link { at: dir.join(u), to: "/dev/null".into() }));
    steps
}

/// Debian's ssl-cert makes a certificate for each machine, with which PostgreSQL and others begin. A
/// base keeps no key, so each container makes one of its own before its services start.
const CERTIFICATE: &str = "\
[Unit]
Description=Certificate of this machine's own
DefaultDependencies=no
ConditionFileIsExecutable=/usr/sbin/make-ssl-cert
ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key
After=systemd-remount-fs.service systemd-tmpfiles-setup.service
Before=basic.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil --force-overwrite
";

fn certificate() -> Vec<Step> {
    const UNIT: &str = "coloc-certificate.service";
    let dir = Path::new(MASKED_UNITS_DIR);
    let wants = dir.join("basic.target.wants");
    vec![
        Step::Write { at: dir.join(UNIT), text: CERTIFICATE.into() },
        Step::Directory { at: wants.clone() },
        Step::Link { at: wants.join(UNIT), to: Path::new("..").join(UNIT) },
    ]
}

fn attr_words(attr: Attr) -> String {
    let names = [
        (Attr::RDONLY, "ro"),
        (Attr::NOSUID, "nosuid"),
        (Attr::NODEV, "nodev"),
        (Attr::NOEXEC, "noexec"),
    ];
    let words: Vec<&str> = names.iter().filter(|(a, _)| attr.has(*a)).map(|(_, w)| *w).collect();
    words.join(",")
}

impl fmt::Display for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Handed::Bind { source, target, attr, ids } => {
                let (from, to, flags) = (source.display(), target.display(), attr_words(*attr));
                write!(f, "lock {from} for {to} ({flags}")?;
                match ids {
                    Ids::Same => f.write_str(")"),
                    Ids::Container => f.write_str(",idmap)"),
                    Ids::Person { uid, gid } => {
                        write!(f, ",uid {} as {},gid {} as {})", uid.0, uid.1, gid.0, gid.1)
                    }
                }
            }
            Handed::Device { target, rdev, .. } => {
                write!(f, "check that {} is device {}:{}", target.display(), rdev.0, rdev.1)
            }
        }
    }
}

impl Step {
    /// In a few words, where the whole of it would fill a screen.
    pub(super) fn brief(&self) -> String {
        match self {
            Step::Filter { .. } => "filter system calls".into(),
            Step::Bound(_) => "bound capabilities".into(),
            step => step.to_string(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Make { target, kind, options, attr } => {
                let options: Vec<String> = options
                    .iter()
                    .map(|(k, v)| if v.is_empty() { k.clone() } else { format!("{k}={v}") })
                    .collect();
                let words = [attr_words(*attr), options.join(",")].join(",");
                write!(f, "make {kind} for {} ({})", target.display(), words.trim_matches(','))
            }
            Step::UserLimits(list) => {
                let words: Vec<String> = list.iter().map(|(k, n)| format!("{k} {n}")).collect();
                write!(f, "let each user have {} at most", words.join(", "))
            }
            Step::EnterRoot => write!(f, "enter the private tree, leave the host's mounts"),
            Step::Attach { target } => write!(f, "attach {}", target.display()),
            Step::ProveLocked { target } => {
                write!(f, "prove that {} cannot be made writable", target.display())
            }
            Step::Device { target } => write!(f, "bind {}", target.display()),
            Step::Link { at, to } => write!(f, "link {} -> {}", at.display(), to.display()),
            Step::Write { at, .. } => write!(f, "write {}", at.display()),
            Step::Directory { at } => write!(f, "make directory {}", at.display()),
            Step::ReadOnly { at, except: None } => write!(f, "make {} read-only", at.display()),
            Step::ReadOnly { at, except: Some(e) } => {
                write!(f, "make {} read-only, {} not", at.display(), e.display())
            }
            Step::Mask { at } => write!(f, "mask {}", at.display()),
            Step::BootId => write!(f, "make a boot id of its own"),
            Step::Console => write!(f, "make the console and /run/host/notify"),
            Step::Seal { at } => write!(f, "make {} read-only", at.display()),
            Step::Share => write!(f, "share the mounts with namespaces made inside"),
            Step::HostName(name) => write!(f, "set host name {name}"),
            Step::Loopback => write!(f, "bring lo up"),
            Step::Sysctl { name, value } => write!(f, "set {name} to {value}"),
            Step::Bound(keep) => write!(f, "bound capabilities to {}", keep.join(" ")),
            Step::Hooks(point) => write!(f, "run the hooks {point}"),
            Step::Filter { program, summary } => write!(
                f,
                "filter system calls by {} instructions: {} allowed; refused, or for some \
                 arguments (*): {} {}*; no other is known",
                program.len(),
                summary.allowed.len(),
                summary.refused.join(" "),
                summary.partly.join("* ")
            ),
            Step::Init { args, kind, .. } => write!(f, "become {} ({kind})", args.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selinux_labels_count_where_the_host_has_it() {
        let label = "system_u:system_r:container_t:s0:c1,c2";
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "/p"},
            "process": {
                "cwd": "/",
                "args": ["/sbin/init"],
                "user": {"uid": 0, "gid": 0},
                "selinuxLabel": label
            },
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/dev", "type": "tmpfs", "options": ["mode=0755"]},
                {"destination": "/dev/mqueue", "type": "mqueue"}
            ],
            "linux": {
                "mountLabel": "a:b:c",
                "uidMappings": [{"hostID": 100_000, "containerID": 0, "size": 65536}]
            }
        }))
        .unwrap();
        let labelled = |selinux| {
            let plan = plan(&spec, &HostFacts { selinux, ..HostFacts::default() }).unwrap();
            let context = |s: &Step| match s {
                Step::Make { target, options, .. } if options.iter().any(|o| o.0 == "context") => {
                    Some(target.display().to_string())
                }
                _ => None,
            };
            (plan.steps.iter().filter_map(context).collect::<Vec<_>>(), plan.selinux)
        };
        assert_eq!(labelled(false), (vec![], None));
        assert_eq!(labelled(true), (vec!["/dev".to_string()], Some(label.to_string())));
    }
}
