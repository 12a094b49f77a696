//! Who may write now: the registrar's connection or the keeper's.
//!
//! SQLite lets one connection write at a time and makes the other one sleep and look again, for up to milliseconds
//! too long each time. Here the one that waits is woken at once. The gate decides only who begins: SQLite's own lock
//! still guards the file, also against other processes. Passed around every write transaction by
//! [`super::SqliteLog`] and [`super::SqliteUpkeep`]; nobody may wait for anything else while inside.
//!
//! It also carries the *seal*, by which the keeper tells the registrar's side that no block of traffic may reach over
//! a number any more: what is before it never changes again, and may be rolled up and removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::Stopwatch;

/// The gate of one log. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    turn: Arc<Mutex<()>>,
    /// Blocks that begin before this number may not be written any more. It only rises, and only in somebody's turn.
    seal: Arc<AtomicU64>,
    /// The longest turn since it was last asked for, in microseconds. Each user of the gate has one.
    longest: Arc<AtomicU64>,
}

/// The right to write, until it is dropped.
#[derive(Debug)]
#[must_use = "others may write when this is dropped"]
pub(super) struct Turn<'a> {
    guard: Option<MutexGuard<'a, ()>>,
    began: Stopwatch,
    longest: &'a AtomicU64,
}

impl Gate {
    /// The same gate for another user, whose turns are measured by themselves.
    pub(super) fn for_another(&self) -> Self {
        Self { longest: Arc::default(), ..self.clone() }
    }

    /// Waits until nobody else writes.
    pub(super) fn enter(&self) -> Turn<'_> {
        let guard = Some(self.turn.lock());
        Turn { guard, began: Stopwatch::start(), longest: &self.longest }
    }

    /// How long this user's longest turn took since it was last asked for, the wait before it not counted.
    pub(super) fn longest_turn(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Relaxed))
    }

    /// The number before which no block may be written any more. Sure to stay only during one's turn.
    pub(super) fn seal(&self) -> u64 {
        self.seal.load(Relaxed)
    }

    /// From now on no block that begins before `number` is written any more.
    pub(super) fn set_seal(&self, _: &Turn<'_>, number: u64) {
        // The lock of the turn orders it.
        self.seal.fetch_max(number, Relaxed);
    }
}

impl Turn<'_> {
    /// How long it has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            // To the one that waits, if anybody does: a keeper with many slices to do would otherwise take it
            // again and again, before the registrar is awake.
            MutexGuard::unlock_fair(guard);
        }
        let micros = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.longest.fetch_max(micros, Relaxed);
    }
}
