//! bpf(2), as far as it takes to say which devices the processes of a cgroup may open.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::{Error, Result};

/// One instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// The registers: the target in the lower half, the source in the upper.
    pub registers: u8,
    /// Where in memory, or how far to jump.
    pub offset: i16,
    /// The constant.
    pub constant: i32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Others may be attached above and below; all of them have to agree.
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// How the names of our programs begin, by which they are told from others'.
const OURS: &[u8] = b"cd_";
/// What a name may have (kernel/bpf/syscall.c), as digits.
const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.";
/// How many programs of others at one cgroup are looked through.
const OTHERS: usize = 64;

/// The part of `union bpf_attr` for PROG_LOAD, up to the name.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part for PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// The part for PROG_GET_FD_BY_ID.
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The part for OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct ByFd {
    program: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to the name.
#[repr(C)]
#[derive(Default)]
struct Info {
    before: [u64; 8],
    name: [u8; 16],
}

/// The part for PROG_QUERY.
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

fn bpf<T>(command: i32, name: &str, attr: &mut T) -> Result<i32> {
    // SAFETY: `attr` is the part of a bpf_attr that `command` reads and of the size given; what
    // its pointers are to lives in the caller through the call. The kernel takes the rest as 0.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if r == -1 { Err(Error::last(format!("bpf({name})"))) } else { Ok(r as i32) }
}

/// Attaches `program` for device access to the v2 cgroup `dir`: whatever is in it or below it opens a
/// device, or makes a node, only if the program gives 1. One that was attached here before is replaced
/// in the same moment (Linux 5.6).
///
/// To load a program has the kernel check and translate it; one of `others`, cgroups too, that has the
/// same one gives it away. Only the host's root can attach programs there.
pub fn confine_devices(
    dir: impl AsFd,
    program: &[Instruction],
    mut others: impl Iterator<Item = OwnedFd>,
) -> Result<()> {
    let name = name_of(program);
    let found = others.find_map(|other| attached(other, |n| *n == name).ok().flatten());
    let loaded = found.map_or_else(|| load(program, name), Ok)?;
    let before = attached(&dir, |n| n.starts_with(OURS))?;
    let mut attach = Attach {
        target: dir.as_fd().as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if before.is_some() { REPLACE } else { 0 },
        replaced: before.as_ref().map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    bpf(PROG_ATTACH, "BPF_PROG_ATTACH, CGROUP_DEVICE", &mut attach).map(|_| ())
}

/// A name for `program` that no other has: 72 bits of its SHA-256.
fn name_of(program: &[Instruction]) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let mut sum = Sha256::new();
    for i in program {
        sum.update([i.code, i.registers]);
        sum.update(i.offset.to_le_bytes());
        sum.update(i.constant.to_le_bytes());
    }
    let mut name = [0; 16];
    name[..OURS.len()].copy_from_slice(OURS);
    // The last byte stays 0: the kernel's names are C strings.
    for (at, groups) in name[OURS.len()..15].chunks_mut(4).zip(sum.finalize().chunks(3)) {
        let bits = groups.iter().fold(0usize, |all, byte| (all << 8) | usize::from(*byte));
        for (n, digit) in at.iter_mut().enumerate() {
            *digit = DIGITS[(bits >> (6 * n)) & 63];
        }
    }
    name
}

fn load(program: &[Instruction], name: [u8; 16]) -> Result<OwnedFd> {
    let mut load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name,
    };
    let fd = bpf(PROG_LOAD, "BPF_PROG_LOAD, CGROUP_DEVICE", &mut load)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first program attached to `dir` that has a name as `wanted`.
fn attached(dir: impl AsFd, wanted: impl Fn(&[u8; 16]) -> bool) -> Result<Option<OwnedFd>> {
    let mut ids = [0u32; OTHERS];
    let count = query(dir, &mut ids)? as usize;
    for id in ids.into_iter().take(count) {
        let mut by_id = ById { id, next: 0, flags: 0 };
        let fd = bpf(PROG_GET_FD_BY_ID, "BPF_PROG_GET_FD_BY_ID", &mut by_id)?;
        // SAFETY: as in `load`.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = Info::default();
        let mut by_fd = ByFd {
            program: fd.as_raw_fd() as u32,
            length: size_of::<Info>() as u32,
            info: (&raw mut info) as u64,
        };
        bpf(OBJ_GET_INFO_BY_FD, "BPF_OBJ_GET_INFO_BY_FD", &mut by_fd)?;
        if wanted(&info.name) {
            return Ok(Some(fd));
        }
    }
    Ok(None)
}

/// The numbers of the programs for device access that are attached to `dir` itself, as far as
/// there is room in `ids`; gives how many there are.
fn query(dir: impl AsFd, ids: &mut [u32]) -> Result<u32> {
    let mut query = Query {
        target: dir.as_fd().as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: if ids.is_empty() { 0 } else { ids.as_mut_ptr() as u64 },
        count: ids.len() as u32,
        padding: 0,
    };
    bpf(PROG_QUERY, "BPF_PROG_QUERY, CGROUP_DEVICE", &mut query)?;
    Ok(query.count)
}

/// How many programs for device access are attached to the v2 cgroup `dir` itself.
pub fn device_programs(dir: impl AsFd) -> Result<u32> {
    query(dir, &mut [])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_a_name_of_its_own() {
        let exit = Instruction { code: 0x95, registers: 0, offset: 0, constant: 0 };
        let names =
            [vec![], vec![exit], vec![exit, exit], vec![Instruction { constant: 1, ..exit }]]
                .map(|program| name_of(&program));
        for (n, name) in names.iter().enumerate() {
            assert!(name.starts_with(OURS) && name[15] == 0);
            assert!(name[..15].iter().all(|c| DIGITS.contains(c)));
            assert!(!names[..n].contains(name));
        }
    }
}
