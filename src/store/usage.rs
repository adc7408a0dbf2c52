//! What is counted of a container that runs, and what is not counted but limited.

use std::collections::BTreeMap;

/// What a container uses, and may; None for what nobody counts, or does not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Processes and threads.
    pub processes: Option<u64>,
    /// The same, at most.
    pub processes_max: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The same, at most.
    pub memory_max: Option<u64>,
    /// From which bytes on it is slowed down.
    pub memory_high: Option<u64>,
    /// Bytes swapped out.
    pub swap: Option<u64>,
    /// The same, at most.
    pub swap_max: Option<u64>,
    /// Microseconds of processor time since it was started.
    pub cpu: Option<u64>,
    /// Microseconds of processor time in each second, at most.
    pub cpu_max: Option<u64>,
    /// Bytes read from disks since it was started.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
    /// Bytes received from its network, its loopback left out.
    pub received: Option<u64>,
    /// Bytes sent.
    pub sent: Option<u64>,
    /// Bytes on disk, where a limit has them counted.
    pub disk: Option<u64>,
    /// The same, at most.
    pub disk_max: Option<u64>,
}

/// What a container that runs may have of the kernel's own things; None for no limit, or where the
/// kernel does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Allowance {
    /// Open files of a process.
    pub open_files: Option<u64>,
    /// Bytes of locked memory, of a process and of all.
    pub locked_memory: Option<u64>,
    /// Queued signals, of a process and of all.
    pub queued_signals: Option<u64>,
    /// Bytes in POSIX message queues, of a process and of all.
    pub message_queues: Option<u64>,
    /// Pseudoterminals.
    pub terminals: Option<u64>,
    /// What each user inside may have, by the kernel's names (/proc/sys/user).
    pub users: BTreeMap<String, u64>,
}

impl Allowance {
    /// Puts in what a process can raise its limits to: `text` is /proc/PID/limits.
    pub fn read_limits(&mut self, text: &str) {
        let hard = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        self.open_files = hard("Max open files");
        self.locked_memory = hard("Max locked memory");
        self.queued_signals = hard("Max pending signals");
        self.message_queues = hard("Max msgqueue size");
    }

    /// Puts in how many terminals there may be: `text` is /proc/PID/mountinfo.
    pub fn read_mounts(&mut self, text: &[u8]) {
        let of_line = |line: &[u8]| -> Option<u64> {
            let line = std::str::from_utf8(line).ok()?;
            let (left, right) = line.split_once(" - devpts ")?;
            (left.split(' ').nth(4)? == "/dev/pts").then_some(())?;
            let options = right.rsplit(' ').next()?;
            options.split(',').find_map(|o| o.strip_prefix("max="))?.parse().ok()
        };
        self.terminals = text.split(|b| *b == b'\n').find_map(of_line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_kernels_tables() {
        let mut found = Allowance::default();
        found.read_limits(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max locked memory         unlimited            unlimited            bytes     \n\
             Max open files            1024                 524288               files     \n\
             Max msgqueue size         1                    819200               bytes     \n",
        );
        assert_eq!((found.open_files, found.locked_memory), (Some(524_288), None));
        assert_eq!((found.queued_signals, found.message_queues), (None, Some(819_200)));
        found.read_mounts(
            b"30 29 0:27 / /dev rw - tmpfs none rw,max=3\n\
              31 30 0:28 / /mnt/pts rw - devpts none rw,max=7\n\
              32 30 0:29 / /dev/pts rw,nosuid shared:1 - devpts none rw,gid=5,mode=620,max=512\n\xff",
        );
        assert_eq!(found.terminals, Some(512));
        found.read_mounts(b"");
        assert_eq!(found.terminals, None);
    }
}
