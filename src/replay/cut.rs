//! The past up to the replayed present: what a registry could have told then.
//!
//! It passes questions on and lets nothing through that had not happened yet, so that "why", "impact" or a list of
//! events are answered as they would have been at that moment. It holds nothing itself.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use super::tape::{Place, Tape};
use crate::domain::registry::Service;
use crate::domain::traffic::Numbered;
use crate::domain::{Change, InstanceKey, Registry, Seq, ServiceKey, Timestamp};
use crate::history::{
    Archive, Counted, Error, EventId, EventPage, EventQuery, Extent, HeartbeatRun, LogFigures,
    LookupCount, Missing, Moment, Record, Subject, TrafficQuery, Version, Visit,
};

/// Microseconds of a minute, the step of the counts of lookups.
const MINUTE: i64 = 60_000_000;

/// The past up to the replayed present.
#[derive(Debug)]
pub struct Cut {
    whole: Arc<dyn Archive>,
    tape: Arc<Tape>,
}

impl Cut {
    pub(super) fn new(whole: Arc<dyn Archive>, tape: Arc<Tape>) -> Self {
        Self { whole, tape }
    }

    fn now(&self) -> Place {
        self.tape.place()
    }

    /// Refuses a version that has not been reached.
    fn reached(&self, seq: Seq) -> Result<(), Error> {
        let Place { at, seq: present } = self.now();
        if seq > present {
            return Err(Error::Ahead { newest: Version { seq: present, at } });
        }
        Ok(())
    }
}

/// Whether an event had happened by then. Traffic is bounded by the version that it saw, too: jumping back to a version
/// takes back what came after it within the same instant.
fn had_happened(record: &Record, now: Place) -> bool {
    record.at <= now.at && record.seq <= now.seq
}

impl Archive for Cut {
    fn figures(&self) -> Result<LogFigures, Error> {
        self.whole.figures()
    }

    fn extent(&self) -> Result<Extent, Error> {
        let newest = self.whole.version(Moment::Version(self.now().seq))?;
        Ok(Extent { newest, ..self.whole.extent()? })
    }

    fn version(&self, moment: Moment) -> Result<Version, Error> {
        let found = match moment {
            Moment::At(at) => self.whole.version(Moment::At(at.min(self.now().at)))?,
            Moment::Version(seq) => {
                self.reached(seq)?;
                return self.whole.version(moment);
            }
        };
        if found.seq > self.now().seq {
            return self.whole.version(Moment::Version(self.now().seq));
        }
        Ok(found)
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, Error> {
        let now = self.now();
        let until = match query.until {
            Some(Moment::At(at)) => Moment::At(at.min(now.at)),
            // What saw an earlier version happened earlier.
            Some(Moment::Version(seq)) if seq < now.seq => Moment::Version(seq),
            Some(Moment::Version(_)) | None => Moment::At(now.at),
        };
        let mut page = self.whole.events(&EventQuery { until: Some(until), ..query.clone() })?;
        page.events.retain(|record| had_happened(record, now));
        Ok(page)
    }

    fn event(&self, id: EventId) -> Result<Option<Record>, Error> {
        let now = self.now();
        Ok(self.whole.event(id)?.filter(|record| had_happened(record, now)))
    }

    fn state(&self, at: Seq) -> Result<Registry, Error> {
        self.reached(at)?;
        self.whole.state(at)
    }

    fn service(&self, key: &ServiceKey, at: Seq) -> Result<Option<Service>, Error> {
        self.reached(at)?;
        self.whole.service(key, at)
    }

    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error> {
        let (from, to) = range.into_inner();
        self.whole.changes(subject, from..=to.min(self.now().seq), visit)
    }

    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error> {
        let now = self.now();
        let until = wanted.until.map_or(now.at, |until| until.min(now.at));
        let wanted = TrafficQuery { until: Some(until), ..wanted.clone() };
        self.whole.traffic(&wanted, &mut |event| {
            if event.traffic.seen <= now.seq { visit(event) } else { ControlFlow::Continue(()) }
        })
    }

    /// The counts of whole minutes. The minute that is not over yet is left to [`Archive::traffic`], which knows
    /// each lookup.
    fn lookup_counts(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, Error> {
        let Place { at, seq } = self.now();
        let (mut counted, mut cut) = (0, false);
        let watermark = self.whole.lookup_counts(wanted, &mut |count| {
            let is_over = Timestamp(count.minute.micros().saturating_add(MINUTE)) <= at;
            if !is_over || count.revision > seq {
                cut = true;
                return ControlFlow::Continue(());
            }
            counted = counted.max(count.last);
            visit(count)
        })?;
        let Counted { through, missing } = watermark;
        Ok(Counted { through: if cut { counted } else { through }, missing })
    }

    /// The runs, if all of them are over; else none, and each heartbeat is to be looked at.
    fn heartbeat_runs(&self, key: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error> {
        let now = self.now().at;
        let (runs, watermark) = self.whole.heartbeat_runs(key)?;
        let all_are_over = runs.iter().all(|run| run.last_at <= now);
        Ok(if all_are_over { (runs, watermark) } else { (Vec::new(), 0) })
    }
}
