//! Questions about the past, and their answers, as plain values: what a transport asks and what whoever
//! holds the log answers.
//!
//! It stands between the two so that neither knows the other: no SQL, no HTTP. Implemented over the log by
//! `app`, called by `http` and by the command line.

use std::fmt::{self, Debug};

use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use serde_json::value::RawValue;

use crate::domain::event::Kind;
use crate::domain::{InstanceId, Millis, Namespace, Seq, ServiceName, Timestamp, TraceRef};
use crate::rfc3339;
use crate::telemetry::propagation::{SpanId, TraceId};

/// Which end of the log comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest event.
    #[default]
    Ascending,
    /// The newest event.
    Descending,
}

/// A place between two events: the last change and the last traffic event that the pages before it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number of that change.
    pub change: u64,
    /// The number of that traffic event.
    pub traffic: u64,
}

/// An instant of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// By the clock.
    At(Timestamp),
    /// By the version of the state: right after this change.
    Version(Seq),
}

impl Moment {
    /// Reads the three forms of the contract, seen from `now`: RFC 3339, an age (`-5m`), a version (`@1234`).
    #[must_use]
    pub fn parse(text: &str, now: Timestamp) -> Option<Self> {
        if let Some(version) = text.strip_prefix('@') {
            version.parse().ok().map(|seq| Self::Version(Seq(seq)))
        } else if let Some(age) = text.strip_prefix('-') {
            let micros = i64::try_from(Millis::parse(age).ok()?.micros()).unwrap_or(i64::MAX);
            Some(Self::At(Timestamp(now.micros().saturating_sub(micros))))
        } else {
            rfc3339::parse(text).map(Self::At)
        }
    }
}

/// Which events are wanted. What is `None` lets all through.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// At most so many.
    pub limit: usize,
    /// In which order.
    pub order: Order,
    /// Where the page before ended.
    pub cursor: Option<Position>,
    /// Events of this namespace; the registry's own have none.
    pub namespace: Option<Namespace>,
    /// Events of this service.
    pub service: Option<ServiceName>,
    /// Events of this instance.
    pub instance: Option<InstanceId>,
    /// Events of this kind.
    pub kind: Option<Kind>,
    /// Events that this caller led to.
    pub caller: Option<Box<str>>,
    /// Events of this trace.
    pub trace_id: Option<[u8; 16]>,
    /// Not before this instant.
    pub since: Option<Moment>,
    /// Not after this instant.
    pub until: Option<Moment>,
}

/// The id of an event: `42` for a change, `t1093` for traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventId {
    /// A change, by its number.
    Change(u64),
    /// A traffic event, by its number.
    Traffic(u64),
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(number) => write!(f, "{number}"),
            Self::Traffic(number) => write!(f, "t{number}"),
        }
    }
}

/// One event as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: EventId,
    /// A change's own number; for traffic, the version that it saw.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: Kind,
    /// The namespace; none for the registry's own.
    pub namespace: Option<Box<str>>,
    /// The service; none for the registry's own, and for a read over many.
    pub service: Option<Box<str>>,
    /// The instance, where there is one.
    pub instance: Option<Box<str>>,
    /// Who asked; none is the registry itself.
    pub caller: Option<Box<str>>,
    /// In which trace; all zero is none.
    pub trace: TraceRef,
    /// The change that led to it.
    pub cause: Option<Seq>,
    /// The rest, a JSON object as text.
    pub data: Box<str>,
}

impl Serialize for Record {
    /// The event as the API and the command line show it; the order of the fields is the contract's.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TraceRef { trace_id, span_id } = self.trace;
        // What the log holds was written as JSON; if a damaged file says otherwise, it is shown as nothing.
        let data = RawValue::from_string(self.data.to_string());
        let mut event = serializer.serialize_struct("Event", 12)?;
        event.serialize_field("id", &self.id.to_string())?;
        event.serialize_field("seq", &self.seq.0)?;
        event.serialize_field("at", &rfc3339::format(self.at))?;
        event.serialize_field("kind", self.kind.as_str())?;
        event.serialize_field("namespace", &self.namespace)?;
        event.serialize_field("service", &self.service)?;
        event.serialize_field("instance", &self.instance)?;
        event.serialize_field("caller", &self.caller)?;
        event
            .serialize_field("trace_id", &TraceId::from_bytes(trace_id).map(|id| id.to_string()))?;
        event.serialize_field("span_id", &SpanId::from_bytes(span_id).map(|id| id.to_string()))?;
        event.serialize_field("cause", &self.cause.map(|cause| cause.0))?;
        event.serialize_field("data", &data.unwrap_or_else(|_| RawValue::NULL.to_owned()))?;
        event.end()
    }
}

/// A stretch that retention took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventPage {
    /// The events, in the order that was asked for.
    pub events: Vec<Record>,
    /// Where the next page begins; none after the last one.
    pub next: Option<Position>,
    /// What the page would hold if it had been kept; empty means that the page is complete.
    pub missing: Vec<Missing>,
}

/// The figures of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogFigures {
    /// The number of the last traffic event in the log.
    pub traffic_head: u64,
    /// Bytes of changes.
    pub changes_bytes: u64,
    /// Bytes of traffic.
    pub traffic_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
}

/// The past could not be read. The text is for the operator's log, not for the one who asked.
#[derive(Debug, thiserror::Error)]
#[error("the log can't be read: {0}")]
pub struct Unreadable(pub String);

/// Reads the past. Both calls block: an asynchronous caller gives them a thread of their own.
pub trait EventReader: Send + Sync + Debug {
    /// The events that `query` asks for.
    ///
    /// # Errors
    /// [`Unreadable`] if the log does not answer.
    fn events(&self, query: &EventQuery) -> Result<EventPage, Unreadable>;

    /// The figures of the log.
    ///
    /// # Errors
    /// [`Unreadable`] if the log does not answer.
    fn figures(&self) -> Result<LogFigures, Unreadable>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_in_the_contract() {
        let record = Record {
            id: EventId::Traffic(1093),
            seq: Seq(42),
            at: Timestamp(1_795_248_000_000_000),
            kind: Kind::Lookup,
            namespace: Some("default".into()),
            service: Some("orders".into()),
            instance: None,
            caller: Some("web".into()),
            trace: TraceRef { trace_id: [0xab; 16], span_id: [0xcd; 8] },
            cause: None,
            data: r#"{"filter":"","revision":41}"#.into(),
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"id":"t1093","seq":42,"at":"2026-11-21T08:00:00.000000Z","kind":"lookup","namespace":"default","service":"orders","instance":null,"caller":"web","trace_id":"abababababababababababababababab","span_id":"cdcdcdcdcdcdcdcd","cause":null,"data":{"filter":"","revision":41}}"#
        );
        let damaged = Record { data: "{".into(), trace: TraceRef::default(), ..record };
        let text = serde_json::to_string(&damaged).unwrap();
        assert!(
            text.contains(r#""trace_id":null,"span_id":null,"#)
                && text.ends_with(r#""data":null}"#)
        );
    }
}
