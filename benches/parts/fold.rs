//! Folding: what a change costs the state, in replay and in the live registry alike.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use rollcall::domain::{Registry, fold};

use crate::history;

/// Changes folded in one go.
const CHANGES: usize = 10_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    let changes = history::random(1, CHANGES);
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(CHANGES as u64));
    group.bench_function("random changes", |bencher| {
        bencher.iter_batched_ref(
            Registry::default,
            |registry| {
                for change in &changes {
                    drop(fold(registry, black_box(change)));
                }
            },
            BatchSize::LargeInput,
        );
    });
    // A failed append takes its folds back: that must not cost more than they did.
    group.bench_function("random changes and back", |bencher| {
        bencher.iter_batched_ref(
            Registry::default,
            |registry| {
                let before: Vec<_> = changes.iter().map(|change| fold(registry, change)).collect();
                for image in before.into_iter().rev() {
                    registry.undo(image);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
