//! What nobody should send: each gets the answer of the contract, names what is wrong, and leaves no trace in
//! the log. Sent over plain sockets, because clients refuse to send most of it.

use std::time::Duration;

use rollcall::domain::limits::{
    ADDRESS_CHARS_MAX, DNS_LABEL_CHARS_MAX, HEARTBEATS_PER_BATCH_MAX, LABEL_CHARS_MAX,
    METADATA_KEY_CHARS_MAX, METADATA_KEYS_MAX, METADATA_VALUE_BYTES_MAX, NAME_CHARS_MAX,
    NAMESPACE_CHARS_MAX, NOTE_CHARS_MAX, PROTOCOL_CHARS_MAX, REASON_CHARS_MAX, TAG_CHARS_MAX,
    TAGS_MAX, TTL_MAX, TTL_MIN, WEIGHT_MAX,
};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Options, Raw, Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";
const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";
const BEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";
const JSON: (&str, &str) = ("content-type", "application/json");
const GOOD: &str = r#"{"address":"10.0.0.7","port":8080}"#;

/// A request as it goes over the wire.
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: registry\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// Checks that an answer is the problem that the contract has for this.
fn assert_problem(answer: &Raw, status: u16, kind: &str, fields: &[&str], what: &str) {
    let Raw { head, json } = answer;
    assert_eq!(answer.status(), status, "{what}: {head}{json}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}: {head}");
    assert_eq!(json["type"], format!("/problems/{kind}"), "{what}: {json}");
    assert_eq!(json["status"], status, "{what}");
    assert!(json["title"].is_string() && json["detail"].is_string(), "{what}: {json}");
    let trace_id = json["trace_id"].as_str().unwrap();
    let told = answer.header("traceresponse");
    assert!(trace_id.len() == 32 && told.contains(trace_id), "{what}: {trace_id}, {told}");
    assert!(!answer.header("rollcall-log").is_empty(), "{what}: {head}");
    let errors = json["errors"].as_array().cloned().unwrap_or_default();
    let named: Vec<&str> = errors.iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(named, fields, "{what}: {json}");
    assert!(errors.iter().all(|e| e["message"].as_str().is_some_and(|m| !m.is_empty())), "{what}");
}

/// Events by kind, apart from those of the service that [`nothing_happened`] asks for.
fn events(server: &Server) -> Vec<Vec<Value>> {
    server.sql(
        "SELECT kind, count(*) FROM events WHERE coalesce(service, '') != 'witness' \
         GROUP BY kind ORDER BY kind",
    )
}

/// Checks that the log holds what it held before, and that the registry still answers. Traffic is numbered in
/// its order, so that whatever was recorded before the witness is in the log once the witness is.
async fn nothing_happened(server: &Server, before: &[Vec<Value>]) {
    let asked = server.call("GET", "/v1/services/witness/instances", None).await;
    assert_eq!(asked.0, 404);
    let query = "SELECT count(*) FROM events WHERE service = 'witness'";
    eventually("the witness is in the log", async || server.sql(query), |rows| rows[0][0] == 1)
        .await;
    assert_eq!(events(server), before, "a refused request is never an event");
}

/// A server on which `orders-1` lives, and what its log holds.
async fn server() -> (Server, Vec<Vec<Value>>) {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let before = events(&server);
    (server, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_is_refused_with_the_reason() {
    let (server, before) = server().await;
    let deep = "[".repeat(100_000);
    let twice = r#"{"address":"a","port":1,"port":2}"#;
    let unknown = r#"{"address":"a","port":1,"tttl":"1s"}"#;
    let malformed: &[(&str, &[u8], &str, &[&str])] = &[
        ("nothing", b"", "malformed-request", &[]),
        ("half of it", b"{\"address\":", "malformed-request", &[]),
        ("more than it", b"{}{}", "malformed-request", &[]),
        ("a list", b"[]", "malformed-request", &[]),
        ("a word", b"null", "malformed-request", &[]),
        ("no text", b"{\"address\":\"\xff\"}", "malformed-request", &[]),
        ("half a character", br#"{"address":"\ud800"}"#, "malformed-request", &[]),
        ("a control character", b"{\"address\":\"\x01\"}", "malformed-request", &[]),
        ("a comment", b"{} // good", "malformed-request", &[]),
        ("an endless number", br#"{"weight":1e999}"#, "malformed-request", &[]),
        ("a well", deep.as_bytes(), "body-too-large", &[]),
        ("a shallower well", &deep.as_bytes()[..60_000], "malformed-request", &[]),
        ("a field twice", twice.as_bytes(), "malformed-request", &[]),
        ("an unknown field", unknown.as_bytes(), "invalid-request", &["tttl"]),
    ];
    let paths = [("PUT", ORDERS_1), ("PATCH", ORDERS_1), ("POST", "/v1/register"), ("PUT", BEAT)];
    for (method, path) in paths {
        for (what, body, kind, fields) in malformed {
            if *body == b"" && path == BEAT {
                continue;
            }
            let status = if *kind == "body-too-large" { 413 } else { 400 };
            let mut answer = server.raw(&request(method, path, &[JSON], body)).await;
            // Each request has fields of its own: of all that is told, what is asked about here.
            if let Some(all) = answer.json.get_mut("errors").and_then(Value::as_array_mut) {
                all.retain(|error| fields.iter().any(|field| error["field"] == *field));
            }
            assert_problem(&answer, status, kind, fields, &format!("{method} {path}: {what}"));
        }
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

/// A field of a registration: what it takes, at its edges, and what it refuses, with the name that is told.
struct Field {
    name: &'static str,
    good: Vec<Value>,
    bad: Vec<(Value, String)>,
}

fn field(name: &'static str, good: &[Value], bad: &[Value]) -> Field {
    let bad = bad.iter().map(|value| (value.clone(), name.to_owned())).collect();
    Field { name, good: good.to_vec(), bad }
}

fn chars(count: usize) -> String {
    "é".repeat(count)
}

fn host_of(length: usize) -> String {
    let label = "a".repeat(DNS_LABEL_CHARS_MAX);
    let mut host = [label.as_str(); 4].join(".");
    host.truncate(length);
    host
}

fn keys(count: usize) -> Value {
    (0..count).map(|key| (format!("k{key}"), json!(""))).collect::<Map<_, _>>().into()
}

/// The table, generated from the limits.
fn table() -> Vec<Field> {
    let label = |name| {
        field(
            name,
            &[json!(chars(LABEL_CHARS_MAX)), json!(""), json!(null)],
            &[json!(chars(LABEL_CHARS_MAX + 1)), json!(7)],
        )
    };
    let seconds = |ttl: rollcall::domain::Millis| ttl.millis() / 1_000;
    let mut tags = field(
        "tags",
        &[json!(vec![chars(TAG_CHARS_MAX); TAGS_MAX]), json!([])],
        &[json!(vec!["a"; TAGS_MAX + 1]), json!("a"), json!({})],
    );
    for bad in [json!(chars(TAG_CHARS_MAX + 1)), json!(""), json!(1), json!(null)] {
        tags.bad.push((json!(["a", bad]), "tags[1]".to_owned()));
    }
    let longest = "k".repeat(METADATA_KEY_CHARS_MAX);
    let mut metadata = field(
        "metadata",
        &[keys(METADATA_KEYS_MAX), json!({longest.as_str(): "v".repeat(METADATA_VALUE_BYTES_MAX)})],
        &[keys(METADATA_KEYS_MAX + 1), json!([]), json!("a=b")],
    );
    let over = format!("{longest}k");
    for (key, value) in [
        (over.as_str(), json!("")),
        ("", json!("")),
        // The limit is one of bytes.
        ("k", json!(chars(METADATA_VALUE_BYTES_MAX / 2 + 1))),
        ("k", json!(1)),
        ("k", json!(null)),
        ("k", json!({})),
    ] {
        metadata.bad.push((json!({key: value}), format!("metadata.{key}")));
    }
    vec![
        field(
            "address",
            &[json!("::1"), json!("db_1.internal."), json!(host_of(ADDRESS_CHARS_MAX))],
            &[
                json!(host_of(ADDRESS_CHARS_MAX + 1)),
                json!("a".repeat(DNS_LABEL_CHARS_MAX + 1)),
                json!("10.0.0.300"),
                json!("[::1]"),
                json!("http://a"),
                json!("a b"),
                json!("a\u{0}"),
                json!("🦀"),
                json!(""),
                json!(7),
                json!(null),
            ],
        ),
        field(
            "port",
            &[json!(1), json!(65535)],
            &[json!(0), json!(65536), json!(-1), json!(80.5), json!("80"), json!(null)],
        ),
        field(
            "protocol",
            &[json!("a".repeat(PROTOCOL_CHARS_MAX)), json!("grpc")],
            &[json!("a".repeat(PROTOCOL_CHARS_MAX + 1)), json!("HTTP"), json!(""), json!(1)],
        ),
        label("version"),
        label("zone"),
        field(
            "weight",
            &[json!(0), json!(WEIGHT_MAX)],
            &[json!(WEIGHT_MAX + 1), json!(-1), json!(1.5), json!("1")],
        ),
        tags,
        metadata,
        field(
            "mode",
            &[json!("active"), json!("standby"), json!("draining")],
            &[json!("Active"), json!(""), json!(1)],
        ),
        field(
            "ttl",
            &[json!(TTL_MIN.to_string()), json!(seconds(TTL_MAX)), json!("1.5s")],
            &[
                json!(format!("{}ms", TTL_MIN.millis() - 1)),
                json!(format!("{}ms", TTL_MAX.millis() + 1)),
                json!(0),
                json!("25h"),
                json!(-5),
                json!("soon"),
                json!("99999999999999999999h"),
                json!("none"),
                json!(true),
            ],
        ),
        field("check", &[json!(null)], &[json!({"kind": "tcp"})]),
    ]
}

/// A registration in which one field has this value.
fn with(field: &str, value: &Value) -> Vec<u8> {
    let mut body = json!({"address": "10.0.0.7", "port": 8080});
    body[field] = value.clone();
    body.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_taken_at_its_limits() {
    let server = Server::start().await;
    for Field { name, good, .. } in table() {
        for value in good {
            let answer = server.raw(&request("PUT", ORDERS_1, &[JSON], &with(name, &value))).await;
            assert!([200, 201].contains(&answer.status()), "{name}: {value}: {}", answer.json);
        }
    }
    let reason = format!("{ORDERS_1}?reason={}", "%C3%A9".repeat(REASON_CHARS_MAX));
    assert_eq!(server.raw(&request("DELETE", &reason, &[], b"")).await.status(), 204);
    let (name, namespace) = ("n".repeat(NAME_CHARS_MAX), "n".repeat(NAMESPACE_CHARS_MAX));
    let path = format!("/v1/services/{name}/instances/{name}?namespace={namespace}");
    let answer = server.raw(&request("PUT", &path, &[JSON], GOOD.as_bytes())).await;
    assert_eq!(answer.status(), 201, "{}", answer.json);
    let beat = json!({"incarnation": answer.json["incarnation"], "load": -0.5, "health": "passing",
                      "note": chars(NOTE_CHARS_MAX)});
    let path = path.replace('?', "/heartbeat?");
    let answer = server.raw(&request("PUT", &path, &[JSON], beat.to_string().as_bytes())).await;
    assert_eq!(answer.status(), 200, "{}", answer.json);
    let most = vec![json!({"service": "a", "instance": "b"}); HEARTBEATS_PER_BATCH_MAX];
    let most = json!({"instances": most}).to_string();
    let answer = server.raw(&request("POST", "/v1/heartbeats", &[JSON], most.as_bytes())).await;
    assert_eq!(answer.status(), 200, "{}", answer.json);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_refused_beyond_its_limits_and_all_at_once() {
    let (server, before) = server().await;
    let mut all = json!({});
    let mut named = vec!["namespace".to_owned(), "service".to_owned(), "instance".to_owned()];
    // The check is read first.
    named.push("check".to_owned());
    for Field { name, bad, .. } in table() {
        all[name] = bad[0].0.clone();
        named.extend((name != "check").then(|| bad[0].1.clone()));
        for (value, told) in bad {
            let answer = server.raw(&request("PUT", ORDERS_1, &[JSON], &with(name, &value))).await;
            let what = format!("{name}: {value}");
            assert_problem(&answer, 422, "invalid-fields", &[told.as_str()], &what);
        }
    }
    let path = "/v1/services/or%20ders/instances/-?namespace=";
    let body = all.to_string();
    let answer = server.raw(&request("PUT", path, &[JSON], body.as_bytes())).await;
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    assert_problem(&answer, 422, "invalid-fields", &named, "all at once");

    let note = json!({"note": chars(NOTE_CHARS_MAX + 1), "load": "high", "health": "meh",
                      "incarnation": 0});
    let many = vec![json!({"service": "a", "instance": "b"}); HEARTBEATS_PER_BATCH_MAX + 1];
    let patch =
        json!({"weight": WEIGHT_MAX + 1, "mode": "off", "tags": [""], "metadata": {"a": 1}});
    for (method, path, body, fields) in [
        ("PUT", BEAT, note, &["incarnation", "load", "health", "note"][..]),
        ("POST", "/v1/heartbeats", json!({"instances": many}), &["instances"]),
        ("POST", "/v1/heartbeats", json!({"instances": 1}), &["instances"]),
        ("POST", "/v1/heartbeats", json!({}), &["instances"]),
        ("PATCH", ORDERS_1, patch, &["mode", "weight", "tags[0]", "metadata.a"]),
        ("PATCH", ORDERS_1, json!({}), &["(body)"]),
        ("POST", "/v1/register", json!({"id": "-"}), &["service_name", "id", "host", "port"]),
    ] {
        let body = body.to_string();
        let answer = server.raw(&request(method, path, &[JSON], body.as_bytes())).await;
        assert_problem(&answer, 422, "invalid-fields", fields, &format!("{method} {path}"));
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_checked_once_it_is_decoded() {
    let (server, before) = server().await;
    let (long, longer) = ("n".repeat(NAME_CHARS_MAX + 1), "n".repeat(NAMESPACE_CHARS_MAX + 1));
    let bad =
        ["a%2Fb", "%2e%2e%2fb", "a%00", "a%0d%0ab", "%F0%9F%98%80", "%20a", "a%20", "-a", ".a"];
    for name in bad.into_iter().chain(["a%25", "a+b", "%C3%A9", long.as_str()]) {
        for method in ["PUT", "GET", "DELETE"] {
            let path = format!("/v1/services/{name}/instances/{name}");
            let answer = server.raw(&request(method, &path, &[], b"{}")).await;
            let fields = match method {
                "PUT" => &["service", "instance", "address", "port"][..],
                _ => &["service", "instance"],
            };
            assert_problem(&answer, 422, "invalid-fields", fields, &format!("{method} {path}"));
        }
        let path = format!("/v1/services/{name}/instances?namespace={longer}");
        let answer = server.raw(&request("GET", &path, &[], b"")).await;
        assert_problem(&answer, 422, "invalid-fields", &["namespace", "service"], &path);
    }
    let answer = server.raw(&request("GET", "/v1/services//instances", &[], b"")).await;
    assert_problem(&answer, 422, "invalid-fields", &["service"], "no name at all");
    for path in ["/v1/services/%ff/instances", "/v1/services/a/instances/%c3%28"] {
        let answer = server.raw(&request("GET", path, &[], b"")).await;
        assert_problem(&answer, 400, "malformed-request", &[], path);
    }
    for path in ["/v1/services/a/b/instances", "/v1/services/a/../b", "/"] {
        let answer = server.raw(&request("GET", path, &[], b"")).await;
        assert_problem(&answer, 404, "unknown-path", &[], path);
    }
    let path = format!("/v1/services/{}/instances", "a".repeat(20_000));
    let answer = server.raw(&request("GET", &path, &[], b"")).await;
    assert_problem(&answer, 414, "uri-too-long", &[], "a path of 20,000 bytes");
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_is_known_once_and_parses() {
    let (server, before) = server().await;
    let reason = format!("{ORDERS_1}?reason={}", "a".repeat(REASON_CHARS_MAX + 1));
    let zone = format!("{ORDERS}?zone={}", "a".repeat(LABEL_CHARS_MAX + 1));
    let list = |query: &str| format!("{ORDERS}?{query}");
    for (method, path, status, fields) in [
        ("GET", list("zone=a&zone=a"), 400, &["zone"][..]),
        ("GET", list("namespace=a&namespace=b"), 400, &["namespace"]),
        ("GET", list("status=any&status=any&mode=active&mode=active"), 400, &["status", "mode"]),
        ("GET", list("zonee=a&Zone=b"), 400, &["zonee", "Zone"]),
        ("GET", list("meta.=a"), 400, &["meta."]),
        ("GET", list("tag=%ff"), 400, &["tag"]),
        ("GET", list("status=dead"), 400, &["status"]),
        ("GET", list("include=leases"), 400, &["include"]),
        ("GET", list(&"tag=a&".repeat(TAGS_MAX + 1)), 422, &["tag"]),
        ("GET", zone, 422, &["zone"]),
        ("GET", "/v1/services?limit=0".into(), 422, &["limit"]),
        ("GET", "/v1/services?limit=many".into(), 400, &["limit"]),
        ("GET", "/v1/events?kind=born&order=up".into(), 400, &["order", "kind"]),
        ("GET", "/v1/events?since=yesterday&trace_id=1".into(), 400, &["trace_id", "since"]),
        (
            "GET",
            "/v1/events?since=@999&until=2126-01-01T00:00:00Z".into(),
            422,
            &["since", "until"],
        ),
        ("GET", "/v1/sd/prometheus?services=a".into(), 400, &["services"]),
        ("GET", "/livez?verbose".into(), 400, &["verbose"]),
        ("GET", "/metrics?name=a".into(), 400, &["name"]),
        ("PUT", format!("{ORDERS_1}?ttl=5s"), 400, &["ttl"]),
        ("DELETE", format!("{ORDERS_1}?reason=a&reason=b"), 400, &["reason"]),
        ("DELETE", reason, 422, &["reason"]),
    ] {
        let answer = server.raw(&request(method, &path, &[], GOOD.as_bytes())).await;
        let kind = if status == 400 { "invalid-request" } else { "invalid-fields" };
        assert_problem(&answer, status, kind, fields, &format!("{method} {path}"));
    }
    for cursor in ["x", "00", "%F0%9F%98%80"] {
        let path = format!("/v1/services?cursor={cursor}");
        let answer = server.raw(&request("GET", &path, &[], b"")).await;
        assert_problem(&answer, 400, "invalid-cursor", &[], &path);
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn method_media_type_and_preconditions_are_those_of_the_contract() {
    let (server, before) = server().await;
    let document = server.call("GET", "/openapi.json", None).await.1;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 14, "{paths:?}");
    let methods = ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
    for (path, operations) in paths {
        let known = |method: &str| operations.get(method.to_ascii_lowercase()).is_some();
        let path = path.replace("{service}", "orders").replace("{instance}", "orders-1");
        for method in methods.into_iter().filter(|method| !known(method)) {
            let answer = server.raw(&request(method, &path, &[], b"")).await;
            let what = format!("{method} {path}");
            assert_problem(&answer, 405, "method-not-allowed", &[], &what);
            let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
            allowed.retain(|method| *method != "HEAD");
            allowed.sort_unstable();
            let mut expected: Vec<&str> = methods.into_iter().filter(|m| known(m)).collect();
            expected.sort_unstable();
            assert_eq!(allowed, expected, "{what}");
        }
        // Scrapers ask for forms that do not exist yet, and get the one that does.
        if known("GET") && path != "/metrics" {
            let answer = server.raw(&request("GET", &path, &[("accept", "text/html")], b"")).await;
            assert_problem(&answer, 406, "not-acceptable", &[], &path);
        }
    }
    for media in ["text/plain", "application/json; charset=latin1", "application/x-json", "é"] {
        let headers = [("content-type", media)];
        let answer = server.raw(&request("PUT", ORDERS_1, &headers, GOOD.as_bytes())).await;
        assert_problem(&answer, 415, "unsupported-media-type", &[], media);
    }
    for (headers, status, kind, fields) in [
        (&[("if-none-match", "\"x\"")][..], 400, "invalid-request", &["if-none-match"][..]),
        (&[("if-none-match", "*"), ("if-match", "*")], 400, "invalid-request", &["if-match"]),
        (&[("if-none-match", "*")], 412, "id-in-use", &[]),
        (&[("if-match", "\"x\"")], 412, "instance-changed", &[]),
    ] {
        let answer = server.raw(&request("PUT", ORDERS_1, headers, GOOD.as_bytes())).await;
        assert_problem(&answer, status, kind, fields, &format!("{headers:?}"));
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

/// A body in one chunk, and the chunk that ends it.
fn chunked(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let length = format!("{:x}\r\n", body.len());
    [head.as_bytes(), length.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_refused_and_the_client_sees_why() {
    let (server, before) = server().await;
    let padded = |length: usize| format!("{GOOD}{}", " ".repeat(length - GOOD.len())).into_bytes();
    for (path, method, limit) in
        [(ORDERS_1, "PUT", 65_536), (BEAT, "PUT", 65_536), ("/v1/heartbeats", "POST", 1 << 20)]
    {
        let body = padded(limit + 1);
        for request in [request(method, path, &[], &body), chunked(method, path, &body)] {
            let mut connection = server.connect().await;
            connection.write_all(&request).await.unwrap();
            let answer = Raw::read(&mut connection).await;
            assert_problem(&answer, 413, "body-too-large", &[], path);
            if limit < 1 << 20 {
                // The connection goes on: what was left of the body has been read.
                let next = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
                connection.write_all(next).await.unwrap();
                assert_eq!(Raw::read(&mut connection).await.status(), 200, "{path}");
            }
        }
    }
    // Far too much: the answer comes while the client still sends, and then the end.
    let connection = server.connect().await;
    let (mut reader, mut writer) = connection.into_split();
    let body = vec![b' '; 20 << 20];
    let sending = async {
        let sent = writer.write_all(&request("PUT", ORDERS_1, &[], &body)).await;
        (sent, writer)
    };
    let reading = async {
        let mut seen = Vec::new();
        let _ = reader.read_to_end(&mut seen).await;
        seen
    };
    let ((sent, _writer), seen) = tokio::join!(sending, reading);
    assert!(sent.is_err(), "twenty mebibytes were read");
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 413 ") && seen.contains("body-too-large"), "{seen}");
    nothing_happened(&server, &before).await;

    // At its limit it is taken.
    let answer = server.raw(&request("PUT", ORDERS_1, &[], &padded(65_536))).await;
    assert_eq!(answer.status(), 200, "{}", answer.json);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hardly_http_ends_its_connection_and_nothing_else() {
    let (server, before) = server().await;
    let many: String = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET {ORDERS} HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let huge = format!("GET {ORDERS} HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let cases: &[(&str, &[u8], &[u16])] = &[
        ("10,000 headers", many.as_bytes(), &[431]),
        ("a header of a mebibyte", huge.as_bytes(), &[431]),
        ("no HTTP", b"\x00\x01\x02\r\n\r\n", &[400]),
        ("a control character in a path", b"GET /a\x01b HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
        ("a line break in a header", b"GET / HTTP/1.1\r\nhost: x\ry\r\n\r\n", &[400]),
        (
            "two lengths",
            b"PUT / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            &[400],
        ),
        ("a length below 0", b"PUT / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", &[400]),
    ];
    for (what, bytes, statuses) in cases {
        let mut connection = server.connect().await;
        let _ = connection.write_all(bytes).await;
        let answer = Raw::read(&mut connection).await;
        assert!(statuses.contains(&answer.status()), "{what}: {}", answer.head);
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest).await;
        assert_eq!(rest, b"", "{what}: the connection goes on");
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_given_up() {
    let options = Options {
        settings: Some(|settings| {
            settings.request_timeout = Duration::from_secs(1);
            settings.header_timeout = Duration::from_secs(1);
        }),
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    let before = events(&server);
    let head = format!("PUT {ORDERS_1} HTTP/1.1\r\nhost: x\r\ncontent-length: 34\r\n\r\n{{");
    let answer = server.raw(head.as_bytes()).await;
    assert_problem(&answer, 408, "body-timeout", &[], "a slow body");
    assert_eq!(answer.header("connection"), "close");
    // All are opened before the first is waited for: they run out together.
    let mut silent = Vec::new();
    for part in ["", "P", "PUT / HTTP/1.1\r\nho", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut connection = server.connect().await;
        connection.write_all(part.as_bytes()).await.unwrap();
        silent.push((part, connection));
    }
    for (part, mut connection) in silent {
        // Nobody asked for anything, so nothing is answered; but it ends.
        let answer = Raw::read(&mut connection).await;
        assert_eq!(answer.head, "", "{part:?}");
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_in_mid_body_does_nothing() {
    let server = Server::start().await;
    let before = events(&server);
    let half = format!("PUT {ORDERS_1} HTTP/1.1\r\nhost: x\r\ncontent-length: 34\r\n\r\n{{\"addr");
    // Closed on both sides: nobody is left to be answered.
    let mut connection = server.connect().await;
    connection.write_all(half.as_bytes()).await.unwrap();
    drop(connection);
    // On one side only: the other one sees the answer.
    let mut connection = server.connect().await;
    connection.write_all(half.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let answer = Raw::read(&mut connection).await;
    assert_problem(&answer, 400, "malformed-request", &[], "the end in mid-body");
    let ended = async || {
        let page = server.page().await;
        page.sum("http_server_request_duration_seconds_count", &["method=\"PUT\""])
    };
    eventually("both are over", ended, |count| *count == 2.0).await;
    let active = async || {
        let page = server.page().await;
        page.sum("http_server_active_requests", &["method=\"PUT\""])
    };
    eventually("none is left", active, |count| *count == 0.0).await;
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_trace_begins_a_new_one() {
    let server = Server::start().await;
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let cases: &[&[&str]] = &[
        &["zz"],
        &[""],
        &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"],
        &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
        &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
        &["00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"],
        &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
        &["00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01"],
        &[good, good],
    ];
    for case in cases {
        let headers: Vec<(&str, &str)> = case
            .iter()
            .map(|value| ("traceparent", *value))
            .chain([("tracestate", "a=1,,=,💥")])
            .collect();
        let answer = server.raw(&request("GET", "/v1/services", &headers, b"")).await;
        assert_eq!(answer.status(), 200, "{case:?}");
        let told = answer.header("traceresponse");
        let new = told.len() == 55 && !told.contains("0af7651916cd43dd8448eb211c80319c");
        assert!(new && !told.contains("00000000000000000000000000000000"), "{case:?}: {told}");
    }
    let page = server.page().await;
    let count = page.sum("rollcall_trace_context_total", &["result=\"malformed\""]);
    assert_eq!(count, cases.len() as f64);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_texts_are_kept_as_they_are() {
    let server = Server::start().await;
    let awkward = "\u{0}\u{7f}\n\t\"\\'; DROP TABLE changes; -- \u{202e}🦀é%00,\u{1f}";
    let body = json!({"address": "10.0.0.7", "port": 1, "version": awkward, "zone": awkward,
                      "tags": [awkward], "metadata": {awkward: awkward}});
    let (status, created) = server.call("PUT", ORDERS_1, Some(body.clone())).await;
    assert_eq!(status, 201, "{created}");
    for field in ["version", "zone", "tags", "metadata"] {
        assert_eq!(created[field], body[field], "{field}");
    }
    let query = [("tag", awkward), ("zone", awkward)];
    let found = server.http.get(format!("{}{ORDERS}", server.url)).query(&query).send().await;
    let found: Value = serde_json::from_str(&found.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(found["instances"], json!([created]));
    let headers = [("rollcall-caller", "nobody; \"x\"")];
    assert_eq!(server.send("GET", ORDERS, &headers, None).await.status, 200, "not refused");

    let story =
        "SELECT caller, data, json_valid(data) FROM events WHERE service = 'orders' ORDER BY id";
    let rows = eventually("all are in the log", async || server.sql(story), |r| r.len() == 3).await;
    assert!(rows.iter().all(|row| row[2] == 1), "{rows:?}");
    let callers: Vec<&Value> = rows.iter().map(|row| &row[0]).collect();
    assert_eq!(callers[2], "unknown", "{callers:?}");
    let data = |row: usize| serde_json::from_str::<Value>(rows[row][1].as_str().unwrap()).unwrap();
    assert_eq!(data(0)["instance"]["metadata"], body["metadata"]);
    assert_eq!(data(1)["returned"], 1);
    server.stop().await;
}
