//! What is not there is named, the rest is shown, and what was derived is believed only as far as it is sound.

use super::*;
use crate::domain::event::{Class, Compacted, Event, LogGap, Note, Recovered};
use crate::log::TrafficLog as _;
use crate::log::blocks::BLOCK;
use crate::log::rollup::OTHER;
use crate::testing::trace;
use crate::testing::traffic::lookup;

/// Lookups of one service, at a millisecond's distance; every `nth` one is of another.
fn lookups(count: usize, nth: usize) -> Vec<Traffic> {
    let service = |n: usize| if n.is_multiple_of(nth) { "rare" } else { "orders" };
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

/// Writes into the file, a page or a part of one, at the first place where these bytes are.
fn harm(disk: &Disk, bytes: &[u8], whole_page: bool) {
    let file = std::fs::read(disk.database()).unwrap();
    let place = file.windows(bytes.len()).position(|window| window == bytes).unwrap();
    harm_at(disk, file, place, whole_page);
}

fn harm_at(disk: &Disk, mut file: Vec<u8>, place: usize, whole_page: bool) {
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
        // It is there and can't be told, which is not the same as that it never was.
        for number in [1_025, 1_201, 1_280] {
            let told = archive(&disk).event(EventId::Traffic(number));
            assert!(matches!(told, Err(Error::Damaged(_))), "t{number} {told:?}");
            let told = archive(&disk).event_if_readable(EventId::Traffic(number));
            assert_eq!(told, Ok(None));
        }
        let beyond = EventId::Traffic(20 * BLOCK as u64 + 1);
        assert_eq!(archive(&disk).event(beyond), Ok(None));
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
    let change =
        Change { seq: Seq(seq), at, caller, trace, cause, baggage: None, event: Event::Note(note) };
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
    assert_eq!(among(1_050, 2_000), vec![gap.clone()]);
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
    assert_eq!(through, Ok(Counted { through: 12_000, missing: vec![] }));
    assert_eq!(counts.iter().map(|count| count.count).sum::<u64>(), 12_000);
    assert_eq!(counts.len(), 10_002);
    let others: Vec<_> = counts.iter().filter(|count| &*count.caller == OTHER).collect();
    assert_eq!(others.iter().map(|count| count.count).sum::<u64>(), 2_000);
    let services: Vec<_> = others.iter().map(|count| count.service.as_deref().unwrap()).collect();
    assert_eq!(services, ["orders", "rare"]);
}

/// Minutes of 60 lookups each, three of them for what is rare.
fn minutes(count: i64) -> Disk {
    let disk = Disk::new();
    let mut events = lookups(60 * usize::try_from(count).unwrap(), 20);
    for (n, event) in (0..).zip(&mut events) {
        event.at = at(n * 1_000);
        // So that a row fills pages of its own.
        event.caller = format!("{n}-{}", "x".repeat(250)).into();
    }
    events.extend(vec![Traffic { at: at(count * 60_000), ..events[0].clone() }; BLOCK]);
    disk.log().append_traffic(&events).unwrap();
    derive(&mut disk.shell(), 9_999, &[]);
    disk
}

fn counted(disk: &Disk) -> (u64, Counted) {
    let mut sum = 0;
    let counted = archive(disk).lookup_counts(&TrafficQuery::default(), &mut |count| {
        sum += count.count;
        ControlFlow::Continue(())
    });
    (sum, counted.unwrap())
}

fn unread(first: i64, last: i64) -> Missing {
    let (from, until) = (at(first * 60_000), Timestamp(at((last + 1) * 60_000).0 - 1));
    Missing { from, until, reason: Reason::Damaged, events: "".into() }
}

#[test]
fn a_damaged_minute_is_stepped_over_and_named() {
    let disk = minutes(100);
    let whole = Counted { through: 6_000, missing: vec![] };
    assert_eq!(counted(&disk), (6_000, whole.clone()));
    disk.shell().execute("UPDATE lookup_minutes SET last = last - 1 WHERE part = 301", []).unwrap();
    assert_eq!(counted(&disk), (5_940, Counted { missing: vec![unread(5, 5)], ..whole }));
}

/// A page in the middle of a row's content, which SQLite itself may notice or not.
#[test]
fn a_minute_on_a_damaged_page_is_stepped_over_and_named() {
    let disk = minutes(100);
    let needle = format!("\"{}-x", 42 * 60 + 55);
    // The first place is in the traffic itself.
    let file = std::fs::read(disk.database()).unwrap();
    let place = file.windows(needle.len()).rposition(|window| window == needle.as_bytes());
    harm_at(&disk, file, place.unwrap(), true);
    let (sum, counted) = counted(&disk);
    assert_eq!((sum, counted.missing), (5_940, vec![unread(42, 42)]));
}

/// A page of the tree that leads to many rows: what is on it is gone, the others are not.
#[test]
fn a_page_that_leads_to_minutes_costs_what_it_leads_to() {
    let disk = minutes(2_000);
    let (sum, whole) = counted(&disk);
    assert_eq!((sum, whole.missing.len()), (120_000, 0));
    // Where the row of minute 1,000 begins; its minute and its part stand on the page of the tree.
    let first: i64 = at(1_000 * 60_000).0 / 60_000_000;
    let mut key = u32::try_from(first).unwrap().to_be_bytes().to_vec();
    key.extend(&60_001_u32.to_be_bytes()[1..]);
    harm(&disk, &key, true);
    let (sum, counted) = counted(&disk);
    let hidden: i64 = counted.missing.iter().map(|m| (m.until.0 + 1 - m.from.0) / 60_000_000).sum();
    assert_eq!(counted.missing.len(), 1, "{:?}", counted.missing);
    assert!((1..200).contains(&hidden), "{hidden}");
    // The minute before was read, but nobody knows whether it has another row.
    assert_eq!(sum, 60 * (2_001 - hidden.cast_unsigned()));
}
