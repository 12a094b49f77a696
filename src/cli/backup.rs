//! `rollcall backup`: the log of a registry, as it is at one instant, in one file.
//!
//! The work is [`crate::log::sqlite::backup`]'s. Called by [`super::run`].

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::output::{self, Output};
use super::progress::{Progress, size};
use super::{Error, Exit};
use crate::log::sqlite::{self, Copied, CopyError, TargetError};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The registry may be running: it is not held up, and the copy is of one instant. The file is one that `verify`,
`events --data` and `restore` take. It appears under its name when it is whole and on the disk.

Examples:
  rollcall backup --data ./rollcall-data --to backup/rollcall.db
  rollcall backup --data /var/lib/rollcall --to /backup/rollcall-$(date +%F).db --output json
  rollcall backup --data /var/lib/rollcall --to /backup/rollcall.db --force && rollcall verify /backup/rollcall.db

Exit code 2: the file exists and --force was not given; 3: the log could not be read or the copy not be written.")]
pub(super) struct Args {
    /// The data directory of the registry
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
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
    let copied = sqlite::backup(&args.data, &args.to, args.force, &mut tell);
    let copied =
        copied.map_err(|error| refused(&format!("back up {}", args.data.display()), error))?;
    show(out, args.output, &args.to, &copied)?;
    Ok(Exit::Done)
}

/// A refusal of what was asked for, or a failure while it was done.
pub(super) fn refused(doing: &str, error: CopyError) -> Error {
    match error {
        CopyError::Target(exists @ TargetError::Exists { .. }) => Error::Usage(exists.to_string()),
        error => Error::failed(doing, error),
    }
}

/// What was made.
pub(super) fn show(
    out: &mut dyn Write,
    form: Output,
    path: &Path,
    copied: &Copied,
) -> io::Result<()> {
    if form == Output::Json {
        return output::json(out, copied);
    }
    let Copied { log_id, head, traffic, bytes } = copied;
    writeln!(out, "written   {}, {}", path.display(), size(*bytes))?;
    writeln!(out, "log       {log_id}")?;
    writeln!(out, "head      {head}")?;
    writeln!(out, "traffic   t{traffic}")
}
