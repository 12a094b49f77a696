//! Where a replay stands, and how it is steered. Only a registry that was started by `rollcall replay` has this; on
//! any other it is not found.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::faults::Faults;
use super::fields::{Fields, type_of};
use super::instants::INSTANT;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::spec::{BodySpec, JSON, Method, Operation, answer};
use super::{Shared, body, wire};
use crate::history::Moment;
use crate::replay::{Handle, InvalidSpeed, Place, Playing, Position, Refused, Speed, Steer};
use crate::rfc3339;
use serde_json::Value;

/// Most bytes of a body here.
const BODY_BYTES_MAX: usize = 4 * 1024;

/// `GET /v1/replay`
pub(super) const POSITION: Operation = Operation {
    method: Method::Get,
    id: "replayPosition",
    summary: "Where a replay stands. Only on a registry that replays the past; 404 on any other.",
    query: &[],
    headers: &[],
    body: None,
    answers: &[answer(200, "Its position, stretch, speed and state.", "Replay")],
};

/// `PATCH /v1/replay`
pub(super) const STEER: Operation = Operation {
    method: Method::Patch,
    id: "replaySteer",
    summary: "Goes elsewhere, faster or slower, on or not; answered when it is there. Only on a registry that \
              replays the past; 404 on any other.",
    query: &[],
    headers: &[],
    body: Some(BodySpec {
        schema: "ReplaySteer",
        optional: false,
        limit: BODY_BYTES_MAX,
        media: JSON,
    }),
    answers: &[answer(200, "Its new position.", "Replay")],
};

#[derive(Serialize)]
struct Replay {
    position: PlaceText,
    from: PlaceText,
    to: PlaceText,
    speed: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

#[derive(Serialize)]
struct PlaceText {
    seq: u64,
    at: String,
}

impl From<Place> for PlaceText {
    fn from(Place { at, seq }: Place) -> Self {
        Self { seq: seq.0, at: rfc3339::format(at) }
    }
}

fn response(position: &Position) -> Response {
    let body = wire::json(&Replay {
        position: position.place.into(),
        from: position.from.into(),
        to: position.to.into(),
        speed: position.speed.to_string(),
        state: position.state.as_str(),
        cause: position.trouble.as_deref().map(str::to_owned),
    });
    json_response(StatusCode::OK, body, position.place.seq)
}

pub(super) async fn position(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    let handle = api.replay.as_ref().ok_or(Problem::NotAReplay)?;
    let mut faults = Faults::default();
    Query::read(request.uri().query(), &POSITION, &mut faults);
    faults.check()?;
    Ok(response(&handle.position()))
}

pub(super) async fn steer(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    let handle = api.replay.as_ref().ok_or(Problem::NotAReplay)?;
    let mut faults = Faults::default();
    Query::read(request.uri().query(), &STEER, &mut faults);
    let spec = STEER.body.as_ref().ok_or(Problem::Internal)?;
    let object = body::read_object(request, spec, api.config.request_timeout).await?;
    let mut fields = Fields::new(object.unwrap_or_default(), "", &mut faults);
    if fields.is_empty() {
        fields.invalid("(body)", "must hold at least one of state, speed or at");
    }
    let steer = read(&mut fields, handle);
    fields.finish();
    faults.check()?;
    handle.steer(steer).await.map(|position| response(&position)).map_err(problem)
}

fn read(fields: &mut Fields<'_>, handle: &Handle) -> Steer {
    let words = [Playing::Playing, Playing::Paused];
    let named = |word: &str| Playing::parse(word).filter(|state| words.contains(state));
    let state = fields.word("state", &words, named, Playing::as_str);
    let speed = fields.take("speed").and_then(|value| {
        let read = match &value {
            Value::String(text) => Speed::parse(text),
            Value::Number(number) => Speed::parse(&number.to_string()),
            _ => Err(InvalidSpeed),
        };
        if read.is_err() {
            let was = type_of(&value);
            let was =
                if value.is_string() || value.is_number() { value.to_string() } else { was.into() };
            fields.invalid("speed", format!("{InvalidSpeed}, was {was}"));
        }
        read.ok()
    });
    // An age is counted from the replayed present.
    let now = handle.position().place.at;
    let at = fields.checked("at", |text| Moment::parse(text, now).ok_or(Moment::FORMS));
    Steer { at, speed, play: state.map(|state| state == Playing::Playing) }
}

fn problem(refused: Refused) -> Problem {
    match refused {
        Refused::Outside { from, to } => {
            let mut faults = Faults::default();
            let shown = |place: Place| format!("{} (@{})", rfc3339::format(place.at), place.seq);
            faults.invalid("at", format!("must be from {} to {}", shown(from), shown(to)));
            faults.check().err().unwrap_or(Problem::Internal)
        }
        // The cause is in the position, and in the log.
        Refused::Unreadable(_) => Problem::Internal,
        Refused::Busy => Problem::Busy,
        Refused::Stopping => Problem::Stopping,
    }
}

/// What `at` takes, for the document.
pub(super) const AT: &str = INSTANT;
