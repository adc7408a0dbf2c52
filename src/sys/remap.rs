//! Changing the file that this process runs, without executing it again.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::raw::c_int;

use rustix::fs::{Mode, OFlags};

use super::{Error, Named, Result};

/// A part of this process's memory that the old file is mapped to; proc_pid_maps(5).
#[derive(Debug, PartialEq, Eq)]
struct Part {
    start: usize,
    end: usize,
    protection: c_int,
    offset: u64,
}

/// Has everything that is mapped of this process's executable be mapped of `file`, another way to
/// the same file, and `file` be the executable from then on. To be called while there is one
/// thread. After an error some parts are mapped of `file`, and all works as before.
pub(super) fn onto(file: &OwnedFd) -> Result<()> {
    // What was opened as a path only can neither be mapped nor be an executable.
    let name = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let file = rustix::fs::open(&name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .named(|| format!("open({name:?})"))?;
    let path =
        std::fs::read_link("/proc/self/exe").named(|| "readlink(\"/proc/self/exe\")".into())?;
    let maps =
        std::fs::read_to_string("/proc/self/maps").named(|| "open(\"/proc/self/maps\")".into())?;
    let path = path.to_string_lossy();
    let parts: Vec<Part> = maps.lines().filter_map(|line| parse(line, &path)).collect();
    let own = writable();
    for part in &parts {
        let changed = own.iter().any(|(start, end)| part.start < *end && *start < part.end);
        if changed { copy(part)? } else { map(part, &file)? }
    }
    Places::own(&file)?.set()
}

/// `struct prctl_mm_map` of <linux/prctl.h>: where the parts of a program are in memory, and its
/// executable.
#[repr(C)]
#[derive(Default)]
struct Places {
    code: [u64; 2],
    data: [u64; 2],
    break_: [u64; 2],
    stack: u64,
    arguments: [u64; 2],
    environment: [u64; 2],
    auxiliary: u64,
    auxiliary_size: u32,
    executable: u32,
}

impl Places {
    /// All as it is now, with `file` as the executable.
    fn own(file: &OwnedFd) -> Result<Self> {
        let name = "/proc/self/stat";
        let stat = std::fs::read_to_string(name).named(|| format!("open({name:?})"))?;
        // SAFETY: moves nothing by nothing.
        let end = unsafe { libc::sbrk(0) } as u64;
        let places =
            Self::parse(&stat, end).ok_or_else(|| Error::new("read(stat)", libc::EINVAL))?;
        Ok(Self { executable: file.as_raw_fd() as u32, ..places })
    }

    /// By the line of proc_pid_stat(5), whose second field may hold anything up to the last `)`.
    fn parse(stat: &str, end: u64) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is number 3 in the manual.
        let at = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            code: [at(26)?, at(27)?],
            stack: at(28)?,
            data: [at(45)?, at(46)?],
            break_: [at(47)?, end],
            arguments: [at(48)?, at(49)?],
            environment: [at(50)?, at(51)?],
            ..Self::default()
        })
    }

    fn set(&self) -> Result<()> {
        // SAFETY: the kernel reads this many bytes of it. What changes is what /proc/self/exe leads
        // to, and nothing in memory.
        let done = unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP,
                &raw const *self,
                size_of::<Self>(),
                0,
            )
        };
        if done == 0 { Ok(()) } else { Err(Error::last("prctl(PR_SET_MM_MAP)")) }
    }
}

/// A line of the memory map, if it is of the file at `path`.
fn parse(line: &str, path: &str) -> Option<Part> {
    let mut rest = line;
    let mut field = || {
        let (word, left) = rest.split_once(' ')?;
        rest = left;
        Some(word)
    };
    let (range, modes, offset) = (field()?, field()?, field()?);
    let (_device, _inode) = (field()?, field()?);
    if rest.trim_start() != path {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let kinds = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
    let has = |letter| modes.as_bytes().contains(&letter);
    let protection = kinds.iter().filter(|(letter, _)| has(*letter)).map(|(_, bit)| bit).sum();
    Some(Part {
        start: number(start)?,
        end: number(end)?,
        protection,
        offset: u64::from_str_radix(offset, 16).ok()?,
    })
}

/// Where the program's own data is, which differs from the file: its loader has written there.
fn writable() -> Vec<(usize, usize)> {
    unsafe extern "C" fn look(
        object: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader gives an object that is valid during this call, with as many headers
        // as it says; `found` is the vector below, which nobody else uses meanwhile.
        let (object, found) = unsafe { (&*object, &mut *found.cast::<Vec<(usize, usize)>>()) };
        // SAFETY: as above.
        let headers =
            unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
        for header in headers {
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W != 0 {
                let start = object.dlpi_addr as usize + header.p_vaddr as usize;
                found.push((start, start + header.p_memsz as usize));
            }
        }
        // The first object is the program: no other is to be seen.
        1
    }
    let mut found: Vec<(usize, usize)> = Vec::new();
    // SAFETY: `look` is called before this returns, with the vector that is given here.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

/// Maps `part` of `file` instead, in its place.
fn map(part: &Part, file: &OwnedFd) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let length = part.end - part.start;
    let place = part.start as *mut c_void;
    // SAFETY: in the place of a mapping comes one with the very same bytes, at once: it is another
    // way to the same file, which the kernel lets nobody write to while it is executed, and this
    // process has written nothing there.
    let got = unsafe {
        libc::mmap(place, length, part.protection, flags, file.as_raw_fd(), part.offset as i64)
    };
    if got == place { Ok(()) } else { Err(Error::last("mmap(own program)")) }
}

/// Puts a copy of `part` in its place, that is of no file.
fn copy(part: &Part) -> Result<()> {
    let length = part.end - part.start;
    let both = libc::PROT_READ | libc::PROT_WRITE;
    // All of it is written at once: a fault for each page would take longer.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: new memory, where the kernel finds room.
    let new = unsafe { libc::mmap(std::ptr::null_mut(), length, both, flags, -1, 0) };
    if new == libc::MAP_FAILED {
        return Err(Error::last("mmap(copy)"));
    }
    // SAFETY: both are mapped that long and apart. Between this copy and the move below nothing is
    // written to `part`: there is one thread, and it has no static of its own in use here.
    let moved = unsafe {
        std::ptr::copy_nonoverlapping(part.start as *const u8, new.cast::<u8>(), length);
        if libc::mprotect(new, length, part.protection) != 0 {
            return Err(Error::last("mprotect(copy)"));
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(new, length, length, flags, part.start as *mut c_void)
    };
    if moved == libc::MAP_FAILED { Err(Error::last("mremap(copy)")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_memory_map_are_read() {
        let line =
            "55d0c8a00000-55d0c8e00000 r-xp 00130000 fe:00 1027                       /a b/c";
        let part = Part {
            start: 0x55d0_c8a0_0000,
            end: 0x55d0_c8e0_0000,
            protection: libc::PROT_READ | libc::PROT_EXEC,
            offset: 0x13_0000,
        };
        assert_eq!(parse(line, "/a b/c"), Some(part));
        assert_eq!(parse(line, "/a b"), None);
        assert_eq!(parse("7ffc0-7ffc1 rw-p 00000000 00:00 0 ", "/a b/c"), None);
        assert_eq!(parse("", ""), None);
    }

    #[test]
    fn the_places_of_a_program_are_read() {
        let mut fields: Vec<String> = (1..=52).map(|n| n.to_string()).collect();
        fields[1] = "(a) b)".into();
        let places = Places::parse(&fields.join(" "), 99).unwrap();
        assert_eq!((places.code, places.stack, places.data), ([26, 27], 28, [45, 46]));
        assert_eq!((places.break_, places.environment), ([47, 99], [50, 51]));
        assert!(Places::parse("1 (a) S 2", 0).is_none());
        assert_eq!(size_of::<Places>(), 104);
    }

    #[test]
    fn the_programs_own_data_is_found() {
        static DATA: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(7);
        let place = &raw const DATA as usize;
        assert!(writable().iter().any(|(start, end)| (*start..*end).contains(&place)));
    }
}
