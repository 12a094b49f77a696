//! Appending: the log beside plain SQLite, which inserts the same rows into the same table with one prepared
//! statement, in transactions of the same size and at the same level of synchronisation.

use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use rollcall::domain::Seq;
use rollcall::log::codec::{self, Row};
use rollcall::log::sqlite::{SqliteLog, Synchronous};
use rollcall::log::{ChangeLog as _, TrafficLog as _};
use tempfile::TempDir;

use crate::history;
use crate::plain::{self, NODE, Plain};

/// Sizes of a group commit.
const BATCHES: [usize; 4] = [1, 16, 128, 1_024];

/// How long each of them is measured for.
const MEASURED: Duration = Duration::from_secs(3);

/// A directory on the disk that the build is on: a temporary folder may be in memory, where a sync costs nothing.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's folder can be written")
}

pub(crate) fn open(dir: &Path) -> SqliteLog {
    plain::open(dir, Synchronous::Full)
}

pub(crate) fn changes(criterion: &mut Criterion) {
    let changes = history::random(2, BATCHES[BATCHES.len() - 1]);
    let mut group = criterion.benchmark_group("append changes, synced");
    // A sync can take milliseconds, and a bench of a hundred samples a good part of an hour.
    group.sample_size(20).measurement_time(MEASURED);
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        let changes = &changes[..batch];
        group.bench_function(BenchmarkId::new("log", batch), |bencher| {
            let dir = directory();
            let mut log = open(dir.path());
            let mut head = Seq::ZERO;
            bencher.iter_batched_ref(
                || {
                    let batch = history::renumbered(changes, head);
                    head = Seq(head.0 + changes.len() as u64);
                    batch
                },
                |batch| {
                    let expected = log.head();
                    log.append(expected, batch).expect("the disk has room")
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("plain SQLite", batch), |bencher| {
            let dir = directory();
            let mut plain = Plain::open(dir.path(), Synchronous::Full);
            let mut head = Seq::ZERO;
            bencher.iter_batched_ref(
                || {
                    let batch = history::renumbered(changes, head);
                    head = Seq(head.0 + changes.len() as u64);
                    batch.iter().map(|change| codec::encode(change, NODE)).collect::<Vec<Row>>()
                },
                |rows| plain.insert(rows).expect("the disk has room"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Traffic goes to the disk in blocks; it is measured in the slices in which the registrar hands it over.
pub(crate) fn traffic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append traffic");
    group.sample_size(20).measurement_time(MEASURED);
    for slice in [64, 512, 4_096] {
        let events = history::traffic(3, slice);
        group.throughput(Throughput::Elements(slice as u64));
        group.bench_function(BenchmarkId::new("log", slice), |bencher| {
            let dir = directory();
            let mut log = open(dir.path());
            bencher.iter(|| log.append_traffic(&events).expect("the disk has room"));
        });
    }
    group.finish();
}
