//! The past, walked through: a replay answers at every version what the living registry answered then, goes where it is
//! told to, and changes nothing.

use std::sync::Arc;

use reqwest::StatusCode;
use rollcall::app::{self, Replay, ReplayParts};
use rollcall::clock::ManualClock;
use rollcall::config::Settings;
use rollcall::domain::{Millis, Seq};
use rollcall::history::{Archive, Moment};
use rollcall::log::sqlite::SqliteArchive;
use rollcall::replay::{Config, Speed};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Answer, Options, START, Server, eventually};

/// What is asked at every version.
const QUESTIONS: [&str; 6] = [
    "/v1/services/orders/instances",
    "/v1/services/orders/instances?tag=canary&status=any",
    "/v1/services/web/instances",
    "/v1/services?limit=2",
    "/v1/namespaces",
    "/v1/sd/prometheus",
];

/// Every version with the answers of then.
type Kept = Vec<(u64, Vec<Answer>)>;

/// A day in the life of a registry: registrations, late ones, expiries, drains, goodbyes; and what it answered.
async fn record(server: &Server) -> Kept {
    let mut kept = Vec::new();
    let put = |service: &str, id: &str, port: u16, tag: &str| {
        let body = json!({"address": "10.0.0.7", "port": port, "tags": [tag], "ttl": "15s"});
        ("PUT", format!("/v1/services/{service}/instances/{id}"), Some(body))
    };
    let edit = |id: &str, body: Value| {
        ("PATCH", format!("/v1/services/orders/instances/{id}"), Some(body))
    };
    let steps = [
        put("orders", "orders-1", 8_081, "canary"),
        put("orders", "orders-2", 8_082, "stable"),
        put("web", "web-1", 8_083, "stable"),
        edit("orders-2", json!({"mode": "draining"})),
        edit("orders-1", json!({"weight": 7})),
        put("orders", "orders-1", 9_999, "canary"),
        ("DELETE", "/v1/services/web/instances/web-1".to_owned(), None),
        put("web", "web-2", 8_084, "canary"),
    ];
    for (method, path, body) in steps {
        // Time passes between the steps, so that an instant names one version.
        server.advance(100);
        let (status, answer) = server.call(method, &path, body).await;
        assert!(status.is_success(), "{status} {answer}");
        kept.push(keep(server).await);
    }
    // Everybody turns late, web-2 is heard again, the others expire.
    server.advance(10_100);
    let late = async || server.status_of("orders", "orders-1").await;
    eventually("late", late, |status| status.as_deref() == Some("unstable")).await;
    let all_late = async || {
        let (_, list) = server.call("GET", "/v1/services?limit=9", None).await;
        list["services"].as_array().unwrap().iter().all(|one| one["healthy"] == 0)
    };
    eventually("all late", all_late, |late| *late).await;
    kept.push(keep(server).await);
    server.advance(100);
    assert_eq!(server.beat("web", "web-2").await.0, StatusCode::OK);
    kept.push(keep(server).await);
    server.advance(5_000);
    let gone = async || server.offered("orders").await;
    eventually("expired", gone, Vec::is_empty).await;
    kept.push(keep(server).await);
    kept
}

/// The answers now, all of one version.
async fn keep(server: &Server) -> (u64, Vec<Answer>) {
    let mut answers = Vec::new();
    for question in QUESTIONS {
        answers.push(server.send("GET", question, &[], None).await);
    }
    // Lists of all services are of the head.
    let head = answers[3].header("rollcall-seq").parse().unwrap();
    (head, answers)
}

/// A replay that runs.
struct Player {
    server: reqwest::Client,
    url: String,
    clock: Arc<ManualClock>,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

impl Player {
    async fn start(data: &std::path::Path, config: Config) -> Self {
        let settings = Settings::default();
        let archive = SqliteArchive::open(&data.join("rollcall.db")).unwrap();
        let log_id = uuid::Uuid::parse_str(&archive.log_id().unwrap()).unwrap();
        let clock = ManualClock::new(START);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let parts = ReplayParts {
            listener,
            clock: Arc::<ManualClock>::clone(&clock),
            archive: Arc::new(archive),
            log_id,
            metrics: app::metrics(&settings),
        };
        let replay = Replay::build(&settings, parts, config).unwrap();
        let (url, shutdown, mut running) = (replay.url(), CancellationToken::new(), JoinSet::new());
        running.spawn(replay.run(shutdown.clone()));
        Self { server: reqwest::Client::new(), url, clock, shutdown, running }
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.server.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, json }
    }

    async fn steer(&self, wish: Value) -> Value {
        let answer = self.send("PATCH", "/v1/replay", Some(wish)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json
    }

    async fn position(&self) -> Value {
        self.send("GET", "/v1/replay", None).await.json
    }

    /// Asks everything and compares with what was kept, to the byte.
    async fn compare(&self, (seq, kept): &(u64, Vec<Answer>)) {
        for (question, then) in QUESTIONS.iter().zip(kept) {
            let now = self.send("GET", question, None).await;
            assert_eq!(
                (now.status, problemless(&now)),
                (then.status, problemless(then)),
                "@{seq} {question}"
            );
            for header in ["etag", "rollcall-seq", "rollcall-log"] {
                assert_eq!(now.header(header), then.header(header), "@{seq} {question} {header}");
            }
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.join_all().await;
    }
}

/// The text of an answer; a problem's holds the id of its own trace, which is another one each time.
fn problemless(answer: &Answer) -> String {
    match answer.json.get("trace_id") {
        Some(_) => answer.json["type"].to_string(),
        None => answer.text.clone(),
    }
}

fn stretch(from: Option<Moment>, to: Option<Moment>) -> Config {
    Config { from, to, speed: Speed::NORMAL, play: false }
}

async fn recorded() -> (TempDir, Kept) {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path().to_owned()), ..Options::default() };
    let server = Server::start_with(options).await;
    let kept = record(&server).await;
    // The registry's own last word is of another instant.
    server.advance(1_000);
    server.stop().await;
    (data, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_version_it_answers_what_was_answered_then() {
    let (data, kept) = recorded().await;
    let player = Player::start(data.path(), stretch(None, None)).await;
    // To and fro: forwards from each to the next, backwards over some, and over all.
    let ways = (0..kept.len()).chain((0..kept.len()).rev()).chain([7, 2, 9, 0, 10, 1]);
    for index in ways {
        let (seq, _) = &kept[index];
        let at = player.steer(json!({"at": format!("@{seq}")})).await;
        assert_eq!((&at["position"]["seq"], &at["state"]), (&json!(seq), &json!("paused")));
        player.compare(&kept[index]).await;
    }
    // The past up to there, and no further.
    let (seq, _) = &kept[4];
    player.steer(json!({"at": format!("@{seq}")})).await;
    let events = player.send("GET", "/v1/events?order=desc&limit=1000", None).await.json;
    let seen = events["events"].as_array().unwrap();
    assert!(seen.iter().all(|event| event["seq"].as_u64() <= Some(*seq)), "{events}");
    let id = seq.to_string();
    assert!(seen.iter().any(|event| event["id"].as_str() == Some(id.as_str())), "{events}");
    let ahead = player.send("GET", &format!("/v1/events?since=@{}", seq + 1), None).await;
    assert_eq!(ahead.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", ahead.text);
    // An age is counted from the replayed present.
    let young = player.send("GET", "/v1/events?since=-150ms&kind=registered", None).await.json;
    assert_eq!(young["events"].as_array().unwrap().len(), 0, "{young}");
    let young = player.send("GET", "/v1/events?since=-350ms&kind=registered", None).await.json;
    assert_eq!(young["events"].as_array().unwrap().len(), 2, "{young}");
    player.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_in_the_recorded_pace() {
    let (data, kept) = recorded().await;
    let archive = SqliteArchive::open(&data.path().join("rollcall.db")).unwrap();
    let times: Vec<i64> = kept
        .iter()
        .map(|(seq, _)| archive.version(Moment::Version(Seq(*seq))).unwrap().at.micros())
        .collect();
    let from = Moment::Version(Seq(kept[0].0));
    let player = Player::start(data.path(), stretch(Some(from), None)).await;
    player.compare(&kept[0]).await;
    player.clock.advance(Millis::from_millis(60_000));
    let still = player.position().await;
    assert_eq!((&still["position"]["seq"], &still["state"]), (&json!(kept[0].0), &json!("paused")));
    player.steer(json!({"state": "playing", "speed": "10x"})).await;
    let mut passed = 0;
    for (index, at) in times.iter().enumerate().skip(1) {
        // A tenth of the recorded time; one millisecond less than that is too early.
        let due = u64::try_from(at - times[0]).unwrap().div_ceil(10_000);
        player.clock.advance(Millis::from_millis(due - passed));
        passed = due;
        let position = async || player.position().await["position"]["seq"].as_u64();
        eventually("it happens", position, |seq| *seq == Some(kept[index].0)).await;
        player.compare(&kept[index]).await;
    }
    player.clock.advance(Millis::from_millis(101));
    let ended = async || player.position().await["state"].clone();
    eventually("it ends", ended, |state| state == "ended").await;
    let page = player.send("GET", "/metrics", None).await.text;
    assert!(page.contains("rollcall_expiries_total{reason=\"no_heartbeat\"} 2"), "{page}");
    assert!(page.contains("rollcall_instances{status=\"healthy\",mode=\"active\"} 1"), "{page}");

    // Going on at the end begins again.
    let again = player.steer(json!({"state": "playing", "speed": 0.5})).await;
    assert_eq!(
        (&again["position"]["seq"], &again["speed"], &again["state"]),
        (&json!(kept[0].0), &json!("0.5x"), &json!("playing"))
    );
    let paused = player.steer(json!({"state": "paused"})).await;
    assert_eq!(paused["state"], "paused");
    player.compare(&kept[0]).await;
    player.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_changes_nothing_and_says_so() {
    let (data, kept) = recorded().await;
    let events = || crate::harness::sql(data.path(), "SELECT count(*) FROM events");
    let before = events();
    let from = Moment::Version(Seq(kept[2].0));
    let to = Moment::Version(Seq(kept[6].0));
    let player = Player::start(data.path(), stretch(Some(from), Some(to))).await;
    let status = player.send("GET", "/v1/status", None).await;
    assert_eq!(status.json["mode"], "replay", "{}", status.text);
    let instance = "/v1/services/orders/instances/orders-1";
    let registration = Some(json!({"address": "10.0.0.7", "port": 1}));
    for (method, path, body) in [
        ("PUT", instance.to_owned(), registration),
        ("PATCH", instance.to_owned(), Some(json!({"weight": 1}))),
        ("DELETE", instance.to_owned(), None),
        ("PUT", format!("{instance}/heartbeat"), None),
        ("POST", "/v1/heartbeats".to_owned(), Some(json!({"instances": []}))),
        ("POST", "/v1/register".to_owned(), Some(json!({}))),
        ("POST", "/v1/nothing/here".to_owned(), None),
    ] {
        let answer = player.send(method, &path, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        assert_eq!(answer.json["type"], "/problems/read-only", "{method} {path}");
    }
    player.compare(&kept[2]).await;
    // How its lease stood then is not known, and is not made up.
    let found = player.send("GET", instance, None).await;
    assert_eq!((found.status, found.json.get("lease")), (StatusCode::OK, None), "{}", found.text);
    let list = player.send("GET", "/v1/services/orders/instances?include=lease", None).await;
    assert!(list.json["instances"][0].get("lease").is_none(), "{}", list.text);

    for (wish, status, field) in [
        (json!({}), 422, "(body)"),
        (json!({"state": "ended"}), 422, "state"),
        (json!({"speed": "fast"}), 422, "speed"),
        (json!({"speed": true}), 422, "speed"),
        (json!({"at": "soon"}), 422, "at"),
        (json!({"at": "@1"}), 422, "at"),
        (json!({"at": format!("@{}", kept[7].0)}), 422, "at"),
        (json!({"at": "2036-01-01T00:00:00Z"}), 422, "at"),
        (json!({"at": "-1h"}), 422, "at"),
        (json!({"pace": 1}), 400, "pace"),
    ] {
        let answer = player.send("PATCH", "/v1/replay", Some(wish.clone())).await;
        assert_eq!(answer.status.as_u16(), status, "{wish}: {}", answer.text);
        assert_eq!(answer.json["errors"][0]["field"], field, "{wish}: {}", answer.text);
    }
    let position = player.position().await;
    assert_eq!(position["position"]["seq"], kept[2].0, "{position}");
    player.stop().await;
    assert_eq!(events(), before);

    let server = Server::start().await;
    let (status, answer) = server.call("GET", "/v1/replay", None).await;
    assert_eq!((status.as_u16(), &answer["type"]), (404, &json!("/problems/not-a-replay")));
    let (status, _) = server.call("PATCH", "/v1/replay", Some(json!({"at": "@1"}))).await;
    assert_eq!(status.as_u16(), 404);
    server.stop().await;
}
