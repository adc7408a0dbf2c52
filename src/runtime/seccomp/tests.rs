use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};

use super::*;

/// Names and numbers of one architecture.
fn column_of(column: usize) -> impl Iterator<Item = (&'static str, u32)> {
    TABLE.lines().filter(|l| !l.starts_with('#')).filter_map(move |line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.nth(column)?.parse().ok()?))
    })
}

const X86_64: u32 = 0xC000_003E;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xC000_00B7;
const ARM: u32 = 0x4000_0028;
const RISCV64: u32 = 0xC000_00F3;
/// The ABIs of each machine that coloc is for.
const MACHINES: [&[Arch]; 3] = [
    &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
    &[Arch::ScmpArchAarch64, Arch::ScmpArchArm],
    &[Arch::ScmpArchRiscv64],
];
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// What the kernel does with a filter, in small.
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    data.extend(args.iter().flat_map(|a| a.to_le_bytes()));
    let (mut at, mut a, mut steps) = (0usize, 0u32, 0usize);
    loop {
        let i = program[at];
        at += 1;
        steps += 1;
        let jump = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LOAD => {
                let k = i.k as usize;
                a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
            }
            AND => a &= i.k,
            JUMP => at += i.k as usize,
            IF_EQUAL => at += jump(a == i.k),
            IF_GREATER => at += jump(a > i.k),
            IF_AT_LEAST => at += jump(a >= i.k),
            RETURN => return (i.k, steps),
            code => panic!("no such instruction: {code:#x}"),
        }
    }
}

fn rule(names: &[&str], allow: bool, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let word = match allow {
        true => LinuxSeccompAction::ScmpActAllow,
        false => LinuxSeccompAction::ScmpActErrno,
    };
    LinuxSyscallBuilder::default()
        .names(names)
        .action(word)
        .errno_ret(1u32)
        .args(args)
        .build()
        .unwrap()
}

fn arg(op: LinuxSeccompOperator, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(1usize)
        .op(op)
        .value(value)
        .value_two(two)
        .build()
        .unwrap()
}

fn spec(rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(38u32)
        .architectures(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32])
        .syscalls(rules)
        .build()
        .unwrap()
}

#[test]
fn every_line_of_the_table_has_a_name_and_six_numbers() {
    let lines: Vec<&str> = TABLE.lines().filter(|l| !l.starts_with('#')).collect();
    assert!(lines.len() > 450, "{}", lines.len());
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 7, "{line}");
        assert!(words[1..].iter().all(|w| *w == "-" || w.parse::<u32>().is_ok()), "{line}");
    }
    let number = |column, name| column_of(column).find(|(n, _)| *n == name).map(|(_, n)| n);
    assert_eq!(number(0, "read"), Some(0));
    assert_eq!(number(1, "read"), Some(3));
    assert_eq!(number(2, "read"), Some(X32_BIT));
    assert_eq!(number(3, "read"), Some(63));
    assert_eq!(number(0, "socketcall"), None);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(number(0, "mount_setattr"), Some(libc::SYS_mount_setattr as u32));
}

#[test]
fn each_number_gets_the_answer_of_its_name_by_every_abi() {
    let names: Vec<&str> =
        TABLE.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(' ').next()).collect();
    // A mixture as bad as any for ranges.
    let (allowed, refused): (Vec<&str>, Vec<&str>) =
        names.iter().filter(|n| n.len() % 3 != 0).partition(|n| n.len() % 2 == 0);
    let rules = vec![rule(&allowed, true, vec![]), rule(&refused, false, vec![])];
    let of = |architectures: &[Arch]| {
        let mut spec = spec(rules.clone());
        spec.set_architectures(Some(architectures.to_vec()));
        compile(&spec).unwrap()
    };
    let (pc, arm) = (of(MACHINES[0]), of(MACHINES[1]));
    let riscv = of(MACHINES[2]);
    for (column, arch, program) in [
        (0, X86_64, &pc),
        (1, I386, &pc),
        (2, X86_64, &pc),
        (3, AARCH64, &arm),
        (4, ARM, &arm),
        (5, RISCV64, &riscv),
    ] {
        let known: BTreeMap<u32, &str> = column_of(column).map(|(n, v)| (v, n)).collect();
        let base = if column == 2 { X32_BIT } else { 0 };
        for number in (base..base + 700).chain([u32::MAX, X32_BIT - 1]) {
            let want = match known.get(&number) {
                Some(n) if allowed.contains(n) => ALLOW,
                Some(n) if refused.contains(n) => EPERM,
                _ => ENOSYS,
            };
            let (got, steps) = run(program, arch, number, [0; 6]);
            assert_eq!(got, want, "{arch:#x}: {number} {:?}", known.get(&number));
            assert!(steps < 25, "{steps} steps for {number}");
        }
    }
    // Another machine's calls are no calls here.
    for (program, foreign) in [(&pc, AARCH64), (&pc, RISCV64), (&arm, X86_64), (&riscv, ARM)] {
        assert_eq!(run(program, foreign, 0, [0; 6]).0, KILL_PROCESS);
    }
}

#[test]
fn arguments_are_compared_as_64_bits() {
    use LinuxSeccompOperator as O;
    let big = 0x1_0000_0005u64;
    let values = [0, 4, 5, 6, u64::from(u32::MAX), big - 1, big, big + 1, 1 << 40, u64::MAX];
    for value in [0, 5, big, u64::MAX] {
        type Holds = fn(u64, u64) -> bool;
        let cases: [(O, Holds); 6] = [
            (O::ScmpCmpEq, |a, v| a == v),
            (O::ScmpCmpNe, |a, v| a != v),
            (O::ScmpCmpGt, |a, v| a > v),
            (O::ScmpCmpGe, |a, v| a >= v),
            (O::ScmpCmpLt, |a, v| a < v),
            (O::ScmpCmpLe, |a, v| a <= v),
        ];
        for (op, holds) in cases {
            // Once alone, once before another test, so that both jumps out are taken.
            let also = arg(O::ScmpCmpGe, 0, 0);
            for args in [vec![arg(op, value, 0)], vec![arg(op, value, 0), also]] {
                let rules = vec![rule(&["ioctl"], false, args), rule(&["ioctl"], true, vec![])];
                let program = compile(&spec(rules)).unwrap();
                for a in values {
                    let got = run(&program, X86_64, 16, [0, a, 0, 0, 0, 0]).0;
                    let want = if holds(a, value) { EPERM } else { ALLOW };
                    assert_eq!(got, want, "{a:#x} {op:?} {value:#x}");
                }
            }
        }
    }
}

#[test]
fn a_mask_hides_the_upper_half_of_a_register() {
    let tiocsti = arg(LinuxSeccompOperator::ScmpCmpMaskedEq, 0xffff_ffff, 0x5412);
    let rules = vec![rule(&["ioctl"], false, vec![tiocsti]), rule(&["ioctl"], true, vec![])];
    let program = compile(&spec(rules)).unwrap();
    for (a, want) in [(0x5412, EPERM), (0x1_0000_5412, EPERM), (0x5413, ALLOW), (0, ALLOW)] {
        assert_eq!(run(&program, X86_64, 16, [0, a, 0, 0, 0, 0]).0, want, "{a:#x}");
        assert_eq!(run(&program, I386, 54, [0, a, 0, 0, 0, 0]).0, want, "{a:#x}");
        assert_eq!(run(&program, X86_64, X32_BIT + 514, [0, a, 0, 0, 0, 0]).0, want, "{a:#x}");
    }
}

/// ARM has one number for two names: of the rules for both the first in the spec counts.
#[test]
fn several_names_of_a_number_are_decided_on_together() {
    let (one, other) = ("arm_sync_file_range", "sync_file_range2");
    for (first, second) in [(one, other), (other, one)] {
        for allow in [true, false] {
            let rules = vec![rule(&[first], allow, vec![]), rule(&[second], !allow, vec![])];
            let mut spec = spec(rules);
            spec.set_architectures(Some(vec![Arch::ScmpArchArm]));
            let want = if allow { ALLOW } else { EPERM };
            assert_eq!(run(&compile(&spec).unwrap(), ARM, 341, [0; 6]).0, want, "{first} {allow}");
        }
    }
}

#[test]
fn what_cannot_be_compiled_is_an_error() {
    let mut odd = spec(vec![]);
    odd.set_architectures(Some(vec![Arch::ScmpArchMips]));
    assert!(compile(&odd).is_err());
    let mut odd = spec(vec![]);
    odd.set_default_action(LinuxSeccompAction::ScmpActNotify);
    assert!(compile(&odd).is_err());
}
