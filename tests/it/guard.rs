//! The guard against mass expiry, as those see it who ask over HTTP: a rack that dies, a network that splits, a
//! deployment that says goodbye, a kill of all, and the switch.

use serde_json::{Value, json};

use crate::harness::{Options, Server, eventually};
use rollcall::config::Settings;

/// What the guard says when it is entered, and when it gives up.
const LINES: &[&str] = &["the guard over "];

/// Steps of this long: with a ttl of 15 s a lease is late after four of them and runs out after five.
const STEP: u64 = 3_000;

async fn server() -> Server {
    Server::start_with(Options { lines: LINES, ..Options::default() }).await
}

/// Everything that is due is in the log when this returns: a registration waits its turn behind the sweep.
async fn settle(server: &Server) {
    server.register("settler", "settler-1", "24h").await;
}

/// `count` instances of `service`, registered.
async fn come(server: &Server, service: &str, count: usize) -> Vec<(String, String)> {
    let mut come = Vec::new();
    for n in 0..count {
        let instance = format!("{service}-{n}");
        server.register(service, &instance, "15s").await;
        come.push((service.to_owned(), instance));
    }
    come
}

async fn beat_all(server: &Server, alive: &[(String, String)]) {
    for (service, instance) in alive {
        assert_eq!(server.beat(service, instance).await.0, 200, "{service}/{instance}");
    }
}

/// Lets `steps` go by while `alive` beat after each.
async fn live(server: &Server, steps: usize, alive: &[(String, String)]) {
    for _ in 0..steps {
        server.advance(STEP);
        settle(server).await;
        beat_all(server, alive).await;
    }
    settle(server).await;
}

async fn living(server: &Server, all: &[(String, String)]) -> usize {
    let mut living = 0;
    for (service, instance) in all {
        living += usize::from(server.status_of(service, instance).await.is_some());
    }
    living
}

/// Events of a kind, oldest first, as the API answers them.
async fn events(server: &Server, filter: &str) -> Vec<Value> {
    let path = format!("/v1/events?order=asc&limit=1000&{filter}");
    let (status, answer) = server.call("GET", &path, None).await;
    assert_eq!(status, 200, "{answer}");
    answer["events"].as_array().unwrap().clone()
}

async fn guard(server: &Server) -> Value {
    server.call("GET", "/v1/status", None).await.1["guard"].clone()
}

async fn why(server: &Server, service: &str, instance: &str) -> Value {
    let path = format!("/v1/services/{service}/instances/{instance}/why");
    server.call("GET", &path, None).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rack_dies_is_held_and_is_gone_in_time() {
    let server = server().await;
    let all = come(&server, "orders", 8).await;
    let (dead, alive) = all.split_at(6);
    assert_eq!(guard(&server).await, json!({"holds": false, "over": []}));
    live(&server, 5, alive).await;

    // The leases of six have run out: they stay, and whoever asks for the service is handed those who beat.
    assert_eq!(living(&server, &all).await, 8);
    assert_eq!(server.offered("orders").await, ["orders-6", "orders-7"]);
    let entered = &events(&server, "service=orders&kind=guard_entered").await[0];
    let figures = json!({"late": 6, "gone": 0, "living": 8});
    let shown = guard(&server).await;
    let over = &shown["over"][0];
    assert_eq!((&shown["holds"], &over["service"]), (&json!(true), &json!("orders")));
    assert_eq!((&over["entered_by"], &over["held"]), (&figures, &json!(6)));
    assert_eq!((&over["event"], &over["since"]), (&entered["id"], &entered["at"]));
    assert_eq!((&over["limit"], &over["present"]), (&json!("75s"), &figures));
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_guard_active", &["scope=\"service\""]), 1.0);
    assert_eq!(page.sum("rollcall_guard_active", &["scope=\"registry\""]), 0.0);
    assert_eq!(page.sum("rollcall_guard_held_instances", &[]), 6.0);
    let held = why(&server, "orders", "orders-0").await;
    assert_eq!(held["guard"]["id"], entered["id"]);
    let said = "its lease ran out at 2026-11-21 08:00:15.000 UTC, but the guard over orders holds since \
                2026-11-21 08:00:15.000 UTC because 6 of 8 instances were late or had just expired, until \
                2026-11-21 08:01:30.000 UTC at the latest";
    assert!(held["summary"].as_str().unwrap().contains(said), "{}", held["summary"]);
    assert_eq!(why(&server, "orders", "orders-7").await["guard"], Value::Null);

    live(&server, 24, alive).await;
    assert_eq!(living(&server, &all).await, 8, "three seconds before the limit");
    live(&server, 1, alive).await;
    assert_eq!((living(&server, dead).await, living(&server, alive).await), (0, 2));
    let left = &events(&server, "service=orders&kind=guard_left").await[0];
    let seq = left["seq"].as_u64().unwrap();
    let expired = events(&server, "service=orders&kind=expired").await;
    assert_eq!(expired.len(), 6);
    for one in &expired {
        assert_eq!(one["cause"], json!(seq));
        assert!(one["seq"].as_u64().unwrap() > seq);
    }
    let gone = why(&server, "orders", "orders-0").await;
    assert_eq!(gone["guard"]["id"], left["id"]);
    let said = "; the guard over orders had held its expiry back, and let go at 2026-11-21 08:01:30.000 UTC after 1 min 15 s: it may \
                hold no longer than that";
    assert!(gone["summary"].as_str().unwrap().contains(said), "{}", gone["summary"]);
    // Who was handed one of them is told all the same: the life is found though the cause is no registration.
    let path = format!("/v1/impact?service=orders&instance=orders-0&seq={}", expired[0]["seq"]);
    let (status, impact) = server.call("GET", &path, None).await;
    assert_eq!((status.as_u16(), &impact["departure"]["id"]), (200, &expired[0]["id"]));
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_guard_active", &[]), 0.0);
    assert_eq!(page.sum("rollcall_guard_entered_total", &["scope=\"service\""]), 1.0);
    assert_eq!(page.sum("rollcall_expiries_total", &["reason=\"after_guard\""]), 6.0);
    let held = async || server.page().await.sum("rollcall_guard_held_instances", &[]);
    eventually("nobody is held", held, |held| *held == 0.0).await;
    server.stop().await;
}

/// Services of two, between whom and the registry the network is cut for longer than a ttl.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_evicts_nobody_and_all_come_back() {
    let server = server().await;
    let mut all = Vec::new();
    for n in 0..6 {
        all.extend(come(&server, &format!("pair-{n}"), 2).await);
    }
    live(&server, 15, &[]).await;
    assert_eq!(living(&server, &all).await, 12);
    let shown = guard(&server).await;
    assert_eq!(shown["over"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&shown["over"][0]["service"], &shown["over"][0]["held"]),
        (&Value::Null, &json!(12))
    );
    let said = why(&server, "pair-3", "pair-3-1").await;
    assert!(
        said["summary"].as_str().unwrap().contains("the guard over the whole registry holds"),
        "{said}"
    );
    // It heals for most of them at once, for the others two steps later.
    live(&server, 2, &all[..8]).await;
    live(&server, 6, &all).await;
    assert_eq!((living(&server, &all).await, events(&server, "kind=expired").await.len()), (12, 0));
    for (service, instance) in &all {
        assert_eq!(server.status_of(service, instance).await.as_deref(), Some("healthy"));
    }
    let left = events(&server, "kind=guard_left").await;
    assert_eq!((left.len(), &left[0]["data"]["reason"]), (1, &json!("recovered")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_deployment_that_says_goodbye_never_triggers() {
    let server = Server::start().await;
    let mut fleet = come(&server, "orders", 10).await;
    for n in 0..10 {
        let (service, old) = fleet.remove(0);
        let path = format!("/v1/services/{service}/instances/{old}?reason=deployment");
        assert_eq!(server.call("DELETE", &path, None).await.0, 204);
        let next = format!("orders-next-{n}");
        server.register("orders", &next, "15s").await;
        fleet.push((service, next));
        live(&server, 2, &fleet).await;
    }
    for kind in ["guard_entered", "expired", "status_changed"] {
        assert_eq!(events(&server, &format!("kind={kind}")).await, Vec::<Value>::new());
    }
    assert_eq!(living(&server, &fleet).await, 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_all_is_believed_in_the_end() {
    let server = server().await;
    let all = come(&server, "orders", 12).await;
    live(&server, 5 + 24, &[]).await;
    assert_eq!(living(&server, &all).await, 12);
    let (_, answer) = server.call("GET", "/v1/services/orders/instances", None).await;
    assert_eq!(answer["degraded"], true, "they are handed out, and the answer says what they are");
    live(&server, 1, &[]).await;
    assert_eq!(living(&server, &all).await, 0);
    assert_eq!(
        events(&server, "kind=guard_left").await.len(),
        2,
        "of the service and the registry"
    );
    assert_eq!(events(&server, "kind=expired").await.len(), 12);
    // The next ones are guarded like these were.
    let again = come(&server, "orders", 12).await;
    live(&server, 6, &[]).await;
    assert_eq!(living(&server, &again).await, 12);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_evicts_all_and_says_that_it_is_off() {
    let settings: fn(&mut Settings) = |settings| settings.guard = false;
    let options = Options { settings: Some(settings), ..Options::default() };
    let server = Server::start_with(options).await;
    let all = come(&server, "orders", 12).await;
    live(&server, 5, &[]).await;
    assert_eq!((living(&server, &all).await, guard(&server).await), (0, Value::Null));
    assert_eq!(events(&server, "kind=guard_entered").await.len(), 0);
    assert_eq!(
        server.page().await.sum("rollcall_expiries_total", &["reason=\"no_heartbeat\""]),
        12.0
    );
    server.stop().await;
}

/// The registry is stopped in order while a guard holds, and once more by a crash, which nothing in the log announces.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_the_guard_and_everybody_has_a_fresh_ttl() {
    let data = tempfile::TempDir::new().unwrap();
    let options =
        || Options { data: Some(data.path().to_owned()), lines: LINES, ..Options::default() };
    let server = Server::start_with(options()).await;
    let all = come(&server, "orders", 5).await;
    live(&server, 6, &[]).await;
    assert_eq!(guard(&server).await["holds"], true);
    server.stop().await;

    let server = Server::start_with(options()).await;
    let left = events(&server, "kind=guard_left").await;
    assert_eq!((left.len(), &left[0]["data"]["reason"]), (1, &json!("stopped")));
    assert_eq!(guard(&server).await, json!({"holds": false, "over": []}));
    live(&server, 4, &[]).await;
    assert_eq!(living(&server, &all).await, 5);
    // Registered again, as clients do after a restart: the same lives.
    for (service, instance) in &all {
        let again = server.register(service, instance, "15s").await;
        assert!(again["incarnation"].as_u64() < left[0]["seq"].as_u64(), "{again}");
    }
    live(&server, 6, &all).await;
    assert_eq!((living(&server, &all).await, events(&server, "kind=expired").await.len()), (5, 0));
    assert_eq!(guard(&server).await["holds"], false);
    server.stop().await;
}
