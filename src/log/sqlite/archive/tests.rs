//! The archive against plain lists: whatever has been derived of a log, and wherever the deriving was interrupted,
//! the answers are those of somebody who reads every event.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rusqlite::Connection;

use super::*;
use crate::domain::event::{Class, Compacted, Event, Kind, LogGap, Note, Recovered};
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{Millis, Namespace, ServiceName, Timestamp, TraceRef};
use crate::history::{Order, Reason};
use crate::log::blocks::{self, BLOCK};
use crate::log::contract::{Disk, Place as _, changes_of};
use crate::log::rollup::OTHER;
use crate::log::sqlite::derive::{Deriver, Sizes};
use crate::log::sqlite::rows;
use crate::log::{ChangeLog as _, TrafficLog as _};
use crate::testing::history::{Step, histories};
use crate::testing::traffic::{lookup, traffic};
use crate::testing::{START, cases, key, trace};

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
    [
        changes.iter().map(page::change_record).collect(),
        traffic.iter().map(page::traffic_record).collect(),
    ]
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
                .filter(|change| range.contains(&change.seq) && subject.includes(change.event.key()))
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
                Detail::Heartbeat { incarnation: Seq(number), load: None, health: None, note: None }
            } else {
                let (revision, status) = (Seq(number), if number == 3 { 404 } else { 200 });
                Detail::Lookup { filter, revision, returned: 1, status, held }
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
        let through = archive
            .lookup_counts(&TrafficQuery::default(), &mut |count| {
                found.push(count);
                ControlFlow::Continue(())
            })
            .unwrap();
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

/// Lookups of one service, at a millisecond's distance; every `nth` one is of another.
fn lookups(count: usize, nth: usize) -> Vec<Traffic> {
    let service = |n: usize| if n % nth == 0 { "rare" } else { "orders" };
    let event = |n: usize| Traffic {
        at: Timestamp(START.0 + 1_000 * i64::try_from(n).unwrap()),
        namespace: Some(Namespace::default()),
        service: Some(ServiceName::new(service(n)).unwrap()),
        trace: TraceRef { trace_id: (n as u128).to_be_bytes(), ..trace(1) },
        ..lookup(0)
    };
    (1..=count).map(event).collect()
}

/// A log of 20 blocks, and how it was asked.
fn long_log() -> Disk {
    let disk = Disk::new();
    disk.log().append_traffic(&lookups(20 * BLOCK, 600)).unwrap();
    disk
}

fn rare() -> TrafficQuery {
    TrafficQuery { service: ServiceName::new("rare").ok(), ..TrafficQuery::default() }
}

fn ask(disk: &Disk, query: &TrafficQuery) -> (Vec<u64>, Vec<Missing>) {
    let mut found = Vec::new();
    let missing = archive(disk).traffic(query, &mut |event| {
        found.push(event.number);
        ControlFlow::Continue(())
    });
    (found, missing.unwrap())
}

fn at(number: i64) -> Timestamp {
    Timestamp(START.0 + 1_000 * number)
}

fn damage(from: i64, until: i64, events: &str) -> Missing {
    Missing { from: at(from), until: at(until), reason: Reason::Damaged, events: events.into() }
}

/// Writes into the file, a page or a part of one, at the place where these bytes are.
fn harm(disk: &Disk, bytes: &[u8], whole_page: bool) {
    let mut file = std::fs::read(disk.database()).unwrap();
    let place = file.windows(bytes.len()).position(|window| window == bytes).unwrap();
    let page = place / 4096 * 4096..(place / 4096 + 1) * 4096;
    match whole_page {
        true => file[page].fill(0xA5),
        false => file[place] ^= 0x55,
    }
    std::fs::write(disk.database(), file).unwrap();
}

fn block(disk: &Disk, first: u64) -> blocks::Block {
    let reader = Reader::open(&disk.database()).unwrap();
    reader.blocks(first, 1).unwrap().remove(0)
}

/// With and without segments, before and after the deriving: what a damaged block may have held is named, the rest is
/// shown.
#[test]
fn damage_is_stepped_over_and_named() {
    for (derived_before, whole_page) in [(false, false), (false, true), (true, false), (true, true)]
    {
        let disk = long_log();
        if derived_before {
            derive(&mut disk.shell(), 99, &[]);
        }
        // t1201 is rare, and in the block from t1025.
        let harmed = block(&disk, 1_025).trace_ids[3_000..3_064].to_vec();
        harm(&disk, &harmed, whole_page);
        if !derived_before {
            derive(&mut disk.shell(), 99, &[]);
        }
        let (found, missing) = ask(&disk, &rare());
        assert_eq!(found, [600, 1_800, 2_400, 3_000, 3_600, 4_200, 4_800], "{whole_page}");
        assert_eq!(missing, [damage(1_024, 1_281, "t1025 to t1280")], "{whole_page}");
        let all = ask(&disk, &TrafficQuery::default());
        assert_eq!((all.0.len(), &all.1), (19 * BLOCK, &missing));
        // Nothing of it can have been among these.
        let later = TrafficQuery { from: Some(1_281), ..TrafficQuery::default() };
        assert_eq!(ask(&disk, &later).1, []);
        let query = EventQuery { limit: 9_999, kind: Some(Kind::Lookup), ..EventQuery::default() };
        let page = archive(&disk).events(&query).unwrap();
        assert_eq!((page.events.len(), page.missing), (19 * BLOCK, missing));
        assert!(archive(&disk).event(EventId::Traffic(1_300)).unwrap().is_some());
    }
}

/// A page that holds several rows, or leads to many.
#[test]
fn a_page_of_the_tree_that_is_gone_costs_what_is_on_it() {
    let disk = long_log();
    derive(&mut disk.shell(), 99, &[]);
    // Small numbers stand at the beginning of a row, on a page of the tree itself.
    let first_at = block(&disk, 2_561).first_at.to_be_bytes();
    harm(&disk, &first_at[1..], true);
    let (found, missing) = ask(&disk, &TrafficQuery::default());
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].reason, Reason::Damaged);
    assert!(found.len() < 20 * BLOCK && found.len() > 10 * BLOCK, "{}", found.len());
    assert!(found.contains(&1) && found.contains(&(20 * BLOCK as u64)));
    let hidden = 20 * BLOCK - found.len();
    let numbers = missing[0].events.split(" to ").map(|id| id[1..].parse::<usize>().unwrap());
    let numbers: Vec<usize> = numbers.collect();
    assert_eq!(numbers[1] - numbers[0] + 1, hidden);
}

#[test]
fn a_damaged_segment_is_as_good_as_none() {
    let disk = long_log();
    derive(&mut disk.shell(), 99, &[]);
    let expected = ask(&disk, &rare());
    assert_eq!((expected.0.len(), expected.1.len()), (8, 0));
    let shell = disk.shell();
    let count = "SELECT count(*), max(last) FROM traffic_segments";
    let count: (i64, i64) =
        shell.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(count, (10, 20 * 256));
    shell.execute("UPDATE traffic_segments SET kinds = 0 WHERE first % 1024 = 1", []).unwrap();
    shell
        .execute("UPDATE traffic_segments SET names = zeroblob(8) WHERE first % 1024 = 513", [])
        .unwrap();
    assert_eq!(ask(&disk, &rare()), expected);
    shell.execute("DELETE FROM traffic_segments WHERE first > 600", []).unwrap();
    assert_eq!(ask(&disk, &rare()), expected);
}

/// A segment that lies is believed: so it is seen that segments are asked at all.
#[test]
fn segments_decide_what_is_read() {
    let disk = long_log();
    derive(&mut disk.shell(), 99, &[]);
    // The block can't be read, but nothing that is sought can be in it.
    disk.shell().execute("UPDATE traffic SET checksum = 0 WHERE first = 769", []).unwrap();
    let query = TrafficQuery { service: ServiceName::new("stock").ok(), ..rare() };
    assert_eq!(ask(&disk, &query), (vec![], vec![]));
    assert_eq!(ask(&disk, &rare()).1, [damage(768, 1_025, "t769 to t1024")]);
}

fn note(disk: &Disk, seq: u64, at: Timestamp, note: Note) {
    let (caller, trace, cause) = (None, TraceRef::default(), None);
    let change = Change { seq: Seq(seq), at, caller, trace, cause, event: Event::Note(note) };
    disk.log().append(Seq(seq - 1), &[Arc::new(change)]).unwrap();
}

#[test]
fn what_was_never_written_is_named_where_it_matters() {
    let disk = long_log();
    let gap = LogGap { from: at(1_000), until: at(1_100), lookups: 5, heartbeats: 6 };
    note(&disk, 1, at(1_100), Note::LogGap(gap));
    let recovered = Recovered {
        changes: 1,
        traffic: 0,
        instances: 0,
        services: 0,
        took: Millis::default(),
        clean: false,
        traffic_missing_from: Some(at(3_000)),
        digest: 0,
    };
    note(&disk, 2, at(3_050), Note::Recovered(recovered));
    let gap =
        Missing { from: at(1_000), until: at(1_100), reason: Reason::LogGap, events: "".into() };
    let crash =
        Missing { from: at(3_000), until: at(3_050), reason: Reason::Crash, events: "".into() };
    let among = |from: i64, until: i64| {
        let (since, until) = (Some(at(from)), Some(at(until)));
        ask(&disk, &TrafficQuery { since, until, ..rare() }).1
    };
    assert_eq!(ask(&disk, &rare()).1, [gap.clone(), crash.clone()]);
    assert_eq!(among(1_050, 2_000), [gap.clone()]);
    assert_eq!(among(500, 1_000), [gap]);
    assert_eq!(among(1_200, 2_900), []);
    let (from, to) = (Some(2_000), Some(3_020));
    assert_eq!(ask(&disk, &TrafficQuery { from, to, ..rare() }).1, [crash]);
}

#[test]
fn what_retention_took_is_named_where_it_matters() {
    let disk = long_log();
    derive(&mut disk.shell(), 99, &[]);
    let shell = disk.shell();
    let remove = "DELETE FROM traffic WHERE first < 1025; DELETE FROM traffic_segments WHERE first < 1025; \
         UPDATE log SET first_traffic = 1025";
    shell.execute_batch(remove).unwrap();
    let taken = |from: i64| Missing {
        from: at(from),
        until: at(1_025),
        reason: Reason::Retention,
        events: "t1 to t1024".into(),
    };
    let since = |number: i64| TrafficQuery { since: Some(at(number)), ..rare() };
    assert_eq!(ask(&disk, &rare()).1, [taken(1_025)], "nothing says since when");
    let (class, first, last) = (Class::Traffic, 1, 1_024);
    let compacted = Compacted { class, first, last, from: at(1), until: at(1_024), bytes: 1 };
    note(&disk, 1, at(9_000), Note::Compacted(compacted));
    assert_eq!(
        ask(&disk, &rare()),
        (vec![1_200, 1_800, 2_400, 3_000, 3_600, 4_200, 4_800], vec![taken(1)])
    );
    assert_eq!(ask(&disk, &since(700)).1, [taken(700)]);
    assert_eq!(ask(&disk, &since(1_026)).1, []);
    assert_eq!(ask(&disk, &TrafficQuery { from: Some(1_025), ..rare() }).1, []);
    let archive = archive(&disk);
    let page = |order, limit, kind| {
        let query = EventQuery { order, limit, kind: Some(kind), ..EventQuery::default() };
        archive.events(&query).unwrap().missing
    };
    assert_eq!(page(Order::Ascending, 5, Kind::Lookup), [taken(1)]);
    assert_eq!(page(Order::Descending, 5, Kind::Lookup), [], "this page is whole");
    assert_eq!(page(Order::Descending, 9_999, Kind::Lookup), [taken(1)]);
    assert_eq!(page(Order::Descending, 9_999, Kind::Expired), []);
    assert_eq!(archive.event(EventId::Traffic(1_024)).unwrap(), None);
}

/// The names come from the network: what a minute may take is bounded, and the sum stays right.
#[test]
fn a_minute_of_too_many_callers_is_counted_all_the_same() {
    let disk = Disk::new();
    let mut events = lookups(12_000, 3);
    for (n, event) in events.iter_mut().enumerate() {
        event.caller = format!("caller-{n}").into();
    }
    events.push(Traffic { at: at(70_000), ..events[0].clone() });
    events.extend(vec![events[events.len() - 1].clone(); BLOCK]);
    disk.log().append_traffic(&events).unwrap();
    derive(&mut disk.shell(), 99, &[]);
    let mut counts: Vec<LookupCount> = Vec::new();
    let query = TrafficQuery { until: Some(at(59_999)), ..TrafficQuery::default() };
    let through = archive(&disk).lookup_counts(&query, &mut |count| {
        counts.push(count);
        ControlFlow::Continue(())
    });
    assert_eq!(through, Ok(12_000));
    assert_eq!(counts.iter().map(|count| count.count).sum::<u64>(), 12_000);
    assert_eq!(counts.len(), 10_002);
    let others: Vec<_> = counts.iter().filter(|count| &*count.caller == OTHER).collect();
    assert_eq!(others.iter().map(|count| count.count).sum::<u64>(), 2_000);
    let services: Vec<_> = others.iter().map(|count| count.service.as_deref().unwrap()).collect();
    assert_eq!(services, ["orders", "rare"]);
}

#[test]
fn a_damaged_minute_is_an_error_that_names_it() {
    let disk = Disk::new();
    let mut events = lookups(300, 3);
    events.extend(vec![Traffic { at: at(70_000), ..events[0].clone() }; BLOCK]);
    disk.log().append_traffic(&events).unwrap();
    derive(&mut disk.shell(), 99, &[]);
    let ask = || {
        archive(&disk).lookup_counts(&TrafficQuery::default(), &mut |_| ControlFlow::Continue(()))
    };
    assert_eq!(ask(), Ok(300));
    disk.shell().execute("UPDATE lookup_minutes SET last = last - 1", []).unwrap();
    let Err(Error::Unreadable(what)) = ask() else { panic!("not noticed") };
    assert!(what.contains("the minute from") && what.contains("checksum"), "{what}");
}
