//! The door: who is let in, and who is told to come back.
//!
//! ```text
//!   request ─▶ class ─▶ its caller's rate ─▶ requests in progress ─▶ share that is refused ─▶ handler
//!                            │ 429                 │ 503                     │ 503      ▲
//!                         [rates]                                       [pressure] ◀─ [sense]
//!   long poll, stream ─▶ [watchers] ─▶ waits (no longer a request in progress)
//!   question about the past ─▶ one of few threads, or waits for one
//! ```
//!
//! Classes go before one another: heartbeats, then changes, then lookups, then all else; who asks whether the registry
//! lives, and what it measures, is always let in. A refusal is decided on a few numbers in memory, before anything is
//! read or made for the request. It must never refuse because of what a request says beyond its caller and its route,
//! and never take a lock for a request that no limit is set for. Called by the scope of each request.

mod class;
mod pressure;
mod rates;
mod sense;
mod watchers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Overload, Problem};
use crate::clock::Monotonic;
use crate::telemetry::names::RequestClass;

pub(super) use class::Classes;
use pressure::{Pressure, Targets};
pub use rates::Rate;
use rates::Rates;
pub(super) use sense::sense;
pub(super) use watchers::Place;
use watchers::{Full, Watchers};

/// How long a question about the past waits for its turn.
const PAST_WAIT_MAX: Duration = Duration::from_secs(2);
/// Rounds of questions that may wait for their turn before some are refused.
const PAST_ROUNDS: usize = 2;
/// A share of all that is refused, as whole numbers.
const ALL: u32 = u32::MAX;

/// The limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connections that may be open; the next ones wait to be accepted.
    pub connections: usize,
    /// Requests that may be in progress; those who wait for changes are none.
    pub requests: usize,
    /// Long polls and streams.
    pub watchers: usize,
    /// The same of one caller.
    pub watchers_per_caller: Option<usize>,
    /// Requests of one caller.
    pub caller_rate: Option<Rate>,
    /// Questions about the past that are worked on at once.
    pub past_reads: usize,
    /// How long a lookup may wait for its turn before some requests are refused; none refuses nobody.
    pub queue_time: Option<Duration>,
    /// After how long whoever sends a change or a heartbeat has given up.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: 16_384,
            requests: 16_384,
            watchers: 65_536,
            watchers_per_caller: None,
            caller_rate: None,
            past_reads: 8,
            queue_time: Some(Duration::from_millis(20)),
            patience: Duration::from_secs(5),
        }
    }
}

/// What each class has under way and has asked for.
#[derive(Debug, Default)]
struct Counts {
    in_progress: [AtomicUsize; 4],
    arrivals: [AtomicU64; 4],
    /// Of [`ALL`], how much is refused.
    refused: [AtomicU32; 4],
}

/// The door.
#[derive(Debug)]
pub(super) struct Admission {
    config: Config,
    counts: Counts,
    rates: Option<Rates>,
    watchers: Arc<Watchers>,
    connections: Arc<Semaphore>,
    /// Of them, those that are open: one place is held by whoever waits for the next.
    open: AtomicUsize,
    past: Arc<Semaphore>,
    past_waiting: AtomicUsize,
    seen: Mutex<Seen>,
}

/// What was measured last.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    /// The least time that something ready to run waited.
    pub(super) waited: Duration,
    pressure: Pressure,
}

/// How much of a limit is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) used: usize,
    pub(super) limit: usize,
}

impl Admission {
    pub(super) fn new(config: Config) -> Self {
        Self {
            counts: Counts::default(),
            rates: config.caller_rate.map(Rates::new),
            watchers: Watchers::new(config.watchers, config.watchers_per_caller),
            connections: Arc::new(Semaphore::new(config.connections)),
            open: AtomicUsize::new(0),
            past: Arc::new(Semaphore::new(config.past_reads)),
            past_waiting: AtomicUsize::new(0),
            seen: Mutex::default(),
            config,
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Lets a request in, which has to [`leave`](Self::leave) again.
    ///
    /// # Errors
    /// The problem that tells it to come back.
    pub(super) fn enter(
        &self,
        class: RequestClass,
        caller: &str,
        now: impl FnOnce() -> Monotonic,
    ) -> Result<(), Problem> {
        let Counts { in_progress, arrivals, refused } = &self.counts;
        let index = class as usize;
        arrivals[index].fetch_add(1, Ordering::Relaxed);
        if let Some(rates) = &self.rates {
            let taken = rates.take(caller, class == RequestClass::Heartbeat, now());
            let per_second = self.config.caller_rate.map_or(0, |rate| rate.per_second);
            taken.map_err(|wait| Problem::CallerRate { per_second, wait })?;
        }
        let share = refused[index].load(Ordering::Relaxed);
        if share > 0 && (share == ALL || fastrand::u32(..) < share) {
            return Err(Problem::Overloaded { by: Overload::Waiting });
        }
        in_progress[index].fetch_add(1, Ordering::Relaxed);
        let all: usize = in_progress.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        if all > share_of(self.config.requests, class) {
            in_progress[index].fetch_sub(1, Ordering::Relaxed);
            let by = Overload::InProgress { limit: self.config.requests };
            return Err(Problem::Overloaded { by });
        }
        Ok(())
    }

    /// Whether a request of this class that is answered at once, and so takes no place, is let in without a closer look:
    /// nobody is refused, callers have no rates, and there is room.
    pub(super) fn is_open(&self, class: RequestClass) -> bool {
        let Counts { in_progress, refused, .. } = &self.counts;
        let all: usize = in_progress.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        self.rates.is_none()
            && refused[class as usize].load(Ordering::Relaxed) == 0
            && all < share_of(self.config.requests, class)
    }

    /// Such a request was let in.
    pub(super) fn passed(&self, class: RequestClass) {
        self.counts.arrivals[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The request is answered, or waits for a change.
    pub(super) fn leave(&self, class: RequestClass) {
        self.counts.in_progress[class as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// A place for a long poll or a stream of this caller.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn watch(&self, caller: &Arc<str>) -> Result<Place, Problem> {
        self.watchers.enter(caller).map_err(|full| match full {
            Full::All(limit) => Problem::TooManyWatchers { limit, of_caller: false },
            Full::Caller(limit) => Problem::TooManyWatchers { limit, of_caller: true },
        })
    }

    /// A turn for a question about the past. Held until it is answered, also if nobody waits for the answer any more:
    /// what reads the log goes on until then.
    ///
    /// # Errors
    /// If there was none in time.
    pub(super) async fn past(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.past_within(PAST_WAIT_MAX).await
    }

    async fn past_within(&self, limit: Duration) -> Result<OwnedSemaphorePermit, Problem> {
        if let Ok(turn) = Arc::clone(&self.past).try_acquire_owned() {
            return Ok(turn);
        }
        let waiting = Counted::one(&self.past_waiting);
        let turn = Arc::clone(&self.past).acquire_owned();
        let turn = tokio::time::timeout(limit, turn).await;
        drop(waiting);
        match turn {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => {
                let by = Overload::Past { limit: self.config.past_reads };
                Err(Problem::Overloaded { by })
            }
        }
    }

    /// Places for connections.
    pub(super) fn connections(&self) -> &Arc<Semaphore> {
        &self.connections
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn opened(&self) -> Counted<'_> {
        Counted::one(&self.open)
    }

    /// Connections that are open.
    pub(super) fn connections_used(&self) -> Used {
        Used { used: self.open.load(Ordering::Relaxed), limit: self.config.connections }
    }

    /// Requests in progress.
    pub(super) fn requests_used(&self) -> Used {
        let counts = self.counts.in_progress.iter();
        let used = counts.map(|count| count.load(Ordering::Relaxed)).sum();
        Used { used, limit: self.config.requests }
    }

    /// Those who wait for changes.
    pub(super) fn watchers_used(&self) -> Used {
        Used { used: self.watchers.count(), limit: self.config.watchers }
    }

    /// Questions about the past that are worked on.
    pub(super) fn past_used(&self) -> Used {
        let limit = self.config.past_reads;
        Used { used: limit.saturating_sub(self.past.available_permits()), limit }
    }

    /// What was measured last.
    pub(super) fn seen(&self) -> Seen {
        *self.seen.lock()
    }

    /// Questions that wait for their turn, over those that may before some are refused.
    fn past_fill(&self) -> f64 {
        ratio(self.past_waiting.load(Ordering::Relaxed), PAST_ROUNDS * self.config.past_reads)
    }

    fn targets(&self) -> Option<Targets> {
        let queue_time = self.config.queue_time?;
        Some(Targets { queue_time, patience: self.config.patience })
    }

    /// Requests that came since this was asked last, by class.
    fn take_arrivals(&self) -> [u64; 4] {
        std::array::from_fn(|class| self.counts.arrivals[class].swap(0, Ordering::Relaxed))
    }

    /// Refuses these shares from now on.
    fn put(&self, waited: Duration, pressure: Pressure) {
        for class in pressure::FROM_THE_LEAST {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of 0 to 1 of the largest number"
            )]
            let share = (pressure.share(class) * f64::from(ALL)) as u32;
            self.counts.refused[class as usize].store(share, Ordering::Relaxed);
        }
        *self.seen.lock() = Seen { waited, pressure };
    }
}

impl Seen {
    /// The share of a class that is refused.
    pub(super) fn share(&self, class: RequestClass) -> f64 {
        self.pressure.share(class)
    }
}

/// How many requests may be in progress for one of this class to be let in: the last places are kept for those that
/// matter more.
fn share_of(requests: usize, class: RequestClass) -> usize {
    let sixteenths = match class {
        RequestClass::Heartbeat => 16,
        RequestClass::Change => 15,
        RequestClass::Lookup => 14,
        RequestClass::Other => 8,
    };
    (requests.saturating_mul(sixteenths) / 16).max(1)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests stay far below 2^52")]
fn ratio(count: usize, most: usize) -> f64 {
    count as f64 / most.max(1) as f64
}

/// One of those that are counted; counts down on drop, however it ends.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use RequestClass::{Change, Heartbeat, Lookup, Other};

    use super::*;

    fn enter(door: &Admission, class: RequestClass) -> bool {
        door.enter(class, "web", Monotonic::default).is_ok()
    }

    #[test]
    fn the_last_places_are_kept_for_what_matters_more() {
        let door = Admission::new(Config { requests: 32, ..Config::default() });
        for (class, until) in [(Other, 16), (Lookup, 28), (Change, 30), (Heartbeat, 32)] {
            while enter(&door, class) {}
            assert_eq!(door.requests_used().used, until, "{class:?}");
        }
        door.leave(Heartbeat);
        assert!(!enter(&door, Change), "a place for a heartbeat is none for a change");
        assert!(enter(&door, Heartbeat));
        let door = Admission::new(Config { requests: 1, ..Config::default() });
        assert!(enter(&door, Other), "with one place, everybody can have it");
    }

    #[test]
    fn a_share_is_refused_and_all_of_it_is_all() {
        let door = Admission::new(Config::default());
        let refused = |door: &Admission| (0..1_000).filter(|_| !enter(door, Other)).count();
        assert_eq!(refused(&door), 0);
        let mut pressure = Pressure::default();
        let reading = pressure::Reading { past_fill: 3.0, ..pressure::Reading::default() };
        let targets = door.targets().unwrap();
        pressure.follow(&reading, &targets);
        door.put(Duration::ZERO, pressure);
        let some = refused(&door);
        assert!((200..400).contains(&some), "{some}: three tenths");
        (0..10).for_each(|_| pressure.follow(&reading, &targets));
        door.put(Duration::ZERO, pressure);
        assert_eq!(refused(&door), 1_000);
        assert!(enter(&door, Lookup));
    }

    #[tokio::test]
    async fn a_question_waits_for_its_turn_and_not_for_ever() {
        let door = Admission::new(Config { past_reads: 1, ..Config::default() });
        let first = door.past().await.unwrap();
        let refused = door.past_within(Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(refused, Problem::Overloaded { by: Overload::Past { limit: 1 } });
        assert_eq!(door.past_waiting.load(Ordering::Relaxed), 0);
        let (second, ()) = tokio::join!(door.past(), async {
            assert_eq!(door.past_waiting.load(Ordering::Relaxed), 1);
            drop(first);
        });
        assert!(second.is_ok());
        assert_eq!((door.past_waiting.load(Ordering::Relaxed), door.past_used().used), (0, 1));
    }
}
