//! The lines of an export, which are also those of an import: a header, the state that the events begin at if that is
//! not the empty one, then every event as the API shows it, with what the log knows of a change beyond that.
//!
//! ```text
//!   {"export":1,"log_id":"...","changes":{"first":41,"last":99},"traffic":{...},"base":{"seq":40,...}}
//!   {"service":"orders","namespace":"default","revision":38,...}      one or more a service, if there is a base
//!   {"id":"41","seq":41,"at":"...","kind":"registered",...,"node":"n1","format":1}
//!   {"id":"t7","seq":41,"at":"...","kind":"lookup",...}
//! ```
//!
//! Plain values; [`super::export`] writes them and [`super::import`] reads them. What is read is not trusted: each
//! conversion names the field that it does not understand.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::event::{Class, Kind};
use crate::domain::traffic::{Numbered, Traffic};
use crate::domain::{InstanceId, Namespace, Seq, ServiceName, Timestamp, TraceRef};
use crate::history::EventId;
use crate::log::blocks;
use crate::log::codec::{Row, hex, unhex};
use crate::log::snapshot::{Header, Part};
use crate::rfc3339;

/// The version of export that is written.
pub(super) const VERSION: u32 = 1;

/// The first and the last number of a class; the last is one less than the first where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeaderLine {
    /// See [`VERSION`].
    pub(super) export: u32,
    pub(super) log_id: String,
    pub(super) changes: Numbers,
    pub(super) traffic: Numbers,
    /// The state before the first change; none if that is the empty beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<Header>,
    /// How many lines tell of it.
    #[serde(default)]
    pub(super) parts: u64,
}

/// A line of the base.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PartLine {
    namespace: String,
    service: String,
    revision: u64,
    part: u64,
    parts: u64,
    format: u32,
    checksum: u32,
    instances: Box<RawValue>,
}

impl PartLine {
    pub(super) fn new(part: Part) -> serde_json::Result<Self> {
        Ok(Self {
            namespace: part.namespace,
            service: part.service,
            revision: part.revision,
            part: part.part,
            parts: part.parts,
            format: part.format,
            checksum: part.checksum,
            instances: RawValue::from_string(part.instances)?,
        })
    }

    pub(super) fn part(self, seq: u64) -> Part {
        Part {
            seq,
            namespace: self.namespace,
            service: self.service,
            revision: self.revision,
            part: self.part,
            parts: self.parts,
            format: self.format,
            checksum: self.checksum,
            instances: self.instances.get().to_owned(),
        }
    }
}

/// An event.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EventLine {
    id: String,
    seq: u64,
    at: String,
    kind: String,
    namespace: Option<String>,
    service: Option<String>,
    instance: Option<String>,
    caller: Option<String>,
    trace_id: Option<String>,
    span_id: Option<String>,
    cause: Option<u64>,
    data: Box<RawValue>,
    /// A change's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// See above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<u32>,
}

impl EventLine {
    /// A change, as its row tells it.
    pub(super) fn of_change(row: Row) -> serde_json::Result<Self> {
        Ok(Self {
            id: row.seq.to_string(),
            seq: row.seq,
            at: rfc3339::format(Timestamp(row.at)),
            kind: row.kind,
            namespace: row.namespace,
            service: row.service,
            instance: row.instance,
            caller: row.caller,
            trace_id: row.trace_id.as_deref().map(hex),
            span_id: row.span_id.as_deref().map(hex),
            cause: row.cause,
            data: RawValue::from_string(row.data)?,
            node: Some(row.node),
            format: Some(row.format),
        })
    }

    /// A traffic event.
    pub(super) fn of_traffic(event: &Numbered) -> serde_json::Result<Self> {
        let Numbered { number, traffic } = event;
        let trace = Some(traffic.trace).filter(TraceRef::is_some);
        Ok(Self {
            id: EventId::Traffic(*number).to_string(),
            seq: traffic.seen.0,
            at: rfc3339::format(traffic.at),
            kind: traffic.detail.kind().to_string(),
            namespace: traffic.namespace.as_ref().map(ToString::to_string),
            service: traffic.service.as_ref().map(ToString::to_string),
            instance: traffic.instance.as_ref().map(ToString::to_string),
            caller: Some(traffic.caller.to_string()),
            trace_id: trace.map(|trace| hex(&trace.trace_id)),
            span_id: trace.map(|trace| hex(&trace.span_id)),
            cause: None,
            data: RawValue::from_string(blocks::data_of(&traffic.detail))?,
            node: None,
            format: None,
        })
    }

    /// Its id.
    pub(super) fn id(&self) -> Result<EventId, String> {
        EventId::parse(&self.id).ok_or_else(|| format!("id: {:?} is none", self.id))
    }

    fn at(&self) -> Result<Timestamp, String> {
        rfc3339::parse(&self.at).ok_or_else(|| format!("at: {:?} is not RFC 3339", self.at))
    }

    fn kind(&self, class: Class) -> Result<Kind, String> {
        let kind = Kind::parse(&self.kind).filter(|kind| kind.class() == class);
        kind.ok_or_else(|| format!("kind: {:?} is no kind of {class}", self.kind))
    }

    /// The row of a change, whose number is `number`.
    pub(super) fn row(self, number: u64) -> Result<Row, String> {
        self.kind(Class::Changes)?;
        if self.seq != number {
            return Err(format!("seq: {} is not the id's number", self.seq));
        }
        let at = self.at()?.micros();
        let bytes = |text: &Option<String>, field: &str, length: usize| {
            let Some(text) = text else { return Ok(None) };
            let bytes = match length {
                16 => unhex::<16>(text).map(|bytes| bytes.to_vec()),
                _ => unhex::<8>(text).map(|bytes| bytes.to_vec()),
            };
            let wrong = || format!("{field}: {text:?} is not {} hexadecimal digits", 2 * length);
            bytes.map(Some).ok_or_else(wrong)
        };
        let mut row = Row {
            seq: number,
            at,
            trace_id: bytes(&self.trace_id, "trace_id", 16)?,
            span_id: bytes(&self.span_id, "span_id", 8)?,
            kind: self.kind,
            namespace: self.namespace,
            service: self.service,
            instance: self.instance,
            caller: self.caller,
            cause: self.cause,
            node: self.node.ok_or("node is missing")?,
            format: self.format.ok_or("format is missing")?,
            data: self.data.get().to_owned(),
            checksum: 0,
        };
        row.checksum = row.expected_checksum();
        Ok(row)
    }

    /// The traffic event.
    pub(super) fn traffic(self) -> Result<Traffic, String> {
        fn name<T, E: std::fmt::Display>(
            text: Option<&String>,
            field: &str,
            read: impl Fn(&str) -> Result<T, E>,
        ) -> Result<Option<T>, String> {
            text.map(|text| read(text).map_err(|error| format!("{field} {error}"))).transpose()
        }
        let kind = self.kind(Class::Traffic)?;
        let trace = match (&self.trace_id, &self.span_id) {
            (None, None) => TraceRef::default(),
            (trace_id, span_id) => TraceRef {
                trace_id: trace_id
                    .as_deref()
                    .and_then(unhex)
                    .ok_or("trace_id: it is not 32 hexadecimal digits")?,
                span_id: span_id
                    .as_deref()
                    .and_then(unhex)
                    .ok_or("span_id: it is not 16 hexadecimal digits")?,
            },
        };
        Ok(Traffic {
            at: self.at()?,
            seen: Seq(self.seq),
            namespace: name(self.namespace.as_ref(), "namespace", Namespace::new)?,
            service: name(self.service.as_ref(), "service", ServiceName::new)?,
            instance: name(self.instance.as_ref(), "instance", InstanceId::new)?,
            caller: Arc::from(self.caller.ok_or("caller is missing")?),
            trace,
            detail: blocks::detail_of(kind, self.data.get())?,
        })
    }
}
