//! Copies of a log: backups of a registry under load, directories that are made of them, exports and imports.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rollcall::domain::Seq;
use rollcall::history::{Archive, Error};
use rollcall::log::sqlite::{SqliteArchive, database_of};
use rollcall::log::verify::verify;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::command_line::{Ended, rollcall, run};
use crate::harness::{Options, Server};

fn command(words: &[&str]) -> Ended {
    run(rollcall(words))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Everything below a directory.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// A hash of the state at the head, once the log is known to be whole.
fn digest(path: &Path) -> String {
    let report = verify(path, |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    format!("{} at {}", report.digest, report.head)
}

/// Clients that register, beat and look up until they are told to stop.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
    /// The highest version that was acknowledged.
    acknowledged: Arc<AtomicU64>,
}

impl Load {
    fn start(server: &Server) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        for number in 0..8 {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (http, url) = (server.http.clone(), server.url.clone());
            clients.spawn(async move {
                let instance = format!("{url}/v1/services/s{}/instances/i{number}", number % 3);
                for turn in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let body = json!({"address": "10.0.0.1", "port": 1 + turn % 9}).to_string();
                    let put = http.put(&instance).header("content-type", "application/json");
                    let answer = put.body(body).send().await.unwrap();
                    assert!(answer.status().is_success(), "{answer:?}");
                    let seq = answer.headers()["rollcall-seq"].to_str().unwrap().parse().unwrap();
                    acknowledged.fetch_max(seq, Ordering::SeqCst);
                    http.put(format!("{instance}/heartbeat")).send().await.unwrap();
                    http.get(format!("{url}/v1/services/s1/instances")).send().await.unwrap();
                }
            });
        }
        Self { clients, stop, acknowledged }
    }

    /// What was acknowledged until now.
    fn known(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits for another `count` acknowledged changes.
    async fn goes_on(&self, count: u64) {
        let wanted = self.known() + count;
        let known = async || self.known();
        crate::harness::eventually("the load goes on", known, |known| *known >= wanted).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_registry_is_backed_up_and_restored() {
    let place = TempDir::new().unwrap();
    let server = Server::start().await;
    let data = server.data.clone();
    let load = Load::start(&server);
    for round in 0..4 {
        load.goes_on(50).await;
        let before = load.known();
        let file = place.path().join(format!("backup-{round}.db"));
        let words = ["backup", "--data", text(&data), "--to", text(&file), "--output", "json"];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let told = tokio::task::spawn_blocking(move || run(rollcall(words))).await.unwrap();
        assert_eq!(told.code, 0, "{told:?}");
        let told = told.json();
        // What was acknowledged before it began is in it, and it is whole.
        assert!(told["head"].as_u64().unwrap() >= before, "{told} {before}");
        assert_eq!(told["bytes"].as_u64().unwrap(), std::fs::metadata(&file).unwrap().len());
        let report = verify(&file, |_| {}).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((&json!(report.head), &json!(report.log_id)), (&told["head"], &told["log_id"]));
        assert!(report.traffic > 0);
    }
    assert_eq!(entries(place.path()).len(), 4, "nothing beside them: {:?}", entries(place.path()));
    load.goes_on(20).await;
    load.end().await;
    server.stop().await;

    let (file, restored) = (place.path().join("backup-3.db"), place.path().join("new/data"));
    let told = command(&["restore", text(&file), "--data", text(&restored)]);
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(digest(&restored), digest(&file));
    let id = |path: &Path| verify(path, |_| {}).unwrap().log_id;
    assert_ne!(id(&restored), id(&file), "what happens from here on is another history");
    let server = Server::start_with(Options { data: Some(restored), ..Options::default() }).await;
    assert_eq!(server.offered("s1").await.len(), 3);
    server.register("s1", "one-more", "15s").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_and_nothing_left_behind() {
    let place = TempDir::new().unwrap();
    let server = Server::start().await;
    for id in ["a", "b", "c"] {
        server.register("orders", id, "15s").await;
    }
    let (data, file) = (server.data.clone(), place.path().join("backup.db"));
    let backup = |to: &Path, more: &[&str]| {
        let words = ["backup", "--data", text(&data), "--to", text(to)];
        command(&[&words, more].concat())
    };
    std::fs::write(&file, "a shopping list").unwrap();
    for (to, part) in
        [(&*file, "--force"), (place.path(), "name a file"), (&database_of(&data), "log itself")]
    {
        let refused = backup(to, &[]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.errors.contains(part), "{refused:?}");
    }
    assert_eq!(backup(&database_of(&data), &["--force"]).code, 2);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a shopping list");
    let missing = place.path().join("no-such-folder/backup.db");
    assert_eq!(backup(&missing, &[]).code, 3);
    assert_eq!(backup(&file, &["--force"]).code, 0);
    assert_eq!(entries(place.path()), std::slice::from_ref(&file));

    let restore = |file: &Path, to: &Path| command(&["restore", text(file), "--data", text(to)]);
    let full = restore(&file, &data);
    assert_eq!((full.code, full.errors.contains("empty directory")), (2, true), "{full:?}");
    server.stop().await;

    // A damaged one: said where, and the directory is as it was.
    let connection = rusqlite::Connection::open(&file).unwrap();
    let harm = "UPDATE changes SET data = replace(data, '10.0.0.7', '10.0.0.8') WHERE seq = 4";
    connection.execute(harm, []).unwrap();
    connection.close().unwrap();
    let empty = place.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let new = place.path().join("not/there/yet");
    for to in [&empty, &new] {
        let told = restore(&file, to);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.out.contains("change 4") && told.errors.contains("nothing was restored"));
    }
    assert_eq!(restore(&place.path().join("nothing.db"), &new).code, 3);
    assert_eq!(entries(place.path()), [file, empty.clone()]);
    assert_eq!(entries(&empty), [""; 0].map(PathBuf::from));
}

/// A log with every kind of event that a short life brings about.
async fn eventful() -> (Server, TempDir) {
    let place = TempDir::new().unwrap();
    let server = Server::start().await;
    for (service, id) in [("orders", "a"), ("orders", "b"), ("web", "a"), ("gone", "a")] {
        server.register(service, id, "15s").await;
        server.beat(service, id).await;
        server.offered(service).await;
    }
    let patch = json!({"mode": "standby", "weight": 7, "metadata": {"say": "\"hi\" größer 🦀"}});
    server.call("PATCH", "/v1/services/orders/instances/b", Some(patch)).await;
    server.call("DELETE", "/v1/services/gone/instances/a", None).await;
    server
        .send("GET", "/v1/services/orders/instances?zone=eu", &[("rollcall-caller", "web")], None)
        .await;
    server.advance(10_500);
    server.beat("orders", "a").await;
    server.advance(6_000);
    let rows = "SELECT count(*) FROM changes WHERE kind = 'expired'";
    let expired = async || server.sql(rows)[0][0].as_u64();
    crate::harness::eventually("they expire", expired, |count| *count >= Some(2)).await;
    server.register("web", "b", "1s").await;
    (server, place)
}

/// Exports, and gives the lines.
fn export(data: &Path, more: &[&str]) -> Vec<String> {
    let told = command(&[&["export", "--data", text(data)], more].concat());
    assert_eq!(told.code, 0, "{told:?}");
    told.out.lines().map(str::to_owned).collect()
}

fn import(place: &Path, name: &str, lines: &[String]) -> (Ended, PathBuf) {
    let (file, data) = (place.join(format!("{name}.jsonl")), place.join(name));
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    (command(&["import", text(&file), "--data", text(&data), "--output", "json"]), data)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_imported_to_the_byte() {
    let (server, place) = eventful().await;
    let data = server.data.clone();
    // Beside the running registry; then once more when it has ended, to compare.
    let (told, _) = import(place.path(), "running", &export(&data, &[]));
    assert_eq!(told.code, 0, "{told:?}");
    let lookups =
        server.send("GET", "/v1/services/orders/instances?status=any", &[], None).await.text;
    // The directory goes with the server: a copy is looked at.
    let copy = place.path().join("copy.db");
    let words = ["backup", "--data", text(&data), "--to", text(&copy)];
    assert_eq!(command(&words).code, 0);
    server.stop().await;

    let lines = export(&copy, &[]);
    let header: Value = serde_json::from_str(&lines[0]).unwrap();
    let last = header["changes"]["last"].as_u64().unwrap();
    let events = |kind: &str| lines.iter().filter(|line| line.contains(kind)).count();
    assert!(events("\"kind\":\"heartbeat\"") >= 4 && events("\"kind\":\"expired\"") >= 2);
    let (told, imported) = import(place.path(), "all", &lines);
    assert_eq!((told.code, told.json()["head"].as_u64()), (0, Some(last)), "{told:?}");
    assert_eq!(digest(&imported), digest(&copy));
    let again = export(&imported, &[]);
    assert_eq!(again[1..], lines[1..]);
    assert_ne!(again[0], lines[0], "the log has an id of its own");
    assert_eq!(rows(&imported), rows(&copy), "node, payload and checksum are the same, too");

    // A stretch of it: numbers are kept, and the state that it begins at is there.
    let middle = last / 2;
    for (name, range) in [
        ("tail", vec!["--from".to_owned(), format!("@{middle}")]),
        ("part", vec![format!("--from=@{middle}"), format!("--to=@{}", last - 1)]),
        ("head", vec![format!("--to=@{middle}"), "--without-traffic".to_owned()]),
        (
            "time",
            vec!["--from=2026-11-21T08:00:05Z".to_owned(), "--to=2026-11-21T08:00:12Z".to_owned()],
        ),
    ] {
        let range: Vec<&str> = range.iter().map(String::as_str).collect();
        let lines = export(&copy, &range);
        let header: Value = serde_json::from_str(&lines[0]).unwrap();
        let (told, imported) = import(place.path(), name, &lines);
        assert_eq!(told.code, 0, "{name}: {told:?}");
        let report = verify(&imported, |_| {}).unwrap();
        assert!(report.is_clean(), "{name}: {report:?}");
        assert_eq!(
            json!([report.first, report.head]),
            json!([header["changes"]["first"], header["changes"]["last"]])
        );
        assert_eq!(export(&imported, &[])[1..], lines[1..], "{name}");
        let (whole, part) = (archive(&copy), archive(&imported));
        for at in report.first - 1..=report.head {
            assert_eq!(
                part.state(Seq(at)).unwrap(),
                whole.state(Seq(at)).unwrap(),
                "{name} at {at}"
            );
        }
        if report.first > 2 {
            assert!(matches!(part.state(Seq(report.first - 2)), Err(Error::Gone { .. })), "{name}");
        }
    }
    let tail = place.path().join("tail");
    let server = Server::start_with(Options { data: Some(tail), ..Options::default() }).await;
    let now = server.send("GET", "/v1/services/orders/instances?status=any", &[], None).await.text;
    assert_eq!(now, lookups);
    server.register("orders", "z", "15s").await;
    server.stop().await;
}

/// The rows of changes as text, all columns.
fn rows(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(database_of(path)).unwrap();
    let mut statement = connection.prepare("SELECT * FROM changes ORDER BY seq").unwrap();
    let columns = 0..statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        Ok(columns.clone().map(|c| format!("{:?} ", row.get_ref(c).unwrap())).collect())
    };
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn archive(path: &Path) -> SqliteArchive {
    SqliteArchive::open(&database_of(path)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_is_named_and_nothing_is_imported() {
    let (server, place) = eventful().await;
    let lines = export(&server.data, &[]);
    let from = export(&server.data, &["--from", "@6"]);
    server.stop().await;
    let position = |lines: &[String], part: &str| {
        let found = lines.iter().position(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("{part}"))
    };
    let change = position(&lines, "\"outcome\":\"created\"");
    let beat = position(&lines, "\"kind\":\"heartbeat\"");
    let lookup = position(&lines, "\"kind\":\"lookup\"");
    let last_lookup = lines.iter().rposition(|line| line.contains("\"kind\":\"lookup\"")).unwrap();
    type Edit = Box<dyn Fn(&mut Vec<String>)>;
    let replace = |at: usize, from: &'static str, to: &'static str| -> Edit {
        Box::new(move |lines| {
            assert!(lines[at].contains(from), "{}", lines[at]);
            lines[at] = lines[at].replacen(from, to, 1);
        })
    };
    let cases: Vec<(&str, Option<usize>, Edit)> = vec![
        ("first line of an export", Some(0), Box::new(|lines| lines[0] = "{}".to_owned())),
        ("newer than this program", Some(0), replace(0, "\"export\":1", "\"export\":99")),
        ("no range of numbers", Some(0), replace(0, "\"first\":1", "\"first\":0")),
        ("column", Some(change), replace(change, "\"seq\"", "seq")),
        (
            "data names others",
            Some(change),
            replace(change, "\"namespace\":\"default\"", "\"namespace\":\"other\""),
        ),
        ("at: \"yesterday", Some(change), replace(change, "\"at\":\"", "\"at\":\"yesterday ")),
        (
            "no kind of changes",
            Some(change),
            replace(change, "\"kind\":\"registered\"", "\"kind\":\"heartbeat\""),
        ),
        ("does not fit the state", Some(change), replace(change, "\"created\"", "\"replaced\"")),
        ("format is missing", Some(change), replace(change, ",\"format\":1", "")),
        ("is due", None, Box::new(move |lines| drop(lines.remove(change)))),
        ("is due", None, Box::new(move |lines| drop(lines.remove(beat)))),
        ("data.incarnation", Some(beat), replace(beat, "\"incarnation\"", "\"carnation\"")),
        ("trace_id", Some(beat), replace(beat, "\"trace_id\":\"", "\"trace_id\":\"xyz")),
        ("data.status", Some(lookup), replace(lookup, "\"status\"", "\"stature\"")),
        ("older than the traffic", None, replace(last_lookup, "\"at\":\"2026", "\"at\":\"1999")),
        ("cut off", None, Box::new(|lines| lines.truncate(lines.len() - 1))),
        ("cut off", None, Box::new(|lines| lines.truncate(1))),
    ];
    for (part, at, edit) in cases {
        let mut wrong = lines.clone();
        edit(&mut wrong);
        refused(place.path(), &wrong, at, part);
    }
    // The state that an export begins at is held together by its checksums.
    assert!(from[1].contains("10.0.0.7"), "{}", from[1]);
    let mut wrong = from.clone();
    wrong[1] = wrong[1].replacen("10.0.0.7", "10.0.0.8", 1);
    refused(place.path(), &wrong, Some(1), "checksum");
    wrong.clone_from(&from);
    wrong.truncate(2);
    refused(place.path(), &wrong, None, "cut off");
    wrong.clone_from(&from);
    wrong.remove(1);
    refused(place.path(), &wrong, None, "line");
    refused(place.path(), &[], None, "line 1");
    let (taken, _) = import(place.path(), "taken", &lines);
    assert_eq!(taken.code, 0, "{taken:?}");
    assert_eq!(import(place.path(), "taken", &lines).0.code, 2);
    for (range, code) in [
        (&["--from=@999999"][..], 1),
        (&["--to=@999999"], 1),
        (&["--from=@9", "--to=@3"], 2),
        (&["--from=noon"], 2),
    ] {
        let data = place.path().join("taken");
        let told = command(&[&["export", "--data", text(&data)], range].concat());
        assert_eq!(told.code, code, "{told:?}");
    }
}

/// It is refused because of this line (from 0), and leaves nothing.
fn refused(place: &Path, lines: &[String], at: Option<usize>, part: &str) {
    let (told, data) = import(place, "wrong", lines);
    assert_eq!(told.code, 1, "{part}: {told:?}");
    assert!(told.errors.contains(part), "{part}: {told:?}");
    if let Some(at) = at {
        assert!(told.errors.contains(&format!("line {}:", at + 1)), "{part}: {told:?}");
    }
    assert!(!data.exists(), "{part}");
}
