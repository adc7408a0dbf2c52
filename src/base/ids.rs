//! System accounts of a base: ids below 500, no passwords.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Uid, XattrFlags, chownat, lgetxattr, lsetxattr};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::Named;
use crate::tree::accounts::{Accounts, BASE_FIRST, Moves, ids_of};
use crate::tree::inside::Inside;
use crate::tree::manifest::{CAPABILITY, walk};

/// Ids that containers gave away privately: no account of the base may get one of them.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// User ids, with words such as `ssl-cert in alice`.
    pub users: BTreeMap<u32, String>,
    /// Group ids, the same.
    pub groups: BTreeMap<u32, String>,
}

/// What the ids of a new generation have to keep to.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules<'a> {
    /// The accounts of the generation before; what was there first stays.
    pub(super) before: Accounts,
    /// What containers gave away.
    pub(super) taken: Option<&'a Taken>,
}

/// The account files of a tree; None where it has no users.
pub(super) fn accounts(tree: &Inside) -> Result<Option<Accounts>> {
    let Some(passwd) = tree.text("etc/passwd")? else { return Ok(None) };
    Ok(Some(Accounts {
        passwd,
        group: tree.text("etc/group")?.unwrap_or_default(),
        shadow: tree.text("etc/shadow")?,
        gshadow: tree.text("etc/gshadow")?,
    }))
}

/// Moves ids of system accounts into the base's range, and away from those that containers
/// have, in files and on inodes, and removes password hashes. Gives name → new id; a user's
/// counts before a group's of the same name.
pub(super) fn settle(
    tree: &Inside,
    path: &Path,
    rules: &Rules<'_>,
) -> Result<BTreeMap<String, u32>> {
    let Some(old) = accounts(tree)? else { return Ok(BTreeMap::new()) };
    let mut new = old.clone();
    let moves = plan(&old, rules)?;
    // Inodes first: the files say what is to be done, so after a crash they still do.
    if !moves.is_empty() {
        chown_all(path, &moves)?;
    }
    new.apply(&moves);
    new.strip_passwords();
    new.passwd = without_hashes(&new.passwd);
    new.group = without_hashes(&new.group);
    new.shadow = new.shadow.as_deref().map(without_hashes);
    new.gshadow = new.gshadow.as_deref().map(without_hashes);
    let write = |name: &str, old: Option<&String>, new: Option<&String>, mode| match new {
        Some(text) if new != old => tree.write(name, text.as_bytes(), mode),
        _ => Ok(()),
    };
    write("etc/gshadow", old.gshadow.as_ref(), new.gshadow.as_ref(), 0o640)?;
    write("etc/shadow", old.shadow.as_ref(), new.shadow.as_ref(), 0o640)?;
    write("etc/group", Some(&old.group), Some(&new.group), 0o644)?;
    write("etc/passwd", Some(&old.passwd), Some(&new.passwd), 0o644)?;
    let moved = moves.groups.iter().chain(&moves.users);
    Ok(moved.map(|(name, (_, id))| (name.clone(), *id)).collect())
}

/// Which ids move where.
fn plan(accounts: &Accounts, rules: &Rules<'_>) -> Result<Moves> {
    let none = Taken::default();
    let taken = rules.taken.unwrap_or(&none);
    let users = clashes(&accounts.passwd, &rules.before.passwd, &taken.users);
    let groups = clashes(&accounts.group, &rules.before.group, &taken.groups);
    let system = BASE_FIRST..1000;
    for (what, found) in [("user", &users), ("group", &groups)] {
        // The others have their number in every Debian, or are people.
        if let Some((name, id, whose)) = found.iter().find(|(_, id, _)| !system.contains(id)) {
            return Err(clash(what, name, *id, whose));
        }
    }
    let unavailable = taken.users.keys().chain(taken.groups.keys()).copied().collect();
    let names = |found: &[Clash]| found.iter().map(|(name, ..)| name.clone()).collect();
    let moves = accounts.plan_move(&names(&users), &names(&groups), &unavailable);
    let missed = |found: &[Clash], moved: &BTreeMap<String, (u32, u32)>| {
        found.iter().find(|(name, ..)| !moved.contains_key(name)).cloned()
    };
    for (what, missed) in
        [("user", missed(&users, &moves.users)), ("group", missed(&groups, &moves.groups))]
    {
        if let Some((name, id, whose)) = missed {
            return Err(clash(what, &name, id, &whose));
        }
    }
    Ok(moves)
}

/// Name, id, and whose it is elsewhere.
type Clash = (String, u32, String);

/// The accounts of `now`, a passwd or group file, that were not in `before` with the same id
/// and whose id a container gave to another name.
fn clashes(now: &str, before: &str, taken: &BTreeMap<u32, String>) -> Vec<Clash> {
    let before: BTreeMap<String, u32> = ids_of(before).collect();
    ids_of(now)
        .filter(|(name, id)| before.get(name) != Some(id))
        .filter_map(|(name, id)| {
            let whose = taken.get(&id)?;
            let same = whose.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with(' '));
            (!same).then(|| (name, id, whose.clone()))
        })
        .collect()
}

fn clash(what: &str, name: &str, id: u32, whose: &str) -> Error {
    Error::new(
        Kind::State,
        format!("the base's new {what} {name} has the id {id}, which is {whose}'s already"),
    )
    .hint(format!("give one of the two another id; in the base: coloc base shell, {what}mod"))
}

/// Replaces by `*` what may be a hash of the old kinds, which begin with no `$`, in the second
/// field of any account file. Only marks of accounts without a password stay.
fn without_hashes(text: &str) -> String {
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(field) = fields.get_mut(1) {
            if *field != "x" && !field.bytes().all(|b| b == b'!' || b == b'*') {
                *field = "*";
            }
        }
        fields.join(":") + "\n"
    };
    text.lines().map(line).collect()
}

fn chown_all(root: &Path, moves: &Moves) -> Result<()> {
    let (uids, gids) = (moves.uids(), moves.gids());
    for (path, meta) in walk(root)? {
        let (uid, gid) = (uids.get(&meta.uid()), gids.get(&meta.gid()));
        if uid.is_none() && gid.is_none() {
            continue;
        }
        let path = root.join(path);
        let mut space = [0; 64];
        // A change of owner takes capabilities and setuid bits away.
        let capability = lgetxattr(&path, CAPABILITY, &mut space).ok().map(|n| &space[..n]);
        let (uid, gid) = (uid.map(|id| Uid::from_raw(*id)), gid.map(|id| Gid::from_raw(*id)));
        chownat(CWD, &path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .named(|| format!("fchownat({path:?})"))?;
        if !meta.is_symlink() {
            let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777);
            std::fs::set_permissions(&path, mode)
                .context(|| format!("cannot set the mode of {}", path.display()))?;
        }
        if let Some(value) = capability {
            lsetxattr(&path, CAPABILITY, value, XattrFlags::empty())
                .named(|| format!("lsetxattr({path:?}, {CAPABILITY:?})"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &[(&str, u32)]) -> Accounts {
        let passwd = names.iter().map(|(n, id)| format!("{n}:x:{id}:{id}::/:/bin/sh\n"));
        let group = names.iter().map(|(n, id)| format!("{n}:x:{id}:\n"));
        Accounts { passwd: passwd.collect(), group: group.collect(), ..Accounts::default() }
    }

    #[test]
    fn what_a_container_has_is_not_given_again() {
        let taken = Taken {
            users: BTreeMap::new(),
            groups: BTreeMap::from([
                (102, "ssl-cert in alice".into()),
                (103, "x in bob".into()),
                (104, "tape2 in bob".into()),
                (101, "old in bob".into()),
                (1000, "carol in carol".into()),
                (42, "odd in bob".into()),
            ]),
        };
        let before = with(&[("root", 0), ("was", 101)]);
        let rules = |before: &Accounts| Rules { before: before.clone(), taken: Some(&taken) };
        let now = with(&[("root", 0), ("was", 101), ("plocate", 102), ("tape2", 104)]);
        let moves = plan(&now, &rules(&before)).unwrap();
        // The one that was there first stays, so does one of the same name; the new one goes
        // where neither the base nor a container is.
        assert_eq!(moves.groups, BTreeMap::from([("plocate".into(), (102, 100))]));
        assert!(moves.users.is_empty());
        assert_eq!(plan(&with(&[("a", 998)]), &rules(&before)).unwrap().users["a"], (998, 100));
        for (name, id, whose) in [("dave", 1000, "carol in carol"), ("shadow", 42, "odd in bob")] {
            let e = plan(&with(&[(name, id)]), &rules(&before)).unwrap_err();
            assert_eq!(e.kind(), Kind::State);
            assert!(e.to_string().contains(name) && e.to_string().contains(whose), "{e}");
        }
    }

    #[test]
    fn a_full_range_is_said() {
        let mut taken = Taken::default();
        taken.users.extend((100..500).map(|id| (id, format!("u{id} in x"))));
        let rules = Rules { before: Accounts::default(), taken: Some(&taken) };
        let e = plan(&with(&[("new", 300)]), &rules).unwrap_err();
        assert!(e.to_string().contains("new") && e.to_string().contains("u300 in x"), "{e}");
    }

    #[test]
    fn hashes_of_every_kind_go_and_marks_stay() {
        let marks = "a:x:0:0::/:\nb:!:1::\nc:*:1::\nd:!*:1::\ne::1::\n";
        assert_eq!(without_hashes(marks), marks);
        assert_eq!(without_hashes("o:abJnggxhB/yWI:1\np:!_J9..abc:1\n"), "o:*:1\np:*:1\n");
    }
}
