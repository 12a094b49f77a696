//! What nobody should send: each gets the answer of the contract, names what is wrong, and leaves no trace in
//! the log. Sent over plain sockets, because clients refuse to send most of it.

mod fields;
mod sockets;

use rollcall::domain::limits::{
    LABEL_CHARS_MAX, NAME_CHARS_MAX, NAMESPACE_CHARS_MAX, REASON_CHARS_MAX, TAGS_MAX,
};
use serde_json::{Value, json};

use crate::harness::{Raw, Server, eventually};

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
        ("GET", list("order=weight"), 400, &["order"]),
        ("GET", list("order=load&order=load"), 400, &["order"]),
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
        // Scrapers ask for forms that do not exist yet, and get the one that does; so do readers of profiles.
        if known("GET") && !["/metrics", "/debug/pprof/profile"].contains(&path.as_str()) {
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
