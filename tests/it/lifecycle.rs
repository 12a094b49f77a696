//! The whole life of an instance, and that every step of it is one event with its trace.

use serde_json::{Value, json};

use crate::harness::{Server, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The rows of the log for one instance, once all traffic is in: (id, kind, caller, trace id).
async fn story(server: &Server, events: usize) -> Vec<Vec<Value>> {
    let query = "SELECT id, kind, caller, trace_id FROM events WHERE service = 'orders' \
                 ORDER BY seq, id LIKE 't%', CAST(trim(id, 't') AS INTEGER)";
    eventually("the story is in the log", async || server.sql(query), |rows| rows.len() == events)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_told_event_by_event() {
    let server = Server::start().await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("rollcall-caller", "deploy"), ("traceparent", traceparent.as_str())];
    let path = "/v1/services/orders/instances/orders-1";
    let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "15s", "tags": ["canary"],
                      "metadata": {"env": "prod"}, "version": "1.4.2", "zone": "eu-1a"});

    let created = server.send("PUT", path, &headers, Some(body)).await;
    assert_eq!(created.status, 201, "{}", created.text);
    // `started` and `recovered` are changes 1 and 2.
    assert_eq!(created.json["incarnation"], 3);
    assert_eq!(created.header("rollcall-seq"), "3");
    assert!(created.header("traceresponse").starts_with(&format!("00-{TRACE}-")));
    assert_eq!(created.json["registered_at"], "2026-11-21T08:00:00.000000Z");

    let list = "/v1/services/orders/instances";
    let found = server.send("GET", list, &[("rollcall-caller", "web/web-1")], None).await;
    assert_eq!((found.status.as_u16(), found.header("rollcall-seq")), (200, "3"));
    assert_eq!(found.json["instances"], json!([created.json]));
    let etag = found.header("etag").to_owned();
    let again = server.send("GET", list, &[("if-none-match", &etag)], None).await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));

    let (status, beat) = server.beat("orders", "orders-1").await;
    assert_eq!(status, 200);
    let expected =
        json!({"status": "healthy", "mode": "active", "ttl": "15s", "heartbeat_interval": "3.75s"});
    assert_eq!(beat, expected);

    let patch = server.send("PATCH", path, &headers, Some(json!({"mode": "draining"}))).await;
    assert_eq!((patch.status.as_u16(), &patch.json["mode"]), (200, &json!("draining")));
    assert_eq!(server.offered("orders").await, [""; 0], "a draining one is offered to nobody");
    let gone = server.send("DELETE", &format!("{path}?reason=scale-in"), &headers, None).await;
    assert_eq!((gone.status.as_u16(), gone.header("rollcall-seq")), (204, "5"));
    let (status, empty) = server.call("GET", list, None).await;
    assert_eq!((status.as_u16(), &empty["instances"]), (200, &json!([])));

    let rows = story(&server, 8).await;
    let kinds: Vec<&str> = rows.iter().map(|row| row[1].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "registered",
            "lookup",
            "lookup",
            "heartbeat",
            "mode_changed",
            "lookup",
            "deregistered",
            "lookup"
        ]
    );
    assert_eq!(rows[0], [json!("3"), json!("registered"), json!("deploy"), json!(TRACE)]);
    assert_eq!(rows[1][2], "web/web-1");
    let traced = rows.iter().all(|row| row[3].as_str().is_some_and(|id| id.len() == 32));
    assert!(traced, "every event has a trace: {rows:?}");

    let data = server.sql("SELECT data FROM events WHERE id IN ('5', 't2') ORDER BY id");
    let data: Vec<Value> =
        data.iter().map(|row| serde_json::from_str(row[0].as_str().unwrap()).unwrap()).collect();
    assert_eq!(data[0], json!({"reason": "scale-in"}));
    assert_eq!(data[1], json!({"filter": "", "revision": 3, "returned": 0, "status": 304}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_names_the_span_that_the_event_holds() {
    let server = Server::start().await;
    let body = json!({"address": "10.0.0.7", "port": 8080});
    let path = "/v1/services/orders/instances/orders-1";
    let created = server.send("PUT", path, &[], Some(body)).await;
    let looked = server.send("GET", "/v1/services/orders/instances?tag=x", &[], None).await;
    for (answer, kind) in [(created, "registered"), (looked, "lookup")] {
        let query = format!("SELECT trace_id, span_id FROM events WHERE kind = '{kind}'");
        let rows =
            eventually("the event is there", async || server.sql(&query), |r| !r.is_empty()).await;
        let (trace, span) = (rows[0][0].as_str().unwrap(), rows[0][1].as_str().unwrap());
        let told = answer.header("traceresponse").to_owned();
        assert!(told.starts_with(&format!("00-{trace}-{span}-")), "{told} is not {trace} {span}");
    }
    server.stop().await;
}
