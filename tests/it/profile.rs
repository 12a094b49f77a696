//! A profile of a real process at work, read as its tools read it: with another decoder than the one that wrote it.

use std::io::Read as _;

use flate2::read::GzDecoder;
use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::crash::Child;
use crate::harness::{Options, Page, Server, eventually};

const PATH: &str = "/debug/pprof/profile";

/// `profile.proto` of github.com/google/pprof, as far as it is looked at here.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    name: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

impl Profile {
    fn read(packed: &[u8]) -> Self {
        let mut message = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut message).unwrap();
        Self::decode(&*message).unwrap()
    }

    fn text(&self, place: i64) -> &str {
        &self.string_table[usize::try_from(place).unwrap()]
    }

    fn kinds(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|kind| (self.text(kind.name), self.text(kind.unit))).collect()
    }

    /// The functions of a stack, the innermost first.
    fn stack(&self, sample: &Sample) -> Vec<&str> {
        let place = |id: &u64| self.location.iter().find(|location| location.id == *id).unwrap();
        let lines = sample.location_id.iter().flat_map(|id| &place(id).line);
        lines
            .map(|line| {
                let function = self.function.iter().find(|one| one.id == line.function_id).unwrap();
                self.text(function.name)
            })
            .collect()
    }
}

/// Asks for a list again and again, until it is told to end.
fn keep_busy(url: &str) -> JoinSet<()> {
    let http = reqwest::Client::new();
    let mut busy = JoinSet::new();
    for _ in 0..4 {
        let (http, url) = (http.clone(), format!("{url}/openapi.json"));
        busy.spawn(async move {
            loop {
                http.get(&url)
                    .header("accept-encoding", "gzip")
                    .send()
                    .await
                    .unwrap()
                    .bytes()
                    .await
                    .unwrap();
            }
        });
    }
    busy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_names_the_functions_of_a_busy_registry() {
    let data = TempDir::new().unwrap();
    let child =
        Child::serve_with(&data, &["--profiling", "--shutdown-timeout", "50s"]).ready().await;
    let mut busy = keep_busy(&child.url);
    let url = child.url.clone();
    let ask = move |query: &str| reqwest::get(format!("{url}{PATH}{query}"));
    let (one, two) = tokio::join!(ask("?seconds=2"), ask("?seconds=2"));
    let mut answers = [one.unwrap(), two.unwrap()];
    answers.sort_by_key(reqwest::Response::status);
    let [taken, refused] = answers;
    assert_eq!((taken.status().as_u16(), refused.status().as_u16()), (200, 409));
    assert!(refused.text().await.unwrap().contains("/problems/profile-running"));
    assert_eq!(taken.headers()["content-type"], "application/octet-stream");
    let profile = Profile::read(&taken.bytes().await.unwrap());

    assert_eq!(profile.kinds(), [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!((profile.string_table[0].as_str(), profile.period), ("", 10_101_010));
    let seconds = profile.duration_nanos / 1_000_000_000;
    assert!(seconds >= 2, "{seconds} s");
    let seen: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    let cpu: i64 = profile.sample.iter().map(|sample| sample.value[1]).sum();
    assert!(seen > 10, "{seen} samples");
    assert_eq!(cpu, seen * profile.period);
    let stacks: Vec<Vec<&str>> = profile.sample.iter().map(|one| profile.stack(one)).collect();
    let all = || stacks.iter().flatten();
    assert!(all().any(|name| name.starts_with("rollcall::http::")), "{stacks:#?}");
    // As deep as the runtime that carries it all, and without those who looked.
    assert!(stacks.iter().any(|stack| stack.iter().any(|name| name.contains("tokio::runtime"))));
    assert!(!all().any(|name| name.starts_with("pprof::") || name.starts_with("backtrace::")));
    assert!(stacks.iter().all(|stack| !stack[0].starts_with("trace")), "{stacks:#?}");
    let thread = &profile.sample[0].label[0];
    assert_eq!(profile.text(thread.key), "thread");
    assert!(!profile.text(thread.text).is_empty());

    // The next one may begin, and a registry that stops does not wait for it. Both see the same requests: it and the scrape.
    busy.shutdown().await;
    let mut last = JoinSet::new();
    last.spawn(ask("?seconds=60"));
    let active = async || {
        let page = reqwest::get(format!("{}/metrics", child.url)).await.unwrap();
        Page(page.text().await.unwrap()).sum("http_server_active_requests", &[])
    };
    eventually("it is being taken", active, |active| (*active - 2.0).abs() < 0.5).await;
    let url = child.url.clone();
    assert!(tokio::task::spawn_blocking(|| child.end()).await.unwrap(), "{url} ended in order");
    let last = last.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(last.status(), 200);
    // Cut short: it does not cover the minute that was asked for.
    let covered = Profile::read(&last.bytes().await.unwrap()).duration_nanos;
    assert!(covered < 60_000_000_000, "it waited for the profile: {covered} ns");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_by_default_and_bounded() {
    let server = Server::start().await;
    let (status, problem) = server.call("GET", PATH, None).await;
    assert_eq!(
        (status.as_u16(), problem["type"].as_str().unwrap()),
        (404, "/problems/not-profiling")
    );
    assert!(problem["detail"].as_str().unwrap().contains("--profiling"));
    server.stop().await;

    let options =
        Options { settings: Some(|settings| settings.profiling = true), ..Default::default() };
    let server = Server::start_with(options).await;
    for (query, status) in
        [("seconds=0", 422), ("seconds=61", 422), ("seconds=x", 400), ("s=1", 400)]
    {
        let (found, problem) = server.call("GET", &format!("{PATH}?{query}"), None).await;
        assert_eq!(found, status, "{query}: {problem}");
        let named = query.split_once('=').unwrap().0;
        assert_eq!(problem["errors"][0]["field"], named);
    }
    server.stop().await;
}
