//! Snapshots in the database: written in slices beside a registry that runs, read whole or one service at a time,
//! and let go of when they are not needed any more.
//!
//! [`write`] and [`prune`] are called by the keeper of the log on a connection of its own. A snapshot counts from
//! the moment at which its header says that it is complete; what a crash left of one is removed by the next
//! [`write`]. Reading never trusts it: see [`crate::log::snapshot`].

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row as SqlRow, Transaction};
use rusqlite::{TransactionBehavior, params};

use super::rows::{self, number, signed, text};
use crate::clock::Stopwatch;
use crate::domain::registry::Service;
use crate::domain::{Millis, Seq, ServiceKey, Timestamp};
use crate::log::ReadError;
use crate::log::codec::DecodeError;
use crate::log::snapshot::{
    Builder, Decoded, Header, List, Part, Snapshot, Tally, encode, service_of,
};
use crate::log::upkeep::{ServiceState, Written};
use crate::yielding;

/// How long a slice goes on: the registry's writer may be waiting. A part takes about a tenth of it.
const SLICE: Duration = Duration::from_millis(1);

/// Of the snapshots between the oldest and the newest two, so many changes at most lie between one that is kept
/// and the next.
pub(super) const SPACING: u64 = 100_000;

const INSERT_PART: &str = "INSERT INTO snapshot_services (seq, namespace, service, revision, part, parts, format, \
     checksum, instances) VALUES (?,?,?,?,?,?,?,?,?)";
const SELECT_PARTS: &str = "SELECT seq, namespace, service, revision, part, parts, format, checksum, instances \
     FROM snapshot_services WHERE seq = ?1 ORDER BY namespace, service, part";
const SELECT_PARTS_OF: &str = "SELECT seq, namespace, service, revision, part, parts, format, checksum, instances \
     FROM snapshot_services WHERE seq = ?1 AND namespace = ?2 AND service = ?3 ORDER BY part";
const SELECT_LIST: &str = "SELECT namespace, service, checksum FROM snapshot_services WHERE seq = ? \
     ORDER BY namespace, service, part";
const SELECT_HEADER: &str = "SELECT seq, at, next_traffic, services, instances, digest, bytes, checksum \
     FROM snapshots WHERE seq = ? AND complete = 1";
const SELECT_COMPLETE: &str =
    "SELECT seq, at FROM snapshots WHERE complete = 1 AND seq BETWEEN ?1 AND ?2 ORDER BY seq";
const BEGIN: &str = "INSERT INTO snapshots (seq, at, next_traffic, services, instances, digest, bytes, complete, \
     checksum) VALUES (?, ?, ?, 0, 0, '', 0, 0, 0)";
const COMPLETE: &str = "UPDATE snapshots SET services = ?, instances = ?, digest = ?, bytes = ?, checksum = ?, \
     complete = 1 WHERE seq = ?";
const DELETE_PART: &str = "DELETE FROM snapshot_services WHERE rowid = \
     (SELECT rowid FROM snapshot_services WHERE seq = ? LIMIT 1)";
/// What has no header is left of one whose header was lost.
const ANY_UNFINISHED: &str = "SELECT seq FROM snapshots WHERE complete = 0 UNION \
     SELECT seq FROM snapshot_services WHERE seq NOT IN (SELECT seq FROM snapshots) LIMIT 1";

/// Runs work on a connection in slices that others may come between: each in a transaction of its own.
pub(super) trait Slices {
    /// The connection, for reading between the slices.
    fn connection(&self) -> &Connection;

    /// Runs one slice: a transaction that is committed if `work` succeeds.
    ///
    /// # Errors
    /// SQLite's, or those of `work`; then nothing of it is in.
    fn slice<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T>;
}

/// A connection that has the database to itself, or shares it with nobody who minds.
impl Slices for Connection {
    fn connection(&self) -> &Connection {
        self
    }

    fn slice<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let transaction = self.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }
}

/// Writes the snapshot of version `seq`, a change that is in the log, from `services` in the order of their names.
///
/// `services` must read the leases as it goes, not before this is called: what it says of heartbeats is taken to hold
/// for all traffic that is in the log now, but for the flush that is being noted.
///
/// # Errors
/// SQLite's. What was written until then is removed by the next call; other snapshots are untouched.
pub(super) fn write(
    slices: &mut impl Slices,
    seq: Seq,
    services: &mut dyn Iterator<Item = ServiceState>,
) -> rusqlite::Result<Written> {
    discard_unfinished(slices)?;
    if let Some(header) = header(slices.connection(), seq)? {
        return Ok(Written { seq, bytes: header.bytes });
    }
    let (at, next_traffic) = slices.slice(|transaction| {
        let at: i64 = transaction.query_row(
            "SELECT at FROM changes WHERE seq = ?",
            [signed(seq.0)],
            |row| row.get(0),
        )?;
        let next: i64 =
            transaction.query_row("SELECT next_traffic FROM log", [], |row| row.get(0))?;
        transaction.execute(BEGIN, params![signed(seq.0), at, next])?;
        Ok((Timestamp(at), u64::try_from(next).unwrap_or(0)))
    })?;
    put(slices, seq, at, next_traffic, services)
}

/// Writes the snapshot on which an imported log stands: there is no change below it to take the time from.
pub(super) fn write_base(
    slices: &mut impl Slices,
    header: &Header,
    services: &mut dyn Iterator<Item = ServiceState>,
) -> rusqlite::Result<Written> {
    let (seq, at, next) = (Seq(header.seq), Timestamp(header.at), header.next_traffic);
    slices.slice(|transaction| {
        transaction.execute(BEGIN, params![signed(seq.0), at.micros(), signed(next)])
    })?;
    put(slices, seq, at, next, services)
}

/// The parts, slice by slice, then the header that makes them count.
fn put(
    slices: &mut impl Slices,
    seq: Seq,
    at: Timestamp,
    next_traffic: u64,
    services: &mut dyn Iterator<Item = ServiceState>,
) -> rusqlite::Result<Written> {
    let mut tally = Tally::default();
    // Encoded outside of the transactions, about as much as one of them takes.
    let mut waiting: Vec<Part> = Vec::new();
    let mut more = true;
    while more || !waiting.is_empty() {
        while more && waiting.iter().map(Part::bytes).sum::<u64>() < AHEAD {
            match services.next() {
                Some(state) => {
                    yielding::pause();
                    let parts = encode(seq, &state);
                    tally.add(&state, &parts);
                    waiting.extend(parts);
                }
                None => more = false,
            }
        }
        let mut written = 0;
        slices.slice(|transaction| {
            let took = Stopwatch::start();
            let mut insert = transaction.prepare_cached(INSERT_PART)?;
            while let Some(part) = waiting.get(written) {
                insert_part(&mut insert, part)?;
                yielding::pause();
                written += 1;
                if took.elapsed() > SLICE {
                    break;
                }
            }
            Ok(())
        })?;
        waiting.drain(..written);
    }
    let header = tally.header(seq, at, next_traffic);
    slices.slice(|transaction| {
        transaction.execute(
            COMPLETE,
            params![
                signed(header.services),
                signed(header.instances),
                header.digest,
                signed(header.bytes),
                header.checksum,
                signed(header.seq),
            ],
        )
    })?;
    Ok(Written { seq, bytes: header.bytes })
}

/// So many parts are handed to a thread at once, and so many times that may wait for it.
const BATCH: usize = 16;
const BATCHES_AHEAD: usize = 4;
/// For so many bytes of a snapshot another thread is worth its while, up to so many threads.
const WORKER_BYTES: u64 = 4 * 1_024 * 1_024;
const WORKERS_MAX: usize = 8;

/// Bytes that are encoded before they are written.
const AHEAD: u64 = 512 * 1_024;

fn insert_part(insert: &mut rusqlite::CachedStatement<'_>, part: &Part) -> rusqlite::Result<usize> {
    insert.execute(params![
        signed(part.seq),
        part.namespace,
        part.service,
        signed(part.revision),
        signed(part.part),
        signed(part.parts),
        part.format,
        part.checksum,
        part.instances,
    ])
}

/// Removes what a crash or a full disk has left of snapshots that were never completed.
pub(super) fn discard_unfinished(slices: &mut impl Slices) -> rusqlite::Result<()> {
    loop {
        let connection = slices.connection();
        let found: Option<i64> =
            connection.query_row(ANY_UNFINISHED, [], |row| row.get(0)).optional()?;
        let Some(seq) = found else { return Ok(()) };
        remove(slices, seq)?;
    }
}

fn remove(slices: &mut impl Slices, seq: i64) -> rusqlite::Result<()> {
    // From here on nobody begins to read it.
    slices.slice(|transaction| {
        transaction.execute("UPDATE snapshots SET complete = 0 WHERE seq = ?", [seq])
    })?;
    let mut more = true;
    while more {
        more = slices.slice(|transaction| {
            let took = Stopwatch::start();
            let mut delete = transaction.prepare_cached(DELETE_PART)?;
            while delete.execute([seq])? == 1 {
                if took.elapsed() > SLICE {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
    }
    slices
        .slice(|transaction| transaction.execute("DELETE FROM snapshots WHERE seq = ?", [seq]))
        .map(drop)
}

/// Lets go of the snapshots that are not needed: see [`kept`]. Those below the first change but one are of no use to
/// anybody: the changes that led on from there are gone.
///
/// # Errors
/// SQLite's; what was let go of until then stays so.
pub(super) fn prune(slices: &mut impl Slices, apart: Millis) -> rusqlite::Result<()> {
    let first = first_seq(slices.connection())?;
    let all = complete(slices.connection(), Seq::ZERO, Seq(u64::MAX))?;
    let useful: Vec<(Seq, Timestamp)> =
        all.iter().copied().filter(|(seq, _)| seq.next() >= first).collect();
    let kept = kept(&useful, apart);
    for (seq, _) in all.into_iter().filter(|one| !kept.contains(one)) {
        remove(slices, signed(seq.0))?;
    }
    Ok(())
}

/// Which of these snapshots (the oldest first) are kept: the oldest, on which the kept changes stand; the newest two, as
/// one may be damaged; and between them as few as leave no more than [`SPACING`] changes from one to the next, nor more
/// than `apart`: changes go only up to a snapshot, and in a quiet registry so many of them take years.
pub(super) fn kept(all: &[(Seq, Timestamp)], apart: Millis) -> Vec<(Seq, Timestamp)> {
    let mut kept: Vec<(Seq, Timestamp)> = Vec::new();
    for (position, one) in all.iter().enumerate() {
        let newest = position + 2 >= all.len();
        let needed = match (kept.last(), all.get(position + 1)) {
            (Some(last), Some(next)) => {
                next.0.0 - last.0.0 > SPACING || next.1.since(last.1) > apart
            }
            _ => true,
        };
        if newest || needed {
            kept.push(*one);
        }
    }
    kept
}

/// The newest snapshot that is whole and of no later time than `until`, and its time: changes up to its version can go, as it stands
/// for them. None if that would let nothing go.
///
/// # Errors
/// [`ReadError::Storage`].
pub(super) fn horizon(
    connection: &Connection,
    until: Timestamp,
) -> Result<Option<(Seq, Timestamp)>, ReadError> {
    let first = first_seq(connection).map_err(storage)?;
    let mut found = complete(connection, first, Seq(u64::MAX)).map_err(storage)?;
    found.retain(|(_, at)| *at <= until);
    while let Some((seq, at)) = found.pop() {
        match load(connection, seq) {
            Ok(Some(_)) => return Ok(Some((seq, at))),
            // Nothing may stand on a damaged one.
            Ok(None) | Err(ReadError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The first change that is kept.
pub(super) fn first_seq(connection: &Connection) -> rusqlite::Result<Seq> {
    rows::first(connection).map(|(first, _)| Seq(first))
}

/// The complete snapshots of versions `from` to `to`, the oldest first, and when these versions began.
pub(super) fn complete(
    connection: &Connection,
    from: Seq,
    to: Seq,
) -> rusqlite::Result<Vec<(Seq, Timestamp)>> {
    let mut statement = connection.prepare_cached(SELECT_COMPLETE)?;
    let found = statement.query_map([signed(from.0), signed(to.0)], |row| {
        Ok((Seq(number(row, 0)?), Timestamp(number(row, 1)?)))
    })?;
    found.collect()
}

/// The same for those who can do without snapshots, if it is only their table that is damaged.
///
/// # Errors
/// [`ReadError::Damaged`] for damage.
pub(super) fn list_complete(
    connection: &Connection,
    from: Seq,
    to: Seq,
) -> Result<Vec<(Seq, Timestamp)>, ReadError> {
    complete(connection, from, to).map_err(|error| damage_or(error, "the table of snapshots"))
}

fn header(connection: &Connection, seq: Seq) -> rusqlite::Result<Option<Header>> {
    let mut statement = connection.prepare_cached(SELECT_HEADER)?;
    statement
        .query_row([signed(seq.0)], |row| {
            Ok(Header {
                seq: number(row, 0)?,
                at: number(row, 1)?,
                next_traffic: number(row, 2)?,
                services: number(row, 3)?,
                instances: number(row, 4)?,
                digest: text(row, 5)?.unwrap_or_default(),
                bytes: number(row, 6)?,
                checksum: number(row, 7)?,
            })
        })
        .optional()
}

fn part_of(row: &SqlRow<'_>) -> rusqlite::Result<Part> {
    Ok(Part {
        seq: number(row, 0)?,
        namespace: text(row, 1)?.unwrap_or_default(),
        service: text(row, 2)?.unwrap_or_default(),
        revision: number(row, 3)?,
        part: number(row, 4)?,
        parts: number(row, 5)?,
        format: number(row, 6)?,
        checksum: number(row, 7)?,
        instances: text(row, 8)?.unwrap_or_default(),
    })
}

fn storage(error: rusqlite::Error) -> ReadError {
    ReadError::Storage(error.to_string().into())
}

/// A page of a snapshot that can't be read is damage of that snapshot: the one before it may be whole.
fn of_snapshot(seq: Seq, error: rusqlite::Error) -> ReadError {
    damage_or(error, &format!("snapshot {seq}"))
}

fn damage_or(error: rusqlite::Error, place: &str) -> ReadError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ReadError::Damaged { place: place.to_owned(), what: error.to_string() }
        }
        _ => storage(error),
    }
}

fn damaged(seq: Seq, what: impl ToString) -> ReadError {
    ReadError::Damaged { place: format!("snapshot {seq}"), what: what.to_string() }
}

/// Loads a snapshot and checks all of it; none if there is none of this version.
///
/// # Errors
/// [`ReadError::Damaged`] if it is not what was written.
pub(super) fn load(connection: &Connection, seq: Seq) -> Result<Option<Snapshot>, ReadError> {
    let sqlite = |error| of_snapshot(seq, error);
    let wrong = |error: DecodeError| damaged(seq, error);
    let Some(header) = header(connection, seq).map_err(sqlite)? else { return Ok(None) };
    // A small one is read before threads have begun. What a damaged header claims does no harm here.
    let most = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let useful = usize::try_from(header.bytes / WORKER_BYTES).unwrap_or(usize::MAX);
    let workers = useful.clamp(1, most);
    let mut builder = Builder::new(header);
    for batch in decode_all(connection, seq, workers)? {
        for part in batch {
            builder.put(part.map_err(|what| damaged(seq, what))?);
        }
    }
    let loaded = builder.finish();
    // One that was let go of meanwhile looks damaged, and is not.
    if loaded.is_err() && self::header(connection, seq).map_err(sqlite)?.is_none() {
        return Ok(None);
    }
    loaded.map(Some).map_err(wrong)
}

/// Some parts, taken apart; or what is wrong with one of them.
type Batch = Vec<Result<Decoded, String>>;

/// Reads all parts of a snapshot, and takes them apart on `workers` threads, which is most of the work: this one reads
/// on meanwhile. In the order in which they were read.
fn decode_all(connection: &Connection, seq: Seq, workers: usize) -> Result<Vec<Batch>, ReadError> {
    let sqlite = |error| of_snapshot(seq, error);
    let mut statement = connection.prepare_cached(SELECT_PARTS).map_err(sqlite)?;
    let mut rows = statement.query([signed(seq.0)]).map_err(sqlite)?;
    std::thread::scope(|scope| {
        let (batches, waiting): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| sync_channel::<Vec<Part>>(BATCHES_AHEAD)).unzip();
        let decoding: Vec<_> = waiting
            .into_iter()
            .map(|waiting| scope.spawn(move || waiting.iter().map(decode).collect::<Vec<Batch>>()))
            .collect();
        // In turn, so that the order can be found again.
        let mut turn = (0..workers).cycle();
        let mut batch = Vec::with_capacity(BATCH);
        let mut read = || -> rusqlite::Result<()> {
            while let Some(row) = rows.next()? {
                batch.push(part_of(row)?);
                if batch.len() == BATCH {
                    hand_over(&batches, &mut turn, &mut batch);
                }
            }
            hand_over(&batches, &mut turn, &mut batch);
            Ok(())
        };
        let read = read().map_err(sqlite);
        // Without this end they would wait for more.
        drop(batches);
        let mut decoded: Vec<_> = Vec::with_capacity(workers);
        for worker in decoding {
            match worker.join() {
                Ok(batches) => decoded.push(batches.into_iter()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        read?;
        let mut turn = (0..workers).cycle();
        let next = || turn.next().and_then(|worker| decoded[worker].next());
        Ok(std::iter::from_fn(next).collect())
    })
}

fn decode(parts: Vec<Part>) -> Batch {
    let decode = |part: &Part| {
        Decoded::of(part).map_err(|error| format!("{}/{}: {error}", part.namespace, part.service))
    };
    parts.iter().map(decode).collect()
}

fn hand_over(
    batches: &[SyncSender<Vec<Part>>],
    turn: &mut impl Iterator<Item = usize>,
    batch: &mut Vec<Part>,
) {
    if !batch.is_empty()
        && let Some(batches) = turn.next().and_then(|worker| batches.get(worker))
    {
        // One that takes no more has panicked, and whoever joins it will tell.
        let _ = batches.send(std::mem::replace(batch, Vec::with_capacity(BATCH)));
    }
}

fn list(connection: &Connection, seq: Seq) -> rusqlite::Result<List> {
    let mut list = List::default();
    let mut statement = connection.prepare_cached(SELECT_LIST)?;
    let mut rows = statement.query([signed(seq.0)])?;
    while let Some(row) = rows.next()? {
        let name = |column| Ok::<_, rusqlite::Error>(text(row, column)?.unwrap_or_default());
        list.add(&name(0)?, &name(1)?, number(row, 2)?);
    }
    Ok(list)
}

/// Loads one service of a snapshot, without the others: `Some(None)` if that snapshot does not know it, none if
/// there is no such snapshot.
///
/// # Errors
/// [`ReadError::Damaged`] if what is read for it is not what was written.
pub(super) fn load_service(
    connection: &Connection,
    seq: Seq,
    key: &ServiceKey,
) -> Result<Option<(Timestamp, Option<Service>)>, ReadError> {
    let sqlite = |error| of_snapshot(seq, error);
    let Some(header) = header(connection, seq).map_err(sqlite)? else { return Ok(None) };
    let at = Timestamp(header.at);
    let mut statement = connection.prepare_cached(SELECT_PARTS_OF).map_err(sqlite)?;
    let names = params![signed(seq.0), key.namespace.as_str(), key.service.as_str()];
    let parts = statement.query_map(names, part_of).map_err(sqlite)?;
    let parts: Vec<Part> = parts.collect::<Result<_, _>>().map_err(sqlite)?;
    let service = service_of(&parts);
    let checked = match &service {
        // Its own checksums say enough of a service that is there; that one is not there is said by all of them.
        Ok(Some(_)) | Err(_) => Ok(()),
        Ok(None) => header.check(&list(connection, seq).map_err(sqlite)?),
    };
    if self::header(connection, seq).map_err(sqlite)?.is_none() {
        return Ok(None);
    }
    let service = checked.and(service).map_err(|error| damaged(seq, format!("{key}: {error}")))?;
    Ok(Some((at, service)))
}
