//! When work that failed is tried again: after a second, then after twice as long each time, up to a minute. A disk that
//! stays full is asked once a minute, not in a loop.

use crate::clock::Monotonic;
use crate::domain::Millis;
use crate::telemetry::names::{LabelValue as _, Work};

const FIRST: Millis = Millis::from_millis(1_000);
const LONGEST: Millis = Millis::from_millis(60_000);

/// The failures of one kind of work since it last succeeded.
#[derive(Clone, Copy, Debug)]
struct Pause {
    failures: u32,
    until: Monotonic,
}

/// The pauses of all kinds of work.
#[derive(Debug, Default)]
pub(super) struct Pauses([Option<Pause>; Work::ALL.len()]);

impl Pauses {
    /// Whether the work may be tried.
    pub(super) fn is_over(&self, work: Work, now: Monotonic) -> bool {
        self.0[work.index()].is_none_or(|pause| now >= pause.until)
    }

    /// How often it failed since it last succeeded.
    pub(super) fn failures(&self, work: Work) -> u32 {
        self.0[work.index()].map_or(0, |pause| pause.failures)
    }

    /// Notes a failure; whether it is the first one since the work succeeded.
    pub(super) fn failed(&mut self, work: Work, now: Monotonic) -> bool {
        let failures = self.failures(work).saturating_add(1);
        let longer = FIRST.millis().saturating_mul(1 << (failures - 1).min(16));
        let until = now.plus(Millis::from_millis(longer.min(LONGEST.millis())));
        self.0[work.index()] = Some(Pause { failures, until });
        failures == 1
    }

    /// Notes a success; whether it ends a row of failures.
    pub(super) fn succeeded(&mut self, work: Work) -> bool {
        self.0[work.index()].take().is_some()
    }
}
