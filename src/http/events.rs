//! The log: in pages, one event by its id, all events of a trace. Reading it is no event: the past does not grow by
//! being looked at.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::cursor::List;
use super::faults::Faults;
use super::instants::{self, CHARS_MAX, INSTANT};
use super::names::Path;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::spec::{ANY_NAMESPACE, Method, Operation, Parameter, Shape, answer};
use super::{Api, Shared, wire};
use crate::domain::TraceRef;
use crate::domain::event::Kind;
use crate::domain::limits::NAME_CHARS_MAX;
use crate::history::{EventId, EventPage, EventQuery, Missing, Order, Position, Record};
use crate::rfc3339;
use crate::telemetry::propagation::{SpanId, TraceId};

/// `GET /v1/events`
pub(super) const EVENTS: Operation = Operation {
    method: Method::Get,
    id: "events",
    summary: "Events of the log in pages; those of instances that have left too.",
    query: &[
        Parameter::new("limit", "Most events in a page.", Shape::Count(1, 1_000, 100)),
        Parameter::new("order", "Oldest or newest first.", Shape::Word(&["asc", "desc"])),
        Parameter::new("cursor", "`next` of the page before.", Shape::Text(200)),
        ANY_NAMESPACE,
        Parameter::new("service", "Those of this service.", Shape::Text(NAME_CHARS_MAX)),
        Parameter::new("instance", "Those of this instance.", Shape::Text(NAME_CHARS_MAX)),
        Parameter::new("kind", "Those of this kind.", Shape::Text(32)),
        Parameter::new(
            "caller",
            "Those that this caller led to.",
            Shape::Text(2 * NAME_CHARS_MAX + 1),
        ),
        Parameter::new("trace_id", "Those of this trace: 32 hexadecimal digits.", Shape::Text(32)),
        Parameter::new("since", INSTANT, Shape::Text(CHARS_MAX)),
        Parameter::new("until", INSTANT, Shape::Text(CHARS_MAX)),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "A page.", "Events")],
};

/// `GET /v1/events/{id}`
pub(super) const EVENT: Operation = Operation {
    method: Method::Get,
    id: "event",
    summary: "One event of the log.",
    query: &[],
    headers: &[],
    body: None,
    answers: &[answer(200, "The event.", "Event")],
};

/// `GET /v1/traces/{trace_id}`
pub(super) const TRACE: Operation = Operation {
    method: Method::Get,
    id: "trace",
    summary: "The events of a trace, the oldest first; none for one that the log does not know.",
    query: &[Parameter::new(
        "limit",
        "Most events; with more, `next` is a cursor for /v1/events with the same trace_id.",
        Shape::Count(1, 10_000, 1_000),
    )],
    headers: &[],
    body: None,
    answers: &[answer(200, "Its events.", "Trace")],
};

/// The ends of a stretch of events.
const STRETCH: [&str; 2] = ["since", "until"];

/// An event, and where its span can be seen.
#[derive(Serialize)]
pub(super) struct EventText<'a> {
    #[serde(flatten)]
    event: &'a Record,
    /// Left out where spans go nowhere; null if this one was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_url: Option<Option<String>>,
    /// The same of the heartbeat that it rests on; also left out where it rests on none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat_trace_url: Option<Option<String>>,
}

impl<'a> EventText<'a> {
    pub(super) fn of(api: &Api, event: &'a Record) -> Self {
        if api.config.trace_url.is_none() {
            return Self { event, trace_url: None, last_heartbeat_trace_url: None };
        }
        let beat = last_heartbeat(&event.data).map(|beat| beat.trace_url(api));
        Self { event, trace_url: Some(api.trace_url_of(event)), last_heartbeat_trace_url: beat }
    }
}

/// What an event's data says of a heartbeat.
#[derive(Deserialize)]
struct Beat<'a> {
    at: &'a str,
    trace_id: &'a str,
    span_id: &'a str,
}

/// The heartbeat that an event rests on. What can't be read, because the file is damaged, is none.
fn last_heartbeat(data: &str) -> Option<Beat<'_>> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        last_heartbeat: Option<Beat<'a>>,
    }
    // Few kinds have one, and pages are long.
    data.contains(r#""last_heartbeat""#)
        .then(|| serde_json::from_str::<Data<'_>>(data).ok()?.last_heartbeat)
        .flatten()
}

impl Beat<'_> {
    fn trace_url(&self, api: &Api) -> Option<String> {
        let trace_id = TraceId::parse(self.trace_id.as_bytes()).ok()?.to_bytes();
        let span_id = SpanId::parse(self.span_id.as_bytes()).ok()?.to_bytes();
        api.trace_url(TraceRef { trace_id, span_id }, rfc3339::parse(self.at)?)
    }
}

#[derive(Serialize)]
struct Events<'a> {
    events: Vec<EventText<'a>>,
    next: Option<String>,
    complete: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [Missing],
}

#[derive(Serialize)]
struct Trace<'a> {
    trace_id: String,
    trace_url: Option<String>,
    #[serde(flatten)]
    page: Events<'a>,
}

pub(super) async fn events(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &EVENTS, &mut faults);
    let wanted = read(&api, &query, &mut faults);
    faults.check()?;
    let mut wanted = wanted;
    wanted.cursor = query.get("cursor").map(|cursor| position(&api, cursor)).transpose()?;
    drop(query);

    if let (Some(since), Some(until)) = (wanted.since, wanted.until) {
        instants::check_order(&api, STRETCH, [since, until]).await?;
    }
    let head = api.projection.head();
    let page = api.ask(move |archive| archive.events(&wanted)).await?;
    Ok(json_response(StatusCode::OK, wire::json(&shown(&api, &page)), head))
}

pub(super) async fn event(
    State(api): State<Shared>,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    Query::read(request.uri().query(), &EVENT, &mut faults);
    faults.check()?;
    // What is not an id names no event.
    let id = EventId::parse(path.get("id")).ok_or(Problem::UnknownEvent)?;
    let head = api.projection.head();
    let event = api.ask(move |archive| archive.event(id)).await?.ok_or(Problem::UnknownEvent)?;
    Ok(json_response(StatusCode::OK, wire::json(&EventText::of(&api, &event)), head))
}

pub(super) async fn trace(
    State(api): State<Shared>,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &TRACE, &mut faults);
    let limit = usize::try_from(query.count("limit")).unwrap_or(usize::MAX);
    let trace_id = read_trace_id(path.get("trace_id"), &mut faults);
    drop(query);
    faults.check()?;
    let Some(trace_id) = trace_id else { return Err(Problem::Internal) };

    let wanted = EventQuery { limit, trace_id: Some(trace_id.to_bytes()), ..EventQuery::default() };
    let head = api.projection.head();
    let page = api.ask(move |archive| archive.events(&wanted)).await?;
    let trace_url = page.events.iter().find_map(|event| api.trace_url_of(event));
    let trace = Trace { trace_id: trace_id.to_string(), trace_url, page: shown(&api, &page) };
    Ok(json_response(StatusCode::OK, wire::json(&trace), head))
}

fn read_trace_id(text: &str, faults: &mut Faults) -> Option<TraceId> {
    let trace_id = TraceId::parse(text.as_bytes());
    trace_id.map_err(|error| faults.malformed("trace_id", error.to_string())).ok()
}

fn read(api: &Api, query: &Query<'_>, faults: &mut Faults) -> EventQuery {
    let kind = query.get("kind").and_then(|word| {
        let kind = Kind::parse(word);
        if kind.is_none() {
            let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            faults.malformed("kind", format!("must be one of {}", words.join(", ")));
        }
        kind
    });
    let trace_id = query.get("trace_id").and_then(|text| read_trace_id(text, faults));
    let [since, until] = instants::read_stretch(STRETCH, query, api.present(), faults);
    let caller = query.get("caller");
    // Nobody is recorded without a name, and an empty list would look like an answer.
    if caller.is_some_and(str::is_empty) {
        faults.invalid("caller", "must not be empty");
    }
    EventQuery {
        limit: usize::try_from(query.count("limit")).unwrap_or(usize::MAX),
        order: match query.get("order") {
            Some("desc") => Order::Descending,
            _ => Order::Ascending,
        },
        cursor: None,
        namespace: query.namespace(faults),
        service: query.service(faults),
        instance: query.instance(faults),
        kind,
        caller: caller.map(Box::from),
        trace_id: trace_id.map(TraceId::to_bytes),
        since,
        until,
    }
}

fn position(api: &Api, cursor: &str) -> Result<Position, Problem> {
    let place = api.cursors.read(List::Events, cursor)?;
    let numbers = place.split_once(',').and_then(|(change, traffic)| {
        Some(Position { change: change.parse().ok()?, traffic: traffic.parse().ok()? })
    });
    numbers.ok_or(Problem::InvalidCursor { detail: "it was not given out by this list" })
}

fn shown<'a>(api: &Api, page: &'a EventPage) -> Events<'a> {
    let next = page.next.map(|Position { change, traffic }| {
        api.cursors.write(List::Events, &format!("{change},{traffic}"))
    });
    let missing = &*page.missing;
    let events = page.events.iter().map(|event| EventText::of(api, event)).collect();
    Events { events, next, complete: missing.is_empty(), missing }
}
