//! The read side: connections that can't write, for questions about the past, for `verify` and for the
//! command line, beside a registry that runs.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::rows::Keeping;
use super::sizes::{self, Sizes};
use super::writer::decode_change;
use super::{OpenError, rows, schema, snapshots};
use crate::domain::registry::Service;
use crate::domain::{Change, Seq, ServiceKey, Timestamp};
use crate::log::blocks::Block;
use crate::log::codec::Row;
use crate::log::snapshot::Snapshot;
use crate::log::{Numbered, ReadError};

/// A read-only connection to a log.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    path: PathBuf,
    /// Whether the file has the tables of the second migration: a backup of before is read all the same.
    has_memory: bool,
    /// The version of the file's schema, and this program's.
    schema: [i32; 2],
}

pub(super) fn storage(error: rusqlite::Error) -> ReadError {
    ReadError::Storage(error.to_string().into())
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        // SQLite's own words would be "error code 14", and no remedy.
        if path.try_exists().is_ok_and(|there| !there) {
            return Err(OpenError::Missing { path: path.to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite)?;
        let schema = schema::check(&connection, path)?;
        connection.set_prepared_statement_cache_capacity(32);
        let has_memory = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'snapshots'", [], |row| {
                row.get(0)
            })
            .map_err(sqlite)?;
        Ok(Self { connection, path: path.to_owned(), has_memory, schema })
    }

    /// The same for questions that need all of this program's schema. `verify`, backups and restoring don't: an older
    /// log is checked and copied as it is.
    pub(super) fn open_current(path: &Path) -> Result<Self, OpenError> {
        let reader = Self::open(path)?;
        let [found, known] = reader.schema;
        if found < known {
            return Err(OpenError::Older { path: path.to_owned(), found, known });
        }
        Ok(reader)
    }

    /// The connection itself, for those who copy all of it.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The id of the log and the numbers that come next: `(id, change, traffic)`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next(&self) -> Result<(String, Seq, u64), ReadError> {
        let next = rows::next(&self.connection).map_err(storage)?;
        Ok((next.id, Seq(next.seq), next.traffic))
    }

    /// The numbers of the first change and of the first traffic event that are kept.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn first(&self) -> Result<(Seq, u64), ReadError> {
        if !self.has_memory {
            return Ok((Seq(1), 1));
        }
        let (seq, traffic) = rows::first(&self.connection).map_err(storage)?;
        Ok((Seq(seq), traffic))
    }

    /// The snapshots of versions `from` to `to`, the oldest first, and when these versions began.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn snapshots(&self, from: Seq, to: Seq) -> Result<Vec<(Seq, Timestamp)>, ReadError> {
        if !self.has_memory {
            return Ok(Vec::new());
        }
        snapshots::complete(&self.connection, from, to).map_err(storage)
    }

    /// A snapshot, checked; none if there is none of this version.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it is not what was written.
    pub fn snapshot(&self, seq: Seq) -> Result<Option<Snapshot>, ReadError> {
        snapshots::load(&self.connection, seq)
    }

    /// One service of a snapshot with the time of the snapshot; the outer none is that there is no snapshot of this
    /// version, the inner one that it does not know the service.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it is not what was written.
    pub fn snapshot_service(
        &self,
        seq: Seq,
        key: &ServiceKey,
    ) -> Result<Option<(Timestamp, Option<Service>)>, ReadError> {
        snapshots::load_service(&self.connection, seq, key)
    }

    /// Up to `limit` rows of changes from `from` on, undecoded.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn rows(&self, from: Seq, limit: usize) -> Result<Vec<Row>, ReadError> {
        self.query(rows::SELECT_CHANGES, from.0, limit, rows::change_of)
    }

    /// Up to `limit` changes from `from` on.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn changes(&self, from: Seq, limit: usize) -> Result<Vec<Change>, ReadError> {
        self.rows(from, limit)?.iter().map(decode_change).collect()
    }

    /// Up to `limit` changes up to `to`, newest first.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn changes_back(&self, to: Seq, limit: usize) -> Result<Vec<Change>, ReadError> {
        let rows = self.query(rows::SELECT_CHANGES_BACK, to.0, limit, rows::change_of)?;
        rows.iter().map(decode_change).collect()
    }

    /// Up to `limit` blocks of traffic that begin at `first` or later, undecoded.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn blocks(&self, first: u64, limit: usize) -> Result<Vec<Block>, ReadError> {
        self.query(rows::SELECT_BLOCKS, first, limit, rows::block_of)
    }

    /// Traffic events from the number `from` on: those of up to `blocks` blocks.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn traffic(&self, from: u64, blocks: usize) -> Result<Vec<Numbered>, ReadError> {
        let first: i64 = self
            .connection
            .query_row(rows::SELECT_BLOCK_OF, [i64::try_from(from).unwrap_or(i64::MAX)], |row| {
                row.get(0)
            })
            .map_err(storage)?;
        let found = self.blocks(u64::try_from(first).unwrap_or(0), blocks)?;
        let mut events = decode_blocks(&found)?;
        events.retain(|event| event.number >= from);
        Ok(events)
    }

    /// Traffic events before the number `before`, newest first: those of up to `blocks` blocks.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn traffic_back(&self, before: u64, blocks: usize) -> Result<Vec<Numbered>, ReadError> {
        let found = self.query(rows::SELECT_BLOCKS_BACK, before, blocks, rows::block_of)?;
        let mut events = decode_blocks(&found)?;
        events.retain(|event| event.number < before);
        events.sort_unstable_by_key(|event| std::cmp::Reverse(event.number));
        Ok(events)
    }

    /// What SQLite itself says of the file: nothing if all is well.
    ///
    /// # Errors
    /// [`ReadError`] if it can't even be asked.
    pub fn storage_check(&self) -> Result<Vec<String>, ReadError> {
        let mut statement = self.connection.prepare("PRAGMA quick_check(20)").map_err(storage)?;
        let found = statement.query_map([], |row| row.get::<_, String>(0)).map_err(storage)?;
        let found: Vec<String> = found.collect::<Result<_, _>>().map_err(storage)?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// What the log takes on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn sizes(&self) -> Result<Sizes, ReadError> {
        sizes::sizes(&self.connection, &self.path).map_err(storage)
    }

    /// How far retention and the background work have come.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn keeping(&self) -> Result<Keeping, ReadError> {
        rows::keeping(&self.connection).map_err(storage)
    }

    fn query<T>(
        &self,
        sql: &str,
        from: u64,
        limit: usize,
        read: fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, ReadError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(storage)?;
        let found = statement.query_map(rows::range(from, limit), read).map_err(storage)?;
        found.collect::<Result<_, _>>().map_err(storage)
    }
}

fn decode_blocks(blocks: &[Block]) -> Result<Vec<Numbered>, ReadError> {
    let mut events = Vec::new();
    for block in blocks {
        let decoded = block.decode().map_err(|what| ReadError::Damaged {
            place: format!("the traffic block from t{}", block.first),
            what,
        })?;
        events.extend(decoded);
    }
    Ok(events)
}
