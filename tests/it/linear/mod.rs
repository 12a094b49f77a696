//! Many clients register, deregister and look up the same few instances at once while the registry is killed and
//! started again: whatever they were answered, there is an order of one after the other that explains it.

mod checker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::checker::{Answer, Ask, Operation, is_linearizable};
use crate::crash::Child;

/// Clients at once.
const CLIENTS: usize = 12;
/// Instances that they meet at; after so many requests they go on to the next ones, so that no history grows long.
const MEETING: usize = 6;
const REQUESTS_PER_MEETING: usize = 400;
/// Requests between two kills, about.
const REQUESTS_PER_RUN: usize = 2_000;

/// Requests of a run of this test that is not told how many.
const OPERATIONS: usize = 4_000;

fn operations() -> usize {
    let told = std::env::var("ROLLCALL_LINEAR_OPERATIONS").ok();
    told.map_or(OPERATIONS, |text| text.parse().unwrap())
}

/// An instance: of which meeting, and which one there.
type Key = (usize, usize);

/// What all clients share.
struct Shared {
    began: Instant,
    history: Mutex<HashMap<Key, Vec<Operation>>>,
    sent: AtomicUsize,
    answered: AtomicUsize,
    unknown: AtomicUsize,
    values: AtomicU32,
    stop: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    fn note(&self, key: Key, operation: Operation) {
        if operation.ask != Ask::Read || operation.answer != Answer::Unknown {
            self.history.lock().entry(key).or_default().push(operation);
        }
    }
}

fn value_of(instance: &Value) -> u32 {
    instance["version"].as_str().unwrap().parse().unwrap()
}

/// Asks one thing about one instance; none if the connection is gone.
async fn ask(http: &Client, url: &str, key: Key, ask: Ask) -> Option<Answer> {
    let path = format!("{url}/v1/services/m{}/instances/i{}", key.0, key.1);
    let registration = |value: u32| {
        // A day: nobody expires here.
        let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "24h", "version": value.to_string()});
        http.put(&path).header("content-type", "application/json").body(body.to_string())
    };
    let request = match ask {
        Ask::Put(value) => registration(value),
        Ask::Create(value) => registration(value).header("if-none-match", "*"),
        Ask::Delete => http.delete(&path),
        Ask::Read => http.get(&path),
    };
    let answer = request.send().await.ok()?;
    let status = answer.status();
    let text = answer.text().await.ok()?;
    Some(match (ask, status) {
        (_, status) if status.is_server_error() => Answer::Unknown,
        (Ask::Put(_) | Ask::Create(_), StatusCode::OK | StatusCode::CREATED)
        | (Ask::Delete, StatusCode::NO_CONTENT) => Answer::Done,
        (Ask::Create(_), StatusCode::PRECONDITION_FAILED) => Answer::Taken,
        (Ask::Delete, StatusCode::NOT_FOUND) => Answer::Missing,
        (Ask::Read, StatusCode::NOT_FOUND) => Answer::Saw(None),
        (Ask::Read, StatusCode::OK) => {
            let instance: Value = serde_json::from_str(&text).unwrap();
            Answer::Saw(Some(value_of(&instance)))
        }
        other => panic!("{other:?}: {text}"),
    })
}

/// Looks up all instances of a meeting: a read of each of them. Whether the connection is still there.
async fn look_up(http: &Client, url: &str, meeting: usize, shared: &Shared) -> bool {
    let sent = shared.now();
    let request = http.get(format!("{url}/v1/services/m{meeting}/instances?status=any"));
    let Ok(answer) = request.send().await else { return false };
    let status = answer.status();
    let Ok(text) = answer.text().await else { return false };
    let answered = shared.now();
    let list: Value = serde_json::from_str(&text).unwrap();
    let none = Vec::new();
    let instances = match status {
        StatusCode::OK => list["instances"].as_array().unwrap(),
        StatusCode::NOT_FOUND => &none,
        other => panic!("{other}: {text}"),
    };
    for number in 0..MEETING {
        let name = format!("i{number}");
        let found = instances.iter().find(|instance| instance["instance"] == *name);
        let answer = Answer::Saw(found.map(value_of));
        shared.note((meeting, number), Operation { ask: Ask::Read, answer, sent, answered });
    }
    true
}

/// Asks one thing after the other until the registry is gone or all is asked.
async fn client(url: String, seed: u64, shared: Arc<Shared>) {
    let http = Client::new();
    let mut random = Rng::with_seed(seed);
    while !shared.stop.load(Ordering::SeqCst) {
        let meeting = shared.sent.fetch_add(1, Ordering::SeqCst) / REQUESTS_PER_MEETING;
        if random.u8(..8) == 0 {
            // Also that of before, which other runs of the registry have answered.
            let meeting = meeting.saturating_sub(usize::from(random.bool()));
            if !look_up(&http, &url, meeting, &shared).await {
                return;
            }
            shared.answered.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let key = (meeting, random.usize(..MEETING));
        let value = shared.values.fetch_add(1, Ordering::SeqCst);
        let asked = match random.u8(..10) {
            0..3 => Ask::Put(value),
            3..5 => Ask::Create(value),
            5..7 => Ask::Delete,
            _ => Ask::Read,
        };
        let sent = shared.now();
        let answer = ask(&http, &url, key, asked).await;
        let answered = shared.now();
        let operation = |answer| Operation { ask: asked, answer, sent, answered };
        match answer {
            Some(answer) => {
                shared.answered.fetch_add(1, Ordering::SeqCst);
                shared.note(key, operation(answer));
            }
            None => {
                shared.unknown.fetch_add(1, Ordering::SeqCst);
                shared.note(key, operation(Answer::Unknown));
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_are_answered_has_one_order_through_kills() {
    let data = TempDir::new().unwrap();
    let shared = Arc::new(Shared {
        began: Instant::now(),
        history: Mutex::default(),
        sent: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        unknown: AtomicUsize::new(0),
        values: AtomicU32::new(1),
        stop: AtomicBool::new(false),
    });
    let (wanted, mut runs) = (operations(), 0);
    let answered = || shared.answered.load(Ordering::SeqCst);
    while answered() < wanted {
        let child = Child::serve(&data).ready().await;
        let target = (answered() + REQUESTS_PER_RUN).min(wanted);
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let seed = (runs * CLIENTS + number) as u64;
            clients.spawn(client(child.url.clone(), seed, Arc::clone(&shared)));
        }
        let begun = Instant::now();
        while answered() < target {
            assert!(begun.elapsed() < Duration::from_secs(120), "no load comes about");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill();
        clients.join_all().await;
        runs += 1;
    }
    let history = std::mem::take(&mut *shared.history.lock());
    let (ids, longest) = (history.len(), history.values().map(Vec::len).max());
    let bad: Vec<_> =
        history.into_iter().filter(|(_, operations)| !is_linearizable(operations)).collect();
    assert!(bad.is_empty(), "{} ids have no order, such as {:#?}", bad.len(), bad.first());
    let unknown = shared.unknown.load(Ordering::SeqCst);
    println!(
        "{} requests over {ids} ids (at most {longest:?} operations each), {runs} kills that left {unknown} requests \
         without an answer: linearizable",
        answered()
    );
}
