//! The tracer: makes a kept span from ids and times that are already known, and queues it for export.
//!
//! A request carries its ids through all its steps and nothing else; only if [`Tracer::keep`] says so at its end,
//! its spans are made, with the very ids that its event and its answer carry. The SDK's own span builder would
//! take ids only from a generator and times only while a span is open, so the finished record is made directly.
//! Spans of rare paths that want `tracing` spans come through the layer of [`super::logs`], into the same queue.
//!
//! Without an endpoint all of this does nothing, and costs a branch. It must never block a request.
//! Callers: the HTTP layers, the registrar, expiry, recovery, `app` for start and end.

mod recent;

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use opentelemetry::trace::{Event, Link, SpanContext, TraceFlags, TraceState, TracerProvider as _};
use opentelemetry::{InstrumentationScope, trace};
pub use opentelemetry::{
    KeyValue,
    trace::{SpanKind, Status},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanEvents, SpanExporter, SpanLinks,
};

use super::config::TelemetryConfig;
use super::export::{Delivery, Pipeline};
use super::keep::{KeepConfig, KeepPolicy, KeepReason, Outcome};
use super::metrics::Metrics;
use super::propagation::{SpanId, TraceContext, TraceId};
use recent::Recent;

/// Most links of one span; OpenTelemetry's default limit.
pub const LINKS_MAX: usize = 128;

/// Longest time that [`Tracer::shutdown`] takes, unless told otherwise.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// The exporter could not be built.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be exported to {endpoint}")]
pub struct StartError {
    what: &'static str,
    endpoint: String,
    #[source]
    source: opentelemetry_otlp::ExporterBuildError,
}

impl StartError {
    /// What was to be exported, whereto, and why that cannot be.
    pub(super) fn new(
        what: &'static str,
        endpoint: &str,
        source: opentelemetry_otlp::ExporterBuildError,
    ) -> Self {
        Self { what, endpoint: endpoint.to_owned(), source }
    }
}

/// A finished span.
#[derive(Debug, Clone)]
pub struct SpanRecord {
    /// Name: `GET /v1/services`, `decide`.
    pub name: Cow<'static, str>,
    /// Kind. The parent of a server span is remote, of any other one in this process.
    pub kind: SpanKind,
    /// Its ids and its parent's.
    pub context: TraceContext,
    /// The caller's `tracestate`, if any.
    pub tracestate: Option<String>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Attributes. Numbers as numbers: a status code is an `i64`.
    pub attributes: Vec<KeyValue>,
    /// Other spans that it has to do with; those beyond [`LINKS_MAX`] are counted and dropped.
    pub links: Vec<SpanLink>,
    /// Instants inside it: name, time, attributes.
    pub events: Vec<(Cow<'static, str>, SystemTime, Vec<KeyValue>)>,
    /// Unset, also for a 4xx; an error for a 5xx.
    pub status: Status,
}

impl SpanRecord {
    /// A record without attributes, links and events, its status unset.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        context: TraceContext,
        start: SystemTime,
        end: SystemTime,
    ) -> Self {
        Self {
            name: name.into(),
            kind,
            context,
            tracestate: None,
            start,
            end,
            attributes: Vec::new(),
            links: Vec::new(),
            events: Vec::new(),
            status: Status::Unset,
        }
    }
}

/// Another span, in this trace or in another one, that a span has to do with.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanLink {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// What it is to the span.
    pub attributes: Vec<KeyValue>,
}

/// How [`Tracer::shutdown`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Kept spans that did not reach the collector.
    pub spans_lost: u64,
}

/// Makes and exports spans; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Active>>);

#[derive(Debug)]
struct Active {
    pipeline: Arc<Pipeline>,
    policy: ArcSwap<KeepPolicy>,
    /// The same rules with caps of their own.
    probes: ArcSwap<KeepPolicy>,
    scope: InstrumentationScope,
    provider: SdkTracerProvider,
    recent: Recent,
}

impl Active {
    /// Counts what is not kept. What is to be kept is given on if there is a place for it in the queue: it is asked
    /// before a span is made, so that one that would be dropped costs nothing.
    fn room_for(&self, kept: Option<KeepReason>) -> Option<KeepReason> {
        let Some(reason) = kept else {
            self.pipeline.count_unsampled();
            return None;
        };
        self.pipeline.has_room(reason.is_trouble()).then_some(reason)
    }
}

impl Tracer {
    /// A tracer that keeps nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tracer after the settings: off without an endpoint, else exporting over OTLP/gRPC. The connection is
    /// made when it is first needed, so a collector that is absent is no error.
    ///
    /// # Errors
    /// [`StartError`] if the exporter refuses its settings.
    ///
    /// # Panics
    /// Outside a tokio runtime, if an endpoint is set: the gRPC client lives on it.
    pub fn start(config: &TelemetryConfig, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let Some(endpoint) = &config.endpoint else { return Ok(Self::off()) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(config.export_timeout)
            .build()
            .map_err(|source| StartError::new("traces", endpoint, source))?;
        Ok(Self::with_exporter(exporter, config, metrics))
    }

    /// A tracer with an exporter of one's own; for tests and for [`Self::start`].
    pub fn with_exporter(
        exporter: impl SpanExporter + 'static,
        config: &TelemetryConfig,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let resource = resource(config);
        let pipeline = Arc::new(Pipeline::start(exporter, config, &resource, Arc::clone(metrics)));
        let share = Sampler::TraceIdRatioBased(config.keep.root_ratio.get());
        let sampler =
            if config.keep.follow_caller { Sampler::ParentBased(Box::new(share)) } else { share };
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_resource(resource)
            .with_span_processor(Delivery(Arc::clone(&pipeline)))
            .build();
        let scope = InstrumentationScope::builder("rollcall")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Arc::new(Active {
            pipeline,
            policy: ArcSwap::from_pointee(KeepPolicy::new(&config.keep)),
            probes: ArcSwap::from_pointee(KeepPolicy::new(&config.keep)),
            scope,
            provider,
            recent: Recent::new(),
        })))
    }

    /// Whether spans are made at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps by other rules from now on, their caps full. Spans of rare paths that are made through `tracing` go on being
    /// sampled as at the start.
    pub fn keep_by(&self, config: &KeepConfig) {
        if let Some(active) = &self.0 {
            active.policy.store(Arc::new(KeepPolicy::new(config)));
            active.probes.store(Arc::new(KeepPolicy::new(config)));
        }
    }

    /// Whether to keep the span of a request that ended so, and why; counts it if not. `None` if tracing is off, or if
    /// there is no room for it.
    pub fn keep(&self, context: &TraceContext, outcome: &Outcome) -> Option<KeepReason> {
        let active = self.0.as_ref()?;
        active.room_for(active.policy.load().keep(context, outcome))
    }

    /// The same for the registry's own probes, which take no place of a request.
    pub fn keep_probe(&self, context: &TraceContext, outcome: &Outcome) -> Option<KeepReason> {
        let active = self.0.as_ref()?;
        active.room_for(active.probes.load().keep(context, outcome))
    }

    /// Whether a trace that begins here will be kept whatever comes of it, so that those it reaches may know.
    pub fn samples(&self, context: &TraceContext) -> bool {
        self.0.as_ref().is_some_and(|active| active.policy.load().samples(context))
    }

    /// Queues a finished span for export; does nothing if tracing is off.
    pub fn emit(&self, record: SpanRecord) {
        if let Some(active) = &self.0 {
            active.recent.remember(record.context.span_id, record.end);
            active.pipeline.deliver(span_data(record, &active.scope));
        }
    }

    /// Whether the span of what this process did at that time, in microseconds since 1970, was kept. `None` if that is
    /// not known any more, or tracing is off.
    pub fn was_kept(&self, span_id: SpanId, at: u64) -> Option<bool> {
        self.0.as_ref()?.recent.knows(span_id, at)
    }

    /// A tracer of the SDK, for the layer that turns `tracing` spans into exported ones. `None` if off.
    pub fn sdk_tracer(&self) -> Option<SdkTracer> {
        self.0.as_ref().map(|active| active.provider.tracer_with_scope(active.scope.clone()))
    }

    /// Exports what waits, without ending. Meant for tests; an export that fails is counted, not reported.
    pub async fn flush(&self) {
        self.blocking(|pipeline| drop(pipeline.flush())).await;
    }

    /// Exports what waits and ends, within `limit` whatever the collector does. Spans emitted later are dropped
    /// and counted. The second call does nothing.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let spans_lost =
            self.blocking(move |pipeline| pipeline.close(limit)).await.unwrap_or_default();
        ShutdownReport { spans_lost }
    }

    /// Runs on a thread that may block: the export needs this runtime's threads to make progress meanwhile.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Pipeline) -> T + Send + 'static,
    ) -> Option<T> {
        let pipeline = Arc::clone(&self.0.as_ref()?.pipeline);
        tokio::task::spawn_blocking(move || run(&pipeline)).await.ok()
    }
}

/// What all spans and records say of the process.
pub(super) fn resource(config: &TelemetryConfig) -> Resource {
    let further =
        config.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(further)
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.instance.id", config.instance_id.clone()))
        .build()
}

fn span_context(
    trace_id: TraceId,
    span_id: SpanId,
    remote: bool,
    state: TraceState,
) -> SpanContext {
    SpanContext::new(
        trace::TraceId::from_bytes(trace_id.to_bytes()),
        trace::SpanId::from_bytes(span_id.to_bytes()),
        TraceFlags::SAMPLED,
        remote,
        state,
    )
}

fn span_data(record: SpanRecord, scope: &InstrumentationScope) -> SpanData {
    // A state that the SDK finds malformed is left out; the span is worth more than it.
    let state = record
        .tracestate
        .as_deref()
        .and_then(|state| TraceState::from_str(state).ok())
        .unwrap_or_default();
    let context = record.context;
    let mut links = SpanLinks::default();
    links.dropped_count =
        u32::try_from(record.links.len().saturating_sub(LINKS_MAX)).unwrap_or(u32::MAX);
    links.links = record
        .links
        .into_iter()
        .take(LINKS_MAX)
        .map(|link| {
            let linked = span_context(link.trace_id, link.span_id, false, TraceState::NONE);
            Link::new(linked, link.attributes, 0)
        })
        .collect();
    let mut events = SpanEvents::default();
    events.events = record
        .events
        .into_iter()
        .map(|(name, at, attributes)| Event::new(name, at, attributes, 0))
        .collect();
    SpanData {
        span_context: span_context(context.trace_id, context.span_id, false, state),
        parent_span_id: context
            .parent
            .map_or(trace::SpanId::INVALID, |parent| trace::SpanId::from_bytes(parent.to_bytes())),
        parent_span_is_remote: context.parent.is_some() && record.kind == SpanKind::Server,
        span_kind: record.kind,
        name: record.name,
        start_time: record.start,
        // A wall clock that was set back meanwhile must not make a span end before it began.
        end_time: record.end.max(record.start),
        attributes: record.attributes,
        dropped_attributes_count: 0,
        events,
        links,
        status: record.status,
        instrumentation_scope: scope.clone(),
    }
}

#[cfg(test)]
mod tests;
