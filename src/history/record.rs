//! One event, as the API and the command line show it.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use serde_json::value::RawValue;

use crate::domain::event::{Class, Kind};
use crate::domain::{Seq, Timestamp, TraceRef};
use crate::rfc3339;
use crate::telemetry::propagation::{SpanId, TraceId};

/// The id of an event: `42` for a change, `t1093` for traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventId {
    /// A change, by its number.
    Change(u64),
    /// A traffic event, by its number.
    Traffic(u64),
}

impl EventId {
    /// Reads an id as it is shown.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, traffic) = match text.strip_prefix('t') {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        // Only the form that is shown: no sign, no leading zero.
        let canonical = digits.starts_with(|first: char| matches!(first, '1'..='9'));
        let number = digits.parse().ok().filter(|_| canonical)?;
        Some(if traffic { Self::Traffic(number) } else { Self::Change(number) })
    }

    /// The class of the event.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Change(_) => Class::Changes,
            Self::Traffic(_) => Class::Traffic,
        }
    }

    /// Its number within its class.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Change(number) | Self::Traffic(number) => number,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_form() {
        for id in [EventId::Change(42), EventId::Traffic(1093)] {
            assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }
        for other in ["", "t", "0", "+1", "042", "T1", "t 1", "1t", "99999999999999999999"] {
            assert_eq!(EventId::parse(other), None, "{other}");
        }
    }

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
