//! A disk that is full, can be read only, fails its syncs or takes two seconds for each, under the built program with
//! watchers, heartbeats and lookups going on: changes are refused or wait, nobody living leaves, nothing is told
//! that did not happen, and afterwards everything that happened is told once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Client, Response};
use rollcall::log::verify::verify;
use rustix::io::Errno;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::journal::{Fate, Image, rebuild};
use super::shim::{Disk, Switches};
use crate::crash::Child;
use crate::harness::{eventually, sql};
use crate::watch::Stream;

/// Shorter than each of the failures below: a lease that is not renewed meanwhile would end.
const TTL: &str = "2s";

/// How long a failure goes on at least.
const FAILURE: Duration = Duration::from_secs(5);

/// A registry on a disk that can fail, with those who use it meanwhile.
struct Scene {
    disk: Disk,
    child: Child,
    switches: Switches,
    http: Client,
    stop: Arc<AtomicBool>,
    /// The longest that a lookup or a heartbeat took, in milliseconds, and how many there were.
    slowest: Arc<AtomicU64>,
    served: Arc<AtomicU64>,
    users: JoinSet<()>,
    stream: Stream,
}

impl Scene {
    /// `beats` goes on beating, `silent` does not and has a lease as short, and a lookup goes on asking for both.
    async fn start() -> Self {
        let disk = Disk::of(&Image::default());
        let (child, switches) = disk.serve(&[]);
        let child = child.ready().await;
        let http = Client::new();
        let stream = Stream::open(&child.url, "", "").await;
        let (stop, slowest, served) = Default::default();
        let users = JoinSet::new();
        let mut scene = Self { disk, child, switches, http, stop, slowest, served, users, stream };
        for instance in ["beats", "silent"] {
            assert_eq!(scene.put(instance, TTL).await.status(), 201);
        }
        let base = format!("{}/v1/services/orders/instances", scene.child.url);
        scene.user("PUT", format!("{base}/beats/heartbeat"));
        scene.user("GET", base.clone());
        scene
    }

    /// Somebody who asks ten times a second and is always answered.
    fn user(&mut self, method: &'static str, url: String) {
        let (http, stop) = (self.http.clone(), Arc::clone(&self.stop));
        let (slowest, served) = (Arc::clone(&self.slowest), Arc::clone(&self.served));
        self.users.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                let answer = http.request(method.parse().unwrap(), &url).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{method} {url}");
                if method == "GET" {
                    let list: Value = answer.json().await.unwrap();
                    let found = list["instances"].as_array().unwrap();
                    assert!(found.iter().any(|one| one["instance"] == "beats"), "{list}");
                }
                let took = u64::try_from(began.elapsed().as_millis()).unwrap();
                slowest.fetch_max(took, Ordering::SeqCst);
                served.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    fn url(&self, instance: &str) -> String {
        format!("{}/v1/services/orders/instances/{instance}", self.child.url)
    }

    async fn put(&self, instance: &str, ttl: &str) -> Response {
        let body = json!({"address": "10.0.0.8", "port": 1, "ttl": ttl});
        let put = self.http.put(self.url(instance)).header("content-type", "application/json");
        put.body(body.to_string()).send().await.unwrap()
    }

    /// Waits until the instance can be registered: writing has resumed.
    async fn put_again(&self, instance: &str) {
        let status = async || self.put(instance, "24h").await.status().as_u16();
        eventually("writing resumes", status, |status| matches!(status, 200 | 201)).await;
    }

    /// Ends it in order; the stream must have told every change since the first registration, each once, in order.
    async fn end(mut self, last: &str) -> Disk {
        let mut told = Vec::new();
        loop {
            let one = self.stream.next().await.expect("the stream goes on");
            let ends = one.event == "registered" && one.data["instance"] == last;
            told.push((one.change(), one.event));
            if ends {
                break;
            }
        }
        self.stop.store(true, Ordering::SeqCst);
        while let Some(user) = self.users.join_next().await {
            user.unwrap();
        }
        self.child.terminate();
        let first = told[0].0;
        let end = told[told.len() - 1].0;
        let query = format!(
            "SELECT seq, kind FROM changes WHERE seq BETWEEN {first} AND {end} ORDER BY seq"
        );
        let rows = sql(&self.disk.data(), &query).into_iter();
        let log: Vec<(u64, String)> = rows
            .map(|row| (row[0].as_u64().unwrap(), row[1].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(told, log, "what watchers were told, and what is in the log");
        let report = verify(&self.disk.data(), |_| {}).unwrap();
        assert!(report.is_clean(), "{report:?}");
        let left = "SELECT instance FROM changes WHERE kind IN ('expired', 'deregistered') AND instance = 'beats'";
        assert!(sql(&self.disk.data(), left).is_empty(), "the living one was evicted");
        self.disk
    }

    /// Kinds of changes that are in the log now.
    fn kinds(&self) -> Vec<String> {
        let rows = sql(&self.disk.data(), "SELECT kind FROM changes ORDER BY seq");
        rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
    }
}

/// While writes fail so, every change is refused with this in its cause.
async fn refuses(errno: Errno, words: &str) {
    let scene = Scene::start().await;
    let url = format!("{}?after=0&wait=60s", scene.url("").trim_end_matches('/'));
    scene.switches.fail_writes(errno);
    let refused = scene.put("refused", "24h").await;
    assert_eq!(refused.status(), 503);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/log-failed");
    assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    let before = scene.kinds();
    // A poll that begins now hears of what comes afterwards.
    let state: Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
    let poll = url.replace("after=0", &format!("after={}", state["revision"]));
    let poll = tokio::task::JoinSet::from_iter([async move {
        reqwest::get(&poll).await.unwrap().json::<Value>().await.unwrap()
    }]);
    let (began, served) = (Instant::now(), scene.served.load(Ordering::SeqCst));
    while began.elapsed() < FAILURE {
        assert_eq!(scene.put("refused", "24h").await.status(), 503);
        // A lease of `silent` is over by now, and nobody can be told of it: it is still offered.
        assert_eq!(reqwest::get(scene.url("silent")).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.kinds(), before, "nothing is in the log that was refused");
    assert!(scene.served.load(Ordering::SeqCst) > served + 40, "lookups and heartbeats go on");
    assert!(scene.switches.refused().0 > 0, "the disk has refused nothing");
    scene.switches.heal();
    scene.put_again("after").await;
    assert!(scene.kinds().contains(&"log_gap".to_owned()), "the gap is told");
    let heard = poll.join_all().await.remove(0);
    assert!(heard["revision"].as_u64() > state["revision"].as_u64(), "{heard}");
    // Now it can be written that this one is gone.
    let gone = async || reqwest::get(scene.url("silent")).await.unwrap().status().as_u16();
    eventually("the silent one expires", gone, |status| *status == 404).await;
    assert_eq!(scene.put("last", "24h").await.status(), 201);
    scene.end("last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_changes_and_tells_watchers_the_truth() {
    refuses(Errno::NOSPC, "free some space").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_can_be_read_only_refuses_changes_and_tells_watchers_the_truth() {
    refuses(Errno::ROFS, "can be read only").await;
}

/// A sync of two seconds holds up changes, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_holds_up_changes_only() {
    let scene = Scene::start().await;
    // The silent one is no part of this.
    assert_eq!(scene.http.delete(scene.url("silent")).send().await.unwrap().status(), 204);
    scene.slowest.store(0, Ordering::SeqCst);
    scene.switches.slow_syncs(2_000);
    let base = scene.url("").trim_end_matches('/').to_owned();
    let mut writers = JoinSet::new();
    for number in 0..16 {
        let (http, url) = (scene.http.clone(), format!("{base}/w{number}"));
        writers.spawn(async move {
            for turn in 0..3 {
                let body = json!({"address": "10.0.0.8", "port": 1 + turn, "ttl": "24h"});
                let put = http.put(&url).header("content-type", "application/json");
                let began = Instant::now();
                let answer = put.body(body.to_string()).send().await.unwrap();
                assert!(answer.status().is_success(), "{}", answer.status());
                // It is not acknowledged before the disk has it.
                assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
            }
        });
    }
    writers.join_all().await;
    let slowest = scene.slowest.load(Ordering::SeqCst);
    println!("with syncs of 2 s the slowest lookup or heartbeat took {slowest} ms");
    assert!(slowest < 1_000, "a lookup or heartbeat took {slowest} ms");
    assert!(scene.served.load(Ordering::SeqCst) > 50, "lookups and heartbeats go on");
    scene.switches.heal();
    assert_eq!(scene.put("last", "24h").await.status(), 201);
    scene.end("last").await;
}

/// What a failed sync should have stored is gone, though the system says nothing of it later: who is acknowledged
/// afterwards must not depend on it. The power is cut to see what really is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_failed_is_not_trusted_later() {
    let scene = Scene::start().await;
    let mut random = fastrand::Rng::with_seed(5);
    for turn in 0..5 {
        // Heartbeats and lookups of the users are written, and not synced by themselves.
        let served = scene.served.load(Ordering::SeqCst);
        let more = async || scene.served.load(Ordering::SeqCst);
        eventually("some traffic", more, |now| *now > served + 5).await;
        scene.switches.fail_syncs(Errno::IO);
        let refused = scene.put(&format!("refused{turn}"), "24h").await;
        assert_eq!(refused.status(), 503, "nothing is acknowledged that is not stored");
        scene.switches.heal();
        scene.put_again(&format!("stored{turn}")).await;
    }
    assert!(scene.switches.refused().1 > 0, "the disk has refused nothing");
    let Scene { disk, child, users, .. } = scene;
    drop(users);
    child.kill();
    let ops = disk.operations();
    for fate in Fate::ALL {
        let rebuilt = Disk::of(&rebuild(&Image::default(), &ops, fate, &mut random));
        let report = verify(&rebuilt.data(), |_| {}).unwrap();
        assert!(report.is_clean(), "{fate:?}: {report:?}");
        let query =
            "SELECT DISTINCT instance FROM changes WHERE instance LIKE 'stored%' ORDER BY 1";
        let stored: Vec<_> = sql(&rebuilt.data(), query).into_iter().flatten().collect();
        assert_eq!(
            json!(stored),
            json!(["stored0", "stored1", "stored2", "stored3", "stored4"]),
            "{fate:?}"
        );
    }
}
