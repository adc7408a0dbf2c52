//! Which system calls a container may make, in the terms of the OCI runtime spec.
//!
//! A list of what is allowed: a call that this page does not know fails with ENOSYS, as on a
//! kernel that does not have it, so that programs fall back to an older one. A call that is
//! known and refused fails with EPERM, a socket of a refused family with EAFNOSUPPORT.
//!
//! Rules for one call are tried in the order of the spec's list; the first that matches counts.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::Allow;

type Specs<T> = std::result::Result<T, oci_spec::OciSpecError>;

/// The machine's own instruction set, and the older ones that it runs as well: what one refuses,
/// the others must not give.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchAarch64, Arch::ScmpArchArm];
#[cfg(target_arch = "riscv64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchRiscv64];

/// What any program may do, as far as its ids and capabilities go.
const ALLOWED: &str = "_llseek _newselect accept accept4 access alarm arch_prctl arm_fadvise64_64 \
    arm_sync_file_range bind brk cacheflush cachestat capget capset chdir chmod chown \
    chown32 chroot clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 clone clone3 close close_range connect \
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait \
    epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat \
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown \
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr file_setattr \
    flistxattr flock fork fremovexattr fsconfig fsetxattr fsmount fsopen fspick fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue \
    futex_time64 futex_wait futex_waitv futex_wake futimesat get_mempolicy \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 \
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername \
    getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid \
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday \
    getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set ipc kcmp kill \
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr \
    lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 \
    madvise map_shadow_stack mbind membarrier memfd_create migrate_pages mincore mkdir \
    mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mount mount_setattr \
    move_mount move_pages mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal \
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at \
    nanosleep newfstatat nice oldfstat oldlstat oldolduname oldstat olduname open \
    open_tree open_tree_attr openat openat2 pause pidfd_getfd pidfd_open \
    pidfd_send_signal pipe pipe2 pivot_root pkey_alloc pkey_free pkey_mprotect poll \
    ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_madvise \
    process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace \
    pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv reboot \
    recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
    removexattrat rename renameat renameat2 restart_syscall riscv_flush_icache \
    riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
    seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile \
    sendfile64 sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node \
    set_robust_list set_thread_area set_tid_address set_tls setdomainname setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 sethostname \
    setitimer setns setpgid setpriority setregid setregid32 setresgid setresgid32 \
    setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid \
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaction \
    sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend \
    socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
    sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask umount uname \
    unlink unlinkat unshare uretprobe utime utimensat utimensat_time64 utimes vfork \
    vhangup vmsplice wait4 waitid waitpid write writev";

/// What is known and refused, by reason.
const REFUSED: [(&str, &str); 8] = [
    (
        "another kernel, other code in this one",
        "kexec_load kexec_file_load init_module finit_module delete_module create_module \
     query_module get_kernel_syms bpf",
    ),
    ("files by handle, past every mount", "open_by_handle_at lookup_dcookie"),
    (
        "what the whole host does, watched",
        "perf_event_open fanotify_init fanotify_mark syslog acct",
    ),
    ("keyrings: they know no namespace but the user's, and have had many holes", KEYRINGS),
    (
        "the host's disks, memory and clock",
        "quotactl quotactl_fd swapon swapoff adjtimex clock_adjtime clock_adjtime64 \
     clock_settime clock_settime64 settimeofday stime",
    ),
    (
        "hardware",
        "iopl ioperm pciconfig_iobase pciconfig_read pciconfig_write vm86 vm86old modify_ldt",
    ),
    (
        "ways of the kernel that exploits are made of",
        "userfaultfd io_uring_setup io_uring_enter io_uring_register",
    ),
    (
        "obsolete",
        "_sysctl nfsservctl sysfs uselib ustat bdflush afs_syscall break ftime getpmsg \
     putpmsg gtty stty idle lock mpx prof profil security tuxcall ulimit vserver sgetmask \
     ssetmask",
    ),
];

/// Runtimes such as crun go on without one only where the kernel seems to have none.
const KEYRINGS: &str = "add_key request_key keyctl";

/// What is refused by default and allowed by a profile's word.
const URING: &str = "io_uring_setup io_uring_enter io_uring_register";
const USERFAULTFD: &str = "userfaultfd";

/// Kernel numbers that the C library's crate does not have for all targets.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;
/// SNAP_CREATE, SUBVOL_CREATE and the second version of each, of linux/btrfs.h.
const BTRFS_SUBVOLUMES: [u64; 4] = [0x5000_9401, 0x5000_940e, 0x5000_9417, 0x5000_9418];
const AF_NETLINK: u64 = 16;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
const NETLINK_AUDIT: u64 = 9;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const MNT_FORCE: u64 = 1;
/// The call of socketcall(2) that is socket(2).
const SYS_SOCKET: u64 = 1;
/// Plain Linux, with 32 bits, with a version of 2.6, both, and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The filter of a container.
pub(super) fn filter(allow: Allow) -> Specs<LinuxSeccomp> {
    let mut free: Vec<&str> = ALLOWED.split(' ').collect();
    let extras = [(allow.io_uring, URING), (allow.userfaultfd, USERFAULTFD)];
    free.extend(extras.iter().filter(|(on, _)| *on).flat_map(|(_, names)| names.split(' ')));
    if !allow.user_namespaces {
        // Its flags are in memory, where no filter looks; programs fall back to clone(2).
        free.retain(|name| *name != "clone3");
    }
    let refused: Vec<&str> = REFUSED
        .iter()
        .flat_map(|(_, names)| names.split(' '))
        .filter(|name| !free.contains(name))
        .collect();
    let mut rules = Vec::new();
    if allow.nesting {
        let absent: Vec<&str> = KEYRINGS.split(' ').collect();
        rules.push(rule(&absent, vec![], Some(ENOSYS))?);
    }
    rules.push(refuse(&refused, vec![])?);
    rules.extend(by_argument(allow)?);
    rules.push(permit(&free, vec![])?);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(ENOSYS)
        .architectures(ARCHITECTURES.to_vec())
        .syscalls(rules)
        .build()
}

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Calls that are refused for some of their arguments.
fn by_argument(allow: Allow) -> Specs<Vec<LinuxSyscall>> {
    let mut rules = vec![
        // Keys put into a terminal that is read outside, and the text of the host's console.
        refuse(&["ioctl"], vec![is(1, TIOCSTI)?])?,
        refuse(&["ioctl"], vec![is(1, TIOCLINUX)?])?,
        // The network of the hypervisor, the kernel's ciphers, the audit log. sudo, sshd and
        // cron go on without a log only if the kernel seems to have none.
        without(&["socket"], vec![is(0, AF_VSOCK)?])?,
        without(&["socket"], vec![is(0, AF_ALG)?])?,
        without(&["socket"], vec![is(0, AF_NETLINK)?, is(2, NETLINK_AUDIT)?])?,
        // It throws away what a server on the net has not been told yet.
        refuse(&["umount2"], vec![has(1, MNT_FORCE)?])?,
    ];
    // What is in a subvolume of one's own counts for no limit of the one that it is in.
    for call in BTRFS_SUBVOLUMES {
        rules.push(refuse(&["ioctl"], vec![is(1, call)?])?);
    }
    // The old way to a socket on 32-bit x86 hides the family in memory, where no filter looks.
    if !allow.socketcall {
        rules.push(without(&["socketcall"], vec![is(0, SYS_SOCKET)?])?);
    }
    if !allow.user_namespaces {
        rules.push(refuse(&["clone", "unshare"], vec![has(0, CLONE_NEWUSER)?])?);
    }
    for plain in PERSONALITIES {
        rules.push(permit(&["personality"], vec![is(0, plain)?])?);
    }
    rules.push(refuse(&["personality"], vec![])?);
    rules.push(permit(&["ioctl", "socket", "socketcall", "umount2"], vec![])?);
    Ok(rules)
}

fn refuse(names: &[&str], args: Vec<LinuxSeccompArg>) -> Specs<LinuxSyscall> {
    rule(names, args, Some(EPERM))
}

fn without(names: &[&str], args: Vec<LinuxSeccompArg>) -> Specs<LinuxSyscall> {
    rule(names, args, Some(EAFNOSUPPORT))
}

fn permit(names: &[&str], args: Vec<LinuxSeccompArg>) -> Specs<LinuxSyscall> {
    rule(names, args, None)
}

fn rule(names: &[&str], args: Vec<LinuxSeccompArg>, errno: Option<u32>) -> Specs<LinuxSyscall> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut rule = LinuxSyscallBuilder::default().names(names);
    rule = match errno {
        Some(errno) => rule.action(LinuxSeccompAction::ScmpActErrno).errno_ret(errno),
        None => rule.action(LinuxSeccompAction::ScmpActAllow),
    };
    if !args.is_empty() {
        rule = rule.args(args);
    }
    rule.build()
}

/// An argument that the kernel takes as 32 bits; what is in the rest of the register does not
/// count, and must not be a way around.
fn is(index: usize, value: u64) -> Specs<LinuxSeccompArg> {
    masked(index, 0xffff_ffff, value)
}

/// An argument with the bits of `flag` set.
fn has(index: usize, flag: u64) -> Specs<LinuxSeccompArg> {
    masked(index, flag, flag)
}

fn masked(index: usize, mask: u64, value: u64) -> Specs<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        let refused: Vec<&str> = REFUSED.iter().flat_map(|(_, n)| n.split(' ')).collect();
        for name in ALLOWED.split(' ') {
            assert!(!name.is_empty() && !refused.contains(&name), "{name:?}");
        }
        for name in URING.split(' ').chain(USERFAULTFD.split(' ')) {
            assert!(refused.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_profile_can_allow_what_is_refused() {
        let names = |allow| -> Vec<String> {
            let filter = filter(allow).unwrap();
            filter.syscalls().as_ref().unwrap()[0].names().clone()
        };
        let uring = "io_uring_setup".to_string();
        assert!(names(Allow::default()).contains(&uring));
        assert!(!names(Allow { io_uring: true, ..Allow::default() }).contains(&uring));
    }
}
