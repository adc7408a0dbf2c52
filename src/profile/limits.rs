//! What a container may use up of what all containers of the host share, unless something else is
//! said. Bounds against accident and malice, not quotas: a well-behaved container meets none.

use oci_spec::runtime::PosixRlimitType as Type;

/// Resource limits of init and of whatever enters (getrlimit(2)): name, soft, hard. All that
/// the kernel has but `NPROC`, which counts by user on the host and has the process limit in its
/// place, so that nothing depends on who typed the command that started a container.
pub(super) const RESOURCES: [(Type, u64, u64); 15] = [
    (Type::RlimitAs, INFINITE, INFINITE),
    (Type::RlimitCore, 0, INFINITE),
    (Type::RlimitCpu, INFINITE, INFINITE),
    (Type::RlimitData, INFINITE, INFINITE),
    (Type::RlimitFsize, INFINITE, INFINITE),
    (Type::RlimitLocks, INFINITE, INFINITE),
    // The three with a sum of their own are limits of the whole container as well: the kernel
    // takes those of the process that makes the user namespace for it (since 5.14).
    // Of the first two the keys of a profile have the default.
    (Type::RlimitMemlock, INFINITE, INFINITE),
    (Type::RlimitMsgqueue, INFINITE, INFINITE),
    (Type::RlimitSigpending, 32_768, 32_768),
    (Type::RlimitNice, 0, 0),
    // As systemd has it: programs that use select(2) break above 1024, others raise it.
    (Type::RlimitNofile, 1024, 524_288),
    (Type::RlimitRss, INFINITE, INFINITE),
    (Type::RlimitRtprio, 0, 0),
    (Type::RlimitRttime, INFINITE, INFINITE),
    (Type::RlimitStack, 8 << 20, INFINITE),
];
/// No limit.
pub(super) const INFINITE: u64 = u64::MAX;

/// What each user inside may have of the kernel's own things (/proc/sys/user).
pub(super) const USER: [(&str, u32); 10] = [
    ("max_cgroup_namespaces", 1024),
    ("max_inotify_instances", 1024),
    ("max_inotify_watches", 524_288),
    ("max_ipc_namespaces", 1024),
    ("max_mnt_namespaces", 4096),
    ("max_net_namespaces", 512),
    ("max_pid_namespaces", 1024),
    ("max_time_namespaces", 64),
    ("max_user_namespaces", 4096),
    ("max_uts_namespaces", 1024),
];

/// The names of what each user inside may have so much of.
pub fn of_users() -> Vec<&'static str> {
    USER.map(|(name, _)| name).to_vec()
}

/// How many pseudoterminals, of a number that is one for the whole host.
pub(super) const TERMINALS: u64 = 512;

/// Above how much of the host's memory a container is slowed down and has to give some back, and
/// above how much it loses processes, in parts of a hundred. Swap comes on top.
pub(super) const MEMORY_HIGH: u64 = 70;
/// See [`MEMORY_HIGH`].
pub(super) const MEMORY_MAX: u64 = 85;
