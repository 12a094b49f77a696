//! Snapshots in real files: whatever happens to one, it is noticed, and the past is told all the same.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::snapshots::{self, SPACING};
use super::*;
use crate::domain::{Change, Millis, Seq, Timestamp};
use crate::history::{Archive, Error, Moment, Version};
use crate::log::contract::{Disk, Place, changes, changes_of, states_of};
use crate::log::snapshot::{Part, Snapshot, encode};
use crate::log::verify::verify;
use crate::log::{ChangeLog, ReadError};
use crate::testing::cases;
use crate::testing::history::histories;

/// Writes a snapshot as the keeper does.
pub(crate) fn put_snapshot(connection: &mut Connection, snapshot: &Snapshot) {
    let seq = snapshot.registry.head();
    snapshots::write(connection, seq, &mut snapshot.services()).unwrap();
}

/// A log of these changes with snapshots of these versions.
fn log_with(changes: &[Arc<Change>], states: &[Snapshot], of: &[usize]) -> (Disk, SqliteLog) {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append(Seq(0), changes).unwrap();
    of.iter().for_each(|seq| disk.put_snapshot(&states[*seq]));
    (disk, log)
}

/// Some dozens of changes in which most kinds of event are.
fn changes_of_a_history() -> Vec<Arc<Change>> {
    let mut runner = TestRunner::new(cases(1));
    loop {
        let history = histories(120).new_tree(&mut runner).unwrap().current();
        let changes = changes_of(&history);
        if changes.len() > 60 {
            return changes;
        }
    }
}

/// Lets the changes up to `seq` go, as retention does.
fn truncate(disk: &Disk, seq: u64) {
    let shell = disk.shell();
    let seq = seq.cast_signed();
    shell.execute("DELETE FROM changes WHERE seq <= ?", [seq]).unwrap();
    shell.execute("UPDATE log SET first_seq = ? + 1", [seq]).unwrap();
}

/// Changes one byte of one cell of a row of a snapshot; whether the file is another one now.
fn harm(disk: &Disk, seq: u64, column: usize, byte: usize, bit: u8) -> String {
    const HEADER: [&str; 8] =
        ["at", "next_traffic", "services", "instances", "digest", "bytes", "complete", "checksum"];
    const PART: [&str; 8] =
        ["namespace", "service", "revision", "part", "parts", "format", "checksum", "instances"];
    let shell = disk.shell();
    let (table, column) = match HEADER.get(column) {
        Some(column) => ("snapshots", *column),
        None => ("snapshot_services", PART[column - HEADER.len()]),
    };
    let find = format!("SELECT rowid, {column} FROM {table} WHERE seq = ? LIMIT 1");
    let (row, cell): (i64, Value) =
        shell.query_row(&find, [seq.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let harmed = match cell {
        Value::Integer(number) => Value::Integer(number ^ (1 << bit)),
        Value::Text(text) if text.is_empty() => Value::Text("x".to_owned()),
        Value::Text(text) => {
            let mut bytes = text.into_bytes();
            let position = byte % bytes.len();
            bytes[position] ^= 1 << (bit % 8);
            // As the file would say it: a text, whatever its bytes are.
            let cast = format!("UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE rowid = ?");
            shell.execute(&cast, rusqlite::params![bytes, row]).unwrap();
            return column.to_owned();
        }
        other => panic!("{other:?}"),
    };
    let update = format!("UPDATE {table} SET {column} = ? WHERE rowid = ?");
    shell.execute(&update, rusqlite::params![harmed, row]).unwrap();
    column.to_owned()
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_harmed_snapshot_is_noticed_and_the_one_before_it_used(
        history in histories(30),
        column in 0_usize..16,
        byte: usize,
        bit in 0_u8..40,
    ) {
        let changes = changes_of(&history);
        prop_assume!(changes.len() >= 4);
        let states = states_of(&changes);
        let (early, late) = (changes.len() / 2, changes.len() - 1);
        prop_assume!(states[late].registry.service_count() > 0);
        let (disk, mut log) = log_with(&changes, &states, &[early, late]);
        let column = harm(&disk, late as u64, column, byte, bit);
        match log.snapshot(Seq(late as u64)) {
            Err(ReadError::Damaged { place, .. }) => prop_assert_eq!(place, format!("snapshot {late}")),
            // Then it is unfinished, to all that can be seen.
            Ok(None) => prop_assert_eq!(&column, "complete"),
            other => prop_assert!(column == "complete", "{}: {:?}", column, other),
        }
        prop_assert_eq!(&log.snapshot(Seq(early as u64)).unwrap().unwrap().registry, &states[early].registry);
        let archive = SqliteArchive::open(&disk.database()).unwrap();
        for at in [late, changes.len()] {
            let whole = &states[at].registry;
            prop_assert_eq!(&archive.state(Seq(at as u64)).unwrap(), whole);
            for change in &changes {
                let Some(key) = change.event.key() else { continue };
                let told = archive.service(&key.service, Seq(at as u64)).unwrap();
                prop_assert_eq!(told.as_ref(), whole.service(&key.service), "{}", column);
            }
        }
    }

}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn every_version_is_told_from_the_nearest_snapshot(
        history in histories(40),
        of in proptest::collection::btree_set(1_usize..40, 0..4),
        cut: bool,
    ) {
        let changes = changes_of(&history);
        let of: Vec<usize> = of.into_iter().filter(|seq| *seq <= changes.len()).collect();
        prop_assume!(!changes.is_empty());
        let states = states_of(&changes);
        let (disk, mut log) = log_with(&changes, &states, &of);
        let base = if cut { of.first().copied().unwrap_or(0) } else { 0 };
        truncate(&disk, base as u64);
        prop_assert_eq!(log.first().unwrap(), Seq(base as u64 + 1));
        let archive = SqliteArchive::open(&disk.database()).unwrap();
        let extent = archive.extent().unwrap();
        prop_assert_eq!((extent.oldest.seq.0, extent.newest.seq.0), (base as u64, changes.len() as u64));
        for (seq, state) in states.iter().enumerate() {
            let (at, told) = (Seq(seq as u64), archive.state(Seq(seq as u64)));
            let version = archive.version(Moment::Version(at));
            if seq < base {
                prop_assert_eq!(told, Err(Error::Gone { oldest: extent.oldest }));
                prop_assert_eq!(version, Err(Error::Gone { oldest: extent.oldest }));
                continue;
            }
            prop_assert_eq!(&told.unwrap(), &state.registry);
            let began = state.registry.at();
            prop_assert_eq!(version, Ok(Version { seq: at, at: began }));
            // Of several changes at one instant the last counts.
            let last = states.iter().rposition(|other| other.registry.at() == began).unwrap();
            let version = archive.version(Moment::At(began)).unwrap();
            prop_assert_eq!(version.seq, Seq(last as u64));
            for (key, service) in state.registry.services() {
                let told = archive.service(key, at).unwrap();
                prop_assert_eq!(told.as_ref(), Some(service));
            }
            let known = |key: &crate::domain::ServiceKey| state.registry.service(key).is_some();
            for change in &changes {
                let Some(key) = change.event.key().filter(|key| !known(&key.service)) else { continue };
                prop_assert_eq!(archive.service(&key.service, at).unwrap(), None);
            }
        }
        if base > 0 {
            let before = Timestamp(extent.oldest.at.0 - 1);
            prop_assert_eq!(archive.version(Moment::At(before)), Err(Error::Gone { oldest: extent.oldest }));
        }
        let beyond = Seq(changes.len() as u64 + 1);
        prop_assert_eq!(archive.state(beyond), Err(Error::Ahead { newest: extent.newest }));
    }
}

/// Bytes of the file itself, wherever they stand: what is told is right or is an error.
#[test]
fn flipped_bytes_of_the_file_give_no_wrong_state() {
    let history = changes_of_a_history();
    let states = states_of(&history);
    let (early, late) = (history.len() / 2, history.len() - 1);
    let (disk, mut log) = log_with(&history, &states, &[early, late]);
    crate::log::Log::end(&mut log).unwrap();
    drop(log);
    let whole = std::fs::read(disk.database()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join(FILE);
    let mut random = fastrand::Rng::with_seed(7);
    let mut noticed = 0;
    for _ in 0..400 {
        let mut damaged = whole.clone();
        // Beyond the first page, which says what kind of file it is.
        let position = random.usize(4_096..damaged.len());
        damaged[position] ^= 1 << random.u8(0..8);
        std::fs::write(&path, &damaged).unwrap();
        let Ok(archive) = SqliteArchive::open(&path) else { continue };
        let Ok(reader) = open_reader(&path) else { continue };
        match reader.snapshot(Seq(late as u64)) {
            Ok(Some(snapshot)) => assert_eq!(snapshot, states[late]),
            _ => noticed += 1,
        }
        if let Ok(told) = archive.state(Seq(late as u64)) {
            assert_eq!(told, states[late].registry);
        }
    }
    assert!(noticed > 8, "of 400 flips only {noticed} were noticed");
}

#[test]
fn a_log_that_stands_on_no_whole_snapshot_is_not_made_up() {
    let history = changes(1, 9);
    let states = states_of(&history);
    let (disk, _log) = log_with(&history, &states, &[4, 6]);
    truncate(&disk, 4);
    disk.shell().execute("UPDATE snapshots SET checksum = checksum + 1", []).unwrap();
    let archive = SqliteArchive::open(&disk.database()).unwrap();
    for told in [archive.state(Seq(7)).map(drop), archive.state(Seq(5)).map(drop)] {
        assert!(
            matches!(&told, Err(Error::Unreadable(why)) if why.contains("before 5")),
            "{told:?}"
        );
    }
    let damaged = snapshots::horizon(&disk.shell(), Timestamp(i64::MAX)).unwrap();
    assert_eq!(damaged, None, "nothing may stand on a damaged one");
    disk.shell().execute("UPDATE snapshots SET checksum = checksum - 1", []).unwrap();
    assert_eq!(archive.state(Seq(7)).unwrap(), states[7].registry);
    let until = |seq: usize| {
        let at = states[seq].registry.at();
        snapshots::horizon(&disk.shell(), at).unwrap().map(|(seq, _)| seq)
    };
    assert_eq!([until(9), until(6), until(5)], [Some(Seq(6)), Some(Seq(6)), None]);
}

#[test]
fn verify_compares_each_snapshot_with_what_folding_gives() {
    let history = changes_of_a_history();
    let states = states_of(&history);
    let (early, late) = (history.len() / 3, history.len() * 2 / 3);
    let (disk, _log) = log_with(&history, &states, &[early, late]);
    let findings = || -> Vec<String> {
        let report = verify(disk.dir(), |_| {}).unwrap();
        report.findings.into_iter().map(|finding| finding.place).collect()
    };
    assert_eq!(findings(), [""; 0]);
    let report = verify(disk.dir(), |_| {}).unwrap();
    assert_eq!((report.first, report.snapshots), (1, 2));

    // A whole one with the content of another version.
    let mut shell = disk.shell();
    shell.execute("DELETE FROM snapshots WHERE seq = ?", [late.cast_signed()]).unwrap();
    let other = &states[early];
    snapshots::write(&mut shell, Seq(late as u64), &mut other.services()).unwrap();
    assert_eq!(findings(), [format!("snapshot {late}")]);

    truncate(&disk, early as u64);
    assert_eq!(findings(), [format!("snapshot {late}")], "the kept changes stand on a snapshot");
    harm(&disk, early as u64, 4, 3, 2);
    let base = format!("snapshot {early}");
    let state = format!("the state before change {}", early + 1);
    assert!(findings().starts_with(&[base, state]), "{:?}", findings());
}

#[test]
fn a_large_service_has_several_parts_and_misses_none_of_them() {
    use crate::domain::{Instance, Labels, Registry, registry::Service};
    use crate::testing::{key, metadata, register};
    let long = "x".repeat(2_000);
    let instances = (0..400).map(|n| {
        let key = key("orders", &format!("i{n:03}"));
        let register = register(&key);
        let instance = Instance {
            key,
            incarnation: Seq(n + 1),
            endpoint: register.endpoint,
            labels: Labels::new::<&str>(None, None, &[], &metadata(&[("long", &long)])),
            weight: 1,
            mode: crate::domain::Mode::Active,
            drain_until: None,
            status: crate::domain::Status::Healthy,
            signals: crate::domain::Signals::default(),
            ttl: register.ttl,
            detector: register.detector,
            check: None,
            registered_at: Timestamp(1),
            revision: Seq(1),
        };
        Arc::new(instance)
    });
    let service = Service { revision: Seq(1), instances: instances.collect() };
    let key = key("orders", "x").service;
    let at = changes(1, 1)[0].at;
    let registry = Registry::from_parts(Seq(1), at, [(key.clone(), service.clone())]);
    let state = Snapshot { registry, next_traffic: 1, ..Snapshot::default() };
    let parts: Vec<Part> = encode(Seq(1), &state.services().next().unwrap());
    assert!(parts.len() > 4 && parts.iter().all(|part| part.instances.len() < 140_000));

    let (disk, mut log) = log_with(&changes(1, 1), &[state.clone(), state.clone()], &[1]);
    let read = log.snapshot(Seq(1)).unwrap().unwrap();
    assert_eq!(read.registry, state.registry);
    assert_eq!(read.lives.len(), 400);
    let reader = open_reader(disk.dir()).unwrap();
    let of = |reader: &Reader| reader.snapshot_service(Seq(1), &key);
    assert_eq!(of(&reader).unwrap().unwrap().1, Some(service));
    for gone in ["part = 2", "part = parts - 1", "part = 0"] {
        let delete = format!("DELETE FROM snapshot_services WHERE {gone}");
        disk.shell().execute(&delete, []).unwrap();
        assert!(matches!(of(&reader), Err(ReadError::Damaged { .. })), "{gone}");
        assert!(matches!(log.snapshot(Seq(1)), Err(ReadError::Damaged { .. })), "{gone}");
    }
    disk.shell().execute("DELETE FROM snapshot_services", []).unwrap();
    assert!(
        matches!(of(&reader), Err(ReadError::Damaged { .. })),
        "a service that was there is missing"
    );
}

#[test]
fn what_a_crash_left_of_a_snapshot_is_removed() {
    let history = changes(1, 9);
    let states = states_of(&history);
    let (disk, mut log) = log_with(&history, &states, &[4]);
    let mut shell = disk.shell();
    // A trigger stops it in the middle, as a full disk would: at the header that would make it count.
    shell
        .execute_batch(
            "CREATE TRIGGER no BEFORE UPDATE ON snapshots BEGIN SELECT RAISE(ABORT, 'no luck'); END",
        )
        .unwrap();
    let failed = snapshots::write(&mut shell, Seq(8), &mut states[8].services());
    assert!(failed.is_err());
    shell.execute_batch("DROP TRIGGER no").unwrap();
    assert_eq!(log.snapshots().unwrap(), [Seq(4)]);
    shell
        .execute("INSERT INTO snapshot_services VALUES (7, 'a', 'b', 1, 0, 1, 1, 0, '[]')", [])
        .unwrap();
    snapshots::write(&mut shell, Seq(9), &mut states[9].services()).unwrap();
    assert_eq!(log.snapshots().unwrap(), [Seq(4), Seq(9)]);
    let left: Vec<i64> = shell
        .prepare(
            "SELECT DISTINCT seq FROM snapshots UNION SELECT DISTINCT seq FROM snapshot_services",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(left.iter().all(|seq| [4, 9].contains(seq)), "{left:?}");
    let again = snapshots::write(&mut shell, Seq(9), &mut states[9].services()).unwrap();
    assert_eq!(again.seq, Seq(9), "one that is there is not written again");
}

#[test]
fn snapshots_are_kept_so_that_every_instant_is_near_one() {
    // As they come, one every 30,000 changes, pruned each time.
    let pruned = |each: u64, hours: i64, apart: u64| {
        let mut there: Vec<(Seq, Timestamp)> = Vec::new();
        for turn in 1..=100_i64 {
            let seq = turn.unsigned_abs() * each;
            there.push((Seq(seq), Timestamp(turn * hours * 3_600_000_000)));
            there = snapshots::kept(&there, Millis::from_millis(apart.saturating_mul(3_600_000)));
            assert_eq!(there[0].0, Seq(each), "the changes stand on the oldest");
            assert!(there.windows(2).all(|pair| pair[1].0.0 - pair[0].0.0 <= SPACING), "{there:?}");
            assert!(there.len() as u64 <= turn.unsigned_abs() * each * 3 / 2 / SPACING + 20);
        }
        assert_eq!(
            there[there.len() - 2..].iter().map(|one| one.0.0).collect::<Vec<_>>(),
            [99 * each, 100 * each]
        );
        there
    };
    assert!(pruned(30_000, 1, u64::MAX).len() < 40);
    // In a quiet registry they are not far apart in time either.
    let quiet = pruned(10, 1, 8);
    let hours = |pair: &[(Seq, Timestamp)]| (pair[1].1.0 - pair[0].1.0) / 3_600_000_000;
    assert!(quiet.windows(2).all(|pair| hours(pair) <= 8) && quiet.len() < 20, "{quiet:?}");
    assert_eq!(pruned(10, 1, u64::MAX).len(), 3);

    let history = changes(1, 9);
    let (disk, mut log) = log_with(&history, &states_of(&history), &[2, 3, 4, 6, 8]);
    let mut shell = disk.shell();
    truncate(&disk, 4);
    snapshots::prune(&mut shell, Millis::from_millis(u64::MAX)).unwrap();
    assert_eq!(log.snapshots().unwrap(), [Seq(4), Seq(6), Seq(8)]);
    let rows: i64 = shell
        .query_row("SELECT count(*) FROM snapshots WHERE seq < 4", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "what leads nowhere goes");
}
