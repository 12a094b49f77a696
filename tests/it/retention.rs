//! How much of the past is kept: what is too old goes, the registry says so, and the rest answers as before.

use std::time::Duration;

use rollcall::config::{Settings, Size};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Options, Server, eventually, sql};

/// Traffic is kept for a minute, and that is enforced every second.
fn a_minute(settings: &mut Settings) {
    settings.traffic_retention_age = Some(Duration::from_secs(60));
    settings.retention_interval = Duration::from_secs(1);
}

/// Looks `orders` up so many times, and waits until all of it is in the log.
async fn look_up(server: &Server, times: u64) {
    let before = server.call("GET", "/v1/status", None).await.1["traffic_head"].as_u64().unwrap();
    for _ in 0..times {
        server.call("GET", "/v1/services/orders/instances", None).await;
    }
    let status = async || server.call("GET", "/v1/status", None).await.1;
    eventually("it is in the log", status, |status| {
        status["traffic_head"].as_u64() == Some(before + times)
    })
    .await;
}

async fn compacted(server: &Server) -> Vec<Value> {
    let (_, page) = server.call("GET", "/v1/events?kind=compacted", None).await;
    page["events"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_traffic_goes_and_the_registry_says_so() {
    let folder = TempDir::new().unwrap();
    let options = || Options {
        data: Some(folder.path().to_owned()),
        settings: Some(a_minute),
        ..Options::default()
    };
    let server = Server::start_with(options()).await;
    server.register("orders", "a", "24h").await;
    look_up(&server, 600).await;
    let (_, status) = server.call("GET", "/v1/status", None).await;
    let kept = &status["kept"];
    let budgets =
        json!({"traffic_age": "1m", "traffic_bytes": 2_147_483_648_u64, "changes_age": "2160h"});
    assert_eq!(kept["budgets"], budgets);
    let covered = &kept["covered"];
    assert_eq!(
        (&covered["traffic"]["first"], &covered["traffic"]["last"]),
        (&json!("t1"), &json!("t600"))
    );
    assert!(covered["traffic"]["bytes"].as_u64() > Some(10_000), "{covered}");
    assert_eq!(
        (&covered["changes"]["first"], &covered["counts_from"]),
        (&json!("1"), &Value::Null)
    );
    assert_eq!((&kept["first_traffic"], &kept["first_change"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&kept["oldest"], &kept["compactions"]),
        (&json!({"seq": 0, "at": null}), &json!([]))
    );

    // The clock alone does it: nothing comes after these that would end their period or fill the last block.
    server.advance(2 * 3_600_000);
    // Whatever the keeper saw first, it looks again when its interval has passed.
    let later = async || {
        server.advance(1_000);
        compacted(&server).await
    };
    let told = eventually("it is told", later, |all| !all.is_empty()).await;
    let [event] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&event["caller"], &event["namespace"]), (&Value::Null, &Value::Null));
    let data = &event["data"];
    assert_eq!(
        (&data["class"], &data["first"], &data["last"]),
        (&json!("traffic"), &json!("t1"), &json!("t600")),
    );
    assert_eq!(data["from"], "2026-11-21T08:00:00.000000Z");

    let status = async || server.call("GET", "/v1/status", None).await.1;
    let noted = eventually("the status knows", status, |status| {
        status["kept"]["compactions"][0]["event"] == event["id"]
    })
    .await;
    let kept = &noted["kept"];
    assert_eq!((&kept["first_traffic"], &kept["first_change"]), (&json!(601), &json!(1)));
    assert_eq!(kept["compactions"][0]["last"], "t600");
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_retention_removed_events_total", &["class=\"traffic\""]), 600.0);
    look_up(&server, 256).await;
    let (_, events) = server.call("GET", "/v1/events?kind=lookup&limit=100", None).await;
    assert_eq!(events["events"][0]["id"], "t601");

    // The registry goes on as if nothing were missing, also after a restart.
    assert_eq!(server.offered("orders").await, ["a"]);
    server.stop().await;
    let firsts =
        sql(folder.path(), "SELECT min(first), (SELECT first_traffic FROM log) FROM traffic");
    assert_eq!(firsts, [[json!(601), json!(601)]]);
    let server = Server::start_with(options()).await;
    assert_eq!(server.offered("orders").await, ["a"]);
    server.stop().await;
}

/// Changes are kept for a minute, and a snapshot is written after each few of them.
fn few_changes(settings: &mut Settings) {
    settings.changes_retention_age = Some(Duration::from_secs(60));
    settings.retention_interval = Duration::from_secs(1);
    settings.snapshot_every = 5;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_changes_go_below_a_snapshot_and_the_state_stays() {
    let folder = TempDir::new().unwrap();
    let options = || Options {
        data: Some(folder.path().to_owned()),
        settings: Some(few_changes),
        ..Options::default()
    };
    let server = Server::start_with(options()).await;
    for instance in ["a", "b", "c", "d", "e", "f"] {
        server.register("orders", instance, "24h").await;
    }
    let status = async || server.call("GET", "/v1/status", None).await.1;
    let newest = |status: &Value| status["kept"]["snapshots"]["newest"]["seq"].as_u64();
    let snapshot = eventually("a snapshot", status, |status| newest(status) >= Some(5)).await;
    let oldest = newest(&snapshot).unwrap();
    server.advance(61_000);
    for instance in ["a", "b", "c", "d", "e", "f"] {
        server.register("users", instance, "24h").await;
    }
    // The keeper may have looked before the last registration, when the snapshot stood at the head: it looks again
    // when its interval has passed.
    let later = async || {
        server.advance(1_000);
        status().await
    };
    let kept = eventually("changes go", later, |status| {
        // One of the later snapshots may be old enough soon, too.
        status["kept"]["compactions"][0]["event"].is_string()
    })
    .await["kept"]
        .clone();
    let first = kept["first_change"].as_u64().unwrap();
    assert!(first > oldest.min(5), "{kept}");
    assert_eq!(
        kept["oldest"]["seq"].as_u64(),
        Some(first - 1),
        "a state stands below what is kept"
    );
    let (_, page) = server.call("GET", "/v1/events?kind=registered", None).await;
    assert_eq!(page["complete"], false, "{page}");
    assert_eq!(page["missing"][0]["reason"], "retention");
    assert_eq!(server.offered("orders").await.len(), 6);
    server.stop().await;

    let report = rollcall::log::verify::verify(folder.path(), |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    let server = Server::start_with(options()).await;
    assert_eq!(server.offered("orders").await.len(), 6);
    assert_eq!(server.offered("users").await.len(), 6);
    server.stop().await;
}

/// Traffic is kept for a minute, or as long as it takes no more than a few blocks.
fn a_minute_or_little(settings: &mut Settings) {
    a_minute(settings);
    settings.traffic_retention_bytes = Some(Size(64 << 10));
}

async fn kept(server: &Server) -> Value {
    server.call("GET", "/v1/status", None).await.1["kept"].clone()
}

/// Nothing comes after it that would end its period or fill its block.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_traffic_of_a_silent_registry_goes_too() {
    let folder = TempDir::new().unwrap();
    let options = || Options {
        data: Some(folder.path().to_owned()),
        settings: Some(a_minute_or_little),
        ..Options::default()
    };
    let server = Server::start_with(options()).await;
    server.register("orders", "a", "24h").await;
    look_up(&server, 30).await;
    server.advance(55_000);
    assert_eq!(kept(&server).await["first_traffic"], 1, "it is not a minute old");
    server.advance(10_000);
    let later = async || {
        server.advance(1_000);
        kept(&server).await
    };
    let gone = eventually("it is gone", later, |kept| kept["first_traffic"] == 31).await;
    assert_eq!(gone["covered"]["traffic"], Value::Null);
    assert_eq!(gone["compactions"][0]["last"], "t30");
    // What it came to is there, and the answer says what it no longer knows.
    let (_, graph) = server.call("GET", "/v1/graph?since=-1h", None).await;
    assert_eq!(graph["edges"][0]["lookups"], 30, "{graph}");
    let (_, page) = server.call("GET", "/v1/events?kind=lookup", None).await;
    assert_eq!((&page["events"], &page["missing"][0]["events"]), (&json!([]), &json!("t1 to t30")));
    server.stop().await;

    let server = Server::start_with(options()).await;
    // Far more than the budget, all of it of this very moment.
    look_up(&server, 3_000).await;
    let later = async || {
        // Far from a minute in all.
        server.advance(100);
        server.call("GET", "/v1/status", None).await.1
    };
    let small = eventually("it is little again", later, |status| {
        status["log"]["traffic_bytes"].as_u64() <= Some(65_536)
    })
    .await;
    assert!(small["kept"]["first_traffic"].as_u64() > Some(31), "{small}");
    // A minute that is over is counted whole, wherever in it retention has come to.
    server.advance(61_000);
    let (_, graph) = server.call("GET", "/v1/graph?since=-1h", None).await;
    assert_eq!(graph["edges"][0]["lookups"], 3_030, "{graph}");
    server.stop().await;
    let report = rollcall::log::verify::verify(folder.path(), |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
