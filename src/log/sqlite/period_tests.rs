//! Periods of traffic that retention ends, because nothing comes that would: all of it goes in time, nothing is counted
//! twice, and the registrar's side begins a block of its own.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{Seq, Timestamp};
use crate::history::{Archive as _, EventQuery, Missing, Reason, TrafficQuery, Visit};
use crate::log::contract::{Disk, Place as _};
use crate::log::upkeep::{Budgets, Removed, Upkeep as _};
use crate::log::verify::verify;
use crate::log::{ChangeLog as _, TrafficLog as _};
use crate::testing::traffic::lookup;
use crate::testing::{START, cases, key};

/// Nothing is too old or too much.
const EVERYTHING: Budgets = Budgets {
    traffic_until: Timestamp(i64::MIN),
    traffic_bytes: u64::MAX,
    traffic_ended: Timestamp(i64::MIN),
    changes_until: Timestamp(i64::MIN),
    rollups_until: Timestamp(i64::MIN),
};

/// All traffic is too old.
const NO_TRAFFIC: Budgets = Budgets {
    traffic_until: Timestamp(i64::MAX),
    traffic_ended: Timestamp(i64::MAX),
    ..EVERYTHING
};

fn lookups(range: std::ops::Range<usize>) -> Vec<Traffic> {
    range.map(lookup).collect()
}

/// One turn of the keeper: derives, then retains; whether it ended a period.
fn turn(upkeep: &mut SqliteUpkeep, budgets: &Budgets) -> bool {
    while upkeep.derive().unwrap() {}
    loop {
        match upkeep.retain(budgets).unwrap() {
            Some(Removed::Ended) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

fn blocks(disk: &Disk) -> Vec<(i64, i64)> {
    let shell = disk.shell();
    let mut select = shell.prepare("SELECT first, count FROM traffic ORDER BY first").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn counted(archive: &SqliteArchive) -> u64 {
    let mut sum = 0;
    let mut add = |row: crate::history::LookupCount| {
        sum += row.count;
        Visit::Continue(())
    };
    archive.lookup_counts(&TrafficQuery::default(), &mut add).unwrap();
    sum
}

#[test]
fn a_silent_registry_forgets_in_time() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    let archive = SqliteArchive::open(log.path()).unwrap();
    log.append_traffic(&lookups(0..300)).unwrap();
    assert!(!turn(&mut upkeep, &EVERYTHING), "nobody wants it to go");
    assert_eq!(blocks(&disk), [(1, 256), (257, 44)]);
    let young = Budgets { traffic_ended: START, traffic_until: START, ..EVERYTHING };
    assert!(!turn(&mut upkeep, &young), "it is not that old");

    assert!(turn(&mut upkeep, &NO_TRAFFIC), "nothing will come that ends the period");
    assert_eq!(blocks(&disk).len(), 2, "it is not derived from yet");
    assert!(!turn(&mut upkeep, &NO_TRAFFIC));
    assert_eq!(blocks(&disk), []);
    assert!(!turn(&mut upkeep, &NO_TRAFFIC), "and there is no more to be done");
    let [told] = upkeep.untold().unwrap()[..] else { panic!("one of traffic") };
    assert_eq!((told.first, told.last), (1, 300));
    assert_eq!(counted(&archive), 300);
    let extent = archive.extent().unwrap();
    assert_eq!((extent.first_traffic, extent.last_traffic), (0, 300));
    let page = archive.events(&EventQuery { limit: 10, ..EventQuery::default() }).unwrap();
    assert_eq!((page.events.len(), &*page.missing[0].events), (0, "t1 to t300"));

    // The same connections go on with the next number, in a block of its own.
    log.append_traffic(&lookups(300..310)).unwrap();
    assert_eq!(blocks(&disk), [(301, 10)]);
    log.append_traffic(&lookups(310..320)).unwrap();
    assert_eq!(blocks(&disk), [(301, 20)]);
    drop((upkeep, log));
    // So does the next process, in which nobody knows of the seal.
    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    log.append_traffic(&lookups(320..321)).unwrap();
    assert!(turn(&mut upkeep, &NO_TRAFFIC) && !turn(&mut upkeep, &NO_TRAFFIC));
    assert_eq!((blocks(&disk), counted(&archive)), (vec![], 321));
    drop((upkeep, log));
    let report = verify(disk.dir(), |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[test]
fn a_small_budget_of_bytes_holds() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    log.append_traffic(&lookups(0..5_000)).unwrap();
    // All of it within one minute, and as young as can be.
    let small = Budgets { traffic_bytes: 20_000, ..EVERYTHING };
    assert!(turn(&mut upkeep, &small) && !turn(&mut upkeep, &small));
    let left = sizes::traffic(&disk.shell()).unwrap();
    assert!(left <= 20_000 && left > 0, "{left}");
    let enough = Budgets { traffic_bytes: 100_000, ..EVERYTHING };
    log.append_traffic(&lookups(5_000..5_600)).unwrap();
    assert!(!turn(&mut upkeep, &enough), "what is within the budget is left in peace");
}

/// A heartbeat of one of `lives`, a second after the one before.
fn beat(n: usize, lives: usize) -> Traffic {
    let key = key("orders", &format!("i{:04}", n * 11 % lives));
    let seconds = i64::try_from(n).unwrap() / 50;
    Traffic {
        at: Timestamp(START.0 + seconds * 1_000_000),
        namespace: Some(key.service.namespace),
        service: Some(key.service.service),
        instance: Some(key.instance),
        detail: Detail::Heartbeat {
            incarnation: Seq(1),
            load: None,
            health: None,
            note: None,
            baggage: None,
        },
        ..lookup(n)
    }
}

/// Everything but the newest goes, told or not; the answer knows from the very first on.
#[test]
fn the_beginning_of_what_went_is_remembered_longer_than_who_told_it() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    let archive = SqliteArchive::open(log.path()).unwrap();
    log.append_traffic(&lookups(0..600)).unwrap();
    for rest in [600, 900] {
        while turn(&mut upkeep, &NO_TRAFFIC) {}
        let [told] = upkeep.untold().unwrap()[..] else { panic!("one of traffic") };
        // By an event that has gone itself since.
        upkeep.told(&told, Seq(1)).unwrap();
        log.append_traffic(&lookups(rest..rest + 300)).unwrap();
    }
    let missing = |since: Option<Timestamp>| {
        let wanted = TrafficQuery { since, ..TrafficQuery::default() };
        archive.traffic(&wanted, &mut |_| Visit::Continue(())).unwrap()
    };
    let whole = Missing {
        from: lookup(0).at,
        until: lookup(900).at,
        reason: Reason::Retention,
        events: "t1 to t900".into(),
    };
    assert_eq!(missing(None), std::slice::from_ref(&whole));
    // Asked for more than there ever was.
    assert_eq!(missing(Some(Timestamp(START.0 - 1_000))), std::slice::from_ref(&whole));
    let some = Missing { from: lookup(700).at, ..whole };
    assert_eq!(missing(Some(lookup(700).at)), [some]);
}

/// How often each life beat, by the roll-ups.
fn beats(disk: &Disk) -> BTreeMap<String, i64> {
    let shell = disk.shell();
    let sql = "SELECT instance, sum(count) FROM heartbeat_runs GROUP BY 1";
    let mut select = shell.prepare(sql).unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The runs of the ended period are in the file in part when the process ends, and more comes before the next one has
/// read them again.
#[test]
fn a_period_stays_where_it_was_ended() {
    let disk = Disk::new();
    let mut log = disk.log();
    let mut upkeep = log.upkeep().unwrap();
    let append = |log: &mut SqliteLog, range: std::ops::Range<usize>| {
        log.append_traffic(&range.map(|n| beat(n, 700)).collect::<Vec<_>>()).unwrap();
    };
    append(&mut log, 0..700);
    while upkeep.derive().unwrap() {}
    while upkeep.retain(&NO_TRAFFIC).unwrap().is_some() {}
    let ended = |disk: &Disk| -> i64 {
        disk.shell().query_row("SELECT ended_traffic FROM log", [], |row| row.get(0)).unwrap()
    };
    while beats(&disk).is_empty() {
        upkeep.derive().unwrap();
    }
    assert!(beats(&disk).len() < 700, "in part");
    append(&mut log, 700..1_400);
    let mut upkeep = log.upkeep().unwrap();
    while upkeep.retain(&NO_TRAFFIC).unwrap().is_some() {}
    assert_eq!(ended(&disk), 700);
    while turn(&mut upkeep, &NO_TRAFFIC) {}
    assert_eq!(ended(&disk), 1_400);
    let beats = beats(&disk);
    assert!(beats.len() == 700 && beats.values().all(|count| *count == 2), "{beats:?}");
}

proptest! {
    #![proptest_config(cases(16))]

    /// Traffic between the slices of deriving; processes that end in the middle of them; periods that are ended
    /// anywhere. More lives than runs that one slice writes.
    #[test]
    fn nothing_is_counted_twice_and_nothing_is_left_out(
        steps in prop::collection::vec((1_usize..900, 0_usize..12, any::<bool>()), 1..8),
    ) {
        let lives = 700;
        let disk = Disk::new();
        let mut log = disk.log();
        let mut upkeep = log.upkeep().unwrap();
        let mut total = 0;
        for (more, slices, ends) in steps {
            let beats: Vec<Traffic> = (total..total + more).map(|n| beat(n, lives)).collect();
            log.append_traffic(&beats).unwrap();
            total += more;
            if ends {
                while upkeep.retain(&NO_TRAFFIC).unwrap().is_some() {}
            }
            for _ in 0..slices {
                upkeep.derive().unwrap();
            }
            // What it had in memory is lost.
            upkeep = log.upkeep().unwrap();
        }
        while turn(&mut upkeep, &NO_TRAFFIC) {}
        prop_assert_eq!(blocks(&disk), []);
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for n in 0..total {
            *expected.entry(format!("i{:04}", n * 11 % lives)).or_default() += 1;
        }
        prop_assert_eq!(beats(&disk), expected);
        prop_assert_eq!(log.head(), Seq(0));
    }
}
