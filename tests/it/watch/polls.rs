//! Long polls: who is woken, by what, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{head, watchers};
use crate::harness::{Answer, Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";

/// Long polls of a service, each with its answer.
fn poll(server: &Arc<Server>, times: usize, path: &str) -> JoinSet<Answer> {
    let mut polls = JoinSet::new();
    for number in 0..times {
        let (server, path) = (Arc::clone(server), path.to_owned());
        polls.spawn(async move {
            let caller = format!("caller-{number}");
            server.send("GET", &path, &[("rollcall-caller", &caller)], None).await
        });
    }
    polls
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_wakes_exactly_the_watchers_of_its_service() {
    let server = Arc::new(Server::start().await);
    let held = server.register("orders", "a", "15s").await["revision"].as_u64().unwrap();
    server.register("web", "a", "15s").await;
    let orders = poll(&server, 20, &format!("{ORDERS}?after={held}&wait=10m"));
    let mut web =
        poll(&server, 5, &format!("/v1/services/web/instances?after={}", head(&server).await));
    // Of the same name elsewhere, and of one that does not exist yet.
    let mut other = poll(&server, 1, &format!("{ORDERS}?namespace=other&after=0&wait=10m"));
    let mut filtered = poll(&server, 1, &format!("{ORDERS}?tag=x&after={held}&wait=10m"));
    watchers(&server, "longpoll", 27.0).await;
    // A registration that changes nothing is an event, and moves no revision.
    assert_eq!(server.register("orders", "a", "15s").await["revision"], held);
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_watchers", &["longpoll"]), 27.0, "nobody was answered");

    let revision = server.register("orders", "b", "15s").await["revision"].clone();
    let answers = orders.join_all().await;
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), &answer.json["revision"]), (200, &revision));
        assert_eq!(answer.header("rollcall-seq"), revision.to_string());
        assert_eq!(answer.text, answers[0].text);
        assert_eq!(answer.json["instances"].as_array().unwrap().len(), 2);
    }
    let filtered = filtered.join_next().await.unwrap().unwrap();
    assert_eq!((&filtered.json["revision"], &filtered.json["instances"]), (&revision, &json!([])));
    watchers(&server, "longpoll", 6.0).await;
    assert!(web.try_join_next().is_none() && other.try_join_next().is_none());

    // The events say what was held; the histogram of requests knows nothing of them.
    let query = "SELECT caller, data FROM events WHERE kind = 'lookup' AND json_extract(data, '$.held') IS NOT NULL";
    let rows = eventually("the lookups", async || server.sql(query), |rows| rows.len() == 21).await;
    let mut callers: Vec<&str> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
    callers.sort_unstable();
    callers.dedup();
    assert_eq!(callers.len(), 20);
    for row in &rows {
        let data: Value = serde_json::from_str(row[1].as_str().unwrap()).unwrap();
        assert_eq!((&data["held"], &data["revision"]), (&json!(held), &revision), "{data}");
    }
    let page = server.page().await;
    let lookups = ["http_route=\"/v1/services/{service}/instances\""];
    assert_eq!(page.sum("http_server_request_duration_seconds_count", &lookups), 0.0);
    let changed = ["transport=\"longpoll\"", "outcome=\"changed\""];
    assert_eq!(page.sum("rollcall_watch_duration_seconds_count", &changed), 21.0);
    assert_eq!(page.sum("rollcall_notify_duration_seconds_count", &["longpoll"]), 21.0);
    web.abort_all();
    other.abort_all();
    watchers(&server, "longpoll", 0.0).await;
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_come_later_or_not_at_all() {
    let server = Arc::new(Server::start().await);
    let mut waiting = poll(&server, 1, "/v1/services/later/instances?after=0&wait=10m");
    watchers(&server, "longpoll", 1.0).await;
    server.register("later", "a", "15s").await;
    let answer = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(answer.json["instances"][0]["instance"], "a");

    let never =
        server.send("GET", "/v1/services/never/instances?after=0&wait=20ms", &[], None).await;
    assert_eq!(
        (never.status.as_u16(), &never.json["type"]),
        (404, &json!("/problems/unknown-service"))
    );
    // The time is over: the unchanged list, unless its etag says that the client holds it.
    let revision = answer.json["revision"].as_u64().unwrap();
    let later = format!("/v1/services/later/instances?after={revision}&wait=20ms");
    let unchanged = server.send("GET", &later, &[], None).await;
    assert_eq!((unchanged.status.as_u16(), &unchanged.text), (200, &answer.text));
    let held = [("if-none-match", unchanged.header("etag"))];
    assert_eq!(server.send("GET", &later, &held, None).await.status, 304);
    // What is already above what is held is answered at once, with leases too.
    let at_once = "/v1/services/later/instances?after=0&wait=10m&include=lease";
    let leases = server.send("GET", at_once, &[], None).await;
    assert!(leases.json["instances"][0]["lease"].is_object(), "{}", leases.text);
    let page = server.page().await;
    let unchanged = ["transport=\"longpoll\"", "outcome=\"unchanged\""];
    assert_eq!(page.sum("rollcall_watch_duration_seconds_count", &unchanged), 3.0);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_wakes_too_and_the_end_answers_everybody() {
    let server = Arc::new(Server::start().await);
    let held = server.register("orders", "a", "15s").await["revision"].as_u64().unwrap();
    let mut polls = poll(&server, 3, &format!("{ORDERS}?after={held}&wait=10m"));
    watchers(&server, "longpoll", 3.0).await;
    server.advance(10_000);
    let late = polls.join_next().await.unwrap().unwrap();
    assert_eq!(late.json["degraded"], true, "{}", late.text);
    polls.join_all().await;
    let held = late.json["revision"].as_u64().unwrap();
    let mut polls = poll(&server, 3, &format!("{ORDERS}?after={held}&wait=10m"));
    watchers(&server, "longpoll", 3.0).await;
    server.advance(10_000);
    let gone = polls.join_next().await.unwrap().unwrap();
    assert_eq!(gone.json["instances"], json!([]));
    polls.join_all().await;

    let path = format!("{}{ORDERS}?after={}&wait=10m", server.url, gone.json["revision"]);
    let mut last = JoinSet::new();
    for _ in 0..3 {
        last.spawn(reqwest::get(path.clone()));
    }
    watchers(&server, "longpoll", 3.0).await;
    let stopping = Arc::into_inner(server).unwrap().stop();
    tokio::time::timeout(Duration::from_secs(8), stopping).await.expect("nobody is waited for");
    for answer in last.join_all().await {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap()),
            (200, gone.text.clone())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_named() {
    let server = Server::start().await;
    server.register("orders", "a", "15s").await;
    let above = head(&server).await + 1;
    for (query, status, fields) in [
        (format!("after={above}"), 422, &["after"][..]),
        ("wait=30s".into(), 422, &["wait"]),
        ("after=1&wait=601s".into(), 422, &["wait"]),
        ("after=1&wait=soon".into(), 400, &["wait"]),
        ("after=-1".into(), 400, &["after"]),
        ("after=x&wait=1h".into(), 400, &["wait", "after"]),
        ("after=1&after=2".into(), 400, &["after"]),
    ] {
        let answer = server.send("GET", &format!("{ORDERS}?{query}"), &[], None).await;
        let named: Vec<&str> = answer.json["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["field"].as_str().unwrap())
            .collect();
        assert_eq!((answer.status.as_u16(), &*named), (status, fields), "{query}: {}", answer.text);
    }
    let above = server.send("GET", &format!("{ORDERS}?after={above}"), &[], None).await;
    assert!(above.text.contains(&format!("which is {}", head(&server).await)), "{}", above.text);
    server.stop().await;
}
