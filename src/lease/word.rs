//! One lease in one atomic word: when it was renewed, and what the registrar thinks of it.
//!
//! ```text
//!   bits 63..2  time of the last renewal, microseconds
//!   bits  1..0  mark: open, late, closed
//!
//!             renew                   registrar: two thirds of the ttl passed
//!          ┌────────┐   ┌──────────────────────────────────────────────────┐
//!          ▼        │   │                                                  ▼
//!        OPEN ──────┘ OPEN ◀────────── heartbeat as a command ──────────── LATE
//!                       │                                                  │
//!                       └────────────── registrar: ttl passed ─────────────┤
//!                       ▲                                                  ▼
//!                       └────────── the append failed: swapped back ──── CLOSED
//! ```
//!
//! **The race.** A renewal and an expiry can meet. The registrar closes a lease by swapping exactly the
//! word that it read; a renewal in between makes the swap fail, and the lease lives. A renewal that comes
//! after finds CLOSED and must ask the registrar, who answers when the expiry is in the log or was taken
//! back. Either way there is one outcome. `tests/lease_race.rs` walks through every interleaving with
//! loom, on this very source: it may use no atomics but `super::atomic`. The time never goes back.

use std::convert::Infallible;

use super::atomic::{AtomicU64, Ordering};

/// What the registrar thinks of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Heartbeats renew it on their own.
    Open,
    /// Two thirds of the ttl have passed: a heartbeat changes the status and is the registrar's to answer.
    Late,
    /// Its expiry is being decided, or its instance has left.
    Closed,
}

/// What a word said when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading(u64);

impl Reading {
    fn of(renewed_at: u64, mark: Mark) -> Self {
        let bits = match mark {
            Mark::Open => 0,
            Mark::Late => 1,
            Mark::Closed => 2,
        };
        Self(renewed_at << 2 | bits)
    }

    /// When the lease was renewed, in microseconds of the monotonic clock; 0 is before this run.
    #[must_use]
    pub fn renewed_at(self) -> u64 {
        self.0 >> 2
    }

    /// The registrar's mark.
    #[must_use]
    pub fn mark(self) -> Mark {
        match self.0 & 3 {
            0 => Mark::Open,
            1 => Mark::Late,
            _ => Mark::Closed,
        }
    }
}

/// The word itself.
#[derive(Debug)]
pub struct Word(AtomicU64);

impl Word {
    /// A word that says this.
    #[must_use]
    pub fn new(renewed_at: u64, mark: Mark) -> Self {
        Self(AtomicU64::new(Reading::of(renewed_at, mark).0))
    }

    /// What it says now.
    #[must_use]
    pub fn read(&self) -> Reading {
        Reading(self.0.load(Ordering::Acquire))
    }

    /// Renews an open lease and returns when it was renewed before.
    ///
    /// # Errors
    /// The mark that was found instead of `Open`; nothing was changed then.
    pub fn renew(&self, now: u64) -> Result<u64, Mark> {
        self.renew_where(now, |mark| mark == Mark::Open)
    }

    /// Renews a lease that may be late and leaves the mark: while the log can't be written the status
    /// can't change, but a living instance must not lose its lease.
    ///
    /// # Errors
    /// [`Mark::Closed`]; nothing was changed then.
    pub fn renew_unless_closed(&self, now: u64) -> Result<u64, Mark> {
        self.renew_where(now, |mark| mark != Mark::Closed)
    }

    fn renew_where(&self, now: u64, allowed: impl Fn(Mark) -> bool) -> Result<u64, Mark> {
        let before = self.change(|seen| match allowed(seen.mark()) {
            true => Ok(Reading::of(now.max(seen.renewed_at()), seen.mark())),
            false => Err(seen.mark()),
        })?;
        Ok(before.renewed_at())
    }

    /// Swaps the word for what `next` makes of it, as often as it takes until nobody comes in between.
    /// Gives the word before.
    fn change<E>(&self, next: impl Fn(Reading) -> Result<Reading, E>) -> Result<Reading, E> {
        let mut seen = self.read();
        loop {
            let new = next(seen)?;
            match self.0.compare_exchange_weak(seen.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(seen),
                Err(found) => seen = Reading(found),
            }
        }
    }

    /// Changes the word whatever it says, and gives the word before.
    fn set(&self, next: impl Fn(Reading) -> Reading) -> Reading {
        let Ok(before) = self.change(|seen| Ok::<_, Infallible>(next(seen)));
        before
    }

    /// Puts `mark` on the lease if it still says exactly `seen`; whether it did. For the registrar.
    pub fn mark(&self, seen: Reading, mark: Mark) -> bool {
        let marked = Reading::of(seen.renewed_at(), mark);
        self.0.compare_exchange(seen.0, marked.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes a mark back to `before` and keeps what renewals have done meanwhile. For the registrar, whose
    /// append failed.
    pub fn unmark(&self, before: Mark) {
        self.set(|seen| Reading::of(seen.renewed_at(), before));
    }

    /// Opens the lease, renewed at `now` or later, and returns when it was renewed before. For the registrar, once a
    /// heartbeat or a registration is decided.
    pub fn open(&self, now: u64) -> u64 {
        self.set(|seen| Reading::of(now.max(seen.renewed_at()), Mark::Open)).renewed_at()
    }

    /// Closes the lease for ever: its instance has left. For the registrar.
    pub fn close(&self) {
        self.set(|seen| Reading::of(seen.renewed_at(), Mark::Closed));
    }
}
