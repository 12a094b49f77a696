//! The detectors over recorded gaps (a table, see `docs/DETECTORS.md`), and what a heartbeat costs under each.

mod table;

use std::hint::black_box;
use std::path::Path;

use criterion::Criterion;
use rollcall::clock::Monotonic;
use rollcall::domain::{Detector, Millis, Timestamp, TraceRef};
use rollcall::lease::Lease;

use table::{Judge, Series};

const NAME: &str = "detectors";

pub(crate) fn bench(criterion: &mut Criterion) {
    print();
    let mut group = criterion.benchmark_group(NAME);
    for (name, detector) in
        [("renew a lease, fixed", Detector::Fixed), ("renew a lease, phi", Detector::PHI)]
    {
        let mut now = Monotonic(0);
        let ttl = Some(Millis::from_millis(15_000));
        let lease = Lease::granted(ttl, now, TraceRef::default()).judged_by(detector);
        let mut beat = || {
            now = now.plus(Millis::from_millis(3_700 + now.0 % 100));
            lease.renew(now, Timestamp(1))
        };
        // A full window is the usual one.
        for _ in 0..200 {
            beat().expect("nobody marks it");
        }
        group.bench_function(name, |bench| bench.iter(|| black_box(beat())));
    }
    group.finish();
}

#[expect(clippy::print_stdout, reason = "the table is what this is run for")]
fn print() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = arguments.iter().all(|one| one.starts_with('-') || NAME.contains(one.as_str()));
    // Cargo tests benches by running them without this.
    if !is_wanted || !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let series = Series::all(Path::new(env!("CARGO_MANIFEST_DIR")));
    for one in &series {
        println!("{}: {}", one.name, one.recipe);
    }
    for (judges, seconds) in [(Judge::all(), 15), (Judge::usual(), 6)] {
        let table = table::table(&series, &judges, Millis::from_millis(seconds * 1_000));
        println!("\nttl {seconds} s\n\n{table}");
    }
}
