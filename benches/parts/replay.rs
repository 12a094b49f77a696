//! Replay: reading the log back and folding it, beside a bare SELECT that reads and decodes the same rows. The
//! ratio of the two is printed; the goal is at least half.

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rollcall::domain::{Registry, fold, invariants};
use rollcall::log::ChangeLog as _;
use rollcall::log::sqlite::SqliteLog;

use crate::append::{directory, open};
use crate::history;
use crate::plain::select;

/// Changes in the log that is replayed.
const CHANGES: usize = 100_000;

/// Changes that the registrar reads at once when it replays.
const CHUNK: usize = 8_192;

/// Pairs measured for the ratio.
const PAIRS: usize = 5;

pub(crate) fn bench(criterion: &mut Criterion) {
    let dir = directory();
    let mut log = open(dir.path());
    for batch in history::random(4, CHANGES).chunks(1_024) {
        let expected = log.head();
        let _ = log.append(expected, batch).expect("the disk has room");
    }
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10).throughput(Throughput::Elements(CHANGES as u64));
    let mut selected = false;
    group.bench_function("read, check and fold", |bencher| {
        selected = true;
        bencher.iter(|| black_box(replay(&mut log)));
    });
    group.bench_function("bare SELECT and decode", |bencher| {
        selected = true;
        bencher.iter(|| black_box(select(dir.path())));
    });
    group.finish();
    if selected && std::env::args().any(|argument| argument == "--bench") {
        print_ratio(&mut log, dir.path());
    }
}

/// What the registrar does at its start, without publishing.
fn replay(log: &mut SqliteLog) -> Registry {
    let mut registry = Registry::default();
    loop {
        let changes = log.read(registry.head().next(), CHUNK).expect("the log is whole");
        if changes.is_empty() {
            return registry;
        }
        for change in &changes {
            invariants::check_change(&registry, change).expect("the history follows the rules");
            drop(fold(&mut registry, change));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    black_box(work());
    started.elapsed()
}

/// Measures the two in turn, so that a noisy machine disturbs both.
fn print_ratio(log: &mut SqliteLog, dir: &Path) {
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|_| {
            let bare = timed(|| select(dir));
            bare.as_secs_f64() / timed(|| replay(log)).as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let mut out = std::io::stdout();
    // Where nobody reads, nothing is lost.
    let _ = writeln!(
        out,
        "replay reaches {:.0} % of the rate of the bare SELECT ({:.0} to {:.0} % in {PAIRS} pairs; goal 50 %)\n",
        ratios[PAIRS / 2] * 100.0,
        ratios[0] * 100.0,
        ratios[PAIRS - 1] * 100.0,
    );
}
