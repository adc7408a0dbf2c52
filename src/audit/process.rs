//! One process, by what the kernel says of it. Everything here may be gone the next moment, and
//! whatever cannot be read is nothing.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use super::index::{Index, Old};
use crate::sys::mount;
use crate::sys::mountinfo::{self, Mount};
use crate::sys::path::open_dir;
use crate::tree::file::printable;

/// The maps of one process are not read beyond this: it may have 65,530, each with any path.
const MAPS_LIMIT: u64 = 16 << 20;

/// Which mounts a process sees: its mount namespace and its root in it.
pub(super) type View = (PathBuf, PathBuf);

/// This moment, in clock ticks since boot, as processes have their start (proc(5)).
pub fn moment() -> Option<u64> {
    ticks(&std::fs::read_to_string("/proc/uptime").ok()?, rustix::param::clock_ticks_per_second())
}

/// The ticks of an uptime with two decimals.
fn ticks(uptime: &str, per_second: u64) -> Option<u64> {
    let (whole, rest) = uptime.split_whitespace().next()?.split_once('.')?;
    let hundredths = whole.parse::<u64>().ok()? * 100 + rest.parse::<u64>().ok()?;
    Some(hundredths * per_second / 100)
}

/// A file of /proc/PID that is short by its nature.
fn short(pid: i32, name: &str) -> Option<String> {
    let file = std::fs::File::open(format!("/proc/{pid}/{name}")).ok()?;
    let mut bytes = Vec::new();
    file.take(8192).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// When it began, in clock ticks since boot.
pub(super) fn start(pid: i32) -> Option<u64> {
    start_in(&short(pid, "stat")?)
}

/// When a process began, by the text of its `stat`.
pub fn start_in(stat: &str) -> Option<u64> {
    // The command in parentheses can hold anything, so count from its end.
    stat.get(stat.rfind(')')? + 2..)?.split(' ').nth(19)?.parse().ok()
}

/// Its effective user, as the host counts.
pub(super) fn user(pid: i32) -> Option<u32> {
    user_in(&short(pid, "status")?)
}

/// The effective user of a process, by the text of its `status`.
pub fn user_in(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// Its name, fit for a terminal and on one line.
pub(super) fn command(pid: i32) -> String {
    let text = short(pid, "comm").unwrap_or_default();
    printable(text.strip_suffix('\n').unwrap_or(&text)).replace(['\n', '\t'], " ")
}

/// The mounts that it sees, in two words.
pub(super) fn view(pid: i32) -> Option<View> {
    let read = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
    Some((read("ns/mnt")?, read("root")?))
}

/// The mounts that it sees.
pub(super) fn mounts(pid: i32) -> Option<Vec<Mount>> {
    let file = std::fs::File::open(format!("/proc/{pid}/mountinfo")).ok()?;
    let mut text = Vec::new();
    file.take(mountinfo::LIMIT).read_to_end(&mut text).ok()?;
    Some(mountinfo::parse(&text))
}

/// The old files that it maps, its program among them.
pub(super) fn old_files(pid: i32, index: &Index) -> Vec<&Old> {
    let mut found: Vec<&Old> = Vec::new();
    each_file(pid, index, |inode, range| {
        if let Some(old) = index.old(inode) {
            let known = found.iter().any(|f| std::ptr::eq(*f, old));
            if !known && (index.maps_tell_all() || is_of_base(pid, &range, index)) {
                found.push(old);
            }
        }
    });
    found
}

/// Whether it is an interpreter of a language whose modules have changed.
pub(super) fn languages(pid: i32, index: &Index) -> bool {
    let mut changed = false;
    if index.any_language_changed() {
        each_file(pid, index, |inode, _| changed |= index.language_changed(inode));
    }
    changed
}

fn each_file(pid: i32, index: &Index, mut each: impl FnMut(u64, String)) {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/maps")) else { return };
    let reader = BufReader::with_capacity(64 << 10, file.take(MAPS_LIMIT));
    let mut seen = BTreeSet::new();
    each_mapping(reader, |mapping| {
        if mapping.device == index.device() && seen.insert(mapping.inode) {
            each(mapping.inode, mapping.range.to_string());
        }
    });
}

/// On btrfs, the device in maps is the whole file system's and inodes repeat in its subvolumes;
/// stat(2) tells those apart. It is asked only of files on the base's own file system.
fn is_of_base(pid: i32, range: &str, index: &Index) -> bool {
    let stat =
        open_dir(format!("/proc/{pid}/map_files")).and_then(|dir| mount::stat_path(dir, range));
    // Older kernels ask for a capability of their own here: better one too many than one missed.
    stat.map_or_else(|e| e.errno() == libc::EPERM, |s| s.file.0 == index.stat_device())
}

/// A line of maps that is of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// Where in its memory.
    pub range: &'a str,
    /// The device of the file.
    pub device: (u32, u32),
    /// Its inode.
    pub inode: u64,
}

/// Calls `each` for the file mappings in the text of /proc/PID/maps. Paths are skipped unread:
/// they hold whatever their owner likes but a newline, which the kernel escapes.
pub fn each_mapping(mut reader: impl BufRead, mut each: impl FnMut(&Mapping<'_>)) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        if let Some(mapping) = mapping(&line) {
            each(&mapping);
        }
    }
}

fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let mut next = || std::str::from_utf8(fields.next()?).ok();
    let range = next()?;
    let (_, _) = (next()?, next()?);
    let device = mountinfo::device(next()?, 16)?;
    let inode = next()?.trim_end().parse().ok().filter(|inode| *inode != 0)?;
    Some(Mapping { range, device, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"\
55d0c8a2e000-55d0c8a30000 r--p 00000000 fe:00 1183411                    /usr/sbin/nginx\n\
55d0c8a30000-55d0c8a4e000 r-xp 00002000 fe:00 1183411                    /usr/sbin/nginx\n\
55d0c9f3b000-55d0c9f5c000 rw-p 00000000 00:00 0                          [heap]\n\
7f2a1c000000-7f2a1c021000 rw-p 00000000 00:00 0 \n\
7f2a20a2d000-7f2a20a53000 r--p 00000000 fe:00 267113                     /lib/a b\\012fe:00 9 (deleted)\n\
7f2a20a60000-7f2a20a61000 rw-s 00000000 00:01 5000                       /dev/zero (deleted)\n\
7ffe1c9f2000-7ffe1c9f4000 r-xp 00000000 00:00 0                          [vdso]\n\
7f2a20a61000-7f2a20a62000 r--p 00000000 fe:00";

    #[test]
    fn files_in_maps_are_found_and_nothing_else() {
        let mut found = Vec::new();
        each_mapping(MAPS, |m| found.push((m.range.to_string(), m.device, m.inode)));
        let short: Vec<_> = found.iter().map(|f| (f.1, f.2)).collect();
        let disk = (0xfe, 0);
        assert_eq!(short, [(disk, 1_183_411), (disk, 1_183_411), (disk, 267_113), ((0, 1), 5000)]);
        assert_eq!(found[0].0, "55d0c8a2e000-55d0c8a30000");
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        for text in [&b""[..], b"\n\n", b"- - - x:y 1 /", b"a b c fe:00 \xff", b"\xff\n a"] {
            each_mapping(text, |m| panic!("{m:?}"));
        }
    }

    #[test]
    fn hostile_names_do_not_shift_fields() {
        let stat = "77 (a) S 1 2) R 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4242 9 9\n";
        assert_eq!(start_in(stat), Some(4242));
        assert_eq!(start_in("77 (a"), None);
        assert_eq!(start_in("77 (a)"), None);
        let status = "Name:\tx\\nUid:\t0\nUmask:\t0022\nUid:\t100033\t100034\t100034\t100034\n";
        assert_eq!(user_in(status), Some(100_034));
    }

    #[test]
    fn uptime_is_counted_in_ticks() {
        assert_eq!(ticks("123.45 400.00\n", 100), Some(12_345));
        assert_eq!(ticks("123", 100), None);
        let own = start(std::process::id() as i32).unwrap();
        assert!(own <= moment().unwrap());
    }
}
