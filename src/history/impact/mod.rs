//! Who was handed an instance between its last sign of life and its leaving.
//!
//! ```text
//!   traffic    ...  heartbeat t17   lookup t18   lookup t19      lookup t20        lookup t21
//!                   (last sign)     revision 41  304, rev. 41    revision 41       revision 44
//!   changes                                               ▲ 44 expired
//!                                   └─────── handed out ──────────────┘            └ told: held until here
//! ```
//!
//! The rules, of which none looks at a clock:
//! - **The last sign of life** is the last heartbeat of that life, or the last registration of it if that came later
//!   (the heartbeat did not see it yet). Updates do not count: they may come from an operator.
//! - **An answer handed the instance out** if the state after the revision that it carries, sieved by the filter that it
//!   carries, holds that life of the instance; if it comes after the last sign of life (by its number; after a
//!   registration: if it saw it); and if its revision is below the departure. It may well have its number after the
//!   departure: it was on its way then.
//! - 200 counts as a lookup, 304 as a confirmation: the caller kept what it had. A read of the instance itself counts; so
//!   does Prometheus' discovery, where the version that it saw takes the place of the revision.
//! - What was on its way across the departure is in the log soon behind it. Further on, only those who held it and were
//!   not told yet are followed, each by name: see `walk.rs`.
//! - **A caller held it until** the first answer of a revision that knows of the departure: to a lookup of the service,
//!   to a read of the instance, or through one of the caller's streams.
//! - **Streams** hold what they were told, see `streams.rs`. A long poll that waited across the departure held the
//!   revision that it named.
//!
//! Where retention has taken the events themselves, the counts by minute speak: with revision and filter they are as
//! exact, but a row of which only a part lies in the window can only be an upper bound, and there are no traces. That, and everything
//! else that is not there, is said in the answer.
//!
//! Pure over [`Archive`]; asked by `http`. It must never guess in silence.

mod answers;
mod streams;
mod tally;
mod target;
#[cfg(test)]
mod tests;
mod walk;

use std::ops::ControlFlow;
use std::sync::Arc;

use super::archive::{Archive, Error, Extent, LookupCount, Missing, TrafficQuery};
use super::record::{EventId, Record};
use super::stretch;
use crate::domain::event::Kind;
use crate::domain::{Change, Instance, InstanceKey, Seq, Timestamp, TraceRef};
use answers::{Answers, Asked};
pub use streams::{LongPoll, Stream};
use streams::{Restarts, Streams};
use tally::{Part, Tally};
pub use target::{Refusal, SignOfLife, Target};

/// How far apart, in numbers, two events may be that reached the log in another order than they saw the state: a
/// request takes its look at the state before it takes its place in the log. So many events during one request would
/// take a request of most of a second at 100,000 events a second.
const DISORDER: u64 = 65_536;

/// The traffic that can tell who holds what.
const TELLING: &[Kind] = &[Kind::Lookup, Kind::WatchOpened, Kind::WatchClosed, Kind::Notified];

/// Those of streams alone.
const STREAMS: &[Kind] = &[Kind::WatchOpened, Kind::WatchClosed, Kind::Notified];

/// Who held an instance that was dead.
#[derive(Debug)]
pub struct Impact {
    /// The instance as it was when it left.
    pub instance: Arc<Instance>,
    /// The event of its leaving.
    pub departure: Record,
    /// After which it was dead, as far as anybody can know.
    pub last_sign_of_life: SignOfLife,
    /// Those who were handed it, in the order in which they were.
    pub callers: Vec<Caller>,
    /// Streams that held it.
    pub streams: Vec<Stream>,
    /// Long polls that held it.
    pub long_polls: Vec<LongPoll>,
    /// What could not be looked at.
    pub missing: Vec<Missing>,
}

/// One caller who was handed the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub caller: Arc<str>,
    /// Answers that listed the instance.
    pub lookups: u64,
    /// Answers that confirmed a list with the instance that it held (304).
    pub confirmations: u64,
    /// When the first of both was given.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
    /// When it was told that the instance has left; none as far as the log knows.
    pub held_until: Option<Timestamp>,
    /// The counts are upper bounds: part of them comes from minutes that lie only partly in the window.
    pub approximate: bool,
    /// The answers themselves, in order, as many as were asked for; counts by minute have none.
    pub traces: Vec<Handed>,
}

/// One answer that handed the instance out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Its number.
    pub number: u64,
    /// When it was given.
    pub at: Timestamp,
    /// In which trace.
    pub trace: TraceRef,
    /// The revision that was answered; for Prometheus' discovery the version that it saw.
    pub revision: Seq,
    /// 200, or 304 for a confirmation.
    pub status: u16,
}

/// Where the window begins.
#[derive(Clone, Copy, Debug)]
enum After {
    /// Behind the heartbeat of this number.
    Heartbeat(u64),
    /// With the first answer that saw this registration.
    Registration(Seq, Timestamp),
}

impl After {
    /// Whether an answer of this number, which saw this version, is in.
    fn includes(self, number: u64, seen: Seq) -> bool {
        match self {
            Self::Heartbeat(heartbeat) => number > heartbeat,
            Self::Registration(seq, _) => seen >= seq,
        }
    }

    /// How much of a row of equal lookups is in. After a registration only the times can tell: a row does not
    /// know what its lookups saw.
    fn part_of(self, row: &LookupCount) -> Part {
        let (first_in, last_in) = match self {
            Self::Heartbeat(heartbeat) => (row.first > heartbeat, row.last > heartbeat),
            Self::Registration(_, at) => (row.first_at >= at, row.last_at >= at),
        };
        match (first_in, last_in) {
            (true, _) => Part::All,
            (false, true) => Part::Some,
            (false, false) => Part::None,
        }
    }
}

/// Who held the instance that `target` names, with at most `limit` traces for each caller.
///
/// # Errors
/// Those of the archive; [`Error::Gone`] if the states of that time can't be told any more. A [`Refusal`] if there is
/// no such departure.
pub fn impact(
    archive: &dyn Archive,
    target: &Target,
    limit: usize,
) -> Result<Result<Impact, Refusal>, Error> {
    let departure = match target::departure(archive, target)? {
        Ok(departure) => departure,
        Err(refusal) => return Ok(Err(refusal)),
    };
    Search::begin(archive, departure, limit)?.finish().map(Ok)
}

/// The search while it runs.
struct Search<'a> {
    archive: &'a dyn Archive,
    change: Change,
    key: InstanceKey,
    sign: SignOfLife,
    after: After,
    extent: Extent,
    answers: Answers<'a>,
    tally: Tally,
    streams: Streams,
    missing: Vec<Missing>,
}

impl<'a> Search<'a> {
    fn begin(archive: &'a dyn Archive, change: Change, limit: usize) -> Result<Self, Error> {
        let key = change.event.key().cloned();
        let key = key.ok_or_else(|| Error::Unreadable("a departure of nobody".into()))?;
        let life = target::life_of(archive, &change, &key)?;
        let (sign, after, seen) = target::last_sign_of_life(archive, &change, &key, life)?;
        let extent = archive.extent()?;
        let answers = Answers::new(archive, &key, life, seen..change.seq)?;
        let restarts = Restarts::around(archive, seen)?;
        let streams = Streams::new(&key, life, &change, restarts);
        Ok(Self {
            tally: Tally::new(limit),
            missing: Vec::new(),
            archive,
            change,
            key,
            sign,
            after,
            extent,
            answers,
            streams,
        })
    }

    fn finish(mut self) -> Result<Impact, Error> {
        let before = Seq(self.change.seq.0.saturating_sub(1));
        let instance = self.answers.instance(before)?;
        let instance = instance
            .ok_or_else(|| Error::Unreadable(format!("{} left and did not live", self.key)))?;
        let departure = self.archive.event(EventId::Change(self.change.seq.0))?;
        let departure = departure
            .ok_or_else(|| Error::Unreadable(format!("change {} is gone", self.change.seq)))?;
        let from = match self.after {
            After::Heartbeat(number) => number.saturating_add(1),
            After::Registration(seq, _) => self.number_before(seq)?,
        };
        self.find_open_streams(from)?;
        self.count_what_has_gone(from)?;
        self.walk(from)?;

        let untold = self.tally.untold() > 0;
        let told_by = self.tally.told_by();
        let until = if untold { Timestamp(i64::MAX) } else { told_by.max(self.change.at) };
        let gaps = stretch::gaps(self.archive, self.sign.at, until)?;
        self.missing.extend(gaps);
        // Where the window begins is known by number; what ends before it was not looked for.
        self.missing.retain(|missing| missing.until >= self.sign.at);
        stretch::tidy(&mut self.missing);
        let (streams, long_polls) = self.streams.finish();
        Ok(Impact {
            instance,
            departure,
            last_sign_of_life: self.sign,
            callers: self.tally.finish(),
            streams,
            long_polls,
            missing: self.missing,
        })
    }

    /// A number before which no kept event saw version `seq`: found by halving, and then a stretch earlier, because the
    /// versions that events saw are only nearly in order.
    fn number_before(&self, seq: Seq) -> Result<u64, Error> {
        // An event that can't be read counts as later: that only begins the search earlier.
        let is_earlier = |number: u64| -> Result<bool, Error> {
            let event = self.archive.event_if_readable(EventId::Traffic(number))?;
            Ok(event.is_some_and(|event| event.seq < seq))
        };
        let (first, last) = (self.kept(), self.extent.last_traffic);
        if first > last || !is_earlier(first)? {
            // Nothing kept is earlier: the window may begin in what has gone.
            return Ok(1);
        }
        let (mut low, mut high) = (first + 1, last + 1);
        while high - low > DISORDER / 16 {
            let middle = low + (high - low) / 2;
            match is_earlier(middle)? {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low.saturating_sub(DISORDER).max(first))
    }

    /// The number of the first event that is kept, or would be if there were one.
    fn kept(&self) -> u64 {
        let Extent { first_traffic, last_traffic, .. } = self.extent;
        if first_traffic == 0 { last_traffic.saturating_add(1) } else { first_traffic }
    }

    /// Finds the streams that were open when the window begins. What is missing of that time is not told: a stream
    /// whose beginning is lost is known again by the first thing that it was told.
    fn find_open_streams(&mut self, until: u64) -> Result<(), Error> {
        let Some(to) = until.checked_sub(1) else { return Ok(()) };
        let from = self.number_before(self.streams.last_start())?;
        for mut wanted in self.wanted(STREAMS) {
            (wanted.from, wanted.to) = (Some(from), Some(to));
            let streams = &mut self.streams;
            self.archive.traffic(&wanted, &mut |event| {
                streams.see_before(&event);
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }

    /// What is about a service of this name, in its namespace or across all, and what is about no service: streams of
    /// everything, discovery of everything.
    fn wanted(&self, kinds: &'static [Kind]) -> [TrafficQuery; 2] {
        let service = Some(self.key.service.service.clone());
        [
            TrafficQuery { kinds, service, ..TrafficQuery::default() },
            TrafficQuery { kinds, unnamed: true, ..TrafficQuery::default() },
        ]
    }

    /// The part of the window of which only the counts by minute are left. Discovery is not in it: its rows do not
    /// say which version they saw.
    fn count_what_has_gone(&mut self, from: u64) -> Result<(), Error> {
        let kept = self.kept();
        if kept <= from {
            return Ok(());
        }
        let [mut wanted, _] = self.wanted(&[Kind::Lookup]);
        wanted.since = Some(stretch::minute_of(self.sign.at));
        let (answers, tally, instance) = (&mut self.answers, &mut self.tally, &self.key.instance);
        let (after, departure) = (self.after, self.change.seq);
        let mut failed = None;
        wanted.namespace = Some(self.key.service.namespace.clone());
        let counted = self.archive.lookup_counts(&wanted, &mut |row| {
            let own = row.instance.as_deref().map(|own| own == instance.as_str());
            let Some(asked) = Asked::of(own, &row.filter) else {
                return ControlFlow::Continue(());
            };
            // What is wholly kept is counted where it stands.
            if row.first >= kept || asked == Asked::Discovery {
                return ControlFlow::Continue(());
            }
            if row.revision >= departure {
                tally.told(&row.caller, row.first, row.first_at);
                return ControlFlow::Continue(());
            }
            let part = after.part_of(&row);
            if part == Part::None || !matches!(row.status, 200 | 304) {
                return ControlFlow::Continue(());
            }
            match answers.held(row.revision, asked, &row.filter) {
                Ok(true) => tally.row(row, part, kept),
                Ok(false) => {}
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        self.missing.extend(counted.missing);
        failed.map_or(Ok(()), Err)
    }
}
