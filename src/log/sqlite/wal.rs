//! Whether the write-ahead log still reaches as far as the database beside it.
//!
//! SQLite takes a write-ahead log for ended where its checksums do not fit. That is right after a crash, where the
//! rest was never acknowledged, and wrong for damage: old pages in what is left of it then stand in for newer ones
//! that have long been moved into the database, and a log with a year of changes can look as if it had just been made.
//! Pages are moved only after they were synced in the write-ahead log, so without damage the database alone is never
//! ahead. Called before anything is written, and by `verify`.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
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
/// [`OpenError::WriteAheadLog`]. What can't be read at all is left to those who open the log.
pub(crate) fn check(path: &Path) -> Result<(), OpenError> {
    let wal = beside(path);
    if !std::fs::metadata(&wal).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
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

fn beside(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
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
        let mut wal = std::fs::read(beside(&path)).unwrap();
        // The second frame: head of 32 bytes, a frame of 24 and a page.
        wal[32 + 24 + 4_096 + 100] ^= 1;
        std::fs::write(beside(&target), wal).unwrap();
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
}
