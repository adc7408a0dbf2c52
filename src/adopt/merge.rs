//! The decision for one path, and the merge of texts. Pure: values in, values out.

use std::borrow::Cow;

/// What the container has, seen from the base's two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mine {
    /// Nothing.
    Absent,
    /// What the old generation has.
    Old,
    /// What the new generation has, and the old one does not.
    New,
    /// Something of its own.
    Other,
}

/// What is to be done about a path's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The container's stays, and nobody needs to know.
    Keep,
    /// The base has given it up, the container's stays.
    KeepGivenUp,
    /// The base's new version is put in.
    Take,
    /// The base has given it up, and so does the container.
    Remove,
    /// Both have changed it.
    Both,
}

/// The three-way decision. `old` and `new` say whether that generation has the path.
pub(super) fn choose(old: bool, new: bool, mine: Mine) -> Choice {
    match (old, new, mine) {
        (_, true, Mine::New) | (false, false, _) => Choice::Keep,
        // Never there or deleted by its member; what was deleted stays deleted.
        (false, true, Mine::Absent) => Choice::Take,
        (true, _, Mine::Absent) => Choice::Keep,
        (true, true, Mine::Old) => Choice::Take,
        (true, false, Mine::Old) => Choice::Remove,
        (true, false, Mine::Other | Mine::New) => Choice::KeepGivenUp,
        (_, true, Mine::Other | Mine::Old) => Choice::Both,
    }
}

/// Three-way merge of a single value: a mode, an owner, a field.
pub(super) fn value<T: PartialEq>(old: T, mine: T, new: T) -> T {
    if mine == old { new } else { mine }
}

/// The largest text that is merged by line.
pub(super) const TEXT_LIMIT: u64 = 1 << 20;

/// How much comparing a container may cost. The time of a comparison grows with the square of
/// the lines that differ, and the member chooses them; what is spent is a conflict for a person.
pub struct Budget(u64);

impl Default for Budget {
    /// About a second.
    fn default() -> Self {
        Self(400_000_000)
    }
}

impl Budget {
    /// Takes what comparing `a` with `b` can cost at most; false when there is not as much left.
    pub(super) fn spend(&mut self, a: &[u8], b: &[u8]) -> bool {
        let lines = differing_lines(a, b);
        match lines.checked_mul(lines).and_then(|cost| self.0.checked_sub(cost)) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

/// How many lines are left of both, once what they begin and end with in common is off.
fn differing_lines(a: &[u8], b: &[u8]) -> u64 {
    let split = |text| -> Vec<&[u8]> { <[u8]>::split(text, |c| *c == b'\n').collect() };
    let (a, b) = (split(a), split(b));
    let most = a.len().min(b.len());
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tails = a.iter().rev().zip(b.iter().rev()).take(most - start);
    let end = tails.take_while(|(x, y)| x == y).count();
    (a.len() + b.len() - 2 * (start + end)) as u64
}

/// Why two texts could not be made one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// One is not text.
    Binary,
    /// Both changed the same lines.
    Overlap,
    /// There is too much of it to compare.
    TooLarge,
    /// The base brings it, and the member has made another.
    Another,
}

impl Clash {
    /// For people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Clash::Binary => "both changed it, and it is not text",
            Clash::Overlap => "both changed the same lines",
            Clash::Another => "the base brings it, and here is another",
            Clash::TooLarge => "both changed it, and it is too large to merge",
        }
    }
}

/// Whether it can be merged by line.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.len() as u64 <= TEXT_LIMIT && !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// Merges `mine` and `new`, which both come from `old`, by line.
pub fn text<'a>(
    budget: &mut Budget,
    old: &[u8],
    mine: &'a [u8],
    new: &'a [u8],
) -> Result<Cow<'a, [u8]>, Clash> {
    if ![old, mine, new].into_iter().all(is_text) {
        return Err(Clash::Binary);
    }
    if mine == new || old == new {
        return Ok(Cow::Borrowed(mine));
    }
    if old == mine {
        return Ok(Cow::Borrowed(new));
    }
    if !budget.spend(old, mine) {
        return Err(Clash::TooLarge);
    }
    diffy::merge_bytes(old, mine, new).map(Cow::Owned).map_err(|_| Clash::Overlap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merged(old: &str, mine: &str, new: &str) -> Result<String, Clash> {
        text(&mut Budget::default(), old.as_bytes(), mine.as_bytes(), new.as_bytes())
            .map(|t| String::from_utf8(t.into_owned()).unwrap())
    }

    #[test]
    fn the_table_of_the_design() {
        use {Choice::*, Mine::*};
        let table = [
            (true, true, Old, Take),
            (true, true, New, Keep),
            (true, true, Other, Both),
            (true, true, Absent, Keep),
            (true, false, Old, Remove),
            (true, false, Other, KeepGivenUp),
            (true, false, Absent, Keep),
            (false, true, Absent, Take),
            (false, true, New, Keep),
            (false, true, Other, Both),
        ];
        for (old, new, mine, want) in table {
            assert_eq!(choose(old, new, mine), want, "{old} {new} {mine:?}");
        }
    }

    #[test]
    fn lines_apart_merge_and_lines_shared_do_not() {
        let old = "a\nb\nc\nd\ne\nf\n";
        assert_eq!(
            merged(old, "A\nb\nc\nd\ne\nf\n", "a\nb\nc\nd\ne\nF\n").unwrap(),
            "A\nb\nc\nd\ne\nF\n"
        );
        assert_eq!(merged(old, "A\nb\nc\nd\ne\nf\n", "x\nb\nc\nd\ne\nf\n"), Err(Clash::Overlap));
        assert_eq!(merged(old, "a\0", "x\n"), Err(Clash::Binary));
    }

    #[test]
    fn a_member_cannot_buy_an_hour_of_comparing() {
        let lines = |n: usize, of: &str| {
            (0..n).map(|i| format!("{of}{}\n", i * 7919 % n)).collect::<String>()
        };
        let begun = std::time::Instant::now();
        let huge = lines(100_000, "m");
        assert_eq!(merged(&lines(9000, "o"), &huge, &lines(9000, "n")), Err(Clash::TooLarge));
        let _ = merged(&lines(9000, "o"), &lines(9000, "m"), &lines(9000, "o"));
        let permuted: String = (0..9000).map(|i| format!("o{}\n", i * 7919 % 8999)).collect();
        let _ = merged(&lines(9000, "o"), &permuted, &lines(9001, "o"));
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
        // An honest file of that size has its changes in few places.
        let old: String = (0..9000).map(|i| format!("line {i}\n")).collect();
        let mine = old.replace("line 10\n", "mine\n").replace("line 8900\n", "mine\n");
        assert!(merged(&old, &mine, &old.replace("line 500\n", "new\n")).is_ok());
    }

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..6u8, 0..14)
    }

    fn join(lines: &[u8]) -> String {
        lines.iter().map(|l| format!("{l}\n")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_only_one_changed_is_taken(old in lines(), other in lines()) {
            let (old, other) = (join(&old), join(&other));
            prop_assert_eq!(merged(&old, &old, &other).unwrap(), other.clone());
            prop_assert_eq!(merged(&old, &other, &old).unwrap(), other.clone());
            prop_assert_eq!(merged(&old, &other, &other).unwrap(), other);
        }

        /// Whatever a hostile member wrote: an answer, no panic, and never a line of nowhere.
        #[test]
        fn no_line_is_made_up(old in lines(), mine in lines(), new in lines()) {
            if let Ok(text) = merged(&join(&old), &join(&mine), &join(&new)) {
                for line in text.lines() {
                    let line: u8 = line.parse().unwrap();
                    prop_assert!(mine.contains(&line) || new.contains(&line));
                }
            }
        }

        #[test]
        fn any_bytes(old in ".{0,40}", mine in ".{0,40}", new in ".{0,40}") {
            let _ = merged(&old, &mine, &new);
        }

        /// The member's change in one part, the base's in another: there and back is where it was.
        #[test]
        fn there_and_back(a in lines(), b in lines(), x in lines(), y in lines()) {
            let fence = "--\n==\n++\n";
            let two = |top: &[u8], end: &[u8]| format!("{}{fence}{}", join(top), join(end));
            let (old, mine, new) = (two(&a, &b), two(&x, &b), two(&a, &y));
            let there = merged(&old, &mine, &new).unwrap();
            prop_assert_eq!(&there, &two(&x, &y));
            prop_assert_eq!(merged(&new, &there, &old).unwrap(), mine);
        }
    }
}
