//! The log over HTTP: pages with every filter, one event by its id, the events of a trace; and a log that is
//! damaged in the middle of its old traffic.

use serde_json::{Value, json};

use crate::command_line::ask;
use crate::harness::{Options, Server, eventually, sql};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A trace that comes in with a request.
fn parent(trace_id: &str) -> [(&'static str, String); 1] {
    [("traceparent", format!("00-{trace_id}-00f067aa0ba902b7-01"))]
}

async fn within(server: &Server, trace_id: &str, method: &str, path: &str, body: Option<Value>) {
    let [(name, value)] = parent(trace_id);
    let answer = server.send(method, path, &[(name, &value)], body).await;
    assert!(answer.status.is_success(), "{} {}", answer.status, answer.text);
}

async fn traffic(server: &Server, count: usize) {
    let all = async || server.sql("SELECT count(*) FROM events WHERE id GLOB 't*'");
    eventually("the traffic is in the log", all, |rows| rows[0][0] == json!(count)).await;
}

fn ids(page: &Value) -> Vec<&str> {
    let events = page["events"].as_array().map_or(&[][..], Vec::as_slice);
    events.iter().map(|event| event["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_event_has_a_page_of_its_own() {
    let server = Server::start().await;
    server.register("orders", "a", "15s").await;
    server.beat("orders", "a").await;
    traffic(&server, 1).await;
    let (_, page) = server.call("GET", "/v1/events", None).await;
    assert_eq!(page["complete"], json!(true));
    for event in page["events"].as_array().unwrap() {
        let path = format!("/v1/events/{}", event["id"].as_str().unwrap());
        let (status, one) = server.call("GET", &path, None).await;
        assert_eq!((status.as_u16(), &one), (200, event));
    }
    for unknown in ["9999", "t9999", "0", "t", "042", "yesterday", "%2B3"] {
        let (status, problem) = server.call("GET", &format!("/v1/events/{unknown}"), None).await;
        let expected = (404, &json!("/problems/unknown-event"));
        assert_eq!((status.as_u16(), &problem["type"]), expected, "{unknown}");
    }
    let (status, _) = server.call("GET", "/v1/events/1?limit=3", None).await;
    assert_eq!(status, 400, "a parameter that nobody knows is refused");
    server.stop().await;
}

#[tokio::test]
async fn a_trace_gives_its_events_of_both_classes() {
    let server = Server::start().await;
    let instance = "/v1/services/orders/instances/a";
    let body = json!({"address": "10.0.0.7", "port": 8080});
    within(&server, TRACE, "PUT", instance, Some(body)).await;
    server.offered("orders").await;
    within(&server, TRACE, "GET", "/v1/services/orders/instances", None).await;
    within(&server, TRACE, "PUT", &format!("{instance}/heartbeat"), None).await;
    traffic(&server, 3).await;
    let path = format!("/v1/traces/{TRACE}");
    let (status, trace) = server.call("GET", &path, None).await;
    assert_eq!((status.as_u16(), &trace["trace_id"]), (200, &json!(TRACE)));
    assert_eq!((&trace["trace_url"], &trace["complete"]), (&Value::Null, &json!(true)));
    let kinds: Vec<&Value> =
        trace["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["registered", "lookup", "heartbeat"]);

    let (_, first) = server.call("GET", &format!("{path}?limit=2"), None).await;
    let next = first["next"].as_str().unwrap();
    let rest = format!("/v1/events?trace_id={TRACE}&cursor={next}");
    let (_, rest) = server.call("GET", &rest, None).await;
    assert_eq!([ids(&first), ids(&rest)].concat(), ids(&trace));

    let unknown = format!("/v1/traces/{}", TRACE.replace('4', "5"));
    let (status, trace) = server.call("GET", &unknown, None).await;
    assert_eq!(
        (status.as_u16(), &trace["events"], &trace["next"]),
        (200, &json!([]), &Value::Null)
    );
    for broken in ["4bf9", &TRACE.replace('4', "x"), &"0".repeat(32)] {
        let (status, problem) = server.call("GET", &format!("/v1/traces/{broken}"), None).await;
        let field = &problem["errors"][0]["field"];
        assert_eq!((status.as_u16(), field), (400, &json!("trace_id")), "{broken}");
    }
    let (status, refused) = server.call("GET", "/v1/events?caller=", None).await;
    let field = &refused["errors"][0]["field"];
    assert_eq!((status.as_u16(), field), (422, &json!("caller")), "nobody has no name");
    server.stop().await;
}

/// Each filter alone, in both orders, over pages of two, against what the view `events` says.
#[tokio::test]
async fn every_filter_pages_through_what_the_view_shows() {
    let server = Server::start().await;
    for (service, instance) in [("orders", "a"), ("orders", "b"), ("stock", "a")] {
        server.register(service, instance, "15s").await;
        server.beat(service, instance).await;
        server.advance(10);
        let caller = [("rollcall-caller", "web")];
        let path = format!("/v1/services/{service}/instances?zone={instance}");
        server.send("GET", &path, &caller, None).await;
    }
    within(&server, TRACE, "DELETE", "/v1/services/orders/instances/a", None).await;
    traffic(&server, 6).await;
    let filters = [
        ("service=orders", "service = 'orders'"),
        ("instance=a", "instance = 'a'"),
        ("caller=web", "caller = 'web'"),
        ("kind=heartbeat", "kind = 'heartbeat'"),
        ("kind=registered", "kind = 'registered'"),
        ("namespace=default", "namespace = 'default'"),
        (&format!("trace_id={TRACE}"), &format!("trace_id = '{TRACE}'")),
        ("since=@4", "seq >= 4"),
        ("until=@4", "seq <= 4"),
        ("since=2026-11-21T08:00:00.020Z", "at >= '2026-11-21T08:00:00.020000Z'"),
        ("until=2026-11-21T08:00:00.010Z", "at <= '2026-11-21T08:00:00.010000Z'"),
        ("caller=nobody", "false"),
    ];
    for (filter, condition) in filters {
        for (order, direction) in [("asc", ""), ("desc", "DESC")] {
            let mut found = Vec::new();
            let mut cursor = String::new();
            loop {
                let path = format!("/v1/events?{filter}&order={order}&limit=2{cursor}");
                let (status, page) = server.call("GET", &path, None).await;
                assert_eq!((status.as_u16(), &page["complete"]), (200, &json!(true)), "{path}");
                found.extend(ids(&page).into_iter().map(str::to_owned));
                let Some(next) = page["next"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            // A traffic event stands after the change that it saw.
            let rows = server.sql(&format!(
                "SELECT id FROM events WHERE {condition} ORDER BY seq {direction}, \
                 id GLOB 't*' {direction}, CAST(ltrim(id, 't') AS INTEGER) {direction}"
            ));
            let expected: Vec<&str> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
            assert_eq!(found, expected, "{filter} {order}");
        }
    }
    server.stop().await;
}

/// Leaves nothing beside the file, and nothing in it but what is in use. A block is written anew each time that more of it
/// comes, which depends on how often the registrar gets to run: pages that held it before hold its bytes still, and to
/// damage one of those damages nothing. And what a reader has kept out of the file is read from the WAL.
fn in_one_piece(file: &std::path::Path) {
    let shell = rusqlite::Connection::open(file).unwrap();
    shell.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    shell.execute_batch("VACUUM").unwrap();
    let empty = "PRAGMA wal_checkpoint(TRUNCATE)";
    let is_busy: bool = shell.query_row(empty, [], |row| row.get(0)).unwrap();
    assert!(!is_busy, "the registry has stopped, and somebody reads its log");
}

/// Old traffic is damaged while nobody looks; the registry starts, answers, and says what it can't show.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_old_traffic_is_named_and_the_registry_goes_on() {
    let data = tempfile::TempDir::new().unwrap();
    let options = || Options { data: Some(data.path().to_owned()), ..Options::default() };
    let server = Server::start_with(options()).await;
    server.register("orders", "a", "1h").await;
    for _ in 0..600 {
        server.offered("orders").await;
    }
    traffic(&server, 600).await;
    server.stop().await;
    let file = data.path().join("rollcall.db");
    in_one_piece(&file);
    let span =
        sql(data.path(), "SELECT hex(substr(span_ids, 1, 8)) FROM traffic WHERE first = 257");

    let hex = span[0][0].as_str().unwrap().as_bytes().chunks(2);
    let hex: Vec<u8> = hex
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let mut bytes = std::fs::read(&file).unwrap();
    let mut places = bytes.windows(8).enumerate().filter(|(_, window)| *window == hex);
    let (place, _) = places.next().unwrap();
    assert_eq!(places.next(), None, "the block is in one place only");
    // The whole page: nothing in it is what SQLite wrote.
    bytes[place / 4096 * 4096..(place / 4096 + 1) * 4096].fill(0xA5);
    std::fs::write(&file, bytes).unwrap();

    let lines = &["the traffic block from t257 is damaged"];
    let server = Server::start_with(Options { lines, ..options() }).await;
    let (status, page) = server.call("GET", "/v1/events?kind=lookup&limit=1000", None).await;
    assert_eq!((status.as_u16(), &page["complete"]), (200, &json!(false)));
    assert_eq!(ids(&page).len(), 600 - 256, "{}", page["missing"]);
    let missing = &page["missing"][0];
    assert_eq!(
        (&missing["reason"], &missing["events"]),
        (&json!("damaged"), &json!("t257 to t512")),
        "{page}"
    );
    assert_eq!(server.offered("orders").await, ["a"]);

    // The command line says it too, asking the registry or the file: pages of 500 tell it once.
    let line = "events --kind lookup --limit 1000 --until -0s";
    for from in [String::new(), format!(" --data {}", data.path().display())] {
        let people = ask(&server, &format!("{line}{from}"));
        let told = people.errors.matches("the log is damaged there (t257 to t512)").count();
        assert_eq!((people.code, told), (0, 1), "{from}: {}", people.errors);
        let programs = ask(&server, &format!("{line} --output json{from}"));
        let last = programs.out.lines().last().unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(last, json!({"complete": false, "missing": page["missing"]}), "{from}");
    }
    server.stop().await;
}

/// A stretch that ends before it begins is refused, whatever its ends are written in, and one that does not holds both ends.
#[tokio::test(flavor = "multi_thread")]
async fn events_until_an_instant() {
    let server = Server::start().await;
    for instance in ["a", "b", "c"] {
        server.register("orders", instance, "15s").await;
        server.advance(1_000);
    }
    // 3, 4, 5 at 0, 1, 2 s; it is 3 s now.
    let data = format!(" --data {}", server.data.display());
    for (stretch, expected) in [
        ("--since @3 --until @4", &["3", "4"][..]),
        ("--since @4 --until @4", &["4"]),
        ("--since 2026-11-21T08:00:01Z --until 2026-11-21T08:00:02Z", &["4", "5"]),
        ("--since @4 --until 2026-11-21T08:00:01Z", &["4"]),
        ("--since 2026-11-21T08:00:01Z --until @4", &["4"]),
    ] {
        for from in ["", &data] {
            let ended = ask(&server, &format!("events --output json {stretch}{from}"));
            let ids: Vec<Value> = ended
                .out
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
                .collect();
            assert_eq!(ids, expected, "{stretch}{from}: {ended:?}");
        }
    }
    for (since, until) in [
        ("@4", "@3"),
        ("2026-11-21T08:00:02Z", "2026-11-21T08:00:01Z"),
        ("@5", "2026-11-21T08:00:01Z"),
        ("2026-11-21T08:00:02Z", "@4"),
    ] {
        let path = format!("/v1/events?since={since}&until={until}");
        let (status, problem) = server.call("GET", &path, None).await;
        let message = problem["errors"][0]["message"].as_str().unwrap_or_default();
        let [since_told, until_told] = [since, until].map(|end| end.replace('Z', ".000000Z"));
        let both = format!("since is {since_told}, until is {until_told}; exchange the two");
        assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("since")));
        assert!(message.ends_with(&both), "{message}");
        for from in ["", &data] {
            let ended = ask(&server, &format!("events --since {since} --until {until}{from}"));
            assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
            assert!(ended.errors.contains("must not be after"), "{ended:?}");
        }
    }
    server.stop().await;
}
