//! The widest gaps between the signs of life of an instance: heartbeats, and registrations again. The silence in which a
//! life expired is one of them, told by the expiry itself.
//!
//! Where each heartbeat is still there and they are not too many, the gaps are exact. Before that, the roll-ups tell the
//! widest gap of each hour. A gap whose beginning nobody knows is none: what is missing must not look like silence.
//!
//! ```text
//!   roll-ups:  |--hour--|--hour--|--ho..        the widest one of each, if it began before `exact_since`
//!   raw:                      exact_since ♥  ♥ ♥    ♥   every one
//! ```
//!
//! Pure. Called by [`super::lives`].

use super::archive::HeartbeatRun;
use crate::domain::event::{Event, Kind};
use crate::domain::{Change, Millis, Seq, Timestamp};

/// Gaps told of each life.
pub(super) const WIDEST: usize = 5;

/// A stretch without a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When it ended, with a sign of life or with the life.
    pub at: Timestamp,
    /// How long it was.
    pub gap: Millis,
    /// What the life ended by, if it ended with this gap.
    pub ended_by: Option<Kind>,
}

/// Gathers the gaps of one life.
#[derive(Debug)]
pub(super) struct Gaps {
    pub(super) incarnation: Seq,
    /// Since when every heartbeat is there; none is since the beginning.
    exact_since: Option<Timestamp>,
    /// Registrations of this life that are still to come, the next one last.
    registrations: Vec<Timestamp>,
    /// The last sign of life since which everything is known.
    last: Option<Timestamp>,
    widest: Vec<Gap>,
}

impl Gaps {
    /// Of a life with these registrations, oldest first. Those before `exact_since` say nothing of what came after them.
    pub(super) fn of(
        incarnation: Seq,
        registrations: &[Timestamp],
        exact_since: Option<Timestamp>,
    ) -> Self {
        let known = |at: &Timestamp| exact_since.is_none_or(|since| *at >= since);
        let registrations = registrations.iter().copied().filter(known).rev().collect();
        Self { incarnation, exact_since, registrations, last: None, widest: Vec::new() }
    }

    /// A heartbeat of this life; they come in their order.
    pub(super) fn heartbeat(&mut self, at: Timestamp) {
        if self.exact_since.is_some_and(|since| at < since) {
            return;
        }
        while let Some(registration) = self.registrations.pop_if(|registration| *registration <= at)
        {
            self.sign(registration);
        }
        self.sign(at);
    }

    fn sign(&mut self, at: Timestamp) {
        if let Some(last) = self.last.replace(at) {
            self.admit(Gap { at, gap: at.since(last), ended_by: None });
        }
    }

    /// A roll-up of this life.
    pub(super) fn run(&mut self, run: &HeartbeatRun) {
        let began = run.widest_gap_at.micros().saturating_sub_unsigned(run.widest_gap.micros());
        if self.exact_since.is_some_and(|since| began < since.micros()) {
            self.admit(Gap { at: run.widest_gap_at, gap: run.widest_gap, ended_by: None });
        }
    }

    fn admit(&mut self, gap: Gap) {
        if gap.gap == Millis::ZERO {
            return;
        }
        // The widest first; of equal ones the first.
        let place = self.widest.partition_point(|wider| wider.gap >= gap.gap);
        if place < WIDEST {
            self.widest.insert(place, gap);
            self.widest.truncate(WIDEST);
        }
    }

    /// The widest gaps, the widest first, once the last heartbeat was seen; `ended` is the change that ended the life.
    pub(super) fn finish(mut self, ended: Option<&Change>) -> Vec<Gap> {
        while let Some(registration) = self.registrations.pop() {
            self.sign(registration);
        }
        // The expiry knows its silence by the monotonic clock, also when the heartbeats have gone.
        if let Some(Change { at, event: Event::Expired { overdue, .. }, .. }) = ended {
            self.admit(Gap { at: *at, gap: overdue.gap, ended_by: Some(Kind::Expired) });
        }
        self.widest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp(1_795_248_000_000_000 + seconds * 1_000_000)
    }

    fn told(gaps: Gaps) -> Vec<(i64, u64)> {
        let told = gaps.finish(None).into_iter();
        told.map(|gap| ((gap.at.0 - seconds(0).0) / 1_000_000, gap.gap.millis() / 1_000)).collect()
    }

    #[test]
    fn the_widest_ones_are_told_widest_first() {
        let mut gaps = Gaps::of(Seq(3), &[seconds(0), seconds(40)], None);
        for at in [4, 6, 9, 9, 20, 30, 52, 53] {
            gaps.heartbeat(seconds(at));
        }
        // The registration at 40 is a sign of life like any other.
        assert_eq!(told(gaps), [(52, 12), (20, 11), (30, 10), (40, 10), (4, 4)]);
        let mut again = Gaps::of(Seq(3), &[seconds(0), seconds(7)], None);
        again.heartbeat(seconds(1));
        assert_eq!(told(again), [(7, 6), (1, 1)], "also after the last heartbeat");
    }

    #[test]
    fn what_is_not_known_is_no_gap() {
        let since = Some(seconds(100));
        let mut gaps = Gaps::of(Seq(3), &[seconds(0)], since);
        gaps.heartbeat(seconds(104));
        gaps.heartbeat(seconds(107));
        let run = |at, gap| HeartbeatRun {
            incarnation: Seq(3),
            first_at: seconds(1),
            last_at: seconds(at),
            count: 9,
            widest_gap: Millis::from_millis(gap),
            widest_gap_at: seconds(at),
        };
        // One from before, one across the border, and one that the heartbeats themselves tell.
        gaps.run(&run(50, 9_000));
        gaps.run(&run(104, 6_000));
        gaps.run(&run(107, 3_000));
        assert_eq!(told(gaps), [(50, 9), (104, 6), (107, 3)]);
        let mut exact = Gaps::of(Seq(3), &[seconds(0)], None);
        exact.run(&run(50, 9_000));
        assert_eq!(told(exact), [], "with every heartbeat there, no roll-up is needed");
    }
}
