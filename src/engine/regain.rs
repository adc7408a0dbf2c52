//! The state of a container that runs and whose `state.json` was lost: made anew of what the kernel
//! says, so that it can be asked to stop, and entered, instead of being killed.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Engine;
use super::supervise::init_word;
use crate::audit;
use crate::error::Result;
use crate::runtime::monitor::{Job, ROLE};
use crate::runtime::{cgroup, swap};
use crate::store::lock::{self, Subject};
use crate::store::record::generations;
use crate::store::running::{Process, State, boot_id};
use crate::store::{Name, Record};
use crate::tree::cgroups;

impl Engine {
    /// [`regain`](Self::regain) for whoever does not hold the container's lock.
    pub(super) fn regain_unlocked(&self, name: &Name) -> Result<()> {
        if self.orphans(name).is_some() {
            // A start may be about to write it down; it holds the lock until then.
            let _lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
            self.regain(name);
        }
        Ok(())
    }

    /// Writes the state of `name` anew, if it runs and none is on record. What cannot be told for
    /// sure is not guessed: then nothing is written. The caller holds the container's lock.
    pub(super) fn regain(&self, name: &Name) {
        let Some(payload) = self.orphans(name) else { return };
        let state = self.find_state(name, &payload);
        if state.is_some_and(|state| state.save(&self.layout, name).is_ok()) {
            eprintln!("coloc: the state of {name} was lost, and is found again");
        }
    }

    fn find_state(&self, name: &Name, payload: &Path) -> Option<State> {
        let record = Record::load(&self.layout, name).ok()?;
        let pids = cgroups::processes(payload);
        let init = pids.into_iter().find(|pid| is_init(*pid, record.ids.start))?;
        let init = Process::now(init)?;
        let pidfd = init.open()?;
        // Only now is it sure that the number was that process's all the time.
        if !is_init(init.pid, record.ids.start) || !cgroups::processes(payload).contains(&init.pid)
        {
            return None;
        }
        let all = generations(&self.layout, &record.base).ok()?;
        let usr = |n: &u64| self.layout.generation(&record.base, *n).join("tree/usr");
        let known: Vec<_> = all.iter().map(usr).collect();
        let generation = match swap::seen(&pidfd, &known) {
            Ok(swap::Seen::Known(at)) => all[at],
            _ => record.generation,
        };
        Some(State {
            boot: boot_id().ok()?.into(),
            init,
            supervisor: self.find_supervisor(name, payload),
            init_kind: init_word(&self.layout, &record, &self.settings(&record).ok()?)?,
            generation,
            // Nobody knows whether it ever was: then there is something to find, or not.
            swapped: audit::moment(),
            asked: BTreeMap::new(),
            cgroup: payload.to_path_buf(),
            cgroups: cgroup::made(&self.layout.id(), name.as_str(), payload),
            started: init.began()?,
        })
    }

    /// The process beside it, by the command line that it was given; number 0 if there is none.
    fn find_supervisor(&self, name: &Name, payload: &Path) -> Process {
        let is_ours = |pid: &i32| {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let word = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_os_string();
            let mut words = text.split(|b| *b == 0).map(word).skip(1);
            words.next().is_some_and(|role| role == ROLE)
                && Job::from_args(words)
                    .is_some_and(|job| job.root == self.layout.root() && job.name == name.as_str())
        };
        // No process of the container's gets into this cgroup.
        let beside = payload.parent().map(|dir| dir.join("supervisor"));
        let pids = beside.map(|dir| cgroups::processes(&dir)).unwrap_or_default();
        let found = pids.into_iter().find(is_ours).and_then(Process::now);
        found.unwrap_or(Process { pid: 0, start: 0 })
    }
}

/// Whether `pid` is process 1 of a pid namespace right below this one, with a container's ids
/// from `start` on. What a member nests inside is further below.
fn is_init(pid: i32, start: u32) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    is_first(&read("status").unwrap_or_default())
        && maps_root_to(&read("uid_map").unwrap_or_default(), start)
}

/// `NSpid:`, with its number here and in each namespace below (proc(5)).
fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers: Vec<&str> = numbers.unwrap_or_default().split_whitespace().collect();
    matches!(numbers.as_slice(), [_, "1"])
}

fn maps_root_to(uid_map: &str, start: u32) -> bool {
    let mut first = uid_map.lines().next().unwrap_or_default().split_whitespace();
    first.next() == Some("0") && first.next() == Some(&start.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_told_from_what_is_nested_in_it() {
        assert!(is_first("Name:\tsystemd\nNSpid:\t4711\t1\nNSpgid:\t4711\t1\n"));
        for status in ["", "NSpid:\t1\n", "NSpid:\t5\t2\n", "NSpid:\t5\t2\t1\n", "NSpid:\n"] {
            assert!(!is_first(status), "{status}");
        }
        assert!(maps_root_to("         0     100000      65536\n", 100_000));
        for map in ["", "0 0 4294967295\n", "0 100001 65536\n", "1 100000 1\n"] {
            assert!(!maps_root_to(map, 100_000), "{map}");
        }
    }
}
