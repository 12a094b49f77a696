//! The registrar's thread: what it holds, and its loop. What it does in a turn is beside: [`super::commit`],
//! [`super::flush`], [`super::trouble`].
//!
//! It waits for commands, deadlines or the next flush, whichever comes first. Changes go before traffic,
//! and traffic goes in slices, so that no change waits behind a heap of lookups. When the log fails it
//! refuses changes, renews leases, expires nobody and tries again until it can write; then the first change
//! is `log_gap`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer::QueuedTraffic;
use super::damping::{Damping, Limits};
use super::flush::Pending;
use super::group::Work;
use super::handle::Shared;
use super::observe::Telemetry;
use super::per_second::PerSecond;
use super::sweep::Overrun;
use super::timers::Timers;
use super::trouble::Trouble;
use crate::clock::{Clock, Monotonic};
use crate::domain::{Millis, Quotas, Registry, Timestamp};
use crate::lease::guard::{Guard, Policy};
use crate::lease::queue::DeadlineQueue;
use crate::log::{BATCH_MAX, Log};
use crate::projection::Publisher;
use crate::telemetry::signals;
use crate::watch::Hub;

/// Leases looked at between two commits, so that an expiry of many does not keep commands waiting: some milliseconds.
/// Four times as many would be decided a tenth sooner, and make lookups wait longer for a core.
pub(super) const SWEEP_MAX: usize = 256;

/// Expiries of a second that have a span of their own, where their sweep is kept: whatever a wave of them looks like,
/// it shows in these, and the events have all.
const EXPIRE_SPANS: u32 = 100;

/// Settings of the thread.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// How long traffic may wait for its flush.
    pub(super) flush_every: Millis,
    /// Changes between two checkpoints.
    pub(super) checkpoint_every: u64,
    /// When an instance flaps.
    pub(super) flaps: Limits,
    /// How many instances there may be.
    pub(super) quotas: Quotas,
    /// By which figures the guard decides; none if it is switched off.
    pub(super) guard: Option<Policy>,
    /// How many changes a second have a line of their own in the process' log; 0 for all.
    pub(super) log_change_rate: u32,
}

/// The registrar; lives on its thread.
pub(super) struct Registrar {
    pub(super) log: Box<dyn Log>,
    pub(super) registry: Registry,
    pub(super) publisher: Publisher,
    pub(super) hub: Arc<Hub>,
    pub(super) deadlines: DeadlineQueue,
    pub(super) timers: Timers,
    pub(super) damping: Damping,
    /// Leases that have run out, whose expiry is not decided yet.
    pub(super) ripe: VecDeque<Overrun>,
    /// Whether some of them came since the guard last looked at all of them.
    pub(super) ripe_unseen: bool,
    /// None if it is switched off.
    pub(super) guard: Option<Guard>,
    /// Which of its moves were shown last, and when.
    pub(super) guard_shown: (u64, Monotonic),
    pub(super) shared: Arc<Shared>,
    pub(super) telemetry: Telemetry,
    pub(super) pace: Pace,
    pub(super) trouble: Option<Trouble>,
    pub(super) pending: Pending,
    pub(super) spare: Vec<QueuedTraffic>,
    pub(super) next_flush: Monotonic,
    pub(super) last_traffic_at: Timestamp,
    pub(super) since_checkpoint: u64,
    /// Which changes have a line.
    pub(super) lines: PerSecond,
    /// Which expiries have a span of their own.
    pub(super) expire_spans: PerSecond,
    /// The turn before this one found nothing more to do.
    idle: bool,
}

/// What a turn of the registrar leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Something waits: the next turn is due at once.
    More,
    /// Nothing is due before this instant, unless a command comes.
    Rest(Monotonic),
    /// The inbox is closed and everything that waited is in the log.
    Done,
}

impl Registrar {
    pub(super) fn new(
        log: Box<dyn Log>,
        publisher: Publisher,
        hub: Arc<Hub>,
        shared: Arc<Shared>,
        telemetry: Telemetry,
        pace: Pace,
    ) -> Self {
        Self {
            log,
            registry: Registry::default(),
            publisher,
            hub,
            deadlines: DeadlineQueue::default(),
            timers: Timers::default(),
            damping: Damping::new(pace.flaps),
            ripe: VecDeque::new(),
            ripe_unseen: false,
            guard: pace.guard.map(Guard::new),
            guard_shown: (0, Monotonic::default()),
            shared,
            telemetry,
            lines: PerSecond::new(pace.log_change_rate),
            expire_spans: PerSecond::new(EXPIRE_SPANS),
            pace,
            trouble: None,
            pending: Pending::default(),
            spare: Vec::new(),
            next_flush: Monotonic::default(),
            last_traffic_at: Timestamp::default(),
            since_checkpoint: 0,

            idle: false,
        }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock)
    }

    /// Runs until the inbox is closed and everything that waited is in the log.
    pub(super) fn run(mut self) {
        let clock = self.clock();
        loop {
            match self.turn() {
                Turn::More => {}
                Turn::Rest(until) => clock.park(until),
                Turn::Done => return,
            }
        }
    }

    /// One turn: everything that is due now, and what is left to do.
    pub(super) fn turn(&mut self) -> Turn {
        let clock = self.clock();
        let commands = self.shared.inbox.take(BATCH_MAX - SWEEP_MAX);
        let had_commands = !commands.is_empty();
        if self.trouble.is_some() {
            self.answer_without_log(commands.into_iter().map(Work::from).collect());
            self.try_to_resume(self.idle && !had_commands);
        } else {
            self.commit_all(commands);
        }
        let flush_due = self.idle || clock.monotonic() >= self.next_flush;
        if self.trouble.is_none() && (flush_due || !self.pending.is_empty()) {
            self.flush_slice();
        }
        let more = had_commands || (self.trouble.is_none() && !self.pending.is_empty());
        if self.shared.inbox.is_done() && !more && self.finish() {
            return Turn::Done;
        }
        if let Some(left_out) = self.lines.settle(clock.monotonic()) {
            signals::lines_left_out(left_out);
        }
        self.idle = !more;
        if more { Turn::More } else { Turn::Rest(self.wake_at(clock.monotonic())) }
    }

    fn wake_at(&self, now: Monotonic) -> Monotonic {
        let flush = now.plus(self.pace.flush_every);
        match (&self.trouble, self.next_due()) {
            (Some(trouble), _) => trouble.retry_at,
            (None, _) if !self.ripe.is_empty() => now,
            (None, Some(due)) => flush.min(due),
            (None, None) => flush,
        }
    }

    /// The last things before the end; whether there is nothing left to do.
    fn finish(&mut self) -> bool {
        if self.trouble.is_some() {
            // What could not be written for as long as it ran can't be written now either.
            return true;
        }
        if self.shared.buffer.len() > 0 || !self.pending.is_empty() {
            self.flush_slice();
            return false;
        }
        self.stop_guards();
        self.checkpoint();
        if self.trouble.is_none()
            && let Err(error) = self.log.end()
        {
            self.telemetry.log_failed(&error);
        }
        true
    }
}
