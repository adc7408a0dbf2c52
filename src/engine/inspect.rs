//! `coloc list` and `coloc status`: looks, takes no lock, changes nothing.

use super::Engine;
use super::supervise::init_word;
use crate::audit;
use crate::error::Result;
use crate::network::sockets;
use crate::request::Verb;
use crate::runtime::{cgroup, label};
use crate::status::{Condition, Detail, Row, seconds_since};
use crate::store::running::State;
use crate::store::{Name, Record, record};
use crate::tree;

impl Engine {
    /// A row for every container, by name.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let all = self.own()?;
        // A manifest that cannot be read must not keep the list from being shown.
        let stale = self.stale(None).unwrap_or_default();
        let count = |name: &Name| {
            audit::processes_in(stale.iter().filter(|s| s.container == name.as_str()))
        };
        Ok(all.iter().map(|(name, record)| self.row(name, record, count(name))).collect())
    }

    /// Everything about every container.
    pub fn details(&self) -> Result<Vec<Detail>> {
        let all = self.own()?;
        Ok(all.iter().map(|(name, record)| self.detail_of(name, record)).collect())
    }

    /// Everything about `name`.
    pub fn detail(&self, name: &Name) -> Result<Detail> {
        let detail = self.detail_of(name, &Ok(self.permit(Verb::Status, name)?));
        // Meanwhile it may have become somebody else's.
        self.permit(Verb::Status, name)?;
        Ok(detail)
    }

    fn row(&self, name: &Name, record: &Result<Record>, stale: usize) -> Row {
        let alive = State::alive(&self.layout, name);
        let lost = if alive.is_none() { self.refuse_orphans(name).err() } else { None };
        let state = match (&alive, record) {
            (_, Err(_)) => Condition::Damaged,
            (None, _) if lost.is_some() => Condition::Damaged,
            (None, _) => Condition::Stopped,
            (Some((s, _)), _) if cgroup::frozen(&s.cgroup) => Condition::Frozen,
            _ => Condition::Running,
        };
        let record_ok = record.as_ref().ok();
        let settings = record_ok.and_then(|r| self.settings(r).ok());
        let init = match (&alive, record_ok, &settings) {
            (Some((s, _)), ..) => Some(s.init_kind.clone()),
            (None, Some(r), Some(settings)) => init_word(&self.layout, r, settings),
            _ => None,
        };
        Row {
            name: name.clone(),
            state,
            pid: alive.as_ref().map(|(s, _)| s.init.pid),
            base: record_ok.map(|r| r.base.clone()),
            generation: record_ok.map(|r| r.generation),
            current_generation: record_ok
                .and_then(|r| record::current_generation(&self.layout, &r.base).ok()),
            owners: record_ok.map(|r| r.owners.clone()).unwrap_or_default(),
            init,
            profile: record_ok.map(|r| r.profile.clone()),
            network: settings.map(|s| s.network.mode.word()),
            addresses: record_ok.map(|r| self.addresses(r)).unwrap_or_default(),
            hold: record_ok.is_some_and(|r| r.hold),
            stale,
            damage: record.as_ref().err().or(lost.as_ref()).map(ToString::to_string),
        }
    }

    fn detail_of(&self, name: &Name, record: &Result<Record>) -> Detail {
        let stale = self.stale(Some(name)).map_or(0, |s| audit::processes_in(s.iter()));
        let row = self.row(name, record, stale);
        let alive = State::alive(&self.layout, name).map(|(state, _)| state);
        let init = alive.as_ref().map(|s| s.init.pid);
        let label = init.and_then(label::of).map(|l| ("AppArmor", l));
        let label = label.or_else(|| Some(("SELinux", init.and_then(label::selinux_of)?)));
        let (security_module, label) = label.unzip();
        let private = self.layout.private(name);
        let record = record.as_ref().ok();
        let mut usage = self.usage(name, record);
        usage.disk = usage.disk.or_else(|| tree::disk_use(&private));
        Detail {
            started: alive.as_ref().map(|s| s.started.clone()),
            uptime_seconds: alive.as_ref().and_then(|s| seconds_since(&s.started)),
            usage,
            limits: alive.as_ref().and_then(|s| self.allowance(s)),
            fixes_missing: record
                .filter(|r| r.hold)
                .and_then(|r| self.fixes_missing(&r.base, r.generation).ok()),
            conflicts: self
                .conflicts(name)
                .map(|list| list.into_iter().map(|c| c.path).collect())
                .unwrap_or_default(),
            full_name: record.and_then(|r| self.name_on_network(r)),
            published: record
                .and_then(|r| self.member_of(r).ok()?)
                .map(|m| m.publish.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            sockets: sockets::shown(&self.layout, name)
                .then(|| self.layout.sockets().join(name.as_str()).display().to_string()),
            ids: record.map(|r| r.ids),
            machine_id: record.map(|r| r.machine_id.clone()),
            supervisor_pid: alive
                .as_ref()
                .filter(|s| s.supervisor.open().is_some())
                .map(|s| s.supervisor.pid),
            cgroup: alive.as_ref().map(|s| s.cgroup.display().to_string()),
            security_module,
            label,
            path: private.display().to_string(),
            row,
        }
    }
}
