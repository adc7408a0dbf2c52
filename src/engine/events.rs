//! The events journal, as commands keep it, and `coloc journal` reads it.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Engine;
use crate::error::{Error, Result};
use crate::request::{Caller, Verb};
use crate::store::Name;
use crate::store::events::{self, Event, Line, Who};
use crate::store::record::now;

/// The kernel's word for "logged in as nobody": a daemon, or a job of one.
const NO_LOGIN: u32 = u32::MAX;

/// A command that has begun. Say how it ended with [`end`](Noted::end); one that does not was
/// killed, and the journal shows it so.
#[derive(Debug)]
#[must_use]
pub struct Noted {
    id: String,
    files: Vec<File>,
}

/// Verbs that go on when the journal cannot be written: they are what helps on a full disk.
const HELPS: [Verb; 4] = [Verb::Stop, Verb::Delete, Verb::Freeze, Verb::Thaw];

impl Engine {
    /// Does `work` between the two lines of the journal that tell of it.
    pub fn noting<T>(
        &self,
        verb: Verb,
        subject: &Name,
        args: &[String],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let noted = self.note(verb, subject, args)?;
        let result = work();
        noted.end(result.as_ref().map(|_| 0));
        result
    }

    /// Notes that a command begins. It must not be done when that fails.
    pub fn note(&self, verb: Verb, subject: &Name, args: &[String]) -> Result<Noted> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{}-{n}", std::process::id(), jiff::Timestamp::now().as_microsecond());
        let line = Line::Begun {
            id: id.clone(),
            time: now(),
            who: self.who(),
            verb: verb.word().into(),
            subject: subject.to_string(),
            args: events::bounded(args),
        };
        let of_host = verb.of_base() || matches!(verb, Verb::Create | Verb::Delete);
        let host = of_host.then(|| self.layout.host_events());
        let own = (!verb.of_base()).then(|| self.layout.events(subject));
        let mut files = Vec::new();
        for path in [host, own].into_iter().flatten() {
            match events::append(&path, &line) {
                Ok(file) => files.extend(file),
                Err(e) if HELPS.contains(&verb) => eprintln!("coloc: {e}"),
                Err(e) => return Err(e),
            }
        }
        Ok(Noted { id, files })
    }

    /// The journal of `name`, or the host's.
    pub fn events(&self, name: Option<&Name>) -> Result<Vec<Event>> {
        match name {
            Some(name) => {
                self.permit(Verb::Journal, name)?;
                let events = events::read(&self.layout.events(name))?;
                // Meanwhile it may have become somebody else's.
                self.permit(Verb::Journal, name)?;
                Ok(events)
            }
            None => events::read(&self.layout.host_events()),
        }
    }

    fn who(&self) -> Who {
        match &self.caller {
            Caller::Member(m) => Who {
                uid: m.uid,
                name: m.name.clone(),
                login: m.login.map(name_of),
                ..Who::default()
            },
            Caller::Admin => {
                let said =
                    |key: &str| std::env::var(key).ok().map(|v| v.chars().take(64).collect());
                let uid = nix::unistd::getuid().as_raw();
                let text = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
                let login = text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN);
                let address = |text: String| text.split(' ').next().map(str::to_string);
                Who {
                    uid,
                    name: name_of(uid),
                    login: login.map(name_of),
                    sudo: said("SUDO_USER"),
                    from: said("SSH_CONNECTION").and_then(address),
                }
            }
        }
    }
}

/// The name of a host user; the number of one who has none. Root is root, as for nss-systemd(8): to
/// go through the host's name services for it takes a tenth of an `exec`.
fn name_of(uid: u32) -> String {
    if uid == 0 {
        return "root".into();
    }
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| uid.to_string(), |u| u.name)
}

impl Noted {
    /// Notes the exit code, or the error.
    pub fn end(self, result: std::result::Result<i32, &Error>) {
        let (code, error) = match result {
            Ok(code) => (code, None),
            Err(e) => (e.kind().exit_code(), Some(e.to_string())),
        };
        let line = Line::Ended { id: self.id, time: now(), code, error };
        for file in &self.files {
            if let Err(e) = events::write(file, &line) {
                eprintln!("coloc: cannot write to the events journal: {e}");
            }
        }
    }
}
