//! What telemetry costs a lookup, part by part: what is counted of it, its ids, whether its span is kept, and the span of
//! those that are; and what a page of metrics costs whoever asks for it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use criterion::Criterion;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use rollcall::telemetry::config::TelemetryConfig;
use rollcall::telemetry::keep::{Ending, Outcome, Pace};
use rollcall::telemetry::metrics::{Metrics, MetricsConfig};
use rollcall::telemetry::names::{ErrorType, LookupOutcome, Method, Status};
use rollcall::telemetry::propagation::TraceContext;
use rollcall::telemetry::signals::{self, Answered};
use rollcall::telemetry::spans::{KeyValue, SpanKind, SpanRecord, Tracer};

/// Series on the page that is rendered.
const SERIES: usize = 3_000;

/// One of so many lookups is kept.
const KEPT_OF: u64 = 100;

const ROUTE: &str = "/v1/services/{service}/instances";
const UNSAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// An exporter that takes and forgets.
#[derive(Debug)]
struct Forgets;

impl SpanExporter for Forgets {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        drop(black_box(batch));
        Ok(())
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    lookup(criterion);
    page(criterion);
}

fn answered(context: &TraceContext) -> Answered<'_> {
    Answered {
        context,
        method: Method::Get,
        status: 200,
        error: ErrorType::None,
        elapsed: Duration::from_micros(120),
    }
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("telemetry of a lookup");
    let metrics = Metrics::new(&MetricsConfig::default());
    let route = metrics.http.route(ROUTE);
    let context = TraceContext::from_headers([UNSAMPLED]);
    group.bench_function("what is counted of it", |bencher| {
        bencher.iter(|| {
            metrics.trace_context.get(context.result).increment(1);
            metrics.registry.lookups.get(LookupOutcome::Hit).increment(1);
            signals::answered(&route, black_box(&answered(&context)), false);
        });
    });
    group.bench_function(
        "its ids: traceparent read, span id made, traceresponse written",
        |bencher| {
            bencher.iter(|| {
                black_box(TraceContext::from_headers([black_box(UNSAMPLED)])).traceresponse()
            });
        },
    );
    let off = Tracer::off();
    let on = Tracer::with_exporter(Forgets, &TelemetryConfig::default(), &metrics);
    let mut now = Duration::from_secs(1);
    let outcome = |now| Outcome {
        ending: Ending::Well,
        changed: false,
        elapsed: Duration::from_micros(120),
        pace: Pace::Read,
        now,
    };
    for (name, tracer) in [("tracing off", &off), ("unsampled", &on)] {
        group.bench_function(format!("whether its span is kept: {name}"), |bencher| {
            bencher.iter(|| {
                now += Duration::from_micros(10);
                black_box(tracer.keep(black_box(&context), &outcome(now)))
            });
        });
    }
    let mut number = 0;
    group.bench_function("the same with one of a hundred spans kept, made and queued", |bencher| {
        bencher.iter(|| {
            now += Duration::from_micros(10);
            number += 1;
            black_box(on.keep(black_box(&context), &outcome(now)));
            if number % KEPT_OF == 0 {
                on.emit(span(&context));
            }
        });
    });
    group.finish();
}

/// A span with about the attributes that a lookup's has.
fn span(context: &TraceContext) -> SpanRecord {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_248_000);
    let start = end - Duration::from_micros(120);
    let mut span = SpanRecord::new(format!("GET {ROUTE}"), SpanKind::Server, *context, start, end);
    span.attributes = vec![
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", "/v1/services/orders/instances".to_owned()),
        KeyValue::new("network.protocol.version", "1.1"),
        KeyValue::new("server.address", "127.0.0.1".to_owned()),
        KeyValue::new("server.port", 7655_i64),
        KeyValue::new("user_agent.original", "bench".to_owned()),
        KeyValue::new("client.address", "127.0.0.1".to_owned()),
        KeyValue::new("http.request.method", "GET"),
        KeyValue::new("http.route", ROUTE),
        KeyValue::new("http.response.status_code", 200_i64),
        KeyValue::new("rollcall.keep", "ratio"),
        KeyValue::new("rollcall.service", "orders".to_owned()),
    ];
    span
}

/// Series on a page.
fn series(page: &str) -> usize {
    page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// Metrics with as many series as a page is to have.
fn full() -> Arc<Metrics> {
    let config = MetricsConfig { service_series_max: SERIES, ..MetricsConfig::default() };
    let metrics = Metrics::new(&config);
    let mut number = 0;
    while series(&metrics.page().render()) < SERIES {
        for _ in 0..50 {
            metrics.registry.service_instances.adjust(
                &format!("service-{number}"),
                Status::Healthy,
                3,
            );
            number += 1;
        }
    }
    metrics
}

fn page(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a page of metrics");
    let metrics = full();
    let count = series(&metrics.page().render());
    group.bench_function(format!("{count} series"), |bencher| {
        bencher.iter(|| black_box(metrics.page().render()));
    });
    group.bench_function(format!("{count} series, with exemplars"), |bencher| {
        bencher.iter(|| black_box(metrics.open_page()));
    });
    group.finish();
}
