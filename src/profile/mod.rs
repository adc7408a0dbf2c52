//! Profiles: named settings that containers start from, and the OCI runtime spec that the
//! settings become.

mod limits;
mod seccomp;
pub mod spec;

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::store::record::Overrides;
use crate::store::{Layout, Name, atomic};

/// Which init a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitChoice {
    /// The base's own.
    #[default]
    Auto,
    /// coloc's reaper, for a room without services.
    Builtin,
}

/// Which network a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// One of its own, with a loopback.
    #[default]
    Private,
    /// The host's.
    Host,
}

impl InitChoice {
    /// Reads the word of a setting.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "auto" => Ok(Self::Auto),
            "builtin" => Ok(Self::Builtin),
            _ => Err(Error::new(Kind::Usage, format!("{word:?} is no init"))
                .hint("init is auto or builtin")),
        }
    }
}

impl Network {
    /// Reads the word of a setting.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "private" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            _ => Err(Error::new(Kind::Usage, format!("{word:?} is no network"))
                .hint("network is private or host")),
        }
    }

    /// The word of the setting.
    pub fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Host => "host",
        }
    }
}

/// What a profile lets its containers do beyond the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allow {
    /// io_uring(7).
    pub io_uring: bool,
    /// userfaultfd(2).
    pub userfaultfd: bool,
    /// socketcall(2), for the network of 32-bit x86 programs over the GNU C library.
    pub socketcall: bool,
    /// Containers in the container: a /proc and a /sys without masks are kept aside, which the
    /// kernel asks for before it makes new ones.
    pub nesting: bool,
}

/// A profile document; see coloc-profile(5).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is for, in a line.
    #[serde(default)]
    pub description: String,
    /// The init.
    #[serde(default)]
    pub init: InitChoice,
    /// The network.
    #[serde(default)]
    pub network: Network,
    /// What goes beyond the default.
    #[serde(default)]
    pub allow: Allow,
    /// How many processes and threads there may be at most, so that a fork bomb stays inside.
    #[serde(default)]
    pub processes: Processes,
}

/// A number of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Processes(pub std::num::NonZeroU32);

impl Default for Processes {
    fn default() -> Self {
        // A host has 32768 pids by default, and a desktop some 2000 threads.
        const DEFAULT: std::num::NonZeroU32 = std::num::NonZeroU32::MIN.saturating_add(8191);
        Self(DEFAULT)
    }
}

/// What a container runs with: its profile with its own settings over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The init.
    pub init: InitChoice,
    /// The network.
    pub network: Network,
    /// What goes beyond the default.
    pub allow: Allow,
    /// How many processes there may be.
    pub processes: Processes,
}

impl Profile {
    /// Reads the profile `name`: the admin's in /etc before the shipped one.
    pub fn load(layout: &Layout, name: &Name) -> Result<Self> {
        let file = format!("{name}.json");
        for dir in [layout.etc().join("profiles"), shipped_dir().join("profiles")] {
            if let Some(profile) = atomic::read_json(&dir.join(&file))? {
                return Ok(profile);
            }
        }
        Err(Error::new(Kind::NotFound, format!("there is no profile {name}"))
            .hint(format!("profiles there are: {}", known(layout).join(", "))))
    }

    /// This profile's settings with `overrides` over them.
    pub fn settings(&self, overrides: &Overrides) -> Result<Settings> {
        let init = overrides.init.as_deref().map(InitChoice::parse).transpose()?;
        let network = overrides.network.as_deref().map(Network::parse).transpose()?;
        Ok(Settings {
            init: init.unwrap_or(self.init),
            network: network.unwrap_or(self.network),
            allow: self.allow,
            processes: self.processes,
        })
    }
}

/// The names of all profiles.
fn known(layout: &Layout) -> Vec<String> {
    let mut list: Vec<String> = [layout.etc().join("profiles"), shipped_dir().join("profiles")]
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".json")?.to_string()))
        .collect();
    list.sort();
    list.dedup();
    list
}

/// Where the files that come with the program lie: `share/coloc` beside the `bin` it is in.
pub fn shipped_dir() -> PathBuf {
    let exe = crate::sys::image::path().unwrap_or_default();
    let prefix = exe.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    prefix.join("share/coloc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_win_and_bad_words_are_named() {
        let profile = Profile { init: InitChoice::Builtin, ..Profile::default() };
        let none = profile.settings(&Overrides::default()).unwrap();
        let (allow, processes) = (Allow::default(), Processes::default());
        assert_eq!(
            none,
            Settings { init: InitChoice::Builtin, network: Network::Private, allow, processes }
        );
        let some = Overrides { init: Some("auto".into()), network: Some("host".into()) };
        let both = profile.settings(&some).unwrap();
        assert_eq!(
            both,
            Settings { init: InitChoice::Auto, network: Network::Host, allow, processes }
        );
        let bad = Overrides { network: Some("moon".into()), ..Overrides::default() };
        assert!(profile.settings(&bad).unwrap_err().to_string().contains("moon"));
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(serde_json::from_str::<Profile>(r#"{"netwrok":"host"}"#).is_err());
    }
}
