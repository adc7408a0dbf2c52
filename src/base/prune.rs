//! Which generations can go, and what that frees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::error::Result;
use crate::tree::manifest;

/// How many of the newest generations stay, for going back.
pub const KEPT: usize = 3;

/// Of `all` generations, those that can go: neither the current one, nor one in use, nor one of
/// the newest [`KEPT`].
pub fn prunable(all: &[u64], current: u64, in_use: &BTreeSet<u64>) -> Vec<u64> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let old = sorted.len().saturating_sub(KEPT);
    sorted.truncate(old);
    sorted.retain(|n| *n != current && !in_use.contains(n));
    sorted
}

/// Bytes of files that only the generations `gone` have, by their manifests: files that a
/// generation shares with another are on disk once.
pub fn freed(gone: &[PathBuf], kept: &[PathBuf]) -> Result<u64> {
    let mut sizes = BTreeMap::new();
    for dir in gone {
        sizes.extend(manifest::read(dir)?.into_iter().map(|e| (e.inode, e.size)));
    }
    for dir in kept {
        for entry in manifest::read(dir)? {
            sizes.remove(&entry.inode);
        }
    }
    Ok(sizes.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newest_the_current_and_the_used_stay() {
        let used = BTreeSet::from([2]);
        assert_eq!(prunable(&[1, 2, 3, 4, 5, 6], 6, &used), [1, 3]);
        assert_eq!(prunable(&[1, 2, 3, 4, 5, 6], 1, &used), [3]);
        assert_eq!(prunable(&[1, 2, 3], 3, &BTreeSet::new()), Vec::<u64>::new());
        assert_eq!(prunable(&[], 1, &BTreeSet::new()), Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn nothing_that_is_needed_goes(
            all in prop::collection::btree_set(1u64..40, 0..20),
            used in prop::collection::btree_set(1u64..40, 0..20),
            current in 1u64..40,
        ) {
            let list: Vec<u64> = all.iter().copied().collect();
            let gone = prunable(&list, current, &used);
            prop_assert!(gone.iter().all(|n| all.contains(n)));
            prop_assert!(!gone.contains(&current) && gone.iter().all(|n| !used.contains(n)));
            prop_assert!(list.iter().rev().take(KEPT).all(|n| !gone.contains(n)));
        }
    }
}
