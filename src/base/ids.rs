//! System accounts of a base: ids below 500, no passwords.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Uid, XattrFlags, chownat, lgetxattr, lsetxattr};

use crate::error::{Context, Result};
use crate::sys::Named;
use crate::tree::accounts::{Accounts, Moves};
use crate::tree::inside::Inside;
use crate::tree::manifest::{CAPABILITY, walk};

/// Moves ids of system accounts into the base's range, in files and on inodes, and removes
/// password hashes. Gives name → new id; a user's counts before a group's of the same name.
pub(super) fn settle(tree: &Inside, path: &Path) -> Result<BTreeMap<String, u32>> {
    let Some(passwd) = tree.text("etc/passwd")? else { return Ok(BTreeMap::new()) };
    let old = Accounts {
        passwd,
        group: tree.text("etc/group")?.unwrap_or_default(),
        shadow: tree.text("etc/shadow")?,
        gshadow: tree.text("etc/gshadow")?,
    };
    let mut new = old.clone();
    let moves = new.plan_move();
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

    #[test]
    fn hashes_of_every_kind_go_and_marks_stay() {
        let marks = "a:x:0:0::/:\nb:!:1::\nc:*:1::\nd:!*:1::\ne::1::\n";
        assert_eq!(without_hashes(marks), marks);
        assert_eq!(without_hashes("o:abJnggxhB/yWI:1\np:!_J9..abc:1\n"), "o:*:1\np:*:1\n");
    }
}
