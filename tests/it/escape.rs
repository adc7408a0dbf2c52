//! Named attacks, each by root inside. An attack ends with 0 if it worked.

use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::common::{Container, coloc, sh, store};

/// Helpers for the scripts. `SECRET` is a path that exists on the host alone, `HOSTPID` a process
/// of the host, `ABSTRACT` the name of a socket of the host's.
const PRELUDE: &str = r#"
exec 2>&1
# Says whether system call $1 with the rest as arguments does anything but fail.
call() { perl -e '@a = map { /^-?\d/ ? 0 + (/^0x/ ? hex : $_) : $_ } @ARGV; push @a, 0 while @a < 7;
    exit(syscall($a[0], @a[1 .. 6]) == -1)' -- "$@"; }
# Writes what is in a file into it.
rewrite() { v=$(cat "$1") && { printf '%s\n' "$v" > "$1"; }; }
sysctl_file() { mount -o remount,bind,rw /proc/sys; rewrite "/proc/sys/$1"; }
fresh_sysctl() { mount -t proc proc /mnt && rewrite "/mnt/sys/$1"; }
# Adds flags to those of a file, FS_IOC_GETFLAGS and FS_IOC_SETFLAGS: not every base has a chattr.
flags() { touch "$1" && perl -e 'open F, "<", $ARGV[0]; $f = pack "L!", 0; ioctl(F, 0x80086601, $f) or die;
    $f = pack "L!", $ARGV[1] | unpack "L!", $f; exit !ioctl(F, 0x40086602, $f)' -- "$@"; }
node() { rm -f /root/node; mknod /root/node "$1" "$2" "$3" && head -c1 /root/node >/dev/null; }
"#;

const MOUNTS: &[(&str, &str)] = &[
    ("remount-usr", "mount -o remount,bind,rw /usr && touch /usr/x"),
    ("remount-usr-superblock", "mount -o remount,rw /usr && touch /usr/x"),
    ("bind-usr", "mount --bind /usr /mnt && mount -o remount,bind,rw /mnt && touch /mnt/x"),
    ("rbind-root", "mount --rbind / /mnt && mount -o remount,bind,rw /mnt/usr && touch /mnt/usr/x"),
    (
        "move-usr",
        "mkdir -p /m; l=/m/lib/x86_64-linux-gnu; mount --make-rprivate /; mount --move /usr /m && \
         $l/ld-linux-x86-64.so.2 --library-path $l /m/bin/mount -o remount,bind,rw /m && \
         echo x > /m/x",
    ),
    (
        "overlay-over-usr",
        "mkdir -p /tmp/u /tmp/w; mount -t overlay o -o lowerdir=/usr,upperdir=/tmp/u,workdir=/tmp/w \
         /mnt && touch /mnt/x && test -e /usr/x",
    ),
    (
        "overlay-with-usr-above",
        "mkdir -p /tmp/l; mount -t overlay o -o lowerdir=/tmp/l,upperdir=/usr/lib,workdir=/usr/share \
         /mnt && touch /mnt/x",
    ),
    ("nested-remount", "unshare -Urm sh -c 'mount -o remount,bind,rw /usr && touch /usr/x'"),
    (
        "nested-twice-remount",
        "unshare -Urm unshare -Urm sh -c 'mount --bind /usr /mnt && mount -o remount,bind,rw /mnt \
         && touch /mnt/x'",
    ),
    (
        "detached-copy",
        "perl -e '$p = \"/usr\"; $e = \"\"; $f = syscall(428, -100, $p, 1); $f >= 0 or exit 1; \
         $a = pack(\"Q4\", 0, 1, 0, 0); exit(syscall(442, $f, $e, 0x1000, $a, 32) != 0)'",
    ),
    (
        "detached-tree",
        "perl -e '$p = \"/\"; $u = \"usr\"; $f = syscall(428, -100, $p, 0x8001); $f >= 0 or exit 1; \
         $a = pack(\"Q4\", 0, 1, 0, 0); exit(syscall(442, $f, $u, 0, $a, 32) != 0)'",
    ),
    ("allow-devices-on-root", "mount -o remount,bind,dev / && mknod /n c 1 1 && head -c1 /n"),
    ("debugfs", "mount -t debugfs none /mnt"),
    ("tracefs", "mount -t tracefs none /mnt"),
    ("configfs", "mount -t configfs none /mnt"),
    ("securityfs", "mount -t securityfs none /mnt"),
    ("pstore", "mount -t pstore none /mnt"),
    ("efivarfs", "mount -t efivarfs none /mnt"),
    ("devtmpfs", "mount -t devtmpfs none /mnt"),
    ("disk-image", "truncate -s 1M /root/i; mount -o loop /root/i /mnt"),
    ("force-unmount", "mount -t tmpfs none /mnt && umount -f /mnt"),
    ("sysfs-anew", "mount -t sysfs none /mnt && rewrite /mnt/kernel/profiling"),
    ("remount-sys", "mount -o remount,bind,rw /sys && rewrite /sys/kernel/profiling"),
    (
        "chroot-and-climb",
        "perl -e 'mkdir \"/c\"; opendir D, \"/\"; chroot \"/c\"; chdir D; \
         chdir \"..\" for 1 .. 99; chroot \".\"; exit !-e \"$ENV{SECRET}\"'",
    ),
    (
        "pivot-and-look",
        "mkdir -p /p; mount -t tmpfs none /p && mkdir /p/o && cd /p && \
         pivot_root . o; for d in /o /o/.. /o/../..; do [ -e $d$SECRET ] && exit 0; done; exit 1",
    ),
];

const PROC_AND_SYS: &[(&str, &str)] = &[
    ("core-pattern", "sysctl_file kernel/core_pattern"),
    ("core-pattern-by-fresh-proc", "fresh_sysctl kernel/core_pattern"),
    ("modprobe-path", "sysctl_file kernel/modprobe"),
    ("poweroff-command", "sysctl_file kernel/poweroff_cmd"),
    ("panic", "fresh_sysctl kernel/panic"),
    ("sysrq-setting", "sysctl_file kernel/sysrq"),
    ("pid-max", "sysctl_file kernel/threads-max"),
    ("drop-caches", "mount -t proc p /mnt; echo 1 > /mnt/sys/vm/drop_caches"),
    ("overcommit", "sysctl_file vm/overcommit_memory"),
    ("protected-links", "sysctl_file fs/protected_symlinks"),
    ("suid-dumpable", "fresh_sysctl fs/suid_dumpable"),
    ("sysrq-trigger", "echo h > /proc/sysrq-trigger"),
    ("sysrq-by-fresh-proc", "mount -t proc p /mnt; echo h > /mnt/sysrq-trigger"),
    ("kcore", "mount -t proc p /mnt; head -c1 /mnt/kcore | grep -q ."),
    ("kallsyms", "umount /proc/kallsyms; grep -qv '^0000000000000000' /proc/kallsyms"),
    ("timer-list", "umount /proc/timer_list; grep -q . /proc/timer_list"),
    ("kernel-log-proc", "mount -t proc p /mnt; head -c1 /mnt/kmsg"),
    ("other-pids", "test -e /proc/$HOSTPID/status"),
    ("irq-affinity", "umount /proc/irq; rewrite /proc/irq/default_smp_affinity"),
    ("uevent-helper", "mount -o remount,rw /sys; echo /x > /sys/kernel/uevent_helper"),
    ("power-state", "mount -o remount,rw /sys; echo mem > /sys/power/state"),
    ("huge-pages", "rewrite /sys/kernel/mm/transparent_hugepage/enabled"),
    ("own-less-oom", "echo -1000 > /proc/self/oom_score_adj"),
    (
        "host-root-by-proc",
        "for p in /proc/[0-9]*; do [ -e $p/root$SECRET ] && exit 0; done; exit 1",
    ),
    (
        "host-by-working-directory",
        "for p in /proc/[0-9]*; do [ -e $p/cwd/../../../../../..$SECRET ] && exit 0; done; exit 1",
    ),
    (
        "host-by-descriptor",
        "for f in /proc/[0-9]*/fd/*; do [ -e $f/../../../../../..$SECRET ] && exit 0; done; exit 1",
    ),
    (
        "binary-formats",
        "mount -o remount,bind,rw /proc/sys; \
         echo ':coloc-it:M::COLOC::/bin/true:' > /proc/sys/fs/binfmt_misc/register",
    ),
    // Newer kernels have one for each user namespace: the host's must not have it, see `host_marks`.
    (
        "binary-formats-anew",
        "mount -t binfmt_misc none /mnt && \
         echo ':coloc-it:M::COLOC::/bin/true:' > /mnt/register; exit 1",
    ),
    ("init-binary", "echo x >> /proc/1/exe"),
    ("own-binary-of-coloc", "chmod u+w /proc/1/exe"),
];

const DEVICES: &[(&str, &str)] = &[
    ("disk", "node b 8 0"),
    ("virtual-disk", "node b 254 0"),
    ("memory", "node c 1 1"),
    ("ports", "node c 1 4"),
    ("kernel-log-device", "node c 1 11"),
    ("host-console", "node c 4 1"),
    ("loop-device", "node b 7 0"),
    ("fuse-device", "node c 10 229"),
    ("tun-device", "node c 10 200"),
    ("kvm-device", "node c 10 232"),
    ("nested-device", "unshare -Ur mknod /root/n b 8 0"),
];

const POWERS: &[(&str, &str)] = &[
    ("set-the-clock", "date -s @$(date +%s)"),
    ("kernel-log", "dmesg"),
    ("load-a-module", "call 313 0 0 0"),
    ("kexec", "call 246 0 0 0 0"),
    (
        "open-by-handle",
        "perl -e '$h = pack(\"IiQ\", 8, 1, 2); open D, \"/\"; \
         exit(syscall(304, fileno D, $h, 0) < 0)'",
    ),
    (
        "bpf",
        "perl -e '$a = pack(\"I4\", 2, 4, 4, 1) . \"\\0\" x 100; \
         exit(syscall(321, 0, $a, 72) < 0)'",
    ),
    (
        "perf",
        "perl -e '$a = pack(\"I2\", 1, 112) . \"\\0\" x 104; \
         exit(syscall(298, $a, 0, -1, -1, 0) < 0)'",
    ),
    ("userfaultfd", "call 323 1"),
    ("io-uring", "perl -e '$p = \"\\0\" x 120; exit(syscall(425, 4, $p) < 0)'"),
    ("fanotify", "call 300 0 0"),
    ("session-keyring", "call 250 0 -3 1"),
    (
        "add-a-key",
        "perl -e '($t, $k, $v) = (\"user\", \"k\", \"v\"); exit(syscall(248, $t, $k, $v, 1, -4) < 0)'",
    ),
    (
        "swap",
        "dd if=/dev/zero of=/root/s bs=1M count=1 && chmod 600 /root/s; mkswap /root/s; swapon /root/s",
    ),
    ("accounting", "touch /root/a; perl -e '$p = \"/root/a\"; exit(syscall(163, $p) < 0)'"),
    ("io-ports", "call 172 3"),
    ("vsock", "call 41 40 1 0"),
    ("kernel-ciphers", "call 41 38 5 0"),
    ("audit-socket", "call 41 16 3 9"),
    ("push-keys", "perl -e 'open T, \"/dev/ptmx\"; $c = \"x\"; exit !ioctl(T, 0x5412, $c)'"),
    ("other-personality", "call 135 0x0400000"),
    ("signal-a-host-process", "kill -0 $HOSTPID"),
    ("trace-a-host-process", "call 101 16 $HOSTPID"),
    ("enter-a-host-process", "nsenter -t $HOSTPID -m true"),
    ("pidfd-of-a-host-process", "call 434 $HOSTPID 0"),
    (
        "parent-user-namespace",
        "perl -e 'open N, \"/proc/self/ns/user\"; exit !ioctl(N, 0xb702, 0)'",
    ),
    ("parent-pid-namespace", "perl -e 'open N, \"/proc/self/ns/pid\"; exit !ioctl(N, 0xb702, 0)'"),
    ("mount-namespace-of-init", "nsenter --mount=/proc/1/ns/mnt test -e $SECRET"),
    ("cgroup-above", "echo $$ > /sys/fs/cgroup/../cgroup.procs"),
    (
        "cgroup-mounted-anew",
        "mount -t cgroup2 none /mnt && ls /mnt | grep -E 'payload|supervisor|slice|^coloc'",
    ),
    (
        "release-agent",
        "for c in memory cpu pids devices; do mount -t cgroup -o $c none /mnt && \
         echo /x > /mnt/release_agent && exit 0; done; exit 1",
    ),
    ("own-limits", "echo max > /sys/fs/cgroup/pids.max || echo max > /sys/fs/cgroup/memory.max"),
    // Written as they are: to be let is enough.
    (
        "own-cgroup-settings",
        "cd /sys/fs/cgroup; for f in cgroup.freeze cgroup.max.depth cgroup.max.descendants cpu.max \
         cpu.weight cpuset.cpus io.max io.weight memory.high memory.max memory.swap.max memory.low \
         memory.min; do [ -e $f ] && rewrite $f && exit 0; done; exit 1",
    ),
    (
        "old-cgroup-settings",
        "for c in memory cpu pids blkio cpuset; do mount -t cgroup -o $c none /mnt || continue; \
         for f in memory.limit_in_bytes cpu.shares cpu.cfs_quota_us pids.max cpuset.cpus; do \
         [ -e /mnt/$f ] && rewrite /mnt/$f && exit 0; done; umount /mnt; done; exit 1",
    ),
    (
        "old-device-list",
        "mount -t cgroup -o devices none /mnt && echo 'a *:* rwm' > /mnt/devices.allow",
    ),
    ("limits-of-a-host-process", "call 302 $HOSTPID 7 0 0"),
    ("priority-of-a-host-process", "renice -n 5 -p $HOSTPID"),
    ("processor-of-a-host-process", "taskset -p $HOSTPID"),
    ("shared-memory-of-the-host", "perl -e 'exit !defined shmget(0xc010c, 0, 0)'"),
    (
        "abstract-socket",
        "perl -e 'use Socket; socket S, AF_UNIX, SOCK_STREAM, 0; \
         exit !connect S, pack_sockaddr_un(\"\\0$ENV{ABSTRACT}\")'",
    ),
    ("host-network", "tail -n +3 /proc/net/dev | grep -vE '^ *(lo|host0):'"),
    ("broker-socket", "test -e /run/coloc/coloc.sock"),
    ("real-time", "chrt -f 99 true"),
    ("more-than-its-share", "renice -n -20 $$"),
    ("first-at-the-disk", "ionice -c 1 -n 0 true"),
    ("more-files", "ulimit -Hn 99999999"),
    ("immutable-file", "flags /root/i2 16"),
    ("raw-text-of-the-host", "test -e $SECRET"),
];

#[test]
fn no_attack_of_the_list_works() {
    let c = Container::started(store(), "escape", &["--init", "builtin"]);
    let secret = format!("/tmp/coloc-it-secret-{}", std::process::id());
    std::fs::write(&secret, "x").unwrap();
    let word = format!("coloc-it-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&word).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    shared_memory(true);
    let before = host_marks();
    let vars = format!("SECRET={secret} ABSTRACT={word} HOSTPID={}", std::process::id());
    let attacks: Vec<_> = [MOUNTS, PROC_AND_SYS, DEVICES, POWERS].concat();
    let names: BTreeSet<&str> = attacks.iter().map(|(name, _)| *name).collect();
    assert!(names.len() == attacks.len() && names.len() >= 60, "{}", names.len());
    // Each way of trying works on something that may be done.
    for control in [
        "call 39",
        "call 41 1 1 0",
        "call 434 $$ 0",
        "call 302 $$ 7 0 0",
        "taskset -p $$",
        "perl -e 'exit !defined shmget(0, 4096, 01600)'",
        "echo a > /root/f; rewrite /root/f",
        "flags /root/f 0",
        "kill -0 $$",
        "test -e /proc/$$/status",
        "mount -t tmpfs none /mnt && touch /mnt/x",
        "perl -e '$p = \"/root\"; exit(syscall(428, -100, $p, 1) < 0)'",
    ] {
        let script = format!("export {vars}\n{PRELUDE}\n{control}");
        c.root(&["unshare", "-m", "bash", "-c", &script]).ok();
    }
    let mut worked = Vec::new();
    for (name, attack) in attacks {
        let script = format!("export {vars}\n{PRELUDE}\n{attack}");
        // What one of them mounts must not be in the way of the next.
        let out = c.root(&["unshare", "-m", "bash", "-c", &script]);
        // 125 is coloc's own failure, 127 a program that is not there: neither is a defence.
        let said = out.text();
        let missing = out.code == 127
            || ["command not found", "syntax error", "at -e line"].iter().any(|w| said.contains(w));
        if [0, 125].contains(&out.code) || missing {
            worked.push(format!("{name} ({}): {} {}", out.code, out.text(), out.stderr));
        }
    }
    shared_memory(false);
    std::fs::remove_file(&secret).unwrap();
    assert!(worked.is_empty(), "{worked:#?}");
    assert_eq!(host_marks(), before);
    c.store.ok(&["base", "verify", "debian"]);
}

/// The same attacks by root of an unprivileged container of lxc's, as its package configures one,
/// over a copy of the same base whose `/usr` is bound read-only with mapped ids, as near to coloc's
/// as it goes. Prints the table of docs/security.md.
#[test]
#[ignore = "scripts/escape-compare runs it; needs lxc"]
fn the_same_attacks_in_lxc() {
    const IDS: u32 = 0x6fff_0000;
    let c = Container::started(store(), "compared", &["--init", "builtin"]);
    let place = format!("/var/tmp/coloc-it-lxc-{}", std::process::id());
    let tree = store().root.join("var/lib/coloc/bases/debian/generations/1/tree");
    let tree = tree.display();
    let include = "/usr/share/lxc/config";
    let module = match std::fs::read("/sys/module/apparmor/parameters/enabled") {
        Ok(text) if text.starts_with(b"Y") => "lxc.apparmor.profile = generated\n",
        _ => "",
    };
    let config = format!(
        "lxc.include = {include}/common.conf\nlxc.include = {include}/userns.conf\n\
         lxc.rootfs.path = dir:{place}/a/rootfs\nlxc.rootfs.options = idmap=container\n\
         lxc.idmap = u 0 {IDS} 65536\nlxc.idmap = g 0 {IDS} 65536\n\
         lxc.mount.entry = {place}/usr usr none bind,ro,idmap=container 0 0\n\
         lxc.net.0.type = empty\n{module}"
    );
    sh(&format!(
        "mkdir -p {place}/a/rootfs {place}/empty && chmod 755 {place} {place}/a && \
         tar -C {tree} --exclude=./usr/* -cf - . | tar -C {place}/a/rootfs -xpf - && \
         cp -a --reflink=auto {tree}/usr {place}/usr"
    ))
    .ok();
    std::fs::write(format!("{place}/a/config"), config).unwrap();
    // With no newuidmap in its PATH lxc writes the maps itself, as it runs as root.
    let lxc = format!("PATH={place}/empty $(command -v lxc-start) -P {place} -n a");
    sh(&format!("{lxc} -d -l ERROR -o {place}/log -- /usr/bin/sleep 100000; cat {place}/log")).ok();
    let secret = format!("/tmp/coloc-it-secret-c{}", std::process::id());
    std::fs::write(&secret, "x").unwrap();
    let word = format!("coloc-it-c{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&word).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let vars = format!("SECRET={secret} ABSTRACT={word} HOSTPID={}", std::process::id());
    shared_memory(true);
    println!("| attack | LXC | coloc |\n|---|---|---|");
    let mut worked = [0; 2];
    let attacks = [MOUNTS, PROC_AND_SYS, DEVICES, POWERS].concat();
    for (name, attack) in &attacks {
        let script = format!("export {vars}\n{PRELUDE}\n{attack}");
        let command = ["unshare", "-m", "bash", "-c", &script];
        let mut lxc = std::process::Command::new("timeout");
        lxc.args(["60", "lxc-attach", "-P", &place, "-n", "a", "--clear-env", "--"]).args(command);
        let outs = [crate::common::run(lxc), c.root(&command)];
        let cells = outs.map(|out| match out.code {
            0 => "**works**",
            127 => "not tried",
            _ => "refused",
        });
        for (n, cell) in cells.iter().enumerate() {
            worked[n] += usize::from(*cell == "**works**");
        }
        println!("| {name} | {} | {} |", cells[0], cells[1]);
    }
    println!("| of {} | {} work | {} work |", attacks.len(), worked[0], worked[1]);
    shared_memory(false);
    sh(&format!("lxc-stop -k -P {place} -n a; rm -rf {place} {secret}")).ok();
    assert_eq!(worked[1], 0);
}

/// Makes shared memory of the host's with the key that an attack looks for, or removes it.
fn shared_memory(there: bool) {
    let script = match there {
        true => "perl -e 'exit !defined shmget(0xc010c, 4096, 01600)'",
        false => "ipcrm -M 0xc010c",
    };
    sh(script).ok();
}

/// What an attack could have changed.
fn host_marks() -> String {
    sh("cd /proc/sys; cat kernel/core_pattern kernel/modprobe kernel/hostname kernel/panic \
        kernel/sysrq fs/suid_dumpable fs/protected_symlinks vm/overcommit_memory; \
        stat -c '%n %i %Y %a %u' /etc/passwd /etc/shadow /bin/sh; cat /proc/swaps; \
        ls /proc/sys/fs/binfmt_misc; exit 0")
    .ok()
}

#[test]
fn what_root_inside_makes_is_nobodys_on_the_host() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let c = Container::started(store(), "suid", &["--init", "builtin"]);
    c.root_sh("cp /bin/true /root/s; chmod 6755 /root/s; hostname evil").ok();
    let meta = std::fs::metadata(c.private("root/s")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o6755);
    let start = c.status()["ids"]["start"].as_u64().unwrap();
    assert_eq!((u64::from(meta.uid()), u64::from(meta.gid())), (start, start));
    assert_ne!(sh("hostname").ok().trim(), "evil");
}

/// What CVE-2019-5736 did: code of the container's runs in a process whose executable is the
/// host's program, by `#!/proc/self/exe` and a library of its own, and opens that for writing.
#[test]
fn the_program_itself_is_out_of_reach_of_what_it_starts() {
    let c = Container::started(store(), "own-exe", &["--init", "builtin"]);
    let source = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/statvfs.h>
__attribute__((constructor)) static void attack(void) {
    struct statvfs v;
    char link[32], said[64];
    int own = open("/proc/self/exe", O_RDONLY), tries = 1000, error = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", own);
    while (tries-- && !error)
        error = open(link, O_WRONLY | O_TRUNC) == -1 ? errno : 0;
    int failed = fstatvfs(own, &v), out = open("/root/said", O_WRONLY | O_CREAT | O_APPEND, 0600);
    int n = snprintf(said, sizeof said, "%d %d %d\n", error, failed, !!(v.f_flag & ST_RDONLY));
    if (write(out, said, n) != n) _exit(1);
}
"#;
    let place = c.private("root/evil");
    std::fs::write(place.with_extension("c"), source).unwrap();
    let place = place.display();
    sh(&format!("cc -shared -fPIC -O1 -o {place}.so {place}.c && chmod 755 {place}.so")).ok();
    c.root_sh("printf '#!/proc/self/exe\n' > /root/s; chmod 755 /root/s").ok();
    let program = sh(&format!("sha256sum {}", coloc().display())).ok();
    for _ in 0..20 {
        c.run("exec", &["--user", "root", "--env", "LD_PRELOAD=/root/evil.so", "--", "/root/s"]);
    }
    let said = c.root_sh("cat /root/said").ok();
    assert_eq!(said.lines().count(), 20, "{said}");
    for line in said.lines() {
        // Refused for who they are, and on a mount through which nobody could.
        assert!(["13 0 1", "30 0 1"].contains(&line), "{line}");
    }
    assert_eq!(sh(&format!("sha256sum {}", coloc().display())).ok(), program);
    // Nor by its init, or whatever enters, all the while.
    let attack = "for i in $(seq 300); do for p in /proc/[0-9]*; do \
         [ $p = /proc/$$ ] || { : >> $p/exe && case $(readlink $p/exe) in /usr/*) ;; \
         *) echo $p;; esac; } 2>/dev/null; done; done";
    let race = std::thread::scope(|s| {
        let inside = s.spawn(|| c.root(&["bash", "-c", attack]));
        for _ in 0..40 {
            c.root(&["true"]).ok();
        }
        inside.join().unwrap()
    });
    assert_eq!(race.text(), "");
    assert_eq!(sh(&format!("sha256sum {}", coloc().display())).ok(), program);
}

/// What enters does not believe the container's /proc, which may be any file system.
#[test]
fn a_false_proc_gives_no_powers_to_what_enters() {
    let c = Container::started(store(), "false-proc", &["--init", "builtin"]);
    // By the kernel's own word, PR_CAPBSET_READ, and PR_GET_SECCOMP.
    let powers = "perl -e 'print map { syscall(157, 23, $_, 0, 0, 0) } 0 .. 40; \
                  print \" \", syscall(157, 21, 0, 0, 0, 0)'";
    let before = c.root_sh(powers).ok();
    assert!(before.contains('0') && before.ends_with(" 2"), "{before}");
    c.root_sh(
        "mount -t tmpfs none /proc; mkdir -p /proc/sys/kernel /proc/self /proc/1; \
         for f in 0 40 63; do echo $f > /proc/sys/kernel/cap_last_cap; done; \
         echo 0 > /proc/sys/kernel/cap_last_cap",
    );
    assert_eq!(c.root_sh(powers).ok(), before);
    c.root_sh("umount /proc; mount -t tmpfs -o ro none /proc");
    assert_eq!(c.root_sh(powers).ok(), before);
}

/// Even with the host's root in its cgroup, outside all its namespaces.
#[test]
fn no_device_but_its_own_opens_in_its_cgroup() {
    let c = Container::started(store(), "devices", &["--init", "builtin"]);
    assert!(c.store.ok(&["plan", &c.name]).contains("c 136:* rw"));
    let cgroup = c.status()["cgroup"].as_str().unwrap().to_string();
    // Not in /tmp, which may be mounted without devices.
    let node = store().root.join("node").display().to_string();
    let try_all = format!(
        "(: <{node}) && echo node; head -c1 /dev/zero >/dev/null && echo zero; \
         mknod {node}-2 c 1 3 && echo made; rm -f {node}-2"
    );
    sh(&format!("rm -f {node}; mknod {node} c 1 11")).ok();
    assert_eq!(sh(&try_all).text(), "node\nzero\nmade\n");
    let enter = format!("mkdir -p {cgroup}/t && echo $$ > {cgroup}/t/cgroup.procs");
    let inside = sh(&format!("{enter}; {try_all}")).text();
    sh(&format!("rmdir {cgroup}/t; rm {node}")).ok();
    assert_eq!(inside, "zero\n");
}

#[test]
fn check_tells_what_confines_a_container_and_what_its_root_undid() {
    let c = Container::create(store(), "checked", &["--init", "builtin"]);
    c.store.fails(4, &["check", &c.name]);
    c.ok("start", &[]);
    let rows = c.store.json(&["check", &c.name, "--json"]);
    let rows = rows.as_array().unwrap();
    for what in
        ["system calls", "capabilities", "ids", "namespaces", "base", "base locked", "devices"]
    {
        let row = rows.iter().find(|r| r["what"] == what).unwrap();
        assert_eq!(row["verdict"], "good", "{row}");
    }
    // Under AppArmor its root cannot, and there is nothing to tell.
    let uncovered = c.root_sh("umount /proc/kallsyms").code == 0;
    assert_eq!(uncovered, c.status()["label"].is_null());
    let out = c.run("check", &[]);
    assert_eq!(out.code, i32::from(uncovered), "{}", out.text());
    assert_eq!(out.text().contains("/proc/kallsyms"), uncovered, "{}", out.text());
    let host: serde_json::Value =
        serde_json::from_str(&c.store.run(&["check", "--json"]).text()).unwrap();
    for what in ["kernel", "user namespaces", "cgroups", "file system", "ids", "mirror", "nft"] {
        let row = host.as_array().unwrap().iter().find(|r| r["what"] == what);
        let row = row.unwrap_or_else(|| panic!("no row {what}: {host}"));
        // Whatever is not there comes with what to do.
        assert!(row["verdict"] == "good" || row["hint"].is_string(), "{row}");
    }
}

/// Where SELinux is off the label is no more than a word; tests of it on need a guest.
#[test]
fn a_label_for_selinux_is_given_or_said_to_be_for_elsewhere() {
    let label = "system_u:system_r:unconfined_t:s0";
    let oci = format!(r#"{{"process": {{"selinuxLabel": "{label}"}}}}"#);
    let profile = store().root.join("etc/coloc/profiles/labelled.json");
    std::fs::write(profile, format!(r#"{{"init": "builtin", "oci": {oci}}}"#)).unwrap();
    let c = Container::started(store(), "labelled", &["--profile", "labelled"]);
    let has = std::path::Path::new("/sys/fs/selinux/enforce").exists();
    assert_eq!(c.store.ok(&["plan", &c.name]).contains(label), has);
    let check = c.run("check", &[]).text();
    let row = check.lines().find(|l| l.starts_with("security module")).unwrap();
    if has {
        assert!(row.contains(&format!("SELinux: {label}")), "{row}");
        assert_eq!(c.status()["security_module"], "SELinux");
    } else if c.status()["label"].is_null() {
        assert!(row.ends_with(&format!("for a host with SELinux: {label}")), "{row}");
    }
    assert_eq!(c.root_sh("echo in").ok(), "in\n");
}

#[test]
fn containers_in_a_container_need_a_profile_that_says_so() {
    let nested = "useradd -m u; su u -c 'unshare -Urpmf --mount-proc id -u'";
    let plain = Container::started(store(), "no-nest", &["--init", "builtin"]);
    assert_ne!(plain.root_sh(nested).code, 0);
    let profile = store().root.join("etc/coloc/profiles/nesting.json");
    std::fs::write(profile, r#"{"init": "builtin", "allow": {"nesting": true}}"#).unwrap();
    let c = Container::started(store(), "nest", &["--profile", "nesting"]);
    assert_eq!(c.root_sh(nested).ok(), "0\n");
    // What is masked stays so for those who do not ask for more.
    assert_eq!(c.root_sh("cat /proc/keys").ok(), "");
}

/// What is made inside is charged to the container's own root, not to the host's, of whom there is
/// one for everybody.
#[test]
fn what_the_kernel_counts_by_user_is_counted_for_each_container() {
    let c = Container::started(store(), "counted", &["--init", "builtin"]);
    let (pid, ids) = (c.status()["pid"].to_string(), c.status()["ids"]["start"].to_string());
    let owner = format!(
        "perl -e 'open N, \"/proc/{pid}/ns/user\"; $u = pack \"I\", 0; ioctl(N, 0xb704, $u) or \
         die; print unpack \"I\", $u'"
    );
    assert_eq!(sh(&owner).ok(), ids);
    let rows = c.store.json(&["check", &c.name, "--json"]);
    let row = rows.as_array().unwrap().iter().find(|r| r["what"] == "user limits").unwrap();
    assert_eq!(row["verdict"], "good", "{row}");
    // Root inside cannot raise them, with whatever /proc.
    let raise = "echo 100000 > /proc/sys/user/max_user_namespaces; mount -o remount,bind,rw \
                 /proc/sys; echo 100000 > /proc/sys/user/max_user_namespaces; \
                 mount -t proc p /mnt; echo 100000 > /mnt/sys/user/max_user_namespaces";
    c.root_sh(raise);
    assert_eq!(c.root_sh("cat /proc/sys/user/max_user_namespaces").ok(), "4096\n");
    // Where these tests run in a container themselves, not even root may raise it to that.
    let hard = sh("(ulimit -Hn 524288) 2>/dev/null && echo 524288 || ulimit -Hn").ok();
    assert_eq!(c.root_sh("ulimit -Sn; ulimit -Hn; ulimit -c").ok(), format!("1024\n{hard}0\n"));
    let many = "perl -e 'while (syscall(253) >= 0) { $n++ } print $n <= 1024 ? \"few\" : $n'";
    assert_eq!(c.root_sh(&format!("ulimit -n 9999; {many}")).ok(), "few");
    assert!(c.root_sh("grep -w devpts /proc/self/mounts").ok().contains("max=512"));
    let plan = c.store.ok(&["plan", &c.name]);
    assert!(plan.contains("limit memory.high") && plan.contains("nofile 1024:524288"), "{plan}");
}

#[test]
fn a_fork_bomb_stays_inside() {
    let profile = store().root.join("etc/coloc/profiles/few.json");
    std::fs::write(profile, r#"{"init": "builtin", "limits": {"pids": 64}}"#).unwrap();
    let c = Container::started(store(), "bomb", &["--profile", "few"]);
    assert!(c.store.ok(&["plan", &c.name]).contains("allow 64 processes"));
    assert!(c.run("check", &[]).text().contains("processes 64"));
    let bomb = "for i in $(seq 200); do sleep 60 & done; sleep 1; ls /proc | grep -c '^[0-9]'";
    let out = c.root(&["bash", "-c", bomb]);
    assert!(c.status()["processes"].as_u64().is_none_or(|n| n <= 64), "{}", c.status());
    assert!(out.stderr.contains("fork") || out.code != 0, "{out:?}");
    assert_eq!(sh("true").code, 0);
    c.ok("stop", &["--timeout", "0"]);
}
