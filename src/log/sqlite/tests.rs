//! What only the log on disk can do: refuse files, notice damage, survive a statement that fails, and be
//! read with a shell.

use proptest::prelude::*;
use rusqlite::{Connection, OpenFlags};

use super::*;
use crate::domain::{Command, Seq};
use crate::history::Archive as _;
use crate::log::contract::{Disk, Place, changes, changes_of};
use crate::log::{
    AppendError, ChangeLog, Log, ReadError, TrafficLog, blocks, codec, verify::verify,
};
use crate::rfc3339;
use crate::testing::archive::Past;
use crate::testing::history::histories;
use crate::testing::traffic::{as_digits, lookup, traffic};
use crate::testing::{cases, key, register};

fn refusal(dir: &Path) -> OpenError {
    SqliteLog::open(dir, Synchronous::Full, "node").expect_err("it must be refused")
}

#[test]
fn a_directory_belongs_to_one_process() {
    let disk = Disk::new();
    let log = disk.log();
    assert!(matches!(refusal(disk.dir()), OpenError::Locked { .. }));
    drop(log);
    drop(disk.log());
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let disk = Disk::new();
    drop(disk.log());
    disk.shell()
        .execute(
            "INSERT INTO refinery_schema_history VALUES (999, 'from_tomorrow', 'then', '1')",
            [],
        )
        .unwrap();
    let before = std::fs::read(disk.database()).unwrap();
    assert!(matches!(refusal(disk.dir()), OpenError::Newer { found: 999, .. }));
    assert!(matches!(open_reader(disk.dir()), Err(OpenError::Newer { found: 999, .. })));
    assert!(std::fs::read(disk.database()).unwrap() == before);
}

/// A bit that flipped in the notes of the migrations: the runner trusts them.
#[test]
fn a_note_of_a_migration_that_cannot_be_read_is_refused() {
    for damage in [
        "applied_on = replace(applied_on, '-', '.')",
        "applied_on = substr(applied_on, 1, 8) || '41' || substr(applied_on, 11)",
        "applied_on = ''",
        "checksum = checksum || 'x'",
    ] {
        let disk = Disk::new();
        drop(disk.log());
        let damage = format!("UPDATE refinery_schema_history SET {damage} WHERE version = 2");
        assert_eq!(disk.shell().execute(&damage, []).unwrap(), 1);
        let refusal = refusal(disk.dir());
        assert!(matches!(refusal, OpenError::Note { version: 2, .. }), "{damage}: {refusal}");
    }
}

/// A bit that flipped in the definition of a table is told before anything is read with it, also where SQLite would see
/// nothing wrong; an index of somebody's own is left alone.
#[test]
fn a_definition_that_is_not_as_it_was_made_is_refused() {
    for (was, is, name) in [
        ("next_traffic INTEGER", "oext_traffic INTEGER", "table snapshots"),
        (
            "first_traffic    INTEGER NOT NULL DEFAULT 1",
            "first_traffic    INTEGER NOT NULL DEFAULT 3",
            "table log",
        ),
        ("CREATE VIEW events (id", "CREATE VIEW events (ie", "view events"),
    ] {
        let disk = Disk::new();
        drop(disk.log());
        let shell = disk.shell();
        shell.execute("CREATE INDEX mine ON changes (at)", []).unwrap();
        assert!(open_reader(disk.dir()).is_ok(), "what was added is no damage");
        let damage =
            "UPDATE sqlite_schema SET sql = replace(sql, ?1, ?2) WHERE type || ' ' || name = ?3";
        shell.pragma_update(None, "writable_schema", true).unwrap();
        assert_eq!(shell.execute(damage, [was, is, name]).unwrap(), 1, "{name}");
        let definition = "SELECT instr(sql, ?1) FROM sqlite_schema WHERE type || ' ' || name = ?2";
        let place: i64 = shell.query_row(definition, [is, name], |row| row.get(0)).unwrap();
        assert!(place > 0, "{name} has no {was}");
        drop(shell);
        let named = |refusal: OpenError| match refusal {
            OpenError::Schema { object, version: 5, .. } => object,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(named(open_reader(disk.dir()).unwrap_err()), name);
        assert_eq!(named(refusal(disk.dir())), name);
    }
}

/// A log as each older program left it: what needs its schema of today says so with the remedy, and what does not need it
/// works; so does the remedy.
#[test]
fn an_older_schema_is_refused_where_it_lacks_what_is_asked() {
    let known = migrations::runner().get_migrations().len();
    for found in 1..known {
        let (newest, disk) = (Disk::new(), Disk::new());
        let mut past = Past::new();
        for instance in ["a", "b", "c"] {
            past.happens(&Command::Register(register(&key("orders", instance))));
        }
        let changes: Vec<_> = past.changes.into_iter().map(std::sync::Arc::new).collect();
        let mut log = newest.log();
        log.append(Seq(0), &changes).unwrap();
        log.append_traffic(&[lookup(0)]).unwrap();
        drop(log);
        let mut shell = Connection::open(disk.database()).unwrap();
        shell.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        let target = refinery::Target::Version(found.try_into().unwrap());
        migrations::runner().set_target(target).run(&mut shell).unwrap();
        let newest = newest.database().display().to_string();
        shell.execute("ATTACH ? AS newest", [newest]).unwrap();
        shell
            .execute_batch(
                "INSERT INTO log (one, id, next_seq, next_traffic, clean)
                     SELECT one, id, next_seq, next_traffic, clean FROM newest.log;
                 INSERT INTO changes SELECT * FROM newest.changes;
                 INSERT INTO traffic SELECT * FROM newest.traffic",
            )
            .unwrap();
        // As those programs wrote it.
        let mut written = rows::blocks_among(&shell, 1, 1).unwrap();
        let block = written.pop().expect("there is traffic");
        rows::put_block(&mut shell.prepare_cached(rows::PUT_BLOCK).unwrap(), &as_digits(&block))
            .unwrap();
        drop(shell);

        let mut lines = Vec::new();
        let everything = Range { from: None, to: None, without_traffic: false };
        let refusals = [
            SqliteArchive::open(&disk.database()).unwrap_err().to_string(),
            export(disk.dir(), everything, &mut lines, &mut |_| ()).unwrap_err().to_string(),
        ];
        for refusal in refusals {
            let versions = format!("has schema version {found}, this reads version {known}: start");
            assert!(refusal.contains(&versions) && refusal.contains("restore"), "{refusal}");
        }
        assert!(lines.is_empty());

        let other = tempfile::TempDir::new().unwrap();
        let (file, dir) = (other.path().join("copy.db"), other.path().join("data"));
        assert!(verify(&disk.database(), |_| ()).unwrap().is_clean());
        backup(disk.dir(), &file, false, &mut |_, _| ()).unwrap();
        assert_eq!(restore(&file, &dir, &mut |_, _| ()).unwrap().head, 3);
        drop(disk.log());
        for brought_up in [database_of(&dir), disk.database()] {
            let history = SqliteArchive::open(&brought_up).unwrap();
            assert_eq!(history.extent().unwrap().newest.seq, Seq(3));
        }
        // The block stays as it was, new ones come after it, and the view shows both.
        disk.log().append_traffic(&[lookup(1)]).unwrap();
        let written = rows::blocks_among(&disk.shell(), 1, 2).unwrap();
        let packed: Vec<bool> = written.iter().map(blocks::Block::is_packed).collect();
        assert_eq!(packed, [false, true]);
        let shown = shown(&disk.shell());
        let filters = shown[3..].iter().map(|(_, data)| data["filter"].as_str().unwrap());
        assert!(filters.eq(["tag=0", "tag=1"]), "{shown:?}");
        assert!(verify(&disk.database(), |_| ()).unwrap().is_clean());
    }
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let disk = Disk::new();
    disk.shell().execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    let before = std::fs::read(disk.database()).unwrap();
    assert!(matches!(refusal(disk.dir()), OpenError::Foreign { .. }));
    assert!(std::fs::read(disk.database()).unwrap() == before);

    std::fs::write(disk.database(), "a shopping list, longer than the header of a database is")
        .unwrap();
    assert!(matches!(refusal(disk.dir()), OpenError::Sqlite { .. }));
}

#[test]
fn the_file_is_set_up_for_what_comes_later() {
    let disk = Disk::new();
    let log = disk.log();
    assert_eq!(uuid::Uuid::parse_str(log.id()).map(|id| id.get_version_num()), Ok(4));
    let shell = disk.shell();
    let pragma = |name: &str| -> String {
        shell
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(
        pragma("auto_vacuum"),
        "Integer(2)",
        "incremental; later it would need a full VACUUM"
    );
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
}

/// A trigger makes a statement in the middle of the transaction fail, as a full disk would.
#[test]
fn an_append_that_fails_half_way_leaves_nothing_and_the_next_one_its_number() {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append(Seq(0), &changes(1, 1)).unwrap();
    log.append_traffic(&[lookup(0)]).unwrap();
    let shell = disk.shell();
    let fail = "CREATE TRIGGER c BEFORE INSERT ON changes WHEN NEW.seq = 3 BEGIN SELECT RAISE(ABORT, 'no luck'); END;
         CREATE TRIGGER t BEFORE INSERT ON traffic WHEN NEW.first = 258 BEGIN SELECT RAISE(ABORT, 'no luck'); END";
    shell.execute_batch(fail).unwrap();
    // After a failure a new block begins, at 2: the second one of these begins at 258.
    for _ in 0..2 {
        let refused = log.append(Seq(1), &changes(2, 3));
        assert_eq!(refused, Err(AppendError::Unavailable { cause: "no luck".into() }));
        assert_eq!(log.read(Seq(2), 9), Ok(vec![]));
        let many: Vec<_> = (1..300).map(lookup).collect();
        let refused = log.append_traffic(&many);
        assert_eq!(refused, Err(AppendError::Unavailable { cause: "no luck".into() }));
        assert_eq!((log.next_number(), log.read_back(9, 9).unwrap().len()), (2, 1));
    }
    shell.execute_batch("DROP TRIGGER c; DROP TRIGGER t").unwrap();
    log.append(Seq(1), &changes(2, 3)).unwrap();
    log.append_traffic(&[lookup(1)]).unwrap();
    assert_eq!((log.head(), log.next_number()), (Seq(4), 3));
    assert_eq!(log.read(Seq(1), 9).unwrap().len(), 4);
    let numbers = log.read_back(3, 600).unwrap().into_iter().map(|event| event.number);
    assert!(numbers.eq([2, 1]));
}

/// The directory is moved away under the log: then nobody can look what became of the batch.
#[test]
fn what_can_not_be_looked_up_is_unknown_until_it_can() {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append(Seq(0), &changes(1, 1)).unwrap();
    let fail =
        "CREATE TRIGGER c BEFORE INSERT ON changes BEGIN SELECT RAISE(ABORT, 'no luck'); END";
    disk.shell().execute_batch(fail).unwrap();
    let away = disk.dir().join("away");
    std::fs::rename(disk.database(), &away).unwrap();
    let batch = changes(2, 1);
    for outcome in [log.append(Seq(1), &batch), log.resolve(Seq(1), &batch)] {
        let Err(AppendError::Unknown { cause }) = outcome else { panic!("{outcome:?}") };
        assert!(cause.contains("unable to open"), "{cause}");
    }
    assert!(log.read(Seq(1), 9).is_err(), "an empty answer would be a lie");
    assert!(!disk.database().exists(), "no empty database takes its place");
    std::fs::rename(&away, disk.database()).unwrap();
    assert!(matches!(log.resolve(Seq(1), &batch), Err(AppendError::Unavailable { .. })));
    disk.shell().execute_batch("DROP TRIGGER c").unwrap();
    log.append(Seq(1), &batch).unwrap();
    assert_eq!(log.read(Seq(2), 9).unwrap().len(), 1);
}

#[test]
fn damage_is_reported_with_its_place() {
    let disk = Disk::new();
    let mut log = disk.log();
    log.append(Seq(0), &changes(1, 3)).unwrap();
    log.append_traffic(&(0..300).map(lookup).collect::<Vec<_>>()).unwrap();
    let shell = disk.shell();
    shell
        .execute("UPDATE changes SET data = replace(data, 'number', 'nUmber') WHERE seq = 2", [])
        .unwrap();
    shell
        .execute("UPDATE traffic SET returned = CAST(x'31' || substr(returned, 2) AS BLOB) WHERE first = 257", [])
        .unwrap();

    assert_eq!(log.read(Seq(1), 1).unwrap().len(), 1, "what comes before can be read");
    let Err(ReadError::Damaged { place, what }) = log.read(Seq(1), 9) else {
        panic!("not noticed")
    };
    assert_eq!(place, "change 2");
    assert!(what.starts_with("checksum"), "{what}");
    let Err(ReadError::Damaged { place, .. }) = log.read_back(301, 9) else {
        panic!("not noticed")
    };
    assert_eq!(place, "the traffic block from t257");
    assert_eq!(log.read_back(257, 300).unwrap().len(), 256);

    let report = verify(disk.dir(), |_| {}).unwrap();
    let places: Vec<&str> = report.findings.iter().map(|finding| &*finding.place).collect();
    assert!(
        places.contains(&"change 2") && places.contains(&"the traffic block from t257"),
        "{places:?}"
    );
}

#[test]
fn a_log_row_that_no_registry_wrote_is_an_error() {
    let disk = Disk::new();
    drop(disk.log());
    disk.shell().execute("UPDATE log SET next_seq = 0", []).unwrap();
    assert!(matches!(refusal(disk.dir()), OpenError::Sqlite { .. }));
}

#[test]
fn the_last_block_is_written_again_until_it_is_full() {
    let disk = Disk::new();
    let mut log = disk.log();
    let shell = disk.shell();
    let blocks = || -> Vec<(i64, i64)> {
        let mut select = shell.prepare("SELECT first, count FROM traffic ORDER BY first").unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let mut append = |count| log.append_traffic(&vec![lookup(0); count]).unwrap();
    append(1);
    append(254);
    assert_eq!(blocks(), [(1, 255)]);
    append(2);
    assert_eq!(blocks(), [(1, 256), (257, 1)]);
    append(511);
    assert_eq!(blocks(), [(1, 256), (257, 256), (513, 256)]);
    drop(log);
    disk.log().append_traffic(&[lookup(0)]).unwrap();
    assert_eq!(blocks()[3..], [(769, 1)], "another run begins a block of its own");
}

/// One row of the view `events`, as a shell shows it, but for `data`.
type Shown = [Option<String>; 11];

fn shown(shell: &Connection) -> Vec<(Shown, serde_json::Value)> {
    let mut select = shell
        .prepare(
            "SELECT id, seq, at, kind, namespace, service, instance, caller, trace_id, span_id, cause, data
             FROM events ORDER BY id GLOB 't*', CAST(ltrim(id, 't') AS INTEGER)",
        )
        .unwrap();
    let rows = select.query_map([], |row| {
        let mut texts = Shown::default();
        for (column, text) in texts.iter_mut().enumerate() {
            let value: rusqlite::types::Value = row.get(column)?;
            *text = match value {
                rusqlite::types::Value::Null => None,
                rusqlite::types::Value::Integer(number) => Some(number.to_string()),
                rusqlite::types::Value::Text(text) => Some(text),
                other => panic!("{other:?}"),
            };
        }
        let data: String = row.get(11)?;
        Ok((texts, serde_json::from_str(&data).unwrap()))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

proptest! {
    #![proptest_config(cases(12))]

    /// Whoever opens the file with a shell, while the registry has it open, reads what the registry reads, also from blocks
    /// that an older program wrote.
    #[test]
    fn the_view_shows_what_decoding_gives(
        history in histories(30),
        events in traffic(1..600),
        older in any::<[bool; 3]>(),
    ) {
        let disk = Disk::new();
        let mut log = disk.log();
        let changes = changes_of(&history);
        log.append(Seq(0), &changes).unwrap();
        log.append_traffic(&events).unwrap();
        let shell = disk.shell();
        let written = rows::blocks_among(&shell, 1, events.len() as u64).unwrap();
        for (block, _) in written.iter().zip(older).filter(|(_, older)| *older) {
            rows::put_block(&mut shell.prepare_cached(rows::PUT_BLOCK).unwrap(), &as_digits(block))
                .unwrap();
        }

        let mut expected: Vec<(Shown, serde_json::Value)> = Vec::new();
        for change in &changes {
            let key = change.event.key();
            let ids = change.trace.is_some().then_some(change.trace);
            let texts = [
                Some(change.seq.to_string()),
                Some(change.seq.to_string()),
                Some(rfc3339::format(change.at)),
                Some(change.event.kind().to_string()),
                key.map(|key| key.service.namespace.to_string()),
                key.map(|key| key.service.service.to_string()),
                key.map(|key| key.instance.to_string()),
                change.caller.as_deref().map(str::to_owned),
                // SQLite's hex() of nothing is an empty text.
                Some(ids.map_or(String::new(), |ids| codec::hex(&ids.trace_id))),
                Some(ids.map_or(String::new(), |ids| codec::hex(&ids.span_id))),
                change.cause.map(|cause| cause.to_string()),
            ];
            expected.push((texts, serde_json::from_str(&codec::data_of(change)).unwrap()));
        }
        for (number, event) in (1..).zip(&events) {
            let ids = event.trace.is_some().then_some(event.trace);
            let kind = event.detail.kind();
            let texts = [
                Some(format!("t{number}")),
                Some(event.seen.to_string()),
                Some(rfc3339::format(event.at)),
                Some(kind.to_string()),
                event.namespace.as_ref().map(ToString::to_string),
                event.service.as_ref().map(ToString::to_string),
                event.instance.as_ref().map(ToString::to_string),
                Some(event.caller.to_string()).filter(|caller| !caller.is_empty()),
                ids.map(|ids| codec::hex(&ids.trace_id)),
                ids.map(|ids| codec::hex(&ids.span_id)),
                None,
            ];
            expected.push((texts, serde_json::from_str(&blocks::data_of(&event.detail)).unwrap()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let rows = shown(&Connection::open_with_flags(disk.database(), flags).unwrap());
        prop_assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.into_iter().zip(expected) {
            prop_assert_eq!(row, expected);
        }
    }
}
