//! The figures of the rounds as a table of medians with their spread, and what of the goals they reach.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::options::Options;
use crate::sheet::{Sheet, median, round};
use crate::work::{BATCH, Work};

/// What a row of the table measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Requests a second, in the closed loop.
    Rate,
    /// Microseconds of the server's processor time for a request, in the closed loop.
    Cpu,
    /// The share of that which the log's writer and its checkpoints take.
    Writer,
    /// Microseconds that half of the callers wait at most.
    P50,
    /// Microseconds that 99 of 100 callers wait at most.
    P99,
    /// Microseconds that 999 of 1,000 callers wait at most.
    P999,
    /// Microseconds that the unluckiest caller waited.
    Max,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::Cpu => "CPU µs/request",
            Self::Writer => "of it the writer, µs",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
            Self::Max => "max µs",
        }
    }
}

/// One figure of the servers in one round. Who was not measured has none.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    /// The registry's.
    pub(crate) rollcall: f64,
    /// That of another binary of it, if there is one to compare with.
    pub(crate) baseline: Option<f64>,
    /// The bare axum server's.
    pub(crate) axum: Option<f64>,
    /// The bare hyper server's.
    pub(crate) hyper: Option<f64>,
}

/// One figure of one kind of work, over all rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) work: Work,
    /// How it is asked; none where that is as always: HTTP/1.1, one request at a time on a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
    pub(crate) connections: usize,
    pub(crate) measure: Measure,
    /// Percent of the registry's highest rate; none in the closed loop.
    pub(crate) load: Option<u32>,
    pub(crate) rounds: Vec<Figures>,
}

impl Row {
    fn values(&self, of: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
        self.rounds.iter().filter_map(of).collect()
    }

    /// The ratio of each pair.
    fn ratios(&self, to: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
        self.values(|figures| Some(figures.rollcall / to(figures)?))
    }

    fn cells(&self, with_baseline: bool) -> Vec<String> {
        let load = self.load.map_or_else(String::new, |load| format!(", at {load} %"));
        let digits = if matches!(self.measure, Measure::Cpu | Measure::Writer) { 2 } else { 0 };
        let protocol = self.protocol.as_ref().map_or_else(String::new, |how| format!(", {how}"));
        let mut cells = vec![
            format!("{}{protocol}, {} conn.{load}", self.work.name(), self.connections),
            self.measure.name().to_owned(),
            spread(&self.values(|figures| Some(figures.rollcall)), digits),
            spread(&self.values(|figures| figures.axum), digits),
            spread(&self.ratios(|figures| figures.axum), 2),
            spread(&self.values(|figures| figures.hyper), digits),
            spread(&self.ratios(|figures| figures.hyper), 2),
        ];
        if with_baseline {
            cells.push(spread(&self.values(|figures| figures.baseline), digits));
            cells.push(spread(&self.ratios(|figures| figures.baseline), 3));
        }
        cells
    }

    /// All rows as a table.
    pub(crate) fn table(rows: &[Self], options: &Options) -> Table {
        let mut header =
            vec!["work", "measure", "rollcall", "bare axum", "ratio", "bare hyper", "ratio"];
        if options.baseline.is_some() {
            header.extend(["baseline", "over baseline"]);
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(header);
        for row in rows {
            table.add_row(row.cells(options.baseline.is_some()));
        }
        for column in 2..7 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// `median (lowest..highest)`; nothing of nothing.
fn spread(values: &[f64], digits: usize) -> String {
    if values.is_empty() {
        return String::new();
    }
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(values.iter().copied());
    format!("{median:.digits$} ({lowest:.digits$}..{highest:.digits$})")
}

/// Connections of the goals, where nothing else is said.
const USUAL: usize = 64;

/// Holds the rows against the goals; what was not measured has none.
pub(crate) fn goals(sheet: &mut Sheet) {
    let rates = [
        ("lookup: rate over bare axum", Work::Lookup, USUAL, 0.85),
        ("lookup answered 304: rate over bare axum", Work::Unchanged, USUAL, 0.95),
        ("filtered lookup, 5 of 100: rate over bare axum", Work::Filtered, USUAL, 0.5),
        ("heartbeat: rate over bare axum", Work::Heartbeat, USUAL, 0.85),
        (
            "durable registration, 1,000 clients: rate over bare axum",
            Work::Registration,
            1_000,
            0.6,
        ),
    ];
    for (name, work, connections, least) in rates {
        let row = find(sheet, work, connections, Measure::Rate, None);
        if let Some(ratio) = row.map(|row| median(row.ratios(|figures| figures.axum))) {
            sheet.at_least(name, ratio, least, "");
        }
    }
    if let Some(row) = find(sheet, Work::Lookup, USUAL, Measure::P99, Some(50)) {
        let ratio = median(row.ratios(|figures| figures.axum));
        sheet.at_most("lookup: p99 at 50 % load over bare axum", ratio, 2.0, "");
    }
    if let Some(row) = find(sheet, Work::Lookup, USUAL, Measure::Writer, None) {
        let micros = median(row.values(|figures| Some(figures.rollcall)));
        sheet.at_most("log: processor time of the writer for a lookup", micros, 1.2, " µs");
    }
    batches(sheet);
    one_client(sheet);
}

/// Batches of heartbeats over what plain SQLite takes of them.
fn batches(sheet: &mut Sheet) {
    let plain = sheet.value("plain SQLite, heartbeats, batches of 1,000");
    let row = find(sheet, Work::Batch, USUAL, Measure::Rate, None);
    let (Some(plain), Some(row)) = (plain, row) else { return };
    let rate = median(row.values(|figures| Some(figures.rollcall))) * BATCH as f64;
    sheet.figure("heartbeats in batches of 1,000", rate, "1/s");
    sheet.at_least("heartbeats in batches of 1,000: rate over plain SQLite", rate / plain, 0.7, "");
}

/// One client alone: its round trip to a bare server, and one and a half commits.
fn one_client(sheet: &mut Sheet) {
    let commit = sheet.value("plain SQLite, one row, p50");
    let row = find(sheet, Work::Registration, 1, Measure::P50, None);
    let (Some(commit), Some(row)) = (commit, row) else { return };
    let ours = median(row.values(|figures| Some(figures.rollcall)));
    let bare = median(row.values(|figures| figures.axum));
    let name = format!(
        "durable registration, one client: p50, to stay below bare ({} µs) + 1.5 commits of {} µs",
        round(bare),
        round(commit)
    );
    sheet.at_most(&name, ours, bare + 1.5 * commit, " µs");
}

fn find(
    sheet: &Sheet,
    work: Work,
    connections: usize,
    measure: Measure,
    load: Option<u32>,
) -> Option<Row> {
    let wanted = |row: &&Row| {
        (row.work, row.connections, row.measure, row.load) == (work, connections, measure, load)
    };
    sheet.rows.iter().find(wanted).cloned()
}
