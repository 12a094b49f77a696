//! The whole layer over the real registrar and a log in memory, without sockets: what no reader of a part of
//! a request can show on its own.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::clock::ManualClock;
use crate::domain::Timestamp;
use crate::history::NoArchive;
use crate::log::memory::{Fault, MemoryLog};
use crate::registrar::{self, Phase, Running, Telemetry};
use crate::telemetry::config::TelemetryConfig;
use crate::telemetry::metrics::MetricsConfig;

struct Fixture {
    router: Router,
    parts: Parts,
    log: MemoryLog,
    clock: Arc<ManualClock>,
    running: Running,
}

struct Told {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An exporter that keeps what it gets.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}

impl Fixture {
    async fn start() -> Self {
        Self::with(|_| Tracer::off()).await
    }

    async fn with(tracer: impl FnOnce(&Arc<Metrics>) -> Tracer) -> Self {
        let log = MemoryLog::new();
        let clock = ManualClock::new(Timestamp(1_795_248_000_000_000));
        let metrics = Metrics::new(&MetricsConfig::default());
        let tracer = tracer(&metrics);
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let telemetry = Telemetry { metrics: Arc::clone(&metrics), tracer: Tracer::off() };
        let running = registrar::start(
            Box::new(log.clone()),
            Arc::clone(&projection),
            Arc::clone(&hub),
            Arc::clone(&clock) as Arc<dyn Clock>,
            telemetry,
            &registrar::Config::default(),
        )
        .unwrap();
        assert_eq!(running.readiness.settled().await, Phase::Ready);
        let parts = Parts {
            projection,
            registrar: running.handle.clone(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            metrics,
            tracer,
            replay: None,
            log_id: Uuid::from_u128(0x1f2e3d4c_0000_4000_8000_000000000000),
            config: Config::default(),
            readiness: running.readiness.clone(),
            history: Arc::new(NoArchive),
            hub,
        };
        Self { router: router(Api::new(parts.clone())), parts, log, clock, running }
    }

    async fn ask(&self, method: &str, path: &str, lines: &[(&str, &str)], body: Value) -> Told {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        // A stream has no end to wait for.
        let is_stream =
            parts.headers.get(header::CONTENT_TYPE).is_some_and(|m| m == "text/event-stream");
        let bytes = match is_stream {
            true => bytes::Bytes::new(),
            false => body.collect().await.unwrap().to_bytes(),
        };
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Told { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Told {
        self.ask("GET", path, &[], Value::Null).await
    }

    /// Ends the registrar, so that everything that was recorded is in the log.
    async fn stop(self) -> MemoryLog {
        tokio::task::spawn_blocking(move || self.running.stop()).await.unwrap().unwrap();
        self.log
    }
}

const ORDERS: &str = "/v1/services/orders/instances";
const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";
const BEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn registration() -> Value {
    json!({"address": "10.0.0.7", "port": 8080, "tags": ["canary"]})
}

#[tokio::test]
async fn every_request_leaves_one_event_with_its_caller_and_trace() {
    let fixture = Fixture::start().await;
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-00");
    let lines = [("traceparent", traceparent.as_str()), ("rollcall-caller", "web/web-1")];
    let put = fixture.ask("PUT", ORDERS_1, &lines, registration()).await;
    assert_eq!((put.status, put.header("location")), (201, ORDERS_1));
    let seq: u64 = put.header("rollcall-seq").parse().unwrap();

    let list = fixture.ask("GET", ORDERS, &lines, Value::Null).await;
    let etag = list.header("etag").to_owned();
    assert_eq!((list.status, &list.body["instances"][0]), (200, &put.body));
    let held = [lines[0], lines[1], ("if-none-match", etag.as_str())];
    assert_eq!(fixture.ask("GET", ORDERS, &held, Value::Null).await.status, 304);
    assert_eq!(
        fixture.ask("GET", "/v1/services/nobody/instances", &lines, Value::Null).await.status,
        404
    );
    assert_eq!(fixture.ask("GET", ORDERS_1, &lines, Value::Null).await.status, 200);
    assert_eq!(
        fixture.ask("GET", &format!("{ORDERS}?tag=x&zone=a"), &lines, Value::Null).await.status,
        200
    );
    let beat = fixture.ask("PUT", BEAT, &lines, json!({"load": 0.5})).await;
    assert_eq!(beat.body["heartbeat_interval"], "3.75s");
    let refused = fixture.ask("GET", &format!("{ORDERS}?tagg=x"), &lines, Value::Null).await;
    assert_eq!(refused.status, 400);
    assert!(refused.header("traceresponse").starts_with(&format!("00-{TRACE}-")));

    let log = fixture.stop().await;
    let changes = log.changes();
    let registered = changes.iter().find(|change| change.seq.0 == seq).unwrap();
    assert_eq!(registered.caller.as_deref(), Some("web/web-1"));
    let answered = put.header("traceresponse").split('-').nth(2).unwrap().to_owned();
    let span: String = registered.trace.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(span, answered, "the event and the answer name the same span");

    let seen: Vec<_> = log
        .traffic()
        .iter()
        .map(|numbered| {
            let traffic = &numbered.traffic;
            assert_eq!((&*traffic.caller, traffic.seen.0), ("web/web-1", seq));
            assert_eq!(traffic.trace.trace_id, registered.trace.trace_id);
            match &traffic.detail {
                Detail::Heartbeat { incarnation, load, .. } => {
                    format!("beat {incarnation} {load:?}")
                }
                Detail::Lookup { filter, revision, returned, status, .. } => {
                    format!("{status} {filter:?} {returned} of {revision}")
                }
                other => format!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(
        seen,
        [
            format!("200 \"\" 1 of {seq}"),
            format!("304 \"\" 0 of {seq}"),
            "404 \"\" 0 of 0".to_owned(),
            format!("200 \"\" 1 of {seq}"),
            format!("200 \"tag=x&zone=a\" 0 of {seq}"),
            format!("beat {seq} Some(0.5)"),
        ]
    );
}

#[tokio::test]
async fn a_log_that_fails_refuses_changes_and_nothing_else() {
    let fixture = Fixture::start().await;
    fixture.ask("PUT", ORDERS_1, &[], registration()).await;
    fixture.log.set_fault(Fault::Unavailable);
    let put = fixture.ask("PUT", ORDERS_1, &[], registration()).await;
    assert_eq!((put.status, put.header("retry-after")), (503, "5"));
    assert_eq!(put.body["type"], "/problems/log-failed");
    assert!(put.body["detail"].as_str().unwrap().contains("the log was told to fail"));
    assert_eq!(fixture.get(ORDERS).await.status, 200);
    assert_eq!(fixture.get("/readyz").await.body["log"], "failed");

    // Late, so that the beat meets the registrar's mark; it renews all the same, and nobody expires.
    for _ in 0..4 {
        fixture.clock.advance(Millis::from_millis(11_000));
        let beat = fixture.ask("PUT", BEAT, &[], Value::Null).await;
        assert_eq!(beat.status, 200, "{}", beat.body);
    }
    let flip = fixture.ask("PUT", BEAT, &[], json!({"health": "failing"})).await;
    assert_eq!(
        (flip.status, &flip.body["type"]),
        (503, &json!("/problems/log-failed")),
        "it can't change now, and must not be told that it did"
    );
    assert_eq!(fixture.get(ORDERS).await.body["instances"][0]["instance"], "orders-1");
    fixture.log.set_fault(Fault::None);
    fixture.stop().await;
}

#[tokio::test]
async fn conditions_and_incarnations_are_held_to() {
    let fixture = Fixture::start().await;
    let free = [("if-none-match", "*")];
    let put = fixture.ask("PUT", ORDERS_1, &free, registration()).await;
    let (etag, incarnation) = (put.header("etag").to_owned(), put.body["incarnation"].clone());
    let taken = fixture.ask("PUT", ORDERS_1, &free, registration()).await;
    assert_eq!((taken.status, &taken.body["incarnation"]), (412, &incarnation));

    let matching = [("if-match", etag.as_str())];
    let patched =
        fixture.ask("PATCH", ORDERS_1, &matching, json!({"weight": 0, "tags": null})).await;
    assert_eq!(
        (patched.status, &patched.body["weight"], &patched.body["tags"]),
        (200, &json!(0), &json!([]))
    );
    assert_eq!(fixture.ask("DELETE", ORDERS_1, &matching, Value::Null).await.status, 412);

    let stranger = fixture.ask("PUT", BEAT, &[], json!({"incarnation": 1})).await;
    assert_eq!((stranger.status, &stranger.body["incarnation"]), (409, &incarnation));
    let failing = fixture.ask("PUT", BEAT, &[], json!({"health": "failing"})).await;
    assert_eq!(failing.body["status"], "failed");
    assert_eq!(fixture.get(ORDERS).await.body["instances"], json!([]));
    let batch = json!({"instances": [
        {"service": "orders", "instance": "orders-1", "health": "passing"},
        {"service": "orders", "instance": "orders-2"},
        {"service": "orders", "instance": "orders-1", "incarnation": 1},
    ]});
    let batch = fixture.ask("POST", "/v1/heartbeats", &[], batch).await;
    let counts = ["unknown", "conflicts"].map(|list| batch.body[list].as_array().unwrap().len());
    assert_eq!((&batch.body["renewed"], counts), (&json!(1), [1, 1]));
    assert_eq!(fixture.get(ORDERS).await.body["instances"][0]["status"], "healthy");

    let gone =
        fixture.ask("DELETE", &format!("{ORDERS_1}?reason=scale-in"), &[], Value::Null).await;
    assert_eq!((gone.status, gone.header("content-type")), (204, ""));
    assert_eq!(fixture.ask("PUT", BEAT, &[], Value::Null).await.status, 404);
    assert_eq!(fixture.get(ORDERS).await.body["instances"], json!([]));
    fixture.stop().await;
}

#[tokio::test]
async fn pages_go_on_where_they_ended() {
    let fixture = Fixture::start().await;
    for service in ["a", "b", "c"] {
        let path = format!("/v1/services/{service}/instances/one");
        fixture.ask("PUT", &path, &[], registration()).await;
    }
    let mut names = Vec::new();
    let mut path = "/v1/services?limit=2".to_owned();
    loop {
        let page = fixture.get(&path).await.body;
        let rows = page["services"].as_array().unwrap();
        names.extend(rows.iter().map(|row| row["service"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/services?limit=2&cursor={next}");
    }
    assert_eq!(names, ["a", "b", "c"]);
    let other = format!("/v1/services?cursor={}73{}", "00".repeat(16), "61");
    let refused = fixture.get(&other).await;
    assert_eq!(refused.body["type"], "/problems/invalid-cursor");
    fixture.stop().await;
}

#[tokio::test]
async fn every_described_operation_is_routed_and_answers_in_a_scope() {
    let fixture = Fixture::start().await;
    let document = fixture.get("/openapi.json").await.body;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{service}", "orders").replace("{instance}", "orders-1");
        for method in ["get", "put", "post", "patch", "delete"] {
            let told = fixture.ask(&method.to_uppercase(), &path, &[], Value::Null).await;
            assert_eq!(told.status != 405, item.get(method).is_some(), "{method} {path}");
            assert_eq!(told.header("rollcall-log").len(), 36, "{method} {path}");
            assert_eq!(told.header("traceresponse").len(), 55, "{method} {path}");
            if told.status >= 400 {
                assert_eq!(told.header(header::CONTENT_TYPE.as_str()), "application/problem+json");
            }
        }
    }
    let nothing = fixture.get("/v1/nothing").await;
    assert_eq!((nothing.status, &nothing.body["type"]), (404, &json!("/problems/unknown-path")));
    fixture.stop().await;
}

#[tokio::test]
async fn a_change_that_its_caller_samples_has_its_span_and_its_steps() {
    let kept = Kept::default();
    let exporter = kept.clone();
    let fixture = Fixture::with(|metrics| {
        Tracer::with_exporter(exporter, &TelemetryConfig::default(), metrics)
    })
    .await;
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let lines = [("traceparent", traceparent.as_str()), ("host", "registry:7655")];
    let put = fixture.ask("PUT", ORDERS_1, &lines, registration()).await;
    assert_eq!(put.status, 201);
    fixture.parts.tracer.flush().await;
    let spans = std::mem::take(&mut *kept.0.lock());
    let of_trace = spans.iter().filter(|s| s.span_context.trace_id().to_string() == TRACE);
    let of_trace: Vec<&SpanData> = of_trace.collect();
    let mut names: Vec<&str> = of_trace.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    let server = "PUT /v1/services/{service}/instances/{instance}";
    assert_eq!(names, [server, "append", "decide", "publish", "queue"]);
    let request = of_trace.iter().find(|span| span.name == server).unwrap();
    assert_eq!(request.parent_span_id.to_string(), "b7ad6b7169203331");
    let id = request.span_context.span_id();
    assert!(put.header("traceresponse").contains(&id.to_string()));
    let steps = of_trace.iter().filter(|span| span.name != server);
    assert!(steps.map(|span| span.parent_span_id).all(|parent| parent == id));
    let attribute = |name: &str| {
        let found = request.attributes.iter().find(|attribute| attribute.key.as_str() == name);
        found.map_or_else(String::new, |attribute| attribute.value.to_string())
    };
    assert_eq!(attribute("rollcall.event.seq"), put.header("rollcall-seq"));
    for (name, value) in [
        ("http.request.method", "PUT"),
        ("http.response.status_code", "201"),
        ("server.address", "registry"),
        ("url.path", ORDERS_1),
        ("rollcall.service", "orders"),
        ("rollcall.instance", "orders-1"),
        ("rollcall.event.kind", "registered"),
        ("rollcall.keep", "caller"),
    ] {
        assert_eq!(attribute(name), value, "{name}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn until_replay_is_done_only_operation_is_served() {
    let mut fixture = Fixture::start().await;
    let replaying = Parts { readiness: Readiness::default(), ..fixture.parts.clone() };
    fixture.router = router(Api::new(replaying));
    for (path, status) in
        [(ORDERS, 503), ("/v1/status", 503), ("/readyz", 503), ("/livez", 200), ("/metrics", 200)]
    {
        let told = fixture.get(path).await;
        assert_eq!(told.status, status, "{path}");
        if status == 503 {
            assert_eq!(
                (&told.body["type"], told.header("retry-after")),
                (&json!("/problems/not-ready"), "1")
            );
        }
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_past_that_is_not_kept_is_gone_and_says_since_when() {
    // This log keeps none at all.
    let fixture = Fixture::start().await;
    fixture.ask("PUT", ORDERS_1, &[], registration()).await;
    for path in [ORDERS, ORDERS_1, "/v1/services"] {
        for at in ["@1", "-5m", "2020-01-01T00:00:00Z"] {
            let gone = fixture.get(&format!("{path}?at={at}")).await;
            assert_eq!((gone.status, &gone.body["type"]), (410, &json!("/problems/history-gone")));
            assert_eq!(gone.body["oldest"]["seq"], 0, "{path} {at}");
        }
    }
    assert_eq!(fixture.get("/v1/diff?from=@1").await.status, 410);
    assert_eq!(fixture.stop().await.traffic().len(), 0, "reading the past is no event");
}

/// Which way a request goes shows only in its price: here is who must not be sent the long way.
#[tokio::test]
async fn what_is_plain_needs_no_router() {
    use super::caller::Peer;
    use super::express::{Express, Found};

    let fixture = Fixture::start().await;
    assert_eq!(fixture.ask("PUT", ORDERS_1, &[], registration()).await.status, 201);
    let express = Express::new(Api::new(fixture.parts.clone()));
    let peer = Arc::new(Peer::at("127.0.0.1:5000".parse().unwrap()));
    let way = |method: &str, path: &str, length: usize| {
        let body = Body::from(" ".repeat(length));
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        match express.answer(&request, &peer) {
            Found::Answered(response) => {
                assert_eq!(response.status(), 200);
                "answered"
            }
            Found::Beat(_) => "read first",
            Found::Unusual => "the long way",
        }
    };
    assert_eq!((way("GET", ORDERS, 0), way("PUT", BEAT, 0)), ("answered", "answered"));
    assert_eq!((way("PUT", BEAT, 256), way("PUT", BEAT, 257)), ("read first", "the long way"));
    for (method, path, length) in [
        ("GET", ORDERS, 1),
        ("HEAD", ORDERS, 0),
        ("GET", ORDERS_1, 0),
        ("PUT", ORDERS_1, 0),
        ("POST", BEAT, 0),
        ("GET", "/v1/services/nobody/instances", 0),
        ("PUT", "/v1/services/orders/instances/orders-2/heartbeat", 0),
        ("PUT", "/v1/services/orders/instances/orders-1/heartbeat?namespace=default", 0),
        ("GET", "/v1/services/orders/instances?", 0),
    ] {
        assert_eq!(way(method, path, length), "the long way", "{method} {path} {length}");
    }
    fixture.stop().await;
}
