//! What coloc does, one transaction a file: takes the locks, joins the modules that know how.

pub mod adopt;
mod apart;
mod autostart;
pub mod bases;
pub mod check;
pub mod conflicts;
pub mod create;
pub mod delete;
pub mod enter;
pub mod events;
mod given;
mod home;
pub mod init;
pub mod inspect;
mod limits;
mod network;
mod notes;
pub mod owners;
pub mod prune;
mod recover;
mod regain;
pub mod report;
pub mod set;
pub mod spec;
pub mod stale;
pub mod start;
pub mod stop;
pub mod supervise;
mod trees;
pub mod unit;
pub mod update;

use crate::error::{Error, Kind, Result};
use crate::request::{Caller, Member, Verb, policy};
use crate::store::{Config, Layout, Name, Record, record};

/// A store that was set up, with its settings.
#[derive(Debug)]
pub struct Engine {
    /// Where everything lies.
    pub layout: Layout,
    /// The admin's settings.
    pub config: Config,
    /// Who asks.
    pub caller: Caller,
}

/// Only root changes or reads the store.
pub fn require_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(policy::admins_only(what))
}

impl Engine {
    /// Opens the store to look at it.
    pub fn open(layout: Layout, what: &str) -> Result<Self> {
        require_root(what)?;
        let config = Config::load(&layout)?;
        Ok(Self { layout, config, caller: Caller::Admin })
    }

    /// Opens the store for a member, in the broker; with `change` what an interrupted command
    /// left is finished or undone.
    pub fn open_for(layout: Layout, member: Member, change: bool) -> Result<Self> {
        let engine = Self::open(layout, "act for members")?;
        if change {
            engine.begin_change();
        }
        Ok(Self { caller: Caller::Member(member), ..engine })
    }

    /// The record of `name`, if the caller may do `verb` to it. Whoever acts on what it says
    /// asks again once nobody can put another container in its place.
    pub fn permit(&self, verb: Verb, name: &Name) -> Result<Record> {
        let record = Record::load(&self.layout, name);
        Ok(policy::decide(&self.caller, verb, name, record)?.into_record())
    }

    /// Every container that is the caller's, with its record or why that cannot be read.
    pub fn own(&self) -> Result<Vec<(Name, Result<Record>)>> {
        let mut all = record::all(&self.layout)?;
        if let Caller::Member(member) = &self.caller {
            all.retain(|(_, r)| r.as_ref().is_ok_and(|r| member.is_among(&r.owners)));
        }
        Ok(all)
    }

    /// Opens the store to change it: what an interrupted command left is finished or undone.
    pub fn open_to_change(layout: Layout, what: &str) -> Result<Self> {
        let engine = Self::open(layout, what)?;
        engine.begin_change();
        Ok(engine)
    }

    /// What comes before a change of anything. Where it cannot be done it stands in nobody's way.
    fn begin_change(&self) {
        if let Err(e) = self.shield_trees() {
            eprintln!("coloc: {e}");
        }
        self.recover();
    }

    /// The base that a command without `--base` means.
    pub fn base_or_default(&self, asked: Option<&str>) -> Result<Name> {
        if let Some(text) = asked {
            return Name::parse("base", text);
        }
        if let Some(name) = &self.config.default_base {
            return Ok(name.clone());
        }
        match record::bases(&self.layout)?.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Error::new(Kind::NotFound, "there is no base yet")
                .hint("make one: coloc base create debian --suite bookworm")),
            many => Err(Error::new(Kind::Usage, "there are several bases")
                .hint(format!("say which: --base {}", join(many, " or --base ")))),
        }
    }

    /// The container that a command without a name means: the caller's only one.
    pub fn container_or_only(&self, asked: Option<&Name>) -> Result<Name> {
        if let Some(name) = asked {
            return Ok(name.clone());
        }
        let own: Vec<Name> = self.own()?.into_iter().map(|(name, _)| name).collect();
        match (own.as_slice(), self.caller.member()) {
            ([only], _) => Ok(only.clone()),
            ([], None) => Err(Error::new(Kind::NotFound, "there is no container yet")
                .hint("make one: coloc create NAME --owner USER")),
            ([], Some(name)) => {
                Err(Error::new(Kind::NotFound, format!("{name} has no container on this host"))
                    .hint(match &self.config.contact {
                        Some(contact) => format!("ask for one: {contact}"),
                        None => "ask the host's admin for one".into(),
                    }))
            }
            (many, None) => Err(Error::new(Kind::Usage, "there are several containers")
                .hint(format!("say which: {}", join(many, ", ")))),
            (many, Some(_)) => Err(Error::new(Kind::Usage, "you have several containers")
                .hint(format!("say which: {}", join(many, ", ")))),
        }
    }

    /// The containers whose record says that they are over `base`.
    pub fn containers_of(&self, base: &Name) -> Result<Vec<Record>> {
        let all = record::all(&self.layout)?;
        Ok(all.into_iter().filter_map(|(_, r)| r.ok()).filter(|r| r.base == *base).collect())
    }
}

fn join(names: &[Name], between: &str) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(between)
}
