//! `rollcall verify`: is this log whole?
//!
//! It shows what [`crate::log::verify`] finds and changes nothing. Called by [`super::run`].

use std::io::Write;
use std::path::PathBuf;

use super::output::{self, Output};
use super::{Error, Exit};
use crate::history::spoken::counted;
use crate::log::verify;

/// Events between two lines of progress.
const PROGRESS_EVERY: u64 = 1_000_000;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Folds the whole log and checks numbers, checksums and invariants. It may be run beside a server.
Exit code 0: clean; 1: damaged, and the output says what is wrong and where; 3: it could not be read.

Examples:
  rollcall verify ./rollcall-data
  rollcall verify backup/rollcall.db --output json")]
pub(super) struct Args {
    /// A data directory, or the file of a log
    path: PathBuf,
    /// Form of the output: table for people, json for programs
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write, errors: &mut dyn Write) -> Result<Exit, Error> {
    let mut told = 0;
    let progress = |events: u64| {
        if events >= told + PROGRESS_EVERY {
            told = events;
            // Progress is a courtesy: a closed standard error does not end the check.
            let _ = writeln!(errors, "read {events} events");
        }
    };
    let report = verify::verify(&args.path, progress)
        .map_err(|error| Error::failed(format!("verify {}", args.path.display()), error))?;
    if args.output == Output::Json {
        output::json(out, &report)?;
    } else {
        tell(out, &report)?;
    }
    Ok(if report.is_clean() { Exit::Done } else { Exit::No })
}

fn tell(out: &mut dyn Write, report: &verify::Report) -> std::io::Result<()> {
    let verify::Report { log_id, head, first, changes, snapshots, .. } = report;
    let verify::Report { traffic, instances, services, digest, .. } = report;
    writeln!(out, "log       {log_id}")?;
    writeln!(out, "head      {head}")?;
    if *first > 1 {
        writeln!(out, "first     {first}, from the snapshot before it on")?;
    }
    writeln!(
        out,
        "read      {}, {traffic} of heartbeats, lookups and watches, {}",
        counted(*changes, "change", "changes"),
        counted(*snapshots, "snapshot", "snapshots")
    )?;
    let instances = counted(*instances, "instance", "instances");
    let services = counted(*services, "service", "services");
    writeln!(out, "state     {instances} of {services}, hash {digest}")?;
    if report.is_clean() { writeln!(out, "clean") } else { findings(out, report) }
}

/// What is damaged, for people. Also of a backup that is not restored.
pub(super) fn findings(out: &mut dyn Write, report: &verify::Report) -> std::io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "damaged   {}: {}", finding.place, finding.what)?;
    }
    let told = u64::try_from(report.findings.len()).unwrap_or(u64::MAX);
    match report.findings_total - told {
        0 => Ok(()),
        more => writeln!(out, "and {}", counted(more, "more finding", "more findings")),
    }
}
