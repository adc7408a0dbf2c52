//! Containers on the network: joins settings, records and [`crate::network`].

use std::net::IpAddr;

use super::Engine;
use crate::error::{Error, Kind, Result};
use crate::network::plan::Member;
use crate::network::{self, Admitted, House, Proto, Publish, Wish, listening, sockets};
use crate::profile::{self, Mode, Protocol, Setting, Settings};
use crate::runtime::label;
use crate::runtime::plan::HostFacts;
use crate::status::check::{Check, Verdict};
use crate::store::lock::{self, Subject};
use crate::store::running::State;
use crate::store::{Name, Record, ids, record};

/// A port of the host's, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Port {
    /// The container.
    pub name: Name,
    /// `[ADDRESS:]PORT:INSIDE/PROTOCOL`.
    pub publish: Publish,
    /// Whether it leads there now: the container runs.
    pub active: bool,
}

fn published(settings: &Settings) -> Vec<Publish> {
    let one = |p: &profile::Publish| Publish {
        address: p.address.filter(|a| !a.is_unspecified()),
        port: p.host,
        inside: p.inside,
        proto: match p.protocol {
            Protocol::Tcp => Proto::Tcp,
            Protocol::Udp => Proto::Udp,
        },
    };
    settings.network.publish.iter().map(one).collect()
}

/// How these settings have a container connected; None if coloc gives it nothing.
fn mode_of(settings: &Settings) -> Option<network::Mode> {
    Some(match &settings.network.mode {
        Mode::Host | Mode::None => return None,
        Mode::Private => network::Mode::Private { neighbours: settings.network.neighbours },
        Mode::Bridge(name) => network::Mode::Bridge(name.clone()),
        Mode::Macvlan(name) => network::Mode::Macvlan(name.clone()),
    })
}

impl Engine {
    /// The network of this store.
    pub fn house(&self) -> Result<House<'_>> {
        House::open(&self.layout, &self.config.network)
    }

    /// What `record`'s container is to have on the network; None if coloc gives it nothing there.
    fn wish(&self, record: &Record, settings: &Settings) -> Option<Wish> {
        Some(Wish {
            name: record.name.clone(),
            slot: ids::slot_of(self.config.ids, record.ids)?,
            mode: mode_of(settings)?,
            publish: published(settings),
        })
    }

    /// What a container has on the network, or would have if it started now.
    pub fn member_of(&self, record: &Record) -> Result<Option<Member>> {
        let wish = self.wish(record, &self.settings(record)?);
        wish.map(|wish| self.house()?.would_be(&wish)).transpose()
    }

    /// The addresses that coloc gives a container.
    pub(super) fn addresses(&self, record: &Record) -> Vec<IpAddr> {
        let member = self.member_of(record).ok().flatten();
        member.map(|m| m.addresses()).unwrap_or_default()
    }

    /// The name by which the host and other containers find it.
    pub(super) fn name_on_network(&self, record: &Record) -> Option<String> {
        let private = self.member_of(record).ok().flatten()?.is_private();
        private.then(|| Some(self.house().ok()?.net.full_name(&record.name))).flatten()
    }

    /// Makes room on the network, and a place for its sockets, for a container that is to start.
    pub(super) fn admit(&self, record: &Record) -> Result<Option<Admitted>> {
        let wish = self.wish(record, &self.settings(record)?);
        let admitted = wish.map(|wish| self.house()?.admit(&wish)).transpose()?;
        sockets::show(&self.layout, &record.name, record.ids.start)?;
        Ok(admitted)
    }

    /// Waits until what [`admit`](Self::admit) has begun is there.
    pub(super) fn complete(&self, admitted: &mut Admitted) -> Result<()> {
        self.house()?.complete(admitted)
    }

    /// Has the host know the container's name, and lets others change the network.
    pub(super) fn announce(&self, admitted: Option<Admitted>) {
        if let (Some(admitted), Ok(house)) = (admitted, self.house()) {
            house.announce(admitted);
        }
    }

    /// Takes a container that has ended off the network. What cannot be done now is told, and left
    /// for the next command: it keeps nothing from going on.
    pub(super) fn off_network(&self, name: &Name) {
        let left = self.house().and_then(|house| house.leave(name));
        let hidden = sockets::hide(&self.layout, name);
        for e in [left, hidden].into_iter().filter_map(Result::err) {
            eprintln!("coloc: {name} is not off the network yet: {e}");
        }
    }

    /// Takes off what containers that died without a supervisor, or commands that were killed,
    /// have left.
    pub(super) fn recover_network(&self) {
        if let Err(e) = self.house().and_then(|house| house.recover()) {
            eprintln!("coloc: cannot clean up the network: {e}");
        }
        sockets::sweep(&self.layout, &|name| {
            State::alive(&self.layout, name).is_some()
                // Whoever starts or stops it has its lock.
                || !matches!(
                    lock::try_exclusive(&self.layout, &Subject::Container(name.clone())),
                    Ok(Some(_))
                )
        });
    }

    /// What a container may know of the host.
    pub(super) fn host_facts(&self, record: &Record, settings: &Settings) -> Result<HostFacts> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mut facts = HostFacts {
            os_release: read("/etc/os-release"),
            selinux: label::kernel_has_selinux(),
            ..HostFacts::default()
        };
        if settings.network.mode == Mode::Host {
            facts.resolv_conf = read("/etc/resolv.conf");
        }
        if let Some(wish) = self.wish(record, settings) {
            let house = self.house()?;
            let private = settings.network.mode == Mode::Private;
            facts.resolv_conf = house.resolv_conf(private);
            if private {
                facts.networkd = house.networkd(&house.would_be(&wish)?);
            }
        }
        Ok(facts)
    }

    /// Whether a running container's network is what was set up for it.
    pub(super) fn network_row(&self, name: &Name) -> Check {
        const WHAT: &str = "network";
        let looked = self.house().and_then(|house| match house.member(name) {
            None => Ok(None),
            Some(member) => house.look(&member).map(|look| Some((member, look))),
        });
        let (member, look) = match looked {
            Ok(Some(found)) => found,
            Ok(None) => return Check::new(WHAT, Verdict::Note, "none that coloc makes"),
            Err(e) => return Check::new(WHAT, Verdict::Unknown, e.to_string()),
        };
        if !look.missing.is_empty() {
            return Check::new(WHAT, Verdict::Bad, format!("missing: {}", look.missing.join(", ")))
                .hint("somebody removed it: coloc network --reload, or a restart");
        }
        if !look.closed.is_empty() {
            let found = format!("dropped by the host's firewall: {}", look.closed.join(", "));
            return Check::new(WHAT, Verdict::Bad, found).hint("coloc network --reload opens it");
        }
        let addresses: Vec<String> = member.addresses().iter().map(ToString::to_string).collect();
        match look.names {
            Some(why) => Check::new(WHAT, Verdict::Note, format!("no names: {why}"))
                .hint("names need dnsmasq: apt-get install dnsmasq-base; coloc network --reload"),
            None if addresses.is_empty() => Check::new(WHAT, Verdict::Good, member.device),
            None => Check::new(WHAT, Verdict::Good, addresses.join(", ")),
        }
    }

    /// Every published port of every container.
    pub fn ports(&self) -> Result<Vec<Port>> {
        let mut list = Vec::new();
        for (name, record) in record::all(&self.layout)? {
            // One that is damaged has no ports that could be told.
            let Ok(settings) = record.and_then(|r| self.settings(&r)) else { continue };
            let active = State::alive(&self.layout, &name).is_some();
            list.extend(published(&settings).into_iter().map(|publish| Port {
                name: name.clone(),
                publish,
                active,
            }));
        }
        Ok(list)
    }

    /// Refuses ports of `record`'s container that somebody else has, and settings that do not go
    /// together.
    pub(super) fn check_network(&self, record: &Record, changed: &[Setting]) -> Result<()> {
        if !changed.iter().any(|s| s.key.name.starts_with("network.")) {
            return Ok(());
        }
        let settings = self.settings(record)?;
        let wanted = published(&settings);
        if let (true, Some(port)) = (settings.network.mode != Mode::Private, wanted.first()) {
            return Err(network::plan::no_ports(&record.name, port));
        }
        if changed.iter().any(|s| s.key.name == "network.mode") {
            let there = mode_of(&settings).as_ref().map_or(Ok(()), network::check_device);
            there.map_err(|e| e.context("network.mode"))?;
        }
        for (n, port) in wanted.iter().enumerate() {
            if let Some(other) = wanted[..n].iter().find(|other| other.meets(port)) {
                return Err(Error::new(Kind::Usage, format!("{other} and {port} are one port")));
            }
        }
        let others = if wanted.is_empty() { Vec::new() } else { self.ports()? };
        for port in &wanted {
            let taken = others.iter().find(|o| o.name != record.name && o.publish.meets(port));
            if let Some(other) = taken {
                return Err(Error::new(
                    Kind::State,
                    format!("port {} of the host is {}'s", other.publish.port, other.name),
                )
                .hint("choose another one; coloc publish --list shows those that are taken"));
            }
            let had = others.iter().any(|o| o.name == record.name && o.publish.meets(port));
            if !had && listening(port) {
                return Err(Error::new(
                    Kind::State,
                    format!("a program of the host's listens on port {port}"),
                )
                .hint("choose another port or --address; ss -lnp shows who listens"));
            }
        }
        let had = |p: &&Publish| others.iter().any(|o| o.name == record.name && o.publish == **p);
        let new: Vec<Publish> = wanted.iter().filter(|p| !had(p)).cloned().collect();
        self.house()?.check_ports(&new)?;
        // A range that is too small, or a bridge's name that cannot be, is told now.
        self.member_of(record).map(drop)
    }

    /// Has a running container's ports and neighbours be what its settings say.
    pub(super) fn network_takes_effect(&self, record: &Record, changed: &[Setting]) -> Result<()> {
        let is = |key: &str| changed.iter().any(|s| s.key.name == key);
        let settings = self.settings(record)?;
        if settings.network.mode != Mode::Private {
            return Ok(());
        }
        let house = self.house()?;
        // One that was started with another network has no ports until its next start.
        let private = house.member(&record.name).is_some_and(|m| m.is_private());
        if is("network.publish") && private {
            house.publish(&record.name, &published(&settings))?;
        }
        if is("network.neighbours") && private {
            house.neighbours(&record.name, settings.network.neighbours)?;
        }
        Ok(())
    }
}
