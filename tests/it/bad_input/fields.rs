//! Every field of the contract at its edges, generated from the table of limits: taken there, refused beyond, and
//! all that is wrong told at once.

use rollcall::domain::limits::{
    ADDRESS_CHARS_MAX, DNS_LABEL_CHARS_MAX, HEARTBEATS_PER_BATCH_MAX, LABEL_CHARS_MAX,
    METADATA_KEY_CHARS_MAX, METADATA_KEYS_MAX, METADATA_VALUE_BYTES_MAX, NAME_CHARS_MAX,
    NAMESPACE_CHARS_MAX, NOTE_CHARS_MAX, PROTOCOL_CHARS_MAX, REASON_CHARS_MAX, TAG_CHARS_MAX,
    TAGS_MAX, TTL_MAX, TTL_MIN, WEIGHT_MAX,
};
use serde_json::{Map, Value, json};

use super::{BEAT, GOOD, JSON, ORDERS_1, assert_problem, nothing_happened, request, server};
use crate::harness::Server;

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
        // It is read once the address and the protocol are known. This address is not the one that registers.
        field("check", &[json!(null)], &[json!("tcp"), json!({"kind": "tcp"}), json!([])]),
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
        field("detector", &[json!("fixed"), json!("phi")], &[json!("Phi"), json!(""), json!(8)]),
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
    let beat = json!({"incarnation": answer.json["incarnation"], "load": 0, "health": "passing",
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
    for Field { name, bad, .. } in table() {
        all[name] = bad[0].0.clone();
        named.push(bad[0].1.clone());
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
    let phi = |detector: Value, threshold: Value| json!({"address": "10.0.0.7", "port": 8080, "detector": detector, "phi_threshold": threshold});
    let drain = json!({"mode": "draining"});
    let many = vec![json!({"service": "a", "instance": "b"}); HEARTBEATS_PER_BATCH_MAX + 1];
    let patch =
        json!({"weight": WEIGHT_MAX + 1, "mode": "off", "tags": [""], "metadata": {"a": 1}});
    for (method, path, body, fields) in [
        ("PUT", BEAT, note, &["incarnation", "load", "health", "note"][..]),
        ("PUT", BEAT, json!({"load": -0.5}), &["load"]),
        ("POST", "/v1/heartbeats", json!({"instances": many}), &["instances"]),
        ("POST", "/v1/heartbeats", json!({"instances": 1}), &["instances"]),
        ("POST", "/v1/heartbeats", json!({}), &["instances"]),
        ("PATCH", ORDERS_1, patch, &["mode", "weight", "tags[0]", "metadata.a"]),
        ("PATCH", ORDERS_1, json!({}), &["(body)"]),
        ("POST", "/v1/register", json!({"id": "-"}), &["service_name", "id", "host", "port"]),
        ("PUT", ORDERS_1, phi(json!("phi"), json!(0.999)), &["phi_threshold"]),
        ("PUT", ORDERS_1, phi(json!("phi"), json!(16.001)), &["phi_threshold"]),
        ("PUT", ORDERS_1, phi(json!("phi"), json!("8")), &["phi_threshold"]),
        ("PUT", ORDERS_1, phi(json!("fixed"), json!(8)), &["phi_threshold"]),
        ("PUT", ORDERS_1, phi(json!(null), json!(8)), &["phi_threshold"]),
        (
            "PATCH",
            "/v1/services/orders/instances/orders-1?deadline=30s",
            json!({"weight": 1}),
            &["deadline"],
        ),
        ("PATCH", "/v1/services/orders/instances/orders-1?deadline=25h", drain, &["deadline"]),
    ] {
        let body = body.to_string();
        let answer = server.raw(&request(method, path, &[JSON], body.as_bytes())).await;
        assert_problem(&answer, 422, "invalid-fields", fields, &format!("{method} {path}"));
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}
