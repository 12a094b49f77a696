//! `rollcall restore`: a data directory out of a backup.
//!
//! The work is [`crate::log::sqlite::restore`]'s. Called by [`super::run`].

use std::io::Write;
use std::path::PathBuf;

use super::output::Output;
use super::progress::{Progress, size};
use super::{Error, Exit, backup, verify};
use crate::log::sqlite::{self, CopyError};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The backup is verified first; one that is damaged is not restored. The new log has an id of its own: clients that
resume at a version of the log that was backed up are told to begin anew.

Examples:
  rollcall restore backup/rollcall.db --data ./rollcall-data
  rollcall restore /backup/rollcall.db --data /var/lib/rollcall && rollcall serve --data /var/lib/rollcall

Exit code 1: the backup is damaged, and the output says where; 2: the directory is not empty; 3: the backup could
not be read or the directory not be written.")]
pub(super) struct Args {
    /// The file that `rollcall backup` wrote
    file: PathBuf,
    /// The data directory to make: empty, or not there yet
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Form of the output: table for people, json for programs
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write, errors: &mut dyn Write) -> Result<Exit, Error> {
    let mut progress = Progress::new(errors);
    let mut tell = |done, all| {
        progress.tell(|| format!("copied {} of {}", size(done), size(all)));
    };
    match sqlite::restore(&args.file, &args.data, &mut tell) {
        Ok(copied) => {
            backup::show(out, args.output, &args.data, &copied)?;
            Ok(Exit::Done)
        }
        Err(CopyError::Damaged(report)) => {
            verify::findings(out, &report)?;
            writeln!(errors, "rollcall: {} is damaged: nothing was restored", args.file.display())?;
            Ok(Exit::No)
        }
        Err(error) => Err(backup::refused(&format!("restore {}", args.file.display()), error)),
    }
}
