//! Traffic: from the buffer into the log, numbered, in slices, so that no change waits behind a heap of
//! lookups. Called by the registrar's thread.

use std::sync::Arc;
use std::time::Duration;

use super::buffer::QueuedTraffic;
use super::thread::Registrar;
use crate::domain::event::{HeartbeatRef, Kind};
use crate::domain::traffic::Traffic;
use crate::lease::Lease;
use crate::log::AppendError;

/// Traffic events of one transaction: eight blocks, about a millisecond.
pub(super) const SLICE: usize = 2_048;

/// Traffic that was taken from the buffer and is not in the log yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) events: Vec<Traffic>,
    pub(super) leases: Vec<Option<Arc<Lease>>>,
    pub(super) done: usize,
    /// The slice of this length was sent with this first number, and nobody knows whether it is in.
    pub(super) in_doubt: Option<(u64, usize)>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.done == self.events.len()
    }
}

impl Registrar {
    /// Puts everything that waits into the log, or as much as works.
    pub(super) fn flush_all(&mut self) {
        while self.trouble.is_none() {
            self.flush_slice();
            if self.pending.is_empty() {
                return;
            }
        }
    }

    /// Puts the next slice of traffic into the log.
    pub(super) fn flush_slice(&mut self) {
        let clock = self.clock();
        if self.pending.is_empty() {
            self.take_pending();
            self.next_flush = clock.monotonic().plus(self.pace.flush_every);
        }
        self.settle_doubt();
        let Pending { events, done, .. } = &self.pending;
        let slice = &events[*done..events.len().min(*done + SLICE)];
        if slice.is_empty() {
            return;
        }
        let (first, length) = (self.log.next_number(), slice.len());
        let started = clock.monotonic();
        match self.log.append_traffic(slice) {
            Ok(()) => {
                let took = clock.monotonic().micros_since(started);
                self.logged(first, length, Duration::from_micros(took));
            }
            Err(error) => {
                if matches!(error, AppendError::Unknown { .. }) {
                    self.pending.in_doubt = Some((first, length));
                }
                self.fail(error, None);
            }
        }
    }

    /// Whether a slice of unknown fate is in: the log's next number tells, now that it can be read.
    pub(super) fn settle_doubt(&mut self) {
        if let Some((first, length)) = self.pending.in_doubt.take()
            && self.log.next_number() >= first + length as u64
        {
            self.logged(first, length, Duration::ZERO);
        }
    }

    pub(super) fn take_pending(&mut self) {
        let mut taken = self.shared.buffer.drain(std::mem::take(&mut self.spare));
        self.pending.events.clear();
        self.pending.leases.clear();
        self.pending.done = 0;
        for QueuedTraffic { mut traffic, lease } in taken.drain(..) {
            // Numbers and times go up together, whatever two threads and the wall clock did.
            traffic.at = traffic.at.max(self.last_traffic_at);
            self.last_traffic_at = traffic.at;
            self.pending.events.push(traffic);
            self.pending.leases.push(lease);
        }
        self.spare = taken;
    }

    /// The next `length` pending events are in the log, numbered from `first` on.
    pub(super) fn logged(&mut self, first: u64, length: usize, took: Duration) {
        let now = self.shared.clock.wall();
        let range = self.pending.done..self.pending.done + length;
        let mut kinds = [0; Kind::ALL.len()];
        let mut ages = Vec::with_capacity(length.div_ceil(16));
        for (chunk, events) in self.pending.events[range.clone()].chunks(16).enumerate() {
            // One reading for sixteen: the oldest of them, which makes the histogram err upwards.
            ages.push((now.since(events[0].at).to_duration().as_secs_f64(), events.len()));
            for (position, event) in events.iter().enumerate() {
                kinds[event.detail.kind() as usize] += 1;
                let offset = chunk * 16 + position;
                if let Some(lease) = &self.pending.leases[range.start + offset] {
                    let id = first + offset as u64;
                    lease.logged_heartbeat(HeartbeatRef { at: event.at, id, trace: event.trace });
                }
            }
        }
        self.pending.done += length;
        self.telemetry.flushed(&kinds, &ages, took);
    }
}
