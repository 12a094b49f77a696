//! The write side: one connection, one thread, transactions. The keeper writes too, on a connection of its own: each
//! transaction takes its turn at the gate ([`super::gate`]).
//!
//! After a failed COMMIT nobody knows whether the frames are in the WAL. Then the connection is closed,
//! opened again, and what it finds at the head decides: the batch itself, synced once more, is an
//! acknowledgement; the old head is a refusal; and as long as the file can't be opened, the answer is
//! `Unknown`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::checkpointer::{self, Checkpointer};
use super::directory;
use super::gate::Gate;
use super::upkeep::SqliteUpkeep;
use super::{DirLock, OpenError, Synchronous, open_and_migrate};
use super::{rows, snapshots};
use crate::domain::traffic::Traffic;
use crate::domain::{Change, Seq, Timestamp};
use crate::log::blocks::{self, BLOCK};
use crate::log::codec::{self, Row};
use crate::log::{
    Ack, AppendError, BATCH_MAX, ChangeLog, Durability, Log, Numbered, ReadError, Snapshot,
    TrafficLog,
};
use crate::telemetry::metrics::Histogram;
use crate::yielding;

/// The log in SQLite.
#[derive(Debug)]
pub struct SqliteLog {
    path: PathBuf,
    synchronous: Synchronous,
    node: String,
    id: String,
    head: Seq,
    next_traffic: u64,
    tail: Tail,
    session: Option<Session>,
    /// A write has failed, and with it perhaps a sync: what stands in the WAL may not be on the disk and never get there,
    /// though every later sync succeeds. Nothing is written behind it before it has been moved into the file.
    wal_in_doubt: bool,
    gate: Gate,
    checkpointer: Checkpointer,
    // Last, so that it is let go when everything else is closed.
    _lock: DirLock,
}

/// The newest block while it is not full: it is written again, longer, with every append.
#[derive(Debug, Default)]
struct Tail {
    first: u64,
    events: Vec<Traffic>,
}

impl Tail {
    /// The blocks that its events make.
    fn blocks(&self) -> Vec<blocks::Block> {
        let blocks = (self.first..).step_by(BLOCK).zip(self.events.chunks(BLOCK));
        blocks.map(|(first, events)| blocks::encode(first, events)).collect()
    }
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    /// The level that the connection has now; changing it costs a statement.
    level: Synchronous,
}

impl Session {
    fn new(connection: Connection) -> rusqlite::Result<Self> {
        rows::prepare_for_writing(&connection)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self { connection, level: Synchronous::Full })
    }

    fn begin(&mut self, level: Synchronous) -> rusqlite::Result<Transaction<'_>> {
        if self.level != level {
            let word = match level {
                Synchronous::Full => "FULL",
                Synchronous::Normal => "NORMAL",
            };
            self.connection.pragma_update(None, "synchronous", word)?;
            self.level = level;
        }
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }
}

/// What an operator needs to know of a SQLite error: its words, and for some a remedy.
fn cause_of(error: &rusqlite::Error) -> Arc<str> {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ": free some space; writing resumes by itself",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ": rollcall.db is damaged, `rollcall verify` says where"
        }
        Some(ErrorCode::SystemIoFailure) => {
            ": the disk fails or can be read only, the system's log says more; writing resumes by itself"
        }
        Some(ErrorCode::ReadOnly) => {
            ": make the data directory writable; writing resumes by itself"
        }
        _ => "",
    };
    format!("{error}{remedy}").into()
}

impl SqliteLog {
    /// Opens the log in `dir`, which is created if it does not exist, and locks it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path, synchronous: Synchronous, node: &str) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { what: "can't create", path: dir.to_owned(), source };
        directory::make(dir).map_err(io)?;
        let lock = DirLock::take(dir)?;
        let path = dir.join(super::FILE);
        let connection = open_and_migrate(&path)?;
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        connection
            .execute(
                "INSERT OR IGNORE INTO log (one, id, next_seq, next_traffic, clean) VALUES (1, ?, 1, 1, 1)",
                [uuid::Uuid::new_v4().to_string()],
            )
            .map_err(sqlite)?;
        let next = rows::next(&connection).map_err(sqlite)?;
        let session = Session::new(connection).map_err(sqlite)?;
        let checkpointer = Checkpointer::start(&path).map_err(|source| OpenError::Io {
            what: "can't start the checkpointer of",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            synchronous,
            node: node.to_owned(),
            id: next.id,
            head: Seq(next.seq - 1),
            next_traffic: next.traffic,
            tail: Tail { first: next.traffic, events: Vec::new() },
            session: Some(session),
            wal_in_doubt: false,
            gate: Gate::default(),
            checkpointer,
            _lock: lock,
        })
    }

    /// Path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The background work on this log, on a connection of its own. One that is used after the log was dropped
    /// works without the directory's lock: it has to be dropped first.
    ///
    /// # Errors
    /// [`OpenError`] if that connection can't be opened.
    pub fn upkeep(&self) -> Result<SqliteUpkeep, OpenError> {
        SqliteUpkeep::open(&self.path, self.gate.clone(), self.checkpointer.restart())
    }

    /// Records from now on how long each checkpoint of the write-ahead log takes, in seconds.
    pub fn observe_checkpoints(&self, seconds: Histogram) {
        self.checkpointer.observe(seconds);
    }

    fn durability(&self) -> Durability {
        match self.synchronous {
            Synchronous::Full => Durability::Synced,
            Synchronous::Normal => Durability::Written,
        }
    }

    fn encode(&self, batch: &[Arc<Change>]) -> Vec<Row> {
        let encode = |(position, change): (usize, &Arc<Change>)| {
            yielding::step(position);
            codec::encode(change, &self.node)
        };
        batch.iter().enumerate().map(encode).collect()
    }

    /// Opens the database again after a failure and reads what is there.
    fn reopen(&mut self) -> rusqlite::Result<rows::Next> {
        self.session = None;
        self.wal_in_doubt = true;
        // Not created: a database that has vanished is not replaced by an empty one.
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE
            | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX
            | rusqlite::OpenFlags::SQLITE_OPEN_URI;
        let session = Session::new(Connection::open_with_flags(&self.path, flags)?)?;
        let next = rows::next(&session.connection)?;
        self.session = Some(session);
        self.head = Seq(next.seq - 1);
        self.next_traffic = next.traffic;
        // The block at the end may or may not hold what was last written: begin a new one.
        self.tail = Tail { first: next.traffic, events: Vec::new() };
        Ok(next)
    }

    /// The connection for the next write.
    fn sound(&mut self) -> Result<&mut Session, AppendError> {
        self.session()?;
        if self.wal_in_doubt
            && let Err(error) = self.sync()
        {
            // Opened anew the next time: a disk that could be read only may be writable by then.
            self.session = None;
            return Err(AppendError::Unavailable { cause: cause_of(&error) });
        }
        self.session()
    }

    fn session(&mut self) -> Result<&mut Session, AppendError> {
        if self.session.is_none() {
            self.reopen().map_err(|error| AppendError::Unavailable { cause: cause_of(&error) })?;
        }
        self.session.as_mut().ok_or(AppendError::Unavailable { cause: "no connection".into() })
    }

    /// What stands at the head after a failure: the batch, or not.
    fn look(&mut self, expected: Seq, rows: &[Row], cause: Arc<str>) -> Result<Ack, AppendError> {
        let unknown = |error: &rusqlite::Error| AppendError::Unknown {
            cause: format!("{cause}; and looking what is there: {}", cause_of(error)).into(),
        };
        let last = Seq(expected.0 + rows.len() as u64);
        let next = self.reopen().map_err(|error| unknown(&error))?;
        if next.seq == expected.next().0 {
            return Err(AppendError::Unavailable { cause });
        }
        let found = self.stored(expected.next(), rows.len()).map_err(|error| unknown(&error))?;
        if next.seq == last.next().0 && found == rows {
            // In the WAL, but perhaps not on the disk.
            self.sync().map_err(|error| unknown(&error))?;
            return Ok(Ack { first: expected.next(), last, durability: self.durability() });
        }
        Err(AppendError::Conflict { head: self.head })
    }

    fn stored(&mut self, from: Seq, limit: usize) -> rusqlite::Result<Vec<Row>> {
        let Some(session) = &self.session else { return Ok(Vec::new()) };
        let mut statement = session.connection.prepare_cached(rows::SELECT_CHANGES)?;
        statement.query_map(rows::range(from.0, limit), rows::change_of)?.collect()
    }

    /// Puts everything that is in the WAL on the disk by moving it into the file, and begins an empty one. To sync the
    /// WAL again would not do: after a sync that failed, the system takes for stored what is not (on Linux), and the
    /// hole would end the WAL for whoever reads it after a power cut, with all that was acknowledged behind it.
    fn sync(&mut self) -> rusqlite::Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        let _turn = self.gate.enter();
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        let is_busy: bool = session.connection.query_row(truncate, [], |row| row.get(0))?;
        if is_busy {
            // Somebody reads an old state for longer than is waited for.
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None));
        }
        self.wal_in_doubt = false;
        Ok(())
    }

    /// If the WAL has grown for so long that nobody else could start it anew, does that here: the
    /// checkpointer has moved nearly all of it, so that little is left to do.
    fn shorten_wal(&mut self) {
        if let Some(session) = &self.session
            && self.checkpointer.restart().take()
        {
            let _turn = self.gate.enter();
            checkpointer::restart(&session.connection);
        }
    }
}

/// One transaction of changes; `Ok(false)` if the head was not the expected one.
fn write_changes(
    session: &mut Session,
    gate: &Gate,
    level: Synchronous,
    expected: Seq,
    rows: &[Row],
) -> rusqlite::Result<bool> {
    let _turn = gate.enter();
    let transaction = session.begin(level)?;
    {
        let moved = transaction
            .prepare_cached(rows::MOVE_HEAD)?
            .execute(rows::from_to(expected.next().0, expected.next().0 + rows.len() as u64))?;
        if moved == 0 {
            return Ok(false);
        }
        let mut insert = transaction.prepare_cached(rows::INSERT_CHANGE)?;
        for (position, row) in rows.iter().enumerate() {
            yielding::step(position);
            rows::insert_change(&mut insert, row)?;
        }
    }
    transaction.commit()?;
    Ok(true)
}

/// One transaction of traffic; `Ok(false)` if one of the blocks may not be written any more.
fn write_blocks(
    session: &mut Session,
    gate: &Gate,
    from: u64,
    to: u64,
    blocks: &[blocks::Block],
) -> rusqlite::Result<bool> {
    let _turn = gate.enter();
    if blocks.first().is_some_and(|block| block.first < gate.seal()) {
        return Ok(false);
    }
    let transaction = session.begin(Synchronous::Normal)?;
    {
        let moved =
            transaction.prepare_cached(rows::MOVE_TRAFFIC)?.execute(rows::from_to(from, to))?;
        if moved == 0 {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        let mut put = transaction.prepare_cached(rows::PUT_BLOCK)?;
        for block in blocks {
            rows::put_block(&mut put, block)?;
        }
    }
    transaction.commit()?;
    Ok(true)
}

impl ChangeLog for SqliteLog {
    fn head(&self) -> Seq {
        self.head
    }

    fn append(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        if batch.len() > BATCH_MAX {
            return Err(AppendError::TooLarge { events: batch.len(), max: BATCH_MAX });
        }
        let rows = self.encode(batch);
        let (level, gate) = (self.synchronous, self.gate.clone());
        match write_changes(self.sound()?, &gate, level, expected, &rows) {
            Ok(true) => {
                self.head = Seq(expected.0 + rows.len() as u64);
                self.shorten_wal();
                Ok(Ack { first: expected.next(), last: self.head, durability: self.durability() })
            }
            Ok(false) => {
                let next = self.reopen();
                let next =
                    next.map_err(|error| AppendError::Unavailable { cause: cause_of(&error) })?;
                Err(AppendError::Conflict { head: Seq(next.seq - 1) })
            }
            Err(error) => self.look(expected, &rows, cause_of(&error)),
        }
    }

    fn resolve(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        let rows = self.encode(batch);
        self.look(expected, &rows, "the events were not appended".into())
    }

    fn read(&mut self, from: Seq, limit: usize) -> Result<Vec<Change>, ReadError> {
        self.session().map_err(unreadable)?;
        let stored = self.stored(from, limit).map_err(|error| match rows::is_damage(&error) {
            true => ReadError::Damaged {
                place: format!("a page of what follows change {}", from.0.saturating_sub(1)),
                what: error.to_string(),
            },
            false => storage(error),
        })?;
        stored.iter().map(decode_change).collect()
    }

    fn first(&mut self) -> Result<Seq, ReadError> {
        let connection = &self.session().map_err(unreadable)?.connection;
        snapshots::first_seq(connection).map_err(storage)
    }

    fn snapshots(&mut self) -> Result<Vec<Seq>, ReadError> {
        let head = self.head;
        let connection = &self.session().map_err(unreadable)?.connection;
        let first = snapshots::first_seq(connection).map_err(storage)?;
        let found = snapshots::list_complete(connection, Seq(first.0 - 1), head)?;
        Ok(found.into_iter().map(|(seq, _)| seq).collect())
    }

    fn snapshot(&mut self, seq: Seq) -> Result<Option<Snapshot>, ReadError> {
        snapshots::load(&self.session().map_err(unreadable)?.connection, seq)
    }
}

fn storage(error: rusqlite::Error) -> ReadError {
    ReadError::Storage(cause_of(&error))
}

/// There is no connection: an empty answer would say that there is nothing in the log.
fn unreadable(error: AppendError) -> ReadError {
    ReadError::Storage(error.to_string().into())
}

pub(super) fn decode_change(row: &Row) -> Result<Change, ReadError> {
    codec::decode(row).map_err(|error| ReadError::Damaged {
        place: format!("change {}", row.seq),
        what: error.to_string(),
    })
}

impl TrafficLog for SqliteLog {
    fn next_number(&self) -> u64 {
        self.next_traffic
    }

    fn append_traffic(&mut self, events: &[Traffic]) -> Result<(), AppendError> {
        if events.is_empty() {
            return Ok(());
        }
        self.sound()?;
        let (from, to) = (self.next_traffic, self.next_traffic + events.len() as u64);
        let gate = self.gate.clone();
        self.tail.events.extend_from_slice(events);
        let blocks = self.tail.blocks();
        let mut written = write_blocks(self.session()?, &gate, from, to, &blocks);
        if let Ok(false) = written {
            // Retention has ended the block that was to be continued: what is new stands in blocks of its own.
            self.tail = Tail { first: from, events: events.to_vec() };
            let blocks = self.tail.blocks();
            written = write_blocks(self.session()?, &gate, from, to, &blocks);
        }
        let error = match written {
            Ok(true) => {
                let full = self.tail.events.len() / BLOCK * BLOCK;
                self.tail.events.drain(..full);
                self.tail.first += full as u64;
                self.next_traffic = to;
                self.shorten_wal();
                return Ok(());
            }
            // Nobody seals what is not there yet.
            Ok(false) => rusqlite::Error::QueryReturnedNoRows,
            Err(error) => error,
        };
        let cause = cause_of(&error);
        match self.reopen() {
            // The frames were in the WAL after all.
            Ok(next) if next.traffic == to => Ok(()),
            Ok(_) => Err(AppendError::Unavailable { cause }),
            Err(_) => {
                self.tail = Tail { first: from, events: Vec::new() };
                Err(AppendError::Unknown { cause })
            }
        }
    }

    fn read_back(&mut self, before: u64, limit: usize) -> Result<Vec<Numbered>, ReadError> {
        let session = self.session().map_err(unreadable)?;
        let mut statement =
            session.connection.prepare_cached(rows::SELECT_BLOCKS_BACK).map_err(storage)?;
        let mut events = Vec::new();
        let found = statement
            .query_map(rows::range(before, limit.div_ceil(BLOCK)), rows::block_of)
            .map_err(storage)?;
        for block in found {
            let block = block.map_err(|error| match rows::is_damage(&error) {
                true => ReadError::Damaged {
                    place: format!("a page of the traffic before t{before}"),
                    what: error.to_string(),
                },
                false => storage(error),
            })?;
            let decoded = block.decode().map_err(|what| ReadError::Damaged {
                place: format!("the traffic block from t{}", block.first),
                what,
            })?;
            events.extend(decoded.into_iter().rev().filter(|event| event.number < before));
        }
        Ok(events)
    }
}

impl Log for SqliteLog {
    fn id(&self) -> &str {
        &self.id
    }

    fn last_at(&mut self) -> Option<Timestamp> {
        let session = self.session.as_ref()?;
        let at: i64 = session.connection.query_row(rows::LAST_AT, [], |row| row.get(0)).ok()?;
        (at > 0).then_some(Timestamp(at))
    }

    fn begin(&mut self) -> Result<bool, AppendError> {
        let cause = |error: rusqlite::Error| AppendError::Unavailable { cause: cause_of(&error) };
        let gate = self.gate.clone();
        let session = self.session()?;
        let clean = rows::next(&session.connection).map_err(cause)?.clean;
        let _turn = gate.enter();
        session.connection.execute(rows::SET_CLEAN, [0]).map_err(cause)?;
        Ok(clean)
    }

    fn end(&mut self) -> Result<(), AppendError> {
        let cause = |error: rusqlite::Error| AppendError::Unavailable { cause: cause_of(&error) };
        let gate = self.gate.clone();
        let connection = &self.session()?.connection;
        let _turn = gate.enter();
        connection.execute(rows::SET_CLEAN, [1]).map_err(cause)?;
        // All of it in the one file, for whoever copies it now; a reader in the way leaves that to the next start.
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        Ok(())
    }
}
