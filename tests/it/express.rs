//! A plain lookup and a plain heartbeat take a shorter way than all other requests. Nobody can tell by anything that they
//! leave behind: a query that is there but empty asks the same on the long way.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::collector::{Behaviour, Collector, Span, attribute};
use crate::harness::{Options, Raw, Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";

/// What is the same on both ways: all but the ids, which are each request's own, and the time.
#[derive(Debug, PartialEq)]
struct Same {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

async fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> Same {
    let answer = server.send("GET", path, headers, None).await;
    let own = ["traceresponse", "date"];
    let headers = answer.headers.iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let mut headers: Vec<(String, String)> = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort_unstable();
    assert!(!answer.header("traceresponse").is_empty());
    // A problem says its trace in the body; none takes the short way.
    let body = if answer.status.is_client_error() { String::new() } else { answer.text };
    Same { status: answer.status.as_u16(), headers, body }
}

/// The events of a kind in the log, without numbers, ids and times, oldest first.
async fn events(server: &Server, kind: &str) -> Vec<Value> {
    let (_, json) = server.call("GET", &format!("/v1/events?kind={kind}&limit=1000"), None).await;
    let mut events = json["events"].as_array().unwrap().clone();
    for event in &mut events {
        for own in ["id", "at", "trace_id", "span_id", "trace_url"] {
            event.as_object_mut().unwrap().remove(own);
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_answer_record_count_and_trace_alike() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let server = Server::start_with(Options { otlp, ..Options::default() }).await;
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "15s").await;
    let etag = ask(&server, ORDERS, &[]).await;
    let etag = etag.headers.iter().find(|(name, _)| name == "etag").unwrap().1.clone();
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (unsampled, broken) = (sampled.replace("-01", "-00"), "00-rubbish");
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[], 200),
        (&[("if-none-match", &etag)], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("traceparent", &unsampled), ("rollcall-caller", "web/web-1")], 200),
        (&[("traceparent", broken), ("user-agent", "curl/8.5.0")], 200),
        (&[("traceparent", sampled)], 200),
        (&[("accept", "text/html, */*;q=0.1")], 200),
        (&[("accept", "text/html")], 406),
    ];
    let count = |path: &'static str| {
        let server = &server;
        async move {
            let before = server.page().await;
            let mut seen = Vec::new();
            for (headers, status) in cases {
                let answer = ask(server, path, headers).await;
                assert_eq!(answer.status, *status, "{headers:?}");
                seen.push(answer);
            }
            let after = server.page().await;
            let moved: Vec<f64> = [
                ("http_server_request_duration_seconds_count", "{service}/instances\""),
                ("rollcall_lookups_total", "hit"),
                ("rollcall_lookups_total", "not_modified"),
                ("rollcall_trace_context_total", "valid"),
                ("rollcall_trace_context_total", "malformed"),
                ("http_server_active_requests", "GET"),
            ]
            .map(|(name, label)| after.sum(name, &[label]) - before.sum(name, &[label]))
            .into();
            (seen, moved)
        }
    };
    let short = count(ORDERS).await;
    let long = count("/v1/services/orders/instances?").await;
    assert_eq!(short.0, long.0, "answered alike");
    assert_eq!(short.1, long.1, "counted alike");
    assert!(short.1[..5].iter().all(|moved| *moved > 0.0), "{:?}", short.1);

    let recorded = recorded(&server, "lookup", 15).await;
    assert_eq!(recorded[1..8], recorded[8..], "recorded alike");
    traced_alike(&collector).await;
    server.stop().await;
}

/// All events of a kind, once there are so many.
async fn recorded(server: &Server, kind: &str, count: usize) -> Vec<Value> {
    let ask = async || {
        server.advance(10);
        events(server, kind).await
    };
    eventually("all are in the log", ask, |events| events.len() == count).await
}

/// The two requests that their caller sampled left spans that differ only in the way.
async fn traced_alike(collector: &Collector) {
    let of_caller = || -> Vec<Span> {
        let parent = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
        let spans = collector.spans().into_iter();
        spans.filter(|span| span.parent_span_id == parent).collect()
    };
    let spans = eventually("both are kept", async || of_caller(), |spans| spans.len() == 2).await;
    let told = |span: &Span| {
        let attributes = span
            .attributes
            .iter()
            .map(|one| (one.key.clone(), attribute(&span.attributes, &one.key)));
        (span.name.clone(), span.kind, span.flags, attributes.collect::<BTreeMap<_, _>>())
    };
    let (short, mut long) = (told(&spans[0]), told(&spans[1]));
    assert_eq!(
        long.3.remove("url.query"),
        Some(Value::from("")),
        "it says that it came the long way"
    );
    assert_eq!(short, long);
}

const BEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";

/// A heartbeat as bytes.
fn beat(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let chunked = headers.contains("transfer-encoding");
    let length = match body.is_empty() || chunked {
        true => String::new(),
        false => format!("content-length: {}\r\n", body.len()),
    };
    format!("PUT {path} HTTP/1.1\r\nhost: registry\r\n{length}{headers}\r\n{body}").into_bytes()
}

fn same(answer: Raw) -> Same {
    let own = ["traceresponse", "date"];
    let lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let mut headers: Vec<(String, String)> = lines
        .filter(|(name, _)| !own.contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    headers.sort_unstable();
    assert!(!answer.header("traceresponse").is_empty());
    let status = answer.status();
    let body = if status < 400 { answer.json.to_string() } else { String::new() };
    Same { status, headers, body }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_renew_answer_record_count_and_trace_alike() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let server = Server::start_with(Options { otlp, ..Options::default() }).await;
    let living =
        server.register("orders", "orders-1", "15s").await["incarnation"].as_u64().unwrap();
    let json = "content-type: application/json\r\n";
    let passing = format!("{{\"incarnation\":{living},\"health\":\"passing\",\"load\":null}}");
    let other = format!("{{\"incarnation\":{}}}", living + 1);
    let long = format!("{{\"load\":2{}}}", " ".repeat(300));
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = format!("{json}traceparent: {sampled}\r\n");
    let unsampled = traced.replace("-01\r", "-00\r");
    let cases: &[(&str, &str, u16)] = &[
        ("", r#"{"load":0.25}"#, 200),
        ("", "", 200),
        ("rollcall-caller: orders/orders-1\r\ncontent-length: 0\r\n", "", 200),
        (json, r#"{"load":7}"#, 200),
        (json, &passing, 200),
        (json, &long, 200),
        (json, r#"{"note":"warm"}"#, 200),
        (&traced, "{}", 200),
        (&unsampled, "{}", 200),
        ("traceparent: 00-rubbish\r\n", "", 200),
        ("expect: 100-continue\r\n", "", 200),
        ("transfer-encoding: chunked\r\n", "d\r\n{\"load\":0.75}\r\n0\r\n\r\n", 200),
        (json, &other, 409),
        (json, r#"{"load":-1}"#, 422),
        (json, r#"{"load":1,"load":2}"#, 400),
        (json, r#"{"lode":1}"#, 400),
        (json, r#"[null,1]"#, 400),
        ("content-type: text/plain\r\n", "{}", 415),
        ("accept: text/html\r\n", "", 406),
    ];
    let renewed = cases.iter().filter(|(.., status)| *status == 200).count();
    let (one, lease) = (BEAT.trim_end_matches("/heartbeat"), "last_heartbeat_at");
    let count = async |path: &str| {
        // From here on it is silent for as long on both ways.
        assert_eq!(server.raw(&beat(path, "", r#"{"load":1}"#)).await.status(), 200);
        let before = server.page().await;
        let mut seen = Vec::new();
        for (headers, body, status) in cases {
            server.advance(50);
            let answer = same(server.raw(&beat(path, headers, body)).await);
            assert_eq!(answer.status, *status, "{headers:?} {body:?}");
            let (_, instance) = server.call("GET", one, None).await;
            let just_now = instance["lease"]["age_ms"] == 0 && !instance["lease"][lease].is_null();
            assert_eq!(just_now, *status == 200, "{instance}");
            seen.push((answer, instance["lease"]["load"].clone()));
        }
        let after = server.page().await;
        let moved = [
            ("http_server_request_duration_seconds_count", "/heartbeat\""),
            ("rollcall_heartbeat_gap_ratio_count", ""),
            ("rollcall_heartbeat_gap_ratio_sum", ""),
            ("rollcall_trace_context_total", "valid"),
            ("rollcall_trace_context_total", "malformed"),
            ("http_server_active_requests", "PUT"),
        ];
        (seen, moved.map(|(name, label)| after.sum(name, &[label]) - before.sum(name, &[label])))
    };
    let short = count(BEAT).await;
    let long = count(&format!("{BEAT}?")).await;
    assert_eq!(short.0, long.0, "answered alike");
    for (short, long) in short.1.iter().zip(long.1) {
        assert!((short - long).abs() < 1e-9, "counted alike: {short} and {long}");
    }
    assert!(short.1[..5].iter().all(|moved| *moved > 0.0), "{:?}", short.1);
    let recorded = recorded(&server, "heartbeat", 2 * (1 + renewed)).await;
    assert_eq!(recorded[..=renewed], recorded[1 + renewed..], "recorded alike");
    traced_alike(&collector).await;
    server.stop().await;
}

/// A body that comes in pieces is waited for, by a request in progress; none of it is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_in_pieces_is_put_together() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let whole = beat(BEAT, "", r#"{"load":0.42}"#);
    let head = whole.len() - r#"{"load":0.42}"#.len();
    // Without any of the body, and with a part of it.
    for first in [head, head + 5] {
        let mut connection = server.connect().await;
        connection.write_all(&whole[..first]).await.unwrap();
        let active = async || server.page().await.sum("http_server_active_requests", &["PUT"]);
        eventually("it waits for its body", active, |active| *active == 1.0).await;
        connection.write_all(&whole[first..]).await.unwrap();
        let answer = Raw::read(&mut connection).await;
        assert_eq!((answer.status(), &answer.json["status"]), (200, &"healthy".into()));
        // The connection goes on.
        connection.write_all(&whole).await.unwrap();
        assert_eq!(Raw::read(&mut connection).await.status(), 200);
    }
    let recorded = recorded(&server, "heartbeat", 4).await;
    assert!(recorded.iter().all(|event| event["data"]["load"] == 0.42), "{recorded:?}");
    server.stop().await;
}
