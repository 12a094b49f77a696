//! The figures as a table of medians with their spread, and as JSON for later comparison.

use std::io::Write as _;
use std::process::Command;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::Failure;
use crate::memory::Memory;
use crate::options::Options;
use crate::work::Work;

/// Lookups of the registry over those of the bare server, to reach.
const LOOKUP_RATE_GOAL: f64 = 0.6;

/// Resident bytes with ten thousand instances, to stay below.
const MEMORY_GOAL: u64 = 60_000_000;

/// What a row of the table measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Requests a second, in the closed loop.
    Rate,
    /// Microseconds of the server's processor time for a request, in the closed loop.
    Cpu,
    /// Microseconds that half of the callers wait at most.
    P50,
    /// Microseconds that 99 of 100 callers wait at most.
    P99,
    /// Microseconds that 999 of 1,000 callers wait at most.
    P999,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::Cpu => "CPU µs/request",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
        }
    }
}

/// One figure of the servers in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    /// The registry's.
    pub(crate) rollcall: f64,
    /// That of another binary of it, if there is one to compare with.
    pub(crate) baseline: Option<f64>,
    /// The bare server's.
    pub(crate) bare: f64,
}

/// One figure of one kind of work, over all rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    work: Work,
    measure: Measure,
    /// Percent of the registry's highest rate; none in the closed loop.
    load: Option<u32>,
    rounds: Vec<Figures>,
}

impl Row {
    /// A row of the closed loop.
    pub(crate) fn new(work: Work, measure: Measure, rounds: Vec<Figures>) -> Self {
        Self { work, measure, load: None, rounds }
    }

    /// The same in the open loop.
    pub(crate) fn at_load(self, load: u32) -> Self {
        Self { load: Some(load), ..self }
    }

    /// The median; of an even number of values the upper one.
    pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn ratios(&self) -> impl Iterator<Item = f64> + Clone {
        self.rounds.iter().map(|figures| figures.rollcall / figures.bare)
    }

    /// Over the other binary.
    fn over_baseline(&self) -> impl Iterator<Item = f64> + Clone {
        self.rounds.iter().filter_map(|figures| Some(figures.rollcall / figures.baseline?))
    }

    fn goal(&self) -> String {
        match (self.work, self.measure) {
            (Work::Lookup, Measure::Rate) => format!("≥ {LOOKUP_RATE_GOAL:.2}"),
            _ => String::new(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let load = self.load.map_or_else(String::new, |load| format!(" at {load} %"));
        let digits = if self.measure == Measure::Cpu { 1 } else { 0 };
        let mut cells = vec![
            format!("{}{load}", self.work.name()),
            self.measure.name().to_owned(),
            spread(self.rounds.iter().map(|figures| figures.rollcall), digits),
            spread(self.rounds.iter().map(|figures| figures.bare), digits),
            spread(self.ratios(), 2),
            self.goal(),
        ];
        if self.over_baseline().next().is_some() {
            cells.push(spread(self.rounds.iter().filter_map(|figures| figures.baseline), digits));
            cells.push(spread(self.over_baseline(), 3));
        }
        cells
    }
}

/// `median (lowest..highest)`.
fn spread(values: impl Iterator<Item = f64> + Clone, digits: usize) -> String {
    let lowest = values.clone().fold(f64::INFINITY, f64::min);
    let highest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    let median = Row::median(values);
    format!("{median:.digits$} ({lowest:.digits$}..{highest:.digits$})")
}

/// What was measured, on what and with which settings.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    commit: Option<String>,
    processor: Option<String>,
    cores: usize,
    pinned: bool,
    synchronous: String,
    sampled_percent: f64,
    otlp: bool,
    connections: usize,
    services: usize,
    instances: usize,
    rounds: usize,
    seconds: f64,
    rows: Vec<Row>,
    memory: Option<Memory>,
}

impl Report {
    /// The report of a run.
    pub(crate) fn new(options: &Options, rows: Vec<Row>, memory: Option<Memory>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            pinned: options.pin,
            synchronous: options.synchronous.clone(),
            sampled_percent: options.sampled,
            otlp: options.otlp.is_some(),
            connections: options.connections,
            services: options.services,
            instances: options.instances,
            rounds: options.rounds,
            seconds: options.seconds,
            rows,
            memory,
        }
    }

    /// Prints the table; writes the JSON where that was asked for.
    pub(crate) fn show(&self, options: &Options) -> Result<(), Failure> {
        let mut out = std::io::stdout();
        writeln!(out, "{}", self.settings())?;
        let mut table = Table::new();
        let mut header = vec!["work", "measure", "rollcall", "bare axum", "ratio", "goal"];
        if options.baseline.is_some() {
            header.extend(["baseline", "over baseline"]);
        }
        table.load_style(presets::ASCII_MARKDOWN).set_header(header);
        for row in &self.rows {
            table.add_row(row.cells());
        }
        for column in 2..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(
            out,
            "{table}\nmedian (lowest..highest) of {} rounds, ratio of each pair",
            self.rounds
        )?;
        if let Some(memory) = &self.memory {
            writeln!(out, "{}", memory_line(memory))?;
        }
        if let Some(path) = &options.json {
            std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        }
        Ok(())
    }

    fn settings(&self) -> String {
        format!(
            "rollcall {} ({}), {} core(s) of {}{}; synchronous={}, every lookup logged, {} % sampled by the \
             caller, OTLP {}; {} connections, {} services of {}, {} rounds of {} s",
            self.version,
            self.commit.as_deref().unwrap_or("unknown commit"),
            self.cores,
            self.processor.as_deref().unwrap_or("an unknown processor"),
            if self.pinned {
                ", servers on the first, driver on the second"
            } else {
                ", shared by all"
            },
            self.synchronous,
            self.sampled_percent,
            if self.otlp { "on" } else { "off" },
            self.connections,
            self.services,
            self.instances,
            self.rounds,
            self.seconds,
        )
    }
}

fn memory_line(memory: &Memory) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let goal = match memory.instances {
        10_000 => format!(" (goal ≤ {:.0} MB)", megabytes(MEMORY_GOAL)),
        _ => String::new(),
    };
    format!(
        "resident memory: {:.1} MB at the start, {:.1} MB with {} instances of 3 tags and 3 metadata{goal}, \
         {:.1} MB after a lookup of every service",
        megabytes(memory.at_start),
        megabytes(memory.registered),
        memory.instances,
        megabytes(memory.looked_up),
    )
}

/// The commit that is checked out, if this is a checkout and git is there.
fn commit() -> Option<String> {
    let asked = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(asked.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
