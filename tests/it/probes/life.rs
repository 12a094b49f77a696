//! Verdicts outlive the process and a log that fails, and each leads to the trace of the probe that made it.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rollcall::domain::event::Event;
use rollcall::domain::health::ProbeVerdict;
use rollcall::log::memory::{Fault, MemoryLog};
use serde_json::json;
use tempfile::TempDir;

use super::target::{Behaviour, Target};
use super::{ORDERS_1, becomes, register, start, up};
use crate::collector::{Behaviour as Receives, Collector, attribute, hex};
use crate::harness::{Options, Server, eventually};

fn down() -> Behaviour {
    Behaviour::answers("500 Internal Server Error", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_survives_a_restart_until_a_probe_says_otherwise() {
    let (data, target) = (TempDir::new().unwrap(), Target::start(down()).await);
    let options =
        || Options { data: Some(data.path().to_owned()), system_clock: true, ..Options::default() };
    let server = Server::start_with(options()).await;
    // Long enough that no probe of the second run comes before it was looked at.
    let check = json!({"kind": "http", "interval": "3s", "failures": 1});
    register(&server, target.address, check).await;
    becomes(&server, "failed").await;
    server.stop().await;

    let requests = target.heads().len();
    let server = Server::start_with(options()).await;
    assert_eq!(server.status_of("orders", "orders-1").await.unwrap(), "failed");
    eventually("it is probed", async || target.heads().len(), |now| *now > requests).await;
    assert_eq!(server.status_of("orders", "orders-1").await.unwrap(), "failed");
    target.now(up());
    becomes(&server, "healthy").await;
    let rows = server.sql("SELECT count(*) FROM events WHERE kind = 'status_changed'");
    assert_eq!(rows[0][0], 2, "it failed once and passed once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_the_log_could_not_take_is_said_again() {
    let (log, target) = (MemoryLog::new(), Target::start(up()).await);
    let server = Server::start_with(Options {
        memory: Some(log.clone()),
        system_clock: true,
        lines: &["the log cannot be written", "the log is written again"],
        ..Options::default()
    })
    .await;
    register(&server, target.address, json!({"kind": "http"})).await;
    let healthy = async || server.status_of("orders", "orders-1").await.unwrap();
    eventually("it passes", healthy, |status| status == "healthy").await;
    log.set_fault(Fault::Unavailable);
    target.now(down());
    let refused =
        async || server.page().await.sum("rollcall_probes_total", &["outcome=\"rejected\""]);
    eventually("many fail", refused, |count| *count >= 5.0).await;
    assert_eq!(healthy().await, "healthy", "what is not in the log has not happened");
    log.set_fault(Fault::None);
    eventually("it is said again", healthy, |status| status == "failed").await;
    let verdicts = || -> Vec<ProbeVerdict> {
        let of = |event: &Event| match event {
            Event::StatusChanged { signals, .. } => signals.probe,
            _ => None,
        };
        log.changes().iter().filter_map(|change| of(&change.event)).collect()
    };
    assert_eq!(verdicts().last(), Some(&ProbeVerdict::Failing), "{:?}", verdicts());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_probe_has_a_trace_that_leads_to_its_event() {
    let collector = Collector::start(Receives::Takes).await;
    let server = Server::start_with(Options {
        otlp: Some(collector.url.clone()),
        system_clock: true,
        ..Options::default()
    })
    .await;
    let target = Target::start(up()).await;
    register(&server, target.address, json!({"kind": "http"})).await;
    becomes(&server, "healthy").await;
    target.now(down());
    becomes(&server, "failed").await;

    let query = "SELECT trace_id, span_id, seq, data FROM events WHERE kind = 'status_changed' ORDER BY seq";
    let registered = server.sql("SELECT trace_id FROM events WHERE kind = 'registered'");
    let heads = target.heads();
    for row in server.sql(query) {
        let (trace, id) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        let sent = format!("traceparent: 00-{trace}-{id}-0");
        assert_eq!(heads.iter().filter(|head| head.contains(&sent)).count(), 1, "{sent}");
        let span = collector.span("probe", |span| hex(&span.span_id) == id).await;
        assert_eq!((hex(&span.trace_id).as_str(), span.kind()), (trace, SpanKind::Client));
        assert!(span.parent_span_id.is_empty(), "a trace of its own");
        let data: serde_json::Value = serde_json::from_str(row[3].as_str().unwrap()).unwrap();
        for (key, value) in [
            ("rollcall.event.seq", row[2].clone()),
            ("rollcall.service", json!("orders")),
            ("rollcall.instance", json!("orders-1")),
            ("rollcall.check.kind", json!("http")),
            ("rollcall.check.verdict", data["signals"]["probe"].clone()),
            ("server.port", json!(target.address.port())),
            ("url.path", json!("/health")),
            ("http.response.status_code", data["probe"]["status"].clone()),
        ] {
            assert_eq!(attribute(&span.attributes, key), value, "{key}");
        }
        assert_eq!(span.links.len(), 1);
        assert_eq!(hex(&span.links[0].trace_id), registered[0][0].as_str().unwrap());
    }
    // Probes that pass and change nothing are not kept, but for a small share.
    target.now(up());
    becomes(&server, "healthy").await;
    let before = target.heads().len();
    eventually("many pass", async || target.heads().len(), |now| *now >= before + 20).await;
    let kept = |span: &crate::collector::Span| {
        span.name == "probe" && attribute(&span.attributes, "rollcall.check.outcome") == "passed"
    };
    let passed = collector.spans().iter().filter(|span| kept(span)).count();
    assert!(passed <= 8, "{passed} of more than 20");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_and_a_report_do_not_undo_each_other() {
    let (server, target) = (start().await, Target::start(down()).await);
    register(&server, target.address, json!({"kind": "http"})).await;
    becomes(&server, "failed").await;
    let path = format!("{ORDERS_1}/heartbeat");
    let beat = async |health: &str| {
        let (status, answer) = server.call("PUT", &path, Some(json!({"health": health}))).await;
        assert_eq!(status, 200, "{answer}");
    };
    beat("passing").await;
    assert_eq!(server.status_of("orders", "orders-1").await.unwrap(), "failed");
    beat("failing").await;
    target.now(up());
    let passed =
        async || server.page().await.sum("rollcall_probe_verdicts_total", &["verdict=\"passing\""]);
    eventually("the probe passes", passed, |count| *count >= 1.0).await;
    assert_eq!(server.status_of("orders", "orders-1").await.unwrap(), "failed");
    beat("passing").await;
    becomes(&server, "healthy").await;
    server.stop().await;
}
