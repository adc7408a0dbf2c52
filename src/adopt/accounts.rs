//! The account files, merged as one unit and by name. Pure: text in, text out.
//!
//! Nothing of the member's is removed, no password is overwritten, and an account of the base
//! whose id the container has given to somebody else is not added: its files would be theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::class::ACCOUNTS;
use super::merge::value;

/// passwd, group, shadow, gshadow, subuid, subgid; None where a tree has no such file.
pub type Texts = [Option<String>; 6];

const PASSWD: usize = 0;
const GROUP: usize = 1;
const SHADOW: usize = 2;
const GSHADOW: usize = 3;
const SUBUID: usize = 4;
const SUBGID: usize = 5;

/// What became of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The files.
    pub texts: Texts,
    /// Accounts that could not be brought over: which file, and why.
    pub clashes: Vec<(&'static str, String)>,
    /// What an admin may want to know.
    pub notes: Vec<String>,
}

/// Lines with the name before the first colon; the first of a name is the one that counts.
#[derive(Debug, Clone, Default)]
struct Table {
    lines: Vec<Vec<String>>,
    by_name: BTreeMap<String, usize>,
    ends_with_newline: bool,
}

impl Table {
    fn parse(text: &str) -> Self {
        let body = text.strip_suffix('\n').unwrap_or(text);
        let mut table = Self { ends_with_newline: body.len() < text.len(), ..Self::default() };
        if text.is_empty() {
            table.ends_with_newline = true;
            return table;
        }
        for line in body.split('\n') {
            table.push(line.split(':').map(str::to_string).collect());
        }
        table
    }

    fn push(&mut self, line: Vec<String>) {
        if let [name, _, ..] = line.as_slice() {
            if !name.is_empty() && !name.starts_with(['#', '+', '-']) {
                self.by_name.entry(name.clone()).or_insert(self.lines.len());
            }
        }
        self.lines.push(line);
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|l| l.join(":")).collect();
        let end = if self.ends_with_newline && !lines.is_empty() { "\n" } else { "" };
        lines.join("\n") + end
    }

    fn get(&self, name: &str) -> Option<&Vec<String>> {
        self.lines.get(*self.by_name.get(name)?)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
        self.lines.get_mut(*self.by_name.get(name)?)
    }

    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn field(&self, name: &str, n: usize) -> &str {
        self.get(name).and_then(|l| l.get(n)).map_or("", String::as_str)
    }

    /// Names in the order of the file.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<(usize, &str)> =
            self.by_name.iter().map(|(name, at)| (*at, name.as_str())).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// Who has `id` in the third field, beside `name`.
    fn owner_of(&self, id: &str, name: &str) -> Option<&str> {
        let id: u32 = id.parse().ok()?;
        let has = |l: &&Vec<String>| {
            l.len() > 2 && l[0] != name && l[2].parse() == Ok(id) && !l[0].starts_with(['+', '-'])
        };
        self.lines.iter().find(has).map(|l| l[0].as_str())
    }

    fn insert(&mut self, at: usize, line: Vec<String>) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.insert(at, line);
        self.fill(lines);
    }

    fn fill(&mut self, lines: Vec<Vec<String>>) {
        self.by_name.clear();
        lines.into_iter().for_each(|line| self.push(line));
    }

    fn remove(&mut self, gone: &BTreeSet<String>) {
        let doomed: BTreeSet<usize> =
            gone.iter().filter_map(|name| self.by_name.get(name).copied()).collect();
        let lines = std::mem::take(&mut self.lines).into_iter().enumerate();
        self.fill(lines.filter(|(at, _)| !doomed.contains(at)).map(|(_, line)| line).collect());
    }
}

/// One file in its three versions; `mine` becomes the result. A file that the container does
/// not have stays missing.
struct Three {
    old: Table,
    mine: Table,
    new: Table,
    there: bool,
}

impl Three {
    fn new_names(&self) -> Vec<String> {
        let new = self.new.names().into_iter().filter(|name| !self.old.has(name));
        new.map(str::to_string).collect()
    }

    fn kept_names(&self) -> Vec<String> {
        let all = [&self.old, &self.mine];
        let kept = self.new.names().into_iter().filter(|n| all.iter().all(|t| t.has(n)));
        kept.map(str::to_string).collect()
    }

    /// Whether the base had `name`, gives it up, and the member changed nothing of it.
    fn given_up(&self, name: &str) -> bool {
        !self.new.has(name) && self.old.has(name) && self.unchanged(name)
    }

    fn unchanged(&self, name: &str) -> bool {
        self.mine.get(name) == self.old.get(name)
    }

    /// Adds the base's line of `name` after the one that it follows there, so that a merge
    /// there and back puts everything where it was.
    fn add(&mut self, name: &str) {
        let Some(line) = self.new.get(name).filter(|_| !self.mine.has(name)) else { return };
        let names = self.new.names();
        let before = names.iter().rev().skip_while(|n| **n != name);
        let at = before.filter_map(|n| self.mine.by_name.get(*n)).next().map_or(0, |at| at + 1);
        self.mine.insert(at, line.clone());
    }

    /// Merges field `n` of a name that all three have, if the lines are as long as each other.
    fn merge_field(&mut self, name: &str, n: usize, unite: bool) {
        let (old, new) = (self.old.field(name, n), self.new.field(name, n));
        let (old, new) = (old.to_string(), new.to_string());
        let length = self.new.get(name).map_or(0, Vec::len);
        let Some(line) = self.mine.get_mut(name).filter(|line| line.len() == length) else {
            return;
        };
        let Some(mine) = line.get_mut(n) else { return };
        *mine = match unite {
            true => united(&old, mine, &new),
            false => value(old, std::mem::take(mine), new),
        };
    }
}

/// Members of both, without those that the base has taken out since `old`.
fn united(old: &str, mine: &str, new: &str) -> String {
    let list = |text: &str| -> Vec<String> {
        text.split(',').filter(|m| !m.is_empty()).map(str::to_string).collect()
    };
    if old == new {
        return mine.to_string();
    }
    let (old, new) = (list(old), list(new));
    let mut out = list(mine);
    out.retain(|m| new.contains(m) || !old.contains(m));
    let mut at = 0;
    for member in new {
        match out.iter().position(|m| *m == member) {
            Some(found) => at = found + 1,
            None if old.contains(&member) => {}
            None => {
                out.insert(at, member);
                at += 1;
            }
        }
    }
    out.join(",")
}

/// The merge of all six.
pub fn merge(old: &Texts, mine: &Texts, new: &Texts) -> Merged {
    if old == mine {
        return Merged { texts: new.clone(), ..Merged::default() };
    }
    let table = |text: &Option<String>| Table::parse(text.as_deref().unwrap_or_default());
    let mut files: [Three; 6] = std::array::from_fn(|n| Three {
        old: table(&old[n]),
        mine: table(&mine[n]),
        new: table(&new[n]),
        there: mine[n].is_some(),
    });
    let mut merged = Merged::default();
    remove_given_up(&mut files);
    ids(&mut files, &mut merged);
    let added = add_new(&mut files, &mut merged);
    details(&mut files, &added);
    subordinate(&mut files[SUBUID], &added);
    subordinate(&mut files[SUBGID], &added);
    merged.texts = files.map(|file| file.there.then(|| file.mine.text()));
    merged
}

/// Accounts that the base no longer has, and of which the member has changed nothing.
fn remove_given_up(files: &mut [Three; 6]) {
    let users: BTreeSet<String> = files[PASSWD]
        .old
        .names()
        .into_iter()
        .filter(|n| files[PASSWD].given_up(n) && files[SHADOW].unchanged(n))
        .map(str::to_string)
        .collect();
    files[PASSWD].mine.remove(&users);
    files[SHADOW].mine.remove(&users);
    let primary = |gid: &str| {
        let lines = files[PASSWD].mine.lines.iter();
        lines.filter(|l| l.len() > 3).any(|l| l[3] == gid)
    };
    let groups: BTreeSet<String> = files[GROUP]
        .old
        .names()
        .into_iter()
        .filter(|n| files[GROUP].given_up(n) && files[GSHADOW].unchanged(n))
        .filter(|n| !primary(files[GROUP].mine.field(n, 2)))
        .map(str::to_string)
        .collect();
    files[GROUP].mine.remove(&groups);
    files[GSHADOW].mine.remove(&groups);
    for n in [SUBUID, SUBGID] {
        let file = &mut files[n];
        let gone = file.old.names().into_iter().filter(|n| file.given_up(n));
        let gone: BTreeSet<String> = gone.map(str::to_string).collect();
        file.mine.remove(&gone);
    }
}

/// An id that the base has changed, for an account that was there before.
fn ids(files: &mut [Three; 6], merged: &mut Merged) {
    for (n, what) in [(PASSWD, "user"), (GROUP, "group")] {
        let file = &mut files[n];
        for name in file.kept_names() {
            let (old, new) = (file.old.field(&name, 2), file.new.field(&name, 2).to_string());
            if old == new || file.mine.field(&name, 2) != old {
                continue;
            }
            let old = old.to_string();
            if let Some(other) = file.mine.owner_of(&new, &name) {
                let why =
                    format!("the base's {what} {name} now has id {new}, which is {other}'s here");
                merged.clashes.push((ACCOUNTS[n], why));
            } else {
                file.merge_field(&name, 2, false);
                let note = format!("{what} {name} has id {new}; files of {old} stay as they are");
                merged.notes.push(note);
            }
        }
    }
}

/// What was added: users and groups.
struct Added {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    refused: BTreeSet<String>,
}

/// Accounts that are new in the base, groups first: a user needs theirs.
fn add_new(files: &mut [Three; 6], merged: &mut Merged) -> Added {
    let mut added =
        Added { users: BTreeSet::new(), groups: BTreeSet::new(), refused: BTreeSet::new() };
    let mut refused_gids = BTreeSet::new();
    for name in files[GROUP].new_names() {
        let file = &mut files[GROUP];
        let gid = file.new.field(&name, 2).to_string();
        match clash("group", &file.mine, &name, &gid) {
            Some(why) => {
                merged.clashes.push((ACCOUNTS[GROUP], why));
                refused_gids.insert(gid);
            }
            None if file.mine.has(&name) => {}
            None => {
                file.add(&name);
                added.groups.insert(name);
            }
        }
    }
    for name in files[PASSWD].new_names() {
        let file = &mut files[PASSWD];
        let (uid, gid) = (file.new.field(&name, 2).to_string(), file.new.field(&name, 3));
        let no_group = refused_gids.contains(gid);
        let why = clash("user", &file.mine, &name, &uid);
        if let Some(why) = why {
            merged.clashes.push((ACCOUNTS[PASSWD], why));
            added.refused.insert(name);
        } else if no_group && !file.mine.has(&name) {
            let why =
                format!("the base's user {name} is not added: its group {gid} is another here");
            merged.clashes.push((ACCOUNTS[PASSWD], why));
            added.refused.insert(name);
        } else if !file.mine.has(&name) {
            file.add(&name);
            added.users.insert(name);
        }
    }
    added
}

/// Why the base's new account cannot be the container's, if so.
fn clash(what: &str, mine: &Table, name: &str, id: &str) -> Option<String> {
    if mine.has(name) {
        let here = mine.field(name, 2);
        return (here != id)
            .then(|| format!("{what} {name} has id {id} in the base and {here} here"));
    }
    let other = mine.owner_of(id, name)?;
    Some(format!("the base's {what} {name} is not added: its id {id} is {other}'s here"))
}

/// All that is not an id: fields, members, secrets.
fn details(files: &mut [Three; 6], added: &Added) {
    for name in files[PASSWD].kept_names() {
        for field in 3..7 {
            files[PASSWD].merge_field(&name, field, false);
        }
    }
    for name in files[SHADOW].kept_names() {
        // The second field is the password; nobody but its owner changes it.
        for field in 2..9 {
            files[SHADOW].merge_field(&name, field, false);
        }
    }
    for name in files[GROUP].kept_names() {
        files[GROUP].merge_field(&name, 3, true);
    }
    for name in files[GSHADOW].kept_names() {
        files[GSHADOW].merge_field(&name, 2, true);
        files[GSHADOW].merge_field(&name, 3, true);
    }
    for name in files[SHADOW].new_names() {
        if added.users.contains(&name) {
            files[SHADOW].add(&name);
        }
    }
    for name in files[GSHADOW].new_names() {
        if added.groups.contains(&name) {
            files[GSHADOW].add(&name);
        }
    }
}

/// Ranges of subordinate ids: one that meets another's is left out.
fn subordinate(file: &mut Three, added: &Added) {
    let range = |line: &[String]| -> Option<(u64, u64)> {
        let [_, start, count] = line else { return None };
        let start: u64 = start.parse().ok()?;
        Some((start, start.checked_add(count.parse().ok()?)?))
    };
    for name in file.new_names() {
        let Some((start, end)) = file.new.get(&name).and_then(|line| range(line)) else { continue };
        let mut others = file.mine.lines.iter().filter_map(|line| range(line));
        if !added.refused.contains(&name) && others.all(|(s, e)| end <= s || e <= start) {
            file.add(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(passwd: &str, group: &str, shadow: &str) -> Texts {
        let some = |t: &str| Some(t.to_string());
        [some(passwd), some(group), some(shadow), None, None, None]
    }

    fn old() -> Texts {
        texts(
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n",
            "root:x:0:\nadm:x:4:syslog\nsudo:x:27:\n",
            "root:*:1:0:99999:7:::\nsshd:!:1::::::\n",
        )
    }

    fn mine() -> Texts {
        texts(
            "root:x:0:0:me:/root:/bin/zsh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n\
             alice:x:1000:1000::/home/alice:/bin/bash\n",
            "root:x:0:\nadm:x:4:syslog,alice\nsudo:x:27:alice\nalice:x:1000:\n",
            "root:$y$mine:2:0:99999:7:::\nsshd:!:1::::::\nalice:$y$a:3:0:99999:7:::\n",
        )
    }

    #[test]
    fn new_accounts_come_and_the_member_s_stay() {
        let new = texts(
            "root:x:0:0:root:/root:/bin/bash\nnginx:x:102:102::/:/usr/sbin/nologin\n\
             sshd:x:101:65534::/run/sshd:/bin/false\n",
            "root:x:0:\nadm:x:4:nginx\nsudo:x:27:\nnginx:x:102:\n",
            "root:!:5:0:99999:7:::\nnginx:!:1::::::\nsshd:!:1::::::\n",
        );
        let merged = merge(&old(), &mine(), &new);
        let [passwd, group, shadow, ..] = merged.texts.clone();
        assert_eq!(
            passwd.unwrap(),
            "root:x:0:0:me:/root:/bin/zsh\nnginx:x:102:102::/:/usr/sbin/nologin\n\
             sshd:x:101:65534::/run/sshd:/bin/false\nalice:x:1000:1000::/home/alice:/bin/bash\n"
        );
        assert_eq!(
            group.unwrap(),
            "root:x:0:\nadm:x:4:nginx,alice\nsudo:x:27:alice\nnginx:x:102:\nalice:x:1000:\n"
        );
        assert_eq!(
            shadow.unwrap(),
            "root:$y$mine:2:0:99999:7:::\nnginx:!:1::::::\nsshd:!:1::::::\n\
             alice:$y$a:3:0:99999:7:::\n"
        );
        assert!(merged.clashes.is_empty(), "{:?}", merged.clashes);
    }

    #[test]
    fn an_id_that_is_taken_is_named_with_both_names() {
        let mut own = mine();
        own[0].as_mut().unwrap().push_str("bob:x:102:102::/:/bin/sh\n");
        own[1].as_mut().unwrap().push_str("bob:x:102:\n");
        let mut new = old();
        new[0].as_mut().unwrap().push_str("nginx:x:102:102::/:/bin/sh\n");
        new[1].as_mut().unwrap().push_str("nginx:x:102:\n");
        new[2].as_mut().unwrap().push_str("nginx:!:1::::::\n");
        let merged = merge(&old(), &own, &new);
        assert_eq!(merged.texts, own);
        assert_eq!(merged.clashes.len(), 2);
        for (_, why) in &merged.clashes {
            assert!(why.contains("nginx") && why.contains("bob"), "{why}");
        }
    }

    #[test]
    fn a_name_that_is_there_with_another_id_is_told() {
        let mut own = mine();
        own[1].as_mut().unwrap().push_str("plocate:x:500:\n");
        let mut new = old();
        new[1].as_mut().unwrap().push_str("plocate:x:110:\n");
        let merged = merge(&old(), &own, &new);
        assert_eq!(merged.texts, own);
        assert_eq!(
            merged.clashes,
            [("etc/group", "group plocate has id 110 in the base and 500 here".to_string())]
        );
    }

    #[test]
    fn an_account_given_up_goes_unless_it_was_changed() {
        let mut new = old();
        new[0] = Some("root:x:0:0:root:/root:/bin/bash\n".into());
        new[2] = Some("root:*:1:0:99999:7:::\n".into());
        let merged = merge(&old(), &mine(), &new);
        assert!(!merged.texts[0].as_deref().unwrap().contains("sshd"));
        assert!(!merged.texts[2].as_deref().unwrap().contains("sshd"));
        let mut own = mine();
        own[2] = own[2].as_deref().map(|t| t.replace("sshd:!", "sshd:$y$x"));
        assert_eq!(merge(&old(), &own, &new).texts, own);
    }

    #[test]
    fn odd_lines_and_missing_files_stay() {
        let mut own = mine();
        own[0] = Some("+::::::\n\n# no\nroot:x\n:::\nsshd:x:101".into());
        own[2] = None;
        let mut new = old();
        new[0].as_mut().unwrap().push_str("n:x:102:4::/:/bin/sh\n");
        let merged = merge(&old(), &own, &new);
        assert_eq!(
            merged.texts[0].as_deref(),
            Some("+::::::\n\n# no\nroot:x\n:::\nsshd:x:101\nn:x:102:4::/:/bin/sh")
        );
        assert_eq!(merged.texts[2], None);
    }

    #[test]
    fn subordinate_ranges_do_not_meet() {
        let with = |text: &str| -> Texts {
            let mut all = mine();
            all[SUBUID] = Some(text.into());
            all
        };
        let old = with("");
        let own = with("alice:100000:65536\n");
        let new = with("a:100000:65536\nb:165536:65536\n");
        let merged = merge(&old, &own, &new);
        assert_eq!(merged.texts[SUBUID].as_deref(), Some("b:165536:65536\nalice:100000:65536\n"));
    }

    fn base(users: &BTreeSet<u32>, members: &BTreeSet<u32>) -> Texts {
        let text = |line: &dyn Fn(&u32) -> String| users.iter().map(line).collect::<String>();
        let list: Vec<String> = members.iter().map(|m| format!("u{m}")).collect();
        texts(
            &text(&|u| format!("u{u}:x:{u}:{u}::/:/bin/sh\n")),
            &(text(&|u| format!("u{u}:x:{u}:\n")) + &format!("all:x:99:{}\n", list.join(","))),
            &text(&|u| format!("u{u}:!:1::::::\n")),
        )
    }

    proptest! {
        #[test]
        fn there_and_back(
            old in proptest::collection::btree_set(100..110u32, 0..8),
            new in proptest::collection::btree_set(100..110u32, 0..8),
            in_old in proptest::collection::btree_set(0..5u32, 0..4),
            in_new in proptest::collection::btree_set(0..5u32, 0..4),
        ) {
            let (old, new) = (base(&old, &in_old), base(&new, &in_new));
            let mut own = old.clone();
            own[0].as_mut().unwrap().push_str("me:x:1000:1000::/:/bin/sh\n");
            own[1].as_mut().unwrap().push_str("me:x:1000:\n");
            own[2].as_mut().unwrap().push_str("me:$y$:1::::::\n");
            let there = merge(&old, &own, &new);
            prop_assert!(there.clashes.is_empty());
            let back = merge(&new, &there.texts, &old);
            prop_assert_eq!(back.texts, own);
        }

        #[test]
        fn anything_is_survived(a in "[a:1\n,+]{0,60}", b in "[a:1\n,+]{0,60}", c in "[a:1\n,+]{0,60}") {
            let all = |t: &str| -> Texts { std::array::from_fn(|_| Some(t.to_string())) };
            prop_assert_eq!(merge(&all(&a), &all(&b), &all(&a)).texts, all(&b));
            let _ = merge(&all(&a), &all(&b), &all(&c));
        }
    }
}
