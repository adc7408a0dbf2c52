//! What each container uses, moment for moment, for `coloc top`.

use super::Condition;
use crate::store::Name;
use crate::store::usage::Usage;

/// A container at a moment. Counters go on from its start; a rate is the difference of two.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// The container.
    pub name: Name,
    /// Its state.
    pub state: Condition,
    /// The moment: microseconds since the host was booted.
    pub at: u64,
    /// Processes that run old code.
    pub stale: usize,
    /// What it uses, and may.
    #[serde(flatten)]
    pub usage: Usage,
}

/// By what the lines are sorted, the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Sort {
    /// By the processor time of the last moment.
    #[default]
    Cpu,
    /// By memory.
    Memory,
    /// By what was read and written.
    Io,
    /// By processes.
    Processes,
    /// By disk.
    Disk,
    /// By what was received and sent.
    Network,
    /// By stale processes.
    Stale,
    /// By name.
    Name,
}

/// A line of the table: a sample, and what changed since the one before it, by second.
#[derive(Debug, Clone)]
pub struct Line {
    /// The sample.
    pub sample: Sample,
    /// Hundredths of one processor.
    pub cpu: Option<f64>,
    /// Bytes read from and written to disks.
    pub io: Option<f64>,
    /// Bytes received and sent.
    pub network: Option<f64>,
}

/// The lines for `now`, sorted; rates of what was in `before`.
pub fn lines(before: &[Sample], now: &[Sample], sort: Sort) -> Vec<Line> {
    let mut lines: Vec<Line> = now
        .iter()
        .map(|sample| line(before.iter().find(|b| b.name == sample.name), sample))
        .collect();
    lines.sort_by(|a, b| {
        let weight = |line: &Line| weight(line, sort);
        weight(b).total_cmp(&weight(a)).then_with(|| a.sample.name.cmp(&b.sample.name))
    });
    lines
}

fn line(before: Option<&Sample>, sample: &Sample) -> Line {
    let seconds = |b: &Sample| sample.at.saturating_sub(b.at) as f64 / 1e6;
    let rate = |of: fn(&Usage) -> Option<u64>| -> Option<f64> {
        let before = before.filter(|b| seconds(b) > 0.0)?;
        // A counter that fell is that of another start.
        let change = of(&sample.usage)?.checked_sub(of(&before.usage)?)?;
        Some(change as f64 / seconds(before))
    };
    Line {
        cpu: rate(|u| u.cpu).map(|micros| micros / 1e4),
        io: rate(|u| Some(u.read? + u.written?)),
        network: rate(|u| Some(u.received? + u.sent?)),
        sample: sample.clone(),
    }
}

fn weight(line: &Line, sort: Sort) -> f64 {
    let usage = &line.sample.usage;
    let number = |n: Option<u64>| n.unwrap_or(0) as f64;
    match sort {
        Sort::Cpu => line.cpu.unwrap_or(0.0),
        Sort::Memory => number(usage.memory),
        Sort::Io => line.io.unwrap_or(0.0),
        Sort::Processes => number(usage.processes),
        Sort::Disk => number(usage.disk),
        Sort::Network => line.network.unwrap_or(0.0),
        Sort::Stale => line.sample.stale as f64,
        Sort::Name => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, at: u64, cpu: u64, memory: u64) -> Sample {
        let usage = Usage { cpu: Some(cpu), memory: Some(memory), ..Usage::default() };
        let name = Name::parse("container", name).unwrap();
        Sample { name, state: Condition::Running, at, stale: 0, usage }
    }

    #[test]
    fn rates_are_differences_and_a_restart_has_none() {
        let before = [sample("a", 0, 0, 9), sample("b", 0, 5_000_000, 1)];
        let now = [
            sample("a", 2_000_000, 500_000, 9),
            sample("b", 2_000_000, 1000, 10),
            sample("c", 2_000_000, 7, 1),
        ];
        let by_cpu = lines(&before, &now, Sort::Cpu);
        let names = |l: &[Line]| l.iter().map(|l| l.sample.name.to_string()).collect::<String>();
        assert_eq!(names(&by_cpu), "abc");
        assert_eq!(by_cpu[0].cpu, Some(25.0));
        assert_eq!((by_cpu[1].cpu, by_cpu[2].cpu), (None, None));
        assert_eq!(names(&lines(&before, &now, Sort::Memory)), "bac");
        assert_eq!(names(&lines(&before, &now, Sort::Name)), "abc");
    }
}
