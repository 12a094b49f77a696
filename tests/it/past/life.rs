//! The lives of an instance, and why it left.

use serde_json::{Value, json};

use crate::collector::{Behaviour, Collector};
use crate::harness::{Options, Server, eventually};

const PATH: &str = "/v1/services/orders/instances/orders-1";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn send(server: &Server, method: &str, path: &str, body: Option<Value>) -> Value {
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("rollcall-caller", "admin/cli"), ("traceparent", traceparent.as_str())];
    let answer = server.send(method, path, &headers, body).await;
    assert!(answer.status.is_success(), "{method} {path}: {}", answer.text);
    answer.json
}

async fn register(server: &Server, address: &str) -> Value {
    let body = json!({"address": address, "port": 8080, "ttl": "15s"});
    send(server, "PUT", PATH, Some(body)).await
}

async fn beat(server: &Server) {
    send(server, "PUT", &format!("{PATH}/heartbeat"), None).await;
}

/// Waits until the registrar has seen that time has passed.
async fn until(server: &Server, status: Option<&str>) {
    let ask = async || server.status_of("orders", "orders-1").await;
    eventually("the status", ask, |found| found.as_deref() == status).await;
}

async fn traffic_is_in(server: &Server, heartbeats: usize) {
    let query = "SELECT id FROM events WHERE kind = 'heartbeat'";
    eventually("traffic", async || server.sql(query).len(), |found| *found == heartbeats).await;
}

async fn history(server: &Server, query: &str) -> Value {
    let answer = server.send("GET", &format!("{PATH}/history{query}"), &[], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn why(server: &Server, query: &str) -> Value {
    let answer = server.send("GET", &format!("{PATH}/why{query}"), &[], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// A server on which `orders-1` had four lives: deregistered, expired, replaced, and one that goes on.
async fn four_lives(collector: &Collector) -> Server {
    fn trace_url(settings: &mut rollcall::config::Settings) {
        settings.trace_url = "http://jaeger/{trace_id}?uiFind={span_id}".into();
    }
    let otlp = Some(collector.url.clone());
    let server =
        Server::start_with(Options { settings: Some(trace_url), otlp, ..Options::default() }).await;
    register(&server, "10.0.0.7").await;
    for millis in [4_000, 4_000, 9_000, 3_000, 8_000] {
        server.advance(millis);
        beat(&server).await;
    }
    register(&server, "10.0.0.7").await;
    send(&server, "PATCH", PATH, Some(json!({"weight": 7}))).await;
    server.advance(2_000);
    send(&server, "DELETE", &format!("{PATH}?reason=scale-in"), None).await;

    server.advance(60_000);
    register(&server, "10.0.0.7").await;
    server.advance(10_000);
    until(&server, Some("unstable")).await;
    beat(&server).await;
    server.advance(10_000);
    until(&server, Some("unstable")).await;
    server.advance(5_021);
    until(&server, None).await;

    register(&server, "10.0.0.7").await;
    server.advance(2_000);
    register(&server, "10.0.0.8").await;
    traffic_is_in(&server, 6).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_are_told_with_their_transitions_and_gaps() {
    let collector = Collector::start(Behaviour::Takes).await;
    let server = four_lives(&collector).await;
    let told = history(&server, "").await;
    let lives = told["lives"].as_array().unwrap();
    let kinds = |life: &Value| -> Vec<String> {
        let transitions = life["transitions"].as_array().unwrap().iter();
        transitions
            .map(|event| format!("{} {}", event["id"], event["kind"]).replace('"', ""))
            .collect()
    };
    assert_eq!(
        lives.iter().map(kinds).collect::<Vec<_>>(),
        [
            // Change 4 is the registration that changed nothing: a sign of life, no transition.
            &["3 registered", "5 updated", "6 deregistered"][..],
            &[
                "7 registered",
                "8 status_changed",
                "9 status_changed",
                "10 status_changed",
                "11 expired"
            ],
            &["12 registered"],
            &["13 registered"],
        ]
    );
    let incarnations: Vec<u64> = lives.iter().map(|l| l["incarnation"].as_u64().unwrap()).collect();
    assert_eq!(incarnations, [3, 7, 12, 13]);
    let ends: Vec<String> = lives.iter().map(|life| life["ended_by"]["id"].to_string()).collect();
    assert_eq!(ends, ["\"6\"", "\"11\"", "\"13\"", "null"]);
    assert_eq!(
        (&lives[0]["from"], &lives[0]["until"], &lives[3]["until"]),
        (
            &json!("2026-11-21T08:00:00.000000Z"),
            &json!("2026-11-21T08:00:30.000000Z"),
            &Value::Null
        )
    );
    let gaps = |life: &Value| -> Vec<(String, u64)> {
        let gaps = life["widest_gaps"].as_array().unwrap().iter();
        gaps.map(|gap| {
            (gap["at"].as_str().unwrap()[17..19].into(), gap["gap_ms"].as_u64().unwrap())
        })
        .collect()
    };
    let of = |gaps: &[(&str, u64)]| -> Vec<(String, u64)> {
        gaps.iter().map(|(at, gap)| ((*at).to_owned(), *gap)).collect()
    };
    assert_eq!(
        gaps(&lives[0]),
        of(&[("17", 9_000), ("28", 8_000), ("04", 4_000), ("08", 4_000), ("20", 3_000)])
    );
    assert_eq!(
        gaps(&lives[1]),
        of(&[("55", 15_021), ("40", 10_000)]),
        "the silence in which it expired is one of them"
    );
    assert_eq!(lives[1]["widest_gaps"][0]["ended_by"], "expired");
    // Three returns and a recovery within two minutes: more than the limit.
    assert_eq!(told["flap_score"], 1.0);
    assert_eq!((&told["complete"], &told["gaps_exact_since"]), (&json!(true), &Value::Null));
    assert_eq!(told["left_out"], json!({"lives": 0, "transitions": 0}));

    let newest = history(&server, "?limit=2").await;
    let lives = newest["lives"].as_array().unwrap();
    assert_eq!(lives.iter().map(kinds).collect::<Vec<_>>(), [["12 registered"], ["13 registered"]]);
    assert_eq!(newest["left_out"], json!({"lives": 2, "transitions": 8}));
    server.advance(3_600_000);
    let score = history(&server, "").await["flap_score"].as_f64().unwrap();
    assert!(score > 0.0 && score < 0.2, "{score}: four half-lives later");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sentence_tells_who_when_and_by_which_arithmetic() {
    let collector = Collector::start(Behaviour::Takes).await;
    let server = four_lives(&collector).await;
    let told = why(&server, "?seq=6").await;
    assert_eq!(
        told["summary"],
        "orders-1 was deregistered at 2026-11-21 08:00:30.000 UTC by admin/cli: scale-in; it had lived 30 s"
    );
    assert_eq!(
        (&told["event"]["id"], &told["event"]["caller"]),
        (&json!("6"), &json!("admin/cli"))
    );
    assert!(
        told["trace_url"].as_str().unwrap().starts_with(&format!("http://jaeger/{TRACE}?uiFind="))
    );
    assert_eq!((&told["last_heartbeat"]["id"], &told["arithmetic"]), (&json!("t5"), &Value::Null));
    assert_eq!(told["registration"]["event"]["id"], "3");
    assert_eq!(told["instance"]["weight"], 7, "as it last was");

    let told = why(&server, "?incarnation=7").await;
    assert_eq!(
        told["summary"],
        format!(
            "orders-1 expired at 2026-11-21 08:01:55.021 UTC: no heartbeat for 15.02 s (ttl 15 s, seen 21 ms later); \
             the last one came at 2026-11-21 08:01:40.000 UTC in trace {TRACE}; it had lived 25.02 s"
        )
    );
    assert_eq!(
        told["arithmetic"],
        json!({"ttl": "15s", "gap_ms": 15_021, "allowed_ms": 15_000, "late_ms": 21, "grace_ms": 0, "missed": 4})
    );
    assert_eq!(told["life"]["until"], "2026-11-21T08:01:55.021000Z");
    let heartbeat = &told["last_heartbeat"];
    let beats =
        server.sql("SELECT id FROM events WHERE kind = 'heartbeat' ORDER BY at DESC LIMIT 1");
    assert_eq!((&heartbeat["id"], &heartbeat["trace_id"]), (&beats[0][0], &json!(TRACE)));
    let link = |of: &Value| of["trace_url"].as_str().unwrap().starts_with("http://jaeger/4bf9");
    assert!(link(heartbeat) && link(&told["registration"]), "{told}");
    let path = format!("/v1/events/{}", told["event"]["id"].as_str().unwrap());
    let expired = server.call("GET", &path, None).await.1;
    assert_eq!(expired["last_heartbeat_trace_url"], heartbeat["trace_url"], "{expired}");
    assert_eq!(told["complete"], true);

    let told = why(&server, "?seq=13").await;
    assert_eq!(
        told["summary"],
        "orders-1 was replaced at 2026-11-21 08:01:57.021 UTC by admin/cli, who registered it at 10.0.0.8:8080 instead of \
         10.0.0.7:8080; the life before had lasted 2 s"
    );
    assert_eq!((&told["life"]["incarnation"], &told["last_heartbeat"]), (&json!(12), &Value::Null));

    server.advance(1_500);
    let told = why(&server, "").await;
    assert_eq!(
        told["summary"],
        "orders-1 has been healthy ever since admin/cli registered it at 2026-11-21 08:01:57.021 UTC, \
         1.5 s ago, at 10.0.0.8:8080; it has not sent a heartbeat yet"
    );
    assert_eq!((&told["event"]["id"], &told["life"]["until"]), (&json!("13"), &Value::Null));
    server.advance(13_500);
    until(&server, None).await;
    assert!(
        why(&server, "").await["summary"].as_str().unwrap().contains(
            "no heartbeat for 15 s (ttl 15 s); it had registered at 2026-11-21 08:01:57.021 UTC in trace \
             4bf92f3577b34da6a3ce929d0e0e4736, and it never sent a heartbeat"
        ),
        "without a heartbeat the registration is the last sign of life"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lives_is_told_by_its_status() {
    let server = Server::start().await;
    register(&server, "10.0.0.7").await;
    server.advance(1_000);
    beat(&server).await;
    // Whether or not the heartbeat is in the log by now.
    let told = why(&server, "").await["summary"].as_str().unwrap().to_owned();
    assert!(told.ends_with("10.0.0.7:8080; its last heartbeat came 0 ms ago"), "{told}");
    traffic_is_in(&server, 1).await;
    server.advance(10_000);
    until(&server, Some("unstable")).await;
    let told = why(&server, "").await;
    let late = format!(
        "orders-1 has been unstable since 2026-11-21 08:00:11.000 UTC: no heartbeat for 10 s (ttl 15 s, of which two thirds \
         are 10 s); the last one came at 2026-11-21 08:00:01.000 UTC in trace {TRACE}; it had been healthy before, and \
         it has lived since 2026-11-21 08:00:00.000 UTC"
    );
    assert_eq!(
        (&told["summary"], &told["arithmetic"]["allowed_ms"]),
        (&json!(late), &json!(10_000))
    );
    assert_eq!(told["trace_url"], Value::Null, "spans go nowhere");

    let failing = json!({"health": "failing"});
    send(&server, "PUT", &format!("{PATH}/heartbeat"), Some(failing)).await;
    send(&server, "PATCH", PATH, Some(json!({"mode": "draining"}))).await;
    let told = why(&server, "").await;
    assert_eq!(
        told["summary"],
        format!(
            "orders-1 has been failed since 2026-11-21 08:00:11.000 UTC: it said itself that it is failing, in a heartbeat in trace \
             {TRACE}; it had been unstable before, and it has lived since 2026-11-21 08:00:00.000 UTC; it is draining"
        )
    );
    send(&server, "DELETE", PATH, None).await;
    let told = why(&server, "").await["summary"].as_str().unwrap().to_owned();
    assert!(told.contains(" by admin/cli, who gave no reason; it had lived 11 s"), "{told}");
    server.stop().await;
}

/// A stall of the registry itself is part of the gap, and of the sentence.
#[tokio::test(flavor = "multi_thread")]
async fn grace_is_part_of_the_sum() {
    let server = Server::start().await;
    register(&server, "10.0.0.7").await;
    server.clock.as_ref().unwrap().stall(rollcall::domain::Millis::from_millis(60_000));
    server.advance(15_000);
    until(&server, None).await;
    let told = why(&server, "").await;
    let sum = |name: &str| told["arithmetic"][name].as_u64().unwrap();
    assert_eq!(sum("allowed_ms") + sum("late_ms") + sum("grace_ms"), sum("gap_ms"));
    assert_eq!([sum("allowed_ms"), sum("grace_ms"), sum("gap_ms")], [15_000, 60_000, 75_000]);
    let summary = told["summary"].as_str().unwrap();
    assert!(
        summary.contains("no heartbeat for 1 min 15 s (ttl 15 s, and 1 min did not count, because the registry itself stood still)"),
        "{summary}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_was_is_not_known() {
    let server = Server::start().await;
    register(&server, "10.0.0.7").await;
    server.register("web", "orders-1", "15s").await;
    for what in ["history", "why"] {
        for (path, kind) in [
            ("/v1/services/orders/instances/orders-2", "unknown-instance"),
            ("/v1/services/nobody/instances/orders-1", "unknown-service"),
            ("/v1/services/orders/instances/orders-1", ""),
        ] {
            let namespace = if kind.is_empty() { "?namespace=staging" } else { "" };
            let kind = if kind.is_empty() { "unknown-service" } else { kind };
            let path = format!("{path}/{what}{namespace}");
            let (status, problem) = server.call("GET", &path, None).await;
            let told = (status.as_u16(), &problem["type"]);
            assert_eq!(told, (404, &json!(format!("/problems/{kind}"))), "{path}");
        }
    }
    for (query, status, field) in [
        ("history?limit=0", 422, "limit"),
        ("history?at=@1", 400, "at"),
        ("why?seq=3", 422, "seq"),
        ("why?seq=4", 422, "seq"),
        ("why?seq=99", 422, "seq"),
        ("why?seq=t1", 400, "seq"),
        ("why?seq=-3", 400, "seq"),
        ("why?incarnation=4", 422, "incarnation"),
        ("why?incarnation=3&seq=3", 422, "incarnation"),
    ] {
        let (told, problem) = server.call("GET", &format!("{PATH}/{query}"), None).await;
        let told = (told.as_u16(), &problem["errors"][0]["field"]);
        assert_eq!(told, (status, &json!(field)), "{query}: {problem}");
    }
    server.stop().await;
}

/// A registration that changes nothing renews the lease all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_a_sign_of_life() {
    let server = Server::start().await;
    register(&server, "10.0.0.7").await;
    server.advance(1_000);
    beat(&server).await;
    traffic_is_in(&server, 1).await;
    server.advance(9_000);
    register(&server, "10.0.0.7").await;
    server.advance(15_000);
    until(&server, None).await;
    let told = why(&server, "").await;
    let summary = told["summary"].as_str().unwrap();
    assert!(
        summary.contains(&format!(
            "no heartbeat for 15 s (ttl 15 s); it had registered at 2026-11-21 08:00:10.000 UTC in trace {TRACE}, and \
             its last heartbeat had come before that, at 2026-11-21 08:00:01.000 UTC"
        )),
        "{summary}"
    );
    let life = &history(&server, "").await["lives"][0];
    let gaps: Vec<&Value> =
        life["widest_gaps"].as_array().unwrap().iter().map(|gap| &gap["gap_ms"]).collect();
    assert_eq!(gaps, [15_000, 9_000, 1_000]);
    // The silence in which it expired is marked, and no other.
    let marks = ["/widest_gaps/0/ended_by", "/widest_gaps/1/ended_by"];
    assert_eq!(marks.map(|mark| life.pointer(mark)), [Some(&json!("expired")), None]);
    assert_eq!(life["transitions"].as_array().unwrap().len(), 2, "registered, expired");
    server.stop().await;
}
