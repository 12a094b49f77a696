//! The adaptive detector over sockets: what it learns, when it decides, and how it says why.

use serde_json::{Value, json};

use crate::harness::{Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";

async fn register(server: &Server, instance: &str, more: Value) -> Value {
    let mut body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "15s"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = server.call("PUT", &format!("{ORDERS}/{instance}"), Some(body)).await;
    assert!(status.is_success(), "{answer}");
    answer
}

/// So many heartbeats of all of them, as often as the answers recommend.
async fn beats(server: &Server, instances: &[&str], count: usize) {
    for _ in 0..count {
        server.advance(3_750);
        for instance in instances {
            assert_eq!(server.beat("orders", instance).await.0, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_detector_is_chosen_by_each_registration() {
    let server = Server::start().await;
    let fixed = register(&server, "fixed", json!({})).await;
    assert_eq!((fixed.get("detector"), fixed.get("phi_threshold")), (None, None));
    assert_eq!(register(&server, "fixed", json!({"detector": "fixed"})).await, fixed);
    let phi = register(&server, "phi", json!({"detector": "phi"})).await;
    assert_eq!((&phi["detector"], &phi["phi_threshold"]), (&json!("phi"), &json!(8.0)));
    let changed = register(&server, "phi", json!({"detector": "phi", "phi_threshold": 1.5})).await;
    assert_eq!(changed["phi_threshold"], 1.5);
    assert_eq!(changed["incarnation"], phi["incarnation"]);
    assert!(changed["revision"].as_u64() > phi["revision"].as_u64(), "that is a change");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regular_sender_is_missed_sooner_and_the_event_says_how() {
    let server = Server::start().await;
    register(&server, "fixed", json!({})).await;
    register(&server, "phi", json!({"detector": "phi"})).await;
    let one = async |id: &str| server.call("GET", &format!("{ORDERS}/{id}"), None).await.1;
    // As long as it knows too few gaps, the fixed rule holds.
    beats(&server, &["fixed", "phi"], 9).await;
    assert_eq!(one("phi").await["lease"].get("phi"), None);
    assert_eq!(one("phi").await["lease"]["expires_in_ms"], 15_000);
    beats(&server, &["fixed", "phi"], 10).await;
    let lease = &one("phi").await["lease"];
    assert_eq!((&lease["mean_gap_ms"], &lease["expires_in_ms"]), (&json!(3_750), &json!(9_605)));
    assert_eq!(one("fixed").await["lease"]["expires_in_ms"], 15_000);

    server.advance(5_854);
    assert_eq!(one("phi").await["status"], "healthy");
    server.advance(1);
    let status = async || server.status_of("orders", "phi").await;
    eventually("one is missing", status, |status| status.as_deref() == Some("unstable")).await;
    let late = one("phi").await;
    assert_eq!(late["lease"]["signals"]["late"], true);
    assert!(late["lease"]["phi"].as_f64().unwrap() >= 8.0, "{late}");
    server.advance(3_750);
    eventually("the next one is missing, too", status, Option::is_none).await;
    assert_eq!(server.status_of("orders", "fixed").await.as_deref(), Some("healthy"));

    let (_, events) = server.call("GET", "/v1/events?kind=expired", None).await;
    let data = &events["events"][0]["data"];
    let told = [&data["gap_ms"], &data["mean_gap_ms"], &data["missed"], &data["late_ms"]];
    assert_eq!(told, [9_605, 3_750, 2, 0], "{data}");
    assert_eq!((&data["ttl"], &data["threshold"]), (&json!("15s"), &json!(8.0)));
    // 15.6 deviations above the mean.
    assert!((data["phi"].as_f64().unwrap() - 54.6).abs() < 0.5, "{data}");
    let (_, why) = server.call("GET", &format!("{ORDERS}/phi/why"), None).await;
    let summary = why["summary"].as_str().unwrap();
    for part in ["φ", "threshold of 8", "3.75 s apart", "ttl 15 s"] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    server.stop().await;
}
