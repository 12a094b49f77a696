//! Limits: each is met, says so, lets go again, and leaves alone what it is not about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rollcall::config::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::harness::{Answer, Options, Raw, Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";

async fn with(settings: fn(&mut Settings)) -> Server {
    Server::start_with(Options { settings: Some(settings), ..Options::default() }).await
}

async fn put(server: &Server, path: &str, port: u16) -> Answer {
    let body = json!({"address": "10.0.0.7", "port": port, "ttl": "10m"});
    server.send("PUT", path, &[], Some(body)).await
}

/// Asserts that `answer` is this refusal, in full.
fn refused(answer: &Answer, status: u16, problem: &str, retry_after: &str, setting: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.json["type"], format!("/problems/{problem}"));
    assert_eq!(answer.header("retry-after"), retry_after);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert!(answer.text.contains(setting), "{}", answer.text);
    assert!(answer.header("traceresponse").contains(answer.json["trace_id"].as_str().unwrap()));
}

async fn counted(server: &Server, class: &str, reason: &str) -> f64 {
    let labels = [format!("class=\"{class}\""), format!("reason=\"{reason}\"")];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    server.page().await.sum("rollcall_requests_refused_total", &labels)
}

async fn limits(server: &Server) -> Value {
    server.call("GET", "/v1/status", None).await.1["limits"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_service_and_a_full_namespace_take_nobody_new() {
    let data = TempDir::new().unwrap();
    let small: fn(&mut Settings) = |settings| {
        settings.max_instances_per_service = Some(2);
        settings.max_instances_per_namespace = Some(3);
    };
    let options = || Options {
        data: Some(data.path().to_owned()),
        settings: Some(small),
        ..Options::default()
    };
    let server = Server::start_with(options()).await;
    for id in ["a", "b"] {
        assert_eq!(put(&server, &format!("{ORDERS}/{id}"), 80).await.status, 201);
    }
    let full = put(&server, &format!("{ORDERS}/c"), 80).await;
    refused(&full, 429, "quota-reached", "30", "max_instances_per_service");
    assert_eq!((&full.json["present"], &full.json["limit"]), (&json!(2), &json!(2)));
    // Whoever lives is replaced, renewed and changed as before, also as another process.
    assert_eq!(put(&server, &format!("{ORDERS}/a"), 81).await.status, 200);
    assert_eq!(server.beat("orders", "b").await.0, 200);
    let patch = Some(json!({"weight": 7}));
    assert_eq!(server.call("PATCH", &format!("{ORDERS}/b"), patch).await.0, 200);
    // The short form is the same command.
    let short = json!({"service_name": "orders", "host": "10.0.0.7", "port": 80});
    assert_eq!(server.call("POST", "/v1/register", Some(short)).await.0, 429);

    assert_eq!(put(&server, "/v1/services/web/instances/a", 80).await.status, 201);
    let full = put(&server, "/v1/services/web/instances/b", 80).await;
    refused(&full, 429, "quota-reached", "30", "max_instances_per_namespace");
    assert_eq!((&full.json["present"], &full.json["limit"]), (&json!(3), &json!(3)));
    let elsewhere = "/v1/services/web/instances/b?namespace=other";
    assert_eq!(put(&server, elsewhere, 80).await.status, 201);
    // Who leaves makes room, for one.
    assert_eq!(server.call("DELETE", &format!("{ORDERS}/a"), None).await.0, 204);
    assert_eq!(put(&server, "/v1/services/web/instances/b", 80).await.status, 201);
    assert_eq!(put(&server, &format!("{ORDERS}/a"), 80).await.status, 429);
    assert_eq!(counted(&server, "change", "service_full").await, 2.0);
    assert_eq!(counted(&server, "change", "namespace_full").await, 2.0);
    let shown = limits(&server).await;
    let quotas = [&shown["instances_per_service"], &shown["instances_per_namespace"]];
    assert_eq!(quotas, [&json!(2), &json!(3)]);
    server.stop().await;

    // What is in the log is never refused, whatever the limit has become.
    let smaller: fn(&mut Settings) = |settings| settings.max_instances_per_namespace = Some(1);
    let server = Server::start_with(Options { settings: Some(smaller), ..options() }).await;
    assert_eq!(server.offered("web").await, ["a", "b"]);
    assert_eq!(put(&server, "/v1/services/web/instances/a", 81).await.status, 200);
    let full = put(&server, "/v1/services/web/instances/c", 80).await;
    assert_eq!((full.status.as_u16(), &full.json["present"]), (429, &json!(3)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_places_are_given_once_however_many_come_together() {
    let server = Arc::new(with(|settings| settings.max_instances_per_service = Some(5)).await);
    let mut clients = JoinSet::new();
    for client in 0..50 {
        let server = Arc::clone(&server);
        clients.spawn(async move { put(&server, &format!("{ORDERS}/i{client}"), 80).await.status });
    }
    let statuses = clients.join_all().await;
    let created = statuses.iter().filter(|status| status.as_u16() == 201).count();
    let full = statuses.iter().filter(|status| status.as_u16() == 429).count();
    assert_eq!((created, full), (5, 45));
    assert_eq!(server.offered("orders").await.len(), 5);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_its_rate_and_loses_no_lease_by_it() {
    let server = with(|settings| {
        settings.caller_rate = Some(10);
        settings.caller_burst = 4;
    })
    .await;
    let as_caller = async |caller: &str, path: &str| {
        server.send("GET", path, &[("rollcall-caller", caller)], None).await
    };
    server.register("orders", "a", "10m").await;
    for _ in 0..4 {
        assert_eq!(as_caller("web", ORDERS).await.status, 200);
    }
    for path in [ORDERS, "/v1/services", "/v1/events", "/v1/watch"] {
        let answer = as_caller("web", path).await;
        refused(&answer, 429, "rate-limited", "1", "caller_rate");
        assert_eq!(answer.json["limit"], 10);
    }
    let beat = format!("{ORDERS}/a/heartbeat");
    let beat = async || server.send("PUT", &beat, &[("rollcall-caller", "web")], None).await.status;
    for _ in 0..4 {
        assert_eq!(beat().await, 200, "heartbeats have a bucket of their own");
    }
    assert_eq!(beat().await, 429);
    assert_eq!(as_caller("app", ORDERS).await.status, 200, "another caller is another one");
    for path in ["/livez", "/readyz", "/metrics", "/v1/status", "/openapi.json"] {
        assert_eq!(as_caller("web", path).await.status, 200, "{path}");
    }
    server.advance(99);
    assert_eq!(as_caller("web", ORDERS).await.status, 429, "a millisecond early");
    server.advance(1);
    assert_eq!(as_caller("web", ORDERS).await.status, 200);
    assert_eq!(as_caller("web", ORDERS).await.status, 429);
    assert_eq!(counted(&server, "lookup", "caller_rate").await, 4.0);
    assert_eq!(counted(&server, "other", "caller_rate").await, 2.0);
    assert_eq!(counted(&server, "heartbeat", "caller_rate").await, 1.0);
    let shown = limits(&server).await;
    assert_eq!([&shown["caller_rate"], &shown["caller_burst"]], [&json!(10), &json!(4)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_limited_together_and_each_and_make_room_by_leaving() {
    let server = Arc::new(
        with(|settings| {
            settings.max_watchers = 2;
            settings.max_watchers_per_caller = Some(1);
        })
        .await,
    );
    server.register("orders", "a", "10m").await;
    let head = server.call("GET", "/v1/status", None).await.1["head"].clone();
    let wait = format!("{ORDERS}?after={head}&wait=10m");
    let poll = |caller: &'static str| {
        let (server, wait) = (Arc::clone(&server), wait.clone());
        async move { server.send("GET", &wait, &[("rollcall-caller", caller)], None).await }
    };
    let used = async || limits(&server).await["watchers"]["used"].clone();
    let mut polls = JoinSet::new();
    polls.spawn(poll("web"));
    eventually("it waits", used, |used| *used == 1).await;
    let answer = poll("web").await;
    refused(&answer, 429, "too-many-watchers", "5", "max_watchers_per_caller");
    let stream = |caller: &'static str| {
        let server = Arc::clone(&server);
        async move {
            let request = server.http.get(format!("{}/v1/watch", server.url));
            request.header("rollcall-caller", caller).send().await.unwrap()
        }
    };
    assert_eq!(stream("web").await.status(), 429, "streams and long polls count together");
    let open = stream("app").await;
    assert_eq!(open.status(), 200);
    refused(&poll("other").await, 429, "too-many-watchers", "5", "(setting max_watchers)");
    // None of them is a request in progress, nor is the one that asks.
    assert_eq!(limits(&server).await["requests"]["used"], 0);
    assert_eq!(counted(&server, "lookup", "caller_watchers").await, 2.0);
    assert_eq!(counted(&server, "lookup", "watchers").await, 1.0);

    drop(open);
    eventually("the stream's place is given back", used, |used| *used == 1).await;
    polls.spawn(poll("other"));
    eventually("another one waits", used, |used| *used == 2).await;
    server.register("orders", "b", "10m").await;
    for answer in polls.join_all().await {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(used().await, 0);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_request_in_progress_is_a_heartbeat() {
    let server = with(|settings| settings.max_requests = 2).await;
    server.register("orders", "a", "10m").await;
    // Requests whose bodies do not come are in progress until they do.
    let mut slow = server.connect().await;
    let head = format!(
        "PUT {ORDERS}/b HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\ncontent-length: 34\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let used = async || limits(&server).await["requests"]["used"].clone();
    eventually("it is in progress", used, |used| *used == 1).await;
    let answer = server.send("GET", ORDERS, &[], None).await;
    refused(&answer, 503, "overloaded", "1", "max_requests");
    assert_eq!(answer.json["limit"], 2);
    assert_eq!(put(&server, &format!("{ORDERS}/c"), 80).await.status, 503);
    assert_eq!(server.beat("orders", "a").await.0, 200);
    for path in ["/livez", "/metrics", "/v1/status"] {
        assert_eq!(server.call("GET", path, None).await.0, 200, "{path}");
    }
    slow.write_all(br#"{"address":"10.0.0.7","port":8080}"#).await.unwrap();
    assert_eq!(Raw::read(&mut slow).await.status(), 201);
    eventually("its place is given back", used, |used| *used == 0).await;
    assert_eq!(server.send("GET", ORDERS, &[], None).await.status, 200);
    // Also by one whose client goes away.
    let mut gone = server.connect().await;
    gone.write_all(head.as_bytes()).await.unwrap();
    eventually("it is in progress", used, |used| *used == 1).await;
    drop(gone);
    eventually("its place is given back", used, |used| *used == 0).await;
    assert_eq!(counted(&server, "lookup", "in_progress").await, 1.0);
    assert_eq!(counted(&server, "change", "in_progress").await, 1.0);
    let failed = ["error_type=\"overloaded\""];
    let page = server.page().await;
    assert_eq!(page.sum("http_server_request_duration_seconds_count", &failed), 2.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_lookups_is_shed_heartbeats_are_not_and_it_ends() {
    let settings: fn(&mut Settings) =
        |settings| settings.shed_queue_time = Some(Duration::from_millis(1));
    let lines = &["more is asked than can be done"];
    let options = Options { settings: Some(settings), lines, ..Options::default() };
    let server = Arc::new(Server::start_with(options).await);
    server.register("orders", "a", "10m").await;
    let over = Arc::new(AtomicBool::new(false));
    let [shed, beats] = [0, 0].map(|_| Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..256 {
        let (server, over, shed) = (Arc::clone(&server), Arc::clone(&over), Arc::clone(&shed));
        clients.spawn(async move {
            let mut connection = server.connect().await;
            let ask = format!("GET {ORDERS} HTTP/1.1\r\nhost: r\r\n\r\n");
            while !over.load(Ordering::Relaxed) {
                connection.write_all(ask.as_bytes()).await.unwrap();
                let answer = Raw::read(&mut connection).await;
                if answer.status() == 503 {
                    assert_eq!(answer.json["type"], "/problems/overloaded");
                    assert_eq!(answer.header("retry-after"), "1");
                    shed.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(answer.status(), 200);
                }
            }
        });
    }
    for _ in 0..4 {
        let (server, over, beats) = (Arc::clone(&server), Arc::clone(&over), Arc::clone(&beats));
        clients.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(server.beat("orders", "a").await.0, 200);
                beats.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually(
        "lookups are shed while heartbeats are answered",
        async || [&shed, &beats].map(|count| count.load(Ordering::Relaxed)),
        |[shed, beats]| *shed > 100 && *beats > 100,
    )
    .await;
    let shedding = limits(&server).await["shedding"].clone();
    assert_eq!(shedding["queue_time_ms"], 1.0);
    assert_eq!(shedding["refused"]["heartbeat"], 0.0);
    over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let counted_all = shed.load(Ordering::Relaxed);
    let page = server.page().await;
    let by_class = |class: &str| {
        let labels = [&*format!("class=\"{class}\""), "reason=\"overload\""];
        page.sum("rollcall_requests_refused_total", &labels)
    };
    assert_eq!(by_class("lookup"), f64::from(u32::try_from(counted_all).unwrap()));
    assert_eq!(by_class("heartbeat"), 0.0);
    // It ends by itself, and then everybody is let in again.
    let share = async || limits(&server).await["shedding"]["refused"]["lookup"].clone();
    eventually("nothing is shed any more", share, |share| *share == 0.0).await;
    assert_eq!(server.send("GET", ORDERS, &[], None).await.status, 200);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_are_shown_as_they_are_set() {
    let server = with(|settings| {
        *settings = Settings { data: settings.data.clone(), ..Settings::default() }
    })
    .await;
    let mut shown = limits(&server).await;
    assert_eq!(shown["connections"], json!({"used": 1, "limit": 16_384}));
    shown["shedding"]["waits_ms"] = json!(0);
    assert_eq!(
        shown,
        json!({
            "connections": {"used": 1, "limit": 16_384},
            "requests": {"used": 0, "limit": 16_384},
            "watchers": {"used": 0, "limit": 65_536},
            "past_reads": {"used": 0, "limit": 8},
            "watchers_per_caller": null, "caller_rate": null, "caller_burst": null,
            "instances_per_namespace": 1_000_000, "instances_per_service": 100_000,
            "shedding": {
                "queue_time_ms": 20.0, "waits_ms": 0,
                "refused": {"heartbeat": 0.0, "change": 0.0, "lookup": 0.0, "other": 0.0},
            },
        })
    );
    let page = server.page().await;
    for (limit, used, most) in [
        ("connections", 1.0, 16_384.0),
        ("requests", 0.0, 16_384.0),
        ("watchers", 0.0, 65_536.0),
        ("past_reads", 0.0, 8.0),
    ] {
        let labels = [&*format!("limit=\"{limit}\"")];
        assert_eq!(page.sum("rollcall_limit_used", &labels), used, "{limit}");
        assert_eq!(page.sum("rollcall_limit_max", &labels), most, "{limit}");
    }
    server.stop().await;
}
