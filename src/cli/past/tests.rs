//! What people are shown of answers about the past: the contract's own examples, and answers with less or more in them.

use serde_json::json;

use super::graph::show_graph;
use super::impact::show_impact;
use super::life::{show_history, show_trace, show_why};
use super::state::show_diff;
use super::*;

fn shown(show: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    show(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// The words of each line.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn expired() -> Value {
    json!({"id": "57", "seq": 57, "at": "2026-11-21T08:00:15.021000Z", "kind": "expired", "namespace": "default",
        "service": "orders", "instance": "orders-2", "caller": null, "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "cause": 41, "data": {"ttl": "15s", "gap_ms": 15_021, "missed": 4, "late_ms": 21}})
}

#[test]
fn a_difference_reads_like_one() {
    let instance = json!({"namespace": "default", "service": "orders", "instance": "orders-3",
        "address": "fd00::7", "port": 8080});
    let diff = json!({
        "from": {"seq": 41, "at": "2026-11-21T08:00:00.000000Z"},
        "to": {"seq": 60, "at": "2026-11-21T08:01:00.000000Z"},
        "came": [{"instance": instance, "event": {"id": "59"}}],
        "left": [{"instance": {"namespace": "eu", "service": "web", "instance": "web-1"}, "event": expired()}],
        "changed": [{"service": "orders", "instance": "orders-1", "fields": {"weight": [100, 50], "zone": [null, "b"]},
            "events": ["42", "44"]}],
        "passed": 1, "truncated": true, "left_out": {"came": 3, "left": 0, "changed": 1}, "novelty": {},
    });
    let text = shown(|out| show_diff(out, &diff));
    let rows = rows(&text);
    assert_eq!(rows[0], ["from", "2026-11-21T08:00:00.000000Z", "(@41)"]);
    assert_eq!(rows[4], ["+", "orders/orders-3", "[fd00::7]:8080", "59"]);
    assert_eq!(rows[5][..4], ["-", "eu:web/web-1", "expired", "at"]);
    assert_eq!(
        rows[6],
        ["~", "orders/orders-1", "weight", "100", "->", "50,", "zone", "->", "b", "42", "44"]
    );
    assert!(text.contains("1 instance came and left between the two\n"), "{text}");
    let more = "left out: 3 more that came, 1 more that changed; --limit or --service shows them\n";
    assert!(text.ends_with(more), "{text}");
    // As the contract's first form has it: the instance itself stands in the list.
    let plain = json!({"came": [instance]});
    assert!(shown(|out| show_diff(out, &plain)).contains("orders/orders-3"));
    assert!(shown(|out| show_diff(out, &json!({}))).contains("nothing is different"));
}

#[test]
fn a_reason_begins_with_its_sentence_and_leads_on() {
    let why = json!({
        "event": expired(), "summary": "orders-2 expired: no heartbeat for 15.02 s",
        "trace_url": "http://localhost:16686/trace/0af7", "complete": true,
        "arithmetic": {"ttl": "15s", "gap_ms": 17_021, "allowed_ms": 15_000, "late_ms": 21, "grace_ms": 2_000},
        "last_heartbeat": {"trace_url": "http://localhost:16686/trace/beef"},
    });
    let text = shown(|out| show_why(out, "orders", "orders-2", &why));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "orders-2 expired: no heartbeat for 15.02 s");
    assert!(text.contains(
        "17.021s of silence = 15s allowed (ttl 15s) + 21ms until it was noticed + 2s of grace"
    ));
    assert!(text.contains("last heartbeat  http://localhost:16686/trace/beef"), "{text}");
    assert_eq!(
        *lines.last().unwrap(),
        "who was handed it: rollcall impact orders orders-2 --seq 57"
    );
    // One that lives, on a server that says little.
    let living =
        json!({"event": {"id": "3", "at": "x", "kind": "registered"}, "summary": "it lives"});
    let text = shown(|out| show_why(out, "orders", "orders-1", &living));
    assert!(!text.contains("rollcall impact") && text.starts_with("it lives\n"), "{text}");
}

#[test]
fn lives_are_told_with_their_gaps_and_what_is_not_known() {
    let history = json!({
        "lives": [
            {"incarnation": 3, "from": "A", "until": "B", "ended_by": expired(), "transitions": [expired()],
                "widest_gaps": [{"at": "B", "gap_ms": 15_021, "ended_by": "expired"}, {"at": "C", "gap_ms": 7_000}]},
            {"incarnation": 60, "from": "D", "until": null, "ended_by": null, "transitions": [], "widest_gaps": []},
        ],
        "left_out": {"lives": 2, "transitions": 1}, "flap_score": 0.253, "complete": false,
        "missing": [{"from": "E", "until": "F", "reason": "retention", "events": "t1 to t256"}],
    });
    let text = shown(|out| show_history(out, "orders", "orders-2", &history));
    for part in [
        "orders/orders-2, flap score 0.25",
        "incarnation 3: A to B, expired\n  2026-11-21T08:00:15.021000Z",
        "  widest gaps: 15.021s until B, when it expired; 7s until C",
        "incarnation 60: D to now, it lives",
        "left out: 2 older lives and 1 older change; --limit shows more",
        "  E to F: retention took what is older than the budget (t1 to t256)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_impact_names_callers_until_when_and_traces_to_open() {
    let trace = |n: u64| {
        json!({"trace_id": "0af7", "span_id": "b7ad", "at": format!("T{n}"), "revision": 41,
            "trace_url": format!("http://localhost:16686/trace/{n}")})
    };
    let impact = json!({
        "instance": {"service": "orders", "instance": "orders-2"}, "departure": expired(),
        "last_sign_of_life": {"at": "A", "kind": "heartbeat", "trace_id": "feed"},
        "callers": [
            {"caller": "web/web-1", "lookups": 12, "first": "B", "last": "C", "held_until": "D",
                "traces": [trace(1), trace(2), trace(3), trace(4), trace(5), trace(6), trace(7)]},
            {"caller": "curl", "lookups": 1, "first": "B", "last": "B", "held_until": null, "approximate": true,
                "traces": [{"trace_id": "0af8", "at": "T9", "trace_url": null}]},
        ],
        "streams": [{"caller": "proxy", "opened": "E", "told_at": null}],
        "lookups": 13, "complete": true,
    });
    let text = shown(|out| show_impact(out, &impact));
    for part in [
        "orders-2 expired at 2026-11-21T08:00:15.021000Z (event 57)",
        "its last sign of life was a heartbeat at A, trace feed",
        "handed out 13 times in between, to 2 callers:",
        "http://localhost:16686/trace/5\n  and 2 more of web/web-1: --output json",
        "T9 curl  trace 0af8",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("/trace/6") && !text.contains("CONFIRMED"), "{text}");
    let rows = rows(&text);
    assert!(rows.contains(&vec!["web/web-1", "12", "B", "C", "D"]), "{text}");
    assert!(rows.contains(&vec!["curl", "about", "1", "B", "B", "not", "told", "yet"]), "{text}");
    assert!(rows.contains(&vec!["proxy", "E", "not", "told", "yet"]), "{text}");
    let nobody = json!({"instance": {}, "departure": expired(), "callers": [], "lookups": 0});
    assert!(shown(|out| show_impact(out, &nobody)).contains("nobody was handed it in between"));
}

#[test]
fn a_graph_and_a_trace_are_rows() {
    let graph = json!({"nodes": [], "edges": [
        {"caller": "web", "service": "orders", "lookups": 120, "rate": 2.0, "failed": 0.025, "last": "A"}]});
    let text = shown(|out| show_graph(out, &graph));
    assert_eq!(rows(&text)[1], ["web", "orders", "120", "2.00", "2.5", "%", "A"]);
    let trace =
        json!({"trace_id": "0af7", "trace_url": "http://localhost/0af7", "events": [expired()]});
    let text = shown(|out| show_trace(out, &trace));
    assert!(
        text.starts_with("2026-11-21T08:00:15.021000Z")
            && text.contains("see it: http://localhost/0af7")
    );
}
