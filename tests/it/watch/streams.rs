//! Streams: what is told, in which order, to whom, and what they leave in the log.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::{Stream, Told, head, watchers};
use crate::harness::{Options, Raw, Server, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_its_filter_lets_through() {
    let server = Server::start().await;
    let url = server.url.as_str();
    let mut all = Stream::open(url, "", "").await;
    let mut orders = Stream::open(url, "?namespace=default&service=orders", "").await;
    let mut kinds = Stream::open(url, "?kind=deregistered&kind=mode_changed", "").await;
    let mut staging = Stream::open(url, "?namespace=staging", "").await;
    watchers(&server, "sse", 4.0).await;
    let begin = head(&server).await;
    server.register("orders", "a", "15s").await;
    server.register("web", "a", "15s").await;
    let body = json!({"address": "10.0.0.8", "port": 1});
    server.call("PUT", "/v1/services/orders/instances/b?namespace=staging", Some(body)).await;
    let path = "/v1/services/web/instances/a";
    server.call("PATCH", path, Some(json!({"mode": "draining"}))).await;
    server.call("DELETE", path, None).await;

    let told = all.take(5).await;
    let ids: Vec<u64> = told.iter().map(|told| told.change()).collect();
    assert_eq!(ids, (begin + 1..=begin + 5).collect::<Vec<_>>());
    let (_, page) = server.call("GET", &format!("/v1/events?since=@{}", begin + 1), None).await;
    let changes: Vec<&Value> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| !event["id"].as_str().unwrap().starts_with('t'))
        .collect();
    for (told, event) in told.iter().zip(&changes) {
        assert_eq!((&told.data, &*told.event), (*event, event["kind"].as_str().unwrap()));
    }
    let first = |told: &Told| (told.change() - begin, told.event.clone());
    assert_eq!(first(&orders.take(1).await[0]), (1, "registered".into()));
    let two: Vec<_> = kinds.take(2).await.iter().map(first).collect();
    assert_eq!(two, [(4, "mode_changed".into()), (5, "deregistered".into())]);
    let staged = staging.take(1).await;
    assert_eq!((first(&staged[0]).0, &staged[0].data["namespace"]), (3, &json!("staging")));

    // What was told when, and to whom, is in the log: with one trace for all events of a stream.
    drop((all, orders, kinds));
    watchers(&server, "sse", 1.0).await;
    let query = "SELECT kind, data, trace_id, span_id FROM events \
                 WHERE kind IN ('watch_opened', 'notified', 'watch_closed') AND service = 'orders' ORDER BY rowid";
    let query = &query.replace(" ORDER BY rowid", "");
    let rows = eventually("three events", async || server.sql(query), |rows| rows.len() == 3).await;
    let data = |row: usize| serde_json::from_str::<Value>(rows[row][1].as_str().unwrap()).unwrap();
    let filter = "namespace=default&service=orders";
    assert_eq!(
        (&rows[0][0], data(0)),
        (&json!("watch_opened"), json!({"filter": filter, "after": begin}))
    );
    let notified = json!({"filter": filter, "through": begin + 1, "events": 1});
    assert_eq!((&rows[1][0], data(1)), (&json!("notified"), notified));
    assert_eq!((&rows[2][0], &data(2)["reason"]), (&json!("watch_closed"), &json!("left")));
    assert!(rows.iter().all(|row| row[2..] == rows[0][2..] && row[2].is_string()), "{rows:?}");
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_watch_duration_seconds_count", &["outcome=\"left\""]), 3.0);
    assert!(page.sum("rollcall_notify_duration_seconds_count", &["sse"]) >= 4.0);
    server.stop().await;
    assert_eq!(staging.next().await.unwrap().data["reason"], "shutdown");
    assert_eq!(staging.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_comes_after_what_it_saw_and_each_once() {
    let server = Server::start().await;
    let from = head(&server).await;
    // Half of it from the log, half as it happens.
    for number in 0..20 {
        server.register("orders", &format!("a{number}"), "15s").await;
        server.offered("orders").await;
        server.beat("orders", "a0").await;
    }
    let stored =
        async || server.sql("SELECT count(*) FROM events WHERE id LIKE 't%'")[0][0].clone();
    eventually("all is in the log", stored, |count| *count == 40).await;
    let mut stream = Stream::open(&server.url, &format!("?after={from},t0&traffic=true"), "").await;
    let mut told = stream.take(30).await;
    for number in 20..40 {
        server.register("orders", &format!("a{number}"), "15s").await;
        server.offered("orders").await;
    }
    let (mut mark, mut seen) = ((from, 0), from);
    // 40 registrations, 40 lookups, 20 heartbeats; and what the stream itself left.
    while told.iter().filter(|told| !told.event.contains("tified")).count() < 101 {
        told.push(stream.next().await.unwrap());
    }
    for one in &told {
        let (change, traffic) = one.id.split_once(",t").unwrap();
        let next: (u64, u64) = (change.parse().unwrap(), traffic.parse().unwrap());
        if one.data["id"].as_str().unwrap().starts_with('t') {
            assert_eq!(next, (mark.0, mark.1 + 1), "no hole and no repeat: {one:?}");
            let saw = one.data["seq"].as_u64().unwrap();
            assert!(saw <= mark.0, "it saw {saw}: {one:?} after {mark:?}");
            seen = seen.max(saw);
        } else {
            assert_eq!(next, (mark.0 + 1, mark.1), "no hole and no repeat: {one:?}");
        }
        mark = next;
    }
    let kinds = |kind: &str| told.iter().filter(|told| told.event == kind).count();
    assert_eq!((kinds("registered"), kinds("lookup"), kinds("heartbeat")), (40, 40, 20));
    assert_eq!(kinds("watch_opened"), 1);
    // That it was told of traffic is not told again: there would be no end of it.
    let of_nothing = |told: &&Told| told.event == "notified" && told.data["data"]["events"] == 0;
    assert_eq!(told.iter().filter(of_nothing).count(), 0);
    drop(stream);

    // A pair resumes exactly. The classes may stand otherwise to each other: what was told at once was told before
    // later traffic had its number.
    let middle = told.len() / 2;
    let classes = |told: &[Told]| {
        let ids = told.iter().map(|told| told.data["id"].as_str().unwrap().to_owned());
        ids.partition::<Vec<String>, _>(|id| id.starts_with('t'))
    };
    let mut again = Stream::open(&server.url, "?traffic=true", &told[middle].id).await;
    let rest = &told[middle + 1..];
    assert_eq!(classes(&again.take(rest.len()).await), classes(rest));
    // A number alone begins with the traffic that saw it.
    let change = told[middle].change();
    let query = "?traffic=true&kind=lookup";
    let mut number = Stream::open(&server.url, query, &change.to_string()).await;
    let saw = |told: &Told| told.data["seq"].as_u64().unwrap();
    let lookups = told.iter().filter(|told| told.event == "lookup" && saw(told) >= change);
    let lookups: Vec<&Value> = lookups.map(|told| &told.data).collect();
    let begun = number.take(lookups.len()).await;
    assert_eq!(begun.iter().map(|told| &told.data).collect::<Vec<_>>(), lookups);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_named() {
    let server = Server::start().await;
    let above = head(&server).await + 1;
    for (query, last, status, fields) in [
        (format!("?after={above}"), "", 422, &["after"][..]),
        ("?after=0".into(), "999999", 422, &["last-event-id"]),
        ("?after=x".into(), "1", 400, &["after"]),
        (String::new(), "t5", 400, &["last-event-id"]),
        (String::new(), "1,5", 400, &["last-event-id"]),
        ("?after=0,t99&traffic=true".into(), "", 422, &["after"]),
        ("?kind=lookup".into(), "", 422, &["kind"]),
        ("?kind=changed".into(), "", 400, &["kind"]),
        ("?traffic=1".into(), "", 400, &["traffic"]),
        ("?service=a%2Fb&namespace=-".into(), "", 422, &["namespace", "service"]),
        ("?instance=a".into(), "", 400, &["instance"]),
    ] {
        let headers = [("last-event-id", last)];
        let answer = server.send("GET", &format!("/v1/watch{query}"), &headers, None).await;
        let errors =
            answer.json["errors"].as_array().unwrap_or_else(|| panic!("{query}: {}", answer.text));
        let named: Vec<&str> = errors.iter().map(|e| e["field"].as_str().unwrap()).collect();
        assert_eq!((answer.status.as_u16(), &*named), (status, fields), "{query}: {}", answer.text);
    }
    // HEAD begins no stream.
    let head = server.send("HEAD", "/v1/watch?after=0", &[], None).await;
    assert_eq!((head.status.as_u16(), head.header("content-type")), (200, "text/event-stream"));
    let nothing = server.sql("SELECT count(*) FROM events WHERE kind LIKE 'watch%'");
    assert_eq!(
        (server.page().await.sum("rollcall_watchers", &[]), &nothing[0][0]),
        (0.0, &json!(0))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_cut_off_and_costs_nobody() {
    let server = Server::start_with(Options {
        settings: Some(|settings| settings.watch_write_timeout = Duration::from_millis(400)),
        ..Options::default()
    })
    .await;
    let begin = head(&server).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = server.url.trim_start_matches("http://").parse().unwrap();
    let mut stuck = socket.connect(address).await.unwrap();
    stuck
        .write_all(b"GET /v1/watch HTTP/1.1\r\nhost: registry\r\nrollcall-caller: stuck\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(Raw::read(&mut stuck).await.status(), 200);
    let changes = 160;
    let mut reads = Stream::open(&server.url, "", "").await;
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        let told = reads.take(changes).await;
        (reads, told)
    });
    watchers(&server, "sse", 2.0).await;
    // Far more than the kernel's buffers for one connection.
    let metadata: serde_json::Map<String, Value> =
        (0..50).map(|key| (format!("key-{key}"), json!("x".repeat(1_000)))).collect();
    for number in 0..changes {
        let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m", "weight": number, "metadata": metadata});
        let (status, _) = server.call("PUT", "/v1/services/orders/instances/a", Some(body)).await;
        assert!(status.is_success(), "the writer does not wait for a reader");
    }
    let (_reads, told) = reader.join_next().await.unwrap().unwrap();
    assert_eq!(told.last().unwrap().change(), begin + changes as u64, "others are told everything");
    watchers(&server, "sse", 1.0).await;
    let query = "SELECT data FROM events WHERE kind = 'watch_closed' AND caller = 'stuck'";
    let rows = eventually("its end", async || server.sql(query), |rows| rows.len() == 1).await;
    let closed: Value = serde_json::from_str(rows[0][0].as_str().unwrap()).unwrap();
    let through = closed["through"].as_u64().unwrap();
    assert_eq!(closed["reason"], "slow");
    assert!((begin..begin + changes as u64).contains(&through), "{closed}");
    assert_eq!(server.page().await.sum("rollcall_watch_duration_seconds_count", &["slow"]), 1.0);
    // It resumes where it was.
    let mut again = Stream::open(&server.url, "", &through.to_string()).await;
    let rest = usize::try_from(begin + changes as u64 - through).unwrap();
    let ids: Vec<u64> = again.take(rest).await.iter().map(|told| told.change()).collect();
    assert_eq!(ids, (through + 1..=begin + changes as u64).collect::<Vec<_>>());
    server.stop().await;
}
