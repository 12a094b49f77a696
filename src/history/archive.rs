//! What can be asked of whoever holds the log: events, states of the past, what is left of events that have gone.

use std::fmt::Debug;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::moment::{Moment, Version};
use super::record::{EventId, Record};
use crate::domain::event::{Compacted, Event, Kind};
use crate::domain::instance::words;
use crate::domain::registry::Service;
use crate::domain::traffic::Numbered;
use crate::domain::{
    Change, InstanceId, InstanceKey, Millis, Namespace, Registry, Seq, ServiceKey, ServiceName,
    Timestamp,
};
use crate::rfc3339;

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

words! {
    /// Why something is not there.
    Reason {
        /// Retention took it; what is left of traffic are the roll-ups.
        Retention = "retention",
        /// This log was made of a part of another one, and that part begins later.
        NotImported = "not_imported",
        /// The log could not be written then.
        LogGap = "log_gap",
        /// The process ended without order: the last moments of traffic may not have reached the log.
        Crash = "crash",
        /// The file is damaged there.
        Damaged = "damaged",
    }
}

/// A stretch of time of which something is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The events, as far as their ids are known: `t1 to t256`; empty if not.
    pub events: Box<str>,
}

/// As every answer shows it.
impl Serialize for Missing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("from", &rfc3339::format(self.from))?;
        members.serialize_entry("until", &rfc3339::format(self.until))?;
        members.serialize_entry("reason", self.reason.as_str())?;
        if !self.events.is_empty() {
            members.serialize_entry("events", &self.events)?;
        }
        members.end()
    }
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
    /// What the file system of the log still has; nothing where it does not say.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of snapshots.
    pub snapshots_bytes: u64,
    /// Bytes within the file that the next events fill.
    pub free_bytes: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// The version of the newest one.
    pub newest_snapshot: Option<Version>,
    /// The first change that is kept.
    pub first_change: u64,
    /// The first traffic event that is kept.
    pub first_traffic: u64,
    /// Changes that are not found by the fast ways yet, only by reading them.
    pub changes_to_derive: u64,
    /// The same of traffic; it is not rolled up yet either.
    pub traffic_to_derive: u64,
    /// What retention took last, of each class, with the `compacted` event that tells it once there is one.
    pub compactions: Vec<(Compacted, Option<Seq>)>,
}

/// What is kept: the first and the last event of each class. Numbers are 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extent {
    /// The oldest state that can be told: that of a snapshot, or the empty beginning.
    pub oldest: Version,
    /// The newest.
    pub newest: Version,
    /// The first change that is kept.
    pub first_change: u64,
    /// The first traffic event that is kept.
    pub first_traffic: u64,
    /// The last traffic event.
    pub last_traffic: u64,
    /// Whether what lies before the oldest state never was in this log: see [`Reason::NotImported`].
    pub imported: bool,
    /// The counts of minutes that began before this are gone.
    pub counted_from: Timestamp,
}

impl Extent {
    /// Why nothing before the oldest state can be told.
    #[must_use]
    pub fn reason(&self) -> Reason {
        if self.imported { Reason::NotImported } else { Reason::Retention }
    }
}

/// Whose changes are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Everybody's, and the registry's own.
    All,
    /// A service's.
    Service(&'a ServiceKey),
    /// An instance's.
    Instance(&'a InstanceKey),
}

impl Subject<'_> {
    /// Whether a change is wanted. A service's are also those of the guard over it.
    #[must_use]
    pub fn includes(&self, event: &Event) -> bool {
        match self {
            Self::All => true,
            Self::Service(service) => event.service() == Some(*service),
            Self::Instance(instance) => event.key() == Some(*instance),
        }
    }
}

/// Which traffic is wanted. What is `None` or empty lets all through.
#[derive(Clone, Debug, Default)]
pub struct TrafficQuery {
    /// Of these kinds.
    pub kinds: &'static [Kind],
    /// In this namespace.
    pub namespace: Option<Namespace>,
    /// About this service.
    pub service: Option<ServiceName>,
    /// About this instance.
    pub instance: Option<InstanceId>,
    /// Only what is about no service: reads over many, streams of many.
    pub unnamed: bool,
    /// Only what this caller led to.
    pub caller: Option<Arc<str>>,
    /// From this number on.
    pub from: Option<u64>,
    /// Up to this number.
    pub to: Option<u64>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
}

impl TrafficQuery {
    /// Whether an event is wanted.
    #[must_use]
    pub fn includes(&self, event: &Numbered) -> bool {
        let Numbered { number, traffic } = event;
        (self.kinds.is_empty() || self.kinds.contains(&traffic.detail.kind()))
            && (self.namespace.is_none() || self.namespace == traffic.namespace)
            && (self.service.is_none() || self.service == traffic.service)
            && (self.instance.is_none() || self.instance == traffic.instance)
            && !(self.unnamed && traffic.service.is_some())
            && self.caller.as_ref().is_none_or(|caller| *caller == traffic.caller)
            && self.from.is_none_or(|from| *number >= from)
            && self.to.is_none_or(|to| *number <= to)
            && self.since.is_none_or(|since| traffic.at >= since)
            && self.until.is_none_or(|until| traffic.at <= until)
    }
}

/// Equal lookups of one minute: what stays of them when they have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupCount {
    /// When the minute began.
    pub minute: Timestamp,
    /// In which namespace; none for a read over all.
    pub namespace: Option<Box<str>>,
    /// The service; none for a read over many.
    pub service: Option<Box<str>>,
    /// The instance; none for a lookup of a service.
    pub instance: Option<Box<str>>,
    /// Who asked.
    pub caller: Box<str>,
    /// The filter.
    pub filter: Box<str>,
    /// The revision that was answered.
    pub revision: Seq,
    /// The status of the answer.
    pub status: u16,
    /// How many.
    pub count: u64,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// When the first was answered.
    pub first_at: Timestamp,
    /// When the last was.
    pub last_at: Timestamp,
}

/// What was counted, when all counts have been shown.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counted {
    /// The number of the last traffic event that is counted: what comes after it is only in [`Archive::traffic`].
    pub through: u64,
    /// Minutes of which the counts can't be read.
    pub missing: Vec<Missing>,
}

/// The heartbeats of one life within an hour: what stays of them when they have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatRun {
    /// Of which life.
    pub incarnation: Seq,
    /// The first one.
    pub first_at: Timestamp,
    /// The last one.
    pub last_at: Timestamp,
    /// How many.
    pub count: u64,
    /// The widest gap before one of them, also to the last one of the hour before.
    pub widest_gap: Millis,
    /// When that gap ended.
    pub widest_gap_at: Timestamp,
}

/// Why the past could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The log does not answer. The text is for the operator's log, not for the one who asked.
    #[error("the log can't be read: {0}")]
    Unreadable(String),
    /// What was asked for was written, and is damaged on the disk. The text is for the operator, too.
    #[error("the log is damaged: {0}")]
    Damaged(String),
    /// It is older than what is kept.
    #[error("history begins at version {}", oldest.seq)]
    Gone {
        /// What can still be told.
        oldest: Version,
    },
    /// It has not happened yet.
    #[error("the present version is {}", newest.seq)]
    Ahead {
        /// The present.
        newest: Version,
    },
}

/// What a visitor says to whether it wants more.
pub type Visit = ControlFlow<()>;

/// The past of one registry. All calls block: an asynchronous caller gives them a thread of their own.
///
/// Every call fails with [`Error::Unreadable`] if the log does not answer. Traffic that is damaged is told as
/// [`Missing`] and passed over; a damaged change can't be: what follows from it is not known, and the call fails with
/// [`Error::Damaged`].
pub trait Archive: Send + Sync + Debug {
    /// The figures of the log.
    ///
    /// # Errors
    /// See the trait.
    fn figures(&self) -> Result<LogFigures, Error>;

    /// What is kept.
    ///
    /// # Errors
    /// See the trait.
    fn extent(&self) -> Result<Extent, Error>;

    /// The version that the state had at a moment: of several changes at one instant, the last.
    ///
    /// # Errors
    /// [`Error::Gone`] if no state of that time can be told, [`Error::Ahead`] for a version that is not there yet.
    fn version(&self, moment: Moment) -> Result<Version, Error>;

    /// A page of events.
    ///
    /// # Errors
    /// See the trait.
    fn events(&self, query: &EventQuery) -> Result<EventPage, Error>;

    /// One event; none if it never was or is gone.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it should be there and can't be read.
    fn event(&self, id: EventId) -> Result<Option<Record>, Error>;

    /// The same for those who can do without it: none also if it can't be read.
    ///
    /// # Errors
    /// See the trait.
    fn event_if_readable(&self, id: EventId) -> Result<Option<Record>, Error> {
        match self.event(id) {
            Err(Error::Damaged(_)) => Ok(None),
            answer => answer,
        }
    }

    /// The whole state after change `at`.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Ahead`].
    fn state(&self, at: Seq) -> Result<Registry, Error>;

    /// One service after change `at`; none if it was not known then.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Ahead`].
    fn service(&self, key: &ServiceKey, at: Seq) -> Result<Option<Service>, Error>;

    /// Shows the changes of `subject` in `range`, oldest first, as far as they are kept.
    ///
    /// # Errors
    /// See the trait.
    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error>;

    /// Shows the traffic that `wanted` asks for, oldest first, and tells what of the wanted stretch is not there.
    ///
    /// # Errors
    /// See the trait.
    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error>;

    /// Shows the counts of the lookups that `wanted` asks for (by minutes that begin in its time), oldest first, and
    /// says how far they reach and what of them can't be read.
    ///
    /// # Errors
    /// See the trait.
    fn lookup_counts(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, Error>;

    /// The runs of heartbeats of an instance, oldest first, and the number of the last traffic event that is in them.
    ///
    /// # Errors
    /// See the trait.
    fn heartbeat_runs(&self, key: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error>;
}

/// The past of a registry that keeps none on disk: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoArchive;

impl Archive for NoArchive {
    fn figures(&self) -> Result<LogFigures, Error> {
        Ok(LogFigures::default())
    }

    fn extent(&self) -> Result<Extent, Error> {
        Ok(Extent::default())
    }

    fn version(&self, _: Moment) -> Result<Version, Error> {
        Err(Error::Gone { oldest: Version::default() })
    }

    fn events(&self, _: &EventQuery) -> Result<EventPage, Error> {
        Ok(EventPage::default())
    }

    fn event(&self, _: EventId) -> Result<Option<Record>, Error> {
        Ok(None)
    }

    fn state(&self, _: Seq) -> Result<Registry, Error> {
        Err(Error::Gone { oldest: Version::default() })
    }

    fn service(&self, _: &ServiceKey, _: Seq) -> Result<Option<Service>, Error> {
        Err(Error::Gone { oldest: Version::default() })
    }

    fn changes(
        &self,
        _: Subject<'_>,
        _: RangeInclusive<Seq>,
        _: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn traffic(
        &self,
        _: &TrafficQuery,
        _: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error> {
        Ok(Vec::new())
    }

    fn lookup_counts(
        &self,
        _: &TrafficQuery,
        _: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, Error> {
        Ok(Counted::default())
    }

    fn heartbeat_runs(&self, _: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error> {
        Ok((Vec::new(), 0))
    }
}
