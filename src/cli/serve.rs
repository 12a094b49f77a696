//! `rollcall serve`: settings in, a running registry out.
//!
//! It reads the settings and hands them over; everything else is [`crate::app`]'s. Called by [`super::run`].

use std::io::Write;

use super::{Error, Exit};
use crate::config::{Flags, Settings, process_variables};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A setting is taken from its flag, else from its variable, else from the file, else it has its default.
Durations are written 500ms, 15s, 2m or 24h; a bare number is seconds.

The first line on standard output is the address that was bound; logs go to standard error.
Traces are exported when OTEL_EXPORTER_OTLP_ENDPOINT is set, such as http://localhost:4317.

Examples:
  rollcall serve
  rollcall serve --data /var/lib/rollcall --listen 0.0.0.0:7655
  rollcall serve --print-config > rollcall.toml
  rollcall serve --config rollcall.toml --log-level info,rollcall::http=debug")]
pub(super) struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Print the settings that would be used as a TOML file, each with its source, and end
    #[arg(long)]
    print_config: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<Exit, Error> {
    let effective = args.flags.resolve(&process_variables)?;
    if args.print_config {
        out.write_all(effective.to_toml().as_bytes())?;
        return Ok(Exit::Done);
    }
    serve(effective.settings).await
}

/// Runs a registry until it is told to stop.
async fn serve(settings: Settings) -> Result<Exit, Error> {
    Err(Error::failed("run a registry", format!("not wired: {settings:?}")))
}
