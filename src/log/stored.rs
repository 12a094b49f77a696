//! Tests of what stands on the disk: rows of the past decode for ever, blocks give back what they took, and
//! nothing that a file can hold makes a panic.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::blocks::{self, BLOCK, Block, NUMBERS};
use super::codec::{self, DecodeError, FORMAT, Row};
use super::columns::{Columns, Parsed};
use super::record;
use crate::clock::Monotonic;
use crate::domain::check::{Check, CheckKind, CheckMethod};
use crate::domain::event::{
    Accrual, Arithmetic, Class, Compacted, Event, GuardEnd, GuardEntered, GuardInputs, GuardLeft,
    HeartbeatRef, Kind, LogGap, Note, Outcome, Recovered, StatusReason,
};
use crate::domain::health::{Evidence, Flaps, ProbeOutcome, ProbeVerdict};
use crate::domain::instance::{Endpoint, Health};
use crate::domain::invariants::check_change;
use crate::domain::{
    Baggage, Change, Detector, Instance, InstanceKey, Labels, Millis, Mode, Registry, Seq, Signals,
    Status, Timestamp, fold,
};
use crate::lease::Lease;
use crate::testing::traffic::{as_digits, baggage, traffic};
use crate::testing::{START, cases, key_in, metadata, trace};

/// Rows as format 1 wrote them. Never edited; a new format gets a file of its own.
const PAYLOADS_V1: &str = include_str!("../../tests/fixtures/payloads_v1.jsonl");
/// Rows of what came with format 2.
const PAYLOADS_V2: &str = include_str!("../../tests/fixtures/payloads_v2.jsonl");
/// Rows of both, of requests that brought baggage along, as format 3 wrote them.
const PAYLOADS_V3: &str = include_str!("../../tests/fixtures/payloads_v3.jsonl");
/// Blocks of traffic as they were written until schema 4, each with its events as the API showed them. Never edited.
const BLOCKS_V1: &str = include_str!("../../tests/fixtures/blocks_v1.jsonl");

fn subject() -> InstanceKey {
    key_in("staging", "orders", "a-1")
}

fn full() -> Instance {
    Instance {
        key: subject(),
        incarnation: Seq(1),
        endpoint: Endpoint { address: "fe80::7".into(), port: 65_535, protocol: "grpc".into() },
        labels: Labels::new(
            Some("1.2 \"beta\" 🦀"),
            Some("eu-1"),
            &["blue", "a,b"],
            &metadata(&[("", "empty key"), ("team", "it's\\ours\n")]),
        ),
        weight: 0,
        mode: Mode::Standby,
        drain_until: None,
        status: Status::Failed,
        signals: Signals::implied_by(Status::Failed),
        ttl: Some(Millis::from_millis(1_500)),
        detector: Detector::Fixed,
        check: None,
        registered_at: Timestamp(START.0 + 1),
        revision: Seq(2),
    }
}

fn plain() -> Instance {
    Instance {
        labels: Labels::default(),
        status: Status::Healthy,
        signals: Signals::default(),
        ..full()
    }
}

/// An event of each kind, in each shape that it has, as the fixture holds them.
fn one_of_each() -> Vec<Event> {
    use Outcome::{Created, Replaced, Unchanged};
    let (key, millis) = (subject(), Millis::from_millis);
    let at = Timestamp(START.0 + 10);
    let last_heartbeat = Some(HeartbeatRef { at, id: 7_000_000_000, trace: trace(0xab) });
    let overdue = Arithmetic {
        last_heartbeat,
        ttl: millis(15_000),
        gap: millis(15_042),
        missed: 4,
        late: millis(42),
        grace: Millis::ZERO,
        accrual: None,
    };
    let never = Arithmetic { last_heartbeat: None, ..overdue };
    let status = |from, to, reason, health, overdue| {
        let key = subject();
        let signals = Signals::implied_by(to);
        Event::StatusChanged {
            key,
            from,
            to,
            signals,
            reason,
            health,
            overdue,
            probe: None,
            flaps: None,
        }
    };
    let registered =
        |outcome, instance| Event::Registered { outcome, instance: Arc::new(instance) };
    let updated = |outcome, fields| Event::Updated { outcome, fields, instance: Arc::new(full()) };
    let recovered = Recovered {
        changes: 1_000_000,
        traffic: 42,
        instances: 3,
        services: 2,
        took: millis(1_234),
        clean: true,
        traffic_missing_from: None,
        digest: 0xce6d_8595_3ae5_106a,
    };
    vec![
        registered(Created, plain()),
        registered(Replaced, full()),
        registered(Unchanged, full()),
        updated(Replaced, vec!["mode", "weight", "tags", "metadata"]),
        updated(Unchanged, vec![]),
        Event::ModeChanged {
            key: key.clone(),
            from: Mode::Active,
            to: Mode::Draining,
            until: None,
        },
        status(Status::Healthy, Status::Unstable, StatusReason::LateHeartbeat, None, Some(overdue)),
        status(
            Status::Unstable,
            Status::Failed,
            StatusReason::SelfReport,
            Some(Health::Failing),
            None,
        ),
        status(Status::Unstable, Status::Healthy, StatusReason::Recovery, None, None),
        Event::Deregistered { key: key.clone(), reason: Some("drained".into()) },
        Event::Deregistered { key: key.clone(), reason: None },
        Event::Expired { key: key.clone(), overdue },
        Event::Expired { key, overdue: never },
        Event::Note(Note::Started { version: "0.1.0".into(), node: "rollcall".into() }),
        Event::Note(Note::Recovered(recovered.clone())),
        Event::Note(Note::Recovered(Recovered {
            clean: false,
            traffic_missing_from: Some(at),
            digest: 1,
            ..recovered
        })),
        Event::Note(Note::LogGap(LogGap { from: START, until: at, lookups: 5, heartbeats: 6 })),
        Event::Note(Note::Checkpoint { digest: 1, instances: 3, services: 2 }),
        Event::Note(Note::Compacted(Compacted {
            class: Class::Traffic,
            first: 1,
            last: 512,
            from: START,
            until: Timestamp(START.0 + 10),
            bytes: 30_000,
        })),
    ]
}

/// What came with format 2, in each shape that it has.
fn one_of_each_since_checks() -> Vec<Event> {
    let (key, millis) = (subject(), Millis::from_millis);
    let check = Check {
        kind: CheckKind::Http,
        port: Some(8081),
        path: "/health".into(),
        method: CheckMethod::Head,
        expect: Some("all \"well\"".into()),
        service: "".into(),
        tls: true,
        interval: millis(10_000),
        timeout: millis(2_000),
        initial_delay: millis(500),
        failures: 3,
        passes: 2,
        deregister_after: Some(millis(3_600_000)),
        registered_from: Some([10, 0, 0, 7].into()),
    };
    let signals = Signals {
        late: true,
        reported_failing: false,
        probe: Some(ProbeVerdict::Failing),
        flapping: false,
    };
    let probed = Instance {
        ttl: None,
        detector: Detector::PHI,
        check: Some(Arc::new(check)),
        mode: Mode::Draining,
        drain_until: Some(Timestamp(START.0 + 30_000_000)),
        status: signals.status(),
        signals,
        ..full()
    };
    let evidence = Evidence {
        outcome: ProbeOutcome::Rejected,
        status: Some(503),
        latency: millis(17),
        error: Some("status 503".into()),
        in_a_row: 3,
    };
    let moved = |from: Status, signals: Signals, reason, probe, flaps| Event::StatusChanged {
        key: subject(),
        from,
        to: signals.status(),
        signals,
        reason,
        health: None,
        overdue: None,
        probe,
        flaps,
    };
    let flaps = Some(Flaps { changes: 6, window: millis(60_000) });
    let flapping = Signals { flapping: true, ..signals };
    let inputs = GuardInputs { late: 3, gone: 1, living: 5 };
    let over = Some(key.service.clone());
    let limit = millis(75_000);
    let accrual =
        Accrual { phi_milli: 41_312, threshold_milli: 8_500, mean_gap: Millis::from_millis(3_750) };
    let overdue = Arithmetic {
        last_heartbeat: None,
        ttl: millis(15_000),
        gap: millis(9_640),
        missed: 2,
        late: millis(12),
        grace: Millis::ZERO,
        accrual: Some(accrual),
    };
    let left = GuardLeft { over: None, inputs, end: GuardEnd::Elapsed, held_for: limit, held: 3 };
    vec![
        Event::Registered { outcome: Outcome::Replaced, instance: Arc::new(probed) },
        Event::ModeChanged { key, from: Mode::Active, to: Mode::Draining, until: Some(START) },
        moved(Status::Healthy, signals, StatusReason::Probe, Some(evidence), None),
        moved(Status::Failed, signals, StatusReason::Recovery, None, None),
        moved(Status::Failed, flapping, StatusReason::Flapping, None, flaps),
        moved(Status::Unstable, signals, StatusReason::Settled, None, flaps),
        Event::Note(Note::GuardEntered(GuardEntered { over: over.clone(), inputs, limit })),
        Event::Note(Note::GuardEntered(GuardEntered { over: None, inputs, limit })),
        Event::Note(Note::GuardLeft(left.clone())),
        Event::Note(Note::GuardLeft(GuardLeft { over, end: GuardEnd::Recovered, ..left })),
        Event::Expired { key: subject(), overdue },
    ]
}

/// The changes of the fixture: the second half has no caller, trace and cause.
fn fixture_changes() -> Vec<Change> {
    changes_of(one_of_each())
}

fn changes_of(events: Vec<Event>) -> Vec<Change> {
    let half = events.len() as u64 / 2;
    (1..)
        .zip(events)
        .map(|(seq, event)| {
            let asked = seq <= half;
            Change {
                seq: Seq(seq),
                at: Timestamp(START.0 + seq.cast_signed()),
                caller: asked.then(|| "deploy \"bot\"".into()),
                trace: if asked { trace(0x5c) } else { trace(0) },
                cause: asked.then(|| Seq(seq - 1)),
                baggage: None,
                event,
            }
        })
        .collect()
}

/// All of them, of requests that brought baggage along.
fn changes_with_baggage() -> Vec<Change> {
    let pairs = [("tenant", "acme \"€\""), ("user.tier", "")];
    let pairs = pairs.map(|(key, value)| (key.into(), value.into())).into();
    let baggage = Baggage::new(pairs).map(Arc::new);
    let all = fixture_changes().into_iter().chain(changes_of(one_of_each_since_checks()));
    all.map(|change| Change { baggage: baggage.clone(), ..change }).collect()
}

fn row_of(line: &str) -> Row {
    let value: Value = serde_json::from_str(line).unwrap();
    let number = |name: &str| value[name].as_u64();
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Row {
        seq: number("seq").unwrap(),
        at: value["at"].as_i64().unwrap(),
        kind: text("kind").unwrap(),
        namespace: text("namespace"),
        service: text("service"),
        instance: text("instance"),
        caller: text("caller"),
        trace_id: text("trace_id").map(|id| codec::unhex::<16>(&id).unwrap().to_vec()),
        span_id: text("span_id").map(|id| codec::unhex::<8>(&id).unwrap().to_vec()),
        cause: number("cause"),
        node: text("node").unwrap(),
        format: number("format").unwrap().try_into().unwrap(),
        data: text("data").unwrap(),
        checksum: number("checksum").unwrap().try_into().unwrap(),
    }
}

fn line_of(row: &Row) -> String {
    let hex = |id: &Option<Vec<u8>>| id.as_deref().map(codec::hex);
    serde_json::json!({
        "seq": row.seq, "at": row.at, "kind": row.kind, "namespace": row.namespace,
        "service": row.service, "instance": row.instance, "caller": row.caller,
        "trace_id": hex(&row.trace_id), "span_id": hex(&row.span_id), "cause": row.cause,
        "node": row.node, "format": row.format, "data": row.data, "checksum": row.checksum,
    })
    .to_string()
}

#[test]
fn rows_of_every_format_decode_for_ever() {
    let decoded: Vec<Change> =
        PAYLOADS_V1.lines().map(|line| codec::decode(&row_of(line)).unwrap()).collect();
    assert_eq!(decoded, fixture_changes());
    let since: Vec<Change> =
        PAYLOADS_V2.lines().map(|line| codec::decode(&row_of(line)).unwrap()).collect();
    assert_eq!(since, changes_of(one_of_each_since_checks()));
    let carrying: Vec<Change> =
        PAYLOADS_V3.lines().map(|line| codec::decode(&row_of(line)).unwrap()).collect();
    assert_eq!(carrying, changes_with_baggage());
    let covered =
        |kind: Kind| decoded.iter().chain(&since).any(|change| change.event.kind() == kind);
    for kind in Kind::ALL {
        let is_change = kind.class() == Class::Changes;
        assert_eq!(
            covered(*kind),
            is_change,
            "{kind}: changes have a row of their own, traffic has none"
        );
    }
}

/// Whoever changes what is written, adds a format and a fixture.
#[test]
fn what_is_written_today_is_the_oldest_format_that_can_say_it() {
    assert_eq!(FORMAT, 3, "give the new format a fixture, and compare with that one");
    let since = changes_of(one_of_each_since_checks());
    let carrying = changes_with_baggage();
    for (changes, stored) in
        [(fixture_changes(), PAYLOADS_V1), (since, PAYLOADS_V2), (carrying, PAYLOADS_V3)]
    {
        let written = changes.iter().map(|change| line_of(&codec::encode(change, "n1")));
        assert!(written.eq(stored.lines()), "write a fixture of what is new, never edit one");
    }
}

#[test]
fn a_row_of_another_world_is_refused_with_the_reason() {
    let good = codec::encode(&fixture_changes()[0], "n1");
    let refusal = |edit: fn(&mut Row)| {
        let mut row = good.clone();
        edit(&mut row);
        row.checksum = row.expected_checksum();
        codec::decode(&row).expect_err("it must be refused").to_string()
    };
    let mut changed = good.clone();
    changed.caller = Some("somebody else".into());
    assert!(matches!(codec::decode(&changed), Err(DecodeError::Checksum { .. })));
    for (edit, reason) in [
        ((|row| row.format = 4) as fn(&mut Row), "format 4 is newer than this program"),
        (|row| row.kind = "lookup".into(), "lookup is traffic, not a change"),
        (|row| row.kind = "exploded".into(), "unknown kind \"exploded\""),
        (|row| row.data = row.data.replace("created", "cremated"), "unknown word \"cremated\""),
        (|row| row.data = row.data.replace("a-1", "a/1"), "may hold A-Z a-z 0-9 . _ -"),
        (|row| row.data.truncate(9), "EOF while parsing"),
        (|row| row.trace_id = Some(vec![1; 15]), "could not convert slice to array"),
    ] {
        let told = refusal(edit);
        assert!(told.contains(reason), "{told:?} should say {reason:?}");
    }
}

/// A line of [`BLOCKS_V1`].
#[derive(serde::Deserialize)]
struct StoredBlock {
    first: u64,
    count: usize,
    first_at: i64,
    last_at: i64,
    seen_from: u64,
    names: String,
    kinds: String,
    numbers: [String; NUMBERS],
    statuses: String,
    trace_ids: String,
    span_ids: String,
    checksum: u32,
    events: Vec<Value>,
}

#[test]
fn blocks_of_the_past_read_as_what_was_shown_of_them() {
    let bytes = |text: &str| -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    for line in BLOCKS_V1.lines() {
        let stored: StoredBlock = serde_json::from_str(line).unwrap();
        let block = Block {
            first: stored.first,
            count: stored.count,
            first_at: stored.first_at,
            last_at: stored.last_at,
            seen_from: stored.seen_from,
            names: stored.names,
            kinds: stored.kinds.into(),
            numbers: stored.numbers.map(Into::into),
            statuses: stored.statuses.into(),
            trace_ids: bytes(&stored.trace_ids),
            span_ids: bytes(&stored.span_ids),
            checksum: stored.checksum,
        };
        let events = block.decode().unwrap();
        let shown = events.iter().map(|event| serde_json::to_value(record::of_traffic(event)));
        assert_eq!(shown.collect::<Result<Vec<_>, _>>().unwrap(), stored.events);
        // What other tests take for a block of the past is one.
        let traffic: Vec<_> = events.into_iter().map(|event| event.traffic).collect();
        assert_eq!(as_digits(&blocks::encode(block.first, &traffic)), block);
    }
}

/// What the columns of a block give at once.
fn parsed(block: &Block) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    parsed.read(&Columns::open(block)?).map(|()| parsed)
}

/// A file can hold anything, with a checksum that fits.
#[derive(Clone, Debug)]
enum Harm {
    Byte(u8),
    Remove,
    Repeat,
}

fn harms() -> impl Strategy<Value = Vec<(prop::sample::Index, Harm)>> {
    let harm = prop_oneof![
        4 => prop::sample::select(b"0919-+\"{}[],:.e\\ \x00\x01\x10\x99\xffnull".to_vec()).prop_map(Harm::Byte),
        1 => Just(Harm::Remove),
        1 => Just(Harm::Repeat),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), harm), 1..4)
}

fn harm_bytes(bytes: &mut Vec<u8>, harms: &[(prop::sample::Index, Harm)]) {
    for (index, harm) in harms {
        if bytes.is_empty() {
            return;
        }
        let position = index.index(bytes.len());
        match harm {
            Harm::Byte(byte) => bytes[position] = *byte,
            Harm::Remove => drop(bytes.remove(position)),
            Harm::Repeat => bytes.insert(position, bytes[position]),
        }
    }
}

fn harm_text(text: &mut String, harms: &[(prop::sample::Index, Harm)]) {
    let mut bytes = std::mem::take(text).into_bytes();
    harm_bytes(&mut bytes, harms);
    *text = String::from_utf8_lossy(&bytes).into_owned();
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn blocks_give_back_what_they_took(events in traffic(1..=BLOCK), first in 1_u64..1 << 60) {
        let block = blocks::encode(first, &events);
        let decoded = block.decode().unwrap();
        prop_assert!(decoded.iter().map(|event| event.number).eq(first..first + events.len() as u64));
        for (decoded, event) in decoded.iter().zip(&events) {
            prop_assert_eq!(&decoded.traffic, event);
            let data = blocks::data_of(&event.detail);
            let read = blocks::detail_of(event.detail.kind(), &data);
            prop_assert_eq!(read.as_ref(), Ok(&event.detail));
        }
        let older = as_digits(&block);
        prop_assert!(block.is_packed() && !older.is_packed());
        prop_assert_eq!(older.decode().unwrap(), decoded);
        prop_assert_eq!(parsed(&older), parsed(&block));
    }

    #[test]
    fn changes_give_back_what_their_requests_brought(
        of in any::<prop::sample::Index>(),
        baggage in baggage(),
        harms in harms(),
    ) {
        let changes = changes_with_baggage();
        let change = of.get(&changes).clone();
        let plain = codec::encode(&Change { baggage: None, ..change.clone() }, "n1");
        let change = Change { baggage, ..change };
        let row = codec::encode(&change, "n1");
        let decoded = codec::decode(&row);
        prop_assert_eq!(decoded.as_ref(), Ok(&change));
        if change.baggage.is_none() {
            prop_assert_eq!(row, plain);
            return Ok(());
        }
        let shown: Value = serde_json::from_str(&row.data).unwrap();
        let pairs = change.baggage.iter().flat_map(|baggage| baggage.pairs());
        prop_assert!(pairs.clone().all(|(key, value)| shown["baggage"][&**key] == **value));
        prop_assert_eq!(shown["baggage"].as_object().map(|shown| shown.len()), Some(pairs.count()));
        let mut row = row;
        harm_text(&mut row.data, &harms);
        row.checksum = row.expected_checksum();
        let _ = codec::decode(&row);
    }

    #[test]
    fn a_harmed_row_is_an_error_and_no_panic(of in any::<prop::sample::Index>(), harms in harms()) {
        let changes = fixture_changes();
        let good = codec::encode(of.get(&changes), "n1");
        let mut row = good.clone();
        harm_text(&mut row.data, &harms);
        let unsealed = codec::decode(&row);
        let noticed = matches!(unsealed, Err(DecodeError::Checksum { .. }));
        prop_assert!(noticed || row.data == good.data);
        row.checksum = row.expected_checksum();
        if let Ok(change) = codec::decode(&row) {
            let mut registry = Registry::default();
            let _ = check_change(&registry, &change);
            drop(fold(&mut registry, &change));
            for (_, service) in registry.services() {
                for instance in service.instances.values() {
                    let lease = Lease::granted(instance.ttl, Monotonic(1), trace(1));
                    let _ = (lease.late_after(), instance.heartbeat_interval());
                }
            }
            let _ = codec::encode(&change, "n1");
        }
    }

    #[test]
    fn a_harmed_block_is_an_error_and_no_panic(
        events in traffic(1..9),
        column in 0_usize..16,
        number in prop_oneof![Just(0_u64), Just(1), Just(256), Just(i64::MAX as u64)],
        harms in harms(),
        older in any::<bool>(),
    ) {
        let good = blocks::encode(1, &events);
        let good = if older { as_digits(&good) } else { good };
        let mut block = good.clone();
        match column {
            0 => harm_text(&mut block.names, &harms),
            1 => harm_bytes(&mut block.kinds, &harms),
            2 => harm_bytes(&mut block.statuses, &harms),
            3 => harm_bytes(&mut block.trace_ids, &harms),
            4 => harm_bytes(&mut block.span_ids, &harms),
            5 => block.count = usize::try_from(number).unwrap(),
            6 => (block.first, block.seen_from, block.first_at) = (number, number, number.cast_signed()),
            column => harm_bytes(&mut block.numbers[column - 7], &harms),
        }
        let same = Block { checksum: 0, ..block.clone() } == Block { checksum: 0, ..good };
        prop_assert_eq!(block.decode().is_ok(), same);
        block.checksum = block.expected_checksum();
        let decoded = block.decode();
        prop_assert!(decoded.is_err() || parsed(&block).is_ok(), "what reads one by one reads at once");
    }
}
