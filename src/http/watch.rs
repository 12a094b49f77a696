//! Changes as they happen, as server-sent events (the WHATWG's HTML standard, section 9.2).
//!
//! Here is what a stream is asked for and what is refused; what goes over it is in [`super::stream`]. HEAD answers the
//! head and begins no stream.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method as HttpMethod, header};
use axum::response::Response;
use tokio::sync::Notify;

use super::caller::Peer;
use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use super::scope::Scope;
use super::spec::{ANY_NAMESPACE, Method, Operation, Parameter, Shape, answer};
use super::{Shared, stream, wire};
use crate::domain::Seq;
use crate::domain::event::{Class, Kind};
use crate::domain::limits::NAME_CHARS_MAX;
use crate::watch::{Feed, Mark, OpenError, StreamFilter};

/// Most kinds that are asked for at once: each of them once.
const KINDS_MAX: usize = Kind::ALL.len();

/// `GET /v1/watch`
pub(super) const WATCH: Operation = Operation {
    method: Method::Get,
    id: "watch",
    summary: "Changes as they happen, as server-sent events; resumes at any of them.",
    query: &[
        ANY_NAMESPACE,
        Parameter::new("service", "Those of this service.", Shape::Text(NAME_CHARS_MAX)),
        Parameter::new(
            "kind",
            "Those of this kind; of any of them, if it repeats.",
            Shape::Text(32),
        )
        .repeated(),
        Parameter::new(
            "after",
            "Begin after this change (or at a pair, `42,t1093`); with the next one if absent.",
            Shape::Text(42),
        ),
        Parameter::new(
            "traffic",
            "Whether to tell of heartbeats, lookups and streams too. The id is a pair then.",
            Shape::Word(&["true", "false"]),
        ),
    ],
    headers: &["last-event-id"],
    body: None,
    answers: &[answer(200, "The stream; it begins with the state's version.", "Stream")],
};

/// What is asked for.
struct Asked {
    filter: StreamFilter,
    from: Option<Mark>,
    /// The parameter or header that said from where.
    named: &'static str,
}

fn read(query: &Query<'_>, headers: &HeaderMap, faults: &mut Faults) -> Asked {
    let traffic = query.get("traffic") == Some("true");
    let words = || query.pairs().filter(|(name, _)| *name == "kind").map(|(_, word)| word);
    if words().count() > KINDS_MAX {
        faults.invalid("kind", format!("may come at most {KINDS_MAX} times"));
    }
    let mut kinds = Vec::new();
    for word in words().take(KINDS_MAX) {
        match Kind::parse(word) {
            Some(kind) if kind.class() == Class::Traffic && !traffic => {
                let message = format!("{kind} is traffic, which needs traffic=true");
                faults.invalid("kind", message);
            }
            Some(kind) => kinds.push(kind),
            None => {
                let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                faults.malformed("kind", format!("must be one of {}", words.join(", ")));
            }
        }
    }
    let mut mark = |name: &'static str, text: &str| {
        let mark = Mark::parse(text);
        if mark.is_none() {
            faults.malformed(name, "must be the number of a change, or a pair such as 42,t1093");
        }
        mark
    };
    let after = query.get("after").and_then(|text| mark("after", text));
    // An empty one is how a browser says that it has none.
    let last = headers.get("last-event-id").filter(|value| !value.is_empty());
    let last = last.and_then(|value| mark("last-event-id", value.to_str().unwrap_or("?")));
    let filter = StreamFilter {
        namespace: query.namespace(faults),
        service: query.service(faults),
        kinds,
        traffic,
    };
    let named = if last.is_some() { "last-event-id" } else { "after" };
    Asked { filter, from: last.or(after), named }
}

pub(super) async fn watch(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &WATCH, &mut faults);
    let Asked { filter, from, named } = read(&query, request.headers(), &mut faults);
    faults.check()?;
    drop(query);
    let peer = request.extensions().get::<Arc<Peer>>();
    let cut = peer.map_or_else(Arc::<Notify>::default, |peer| Arc::clone(&peer.cut));
    let only_head = request.method() == HttpMethod::HEAD;
    drop(request);

    if let Some(service) = &filter.service {
        scope.about(service, None);
    }
    let about = (filter.namespace.clone(), filter.service.clone());
    let text: Box<str> = filter.canonical().into();
    let archive = Arc::clone(&api.history);
    let opened = Feed::open(&api.hub, archive, filter, from, cut).await;
    let feed = opened.map_err(|error| match error {
        OpenError::Ahead(head) => {
            let mut faults = Faults::default();
            faults.invalid(named, format!("must not be above the last event, which is {head}"));
            faults.check().err().unwrap_or(Problem::Internal)
        }
        OpenError::Gone(oldest) => Problem::HistoryGone { oldest },
        OpenError::History(error) => error.into(),
    })?;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would gather events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(wire::SEQ, wire::seq_header(Seq(feed.mark().change)));
    if !only_head {
        *response.body_mut() = stream::begin(api, scope, feed, about, text).await?;
    }
    Ok(response)
}
