//! What is different between two instants, with the changes that did it. Reading it is no event.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::ser::{Serialize, Serializer};

use super::faults::Faults;
use super::instants::{self, CHARS_MAX, INSTANT};
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::spec::{ANY_NAMESPACE, Method, Operation, Parameter, Shape, answer};
use super::wire::InstanceText;
use super::{Shared, wire};
use crate::domain::limits::NAME_CHARS_MAX;
use crate::history::{self, Changed, Difference, LeftOut, Moment, Moved, Record, Value, Version};
use crate::rfc3339;

/// `GET /v1/diff`
pub(super) const DIFF: Operation = Operation {
    method: Method::Get,
    id: "diff",
    summary: "Which instances came, left and changed between two instants, and by which events.",
    query: &[
        Parameter::new(
            "from",
            "The earlier instant, required: RFC 3339, an age (`-5m`) or a version (`@1234`).",
            Shape::Text(CHARS_MAX),
        ),
        Parameter::new("to", INSTANT, Shape::Text(CHARS_MAX)),
        ANY_NAMESPACE,
        Parameter::new("service", "Those of this service.", Shape::Text(NAME_CHARS_MAX)),
        Parameter::new(
            "limit",
            "Most entries of each list, the first ones by name; `left_out` says how many there are beyond.",
            Shape::Count(1, 100_000, 10_000),
        ),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "The differences; `to` is now if absent.", "Diff")],
};

/// The ends of the stretch.
const STRETCH: [&str; 2] = ["from", "to"];

pub(super) async fn diff(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &DIFF, &mut faults);
    let of = history::Scope {
        namespace: query.namespace(&mut faults),
        service: query.service(&mut faults),
    };
    let [from, to] = instants::read_stretch(STRETCH, &query, api.present(), &mut faults);
    if query.get("from").is_none() {
        faults.invalid("from", "is required: the instant to compare with, such as -5m");
    }
    let limit = usize::try_from(query.count("limit")).unwrap_or(usize::MAX);
    faults.check()?;
    let from = from.ok_or(Problem::Internal)?;
    drop(query);
    if let Some(service) = &of.service {
        scope.about(service, None);
    }
    let stretch = api
        .ask(move |archive| {
            let to = match to {
                Some(to) => archive.version(to)?,
                None => archive.extent()?.newest,
            };
            Ok([archive.version(from)?, to])
        })
        .await?;
    let [from, to] = stretch;
    scope.reflects(to.seq);
    if from.seq > to.seq {
        return Err(instants::backwards(STRETCH, [from, to].map(|end| Moment::Version(end.seq))));
    }
    let found = api.ask(move |archive| history::diff(archive, stretch, of, limit)).await?;
    Ok(json_response(StatusCode::OK, text(stretch, &found), to.seq))
}

#[derive(serde::Serialize)]
struct VersionText {
    seq: u64,
    at: String,
}

#[derive(serde::Serialize)]
struct Came<'a> {
    #[serde(flatten)]
    instance: InstanceText<'a>,
    event: &'a Option<Record>,
}

#[derive(serde::Serialize)]
struct Left<'a> {
    instance: InstanceText<'a>,
    event: &'a Option<Record>,
}

#[derive(serde::Serialize)]
struct ChangedText<'a> {
    namespace: &'a str,
    service: &'a str,
    instance: &'a str,
    fields: BTreeMap<&'a str, [ValueText<'a>; 2]>,
    events: Vec<String>,
}

struct ValueText<'a>(&'a Value);

impl Serialize for ValueText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Absent => serializer.serialize_none(),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Number(number) => serializer.serialize_u64(*number),
            Value::Texts(texts) => texts.serialize(serializer),
        }
    }
}

#[derive(serde::Serialize)]
struct DiffText<'a> {
    from: VersionText,
    to: VersionText,
    came: Vec<Came<'a>>,
    left: Vec<Left<'a>>,
    changed: Vec<ChangedText<'a>>,
    passed: u64,
    reverted: u64,
    truncated: bool,
    left_out: LeftOutText,
}

#[derive(serde::Serialize)]
struct LeftOutText {
    came: u64,
    left: u64,
    changed: u64,
}

fn text(stretch: [Version; 2], found: &Difference<Option<Record>>) -> bytes::Bytes {
    let [from, to] =
        stretch.map(|Version { seq, at }| VersionText { seq: seq.0, at: rfc3339::format(at) });
    let LeftOut { came, left, changed } = found.left_out;
    wire::json(&DiffText {
        from,
        to,
        came: found
            .came
            .iter()
            .map(|Moved { instance, event }| Came { instance: InstanceText::of(instance), event })
            .collect(),
        left: found
            .left
            .iter()
            .map(|Moved { instance, event }| Left { instance: InstanceText::of(instance), event })
            .collect(),
        changed: found.changed.iter().map(changed_text).collect(),
        passed: found.passed,
        reverted: found.reverted,
        truncated: found.left_out != LeftOut::default(),
        left_out: LeftOutText { came, left, changed },
    })
}

fn changed_text(Changed { key, fields, events }: &Changed) -> ChangedText<'_> {
    ChangedText {
        namespace: key.service.namespace.as_str(),
        service: key.service.service.as_str(),
        instance: key.instance.as_str(),
        fields: fields
            .iter()
            .map(|(name, values)| (name.as_str(), values.each_ref().map(ValueText)))
            .collect(),
        events: events.iter().map(ToString::to_string).collect(),
    }
}
