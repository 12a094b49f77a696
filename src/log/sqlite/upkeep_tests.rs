//! What retention leaves: the rest as it was, numbers that go on, space on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Stopwatch;
use crate::domain::event::{Class, Compacted, Event, Note};
use crate::domain::traffic::Traffic;
use crate::domain::{Change, Millis, Seq, Timestamp, TraceRef};
use crate::history::{Archive as _, EventQuery, Order};
use crate::log::contract::{Disk, Place as _, states_of};
use crate::log::upkeep::{Budgets, Removed, Upkeep as _};
use crate::log::verify::verify;
use crate::log::{ChangeLog as _, Numbered, TrafficLog as _};
use crate::testing::traffic::lookup;
use crate::testing::{START, cases, trace};

/// Nothing is too old or too much.
const EVERYTHING: Budgets = Budgets {
    traffic_until: Timestamp(i64::MIN),
    traffic_bytes: u64::MAX,
    traffic_ended: Timestamp(i64::MIN),
    changes_until: Timestamp(i64::MIN),
    rollups_until: Timestamp(i64::MIN),
};

/// Everything is, but for what has to stay.
const NOTHING: Budgets = Budgets {
    traffic_until: Timestamp(i64::MAX),
    traffic_bytes: 0,
    traffic_ended: Timestamp(i64::MIN),
    changes_until: Timestamp(i64::MAX),
    rollups_until: Timestamp(i64::MAX),
};

fn lookups(range: std::ops::Range<usize>) -> Vec<Traffic> {
    range.map(lookup).collect()
}

/// Changes that follow from any state.
fn changes(from: u64, count: u64) -> Vec<Arc<Change>> {
    let note = |seq: u64| Change {
        seq: Seq(seq),
        at: Timestamp(START.0 + i64::try_from(seq).unwrap()),
        baggage: None,
        event: Event::Note(Note::Started { version: "1".into(), node: "tests".into() }),
        caller: None,
        trace: TraceRef::default(),
        cause: None,
    };
    (from..from + count).map(|seq| Arc::new(note(seq))).collect()
}

/// Moves all of the WAL into the file. While the checkpointer's thread is at it, SQLite refuses this at once, whatever the
/// busy timeout: the size of the file would then be an old one. Each of the checkpointer's runs comes to an end.
fn empty_wal(disk: &Disk) {
    let shell = disk.shell();
    let began = Stopwatch::start();
    let is_busy = || -> bool {
        shell.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap()
    };
    while is_busy() {
        assert!(began.elapsed() < Duration::from_secs(60), "somebody is in the way for ever");
        std::thread::yield_now();
    }
}

/// As if everything had been derived from, up to these numbers.
fn derived(disk: &Disk, seq: u64, traffic: u64) {
    let marks = "UPDATE log SET derived_seq = ?1, derived_traffic = ?2";
    disk.shell().execute(marks, [rows::signed(seq), rows::signed(traffic)]).unwrap();
}

/// Puts a snapshot of this version.
fn snapshot(disk: &Disk, changes: &[Arc<Change>], seq: u64) {
    disk.put_snapshot(&states_of(changes)[usize::try_from(seq).unwrap()]);
}

/// Slices until there is none left, or `most`; what they took.
fn retain(upkeep: &mut SqliteUpkeep, budgets: &Budgets, most: usize) -> Vec<Removed> {
    let slices = std::iter::from_fn(|| upkeep.retain(budgets).unwrap());
    slices.take(most).collect()
}

fn all_traffic(log: &mut SqliteLog) -> Vec<Numbered> {
    let mut events = Vec::new();
    let mut before = log.next_number();
    loop {
        let found = log.read_back(before, 1_000).unwrap();
        let Some(oldest) = found.last() else { break };
        before = oldest.number;
        events.extend(found);
    }
    events.reverse();
    events
}

fn untold(upkeep: &mut SqliteUpkeep) -> BTreeMap<&'static str, (u64, u64)> {
    let all = upkeep.untold().unwrap().into_iter();
    all.map(|what| (what.class.as_str(), (what.first, what.last))).collect()
}

proptest! {
    #![proptest_config(cases(24))]

    /// Batches of traffic of any size, by runs that end without order; budgets of all kinds; an upkeep that is
    /// dropped in the middle of its work and begins again.
    #[test]
    fn the_rest_is_as_it_was_and_numbers_go_on(
        batches in prop::collection::vec((1_usize..700, any::<bool>()), 1..8),
        until in 0_usize..2_500,
        bytes in prop_oneof![Just(u64::MAX), 0_u64..200_000],
        derived_part in 0.0_f64..=1.0,
        count in 1_u64..300,
        at in 1_u64..300,
        stops_after in 0_usize..6,
    ) {
        let disk = Disk::new();
        let mut log = disk.log();
        log.append(Seq(0), &changes(1, count)).unwrap();
        let mut total = 0;
        for (size, reopens) in batches {
            log.append_traffic(&lookups(total..total + size)).unwrap();
            total += size;
            if reopens {
                drop(log);
                log = disk.log();
            }
        }
        let before = (log.read(Seq(1), usize::MAX >> 1).unwrap(), all_traffic(&mut log));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of a small number")]
        let mark = (total as f64 * derived_part) as u64;
        derived(&disk, 0, mark);
        let at = at.min(count);
        snapshot(&disk, &changes(1, count), at);
        let budgets = Budgets {
            traffic_until: lookup(until).at,
            traffic_bytes: bytes,
            traffic_ended: Timestamp(i64::MIN),
            changes_until: Timestamp(i64::MAX),
            rollups_until: Timestamp(i64::MIN),
        };

        let mut upkeep = log.upkeep().unwrap();
        retain(&mut upkeep, &budgets, stops_after);
        drop((upkeep, log));
        let mut log = disk.log();
        let mut upkeep = log.upkeep().unwrap();
        retain(&mut upkeep, &budgets, usize::MAX);
        prop_assert_eq!(upkeep.retain(&budgets), Ok(None));

        // What is left is an end of what there was, as it was.
        let bounds = open_reader(disk.dir()).unwrap().keeping().unwrap();
        let changes_left = log.read(Seq(1), usize::MAX >> 1).unwrap();
        let traffic_left = all_traffic(&mut log);
        prop_assert_eq!(&changes_left[..], &before.0[before.0.len() - changes_left.len()..]);
        prop_assert_eq!(&traffic_left[..], &before.1[before.1.len() - traffic_left.len()..]);
        prop_assert_eq!(changes_left[0].seq.0, bounds.first);
        prop_assert_eq!(traffic_left[0].number, bounds.first_traffic);
        let horizon = if at < count { at } else { 0 };
        prop_assert_eq!(bounds.first, horizon + 1, "only below a snapshot, and never the newest change");
        prop_assert!(bounds.first_traffic <= mark + 1, "only what was derived from");
        // All of it is within the budgets, or could not go.
        let oldest: (i64, i64, i64) = disk.shell().query_row(
            "SELECT first + count - 1, last_at, (SELECT count(*) FROM traffic) FROM traffic ORDER BY first LIMIT 1", [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        ).unwrap();
        let may_go = oldest.2 > 1 && oldest.0 <= i64::try_from(mark).unwrap();
        let over = sizes::traffic(&disk.shell()).unwrap() > bytes;
        prop_assert!(!may_go || (oldest.1 >= budgets.traffic_until.micros() && !over), "{oldest:?} {over}");
        // What went is noted, in one piece, also across the interruption.
        let mut went = BTreeMap::new();
        if bounds.first > 1 {
            went.insert("changes", (1, bounds.first - 1));
        }
        if bounds.first_traffic > 1 {
            went.insert("traffic", (1, bounds.first_traffic - 1));
        }
        prop_assert_eq!(untold(&mut upkeep), went);

        // The numbers go on, for this run and for the next one.
        prop_assert_eq!((log.head().0, log.next_number()), (count, total as u64 + 1));
        drop((upkeep, log));
        let mut log = disk.log();
        log.append_traffic(&lookups(total..total + 1)).unwrap();
        log.append(Seq(count), &changes(count + 1, 1)).unwrap();
        drop(log);
        let report = verify(disk.dir(), |_| {}).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report.findings);
    }
}

#[test]
fn space_comes_back_to_the_file_system() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    for n in 0..20 {
        log.append_traffic(&lookups(n * 2_048..(n + 1) * 2_048)).unwrap();
    }
    derived(&disk, 0, u64::MAX);
    let size = || {
        empty_wal(&disk);
        std::fs::metadata(disk.database()).unwrap().len()
    };
    let full = size();
    let sizes = open_reader(disk.dir()).unwrap().sizes().unwrap();
    assert!(sizes.disk_free.is_some_and(|free| free > 0), "the disk of a test has room: {sizes:?}");
    // The part of the file that is not traffic is a few dozen pages.
    assert!(sizes.traffic > full * 8 / 10 && sizes.traffic < full, "{sizes:?} of {full}");

    let half = Budgets { traffic_bytes: sizes.traffic / 2, ..EVERYTHING };
    assert!(!retain(&mut upkeep, &half, usize::MAX).is_empty());
    let left = open_reader(disk.dir()).unwrap().sizes().unwrap();
    assert!(left.traffic <= half.traffic_bytes && left.traffic > half.traffic_bytes * 8 / 10);
    assert!(left.free > full / 3, "{left:?}");
    assert_eq!(size(), full, "not given back yet");
    while upkeep.reclaim().unwrap() {}
    let shrunk = size();
    assert!(shrunk < full * 6 / 10, "{shrunk} of {full}");

    assert!(!retain(&mut upkeep, &NOTHING, usize::MAX).is_empty());
    while upkeep.reclaim().unwrap() {}
    let left = size();
    assert!(left < full / 10, "{left} of {full}");
    // The space that is left is used, not more.
    log.append_traffic(&lookups(50_000..50_100)).unwrap();
    assert!(open_reader(disk.dir()).unwrap().storage_check().unwrap().is_empty());
}

#[test]
fn a_reader_in_the_middle_gets_whole_answers() {
    let disk = Disk::new();
    let mut log = disk.log();
    for n in 0..20 {
        log.append_traffic(&lookups(n * 1_024..(n + 1) * 1_024)).unwrap();
    }
    log.append(Seq(0), &changes(1, 2_000)).unwrap();
    derived(&disk, 0, u64::MAX);
    snapshot(&disk, &changes(1, 2_000), 1_500);
    let mut upkeep = log.upkeep().unwrap();
    let archive = SqliteArchive::open(log.path()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            retain(&mut upkeep, &NOTHING, usize::MAX);
            done.store(true, SeqCst);
        });
        let mut pages = 0;
        while !done.load(SeqCst) || pages < 4 {
            for order in [Order::Ascending, Order::Descending] {
                let mut cursor = None;
                let mut seen: Vec<(Class, u64)> = Vec::new();
                loop {
                    let query = EventQuery { limit: 700, order, cursor, ..EventQuery::default() };
                    let page = archive.events(&query).unwrap();
                    for event in &page.events {
                        seen.push((event.id.class(), event.id.number()));
                        let is_lookup = matches!(event.id.class(), Class::Traffic);
                        let number = i64::try_from(event.id.number()).unwrap() - 1;
                        assert!(!is_lookup || event.at == Timestamp(START.0 + number), "{event:?}");
                    }
                    pages += 1;
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
                for class in [Class::Changes, Class::Traffic] {
                    let numbers = seen.iter().filter(|(of, _)| *of == class).map(|(_, n)| *n);
                    let mut numbers: Vec<u64> = numbers.collect();
                    if order == Order::Descending {
                        numbers.reverse();
                    }
                    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, none twice");
                    let newest = match class {
                        Class::Changes => 2_000,
                        Class::Traffic => 20 * 1_024,
                    };
                    assert_eq!(numbers.last(), Some(&newest), "what is kept is there");
                }
            }
        }
    });
    assert!(log.upkeep().unwrap().untold().unwrap().len() == 2, "both were removed meanwhile");
}

#[test]
fn what_went_is_told_once_and_grows_until_it_is() {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append_traffic(&lookups(0..2_000)).unwrap();
    derived(&disk, 0, u64::MAX);
    let mut upkeep = log.upkeep().unwrap();
    let until = |n: usize| Budgets { traffic_until: lookup(n).at, ..EVERYTHING };
    retain(&mut upkeep, &until(600), usize::MAX);
    retain(&mut upkeep, &until(900), usize::MAX);
    let [what] = upkeep.untold().unwrap()[..] else { panic!("one of traffic") };
    let expected = Compacted {
        class: Class::Traffic,
        first: 1,
        last: 768,
        from: lookup(0).at,
        until: lookup(767).at,
        bytes: what.bytes,
    };
    assert_eq!(what, expected);
    // The ids of an event take 24, and its filter 10 more.
    assert!(what.bytes > 768 * 34 && what.bytes < 768 * 120, "{}", what.bytes);
    upkeep.told(&what, Seq(57)).unwrap();
    assert!(upkeep.untold().unwrap().is_empty());
    let figures = SqliteArchive::open(log.path()).unwrap().figures().unwrap();
    assert_eq!(figures.compactions, [(what, Some(Seq(57)))]);

    retain(&mut upkeep, &until(1_600), usize::MAX);
    let [next] = upkeep.untold().unwrap()[..] else { panic!("one of traffic") };
    assert_eq!((next.first, next.last, next.from), (769, 1_536, lookup(768).at));
    retain(&mut upkeep, &until(1_800), usize::MAX);
    // It has grown since it was told: it stays to be told.
    upkeep.told(&next, Seq(58)).unwrap();
    assert_eq!(untold(&mut upkeep)["traffic"], (769, 1_792));
}

#[test]
fn rollups_go_by_their_own_age() {
    let disk = Disk::new();
    let log = disk.log();
    let shell = disk.shell();
    let hour = START.0 / 3_600_000_000;
    for n in 0..600_i64 {
        let (name, hour) = (format!("i{:03}", n % 50), hour + n / 50);
        shell
            .execute(
                "INSERT INTO heartbeat_runs VALUES ('default', 'orders', ?1, 1, ?2, 0, 0, 1, 0, 0, 1)",
                rusqlite::params![name, hour],
            )
            .unwrap();
        let minute = "INSERT INTO lookup_minutes VALUES (?1, ?2, ?2, '', x'', 0)";
        shell.execute(minute, [START.0 / 60_000_000 + n, n + 1]).unwrap();
    }
    let count = |table: &str| -> i64 {
        shell.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let mut upkeep = log.upkeep().unwrap();
    retain(&mut upkeep, &EVERYTHING, usize::MAX);
    assert_eq!((count("heartbeat_runs"), count("lookup_minutes")), (600, 600));
    let until = |hours: i64| Budgets {
        rollups_until: Timestamp(START.0 + hours * 3_600_000_000),
        ..EVERYTHING
    };
    retain(&mut upkeep, &until(4), usize::MAX);
    assert_eq!((count("heartbeat_runs"), count("lookup_minutes")), (400, 360));
    retain(&mut upkeep, &until(9), usize::MAX);
    assert_eq!((count("heartbeat_runs"), count("lookup_minutes")), (150, 60));
    assert!(upkeep.untold().unwrap().is_empty(), "roll-ups are no events");
}

/// The map of pages is broken where a block is: SQLite can't delete its row. The ones after it go all the same.
#[test]
fn damage_does_not_stop_retention() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut events = lookups(0..2_000);
    events[256..512].iter_mut().for_each(|event| event.trace = trace(9));
    log.append_traffic(&events).unwrap();
    drop(log);
    let mut bytes = std::fs::read(disk.database()).unwrap();
    // Its trace ids fill the better part of two pages.
    let page = bytes
        .chunks(4_096)
        .position(|page| page[0] == 0 && page.windows(512).any(|part| part == [9; 512]))
        .unwrap();
    // The map of pages, on the second one, holds five bytes for each page from the third on. It says that the page
    // after this one goes on with it; now it says nothing that SQLite knows.
    bytes[4_096 + 5 * (page + 2 - 3)] = 0;
    std::fs::write(disk.database(), bytes).unwrap();

    let mut log = disk.log();
    derived(&disk, 0, u64::MAX);
    let mut upkeep = log.upkeep().unwrap();
    let failures = (0..20).filter(|_| upkeep.retain(&NOTHING).is_err()).count();
    assert_eq!(failures, 0);
    assert_eq!(upkeep.retain(&NOTHING), Ok(None));
    assert_eq!(untold(&mut upkeep)["traffic"], (1, 1_792));
    let rows: String = disk
        .shell()
        .query_row(
            "SELECT group_concat(first) FROM (SELECT first FROM traffic ORDER BY first)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(
        rows, "257,1793",
        "the broken one, which is no part of the log any more, and the newest"
    );
    log.append_traffic(&lookups(2_000..2_001)).unwrap();
}

/// A page of the table itself is broken, so that its rows can't even be found.
#[test]
fn a_page_that_hides_blocks_stops_neither_retention_nor_sizes() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut events = lookups(0..4_000);
    events[2_048..2_304].iter_mut().for_each(|event| event.caller = "marked".into());
    log.append_traffic(&events).unwrap();
    drop(log);
    let mut bytes = std::fs::read(disk.database()).unwrap();
    let is_leaf = |page: &[u8]| page[0] == 13 && page.windows(6).any(|part| part == b"marked");
    let page = bytes.chunks(4_096).position(is_leaf).unwrap();
    bytes[4_096 * page..4_096 * (page + 1)].fill(0xff);
    std::fs::write(disk.database(), bytes).unwrap();

    let log = disk.log();
    derived(&disk, 0, u64::MAX);
    let sizes = Reader::open(&disk.database()).unwrap().sizes().unwrap();
    assert!(sizes.traffic > 0);
    let mut upkeep = log.upkeep().unwrap();
    let young = Budgets { traffic_until: lookup(300).at, ..EVERYTHING };
    retain(&mut upkeep, &young, 100);
    assert_eq!(untold(&mut upkeep)["traffic"], (1, 256));
    retain(&mut upkeep, &NOTHING, 100);
    assert_eq!(upkeep.retain(&NOTHING), Ok(None));
    assert_eq!(untold(&mut upkeep)["traffic"], (1, 3_840));
}

/// The map of pages is broken for the last one, which would have to move into a free place.
#[test]
fn a_page_that_can_not_be_moved_ends_the_return_of_space() {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append_traffic(&lookups(0..20_000)).unwrap();
    derived(&disk, 0, u64::MAX);
    drop(log);
    let mut bytes = std::fs::read(disk.database()).unwrap();
    let pages = bytes.len() / 4_096;
    // A map stands on page 2 and then after every 819 pages, five bytes for each.
    let map = 2 + (pages - 2) / 820 * 820;
    for page in pages - 8..pages {
        bytes[4_096 * (map - 1) + 5 * (page - map - 1)] = 0;
    }
    std::fs::write(disk.database(), bytes).unwrap();

    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    let old = Budgets { traffic_until: lookup(15_000).at, ..EVERYTHING };
    retain(&mut upkeep, &old, usize::MAX);
    assert!(open_reader(disk.dir()).unwrap().sizes().unwrap().free > 500_000);
    let slices = (0..100).take_while(|_| upkeep.reclaim().unwrap()).count();
    assert!(slices < 99, "it comes to an end, without an error");
    assert!(upkeep.memory_is_stuck());
    assert_eq!(upkeep.reclaim(), Ok(false), "and is not tried again");
    log.append_traffic(&lookups(20_000..20_001)).unwrap();
    retain(&mut upkeep, &NOTHING, 10);
}

#[test]
fn a_wal_that_a_burst_made_long_is_cut() {
    const KEPT: u64 = super::rows::WAL_BYTES_KEPT.unsigned_abs();
    let disk = Disk::new();
    let mut log = disk.log();
    let events = lookups(0..2_048);
    let wal = || {
        let mut path = disk.database().into_os_string();
        path.push("-wal");
        std::fs::metadata(path).unwrap().len()
    };
    // Somebody reads an old state meanwhile: nobody starts it anew before he is done.
    let reader = disk.shell();
    reader.execute_batch("BEGIN; SELECT next_traffic FROM log").unwrap();
    while wal() <= KEPT + (1 << 20) {
        log.append_traffic(&events).unwrap();
        assert!(log.next_number() < 4_000_000, "it never became so long: {}", wal());
    }
    drop(reader);
    // Hardly anything comes any more: it is cut all the same.
    let began = crate::clock::Stopwatch::start();
    while wal() > KEPT {
        log.append_traffic(&events[..1]).unwrap();
        assert!(began.elapsed().as_secs() < 20, "{} bytes", wal());
        std::thread::yield_now();
    }
}

#[test]
fn a_snapshot_ends_when_it_is_told_to_and_counts_for_nothing_then() {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append(Seq(0), &changes(1, 9)).unwrap();
    let mut upkeep = log.upkeep().unwrap();
    let stop = Arc::new(AtomicBool::new(true));
    upkeep.heed(Arc::clone(&stop));
    let apart = Millis::from_millis(u64::MAX);
    let mut write = |seq| upkeep.snapshot(Seq(seq), &mut std::iter::empty(), apart);
    write(7).unwrap_err();
    stop.store(false, SeqCst);
    assert_eq!(write(9).map(|written| written.seq), Ok(Seq(9)));
    assert_eq!(log.snapshots().unwrap(), [Seq(9)]);
}
