//! The spans of the demo's services: one tracer a service, as each would have in a process of its own.
//!
//! A span is made when what it describes has ended. Nothing here may fail a call: without an endpoint, or with a dead
//! collector, the demo runs all the same. Used by [`super::call`] and [`super::member`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::Error;
use crate::clock::{Clock, SystemClock};
use crate::telemetry::config::TelemetryConfig;
use crate::telemetry::keep::RootRatio;
use crate::telemetry::metrics::{Metrics, MetricsConfig};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::spans::{
    KeyValue, SHUTDOWN_LIMIT, SpanKind, SpanRecord, StartError, Status, Tracer,
};

use super::fleet::SERVICES;

/// The tracers of all services, and the clock that they share.
pub(super) struct Tracing {
    tracers: HashMap<&'static str, Tracer>,
    clock: Arc<SystemClock>,
    ratio: RootRatio,
}

impl Tracing {
    /// Reads the standard variables and starts a tracer for each service; all are off without an endpoint.
    pub(super) fn start() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        let config = TelemetryConfig::from_env(variable)
            .map_err(|error| Error::failed("export traces", error))?;
        // The SDK's default, all, and not the registry's: the demo is small and there to be looked at.
        let chosen = variable("OTEL_TRACES_SAMPLER").is_some_and(|sampler| !sampler.is_empty());
        let ratio = if chosen { config.keep.root_ratio } else { RootRatio::new(1.0) };
        let names = SERVICES.iter().map(|service| service.name).chain(["visitors"]);
        let tracers = names
            .map(|name| Ok((name, tracer_of(name, &config)?)))
            .collect::<Result<_, StartError>>()
            .map_err(|error| Error::failed("export traces", error))?;
        let clock =
            SystemClock::start().map_err(|error| Error::failed("start the clock", error))?;
        Ok(Self { tracers, clock, ratio })
    }

    /// The spans of one instance of a service.
    pub(super) fn of(&self, service: &'static str, instance: &str) -> Spans {
        Spans {
            tracer: self.tracers.get(service).cloned().unwrap_or_default(),
            clock: Arc::clone(&self.clock),
            ratio: self.ratio,
            instance: instance.to_owned(),
        }
    }

    /// Exports what waits, at most for [`SHUTDOWN_LIMIT`].
    pub(super) async fn shutdown(&self) {
        let mut ending = tokio::task::JoinSet::new();
        for tracer in self.tracers.values() {
            let tracer = tracer.clone();
            ending.spawn(async move { tracer.shutdown(SHUTDOWN_LIMIT).await });
        }
        while ending.join_next().await.is_some() {}
    }
}

fn tracer_of(name: &str, config: &TelemetryConfig) -> Result<Tracer, StartError> {
    let config = TelemetryConfig { service_name: name.to_owned(), ..config.clone() };
    Tracer::start(&config, &Metrics::new(&MetricsConfig::default()))
}

/// Makes the spans of one instance.
#[derive(Clone)]
pub(super) struct Spans {
    tracer: Tracer,
    clock: Arc<SystemClock>,
    ratio: RootRatio,
    instance: String,
}

/// When something began, on both clocks: the wall's for the span, the other for its length.
#[derive(Clone, Copy)]
pub(super) struct Began {
    wall: SystemTime,
    micros: u64,
}

impl Spans {
    /// The ids of a new trace; sampled if it will have spans here.
    pub(super) fn root(&self) -> TraceContext {
        let root = TraceContext::root();
        if self.tracer.is_on() && self.ratio.contains(root.trace_id) {
            root.sampled()
        } else {
            root
        }
    }

    /// Now.
    pub(super) fn begin(&self) -> Began {
        let wall = u64::try_from(self.clock.wall().micros()).unwrap_or(0);
        Began { wall: UNIX_EPOCH + Duration::from_micros(wall), micros: self.clock.monotonic().0 }
    }

    /// Ends what began; exports its span if the trace is sampled, and gives its length.
    pub(super) fn end(
        &self,
        began: Began,
        context: TraceContext,
        kind: SpanKind,
        name: impl Into<std::borrow::Cow<'static, str>>,
        failure: Option<&str>,
        attributes: Vec<KeyValue>,
    ) -> Duration {
        let elapsed = Duration::from_micros(self.clock.monotonic().0.saturating_sub(began.micros));
        if self.tracer.is_on() && context.is_sampled() {
            let mut record = SpanRecord::new(name, kind, context, began.wall, began.wall + elapsed);
            record.attributes = attributes;
            record.attributes.push(KeyValue::new("rollcall.instance", self.instance.clone()));
            if let Some(failure) = failure {
                record.status = Status::error(failure.to_owned());
                record.attributes.push(KeyValue::new("error.type", failure.to_owned()));
            }
            self.tracer.emit(record);
        }
        elapsed
    }
}

/// The `traceparent` of a call made inside this span.
pub(super) fn traceparent(context: &TraceContext) -> String {
    String::from_utf8_lossy(&context.traceresponse()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};

    use super::*;

    /// An exporter that keeps what it gets.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_ends_in_a_sampled_trace_is_a_span_and_the_callee_continues_it() {
        let kept = Kept::default();
        let metrics = Metrics::new(&MetricsConfig::default());
        let spans = Spans {
            tracer: Tracer::with_exporter(kept.clone(), &TelemetryConfig::default(), &metrics),
            clock: SystemClock::start().unwrap(),
            ratio: RootRatio::new(1.0),
            instance: "web-1".to_owned(),
        };
        let root = spans.root();
        let call = root.child();
        let callee = TraceContext::from_headers([traceparent(&call).as_bytes()]);
        assert_eq!((callee.trace_id, callee.parent), (root.trace_id, Some(call.span_id)));
        assert!(callee.is_sampled());

        spans.end(spans.begin(), call, SpanKind::Client, "GET", Some("dead"), Vec::new());
        let unsampled = TraceContext::root();
        spans.end(spans.begin(), unsampled, SpanKind::Client, "GET", None, Vec::new());
        spans.tracer.flush().await;
        let exported = kept.0.lock().unwrap();
        let [span] = &exported[..] else { panic!("one span, was {exported:?}") };
        assert_eq!(span.span_context.span_id().to_bytes(), call.span_id.to_bytes());
        assert_eq!(span.parent_span_id.to_bytes(), root.span_id.to_bytes());
        assert_eq!(span.status, Status::error("dead"));
    }
}
