//! Log lines on standard error: JSON for machines, plain for a terminal.
//!
//! One object a line, fields at the top level: `timestamp`, `level`, `target`, `message`, and what the line is
//! about (`trace_id`, `route`, `event.seq`, `error.type` ...). No other field may have one of the first four
//! names. With a tracer, `tracing` spans of rare paths are exported too, through the layer that is put on here.
//! Callers: `main`, once a process; tests, with a writer of their own.

use std::io::{IsTerminal as _, Write};
use std::str::FromStr;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::metrics::Metrics;
use super::records::Records;
use super::spans::Tracer;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Plain on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// The form as settings name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        [Self::Auto, Self::Json, Self::Text]
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| LogError::Format(text.to_owned()))
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a form.
    #[error("the log format must be auto, json or text, was {0:?}")]
    Format(String),
    /// Not a level, and no list of `target=level` either.
    #[error(
        "{text:?} is no log level: give error, warn, info, debug, trace, off, or a list like info,hyper=debug"
    )]
    Filter {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a subscriber already.
    #[error("logging was already set up")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Reads a filter in the form of `RUST_LOG`.
///
/// OpenTelemetry's own lines are off unless named: it would write one a failed export, and rollcall says when
/// exports begin to fail and when they work again. Of migrations only what goes wrong is told.
///
/// # Errors
/// [`LogError::Filter`] if a directive does not parse.
pub fn filter(directives: &str) -> Result<EnvFilter, LogError> {
    let quiet = [("opentelemetry", "off"), ("refinery_core", "warn")]
        .into_iter()
        .filter(|(target, _)| !directives.contains(target))
        .map(|(target, level)| format!(",{target}={level}"));
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(format!("{directives}{}", quiet.collect::<String>()))
        .map_err(|source| LogError::Filter { text: directives.to_owned(), source })
}

/// Lines that may wait to be written. Standard error is often a pipe, and whoever reads it may be slow: then
/// lines are lost and counted, and the registry goes on.
const LINES_MAX: usize = 65_536;

/// Writes the lines that wait when it is dropped.
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct LogGuard {
    _writer: WorkerGuard,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogGuard {
    /// Writes lines by another filter from now on, in the form of `RUST_LOG`.
    ///
    /// # Errors
    /// [`LogError::Filter`] if a directive does not parse; the filter stays what it was.
    pub fn filter_by(&self, directives: &str) -> Result<(), LogError> {
        // It fails only if the subscriber is gone, and it lives as long as the process.
        let _ = self.filter.reload(filter(directives)?);
        Ok(())
    }
}

/// Sets up the process' logging on standard error, written by a thread of its own so that no caller waits for
/// whoever reads it. Once a process, and not in tests. The guard is to be held until the end. `metrics` count the lines
/// that are lost.
///
/// # Errors
/// [`LogError::Filter`], and [`LogError::Twice`] for the second call.
pub fn init_logs(
    format: LogFormat,
    directives: &str,
    (tracer, records): (&Tracer, &Records),
    metrics: &Metrics,
) -> Result<LogGuard, LogError> {
    let format = match (format, std::io::stderr().is_terminal()) {
        (LogFormat::Auto, true) => LogFormat::Text,
        (LogFormat::Auto, false) => LogFormat::Json,
        (chosen, _) => chosen,
    };
    let (writer, guard) = lossy(std::io::stderr(), LINES_MAX, metrics);
    let (lines, filter) = reload::Layer::new(filter(directives)?);
    subscriber(format, lines, writer, (tracer, records)).try_init().map_err(LogError::Twice)?;
    Ok(LogGuard { _writer: guard, filter })
}

/// A writer that drops what `output` does not take in time, beyond so many lines that wait, and counts it.
fn lossy(
    output: impl Write + Send + 'static,
    lines_max: usize,
    metrics: &Metrics,
) -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines_max);
    let (writer, guard) = builder.thread_name("rollcall-logs").finish(output);
    metrics.count_lines(writer.error_counter());
    (writer, guard)
}

/// A subscriber that writes to `writer`; [`LogFormat::Auto`] means JSON here.
pub fn subscriber<W>(
    format: LogFormat,
    filter: impl Filter<Registry> + Send + Sync + 'static,
    writer: W,
    (tracer, records): (&Tracer, &Records),
) -> impl Subscriber + Send + Sync + for<'a> LookupSpan<'a>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Auto | LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let spans = tracer.sdk_tracer().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(exported())
    });
    // One filter for both, so that a record is what a line is.
    Registry::default().with(lines.and_then(records.layer()).with_filter(filter)).with(spans)
}

/// What may become a span: not the parts that the export itself is made of, or each export would make spans
/// that need exporting.
fn exported() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(PARTS_OF_EXPORT.into_iter().map(|target| (target, LevelFilter::OFF)))
}

/// What an export is made of: the beginnings of the names of these crates' modules.
const PARTS_OF_EXPORT: [&str; 7] =
    ["hyper", "hyper_util", "h2", "tonic", "tower", "reqwest", "opentelemetry"];

/// Whether a line with this target is one of those parts', which must not become part of an export itself.
pub(super) fn is_of_export(target: &str) -> bool {
    PARTS_OF_EXPORT.iter().any(|part| target.starts_with(part))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::telemetry::metrics::MetricsConfig;

    /// A writer that keeps what was written.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_flat_json_and_the_exporters_own_are_off() {
        let captured = Captured::default();
        let writer = captured.clone();
        let lines = subscriber(
            LogFormat::Json,
            filter("info").unwrap(),
            move || writer.clone(),
            (&Tracer::off(), &Records::off()),
        );
        tracing::subscriber::with_default(lines, || {
            tracing::info!(trace_id = "0af7", event.seq = 42_u64, "registered");
            tracing::error!(target: "opentelemetry_sdk", "export failed");
            tracing::debug!("not shown");
        });
        let written = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{written}");
        assert_eq!(lines[0]["message"], "registered");
        assert_eq!(lines[0]["event.seq"], 42);
        assert_eq!(lines[0]["trace_id"], "0af7");
        assert_eq!(lines[0]["level"], "INFO");
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn another_filter_holds_at_once() {
        let captured = Captured::default();
        let writer = captured.clone();
        let (lines, filter_by) = reload::Layer::new(filter("info").unwrap());
        let lines = subscriber(
            LogFormat::Json,
            lines,
            move || writer.clone(),
            (&Tracer::off(), &Records::off()),
        );
        tracing::subscriber::with_default(lines, || {
            let both = || {
                tracing::debug!("detail");
                tracing::info!("news");
            };
            both();
            filter_by.reload(filter("debug").unwrap()).unwrap();
            both();
            filter_by.reload(filter("off").unwrap()).unwrap();
            both();
        });
        let written = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let told: Vec<serde_json::Value> =
            written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = told.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(told, ["news", "detail", "news"]);
    }

    /// A reader that takes nothing until it is told to.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Told, or given up by the test: both let the line through.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_takes_are_counted() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let dropped = || {
            let page = metrics.page().render();
            let name = "rollcall_stderr_lines_dropped_total ";
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(dropped(), 0);
        let (told, stuck) = sync_channel(1);
        let (mut writer, guard) = lossy(Stuck(stuck), 4, &metrics);
        for _ in 0..100 {
            writer.write_all(b"a line\n").unwrap();
        }
        // Four wait, and one may be on its way out.
        assert!((95..=96).contains(&dropped()), "{}", dropped());
        drop((told, guard));
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        assert!(filter("info,hyper=debug").is_ok());
        assert!(filter("rollcall=loud").unwrap_err().to_string().contains("rollcall=loud"));
        assert!("yaml".parse::<LogFormat>().is_err());
    }
}
