//! Who looks up whom: the counts are those of what was driven, in every form and for every stretch of time.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::{START, Server, eventually};

/// What was driven: when, by whom, for which service, whether it was refused.
type Driven = (u64, &'static str, &'static str, bool);

const CALLERS: [&str; 5] = ["web/web-1", "web/web-2", "orders/orders-1", "curl", "nightly"];
const SERVICES: [&str; 4] = ["orders", "web", "carts", "ghost"];

fn instant(millis: u64) -> String {
    let micros = START.0 + i64::try_from(millis).unwrap() * 1_000;
    rollcall::rfc3339::format(rollcall::domain::Timestamp(micros))
}

/// The edges that follow from what was driven from `since` to `until`.
fn expected(driven: &[Driven], since: u64, until: u64) -> Value {
    let mut edges: BTreeMap<(String, String), (u64, u64, u64)> = BTreeMap::new();
    for (at, caller, service, refused) in driven {
        if (since..=until).contains(at) {
            let name = caller.split('/').next().unwrap();
            let from = if SERVICES[..3].contains(&name) { "default/" } else { "" };
            let key = (format!("{from}{name}"), format!("default/{service}"));
            let (lookups, failed, last) = edges.entry(key).or_default();
            *lookups += 1;
            *failed += u64::from(*refused);
            *last = (*last).max(*at);
        }
    }
    let rounded = |number: f64| (number * 1e6).round() / 1e6;
    let edges: Vec<Value> = edges
        .into_iter()
        .map(|((from, to), (lookups, failed, last))| {
            let rate = lookups as f64 / (((until - since) as f64) / 1e3);
            json!({
                "from": from, "to": to, "lookups": lookups, "rate": rounded(rate),
                "failed": rounded(failed as f64 / lookups as f64), "last": instant(last),
            })
        })
        .collect();
    edges.into()
}

/// The edges of an answer, as far as [`expected`] has them, in its order.
fn edges(graph: &Value) -> Value {
    let mut edges: Vec<Value> = graph["edges"].as_array().unwrap().clone();
    for edge in &mut edges {
        let edge = edge.as_object_mut().unwrap();
        assert!(edge["from"].as_str().unwrap().ends_with(edge["caller"].as_str().unwrap()));
        assert!(edge["to"].as_str().unwrap().ends_with(edge["service"].as_str().unwrap()));
        edge.retain(|name, _| !["caller", "service", "namespace"].contains(&name.as_str()));
    }
    edges.sort_by_key(|edge| (edge["from"].to_string(), edge["to"].to_string()));
    edges.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_counts_what_was_driven() {
    let server = Server::start().await;
    let mut rng = Rng::with_seed(8);
    for service in &SERVICES[..3] {
        server.register(service, &format!("{service}-1"), "24h").await;
    }
    let (mut driven, mut elapsed, mut events) = (Vec::<Driven>::new(), 0, 0);
    for _ in 0..400 {
        if rng.u8(..3) == 0 {
            let millis = rng.u64(..4_000);
            elapsed += millis;
            server.advance(millis);
        }
        let caller = CALLERS[rng.usize(..CALLERS.len())];
        let service = SERVICES[rng.usize(..SERVICES.len())];
        let (path, about_service) = match rng.u8(..8) {
            0 => (format!("/v1/services/{service}/instances/{service}-1"), true),
            1 => (format!("/v1/services/{service}/instances/nobody"), true),
            2 => ("/v1/services".to_owned(), false),
            3 => ("/v1/sd/prometheus".to_owned(), false),
            4 => (format!("/v1/services/{service}/instances?tag=none"), true),
            _ => (format!("/v1/services/{service}/instances"), true),
        };
        let answer = server.send("GET", &path, &[("rollcall-caller", caller)], None).await;
        events += 1;
        if about_service {
            driven.push((elapsed, caller, service, answer.status.as_u16() >= 400));
        }
        // A heartbeat is no edge.
        if rng.u8(..4) == 0 && server.beat("orders", "orders-1").await.0 == 200 {
            events += 1;
        }
    }
    // Minutes lie within, at the edges, and none at all.
    assert!(elapsed > 200_000, "{elapsed} ms");
    let status = async || server.call("GET", "/v1/status", None).await.1["traffic_head"].clone();
    eventually("all traffic is in the log", status, |head| *head == json!(events)).await;

    for (since, until) in
        [(0, elapsed), (500, elapsed), (61_000, 185_500), (60_000, 180_000), (70_000, 90_000)]
    {
        let path = format!("/v1/graph?since={}&until={}", instant(since), instant(until));
        let (status, graph) = server.call("GET", &path, None).await;
        assert_eq!((status.as_u16(), &graph["complete"]), (200, &json!(true)), "{graph}");
        assert_eq!(edges(&graph), expected(&driven, since, until), "{since} to {until}");
    }

    let (_, graph) = server.call("GET", "/v1/graph", None).await;
    let node = |id: &str| {
        let nodes = graph["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["id"] == id).unwrap();
        (node["kind"].as_str().unwrap().to_owned(), node["instances"].as_u64().unwrap())
    };
    assert_eq!(
        node("default/web"),
        ("service".to_owned(), 2),
        "two instances asked as one service"
    );
    assert_eq!(node("default/carts"), ("service".to_owned(), 0));
    assert_eq!(node("default/ghost"), ("unknown".to_owned(), 0));
    assert_eq!(node("curl"), ("caller".to_owned(), 0));
    let (_, other) = server.call("GET", "/v1/graph?namespace=shop", None).await;
    assert_eq!(other["edges"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_is_a_picture_too() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let path = "/v1/services/orders/instances";
    server.send("GET", path, &[("rollcall-caller", "web")], None).await;
    let status = async || server.call("GET", "/v1/status", None).await.1["traffic_head"].clone();
    eventually("the lookup is in the log", status, |head| *head == json!(1)).await;

    let dot = server.send("GET", "/v1/graph?format=dot", &[], None).await;
    assert_eq!(dot.header("content-type"), "text/vnd.graphviz; charset=utf-8");
    assert!(
        dot.text.contains("  \"web\" -> \"default/orders\" [label=\"1 lookup, "),
        "{}",
        dot.text
    );
    let chart = server.send("GET", "/v1/graph?format=mermaid", &[], None).await;
    assert_eq!(chart.header("content-type"), "text/plain; charset=utf-8");
    assert!(chart.text.starts_with("graph LR\n") && chart.text.contains("([\"web\"])"));
    let taken = server.send("GET", "/v1/graph", &[("accept", "text/vnd.graphviz")], None).await;
    assert_eq!(taken.text, dot.text);

    for (query, status, field) in [
        ("since=yesterday", 400, "since"),
        ("until=@9999", 422, "until"),
        ("since=-1m&until=-2m", 422, "since"),
        ("format=svg", 400, "format"),
        ("namespace=a/b", 422, "namespace"),
    ] {
        let (found, problem) = server.call("GET", &format!("/v1/graph?{query}"), None).await;
        assert_eq!((found.as_u16(), &problem["errors"][0]["field"]), (status, &json!(field)));
    }
    let refused = server.send("GET", "/v1/graph", &[("accept", "image/png")], None).await;
    assert_eq!(refused.status, 406);
    server.stop().await;
}
