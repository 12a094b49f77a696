//! Who takes part: instances that stand by, that drain, and whose drain has an end.

use serde_json::{Value, json};

use crate::harness::{Server, eventually};

const PATH: &str = "/v1/services/orders/instances/orders-1";

/// The newest event of a kind, as the API gives it.
async fn event(server: &Server, kind: &str) -> Value {
    let path = format!("/v1/events?kind={kind}&order=desc&limit=1");
    server.call("GET", &path, None).await.1["events"][0].clone()
}

/// Lets time pass in which `orders-1` sends heartbeats.
async fn pass_alive(server: &Server, mut left: u64) {
    while left > 0 {
        let step = left.min(5_000);
        assert_eq!(server.beat("orders", "orders-1").await.0, 200);
        server.advance(step);
        left -= step;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_offered_to_nobody_and_ends_at_its_deadline() {
    let server = Server::start().await;
    let born = server.register("orders", "orders-1", "15s").await;
    assert_eq!(born.get("drain_until"), None, "only those have one whose drain ends");
    server.register("orders", "orders-2", "24h").await;
    let path = format!("{PATH}?deadline=30s");
    let drain = Some(json!({"mode": "draining"}));
    let drained = server.send("PATCH", &path, &[("rollcall-caller", "operator")], drain).await;
    assert_eq!(drained.status, 200, "{}", drained.text);
    assert_eq!(drained.json["drain_until"], "2026-11-21T08:00:30.000000Z");
    assert_eq!(server.offered("orders").await, ["orders-2"]);
    let began = event(&server, "mode_changed").await;
    assert_eq!(
        (&began["caller"], &began["data"]),
        (
            &json!("operator"),
            &json!({"from": "active", "to": "draining", "until": "2026-11-21T08:00:30.000000Z"})
        )
    );

    // Its heartbeats go on, and its process may start anew: neither undoes what an operator said.
    pass_alive(&server, 10_000).await;
    let again = server.register("orders", "orders-1", "15s").await;
    assert_eq!(
        (&again["mode"], &again["drain_until"]),
        (&json!("draining"), &drained.json["drain_until"])
    );
    pass_alive(&server, 19_999).await;
    let status = async || server.status_of("orders", "orders-1").await;
    assert_eq!(status().await.as_deref(), Some("healthy"), "a millisecond before");
    server.advance(1);
    eventually("the drain has ended", status, Option::is_none).await;

    let left = event(&server, "deregistered").await;
    assert_eq!((&left["cause"], &left["caller"]), (&began["seq"], &Value::Null), "{left}");
    let reason = left["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("drain ended"), "{reason}");
    assert!(left["trace_id"].is_string(), "{left}");
    let (_, why) = server.call("GET", &format!("{PATH}/why"), None).await;
    assert!(why["summary"].as_str().unwrap().contains("drain ended"), "{why}");
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_expiries_total", &["reason=\"drained\""]), 1.0);
    assert_eq!(server.beat("orders", "orders-1").await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_undone_has_no_end() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let drain = Some(json!({"mode": "draining"}));
    let until = format!("{PATH}?deadline=2026-11-21T08:00:20Z");
    assert_eq!(server.call("PATCH", &until, drain.clone()).await.0, 200);
    let (_, undone) = server.call("PATCH", PATH, Some(json!({"mode": "active"}))).await;
    assert_eq!((undone["mode"].as_str(), undone.get("drain_until")), (Some("active"), None));
    assert_eq!(event(&server, "mode_changed").await["data"]["until"], Value::Null);
    // Drained once more, without an end.
    let (_, drained) = server.call("PATCH", PATH, drain).await;
    assert_eq!(drained.get("drain_until"), None);
    pass_alive(&server, 60_000).await;
    assert_eq!(server.status_of("orders", "orders-1").await.as_deref(), Some("healthy"));
    assert_eq!(server.page().await.sum("rollcall_expiries_total", &[]), 0.0);
    server.stop().await;
}

/// Says of an instance how it is, by a heartbeat of its own.
async fn says(server: &Server, instance: &str, health: &str) {
    let path = format!("/v1/services/orders/instances/{instance}/heartbeat");
    assert_eq!(server.call("PUT", &path, Some(json!({"health": health}))).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_is_offered_when_no_active_one_is_healthy() {
    let server = Server::start().await;
    for (instance, mode) in
        [("active-1", "active"), ("drained", "draining"), ("standby-1", "standby")]
    {
        let path = format!("/v1/services/orders/instances/{instance}");
        let body = json!({"address": "10.0.0.7", "port": 8080, "mode": mode});
        assert_eq!(server.call("PUT", &path, Some(body)).await.0, 201);
    }
    assert_eq!(server.offered("orders").await, ["active-1"]);
    // The active one is late: a healthy standby goes before an unstable active one.
    server.advance(9_000);
    for instance in ["standby-1", "drained"] {
        assert_eq!(server.beat("orders", instance).await.0, 200);
    }
    server.advance(1_000);
    let offered = async || server.offered("orders").await;
    eventually("the standby takes over", offered, |offered| offered == &["standby-1"]).await;
    says(&server, "standby-1", "failing").await;
    let (_, answer) = server.call("GET", "/v1/services/orders/instances", None).await;
    assert_eq!(
        (&answer["degraded"], &answer["instances"][0]["instance"]),
        (&json!(true), &json!("active-1"))
    );
    // Rather nobody than one that drains or that says itself that it is failing.
    says(&server, "active-1", "failing").await;
    assert_eq!(server.offered("orders").await, Vec::<String>::new());
    let (_, drained) =
        server.call("GET", "/v1/services/orders/instances?mode=draining", None).await;
    assert_eq!(drained["instances"].as_array().unwrap().len(), 1, "who asks by name finds it");
    says(&server, "active-1", "passing").await;
    assert_eq!(server.offered("orders").await, ["active-1"]);
    server.stop().await;
}
