//! What is told while a base is made or changed: on a terminal one line that is written over and
//! over, else a line for each phase and now and then one for where it is.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::Said;
use crate::sys::tty;
use crate::tree::file::printable;

/// So long nothing is said of a part where lines stay.
const PAUSE: Duration = Duration::from_secs(5);

/// Clears from the cursor to the end of the line (ECMA-48, EL).
const CLEAR: &str = "\r\x1b[K";

/// Tells on standard error; what it leaves on a terminal is cleared when it goes.
pub(super) struct Progress(Mutex<Line>);

struct Line {
    on_terminal: bool,
    /// Something is on the line.
    shown: bool,
    /// When a line was written last.
    last: Option<Instant>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let error = std::io::stderr();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self(Mutex::new(Line {
            on_terminal: error.is_terminal() && !dumb,
            shown: false,
            last: None,
        }))
    }

    pub(super) fn tell(&self, said: &Said) {
        let columns = tty::size(std::io::stderr()).map_or(80, |size| usize::from(size.columns));
        self.write(|line| line.tell(said, columns, Instant::now()));
    }

    /// Makes room for what somebody else writes.
    pub(super) fn clear(&self) {
        self.write(Line::clear);
    }

    fn write(&self, text: impl FnOnce(&mut Line) -> String) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text(&mut line);
        // Nobody may be there to be told.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Line {
    /// What is to be written, on a terminal of so many columns.
    fn tell(&mut self, said: &Said, columns: usize, now: Instant) -> String {
        let (text, is_part, stays) = match said {
            Said::Phase(text) => (text, false, false),
            Said::Part(text) => (text, true, false),
            Said::Notice(text) => (text, false, true),
        };
        let text = printable(text).replace(['\n', '\t'], " ");
        if self.on_terminal && !stays {
            self.shown = true;
            // In the last column some terminals go on to the next line.
            let text: String = text.chars().take(columns.saturating_sub(1)).collect();
            return format!("{CLEAR}{text}");
        }
        let recent = self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE);
        if is_part && recent {
            return String::new();
        }
        self.last = Some(now);
        format!("{}{text}\n", self.clear())
    }

    fn clear(&mut self) -> String {
        if std::mem::take(&mut self.shown) { CLEAR.into() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_one_line() {
        let mut line = Line { on_terminal: true, shown: false, last: None };
        let now = Instant::now();
        assert_eq!(line.clear(), "");
        assert_eq!(line.tell(&Said::Phase("looking".into()), 80, now), "\r\x1b[Klooking");
        assert_eq!(line.tell(&Said::Part("a\x1bé\nc".into()), 10, now), "\r\x1b[Ka\\u{1b}é ");
        assert_eq!(line.tell(&Said::Notice("mind".into()), 2, now), "\r\x1b[Kmind\n");
        assert_eq!(line.clear(), "");
        line.tell(&Said::Part("x".into()), 10, now);
        assert_eq!(line.clear(), "\r\x1b[K");
    }

    #[test]
    fn a_log_gets_few_lines() {
        let mut line = Line { on_terminal: false, shown: false, last: None };
        let begin = Instant::now();
        let mut text = line.tell(&Said::Phase("looking".into()), 4, begin);
        for second in 0..12 {
            let now = begin + Duration::from_secs(second);
            text += &line.tell(&Said::Part(format!("part {second}")), 4, now);
        }
        text += &line.tell(&Said::Phase("writing".into()), 4, begin);
        assert_eq!(text, "looking\npart 5\npart 10\nwriting\n");
        assert_eq!(line.clear(), "");
    }
}
