//! Where traffic waits for the registrar: heartbeats and lookups take their place here before they are
//! answered.
//!
//! One lock, held for one push: shards would buy nothing on the few cores that this is built for and would
//! lose the order of arrival, which becomes the order of the numbers. Full means: the log is slow, callers wait; or it has failed, and what does not fit is
//! counted for the `log_gap` event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::event::Kind;
use crate::domain::traffic::Traffic;
use crate::lease::Lease;

/// A traffic event on its way to the log.
#[derive(Debug)]
pub struct QueuedTraffic {
    /// The event.
    pub traffic: Traffic,
    /// For a heartbeat, the lease that it renewed: it is told the event's number.
    pub lease: Option<Arc<Lease>>,
}

/// Served but not stored: what a failed log could not take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) lookups: u64,
    pub(super) heartbeats: u64,
}

#[derive(Debug)]
pub(super) struct Buffer {
    waiting: Mutex<Vec<QueuedTraffic>>,
    capacity: usize,
    drained: Notify,
    lost_lookups: AtomicU64,
    lost_heartbeats: AtomicU64,
}

impl Buffer {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            capacity,
            drained: Notify::new(),
            lost_lookups: AtomicU64::new(0),
            lost_heartbeats: AtomicU64::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    #[expect(
        clippy::result_large_err,
        reason = "the event itself goes back, for another try; boxing would cost every push"
    )]
    /// Takes a place if there is one; gives the event back if there is none.
    pub(super) fn try_push(&self, event: QueuedTraffic) -> Result<(), QueuedTraffic> {
        self.try_push_if(event, || true)
    }

    #[expect(
        clippy::result_large_err,
        reason = "the event itself goes back, for another try; boxing would cost every push"
    )]
    /// The same if `happens` says that the event takes place after all, which is asked only once there is a place. The
    /// others wait meanwhile: it must be quick, and never come back here.
    pub(super) fn try_push_if(
        &self,
        event: QueuedTraffic,
        happens: impl FnOnce() -> bool,
    ) -> Result<(), QueuedTraffic> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.capacity || !happens() {
            return Err(event);
        }
        waiting.push(event);
        Ok(())
    }

    /// Takes a place, also beyond the capacity.
    pub(super) fn push_beyond(&self, event: QueuedTraffic) {
        self.waiting.lock().push(event);
    }

    /// Waits for a place for at most `limit`, unless `give_up` says that none will come.
    pub(super) async fn push(
        &self,
        mut event: QueuedTraffic,
        limit: Duration,
        give_up: impl Fn() -> bool,
    ) -> Result<(), QueuedTraffic> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            // Listen before looking, so that a drain in between is not missed.
            let drained = self.drained.notified();
            match self.try_push(event) {
                Ok(()) => return Ok(()),
                Err(back) => event = back,
            }
            if give_up() || tokio::time::timeout_at(deadline, drained).await.is_err() {
                return Err(event);
            }
        }
    }

    /// Takes everything that waits, in exchange for the emptied `spare`.
    pub(super) fn drain(&self, spare: Vec<QueuedTraffic>) -> Vec<QueuedTraffic> {
        let taken = std::mem::replace(&mut *self.waiting.lock(), spare);
        if !taken.is_empty() {
            self.drained.notify_waiters();
        }
        taken
    }

    /// Wakes those who wait for a place, to look again at whether one will come.
    pub(super) fn wake(&self) {
        self.drained.notify_waiters();
    }

    /// Counts an event that was served and will not be stored.
    pub(super) fn lose(&self, kind: Kind) {
        match kind {
            Kind::Heartbeat => self.lost_heartbeats.fetch_add(1, Relaxed),
            _ => self.lost_lookups.fetch_add(1, Relaxed),
        };
    }

    /// Gives the counts since the last time.
    pub(super) fn take_lost(&self) -> Lost {
        Lost {
            lookups: self.lost_lookups.swap(0, Relaxed),
            heartbeats: self.lost_heartbeats.swap(0, Relaxed),
        }
    }
}
