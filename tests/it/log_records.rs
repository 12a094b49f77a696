//! Log lines as OTLP records, of a real process: what a collector gets is what standard error has; one that is not well
//! costs records and nothing else.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::collector::{Behaviour, Collector, Record, attribute, hex};
use crate::crash::Child;
use crate::harness::{Page, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A registry that sends its lines to `url`, and writes them to a file in `folder`.
async fn serve(folder: &Path, url: &str, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--otlp-logs"]);
    command.args(more).arg("--data").arg(folder.join("data"));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_BSP_SCHEDULE_DELAY", "20");
    command.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    command.stdout(Stdio::piped()).stderr(File::create(folder.join("lines")).unwrap());
    Child::spawn(command).ready().await
}

/// The lines so far, as JSON.
fn lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("lines")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Registers within a trace.
async fn register(child: &Child) {
    let url = format!("{}/v1/services/orders/instances/orders-1", child.url);
    let request = reqwest::Client::new().put(url).header("content-type", "application/json");
    let request = request.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    let body = r#"{"address": "10.0.0.7", "port": 8080, "ttl": "1h"}"#;
    assert!(request.body(body).send().await.unwrap().status().is_success());
}

async fn records_counted(child: &Child, result: &str) -> f64 {
    let page = reqwest::get(format!("{}/metrics", child.url)).await.unwrap().text().await.unwrap();
    Page(page).sum("rollcall_log_records_total", &[&format!("result=\"{result}\"")])
}

fn body(record: &Record) -> String {
    match record.record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_gets_what_standard_error_has() {
    let collector = Collector::start(Behaviour::Takes).await;
    let folder = TempDir::new().unwrap();
    // Down to the finest, where the parts that an export is made of say much: none of that may be sent.
    let child = serve(folder.path(), &collector.url, &["--log-level", "trace"]).await;
    register(&child).await;
    let registered = async || {
        let records = collector.records();
        records.into_iter().find(|record| body(record) == "registered orders/orders-1")
    };
    let record = eventually("the line of the registration", registered, Option::is_some).await;
    let Record { record, resource } = record.unwrap();
    let line = lines(folder.path());
    let line = line.iter().find(|line| line["event.kind"] == "registered").unwrap().clone();
    assert_eq!(
        (hex(&record.trace_id).as_str(), hex(&record.span_id)),
        (TRACE, line["span_id"].as_str().unwrap().to_owned())
    );
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, "INFO"));
    assert!(record.time_unix_nano > 0 && record.observed_time_unix_nano > 0);
    for key in ["event.seq", "event.kind", "service", "instance", "outcome", "duration_ms"] {
        assert_eq!(attribute(&record.attributes, key), line[key], "{key}");
    }
    assert_eq!(
        attribute(&record.attributes, "trace_id"),
        json!(null),
        "it stands in its own place"
    );
    for (key, value) in [("service.name", "rollcall"), ("deployment.environment.name", "test")] {
        assert_eq!(attribute(&resource, key), value);
    }
    child.terminate();

    let sent: Vec<String> = collector.records().iter().map(body).collect();
    let written = lines(folder.path());
    let of_registry = |line: &&Value| line["target"].as_str().unwrap().starts_with("rollcall");
    let expected = written.iter().filter(of_registry).map(|line| line["message"].as_str().unwrap());
    let missing: Vec<&str> =
        expected.filter(|line| !sent.iter().any(|sent| sent == line)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "{sent:?}");
    assert!(written.iter().any(|line| line["target"].as_str().unwrap().starts_with("h2")));
    assert!(sent.len() <= written.len(), "{} records of {} lines", sent.len(), written.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_well_costs_records_and_nothing_else() {
    for behaviour in [Behaviour::Refuses, Behaviour::Hangs] {
        let collector = Collector::start(behaviour).await;
        let folder = TempDir::new().unwrap();
        let began = tokio::time::Instant::now();
        let child = serve(folder.path(), &collector.url, &[]).await;
        register(&child).await;
        assert!(began.elapsed() < Duration::from_secs(6), "{behaviour:?}: {:?}", began.elapsed());
        if behaviour == Behaviour::Refuses {
            let failed = async || records_counted(&child, "export_failed").await;
            eventually("records are lost and counted", failed, |failed| *failed > 2.0).await;
        }
        assert_eq!(records_counted(&child, "exported").await, 0.0, "{behaviour:?}");
        let ending = tokio::time::Instant::now();
        child.terminate();
        assert!(ending.elapsed() < Duration::from_secs(6), "{behaviour:?}: {:?}", ending.elapsed());
        let told = lines(folder.path());
        let count = |part: &str| {
            told.iter().filter(|line| line["message"].as_str().unwrap().contains(part)).count()
        };
        assert_eq!(count("registered orders/orders-1"), 1, "{behaviour:?}");
        match behaviour {
            // Once, however many batches fail.
            Behaviour::Refuses => assert_eq!(count("log records do not reach the collector"), 1),
            _ => assert_eq!(count("log records did not reach the collector"), 1, "{told:?}"),
        }
    }
}
