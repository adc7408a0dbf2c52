//! The home of a container's owner on the host, mounted at the same path inside:
//! `coloc set NAME home=shared`.
//!
//! The owner's uid and main group on the host are those of their account inside, by an id mapping
//! of the mount's own; of nobody else is anything mapped, so their files are nobody's inside and
//! stay untouched. Who is root inside can become the owner there, and so do with this home what
//! the owner can: that is why a container with several owners has no such home.

use std::path::{Component, Path};

use nix::unistd::User;

use super::Engine;
use crate::error::{Error, Kind, Result};
use crate::profile::spec::Home;
use crate::store::{Layout, Record};

/// What is the system's, by the first word of a path.
const SYSTEMS: [&str; 14] = [
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin",
    "sys", "usr",
];

impl Engine {
    /// The home that is to be mounted in `record`'s container, if there is to be one.
    pub(super) fn home_of(&self, record: &Record) -> Result<Option<Home>> {
        let Some(owner) = of_host(&self.layout, record)? else { return Ok(None) };
        let account = self.find_account(record, Some(&owner.name)).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(
                Kind::State,
                format!("{} has no account in {}, and shares its home", owner.name, record.name),
            )
            .hint(format!(
                "coloc set {0} home=private, start it and enter as {1}; then home=shared again",
                record.name, owner.name
            )),
            _ => e,
        })?;
        Ok(Some(Home {
            path: owner.dir,
            uid: (owner.uid.as_raw(), account.user.uid),
            gid: (owner.gid.as_raw(), account.user.gid),
        }))
    }
}

/// The owner whose home on the host is shared with `record`'s container; None if none is.
pub(super) fn of_host(layout: &Layout, record: &Record) -> Result<Option<User>> {
    if !record.shared_home {
        return Ok(None);
    }
    let refuse = |why: String| Error::new(Kind::State, format!("no home can be shared: {why}"));
    let name = match record.owners.as_slice() {
        [one] if !one.starts_with('@') => one,
        _ => {
            return Err(refuse(format!("{} has not one user as its owner", record.name)).hint(
                "whoever is root inside can use such a home as its owner; \
                 give the container one owner, or set home=private",
            ));
        }
    };
    let user = User::from_name(name).ok().flatten();
    let user = user.ok_or_else(|| refuse(format!("{name} is no user of this host")))?;
    if user.uid.is_root() || user.gid.as_raw() == 0 {
        return Err(refuse(format!("{name} is root, or in root's group")));
    }
    if !is_a_home(&user.dir)
        || user.dir.starts_with(layout.state())
        || layout.state().starts_with(&user.dir)
    {
        return Err(refuse(format!("{} is no home of a person's", user.dir.display()))
            .hint("move the home to a directory such as /home/NAME: usermod -m -d"));
    }
    Ok(Some(user))
}

/// Whether nothing of the system's is at `path`, by its words; whose it is, is seen later.
fn is_a_home(path: &Path) -> bool {
    let words: Vec<&str> = path
        .components()
        .skip(1)
        .map(|c| match c {
            Component::Normal(word) => word.to_str().unwrap_or(""),
            _ => "",
        })
        .collect();
    let plain = path.is_absolute() && words.iter().all(|w| !w.is_empty());
    plain
        && match words.as_slice() {
            ["var", "home", _, ..] => true,
            ["var" | "tmp", ..] => false,
            [first, _, ..] => !SYSTEMS.contains(first),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_home_is_told_from_the_systems() {
        for good in ["/home/alice", "/srv/people/a", "/var/home/a", "/data/a"] {
            assert!(is_a_home(Path::new(good)), "{good}");
        }
        for bad in [
            "/",
            "",
            "home/a",
            "/home",
            "/root",
            "/root/a",
            "/etc/a",
            "/usr/local/a",
            "/var/lib/a",
            "/var/home",
            "/proc/1",
            "/dev/shm",
            "/run/user/1",
            "/tmp/a",
            "/home/../etc",
            "/nonexistent",
        ] {
            assert!(!is_a_home(Path::new(bad)), "{bad}");
        }
    }
}
