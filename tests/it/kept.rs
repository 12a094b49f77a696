//! Which spans are kept: an event leads to its span only if there is one, no caller can make the registry keep more than
//! its share, and who was told of a change is in its trace.

use std::sync::Arc;
use std::time::Duration;

use rollcall::config::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::collector::{Behaviour, Collector, Span, attribute, hex};
use crate::harness::{Options, Server, eventually};
use crate::watch::Stream;

const ORDERS: &str = "/v1/services/orders/instances";
const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";
const BEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";
const PARENT: &str = "b7ad6b7169203331";

/// A trace of its own, whose caller kept it or did not. One that began here could be among the share that is kept.
fn trace(number: u64, sampled: bool) -> String {
    format!("00-{number:032x}-{PARENT}-{:02x}", u8::from(sampled))
}

/// Nothing is slow, callers may have two spans kept at once, and links lead to a place that can be told.
fn links(settings: &mut Settings) {
    settings.trace_url = "http://jaeger/{trace_id}/{span_id}".into();
    settings.trace_slow_read = Duration::from_secs(3_600);
    settings.trace_slow_change = Duration::from_secs(3_600);
    settings.trace_caller_rate = 1;
}

async fn ask(server: &Server, method: &str, path: &str, number: u64, sampled: bool) {
    let body = (method == "PUT" && path == ORDERS_1)
        .then(|| json!({"address": "10.0.0.7", "port": 8080, "ttl": "15s"}));
    let traceparent = trace(number, sampled);
    let answer = server.send(method, path, &[("traceparent", traceparent.as_str())], body).await;
    assert!(answer.status.is_success(), "{} {}", answer.status, answer.text);
}

/// The event of the trace with this number, once it is in the log.
async fn event(server: &Server, number: u64) -> Value {
    let path = format!("/v1/events?trace_id={number:032x}");
    let find = async || server.call("GET", &path, None).await.1["events"][0].clone();
    eventually("the event", find, |event| !event.is_null()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_leads_to_its_span_only_if_there_is_one() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    // Its time stands still: two spans for callers are all there will be.
    let server =
        Server::start_with(Options { otlp, settings: Some(links), ..Options::default() }).await;
    for (number, method, path, sampled) in [
        (1, "PUT", ORDERS_1, false),
        (2, "GET", ORDERS, false),
        (3, "GET", ORDERS, true),
        (4, "GET", "/v1/services/orders/instances?tag=x", true),
        (5, "GET", ORDERS, true),
        (6, "PUT", BEAT, true),
    ] {
        ask(&server, method, path, number, sampled).await;
    }
    for (number, kind, kept) in [
        (1, "registered", true),
        (2, "lookup", false),
        (3, "lookup", true),
        (4, "lookup", true),
        (5, "lookup", false),
        (6, "heartbeat", false),
    ] {
        let told = event(&server, number).await;
        assert_eq!(told["kind"], kind);
        let (trace_id, span_id) = (&told["trace_id"], told["span_id"].as_str().unwrap());
        assert_eq!(trace_id, &json!(format!("{number:032x}")));
        let url = match kept {
            true => json!(format!("http://jaeger/{number:032x}/{span_id}")),
            false => Value::Null,
        };
        assert!(told.as_object().unwrap().contains_key("trace_url"), "null is said: {told}");
        assert_eq!(told["trace_url"], url, "{told}");
        let path = format!("/v1/events/{}", told["id"].as_str().unwrap());
        assert_eq!(server.call("GET", &path, None).await.1["trace_url"], url, "{path}");
        let path = format!("/v1/traces/{number:032x}");
        assert_eq!(server.call("GET", &path, None).await.1["trace_url"], url, "{path}");
    }
    let why = server.call("GET", &format!("{ORDERS_1}/why"), None).await.1;
    assert!(why["registration"]["trace_url"].as_str().unwrap().starts_with("http://jaeger/"));
    assert_eq!(why["last_heartbeat"]["trace_url"], Value::Null, "{why}");

    // An expiry that rests on that heartbeat, and the registration that a page of the past leads to, say the same.
    server.advance(20_000);
    let gone = async || server.status_of("orders", "orders-1").await;
    eventually("expired", gone, Option::is_none).await;
    let history = server.call("GET", &format!("{ORDERS_1}/history"), None).await.1;
    let life = &history["lives"][0];
    let registered = &life["transitions"][0];
    let url = format!("http://jaeger/{:032x}/{}", 1, registered["span_id"].as_str().unwrap());
    assert_eq!(
        (&registered["kind"], &registered["trace_url"]),
        (&json!("registered"), &json!(url))
    );
    let expired = &life["ended_by"];
    assert_eq!(expired["data"]["last_heartbeat"]["trace_id"], format!("{:032x}", 6), "{expired}");
    assert_eq!(expired.get("last_heartbeat_trace_url"), Some(&Value::Null), "{expired}");
    assert!(registered.get("last_heartbeat_trace_url").is_none(), "{registered}");
    let path = format!("/v1/events/{}", expired["id"].as_str().unwrap());
    let told = server.call("GET", &path, None).await.1;
    assert_eq!(told, *expired, "one event is told alike everywhere");
    server.stop().await;
    let servers: Vec<_> = collector
        .spans()
        .into_iter()
        .filter(|s| s.parent_span_id.len() == 8 && s.name.contains('/'))
        .collect();
    assert_eq!(servers.len(), 3, "what the links say is what was exported: {servers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_know_gives_the_link() {
    let collector = Collector::start(Behaviour::Takes).await;
    let data = TempDir::new().unwrap();
    let start = async || {
        let (data, otlp) = (Some(data.path().to_owned()), Some(collector.url.clone()));
        let settings: Option<fn(&mut Settings)> = Some(links);
        Server::start_with(Options {
            data,
            otlp,
            settings,
            system_clock: true,
            ..Options::default()
        })
        .await
    };
    let server = start().await;
    ask(&server, "PUT", ORDERS_1, 1, false).await;
    ask(&server, "GET", ORDERS, 2, false).await;
    assert_eq!(event(&server, 2).await["trace_url"], Value::Null);
    server.stop().await;
    let server = start().await;
    let told = event(&server, 2).await;
    let url = format!("http://jaeger/{:032x}/{}", 2, told["span_id"].as_str().unwrap());
    assert_eq!(told["trace_url"], url, "whether its span was kept is not known any more");
    server.stop().await;
}

/// Spans of requests that were kept because their callers wanted it.
fn of_callers(collector: &Collector) -> usize {
    let keep = |span: &Span| attribute(&span.attributes, "rollcall.keep") == "caller";
    collector.spans().iter().filter(|span| keep(span)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_keep_everything_have_their_share_kept() {
    let settings = |settings: &mut Settings| {
        links(settings);
        settings.trace_caller_rate = 5;
    };
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let options = Options { otlp, settings: Some(settings), ..Options::default() };
    let server = Arc::new(Server::start_with(options).await);
    ask(&server, "PUT", ORDERS_1, 1, false).await;
    // As much as it can take, from all sides at once; its own time moves only between the rounds.
    let (mut asked, mut expected) = (0, 0);
    // The burst is twice the rate: it is there at first, and again after a long time.
    for (round, waited_ms, more) in [(1, 0, 10), (2, 1_000, 5), (3, 400, 2), (4, 10_000, 10)] {
        server.advance(waited_ms);
        (asked, expected) = (asked + 500, expected + more);
        let mut clients = JoinSet::new();
        for client in 0..20_u64 {
            let server = Arc::clone(&server);
            clients.spawn(async move {
                for number in 0..25 {
                    let (method, path) = match number % 3 {
                        0 => ("PUT", BEAT),
                        1 => ("GET", ORDERS),
                        _ => ("GET", ORDERS_1),
                    };
                    let number = round * 1_000_000 + client * 1_000 + number;
                    ask(&server, method, path, number, true).await;
                }
            });
        }
        clients.join_all().await;
        let page = server.page().await;
        let kept = async || of_callers(&collector);
        eventually("the spans of this round", kept, |kept| *kept >= expected).await;
        let unsampled = page.sum("rollcall_spans_total", &["result=\"unsampled\""]);
        assert!(unsampled >= (asked - expected) as f64, "{unsampled} of {asked}");
    }
    Arc::into_inner(server).unwrap().stop().await;
    assert_eq!(of_callers(&collector), expected, "no more came later");
}

/// What a span is linked to: trace id and span id.
fn linked(span: &Span) -> Vec<(String, String)> {
    span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_of_a_change_is_linked_to_it() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let options = Options { otlp, settings: Some(links), system_clock: true, ..Options::default() };
    let server = Arc::new(Server::start_with(options).await);
    let mut streams = Vec::new();
    for query in ["", "?service=orders", "?service=web"] {
        streams.push(Stream::open(&server.url, query, "").await);
    }
    let mut revision =
        server.register("orders", "orders-0", "10m").await["revision"].as_u64().unwrap();
    for stream in &mut streams[..2] {
        stream.take(1).await;
    }
    // A machine may be too slow to tell all of them in time; then another change is told.
    for number in 1..20 {
        let poller = Arc::clone(&server);
        let path = format!("{ORDERS}?after={revision}&wait=1m");
        let mut polls = JoinSet::new();
        polls.spawn(async move { poller.send("GET", &path, &[], None).await });
        let waits = async || server.page().await.sum("rollcall_watchers", &["longpoll"]);
        eventually("it waits", waits, |waits| *waits == 1.0).await;
        let instance = format!("orders-{number}");
        let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m"});
        let traceparent = trace(number, false);
        let headers = [("traceparent", traceparent.as_str())];
        let answer =
            server.send("PUT", &format!("{ORDERS}/{instance}"), &headers, Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        revision = answer.json["revision"].as_u64().unwrap();
        assert_eq!(polls.join_next().await.unwrap().unwrap().json["revision"], revision);
        for stream in &mut streams[..2] {
            stream.take(1).await;
        }
        let of_it = |span: &Span| attribute(&span.attributes, "rollcall.event.seq") == revision;
        let span = collector.span("notify", of_it).await;
        let request = answer.header("traceresponse");
        assert_eq!(linked(&span), [(request[3..35].to_owned(), request[36..52].to_owned())]);
        assert!(
            span.parent_span_id.is_empty() && span.kind() as i32 == 4,
            "a producer, its own root"
        );
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        for (key, value) in
            [("rollcall.event.kind", json!("registered")), ("rollcall.service", json!("orders"))]
        {
            assert_eq!(attribute(&span.attributes, key), value, "{key}");
        }
        let watchers = attribute(&span.attributes, "rollcall.watchers");
        assert!(watchers.as_i64().unwrap() <= 3, "the stream of another service is not told");
        if watchers == 3 {
            drop(streams);
            return Arc::into_inner(server).unwrap().stop().await;
        }
    }
    panic!("two streams and a long poll are never told within a second");
}
