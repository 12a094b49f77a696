//! W3C's list of headers that are no trace context, sent over a socket: each of them is answered as if it had not been
//! there, gets ids of its own and is counted. And what a valid one carries along reaches the collector, or nothing of it.
//!
//! The cases are those of the W3C's own suite (w3c/trace-context, test/test.py), with their names there.

use serde_json::json;

use crate::collector::{Behaviour, Collector, hex};
use crate::harness::{Options, Server};

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";
const LOOKUP: &str = "/v1/services/orders/instances";
const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";

/// Headers as they are sent, name and all.
type Sent = Vec<String>;

/// What is to be taken for no trace context at all, however it differs from one.
fn malformed() -> Vec<(&'static str, Sent)> {
    let one = |value: String| vec![format!("traceparent: {value}")];
    let valid = format!("traceparent: 00-{TRACE}-{SPAN}-01");
    vec![
        ("both_traceparent_and_again", vec![valid.clone(), valid.clone()]),
        (
            "traceparent_duplicated",
            vec![
                valid,
                "traceparent: 00-12345678901234567890123456789011-1234567890123456-01".into(),
            ],
        ),
        ("traceparent_empty", one(String::new())),
        ("traceparent_version_0x00", one(format!("00-{TRACE}-{SPAN}-01."))),
        (
            "traceparent_version_0x00",
            one(format!("00-{TRACE}-{SPAN}-01-what-the-future-will-not-be-like")),
        ),
        (
            "traceparent_version_0xcc",
            one(format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like")),
        ),
        ("traceparent_version_0xff", one(format!("ff-{TRACE}-{SPAN}-01"))),
        ("traceparent_version_illegal_characters", one(format!(".0-{TRACE}-{SPAN}-01"))),
        ("traceparent_version_illegal_characters", one(format!("0.-{TRACE}-{SPAN}-01"))),
        ("traceparent_version_too_long", one(format!("000-{TRACE}-{SPAN}-01"))),
        ("traceparent_version_too_long", one(format!("0000-{TRACE}-{SPAN}-01"))),
        ("traceparent_version_too_short", one(format!("0-{TRACE}-{SPAN}-01"))),
        (
            "traceparent_trace_id_all_zero",
            one(format!("00-00000000000000000000000000000000-{SPAN}-01")),
        ),
        (
            "traceparent_trace_id_illegal_characters",
            one(format!("00-.2345678901234567890123456789012-{SPAN}-01")),
        ),
        (
            "traceparent_trace_id_illegal_characters",
            one(format!("00-1234567890123456789012345678901.-{SPAN}-01")),
        ),
        (
            "traceparent_trace_id_upper_case",
            one(format!("00-1234567890123456789012345678901A-{SPAN}-01")),
        ),
        ("traceparent_trace_id_too_long", one(format!("00-{TRACE}3-{SPAN}-01"))),
        (
            "traceparent_trace_id_too_short",
            one(format!("00-1234567890123456789012345678901-{SPAN}-01")),
        ),
        ("traceparent_parent_id_all_zero", one(format!("00-{TRACE}-0000000000000000-01"))),
        (
            "traceparent_parent_id_illegal_characters",
            one(format!("00-{TRACE}-.234567890123456-01")),
        ),
        (
            "traceparent_parent_id_illegal_characters",
            one(format!("00-{TRACE}-123456789012345.-01")),
        ),
        ("traceparent_parent_id_upper_case", one(format!("00-{TRACE}-123456789012345F-01"))),
        ("traceparent_parent_id_too_long", one(format!("00-{TRACE}-{SPAN}7-01"))),
        ("traceparent_parent_id_too_short", one(format!("00-{TRACE}-123456789012345-01"))),
        ("traceparent_trace_flags_illegal_characters", one(format!("00-{TRACE}-{SPAN}-.0"))),
        ("traceparent_trace_flags_illegal_characters", one(format!("00-{TRACE}-{SPAN}-0."))),
        ("traceparent_trace_flags_upper_case", one(format!("00-{TRACE}-{SPAN}-0B"))),
        ("traceparent_trace_flags_too_long", one(format!("00-{TRACE}-{SPAN}-001"))),
        ("traceparent_trace_flags_too_short", one(format!("00-{TRACE}-{SPAN}-1"))),
        ("wrong_dashes", one(format!("00_{TRACE}_{SPAN}_01"))),
        ("missing_dash", one(format!("00{TRACE}-{SPAN}-01"))),
        ("no_flags", one(format!("00-{TRACE}-{SPAN}"))),
        ("two_in_one", one(format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"))),
        ("no_ascii", one(format!("00-{TRACE}-{SPAN}-0\u{e9}"))),
    ]
}

/// What is to be continued.
fn valid() -> Vec<(&'static str, Sent)> {
    let header = format!("00-{TRACE}-{SPAN}-01");
    vec![
        ("traceparent_included", vec![format!("traceparent: {header}")]),
        ("traceparent_header_name_valid_casing", vec![format!("TraceParent: {header}")]),
        ("traceparent_header_name_valid_casing", vec![format!("TRACEPARENT: {header}")]),
        ("traceparent_ows_handling", vec![format!("traceparent: \t {header} \t ")]),
        ("traceparent_version_0xcc", vec![format!("traceparent: cc-{TRACE}-{SPAN}-01")]),
        (
            "traceparent_version_0xcc",
            vec![format!("traceparent: cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like")],
        ),
        ("traceparent_trace_flags_all", vec![format!("traceparent: 00-{TRACE}-{SPAN}-ff")]),
    ]
}

/// What has another name is not there.
fn absent() -> Vec<(&'static str, Sent)> {
    ["trace-parent", "trace.parent"]
        .map(|name| ("traceparent_header_name", vec![format!("{name}: 00-{TRACE}-{SPAN}-01")]))
        .into()
}

/// A request with these headers, as bytes: a client's library would refuse to send some of them.
fn request(method: &str, path: &str, headers: &[String], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: registry\r\n");
    if !body.is_empty() {
        text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    for header in headers {
        text += &format!("{header}\r\n");
    }
    format!("{text}\r\n{body}").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_trace_context_is_answered_as_usual_with_ids_of_its_own() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "1h").await;
    let counted = async || {
        let page = server.page().await;
        let of =
            |result| page.sum("rollcall_trace_context_total", &[&format!("result=\"{result}\"")]);
        [of("valid"), of("malformed"), of("absent")]
    };
    let expected = server.raw(&request("GET", LOOKUP, &[], "")).await;
    assert_eq!(expected.status(), 200);
    let before = counted().await;
    let (valid, malformed, absent) = (valid(), malformed(), absent());
    let mut seen = std::collections::BTreeSet::new();
    for (name, headers) in valid.iter().chain(&malformed).chain(&absent) {
        let continued = valid.iter().any(|(_, sent)| sent == headers);
        // The short way of lookups, and the long one.
        for path in [LOOKUP, "/v1/services/orders/instances?status=healthy"] {
            let answer = server.raw(&request("GET", path, headers, "")).await;
            assert_eq!(answer.status(), 200, "{name}: {headers:?}: {}", answer.head);
            assert_eq!(answer.json["instances"], expected.json["instances"], "{name}");
            let told = answer.header("traceresponse");
            let parts: Vec<&str> = told.split('-').collect();
            let [version, trace_id, span_id, flags] = parts[..] else { panic!("{name}: {told}") };
            assert_eq!((version, trace_id.len(), span_id.len()), ("00", 32, 16), "{name}: {told}");
            assert_eq!(trace_id == TRACE, continued, "{name}: {headers:?}: {told}");
            assert_eq!(flags, if continued { "01" } else { "00" }, "{name}: {told}");
            assert!(span_id != SPAN && seen.insert(span_id.to_owned()), "{name}: {told}");
            assert!(continued || seen.insert(trace_id.to_owned()), "{name}: {told}");
        }
    }
    // Between the two pages lies one request more, that for the first page.
    let after = counted().await;
    let more = [0, 1, 2].map(|n| after[n] - before[n]);
    let twice = |cases: usize| 2.0 * cases as f64;
    assert_eq!(more, [twice(valid.len()), twice(malformed.len()), twice(absent.len()) + 1.0]);
    // No error and no line: the end of the test checks that nobody was warned.
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tracestate_reaches_the_spans_of_the_request_whole_or_not_at_all() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let server = Server::start_with(Options { otlp, ..Options::default() }).await;
    let most = (1..=32).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",");
    let many = format!("{most},bar33=33");
    let long = format!("foo=1,{}={}", "z".repeat(256), "x".repeat(256));
    // One character less than W3C allows: so many the SDK takes, which makes the span.
    let key = format!("{}@{}=1", "t".repeat(241), "v".repeat(13));
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["foo=1"], "foo=1"),
        (vec!["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        (vec!["foo=1 \t , \t bar=2,\t", "", "baz=3"], "foo=1,bar=2,baz=3"),
        (vec![&most], &most),
        (vec![&key], &key),
        (vec!["foo=1", ""], "foo=1"),
        (vec![""], ""),
        (vec!["foo=1,bar"], ""),
        (vec!["foo=1", "bar=2=3"], ""),
        (vec!["foo=1,FOO=2"], ""),
        (vec!["foo =1"], ""),
        (vec!["foo=1,bar=2,foo=1"], ""),
        (vec!["foo=1", "foo=2"], ""),
        (vec![&many], ""),
        (vec![&long], ""),
    ];
    let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "1h"}).to_string();
    for (number, (states, expected)) in (1..).zip(&cases) {
        let trace_id = format!("{number:032x}");
        let mut headers = vec![format!("traceparent: 00-{trace_id}-{SPAN}-01")];
        headers.extend(states.iter().map(|state| format!("tracestate: {state}")));
        for (method, path, body) in [("PUT", ORDERS_1, &*body), ("GET", LOOKUP, "")] {
            let answer = server.raw(&request(method, path, &headers, body)).await;
            assert!([200, 201].contains(&answer.status()), "{states:?}: {}", answer.head);
            assert_eq!(
                &answer.header("traceresponse")[3..35],
                trace_id,
                "it spoils no trace: {states:?}"
            );
        }
        for name in [
            "PUT /v1/services/{service}/instances/{instance}",
            "queue",
            "decide",
            "append",
            "publish",
            "GET /v1/services/{service}/instances",
        ] {
            let span = collector.span(name, |span| hex(&span.trace_id) == trace_id).await;
            assert_eq!(span.trace_state, *expected, "{name}: {states:?}");
        }
    }
    server.stop().await;
}
