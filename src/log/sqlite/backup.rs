//! Copies of a log: a backup of one that runs, and a directory that is made of a backup.
//!
//! The copy is SQLite's online backup under one read transaction: all pages as they were at one instant. In WAL mode a
//! reader holds up no writer; until it is done, the write-ahead log only grows by what is written meanwhile.
//! `VACUUM INTO` would not block either, but builds every table and index anew, which takes several times the CPU of
//! the machine on which callers wait, and can't say how far it has come. Called by the command line.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::target::{PartialFile, Target, TargetError};
use super::{FILE, OpenError, database_of, open_and_migrate, open_reader, rows};
use crate::history::spoken::counted;
use crate::log::ReadError;
use crate::log::verify::{self, Report, VerifyError};

/// Pages copied between two looks at the progress: 10 MiB of 4 KiB.
const PAGES: i32 = 2_560;

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// The id of the log that it is.
    pub log_id: String,
    /// The last change in it.
    pub head: u64,
    /// The last traffic event in it.
    pub traffic: u64,
    /// The size of the file.
    pub bytes: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The log or the backup can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The place for the copy can't be had.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The backup is not what was written.
    #[error("it is damaged, and nothing was restored: {}", counted(.0.findings_total, "finding", "findings"))]
    Damaged(Box<Report>),
    /// SQLite refused.
    #[error("{what}")]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
}

fn sqlite(what: &'static str) -> impl Fn(rusqlite::Error) -> CopyError {
    move |source| CopyError::Sqlite { what, source }
}

/// Copies the log in `data` (a directory, or the file itself) to the file `to`, as it is at one instant; it may be
/// running. An existing file is only replaced if `force` says so, and then in one step. `progress` is told the bytes
/// that are copied, and all of them.
///
/// # Errors
/// [`CopyError`]; then `to` is as it was.
pub fn backup(
    data: &Path,
    to: &Path,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    let source = database_of(data);
    let exists = |remedy| TargetError::Exists { path: to.to_owned(), remedy };
    if to.is_dir() {
        return Err(exists("it is a directory; name a file").into());
    }
    let same = fs::canonicalize(&source).ok().zip(fs::canonicalize(to).ok());
    if same.is_some_and(|(source, to)| source == to) {
        return Err(exists("it is the log itself; name another file").into());
    }
    if !force && fs::symlink_metadata(to).is_ok() {
        return Err(exists("name another file, or replace it with --force").into());
    }
    let reader = open_reader(&source)?;
    let file = PartialFile::new(to);
    copy(reader.connection(), file.path(), progress)?;
    drop(reader);
    file.finish()?;
    copied(to)
}

/// Makes the data directory `data`, which is empty or not there, of the backup `from`, after verifying it. The new log
/// has an id of its own: what happens from here on is another history than the one that was backed up.
///
/// # Errors
/// [`CopyError`]; then `data` is as it was.
pub fn restore(
    from: &Path,
    data: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    let target = Target::new(data)?;
    let source = database_of(from);
    let report = verify::verify(&source, |_| {}).map_err(|error| match error {
        VerifyError::Open(error) => CopyError::Open(error),
        VerifyError::Read(error) => CopyError::Read(error),
    })?;
    if !report.is_clean() {
        return Err(CopyError::Damaged(Box::new(report)));
    }
    let reader = open_reader(&source)?;
    copy(reader.connection(), &target.path(), progress)?;
    drop(reader);
    let connection = open_and_migrate(&target.path())?;
    rename(&connection).map_err(sqlite("can't give the restored log its id"))?;
    close(connection)?;
    target.finish()?;
    copied(&data.join(FILE))
}

fn busy() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None)
}

pub(super) fn copied(path: &Path) -> Result<Copied, CopyError> {
    let reader = open_reader(path)?;
    let (log_id, next, next_traffic) = reader.next()?;
    let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
    Ok(Copied { log_id, head: next.0 - 1, traffic: next_traffic - 1, bytes })
}

fn rename(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute("UPDATE log SET id = ?", [uuid::Uuid::new_v4().to_string()])
}

/// Ends the work on a database that is to be one file: nothing beside it, and readable from a place where nothing can
/// be written. The registry that opens it makes it what it needs.
pub(super) fn close(connection: Connection) -> Result<(), CopyError> {
    let sqlite = sqlite("can't make it one file");
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(&sqlite)?;
    connection.close().map_err(|(_, error)| sqlite(error))
}

fn copy(
    source: &Connection,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), CopyError> {
    let sqlite = sqlite("can't copy the log");
    // One read transaction over all steps: otherwise each change of the source begins the copy anew.
    let reading = source.unchecked_transaction().map_err(&sqlite)?;
    rows::next(&reading).map_err(&sqlite)?;
    let size: u32 =
        reading.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(&sqlite)?;
    let mut target = Connection::open(to).map_err(&sqlite)?;
    // If this is interrupted, the file is of no use and has no name.
    target.pragma_update(None, "journal_mode", "OFF").map_err(&sqlite)?;
    target.pragma_update(None, "synchronous", "OFF").map_err(&sqlite)?;
    {
        let backup = Backup::new(&reading, &mut target).map_err(&sqlite)?;
        loop {
            let step = backup.step(PAGES).map_err(&sqlite)?;
            let pages = backup.progress();
            let bytes = |pages: i32| u64::try_from(pages).unwrap_or(0) * u64::from(size);
            progress(bytes(pages.pagecount - pages.remaining), bytes(pages.pagecount));
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // The source is being read already, and the target is nobody else's: there is no one to wait for.
                _ => return Err(sqlite(busy())),
            }
        }
    }
    reading.finish().map_err(&sqlite)?;
    target.close().map_err(|(_, error)| sqlite(error))?;
    close(Connection::open(to).map_err(&sqlite)?)
}
