//! Files of records with a key, merged record by record. Pure: text in, text out.

use std::collections::{BTreeMap, BTreeSet};

use super::class::Keyed;

impl Keyed {
    fn separator(self) -> &'static str {
        match self {
            Keyed::Debconf => "\n\n",
            Keyed::CaConf | Keyed::Ucf => "\n",
        }
    }

    /// What tells a record from others; None for comments, blank ones and the like.
    fn key(self, record: &str) -> Option<&str> {
        let key = match self {
            Keyed::CaConf => {
                let line = record.trim();
                if line.starts_with('#') { None } else { Some(line.trim_start_matches('!').trim()) }
            }
            Keyed::Ucf => record.split_whitespace().nth(1),
            Keyed::Debconf => record.lines().find_map(|l| l.strip_prefix("Name:")).map(str::trim),
        };
        key.filter(|k| !k.is_empty())
    }

    /// The largest file that is merged: debconf's templates are of the base and large.
    pub(super) fn limit(self) -> u64 {
        match self {
            Keyed::Debconf => 8 << 20,
            Keyed::CaConf | Keyed::Ucf => 1 << 20,
        }
    }

    /// `mine` with what changed from `old` to `new`. A record that is not as in `old` stays as it
    /// is; one that is missing stays missing; order, comments and doubles stay.
    pub fn merge(self, old: &str, mine: &str, new: &str) -> String {
        let (old, new_by_key) = (self.by_key(old), self.by_key(new));
        let have = self.by_key(mine);
        // New records follow the one that they follow in `new`, so that a merge there and back
        // puts everything where it was.
        let mut following: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        let mut anchor = None;
        let mut taken = BTreeSet::new();
        for record in new.split(self.separator()) {
            let Some(key) = self.key(record) else { continue };
            if have.contains_key(key) {
                anchor = Some(key);
            } else if !old.contains_key(key) && taken.insert(key) {
                following.entry(anchor).or_default().push(record);
            }
        }
        let mut out: Vec<&str> = Vec::new();
        let mut first = following.remove(&None);
        let mut seen = BTreeSet::new();
        for record in mine.split(self.separator()) {
            let Some(key) = self.key(record) else {
                out.push(record);
                continue;
            };
            out.extend(first.take().into_iter().flatten());
            let untouched = seen.insert(key) && old.get(key) == Some(&record);
            match new_by_key.get(key) {
                Some(new) if untouched => out.push(new),
                None if untouched => {}
                _ => out.push(record),
            }
            out.extend(following.remove(&Some(key)).into_iter().flatten());
        }
        if let Some(first) = first {
            let end = out.iter().rposition(|r| !r.is_empty()).map_or(0, |at| at + 1);
            out.splice(end..end, first);
        }
        out.join(self.separator())
    }

    fn by_key(self, text: &str) -> BTreeMap<&str, &str> {
        let mut map = BTreeMap::new();
        for record in text.split(self.separator()) {
            if let Some(key) = self.key(record) {
                map.entry(key).or_insert(record);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn certificates_deselected_and_added_stay() {
        let old = "# head\nm/a.crt\nm/b.crt\nm/c.crt\n";
        let new = "# head\nm/a.crt\nm/a2.crt\nm/c.crt\n!m/d.crt\n";
        let mine = "# head\nm/a.crt\nm/b.crt\n!m/c.crt\nown.crt\n";
        let merged = Keyed::CaConf.merge(old, mine, new);
        assert_eq!(merged, "# head\nm/a.crt\nm/a2.crt\n!m/c.crt\n!m/d.crt\nown.crt\n");
        assert_eq!(Keyed::CaConf.merge(new, &merged, old), mine);
    }

    #[test]
    fn answers_stay_and_questions_come() {
        let old = "Name: a\nValue: 1\n\nName: b\nValue: 2\n\n";
        let mine = "Name: a\nValue: 9\n\nName: b\nValue: 2\n\n";
        let new = "Name: a\nValue: 3\n\nName: b\nValue: 4\n\nName: c\nValue: 5\n\n";
        let want = "Name: a\nValue: 9\n\nName: b\nValue: 4\n\nName: c\nValue: 5\n\n";
        assert_eq!(Keyed::Debconf.merge(old, mine, new), want);
    }

    #[test]
    fn an_empty_file_takes_what_is_new() {
        assert_eq!(Keyed::CaConf.merge("", "", "a\nb\n"), "a\nb\n");
        assert_eq!(Keyed::CaConf.merge("a\n", "# none\n", "a\nb\n"), "# none\nb\n");
        assert_eq!(Keyed::Ucf.merge("1  /x\n", "2  /x\n", "3  /x\n4  /y\n"), "2  /x\n4  /y\n");
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::btree_set("[a-e]{1,2}", 0..12).prop_map(|s| s.into_iter().collect())
    }

    fn text(lines: &[String]) -> String {
        lines.iter().map(|l| format!("{l}\n")).collect()
    }

    proptest! {
        #[test]
        fn untouched_becomes_new(old in names(), new in names()) {
            let merged = Keyed::CaConf.merge(&text(&old), &text(&old), &text(&new));
            let mut lines: Vec<&str> = merged.lines().collect();
            lines.sort_unstable();
            let mut want: Vec<&str> = new.iter().map(String::as_str).collect();
            want.sort_unstable();
            prop_assert_eq!(lines, want);
        }

        /// What the member appended, deselected or removed among what the base keeps survives
        /// there and back, byte by byte.
        #[test]
        fn there_and_back(old in names(), new in names(), off in "[a-e]{1,2}", own in 0..3usize) {
            let both = |l: &str| old.iter().any(|o| o == l) && new.iter().any(|n| n == l);
            let turn = |l: &String| if *l == off && both(l) { format!("!{l}") } else { l.clone() };
            let mut mine: Vec<String> = old.iter().map(turn).collect();
            mine.extend((0..own).map(|n| format!("own{n}")));
            let (old, new, mine) = (text(&old), text(&new), text(&mine));
            prop_assume!(!mine.is_empty());
            let there = Keyed::CaConf.merge(&old, &mine, &new);
            prop_assume!(there.ends_with('\n'));
            prop_assert_eq!(Keyed::CaConf.merge(&new, &there, &old), mine);
        }

        #[test]
        fn anything_is_survived(a in ".{0,60}", b in ".{0,60}", c in ".{0,60}") {
            for kind in [Keyed::CaConf, Keyed::Ucf, Keyed::Debconf] {
                prop_assert_eq!(kind.merge(&a, &b, &a), b.clone());
                let _ = kind.merge(&a, &b, &c);
            }
        }
    }
}
