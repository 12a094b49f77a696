//! Leases: how long an instance may stay silent.
//!
//! A lease belongs to one life (incarnation) of an instance and to one ttl. HTTP threads renew it with one atomic operation;
//! the registrar alone marks it late, closes it and opens it again. The words of a lease and the races
//! between the two are in [`word`]; nothing here knows the log, the network or the clock.

pub mod queue;
pub mod word;

use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::clock::Monotonic;
use crate::domain::event::HeartbeatRef;
use crate::domain::{Millis, Status, Timestamp};
use word::{Mark, Word};

/// The atomics of the lease word: `tests/lease_race.rs` compiles the same source with loom's.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// One lease.
#[derive(Debug)]
pub struct Lease {
    ttl: Millis,
    word: Word,
    /// Wall time of the last renewal by heartbeat, in microseconds; 0 is none yet. For showing only.
    last_wall: AtomicI64,
    /// The last heartbeat whose event has its number; the registrar writes it.
    last_heartbeat: Mutex<Option<HeartbeatRef>>,
}

impl Lease {
    /// A lease that begins at `now`.
    #[must_use]
    pub fn granted(ttl: Millis, now: Monotonic) -> Self {
        Self::with(ttl, Word::new(now.0, Mark::Open), None)
    }

    /// The lease of an instance that was replayed from the log: when it was renewed on this run's clock
    /// is not known, so that it counts from the start of the process.
    #[must_use]
    pub fn replayed(ttl: Millis, status: Status, last_heartbeat: Option<HeartbeatRef>) -> Self {
        let mark = match status {
            Status::Unstable => Mark::Late,
            Status::Healthy | Status::Failed => Mark::Open,
        };
        Self::with(ttl, Word::new(0, mark), last_heartbeat)
    }

    fn with(ttl: Millis, word: Word, last_heartbeat: Option<HeartbeatRef>) -> Self {
        let last_wall = AtomicI64::new(last_heartbeat.map_or(0, |heartbeat| heartbeat.at.micros()));
        Self { ttl, word, last_wall, last_heartbeat: Mutex::new(last_heartbeat) }
    }

    /// The ttl that a renewal lasts.
    #[must_use]
    pub fn ttl(&self) -> Millis {
        self.ttl
    }

    /// The word, for the registrar and for tests.
    #[must_use]
    pub fn word(&self) -> &Word {
        &self.word
    }

    /// Renews the lease, if the registrar has not put a mark on it. Returns the gap since the renewal
    /// before, or none if that was in another run.
    ///
    /// # Errors
    /// The mark: the heartbeat has to become a command, and its answer is the registrar's.
    pub fn renew(&self, now: Monotonic, wall: Timestamp) -> Result<Option<Millis>, Mark> {
        let previous = self.word.renew(now.0)?;
        self.last_wall.store(wall.micros(), Relaxed);
        Ok((previous > 0).then(|| now.since(Monotonic(previous))))
    }

    /// When the last heartbeat came, if one did.
    #[must_use]
    pub fn last_heartbeat_at(&self) -> Option<Timestamp> {
        match self.last_wall.load(Relaxed) {
            0 => None,
            micros => Some(Timestamp(micros)),
        }
    }

    /// Notes the time of a heartbeat that went through the registrar.
    pub fn saw_heartbeat(&self, wall: Timestamp) {
        self.last_wall.store(wall.micros(), Relaxed);
    }

    /// The last heartbeat that has a number in the log.
    #[must_use]
    pub fn last_heartbeat(&self) -> Option<HeartbeatRef> {
        *self.last_heartbeat.lock()
    }

    /// Notes the number of a heartbeat; for the registrar.
    pub fn logged_heartbeat(&self, heartbeat: HeartbeatRef) {
        *self.last_heartbeat.lock() = Some(heartbeat);
    }

    /// Since when the lease counts: its last renewal, or the end of the last stall.
    #[must_use]
    pub fn counts_from(&self, awake_since: Monotonic) -> Monotonic {
        Monotonic(self.word.read().renewed_at()).max(awake_since)
    }
}
