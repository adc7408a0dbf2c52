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

/// Which slot to give next: fresh ones in order, then the one that was given back first.
fn choose(slots: u32, claims: &[Claim]) -> Option<u32> {
    let fresh = (0..slots).find(|slot| claims.iter().all(|c| c.slot != *slot));
    fresh.or_else(|| {
        let free = claims.iter().filter(|c| !c.taken && c.slot < slots);
        free.min_by_key(|c| c.when).map(|c| c.slot)
    })
}

/// Gives `holder` a range that nobody has.
pub fn claim(layout: &Layout, pool: Pool, holder: &Name) -> Result<Range> {
    let _lock = lock::exclusive(layout, &Subject::Ids)?;
    let claims = ledger(layout)?;
    let slots = pool.count / RANGE;
    let Some(slot) = choose(slots, &claims) else {
        return Err(Error::new(
            Kind::State,
            format!("no id range is left: all {slots} of the pool are taken"),
        )
        .hint("delete a container, or give coloc more ids: coloc init --containers NUMBER"));
    };
    atomic::write(&slot_file(layout, slot), format!("taken {holder}\n").as_bytes(), 0o600)?;
    Ok(Range { start: pool.start + slot * RANGE, count: RANGE })
}

/// Gives a range back, once nothing on disk and no process has an id of it; no error if
/// `holder` does not have it (any more).
pub fn release(layout: &Layout, pool: Pool, range: Range, holder: &Name) -> Result<()> {
    let Some(slot) = slot_of(pool, range) else { return Ok(()) };
    let _lock = lock::exclusive(layout, &Subject::Ids)?;
    let path = slot_file(layout, slot);
    let mine = format!("taken {holder}\n");
    if std::fs::read(&path).is_ok_and(|text| text == mine.as_bytes()) {
        atomic::write(&path, format!("free {holder}\n").as_bytes(), 0o600)?;
    }
    Ok(())
}

/// Gives back every range that is `holder`'s.
pub fn release_all(layout: &Layout, pool: Pool, holder: &Name) -> Result<()> {
    let mine = ledger(layout)?.into_iter().filter(|c| c.taken && c.holder == holder.as_str());
    for claim in mine.collect::<Vec<_>>() {
        let start = pool.start + claim.slot * RANGE;
        release(layout, pool, Range { start, count: RANGE }, holder)?;
    }
    Ok(())
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
/// `taken`: pairs of first id and number.
pub fn find_pool(taken: &[(u32, u32)], count: u32) -> Option<u32> {
    let free = |start: u32| {
        let end = u64::from(start) + u64::from(count);
        taken
            .iter()
            .all(|(s, n)| u64::from(*s) >= end || u64::from(*s) + u64::from(*n) <= u64::from(start))
    };
    let step = RANGE as usize;
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
        assert_eq!(choose(2, &[]), Some(0));
        assert_eq!(choose(2, &[claim_at(0, false, 1)]), Some(1));
        assert_eq!(choose(2, &[claim_at(0, false, 9), claim_at(1, false, 2)]), Some(1));
        assert_eq!(choose(2, &[claim_at(0, true, 1), claim_at(1, true, 1)]), None);
    }

    #[test]
    fn a_pool_starts_high_and_keeps_clear() {
        assert_eq!(find_pool(&[], 65536 * 1000), Some(FIRST));
        assert_eq!(find_pool(&[(100_000, 65536)], 65536), Some(FIRST));
        assert_eq!(find_pool(&[(FIRST, 65536)], 65536), Some(FIRST + 65536));
        assert_eq!(find_pool(&[(0, u32::MAX)], 65536), None);
    }

    proptest! {
        #[test]
        fn pools_never_overlap(taken in prop::collection::vec((any::<u32>(), 1u32..1 << 28), 0..6)) {
            if let Some(start) = find_pool(&taken, 65536 * 10) {
                for (s, n) in taken {
                    let (s, e) = (u64::from(s), u64::from(s) + u64::from(n));
                    prop_assert!(e <= u64::from(start) || s >= u64::from(start) + 655_360);
                }
            }
        }
    }
}
