//! The account files of a tree: passwd(5), group(5), shadow(5), gshadow(5). Pure: text in,
//! text out. Lines that are not understood are kept as they are.

use std::collections::{BTreeMap, BTreeSet};

/// One line of passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the main group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell; `/bin/sh` when the field is empty.
    pub shell: String,
}

/// The users of a passwd file, by line; the first line of a name is the one that counts.
pub fn users(passwd: &str) -> Vec<User> {
    let parse = |line: &str| {
        let f: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = f.as_slice() else { return None };
        let or = |text: &str, default: &str| match text {
            "" => default.to_string(),
            text => text.to_string(),
        };
        Some(User {
            name: or(name, "").to_string(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: or(home, "/"),
            shell: or(shell, "/bin/sh"),
        })
    };
    passwd.lines().filter_map(parse).filter(|u| !u.name.is_empty()).collect()
}

/// The ids of the groups that `user` is a member of in a group file, beside the main one.
pub fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let parse = |line: &str| {
        let f: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = f.as_slice() else { return None };
        members.split(',').any(|m| m == user).then(|| gid.parse().ok())?
    };
    // A hostile group file could name more groups than setgroups(2) takes.
    group.lines().filter_map(parse).take(65536).collect()
}

/// The id of the group `name`.
pub fn gid_of(group: &str, name: &str) -> Option<u32> {
    group.lines().find(|l| field(l, 0) == name).and_then(|l| field(l, 2).parse().ok())
}

/// Names with their ids, of a passwd or group file.
pub fn ids_of(text: &str) -> impl Iterator<Item = (String, u32)> + '_ {
    text.lines().filter_map(|l| Some((field(l, 0).to_string(), field(l, 2).parse().ok()?)))
}

/// The four files together: what is added to one must be in the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// /etc/passwd
    pub passwd: String,
    /// /etc/group
    pub group: String,
    /// /etc/shadow; None where the tree has none.
    pub shadow: Option<String>,
    /// /etc/gshadow; None where the tree has none.
    pub gshadow: Option<String>,
}

fn field(line: &str, n: usize) -> &str {
    line.split(':').nth(n).unwrap_or("")
}

fn push_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

impl Accounts {
    /// Whether there is a user or a group called `name`.
    pub fn knows(&self, name: &str) -> bool {
        let has = |text: &str| text.lines().any(|l| field(l, 0) == name);
        has(&self.passwd) || has(&self.group)
    }

    /// Whether there is a group called `name`.
    pub fn has_group(&self, name: &str) -> bool {
        self.group.lines().any(|l| field(l, 0) == name)
    }

    /// Adds the user `name` with a group of the same name and the same, lowest id from 1000
    /// that neither has, without a password. Gives the id.
    pub fn add_user(&mut self, name: &str, shell: &str) -> u32 {
        let ids = |text: &str, n| -> BTreeSet<u32> {
            text.lines().filter_map(|l| field(l, n).parse().ok()).collect()
        };
        let taken: BTreeSet<u32> =
            ids(&self.passwd, 2).union(&ids(&self.group, 2)).copied().collect();
        let id = (1000..60_000).find(|id| !taken.contains(id)).unwrap_or(60_000);
        push_line(&mut self.passwd, &format!("{name}:x:{id}:{id}::/home/{name}:{shell}"));
        push_line(&mut self.group, &format!("{name}:x:{id}:"));
        if let Some(shadow) = &mut self.shadow {
            // `*` matches no password, and unlike `!` it does not look like an account that
            // somebody has locked, which sshd would not let in with a key either.
            push_line(shadow, &format!("{name}:*:{}:0:99999:7:::", days_since_epoch()));
        }
        if let Some(gshadow) = &mut self.gshadow {
            push_line(gshadow, &format!("{name}:!::"));
        }
        id
    }

    /// Makes `user` a member of `group`, in both files that say so.
    pub fn add_member(&mut self, group: &str, user: &str) {
        let add = |text: &str| -> String {
            let mut out = String::with_capacity(text.len() + user.len() + 1);
            for line in text.lines() {
                let members = line.rsplit(':').next().unwrap_or("");
                out.push_str(line);
                if field(line, 0) == group && members.split(',').all(|m| m != user) {
                    if !members.is_empty() {
                        out.push(',');
                    }
                    out.push_str(user);
                }
                out.push('\n');
            }
            out
        };
        self.gshadow = self.gshadow.as_deref().map(add);
        self.group = add(&self.group);
    }

    /// Replaces every password hash by `*`, which matches nothing; states such as `!` stay.
    pub fn strip_passwords(&mut self) {
        let strip = |text: &str| -> String {
            let line = |line: &str| {
                let mut f: Vec<&str> = line.split(':').collect();
                if f.len() > 1 && f[1].trim_start_matches('!').starts_with('$') {
                    f[1] = "*";
                }
                f.join(":") + "\n"
            };
            text.lines().map(line).collect()
        };
        self.shadow = self.shadow.as_deref().map(strip);
        self.gshadow = self.gshadow.as_deref().map(strip);
    }

    /// Plans the move of every system id outside the base's range into it: 500–999 belongs to
    /// the containers. Gives name → (old, new), users and groups apart. A user and a group of
    /// one name get the same new id where both had the same. The users and groups that are
    /// named move wherever they are; nothing moves to an id in `unavailable`.
    pub fn plan_move(
        &self,
        named_users: &BTreeSet<String>,
        named_groups: &BTreeSet<String>,
        unavailable: &BTreeSet<u32>,
    ) -> Moves {
        let users: BTreeMap<String, u32> = ids_of(&self.passwd).collect();
        let groups: BTreeMap<String, u32> = ids_of(&self.group).collect();
        let mut taken = unavailable.clone();
        taken.extend(users.values().chain(groups.values()));
        let mut moves = Moves::default();
        let outside = |id: u32| (BASE_LAST + 1..1000).contains(&id);
        let names: BTreeSet<&String> = users.keys().chain(groups.keys()).collect();
        for name in names {
            let user = users.get(name).copied();
            let user = user.filter(|id| outside(*id) || named_users.contains(name));
            let group = groups.get(name).copied();
            let group = group.filter(|id| outside(*id) || named_groups.contains(name));
            let mut next = || {
                let id = (BASE_FIRST..=BASE_LAST).find(|id| !taken.contains(id))?;
                taken.insert(id);
                Some(id)
            };
            let shared = if user.is_some() && user == group { next() } else { None };
            if let (Some(old), Some(new)) = (user, user.and_then(|_| shared.or_else(&mut next))) {
                moves.users.insert(name.clone(), (old, new));
            }
            if let (Some(old), Some(new)) = (group, group.and_then(|_| shared.or_else(&mut next))) {
                moves.groups.insert(name.clone(), (old, new));
            }
        }
        moves
    }

    /// Carries out `moves` in the files.
    pub fn apply(&mut self, moves: &Moves) {
        let (uids, gids) = (moves.uids(), moves.gids());
        let set = |text: &str, columns: &[(usize, &BTreeMap<u32, u32>)]| -> String {
            let line = |line: &str| {
                let mut f: Vec<String> = line.split(':').map(str::to_string).collect();
                for (n, map) in columns {
                    let new = f.get(*n).and_then(|id| map.get(&id.parse().ok()?));
                    if let Some(new) = new {
                        f[*n] = new.to_string();
                    }
                }
                f.join(":") + "\n"
            };
            text.lines().map(line).collect()
        };
        self.passwd = set(&self.passwd, &[(2, &uids), (3, &gids)]);
        self.group = set(&self.group, &[(2, &gids)]);
    }
}

/// The first id that a base gives to a system account.
pub const BASE_FIRST: u32 = 100;
/// The last id that a base gives to a system account; 500 to 899 are the containers'.
pub const BASE_LAST: u32 = 499;
/// The first system id that a container gives.
pub const PRIVATE_FIRST: u32 = 500;
/// The last system id that a container gives.
pub const PRIVATE_LAST: u32 = 899;

/// Ids to change: name → (old, new).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    /// In passwd.
    pub users: BTreeMap<String, (u32, u32)>,
    /// In group.
    pub groups: BTreeMap<String, (u32, u32)>,
}

impl Moves {
    /// Old uid → new uid.
    pub fn uids(&self) -> BTreeMap<u32, u32> {
        self.users.values().copied().collect()
    }

    /// Old gid → new gid.
    pub fn gids(&self) -> BTreeMap<u32, u32> {
        self.groups.values().copied().collect()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

fn days_since_epoch() -> i64 {
    jiff::Timestamp::now().as_second() / 86_400
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\n\
                     sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n\
                     systemd-network:x:998:998::/:/usr/sbin/nologin\n\
                     nobody:x:65534:65534::/:/usr/sbin/nologin\n"
                .into(),
            group: "root:x:0:\nsudo:x:27:\nssl-cert:x:101:\nsystemd-journal:x:999:\n\
                    systemd-network:x:998:\n"
                .into(),
            shadow: Some("root:$y$j9T$abc:1:0:99999:7:::\nsshd:!:1::::::\n".into()),
            gshadow: Some("sudo:*::\n".into()),
        }
    }

    #[test]
    fn a_new_user_is_in_all_files_and_in_sudo() {
        let mut a = base();
        let id = a.add_user("alice", "/bin/bash");
        a.add_member("sudo", "alice");
        a.add_member("sudo", "alice");
        assert_eq!(id, 1000);
        let user = users(&a.passwd).into_iter().find(|u| u.name == "alice").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/alice"));
        assert_eq!(groups_of(&a.group, "alice"), [27]);
        assert!(a.gshadow.as_deref().unwrap().contains("sudo:*::alice\n"));
        assert!(a.shadow.as_deref().unwrap().contains("alice:*:"));
        assert_eq!(a.add_user("bob", "/bin/sh"), 1001);
    }

    #[test]
    fn system_ids_move_below_500_and_stay_apart() {
        let mut a = base();
        let none = BTreeSet::new();
        let moves = a.plan_move(&none, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(moves.users["systemd-network"], (998, moves.groups["systemd-network"].1));
        a.apply(&moves);
        for user in users(&a.passwd) {
            assert!(user.uid < 500 || user.uid == 65534, "{user:?}");
        }
        // 101 was both sshd's uid and ssl-cert's gid, so nothing new may be 101.
        assert!(moves.users.values().chain(moves.groups.values()).all(|(_, new)| *new != 101));
        assert!(a.plan_move(&none, &BTreeSet::new(), &BTreeSet::new()).is_empty());
    }

    #[test]
    fn hashes_go_and_states_stay() {
        let mut a = base();
        a.strip_passwords();
        assert_eq!(a.shadow.as_deref(), Some("root:*:1:0:99999:7:::\nsshd:!:1::::::\n"));
    }

    #[test]
    fn odd_lines_are_survived() {
        assert!(users("::::::\nx\na:x:b:c:::\n\0").is_empty());
        assert_eq!(users("a:x:1:2:::\n")[0].shell, "/bin/sh");
        assert!(groups_of("sudo:x:27\n:::", "a").is_empty());
    }
}
