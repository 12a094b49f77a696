//! Who is called late, who is gone, when, and what the events say of it.

use serde_json::{Value, json};

use crate::harness::{Server, eventually};
use rollcall::domain::Millis;

async fn events(server: &Server, kind: &str, count: usize) -> Vec<Value> {
    let query =
        format!("SELECT data, cause, trace_id FROM events WHERE kind = '{kind}' ORDER BY seq");
    let rows = eventually(kind, async || server.sql(&query), |rows| rows.len() >= count).await;
    assert_eq!(rows.len(), count, "{rows:?}");
    rows.into_iter()
        .map(|row| {
            let mut data: Value = serde_json::from_str(row[0].as_str().unwrap()).unwrap();
            data["cause"] = row[1].clone();
            data
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_makes_unstable_then_gone_with_the_arithmetic() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.advance(3_000);
    let beat =
        server.send("PUT", "/v1/services/orders/instances/orders-1/heartbeat", &[], None).await;
    assert_eq!(beat.status, 200);

    server.advance(9_999);
    assert_eq!(server.status_of("orders", "orders-1").await.as_deref(), Some("healthy"));
    server.advance(1);
    let status = async || server.status_of("orders", "orders-1").await;
    eventually("two thirds have passed", status, |s| s.as_deref() == Some("unstable")).await;
    let (_, answer) = server.call("GET", "/v1/services/orders/instances", None).await;
    assert_eq!(
        (&answer["degraded"], answer["instances"].as_array().unwrap().len()),
        (&json!(true), 1)
    );

    server.advance(5_021);
    eventually("the ttl has passed", status, Option::is_none).await;
    let expired = &events(&server, "expired", 1).await[0];
    let span = &beat.header("traceresponse")[36..52];
    assert_eq!(expired["last_heartbeat"]["id"], "t1");
    assert_eq!(expired["last_heartbeat"]["span_id"], span);
    assert_eq!(expired["last_heartbeat"]["at"], "2026-11-21T08:00:03.000000Z");
    assert_eq!(
        (
            &expired["ttl"],
            &expired["gap_ms"],
            &expired["missed"],
            &expired["late_ms"],
            &expired["cause"]
        ),
        (&json!("15s"), &json!(15_021), &json!(4), &json!(21), &json!(3))
    );
    let (status, problem) = server.beat("orders", "orders-1").await;
    assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("/problems/unknown-instance")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_heartbeat_revives_and_is_answered_with_it() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.advance(10_000);
    let status = async || server.status_of("orders", "orders-1").await;
    eventually("late", status, |s| s.as_deref() == Some("unstable")).await;
    let (_, beat) = server.beat("orders", "orders-1").await;
    assert_eq!(beat["status"], "healthy", "answered after the change is published");
    let changes = events(&server, "status_changed", 2).await;
    let told: Vec<_> = changes.iter().map(|c| (c["to"].clone(), c["reason"].clone())).collect();
    assert_eq!(
        told,
        [(json!("unstable"), json!("late_heartbeat")), (json!("healthy"), json!("recovery"))]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_says_failing_is_offered_to_nobody_until_it_says_passing() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let path = "/v1/services/orders/instances/orders-1/heartbeat";
    for (health, status, offered) in [("failing", "failed", 0), ("passing", "healthy", 1)] {
        let body = json!({"health": health, "load": 0.5, "note": "disk \"full\""});
        let (_, beat) = server.call("PUT", path, Some(body)).await;
        assert_eq!(beat["status"], status);
        assert_eq!(server.offered("orders").await.len(), offered);
    }
    let silent = server.beat("orders", "orders-1").await.1;
    assert_eq!(silent["status"], "healthy");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_stopped_evicts_nobody() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "15s").await;
    server.clock.as_ref().unwrap().stall(Millis::from_millis(60_000));
    // Both have a whole ttl from now on; one of them uses it.
    for _ in 0..4 {
        server.advance(3_700);
        assert_eq!(server.beat("orders", "orders-1").await.0, 200);
    }
    let status = async || server.status_of("orders", "orders-2").await;
    eventually("the silent one is late", status, |s| s.as_deref() == Some("unstable")).await;
    assert_eq!(server.offered("orders").await, ["orders-1"]);
    server.advance(200);
    eventually("its grace is over", status, Option::is_none).await;
    let expired = &events(&server, "expired", 1).await[0];
    // 15 s of ttl, nothing late, and the minute that it stood still does not count.
    let sum = (&expired["gap_ms"], &expired["late_ms"], &expired["grace_ms"]);
    assert_eq!(sum, (&json!(75_000), &json!(0), &json!(60_000)));
    server.stop().await;
}
