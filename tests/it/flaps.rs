//! One that changes its mind too often, as its watchers see it.

use serde_json::{Value, json};

use crate::harness::{Options, Server, eventually};
use crate::watch::Stream;

const PATH: &str = "/v1/services/orders/instances/orders-1";

/// Changes its health so often, a second apart; the last one says passing if `count` is even.
async fn flap(server: &Server, count: usize) {
    for n in 0..count {
        let health = if n % 2 == 0 { "failing" } else { "passing" };
        let beat = Some(json!({"health": health}));
        assert_eq!(server.call("PUT", &format!("{PATH}/heartbeat"), beat).await.0, 200);
        server.advance(1_000);
    }
}

async fn quiet(server: &Server, seconds: u64) {
    for _ in 0..seconds {
        assert_eq!(server.beat("orders", "orders-1").await.0, 200);
        server.advance(1_000);
    }
}

async fn one(server: &Server) -> Value {
    server.call("GET", PATH, None).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn who_flaps_is_held_and_its_watchers_are_left_alone() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "24h").await;
    flap(&server, 6).await;
    let held = async || one(&server).await["lease"]["signals"]["flapping"].clone();
    eventually("it is held", held, |flapping| flapping == &json!(true)).await;
    let revision = one(&server).await["revision"].clone();
    assert_eq!(server.offered("orders").await, ["orders-2"], "somebody healthy is there");
    let after = format!("?kind=status_changed&after={}", one(&server).await["revision"]);
    let mut stream = Stream::open(&server.url, &after, "").await;

    flap(&server, 60).await;
    let now = one(&server).await;
    assert_eq!((&now["status"], &now["revision"]), (&json!("unstable"), &revision));
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_damped_instances", &[]), 1.0);
    assert_eq!(page.sum("rollcall_flap_dampings_total", &["begun"]), 1.0);
    let (_, why) = server.call("GET", &format!("{PATH}/why"), None).await;
    let summary = why["summary"].as_str().unwrap();
    assert!(summary.contains("6 times within") && summary.contains("held"), "{summary}");

    quiet(&server, 60).await;
    let healthy = async || server.status_of("orders", "orders-1").await;
    eventually("let go", healthy, |status| status.as_deref() == Some("healthy")).await;
    // All that a watcher of the service was told since.
    let told = stream.take(1).await;
    let data = &told[0].data["data"];
    assert_eq!((&data["to"], &data["reason"]), (&json!("healthy"), &json!("settled")));
    assert_eq!(data["flaps"], json!({"changes": 0, "window": "1m"}), "{data}");
    let events = server.sql(
        "SELECT data ->> 'reason' FROM events WHERE kind = 'status_changed' ORDER BY seq DESC LIMIT 2",
    );
    assert_eq!(events, [[json!("settled")], [json!("flapping")]], "nothing between the two");
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_damped_instances", &[]), 0.0);
    assert_eq!(page.sum("rollcall_flap_dampings_total", &["settled"]), 1.0);
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_damps_nobody_believes_every_change() {
    let settings: fn(&mut _) = |settings: &mut rollcall::config::Settings| settings.flap_limit = 0;
    let server =
        Server::start_with(Options { settings: Some(settings), ..Options::default() }).await;
    server.register("orders", "orders-1", "15s").await;
    flap(&server, 40).await;
    let changes = server.sql("SELECT count(*) FROM events WHERE kind = 'status_changed'");
    assert_eq!(changes, [[json!(40)]]);
    assert_eq!(server.status_of("orders", "orders-1").await.as_deref(), Some("healthy"));
    assert_eq!(server.page().await.sum("rollcall_flap_dampings_total", &[]), 0.0);
    server.stop().await;
}
