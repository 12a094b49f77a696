//! How many requests a caller may make: a token bucket for each, in the form of the generic cell rate algorithm
//! (ITU-T I.371, annex A): one instant a caller, at which its bucket is full again.
//!
//! Callers name themselves, so there is no end to their names. No name is kept, only a hash; a bucket that is full
//! says nothing that its absence does not, and goes when room is needed; and who comes when there is none shares one
//! bucket with all the others who do. It must never keep a thread waiting for more than the one lock of its shard.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::clock::Monotonic;

/// Callers that share a lock. One in so many requests meets another one at it.
const SHARDS: usize = 16;
/// Callers of one shard whose buckets are not full: with all shards, 65,536 at some 20 bytes each.
const CALLERS_MAX: usize = 4_096;
/// A shard without room is looked through for full buckets at most once in so long, as that takes microseconds.
const SWEEP_EVERY_NANOS: u64 = 100_000_000;
/// Stands for everybody who found no room.
const OTHERS: u64 = 0;

/// What one caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, in the long run.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

#[derive(Debug, Default)]
struct Shard {
    /// By the hash of its name, when the bucket of a caller is full again, in nanoseconds of the monotonic clock.
    full_at: HashMap<u64, u64, RandomState>,
    swept_at: u64,
}

/// The buckets of all callers.
#[derive(Debug)]
pub(super) struct Rates {
    /// How long one request takes to be made up for, in nanoseconds.
    interval: u64,
    /// How far ahead of time a bucket may be before it is empty.
    ahead_max: u64,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl Rates {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = 1_000_000_000 / u64::from(rate.per_second.max(1));
        Self {
            interval,
            ahead_max: interval * u64::from(rate.burst.max(1) - 1),
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Takes a token of `caller`. Heartbeats have a bucket of their own: what a caller asks must not cost it its leases.
    ///
    /// # Errors
    /// How long it has to wait for one.
    pub(super) fn take(
        &self,
        caller: &str,
        heartbeat: bool,
        now: Monotonic,
    ) -> Result<(), Duration> {
        let hash = self.hasher.hash_one((caller, heartbeat)).max(OTHERS + 1);
        let now = now.0.saturating_mul(1_000);
        let shard = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        let mut shard = self.shards[shard].lock();
        let key = shard.place(hash, now);
        let full_at = shard.full_at.entry(key).or_insert(now);
        let ahead = full_at.saturating_sub(now);
        if ahead > self.ahead_max {
            return Err(Duration::from_nanos(ahead - self.ahead_max));
        }
        *full_at = now + ahead + self.interval;
        Ok(())
    }

    #[cfg(test)]
    fn callers(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().full_at.len()).sum()
    }
}

impl Shard {
    /// Under which key the bucket of a caller is.
    fn place(&mut self, hash: u64, now: u64) -> u64 {
        if self.full_at.len() < CALLERS_MAX || self.full_at.contains_key(&hash) {
            return hash;
        }
        if now >= self.swept_at.saturating_add(SWEEP_EVERY_NANOS) {
            self.swept_at = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < CALLERS_MAX { hash } else { OTHERS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn taken(rates: &Rates, caller: &str, now: u64, times: usize) -> usize {
        (0..times).filter(|_| rates.take(caller, false, Monotonic(now)).is_ok()).count()
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_its_rate_afterwards() {
        let rates = Rates::new(Rate { per_second: 10, burst: 5 });
        assert_eq!(taken(&rates, "web", SECOND, 20), 5);
        assert_eq!(taken(&rates, "web", SECOND + 99_999, 20), 0, "a microsecond early");
        assert_eq!(taken(&rates, "web", SECOND + 100_000, 20), 1);
        let wait = rates.take("web", false, Monotonic(SECOND + 150_000)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(50));
        assert_eq!(taken(&rates, "web", 100 * SECOND, 20), 5, "never more than the burst");
        let steady: usize = (0..100).map(|i| taken(&rates, "app", i * 50_000, 1)).sum();
        assert_eq!(steady, 5 + 49, "twice the rate for five seconds: the burst, and then the rate");
    }

    #[test]
    fn callers_and_their_heartbeats_have_buckets_of_their_own() {
        let rates = Rates::new(Rate { per_second: 1, burst: 1 });
        for caller in ["web", "app", ""] {
            assert_eq!(taken(&rates, caller, SECOND, 3), 1, "{caller}");
            assert!(rates.take(caller, true, Monotonic(SECOND)).is_ok());
            assert!(rates.take(caller, true, Monotonic(SECOND)).is_err());
        }
    }

    #[test]
    fn names_without_end_take_memory_with_an_end_and_known_callers_keep_theirs() {
        let rates = Rates::new(Rate { per_second: 1, burst: 2 });
        assert_eq!(taken(&rates, "web", SECOND, 3), 2);
        for name in 0..200_000 {
            let _ = rates.take(&format!("liar-{name}"), false, Monotonic(SECOND));
        }
        let most = SHARDS * (CALLERS_MAX + 1);
        assert!(rates.callers() <= most, "{}", rates.callers());
        assert_eq!(taken(&rates, "web", SECOND, 3), 0, "its bucket is still empty");
        // Whoever finds no room shares one bucket: it is empty by now.
        assert_eq!(taken(&rates, "late", SECOND, 3), 0);
        // When the others' buckets are full again, they make room.
        assert_eq!(taken(&rates, "late", 10 * SECOND, 3), 2);
        assert!(rates.callers() < most);
    }
}
