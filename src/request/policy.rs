//! Whether a caller may do what they ask: caller × verb × record → permit.

use super::{Caller, Verb};
use crate::error::{Error, Kind, Result};
use crate::store::{Name, Record};

/// What the owners of a container may do to it. All else is the host's admin's.
pub const OWNERS_MAY: &[Verb] = &[
    Verb::Shell,
    Verb::Exec,
    Verb::Start,
    Verb::Stop,
    Verb::Restart,
    Verb::List,
    Verb::Top,
    Verb::Status,
    Verb::Show,
    Verb::Logs,
    Verb::Console,
    Verb::Journal,
    Verb::Stale,
    Verb::Conflicts,
];

/// Leave to act on one container, with the record that it was given by. Nothing but [`decide`]
/// makes one.
#[derive(Debug)]
pub struct Permit(Record);

impl Permit {
    /// The record of the container.
    pub fn record(&self) -> &Record {
        &self.0
    }

    /// The record of the container.
    pub fn into_record(self) -> Record {
        self.0
    }
}

/// Decides whether `caller` may do `verb` to the container `name`, of which `record` is what
/// there is. A member is told the same of somebody else's container, of one that is not there
/// and of one whose record is damaged.
pub fn decide(caller: &Caller, verb: Verb, name: &Name, record: Result<Record>) -> Result<Permit> {
    let Caller::Member(member) = caller else { return record.map(Permit) };
    if !OWNERS_MAY.contains(&verb) {
        return Err(admins_only(verb.word()));
    }
    match record {
        Ok(record) if member.is_among(&record.owners) => Ok(Permit(record)),
        _ => Err(Error::new(Kind::Denied, format!("{name} is no container of yours"))
            .hint("coloc list shows yours")),
    }
}

/// What a member is told of everything that is the host's admin's.
pub fn admins_only(what: &str) -> Error {
    Error::new(Kind::Denied, format!("only the host's admin can {what}"))
        .hint("if that is you, run it with sudo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Member;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse("container", text).unwrap()
    }

    fn record(owners: &[String]) -> Record {
        let mut record = Record::new(name("box"), name("debian"), 1, name("member"));
        record.owners = owners.to_vec();
        record
    }

    fn absent() -> Result<Record> {
        Err(Error::new(Kind::NotFound, "there is no container box"))
    }

    fn damaged() -> Result<Record> {
        Err(Error::new(Kind::Damaged, "/var/lib/coloc/containers/box is damaged"))
    }

    fn told(result: Result<Permit>) -> (i32, String, Option<String>) {
        let e = result.unwrap_err();
        (e.kind().exit_code(), e.to_string(), e.hint_text().map(str::to_string))
    }

    #[test]
    fn the_admin_may_and_is_told_the_truth() {
        for &verb in Verb::ALL {
            assert!(decide(&Caller::Admin, verb, &name("box"), Ok(record(&[]))).is_ok());
            let e = decide(&Caller::Admin, verb, &name("box"), absent()).unwrap_err();
            assert_eq!(e.kind(), Kind::NotFound);
        }
    }

    fn words() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("@?[a-c]{1,2}", 0..4)
    }

    proptest! {
        #[test]
        fn nobody_else_is_permitted_anything_and_all_refusals_are_one(
            owners in words(), who in "[a-c]{1,2}", groups in prop::collection::vec("[a-c]{1,2}", 0..3),
        ) {
            let member = Member { uid: 1000, name: who, groups, login: None };
            let mine = member.is_among(&owners);
            let caller = Caller::Member(member);
            for &verb in Verb::ALL {
                let ask = |record| decide(&caller, verb, &name("box"), record);
                let granted = ask(Ok(record(&owners)));
                prop_assert_eq!(granted.is_ok(), mine && OWNERS_MAY.contains(&verb));
                let refused = told(ask(absent()));
                prop_assert_eq!(&told(ask(damaged())), &refused);
                if granted.is_err() {
                    prop_assert_eq!(&told(granted), &refused);
                }
                prop_assert_eq!(refused.0, Kind::Denied.exit_code());
            }
        }
    }
}
