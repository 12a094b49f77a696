//! A plain lookup takes a shorter way than all other requests. Nobody can tell by anything that it leaves behind: a query
//! that is there but empty asks the same on the long way.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::collector::{Behaviour, Collector, Span, attribute};
use crate::harness::{Options, Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";

/// What is the same on both ways: all but the ids, which are each request's own, and the time.
#[derive(Debug, PartialEq)]
struct Same {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

async fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> Same {
    let answer = server.send("GET", path, headers, None).await;
    let own = ["traceresponse", "date"];
    let headers = answer.headers.iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let mut headers: Vec<(String, String)> = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort_unstable();
    assert!(!answer.header("traceresponse").is_empty());
    // A problem says its trace in the body; none takes the short way.
    let body = if answer.status.is_client_error() { String::new() } else { answer.text };
    Same { status: answer.status.as_u16(), headers, body }
}

/// The lookups in the log, without numbers, ids and times, oldest first.
async fn lookups(server: &Server) -> Vec<Value> {
    let (_, json) = server.call("GET", "/v1/events?kind=lookup&limit=1000", None).await;
    let mut events = json["events"].as_array().unwrap().clone();
    for event in &mut events {
        for own in ["id", "at", "trace_id", "span_id", "trace_url"] {
            event.as_object_mut().unwrap().remove(own);
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_answer_record_count_and_trace_alike() {
    let collector = Collector::start(Behaviour::Takes).await;
    let otlp = Some(collector.url.clone());
    let server = Server::start_with(Options { otlp, ..Options::default() }).await;
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "15s").await;
    let etag = ask(&server, ORDERS, &[]).await;
    let etag = etag.headers.iter().find(|(name, _)| name == "etag").unwrap().1.clone();
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (unsampled, broken) = (sampled.replace("-01", "-00"), "00-rubbish");
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[], 200),
        (&[("if-none-match", &etag)], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("traceparent", &unsampled), ("rollcall-caller", "web/web-1")], 200),
        (&[("traceparent", broken), ("user-agent", "curl/8.5.0")], 200),
        (&[("traceparent", sampled)], 200),
        (&[("accept", "text/html, */*;q=0.1")], 200),
        (&[("accept", "text/html")], 406),
    ];
    let count = |path: &'static str| {
        let server = &server;
        async move {
            let before = server.page().await;
            let mut seen = Vec::new();
            for (headers, status) in cases {
                let answer = ask(server, path, headers).await;
                assert_eq!(answer.status, *status, "{headers:?}");
                seen.push(answer);
            }
            let after = server.page().await;
            let moved: Vec<f64> = [
                ("http_server_request_duration_seconds_count", "{service}/instances\""),
                ("rollcall_lookups_total", "hit"),
                ("rollcall_lookups_total", "not_modified"),
                ("rollcall_trace_context_total", "valid"),
                ("rollcall_trace_context_total", "malformed"),
                ("http_server_active_requests", "GET"),
            ]
            .map(|(name, label)| after.sum(name, &[label]) - before.sum(name, &[label]))
            .into();
            (seen, moved)
        }
    };
    let short = count(ORDERS).await;
    let long = count("/v1/services/orders/instances?").await;
    assert_eq!(short.0, long.0, "answered alike");
    assert_eq!(short.1, long.1, "counted alike");
    assert!(short.1[..5].iter().all(|moved| *moved > 0.0), "{:?}", short.1);

    let events = eventually(
        "all lookups are in the log",
        async || {
            server.advance(10);
            lookups(&server).await
        },
        |events| events.len() == 15,
    );
    let events = events.await;
    assert_eq!(events[1..8], events[8..], "recorded alike");

    let of_caller = |collector: &Collector| -> Vec<Span> {
        let parent = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
        let spans = collector.spans().into_iter();
        spans.filter(|span| span.parent_span_id == parent).collect()
    };
    let spans =
        eventually("both are kept", async || of_caller(&collector), |spans| spans.len() == 2).await;
    let told = |span: &Span| {
        let attributes = span
            .attributes
            .iter()
            .map(|one| (one.key.clone(), attribute(&span.attributes, &one.key)));
        (span.name.clone(), span.kind, span.flags, attributes.collect::<BTreeMap<_, _>>())
    };
    let (short, mut long) = (told(&spans[0]), told(&spans[1]));
    assert_eq!(
        long.3.remove("url.query"),
        Some(Value::from("")),
        "it says that it came the long way"
    );
    assert_eq!(short, long);
    server.stop().await;
}
