//! Log lines as OTLP log records, for those who collect lines where they collect spans: a setting, off by default.
//!
//! What passes the filter of the lines becomes a record too: severity, message, fields, and the trace and span that the
//! line names, so that the records of a trace are found from it. The lines on standard error stay as they are. The way to
//! the collector is that of [`super::export`]: a bounded queue, batches, and a count of what becomes of each.
//!
//! It must never block whoever writes a line, nor feed on itself: lines of the parts that an export is made of, and what
//! the exporter's own thread says, are no records. Callers: [`super::logs`] for each line, `rollcall serve` for start and
//! end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::{InstrumentationScope, Key, trace};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord,
    SdkLogger, SdkLoggerProvider,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::config::TelemetryConfig;
use super::ids::{SpanId, TraceId};
use super::logs::is_of_export;
use super::metrics::Metrics;
use super::names::RecordResult;
use super::signals;
use super::spans::{StartError, resource};

/// Longest time that [`Records::shutdown`] takes. Short, because spans are waited for before: the lines stand on standard
/// error in any case.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// Makes and exports log records; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Records(Option<Arc<Active>>);

#[derive(Debug)]
struct Active {
    logger: SdkLogger,
    queue: Arc<Queue>,
}

impl Records {
    /// Exports nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Exports to the endpoint of the spans; off without one. The connection is made when it is first needed.
    ///
    /// # Errors
    /// [`StartError`] if the exporter refuses its settings.
    ///
    /// # Panics
    /// Outside a tokio runtime, if an endpoint is set: the gRPC client lives on it.
    pub fn start(config: &TelemetryConfig, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let Some(endpoint) = &config.endpoint else { return Ok(Self::off()) };
        let exporter = opentelemetry_otlp::LogExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(config.export_timeout)
            .build()
            .map_err(|source| StartError::new("log lines", endpoint, source))?;
        Ok(Self::with_exporter(exporter, config, metrics))
    }

    /// The same with an exporter of one's own; for tests and for [`Self::start`].
    pub fn with_exporter(
        exporter: impl LogExporter + 'static,
        config: &TelemetryConfig,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let queue = Arc::new(Queue::start(exporter, config, Arc::clone(metrics)));
        let provider =
            SdkLoggerProvider::builder().with_log_processor(Delivery(Arc::clone(&queue))).build();
        let scope = InstrumentationScope::builder("rollcall")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Arc::new(Active { logger: provider.logger_with_scope(scope), queue })))
    }

    /// Whether lines become records.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Exports what waits and ends, within [`SHUTDOWN_LIMIT`] whatever the collector does. Lines that come later are
    /// dropped and counted. Gives how many were lost.
    pub async fn shutdown(&self) -> u64 {
        let Some(active) = &self.0 else { return 0 };
        let queue = Arc::clone(&active.queue);
        // On a thread that may block: the export needs this runtime's threads to make progress meanwhile.
        tokio::task::spawn_blocking(move || queue.close(SHUTDOWN_LIMIT)).await.unwrap_or_default()
    }

    /// The layer that makes a record of each line; none if that is off.
    pub(super) fn layer(&self) -> Option<RecordLayer> {
        self.0.clone().map(RecordLayer)
    }
}

/// Makes a record of each line.
#[derive(Debug)]
pub(super) struct RecordLayer(Arc<Active>);

impl<S: Subscriber> Layer<S> for RecordLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if is_of_export(metadata.target()) {
            return;
        }
        let logger = &self.0.logger;
        let mut line = Line::new(logger);
        event.record(&mut line);
        let Line { mut record, target, trace_id, span_id } = line;
        // Lines of the crate `log` have the place that they come from in a field.
        let target = target.unwrap_or_else(|| metadata.target().to_owned());
        if is_of_export(&target) {
            return;
        }
        record.set_target(target);
        let (severity, text) = match *metadata.level() {
            Level::ERROR => (Severity::Error, "ERROR"),
            Level::WARN => (Severity::Warn, "WARN"),
            Level::INFO => (Severity::Info, "INFO"),
            Level::DEBUG => (Severity::Debug, "DEBUG"),
            Level::TRACE => (Severity::Trace, "TRACE"),
        };
        record.set_severity_number(severity);
        record.set_severity_text(text);
        if let (Some(trace_id), Some(span_id)) = (trace_id, span_id) {
            let trace_id = trace::TraceId::from_bytes(trace_id.to_bytes());
            let span_id = trace::SpanId::from_bytes(span_id.to_bytes());
            // Whether its span was kept is not known yet when a line is written.
            record.set_trace_context(trace_id, span_id, None);
        }
        logger.emit(record);
    }
}

/// A line on its way to a record.
struct Line {
    record: SdkLogRecord,
    target: Option<String>,
    trace_id: Option<TraceId>,
    span_id: Option<SpanId>,
}

impl Line {
    fn new(logger: &SdkLogger) -> Self {
        Self { record: logger.create_log_record(), target: None, trace_id: None, span_id: None }
    }

    fn put(&mut self, field: &Field, value: impl Into<AnyValue>) {
        self.record.add_attribute(Key::from_static_str(field.name()), value.into());
    }

    fn text(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.record.set_body(text.into()),
            "trace_id" if text.parse::<TraceId>().is_ok() => self.trace_id = text.parse().ok(),
            "span_id" if text.parse::<SpanId>().is_ok() => self.span_id = text.parse().ok(),
            "log.target" => self.target = Some(text),
            "log.module_path" | "log.file" => {}
            _ => self.put(field, text),
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match (field.name(), i64::try_from(value)) {
            ("log.line", _) => {}
            (_, Ok(value)) => self.put(field, value),
            // OTLP knows no larger numbers.
            (_, Err(_)) => self.put(field, value.to_string()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }
}

/// The queue and the thread behind it: [`super::export::Pipeline`] for records.
#[derive(Debug)]
struct Queue {
    processor: BatchLogProcessor,
    state: Arc<State>,
    records_max: usize,
}

/// What both ends share.
struct State {
    metrics: Arc<Metrics>,
    queued: AtomicUsize,
    failed: AtomicU64,
    failing: AtomicBool,
    closed: AtomicBool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("queued", &self.queued).finish_non_exhaustive()
    }
}

impl State {
    fn count(&self, result: RecordResult, records: u64) {
        self.metrics.records.get(result).increment(records);
    }
}

impl Queue {
    fn start(
        exporter: impl LogExporter + 'static,
        config: &TelemetryConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = Arc::new(State {
            metrics,
            queued: AtomicUsize::new(0),
            failed: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let batching = BatchConfigBuilder::default()
            .with_max_queue_size(config.queue_spans_max)
            .with_max_export_batch_size(config.batch_spans_max)
            .with_scheduled_delay(config.batch_delay)
            .build();
        let counting = Counting { exporter, state: Arc::clone(&state) };
        let mut processor =
            BatchLogProcessor::builder(counting).with_batch_config(batching).build();
        processor.set_resource(&resource(config));
        Self { processor, state, records_max: config.queue_spans_max }
    }

    /// Exports what waits and ends the thread. Blocks, at most `limit`. Gives how many records were lost.
    fn close(&self, limit: Duration) -> u64 {
        let failed_before = self.state.failed.load(Ordering::Acquire);
        if self.state.closed.swap(true, Ordering::AcqRel) {
            return 0;
        }
        // The counts say what happened.
        let _ = self.processor.shutdown_with_timeout(limit);
        let waiting = u64::try_from(self.state.queued.load(Ordering::Acquire)).unwrap_or(u64::MAX);
        waiting.saturating_add(self.state.failed.load(Ordering::Acquire) - failed_before)
    }
}

/// The queue as the SDK's provider sees it.
#[derive(Debug)]
struct Delivery(Arc<Queue>);

impl LogProcessor for Delivery {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        let Queue { processor, state, records_max } = &*self.0;
        // When it was seen is when it was written.
        if let Some(now) = record.observed_timestamp() {
            record.set_timestamp(now);
        }
        // Counted before it is sent, so that the processor never drops on its own, which nobody would count.
        let before = state.queued.fetch_add(1, Ordering::AcqRel);
        if before >= *records_max || state.closed.load(Ordering::Acquire) {
            state.queued.fetch_sub(1, Ordering::AcqRel);
            state.count(RecordResult::DroppedQueue, 1);
            return;
        }
        processor.emit(record, scope);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.processor.force_flush()
    }

    /// Does nothing: the queue has one owner that closes it, and the provider calls this once more when it is dropped.
    fn shutdown_with_timeout(&self, _limit: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// An exporter whose results are counted.
#[derive(Debug)]
struct Counting<E> {
    exporter: E,
    state: Arc<State>,
}

impl<E: LogExporter> LogExporter for Counting<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let records = batch.iter().count();
        let count = u64::try_from(records).unwrap_or(u64::MAX);
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                self.state.count(RecordResult::Exported, count);
                if self.state.failing.swap(false, Ordering::AcqRel) {
                    signals::records_resumed();
                }
            }
            Err(error) => {
                self.state.count(RecordResult::ExportFailed, count);
                self.state.failed.fetch_add(count, Ordering::AcqRel);
                if !self.state.failing.swap(true, Ordering::AcqRel) {
                    signals::records_failing(error);
                }
            }
        }
        // Last, so that a record in an export that hangs still counts as waiting.
        self.state.queued.fetch_sub(records, Ordering::AcqRel);
        result
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(limit)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::telemetry::logs::{self, LogFormat};
    use crate::telemetry::metrics::MetricsConfig;
    use crate::telemetry::spans::Tracer;

    /// An exporter that says what it was called with, and then waits to be let go.
    #[derive(Debug)]
    struct Blocked {
        called: mpsc::SyncSender<Vec<String>>,
        go: Mutex<mpsc::Receiver<()>>,
    }

    impl LogExporter for Blocked {
        async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
            let bodies = batch.iter().map(|(record, _)| format!("{:?}", record.body())).collect();
            let _ = self.called.send(bodies);
            // Ends when the test drops its side.
            let _ = self.go.lock().unwrap().recv();
            Ok(())
        }
    }

    fn count(metrics: &Metrics, result: &str) -> u64 {
        let page = metrics.page().render();
        let series = format!("rollcall_log_records_total{{result=\"{result}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_lines_of_the_export_are_no_records() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let (called, calls) = mpsc::sync_channel(64);
        let (go, wait) = mpsc::sync_channel(1);
        let config = TelemetryConfig {
            queue_spans_max: 4,
            batch_spans_max: 1,
            ..TelemetryConfig::default()
        };
        let blocked = Blocked { called, go: Mutex::new(wait) };
        let records = Records::with_exporter(blocked, &config, &metrics);
        let exporters = (&Tracer::off(), &records);
        let all = logs::filter("trace,opentelemetry=trace").unwrap();
        let lines = logs::subscriber(LogFormat::Json, all, std::io::sink, exporters);
        tracing::subscriber::with_default(lines, || {
            tracing::info!("first");
            assert_eq!(calls.recv().unwrap().len(), 1);
            // Neither takes a place in the queue.
            tracing::warn!(target: "h2::codec", "frame");
            tracing::error!(target: "opentelemetry_sdk", "failed");
            for _ in 0..10 {
                tracing::warn!("more");
            }
        });
        // One in the blocked export, three in the queue.
        assert_eq!(count(&metrics, "dropped_queue"), 7);
        drop(go);
        let queue = &records.0.as_ref().unwrap().queue;
        assert_eq!(queue.close(Duration::from_secs(20)), 0);
        assert_eq!((count(&metrics, "exported"), count(&metrics, "export_failed")), (4, 0));
        let sent: Vec<String> = calls.try_iter().flatten().collect();
        assert!(sent.iter().all(|body| body.contains("more")), "{sent:?}");
    }

    #[test]
    fn off_makes_nothing() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let off = Records::start(&TelemetryConfig::default(), &metrics).unwrap();
        assert!(!off.is_on() && off.layer().is_none());
    }
}
