//! `rollcall bench`: its figures are of what was asked, nothing is left out of them, and it leaves nothing behind.

use std::process::Stdio;
use std::time::Duration;

use rollcall::config::Settings;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::command_line::{Ended, rollcall, run};
use crate::harness::{Options, Server, eventually};

/// Runs it while the servers of this test go on.
async fn bench(line: String) -> Ended {
    let words = format!("bench {line}");
    tokio::task::spawn_blocking(move || run(rollcall(words.split(' ')))).await.unwrap()
}

/// Instances that are registered in any namespace.
async fn present(server: &Server) -> Value {
    server.call("GET", "/v1/status", None).await.1["instances"].clone()
}

/// How many events of each kind there are about services of a namespace: that it asked who is there is about none.
fn events(server: &Server, namespace: &str) -> Vec<(String, u64)> {
    let query = format!(
        "SELECT kind, count(*) FROM events WHERE namespace = '{namespace}' AND service IS NOT NULL \
         GROUP BY kind ORDER BY kind"
    );
    let rows = server.sql(&query);
    rows.iter().map(|row| (row[0].as_str().unwrap().into(), row[1].as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_figures_are_what_the_log_has() {
    let server = Server::start().await;
    server.register("orders", "not-its-own", "10m").await;
    let line = format!(
        "{} --work mixed --requests 500 --connections 4 --services 3 --instances 2 --output json",
        server.url
    );
    let told = bench(line).await;
    assert_eq!(told.code, 0, "{told:?}");
    let report = told.json();
    assert_eq!((&report["loop"], &report["unsent"]), (&json!("closed"), &json!(0)));
    let of = |work: &str, field: &str| {
        let results = report["results"].as_array().unwrap();
        results.iter().find(|result| result["work"] == work).unwrap()[field].clone()
    };
    let count = |work: &str| of(work, "requests").as_u64().unwrap();
    assert_eq!(count("lookup") + count("heartbeat") + count("register"), 500);
    assert!(count("lookup") > count("heartbeat") && count("heartbeat") > count("register"));
    for work in ["lookup", "heartbeat", "register"] {
        let histogram = of(work, "histogram");
        let buckets = histogram.as_array().unwrap().iter().map(|b| b["requests"].as_u64().unwrap());
        assert_eq!(buckets.sum::<u64>(), count(work));
        let latency = of(work, "latency_seconds");
        let [p50, p99, max] = ["p50", "p99", "max"].map(|name| latency[name].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= max && max < 30.0, "{latency}");
        assert_eq!((of(work, "failed"), of(work, "refused")), (json!(0), json!({})));
    }
    let namespace = report["namespace"].as_str().unwrap();
    let expected = [
        ("deregistered", 6),
        ("heartbeat", count("heartbeat")),
        ("lookup", count("lookup")),
        ("registered", 6 + count("register")),
    ];
    let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
    let seen = async || events(&server, namespace);
    eventually("all is in the log", seen, |seen| *seen == expected).await;
    // A registration of the load is a change each.
    let unchanged =
        "SELECT id FROM events WHERE kind = 'registered' AND data LIKE '%\"unchanged\"%'";
    assert_eq!(server.sql(unchanged), Vec::<Vec<Value>>::new());
    assert_eq!(present(&server).await, 1, "the fleet is gone, and nobody else is");
    assert_eq!(server.offered("orders").await, ["not-its-own"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_keeps_its_rate_and_prints_a_table() {
    let server = Server::start().await;
    let line = format!(
        "{} --rate 200 --requests 60 --connections 2 --services 2 --instances 1 --namespace load",
        server.url
    );
    let told = bench(line.clone()).await;
    assert_eq!(told.code, 0, "{told:?}");
    let mut lines = told.out.lines();
    let head = lines.next().unwrap();
    assert!(head.contains("open loop at 200/s, 2 connections, 2 services of 1"), "{head}");
    let seconds: f64 = head.rsplit(", ").next().unwrap().trim_end_matches(" s").parse().unwrap();
    assert!(seconds >= 0.2, "60 requests at 200/s were done in {seconds} s");
    let row = lines.find(|line| line.starts_with("lookup  ")).unwrap();
    assert_eq!(row.split_whitespace().nth(1), Some("60"), "{}", told.out);
    assert!(told.out.contains("up to ") && told.out.contains('█'), "{}", told.out);
    // Its services have no instances left, so that it may be used again; where somebody is, it may not.
    assert_eq!(bench(line.clone()).await.code, 0);
    let body = json!({"address": "10.0.0.7", "port": 80, "ttl": "10m"});
    let path = "/v1/services/mine/instances/a?namespace=load";
    assert_eq!(server.call("PUT", path, Some(body)).await.0, 201);
    let refused = bench(line).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.errors.contains("namespace load has instances already"), "{refused:?}");
    assert_eq!(present(&server).await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_load_and_takes_the_fleet_off() {
    let server = Server::start().await;
    let line = format!("bench {} --duration 10m --services 2 --instances 2", server.url);
    let mut command = rollcall(line.split(' '));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lookups = async || {
        let page = server.page().await;
        page.sum("rollcall_lookups_total", &[])
    };
    eventually("the load has begun", lookups, |lookups| *lookups > 100.0).await;
    assert_eq!(present(&server).await, 4);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.lines().next().unwrap().ends_with(", interrupted"), "{text}");
    assert_eq!(present(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_done_is_told_and_leaves_nothing_behind() {
    let settings: fn(&mut Settings) = |settings| settings.max_instances_per_service = Some(2);
    let server =
        Server::start_with(Options { settings: Some(settings), ..Options::default() }).await;
    let refused = bench(format!("{} --services 2 --instances 3", server.url)).await;
    assert_eq!((refused.code, refused.out.as_str()), (3, ""), "{refused:?}");
    assert!(refused.errors.contains("max_instances_per_service"), "{refused:?}");
    assert_eq!(present(&server).await, 0);
    let url = server.url.clone();
    server.stop().await;
    let silent = bench(url.clone()).await;
    assert_eq!(silent.code, 3, "{silent:?}");
    assert!(silent.errors.contains(&url), "{silent:?}");
    for line in [
        "https://127.0.0.1:1",
        "http://127.0.0.1:1 --rate 0",
        "http://127.0.0.1:1 --connections 0",
        "http://127.0.0.1:1 --duration 0s",
        "http://127.0.0.1:1 --requests 5 --duration 1s",
        "http://127.0.0.1:1 --work sleep",
        "http://127.0.0.1:1 --namespace a/b",
    ] {
        assert_eq!(bench(line.to_owned()).await.code, 2, "{line}");
    }
}

/// A registry that takes everything, but stalls once and refuses now and then.
async fn moody(listener: TcpListener, stall: Duration) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer_all(stream, stall));
    }
}

async fn answer_all(stream: TcpStream, stall: Duration) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(stream);
    let mut lookups = 0;
    loop {
        let (mut first, mut length) = (String::new(), 0);
        stream.read_line(&mut first).await.ok().filter(|count| *count > 0)?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        let is_lookup = first.starts_with("GET /v1/services/");
        lookups += usize::from(is_lookup);
        let status = if is_lookup && lookups % 10 == 0 { "503 Busy" } else { "200 OK" };
        if is_lookup && lookups == 21 {
            tokio::time::sleep(stall).await;
        }
        let body = r#"{"version":"0","services":[],"next":null}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_seen_by_all_whom_it_met_and_refusals_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(moody(listener, Duration::from_secs(1)));
    let line =
        format!("{url} --requests 100 --connections 1 --services 1 --instances 1 --output json");
    // A hundred are due within a second; the stall comes after a fifth of it and meets all the others.
    let told = bench(format!("{line} --rate 100")).await;
    assert_eq!(told.code, 1, "{told:?}");
    let open = told.json()["results"][0].clone();
    assert_eq!((&open["requests"], &open["refused"]), (&json!(90), &json!({"503": 10})));
    let p50 = open["latency_seconds"]["p50"].as_f64().unwrap();
    assert!(p50 > 0.3, "half of them were due while nothing was answered: {open}");
    // A closed loop asks nobody while it waits: it sees one slow request. That is why there are both.
    let told = bench(line).await;
    let closed = told.json()["results"][0].clone();
    let [p90, max] = ["p90", "max"].map(|name| closed["latency_seconds"][name].as_f64().unwrap());
    assert!(max >= 0.9 && p90 < 0.5, "{closed}");
}
