//! The floors of the log: somebody who only inserts rows into SQLite, with no numbers to guard, nothing to encode and
//! nobody to answer; somebody who only reads and decodes them; and a flat file that is synced. Used by both benches.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::Path;

use rollcall::domain::traffic::{Detail, Traffic};
use rollcall::log::codec::{self, Row};
use rollcall::log::sqlite::{FILE, SqliteLog, Synchronous};
use rusqlite::{Connection, OpenFlags, params};

/// The node that rows name.
pub(crate) const NODE: &str = "bench";

/// A log in `dir`, made if it is not there.
pub(crate) fn open(dir: &Path, synchronous: Synchronous) -> SqliteLog {
    SqliteLog::open(dir, synchronous, NODE).expect("a log opens in a folder of the bench")
}

/// Plain SQLite: the table of changes as the log itself makes it, a table with a row for each event of traffic, one
/// prepared statement for each, and SQLite's own checkpoints.
pub(crate) struct Plain(Connection);

impl Plain {
    /// Opens it in a folder of its own, at this level of synchronisation.
    pub(crate) fn open(dir: &Path, synchronous: Synchronous) -> Self {
        drop(open(dir, synchronous));
        let connection = Connection::open(dir.join(FILE)).expect("the log's file opens");
        let plain = Self(connection);
        plain.set("journal_mode", "WAL");
        plain.set("temp_store", "MEMORY");
        plain.synchronous(synchronous);
        plain
            .0
            .execute_batch(
                "CREATE TABLE plain_traffic (number INTEGER PRIMARY KEY, at INTEGER NOT NULL, seen INTEGER NOT NULL, \
                 kind TEXT NOT NULL, namespace TEXT, service TEXT, instance TEXT, caller TEXT NOT NULL, \
                 trace_id BLOB NOT NULL, span_id BLOB NOT NULL, detail TEXT, revision INTEGER, returned INTEGER, \
                 status INTEGER)",
            )
            .expect("the table is new");
        plain
    }

    fn set(&self, pragma: &str, value: &str) {
        self.0.pragma_update(None, pragma, value).expect("a pragma of SQLite");
    }

    /// Sets the level of the next transactions.
    pub(crate) fn synchronous(&self, level: Synchronous) {
        self.set("synchronous", if level == Synchronous::Full { "FULL" } else { "NORMAL" });
    }

    /// Inserts changes in one transaction.
    pub(crate) fn insert(&mut self, rows: &[Row]) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO changes (seq, at, kind, namespace, service, instance, caller, trace_id, \
                 span_id, cause, node, format, data, checksum) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?;
            for row in rows {
                statement.execute(params![
                    i64::try_from(row.seq).expect("small numbers"),
                    row.at,
                    row.kind,
                    row.namespace,
                    row.service,
                    row.instance,
                    row.caller,
                    row.trace_id,
                    row.span_id,
                    row.cause.map(|cause| i64::try_from(cause).expect("small numbers")),
                    row.node,
                    row.format,
                    row.data,
                    row.checksum,
                ])?;
            }
        }
        transaction.commit()
    }

    /// Inserts traffic in one transaction, a row for each event, without an index.
    pub(crate) fn insert_traffic(&mut self, events: &[Traffic]) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO plain_traffic (at, seen, kind, namespace, service, instance, caller, trace_id, span_id, \
                 detail, revision, returned, status) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?;
            for event in events {
                let (kind, detail, revision, returned, status) = match &event.detail {
                    Detail::Lookup { filter, revision, returned, status, .. } => {
                        ("lookup", Some(&**filter), revision.0, Some(*returned), Some(*status))
                    }
                    Detail::Heartbeat { incarnation, note, .. } => {
                        ("heartbeat", note.as_deref(), incarnation.0, None, None)
                    }
                    _ => ("stream", None, 0, None, None),
                };
                statement.execute(params![
                    event.at.0,
                    i64::try_from(event.seen.0).expect("small numbers"),
                    kind,
                    event.namespace.as_ref().map(|name| name.as_str()),
                    event.service.as_ref().map(|name| name.as_str()),
                    event.instance.as_ref().map(|name| name.as_str()),
                    event.caller,
                    event.trace.trace_id,
                    event.trace.span_id,
                    detail,
                    i64::try_from(revision).expect("small numbers"),
                    returned,
                    status,
                ])?;
            }
        }
        transaction.commit()
    }
}

/// One statement over all changes of the log in `dir`, one row in memory at a time; how many there are.
pub(crate) fn select(dir: &Path) -> u64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(dir.join(FILE), flags).expect("the file opens");
    let mut statement = connection
        .prepare(
            "SELECT seq, at, kind, namespace, service, instance, caller, trace_id, span_id, cause, node, \
             format, data, checksum FROM changes ORDER BY seq",
        )
        .expect("the statement fits the schema");
    let mut rows = statement.query([]).expect("the table can be read");
    let mut count = 0;
    while let Some(row) = rows.next().expect("the table can be read") {
        let _ = black_box(codec::decode(&read(row).expect("the schema's types"))).expect("whole");
        count += 1;
    }
    count
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        at: row.get(1)?,
        kind: row.get(2)?,
        namespace: row.get(3)?,
        service: row.get(4)?,
        instance: row.get(5)?,
        caller: row.get(6)?,
        trace_id: row.get(7)?,
        span_id: row.get(8)?,
        cause: row.get::<_, Option<i64>>(9)?.map(i64::cast_unsigned),
        node: row.get(10)?,
        format: row.get(11)?,
        data: row.get(12)?,
        checksum: row.get(13)?,
    })
}

/// A file at whose end groups of rows are written, each group synced.
pub(crate) struct Flat(File);

impl Flat {
    /// Makes it.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        File::create(dir.join("flat")).map(Self)
    }

    /// Writes a group and syncs it.
    pub(crate) fn append(&mut self, group: &[u8]) -> io::Result<()> {
        self.0.write_all(group)?;
        self.0.sync_data()
    }
}

/// The rows as the bytes of their columns, one after the other.
pub(crate) fn flattened(rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        for number in [row.seq, row.at.cast_unsigned(), row.cause.unwrap_or(0)] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&row.format.to_le_bytes());
        bytes.extend_from_slice(&row.checksum.to_le_bytes());
        let names = [&row.namespace, &row.service, &row.instance, &row.caller];
        for text in names.into_iter().flatten().chain([&row.kind, &row.node, &row.data]) {
            bytes.extend_from_slice(text.as_bytes());
        }
        for id in [&row.trace_id, &row.span_id].into_iter().flatten() {
            bytes.extend_from_slice(id);
        }
    }
    bytes
}
