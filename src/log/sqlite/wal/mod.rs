//! Whether the write-ahead log still reaches as far as the database beside it, and the two fit each other.
//!
//! SQLite takes a write-ahead log for ended where its checksums do not fit. That is right after a crash, where the
//! rest was never acknowledged, and wrong for damage: old pages in what is left of it then stand in for newer ones
//! that have long been moved into the database, and a log with a year of changes can look as if it had just been made.
//! Pages are moved only after they were synced in the write-ahead log, so without damage the database alone is never
//! ahead. Where a registry was killed in the middle of moving, the database is whole only together with all of the
//! write-ahead log: if that can't be read to its end ([`frames`]), the database is gone through once more before anything
//! rests on it. Called before anything is written, and by `verify`.

mod frames;

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{OpenError, rows};

/// What means something in a URI's path.
const IN_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ');

/// Looks so often before it is believed: a registry that runs may be moving pages just now.
const LOOKS: usize = 3;

/// How far a log has come: the next numbers of changes and of traffic.
type Reach = (u64, u64);

/// Refuses a database whose write-ahead log takes back what was already moved out of it.
///
/// # Errors
/// [`OpenError::WriteAheadLog`] and [`OpenError::WriteAheadLogLost`]. What can't be read at all is left to those who open
/// the log.
pub(crate) fn check(path: &Path) -> Result<(), OpenError> {
    let wal = beside(path, "-wal");
    if !std::fs::metadata(&wal).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    // First: whoever opens the database makes its index anew.
    check_end(path, &wal)?;
    let mut found = None;
    for _ in 0..LOOKS {
        // In this order: what is written meanwhile makes the second one larger.
        let Some(alone) = reach(path, true) else { return Ok(()) };
        let whole = reach(path, false).unwrap_or((1, 1));
        if alone.0 <= whole.0 && alone.1 <= whole.1 {
            return Ok(());
        }
        found = Some((alone, whole));
    }
    found.map_or(Ok(()), |(alone, whole)| {
        Err(OpenError::WriteAheadLog { path: wal, stored: alone.0 - 1, found: whole.0 - 1 })
    })
}

/// Refuses a database that lacks the end of its write-ahead log, if it is not whole without it. After a power cut it is:
/// then what can't be read at the end was never synced, and nothing of it moved.
fn check_end(path: &Path, wal: &Path) -> Result<(), OpenError> {
    let Ok(frames) = frames::read(wal) else { return Ok(()) };
    let moved = frames::moved(&beside(path, "-shm")).unwrap_or(0);
    if !frames.goes_on && moved <= frames.valid {
        return Ok(());
    }
    match flaw(path) {
        Ok(Some(flaw)) => {
            Err(OpenError::WriteAheadLogLost { path: wal.to_owned(), end: frames.end, flaw })
        }
        // Where it can't be looked at, a registry has it open, or its own opening will say more.
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The first thing that is wrong with the structure of the database, as SQLite says it; reads all of it. It leaves the
/// files as they are, also the index: otherwise nobody would notice at the next attempt.
fn flaw(path: &Path) -> rusqlite::Result<Option<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // With the file to itself, SQLite keeps the index in its own memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Err(error) if rows::is_damage(&error) => Ok(Some(error.to_string())),
        found => found.map(|found| Some(found).filter(|found| found != "ok")),
    }
}

/// The file that stands beside the database under this ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// How far the database has come, alone or with its write-ahead log; none if that can't be read.
fn reach(path: &Path, alone: bool) -> Option<Reach> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if alone {
        let name = utf8_percent_encode(path.to_str()?, IN_PATH);
        let uri = format!("file:{name}?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
    } else {
        Connection::open_with_flags(path, flags)
    };
    let connection = connection.ok()?;
    connection.busy_timeout(rows::BUSY).ok()?;
    let next = rows::next(&connection).ok()?;
    Some((next.seq, next.traffic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::{FILE, SqliteLog, Synchronous};
    use crate::log::verify::{VerifyError, verify};

    #[test]
    fn a_write_ahead_log_that_is_behind_its_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(SqliteLog::open(dir.path(), Synchronous::Full, "node").unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        // Somebody reads, so that what is moved stays in the write-ahead log too.
        let write = |next: u32| connection.execute("UPDATE log SET next_seq = ?", [next]).unwrap();
        write(10);
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM log").unwrap();
        write(20);
        check(&path).unwrap();
        reader.execute_batch("COMMIT; BEGIN; SELECT * FROM log").unwrap();
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        write(30);
        check(&path).unwrap();
        let copy = tempfile::tempdir().unwrap();
        let target = copy.path().join(FILE);
        std::fs::copy(&path, &target).unwrap();
        let mut wal = std::fs::read(beside(&path, "-wal")).unwrap();
        // The second frame: head of 32 bytes, a frame of 24 and a page.
        wal[32 + 24 + 4_096 + 100] ^= 1;
        std::fs::write(beside(&target, "-wal"), wal).unwrap();
        let refused = check(&target).unwrap_err();
        assert!(
            matches!(refused, OpenError::WriteAheadLog { stored: 19, found: 9, .. }),
            "{refused:?}"
        );
        let refused = SqliteLog::open(copy.path(), Synchronous::Full, "node").unwrap_err();
        assert!(refused.to_string().contains("rollcall.db-wal is damaged"), "{refused}");
        let refused = verify(copy.path(), |_| {}).unwrap_err();
        assert!(matches!(refused, VerifyError::Open(OpenError::WriteAheadLog { .. })));
    }

    /// A database in the middle of a move: of what was written before somebody began to read it holds those pages that
    /// were not written again afterwards.
    fn half_moved() -> (tempfile::TempDir, [Vec<u8>; 3]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(SqliteLog::open(dir.path(), Synchronous::Full, "node").unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        let work = |sql: &str| connection.execute_batch(sql).unwrap();
        let fill = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 30)
                    INSERT INTO filler SELECT zeroblob(3000) FROM n";
        work("CREATE TABLE filler (x)");
        (0..4).for_each(|_| work(fill));
        work("DELETE FROM filler");
        let checkpoint = |how: &str| {
            let pragma = format!("PRAGMA wal_checkpoint({how})");
            connection.query_row(&pragma, [], |row| row.get::<_, u32>(2)).unwrap()
        };
        checkpoint("TRUNCATE");
        // Takes all pages that are free, also the one that lists them.
        (0..5).for_each(|_| work(fill));
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM filler").unwrap();
        work(fill);
        assert!(checkpoint("PASSIVE") > 0);
        let files = ["", "-wal", "-shm"].map(|end| std::fs::read(beside(&path, end)).unwrap());
        (dir, files)
    }

    /// What [`check`] says of such files.
    fn checked([database, wal, index]: [&[u8]; 3]) -> Result<(), OpenError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for (end, bytes) in [("", database), ("-wal", wal), ("-shm", index)] {
            std::fs::write(beside(&path, end), bytes).unwrap();
        }
        let refused = check(&path);
        if refused.is_err() {
            check(&path).expect_err("a second attempt finds it like the first one");
        }
        refused
    }

    #[test]
    fn a_database_that_is_not_whole_without_the_end_of_its_write_ahead_log_is_refused() {
        let (_dir, [database, wal, index]) = half_moved();
        checked([&database, &wal, &index]).unwrap();
        let frame = FRAME;
        let frames = (wal.len() - 32) / frame;
        for lost in [0, 1, 9] {
            let at = 32 + lost * frame;
            let mut flipped = wal.clone();
            flipped[at + 1_000] ^= 4;
            for (what, wal, index) in [
                ("flipped", &*flipped, &*index),
                ("flipped, started anew since", &*flipped, &[]),
                ("cut", &wal[..at], &*index),
            ] {
                match checked([&database, wal, index]) {
                    Err(OpenError::WriteAheadLogLost { end, .. }) => assert_eq!(end, at as u64),
                    other => panic!("{what} at frame {lost} of {frames}: {other:?}"),
                }
            }
        }
        // The last transaction was not moved at all: a power cut may have taken it.
        let mut torn = wal.clone();
        torn[32 + (frames - 1) * frame + 1_000] ^= 4;
        checked([&database, &torn, &index]).unwrap();
        checked([&database, &wal[..wal.len() - 1], &index]).unwrap();
    }

    /// A frame: its head and a page.
    const FRAME: usize = 24 + 4_096;
}
