//! From the spec's list of system calls to a filter of the kernel's. Pure.
//!
//! ```text
//! load architecture ─> one block for each, and death for any other
//! block: load number ─> binary search over ranges of numbers with one answer
//!                       ─> allow, an errno, or a look at the arguments, rule by rule
//! ```
//!
//! The search takes seven or eight comparisons. Since Linux 5.11 the kernel finds out, when the
//! filter is installed, which numbers are allowed whatever the arguments, and asks no more.

mod portable;

use std::borrow::Cow;
use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use crate::error::{Error, Kind, Result};
use crate::sys::seccomp::Instruction;

pub use portable::portable;

/// A number for each name and architecture, made by scripts/syscall-table.
const TABLE: &str = include_str!("syscalls.txt");

// Classic BPF (linux/filter.h): load a word of the data, and, jumps, return.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

// Where things are in `struct seccomp_data`; all targets are little-endian.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_ARGS: u32 = 16;

const KILL_PROCESS: u32 = 0x8000_0000;

/// The bit that tells a call by the x32 ABI from one by x86_64's, whose architecture it has.
#[cfg(test)]
const X32_BIT: u32 = 0x4000_0000;

/// The columns of [`TABLE`], and the kernel's word for each (AUDIT_ARCH_*).
const COLUMNS: [(Arch, u32); 6] = [
    (Arch::ScmpArchX86_64, 0xC000_003E),
    (Arch::ScmpArchX86, 0x4000_0003),
    (Arch::ScmpArchX32, 0xC000_003E),
    (Arch::ScmpArchAarch64, 0xC000_00B7),
    (Arch::ScmpArchArm, 0x4000_0028),
    (Arch::ScmpArchRiscv64, 0xC000_00F3),
];

/// A rule, with its place in the spec's list: of those for one number the first that matches counts.
type Rule<'a> = (usize, &'a LinuxSyscall);

/// All that is said of one name, and the code for it.
struct Named<'a> {
    name: &'a str,
    rules: Vec<Rule<'a>>,
    code: Vec<Instruction>,
}

/// Compiles `spec`.
pub fn compile(spec: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let default = action(spec.default_action(), spec.default_errno_ret())?;
    let names = by_name(spec, default)?;
    let mut program = vec![op(LOAD, AT_ARCH)];
    for (arch, mut numbers) in by_number(spec, &names)? {
        numbers.sort_unstable_by_key(|(number, _)| *number);
        let mut block = vec![op(LOAD, AT_NUMBER)];
        block.extend(search(&ranges(&numbers, default)?));
        // Skips the block if it is another architecture's; a block is longer than 255.
        program.push(branch(IF_EQUAL, arch, 1, 0));
        program.push(op(JUMP, length(&block)));
        program.extend(block);
    }
    program.push(op(RETURN, KILL_PROCESS));
    // BPF_MAXINSNS of the kernel.
    if program.len() > 4096 {
        return Err(unsupported(format!("a filter of {} instructions", program.len())));
    }
    Ok(program)
}

/// The names of `spec`, sorted. Each is decided once: most are in all architectures.
fn by_name(spec: &LinuxSeccomp, default: u32) -> Result<Vec<Named<'_>>> {
    let list = spec.syscalls().iter().flatten().enumerate();
    let mut all: Vec<(&str, Rule<'_>)> =
        list.flat_map(|rule| rule.1.names().iter().map(move |n| (n.as_str(), rule))).collect();
    // Stable, so that rules for one name stay in order.
    all.sort_by_key(|(name, _)| *name);
    let each = all.chunk_by(|a, b| a.0 == b.0).map(|same| {
        let rules: Vec<Rule<'_>> = same.iter().map(|(_, rule)| *rule).collect();
        Ok(Named { name: same[0].0, code: decide(&rules, default)?, rules })
    });
    each.collect()
}

/// Numbers with what is said of them, by the kernel's word for their architecture.
type Numbers<'a> = BTreeMap<u32, Vec<(u32, &'a Named<'a>)>>;

/// The numbers that `names` have in the architectures of `spec`. A name that an architecture lacks is
/// no error: the list is for all of them.
fn by_number<'a>(spec: &LinuxSeccomp, names: &'a [Named<'a>]) -> Result<Numbers<'a>> {
    let mut words = [None; COLUMNS.len()];
    let mut numbers = Numbers::new();
    for arch in spec.architectures().iter().flatten() {
        let Some(column) = COLUMNS.iter().position(|(a, _)| a == arch) else {
            return Err(unsupported(format!("the architecture {arch}")));
        };
        words[column] = Some(COLUMNS[column].1);
        numbers.insert(COLUMNS[column].1, Vec::new());
    }
    for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
        let mut columns = line.split(' ');
        let name = columns.next().unwrap_or_default();
        let Ok(at) = names.binary_search_by_key(&name, |n| n.name) else { continue };
        for (word, number) in words.iter().zip(columns) {
            let Some(table) = word.and_then(|word| numbers.get_mut(&word)) else { continue };
            table.extend(number.parse().ok().map(|number: u32| (number, &names[at])));
        }
    }
    Ok(numbers)
}

fn unsupported(what: String) -> Error {
    Error::new(Kind::Unsupported, format!("the spec's seccomp section has {what}"))
}

fn op(code: u16, k: u32) -> Instruction {
    branch(code, k, 0, 0)
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn length(code: &[Instruction]) -> u32 {
    code.len() as u32
}

/// The filter's answer for an action.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    match action {
        LinuxSeccompAction::ScmpActAllow => Ok(0x7fff_0000),
        LinuxSeccompAction::ScmpActErrno => Ok(0x0005_0000 | (errno.unwrap_or(1) & 0xffff)),
        LinuxSeccompAction::ScmpActKillProcess => Ok(KILL_PROCESS),
        other => Err(unsupported(format!("the action {other}"))),
    }
}

/// Code for each range of numbers, by the first number of the range; it begins with 0.
type Ranges<'a> = Vec<(u32, Cow<'a, [Instruction]>)>;

fn ranges<'a>(numbers: &[(u32, &'a Named<'a>)], default: u32) -> Result<Ranges<'a>> {
    let mut list: Ranges<'a> = Vec::new();
    let mut add = |first: u32, code: Cow<'a, [Instruction]>| {
        if list.last().is_none_or(|(_, last)| *last != code) {
            list.push((first, code));
        }
    };
    let mut next = 0;
    for same in numbers.chunk_by(|a, b| a.0 == b.0) {
        let (number, named) = same[0];
        if number > next {
            add(next, vec![op(RETURN, default)].into());
        }
        add(
            number,
            if same.len() == 1 {
                named.code.as_slice().into()
            } else {
                together(same, default)?.into()
            },
        );
        next = number + 1;
    }
    add(next, vec![op(RETURN, default)].into());
    Ok(list)
}

/// The code for a number that has several names.
fn together(same: &[(u32, &Named<'_>)], default: u32) -> Result<Vec<Instruction>> {
    let mut rules: Vec<Rule<'_>> = same.iter().flat_map(|(_, n)| n.rules.iter().copied()).collect();
    rules.sort_by_key(|(place, _)| *place);
    decide(&rules, default)
}

/// The rules of one number, in order.
fn decide(rules: &[Rule<'_>], default: u32) -> Result<Vec<Instruction>> {
    let mut code = Vec::new();
    for (_, rule) in rules {
        let answer = op(RETURN, action(rule.action(), rule.errno_ret())?);
        let args: Vec<&LinuxSeccompArg> = rule.args().iter().flatten().collect();
        if args.is_empty() {
            code.push(answer);
            return Ok(code);
        }
        // Each test skips the rest of the rule if it does not hold.
        let mut tested = vec![answer];
        for arg in args.into_iter().rev() {
            tested = [test(arg, tested.len())?, tested].concat();
        }
        code.extend(tested);
    }
    code.push(op(RETURN, default));
    Ok(code)
}

/// Code that goes on with the next instruction if `arg` holds, and else skips `rest` more.
fn test(arg: &LinuxSeccompArg, rest: usize) -> Result<Vec<Instruction>> {
    use LinuxSeccompOperator as O;
    if arg.index() > 5 {
        return Err(unsupported(format!("an argument number {}", arg.index())));
    }
    let at = AT_ARGS + 8 * arg.index() as u32;
    let halves = |v: u64| ((v >> 32) as u32, v as u32);
    let far = |more: usize| {
        u8::try_from(rest + more).map_err(|_| unsupported("too many arguments in a rule".into()))
    };
    let (high, low) = halves(arg.value());
    Ok(match arg.op() {
        O::ScmpCmpEq => vec![
            op(LOAD, at + 4),
            branch(IF_EQUAL, high, 0, far(2)?),
            op(LOAD, at),
            branch(IF_EQUAL, low, 0, far(0)?),
        ],
        O::ScmpCmpNe => vec![
            op(LOAD, at + 4),
            branch(IF_EQUAL, high, 0, 2),
            op(LOAD, at),
            branch(IF_EQUAL, low, far(0)?, 0),
        ],
        O::ScmpCmpMaskedEq => {
            let (want_high, want_low) = halves(arg.value_two().unwrap_or(0));
            vec![
                op(LOAD, at + 4),
                op(AND, high),
                branch(IF_EQUAL, want_high, 0, far(3)?),
                op(LOAD, at),
                op(AND, low),
                branch(IF_EQUAL, want_low, 0, far(0)?),
            ]
        }
        O::ScmpCmpGt => above(at, (high, low), IF_GREATER, far(0)?),
        O::ScmpCmpGe => above(at, (high, low), IF_AT_LEAST, far(0)?),
        O::ScmpCmpLe => below(at, (high, low), IF_GREATER, far(0)?, far(3)?),
        O::ScmpCmpLt => below(at, (high, low), IF_AT_LEAST, far(0)?, far(3)?),
    })
}

/// Holds if the argument's upper half is greater, or the same and `lower` holds for the lower.
fn above(at: u32, (high, low): (u32, u32), lower: u16, out: u8) -> Vec<Instruction> {
    vec![
        op(LOAD, at + 4),
        branch(IF_GREATER, high, 3, 0),
        branch(IF_EQUAL, high, 0, out + 2),
        op(LOAD, at),
        branch(lower, low, 0, out),
    ]
}

/// Holds if [`above`] with `lower` does not.
fn below(at: u32, (high, low): (u32, u32), lower: u16, out: u8, far: u8) -> Vec<Instruction> {
    vec![
        op(LOAD, at + 4),
        branch(IF_GREATER, high, far, 0),
        branch(IF_EQUAL, high, 0, 2),
        op(LOAD, at),
        branch(lower, low, out, 0),
    ]
}

/// A binary search for the range that the number in the accumulator is in.
fn search(ranges: &[(u32, Cow<'_, [Instruction]>)]) -> Vec<Instruction> {
    if let [(_, code)] = ranges {
        return code.to_vec();
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let pivot = upper.first().map_or(0, |(first, _)| *first);
    let (left, right) = (search(lower), search(upper));
    let mut code = match u8::try_from(left.len()) {
        Ok(skip) => vec![branch(IF_AT_LEAST, pivot, skip, 0)],
        // A conditional jump reaches 255 instructions, a plain one anywhere.
        Err(_) => vec![branch(IF_AT_LEAST, pivot, 0, 1), op(JUMP, length(&left))],
    };
    code.extend(left);
    code.extend(right);
    code
}

/// The names in `spec` by what becomes of them, for people: what is refused outright, what
/// depends on arguments, and how many are allowed.
pub fn summary(spec: &LinuxSeccomp) -> Summary {
    let mut summary = Summary::default();
    for rule in spec.syscalls().iter().flatten() {
        let names = rule.names().iter().cloned();
        let with_args = rule.args().as_ref().is_some_and(|a| !a.is_empty());
        match (with_args, rule.action()) {
            (true, _) => summary.partly.extend(names),
            (false, LinuxSeccompAction::ScmpActAllow) => summary.allowed.extend(names),
            (false, _) => summary.refused.extend(names),
        }
    }
    summary.partly.sort();
    summary.partly.dedup();
    summary.allowed.retain(|n| !summary.partly.contains(n));
    summary.refused.retain(|n| !summary.partly.contains(n));
    summary
}

/// See [`summary`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Allowed whatever the arguments.
    pub allowed: Vec<String>,
    /// Refused whatever the arguments.
    pub refused: Vec<String>,
    /// Refused for some arguments.
    pub partly: Vec<String>,
}

#[cfg(test)]
mod tests;
