//! When the log can't be written: changes are refused with the cause, lookups and heartbeats go on, nothing
//! expires, no event is invented, and writing resumes by itself and begins with `log_gap`.

use std::process::{Command, Stdio};

use rollcall::domain::event::{Event, Note};
use rollcall::log::memory::{Fault, MemoryLog};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;

use crate::crash::Child;
use crate::harness::{Options, Server, eventually, sql};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_log_refuses_changes_and_nothing_else() {
    let log = MemoryLog::new();
    let options = Options {
        memory: Some(log.clone()),
        settings: Some(|settings| settings.traffic_queue = 256),
        lines: &["the log cannot be written", "the log is written again"],
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    server.register("orders", "beats", "15s").await;
    server.register("orders", "silent", "15s").await;
    log.set_fault(Fault::Unavailable);

    let body = json!({"address": "10.0.0.8", "port": 1});
    let refused = server.send("PUT", "/v1/services/orders/instances/new", &[], Some(body)).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json["type"]),
        (503, &json!("/problems/log-failed"))
    );
    assert!(refused.json["detail"].as_str().unwrap().contains("told to fail"), "{}", refused.text);
    assert!(!refused.header("retry-after").is_empty());
    // Beyond what the queues hold: served all the same, and counted.
    for _ in 0..600 {
        assert_eq!(server.offered("orders").await.len(), 2);
    }
    for _ in 0..20 {
        server.advance(3_000);
        assert_eq!(server.beat("orders", "beats").await.0, 200);
    }
    assert_eq!(server.offered("orders").await.len(), 2, "a minute of silence, and nobody left");

    log.set_fault(Fault::None);
    let gap = async || {
        log.changes()
            .into_iter()
            .find(|change| matches!(change.event, Event::Note(Note::LogGap(_))))
    };
    let gap = eventually("writing resumes", gap, Option::is_some).await.unwrap();
    let Event::Note(Note::LogGap(figures)) = &gap.event else {
        unreachable!("it was found as one")
    };
    let stored = log.traffic().len() as u64;
    assert_eq!(gap.seq.0, 5, "the first change after started, recovered and two registrations");
    assert!(
        figures.lookups + figures.heartbeats >= 621 - 2 * 256,
        "{figures:?} with {stored} stored"
    );
    eventually(
        "the silent one expires now",
        async || server.offered("orders").await,
        |ids| ids == &["beats"],
    )
    .await;
    let seqs: Vec<u64> = log.changes().iter().map(|change| change.seq.0).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    server.stop().await;
    let all = log.traffic().len() as u64 + figures.lookups + figures.heartbeats;
    assert!(all >= 621, "every event is stored or counted: {all}");
}

/// Runs the program with files limited to a mebibyte, as a full disk would.
fn limited(data: &TempDir) -> Child {
    let mut command = Command::new("sh");
    // In units of 512 bytes; the soft limit alone, so that it can be lifted. Without the trap the
    // signal would end the process, where a disk only fails the write.
    command.args(["-c", "ulimit -S -f 2048 && trap '' XFSZ && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_rollcall"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    Child::spawn(command)
}

/// Lets the files of a running process grow again.
fn unlimit(child: &Child) {
    let limit = Rlimit { current: None, maximum: None };
    prlimit(Some(child.pid()), Resource::Fsize, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_survived_by_the_real_program() {
    let data = TempDir::new().unwrap();
    let child = limited(&data).ready().await;
    let http = reqwest::Client::new();
    let put = async |instance: usize| {
        let url = format!("{}/v1/services/orders/instances/i{instance}", child.url);
        let tag = "x".repeat(120);
        let body = json!({"address": "10.0.0.8", "port": 1, "ttl": "24h", "tags": vec![tag; 32]});
        let request =
            http.put(url).header("content-type", "application/json").body(body.to_string());
        request.send().await.unwrap().status().as_u16()
    };
    let mut accepted = 0;
    let refused = loop {
        match put(accepted).await {
            201 => accepted += 1,
            other => break other,
        }
        assert!(accepted < 5_000, "the disk never filled up");
    };
    assert_eq!(refused, 503);
    let lookup =
        http.get(format!("{}/v1/services/orders/instances", child.url)).send().await.unwrap();
    assert_eq!(lookup.status(), 200, "lookups go on");
    let beat = http
        .put(format!("{}/v1/services/orders/instances/i0/heartbeat", child.url))
        .send()
        .await
        .unwrap();
    assert_eq!(beat.status(), 200, "heartbeats go on");

    unlimit(&child);
    eventually("writing resumes", async || put(accepted).await, |status| *status == 201).await;
    child.terminate();
    let kinds = sql(data.path(), "SELECT kind FROM changes WHERE kind = 'log_gap'");
    assert!(!kinds.is_empty(), "the gap is told");
    let count = sql(data.path(), "SELECT count(*) FROM changes WHERE kind = 'registered'");
    assert_eq!(
        count[0][0],
        json!(accepted + 1),
        "what was refused is not there, what was accepted is"
    );
    let report = rollcall::log::verify::verify(data.path(), |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
}
