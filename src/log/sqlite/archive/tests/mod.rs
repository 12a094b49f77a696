//! The archive against plain lists: whatever has been derived of a log, and wherever the deriving was interrupted,
//! the answers are those of somebody who reads every event.

mod gaps;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rusqlite::Connection;

use super::*;
use crate::domain::event::Kind;
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{Millis, Namespace, ServiceName, Timestamp, TraceRef};
use crate::history::{Order, Reason};
use crate::log::ChangeLog as _;
use crate::log::blocks;
use crate::log::contract::{Disk, Place as _, changes_of};
use crate::log::record::{of_change, of_traffic};
use crate::log::sqlite::derive::{Deriver, Sizes};
use crate::log::sqlite::rows;
use crate::testing::history::{Step, histories};
use crate::testing::traffic::traffic;
use crate::testing::{START, cases, key};

const SMALL: Sizes = Sizes { changes: 7, blocks: 2 };

fn archive(disk: &Disk) -> SqliteArchive {
    SqliteArchive::open(&disk.database()).unwrap()
}

/// Writes traffic in blocks of these lengths, as runs that ended in between leave them.
fn write_blocks(disk: &Disk, events: &[Traffic], lengths: &[usize]) {
    let shell = disk.shell();
    let (mut rest, mut first) = (events, 1);
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (block, after) = rest.split_at((*length).min(rest.len()));
        let mut put = shell.prepare_cached(rows::PUT_BLOCK).unwrap();
        rows::put_block(&mut put, &blocks::encode(first, block)).unwrap();
        (rest, first) = (after, first + block.len() as u64);
    }
    shell.execute("UPDATE log SET next_traffic = ?", [first.cast_signed()]).unwrap();
}

/// Derives so many slices; after each of `crashes` everything in memory is lost.
fn derive(connection: &mut Connection, slices: usize, crashes: &[usize]) {
    let mut deriver = Deriver::with(SMALL);
    for slice in 0..slices {
        if crashes.contains(&slice) {
            deriver = Deriver::with(SMALL);
        }
        if !deriver.derive(connection).unwrap() {
            break;
        }
    }
}

fn marks(disk: &Disk) -> rows::Marks {
    rows::marks(&disk.shell()).unwrap()
}

fn all_records(disk: &Disk) -> [Vec<Record>; 2] {
    let reader = Reader::open(&disk.database()).unwrap();
    let changes = reader.changes(Seq(1), 10_000).unwrap();
    let traffic = reader.traffic(1, 10_000).unwrap();
    [changes.iter().map(of_change).collect(), traffic.iter().map(of_traffic).collect()]
}

/// Whether somebody who reads every event takes this one.
fn is_wanted(query: &EventQuery, record: &Record) -> bool {
    fn same(wanted: Option<&str>, found: Option<&str>) -> bool {
        wanted.is_none() || wanted == found
    }
    let reaches = |moment: Moment| match moment {
        Moment::At(at) => record.at.cmp(&at),
        Moment::Version(seq) => record.seq.cmp(&seq),
    };
    same(query.namespace.as_ref().map(|name| name.as_str()), record.namespace.as_deref())
        && same(query.service.as_ref().map(|name| name.as_str()), record.service.as_deref())
        && same(query.instance.as_ref().map(|name| name.as_str()), record.instance.as_deref())
        && same(query.caller.as_deref(), record.caller.as_deref())
        && query.kind.is_none_or(|kind| kind == record.kind)
        && query.trace_id.is_none_or(|trace_id| trace_id == record.trace.trace_id)
        && query.since.is_none_or(|since| reaches(since).is_ge())
        && query.until.is_none_or(|until| reaches(until).is_le())
}

/// Both classes, merged as the page's documentation says.
fn merged(query: &EventQuery, [changes, traffic]: [Vec<Record>; 2]) -> Vec<EventId> {
    let streams = [changes, traffic].map(|records| {
        let mut wanted: Vec<_> = records.into_iter().filter(|r| is_wanted(query, r)).collect();
        if query.order == Order::Descending {
            wanted.reverse();
        }
        wanted.into_iter().peekable()
    });
    let [mut changes, mut traffic] = streams;
    let mut events = Vec::new();
    loop {
        let change_first = match (changes.peek(), traffic.peek()) {
            (None, None) => return events,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(change), Some(event)) => match query.order {
                Order::Ascending => change.seq <= event.seq,
                Order::Descending => change.seq > event.seq,
            },
        };
        events.extend(if change_first { changes.next() } else { traffic.next() }.map(|r| r.id));
    }
}

/// Which field of an event is asked for.
fn query_for(record: &Record, field: u8, order: Order, limit: usize) -> EventQuery {
    let mut query = EventQuery { limit, order, ..EventQuery::default() };
    match field {
        0 => {}
        1 => query.namespace = record.namespace.as_deref().map(|n| Namespace::new(n).unwrap()),
        2 => query.service = record.service.as_deref().map(|n| ServiceName::new(n).unwrap()),
        3 => {
            let instance = record.instance.as_deref();
            query.instance = instance.map(|n| crate::domain::InstanceId::new(n).unwrap());
        }
        4 => query.caller.clone_from(&record.caller),
        5 => query.kind = Some(record.kind),
        6 => query.trace_id = Some(record.trace.trace_id).filter(|id| *id != [0; 16]),
        7 => query.since = Some(Moment::At(record.at)),
        8 => query.until = Some(Moment::At(record.at)),
        9 => query.since = Some(Moment::Version(record.seq)),
        10 => query.until = Some(Moment::Version(record.seq)),
        11 => query.caller = Some("nobody".into()),
        _ => query.trace_id = Some([99; 16]),
    }
    query
}

fn step_histories() -> impl Strategy<Value = Vec<Step>> {
    histories(60)
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn pages_hold_what_reading_everything_gives(
        history in step_histories(),
        events in traffic(1..300),
        lengths in vec(1_usize..40, 1..6),
        slices in 0_usize..40,
        asked in vec((any::<Index>(), 0_u8..13, any::<bool>(), 1_usize..20), 12),
    ) {
        let disk = Disk::new();
        disk.log().append(Seq(0), &changes_of(&history)).unwrap();
        write_blocks(&disk, &events, &lengths);
        derive(&mut disk.shell(), slices, &[3, 9]);
        let archive = archive(&disk);
        let records = all_records(&disk);
        for (of, field, backwards, limit) in asked {
            let of = of.index(records[0].len() + records[1].len());
            let record = records.iter().flatten().nth(of).unwrap();
            let order = if backwards { Order::Descending } else { Order::Ascending };
            let mut query = query_for(record, field, order, limit);
            let expected = merged(&query, records.clone());
            let mut found = Vec::new();
            loop {
                let page = archive.events(&query).unwrap();
                prop_assert!(page.events.len() <= limit && page.missing.is_empty());
                found.extend(page.events.iter().map(|record| record.id));
                query.cursor = page.next;
                if page.next.is_none() {
                    break;
                }
            }
            prop_assert_eq!(found, expected, "{:?}", query);
            let one = archive.event(record.id).unwrap();
            prop_assert_eq!(one.as_ref(), Some(record));
        }
    }

    #[test]
    fn visits_show_what_reading_everything_gives(
        history in step_histories(),
        events in traffic(1..300),
        lengths in vec(1_usize..40, 1..6),
        slices in 0_usize..40,
        asked in vec((any::<Index>(), any::<Index>(), 0_u8..5), 6),
    ) {
        let disk = Disk::new();
        let changes = changes_of(&history);
        disk.log().append(Seq(0), &changes).unwrap();
        write_blocks(&disk, &events, &lengths);
        derive(&mut disk.shell(), slices, &[5]);
        let archive = archive(&disk);
        for (low, high, field) in asked {
            let (low, high) = (low.index(events.len()), high.index(events.len()));
            let Traffic { at, namespace, service, instance, detail, .. } = events[low].clone();
            let mut query = TrafficQuery::default();
            match field {
                0 => (query.from, query.to) = (Some(low as u64), Some(high as u64)),
                1 => (query.since, query.until) = (Some(at), Some(events[high].at)),
                2 => (query.namespace, query.service) = (namespace, service),
                3 => query.instance = instance,
                _ if detail.kind() == Kind::Lookup => query.kinds = &[Kind::Lookup],
                _ => query.kinds = &[Kind::Heartbeat, Kind::Notified],
            }
            let numbered = (1..).zip(events.clone());
            let numbered = numbered.map(|(number, traffic)| Numbered { number, traffic });
            let expected: Vec<Numbered> = numbered.filter(|event| query.includes(event)).collect();
            let mut found = Vec::new();
            let missing = archive.traffic(&query, &mut |event| {
                found.push(event);
                ControlFlow::Continue(())
            });
            let gaps = missing.unwrap();
            prop_assert!(gaps.iter().all(|gap| gap.reason == Reason::LogGap), "{:?}", gaps);
            prop_assert_eq!(found, expected);

            let whose = changes.get(low % changes.len().max(1));
            let whose = whose.and_then(|change| change.event.key().cloned());
            let subject = whose.as_ref().map_or(Subject::All, |key| match field {
                0 | 1 => Subject::Instance(key),
                _ => Subject::Service(&key.service),
            });
            let range = Seq(low as u64 / 8)..=Seq(high as u64);
            let expected: Vec<Change> = changes
                .iter()
                .filter(|change| range.contains(&change.seq) && subject.includes(&change.event))
                .map(|change| Change::clone(change))
                .collect();
            let mut found = Vec::new();
            archive
                .changes(subject, range, &mut |change| {
                    found.push(change);
                    ControlFlow::Continue(())
                })
                .unwrap();
            prop_assert_eq!(found, expected);
        }
    }
}

/// A quiet fleet: times from microseconds to hours apart, three instances, five callers.
fn fleet(length: usize) -> impl Strategy<Value = Vec<Traffic>> {
    let after =
        prop_oneof![4 => 0_i64..5_000_000, 2 => 0_i64..90_000_000, 1 => 0_i64..9_000_000_000];
    let event = (after, 0_u8..3, 0_u8..5, any::<bool>(), any::<bool>(), 1_u64..4);
    vec(event, 1..length).prop_map(|events| {
        let mut at = START.0;
        let event = |(after, who, caller, beats, polls, number): (i64, u8, u8, bool, bool, u64)| {
            at += after;
            let key = key(&format!("service-{}", who % 2), &format!("i-{who}"));
            let filter = format!("tag=\"{}\"", number % 2).into();
            let held = polls.then_some(Seq(9));
            let detail = if beats {
                Detail::Heartbeat {
                    incarnation: Seq(number),
                    load: None,
                    health: None,
                    note: None,
                    baggage: None,
                }
            } else {
                let (revision, status) = (Seq(number), if number == 3 { 404 } else { 200 });
                Detail::Lookup { filter, revision, returned: 1, status, held, baggage: None }
            };
            Traffic {
                at: Timestamp(at),
                seen: Seq(0),
                namespace: Some(key.service.namespace),
                service: Some(key.service.service),
                instance: beats.then_some(key.instance),
                caller: format!("caller-{caller}").into(),
                trace: TraceRef::default(),
                detail,
            }
        };
        events.into_iter().map(event).collect()
    })
}

proptest! {
    #![proptest_config(cases(24))]

    /// What is counted, and the raw traffic after it, is everything, once; wherever the deriving was interrupted.
    #[test]
    fn roll_ups_say_what_the_traffic_said(
        events in fleet(400),
        lengths in vec(1_usize..40, 1..6),
        slices in 0_usize..60,
        crashes in vec(0_usize..60, 0..4),
    ) {
        let disk = Disk::new();
        drop(disk.log());
        write_blocks(&disk, &events, &lengths);
        derive(&mut disk.shell(), slices, &crashes);
        let archive = archive(&disk);
        let numbered = || (1_u64..).zip(&events);

        let mut found: Vec<LookupCount> = Vec::new();
        let Counted { through, missing } = archive
            .lookup_counts(&TrafficQuery::default(), &mut |count| {
                found.push(count);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(missing, []);
        let mut expected: BTreeMap<String, LookupCount> = BTreeMap::new();
        for (number, event) in numbered().take_while(|(number, _)| *number <= through) {
            let Detail::Lookup { filter, revision, status, .. } = &event.detail else { continue };
            let minute = Timestamp(event.at.0.div_euclid(60_000_000) * 60_000_000);
            let (name, caller) = (event.service.as_ref().unwrap(), &event.caller);
            let key = format!("{} {name} {caller} {filter} {revision} {status}", minute.0);
            let count = expected.entry(key).or_insert_with(|| LookupCount {
                minute,
                namespace: Some("default".into()),
                service: Some(name.as_str().into()),
                instance: None,
                caller: (**caller).into(),
                filter: filter.clone(),
                revision: *revision,
                status: *status,
                count: 0,
                first: number,
                last: number,
                first_at: event.at,
                last_at: event.at,
            });
            (count.last, count.last_at) = (number, event.at);
            count.count += 1;
        }
        let mut expected: Vec<LookupCount> = expected.into_values().collect();
        expected.sort_by_key(|count| count.first);
        prop_assert_eq!(found, expected);

        let mut through = 0;
        for who in 0..3_u8 {
            let key = key(&format!("service-{}", who % 2), &format!("i-{who}"));
            let (runs, beats) = archive.heartbeat_runs(&key).unwrap();
            through = beats;
            let mut expected: BTreeMap<(Seq, i64), HeartbeatRun> = BTreeMap::new();
            let mut last: BTreeMap<Seq, i64> = BTreeMap::new();
            let mut gaps: BTreeMap<(Seq, i64), i64> = BTreeMap::new();
            for (_, event) in numbered().take_while(|(number, _)| *number <= beats) {
                let Detail::Heartbeat { incarnation, .. } = event.detail else { continue };
                if event.instance.as_ref() != Some(&key.instance) {
                    continue;
                }
                let at = event.at.0;
                let gap = last.insert(incarnation, at).map_or(0, |last| at - last);
                let place = (incarnation, at.div_euclid(3_600_000_000));
                let run = expected.entry(place).or_insert(HeartbeatRun {
                    incarnation,
                    first_at: event.at,
                    last_at: event.at,
                    count: 0,
                    widest_gap: Millis::default(),
                    widest_gap_at: event.at,
                });
                (run.last_at, run.count) = (event.at, run.count + 1);
                let widest = gaps.entry(place).or_insert(0);
                if gap > *widest {
                    *widest = gap;
                    run.widest_gap = Millis::from_millis(gap.unsigned_abs() / 1_000);
                    run.widest_gap_at = event.at;
                }
            }
            prop_assert_eq!(runs, expected.into_values().collect::<Vec<_>>());
        }
        let marks = marks(&disk);
        let derived: i64 =
            disk.shell().query_row("SELECT derived_traffic FROM log", [], |row| row.get(0)).unwrap();
        prop_assert_eq!(derived.cast_unsigned(), marks.counted_lookups.min(through));
    }
}
