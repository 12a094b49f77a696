//! `rollcall verify`: is this log whole?
//!
//! It shows what [`crate::log`] finds and changes nothing. Called by [`super::run`].

use std::io::Write;
use std::path::PathBuf;

use super::output::{self, Output};
use super::{Error, Exit};
use crate::log::verify::{Finding, verify};

/// Events between two lines of progress.
const PROGRESS_EVERY: u64 = 1_000_000;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Folds the whole log and checks numbers, checksums and invariants. Exit code 0: clean; 1: damaged, and the output says
what is wrong and where.

Examples:
  rollcall verify ./rollcall-data
  rollcall verify backup/rollcall.db")]
pub(super) struct Args {
    /// A data directory, or the file of a log
    path: PathBuf,
    /// Form of the output: table for people, json for programs
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write, errors: &mut dyn Write) -> Result<Exit, Error> {
    let shown = args.path.display();
    let mut told = 0;
    let progress = |rows: u64| {
        if rows >= told + PROGRESS_EVERY {
            told = rows;
            // Progress is a courtesy: a closed standard error does not end the check.
            let _ = writeln!(errors, "read {rows} events");
        }
    };
    let report = verify(&args.path, progress)
        .map_err(|error| Error::failed(format!("verify {shown}"), error))?;
    match args.output {
        Output::Json => output::json(out, &report)?,
        Output::Table => {
            for Finding { place, what } in &report.findings {
                writeln!(out, "{place}: {what}")?;
            }
            let more = report.findings_total - report.findings.len() as u64;
            if more > 0 {
                writeln!(out, "and {more} findings more")?;
            }
            writeln!(
                out,
                "{}: {} changes and {} traffic events read, {} instances in {} services at {}, digest {}",
                if report.is_clean() { "clean" } else { "DAMAGED" },
                report.changes,
                report.traffic,
                report.instances,
                report.services,
                report.head,
                report.digest
            )?;
        }
    }
    Ok(if report.is_clean() { Exit::Done } else { Exit::No })
}
