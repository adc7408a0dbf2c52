//! The events journal: who did what, and how it ended. One line of JSON when a command begins and
//! one when it has ended, so that one that was killed shows as begun and not ended.
//!
//! A container's is `containers/NAME/events.jsonl`, beside its private tree and not in it; the
//! host's, with what is made, deleted and changed for all, is `events.jsonl` in the state
//! directory. Each is put aside as `events.old.jsonl` when it is full, in the place of the one
//! that was there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Result};

/// Past this size a journal is put aside.
const FULL: u64 = 1 << 20;
/// No more characters of one argument, and no more arguments, are kept.
const LONGEST: usize = 256;
const MOST: usize = 64;

/// Who did something.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Who {
    /// The uid, by the kernel's word.
    pub uid: u32,
    /// Its name on the host.
    pub name: String,
    /// As whom they logged in to the host, by the kernel's word (proc(5), loginuid).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// Who called sudo, as the environment of root's command says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo: Option<String>,
    /// Where their ssh connection comes from, as the environment of root's command says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Line {
    /// A command begins.
    Begun {
        /// Joins the two lines of a command.
        id: String,
        /// When, RFC 3339.
        time: String,
        /// Who.
        who: Who,
        /// The verb.
        verb: String,
        /// The container or the base that it is about.
        subject: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// It has ended.
    Ended {
        /// The same as in the line of its beginning.
        id: String,
        /// When, RFC 3339.
        time: String,
        /// Its exit code.
        code: i32,
        /// What it failed with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// A command as both of its lines tell.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Event {
    /// When it began.
    pub time: String,
    /// When it ended; None while it runs, and when it was killed.
    pub ended: Option<String>,
    /// Who.
    pub who: Who,
    /// The verb.
    pub verb: String,
    /// The container or the base.
    pub subject: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its exit code.
    pub code: Option<i32>,
    /// What it failed with.
    pub error: Option<String>,
    #[serde(skip)]
    id: String,
}

/// Arguments as they are kept: of bounded number and length.
pub fn bounded(args: &[String]) -> Vec<String> {
    let cut = |text: &String| match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.clone(),
    };
    let mut kept: Vec<String> = args.iter().take(MOST).map(cut).collect();
    if args.len() > MOST {
        kept.push("…".into());
    }
    kept
}

/// The journal that was full before `path`.
fn older(path: &Path) -> PathBuf {
    path.with_file_name("events.old.jsonl")
}

/// Appends `line`, and gives the file for more of the same command; None if there is no such
/// directory (any more).
pub fn append(path: &Path, line: &Line) -> Result<Option<File>> {
    let context = || format!("cannot write to {}", path.display());
    loop {
        let opened = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = match opened {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.context(context)?,
        };
        // Whoever has it is done in a moment: nothing else is done under it.
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| std::io::Error::from(e))
            .context(context)?;
        let own = lock.metadata().context(context)?;
        // It may have been put aside while we waited.
        if std::fs::metadata(path).map_or(true, |m| m.ino() != own.ino()) {
            continue;
        }
        if own.len() > FULL {
            std::fs::rename(path, older(path)).context(context)?;
            continue;
        }
        let file = lock.try_clone().context(context)?;
        write(&file, line).context(context)?;
        return Ok(Some(file));
    }
}

/// Appends to a file that [`append`] gave.
pub fn write(mut file: &File, line: &Line) -> std::io::Result<()> {
    let mut text = Vec::new();
    // A power cut can leave half a line, which is not to spoil ours.
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        text.push(b'\n');
    }
    serde_json::to_writer(&mut text, line)?;
    text.push(b'\n');
    // In one call, which no other writer's comes in between.
    file.write_all(&text)
}

/// Everything in the journal, in the order in which it began.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    for file in [older(path), path.to_path_buf()] {
        let text = match std::fs::read(&file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context(|| format!("cannot read {}", file.display())),
        };
        for line in text.lines().filter_map(|l| serde_json::from_str(l).ok()) {
            take_in(&mut events, line);
        }
    }
    Ok(events)
}

fn take_in(events: &mut Vec<Event>, line: Line) {
    match line {
        Line::Begun { id, time, who, verb, subject, args } => {
            events.push(Event {
                time,
                ended: None,
                who,
                verb,
                subject,
                args,
                code: None,
                error: None,
                id,
            });
        }
        Line::Ended { id, time, code, error } => {
            if let Some(event) = events.iter_mut().rev().find(|e| e.id == id) {
                (event.ended, event.code, event.error) = (Some(time), Some(code), error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(id: &str, arg: &str) -> Line {
        Line::Begun {
            id: id.into(),
            time: "2026-01-01T00:00:00Z".into(),
            who: Who { uid: 1000, name: "alice".into(), ..Who::default() },
            verb: "exec".into(),
            subject: "box".into(),
            args: vec![arg.into()],
        }
    }

    fn directory(word: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("coloc-events-{word}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_command_that_was_killed_has_no_end() {
        let dir = directory("killed");
        let path = dir.join("events.jsonl");
        append(&path, &begun("1", "a\n\x1b[2J")).unwrap().unwrap();
        let file = append(&path, &begun("2", "b")).unwrap().unwrap();
        let end = Line::Ended { id: "2".into(), time: "t".into(), code: 7, error: None };
        write(&file, &end).unwrap();
        // Half a line of a power cut.
        std::io::Write::write_all(&mut File::options().append(true).open(&path).unwrap(), b"{\"ev")
            .unwrap();
        append(&path, &begun("3", "c")).unwrap().unwrap();
        let events = read(&path).unwrap();
        let codes: Vec<_> = events.iter().map(|e| e.code).collect();
        assert_eq!(codes, [None, Some(7), None]);
        assert_eq!(events[0].args, ["a\n\x1b[2J"]);
        std::fs::remove_file(path).unwrap();
        assert!(append(&dir.join("gone/events.jsonl"), &begun("4", "d")).unwrap().is_none());
        std::fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn a_full_journal_is_put_aside_and_still_read() {
        let dir = directory("full");
        let path = dir.join("events.jsonl");
        let word = "x".repeat(2000);
        for n in 0..700 {
            append(&path, &begun(&n.to_string(), &word)).unwrap().unwrap();
        }
        assert!(older(&path).exists());
        assert!(std::fs::metadata(&path).unwrap().len() < FULL + 4096);
        assert_eq!(read(&path).unwrap().len(), 700);
        std::fs::remove_file(older(&path)).unwrap();
        std::fs::remove_file(path).unwrap();
        std::fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn arguments_are_cut_at_characters() {
        let kept = bounded(&["é".repeat(300), "b".into()]);
        assert_eq!(kept[0].chars().count(), LONGEST + 1);
        assert_eq!(bounded(&vec![String::new(); 100]).len(), MOST + 1);
    }
}
