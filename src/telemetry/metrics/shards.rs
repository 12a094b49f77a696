//! Counting by many threads at once: each counts for itself, and who reads adds up.
//!
//! One number that all threads add to goes from core to core with every request, which costs several times what the
//! addition does. So a series that every request moves has a few numbers, and each thread always moves the same one of
//! them. Nothing is lost or rounded: their sum is what one number would have been. Callers: [`super::source`], which
//! hands these out as the handles that everybody knows.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use ::metrics::{CounterFn, HistogramFn};

/// Numbers of a series. Two threads may share one, which is right all the same: this is built for few cores.
const SHARDS: usize = 4;

thread_local! {
    /// Which of them this thread moves.
    static MINE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed) % SHARDS
    };
}

/// A number in a line of memory of its own (two lines, which processors fetch together).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// A counter.
#[derive(Debug, Default)]
pub(super) struct Tally([Apart<AtomicU64>; SHARDS]);

impl Tally {
    /// What was counted.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|part| part.0.load(Relaxed)).sum()
    }

    fn mine(&self) -> &AtomicU64 {
        &self.0[MINE.with(|mine| *mine)].0
    }
}

impl CounterFn for Tally {
    fn increment(&self, value: u64) {
        self.mine().fetch_add(value, Relaxed);
    }

    fn absolute(&self, value: u64) {
        // What is counted elsewhere is counted by one thread alone.
        self.mine().fetch_add(value.saturating_sub(self.sum()), Relaxed);
    }
}

/// A histogram with fixed buckets.
#[derive(Debug)]
pub(super) struct Buckets {
    bounds: &'static [f64],
    parts: [Apart<Part>; SHARDS],
}

#[derive(Debug)]
struct Part {
    /// One more than there are bounds: for what is above all of them.
    counts: Box<[AtomicU64]>,
    /// The bits of a number.
    sum: AtomicU64,
}

/// What a histogram shows at one time.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    /// Each bound with the number of observations that are not above it.
    pub(super) below: Vec<(f64, u64)>,
    /// All observations.
    pub(super) count: u64,
    /// Their sum.
    pub(super) sum: f64,
}

impl Buckets {
    /// An empty histogram with these upper bounds, which ascend.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let part = |_| {
            let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
            Apart(Part { counts, sum: AtomicU64::new(0.0_f64.to_bits()) })
        };
        Self { bounds, parts: std::array::from_fn(part) }
    }

    /// What was observed. The count is that of the buckets, also while others observe.
    pub(super) fn show(&self) -> Shown {
        let count_of = |place: usize| -> u64 {
            self.parts.iter().map(|part| part.0.counts[place].load(Relaxed)).sum()
        };
        let mut count = 0;
        let mut below = Vec::with_capacity(self.bounds.len());
        for (place, bound) in self.bounds.iter().enumerate() {
            count += count_of(place);
            below.push((*bound, count));
        }
        count += count_of(self.bounds.len());
        let sum = self.parts.iter().map(|part| f64::from_bits(part.0.sum.load(Relaxed))).sum();
        Shown { below, count, sum }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        // What is no number is no observation: it would make the sum one that says nothing for ever.
        if value.is_nan() {
            return;
        }
        let Part { counts, sum } = &self.parts[MINE.with(|mine| *mine)].0;
        let place = self.bounds.partition_point(|bound| *bound < value);
        counts[place].fetch_add(1, Relaxed);
        let more = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        // It never refuses.
        let _ = sum.fetch_update(Relaxed, Relaxed, more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
        let (tally, buckets) = (Tally::default(), Buckets::new(&[1.0, 2.0]));
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for value in [0.5, 1.0, 1.5, 3.0] {
                        tally.increment(2);
                        buckets.record(value);
                    }
                });
            }
        });
        assert_eq!(tally.sum(), 64);
        let below = vec![(1.0, 16), (2.0, 24)];
        assert_eq!(buckets.show(), Shown { below, count: 32, sum: 48.0 });
        buckets.record(f64::NAN);
        assert_eq!(buckets.show().count, 32);
        tally.absolute(70);
        tally.absolute(66);
        assert_eq!(tally.sum(), 70, "never back");
    }
}
