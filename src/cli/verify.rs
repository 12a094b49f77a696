//! `rollcall verify`: is this log whole?
//!
//! It shows what [`crate::log`] finds and changes nothing. Called by [`super::run`].

use std::io::Write;
use std::path::PathBuf;

use super::{Error, Exit};

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
}

/// Runs the command.
pub(super) fn run(args: &Args, _out: &mut dyn Write) -> Result<Exit, Error> {
    Err(Error::failed(format!("verify {}", args.path.display()), "not wired"))
}
