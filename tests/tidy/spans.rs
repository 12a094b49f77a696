//! The spans that the registry makes, for the page of signals: a table beside the sources that make them, held to the
//! attributes that stand there.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::{none, read};

/// One kind of span.
struct Span {
    name: &'static str,
    kind: &'static str,
    /// What it hangs on, and what it links to.
    place: &'static str,
    attributes: &'static [&'static str],
}

/// A source and the spans that it makes.
const SOURCES: &[(&str, &[Span])] = &[
    (
        "src/http/scope/span.rs",
        &[
            Span {
                name: "METHOD ROUTE",
                kind: "server",
                place: "child of the caller's span, if it names one",
                attributes: &[
                    "client.address",
                    "error.type",
                    "http.request.method",
                    "http.response.status_code",
                    "http.route",
                    "network.protocol.version",
                    "rollcall.event.kind",
                    "rollcall.event.seq",
                    "rollcall.instance",
                    "rollcall.keep",
                    "rollcall.service",
                    "server.address",
                    "server.port",
                    "url.path",
                    "url.query",
                    "url.scheme",
                    "user_agent.original",
                ],
            },
            Span {
                name: "queue, decide, append, publish",
                kind: "internal",
                place: "children of a change's request, one after the other",
                attributes: &["rollcall.batch.size"],
            },
        ],
    ),
    (
        "src/registrar/observe.rs",
        &[
            Span {
                name: "INSERT events",
                kind: "client",
                place: "a root for each group commit; linked to the kept requests in it",
                attributes: &[
                    "db.collection.name",
                    "db.operation.batch.size",
                    "db.operation.name",
                    "db.system.name",
                ],
            },
            Span {
                name: "replay, snapshot, tail",
                kind: "internal",
                place: "a root at the start, and the two parts of it as children, one after the other",
                attributes: &["rollcall.replay.events"],
            },
            Span {
                name: "expire sweep",
                kind: "internal",
                place: "a root, if something expired",
                attributes: &["rollcall.expire.count"],
            },
            Span {
                name: "expire",
                kind: "internal",
                place: "child of the sweep; linked to the last heartbeat and to the registration",
                attributes: &[
                    "rollcall.event.cause",
                    "rollcall.event.kind",
                    "rollcall.event.seq",
                    "rollcall.instance",
                    "rollcall.lease.late_ms",
                    "rollcall.lease.ttl_ms",
                    "rollcall.link",
                    "rollcall.service",
                ],
            },
        ],
    ),
    (
        "src/watch/notices.rs",
        &[Span {
            name: "notify",
            kind: "producer",
            place: "a root for a change whose own span was kept and that was told to watchers; linked to it",
            attributes: &[
                "rollcall.event.kind",
                "rollcall.event.seq",
                "rollcall.link",
                "rollcall.service",
                "rollcall.watchers",
            ],
        }],
    ),
    (
        "src/probe/telling.rs",
        &[Span {
            name: "probe",
            kind: "client",
            place: "a root; linked to the registration",
            attributes: &[
                "error.type",
                "http.request.method",
                "http.response.status_code",
                "rollcall.check.kind",
                "rollcall.check.outcome",
                "rollcall.check.verdict",
                "rollcall.event.seq",
                "rollcall.instance",
                "rollcall.keep",
                "rollcall.service",
                "rpc.method",
                "rpc.service",
                "rpc.system",
                "server.address",
                "server.port",
                "url.path",
            ],
        }],
    ),
];

/// The part of the page about spans.
pub(crate) fn section() -> String {
    let mut text = String::from(
        "\n## Spans\n\nWhat is kept and why says `rollcall.keep`. Attributes stand there where they are known; those of links too.\n\n\
         | span | kind | place | attributes |\n| --- | --- | --- | --- |\n",
    );
    for Span { name, kind, place, attributes } in SOURCES.iter().flat_map(|(_, spans)| *spans) {
        let attributes: Vec<_> = attributes.iter().map(|name| format!("`{name}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {place} | {} |", attributes.join(", "));
    }
    text
}

/// Whether a text of the source is the name of an attribute: words with points between them.
fn is_attribute(text: &str) -> bool {
    text.contains('.')
        && text.split('.').all(|word| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
}

#[test]
fn the_table_has_the_attributes_of_the_sources() {
    let mut found = Vec::new();
    for (path, spans) in SOURCES {
        let text = read(path);
        let made = text.split("#[cfg(test)]").next().unwrap_or_default();
        let there: BTreeSet<_> =
            made.split('"').skip(1).step_by(2).filter(|text| is_attribute(text)).collect();
        let told: BTreeSet<_> =
            spans.iter().flat_map(|span| span.attributes.iter().copied()).collect();
        found.extend(there.symmetric_difference(&told).map(|name| format!("{path}: {name}")));
        for name in spans.iter().flat_map(|span| span.name.split(", ")) {
            let is_made = name == "METHOD ROUTE" || made.contains(&format!("\"{name}\""));
            found.extend((!is_made).then(|| format!("{path}: no span {name}")));
        }
    }
    none("attributes of spans that only the source or only the table has", &found);
}

#[test]
fn no_other_source_makes_spans() {
    let known: BTreeSet<_> = SOURCES.iter().map(|(path, _)| *path).collect();
    let others: Vec<_> = crate::files_below(&crate::root().join("src"))
        .iter()
        .map(|path| crate::shown(path))
        .filter(|path| !path.starts_with("src/demo") && !path.contains("tests"))
        .filter(|path| !path.starts_with("src/telemetry") && path.ends_with(".rs"))
        .filter(|path| {
            let text = read(path);
            let made = text.split("#[cfg(test)]").next().unwrap_or_default();
            made.contains("SpanRecord::new(") != known.contains(path.as_str())
        })
        .collect();
    none("sources with spans and without a place in the table, or the other way round", &others);
}
