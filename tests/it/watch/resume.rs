//! Resuming: no hole and no repeat, at the seam between log and present, and across a server that is killed.

use std::sync::Arc;
use std::time::Duration;

use rollcall::client::{Client, Notice, WatchQuery};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{Stream, head};
use crate::crash::Child;
use crate::harness::{Options, Server};

const CHANGES: u64 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_seam_between_the_log_and_the_present() {
    let server =
        Arc::new(Server::start_with(Options { system_clock: true, ..Options::default() }).await);
    let begin = head(&server).await;
    let mut writers = JoinSet::new();
    for writer in 0..20 {
        let server = Arc::clone(&server);
        writers.spawn(async move {
            for number in 0..CHANGES / 20 {
                server.register(&format!("s{writer}"), &format!("i{number}"), "10m").await;
            }
        });
    }
    let end = begin + CHANGES;
    let mut readers = JoinSet::new();
    for seed in 0..10 {
        let url = server.url.clone();
        readers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            // Some resume a little late, some go back to the beginning.
            let mut last = begin;
            let mut connections = 0;
            while last < end {
                let mut stream = Stream::open(&url, "", &last.to_string()).await;
                connections += 1;
                for _ in 0..random.u64(1..400).min(end - last) {
                    let told = stream.next().await.unwrap();
                    assert_eq!(told.change(), last + 1, "reader {seed}, connection {connections}");
                    assert_eq!(told.data["id"], told.id);
                    last += 1;
                }
            }
            connections
        });
    }
    let connections: usize = readers.join_all().await.into_iter().sum();
    assert!(connections >= 50, "{connections}");
    writers.join_all().await;
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_a_server_that_is_killed() {
    let data = TempDir::new().unwrap();
    let mut server = Child::serve(&data).ready().await;
    // A port that stays the same over restarts is what clients are used to.
    let port: u16 = server.url.rsplit_once(':').unwrap().1.parse().unwrap();
    let client = Client::new(&server.url, "watcher").unwrap();
    let mut watch = client.watch(WatchQuery { after: Some("0".into()), ..WatchQuery::default() });
    let (told, mut telling) = tokio::sync::mpsc::channel(10_000);
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        loop {
            match watch.next().await.unwrap() {
                Notice::Event { event, .. } => told.send((event.id, event.kind)).await.unwrap(),
                Notice::Lost { why, .. } => told.send((String::new(), why)).await.unwrap(),
            }
        }
    });
    let mut last = 0;
    let mut lost = 0;
    for round in 0..3 {
        for number in 0..20 {
            let path = format!("{}/v1/services/s/instances/i{round}-{number}", server.url);
            let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m"}).to_string();
            let put = reqwest::Client::new().put(path).header("content-type", "application/json");
            assert_eq!(put.body(body).send().await.unwrap().status(), 201);
        }
        let status = reqwest::get(format!("{}/v1/status", server.url)).await.unwrap();
        let status: serde_json::Value =
            serde_json::from_str(&status.text().await.unwrap()).unwrap();
        let head = status["head"].as_u64().unwrap();
        // Half of the times it has been told everything when it ends, half of the times not.
        let until = if round == 1 { last + 3 } else { head };
        while last < until {
            let next = tokio::time::timeout(Duration::from_secs(30), telling.recv()).await;
            match next.unwrap().unwrap() {
                (id, _) if id.is_empty() => lost += 1,
                (id, _) => {
                    assert_eq!(id, (last + 1).to_string(), "each event once, in its order");
                    last += 1;
                }
            }
        }
        server.kill();
        server = Child::serve_at(&data, port).ready().await;
    }
    while last < 60 {
        match telling.recv().await.unwrap() {
            (id, _) if id.is_empty() => lost += 1,
            (id, _) => {
                assert_eq!(id, (last + 1).to_string());
                last += 1;
            }
        }
    }
    assert!(lost >= 2, "it was told of the breaks: {lost}");
    reader.abort_all();
    server.terminate();
}
