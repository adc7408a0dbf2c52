use std::io::{IsTerminal, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::ui;
use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::request::Request;
use crate::status::size_words;
use crate::status::top::{Line, Sample, Sort, lines};
use crate::store::Layout;
use crate::sys::tty::{self, RawMode};

/// Show what each container uses, again and again: q quits, and c, m, i, p, d, n, s and a sort by
/// cpu, memory, io, processes, disk, network, stale and name.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    /// Print one table, of one second, and end.
    #[arg(long)]
    once: bool,
    /// Print counters as JSON, and end.
    #[arg(long, conflicts_with = "once")]
    json: bool,
    /// Seconds between two tables.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// By what the lines are sorted.
    #[arg(long, default_value = "cpu")]
    sort: Sort,
}

impl TopArgs {
    /// The request for one moment, if it is only that.
    pub(super) fn request(&self) -> Option<Request> {
        self.json.then_some(Request::Top { json: true })
    }
}

/// Prints a moment.
pub(super) fn moment(engine: &Engine) -> Result<ExitCode> {
    ui::json(&engine.samples()?)
}

/// The table, from moments that a second coloc is asked for: who is allowed to see what is
/// decided there, and a member's comes over the broker as all else.
pub(super) fn run(layout: &Layout, args: &TopArgs) -> Result<ExitCode> {
    if args.once {
        let before = samples(layout)?;
        std::thread::sleep(Duration::from_secs(1));
        let now = samples(layout)?;
        ui::print(table(&lines(&before, &now, args.sort)));
        return Ok(ExitCode::SUCCESS);
    }
    if ui::screen().is_none() || !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "coloc top is for a terminal")
            .hint("one table: coloc top --once; for programs: coloc top --json"));
    }
    watch(layout, args)?;
    Ok(ExitCode::SUCCESS)
}

fn samples(layout: &Layout) -> Result<Vec<Sample>> {
    let out = Command::new("/proc/self/exe")
        .arg("--root")
        .arg(layout.root())
        .args(["top", "--json"])
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run coloc")?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let first = said.lines().next().unwrap_or("coloc top --json failed");
        return Err(Error::failed(first.trim_start_matches("coloc: ").to_string()));
    }
    serde_json::from_slice(&out.stdout)
        .map_err(|e| Error::failed(format!("cannot understand coloc top --json: {e}")))
}

fn table(lines: &[Line]) -> comfy_table::Table {
    let mut table = ui::table(&[
        "NAME",
        "STATE",
        "CPU%",
        "MEMORY",
        "IO/S",
        "NET/S",
        "PROCESSES",
        "DISK",
        "STALE",
    ]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let rate = |r: Option<f64>| or_dash(r.map(|r| size_words(r as u64)));
    let of = |used: Option<u64>, most: Option<u64>, words: fn(u64) -> String| {
        or_dash(used.map(|used| match most {
            Some(most) => format!("{}/{}", words(used), words(most)),
            None => words(used),
        }))
    };
    for line in lines {
        let (s, u) = (&line.sample, &line.sample.usage);
        table.add_row(vec![
            s.name.to_string(),
            s.state.word().into(),
            or_dash(line.cpu.map(|c| format!("{c:.1}"))),
            of(u.memory, u.memory_max, size_words),
            rate(line.io),
            rate(line.network),
            of(u.processes, u.processes_max, |n| n.to_string()),
            of(u.disk, u.disk_max, size_words),
            if s.stale > 0 { s.stale.to_string() } else { "-".into() },
        ]);
    }
    table
}

/// The other screen of the terminal, and keys as bytes; both are given back at the end.
struct Screen {
    _raw: RawMode,
}

impl Screen {
    fn take() -> Result<Self> {
        let raw = RawMode::set(std::io::stdin())?;
        print!("\x1b[?1049h\x1b[?25l");
        std::io::stdout().flush()?;
        Ok(Self { _raw: raw })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print!("\x1b[?25h\x1b[?1049l");
        let _ = std::io::stdout().flush();
    }
}

fn watch(layout: &Layout, args: &TopArgs) -> Result<()> {
    let mut sort = args.sort;
    let mut before = samples(layout)?;
    let mut now = before.clone();
    let _screen = Screen::take()?;
    loop {
        draw(&lines(&before, &now, sort))?;
        match key(Duration::from_secs(args.every))? {
            // A pipe's end, q, Ctrl-C.
            Some(None | Some(b'q' | b'Q' | 3)) => return Ok(()),
            Some(Some(byte)) => sort = sort_of(byte).unwrap_or(sort),
            None => before = std::mem::replace(&mut now, samples(layout)?),
        }
    }
}

fn sort_of(key: u8) -> Option<Sort> {
    Some(match key {
        b'c' => Sort::Cpu,
        b'm' => Sort::Memory,
        b'i' => Sort::Io,
        b'p' => Sort::Processes,
        b'd' => Sort::Disk,
        b'n' => Sort::Network,
        b's' => Sort::Stale,
        b'a' => Sort::Name,
        _ => return None,
    })
}

/// A key that is pressed within `limit`: None if none is, Some(None) at the end of input.
fn key(limit: Duration) -> Result<Option<Option<u8>>> {
    use std::os::fd::AsFd;
    let input = std::io::stdin();
    let fd = input.as_fd().try_clone_to_owned()?;
    if !crate::runtime::relay::readable_within(&fd, limit) {
        return Ok(None);
    }
    let mut byte = [0];
    let got = input.lock().read(&mut byte)?;
    Ok(Some((got > 0).then_some(byte[0])))
}

fn draw(lines: &[Line]) -> Result<()> {
    let rows = tty::size(std::io::stdout()).map_or(24, |s| usize::from(s.rows));
    let mut text = String::from("\x1b[H");
    let table = table(lines).to_string();
    let body = table.lines().take(rows.saturating_sub(1));
    for line in body {
        text.push_str(line.trim_end());
        text.push_str("\x1b[K\r\n");
    }
    text.push_str("\x1b[J");
    text.push_str(
        "q quit; sort by c cpu, m memory, i io, p processes, d disk, n net, s stale, a name",
    );
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
