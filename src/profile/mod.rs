//! Profiles: named settings that containers start from, and the OCI runtime spec that the
//! settings become.
//!
//! ```text
//! defaults (keys)  <-  profile it extends  <-  profile  <-  the container's own  =  Effective
//! ```
//!
//! Each is a document of the same keys; the one to the right wins, lists can be added to.

mod device;
mod item;
mod json;
pub mod keys;
mod layer;
pub mod limits;
mod oci;
pub mod own;
pub mod resources;
mod risk;
pub mod schema;
mod seccomp;
mod settings;
pub mod spec;
pub mod value;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use device::{Device, DeviceKind};
pub use item::{MountIds, MountPoint, Protocol, Publish, Rate};
pub use settings::{
    Allow, Effective, InitChoice, Limits, Mode, Network, Origin, Setting, Settings,
};

use crate::error::{Context, Error, Kind, Result};
use crate::store::record::Overrides;
use crate::store::{Layout, Name};
use json::Node;
use layer::{Document, Entry};
use value::Value;

/// How long a profile can be.
const LIMIT: u64 = 256 * 1024;

/// How many profiles one can be over.
const CHAIN: usize = 16;

/// A profile document; see coloc-profile(5).
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub file: PathBuf,
    entries: Vec<Entry>,
}

impl Profile {
    /// Reads the document in `file`.
    pub fn read(name: Name, file: PathBuf) -> Result<Self> {
        let mut text = String::new();
        let opened =
            std::fs::File::open(&file).context(|| format!("cannot read {}", file.display()))?;
        let meta = opened.metadata().context(|| format!("cannot read {}", file.display()))?;
        opened
            .take(LIMIT + 1)
            .read_to_string(&mut text)
            .context(|| format!("cannot read {}", file.display()))?;
        if text.len() as u64 > LIMIT {
            return Err(Error::new(Kind::Usage, format!("{} is too long", file.display())));
        }
        let entries = Node::parse(&text)
            .and_then(|node| layer::entries(&node, Document::Profile))
            .map_err(|f| own::fault(f, &file.display().to_string()))?;
        let profile = Self { name, file, entries };
        if profile.has_hooks() && !(is_roots(&meta) && dir_is_roots(&profile.file)) {
            let place = profile.file.display();
            return Err(Error::new(Kind::Denied, format!("{place} has hooks, and is not root's"))
                .hint(
                    "root of the host runs them: chown root: and chmod go-w it and its directory",
                ));
        }
        Ok(profile)
    }

    fn word(&self, key: &str) -> &str {
        let entry = self.entries.iter().find(|e| e.key.name == key);
        match entry.map(|e| &e.value) {
            Some(Value::Word(word)) => word,
            _ => "",
        }
    }

    /// What it is for, in a line.
    pub fn description(&self) -> &str {
        self.word("description")
    }

    /// The name of the profile that it is over, if it is over one.
    pub fn extends(&self) -> Option<&str> {
        Some(self.word("extends")).filter(|w| !w.is_empty())
    }

    fn has_hooks(&self) -> bool {
        self.entries.iter().any(|e| matches!(&e.value, Value::Fragment(f) if oci::has_hooks(f)))
    }
}

fn is_roots(meta: &std::fs::Metadata) -> bool {
    meta.uid() == 0 && meta.mode() & 0o022 == 0
}

fn dir_is_roots(file: &Path) -> bool {
    file.parent().and_then(|dir| std::fs::metadata(dir).ok()).is_some_and(|meta| is_roots(&meta))
}

/// A profile with those that it is over, the lowest first.
#[derive(Debug, Clone)]
pub struct Chain(Vec<Profile>);

impl Chain {
    /// Reads the profile `name`: the admin's in /etc before the shipped one.
    pub fn load(layout: &Layout, name: &Name) -> Result<Self> {
        Self::over(layout, Profile::read(name.clone(), find(layout, name, None)?)?)
    }

    /// `top` with the profiles that it is over.
    pub fn over(layout: &Layout, top: Profile) -> Result<Self> {
        let mut chain = vec![top];
        while let Some(below) = chain.last().and_then(Profile::extends) {
            let below = Name::parse("profile", below)?;
            let last = chain.last().filter(|p| p.name == below).map(|p| p.file.clone());
            let file = find(layout, &below, last.as_deref())
                .map_err(|e| e.context(chain_words(&chain)))?;
            if chain.iter().any(|p| p.file == file) || chain.len() == CHAIN {
                return Err(Error::new(
                    Kind::Usage,
                    format!("{}: extends goes in a circle", chain_words(&chain)),
                )
                .hint("a profile cannot be over itself"));
            }
            chain.push(Profile::read(below, file)?);
        }
        chain.reverse();
        Ok(Self(chain))
    }

    /// The profile itself.
    pub fn top(&self) -> Option<&Profile> {
        self.0.last()
    }

    /// The names of the profiles, the lowest first.
    pub fn names(&self) -> Vec<&Name> {
        self.0.iter().map(|p| &p.name).collect()
    }

    /// What a container gets that says nothing itself.
    pub fn effective(&self) -> Effective {
        let mut effective = Effective::defaults();
        for profile in &self.0 {
            effective.put(&profile.entries, |line| Origin::Profile {
                name: profile.name.clone(),
                file: profile.file.clone(),
                line,
            });
        }
        effective
    }

    /// What a container gets that says `own` itself.
    pub fn with(&self, own: &Overrides) -> Result<Effective> {
        let mut effective = self.effective();
        let entries = own::entries(own).map_err(|f| own::fault(f, "its own settings"))?;
        effective.put(&entries, |_| Origin::Container);
        check(&effective.settings())?;
        Ok(effective)
    }
}

fn chain_words(chain: &[Profile]) -> String {
    chain.last().map(|p| p.file.display().to_string()).unwrap_or_default()
}

/// What no single key shows to be impossible.
fn check(settings: &Settings) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(Error::new(Kind::Usage, what).hint(hint));
    let limits = &settings.limits;
    if let (Some(high), Some(most)) = (limits.memory_high, limits.memory) {
        if high > most {
            return refuse(
                "limits.memory.high is more than limits.memory",
                "it is where slowing down begins, below the limit; or max",
            );
        }
    }
    if settings.network.mode == Mode::Host && !settings.network.publish.is_empty() {
        return refuse(
            "network.publish is not for the host's network",
            "on that, ports inside are the host's already: unset network.publish",
        );
    }
    if settings.allow.nesting && !settings.allow.user_namespaces {
        return refuse(
            "allow.nesting needs allow.user_namespaces",
            "containers inside begin with a user namespace",
        );
    }
    Ok(())
}

/// The file of the profile `name`, the admin's before the shipped one; not `above`, which is
/// over it under the same name.
fn find(layout: &Layout, name: &Name, above: Option<&Path>) -> Result<PathBuf> {
    let file = format!("{name}.json");
    let mut places = dirs(layout).into_iter().map(|dir| dir.join(&file));
    places.find(|path| Some(path.as_path()) != above && path.exists()).ok_or_else(|| {
        let names: Vec<String> = known(layout).iter().map(Name::to_string).collect();
        Error::new(Kind::NotFound, format!("there is no profile {name}"))
            .hint(format!("profiles there are: {}", names.join(", ")))
    })
}

fn dirs(layout: &Layout) -> [PathBuf; 2] {
    [layout.etc().join("profiles"), shipped_dir().join("profiles")]
}

/// The names of all profiles.
pub fn known(layout: &Layout) -> Vec<Name> {
    let mut list: Vec<Name> = dirs(layout)
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".json")?.to_string()))
        .filter_map(|name| Name::parse("profile", &name).ok())
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
    // What tests write need not survive a crash.
    #![allow(clippy::disallowed_methods)]
    use super::*;

    /// A store with these profiles of the admin's.
    fn with_profiles(word: &str, profiles: &[(&str, &str)]) -> Layout {
        let root =
            std::env::temp_dir().join(format!("coloc-profile-{word}-{}", std::process::id()));
        let dir = root.join("etc/coloc/profiles");
        std::fs::create_dir_all(&dir).unwrap();
        for (name, text) in profiles {
            std::fs::write(dir.join(format!("{name}.json")), text).unwrap();
        }
        Layout::new(root)
    }

    fn load(layout: &Layout, name: &str) -> Result<Chain> {
        Chain::load(layout, &Name::parse("profile", name).unwrap())
    }

    #[test]
    fn the_nearer_wins_and_lists_are_added_to() {
        let layout = with_profiles(
            "chain",
            &[
                ("a", r#"{"init": "builtin", "limits": {"pids": 5}, "devices": ["/dev/fuse"]}"#),
                ("b", r#"{"extends": "a", "limits": {"pids": 6}, "devices+": ["/dev/kvm"]}"#),
                ("c", r#"{"extends": "c"}"#),
                ("d", r#"{"extends": "e"}"#),
                ("e", r#"{"extends": "d"}"#),
                ("f", "{\n\"init\": 5}"),
            ],
        );
        let chain = load(&layout, "b").unwrap();
        let own = Overrides::from([("limits.pids".to_string(), serde_json::json!(7))]);
        let effective = chain.with(&own).unwrap();
        let settings = effective.settings();
        assert_eq!((settings.init, settings.limits.pids), (InitChoice::Builtin, Some(7)));
        assert_eq!(settings.devices.len(), 2);
        let origin =
            |key: &str| effective.get(keys::find(key).unwrap()).unwrap().origin.to_string();
        assert_eq!(origin("limits.pids"), "container");
        assert!(origin("init").starts_with("profile a, "), "{}", origin("init"));
        assert!(origin("devices").ends_with("b.json:1"));
        assert_eq!(origin("autostart"), "default");
        assert_eq!(load(&layout, "c").unwrap_err().kind(), Kind::NotFound);
        assert!(load(&layout, "d").unwrap_err().to_string().contains("circle"));
        assert!(load(&layout, "f").unwrap_err().to_string().contains("f.json:2: init"));
        std::fs::remove_dir_all(layout.root()).unwrap();
    }

    #[test]
    fn what_cannot_be_together_is_refused() {
        let layout = with_profiles("together", &[("p", r#"{"limits": {"memory": "1G"}}"#)]);
        let chain = load(&layout, "p").unwrap();
        for own in [
            serde_json::json!({"limits.memory.high": "2G"}),
            serde_json::json!({"network": "host", "network.publish": ["80:80"]}),
            serde_json::json!({"allow.nesting": true, "allow.user_namespaces": false}),
            serde_json::json!({"nonsense": 1}),
        ] {
            let own: Overrides = serde_json::from_value(own).unwrap();
            assert_eq!(chain.with(&own).unwrap_err().kind(), Kind::Usage, "{own:?}");
        }
        std::fs::remove_dir_all(layout.root()).unwrap();
    }

    #[test]
    fn shipped_profiles_are_right() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "json") {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                let profile = Profile::read(Name::parse("profile", stem).unwrap(), path).unwrap();
                assert!(!profile.description().is_empty());
            }
        }
    }
}
