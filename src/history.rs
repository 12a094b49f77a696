//! Questions about the past, and their answers, as plain values: what a transport asks and what whoever
//! holds the log answers.
//!
//! It stands between the two so that neither knows the other: no SQL, no HTTP. Implemented over the log by
//! `app`, called by `http` and by the command line.

use std::fmt::Debug;

use crate::domain::event::{Kind, Recovered};
use crate::domain::{InstanceId, Namespace, Seq, ServiceName, Timestamp, TraceRef};

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
    /// The replay of this start; none before it is done.
    pub replay: Option<Recovered>,
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
