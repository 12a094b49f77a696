//! What a load has seen so far: latencies by kind of request, refusals, failures. Written by all connections at once,
//! read while they go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::Plan;
use super::work::Kind;

/// Connections share that many sets of histograms: one for each would take much memory, one for all would be fought for.
const SHARDS_MAX: usize = 16;
/// What is told apart at the fast end, in nanoseconds; three digits are kept everywhere.
const LOWEST: u64 = 1_000;
/// Longer than any request may take.
const HIGHEST: u64 = 120_000_000_000;
const DIGITS: u8 = 3;

type Latencies = [Option<Histogram<u64>>; Kind::ALL.len()];

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    shards: Vec<Mutex<Latencies>>,
    /// By kind: refused by which status, and how often.
    refused: Mutex<[BTreeMap<u16, u64>; Kind::ALL.len()]>,
    failed: [AtomicU64; Kind::ALL.len()],
    unsent: AtomicU64,
}

/// What became of the requests of one kind.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) kind: Kind,
    /// Those that were answered, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) refused: BTreeMap<u16, u64>,
    pub(super) failed: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS).expect("the bounds are in order")
}

impl Seen {
    /// Nothing yet.
    pub(super) fn of(plan: &Plan) -> Self {
        let latencies = || {
            let kinds = plan.work.kinds();
            Mutex::new(Kind::ALL.map(|kind| kinds.contains(&kind).then(histogram)))
        };
        Self {
            shards: (0..plan.connections.min(SHARDS_MAX)).map(|_| latencies()).collect(),
            refused: Mutex::default(),
            failed: Default::default(),
            unsent: AtomicU64::new(0),
        }
    }

    /// A request was done; `latency` is none where it does not count.
    pub(super) fn answered(&self, connection: usize, kind: Kind, latency: Option<Duration>) {
        let Some(latency) = latency else { return };
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(HIGHEST);
        let mut shard = self.shards[connection % self.shards.len()].lock();
        if let Some(latencies) = &mut shard[kind.index()] {
            latencies.saturating_record(nanos);
        }
    }

    /// A request was answered that it is not done.
    pub(super) fn refused(&self, kind: Kind, status: u16) {
        *self.refused.lock()[kind.index()].entry(status).or_default() += 1;
    }

    /// A request was not answered.
    pub(super) fn failed(&self, kind: Kind) {
        self.failed[kind.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// A request was due and never sent, because the load ended.
    pub(super) fn unsent(&self) {
        self.unsent.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were due and never sent.
    pub(super) fn unsent_count(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    /// What became of the requests of these kinds so far.
    pub(super) fn outcomes(&self, kinds: &[Kind]) -> Vec<Outcome> {
        let outcome = |kind: Kind| {
            let mut all = histogram();
            for shard in &self.shards {
                if let Some(latencies) = &shard.lock()[kind.index()] {
                    all.add(latencies).expect("all have the same bounds");
                }
            }
            Outcome {
                kind,
                latencies: all,
                refused: self.refused.lock()[kind.index()].clone(),
                failed: self.failed[kind.index()].load(Ordering::Relaxed),
            }
        };
        kinds.iter().copied().map(outcome).collect()
    }
}
