//! Spans as a collector sees them, that they and the log tell the same story, and that a collector which is not
//! well changes no answer.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rollcall::config::Settings;
use rollcall::log::memory::{Fault, MemoryLog};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::collector::{Behaviour, Collector, Span, attribute, hex};
use crate::harness::{Options, Page, Server, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const INSTANCE: &str = "/v1/services/{service}/instances/{instance}";
const ORDERS: &str = "/v1/services/orders/instances";
const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";
const BEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";

/// A trace of its own, kept by the caller.
fn sampled(number: u64) -> String {
    format!("00-{number:032x}-{PARENT}-01")
}

fn registration() -> Value {
    json!({"address": "10.0.0.7", "port": 8080, "ttl": "15s"})
}

/// Trace id and span id of the newest event of this kind, once it is in the log.
async fn ids(server: &Server, kind: &str) -> (String, String) {
    let query = format!(
        "SELECT trace_id, span_id FROM events WHERE kind = '{kind}' ORDER BY at DESC LIMIT 1"
    );
    let rows = eventually(kind, async || server.sql(&query), |rows| !rows.is_empty()).await;
    let text = |column: usize| rows[0][column].as_str().unwrap().to_owned();
    (text(0), text(1))
}

fn ids_of(span: &Span) -> (String, String) {
    (hex(&span.trace_id), hex(&span.span_id))
}

/// What a span is linked to: what it is to it, trace id, span id.
fn links(span: &Span) -> Vec<(Value, String, String)> {
    let of = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
        let what = attribute(&link.attributes, "rollcall.link");
        (what, hex(&link.trace_id), hex(&link.span_id))
    };
    span.links.iter().map(of).collect()
}

fn status(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, |status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_a_span_of_its_callers_trace() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let server =
        Server::start_with(Options { otlp, system_clock: true, ..Options::default() }).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        ("traceparent", traceparent.as_str()),
        ("tracestate", "vendor=1,other=2"),
        ("user-agent", "deploy/2.0"),
    ];
    let path = format!("{ORDERS_1}?namespace=shop");
    let answer = server.send("PUT", &path, &headers, Some(registration())).await;
    assert_eq!(answer.status, 201, "{}", answer.text);

    let span = collector.span(&format!("PUT {INSTANCE}"), |_| true).await;
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!(ids_of(&span), ids(&server, "registered").await);
    let told = format!("00-{TRACE}-{}-01", hex(&span.span_id));
    assert_eq!(answer.header("traceresponse"), told);
    assert_eq!((span.kind(), status(&span)), (SpanKind::Server, StatusCode::Unset));
    assert_eq!(span.trace_state, "vendor=1,other=2");
    let port: u16 = server.url.rsplit_once(':').unwrap().1.parse().unwrap();
    for (key, value) in [
        ("http.request.method", json!("PUT")),
        ("http.route", json!(INSTANCE)),
        ("http.response.status_code", json!(201)),
        ("url.scheme", json!("http")),
        ("url.path", json!(ORDERS_1)),
        ("url.query", json!("namespace=shop")),
        ("network.protocol.version", json!("1.1")),
        ("server.address", json!("127.0.0.1")),
        ("server.port", json!(port)),
        ("client.address", json!("127.0.0.1")),
        ("user_agent.original", json!("deploy/2.0")),
        ("error.type", json!(null)),
        ("rollcall.service", json!("orders")),
        ("rollcall.instance", json!("orders-1")),
        ("rollcall.event.seq", json!(3)),
        ("rollcall.event.kind", json!("registered")),
        ("rollcall.keep", json!("caller")),
    ] {
        assert_eq!(attribute(&span.attributes, key), value, "{key}");
    }

    let mut last = span.start_time_unix_nano;
    for name in ["queue", "decide", "append", "publish"] {
        let step = collector.span(name, |step| step.trace_id == span.trace_id).await;
        assert_eq!(hex(&step.parent_span_id), hex(&span.span_id), "{name}");
        assert_eq!(step.kind(), SpanKind::Internal, "{name}");
        assert!(step.start_time_unix_nano >= last, "{name} begins before the step before it ends");
        last = step.end_time_unix_nano;
        assert!(last >= step.start_time_unix_nano, "{name}");
    }
    assert!(last <= span.end_time_unix_nano, "the steps lie within their request");
    let linked = |insert: &Span| {
        let request = (json!("request"), hex(&span.trace_id), hex(&span.span_id));
        links(insert).contains(&request)
    };
    let insert = collector.span("INSERT events", linked).await;
    assert_eq!(insert.kind(), SpanKind::Client);
    assert!(insert.parent_span_id.is_empty() && insert.trace_id != span.trace_id, "its own root");
    for (key, value) in [("db.system.name", json!("sqlite")), ("db.operation.batch.size", json!(1))]
    {
        assert_eq!(attribute(&insert.attributes, key), value, "{key}");
    }

    // A lookup is one span, and its event holds the same ids.
    let headers = [("traceparent", traceparent.as_str())];
    server.send("GET", &format!("{ORDERS}?namespace=shop"), &headers, None).await;
    let span = collector.span("GET /v1/services/{service}/instances", |_| true).await;
    assert_eq!(ids_of(&span), ids(&server, "lookup").await);
    assert_eq!(hex(&span.trace_id), TRACE);
    server.stop().await;
    let children = collector.spans().iter().filter(|s| s.parent_span_id == span.span_id).count();
    assert_eq!(children, 0, "nothing happened inside it");
}

/// An expiry whose heartbeat and registration came before a restart, or not.
async fn expire(restart: bool) {
    let collector = Collector::start(Behaviour::Takes).await;
    let data = TempDir::new().unwrap();
    let start = async || {
        let (data, otlp) = (Some(data.path().to_owned()), Some(collector.url.clone()));
        Server::start_with(Options { data, otlp, ..Options::default() }).await
    };
    let mut server = start().await;
    let headers = [("traceparent", &*sampled(1))];
    server.send("PUT", ORDERS_1, &headers, Some(registration())).await;
    let headers = [("traceparent", &*sampled(2))];
    for _ in 0..2 {
        server.advance(1_000);
        assert_eq!(server.send("PUT", BEAT, &headers, None).await.status, 200);
    }
    let registered = ids(&server, "registered").await;
    let query = "SELECT count(*) FROM events WHERE kind = 'heartbeat'";
    eventually("the heartbeats", async || server.sql(query), |rows| rows[0][0] == 2).await;
    let beat = ids(&server, "heartbeat").await;
    if restart {
        server.stop().await;
        server = start().await;
        let events = |span: &Span| attribute(&span.attributes, "rollcall.replay.events");
        let replay = collector.span("replay", |span| events(span) != 0).await;
        let part =
            async |name| collector.span(name, |span| span.parent_span_id == replay.span_id).await;
        // There was no snapshot: all of it is in the tail.
        let (snapshot, tail) = (part("snapshot").await, part("tail").await);
        assert_eq!((events(&snapshot), events(&tail)), (json!(0), events(&replay)));
        assert_eq!(snapshot.end_time_unix_nano, tail.start_time_unix_nano);
    }
    server.advance(15_010);

    let span = collector.span("expire", |_| true).await;
    assert_eq!(ids_of(&span), ids(&server, "expired").await);
    let sweep = collector.span("expire sweep", |_| true).await;
    assert_eq!((&sweep.trace_id, &sweep.span_id), (&span.trace_id, &span.parent_span_id));
    assert!(sweep.parent_span_id.is_empty(), "it is nobody's request");
    assert_eq!(attribute(&sweep.attributes, "rollcall.expire.count"), 1);
    assert_eq!((span.kind(), sweep.kind()), (SpanKind::Internal, SpanKind::Internal));
    assert_eq!(
        links(&span),
        [
            (json!("last_heartbeat"), beat.0, beat.1),
            (json!("registration"), registered.0, registered.1)
        ]
    );
    let expired = server.sql("SELECT seq, cause FROM events WHERE kind = 'expired'").remove(0);
    for (key, value) in [
        ("rollcall.service", json!("orders")),
        ("rollcall.instance", json!("orders-1")),
        ("rollcall.event.seq", expired[0].clone()),
        ("rollcall.event.cause", expired[1].clone()),
        ("rollcall.event.kind", json!("expired")),
        ("rollcall.lease.ttl_ms", json!(15_000)),
        ("rollcall.lease.late_ms", json!(10)),
    ] {
        assert_eq!(attribute(&span.attributes, key), value, "{key}");
    }
    server.stop().await;
}

/// Each of three hundred has its event; the first hundred of the second have spans, and the sweeps count all.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_wave_of_expiries_a_hundred_have_spans() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let settings: fn(&mut Settings) = |settings| settings.guard = false;
    let options = Options { otlp, settings: Some(settings), ..Options::default() };
    let server = Server::start_with(options).await;
    for number in 0..300 {
        let path = format!("{ORDERS}/orders-{number}");
        assert_eq!(server.send("PUT", &path, &[], Some(registration())).await.status, 201);
    }
    server.advance(15_010);
    let gone = "SELECT count(*) FROM events WHERE kind = 'expired'";
    eventually("all expired", async || server.sql(gone), |rows| rows[0][0] == 300).await;
    server.stop().await;
    let spans = collector.spans();
    let counts = spans.iter().filter(|span| span.name == "expire sweep");
    let counted = counts.map(|span| attribute(&span.attributes, "rollcall.expire.count"));
    assert_eq!(counted.map(|count| count.as_i64().unwrap()).sum::<i64>(), 300);
    assert_eq!(spans.iter().filter(|span| span.name == "expire").count(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_linked_to_what_it_ends() {
    expire(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_linked_to_what_it_ends_across_a_restart() {
    expire(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_registrys_own_failures_are_errors() {
    let collector = Collector::start(Behaviour::Takes).await;
    let log = MemoryLog::new();
    let options = Options {
        otlp: Some(collector.url.clone()),
        memory: Some(log.clone()),
        lines: &["the log cannot be written", "the log is written again", "instance} 503"],
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    log.set_fault(Fault::Unavailable);
    let name = format!("PUT {INSTANCE}");
    for (number, body, code, told, error) in [
        (1, json!({}), 422, StatusCode::Unset, json!(null)),
        (2, registration(), 503, StatusCode::Error, json!("log_failed")),
    ] {
        let traceparent = sampled(number);
        let headers = [("traceparent", traceparent.as_str())];
        let answer = server.send("PUT", ORDERS_1, &headers, Some(body)).await;
        assert_eq!(answer.status, code, "{}", answer.text);
        let trace_id = &traceparent[3..35];
        let span = collector.span(&name, |span| hex(&span.trace_id) == trace_id).await;
        assert_eq!(status(&span), told, "{code}");
        assert_eq!(attribute(&span.attributes, "error.type"), error, "{code}");
        assert_eq!(attribute(&span.attributes, "http.response.status_code"), code);
    }
    // A failure is kept also when its caller did not ask for that.
    let answer = server.send("PUT", ORDERS_1, &[], Some(registration())).await;
    let trace_id = &answer.header("traceresponse")[3..35];
    let span = collector.span(&name, |span| hex(&span.trace_id) == trace_id).await;
    assert_eq!(attribute(&span.attributes, "rollcall.keep"), "error");
    log.set_fault(Fault::None);
    let writable = async || server.call("PUT", ORDERS_1, Some(registration())).await.0.as_u16();
    eventually("the log is written again", writable, |status| *status == 201).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_or_was_slow_is_never_without_its_trace() {
    let collector = Collector::start(Behaviour::Takes).await;
    let log = MemoryLog::new();
    let options = Options {
        otlp: Some(collector.url.clone()),
        memory: Some(log.clone()),
        // Whatever else is kept has no place, and every read is slow. The clock stands still: no rate fills up.
        settings: Some(|settings| {
            settings.trace_root_ratio = 0.0;
            settings.trace_caller_rate = 0;
            settings.trace_change_rate = 0;
            settings.trace_slow_read = Duration::ZERO;
        }),
        lines: &["the log cannot be written", "the log is written again", "instance} 503"],
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    server.register("orders", "orders-1", "1h").await;
    // Twice as many as the caps of all else let through at once.
    const REQUESTS: usize = 800;
    let mut asked = std::collections::BTreeMap::new();
    for (method, body, status, reason) in
        [("GET", None, 200, "slow"), ("PUT", Some(registration()), 503, "error")]
    {
        if reason == "error" {
            log.set_fault(Fault::Unavailable);
        }
        let path = if reason == "error" { ORDERS_1 } else { ORDERS };
        for _ in 0..REQUESTS {
            let answer = server.send(method, path, &[], body.clone()).await;
            assert_eq!(answer.status, status, "{}", answer.text);
            asked.insert(answer.header("traceresponse")[36..52].to_owned(), reason);
        }
    }
    let found = async || {
        let spans = collector.spans();
        let keep = |span: &Span| attribute(&span.attributes, "rollcall.keep");
        spans.iter().filter(|s| asked.get(&hex(&s.span_id)).is_some_and(|r| keep(s) == *r)).count()
    };
    eventually("a span for each of them", found, |found| *found == 2 * REQUESTS).await;
    log.set_fault(Fault::None);
    let writable = async || server.call("PUT", ORDERS_1, Some(registration())).await.0.as_u16();
    eventually("the log is written again", writable, |status| *status < 300).await;
    server.stop().await;
}

/// Statuses and bodies of a conversation that has something of everything.
async fn conversation(server: &Server) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for (number, (method, path, body)) in (1..).zip([
        ("PUT", ORDERS_1, registration()),
        ("PUT", ORDERS_1, registration()),
        ("PUT", ORDERS_1, json!({"port": 0})),
        ("GET", ORDERS, json!(null)),
        ("GET", "/v1/services/web/instances", json!(null)),
        ("PUT", BEAT, json!({"incarnation": 3})),
        ("PUT", BEAT, json!({"incarnation": 2})),
        ("PATCH", ORDERS_1, json!({"mode": "draining"})),
        ("GET", "/v1/services", json!(null)),
        ("DELETE", ORDERS_1, json!(null)),
        ("GET", "/nothing/here", json!(null)),
    ]) {
        let traceparent = sampled(number);
        let headers = [("traceparent", traceparent.as_str())];
        let body = (!body.is_null()).then_some(body);
        let answer = server.send(method, path, &headers, body).await;
        answers.push((answer.status.as_u16(), answer.text));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_well_changes_no_answer() {
    let server = Server::start().await;
    let expected = conversation(&server).await;
    server.stop().await;

    let refusing = Collector::start(Behaviour::Refuses).await;
    let hanging = Collector::start(Behaviour::Hangs).await;
    // A port that was just free: nobody listens there.
    let absent = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for (name, url) in [("absent", &absent), ("refusing", &refusing.url), ("hanging", &hanging.url)]
    {
        let options = Options {
            otlp: Some(url.clone()),
            lines: &["spans do not reach the collector", "spans did not reach the collector"],
            ..Options::default()
        };
        let server = Server::start_with(options).await;
        assert_eq!(conversation(&server).await, expected, "{name}");
        let metrics = std::sync::Arc::clone(&server.metrics);
        // That it ends is what is asked here: it may wait for the collector, and gives it up.
        server.stop().await;
        let page = Page(metrics.page().render());
        let spans = |result| page.sum("rollcall_spans_total", &[&format!("result=\"{result}\"")]);
        let kept = spans("kept");
        assert!(kept >= expected.len() as f64, "{name}: {kept}");
        assert_eq!(spans("exported"), 0.0, "{name}");
        let lost = spans("export_failed") + spans("dropped_queue");
        match name {
            // What hangs at the end has not failed yet, and nobody is left to wait for it.
            "hanging" => assert!(lost <= kept, "{name}: {lost} of {kept}"),
            _ => assert_eq!(lost, kept, "{name}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_its_trace() {
    let server = Server::start().await;
    let document = server.call("GET", "/openapi.json", None).await.1;
    let mut requests: Vec<(String, String)> = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.replace("{service}", "orders").replace("{instance}", "orders-1");
        for method in operations.as_object().unwrap().keys() {
            requests.push((method.to_ascii_uppercase(), path.clone()));
        }
        requests.push(("TRACE".into(), path));
    }
    requests.push(("GET".into(), "/no/such/path".into()));
    requests.push(("GET".into(), format!("/{}", "a".repeat(20_000))));
    let mut statuses = std::collections::BTreeSet::new();
    for (method, path) in &requests {
        for flags in ["00", "01"] {
            let traceparent = format!("00-{TRACE}-{PARENT}-{flags}");
            let headers = [
                ("traceparent", traceparent.as_str()),
                ("tracestate", "vendor=1"),
                ("tracestate", "rojo=00f067aa0ba902b7"),
            ];
            let answer = server.send(method, path, &headers, None).await;
            let told = answer.header("traceresponse");
            let parts: Vec<&str> = told.split('-').collect();
            let [version, trace_id, span_id, answered] = parts[..] else { panic!("{told}") };
            assert_eq!((version, trace_id, answered), ("00", TRACE, flags), "{method} {path}");
            assert!(span_id.len() == 16 && span_id != PARENT, "{method} {path}: {told}");
            statuses.insert(answer.status.as_u16());
        }
    }
    for status in [200, 400, 404, 405, 414] {
        assert!(statuses.contains(&status), "{status} is not among {statuses:?}");
    }
    server.stop().await;
}
