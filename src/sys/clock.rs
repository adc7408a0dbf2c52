//! Time that only goes forward, for differences.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since boot, sleep included (clock_gettime(2), CLOCK_BOOTTIME).
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let part = |n: i64, factor: u64| u64::try_from(n).unwrap_or(0) * factor;
    part(time.tv_sec, 1_000_000) + part(time.tv_nsec, 1) / 1000
}
