//! The deadlines to come, earliest first. A heartbeat does not touch it: an entry that comes up looks at
//! its lease and is put back if that was renewed meanwhile.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Lease;
use crate::clock::Monotonic;
use crate::domain::{InstanceKey, Seq};

/// Whose lease it is.
#[derive(Debug)]
pub struct Tracked {
    /// Who.
    pub key: InstanceKey,
    /// Which life.
    pub incarnation: Seq,
    /// Its lease.
    pub lease: Arc<Lease>,
}

#[derive(Debug)]
struct Entry {
    due: Monotonic,
    tracked: Arc<Tracked>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

/// The queue: one entry a lease.
#[derive(Debug, Default)]
pub struct DeadlineQueue {
    heap: BinaryHeap<Reverse<Entry>>,
}

impl DeadlineQueue {
    /// Looks at `tracked` when the clock shows `due`.
    pub fn push(&mut self, due: Monotonic, tracked: Arc<Tracked>) {
        self.heap.push(Reverse(Entry { due, tracked }));
    }

    /// When the earliest entry is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Monotonic> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// Takes the earliest entry, if it is due at `now`.
    pub fn pop_due(&mut self, now: Monotonic) -> Option<Arc<Tracked>> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.tracked)
    }

    /// How many leases are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
