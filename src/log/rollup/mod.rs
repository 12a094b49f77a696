//! What stays of traffic when it has gone: lookups as counts of equal ones per minute, heartbeats as runs per life
//! and hour.
//!
//! ```text
//!   derive ── Parsed ───▶ Lookups::take ──▶ Minute  ──▶ a row of lookup_minutes
//!                    └──▶ Beats::take   ──▶ Run     ──▶ a row of heartbeat_runs
//! ```
//!
//! Both gather a *period* and give it out when an event of the next one comes: times and numbers only grow together,
//! so that it is complete then. Where a period ends depends on nothing but the events, so that after a crash the
//! same rows are made again. A period also ends after [`PERIOD`] numbers, so that at any rate of traffic no more
//! than some 250 MB of it wait for their roll-up. Where no next event comes, or not soon enough for what is to be kept,
//! retention ends the period ([`Lookups::end`], [`Beats::end`]) at a number that is written down before.
//! Pure, and careful with time: derived in the background on the machine that serves. No allocation per event.

mod beats;
mod lookups;
mod minute;
mod texts;

use std::ops::Range;

pub use beats::{Beats, Run};
pub use lookups::Lookups;
pub use minute::{Counted, Minute};

use super::columns::{Columns, Parsed};

/// Numbers after which a period ends in any case.
pub const PERIOD: u64 = 1 << 22;

/// Different lookups that are counted apart in a minute. Callers, filters and unknown names come from the network:
/// what they may take is bounded.
pub const DISTINCT_MAX: usize = 10_000;

/// Who stands for all callers beyond that. No caller can have this name.
pub const OTHER: &str = "_other";

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// A stretch of time and of numbers: it ends with its time, or after [`PERIOD`] numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Period {
    ats: Range<i64>,
    numbers: Range<u64>,
}

impl Period {
    /// The one of so many microseconds that holds an event.
    fn of(at: i64, length: i64, number: u64) -> Self {
        let (begin, first) = (at.saturating_sub(at.rem_euclid(length)), number - number % PERIOD);
        Self {
            ats: begin..begin.saturating_add(length),
            numbers: first..first.saturating_add(PERIOD),
        }
    }

    fn holds(&self, at: i64, number: u64) -> bool {
        self.ats.contains(&at) && self.numbers.contains(&number)
    }
}

/// The places of the events of a block that come after the number `after`.
fn events_after(columns: &Columns<'_>, after: u64) -> Range<usize> {
    let taken = after.saturating_add(1).saturating_sub(columns.event_number(0));
    usize::try_from(taken).unwrap_or(usize::MAX).min(columns.len())..columns.len()
}

/// When event `n` of a block happened.
fn at(columns: &Columns<'_>, parsed: &Parsed, n: usize) -> i64 {
    columns.first_at().saturating_add_unsigned(parsed.ats[n])
}
