//! `rollcall serve`: settings in, a running registry out.
//!
//! It reads the settings and hands them over; everything else is [`crate::app`]'s. Called by [`super::run`].

use std::io::Write;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::reload::{self, Reload};
use super::{Error, Exit, Interrupt};
use crate::app;
use crate::config::{Flags, Settings, process_variables};
use crate::telemetry::records::Records;
use crate::telemetry::spans::Tracer;
use crate::telemetry::{logs, signals};

/// The file size limit was exceeded: signal 25 on Linux and the BSDs (`signal(7)`).
const SIGXFSZ: i32 = 25;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A setting is taken from its flag, else from its variable, else from the file, else it has its default.
Durations are written 500ms, 15s, 2m or 24h; a bare number is seconds.

The first line on standard output is the address that was bound; logs go to standard error.
SIGHUP reads the settings again: log_level and what decides about traces (trace_*, but trace_url) hold at once.
Traces are exported when OTEL_EXPORTER_OTLP_ENDPOINT is set, such as http://localhost:4317.

Examples:
  rollcall serve
  rollcall serve --data /var/lib/rollcall --listen 0.0.0.0:7655
  rollcall serve --print-config > rollcall.toml
  rollcall serve --config rollcall.toml --log-level info,hyper=debug")]
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
    // Boxed: it holds the whole server, which would otherwise make every command's future as large.
    Box::pin(serve(&args.flags, effective.settings, out)).await
}

/// Runs a registry until it is told to stop.
async fn serve(
    flags: &Flags,
    settings: Settings,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Error> {
    let failed = |error: app::Error| Error::failed("run the registry", error);
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    let hangups = reload::listen().map_err(|error| Error::failed("hear signals", error))?;
    // A limit on the size of files comes with a signal that would end the process; heard and left at that, the
    // write fails instead, as on a full disk.
    let _file_limit = signal(SignalKind::from_raw(SIGXFSZ));
    let config = app::tracing_config(&settings, |name| std::env::var(name).ok())
        .map_err(|error| Error::Usage(error.to_string()))?;
    let metrics = app::metrics(&settings);
    let tracer = Tracer::start(&config, &metrics).map_err(|error| failed(error.into()))?;
    let records = match settings.otlp_logs {
        true => Records::start(&config, &metrics).map_err(|error| failed(error.into()))?,
        false => Records::off(),
    };
    let exporters = (&tracer, &records);
    let lines = logs::init_logs(settings.log_format, &settings.log_level, exporters, &metrics)
        .map_err(|error| Error::failed("write log lines", error))?;
    config.warnings.iter().for_each(|warning| signals::setting_ignored(warning));
    if settings.otlp_logs && !records.is_on() {
        signals::setting_ignored(
            "otlp_logs has no effect: OTEL_EXPORTER_OTLP_ENDPOINT is not set, or export is turned off",
        );
    }
    let shutdown = CancellationToken::new();
    let (tracer_of_reload, of_reload) = (tracer.clone(), settings.clone());
    let reload =
        Reload { flags, lines: &lines, tracer: tracer_of_reload, settings: of_reload, hangups };
    let serving = app::serve(&settings, tracer, metrics, out, shutdown.clone());
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        never = reload.follow() => match never {},
        () = interrupt.wait() => {
            shutdown.cancel();
            serving.await
        }
    };
    signals::records_lost(records.shutdown().await);
    ended.map(|()| Exit::Done).map_err(failed)
}
