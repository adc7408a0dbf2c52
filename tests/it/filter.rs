//! The filter of system calls, tried from inside by every way into the kernel that this
//! machine has.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::common::{Container, run_within, store};

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;

/// Makes the calls of its input, `ABI NUMBER ARG ARG ARG` a line, and says `ABI NUMBER ERRNO` of
/// each. 64-bit calls and x32 by syscall(2); 32-bit x86 by machine code of `int 0x80`, which is
/// put in a page of its own and called as if it were one of Perl's.
const PROBE: &str = r#"
use strict; use Config; require DynaLoader; use Fcntl;
my (@i386, %seen); $| = 1;
while (my $line = <DATA>) {
    my ($abi, $number, @args) = split ' ', $line;
    @args = map { 0 + $_ } @args;
    if ($abi eq 'x86') { push @i386, [$number, @args]; next }
    $! = 0;
    my $r = syscall(0 + $number, @args, 0, 0, 0);
    printf "%s %s %d\n", $abi, $number, $r == -1 ? $! : 0;
}
exit unless @i386;
my $size = 65536;
my $page = syscall(9, 0, $size, 7, 0x22, -1, 0);
my $results = $page + $size - 8192;
my $code = "\x53";
for my $n (0 .. $#i386) {
    my ($number, @a) = @{$i386[$n]};
    $code .= "\xb8" . pack('V', $number) . "\xbb" . pack('V', $a[0] & 0xffffffff)
        . "\xb9" . pack('V', $a[1] & 0xffffffff) . "\xba" . pack('V', $a[2] & 0xffffffff)
        . "\x31\xf6\x31\xff\xcd\x80\x48\xbb" . pack('Q', $results + 4 * $n) . "\x89\x03";
}
$code .= "\x5b\xc3";
die "too long" if length($code) > $size - 8192;
pipe(my $out, my $in); fcntl($in, 1031, 1 << 20);
syswrite $in, $code;
my $at = 0;
while ($at < length $code) { $at += syscall(0, fileno $out, $page + $at, length($code) - $at) }
my $sub = DynaLoader::dl_install_xsub('main::calls', $page);
&$sub();
syscall(1, fileno $in, $results, 4 * @i386);
sysread $out, my $bytes, 4 * @i386;
my @r = unpack 'l*', $bytes;
printf "x86 %s %d\n", $i386[$_][0], $r[$_] < 0 ? -$r[$_] : 0 for 0 .. $#i386;
syscall(231, 0);
__DATA__
"#;

/// The calls that the issue of this filter names, and their kin.
const REFUSED: &str = "kexec_load kexec_file_load init_module finit_module delete_module \
    create_module query_module get_kernel_syms bpf open_by_handle_at lookup_dcookie \
    perf_event_open fanotify_init fanotify_mark syslog acct add_key request_key keyctl quotactl \
    quotactl_fd swapon swapoff adjtimex clock_adjtime clock_adjtime64 clock_settime \
    clock_settime64 settimeofday stime iopl ioperm pciconfig_iobase pciconfig_read \
    pciconfig_write vm86 vm86old modify_ldt userfaultfd io_uring_setup io_uring_enter \
    io_uring_register _sysctl nfsservctl sysfs uselib ustat bdflush afs_syscall break ftime \
    getpmsg putpmsg gtty stty idle lock mpx prof profil security tuxcall ulimit vserver sgetmask \
    ssetmask";

type Table = BTreeMap<String, [Option<u32>; 3]>;

fn table() -> Table {
    // With the program: these tests run in guests too, where no source is.
    let text = include_str!("../../src/runtime/syscalls.txt");
    let mut table = Table::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        table.insert(words[0].into(), [1, 2, 3].map(|n| words[n].parse().ok()));
    }
    table
}

/// What [`PROBE`] says of `calls`: an ABI, a number, arguments; errno by the call's place.
fn probe(c: &Container<'_>, calls: &[(&str, u32, [u64; 3])]) -> Vec<i32> {
    let mut script = PROBE.to_string();
    // The script does those of 32-bit x86 last.
    let (late, early): (Vec<_>, Vec<_>) = (0..calls.len()).partition(|n| calls[*n].0 == "x86");
    let order = [early, late].concat();
    for n in &order {
        let (abi, number, args) = calls[*n];
        writeln!(script, "{abi} {number} {} {} {}", args[0], args[1], args[2]).unwrap();
    }
    let command = c.store.command(&["exec", &c.name, "--user", "root", "--", "perl", "-"]);
    let said = run_within(command, script.as_bytes(), Duration::from_secs(60)).ok();
    let mut errnos = vec![0; calls.len()];
    assert_eq!(said.lines().count(), calls.len(), "{said}");
    for (n, line) in order.into_iter().zip(said.lines()) {
        assert!(line.starts_with(&format!("{} {} ", calls[n].0, calls[n].1)), "{line}");
        errnos[n] = line.rsplit(' ').next().unwrap().parse().unwrap();
    }
    errnos
}

const ABIS: [&str; 3] = ["x86_64", "x86", "x32"];

#[cfg(target_arch = "x86_64")]
#[test]
fn every_refused_call_fails_with_eperm_by_every_abi() {
    let c = Container::started(store(), "filter", &["--init", "builtin"]);
    let table = table();
    let mut calls = Vec::new();
    for name in REFUSED.split_whitespace() {
        let numbers = table.get(name).unwrap_or_else(|| panic!("no such call: {name}"));
        for (abi, number) in ABIS.into_iter().zip(numbers) {
            calls.extend(number.map(|number| (abi, number, [0, 0, 0])));
        }
    }
    assert!(calls.len() > 120, "{}", calls.len());
    for (call, errno) in calls.iter().zip(probe(&c, &calls)) {
        assert_eq!(errno, EPERM, "{call:?}");
    }
    // What no kernel of this table knows; the compiler's own numbers for one that is.
    let unknown: Vec<_> = [("x86_64", 0), ("x86", 0), ("x32", 0x4000_0000)]
        .into_iter()
        .flat_map(|(abi, base)| [1000, 1001, 0xffff].map(|n| (abi, base + n, [0, 0, 0])))
        .collect();
    for (call, errno) in unknown.iter().zip(probe(&c, &unknown)) {
        assert_eq!(errno, ENOSYS, "{call:?}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_are_refused_for_some_arguments_by_every_abi() {
    let c = Container::started(store(), "filter-args", &["--init", "builtin"]);
    let table = table();
    let high = 1u64 << 32;
    // Name, arguments, and whether it is refused. Without a terminal ioctl says ENOTTY.
    let cases: &[(&str, [u64; 3], bool)] = &[
        ("ioctl", [0, 0x5412, 0], true),
        ("ioctl", [0, 0x5412 + high, 0], true),
        ("ioctl", [0, 0x541C, 0], true),
        ("ioctl", [0, 0x541C + high, 0], true),
        ("ioctl", [0, 0x5000_9401, 0], true),
        ("ioctl", [0, 0x5000_940e, 0], true),
        ("ioctl", [0, 0x5000_9417, 0], true),
        ("ioctl", [0, 0x5000_9418 + high, 0], true),
        ("ioctl", [0, 0x5000_940f, 0], false),
        ("ioctl", [0, 0x5401, 0], false),
        ("socket", [40, 1, 0], true),
        ("socket", [40 + high, 1, 0], true),
        ("socket", [38, 5, 0], true),
        ("socket", [16, 3, 9], true),
        ("socket", [16 + high, 3, 9 + high], true),
        ("socket", [16, 3, 0], false),
        ("socket", [1, 1, 0], false),
        ("umount2", [0, 1, 0], true),
        ("umount2", [0, 3, 0], true),
        ("umount2", [0, 2, 0], false),
        ("personality", [0x40000, 0, 0], true),
        ("personality", [0x0040_0000, 0, 0], true),
        ("personality", [1 + high, 0, 0], true),
        ("personality", [0xffff_ffff, 0, 0], false),
        ("personality", [8, 0, 0], false),
        ("personality", [0, 0, 0], false),
        ("socketcall", [1, 0, 0], true),
        ("socketcall", [2, 0, 0], false),
    ];
    let (mut calls, mut wanted) = (Vec::new(), Vec::new());
    for (name, args, refused) in cases {
        for (abi, number) in ABIS.into_iter().zip(table[*name]) {
            calls.extend(number.map(|number| (abi, number, *args)));
            wanted.extend(number.map(|_| (*name, *refused)));
        }
    }
    for ((call, errno), (name, refused)) in calls.iter().zip(probe(&c, &calls)).zip(wanted) {
        let want = if name.starts_with("socket") { EAFNOSUPPORT } else { EPERM };
        assert_eq!(errno == want, refused, "{name} {call:?}: errno {errno}");
    }
}

#[test]
fn init_and_what_enters_have_the_filter_and_can_gain_privileges() {
    let c = Container::started(store(), "filtered", &[]);
    for who in ["1", "self"] {
        let status = c.root(&["cat", &format!("/proc/{who}/status")]).ok();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t0"] {
            assert!(status.lines().any(|l| l == line), "{who}: {line} in {status}");
        }
    }
    let plan = c.store.ok(&["plan", &c.name]);
    assert!(plan.contains("filter system calls by ") && plan.contains("kexec_load"), "{plan}");
    // A program that sets its user id, and namespaces made inside.
    c.root_sh("useradd -m u && su u -c 'unshare -Ur id -u'").ok();
    c.root_sh("su u -c 'ping -c1 -W2 127.0.0.1'").ok();
    // Debian 13's ping has nothing but this.
    c.root_sh(r#"su u -c "perl -e 'socket(S, 2, 2, 1) or die \$!'""#).ok();
    c.root_sh("echo 'u ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/u && su u -c 'sudo -n id -u'")
        .ok();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_profile_can_allow_socketcall() {
    let args = ["--profile", "room", "--network", "none", "--set", "allow.socketcall=true"];
    let c = Container::started(store(), "socketcall", &args);
    let number = table()["socketcall"][1].unwrap();
    // Its arguments lie at address 0: that is as far as it gets.
    assert_eq!(probe(&c, &[("x86", number, [1, 0, 0])]), [libc::EFAULT]);
}

#[test]
fn a_profile_can_allow_io_uring() {
    let c = Container::create(store(), "uring", &["--init", "builtin"]);
    let refused = c.store.ok(&["plan", &c.name]).contains("io_uring_setup");
    assert!(refused);
    let dir = c.store.root.join("etc/coloc/profiles");
    std::fs::write(dir.join("uring.json"), r#"{"allow": {"io_uring": true}}"#).unwrap();
    let free = Container::create(store(), "uring2", &["--init", "builtin", "--profile", "uring"]);
    let plan = free.store.ok(&["plan", &free.name]);
    assert!(!plan.contains("io_uring_setup") && plan.contains("kexec_load"), "{plan}");
    std::fs::write(dir.join("bad.json"), r#"{"allow": {"uring": true}}"#).unwrap();
    c.store.fails(2, &["create", "x", "--profile", "bad"]);
}
