//! What is counted: exactly what happened, under labels that stay few whatever comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollcall::config::Synchronous;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Options, Page, Server, eventually};

const LIST: &str = "/v1/services/{service}/instances";
const INSTANCE: &str = "/v1/services/{service}/instances/{instance}";
const BEAT: &str = "/v1/services/{service}/instances/{instance}/heartbeat";
const REQUESTS: &str = "http_server_request_duration_seconds";

/// The labels of a series, in their order; no value of this registry holds a comma or a quote.
fn labels(series: &str) -> Vec<(&str, &str)> {
    let (_, inside) = series.split_once('{').unwrap_or((series, "}"));
    let pairs = inside.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k, v.trim_matches('"'))).collect()
}

fn label<'a>(series: &'a str, key: &str) -> &'a str {
    labels(series).into_iter().find(|(known, _)| *known == key).map_or("", |(_, value)| value)
}

/// Requests by method, route and status; those that there were none of are left out.
fn requests(page: &Page) -> BTreeMap<String, f64> {
    let count = format!("{REQUESTS}_count{{");
    page.series()
        .filter(|(series, times)| series.starts_with(&count) && *times > 0.0)
        .map(|(series, count)| {
            let [method, route, status] =
                ["http_request_method", "http_route", "http_response_status_code"]
                    .map(|key| label(series, key));
            (format!("{method} {route} {status}"), count)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_once_where_it_belongs() {
    let server = Server::start().await;
    let orders = "/v1/services/orders/instances";
    let body = json!({"address": "10.0.0.7", "port": 8080});
    let mut expected: BTreeMap<String, f64> = BTreeMap::new();
    for (times, method, path, body, route, status) in [
        (1, "PUT", format!("{orders}/a"), body.clone(), INSTANCE, 201),
        (3, "PUT", format!("{orders}/a"), body.clone(), INSTANCE, 200),
        (2, "PUT", format!("{orders}/a"), json!({}), INSTANCE, 422),
        (7, "GET", orders.into(), Value::Null, LIST, 200),
        (5, "GET", format!("{orders}?tag=x"), Value::Null, LIST, 200),
        (4, "GET", "/v1/services/nobody/instances".into(), Value::Null, LIST, 404),
        (2, "GET", format!("{orders}/a"), Value::Null, INSTANCE, 200),
        (2, "GET", format!("{orders}/b"), Value::Null, INSTANCE, 404),
        (6, "PUT", format!("{orders}/a/heartbeat"), Value::Null, BEAT, 200),
        (2, "PUT", format!("{orders}/b/heartbeat"), Value::Null, BEAT, 404),
        (2, "PATCH", format!("{orders}/a"), json!({"weight": 1}), INSTANCE, 200),
        (1, "PATCH", format!("{orders}/a"), json!({"mode": "standby"}), INSTANCE, 200),
        (3, "POST", orders.into(), Value::Null, LIST, 405),
        (3, "GET", "/some/path".into(), Value::Null, "_unmatched", 404),
        (1, "BREW", "/some/pot".into(), Value::Null, "_unmatched", 404),
        (2, "GET", "/v1/services".into(), Value::Null, "/v1/services", 200),
        (1, "DELETE", format!("{orders}/a"), Value::Null, INSTANCE, 204),
        (1, "GET", orders.into(), Value::Null, LIST, 200),
        (4, "GET", "/livez".into(), Value::Null, "/livez", 200),
    ] {
        for _ in 0..times {
            let body = (!body.is_null()).then(|| body.clone());
            let answer = server.call(method, &path, body).await;
            assert_eq!(answer.0, status, "{method} {path}: {}", answer.1);
        }
        let method = if method == "BREW" { "_OTHER" } else { method };
        *expected.entry(format!("{method} {route} {status}")).or_default() += f64::from(times);
    }
    let page = server.page().await;
    assert_eq!(requests(&page), expected);
    let all: f64 = expected.values().sum();
    let bucket = format!("{REQUESTS}_bucket");
    assert_eq!(page.sum(&bucket, &["le=\"+Inf\""]), all, "every duration fell into a bucket");
    // Known at the head of a request, so that the scrape itself is among them.
    assert_eq!(page.sum("rollcall_trace_context_total", &["result=\"absent\""]), all + 1.0);
    assert_eq!(page.sum("http_server_active_requests", &[]), 1.0, "this one");

    // What the log holds is what was counted. Refused requests are in neither.
    let stored = "SELECT kind, count(*) FROM events GROUP BY kind";
    let lookups = 7 + 5 + 4 + 2 + 2 + 2 + 1;
    let both = async || {
        let rows = server.sql(stored).into_iter();
        let rows: BTreeMap<String, f64> = rows
            .map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_f64().unwrap()))
            .collect();
        let page = server.page().await;
        let counted =
            page.series().filter(|(series, _)| series.starts_with("rollcall_events_total"));
        let mut kinds: BTreeMap<String, f64> = BTreeMap::new();
        for (series, count) in counted.filter(|(_, count)| *count > 0.0) {
            *kinds.entry(label(series, "kind").to_owned()).or_default() += count;
        }
        (rows, kinds)
    };
    let (rows, _) = eventually("all is in the log", both, |(rows, kinds)| {
        rows.get("lookup") == Some(&f64::from(lookups)) && rows == kinds
    })
    .await;
    for (kind, count) in [
        ("registered", 4.0),
        ("heartbeat", 6.0),
        ("updated", 2.0),
        ("mode_changed", 1.0),
        ("deregistered", 1.0),
        ("recovered", 1.0),
    ] {
        assert_eq!(rows.get(kind), Some(&count), "{kind}: {rows:?}");
    }
    let page = server.page().await;
    for (outcome, count) in [("created", 1.0), ("unchanged", 3.0), ("replaced", 0.0)] {
        let labels = ["kind=\"registered\"", &*format!("outcome=\"{outcome}\"")];
        assert_eq!(page.sum("rollcall_events_total", &labels), count, "{outcome}");
    }
    // The first gap is counted from the registration on.
    assert_eq!(page.sum("rollcall_heartbeat_gap_ratio_count", &[]), 6.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_are_told_apart_by_what_they_found() {
    let server = Server::start().await;
    let orders = "/v1/services/orders/instances";
    server.register("orders", "a", "15s").await;
    let found = server.send("GET", orders, &[], None).await;
    let held = [("if-none-match", found.header("etag"))];
    for _ in 0..2 {
        assert_eq!(server.send("GET", orders, &held, None).await.status, 304);
    }
    server.call("GET", &format!("{orders}?zone=none"), None).await;
    server.call("GET", "/v1/services/nobody/instances", None).await;
    server.call("GET", &format!("{orders}/b"), None).await;
    server.call("GET", &format!("{orders}?limit=1"), None).await;
    server.advance(10_000);
    let late = async || server.page().await.sum("rollcall_heartbeats_late_total", &[]);
    eventually("two thirds have passed", late, |late| *late == 1.0).await;
    let (_, degraded) = server.call("GET", orders, None).await;
    assert_eq!(degraded["degraded"], true);
    server.beat("orders", "a").await;

    let page = server.page().await;
    for (outcome, count) in [
        ("hit", 1.0),
        ("not_modified", 2.0),
        ("empty", 1.0),
        ("unknown", 2.0),
        ("degraded", 1.0),
        ("error", 0.0),
    ] {
        let labels = [&*format!("outcome=\"{outcome}\"")];
        assert_eq!(page.sum("rollcall_lookups_total", &labels), count, "{outcome}");
    }
    for (outcome, count) in [("unstable", 1.0), ("revived", 1.0)] {
        let labels = [&*format!("outcome=\"{outcome}\"")];
        assert_eq!(page.sum("rollcall_heartbeats_late_total", &labels), count, "{outcome}");
    }
    server.advance(15_000);
    let expired = async || server.page().await.sum("rollcall_expiries_total", &[]);
    eventually("it is gone", expired, |expired| *expired == 1.0).await;
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_expiry_lateness_seconds_count", &[]), 1.0);
    assert_eq!(page.sum("rollcall_service_instances", &["service=\"orders\""]), 0.0);
    server.stop().await;
}

const SERVICES: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_services_make_few_series() {
    let options = Options {
        system_clock: true,
        settings: Some(|settings| settings.synchronous = Synchronous::Normal),
        ..Options::default()
    };
    let server = Arc::new(Server::start_with(options).await);
    let mut clients = JoinSet::new();
    for client in 0..100 {
        let server = Arc::clone(&server);
        clients.spawn(async move {
            let caller = format!("caller-{client}");
            let headers = [("rollcall-caller", caller.as_str())];
            for number in (client..SERVICES).step_by(100) {
                let path = format!("/v1/services/service-{number}/instances/instance-{number}");
                let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m",
                                  "tags": ["tag-1"], "metadata": {"key-1": "value-1"}});
                assert_eq!(server.send("PUT", &path, &headers, Some(body)).await.status, 201);
            }
            for path in [
                format!("/v1/services/service-{client}/instances?tag=tag-1"),
                format!("/v1/services/unknown-{client}/instances"),
                format!("/raw-path-{client}/x?query-{client}=1"),
            ] {
                server.send("GET", &path, &headers, None).await;
            }
        });
    }
    clients.join_all().await;
    let gauges = async || server.page().await;
    let page = eventually("the gauges were read off", gauges, |page| {
        page.sum("rollcall_services", &[]) == SERVICES as f64
    })
    .await;
    let count = page.series().count();
    assert!(count <= 5_000, "{count} series");

    let mut services = BTreeSet::new();
    let keys: BTreeSet<&str> =
        page.series().flat_map(|(series, _)| labels(series)).map(|(key, _)| key).collect();
    for (series, _) in page.series() {
        for (key, value) in labels(series) {
            match key {
                "service" => {
                    services.insert(value);
                }
                _ => assert!(!value.contains("service-"), "{series}"),
            }
            for foreign in
                ["instance-", "caller-", "unknown-", "raw-path", "query-", "tag-", "10.0.0"]
            {
                assert!(!value.contains(foreign), "{foreign} in {series}");
            }
        }
    }
    assert_eq!(services.len(), 201, "those that have a series, and the rest under one");
    assert!(
        !keys.contains("instance") && !keys.contains("job"),
        "the scrape gives these: {keys:?}"
    );
    let instances = |labels: &[&str]| page.sum("rollcall_service_instances", labels);
    assert_eq!(instances(&["service=\"_other\"", "healthy"]), (SERVICES - 200) as f64);
    assert_eq!(instances(&[]), SERVICES as f64);
    assert_eq!(page.sum("rollcall_instances", &[]), SERVICES as f64);
    Arc::into_inner(server).unwrap().stop().await;
}
