//! One instance through time: its lives, and why it left or stands as it does. Also for instances that have left;
//! reading it is no event.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::events::EventText;
use super::faults::{Faults, FieldError};
use super::instants::CHARS_MAX;
use super::names::Path;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::spec::{Method, NAMESPACE, Operation, Parameter, Shape, answer};
use super::wire::InstanceText;
use super::{Api, Shared, wire};
use crate::domain::event::Kind;
use crate::domain::{InstanceKey, Seq};
use crate::history::{
    self, Alive, Answer, EventId, Gap, InstanceHistory, LifeStory, Missing, Record, Unseen, Which,
    Why,
};
use crate::lease::guard::Holding;
use crate::rfc3339;
use crate::telemetry::propagation::{SpanId, TraceId};

/// `GET /v1/services/{service}/instances/{instance}/history`
pub(super) const HISTORY: Operation = Operation {
    method: Method::Get,
    id: "history",
    summary: "The lives of an instance, what changed in them, the widest gaps between its signs of life, \
              and how much it flaps.",
    query: &[
        NAMESPACE,
        Parameter::new(
            "limit",
            "Most lives, and most transitions of all of them together; the newest are kept.",
            Shape::Count(1, 1_000, 100),
        ),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "Its lives, oldest first.", "InstanceHistory")],
};

/// `GET /v1/services/{service}/instances/{instance}/why`
pub(super) const WHY: Operation = Operation {
    method: Method::Get,
    id: "why",
    summary: "Why an instance left, or why it is there and stands as it does.",
    query: &[
        NAMESPACE,
        Parameter::new(
            "seq",
            "The change by which it left: why it did then. Without it, its newest life.",
            Shape::Text(CHARS_MAX),
        ),
        Parameter::new(
            "incarnation",
            "The life that is meant; not together with `seq`.",
            Shape::Text(CHARS_MAX),
        ),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "The event, and a sentence that tells it.", "Why")],
};

/// Nothing tells of the instance: is its service known?
fn unknown(api: &Api, scope: &Scope, key: &InstanceKey, unseen: Unseen) -> Problem {
    scope.reflects(unseen.newest.seq);
    let service_lives = !matches!(api.living(key), Err(Problem::UnknownService));
    Problem::Unseen { service_lives, unseen }
}

#[derive(Serialize)]
struct HistoryText<'a> {
    namespace: &'a str,
    service: &'a str,
    instance: &'a str,
    lives: Vec<LifeText<'a>>,
    left_out: LeftOut,
    flap_score: f64,
    gaps_exact_since: Option<String>,
    complete: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [Missing],
}

#[derive(Serialize)]
struct LeftOut {
    lives: u64,
    transitions: u64,
}

#[derive(Serialize)]
struct LifeText<'a> {
    incarnation: u64,
    from: String,
    until: Option<String>,
    ended_by: Option<EventText<'a>>,
    transitions: Vec<EventText<'a>>,
    widest_gaps: Vec<GapText>,
}

#[derive(Serialize)]
struct GapText {
    at: String,
    gap_ms: u64,
    /// Only where the life ended with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'static str>,
}

pub(super) async fn history(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &HISTORY, &mut faults);
    let key = path.instance(&query, &mut faults);
    let limit = usize::try_from(query.count("limit")).unwrap_or(usize::MAX);
    faults.check()?;
    drop(query);
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service.service, Some(&key.instance));
    let (wanted, now) = (key.clone(), api.clock.wall());
    let found = api.ask(move |archive| history::lives(archive, &wanted, limit, now)).await?;
    let (version, found) = found.map_err(|unseen| unknown(&api, &scope, &key, unseen))?;
    Ok(json_response(StatusCode::OK, history_text(&api, &key, &found), version))
}

fn history_text(api: &Api, key: &InstanceKey, found: &InstanceHistory) -> bytes::Bytes {
    let missing = &*found.missing;
    wire::json(&HistoryText {
        namespace: key.service.namespace.as_str(),
        service: key.service.service.as_str(),
        instance: key.instance.as_str(),
        lives: found.lives.iter().map(|life| life_text(api, life)).collect(),
        left_out: LeftOut { lives: found.lives_left_out, transitions: found.transitions_left_out },
        flap_score: found.flap_score,
        gaps_exact_since: found.gaps_exact_since.map(rfc3339::format),
        complete: missing.is_empty(),
        missing,
    })
}

fn life_text<'a>(api: &Api, life: &'a LifeStory) -> LifeText<'a> {
    let event = |event| EventText::of(api, event);
    let gap = |gap: &Gap| GapText {
        at: rfc3339::format(gap.at),
        gap_ms: gap.gap.millis(),
        ended_by: gap.ended_by.map(Kind::as_str),
    };
    LifeText {
        incarnation: life.incarnation.0,
        from: rfc3339::format(life.from),
        until: life.until.map(rfc3339::format),
        ended_by: life.ended_by.as_ref().map(event),
        transitions: life.transitions.iter().map(event).collect(),
        widest_gaps: life.widest_gaps.iter().map(gap).collect(),
    }
}

#[derive(Serialize)]
struct WhyText<'a> {
    event: &'a Option<Record>,
    summary: String,
    trace_url: Option<String>,
    instance: InstanceText<'a>,
    life: WhichText,
    arithmetic: Option<ArithmeticText>,
    last_heartbeat: Option<HeartbeatText>,
    registration: Option<RegistrationText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: Option<EventText<'a>>,
    complete: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [Missing],
}

#[derive(Serialize)]
struct WhichText {
    incarnation: u64,
    from: String,
    until: Option<String>,
}

/// `allowed_ms`, `late_ms` and `grace_ms` add up to `gap_ms`.
#[derive(Serialize)]
struct ArithmeticText {
    ttl: String,
    gap_ms: u64,
    allowed_ms: u64,
    late_ms: u64,
    grace_ms: u64,
    missed: u32,
}

#[derive(Serialize)]
struct HeartbeatText {
    at: String,
    id: String,
    trace_id: Option<String>,
    span_id: Option<String>,
    trace_url: Option<String>,
}

#[derive(Serialize)]
struct RegistrationText<'a> {
    event: &'a Record,
    trace_url: Option<String>,
}

pub(super) async fn why(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &WHY, &mut faults);
    let key = path.instance(&query, &mut faults);
    let which = which(&api, &query, &mut faults);
    faults.check()?;
    drop(query);
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service.service, Some(&key.instance));
    let (wanted, now) = (key.clone(), api.clock.wall());
    let alive = alive(&api, &key);
    let found = api.ask(move |archive| history::why(archive, &wanted, which, alive, now)).await?;
    match found {
        Answer::Found(version, found) => {
            Ok(json_response(StatusCode::OK, why_text(&api, &found), version))
        }
        Answer::Unknown(unseen) => Err(unknown(&api, &scope, &key, unseen)),
        Answer::NoSuchLife => {
            scope.reflects(api.projection.head());
            let (field, message) = match which {
                Which::Departure(_) => ("seq", "is not a change by which this instance left"),
                Which::Incarnation(_) | Which::Newest => {
                    ("incarnation", "is not a life of this instance, as far as the log is kept")
                }
            };
            let error = FieldError { field: field.into(), message: message.into() };
            Err(Problem::InvalidFields { errors: vec![error] })
        }
    }
}

/// Which life a query asks about.
fn which(api: &Api, query: &Query<'_>, faults: &mut Faults) -> Which {
    let head = api.projection.head();
    let mut number = |name: &str| {
        let number = query.get(name).map(EventId::parse)?;
        match number {
            Some(EventId::Change(number)) if number <= head.0 => Some(Seq(number)),
            Some(EventId::Change(_)) => {
                let message = format!("must not be above the present version, which is {head}");
                faults.invalid(name, message);
                None
            }
            Some(EventId::Traffic(_)) | None => {
                faults.malformed(name, "must be the number of a change, such as 42");
                None
            }
        }
    };
    let (departure, incarnation) = (number("seq"), number("incarnation"));
    match (departure, incarnation) {
        (Some(_), Some(_)) => {
            faults.invalid("incarnation", "can't be given together with seq: each means one life");
            Which::Newest
        }
        (Some(seq), None) => Which::Departure(seq),
        (None, Some(seq)) => Which::Incarnation(seq),
        (None, None) => Which::Newest,
    }
}

/// What the present knows of an instance that lives, without reading the log.
fn alive(api: &Api, key: &InstanceKey) -> Option<Alive> {
    let entry = api.living(key).ok()?;
    // The guard over its own service says more than the one over the registry.
    let guards = api.registrar.guards().unwrap_or_default();
    let holds = |guard: &&Holding| guard.over.as_ref().is_none_or(|over| *over == key.service);
    let guard = guards.iter().filter(holds).max_by_key(|guard| guard.over.is_some());
    Some(Alive {
        guard: guard.map(|guard| guard.entered),
        incarnation: entry.instance.incarnation,
        last_at: entry.lease.last_heartbeat_at(),
        last_heartbeat: entry.lease.last_heartbeat(),
    })
}

fn why_text(api: &Api, why: &Why) -> bytes::Bytes {
    let url = |record: &Record| api.trace_url_of(record);
    let missing = &*why.missing;
    wire::json(&WhyText {
        event: &why.event,
        summary: why.summary(),
        trace_url: why.event.as_ref().and_then(url),
        instance: InstanceText::of(&why.instance),
        life: WhichText {
            incarnation: why.incarnation().0,
            from: rfc3339::format(why.from),
            until: why.until.map(rfc3339::format),
        },
        arithmetic: why.arithmetic().map(|overdue| ArithmeticText {
            ttl: overdue.ttl.to_string(),
            gap_ms: overdue.gap.millis(),
            allowed_ms: Why::allowed(overdue).millis(),
            late_ms: overdue.late.millis(),
            grace_ms: overdue.grace.millis(),
            missed: overdue.missed,
        }),
        last_heartbeat: why.last_heartbeat.map(|heartbeat| HeartbeatText {
            at: rfc3339::format(heartbeat.at),
            id: EventId::Traffic(heartbeat.id).to_string(),
            trace_id: TraceId::from_bytes(heartbeat.trace.trace_id).map(|id| id.to_string()),
            span_id: SpanId::from_bytes(heartbeat.trace.span_id).map(|id| id.to_string()),
            trace_url: api.trace_url(heartbeat.trace, heartbeat.at),
        }),
        registration: why
            .registration
            .as_ref()
            .map(|event| RegistrationText { event, trace_url: url(event) }),
        guard: why.guard.as_ref().map(|guard| EventText::of(api, guard)),
        complete: missing.is_empty(),
        missing,
    })
}
