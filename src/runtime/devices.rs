//! Which devices a container may open, whatever nodes it gets hold of: a small program in front
//! of each open, attached to its cgroup. It stands behind the mounts' `nodev` and the refusal of
//! mknod(2) to root in a user namespace; should one of these fail, a disk stays out of reach.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Kind, Result};
use crate::store::ids;
use crate::sys::bpf::{self, Instruction};
use crate::sys::path::open_dir;

/// Devices that may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether they are block devices.
    pub block: bool,
    /// The major number; None for any.
    pub major: Option<u32>,
    /// The minor number; None for any.
    pub minor: Option<u32>,
    /// What may be done: [`MAKE`], [`READ`], [`WRITE`].
    pub access: u32,
}

/// Make a node (linux/bpf.h, BPF_DEVCG_ACC_*).
pub const MAKE: u32 = 1;
/// Open for reading.
pub const READ: u32 = 2;
/// Open for writing.
pub const WRITE: u32 = 4;

/// How many other containers are looked at for the same rules.
const LOOKED_AT: usize = 8;

/// The rules of a spec's list, which has to refuse everything first and then allow.
pub fn rules(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let Some((first, rest)) = list.split_first() else { return Ok(Vec::new()) };
    let all = |d: &LinuxDeviceCgroup| {
        matches!(d.typ(), None | Some(LinuxDeviceType::A))
            && d.major().is_none_or(|n| n < 0)
            && d.minor().is_none_or(|n| n < 0)
    };
    if first.allow() || !all(first) || rest.iter().any(|d| !d.allow()) {
        return Err(Error::new(
            Kind::Usage,
            "the spec's device list does not begin by refusing all",
        )
        .hint("refuse all devices in its first entry, and allow some in the others"));
    }
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let access = |d: &LinuxDeviceCgroup| {
        let words = d.access().as_deref().unwrap_or("rwm").to_string();
        let bits = [('m', MAKE), ('r', READ), ('w', WRITE)];
        bits.iter().filter(|(c, _)| words.contains(*c)).fold(0, |all, (_, bit)| all | bit)
    };
    Ok(rest
        .iter()
        .map(|d| Rule {
            block: d.typ() == Some(LinuxDeviceType::B),
            major: number(d.major()),
            minor: number(d.minor()),
            access: access(d),
        })
        .collect())
}

// The instructions' codes are those of linux/bpf.h.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const TYPE: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn op(code: u8, target: u8, source: u8, offset: i16, constant: i32) -> Instruction {
    Instruction { code, registers: target | (source << 4), offset, constant }
}

/// The program for `rules`: what none of them allows is refused.
pub fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // The context is { access << 16 | type, major, minor }.
    let mut program = vec![
        op(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        op(COPY, TYPE, ACCESS, 0, 0),
        op(AND, TYPE, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        let mut tests = vec![(TYPE, if rule.block { 1 } else { 2 })];
        tests.extend(rule.major.map(|n| (MAJOR, n as i32)));
        tests.extend(rule.minor.map(|n| (MINOR, n as i32)));
        // Each test that fails skips what is left of its rule: the tests after it, the four
        // instructions on the access, and the two that say yes.
        let mut left = tests.len() as i16 + 5;
        for (register, value) in tests {
            left -= 1;
            program.push(op(UNLESS_EQUAL, register, 0, left, value));
        }
        program.extend([
            op(COPY, RESULT, ACCESS, 0, 0),
            op(AND, RESULT, 0, 0, !(rule.access as i32)),
            op(UNLESS_EQUAL, RESULT, 0, 2, 0),
            op(MOVE, RESULT, 0, 0, 1),
            op(EXIT, 0, 0, 0, 0),
        ]);
    }
    program.extend([op(MOVE, RESULT, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

/// Puts `rules` before every open of a device in the v2 cgroup `payload`, in the place of those that
/// were there. Hybrid hosts have that hierarchy too, and there this holds beside the v1 controller. A kernel without these
/// programs has the other walls alone; `coloc check` tells.
pub fn confine(payload: &Path, rules: &[Rule]) -> Result<()> {
    match bpf::confine_devices(open_dir(payload)?, &compile(rules), others(payload)) {
        // No container may load programs into the kernel. One in it is confined by its list.
        Err(e) if e.errno() == libc::EPERM && ids::here()? < u32::MAX => Ok(()),
        Err(e) if [libc::ENOSYS, libc::EINVAL].contains(&e.errno()) => Ok(()),
        other => Ok(other?),
    }
}

/// The payloads of some other containers, of which one may have the same rules.
fn others(payload: &Path) -> impl Iterator<Item = OwnedFd> {
    let own = payload.parent().map(Path::to_path_buf);
    let all = own.as_deref().and_then(Path::parent).and_then(|store| store.read_dir().ok());
    let all = all.into_iter().flatten().flatten();
    let dirs = all.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    let dirs = dirs.map(|entry| entry.path()).filter(move |dir| Some(dir) != own.as_ref());
    dirs.filter_map(|dir| open_dir(dir.join("payload")).ok()).take(LOOKED_AT)
}

/// Whether such a program stands before the cgroup `payload`.
pub fn is_confined(payload: &Path) -> Result<bool> {
    Ok(bpf::device_programs(open_dir(payload)?)? > 0)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".into(), |n| n.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MAKE, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says, by an interpreter for the instructions that are used.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [(access << 16) | kind, major, minor];
        let (mut r, mut at) = ([0u64; 16], 0i64);
        loop {
            let i = program[at as usize];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            match i.code {
                LOAD_WORD => r[to] = u64::from(context[i.offset as usize / 4]),
                MOVE => r[to] = i.constant as u64,
                COPY => r[to] = r[from],
                AND => r[to] &= i.constant as i64 as u64,
                SHIFT_RIGHT => r[to] >>= i.constant,
                UNLESS_EQUAL if r[to] != i.constant as i64 as u64 => at += i64::from(i.offset),
                UNLESS_EQUAL => {}
                EXIT => return r[0],
                other => unreachable!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused() {
        let rule = |block, major, minor, access| Rule { block, major, minor, access };
        let list = [
            rule(false, Some(1), Some(3), READ | WRITE),
            rule(false, Some(136), None, READ | WRITE),
            rule(true, Some(7), Some(0), READ),
        ];
        let program = compile(&list);
        let (block, char) = (1, 2);
        for (kind, access, major, minor, want) in [
            (char, READ, 1, 3, 1),
            (char, READ | WRITE, 1, 3, 1),
            (char, MAKE, 1, 3, 0),
            (char, READ | MAKE, 1, 3, 0),
            (char, READ, 1, 1, 0),
            (block, READ, 1, 3, 0),
            (char, WRITE, 136, 12, 1),
            (char, WRITE, 137, 12, 0),
            (block, READ, 7, 0, 1),
            (block, WRITE, 7, 0, 0),
            (char, 0, 1, 3, 1),
            (block, 0, 8, 0, 0),
        ] {
            let got = run(&program, kind, access, major, minor);
            assert_eq!(got, want, "{kind} {access} {major}:{minor}");
        }
        assert_eq!(run(&compile(&[]), char, READ, 1, 3), 0);
    }

    #[test]
    fn a_list_that_allows_first_is_refused() {
        use oci_spec::runtime::LinuxDeviceCgroupBuilder as B;
        let none = B::default().allow(false).access("rwm").build().unwrap();
        let null = B::default().allow(true).typ(LinuxDeviceType::C).major(1).minor(3).access("rw");
        let null = null.build().unwrap();
        let list = rules(&[none.clone(), null.clone()]).unwrap();
        assert_eq!(list[0].to_string(), "c 1:3 rw");
        assert!(rules(&[null.clone(), none.clone()]).is_err());
        assert!(rules(&[none.clone(), null, none]).is_err());
    }
}
