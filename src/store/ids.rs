//! The ledger of id ranges. A claim is a file, written under the ledger's lock before anything
//! has the ids: two admins cannot get the same range, and a crash leaves a claim too many at
//! worst, never one too few.
//!
//! `ids/SLOT` has one line, `taken NAME` or `free NAME`; the range of SLOT starts at
//! pool start + SLOT × 65536. A range that was given back stays in the ledger, and is given
//! again only when no fresh one is left, the one that was given back first at first.

use std::path::PathBuf;

use super::config::Pool;
use super::lock::{self, Subject};
use super::record::{RANGE, Range};
use super::{Layout, Name, atomic};
use crate::error::{Context, Error, Kind, Result};

fn slot_file(layout: &Layout, slot: u32) -> PathBuf {
    layout.ids().join(slot.to_string())
}

/// The number of `range` among those of the pool.
pub fn slot_of(pool: Pool, range: Range) -> Option<u32> {
    Some(range.start.checked_sub(pool.start)? / RANGE)
}

/// One slot as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    slot: u32,
    taken: bool,
    holder: String,
    when: std::time::SystemTime,
}

fn ledger(layout: &Layout) -> Result<Vec<Claim>> {
    let dir = layout.ids();
    let entries = std::fs::read_dir(&dir).context(|| format!("cannot read {}", dir.display()))?;
    let mut claims = Vec::new();
    for entry in entries.flatten() {
        let Some(slot) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let holder = text.split_whitespace().nth(1).unwrap_or_default().to_string();
        let when = entry.metadata().and_then(|m| m.modified()).unwrap_or(std::time::UNIX_EPOCH);
        // What cannot be read counts as taken: a range given twice would be worse.
        claims.push(Claim { slot, taken: !text.starts_with("free "), holder, when });
    }
    Ok(claims)
}

/// The first of `wanted` slots in a row to give next: fresh ones in order, then those of which the
/// last was given back first.
fn choose(slots: u32, claims: &[Claim], wanted: u32) -> Option<u32> {
    let of = |slot: u32| claims.iter().find(|c| c.slot == slot);
    let rows = || (0..(slots + 1).saturating_sub(wanted)).map(|s| s..s + wanted);
    let fresh = rows().find(|row| row.clone().all(|s| of(s).is_none()));
    let free = || {
        let free = rows().filter(|row| row.clone().all(|s| of(s).is_none_or(|c| !c.taken)));
        free.min_by_key(|row| row.clone().filter_map(|s| of(s).map(|c| c.when)).max())
    };
    fresh.or_else(free).map(|row| row.start)
}

/// Gives `holder` a range that nobody has, of as many times 65536 ids as `ranges` says.
pub fn claim(layout: &Layout, pool: Pool, holder: &Name, ranges: u32) -> Result<Range> {
    let _lock = lock::exclusive(layout, &Subject::Ids)?;
    let claims = ledger(layout)?;
    let slots = pool.count / RANGE;
    let Some(slot) = choose(slots, &claims, ranges) else {
        let why = match ranges {
            1 => format!("no id range is left: all {slots} of the pool are taken"),
            _ => format!("no {ranges} id ranges in a row are left of the {slots} of the pool"),
        };
        return Err(Error::new(Kind::State, why)
            .hint("delete a container, or give coloc more ids: coloc init --containers NUMBER"));
    };
    for slot in slot..slot + ranges {
        atomic::write(&slot_file(layout, slot), format!("taken {holder}\n").as_bytes(), 0o600)?;
    }
    Ok(Range { start: pool.start + slot * RANGE, count: ranges * RANGE })
}

/// Gives back every range that is `holder`'s, once nothing on disk and no process has an id of it.
pub fn release_all(layout: &Layout, holder: &Name) -> Result<()> {
    let _lock = lock::exclusive(layout, &Subject::Ids)?;
    for claim in ledger(layout)?.iter().filter(|c| c.taken && c.holder == holder.as_str()) {
        let text = format!("free {holder}\n");
        atomic::write(&slot_file(layout, claim.slot), text.as_bytes(), 0o600)?;
    }
    Ok(())
}

/// How many users and groups this host can have: [`u32::MAX`], unless it is a container itself.
pub fn here() -> Result<u32> {
    let read = |path: &str| -> Result<u32> {
        let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
        Ok(of_host(&text))
    };
    Ok(read("/proc/self/uid_map")?.min(read("/proc/self/gid_map")?))
}

/// How many ids there are, from 0 on: `text` is /proc/self/uid_map or gid_map
/// (user_namespaces(7)). Of several lines those count that go on from the first.
fn of_host(text: &str) -> u32 {
    let number = |word: Option<&str>| word.and_then(|w| w.parse::<u32>().ok());
    let mut end = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (first, _, count) =
            (number(words.next()), words.next(), number(words.next()).unwrap_or(0));
        if first == Some(end) {
            end = end.saturating_add(count);
        }
    }
    end
}

/// The line of /etc/subuid and /etc/subgid (subuid(5)).
pub const OWNER: &str = "coloc";

/// Ids below this may be somebody's account or a subordinate range of useradd or
/// systemd-nspawn; from here to [`LAST`] systemd's list of ranges
/// (<https://systemd.io/UIDS-GIDS/>) has nothing.
pub const FIRST: u32 = 0x7000_0000;
/// Past the last id that is free by that list.
pub const LAST: u32 = 2_147_352_576;

/// The lowest start in FIRST..LAST, then below, with `count` ids that overlap no range of
/// `taken`: pairs of first id and number. Of a host that is a container itself, with `ids`
/// of its own, the lowest start past those of its own users.
pub fn find_pool(taken: &[(u32, u32)], count: u32, ids: u32) -> Option<u32> {
    let free = |start: u32| {
        let end = u64::from(start) + u64::from(count);
        taken
            .iter()
            .all(|(s, n)| u64::from(*s) >= end || u64::from(*s) + u64::from(*n) <= u64::from(start))
    };
    let step = RANGE as usize;
    if ids < u32::MAX {
        let last = ids.checked_sub(count)?;
        return (RANGE..=last).step_by(step).find(|s| free(*s));
    }
    let high = (FIRST..LAST.saturating_sub(count).max(FIRST)).step_by(step).find(|s| free(*s));
    high.or_else(|| (0x1000_0000..FIRST.saturating_sub(count)).step_by(step).find(|s| free(*s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn claim_at(slot: u32, taken: bool, age: u64) -> Claim {
        let when = UNIX_EPOCH + Duration::from_secs(age);
        Claim { slot, taken, holder: "x".into(), when }
    }

    #[test]
    fn fresh_first_then_the_longest_free() {
        assert_eq!(choose(2, &[], 1), Some(0));
        assert_eq!(choose(2, &[claim_at(0, false, 1)], 1), Some(1));
        assert_eq!(choose(2, &[claim_at(0, false, 9), claim_at(1, false, 2)], 1), Some(1));
        assert_eq!(choose(2, &[claim_at(0, true, 1), claim_at(1, true, 1)], 1), None);
    }

    #[test]
    fn several_are_in_a_row() {
        let claims = [claim_at(0, false, 9), claim_at(2, true, 1), claim_at(5, false, 2)];
        assert_eq!(choose(8, &claims, 2), Some(3));
        assert_eq!(choose(5, &claims, 2), Some(3));
        // One that was given back, where no fresh row is left.
        assert_eq!(choose(8, &claims, 3), Some(3));
        assert_eq!(choose(4, &claims, 2), Some(0));
        assert_eq!(choose(8, &claims, 6), None);
        assert_eq!(choose(1, &[], 2), None);
    }

    #[test]
    fn a_pool_starts_high_and_keeps_clear() {
        let find = |taken: &[(u32, u32)], count| find_pool(taken, count, u32::MAX);
        assert_eq!(find(&[], 65536 * 1000), Some(FIRST));
        assert_eq!(find(&[(100_000, 65536)], 65536), Some(FIRST));
        assert_eq!(find(&[(FIRST, 65536)], 65536), Some(FIRST + 65536));
        assert_eq!(find(&[(0, u32::MAX)], 65536), None);
    }

    #[test]
    fn a_host_that_is_a_container_has_what_it_was_given() {
        assert_eq!(of_host("         0          0 4294967295\n"), u32::MAX);
        assert_eq!(of_host("0 1879048192 65536\n"), 65536);
        assert_eq!(of_host("0 1000 1\n1 100000 65536\n"), 65537);
        assert_eq!(of_host("0 5 10\n20 7 10\n"), 10);
        assert_eq!(of_host("x\n"), 0);
        assert_eq!(find_pool(&[], 65536, 65536), None);
        assert_eq!(find_pool(&[], 65536, 2 * 65536), Some(65536));
        let users = [(100_000, 65536)];
        assert_eq!(find_pool(&users, 3 * 65536, 8 * 65536), Some(3 * 65536));
        assert_eq!(find_pool(&users, 6 * 65536, 8 * 65536), None);
    }

    proptest! {
        #[test]
        fn pools_never_overlap(taken in prop::collection::vec((any::<u32>(), 1u32..1 << 28), 0..6)) {
            if let Some(start) = find_pool(&taken, 65536 * 10, u32::MAX) {
                for (s, n) in taken {
                    let (s, e) = (u64::from(s), u64::from(s) + u64::from(n));
                    prop_assert!(e <= u64::from(start) || s >= u64::from(start) + 655_360);
                }
            }
        }
    }
}
