//! Files that a tool has made out of others: the bundle of CA certificates, the cache of
//! libraries. Where they are made of the same as the base's, the base's are taken; running the
//! tool once for each container would take longer than all the rest.

use super::Inside;
use super::class::{CA_INPUTS, Class, LD_INPUTS};
use super::decide::{Found, Scan};
use super::delta::below;
use super::look::Kind;
use super::merge::Mine;
use crate::error::Result;
use crate::tree::manifest::Entry;

impl Scan<'_> {
    /// Files that a tool has made: the base's are as good if they are made of the same.
    pub(super) fn generated(&mut self) -> Result<()> {
        let all = std::mem::take(&mut self.generated);
        let (cache, certs): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|f| f.change.class == Class::LdCache);
        let untouched = |f: &Found<'_>| {
            f.mine == Mine::Old
                || f.mine == Mine::New
                || f.mine == Mine::Absent && f.change.old.is_none()
        };
        if !certs.is_empty() {
            if certs.iter().all(untouched) && self.equal_inputs(&CA_INPUTS)? {
                for found in &certs {
                    self.merge(found)?;
                }
            } else {
                self.draft.inside.insert(Inside::CaCertificates);
            }
        }
        for found in cache.iter().filter(|f| f.seen.is_some() && f.mine != Mine::New) {
            if self.equal_inputs(&LD_INPUTS)? && !self.has_libraries()? {
                self.take(found);
            } else {
                self.draft.inside.insert(Inside::Ldconfig);
            }
        }
        Ok(())
    }

    /// Whether all below `roots` will be as in the new generation.
    fn equal_inputs(&mut self, roots: &[&str]) -> Result<bool> {
        let delta = self.delta;
        let inputs = delta.inputs.iter();
        for (path, entry) in inputs.filter(|(path, _)| roots.iter().any(|root| below(path, root))) {
            let as_new = match self.as_new.get(path.as_str()) {
                Some(as_new) => *as_new,
                None => self.is_as_in(path, entry)?,
            };
            if !as_new {
                return Ok(false);
            }
        }
        let mut todo: Vec<String> = roots.iter().map(|r| (*r).to_string()).collect();
        // A member can make directories without end.
        let mut left = 1000;
        while let Some(dir) = todo.pop() {
            let seen = self.tree.look(&dir)?;
            let is_dir = seen.as_ref().is_some_and(|s| s.kind == Kind::Dir);
            self.draft.inputs.push((dir.clone(), seen));
            if !is_dir {
                // Behind a link there may be anything.
                if !delta.inputs.contains_key(&dir) && self.tree.link_on(&dir)?.is_some() {
                    return Ok(false);
                }
                continue;
            }
            let Some(names) = self.tree.names(&dir, left)? else { return Ok(false) };
            left -= names.len();
            for name in names {
                let path = format!("{dir}/{name}");
                let is_dir = self.tree.look(&path)?.is_some_and(|s| s.kind == Kind::Dir);
                let known = delta.inputs.contains_key(&path);
                if is_dir {
                    todo.push(path);
                } else if !known && self.as_new.get(path.as_str()) != Some(&true) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn is_as_in(&mut self, path: &str, entry: &Entry) -> Result<bool> {
        let Some(spot) = self.tree.spot(path)? else { return Ok(false) };
        let seen = spot.look()?;
        let same = match &seen {
            Some(seen) => spot.same_as(seen, [Some(entry), None])?[0],
            None => false,
        };
        self.draft.inputs.push((path.into(), seen));
        Ok(same)
    }

    /// Whether the container has libraries of its own where ldconfig looks.
    fn has_libraries(&mut self) -> Result<bool> {
        for dir in &self.delta.library_dirs {
            let seen = self.tree.look(dir)?;
            self.draft.inputs.push((dir.clone(), seen));
            let names = self.tree.names(dir, 10_000)?;
            if names.is_none_or(|names| names.iter().any(|n| n.contains(".so"))) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
