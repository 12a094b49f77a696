//! Readers that take nothing: a connection into which nothing more fits is not asked for again, so that whoever
//! writes to it never finds out. Somebody else has to look at the clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How one stream gets on.
#[derive(Debug)]
pub struct Progress {
    /// Since when what was handed to the connection has not been followed by its asking for more.
    handed: Mutex<Option<Instant>>,
    stuck: AtomicBool,
    /// Ends the connection.
    cut: Arc<Notify>,
}

impl Progress {
    /// The connection was handed bytes.
    pub fn handed(&self) {
        *self.handed.lock() = Some(Instant::now());
    }

    /// The connection asks for more: what it was handed has gone as far as its own buffer at least.
    pub fn asked(&self) {
        *self.handed.lock() = None;
    }

    /// Whether the reader was found to take nothing.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }
}

/// All open streams.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Arc<Progress>>,
}

impl Streams {
    /// Watches over a stream, whose connection ends when `cut` is notified. It has to be forgotten by its number.
    pub(super) fn open(&self, cut: Arc<Notify>) -> (u64, Arc<Progress>) {
        let progress = Progress { handed: Mutex::default(), stuck: AtomicBool::new(false), cut };
        let progress = Arc::new(progress);
        let mut open = self.0.lock();
        open.next += 1;
        let number = open.next;
        open.by_number.insert(number, Arc::clone(&progress));
        (number, progress)
    }

    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        !self.0.lock().by_number.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().by_number.len()
    }

    /// Forgets a stream; gives how many are left.
    pub(super) fn forget(&self, number: u64) -> usize {
        let mut open = self.0.lock();
        open.by_number.remove(&number);
        open.by_number.len()
    }

    /// Ends the connections that have taken nothing for `limit`.
    pub(super) fn cut_stuck(&self, limit: Duration) {
        for progress in self.0.lock().by_number.values() {
            let stuck = progress.handed.lock().is_some_and(|since| since.elapsed() >= limit);
            if stuck && !progress.stuck.swap(true, Ordering::AcqRel) {
                progress.cut.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_takes_nothing_is_cut_off() {
        let streams = Streams::default();
        let cut = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let [(_, reads), (number, stuck)] = cut.clone().map(|cut| streams.open(cut));
        reads.handed();
        reads.asked();
        stuck.handed();
        streams.cut_stuck(Duration::from_secs(30));
        assert_eq!((reads.is_stuck(), stuck.is_stuck()), (false, false), "not for so long");
        streams.cut_stuck(Duration::ZERO);
        assert_eq!((reads.is_stuck(), stuck.is_stuck()), (false, true));
        cut[1].notified().await;
        assert_eq!(streams.forget(number), 1);
    }
}
