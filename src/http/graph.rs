//! Who looks up whom: the answer of [`crate::history::graph`] as JSON, as a Mermaid flow chart or in Graphviz' language.
//! Names are quoted in the pictures whatever they hold: a rule of names may be widened, a picture must stay one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use super::faults::Faults;
use super::instants::{self, CHARS_MAX, INSTANT, Present};
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::spec::{ANY_NAMESPACE, Method, Operation, Parameter, Shape, answer};
use super::{Shared, accept, wire};
use crate::domain::{Seq, ServiceKey, Timestamp};
use crate::history::graph::{self, Edge, Graph, Node, NodeKind, Question};
use crate::history::spoken::counted;
use crate::history::{Missing, Moment};
use crate::rfc3339;

/// How far back the graph reaches if nothing is said.
const SPAN_DEFAULT_MICROS: i64 = 3_600_000_000;

/// `GET /v1/graph`
pub(super) const GRAPH: Operation = Operation {
    method: Method::Get,
    id: "graph",
    summary: "Who looked up whom, how often and with what success; callers that are not registered too.",
    query: &[
        Parameter::new("since", SINCE, Shape::Text(CHARS_MAX)),
        Parameter::new("until", INSTANT, Shape::Text(CHARS_MAX)),
        ANY_NAMESPACE,
        Parameter::new(
            "format",
            "`json`, `mermaid` (text/plain) or `dot` (text/vnd.graphviz); if absent, as `accept` says.",
            Shape::Word(&["json", "mermaid", "dot"]),
        ),
    ],
    headers: &["accept"],
    body: None,
    answers: &[answer(200, "The graph.", "Graph")],
};

const SINCE: &str = "An instant: RFC 3339, an age (`-5m`) or a version (`@1234`); an hour before `until` if absent.";

/// The ends of the stretch.
const STRETCH: [&str; 2] = ["since", "until"];

/// The forms of the answer, the first one being preferred.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Dot,
    Mermaid,
}

impl Form {
    fn media(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Dot => "text/vnd.graphviz",
            Self::Mermaid => "text/plain",
        }
    }

    /// The form that is asked for: by name, else by what the client takes.
    fn of(format: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        match format {
            Some("mermaid") => Ok(Self::Mermaid),
            Some("dot") => Ok(Self::Dot),
            Some(_) => Ok(Self::Json),
            None => [Self::Json, Self::Dot, Self::Mermaid]
                .into_iter()
                .find(|form| accept::allows(headers, form.media()))
                .ok_or(Problem::NotAcceptable {
                    produces: "application/json, text/vnd.graphviz or text/plain",
                }),
        }
    }
}

#[derive(Serialize)]
struct GraphText<'a> {
    since: String,
    until: String,
    nodes: Vec<NodeText<'a>>,
    edges: Vec<EdgeText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<u64>,
    complete: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [Missing],
}

#[derive(Serialize)]
struct NodeText<'a> {
    id: String,
    kind: &'static str,
    namespace: Option<&'a str>,
    name: &'a str,
    instances: u64,
}

#[derive(Serialize)]
struct EdgeText<'a> {
    caller: &'a str,
    service: &'a str,
    namespace: Option<&'a str>,
    from: String,
    to: String,
    lookups: u64,
    rate: f64,
    failed: f64,
    last: String,
}

pub(super) async fn graph(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &GRAPH, &mut faults);
    let present @ Present { now, head } = api.present();
    let [since, until] = instants::read_stretch(STRETCH, &query, present, &mut faults);
    let until = until.unwrap_or(Moment::At(now));
    let namespace = query.namespace(&mut faults);
    faults.check()?;
    let form = Form::of(query.get("format"), request.headers())?;

    let asking = std::sync::Arc::clone(&api);
    let graph = api
        .ask(move |archive| {
            let since = match (since, until) {
                (Some(since), _) => since,
                (None, Moment::At(at)) => hour_before(at),
                (None, version) => hour_before(archive.version(version)?.at),
            };
            let is_registered = |key: &ServiceKey| {
                let ServiceKey { namespace, service } = key;
                asking.projection.service(namespace.as_str(), service.as_str()).is_some()
            };
            graph::graph(archive, &Question { since, until, namespace }, &is_registered)
        })
        .await?;
    if graph.since > graph.until {
        return Err(instants::backwards(STRETCH, [graph.since, graph.until].map(Moment::At)));
    }
    Ok(match form {
        Form::Json => json_response(StatusCode::OK, json(&graph), head),
        Form::Dot => text_response("text/vnd.graphviz; charset=utf-8", dot(&graph), head),
        Form::Mermaid => text_response("text/plain; charset=utf-8", mermaid(&graph), head),
    })
}

fn hour_before(at: Timestamp) -> Moment {
    Moment::At(Timestamp(at.0.saturating_sub(SPAN_DEFAULT_MICROS)))
}

fn text_response(media: &'static str, text: String, head: Seq) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(wire::SEQ, wire::seq_header(head));
    response
}

/// Lookups per second over the whole time.
#[expect(clippy::cast_precision_loss, reason = "a rate and a share, shown with three digits")]
fn rate(graph: &Graph, edge: &Edge) -> f64 {
    let seconds = (graph.until.0 - graph.since.0).max(1) as f64 / 1e6;
    rounded(edge.lookups as f64 / seconds)
}

/// The share of lookups that were refused, 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "a rate and a share, shown with three digits")]
fn failed(edge: &Edge) -> f64 {
    rounded(edge.failed as f64 / edge.lookups.max(1) as f64)
}

/// Six digits after the point: the time is only known in microseconds.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

fn json(graph: &Graph) -> bytes::Bytes {
    let nodes = graph.nodes.iter().map(|(node, instances)| NodeText {
        id: node.id(),
        kind: node.kind.as_str(),
        namespace: node.namespace.as_deref(),
        name: &node.name,
        instances: *instances,
    });
    let edges = graph.edges.iter().map(|edge| EdgeText {
        caller: &edge.caller.name,
        service: &edge.service.name,
        namespace: edge.service.namespace.as_deref(),
        from: edge.caller.id(),
        to: edge.service.id(),
        lookups: edge.lookups,
        rate: rate(graph, edge),
        failed: failed(edge),
        last: rfc3339::format(edge.last),
    });
    let missing = &*graph.missing;
    wire::json(&GraphText {
        since: rfc3339::format(graph.since),
        until: rfc3339::format(graph.until),
        nodes: nodes.collect(),
        edges: edges.collect(),
        others: Some(graph.others).filter(|others| *others > 0),
        complete: missing.is_empty(),
        missing,
    })
}

/// What stands on an edge: `12 lookups, 0.2/s, 3 % failed`.
fn label(graph: &Graph, edge: &Edge) -> String {
    let lookups = counted(edge.lookups, "lookup", "lookups");
    let mut label = format!("{lookups}, {:.3}/s", rate(graph, edge));
    if edge.failed > 0 {
        let _ = write!(label, ", {:.1} % failed", failed(edge) * 100.0);
    }
    label
}

/// What stands in a node: its name, with the namespace if that is not the usual one.
fn name(node: &Node) -> String {
    match node.namespace.as_deref() {
        None | Some("default") => node.name.to_string(),
        Some(_) => node.id(),
    }
}

/// What is missing, as comments that begin with `mark`: a picture without them would look whole.
fn comments(graph: &Graph, mark: &str) -> String {
    let line = |gap: &Missing| {
        let [from, until] = [gap.from, gap.until].map(rfc3339::format);
        format!("  {mark} not complete: {from} to {until}, {}\n", gap.reason)
    };
    graph.missing.iter().map(line).collect()
}

/// As a Mermaid flow chart. Its ids are made up, because it takes words such as `end` for its own.
fn mermaid(graph: &Graph) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "#quot;"));
    let numbered = graph.nodes.iter().enumerate().map(|(index, (node, _))| (node, index));
    let numbers: BTreeMap<&Node, usize> = numbered.collect();
    let mut out = "graph LR\n".to_owned();
    for (index, (node, _)) in graph.nodes.iter().enumerate() {
        let (open, close) = match node.kind {
            NodeKind::Service => ("[", "]"),
            NodeKind::Caller => ("([", "])"),
            NodeKind::Unknown => ("{{", "}}"),
        };
        let _ = writeln!(out, "  n{index}{open}{}{close}", quoted(&name(node)));
    }
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (numbers.get(&edge.caller), numbers.get(&edge.service)) {
            let _ = writeln!(out, "  n{from} -->|{}| n{to}", quoted(&label(graph, edge)));
        }
    }
    out + &comments(graph, "%%")
}

/// In the language of Graphviz.
fn dot(graph: &Graph) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out = "digraph rollcall {\n  rankdir=LR;\n".to_owned();
    for (node, _) in &graph.nodes {
        let shape = match node.kind {
            NodeKind::Service => "box",
            NodeKind::Caller => "ellipse",
            NodeKind::Unknown => "hexagon",
        };
        let (id, label) = (quoted(&node.id()), quoted(&name(node)));
        let _ = writeln!(out, "  {id} [label={label}, shape={shape}];");
    }
    for edge in &graph.edges {
        let (from, to) = (quoted(&edge.caller.id()), quoted(&edge.service.id()));
        let _ = writeln!(out, "  {from} -> {to} [label={}];", quoted(&label(graph, edge)));
    }
    out + &comments(graph, "//") + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Reason;

    fn node(namespace: Option<&str>, name: &str, kind: NodeKind) -> Node {
        Node { namespace: namespace.map(Box::from), name: name.into(), kind }
    }

    fn example() -> Graph {
        let web = node(Some("default"), "web", NodeKind::Service);
        let curl = node(None, "cu\"rl\\", NodeKind::Caller);
        let end = node(Some("shop"), "end", NodeKind::Unknown);
        let edge = |caller: &Node, lookups, failed| Edge {
            caller: caller.clone(),
            service: end.clone(),
            lookups,
            failed,
            last: Timestamp(10_000_000),
        };
        Graph {
            until: Timestamp(60_000_000),
            nodes: vec![(curl.clone(), 0), (web.clone(), 2), (end.clone(), 0)],
            edges: vec![edge(&curl, 3, 1), edge(&web, 1, 0)],
            ..Graph::default()
        }
    }

    #[test]
    fn pictures_quote_what_they_name() {
        assert_eq!(
            mermaid(&example()),
            "graph LR\n  n0([\"cu#quot;rl\\\"])\n  n1[\"web\"]\n  n2{{\"shop/end\"}}\n  \
             n0 -->|\"3 lookups, 0.050/s, 33.3 % failed\"| n2\n  \
             n1 -->|\"1 lookup, 0.017/s\"| n2\n"
        );
        assert_eq!(
            dot(&example()),
            "digraph rollcall {\n  rankdir=LR;\n  \
             \"cu\\\"rl\\\\\" [label=\"cu\\\"rl\\\\\", shape=ellipse];\n  \
             \"default/web\" [label=\"web\", shape=box];\n  \
             \"shop/end\" [label=\"shop/end\", shape=hexagon];\n  \
             \"cu\\\"rl\\\\\" -> \"shop/end\" [label=\"3 lookups, 0.050/s, 33.3 % failed\"];\n  \
             \"default/web\" -> \"shop/end\" [label=\"1 lookup, 0.017/s\"];\n}\n"
        );
    }

    #[test]
    fn pictures_say_what_is_missing() {
        let (from, until) = (Timestamp(0), Timestamp(1_000_000));
        let gap = Missing { from, until, reason: Reason::LogGap, events: "".into() };
        let graph = Graph { missing: vec![gap], ..example() };
        let told =
            "not complete: 1970-01-01T00:00:00.000000Z to 1970-01-01T00:00:01.000000Z, log_gap\n";
        assert!(mermaid(&graph).ends_with(&format!("  %% {told}")), "{}", mermaid(&graph));
        assert!(dot(&graph).ends_with(&format!("  // {told}}}\n")), "{}", dot(&graph));
    }

    #[test]
    fn a_format_wins_over_accept_and_accept_over_nothing() {
        let form = |format, accept: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            Form::of(format, &headers).map(Form::media).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(form(None, "*/*"), Ok("application/json"));
        assert_eq!(form(None, "text/vnd.graphviz"), Ok("text/vnd.graphviz"));
        assert_eq!(form(Some("mermaid"), "application/json"), Ok("text/plain"));
        assert_eq!(form(None, "image/png"), Err(406));
    }
}
