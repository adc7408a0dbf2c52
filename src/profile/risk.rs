//! Devices through which a container gets out, or at the host's people. Some no container gets;
//! others it gets if the admin says, in the setting, that they know.
//!
//! What is not named here is not thereby harmless: its driver stands between the container and the
//! kernel. It is what a driver is *for* that is told here.

/// What speaks against a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Risk {
    /// It is the host itself.
    Never(&'static str),
    /// It needs this word after it; why.
    Asked(&'static str, &'static str),
}

const DISK: Risk = Risk::Asked(
    "block",
    "whoever writes to a disk past its file system can become root of the host",
);
const MEMORY: Risk = Risk::Never("it is the host's memory or log");
const CONSOLE: Risk = Risk::Never("it is the host's console");

const fn host(why: &'static str) -> Risk {
    Risk::Asked("host", why)
}

const RAW_DISK: Risk =
    host("it writes to disks past their file systems, and so makes root of the host");
const FIRMWARE: Risk = host("it writes to the host's firmware or its processors' registers");
const TYPES: Risk = host("it reads and makes what is typed on the host");
const SCREEN: Risk = host("it reads the host's screen");
const HARDWARE: Risk = host("it is hardware that reads and writes all of the host's memory");
const MAKES: Risk = host("it makes disks and devices of the host's");
const RESET: Risk = host("it resets the host");
const KEYS: Risk = host("it uses and clears the host's keys");
const FAULTS: Risk = host("it is userfaultfd, which the filter of system calls keeps away");

/// Character devices by number (Linux, admin-guide/devices): the major, the first and the last
/// minor.
const NUMBERS: [(u32, u32, u32, Risk); 23] = [
    (1, 1, 2, MEMORY),
    (1, 4, 4, MEMORY),
    (1, 11, 11, MEMORY),
    (4, 0, 63, TYPES),
    (5, 1, 1, CONSOLE),
    (7, 0, u32::MAX, SCREEN),
    (10, 1, 1, TYPES),
    (10, 126, 126, FAULTS),
    (10, 130, 130, RESET),
    (10, 144, 144, FIRMWARE),
    (10, 196, 196, HARDWARE),
    (10, 203, 203, MAKES),
    (10, 223, 223, TYPES),
    (10, 224, 224, KEYS),
    (10, 231, 231, MEMORY),
    (10, 234, 237, MAKES),
    (10, 239, 239, TYPES),
    (13, 0, u32::MAX, TYPES),
    (21, 0, u32::MAX, RAW_DISK),
    (90, 0, u32::MAX, FIRMWARE),
    (162, 0, u32::MAX, RAW_DISK),
    (189, 0, u32::MAX, host("it is all that is plugged in, disks and keyboards among it")),
    (202, 0, u32::MAX, FIRMWARE),
];

/// The same by what their names begin with, for those whose numbers are given out anew at each boot.
const NAMES: [(&str, Risk); 25] = [
    ("mem", MEMORY),
    ("kmem", MEMORY),
    ("port", MEMORY),
    ("kmsg", MEMORY),
    ("snapshot", MEMORY),
    ("console", CONSOLE),
    ("nvme", RAW_DISK),
    ("ng", RAW_DISK),
    ("bsg", RAW_DISK),
    ("sg", RAW_DISK),
    ("raw/", RAW_DISK),
    ("mtd", FIRMWARE),
    ("mei", FIRMWARE),
    ("ipmi", FIRMWARE),
    ("cpu/", FIRMWARE),
    ("i2c-", FIRMWARE),
    ("gpiochip", FIRMWARE),
    ("hidraw", TYPES),
    ("uinput", TYPES),
    ("uhid", TYPES),
    ("input", TYPES),
    ("vfio", HARDWARE),
    ("uio", HARDWARE),
    ("watchdog", RESET),
    ("tpm", KEYS),
];

/// What speaks against a character device with these numbers; without a minor all of them are
/// meant, and the worst counts.
pub(super) fn by_number(block: bool, major: u32, minor: Option<u32>) -> Option<Risk> {
    if block {
        return Some(DISK);
    }
    let meant = |(of, first, last, _): &&(u32, u32, u32, Risk)| {
        *of == major && minor.is_none_or(|n| (*first..=*last).contains(&n))
    };
    let found = || NUMBERS.iter().filter(meant).map(|(.., risk)| *risk);
    found().find(|risk| matches!(risk, Risk::Never(_))).or_else(|| found().next())
}

/// What speaks against the character device of this name, as it has in /dev or /proc/devices.
pub(super) fn by_name(name: &str) -> Option<Risk> {
    // One of these is a word by itself, and the beginning of harmless ones.
    let is = |of: &str| match of {
        "mem" | "port" | "console" | "sg" | "ng" => {
            let rest = name.strip_prefix(of);
            rest.is_some_and(|r| r.is_empty() || r.starts_with(|c: char| c.is_ascii_digit()))
        }
        _ => name.starts_with(of),
    };
    NAMES.iter().find(|(of, _)| is(of)).map(|(_, risk)| *risk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gets_out_is_known_by_number_and_name() {
        let word = |risk| match risk {
            None => "",
            Some(Risk::Never(_)) => "never",
            Some(Risk::Asked(word, _)) => word,
        };
        for (block, major, minor, want) in [
            (true, 8, Some(0), "block"),
            (true, 253, None, "block"),
            (false, 1, Some(1), "never"),
            (false, 1, Some(3), ""),
            (false, 1, None, "never"),
            (false, 5, Some(1), "never"),
            (false, 4, Some(1), "host"),
            (false, 4, Some(64), ""),
            (false, 10, Some(229), ""),
            (false, 10, Some(200), ""),
            (false, 10, Some(232), ""),
            (false, 10, None, "never"),
            (false, 21, Some(0), "host"),
            (false, 116, None, ""),
        ] {
            assert_eq!(word(by_number(block, major, minor)), want, "{block} {major}:{minor:?}");
        }
        for (name, want) in [
            ("mem", "never"),
            ("console", "never"),
            ("memory_bandwidth", ""),
            ("nvme0", "host"),
            ("bsg/0:0:0:0", "host"),
            ("sg3", "host"),
            ("sgx_enclave", ""),
            ("watchdog0", "host"),
            ("input/event3", "host"),
            ("fuse", ""),
            ("net/tun", ""),
            ("kvm", ""),
            ("snd/seq", ""),
            ("raw/raw1", "host"),
        ] {
            assert_eq!(word(by_name(name)), want, "{name}");
        }
    }
}
