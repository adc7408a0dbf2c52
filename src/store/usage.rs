//! What is counted of a container that runs.

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
