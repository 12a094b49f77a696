//! Resuming: no hole and no repeat, at the seam between log and present, and across a server that is killed.

use std::sync::Arc;
use std::time::Duration;

use rollcall::client::{Client, Notice, WatchQuery};
use rollcall::config::Settings;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{Stream, head};
use crate::crash::Child;
use crate::harness::{Options, Server, eventually};

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

/// Changes are kept for a minute, and a snapshot is written after each few of them.
fn a_minute_of_changes(settings: &mut Settings) {
    settings.changes_retention_age = Some(Duration::from_secs(60));
    settings.retention_interval = Duration::from_secs(1);
    settings.snapshot_every = 5;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_gone_and_the_answer_says_where_to_resume() {
    let data = TempDir::new().unwrap();
    let options = || Options {
        data: Some(data.path().to_owned()),
        settings: Some(a_minute_of_changes),
        ..Options::default()
    };
    let server = Server::start_with(options()).await;
    for number in 0..8 {
        server.register("old", &format!("i{number}"), "24h").await;
    }
    let status = async || server.call("GET", "/v1/status", None).await.1;
    eventually("a snapshot", status, |status| {
        status["kept"]["snapshots"]["newest"]["seq"].as_u64() >= Some(5)
    })
    .await;
    server.advance(61_000);
    for number in 0..8 {
        server.register("new", &format!("i{number}"), "24h").await;
    }
    let later = async || {
        server.advance(1_000);
        status().await
    };
    eventually("changes go and it is told", later, |status| {
        status["kept"]["compactions"][0]["event"].is_string()
    })
    .await;

    // The snapshots that were written meanwhile are too young: what is gone stays as it is from here on.
    let kept = status().await["kept"].clone();
    let first = kept["first_change"].as_u64().unwrap();
    assert!(first > 2, "{kept}");
    let oldest = first - 1;
    let head = head(&server).await;
    // Also with a filter that only what is kept can match: nobody can know any more what was there.
    for query in ["?after=1", "?after=0&service=new", "?after=0&kind=deregistered"] {
        let path = format!("/v1/watch{query}");
        let (status, problem) = server.call("GET", &path, None).await;
        assert_eq!(status, 410, "{query}: {problem}");
        assert_eq!(problem["type"], "/problems/history-gone");
        assert_eq!(problem["oldest"]["seq"], oldest, "{query}: {problem}");
    }
    let before = (oldest - 1).to_string();
    let refused = server.send("GET", "/v1/watch", &[("last-event-id", &before)], None).await;
    assert_eq!((refused.status.as_u16(), &refused.json["oldest"]["seq"]), (410, &json!(oldest)));

    // From there on everything, once, in its order, up to what happens while the stream is open.
    let numbers = |told: &[super::Told]| told.iter().map(super::Told::change).collect::<Vec<_>>();
    let resume = oldest.to_string();
    let mut by_header = Stream::open(&server.url, "", &resume).await;
    let mut by_query = Stream::open(&server.url, &format!("?after={resume}"), "").await;
    server.register("new", "late", "24h").await;
    for stream in [&mut by_header, &mut by_query] {
        let told = stream.take(usize::try_from(head + 1 - oldest).unwrap()).await;
        assert_eq!(numbers(&told), (oldest + 1..=head + 1).collect::<Vec<_>>());
        assert_eq!(told.last().unwrap().data["instance"], "late");
    }
    drop((by_header, by_query));
    server.stop().await;

    // Another process answers the same.
    let server = Server::start_with(options()).await;
    let (status, problem) = server.call("GET", "/v1/watch?after=0", None).await;
    assert_eq!((status.as_u16(), &problem["oldest"]["seq"]), (410, &json!(oldest)));
    let mut stream = Stream::open(&server.url, "", &resume).await;
    let told = stream.take(usize::try_from(head + 1 - oldest).unwrap()).await;
    assert_eq!(numbers(&told), (oldest + 1..=head + 1).collect::<Vec<_>>());
    server.stop().await;
}
