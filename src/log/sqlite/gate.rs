//! Who may write now: the registrar's connection or the keeper's.
//!
//! SQLite lets one connection write at a time and makes the other one sleep and look again, for up to milliseconds
//! too long each time. Here the one that waits is woken at once. The gate decides only who begins: SQLite's own lock
//! still guards the file, also against other processes. Passed around every write transaction by
//! [`super::SqliteLog`] and [`super::SqliteUpkeep`]; nobody may wait for anything else while inside.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// The gate of one log. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<()>>);

/// The right to write, until it is dropped.
#[derive(Debug)]
#[must_use = "others may write when this is dropped"]
pub(super) struct Turn<'a>(Option<MutexGuard<'a, ()>>);

impl Gate {
    /// Waits until nobody else writes.
    pub(super) fn enter(&self) -> Turn<'_> {
        Turn(Some(self.0.lock()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            // To the one that waits, if anybody does: a keeper with many slices to do would otherwise take it
            // again and again, before the registrar is awake.
            MutexGuard::unlock_fair(guard);
        }
    }
}
