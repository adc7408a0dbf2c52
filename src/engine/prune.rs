//! `coloc base prune`: generations that nobody needs any more go.

use std::collections::BTreeSet;

use super::Engine;
use crate::audit::{self, Index};
use crate::base::prune::{freed, prunable};
use crate::error::{Context, Result};
use crate::request::Verb;
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Subject};
use crate::store::record::{current_generation, generations};
use crate::store::running::State;
use crate::store::{BaseRecord, Name, atomic, record};
use crate::tree;

/// What a prune takes away, or would.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pruned {
    /// The base.
    pub base: Name,
    /// The generations that go.
    pub generations: Vec<u64>,
    /// Those that stay.
    pub kept: Vec<u64>,
    /// Those of them that a container is at, or a process in one still maps or sees.
    pub in_use: Vec<u64>,
    /// Bytes on disk.
    pub freed: u64,
}

impl Engine {
    /// Removes the generations of `base` that are neither among the last three nor in use.
    pub fn prune_base(&self, base: &Name, dry_run: bool) -> Result<Pruned> {
        BaseRecord::load(&self.layout, base)?;
        if dry_run {
            return self.prune_locked(base, true);
        }
        self.noting(Verb::BasePrune, base, &[], || self.prune_locked(base, false))
    }

    fn prune_locked(&self, base: &Name, dry_run: bool) -> Result<Pruned> {
        let _lock = lock::exclusive(&self.layout, &Subject::Base(base.clone()))?;
        let all = generations(&self.layout, base)?;
        let current = current_generation(&self.layout, base)?;
        let in_use = self.generations_in_use(base, &all)?;
        let gone = prunable(&all, current, &in_use);
        let kept: Vec<u64> = all.iter().copied().filter(|n| !gone.contains(n)).collect();
        let dirs = |list: &[u64]| -> Vec<_> {
            list.iter().map(|n| self.layout.generation(base, *n)).collect()
        };
        let freed = freed(&dirs(&gone), &dirs(&kept))?;
        if !dry_run {
            for generation in &gone {
                self.remove_generation(base, *generation)?;
            }
        }
        let in_use = in_use.into_iter().collect();
        Ok(Pruned { base: base.clone(), generations: gone, kept, in_use, freed })
    }

    fn remove_generation(&self, base: &Name, generation: u64) -> Result<()> {
        let work = Work::Prune { base: base.clone(), generation };
        let staging = work.staging(&self.layout);
        tree::remove(&staging)?;
        work.begin(&self.layout)?;
        journal::step("prune.begun");
        let place = self.layout.generation(base, generation);
        std::fs::rename(&place, &staging)
            .context(|| format!("cannot remove generation {generation} of base {base}"))?;
        atomic::sync_parent(&place)?;
        journal::step("prune.moved");
        tree::remove(&staging)?;
        work.end(&self.layout)
    }

    /// The generations of `base` that a container is at, or is on its way to or from, and those
    /// that something that runs still maps or sees. A damaged record keeps them all.
    fn generations_in_use(&self, base: &Name, all: &[u64]) -> Result<BTreeSet<u64>> {
        let mut used = BTreeSet::new();
        for work in journal::pending(&self.layout) {
            if let Work::Adopt { from, to, .. } = work {
                used.extend([from, to]);
            }
        }
        for (name, record) in record::all(&self.layout)? {
            let Ok(record) = record else {
                used.extend(all);
                continue;
            };
            if record.base != *base {
                continue;
            }
            used.insert(record.generation);
            let Some((state, _)) = State::alive(&self.layout, &name) else { continue };
            used.insert(state.generation);
            if state.swapped.is_none() {
                continue;
            }
            // The newest first: what several have is the newest's, which may stay anyway.
            let others: Vec<u64> =
                all.iter().rev().copied().filter(|n| *n != state.generation).collect();
            let dirs: Vec<_> = others.iter().map(|n| self.layout.generation(base, *n)).collect();
            let index = Index::build(&self.layout.generation(base, state.generation), &dirs)?;
            used.extend(audit::in_use(&state.cgroup, &index).into_iter().map(|n| others[n]));
        }
        Ok(used)
    }
}
