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
/// The name of our programs, by which they are told from others'.
const NAME: &[u8; 16] = b"coloc_devices\0\0\0";
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

/// Loads `program` for device access and attaches it to the v2 cgroup `dir`: whatever is in it
/// or below it opens a device, or makes a node, only if the program gives 1. One that was
/// attached here before is replaced in the same moment (Linux 5.6).
pub fn confine_devices(dir: impl AsFd, program: &[Instruction]) -> Result<()> {
    let loaded = load(program)?;
    let before = ours(&dir)?;
    let mut attach = Attach {
        target: dir.as_fd().as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if before.is_some() { REPLACE } else { 0 },
        replaced: before.as_ref().map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    bpf(PROG_ATTACH, "BPF_PROG_ATTACH, CGROUP_DEVICE", &mut attach).map(|_| ())
}

fn load(program: &[Instruction]) -> Result<OwnedFd> {
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
        name: *NAME,
    };
    let fd = bpf(PROG_LOAD, "BPF_PROG_LOAD, CGROUP_DEVICE", &mut load)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The program of ours that is attached to `dir`, if one is.
fn ours(dir: impl AsFd) -> Result<Option<OwnedFd>> {
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
        if info.name == *NAME {
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
