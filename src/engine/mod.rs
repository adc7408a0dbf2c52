//! What coloc does, one transaction a file: takes the locks, joins the modules that know how.

pub mod adopt;
pub mod bases;
pub mod conflicts;
pub mod create;
pub mod delete;
pub mod enter;
pub mod init;
pub mod inspect;
pub mod prune;
mod recover;
pub mod report;
pub mod set;
pub mod stale;
pub mod start;
pub mod stop;
pub mod supervise;
pub mod unit;
pub mod update;

use crate::error::{Error, Kind, Result};
use crate::store::{Config, Layout, Name, Record, record};

/// A store that was set up, with its settings.
#[derive(Debug)]
pub struct Engine {
    /// Where everything lies.
    pub layout: Layout,
    /// The admin's settings.
    pub config: Config,
}

/// Only root changes or reads the store.
pub fn require_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Kind::Denied, format!("only root can {what}")).hint("run it with sudo"))
}

impl Engine {
    /// Opens the store to look at it.
    pub fn open(layout: Layout, what: &str) -> Result<Self> {
        require_root(what)?;
        let config = Config::load(&layout)?;
        Ok(Self { layout, config })
    }

    /// Opens the store to change it: what an interrupted command left is finished or undone.
    pub fn open_to_change(layout: Layout, what: &str) -> Result<Self> {
        let engine = Self::open(layout, what)?;
        engine.recover();
        Ok(engine)
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

    /// The container that a command without a name means: the only one.
    pub fn container_or_only(&self, asked: Option<&str>) -> Result<Name> {
        if let Some(text) = asked {
            return Name::parse("container", text);
        }
        let all: Vec<Name> = record::all(&self.layout)?.into_iter().map(|(n, _)| n).collect();
        match all.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Error::new(Kind::NotFound, "there is no container yet")
                .hint("make one: coloc create NAME --owner USER")),
            many => Err(Error::new(Kind::Usage, "there are several containers")
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
