//! The past of a simulated registry, for streams that resume: the changes of its log, and nothing else.

use std::ops::RangeInclusive;

use rollcall::domain::registry::Service;
use rollcall::domain::traffic::Numbered;
use rollcall::domain::{Change, InstanceKey, Registry, Seq, ServiceKey, Timestamp};
use rollcall::history::{
    Archive, Counted, Error, EventId, EventPage, EventQuery, Extent, HeartbeatRun, LogFigures,
    LookupCount, Missing, Moment, NoArchive, Record, Subject, TrafficQuery, Version, Visit,
};
use rollcall::log::ChangeLog as _;
use rollcall::log::memory::MemoryLog;

/// What is stored, to be read. All but the changes is answered as by a registry without a past.
#[derive(Debug, Clone)]
pub(crate) struct Stored(pub(crate) MemoryLog);

impl Archive for Stored {
    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error> {
        let read = self.0.clone().read(*range.start(), usize::MAX);
        let changes = read.map_err(|error| Error::Unreadable(error.to_string()))?;
        let wanted = changes.into_iter().take_while(|change| change.seq <= *range.end());
        for change in wanted.filter(|change| subject.includes(&change.event)) {
            if visit(change).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn extent(&self) -> Result<Extent, Error> {
        let newest = Version { seq: self.0.head(), at: Timestamp::default() };
        Ok(Extent { newest, first_change: 1, first_traffic: 1, ..Extent::default() })
    }

    fn figures(&self) -> Result<LogFigures, Error> {
        NoArchive.figures()
    }

    fn version(&self, moment: Moment) -> Result<Version, Error> {
        NoArchive.version(moment)
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, Error> {
        NoArchive.events(query)
    }

    fn event(&self, id: EventId) -> Result<Option<Record>, Error> {
        NoArchive.event(id)
    }

    fn state(&self, at: Seq) -> Result<Registry, Error> {
        NoArchive.state(at)
    }

    fn service(&self, key: &ServiceKey, at: Seq) -> Result<Option<Service>, Error> {
        NoArchive.service(key, at)
    }

    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error> {
        NoArchive.traffic(wanted, visit)
    }

    fn lookup_counts(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, Error> {
        NoArchive.lookup_counts(wanted, visit)
    }

    fn heartbeat_runs(&self, key: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error> {
        NoArchive.heartbeat_runs(key)
    }
}
