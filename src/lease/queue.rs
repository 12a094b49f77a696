//! The deadlines to come, earliest first. A heartbeat does not touch it: an entry that comes up looks at
//! its lease and is put back if that was renewed meanwhile.
//!
//! Those of one instant come up service by service. After a start, a stall or a wave of registrations very many are due
//! at once, and go to the log some thousand at a time: a service whose instances are together there is published once
//! instead of with each of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Lease;
use crate::clock::Monotonic;
use crate::domain::{InstanceKey, Seq, ServiceKey};

/// Whose lease it is.
#[derive(Debug, Clone)]
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
    /// The same for all instances of a service, and seldom for those of another.
    group: u64,
    tracked: Tracked,
}

impl Entry {
    fn rank(&self) -> (Monotonic, u64) {
        (self.due, self.group)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
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
        self.rank().cmp(&other.rank())
    }
}

/// The queue: one entry a lease.
#[derive(Debug, Default)]
pub struct DeadlineQueue {
    heap: BinaryHeap<Reverse<Entry>>,
}

impl DeadlineQueue {
    /// Looks at `tracked` when the clock shows `due`.
    pub fn push(&mut self, due: Monotonic, tracked: Tracked) {
        let group = group_of(&tracked.key.service);
        self.heap.push(Reverse(Entry { due, group, tracked }));
    }

    /// When the earliest entry is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Monotonic> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// Takes the earliest entry, if it is due at `now`.
    pub fn pop_due(&mut self, now: Monotonic) -> Option<Tracked> {
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

/// Of a fixed seed, so that equal histories come up in the same order.
fn group_of(service: &ServiceKey) -> u64 {
    let namespace = xxh3_64_with_seed(service.namespace.as_str().as_bytes(), 0);
    xxh3_64_with_seed(service.service.as_str().as_bytes(), namespace)
}
