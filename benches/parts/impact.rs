//! Who was handed a dead instance, and who looks up whom: over a day of lookups of which a thousand match. How many
//! there are says `ROLLCALL_BENCH_EVENTS`; the goals are for 10,000,000.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use rollcall::domain::command::{Precondition, Register};
use rollcall::domain::event::{Arithmetic, HeartbeatRef, Overdue};
use rollcall::domain::instance::{Endpoint, Metadata};
use rollcall::domain::traffic::{Detail, Traffic};
use rollcall::domain::{
    Change, Command, Detector, InstanceId, InstanceKey, Millis, Namespace, Registry, Seq,
    ServiceKey, Timestamp, TraceRef, decide, fold,
};
use rollcall::history::graph::{self, Question};
use rollcall::history::impact::{self, Target};
use rollcall::history::{Archive as _, Moment, TrafficQuery};
use rollcall::log::sqlite::{FILE, SqliteArchive, SqliteLog, derive_all};
use rollcall::log::{ChangeLog as _, TrafficLog as _};

use crate::append::{directory, open};
use crate::history::{SERVICES, service};

/// Lookups, if nothing is said.
const EVENTS: usize = 100_000;

/// Those that handed out the dead instance.
const MATCHES: usize = 1_000;

/// Callers of each service.
const CALLERS: usize = 5;

/// Events that are handed to the log at once.
const SLICE: usize = 4_096;

/// A day in microseconds.
const DAY: i64 = 86_400_000_000;

/// When the day begins: 2026-11-19T00:00:00Z.
const BEGIN: i64 = 1_795_046_400_000_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    let given = std::env::var("ROLLCALL_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let events: usize = given.unwrap_or(EVENTS).max(2 * MATCHES);
    let mut group = criterion.benchmark_group("past");
    group.sample_size(10).throughput(Throughput::Elements(events as u64));
    // The log is made when the first bench is really asked for.
    let mut made = None;
    group.bench_function("impact, 1000 matches", |bencher| {
        let (_, archive, key) = made.get_or_insert_with(|| day(events));
        let target = Target::Newest(key.clone());
        bencher.iter(|| {
            let impact = impact::impact(archive, &target, MATCHES).expect("the log is whole");
            let impact = impact.expect("it has left");
            assert_eq!(impact.callers.iter().map(|c| c.lookups).sum::<u64>(), MATCHES as u64);
            black_box(impact);
        });
    });
    group.bench_function("graph of a day", |bencher| {
        let (_, archive, _) = made.get_or_insert_with(|| day(events));
        let at = |micros| Moment::At(Timestamp(micros));
        let (since, until) = (at(BEGIN), at(BEGIN + DAY));
        let question = Question { since, until, namespace: None };
        bencher.iter(|| {
            let graph = graph::graph(archive, &question, &|_| true).expect("the log is whole");
            assert_eq!(graph.edges.iter().map(|e| e.lookups).sum::<u64>(), events as u64);
            black_box(graph);
        });
    });
    group.bench_function("reading all events, for comparison", |bencher| {
        let (_, archive, _) = made.get_or_insert_with(|| day(events));
        bencher.iter(|| {
            let mut count = 0_usize;
            let count_it = &mut |_| {
                count += 1;
                ControlFlow::Continue(())
            };
            archive.traffic(&TrafficQuery::default(), count_it).expect("the log is whole");
            black_box(count)
        });
    });
    group.finish();
}

fn key(service: ServiceKey, instance: &str) -> InstanceKey {
    InstanceKey { service, instance: InstanceId::new(instance).expect("a legal name") }
}

/// A log in which one instance beats once in the morning and expires in the evening. In between, `events` lookups go to
/// all services, a thousand of them to that one.
fn day(events: usize) -> (tempfile::TempDir, SqliteArchive, InstanceKey) {
    let dir = directory();
    let mut log = open(dir.path());
    let mut registry = Registry::default();
    let dead = key(service(0), "one");
    for number in 0..SERVICES {
        let register = Command::Register(Register {
            key: key(service(number), "one"),
            endpoint: Endpoint { address: "10.0.0.1".into(), port: 80, protocol: "http".into() },
            version: None,
            zone: None,
            weight: None,
            tags: Box::default(),
            metadata: Metadata::default(),
            mode: None,
            ttl: Some(Millis::from_millis(15_000)),
            detector: Detector::Fixed,
            check: None,
            precondition: Precondition::None,
        });
        change(&mut log, &mut registry, &register, BEGIN);
    }
    let heartbeat = Traffic {
        instance: Some(dead.instance.clone()),
        detail: Detail::Heartbeat {
            incarnation: Seq(1),
            load: None,
            health: None,
            note: None,
            baggage: None,
        },
        ..lookup(&registry, 0, 0, BEGIN)
    };
    log.append_traffic(std::slice::from_ref(&heartbeat)).expect("the disk has room");
    let mut slice = Vec::with_capacity(SLICE);
    let (mut matches, step) = (0, DAY / i64::try_from(events).expect("a number of events"));
    for number in 0..events {
        let due = number * MATCHES / events >= matches && matches < MATCHES;
        matches += usize::from(due);
        let of = if due { 0 } else { 1 + number % (SERVICES - 1) };
        let at = BEGIN + step * i64::try_from(number).expect("a number of events");
        slice.push(lookup(&registry, of, number, at));
        if slice.len() == SLICE || number + 1 == events {
            log.append_traffic(&slice).expect("the disk has room");
            slice.clear();
        }
    }
    let ttl = Millis::from_millis(15_000);
    let last_heartbeat = Some(HeartbeatRef { at: heartbeat.at, id: 1, trace: heartbeat.trace });
    let (gap, late, grace) = (ttl, Millis::ZERO, Millis::ZERO);
    let arithmetic = Arithmetic { last_heartbeat, ttl, gap, missed: 4, late, grace, accrual: None };
    let expire = Overdue { key: dead.clone(), incarnation: Seq(1), arithmetic, cause: None };
    change(&mut log, &mut registry, &Command::Expire(expire), BEGIN + DAY);
    drop(log);
    // As it is beside a running registry, whose keeper derives within moments.
    derive_all(dir.path()).expect("the log can be written");
    let archive = SqliteArchive::open(&dir.path().join(FILE)).expect("the log opens");
    (dir, archive, dead)
}

fn change(log: &mut SqliteLog, registry: &mut Registry, command: &Command, at: i64) {
    let at = Timestamp(at);
    let decision = decide(registry, command, at).expect("accepted").expect("a change");
    let change = decision.into_change(registry, at, None, trace(registry.head().0 + 1));
    // Nothing here is ever taken back.
    drop(fold(registry, &change));
    let batch: [Arc<Change>; 1] = [Arc::new(change)];
    let expected = log.head();
    let _ = log.append(expected, &batch).expect("the disk has room");
}

fn trace(number: u64) -> TraceRef {
    let mut trace_id = [7; 16];
    trace_id[8..].copy_from_slice(&number.to_be_bytes());
    TraceRef { trace_id, span_id: number.to_be_bytes() }
}

fn lookup(registry: &Registry, of: usize, number: usize, at: i64) -> Traffic {
    let ServiceKey { namespace, service } = service(of);
    let key = ServiceKey { namespace: Namespace::clone(&namespace), service: service.clone() };
    let revision = registry.service(&key).map_or(Seq::ZERO, |service| service.revision);
    Traffic {
        at: Timestamp(at),
        seen: registry.head(),
        namespace: Some(namespace),
        service: Some(service),
        instance: None,
        caller: Arc::from(format!("caller-{}", (number / SERVICES) % CALLERS)),
        trace: trace(1 + number as u64),
        detail: Detail::Lookup {
            filter: "".into(),
            revision,
            returned: 1,
            status: 200,
            held: None,
            baggage: None,
        },
    }
}
