//! Search: a page of 100 events for each filter alone, a trace, all traffic of a rare service, counts of a day; in a
//! log of `ROLLCALL_BENCH_EVENTS` events (10,000,000 for the figures of `benches/README.md`), one in twenty a change.

use std::cell::OnceCell;
use std::hint::black_box;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use rollcall::domain::event::Kind;
use rollcall::domain::traffic::{CloseReason, Detail, Traffic};
use rollcall::domain::{Change, InstanceId, Namespace, Seq, ServiceName, Timestamp, TraceRef};
use rollcall::history::{Archive as _, EventQuery, Moment, Order, TrafficQuery};
use rollcall::log::sqlite::{FILE, SqliteArchive, SqliteLog, Synchronous, derive_all};
use rollcall::log::{ChangeLog as _, Log as _, TrafficLog as _};
use tempfile::TempDir;

use crate::append::directory;
use crate::history;

/// Events in the log, if nothing else is asked for.
const EVENTS: usize = 200_000;

/// One in so many is a change.
const CHANGES: usize = 20;

/// Lookups of the rare service.
const RARE: usize = 1_000;

/// Different lookups in a minute of the day that is counted.
const EDGES: usize = 500;

/// A trace of one event in the middle of the log.
const TRACE: [u8; 16] = [0x5C; 16];

/// A log, as long as it is needed.
struct Log {
    archive: SqliteArchive,
    /// When its event in the middle happened.
    middle: Timestamp,
    _dir: TempDir,
}

/// What this thread has taken of the processor, in microseconds: the wall clock also counts what others do meanwhile.
/// Nothing where the system does not say.
fn processor_time() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
    nanos.unwrap_or(0.0) / 1e3
}

fn open(dir: &TempDir) -> SqliteLog {
    SqliteLog::open(dir.path(), Synchronous::Normal, "bench").expect("a new log opens")
}

/// Derives everything, and says what that costs.
fn derive(dir: &TempDir, events: usize) {
    let before = processor_time();
    derive_all(dir.path()).expect("the log can be written");
    let took = processor_time() - before;
    let bytes = std::fs::metadata(dir.path().join(FILE)).map_or(0, |file| file.len());
    let mut out = std::io::stdout();
    // Where nobody reads, nothing is lost.
    let _ = writeln!(
        out,
        "{events} events, {} MB: deriving took {:.3} us of the processor for each",
        bytes / 1_000_000,
        took / events as f64,
    );
}

/// Random traffic of many services and callers, with a few events that are rare.
fn build(events: usize) -> Log {
    const CHUNK: usize = 65_536;
    let dir = directory();
    let mut log = open(&dir);
    let mut seen = Seq::ZERO;
    for batch in history::random(11, events / CHANGES).chunks(1_024) {
        let batch: Vec<Arc<Change>> = batch.to_vec();
        seen = log.append(log.head(), &batch).expect("the disk has room").last;
    }
    let traffic = events - events / CHANGES;
    let every = (traffic / RARE).max(1);
    let began = log.last_at().map_or(0, |at| at.0);
    let (mut number, mut at) = (0, began);
    while number < traffic {
        let mut chunk = history::traffic(number as u64, CHUNK.min(traffic - number));
        let begin = chunk.first().map_or(0, |event| event.at.0);
        for event in &mut chunk {
            number += 1;
            // One after the other, 10,000 in a second.
            event.at.0 = at + (event.at.0 - begin) * 5;
            settle(event, seen.0 * number as u64 / traffic as u64);
            if number % every == 0 {
                event.service = ServiceName::new("rare").ok();
            }
            if number == traffic / 2 {
                event.caller = "once".into();
                event.instance = InstanceId::new("once").ok();
                event.namespace = Namespace::new("once").ok();
                event.trace = TraceRef { trace_id: TRACE, span_id: [1; 8] };
            }
            if number % 100_000 == 1 {
                let (filter, through) = ("".into(), Seq(1));
                event.detail = Detail::WatchClosed { filter, through, reason: CloseReason::Left };
            }
        }
        at = chunk.last().map_or(at, |event| event.at.0);
        log.append_traffic(&chunk).expect("the disk has room");
    }
    drop(log);
    derive(&dir, events);
    let archive = SqliteArchive::open(&dir.path().join(FILE)).expect("the log opens");
    Log { archive, middle: Timestamp(began + (at - began) / 2), _dir: dir }
}

/// As it is most of the time: who lives has lived for long, and a service changes now and then, not with every lookup.
fn settle(event: &mut Traffic, version: u64) {
    event.seen = Seq(version);
    let version = Seq(version / 10_000 * 10_000 + 1);
    match &mut event.detail {
        Detail::Heartbeat { incarnation, .. } => *incarnation = Seq(1),
        Detail::Lookup { revision, .. } => *revision = version,
        Detail::WatchOpened { .. } | Detail::WatchClosed { .. } | Detail::Notified { .. } => {}
    }
}

/// A day in which each minute has the same callers, each of one service: what a reader of the counts has to add up
/// is the same for a million lookups and for a hundred.
fn build_day() -> Log {
    let dir = directory();
    let mut log = open(&dir);
    let begin = 1_795_248_000_000_000 / 60_000_000 * 60_000_000;
    let first = history::traffic(1, 1).remove(0);
    for minute in 0..=24 * 60 {
        let event = |edge: usize| Traffic {
            at: Timestamp(begin + minute * 60_000_000 + edge as i64 * 100_000),
            instance: None,
            service: ServiceName::new(&format!("service-{:03}", edge % 100)).ok(),
            caller: format!("caller-{:03}", edge / 5).into(),
            detail: Detail::Lookup {
                filter: "".into(),
                revision: Seq(1_000_000 + edge as u64),
                returned: 3,
                status: 200,
                held: None,
                baggage: None,
            },
            ..first.clone()
        };
        let minute: Vec<Traffic> = (0..EDGES).map(event).collect();
        log.append_traffic(&minute).expect("the disk has room");
    }
    drop(log);
    derive(&dir, (24 * 60 + 1) * EDGES);
    let archive = SqliteArchive::open(&dir.path().join(FILE)).expect("the log opens");
    Log { archive, middle: Timestamp(begin), _dir: dir }
}

/// The filters, each alone: common ones, rare ones, and what is not there at all.
fn filters(middle: Timestamp) -> Vec<(&'static str, EventQuery)> {
    let none = || EventQuery { limit: 100, ..EventQuery::default() };
    let trace = |trace_id| EventQuery { trace_id: Some(trace_id), ..none() };
    let caller = |caller: &str| EventQuery { caller: Some(caller.into()), ..none() };
    let service = |name| EventQuery { service: ServiceName::new(name).ok(), ..none() };
    let kind = |kind| EventQuery { kind: Some(kind), ..none() };
    vec![
        ("no filter", none()),
        ("trace_id, once", trace(TRACE)),
        ("trace_id, unknown", trace([0x77; 16])),
        ("service, common", service("service-0007")),
        ("service, 1000 events", service("rare")),
        ("service, unknown", service("nowhere")),
        ("instance, once", EventQuery { instance: InstanceId::new("once").ok(), ..none() }),
        ("namespace, once", EventQuery { namespace: Namespace::new("once").ok(), ..none() }),
        ("caller, common", caller("caller-3")),
        ("caller, once", caller("once")),
        ("caller, unknown", caller("nobody")),
        ("kind, common", kind(Kind::Lookup)),
        ("kind, rare", kind(Kind::WatchClosed)),
        ("kind, none", kind(Kind::LogGap)),
        ("since, middle", EventQuery { since: Some(Moment::At(middle)), ..none() }),
        (
            "until, middle, newest first",
            EventQuery { until: Some(Moment::At(middle)), order: Order::Descending, ..none() },
        ),
        ("since, a version", EventQuery { since: Some(Moment::Version(Seq(5_000))), ..none() }),
    ]
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let asked = std::env::var("ROLLCALL_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let events = asked.unwrap_or(EVENTS);
    let log = OnceCell::new();
    let log = || log.get_or_init(|| build(events));
    let mut group = criterion.benchmark_group("search");
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, _) in filters(Timestamp::default()) {
        group.bench_function(name, |bencher| {
            let log = log();
            let mut filters = filters(log.middle).into_iter();
            let query = filters.find(|(known, _)| *known == name).map(|(_, query)| query);
            let query = query.unwrap_or_default();
            bencher.iter(|| black_box(log.archive.events(&query).expect("the log is whole")));
        });
    }
    group.bench_function("all traffic of a service, 1000 events", |bencher| {
        let query =
            TrafficQuery { service: ServiceName::new("rare").ok(), ..TrafficQuery::default() };
        bencher.iter(|| {
            let mut count = 0;
            let missing = log().archive.traffic(&query, &mut |_| {
                count += 1;
                ControlFlow::Continue(())
            });
            (count, missing.expect("the log is whole"))
        });
    });
    let day = OnceCell::new();
    group.bench_function("lookups of a day, 500 edges a minute", |bencher| {
        let day = day.get_or_init(build_day);
        bencher.iter(|| {
            let mut sum = 0;
            let counted = day.archive.lookup_counts(&TrafficQuery::default(), &mut |count| {
                sum += count.count;
                ControlFlow::Continue(())
            });
            (sum, counted.expect("the log is whole"))
        });
    });
    group.finish();
}
