//! Answers questions about the past from the file, for the API and the command line.
//!
//! ```text
//!   page.rs      events in pages, both classes merged      ┐ over scan.rs, which reads what stretches.rs finds
//!   visit.rs     all wanted events of one class            ┘ with the segments; gaps.rs says what is not there
//!   rollups.rs   what stays of traffic that has gone
//!   state.rs     the state after a change
//!   tail.rs      of the changes between a state and a later one, those that still matter
//! ```
//!
//! Each question borrows a connection of its own and holds no transaction for longer than one step.

mod gaps;
mod page;
mod rollups;
mod scan;
pub(super) mod state;
mod stretches;
mod tail;
#[cfg(test)]
mod tests;
mod visit;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{OpenError, Reader};
use crate::domain::registry::Service;
use crate::domain::traffic::Numbered;
use crate::domain::{Change, InstanceKey, Registry, Seq, ServiceKey, Timestamp};
use crate::history::{
    Archive, Counted, Error, EventId, EventPage, EventQuery, Extent, HeartbeatRun, LogFigures,
    LookupCount, Missing, Moment, Record, Subject, TrafficQuery, Version, Visit,
};
use crate::log::ReadError;

/// Connections kept open between questions.
const IDLE_MAX: usize = 4;

/// The past of one log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteArchive {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Reader>>,
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged { .. } => Self::Damaged(error.to_string()),
            ReadError::Storage(_) => Self::Unreadable(error.to_string()),
        }
    }
}

impl SqliteArchive {
    /// The past of the database at `path`.
    ///
    /// # Errors
    /// [`OpenError`] if it can't be opened for reading, also if its schema is older than this program's.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let first = Reader::open_current(path)?;
        let idle = Mutex::new(vec![first]);
        let shared = Shared { path: path.to_owned(), idle };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The id that the log was born with.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn log_id(&self) -> Result<String, Error> {
        self.read(|reader| Ok(reader.next()?.0))
    }

    fn read<T>(&self, read: impl FnOnce(&Reader) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.shared.idle.lock().pop();
        let reader = match idle {
            Some(reader) => reader,
            None => Reader::open(&self.shared.path)
                .map_err(|error| Error::Unreadable(error.to_string()))?,
        };
        let answer = read(&reader);
        // A reader that failed is not kept: the next question opens a new one.
        if !matches!(answer, Err(Error::Unreadable(_))) {
            let mut idle = self.shared.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(reader);
            }
        }
        answer
    }
}

impl Archive for SqliteArchive {
    fn figures(&self) -> Result<LogFigures, Error> {
        self.read(|reader| {
            let sizes = reader.sizes()?;
            let keeping = reader.keeping()?;
            let derived = keeping.derived.max(keeping.first.saturating_sub(1));
            let derived_traffic =
                keeping.derived_traffic.max(keeping.first_traffic.saturating_sub(1));
            let compactions = keeping.compactions.into_iter();
            Ok(LogFigures {
                traffic_head: keeping.traffic_head,
                snapshots_bytes: sizes.snapshots,
                free_bytes: sizes.free,
                snapshots: keeping.snapshots,
                newest_snapshot: keeping
                    .snapshot
                    .map(|(seq, at)| Version { seq: Seq(seq), at: Timestamp(at) }),
                first_change: keeping.first,
                first_traffic: keeping.first_traffic,
                changes_to_derive: keeping.head.saturating_sub(derived),
                traffic_to_derive: keeping.traffic_head.saturating_sub(derived_traffic),
                compactions: compactions.map(|(what, by)| (what, by.map(Seq))).collect(),
                changes_bytes: sizes.changes,
                traffic_bytes: sizes.traffic,
                wal_bytes: sizes.wal,
                disk_free_bytes: sizes.disk_free,
            })
        })
    }

    fn extent(&self) -> Result<Extent, Error> {
        self.read(state::extent)
    }

    fn version(&self, moment: Moment) -> Result<Version, Error> {
        self.read(|reader| state::version(reader, moment))
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, Error> {
        self.read(|reader| Ok(page::page(reader, query)?))
    }

    fn event(&self, id: EventId) -> Result<Option<Record>, Error> {
        self.read(|reader| Ok(page::event(reader, id)?))
    }

    fn state(&self, at: Seq) -> Result<Registry, Error> {
        self.read(|reader| state::state(reader, at))
    }

    fn service(&self, key: &ServiceKey, at: Seq) -> Result<Option<Service>, Error> {
        self.read(|reader| state::service(reader, key, at))
    }

    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error> {
        self.read(|reader| Ok(visit::changes(reader, subject, range, visit)?))
    }

    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error> {
        self.read(|reader| Ok(visit::traffic(reader, wanted, visit)?))
    }

    fn lookup_counts(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, Error> {
        self.read(|reader| rollups::lookup_counts(reader, wanted, visit))
    }

    fn heartbeat_runs(&self, key: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error> {
        self.read(|reader| Ok(rollups::heartbeat_runs(reader, key)?))
    }
}
