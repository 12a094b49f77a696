//! Who was handed a dead instance: the answer of [`crate::history::impact`] as the contract shows it. Asking is no
//! event: the past does not grow by being looked at.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;

use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::spec::{Method, Operation, Parameter, Shape, answer};
use super::{Api, Shared, wire};
use crate::domain::limits::NAME_CHARS_MAX;
use crate::domain::{InstanceKey, Namespace, Seq, ServiceKey, Timestamp, TraceRef};
use crate::history::impact::{self, Handed, Impact, LongPoll, Refusal, Stream, Target};
use crate::history::{Missing, Record};
use crate::rfc3339;
use crate::telemetry::propagation::{SpanId, TraceId};

/// `GET /v1/impact`
pub(super) const IMPACT: Operation = Operation {
    method: Method::Get,
    id: "impact",
    summary: "Who was handed an instance between its last sign of life and its leaving.",
    query: &[
        Parameter::new(
            "namespace",
            "The namespace; `default` if absent, or that of the event.",
            Shape::Text(63),
        ),
        Parameter::new(
            "service",
            "The service; not needed beside `seq`.",
            Shape::Text(NAME_CHARS_MAX),
        ),
        Parameter::new(
            "instance",
            "The instance, whose newest departure is looked into; without it and `seq`, that of whoever left the \
             service last without goodbye.",
            Shape::Text(NAME_CHARS_MAX),
        ),
        Parameter::new(
            "seq",
            "Another departure: the number of its `expired` or `deregistered` event.",
            Shape::Text(20),
        ),
        Parameter::new("limit", "Most traces of a caller.", Shape::Count(1, 10_000, 1_000)),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "Who, how often, when and in which traces.", "Impact")],
};

#[derive(Serialize)]
struct Answer<'a> {
    instance: &'a RawValue,
    departure: &'a Record,
    last_sign_of_life: Sign,
    callers: Vec<Caller<'a>>,
    streams: Vec<StreamText<'a>>,
    long_polls: Vec<PollText<'a>>,
    lookups: u64,
    confirmations: u64,
    complete: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [Missing],
}

/// A trace as answered; all null where there is none.
#[derive(Serialize)]
struct Trace {
    trace_id: Option<String>,
    span_id: Option<String>,
    trace_url: Option<String>,
}

impl Trace {
    fn of(api: &Api, trace: TraceRef, at: Timestamp) -> Self {
        Self {
            trace_id: TraceId::from_bytes(trace.trace_id).map(|id| id.to_string()),
            span_id: SpanId::from_bytes(trace.span_id).map(|id| id.to_string()),
            trace_url: api.trace_url(trace, at),
        }
    }
}

#[derive(Serialize)]
struct Sign {
    at: String,
    kind: &'static str,
    id: String,
    #[serde(flatten)]
    trace: Trace,
}

#[derive(Serialize)]
struct Caller<'a> {
    caller: &'a str,
    lookups: u64,
    confirmations: u64,
    first: String,
    last: String,
    held_until: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    approximate: bool,
    traces: Vec<HandedText>,
}

#[derive(Serialize)]
struct HandedText {
    #[serde(flatten)]
    trace: Trace,
    id: String,
    at: String,
    revision: u64,
    status: u16,
}

#[derive(Serialize)]
struct StreamText<'a> {
    caller: &'a str,
    filter: &'a str,
    opened: Option<String>,
    told_at: Option<String>,
    closed: Option<String>,
    #[serde(flatten)]
    trace: Trace,
}

#[derive(Serialize)]
struct PollText<'a> {
    caller: &'a str,
    revision: u64,
    told_at: String,
    #[serde(flatten)]
    trace: Trace,
}

pub(super) async fn impact(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &IMPACT, &mut faults);
    let target = read(&query, &mut faults);
    let limit = usize::try_from(query.count("limit")).unwrap_or(usize::MAX);
    faults.check()?;
    let target = target.ok_or(Problem::Internal)?;

    let head = api.projection.head();
    let asked = target.clone();
    match api.ask(move |archive| impact::impact(archive, &asked, limit)).await? {
        Ok(impact) => Ok(json_response(StatusCode::OK, text(&api, &impact)?, head)),
        Err(refusal) => Err(refused(&api, &target, &refusal)),
    }
}

fn read(query: &Query<'_>, faults: &mut Faults) -> Option<Target> {
    let namespace = query.namespace(faults);
    let (service, instance) = (query.service(faults), query.instance(faults));
    if let Some(text) = query.get("seq") {
        let number = text.parse().ok().filter(|number| *number > 0);
        if number.is_none() {
            faults.malformed("seq", "must be the number of a change, such as 42");
        }
        return Some(Target::Event { seq: Seq(number?), namespace, service, instance });
    }
    if query.get("service").is_none() {
        faults.invalid("service", "is required, unless seq names a departure");
    }
    let service = ServiceKey { namespace: namespace.unwrap_or_default(), service: service? };
    // One that was given and refused is not one that was left out.
    if query.pairs().any(|(name, _)| name == "instance") {
        return Some(Target::Newest(InstanceKey { service, instance: instance? }));
    }
    Some(Target::NewestOf(service))
}

/// What to say where there is no such departure.
fn refused(api: &Api, target: &Target, refusal: &Refusal) -> Problem {
    let wrong = |message: String| {
        let mut faults = Faults::default();
        faults.invalid("seq", message);
        faults.check().err().unwrap_or(Problem::Internal)
    };
    match refusal {
        Refusal::NoDeparture => {
            let lives = match target {
                Target::Newest(key) => api.living(key).is_ok(),
                Target::NewestOf(_) | Target::Event { .. } => false,
            };
            Problem::NoDeparture { lives }
        }
        Refusal::UnknownEvent => Problem::UnknownEvent,
        Refusal::NotADeparture(kind) => {
            wrong(format!("must be of an expired or deregistered event, is of a {kind} one"))
        }
        Refusal::Another(InstanceKey { service: ServiceKey { namespace, service }, instance }) => {
            let mut name = format!("{service}/{instance}");
            if *namespace != Namespace::default() {
                name = format!("{name} in namespace {namespace}");
            }
            wrong(format!("must be a departure of the instance that is named, is one of {name}"))
        }
    }
}

fn text(api: &Api, impact: &Impact) -> Result<bytes::Bytes, Problem> {
    let instance = String::from_utf8(wire::instance(&impact.instance).to_vec());
    let instance = instance.ok().and_then(|text| RawValue::from_string(text).ok());
    let sign = impact.last_sign_of_life;
    let missing = &*impact.missing;
    let callers: Vec<Caller<'_>> = impact
        .callers
        .iter()
        .map(|caller| Caller {
            caller: &caller.caller,
            lookups: caller.lookups,
            confirmations: caller.confirmations,
            first: rfc3339::format(caller.first),
            last: rfc3339::format(caller.last),
            held_until: moment(caller.held_until),
            approximate: caller.approximate,
            traces: caller.traces.iter().map(|handed| handed_text(api, handed)).collect(),
        })
        .collect();
    Ok(wire::json(&Answer {
        instance: instance.as_deref().ok_or(Problem::Internal)?,
        departure: &impact.departure,
        last_sign_of_life: Sign {
            at: rfc3339::format(sign.at),
            kind: sign.kind.as_str(),
            id: sign.id.to_string(),
            trace: Trace::of(api, sign.trace, sign.at),
        },
        lookups: callers.iter().map(|caller| caller.lookups).sum(),
        confirmations: callers.iter().map(|caller| caller.confirmations).sum(),
        callers,
        streams: impact.streams.iter().map(|stream| stream_text(api, stream)).collect(),
        long_polls: impact.long_polls.iter().map(|poll| poll_text(api, poll)).collect(),
        complete: missing.is_empty(),
        missing,
    }))
}

fn moment(at: Option<Timestamp>) -> Option<String> {
    at.map(rfc3339::format)
}

fn handed_text(api: &Api, handed: &Handed) -> HandedText {
    HandedText {
        trace: Trace::of(api, handed.trace, handed.at),
        id: format!("t{}", handed.number),
        at: rfc3339::format(handed.at),
        revision: handed.revision.0,
        status: handed.status,
    }
}

fn stream_text<'a>(api: &Api, stream: &'a Stream) -> StreamText<'a> {
    StreamText {
        caller: &stream.caller,
        filter: &stream.filter,
        opened: moment(stream.opened),
        told_at: moment(stream.told_at),
        closed: moment(stream.closed),
        // Without a beginning in the log it is not known when its span was.
        trace: Trace::of(api, stream.trace, stream.opened.unwrap_or_default()),
    }
}

fn poll_text<'a>(api: &Api, poll: &'a LongPoll) -> PollText<'a> {
    PollText {
        caller: &poll.caller,
        revision: poll.revision.0,
        told_at: rfc3339::format(poll.told_at),
        trace: Trace::of(api, poll.trace, poll.told_at),
    }
}
