//! `rollcall import`: a data directory out of an export.
//!
//! The work is [`crate::log::sqlite::import`]'s. Called by [`super::run`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use super::output::Output;
use super::progress::Progress;
use super::{Error, Exit, backup};
use crate::log::sqlite::{self, ImportError, TargetError};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every line is checked, and that each change follows from the state before it; a wrong line is named, and then nothing
is left behind. Events keep their numbers; the new log has an id of its own.

Examples:
  rollcall import all.jsonl --data ./rollcall-data
  zcat incident.jsonl.gz | rollcall import - --data ./incident
  rollcall import incident.jsonl --data ./incident && rollcall events --data ./incident

Exit code 1: a line is wrong; 2: the directory is not empty; 3: the file could not be read or the directory not be
written.")]
pub(super) struct Args {
    /// The file that `rollcall export` wrote; - is standard input
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
    let name = args.file.display().to_string();
    let mut input: Box<dyn BufRead> = if name == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.file);
        Box::new(BufReader::new(
            file.map_err(|error| Error::failed(format!("read {name}"), error))?,
        ))
    };
    let mut progress = Progress::new(errors);
    let mut tell = |lines| progress.tell(|| format!("read {lines} lines"));
    match sqlite::import(&mut *input, &args.data, &mut tell) {
        Ok(copied) => {
            backup::show(out, args.output, &args.data, &copied)?;
            Ok(Exit::Done)
        }
        Err(error @ ImportError::Line { .. }) => {
            writeln!(errors, "rollcall: {name}, {error}; nothing was imported")?;
            Ok(Exit::No)
        }
        Err(ImportError::Target(exists @ TargetError::Exists { .. })) => {
            Err(Error::Usage(exists.to_string()))
        }
        Err(error) => Err(Error::failed(format!("import {name}"), error)),
    }
}
