//! How long the keeper rests: after a slice of work, and after work that failed.
//!
//! A rest after a slice is measured by the processor's time that the slice has used, not by the time that it took: where
//! others leave the keeper little of the processor, it would otherwise rest the longer the less it gets done, and the log
//! would outgrow its budget. What a slice waited for (the disk, a lock, the processor) it leaves to others once as long.
//!
//! Work that failed is tried again after a second, then after twice as long each time, up to a minute. A disk that stays
//! full is asked once a minute, not in a loop. Pure; called by the keeper.

use crate::clock::Monotonic;
use crate::domain::Millis;
use crate::telemetry::names::{LabelValue as _, Work};

const FIRST: Millis = Millis::from_millis(1_000);
const LONGEST: Millis = Millis::from_millis(60_000);

/// The longest rest after a slice, whatever the slice met: one sync that takes ten seconds says nothing of the next.
const REST_MAX_MICROS: u64 = 1_000_000;

/// How long to rest after a slice that took so long, and had a processor for `worked` of it; where that is not known, all
/// of it counts as work.
pub(super) fn rest_micros(took: u64, worked: Option<u64>, times: u32) -> u64 {
    let worked = worked.map_or(took, |worked| worked.min(took));
    let rest = worked.saturating_mul(u64::from(times)).saturating_add(took - worked);
    rest.min(REST_MAX_MICROS)
}

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
