//! The log in one SQLite file, `DIR/rollcall.db`.
//!
//! ```text
//!   registrar's thread ── writer.rs ──▶ the one write connection: transactions, sync levels, recovery
//!   checkpointer.rs ───── a thread and a connection of its own: moves the WAL into the file
//!   snapshots.rs ──────── states, written in slices beside the registrar; recovery begins at one
//!   keeper's thread ───── upkeep.rs, retention.rs: a second write connection, in small slices; gate.rs says whose
//!                         turn it is
//!   wal/ ──────────────── refuses a WAL that takes back what is in the database already
//!   schema.rs ─────────── refuses a file that is not a log as its migrations left it
//!   reader.rs ─────────── read-only connections, for verify and for
//!   backup.rs, export.rs, import.rs ─ copies of a log, as a file and as lines; target.rs is where they are made
//!   archive/ ──────────── questions about the past
//! ```
//!
//! A directory belongs to one process: `DIR/rollcall.lock` is locked as long as the log is open. Nothing
//! here is called from an async task.

mod archive;
mod backup;
mod checkpointer;
mod derive;
mod directory;
mod export;
mod gate;
mod import;
mod lines;
#[cfg(test)]
mod period_tests;
mod reader;
mod retention;
mod rows;
mod schema;
mod sizes;
#[cfg(test)]
mod snapshot_tests;
mod snapshots;
mod target;
#[cfg(test)]
mod tests;
mod upkeep;
#[cfg(test)]
mod upkeep_tests;
mod wal;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub use archive::SqliteArchive;
pub use backup::{Copied, CopyError, backup, restore};
pub use export::{ExportError, Exported, Range, export};
pub use gate::Gate;
pub use import::{ImportError, import};
pub use reader::Reader;
pub use sizes::Sizes;
#[cfg(test)]
pub(crate) use snapshot_tests::put_snapshot;
pub use target::TargetError;
pub use upkeep::SqliteUpkeep;
pub(crate) use wal::check as check_write_ahead_log;
pub use writer::SqliteLog;

/// The name of the database in a data directory.
pub const FILE: &str = "rollcall.db";

/// The name of the lock file beside it.
pub const LOCK: &str = "rollcall.lock";

/// `ROLL`: marks a SQLite file as one of ours.
const APPLICATION_ID: i32 = 0x524F_4C4C;

/// The migrations, compiled in.
mod embedded {
    refinery::embed_migrations!("migrations");
}
use embedded::migrations;

/// Whether an acknowledged change is synced to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Synchronous {
    /// Yes: it survives a power cut.
    #[default]
    Full,
    /// No: it survives a crash of the process; a power cut may take the last ones.
    Normal,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it can't be used.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Nothing is there to be read.
    #[error(
        "there is no log at {path}: name the data directory of a registry, or the file of a log"
    )]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// Another process has the directory.
    #[error(
        "{path} is in use by another registry: stop it, or give this one a directory of its own (--data)"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a newer version of the program.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}: use the newer program, or an empty directory"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The newest version known.
        known: i32,
    },
    /// Written by an older version of the program, and what is asked needs what that one did not store yet.
    #[error(
        "{path} has schema version {found}, this reads version {known}: start a registry on it once \
         (rollcall serve --data DIR), or bring up a copy (rollcall backup, then rollcall restore)"
    )]
    Older {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The version that is needed.
        known: i32,
    },
    /// Not one of ours.
    #[error("{path} is a SQLite database, but not a log of rollcall")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The write-ahead log takes back what has already been moved out of it into the database.
    #[error(
        "{path} is damaged: the database beside it holds {stored} changes, and with it only {found}; keep a copy of the \
         directory, move this file away, and let rollcall verify say whether the database is whole without it; if it \
         is not, bring a backup back (rollcall restore)"
    )]
    WriteAheadLog {
        /// The write-ahead log.
        path: PathBuf,
        /// The last change in the database alone.
        stored: u64,
        /// The last one with the write-ahead log.
        found: u64,
    },
    /// The write-ahead log can't be read to its end, and what stood there has been moved into the database in part.
    #[error(
        "{path} is damaged from byte {end} on, and the database beside it is not whole without it ({flaw}); keep a copy \
         of the directory, and bring a backup back (rollcall restore)"
    )]
    WriteAheadLogLost {
        /// The write-ahead log.
        path: PathBuf,
        /// The first byte that can't be read.
        end: u64,
        /// What SQLite finds in the database.
        flaw: String,
    },
    /// SQLite refused.
    #[error("can't open {path}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The note of a migration that was applied can't be read.
    #[error(
        "{path} is damaged: its note of migration {version} in refinery_schema_history cannot be read; keep a copy of the \
         directory, and bring a backup back (rollcall restore)"
    )]
    Note {
        /// The database.
        path: PathBuf,
        /// The migration.
        version: i32,
    },
    /// A table, an index or a view is not as the migrations left it.
    #[error(
        "{path} is damaged: {object} is not as migration {version} left it; keep a copy of the directory, and bring a \
         backup back (rollcall restore)"
    )]
    Schema {
        /// The database.
        path: PathBuf,
        /// Which: `table snapshots`.
        object: String,
        /// The migration that was applied last.
        version: i32,
    },
    /// A migration failed.
    #[error("can't bring {path} to this program's schema")]
    Migration {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<refinery::Error>,
    },
}

/// The lock on a data directory; gone when dropped, also when the process is killed.
#[derive(Debug)]
struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirLock {
    fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK);
        let io = |what| {
            let path = path.clone();
            move |source| OpenError::Io { what, path, source }
        };
        let open = File::options().create(true).write(true).truncate(false).open(&path);
        let file = open.map_err(io("can't create"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io("can't lock")(source)),
        }
    }
}

/// The database that `path` means: itself, or the one in the directory that it is.
#[must_use]
pub fn database_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(FILE) } else { path.to_owned() }
}

/// Opens the database for writing and brings it to this program's schema.
fn open_and_migrate(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    wal::check(path)?;
    let mut connection = Connection::open(path).map_err(sqlite)?;
    schema::check(&connection, path)?;
    schema::check_notes(&connection, path)?;
    // Before anything is in the file; later it would need a full VACUUM.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(sqlite)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(sqlite)?;
    rows::prepare_for_writing(&connection).map_err(sqlite)?;
    // All in one transaction: one by one, each migration and the note that it is done would be two, and a crash between
    // them would leave a log that nobody can open again.
    let migrated = migrations::runner().set_grouped(true).run(&mut connection);
    migrated.map_err(|source| OpenError::Migration {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(connection)
}

/// Opens the database of a data directory or a backup file for reading only.
///
/// # Errors
/// [`OpenError`]; a database that is newer than the program is refused here too.
pub fn open_reader(path: &Path) -> Result<Reader, OpenError> {
    Reader::open(&database_of(path))
}

/// Derives everything that can be: segments and roll-ups, see `derive`. For a log that no registry has open, after
/// an import or before a measurement; a running registry does it in slices.
///
/// # Errors
/// [`OpenError`]; what was derived until then stays.
pub fn derive_all(path: &Path) -> Result<(), OpenError> {
    let path = database_of(path);
    let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
    let mut connection = open_and_migrate(&path)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(sqlite)?;
    // Nobody else moves the WAL into the file meanwhile.
    connection.pragma_update(None, "wal_autocheckpoint", 1_000).map_err(sqlite)?;
    let mut deriver = derive::Deriver::default();
    while deriver.derive(&mut connection).map_err(sqlite)? {}
    Ok(())
}
