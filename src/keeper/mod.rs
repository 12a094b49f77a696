//! Decides when the background work on the log is done: deriving, snapshots, retention. What is done is
//! [`crate::log::upkeep`].
//!
//! ```text
//!   the keeper's thread, once a second and no oftener than the log allows:
//!     derive   until nothing is left, slice by slice, each with a rest nine times as long as its work
//!     snapshot when enough has changed since the last one, or it is old and anything has
//!     retain   now and then, slice by slice, until all is within the budgets; then reclaim
//!     tell     a `compacted` event through the registrar, for what went
//! ```
//!
//! It must never hold up the registrar, work while the log has failed, or fail a request: what goes wrong here is said
//! once, and tried again with growing pauses. It owns no state that matters: all of it is in the log. Built by `app`,
//! and stopped by it before the registrar, which has the last word.

mod duties;
mod pauses;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::{Clock, Monotonic, Stopwatch};
use crate::domain::event::Compacted;
use crate::domain::{Millis, Timestamp};
use crate::history::Policy;
use crate::log::upkeep::{Failed, Upkeep};
use crate::projection::Projection;
use crate::registrar::{Handle, LogCondition, Noted, Readiness};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::names::Work;
use crate::telemetry::signals;
use pauses::Pauses;

/// How often it looks.
const TICK: Millis = Millis::from_millis(1_000);

/// How long one duty goes on before the others get their chance. On a machine that gives the keeper hardly any time, a
/// turn counted in slices alone lasts for minutes, and meanwhile nothing else is done.
const TURN_MAX: Millis = Millis::from_millis(5_000);

/// Settings of the keeper.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What is kept.
    pub policy: Policy,
    /// How often that is enforced.
    pub retention_interval: Duration,
    /// A snapshot is written after so many changes, or after as many as there are instances if these are more: then
    /// writing it costs no more per change than the change itself did.
    pub snapshot_every: u64,
    /// A snapshot is written when the last one is so old and anything has changed since.
    pub snapshot_max_age: Duration,
}

/// What the keeper works with.
#[derive(Debug)]
pub struct Parts {
    /// The work.
    pub upkeep: Box<dyn Upkeep>,
    /// The state, for snapshots.
    pub projection: Arc<Projection>,
    /// The way to the registrar.
    pub registrar: Handle,
    /// Whether the state is there yet.
    pub readiness: Readiness,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
}

/// A keeper that was started. It ends soon after this is dropped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the keeper's thread.
///
/// # Errors
/// If the operating system gives no thread.
pub fn start(mut parts: Parts, config: Config) -> std::io::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    parts.upkeep.heed(Arc::clone(&stop));
    let keeper = Keeper::new(parts, config, Arc::clone(&stop));
    let thread = thread::Builder::new().name("rollcall-keeper".into()).spawn(|| keeper.run())?;
    Ok(Running { stop, thread: Some(thread) })
}

impl Running {
    /// Ends the work after the slice that is being done, and waits for that. Blocks.
    pub fn stop(mut self) {
        self.tell_to_stop();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which its own message has told.
            let _ = thread.join();
        }
    }

    fn tell_to_stop(&self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// A `compacted` event that is being told.
#[derive(Debug)]
struct Telling {
    what: Compacted,
    noted: Noted,
}

/// The keeper; lives on its thread.
struct Keeper {
    parts: Parts,
    config: Config,
    stop: Arc<AtomicBool>,
    pauses: Pauses,
    /// When retention is due.
    retain_at: Monotonic,
    /// A run of retention has not come to its end.
    retaining: bool,
    /// A removal waits to be told. At the start one of an earlier run may.
    owing: bool,
    telling: Vec<Telling>,
    /// When a removal of changes and one of traffic were told last.
    told_at: [Option<Monotonic>; 2],
    started_at: Timestamp,
}

impl Keeper {
    fn new(parts: Parts, config: Config, stop: Arc<AtomicBool>) -> Self {
        let (retain_at, started_at) = (parts.clock.monotonic(), parts.clock.wall());
        Self {
            parts,
            config,
            stop,
            pauses: Pauses::default(),
            retain_at,
            retaining: false,
            owing: true,
            telling: Vec::new(),
            told_at: [None; 2],
            started_at,
        }
    }

    fn run(mut self) {
        let clock = Arc::clone(&self.parts.clock);
        while !self.stopping() {
            if !self.turn() {
                clock.park(clock.monotonic().plus(TICK));
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Whether there is a state, and a log that can be written.
    fn may_work(&self) -> bool {
        !self.stopping()
            && self.parts.readiness.is_ready()
            && self.parts.registrar.log_condition() == LogCondition::Writable
    }

    /// Does what is due; whether it left something to do at once.
    fn turn(&mut self) -> bool {
        if !self.may_work() {
            return false;
        }
        let mut more = self.derive();
        let Some(standing) = self.attempt(Work::Look, |upkeep| upkeep.standing()) else {
            return false;
        };
        self.show_lag(&standing);
        if self.snapshot_is_due(&standing) {
            self.snapshot();
        }
        self.tell();
        let due = self.retaining || self.parts.clock.monotonic() >= self.retain_at;
        // What is being told has to stay as it is until it is known to be told.
        if due && self.telling.is_empty() {
            more |= self.retain();
        }
        more
    }

    /// Does a piece of work, unless it failed a short while ago. None if it was not done.
    fn attempt<T>(
        &mut self,
        work: Work,
        act: impl FnOnce(&mut dyn Upkeep) -> Result<T, Failed>,
    ) -> Option<T> {
        if !self.pauses.is_over(work, self.parts.clock.monotonic()) {
            return None;
        }
        let took = Stopwatch::start();
        match act(&mut *self.parts.upkeep) {
            Ok(done) => {
                self.parts
                    .metrics
                    .keeper
                    .slice_seconds
                    .get(work)
                    .record(took.elapsed().as_secs_f64());
                if self.pauses.succeeded(work) {
                    signals::upkeep_resumed(work);
                }
                Some(done)
            }
            // What was interrupted has not failed.
            Err(_) if self.stopping() => None,
            Err(failed) => {
                if self.pauses.failed(work, self.parts.clock.monotonic()) {
                    signals::upkeep_failing(work, &failed);
                }
                None
            }
        }
    }

    /// Does slices until there is none left, at most `most` and for [`TURN_MAX`], with a rest after each that is `rest`
    /// times as long as it worked: whoever else wants the processor, the lock or the disk finds it free meanwhile. Whether
    /// there are more; none if it had to end early.
    fn slices(
        &mut self,
        most: usize,
        rest: u32,
        mut act: impl FnMut(&mut Self) -> Option<bool>,
    ) -> Option<bool> {
        let clock = Arc::clone(&self.parts.clock);
        let end = clock.monotonic().plus(TURN_MAX);
        for _ in 0..most {
            if !self.may_work() {
                return None;
            }
            let (began, worked) = (clock.monotonic(), clock.worked_micros());
            if !act(self)? {
                return Some(false);
            }
            let now = clock.monotonic();
            let worked = clock.worked_micros().zip(worked).map(|(now, then)| now - then);
            let rest = pauses::rest_micros(now.micros_since(began), worked, rest);
            let until = Monotonic(now.0.saturating_add(rest));
            if !self.stopping() {
                clock.park(until);
            }
            if until >= end {
                break;
            }
        }
        Some(true)
    }
}
