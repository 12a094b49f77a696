//! The only map from what went wrong to what the client is told: RFC 9457, `application/problem+json`.
//!
//! A handler returns a [`Problem`] as its error; the request's scope turns it into the answer, because only
//! the scope knows the trace id. A 5xx never shows the inside of the registry; a refused field is named, with
//! what would be allowed. The types (`/problems/...`) are part of the contract: the table at the end of this
//! file is their list.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::faults::FieldError;
use crate::domain::{Quota, Rejection, Seq};
use crate::history::{self, Unseen, Version};
use crate::registrar::Refused;
use crate::rfc3339;
use crate::telemetry::names::{ErrorType, RefusedRequest};

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// The body or the path is not what it says it is: not JSON, not UTF-8, cut off.
    Malformed { detail: String },
    /// Fields or parameters that the contract does not know, that came twice or that do not parse.
    InvalidRequest { errors: Vec<FieldError> },
    /// A page of another log, or no page's cursor at all.
    InvalidCursor { detail: &'static str },
    /// No such path.
    UnknownPath,
    /// No such service was ever registered.
    UnknownService,
    /// The instance does not live.
    UnknownInstance,
    /// Nothing that is kept tells of the instance; `service_lives` if its service is known now.
    Unseen { service_lives: bool, unseen: Unseen },
    /// The path has no such method.
    MethodNotAllowed,
    /// The answer exists in no form that `accept` allows.
    NotAcceptable { produces: &'static str },
    /// The body took too long to come.
    BodyTimeout { seconds: u64 },
    /// A heartbeat of another life of the instance.
    OtherIncarnation { current: Seq, given: Seq },
    /// It is older than what is kept.
    HistoryGone { oldest: Version },
    /// No such event is kept.
    UnknownEvent,
    /// The instance has not left, as far as the log knows.
    NoDeparture { lives: bool },
    /// This registry shows the past, which nothing changes.
    ReadOnly,
    /// This registry is a living one: there is no replay to steer.
    NotAReplay,
    /// Profiles are not given out here.
    NotProfiling,
    /// A profile is being taken, and there is one at a time.
    ProfileRunning,
    /// `if-none-match: *`, and the id is in use.
    InUse { incarnation: Seq },
    /// `if-match`, and the instance has changed or left.
    Stale,
    /// The body is longer than allowed.
    BodyTooLarge { limit: usize },
    /// The path and query are longer than allowed.
    UriTooLong { limit: usize },
    /// The body is of another type than the request takes.
    UnsupportedMediaType { accepted: &'static str },
    /// Fields that are missing, of the wrong type or out of their range: all of them.
    InvalidFields { errors: Vec<FieldError> },
    /// A fault of the registry.
    Internal,
    /// What was asked for is in the log, and the file is damaged there.
    LogDamaged,
    /// Replay is still running.
    NotReady { phase: String },
    /// The log can't be written.
    LogFailed { cause: String },
    /// The log did not take the event in time.
    LogSlow,
    /// Too many changes wait.
    Busy,
    /// There is no room for a new instance.
    QuotaReached { quota: Quota, present: usize, limit: u32 },
    /// The caller asks more often than it may.
    CallerRate { per_second: u32, wait: Duration },
    /// As many wait for changes as may, of all or of this caller.
    TooManyWatchers { limit: usize, of_caller: bool },
    /// More is asked than can be done.
    Overloaded { by: Overload },
    /// The registry is going down.
    Stopping,
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overload {
    /// Requests that wait for their turn.
    Waiting,
    /// Requests in progress.
    InProgress { limit: usize },
    /// Questions about the past.
    Past { limit: usize },
}

/// What a problem is, apart from its particulars.
struct Kind {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
}

impl Problem {
    /// Status, type and title.
    fn kind(&self) -> Kind {
        let (status, name, title) = match self {
            Self::Malformed { .. } => (400, "malformed-request", "The request can't be read"),
            Self::InvalidRequest { .. } => {
                (400, "invalid-request", "The request has unknown or unreadable parts")
            }
            Self::InvalidCursor { .. } => {
                (400, "invalid-cursor", "The cursor is not one of this list")
            }
            // Not 405: it is not this path that lacks the method, the whole registry takes no change.
            Self::ReadOnly => (403, "read-only", "The past can't be changed"),
            Self::NotAReplay => (404, "not-a-replay", "This registry is no replay"),
            Self::NotProfiling => (404, "not-profiling", "No profiles are given out here"),
            Self::UnknownPath => (404, "unknown-path", "There is nothing at this path"),
            Self::UnknownService => (404, "unknown-service", "The service is not known"),
            Self::UnknownInstance => (404, "unknown-instance", "The instance is not registered"),
            // The same names as in the present: who handles those handles these.
            Self::Unseen { service_lives: false, .. } => {
                (404, "unknown-service", "The log tells of no such service")
            }
            Self::Unseen { service_lives: true, .. } => {
                (404, "unknown-instance", "The log tells of no such instance")
            }
            Self::MethodNotAllowed => {
                (405, "method-not-allowed", "The path does not have this method")
            }
            Self::NotAcceptable { .. } => {
                (406, "not-acceptable", "The answer does not exist in the form asked for")
            }
            Self::BodyTimeout { .. } => (408, "body-timeout", "The body did not come in time"),
            Self::OtherIncarnation { .. } => {
                (409, "other-incarnation", "Another life of the instance is registered")
            }
            Self::ProfileRunning => (409, "profile-running", "A profile is being taken"),
            Self::UnknownEvent => (404, "unknown-event", "The event is not in the log"),
            Self::NoDeparture { .. } => (404, "no-departure", "There is no departure to tell of"),
            Self::HistoryGone { .. } => (410, "history-gone", "History that old is not kept"),
            Self::InUse { .. } => (412, "id-in-use", "The id is in use"),
            Self::Stale => (412, "instance-changed", "The instance has changed"),
            Self::BodyTooLarge { .. } => (413, "body-too-large", "The body is too long"),
            Self::UriTooLong { .. } => (414, "uri-too-long", "Path and query are too long"),
            Self::UnsupportedMediaType { .. } => {
                (415, "unsupported-media-type", "The body is of the wrong type")
            }
            Self::InvalidFields { .. } => {
                (422, "invalid-fields", "Fields are missing or out of range")
            }
            Self::Internal => (500, "internal", "The registry has made a mistake"),
            Self::LogDamaged => (500, "log-damaged", "The log is damaged there"),
            Self::NotReady { .. } => (503, "not-ready", "The registry is not ready yet"),
            Self::LogFailed { .. } => (503, "log-failed", "The log can't be written"),
            Self::LogSlow => (503, "log-slow", "The log is slow"),
            Self::Busy => (503, "busy", "Too many changes wait"),
            Self::QuotaReached { .. } => {
                (429, "quota-reached", "There is no room for another instance")
            }
            Self::CallerRate { .. } => {
                (429, "rate-limited", "The caller asks more often than it may")
            }
            Self::TooManyWatchers { .. } => (429, "too-many-watchers", "Too many wait for changes"),
            Self::Overloaded { .. } => (503, "overloaded", "More is asked than can be done"),
            Self::Stopping => (503, "stopping", "The registry is shutting down"),
        };
        let status = StatusCode::from_u16(status).expect("every status above is a valid one");
        Kind { status, name, title }
    }

    /// What happened here, for the one who reads it.
    fn detail(&self) -> String {
        match self {
            Self::Malformed { detail } => detail.clone(),
            Self::InvalidRequest { .. } => "nothing was done; see errors for each part".into(),
            Self::InvalidCursor { detail } => (*detail).into(),
            Self::ReadOnly => {
                "this registry replays a log; send changes and heartbeats to the living one".into()
            }
            Self::NotAReplay => {
                "it shows the present; `rollcall replay` starts one that can be steered".into()
            }
            Self::NotProfiling => {
                "start the registry with --profiling (setting profiling) to allow them".into()
            }
            Self::ProfileRunning => {
                "one is taken at a time; try again when it has ended, after a minute at most".into()
            }
            Self::UnknownPath => "see /openapi.json for all paths".into(),
            Self::UnknownService => {
                "no service of this name was ever registered in this namespace".into()
            }
            Self::UnknownInstance => {
                "it never was, or it has left; a client that heartbeats registers again".into()
            }
            Self::Unseen { unseen, .. } => unseen_detail(unseen),
            Self::MethodNotAllowed => "the header allow names those that it has".into(),
            Self::NotAcceptable { produces } => format!("it is {produces} only"),
            Self::BodyTimeout { seconds } => {
                format!("the whole body must be there after {seconds} s")
            }
            Self::OtherIncarnation { current, given } => {
                format!("incarnation {current} is registered, the request is of {given}")
            }
            Self::UnknownEvent => {
                "it never was, or retention took it; ids look like 42 and t1093".into()
            }
            Self::NoDeparture { lives: true } => {
                "it lives, and as far as the log goes back it has never left".into()
            }
            Self::NoDeparture { lives: false } => {
                "no departure of it is in the log: it never was registered under these names, or retention took \
                 the event"
                    .into()
            }
            Self::HistoryGone { oldest } => format!(
                "the oldest state that can still be told is version {}, of {}",
                oldest.seq,
                rfc3339::format(oldest.at)
            ),
            Self::InUse { incarnation } => format!("incarnation {incarnation} lives under this id"),
            Self::Stale => "it is not the one that the etag was given for".into(),
            Self::BodyTooLarge { limit } => format!("at most {limit} bytes are taken"),
            Self::UriTooLong { limit } => format!("at most {limit} bytes are taken"),
            Self::UnsupportedMediaType { accepted } => format!("send {accepted}"),
            Self::InvalidFields { .. } => "nothing was done; see errors for each field".into(),
            Self::Internal => "the cause is in the registry's own log under this trace id".into(),
            Self::LogDamaged => {
                "it was written, and what the disk gives back is not what was; `rollcall verify` names all such places"
                    .into()
            }
            Self::NotReady { phase } => phase.clone(),
            Self::LogFailed { cause } => {
                format!("changes are refused until it can: {cause}; lookups and heartbeats go on")
            }
            Self::LogSlow => {
                "the event found no place in time; a change that was sent may still take effect"
                    .into()
            }
            Self::Busy => "nothing was done; try again".into(),
            Self::QuotaReached { quota, present, limit } => {
                let setting = match quota {
                    Quota::Namespace => "max_instances_per_namespace",
                    Quota::Service => "max_instances_per_service",
                };
                format!(
                    "{quota} has {present} instances and may have {limit} (setting {setting}); those that live can be replaced \
                     and renewed as before"
                )
            }
            Self::CallerRate { per_second, .. } => format!(
                "a caller may make {per_second} requests a second (setting caller_rate), and a burst of some more"
            ),
            Self::TooManyWatchers { limit, of_caller: true } => format!(
                "this caller has {limit} long polls and streams, and may have no more (setting max_watchers_per_caller)"
            ),
            Self::TooManyWatchers { limit, of_caller: false } => {
                format!("{limit} long polls and streams wait, and no more may (setting max_watchers)")
            }
            Self::Overloaded { by: Overload::Waiting } => {
                "nothing was done; what matters less is refused first, heartbeats last".into()
            }
            Self::Overloaded { by: Overload::InProgress { limit } } => format!(
                "nothing was done; at most {limit} requests are worked on at once, the last places for heartbeats (setting \
                 max_requests)"
            ),
            Self::Overloaded { by: Overload::Past { limit } } => format!(
                "nothing was done; at most {limit} questions about the past are worked on at once (setting max_past_reads)"
            ),
            Self::Stopping => "nothing was done; try again when it is back".into(),
        }
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.kind().status
    }

    /// Why the registry failed, for metrics; none where the caller was wrong.
    pub(super) fn error_type(&self) -> ErrorType {
        match self {
            Self::Internal | Self::LogDamaged => ErrorType::Internal,
            Self::NotReady { .. } | Self::Stopping => ErrorType::NotReady,
            Self::LogFailed { .. } => ErrorType::LogFailed,
            Self::LogSlow | Self::Busy => ErrorType::LogSlow,
            Self::Overloaded { .. } => ErrorType::Overloaded,
            Self::Malformed { .. }
            | Self::InvalidRequest { .. }
            | Self::InvalidCursor { .. }
            | Self::ReadOnly
            | Self::NotAReplay
            | Self::NotProfiling
            | Self::ProfileRunning
            | Self::UnknownPath
            | Self::UnknownService
            | Self::UnknownInstance
            | Self::Unseen { .. }
            | Self::MethodNotAllowed
            | Self::NotAcceptable { .. }
            | Self::BodyTimeout { .. }
            | Self::OtherIncarnation { .. }
            | Self::HistoryGone { .. }
            | Self::UnknownEvent
            | Self::NoDeparture { .. }
            | Self::InUse { .. }
            | Self::Stale
            | Self::BodyTooLarge { .. }
            | Self::UriTooLong { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::QuotaReached { .. }
            | Self::CallerRate { .. }
            | Self::TooManyWatchers { .. }
            | Self::InvalidFields { .. } => ErrorType::None,
        }
    }

    /// Which limit was met, for those that tell the client to come back for one.
    pub(super) fn refused(&self) -> Option<RefusedRequest> {
        match self {
            Self::QuotaReached { quota: Quota::Namespace, .. } => {
                Some(RefusedRequest::NamespaceFull)
            }
            Self::QuotaReached { quota: Quota::Service, .. } => Some(RefusedRequest::ServiceFull),
            Self::CallerRate { .. } => Some(RefusedRequest::CallerRate),
            Self::TooManyWatchers { of_caller: true, .. } => Some(RefusedRequest::CallerWatchers),
            Self::TooManyWatchers { of_caller: false, .. } => Some(RefusedRequest::Watchers),
            Self::Overloaded { by: Overload::Waiting } => Some(RefusedRequest::Overload),
            Self::Overloaded { by: Overload::InProgress { .. } } => {
                Some(RefusedRequest::InProgress)
            }
            Self::Overloaded { by: Overload::Past { .. } } => Some(RefusedRequest::Past),
            _ => None,
        }
    }

    /// Members beyond those that every problem has.
    fn particulars(&self, members: &mut Map<String, Value>) {
        match self {
            Self::InvalidRequest { errors } | Self::InvalidFields { errors } => {
                let errors = errors
                    .iter()
                    .map(|error| json!({"field": error.field, "message": error.message}))
                    .collect();
                members.insert("errors".into(), errors);
            }
            Self::HistoryGone { oldest } => {
                members.insert("oldest".into(), version(oldest));
            }
            Self::Unseen { unseen, .. } => {
                members.insert("oldest".into(), version(&unseen.oldest));
                members.insert("newest".into(), version(&unseen.newest));
            }
            Self::OtherIncarnation { current, .. } | Self::InUse { incarnation: current } => {
                members.insert("incarnation".into(), current.0.into());
            }
            Self::QuotaReached { present, limit, .. } => {
                members.insert("limit".into(), (*limit).into());
                members.insert("present".into(), (*present).into());
            }
            Self::CallerRate { per_second, .. } => {
                members.insert("limit".into(), (*per_second).into());
            }
            Self::TooManyWatchers { limit, .. }
            | Self::Overloaded { by: Overload::InProgress { limit } | Overload::Past { limit } } => {
                members.insert("limit".into(), (*limit).into());
            }
            _ => {}
        }
    }

    /// The body, in the trace of this id.
    fn body(&self, trace_id: &str) -> Vec<u8> {
        let Kind { status, name, title } = self.kind();
        let mut members = Map::new();
        members.insert("type".into(), format!("/problems/{name}").into());
        members.insert("title".into(), title.into());
        members.insert("status".into(), status.as_u16().into());
        members.insert("detail".into(), self.detail().into());
        members.insert("trace_id".into(), trace_id.into());
        self.particulars(&mut members);
        Value::Object(members).to_string().into_bytes()
    }

    /// Fills `response`, which keeps its headers, with this problem.
    pub(super) fn write(&self, response: &mut Response, trace_id: &str) {
        *response.status_mut() = self.status();
        *response.body_mut() = Body::from(self.body(trace_id));
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }

    /// When to try again, in seconds: soon where a queue is full, later where a disk is or somebody has to leave.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::NotReady { .. } | Self::LogSlow | Self::Busy | Self::Overloaded { .. } => Some(1),
            Self::LogFailed { .. } | Self::Stopping | Self::TooManyWatchers { .. } => Some(5),
            Self::QuotaReached { .. } => Some(30),
            Self::CallerRate { wait, .. } => Some(wait.as_secs() + 1),
            _ => None,
        }
    }
}

fn version(Version { seq, at }: &Version) -> Value {
    json!({"seq": seq.0, "at": rfc3339::format(*at)})
}

/// Whether it never was, or may have been and is no longer told of.
fn unseen_detail(Unseen { compacted, oldest, newest }: &Unseen) -> String {
    let until = format!("version {} of {}", newest.seq, rfc3339::format(newest.at));
    let since = format!("version {} of {}", oldest.seq, rfc3339::format(oldest.at));
    match (oldest.seq, compacted) {
        (Seq::ZERO, _) => format!(
            "it was never registered: the log holds everything from its beginning to {until}; check the names and \
             the namespace"
        ),
        (_, false) => format!(
            "it was never registered: the log reaches from {since} to {until}, and its service was not known before \
             that"
        ),
        (_, true) => format!(
            "the log reaches from {since} to {until} and tells of no life of it in that time; if it had left before, \
             retention has taken what told of it"
        ),
    }
}

impl IntoResponse for Problem {
    /// A response that carries the problem to the scope of the request, which writes it.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::UnknownService => Self::UnknownService,
            Rejection::UnknownInstance => Self::UnknownInstance,
            Rejection::OtherIncarnation { current, given } => {
                Self::OtherIncarnation { current, given }
            }
            Rejection::InUse { incarnation } => Self::InUse { incarnation },
            Rejection::Stale => Self::Stale,
            Rejection::TooMuchMetadata { .. } => {
                let error =
                    FieldError { field: "metadata".into(), message: rejection.to_string().into() };
                Self::InvalidFields { errors: vec![error] }
            }
            Rejection::QuotaReached { quota, present, limit } => {
                Self::QuotaReached { quota, present, limit }
            }
        }
    }
}

impl From<history::Error> for Problem {
    /// A log that can't be read: the operator gets the cause, the client that it happened.
    fn from(error: history::Error) -> Self {
        match error {
            history::Error::Gone { oldest } => Self::HistoryGone { oldest },
            history::Error::Ahead { newest } => {
                let message =
                    format!("must not be above the present version, which is {}", newest.seq);
                let error = FieldError { field: "at".into(), message: message.into() };
                Self::InvalidFields { errors: vec![error] }
            }
            history::Error::Damaged(cause) => {
                tracing::error!(error.r#type = "log_damaged", "the log is damaged: {cause}");
                Self::LogDamaged
            }
            history::Error::Unreadable(cause) => {
                tracing::error!(error.r#type = "log_unreadable", "the log can't be read: {cause}");
                Self::Internal
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Rejected(rejection) => rejection.into(),
            Refused::QueueFull => Self::Busy,
            Refused::Slow(_) => Self::LogSlow,
            Refused::Failed { cause } => Self::LogFailed { cause: cause.to_string() },
            Refused::Stopping => Self::Stopping,
            Refused::ReadOnly => Self::ReadOnly,
        }
    }
}

#[cfg(test)]
mod tests;
