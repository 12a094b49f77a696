//! What every mode hands over: its settings, its figures, its curves and which goals it reached; as text, and as JSON for
//! later comparison and for `benches/plot`.

use std::io::Write as _;
use std::process::Command;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::Failure;
use crate::options::{Cores, Options};
use crate::report::Row;

/// On what and with which settings was measured.
#[derive(Debug, Clone, Serialize)]
struct Settings {
    version: &'static str,
    commit: Option<String>,
    processor: Option<String>,
    cores: usize,
    /// Whether servers and driver share them.
    cores_are: Cores,
    synchronous: String,
    sampled_percent: f64,
    /// Whether spans are exported: `own`, `off` or `url`.
    otlp: &'static str,
    services: usize,
    instances: usize,
    rounds: usize,
    seconds: f64,
    /// Settings of the registry that are not the default.
    serve: Vec<String>,
    /// Whether this was the small form, whose figures mean nothing.
    quick: bool,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    /// The lowest and the highest of the rounds, where it is their median.
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<(f64, f64)>,
    unit: &'static str,
}

/// What was to be reached, and whether it was.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    work: String,
    goal: String,
    figure: String,
    reached: bool,
}

/// One line of a picture.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A picture.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Curve {
    /// Of its file.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// Whether the horizontal axis counts in powers of ten.
    pub(crate) log_x: bool,
    pub(crate) series: Vec<Series>,
}

/// The report of a mode.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sheet {
    mode: &'static str,
    settings: Settings,
    goals: Vec<Goal>,
    figures: Vec<Figure>,
    pub(crate) rows: Vec<Row>,
    curves: Vec<Curve>,
}

impl Sheet {
    /// An empty one.
    pub(crate) fn new(mode: &'static str, options: &Options) -> Self {
        let settings = Settings {
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cores_are: options.cores,
            synchronous: options.synchronous.clone(),
            sampled_percent: options.sampled,
            otlp: match options.otlp.as_str() {
                "own" => "own",
                "off" => "off",
                _ => "url",
            },
            services: options.services,
            instances: options.instances,
            rounds: options.rounds,
            seconds: options.seconds,
            serve: options.serve.clone(),
            quick: options.quick,
        };
        let (goals, figures, rows, curves) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { mode, settings, goals, figures, rows, curves }
    }

    /// Notes a figure.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, spread: None, unit });
    }

    /// Notes the median of a figure over the rounds, with the lowest and the highest; gives the median.
    pub(crate) fn rounds(
        &mut self,
        name: impl Into<String>,
        values: &[f64],
        unit: &'static str,
    ) -> f64 {
        let value = median(values.iter().copied());
        let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let spread = Some((lowest, highest));
        self.figures.push(Figure { name: name.into(), value, spread, unit });
        value
    }

    /// Notes a goal that is reached when `value` is at least `least`.
    pub(crate) fn at_least(&mut self, work: &str, value: f64, least: f64, unit: &str) {
        self.goal(work, format!("≥ {}{unit}", round(least)), value, unit, value >= least);
    }

    /// Notes a goal that is reached when `value` is at most `most`.
    pub(crate) fn at_most(&mut self, work: &str, value: f64, most: f64, unit: &str) {
        self.goal(work, format!("≤ {}{unit}", round(most)), value, unit, value <= most);
    }

    fn goal(&mut self, work: &str, goal: String, value: f64, unit: &str, reached: bool) {
        let figure = format!("{}{unit}", round(value));
        self.goals.push(Goal { work: work.to_owned(), goal, figure, reached });
    }

    /// Notes a picture.
    pub(crate) fn curve(&mut self, curve: Curve) {
        self.curves.push(curve);
    }

    /// The value of a figure that was noted.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        Some(self.figures.iter().find(|figure| figure.name == name)?.value)
    }

    /// Prints it all; writes the JSON where that was asked for.
    pub(crate) fn show(&self, options: &Options) -> Result<(), Failure> {
        let mut out = std::io::stdout();
        writeln!(out, "{}: {}", self.mode, self.settings())?;
        if !self.rows.is_empty() {
            writeln!(out, "{}", Row::table(&self.rows, options))?;
            writeln!(
                out,
                "median (lowest..highest) of {} rounds, ratio of each pair",
                options.rounds
            )?;
        }
        if !self.figures.is_empty() {
            let mut table = Table::new();
            table.load_style(presets::ASCII_MARKDOWN).set_header(["figure", "value", "unit"]);
            for Figure { name, value, spread, unit } in &self.figures {
                let spread = spread.map_or_else(String::new, |(lowest, highest)| {
                    format!(" ({}..{})", round(lowest), round(highest))
                });
                table.add_row([name.as_str(), &format!("{}{spread}", round(*value)), unit]);
            }
            writeln!(out, "{table}")?;
        }
        if !self.goals.is_empty() {
            let mut table = Table::new();
            table
                .load_style(presets::ASCII_MARKDOWN)
                .set_header(["goal", "to reach", "figure", ""]);
            for Goal { work, goal, figure, reached } in &self.goals {
                let reached = if *reached { "reached" } else { "missed" };
                table.add_row([work.as_str(), goal, figure, reached]);
            }
            writeln!(out, "{table}")?;
        }
        if let Some(path) = &options.json {
            std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        }
        Ok(())
    }

    fn settings(&self) -> String {
        let s = &self.settings;
        format!(
            "rollcall {} ({}), {} core(s) of {}{}; synchronous={}, every lookup logged, {} % sampled by the caller, \
             OTLP {}; {} services of {}, {} rounds of {} s{}{}",
            s.version,
            s.commit.as_deref().unwrap_or("unknown commit"),
            s.cores,
            s.processor.as_deref().unwrap_or("an unknown processor"),
            match s.cores_are {
                Cores::Apart => ", servers on the first, driver on the second",
                Cores::Shared => ", shared by all",
            },
            s.synchronous,
            s.sampled_percent,
            s.otlp,
            s.services,
            s.instances,
            s.rounds,
            s.seconds,
            s.serve.iter().map(|flag| format!(" {flag}")).collect::<String>(),
            if s.quick { "; SMALL FORM, its figures mean nothing" } else { "" },
        )
    }
}

/// Progress, in turn; where nobody reads, nothing is lost.
pub(crate) fn progress(options: &Options, what: &str, round: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{what}: round {round} of {}", options.rounds);
}

/// A number with three digits that say something.
pub(crate) fn round(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle of several values; of an even number of them the upper one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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
