//! A registry that stands still and goes on: nobody who lives is evicted for it, and who died meanwhile is out a
//! ttl later, or when the guard lets go. Here the built program is really stopped; longer pauses, a machine that sleeps and
//! clocks that jump are played on the clock of the tests ([`rollcall::clock::ManualClock`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::crash::Child;
use crate::harness::{Options, Server, eventually, sql};
use rollcall::domain::Millis;

/// The shortest ttl there is.
const TTL: Duration = Duration::from_secs(1);

const BEATERS: usize = 8;

/// For how many seconds the program is stopped. The end-to-end run may set others, up to a minute.
fn stalls() -> Vec<u64> {
    let given = std::env::var("ROLLCALL_STALL_SECONDS").ok();
    let given = given.map(|list| list.split(',').map(|n| n.parse().unwrap()).collect());
    given.unwrap_or_else(|| vec![1, 3])
}

async fn register(http: &reqwest::Client, url: &str, instance: &str) -> u64 {
    let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "1s"});
    let request = http.put(format!("{url}/v1/services/orders/instances/{instance}"));
    let request = request.header("content-type", "application/json").body(body.to_string());
    let answer = request.send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<serde_json::Value>(&answer).unwrap()["incarnation"].as_u64().unwrap()
}

/// Beats four times a ttl, as a client does that never gives up; gives how often it was told that it is unknown.
async fn beat(url: String, instance: String, stop: Arc<AtomicBool>) -> usize {
    let http = reqwest::Client::builder().timeout(TTL / 4).build().unwrap();
    let (mut unknown, mut rhythm) = (0, tokio::time::interval(TTL / 4));
    while !stop.load(Ordering::SeqCst) {
        rhythm.tick().await;
        let path = format!("{url}/v1/services/orders/instances/{instance}/heartbeat");
        // While the registry stands still nobody answers.
        if let Ok(answer) = http.put(path).send().await {
            unknown += usize::from(answer.status() == 404);
        }
    }
    unknown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_evicts_nobody_who_lives_and_the_dead_go_after() {
    let data = TempDir::new().unwrap();
    let child = Child::serve(&data).ready().await;
    let http = reqwest::Client::new();
    let (stop, mut beaters) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for n in 0..BEATERS {
        let instance = format!("alive-{n}");
        register(&http, &child.url, &instance).await;
        beaters.spawn(beat(child.url.clone(), instance, Arc::clone(&stop)));
    }
    for seconds in stalls() {
        // It dies together with the registry's attention: nobody beats for it.
        register(&http, &child.url, &format!("dead-{seconds}")).await;
        kill_process(child.pid(), Signal::STOP).unwrap();
        // This is the stall itself, and waits for nothing.
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        kill_process(child.pid(), Signal::CONT).unwrap();
        let query = format!(
            "SELECT json_extract(data, '$.late_ms'), json_extract(data, '$.gap_ms') FROM events \
             WHERE kind = 'expired' AND instance = 'dead-{seconds}'"
        );
        let gone = async || sql(data.path(), &query);
        let gone = eventually("the dead one is out", gone, |rows| rows.len() == 1).await;
        let (late, gap) = (gone[0][0].as_u64().unwrap(), gone[0][1].as_u64().unwrap());
        // A fresh ttl after it went on, and not one before. How much later depends on the machine.
        assert!(gap >= seconds * 1_000 + 1_000, "{seconds} s: {gone:?}");
        assert!(late < 10_000, "{seconds} s: {gone:?}");
    }
    stop.store(true, Ordering::SeqCst);
    assert_eq!(beaters.join_all().await, [0; BEATERS]);
    let query = "SELECT instance FROM events WHERE kind = 'expired' AND instance LIKE 'alive-%'";
    assert_eq!(sql(data.path(), query), Vec::<Vec<serde_json::Value>>::new());
    child.terminate();
}

/// Registering again after a crash, with the same address, goes on with the same life.
#[tokio::test(flavor = "multi_thread")]
async fn to_register_again_after_a_crash_begins_no_other_life() {
    let data = TempDir::new().unwrap();
    let http = reqwest::Client::new();
    let child = Child::serve(&data).ready().await;
    let before = register(&http, &child.url, "orders-1").await;
    child.kill();
    let child = Child::serve(&data).ready().await;
    assert_eq!(register(&http, &child.url, "orders-1").await, before);
    child.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pause_of_the_machine_and_no_jump_of_its_clock_evicts_the_living() {
    let options = Options { lines: &["the guard over "], ..Options::default() };
    let server = Server::start_with(options).await;
    let clock = Arc::clone(server.clock.as_ref().unwrap());
    let all: Vec<String> = (0..4).map(|n| format!("orders-{n}")).collect();
    for instance in &all {
        server.register("orders", instance, "15s").await;
    }
    let hour = 3_600_000_000;
    let minute = Millis::from_millis(60_000);
    let faults: [&dyn Fn(); 5] = [
        &|| clock.stall(minute),
        &|| clock.stall(Millis::from_millis(700)),
        &|| clock.suspend(minute),
        &|| clock.jump(hour),
        &|| clock.jump(-hour),
    ];
    for (number, fault) in faults.iter().enumerate() {
        // Each has a second left of its lease; a registration waits its turn behind the sweep.
        server.advance(14_000);
        server.register("settler", "settler-1", "24h").await;
        fault();
        server.advance(900);
        server.register("settler", "settler-1", "24h").await;
        for instance in &all {
            assert_eq!(server.beat("orders", instance).await.0, 200, "fault {number}, {instance}");
        }
    }
    let expired = server.sql("SELECT instance FROM events WHERE kind = 'expired'");
    assert_eq!(expired, Vec::<Vec<serde_json::Value>>::new());
    // Time in the log went on all the same, and never back.
    let back = "SELECT count(*) FROM (SELECT at, lag(at) OVER (ORDER BY seq) AS before FROM changes) WHERE at < before";
    assert_eq!(server.sql(back)[0][0], 0);
    // Now three die of four, right before the machine sleeps.
    clock.suspend(minute);
    let dead = async || server.sql("SELECT instance FROM events WHERE kind = 'expired'").len();
    for _ in 0..5 {
        server.advance(3_000);
        server.register("settler", "settler-1", "24h").await;
        assert_eq!(server.beat("orders", "orders-0").await.0, 200);
    }
    assert_eq!(dead().await, 0, "the guard holds");
    for _ in 0..25 {
        server.advance(3_000);
        server.register("settler", "settler-1", "24h").await;
        assert_eq!(server.beat("orders", "orders-0").await.0, 200);
    }
    eventually("within grace, ttl and limit", dead, |dead| *dead == 3).await;
    server.stop().await;
}
