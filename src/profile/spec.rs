//! From settings to an OCI runtime spec (<https://github.com/opencontainers/runtime-spec>):
//! the contract between profiles and the runtime, kept as `config.json` beside the record.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxBlockIo, LinuxBuilder, LinuxCapabilitiesBuilder,
    LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder,
};

use super::{
    Device, DeviceKind, Limits, Mode, MountIds, MountPoint, Settings, limits, oci, resources, risk,
    seccomp,
};
use crate::error::{Error, Kind, Result};
use crate::store::Record;
use crate::store::annotation::{INIT_KIND, MACHINE_ID, USER_LIMITS};
use crate::store::record::Range;

/// What the derivation needs to know beside the record.
#[derive(Debug)]
pub struct Place<'a> {
    /// The private tree on the host.
    pub private: &'a Path,
    /// The generation's `usr` on the host.
    pub usr: &'a Path,
    /// The cgroup that the container is to be in, as in /proc/PID/cgroup.
    pub cgroup: &'a str,
    /// The init's kind, such as `systemd`.
    pub init_kind: &'a str,
    /// The owner's home, if it is to be mounted.
    pub home: Option<&'a Home>,
    /// The AppArmor profile, where the host has AppArmor.
    pub label: Option<&'a str>,
    /// Bytes of memory that the host has.
    pub memory: u64,
}

/// A home of the host's, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Where it is, on the host and inside.
    pub path: PathBuf,
    /// The owner's uid on the host, and inside.
    pub uid: (u32, u32),
    /// The same of their main group.
    pub gid: (u32, u32),
}

/// Capabilities that no container has, because they reach past it: modules, hardware, clocks,
/// the kernel's log, audit, security policy and limits.
pub(super) const WITHOUT: [Capability; 15] = [
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysTime,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
    // Root of a user namespace raises the limits of its users by it, and does nothing else with it.
    Capability::SysResource,
];

const ALL: [Capability; 41] = {
    use Capability as C;
    [
        C::AuditControl,
        C::AuditRead,
        C::AuditWrite,
        C::BlockSuspend,
        C::Bpf,
        C::CheckpointRestore,
        C::Chown,
        C::DacOverride,
        C::DacReadSearch,
        C::Fowner,
        C::Fsetid,
        C::IpcLock,
        C::IpcOwner,
        C::Kill,
        C::Lease,
        C::LinuxImmutable,
        C::MacAdmin,
        C::MacOverride,
        C::Mknod,
        C::NetAdmin,
        C::NetBindService,
        C::NetBroadcast,
        C::NetRaw,
        C::Perfmon,
        C::Setgid,
        C::Setfcap,
        C::Setpcap,
        C::Setuid,
        C::SysAdmin,
        C::SysBoot,
        C::SysChroot,
        C::SysModule,
        C::SysNice,
        C::SysPacct,
        C::SysPtrace,
        C::SysRawio,
        C::SysResource,
        C::SysTime,
        C::SysTtyConfig,
        C::Syslog,
        C::WakeAlarm,
    ]
};

/// The device nodes of a container: name, major and minor (Linux, admin-guide/devices).
pub const DEVICES: [(&str, i64, i64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The device by which a pseudoterminal is made, and the major number of their other ends.
const PTMX: (i64, i64) = (5, 2);
const PTS: i64 = 136;

/// What of /proc and /sys tells of the host, or acts on it. The kernel lets a container's root
/// do nothing there; this keeps it from those who only look, too.
const MASKED: [&str; 21] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
];

/// Runtimes refuse a version that is newer than they are, but not what a newer one brought.
const VERSION: &str = "1.0.2";

/// What can be looked at and not written.
const READ_ONLY: [&str; 4] = ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"];

/// The whole spec of one container.
pub fn derive(record: &Record, settings: &Settings, place: &Place<'_>) -> Result<Spec> {
    let failed = |e: String| Error::failed(format!("cannot make the spec of {}: {e}", record.name));
    resources::processors(&settings.limits)?;
    let io = resources::io(&settings.limits)?;
    let nodes = settings.devices.iter().map(node).collect::<Result<Vec<_>>>()?;
    let own =
        derive_inner(record, settings, place, io, &nodes).map_err(|e| failed(e.to_string()))?;
    let spec = oci::apply(&own, &settings.oci).map_err(|e| failed(e.to_string()))?;
    within_bounds(spec, &own).map_err(|e| failed(e.to_string()))
}

fn derive_inner(
    record: &Record,
    settings: &Settings,
    place: &Place<'_>,
    io: Option<LinuxBlockIo>,
    nodes: &[Node],
) -> std::result::Result<Spec, oci_spec::OciSpecError> {
    let mut resources = resources::of(&settings.limits, place.memory)?;
    resources.set_devices(Some(allowed(nodes)?)).set_block_io(io);
    let map = LinuxIdMappingBuilder::default()
        .host_id(record.ids.start)
        .container_id(0u32)
        .size(record.ids.count)
        .build()?;
    let mut linux = LinuxBuilder::default()
        .resources(resources)
        .uid_mappings(vec![map])
        .gid_mappings(vec![map])
        .namespaces(namespaces(&settings.network.mode)?)
        .cgroups_path(place.cgroup)
        .devices(devices(nodes)?)
        .readonly_paths(READ_ONLY.map(String::from).to_vec())
        .masked_paths(MASKED.map(String::from).to_vec())
        .seccomp(seccomp::filter(settings.allow)?)
        .build()?;
    if settings.network.mode != Mode::Host {
        linux.set_sysctl(Some(own_parameters(record.ids.count)));
    }
    let mut bounding: Capabilities = ALL.into_iter().filter(|c| !WITHOUT.contains(c)).collect();
    if settings.network.mode == Mode::Host {
        // It would be power over the host's own network.
        bounding.remove(&Capability::NetAdmin);
    }
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(bounding.clone())
        .permitted(bounding.clone())
        .effective(bounding)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?;
    let args = match place.init_kind {
        "builtin" => vec!["coloc-init".to_string()],
        _ => vec!["/sbin/init".to_string()],
    };
    let mut process = ProcessBuilder::default()
        .terminal(true)
        .cwd("/")
        .args(args)
        .env(environment(&record.machine_id))
        .capabilities(capabilities)
        .rlimits(rlimits(&settings.limits)?)
        .no_new_privileges(false)
        .build()?;
    process.set_apparmor_profile(place.label.map(String::from));
    SpecBuilder::default()
        .version(VERSION)
        .hostname(record.name.as_str())
        .root(RootBuilder::default().path(place.private).readonly(false).build()?)
        .mounts(mounts(record, settings, place)?)
        .process(process)
        .linux(linux)
        .annotations(HashMap::from([
            (INIT_KIND.to_string(), place.init_kind.to_string()),
            (MACHINE_ID.to_string(), record.machine_id.clone()),
            (USER_LIMITS.to_string(), of_users(&settings.limits)),
        ]))
        .build()
}

/// Kernel parameters of the container's own network, for `ids` groups in it.
///
/// Debian 13's ping has no rights of its own: it counts on this one, which systemd sets to a range that
/// has groups that no container has, and which is then refused.
fn own_parameters(ids: u32) -> HashMap<String, String> {
    HashMap::from([("net.ipv4.ping_group_range".into(), format!("0 {}", ids - 1))])
}

fn environment(machine_id: &str) -> Vec<String> {
    let mut uuid = machine_id.to_string();
    for at in [20, 16, 12, 8] {
        if uuid.len() >= at {
            uuid.insert(at, '-');
        }
    }
    vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        "TERM=linux".into(),
        // What systemd looks for (its "Container Interface").
        "container=coloc".into(),
        format!("container_uuid={uuid}"),
        "NOTIFY_SOCKET=/run/host/notify".into(),
    ]
}

/// `spec`, into which a profile's fragment was merged, with no capability that coloc's `own` has
/// not, and none in the other sets that is not in the bounding one.
fn within_bounds(mut spec: Spec, own: &Spec) -> Specs<Spec> {
    let sets = |spec: &Spec| spec.process().as_ref().and_then(|p| p.capabilities().clone());
    let (Some(given), Some(own)) = (sets(&spec), sets(own)) else { return Ok(spec) };
    let most = own.bounding().clone().unwrap_or_default();
    let within = |set: &Option<Capabilities>, most: &Capabilities| -> Capabilities {
        set.iter().flatten().filter(|c| most.contains(c)).copied().collect()
    };
    let bounding = within(given.bounding(), &most);
    let capabilities = LinuxCapabilitiesBuilder::default()
        .permitted(within(given.permitted(), &bounding))
        .effective(within(given.effective(), &bounding))
        .inheritable(within(given.inheritable(), &bounding))
        .ambient(within(given.ambient(), &bounding))
        .bounding(bounding)
        .build()?;
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(Some(capabilities));
    }
    Ok(spec)
}

type Specs<T> = std::result::Result<T, oci_spec::OciSpecError>;

fn namespaces(network: &Mode) -> Specs<Vec<oci_spec::runtime::LinuxNamespace>> {
    use LinuxNamespaceType as T;
    let mut kinds = vec![T::User, T::Mount, T::Pid, T::Uts, T::Ipc, T::Cgroup];
    if *network != Mode::Host {
        kinds.push(T::Network);
    }
    kinds.into_iter().map(|k| LinuxNamespaceBuilder::default().typ(k).build()).collect()
}

/// A device of the host's, or several: with its number, and with its path if it gets a node.
struct Node {
    path: Option<PathBuf>,
    block: bool,
    major: u32,
    minor: Option<u32>,
    access: &'static str,
}

/// Looks a device of the settings up.
fn node(device: &Device) -> Result<Node> {
    let no = |why: &str| {
        Error::new(Kind::Usage, format!("devices: {} is not for a container: {why}", device.name()))
    };
    let (path, block, major, minor) = match &device.kind {
        DeviceKind::Numbers { block, major, minor } => (None, *block, *major, *minor),
        DeviceKind::Path(path) => {
            // Not a link: what it leads to could be another one at the next start.
            let found = std::fs::symlink_metadata(path).map_err(|_| {
                no("it is not there").hint("see what devices the host has: ls /dev")
            })?;
            let block = found.file_type().is_block_device();
            if !block && !found.file_type().is_char_device() {
                return Err(no("it is no device").hint("name the device itself, not a link to it"));
            }
            let rdev = found.rdev();
            (Some(path.clone()), block, libc::major(rdev), Some(libc::minor(rdev)))
        }
    };
    // By what this host calls it: many numbers are given out anew at each boot.
    let name = || risk::by_name(&name_of(major, minor)?);
    let risk = risk::by_number(block, major, minor).or_else(name);
    match device.refused(risk) {
        None => Ok(Node { path, block, major, minor, access: device.access }),
        Some((why, None)) => Err(no(why).hint("no container gets those")),
        Some((why, Some(word))) => {
            Err(no(why).hint(format!("if that is meant: devices+={},{word}", device.name())))
        }
    }
}

/// What the host calls a character device, or all with a major number.
fn name_of(major: u32, minor: Option<u32>) -> Option<String> {
    let Some(minor) = minor else {
        let list = std::fs::read_to_string("/proc/devices").ok()?;
        let of_block = list.find("Block devices:").unwrap_or(list.len());
        let mut lines = list.get(..of_block)?.lines().map(str::trim);
        return lines.find_map(|l| l.strip_prefix(&format!("{major} ")).map(str::to_string));
    };
    let text = std::fs::read_to_string(format!("/sys/dev/char/{major}:{minor}/uevent")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("DEVNAME=")).map(str::to_string)
}

fn devices(own: &[Node]) -> Specs<Vec<oci_spec::runtime::LinuxDevice>> {
    let device = |(name, major, minor): (&str, i64, i64)| {
        LinuxDeviceBuilder::default()
            .path(format!("/dev/{name}"))
            .typ(LinuxDeviceType::C)
            .major(major)
            .minor(minor)
            .build()
    };
    let given = own.iter().filter_map(|n| Some((n.path.clone()?, n.block, n.major, n.minor?)));
    let given = given.map(|(path, block, major, minor)| {
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(if block { LinuxDeviceType::B } else { LinuxDeviceType::C })
            .major(i64::from(major))
            .minor(i64::from(minor))
            .build()
    });
    DEVICES.into_iter().map(device).chain(given).collect()
}

/// The limits of each process. All are said, as the crate would put in some of its own.
fn rlimits(own: &Limits) -> Specs<Vec<PosixRlimit>> {
    let limit = |(typ, soft, hard): (PosixRlimitType, u64, u64)| {
        use PosixRlimitType as T;
        let (soft, hard) = match typ {
            T::RlimitNofile => (soft, own.open_files.unwrap_or(hard)),
            T::RlimitSigpending => [own.signals.unwrap_or(hard); 2].into(),
            T::RlimitMemlock => [own.locked.unwrap_or(limits::INFINITE); 2].into(),
            T::RlimitMsgqueue => [own.queues.unwrap_or(limits::INFINITE); 2].into(),
            _ => (soft, hard),
        };
        PosixRlimitBuilder::default().typ(typ).soft(soft.min(hard)).hard(hard).build()
    };
    limits::RESOURCES.into_iter().map(limit).collect()
}

/// What each user inside may have of the kernel's own things, as an annotation has it.
fn of_users(own: &Limits) -> String {
    let word = |(name, most): (&str, u32)| {
        let most = match name {
            "max_inotify_instances" => own.inotify_instances,
            "max_inotify_watches" => own.inotify_watches,
            _ => own.namespaces,
        }
        .unwrap_or(most.into());
        format!("{name}={most}")
    };
    limits::USER.map(word).join(" ")
}

/// What may be opened: the nodes that there are, and terminals of its own. No node may be made.
fn allowed(own: &[Node]) -> Specs<Vec<LinuxDeviceCgroup>> {
    let rule_of = |block: bool, major: i64, minor: Option<i64>, access: &str| {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(if block { LinuxDeviceType::B } else { LinuxDeviceType::C })
            .major(major)
            .access(access);
        match minor {
            Some(minor) => rule.minor(minor).build(),
            None => rule.build(),
        }
    };
    let rule = |major, minor| rule_of(false, major, minor, "rw");
    let mut list = vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?];
    for (_, major, minor) in DEVICES {
        list.push(rule(major, Some(minor))?);
    }
    list.extend([rule(PTMX.0, Some(PTMX.1))?, rule(PTS, None)?]);
    for node in own {
        let minor = node.minor.map(i64::from);
        list.push(rule_of(node.block, node.major.into(), minor, node.access)?);
    }
    Ok(list)
}

/// A mount of the host's that the settings say.
fn own_mount(own: &MountPoint, ids: Range) -> Specs<Mount> {
    let flags = [("ro", own.read_only), ("noexec", own.no_exec)];
    let flags = flags.into_iter().filter(|(_, on)| *on).map(|(word, _)| word);
    let mut options: Vec<String> =
        ["bind", "nosuid", "nodev"].into_iter().chain(flags).map(String::from).collect();
    let map = match own.ids {
        MountIds::Host => None,
        MountIds::Container => {
            options.push("idmap".into());
            Some((0, ids.start, ids.count))
        }
        MountIds::One { host, inside } => Some((host, ids.start + inside, 1)),
    };
    let mut mount = MountBuilder::default()
        .destination(&own.target)
        .typ("bind")
        .source(&own.source)
        .options(options);
    if let Some((on_disk, seen, count)) = map {
        let map = LinuxIdMappingBuilder::default()
            .container_id(on_disk)
            .host_id(seen)
            .size(count)
            .build()?;
        mount = mount.uid_mappings(vec![map]).gid_mappings(vec![map]);
    }
    mount.build()
}

/// The mount of `home`: its owner's ids, one of each, and nobody else's.
fn home_mount(home: &Home, ids_start: u32) -> Specs<Mount> {
    let one = |(host, inside): (u32, u32)| {
        LinuxIdMappingBuilder::default()
            .container_id(host)
            .host_id(ids_start + inside)
            .size(1u32)
            .build()
    };
    let options = ["bind", "nosuid", "nodev"].map(String::from);
    MountBuilder::default()
        .destination(&home.path)
        .typ("bind")
        .source(&home.path)
        .options(options)
        .uid_mappings(vec![one(home.uid)?])
        .gid_mappings(vec![one(home.gid)?])
        .build()
}

/// The base's, with the container's ids. All of them are named: not every runtime knows that
/// "idmap" alone means so.
fn usr(record: &Record, place: &Place<'_>) -> Specs<Mount> {
    let map = LinuxIdMappingBuilder::default()
        .host_id(record.ids.start)
        .container_id(0u32)
        .size(record.ids.count)
        .build()?;
    MountBuilder::default()
        .destination("/usr")
        .typ("bind")
        .source(place.usr)
        .options(["bind", "ro", "nodev", "idmap"].map(String::from))
        .uid_mappings(vec![map])
        .gid_mappings(vec![map])
        .build()
}

fn mounts(record: &Record, settings: &Settings, place: &Place<'_>) -> Specs<Vec<Mount>> {
    let mount = |at: &str, kind: &str, source: &Path, options: &[&str]| {
        MountBuilder::default()
            .destination(at)
            .typ(kind)
            .source(source)
            .options(options.iter().map(|o| o.to_string()).collect::<Vec<_>>())
            .build()
    };
    let none = Path::new("none");
    let sys = match settings.network.mode != Mode::Host {
        true => mount("/sys", "sysfs", none, &["ro", "nosuid", "nodev", "noexec"]),
        // A new sysfs shows the network of whoever mounts it, and the host's is not ours.
        false => {
            let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
            mount("/sys", "bind", Path::new("/sys"), &options)
        }
    };
    let terminals = settings.limits.terminals.unwrap_or(limits::TERMINALS);
    let terminals = format!("max={terminals}");
    let mut list = vec![
        mount("/proc", "proc", none, &["nosuid", "nodev", "noexec"])?,
        sys?,
        usr(record, place)?,
        mount("/dev", "tmpfs", none, &["nosuid", "noexec", "mode=755", "size=256k"])?,
        mount(
            "/dev/pts",
            "devpts",
            none,
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", &terminals],
        )?,
        mount("/dev/shm", "tmpfs", none, &["nosuid", "nodev", "mode=1777", "size=25%"])?,
        mount("/dev/mqueue", "mqueue", none, &["nosuid", "nodev", "noexec"])?,
        mount("/run", "tmpfs", none, &["nosuid", "nodev", "mode=755", "size=10%"])?,
        mount("/run/host", "tmpfs", none, &["nosuid", "nodev", "mode=755", "size=64k"])?,
        mount("/sys/fs/cgroup", "cgroup2", none, &["nosuid", "nodev", "noexec"])?,
    ];
    // By place, so that what is in another comes after it.
    let mut own: Vec<&MountPoint> = settings.mounts.iter().collect();
    own.sort_by(|a, b| a.target.cmp(&b.target));
    for own in own {
        list.push(own_mount(own, record.ids)?);
    }
    if let Some(home) = place.home {
        list.push(home_mount(home, record.ids.start)?);
    }
    if settings.allow.nesting {
        // A user namespace made inside may mount a proc of its own only if it sees one that
        // nothing is mounted over.
        list.push(mount("/run/host/proc", "proc", none, &["nosuid", "nodev", "noexec"])?);
        if settings.network.mode != Mode::Host {
            let options = ["ro", "nosuid", "nodev", "noexec"];
            list.push(mount("/run/host/sys", "sysfs", none, &options)?);
        }
    }
    Ok(list)
}
