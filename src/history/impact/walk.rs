//! Reads the traffic behind the last sign of life, until everybody who held the instance was told.
//!
//! ```text
//!        all about the service, and about no service              those who wait, each by name
//!   ├───────────────────────────────┼──── DISORDER ────┤─────────────────────────────────────────▶ told, or the end
//!   last sign of life            departure
//! ```
//!
//! Behind the departure and a while nobody can come any more who saw the time before it. Who held the instance and
//! was not told by then may never come back: looking for one name passes over what the others do, where reading all
//! that a busy service was asked for would take as long as the log goes on.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::answers::{Answers, Asked};
use super::streams::Streams;
use super::tally::Tally;
use super::{After, DISORDER, Handed, Search, TELLING};
use crate::domain::traffic::{Detail, Numbered};
use crate::domain::{Change, InstanceKey, Seq};
use crate::history::archive::{Error, TrafficQuery};
use crate::history::stretch;

/// Callers that are followed by name; for more, everything is read.
const FOLLOWED_MAX: usize = 16;

/// Events between two looks at whether a stream still waits to be told.
const LOOK_EVERY: u64 = 256;

/// Until when to read.
#[derive(Clone, Debug)]
enum Until {
    /// Until nobody can come any more who saw the time before the departure.
    Settled,
    /// Until nobody waits.
    AllTold,
    /// Until this caller was told, or the walk before has told it already, with all of its streams.
    Told(Arc<str>),
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// The number behind the last event that was taken; none at the end.
    next: Option<u64>,
    /// What that event saw.
    seen: Seq,
}

impl Search<'_> {
    /// Reads the events from `from` on.
    pub(super) fn walk(&mut self, from: u64) -> Result<(), Error> {
        let queries = self.wanted(TELLING);
        let mut reached = [Reached::default(); 2];
        for (wanted, reached) in queries.iter().zip(&mut reached) {
            let wanted = TrafficQuery { from: Some(from), ..wanted.clone() };
            *reached = self.walk_along(&wanted, &Until::Settled)?;
        }
        // Who is told from here on without having held anything is of no interest.
        self.tally.note_strangers(false);
        let mut waiting: BTreeSet<Arc<str>> = self.tally.waiting().cloned().collect();
        for (wanted, reached) in queries.iter().zip(reached) {
            waiting.extend(self.streams.waiting(reached.seen, !wanted.unnamed).cloned());
        }
        let everybody = [Until::AllTold];
        let each: Vec<Until> = waiting.into_iter().map(Until::Told).collect();
        let followed = if each.len() > FOLLOWED_MAX { &everybody[..] } else { &each };
        for until in followed {
            for (wanted, reached) in queries.iter().zip(reached) {
                let Some(next) = reached.next else { continue };
                let mut wanted = TrafficQuery { from: Some(next), ..wanted.clone() };
                if let Until::Told(caller) = until {
                    wanted.caller = Some(Arc::clone(caller));
                    let mut streams = self.streams.waiting(reached.seen, !wanted.unnamed);
                    // Only what told it earlier is news.
                    wanted.to = match streams.any(|waiting| waiting == caller) {
                        true => None,
                        false => self.tally.told_at(caller).map(|told| told.saturating_sub(1)),
                    };
                }
                if wanted.to.is_some_and(|to| to < next) {
                    continue;
                }
                self.walk_along(&wanted, until)?;
            }
        }
        Ok(())
    }

    fn walk_along(&mut self, wanted: &TrafficQuery, until: &Until) -> Result<Reached, Error> {
        let Self { answers, tally, streams, key, after, change, .. } = self;
        let (after, named, late, settled) = (*after, !wanted.unnamed, None, 0);
        let mut step =
            Step { answers, tally, streams, key, after, change, named, late, settled, until };
        let (mut reached, mut failed) = (Reached::default(), None);
        let missing = self.archive.traffic(wanted, &mut |event| {
            reached.seen = event.traffic.seen;
            match step.take(&event) {
                Ok(false) => ControlFlow::Continue(()),
                Ok(true) => {
                    reached.next = Some(event.number.saturating_add(1));
                    ControlFlow::Break(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.missing.extend(stretch::of_the_file(missing));
        Ok(reached)
    }
}

/// The borrowed parts that one walk over the traffic needs.
struct Step<'s, 'a> {
    answers: &'s mut Answers<'a>,
    tally: &'s mut Tally,
    streams: &'s mut Streams,
    key: &'s InstanceKey,
    after: After,
    change: &'s Change,
    /// Whether the walk is along the events of the service, and not those of none.
    named: bool,
    /// The number behind which nobody can come any more who saw the time before the departure.
    late: Option<u64>,
    /// Events since then.
    settled: u64,
    until: &'s Until,
}

impl Step<'_, '_> {
    /// Takes one event; whether the walk ends with it.
    fn take(&mut self, event: &Numbered) -> Result<bool, Error> {
        let Numbered { number, traffic } = event;
        if traffic.seen >= self.change.seq && self.late.is_none() {
            self.late = Some(number.saturating_add(DISORDER));
        }
        match &traffic.detail {
            Detail::Lookup { .. } => self.lookup(event)?,
            Detail::WatchOpened { .. } | Detail::WatchClosed { .. } | Detail::Notified { .. } => {
                if let Some(at) = self.streams.see(event) {
                    self.tally.told(&traffic.caller, *number, at);
                }
            }
            Detail::Heartbeat { .. } => {}
        }
        let mut waiting = self.streams.waiting(traffic.seen, self.named);
        Ok(match self.until {
            Until::Settled => self.late.is_some_and(|late| *number > late),
            Until::AllTold => {
                self.settled += 1;
                // Counting who still waits takes a look at every stream.
                self.tally.untold() == 0
                    && self.settled % LOOK_EVERY == 1
                    && waiting.next().is_none()
            }
            Until::Told(caller) => {
                self.tally.told_at(caller).is_some_and(|told| told <= *number)
                    && !waiting.any(|waiting| waiting == caller)
            }
        })
    }

    fn lookup(&mut self, event: &Numbered) -> Result<(), Error> {
        let Numbered { number, traffic } = event;
        let Detail::Lookup { filter, revision, status, held, .. } = &traffic.detail else {
            return Ok(());
        };
        let own = traffic.instance.as_ref().map(|own| *own == self.key.instance);
        let Some(asked) = Asked::of(own, filter) else { return Ok(()) };
        let foreign = traffic.namespace.as_ref().is_some_and(|n| *n != self.key.service.namespace);
        // A list of services or namespaces hands out no instance.
        if foreign || (traffic.service.is_none() && asked != Asked::Discovery) {
            return Ok(());
        }
        let revision = if asked == Asked::Discovery { traffic.seen } else { *revision };
        self.tally.seen_raw(event);
        if revision >= self.change.seq {
            self.tally.told(&traffic.caller, *number, traffic.at);
            if let Some(held) = *held
                && self.answers.covers(held)
                && self.answers.held(held, asked, filter)?
            {
                self.streams.polled(event, held);
            }
        } else if matches!(status, 200 | 304)
            && self.after.includes(*number, traffic.seen)
            && self.answers.held(revision, asked, filter)?
        {
            let (number, at, trace, status) = (*number, traffic.at, traffic.trace, *status);
            self.tally.handed(&traffic.caller, Handed { number, at, trace, revision, status });
        }
        Ok(())
    }
}
