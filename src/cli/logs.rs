use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::request::{Request, Verb};
use crate::store::Name;
use crate::tree::file::printable;

/// Print what the init of a container wrote to its console.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// The container; the only one there is by default.
    name: Option<String>,
    /// Go on printing as it is written.
    #[arg(short, long)]
    follow: bool,
}

impl LogsArgs {
    pub(super) fn request(&self) -> Result<Request> {
        Ok(Request::Logs { name: ui::name(self.name.as_deref())?, follow: self.follow })
    }
}

pub(super) fn run(engine: &Engine, name: Option<&Name>, follow: bool) -> Result<ExitCode> {
    let name = engine.container_or_only(name)?;
    engine.permit(Verb::Logs, &name)?;
    let args: Vec<String> = follow.then(|| "--follow".into()).into_iter().collect();
    engine.noting(Verb::Logs, &name, &args, || print(engine, &name, follow))
}

fn print(engine: &Engine, name: &Name, follow: bool) -> Result<ExitCode> {
    let path = engine.layout.console_log(name);
    let mut place = 0;
    loop {
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(_) if !follow => return Ok(ExitCode::SUCCESS),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
        };
        // Another container may have taken its place, and be somebody else's.
        engine.permit(Verb::Logs, name)?;
        let size = file.metadata()?.len();
        // It was put aside for a new one.
        if size < place {
            place = 0;
        }
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(place))?;
        let mut bytes = Vec::new();
        file.take(4 << 20).read_to_end(&mut bytes)?;
        place += bytes.len() as u64;
        show(&bytes)?;
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// On a terminal what the container wrote is shown, not obeyed; in a pipe it is as it was.
fn show(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    if ui::screen().is_some() {
        let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
        out.write_all(printable(&without_colours(&text)).as_bytes())?;
    } else {
        out.write_all(bytes)?;
    }
    Ok(out.flush()?)
}

/// Takes out `ESC [ … m`, of which systemd's console lines are full.
fn without_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(at);
        out.push_str(before);
        let body = &sequence[2..];
        let end = body.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(body.len());
        rest = match body[end..].strip_prefix(['m', 'K']) {
            Some(after) => after,
            None => {
                out.push_str("\x1b[");
                body
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_other_sequences_stay_to_be_shown() {
        assert_eq!(without_colours("[\x1b[0;32m  OK  \x1b[0m] x"), "[  OK  ] x");
        assert_eq!(without_colours("a\x1b[2Jb"), "a\x1b[2Jb");
    }
}
