//! Limits of a container, and what it uses of them.

use std::io::Read;
use std::path::Path;

use super::{Engine, unit};
use crate::error::Result;
use crate::profile::limits::of_users;
use crate::profile::{Setting, Settings};
use crate::runtime::resources::{self, Resources};
use crate::runtime::{held, probe};
use crate::status::top::Sample;
use crate::store::running::State;
use crate::store::usage::{Allowance, Usage};
use crate::store::{Name, Record};
use crate::sys::{clock, mountinfo};
use crate::tree::quota;

impl Engine {
    /// What `record`'s container can use up once `changed` counts, if that is another than
    /// before; an error where this host cannot keep to it. What is counted by the disk itself is
    /// changed at once.
    pub(super) fn limits_changed(
        &self,
        record: &Record,
        changed: &[Setting],
    ) -> Result<Option<Resources>> {
        let of_limits = |s: &Setting| {
            s.key.name.starts_with("limits.")
                || matches!(s.key.name, "oci" | "profile" | "mounts" | "devices")
        };
        if !changed.iter().any(of_limits) {
            return Ok(None);
        }
        let (_, plan, _) = self.plan_with(record, None)?;
        let files: Vec<&str> = changed.iter().filter_map(|s| file_of(s.key.name)).collect();
        plan.resources.possible(&files)?;
        self.limit_disk(record, &self.settings(record)?)?;
        Ok(Some(plan.resources))
    }

    /// Has what runs of `name` keep to `resources` from here on.
    pub(super) fn limit(&self, name: &Name, resources: &Resources) -> Result<()> {
        match State::alive(&self.layout, name) {
            Some((state, _)) => resources
                .apply(&state.cgroup, &state.cgroups)
                .and_then(|()| self.share(name, &state.cgroup, resources))
                .map_err(|e| e.context(format!("{name} keeps old limits until it is restarted"))),
            None => Ok(()),
        }
    }

    /// Has systemd know the shares of a container that is a unit of it.
    pub(super) fn share(&self, name: &Name, payload: &Path, resources: &Resources) -> Result<()> {
        unit::shares(&self.layout, name, payload, resources.shares(), resources::WEIGHT)
    }

    /// Lets all of a container take as much of the disk as its settings say. The first limit
    /// walks through the whole tree, in which nothing may move: what runs stands still meanwhile.
    pub(super) fn limit_disk(&self, record: &Record, settings: &Settings) -> Result<()> {
        let dir = self.layout.container(&record.name);
        let most = settings.limits.disk;
        let walks = most.is_some() && !quota::is_of(&dir, record.ids.start);
        let limit = || quota::limit(&dir, record.ids.start, most);
        let limited = match State::alive(&self.layout, &record.name) {
            Some((state, _)) if walks => {
                held::while_still(&state, &self.layout.run_of(&record.name), limit)
            }
            _ => limit(),
        };
        limited.map_err(|e| e.context(format!("cannot limit the disk of {}", record.name)))
    }

    /// What a container uses, and may: nothing but the disk of one that does not run.
    pub(super) fn usage(&self, name: &Name, record: Option<&Record>) -> Usage {
        let state = State::alive(&self.layout, name).map(|(state, _)| state);
        let mut usage = state.map_or(Usage::default(), |s| {
            resources::usage(&s.cgroup, &s.cgroups, Some(s.init.pid))
        });
        let disk = record.and_then(|r| quota::usage(&self.layout.container(name), r.ids.start));
        if let Some(disk) = disk {
            (usage.disk, usage.disk_max) = (Some(disk.bytes), disk.most);
        }
        usage
    }

    /// What the container that `state` is of may have, by the kernel's word on its init.
    pub(super) fn allowance(&self, state: &State) -> Option<Allowance> {
        let init = state.init.open()?;
        let proc = Path::new("/proc").join(state.init.pid.to_string());
        let mut allowed = Allowance::default();
        allowed.read_limits(&std::fs::read_to_string(proc.join("limits")).ok()?);
        let mut mounts = Vec::new();
        let file = std::fs::File::open(proc.join("mountinfo"));
        file.and_then(|f| f.take(mountinfo::LIMIT).read_to_end(&mut mounts)).ok()?;
        allowed.read_mounts(&mounts);
        let names = of_users();
        let found = probe::user_limits(&init, &names).ok()?;
        let known = names.iter().zip(found);
        allowed.users = known.filter_map(|(n, v)| Some((n.to_string(), v?.into()))).collect();
        // What was read by number was its init's only if that still lives.
        state.init.open().map(|_| allowed)
    }

    /// A line of `coloc top` for each of the caller's containers.
    pub fn samples(&self) -> Result<Vec<Sample>> {
        let at = clock::now();
        let own = self.own()?;
        let rows = self.rows()?;
        let sample = |row: crate::status::Row| {
            let record =
                own.iter().find(|(n, _)| *n == row.name).and_then(|(_, r)| r.as_ref().ok());
            let host = row.network.as_deref() == Some("host");
            let mut usage = self.usage(&row.name, record);
            if host {
                // All of the host's is not what it has sent.
                (usage.received, usage.sent) = (None, None);
            }
            Sample { name: row.name, state: row.state, stale: row.stale, at, usage }
        };
        Ok(rows.into_iter().map(sample).collect())
    }
}

/// The file of cgroup v2 that a setting ends in.
fn file_of(key: &str) -> Option<&'static str> {
    Some(match key {
        "limits.memory" => "memory.max",
        "limits.memory.high" => "memory.high",
        "limits.swap" => "memory.swap.max",
        "limits.cpu" => "cpu.max",
        "limits.cpu.weight" => "cpu.weight",
        "limits.cpus" => "cpuset.cpus",
        "limits.pids" => "pids.max",
        "limits.io.weight" => "io.weight",
        key if key.starts_with("limits.io.") => "io.max",
        _ => return None,
    })
}
