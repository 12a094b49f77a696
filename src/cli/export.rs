//! `rollcall export`: a stretch of a log as lines of JSON.
//!
//! The work is [`crate::log::sqlite::export`]'s. Called by [`super::run`].

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::progress::Progress;
use super::{Error, Exit};
use crate::clock::{Clock as _, SystemClock};
use crate::history::{self, Moment};
use crate::log::sqlite::{self, ExportError, Range};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One event a line, as the API shows it. The first line says which log it is of and what follows; where the events do
not begin at the beginning, the state that they begin at comes next, so that `import` makes a working log of it.
Heartbeats and lookups go by time with the changes. The registry may be running.

Examples:
  rollcall export --data ./rollcall-data --out all.jsonl
  rollcall export --data ./rollcall-data --from 2026-11-21T12:00:00Z --to 2026-11-21T12:30:00Z > incident.jsonl
  rollcall export --data ./rollcall-data --from -1h --without-traffic | jq -c 'select(.kind == \"expired\")'
  rollcall export --data ./rollcall-data --from @1200 --to @1300 | rollcall import - --data ./incident

Exit code 1: it is older than what is kept, or has not happened yet; 2: an instant is not understood, or the file
exists; 3: the log could not be read or the export not be written.")]
pub(super) struct Args {
    /// The data directory of the registry, or the file of a log
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// From this instant on: RFC 3339, an age (-5m) or a change (@1234); the oldest if not given
    #[arg(long, allow_hyphen_values = true, value_name = "INSTANT")]
    from: Option<String>,
    /// Up to this instant or change, inclusive; the newest if not given
    #[arg(long, allow_hyphen_values = true, value_name = "INSTANT")]
    to: Option<String>,
    /// Leave out heartbeats, lookups and watches
    #[arg(long)]
    without_traffic: bool,
    /// The file to write, which does not exist yet; standard output if not given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write, errors: &mut dyn Write) -> Result<Exit, Error> {
    let clock = SystemClock::start().map_err(|error| Error::failed("start the clock", error))?;
    let moment = |flag: &str, text: &Option<String>| {
        let read = |text: &String| {
            Moment::parse(text, clock.wall()).ok_or_else(|| {
                Error::Usage(format!(
                    "{flag} must be RFC 3339, an age such as -5m, or a change such as @1234"
                ))
            })
        };
        text.as_ref().map(read).transpose()
    };
    let range = Range {
        from: moment("--from", &args.from)?,
        to: moment("--to", &args.to)?,
        without_traffic: args.without_traffic,
    };
    let mut progress = Progress::new(errors);
    let mut tell = |events| progress.tell(|| format!("wrote {events} events"));
    let exported = match &args.out {
        None => sqlite::export(&args.data, range, &mut BufWriter::new(out), &mut tell),
        Some(path) => {
            let file = File::create_new(path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::Usage(format!("{} exists: name another file", path.display()))
                }
                _ => Error::failed(format!("create {}", path.display()), error),
            })?;
            let mut file = BufWriter::new(file);
            let exported =
                sqlite::export(&args.data, range, &mut file, &mut tell).and_then(|exported| {
                    file.get_ref().sync_all().map(|()| exported).map_err(Into::into)
                });
            if exported.is_err() {
                // A part of an export is of no use, and its name would be taken.
                let _ = std::fs::remove_file(path);
            }
            exported
        }
    };
    match exported {
        Ok(exported) if args.out.is_some() => {
            writeln!(
                errors,
                "wrote changes {} to {} and {} traffic events of log {}",
                exported.first, exported.last, exported.traffic, exported.log_id
            )?;
            Ok(Exit::Done)
        }
        Ok(_) => Ok(Exit::Done),
        Err(ExportError::History(
            why @ (history::Error::Gone { .. } | history::Error::Ahead { .. }),
        )) => {
            writeln!(errors, "rollcall: {why}")?;
            Ok(Exit::No)
        }
        Err(ExportError::Output(error)) => Err(Error::Output(error)),
        Err(error @ ExportError::Backwards { .. }) => Err(Error::Usage(error.to_string())),
        Err(error) => Err(Error::failed(format!("export {}", args.data.display()), error)),
    }
}
