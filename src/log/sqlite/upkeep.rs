//! The background work on the file: a write connection beside the registrar's, in slices that hold the write lock for
//! about two milliseconds at most, each in its turn at the gate. Called by the keeper, on its thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::checkpointer::{self, Restart};
use super::derive::Deriver;
use super::gate::Gate;
use super::retention::{self, Pace, Retention};
use super::snapshots::Slices;
use super::{OpenError, rows, sizes, snapshots};
use crate::domain::event::Compacted;
use crate::domain::{Millis, Seq, Timestamp};
use crate::log::ReadError;
use crate::log::upkeep::{Budgets, Failed, Removed, ServiceState, Standing, Upkeep, Written};
use crate::telemetry::signals;

/// Free pages are given back beyond one in so many of the file: the next events fill the rest, and a page that is given
/// back and taken again is written twice for nothing.
const SLACK: u64 = 32;

/// The work on one log.
#[derive(Debug)]
pub struct SqliteUpkeep {
    path: PathBuf,
    gate: Gate,
    restart: Restart,
    /// None after a failure: it is opened again.
    connection: Option<Connection>,
    memory: Memory,
    stop: Arc<AtomicBool>,
}

/// What the work remembers between slices; it can be lost.
#[derive(Debug)]
struct Memory {
    deriver: Deriver,
    retention: Retention,
    pages: Pace,
    /// A page that can't be moved was met: no space can be given back until the file is whole.
    is_stuck: bool,
}

impl SqliteUpkeep {
    pub(super) fn open(path: &Path, gate: Gate, restart: Restart) -> Result<Self, OpenError> {
        let connection =
            connect(path).map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
        Ok(Self {
            path: path.to_owned(),
            gate: gate.for_another(),
            restart,
            connection: Some(connection),
            memory: Memory {
                deriver: Deriver::default(),
                retention: Retention::default(),
                pages: Pace::new(16, 1_024),
                is_stuck: false,
            },
            stop: Arc::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn memory_is_stuck(&self) -> bool {
        self.memory.is_stuck
    }

    fn work<T>(
        &mut self,
        work: impl FnOnce(&mut Connection, &Gate, &mut Memory) -> Result<T, Trouble>,
    ) -> Result<T, Failed> {
        let done: Result<T, Trouble> = (|| {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => connect(&self.path)?,
            };
            let done = work(&mut connection, &self.gate, &mut self.memory)?;
            // The registrar does this after its commits; when nobody registers or looks up, nobody else would.
            if self.restart.take() {
                let _turn = self.gate.enter();
                checkpointer::restart(&connection);
            }
            // One that failed is not kept.
            self.connection = Some(connection);
            Ok(done)
        })();
        done.map_err(|trouble| Failed(trouble.to_string().into()))
    }
}

/// Why a slice was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A snapshot can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A connection to a log that exists: one that has vanished is not replaced by an empty one.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    rows::prepare_for_writing(&connection)?;
    // What this work loses in a power cut can be done again, and the registrar's next sync covers it.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// One write transaction in its turn; and how long it held the lock.
pub(super) fn write<T>(
    connection: &mut Connection,
    gate: &Gate,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<(T, Duration)> {
    let turn = gate.enter();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok((done, turn.elapsed()))
}

/// Work of many slices in one call: each in its turn, with a pause after it that is as long as it was.
struct Paced<'a> {
    connection: &'a mut Connection,
    gate: &'a Gate,
    stop: &'a AtomicBool,
}

impl Slices for Paced<'_> {
    fn connection(&self) -> &Connection {
        self.connection
    }

    fn slice<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if self.stop.load(Relaxed) {
            let interrupted = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
            return Err(rusqlite::Error::SqliteFailure(interrupted, None));
        }
        let (done, held) = write(self.connection, self.gate, work)?;
        // Ends early when the keeper is told to stop.
        std::thread::park_timeout(held);
        Ok(done)
    }
}

impl Upkeep for SqliteUpkeep {
    fn heed(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    fn longest_hold(&mut self) -> Duration {
        self.gate.longest_turn()
    }

    fn standing(&mut self) -> Result<Standing, Failed> {
        self.work(|connection, _, _| {
            let keeping = rows::keeping(connection)?;
            Ok(Standing {
                head: Seq(keeping.head),
                traffic_head: keeping.traffic_head,
                // What has gone needs no deriving from.
                derived: Seq(keeping.derived.max(keeping.first.saturating_sub(1))),
                derived_traffic: keeping
                    .derived_traffic
                    .max(keeping.first_traffic.saturating_sub(1)),
                snapshot: keeping.snapshot.map(|(seq, at)| (Seq(seq), Timestamp(at))),
            })
        })
    }

    fn derive(&mut self) -> Result<bool, Failed> {
        self.work(|connection, gate, Memory { deriver, .. }| {
            let Some(slice) = deriver.prepare(connection)? else { return Ok(false) };
            let _turn = gate.enter();
            deriver.write(connection, slice)?;
            Ok(true)
        })
    }

    fn snapshot(
        &mut self,
        seq: Seq,
        services: &mut dyn Iterator<Item = ServiceState>,
        apart: Millis,
    ) -> Result<Written, Failed> {
        let stop = Arc::clone(&self.stop);
        self.work(|connection, gate, _| {
            let mut slices = Paced { connection, gate, stop: &stop };
            let written = snapshots::write(&mut slices, seq, services)?;
            snapshots::prune(&mut slices, apart)?;
            Ok(written)
        })
    }

    fn retain(&mut self, budgets: &Budgets) -> Result<Option<Removed>, Failed> {
        self.work(|connection, gate, memory| memory.retention.slice(connection, gate, budgets))
    }

    fn untold(&mut self) -> Result<Vec<Compacted>, Failed> {
        self.work(|connection, _, _| {
            let noted = rows::keeping(connection)?.compactions.into_iter();
            Ok(noted.filter(|(_, told)| told.is_none()).map(|(what, _)| what).collect())
        })
    }

    fn told(&mut self, told: &Compacted, by: Seq) -> Result<(), Failed> {
        self.work(|connection, gate, _| Ok(retention::told(connection, gate, told, by.0)?))
    }

    fn reclaim(&mut self) -> Result<bool, Failed> {
        self.work(|connection, gate, Memory { pages: pace, is_stuck, .. }| {
            let (all, free) = sizes::pages(connection)?;
            let surplus = free.saturating_sub(all / SLACK);
            let slice = surplus.min(pace.rows() as u64);
            if slice == 0 || *is_stuck {
                return Ok(false);
            }
            let vacuumed = write(connection, gate, |transaction| vacuum(transaction, slice));
            let (moved, held) = match vacuumed {
                Ok(vacuumed) => vacuumed,
                // Page by page, up to the one that is damaged.
                Err(error) if rows::is_damage(&error) && slice > 1 => {
                    *pace = Pace::new(1, 1);
                    return Ok(true);
                }
                Err(error) if rows::is_damage(&error) => {
                    *is_stuck = true;
                    signals::space_not_returned(free, &error);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            };
            pace.learn(held, moved);
            // A file without auto_vacuum gives nothing back, and must not be asked for ever.
            Ok(moved > 0 && surplus > slice)
        })
    }
}

/// Gives up to `pages` of the file back; how many it was.
fn vacuum(transaction: &Transaction<'_>, pages: u64) -> rusqlite::Result<usize> {
    // A row for each page: one step would give back one of them.
    let mut vacuum = transaction.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut steps = vacuum.query([])?;
    let mut moved = 0;
    while steps.next()?.is_some() {
        moved += 1;
    }
    Ok(moved)
}
