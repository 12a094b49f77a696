//! The way of kept spans to the collector: a bounded queue, batches, and a count of what becomes of each.
//!
//! The SDK's batch processor drops spans when its queue is full, and reports neither that nor failed exports;
//! its shutdown says Ok although the spans were lost. So its two ends are wrapped here: what goes in is counted
//! against the queue's size before the processor could drop it, what comes out is counted by how the export
//! ended.
//!
//! ```text
//!  deliver ──(room?)──▶ BatchSpanProcessor: queue, own thread ──▶ Counting ──▶ OTLP
//!     │ no                                                            │
//!     └▶ dropped_queue                              exported, export_failed; one log line when exports
//!                                                   begin to fail, one when they work again
//! ```
//!
//! It never blocks a request: a full queue drops. Caller: [`super::spans`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

use super::config::TelemetryConfig;
use super::metrics::Metrics;
use super::names::SpanResult;
use super::signals;

/// The queue and the thread behind it.
#[derive(Debug)]
pub(super) struct Pipeline {
    processor: BatchSpanProcessor,
    state: Arc<State>,
    queue_spans_max: usize,
}

/// What both ends share.
struct State {
    metrics: Arc<Metrics>,
    /// Spans between the two ends.
    queued: AtomicUsize,
    failed: AtomicU64,
    failing: AtomicBool,
    closed: AtomicBool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("queued", &self.queued)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl State {
    fn count(&self, result: SpanResult, spans: u64) {
        self.metrics.spans.get(result).increment(spans);
    }
}

impl Pipeline {
    /// Starts the export thread.
    pub(super) fn start(
        exporter: impl SpanExporter + 'static,
        config: &TelemetryConfig,
        resource: &Resource,
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
            BatchSpanProcessor::builder(counting).with_batch_config(batching).build();
        processor.set_resource(resource);
        Self { processor, state, queue_spans_max: config.queue_spans_max }
    }

    /// Queues a kept span, or drops it if the queue is full or closed. Counts it either way.
    pub(super) fn deliver(&self, span: SpanData) {
        self.state.count(SpanResult::Kept, 1);
        // Counted before it is sent, and taken back only after it was received: so the processor's queue never
        // holds more than this number, and never drops on its own.
        let before = self.state.queued.fetch_add(1, Ordering::AcqRel);
        if before >= self.queue_spans_max || self.state.closed.load(Ordering::Acquire) {
            self.state.queued.fetch_sub(1, Ordering::AcqRel);
            self.state.count(SpanResult::DroppedQueue, 1);
            return;
        }
        self.processor.on_end(span);
    }

    /// Whether there is room for one more span. If not, it counts as one that was kept and dropped.
    ///
    /// The last quarter of the queue is for what failed or was slow: however many the others are, that has room.
    pub(super) fn has_room(&self, trouble: bool) -> bool {
        let limit = match trouble {
            true => self.queue_spans_max,
            false => self.queue_spans_max - self.queue_spans_max / 4,
        };
        let has_room = self.state.queued.load(Ordering::Acquire) < limit;
        if !has_room {
            self.state.count(SpanResult::Kept, 1);
            self.state.count(SpanResult::DroppedQueue, 1);
        }
        has_room
    }

    /// Counts a request whose span was not kept.
    pub(super) fn count_unsampled(&self) {
        self.state.count(SpanResult::Unsampled, 1);
    }

    /// Exports what waits. Blocks, at most five seconds (the SDK's limit).
    pub(super) fn flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    /// Exports what waits and ends the thread. Blocks, at most `limit`; after that the thread is left behind.
    /// Returns how many spans were lost: those that failed meanwhile and those that still waited.
    pub(super) fn close(&self, limit: Duration) -> u64 {
        let failed_before = self.state.failed.load(Ordering::Acquire);
        if self.state.closed.swap(true, Ordering::AcqRel) {
            return 0;
        }
        // Its result is of no use: it is Ok also when the export failed. The counts say what happened.
        let _ = self.processor.shutdown_with_timeout(limit);
        let waiting = u64::try_from(self.state.queued.load(Ordering::Acquire)).unwrap_or(u64::MAX);
        waiting.saturating_add(self.state.failed.load(Ordering::Acquire) - failed_before)
    }
}

/// The pipeline as the SDK's provider sees it, for spans that the tracing layer makes.
#[derive(Debug)]
pub(super) struct Delivery(pub(super) Arc<Pipeline>);

impl SpanProcessor for Delivery {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.deliver(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.flush()
    }

    /// Does nothing: the pipeline has one owner that closes it, and the provider calls this once more when it
    /// is dropped, on whatever thread that is.
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

impl<E: SpanExporter> SpanExporter for Counting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let count = u64::try_from(spans).unwrap_or(u64::MAX);
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                self.state.count(SpanResult::Exported, count);
                if self.state.failing.swap(false, Ordering::AcqRel) {
                    signals::export_resumed();
                }
            }
            Err(error) => {
                self.state.count(SpanResult::ExportFailed, count);
                self.state.failed.fetch_add(count, Ordering::AcqRel);
                if !self.state.failing.swap(true, Ordering::AcqRel) {
                    signals::export_failing(error);
                }
            }
        }
        // Last, so that a span in an export that hangs still counts as waiting.
        self.state.queued.fetch_sub(spans, Ordering::AcqRel);
        result
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(limit)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
