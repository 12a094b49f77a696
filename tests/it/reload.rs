//! SIGHUP to a real process: what can be changed while it runs is changed, what is wrong changes nothing.

use std::fs::File;
use std::process::{Command, Stdio};

use reqwest::Method;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::collector::{Behaviour, Collector, attribute, hex};
use crate::crash::Child;
use crate::harness::eventually;

/// A trace that its caller keeps.
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_wrong_ones_change_nothing() {
    let folder = TempDir::new().unwrap();
    let [settings, lines] = ["rollcall.toml", "lines"].map(|name| folder.path().join(name));
    std::fs::write(&settings, "log_level = 'warn'").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]);
    command.arg(folder.path().join("data")).arg("--config").arg(&settings);
    command.stdout(Stdio::piped()).stderr(File::create(&lines).unwrap());
    let child = Child::spawn(command).ready().await;

    let told = async |file: &str, message: &str| {
        std::fs::write(&settings, file).unwrap();
        kill_process(child.pid(), Signal::HUP).unwrap();
        let read = async || std::fs::read_to_string(&lines).unwrap();
        eventually(message, read, |text| text.contains(message)).await
    };
    // Still at `warn`: what went well has no line, what went wrong has one.
    let text = told("log_level = 'loud=x'", "settings can't be read again").await;
    assert!(text.contains("log_level (from "), "{text}");
    let text =
        told("default_ttl = '20s'", "default_ttl have changed, and hold from the next").await;
    // Without the row the level is the default, at once: the same reading has told so.
    assert!(text.contains("log_level hold from now on"), "{text}");
    told("trace_caller_rate = 3", "trace_caller_rate hold from now on").await;
    child.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_decides_about_traces_holds_at_once() {
    let collector = Collector::start(Behaviour::Takes).await;
    let folder = TempDir::new().unwrap();
    let [settings, lines] = ["rollcall.toml", "lines"].map(|name| folder.path().join(name));
    // Nothing is kept, whatever it is.
    let nothing = "trace_root_ratio = 0.0\ntrace_caller_rate = 0\ntrace_change_rate = 0\n\
                   trace_slow_read = '1h'\ntrace_slow_change = '1h'\ntrace_slow_question = '1h'\n";
    std::fs::write(&settings, nothing).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]);
    command.arg(folder.path().join("data")).arg("--config").arg(&settings);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "20");
    command.stdout(Stdio::piped()).stderr(File::create(&lines).unwrap());
    let child = Child::spawn(command).ready().await;

    let http = reqwest::Client::new();
    // Asks, and gives the id of the trace that the answer was given in.
    let ask = async |method: Method, path: &str| {
        let mut request = http.request(method.clone(), format!("{}{path}", child.url));
        request = request.header("traceparent", SAMPLED);
        if method == Method::PUT {
            let body = r#"{"address": "10.0.0.7", "port": 8080, "ttl": "1h"}"#;
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        response.headers()["traceresponse"].to_str().unwrap()[36..52].to_owned()
    };
    // Writes the settings anew, and waits until it is told that these have changed.
    let change = async |file: String, message: &str| {
        let told = || std::fs::read_to_string(&lines).unwrap().matches(message).count();
        let before = told();
        std::fs::write(&settings, file).unwrap();
        kill_process(child.pid(), Signal::HUP).unwrap();
        eventually(message, async || told(), |told| *told > before).await;
    };
    let (lookup, change_path) = ("/v1/services/a/instances", "/v1/services/a/instances/a-1");
    let mut silent = Vec::new();
    for (key, value, method, path, reason) in [
        ("trace_change_rate", "5", Method::PUT, change_path, "change"),
        ("trace_slow_read", "'0ms'", Method::GET, lookup, "slow"),
        ("trace_slow_change", "'0ms'", Method::PUT, change_path, "slow"),
        ("trace_slow_question", "'0ms'", Method::GET, "/v1/services", "slow"),
        ("trace_caller_rate", "5", Method::GET, lookup, "caller"),
    ] {
        silent.push(ask(method.clone(), path).await);
        let other: String = nothing
            .lines()
            .filter(|line| !line.starts_with(key))
            .fold(format!("{key} = {value}\n"), |file, line| file + line + "\n");
        change(other, "hold from now on").await;
        let kept = ask(method, path).await;
        let span = collector.span_of(&kept).await;
        assert_eq!(attribute(&span.attributes, "rollcall.keep"), reason, "{key}");
        // What can't be read changes nothing.
        change(format!("{nothing}{key} = 'x'"), "settings can't be read again").await;
        let kept = ask(Method::PUT, change_path).await;
        if key == "trace_change_rate" {
            collector.span_of(&kept).await;
        }
        change(nothing.to_owned(), "hold from now on").await;
    }
    // What a burst lets through at once is what is saved up: here that of half a second. Commits take from it, too.
    let burst =
        format!("{nothing}trace_burst = '500ms'\n").replace("change_rate = 0", "change_rate = 20");
    change(burst, "trace_burst").await;
    let mut asked = Vec::new();
    for _ in 0..60 {
        asked.push(ask(Method::PUT, change_path).await);
    }
    collector.span_of(&asked[0]).await;
    child.terminate();
    // All that was kept is there now: the end waited for it.
    let spans: Vec<String> = collector.spans().iter().map(|span| hex(&span.span_id)).collect();
    assert!(!silent.iter().any(|id| spans.contains(id)), "kept before its setting said so");
    let kept = asked.iter().filter(|id| spans.contains(id)).count();
    assert!((2..50).contains(&kept), "ten at once, and twenty a second: {kept}");
}
