//! The tracer against an exporter that keeps, one that is blocked, and OTLP receivers over real sockets.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_sdk::error::OTelSdkResult;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::*;
use crate::telemetry::keep::{Ending, Pace};
use crate::telemetry::logs;
use crate::telemetry::metrics::MetricsConfig;
use crate::telemetry::propagation::ContextResult;
use crate::telemetry::records::Records;

const CALLER: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// An exporter that keeps what it gets.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// An exporter that says when it was called, and then waits to be let go.
#[derive(Debug)]
struct Blocked {
    called: mpsc::SyncSender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl SpanExporter for Blocked {
    async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
        let _ = self.called.send(());
        // Ends when the test drops its side.
        let _ = self.go.lock().unwrap().recv();
        Ok(())
    }
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(&MetricsConfig::default())
}

fn count(metrics: &Metrics, result: &str) -> u64 {
    let page = metrics.page().render();
    let series = format!("rollcall_spans_total{{result=\"{result}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn internal(name: &'static str) -> SpanRecord {
    SpanRecord::new(name, SpanKind::Internal, TraceContext::root(), at(1), at(2))
}

#[tokio::test]
async fn a_kept_span_has_the_ids_times_and_links_that_it_was_given() {
    let (kept, metrics) = (Kept::default(), metrics());
    let tracer = Tracer::with_exporter(kept.clone(), &TelemetryConfig::default(), &metrics);
    let request = TraceContext::from_headers([CALLER]);
    assert_eq!(request.result, ContextResult::Valid);
    let step = request.child();
    let other = TraceContext::root();

    let mut record =
        SpanRecord::new("GET /v1/services", SpanKind::Server, request, at(100), at(101));
    record.tracestate = Some("vendor=1".to_owned());
    record.status = Status::error("log_failed");
    record.attributes.push(KeyValue::new("http.response.status_code", 503_i64));
    record.events.push(("refused".into(), at(100), Vec::new()));
    tracer.emit(record);
    let mut record = SpanRecord::new("append", SpanKind::Internal, step, at(200), at(150));
    let link =
        SpanLink { trace_id: other.trace_id, span_id: other.span_id, attributes: Vec::new() };
    record.links = vec![link; LINKS_MAX + 2];
    tracer.emit(record);
    assert_eq!(tracer.shutdown(SHUTDOWN_LIMIT).await, ShutdownReport { spans_lost: 0 });

    let spans = kept.0.lock().unwrap();
    let [server, append] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!(server.span_context.trace_id().to_string(), request.trace_id.to_string());
    assert_eq!(server.span_context.span_id().to_string(), request.span_id.to_string());
    assert_eq!(server.span_context.trace_state().get("vendor"), Some("1"));
    assert_eq!(server.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(server.parent_span_is_remote);
    assert_eq!((server.start_time, server.end_time), (at(100), at(101)));
    assert_eq!(server.status, Status::error("log_failed"));
    assert_eq!(server.events.len(), 1);
    assert_eq!(append.parent_span_id, server.span_context.span_id());
    assert!(!append.parent_span_is_remote);
    assert_eq!(append.end_time, at(200), "it does not end before it began");
    assert_eq!(append.status, Status::Unset);
    assert_eq!((append.links.len(), append.links.dropped_count), (LINKS_MAX, 2));
    assert_eq!(append.links[0].span_context.span_id().to_string(), other.span_id.to_string());
}

#[tokio::test]
async fn spans_of_the_tracing_layer_take_the_same_way_but_not_those_of_the_export_itself() {
    let (kept, metrics) = (Kept::default(), metrics());
    let mut config = TelemetryConfig::default();
    config.keep.root_ratio = crate::telemetry::keep::RootRatio::new(1.0);
    let tracer = Tracer::with_exporter(kept.clone(), &config, &metrics);
    let off = logs::filter("off").unwrap();
    let subscriber =
        logs::subscriber(logs::LogFormat::Json, off, std::io::sink, (&tracer, &Records::off()));
    tracing::subscriber::with_default(subscriber, || {
        drop(tracing::info_span!("probe", kind = "http").entered());
        drop(tracing::info_span!(target: "tonic::transport", "export").entered());
    });
    tracer.shutdown(SHUTDOWN_LIMIT).await;
    let spans = kept.0.lock().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["probe"]);
    assert_eq!(count(&metrics, "kept"), 1);
    let keys: Vec<&str> =
        spans[0].attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(keys, ["kind"], "nothing of threads, files and idle times");
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_never_blocks() {
    let metrics = metrics();
    let (called, is_called) = mpsc::sync_channel(1);
    let (go, wait) = mpsc::sync_channel(1);
    let config =
        TelemetryConfig { queue_spans_max: 4, batch_spans_max: 1, ..TelemetryConfig::default() };
    let tracer = Tracer::with_exporter(Blocked { called, go: Mutex::new(wait) }, &config, &metrics);
    tracer.emit(internal("first"));
    is_called.recv().unwrap();
    for _ in 0..10 {
        tracer.emit(internal("more"));
    }
    // One in the blocked export, three in the queue.
    assert_eq!((count(&metrics, "kept"), count(&metrics, "dropped_queue")), (11, 7));
    drop(go);
    drop(is_called);
    assert_eq!(tracer.shutdown(SHUTDOWN_LIMIT).await.spans_lost, 0);
    assert_eq!((count(&metrics, "exported"), count(&metrics, "export_failed")), (4, 0));
    tracer.emit(internal("late"));
    assert_eq!(count(&metrics, "dropped_queue"), 8, "after the end");
}

#[tokio::test]
async fn the_last_quarter_of_the_queue_is_for_what_is_wrong() {
    let metrics = metrics();
    let (called, is_called) = mpsc::sync_channel(1);
    let (go, wait) = mpsc::sync_channel(1);
    let mut config =
        TelemetryConfig { queue_spans_max: 8, batch_spans_max: 1, ..TelemetryConfig::default() };
    config.keep.root_ratio = crate::telemetry::keep::RootRatio::new(0.0);
    let tracer = Tracer::with_exporter(Blocked { called, go: Mutex::new(wait) }, &config, &metrics);
    tracer.emit(internal("first"));
    is_called.recv().unwrap();
    let well = Outcome {
        ending: Ending::Well,
        changed: true,
        elapsed: Duration::ZERO,
        pace: Pace::Change,
        now: Duration::from_secs(1),
    };
    let failed = Outcome { ending: Ending::Failed, ..well };
    let kept = |outcome: &Outcome| {
        let kept = tracer.keep(&TraceContext::root(), outcome);
        kept.iter().for_each(|_| tracer.emit(internal("more")));
        kept.is_some()
    };
    assert_eq!(
        (0..20).filter(|_| kept(&well)).count(),
        5,
        "with the one in the export six of eight"
    );
    assert_eq!((0..20).filter(|_| kept(&failed)).count(), 2);
    // The first, twenty and twenty; each that found no room was dropped before it was made.
    assert_eq!((count(&metrics, "kept"), count(&metrics, "dropped_queue")), (41, 33));
    drop(go);
    drop(is_called);
    assert_eq!(tracer.shutdown(SHUTDOWN_LIMIT).await.spans_lost, 0);
    assert_eq!(count(&metrics, "exported"), 8);
}

#[tokio::test]
async fn a_request_that_is_not_kept_is_counted_and_without_an_endpoint_nothing_is() {
    let outcome = Outcome {
        ending: Ending::Well,
        changed: false,
        elapsed: Duration::ZERO,
        pace: Pace::Unhurried,
        now: Duration::ZERO,
    };
    let metrics = metrics();
    let mut config = TelemetryConfig::default();
    config.keep.root_ratio = crate::telemetry::keep::RootRatio::new(0.0);
    let tracer = Tracer::with_exporter(Kept::default(), &config, &metrics);
    assert_eq!(tracer.keep(&TraceContext::root(), &outcome), None);
    assert_eq!(count(&metrics, "unsampled"), 1);

    let off = Tracer::start(&config, &metrics).unwrap();
    assert!(!off.is_on());
    assert_eq!(off.keep(&TraceContext::from_headers([CALLER]), &outcome), None);
    off.emit(internal("nothing"));
    assert_eq!(off.shutdown(SHUTDOWN_LIMIT).await, ShutdownReport { spans_lost: 0 });
    assert_eq!((count(&metrics, "unsampled"), count(&metrics, "kept")), (1, 0));
}

/// An OTLP receiver: passes requests on, and with `hang` never answers them.
struct Collector {
    requests: Sender<ExportTraceServiceRequest>,
    hang: bool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let _ = self.requests.send(request.into_inner()).await;
        if self.hang {
            std::future::pending::<()>().await;
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// An OTLP receiver on a port of its own; it ends with the set that is given back.
async fn receiver(
    hang: bool,
) -> (SocketAddr, Receiver<ExportTraceServiceRequest>, JoinSet<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, received) = channel(8);
    let service = TraceServiceServer::new(Collector { requests, hang });
    let export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let server = axum::serve(listener, axum::Router::new().route_service(export, service));
    let mut running = JoinSet::new();
    running.spawn(server.into_future());
    (address, received, running)
}

fn to(address: SocketAddr) -> TelemetryConfig {
    let variables = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{address}")),
        "OTEL_RESOURCE_ATTRIBUTES" => Some("deployment.environment.name=test".to_owned()),
        _ => None,
    };
    TelemetryConfig::from_env(variables).unwrap()
}

#[tokio::test]
async fn a_real_receiver_gets_the_span_and_the_resource() {
    let (address, mut received, _running) = receiver(false).await;
    let metrics = metrics();
    let tracer = Tracer::start(&to(address), &metrics).unwrap();
    let record = internal("replay");
    let context = record.context;
    tracer.emit(record);
    tracer.flush().await;

    let request = received.recv().await.unwrap();
    let [of_resource] = request.resource_spans.as_slice() else { panic!("{request:?}") };
    let attributes = &of_resource.resource.as_ref().unwrap().attributes;
    for key in
        ["service.name", "service.version", "service.instance.id", "deployment.environment.name"]
    {
        assert!(attributes.iter().any(|attribute| attribute.key == key), "{key}: {attributes:?}");
    }
    let span = &of_resource.scope_spans[0].spans[0];
    assert_eq!(
        (span.trace_id.as_slice(), span.span_id.as_slice()),
        (context.trace_id.to_bytes().as_slice(), context.span_id.to_bytes().as_slice())
    );
    assert_eq!(
        (span.start_time_unix_nano, span.end_time_unix_nano),
        (1_000_000_000, 2_000_000_000)
    );
    assert_eq!(tracer.shutdown(SHUTDOWN_LIMIT).await.spans_lost, 0);
    assert_eq!(count(&metrics, "exported"), 1);
}

#[tokio::test]
async fn a_receiver_that_is_absent_costs_the_spans_and_says_so() {
    // A port that was free a moment ago: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let metrics = metrics();
    let tracer = Tracer::start(&to(address), &metrics).unwrap();
    tracer.emit(internal("replay"));
    assert_eq!(tracer.shutdown(SHUTDOWN_LIMIT).await.spans_lost, 1);
    assert_eq!((count(&metrics, "exported"), count(&metrics, "export_failed")), (0, 1));
}

#[tokio::test]
async fn a_receiver_that_hangs_does_not_hold_the_end_up() {
    let (address, mut received, _running) = receiver(true).await;
    let metrics = metrics();
    let tracer = Tracer::start(&to(address), &metrics).unwrap();
    tracer.emit(internal("replay"));
    let limit = Duration::from_millis(300);
    let end = async { tokio::join!(tracer.shutdown(limit), received.recv()) };
    let (report, request) =
        tokio::time::timeout(SHUTDOWN_LIMIT, end).await.expect("the end is bounded");
    assert!(request.is_some(), "the export had begun");
    assert_eq!(report.spans_lost, 1);
}
