//! The admin's settings, `/etc/coloc/coloc.json`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::record::RANGE;
use super::{Layout, Name, atomic};
use crate::error::{Context, Error, Kind, Result};

/// What `coloc init` writes and an admin may edit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool that containers' id ranges come from, the same as in /etc/subuid.
    pub ids: Pool,
    /// The base of `coloc create` without `--base`; the only base there is, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_base: Option<Name>,
    /// The profile of `coloc create` without `--profile`.
    #[serde(default = "default_profile")]
    pub default_profile: Name,
    /// Whom a member writes to when something does not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Whether `ssh -A` of a member whose shell is coloc-shell reaches into their container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent: bool,
    /// The network that containers are on.
    #[serde(default, skip_serializing_if = "NetworkConfig::is_default")]
    pub network: NetworkConfig,
}

/// What an admin can say of the network of containers; the rest follows from the store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// The name of the bridge that coloc makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The range of IPv4 addresses, such as `10.5.0.0/20`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// The range of IPv6 addresses, or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// What containers' names end in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Whether their names may be put into the host's /etc/hosts.
    pub hosts: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { bridge: None, ipv4: None, ipv6: None, domain: None, hosts: true }
    }
}

impl NetworkConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A run of uids, and the same run of gids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The first id.
    pub start: u32,
    /// How many there are.
    pub count: u32,
}

impl Pool {
    /// Why containers cannot have these ids, if they cannot.
    fn fault(self) -> Option<&'static str> {
        if self.start < RANGE {
            Some("it begins among the host's own users")
        } else if self.start.checked_add(self.count).is_none() {
            Some("it ends after the last id that there is")
        } else {
            None
        }
    }
}

fn default_profile() -> Name {
    // A literal that is a name; the test below would fail otherwise.
    Name::parse("profile", "member").unwrap_or_else(|_| unreachable!())
}

impl Config {
    /// A config with the pool and nothing else set.
    pub fn new(ids: Pool) -> Self {
        Self {
            ids,
            default_base: None,
            default_profile: default_profile(),
            contact: None,
            agent: false,
            network: NetworkConfig::default(),
        }
    }

    /// Reads the config of a store that `coloc init` has set up, and checks that only root
    /// could have written its state.
    pub fn load(layout: &Layout) -> Result<Self> {
        check_owner(layout)?;
        let path = layout.config();
        let config: Option<Self> = atomic::read_json(&path)?;
        let config = config.ok_or_else(|| {
            let root = match layout.is_default() {
                true => String::new(),
                false => format!("--root {} ", layout.root().display()),
            };
            Error::new(Kind::State, "this host is not set up for coloc")
                .hint(format!("run: coloc {root}init"))
        })?;
        match config.ids.fault() {
            None => Ok(config),
            Some(why) => Err(Error::new(
                Kind::Usage,
                format!("{}: the pool of ids cannot be this one: {why}", path.display()),
            )
            .hint("write start and count there as in the line coloc:START:COUNT of /etc/subuid")),
        }
    }
}

/// Refuses a store that somebody other than root could change: with it they could make coloc do
/// as they please. That is its directories and the config, and what leads to them: whoever can
/// rename a directory above can put another in its place.
pub fn check_owner(layout: &Layout) -> Result<()> {
    let places = [layout.state(), layout.etc(), layout.run()];
    let mut above: Vec<&Path> = places.iter().flat_map(|dir| dir.ancestors().skip(1)).collect();
    above.sort_unstable();
    above.dedup();
    for dir in above {
        // A link among them leads where root has said, as root's directory holds it.
        check_place(dir, std::fs::metadata(dir), Place::Above)?;
    }
    for dir in &places {
        check_place(dir, std::fs::symlink_metadata(dir), Place::Ours)?;
    }
    let config = layout.config();
    check_place(&config, std::fs::metadata(&config), Place::File)
}

/// What is looked at by [`check_place`].
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// A directory that leads to the store.
    Above,
    /// A directory of the store.
    Ours,
    /// A file of it.
    File,
}

fn check_place(path: &Path, meta: std::io::Result<std::fs::Metadata>, place: Place) -> Result<()> {
    let meta = match meta {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("cannot read {}", path.display())),
    };
    // In a directory as /tmp is, nobody renames or removes what is root's.
    let kept = place == Place::Above && meta.mode() & libc::S_ISVTX != 0;
    let why = if place != Place::File && !meta.is_dir() {
        "is not a directory".into()
    } else if place == Place::File && !meta.is_file() {
        "is not a file".into()
    } else if meta.uid() != 0 {
        format!("belongs to uid {}, not to root", meta.uid())
    } else if meta.mode() & 0o022 != 0 && !kept {
        format!("can be written by others than root (mode {:04o})", meta.mode() & 0o7777)
    } else {
        return Ok(());
    };
    let what = if place == Place::File { "file" } else { "directory" };
    Err(Error::new(Kind::State, format!("{} {why}", path.display())).hint(match place {
        Place::Above => "a store is only safe below directories of root's: put it into another \
                         one, or chown root: and chmod go-w that directory"
            .to_string(),
        _ => format!(
            "find out how that came about, then: chown root:root and chmod go-w that {what}"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_needs_only_its_ids() {
        let c: Config = serde_json::from_str(r#"{"ids":{"start":5,"count":9}}"#).unwrap();
        assert_eq!(c, Config::new(Pool { start: 5, count: 9 }));
        assert_eq!(c.default_profile.as_str(), "member");
    }

    #[test]
    fn a_pool_has_no_ids_of_the_hosts_users() {
        for (start, count, good) in [
            (0, 65536, false),
            (1000, 65536, false),
            (65535, 65536, false),
            (65536, 65536, true),
            (0x7000_0000, 65_536_000, true),
            (u32::MAX - 65535, 65536, false),
        ] {
            assert_eq!(Pool { start, count }.fault().is_none(), good, "{start} {count}");
        }
    }
}
