//! What the guard against mass expiry costs: nothing per heartbeat, which only renews the word of its lease; and
//! little per change of a lease's standing, which is as rare as a late heartbeat.

use std::hint::black_box;

use criterion::Criterion;
use rollcall::clock::Monotonic;
use rollcall::domain::{Millis, Seq, ServiceKey, Timestamp, TraceRef};
use rollcall::lease::Lease;
use rollcall::lease::guard::{Guard, Policy, Sentence, Standing};

use crate::history;

/// Instances that the guard counts, and over how many services.
const LIVING: u64 = 100_000;
const SERVICES: usize = 1_000;

const TTL: Millis = Millis::from_millis(15_000);

fn standing(incarnation: u64, late: bool) -> Standing {
    Standing { incarnation: Seq(incarnation), ttl: TTL, late }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("guard");
    let services: Vec<ServiceKey> = (0..SERVICES).map(history::service).collect();
    let service =
        |number: u64| &services[usize::try_from(number).expect("a small number") % SERVICES];
    let mut guard = Guard::new(Policy::default());
    for number in 0..LIVING {
        guard.shift(service(number), None, Some(standing(number, false)));
    }

    let trace = TraceRef { trace_id: [1; 16], span_id: [1; 8] };
    let lease = Lease::granted(Some(TTL), Monotonic(1_000_000), trace);
    let mut now = 1_000_000;
    group.bench_function("a heartbeat in time: the lease's word, and no guard", |bencher| {
        bencher.iter(|| {
            now += 1;
            black_box(lease.renew(Monotonic(now), Timestamp(1)).is_ok())
        });
    });
    let mut number = 0;
    group.bench_function("a heartbeat of one that was late: counted late, and back", |bencher| {
        bencher.iter(|| {
            number = (number + 7_919) % LIVING;
            let (fresh, late) = (standing(number, false), standing(number, true));
            guard.shift(service(number), Some(fresh), Some(late));
            guard.shift(service(number), Some(late), Some(fresh));
        });
    });
    let mut now = Monotonic(1_000_000);
    group.bench_function("an expiry: asked for, judged, counted", |bencher| {
        bencher.iter(|| {
            number = (number + 7_919) % LIVING;
            now = now.plus(TTL);
            let (service, late) = (service(number), standing(number, true));
            guard.shift(service, Some(standing(number, false)), Some(late));
            assert!(guard.to_enter([(service, 0)], now).is_empty(), "one of a hundred");
            let sentence = guard.judge(service, Seq(number), TTL, now);
            assert_eq!(sentence, Sentence::Expires(None));
            guard.shift(service, Some(late), None);
            guard.expired(service, TTL, now);
            // Another one takes its place.
            guard.shift(service, None, Some(standing(number, false)));
        });
    });
    group.finish();
}
