//! The statements, and how rows become values and back. Every SQL text on the two tables is here, but for what
//! removes from them ([`super::retention`]).

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, Row as SqlRow, params};

use crate::domain::Timestamp;
use crate::domain::event::{Class, Compacted};
use crate::log::blocks::{BLOCK, Block, NUMBERS};
use crate::log::codec::{Columns, Row};

pub(super) const INSERT_CHANGE: &str = "INSERT INTO changes (seq, at, kind, namespace, service, instance, caller, \
     trace_id, span_id, cause, node, format, data, checksum) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
pub(super) const SELECT_CHANGES: &str = "SELECT seq, at, kind, namespace, service, instance, caller, trace_id, \
     span_id, cause, node, format, data, checksum FROM changes WHERE seq >= ? ORDER BY seq LIMIT ?";
pub(super) const SELECT_CHANGES_BACK: &str = "SELECT seq, at, kind, namespace, service, instance, caller, trace_id, \
     span_id, cause, node, format, data, checksum FROM changes WHERE seq <= ? ORDER BY seq DESC LIMIT ?";
pub(super) const SELECT_MATCHING_CHANGES: &str = "SELECT seq, at, kind, namespace, service, instance, \
     caller, trace_id, span_id, cause, node, format, data, checksum FROM changes WHERE seq BETWEEN ?1 AND ?2 \
     AND (?3 IS NULL OR instr(?3, ',' || kind || ',')) AND (?4 IS NULL OR namespace = ?4) \
     AND (?5 IS NULL OR service = ?5) AND (?6 IS NULL OR instance = ?6) AND (?7 IS NULL OR caller = ?7) \
     AND (?8 IS NULL OR trace_id = ?8) ORDER BY seq LIMIT ?9";
pub(super) const SELECT_MATCHING_CHANGES_BACK: &str = "SELECT seq, at, kind, namespace, service, instance, \
     caller, trace_id, span_id, cause, node, format, data, checksum FROM changes WHERE seq BETWEEN ?1 AND ?2 \
     AND (?3 IS NULL OR instr(?3, ',' || kind || ',')) AND (?4 IS NULL OR namespace = ?4) \
     AND (?5 IS NULL OR service = ?5) AND (?6 IS NULL OR instance = ?6) AND (?7 IS NULL OR caller = ?7) \
     AND (?8 IS NULL OR trace_id = ?8) ORDER BY seq DESC LIMIT ?9";
pub(super) const SELECT_CHANGES_BETWEEN_BACK: &str = "SELECT seq, at, kind, namespace, service, instance, caller, \
     trace_id, span_id, cause, node, format, data, checksum FROM changes WHERE seq > ?1 AND seq <= ?2 \
     ORDER BY seq DESC LIMIT ?3";
pub(super) const MOVE_HEAD: &str = "UPDATE log SET next_seq = ?2 WHERE next_seq = ?1";
pub(super) const SELECT_NEXT: &str = "SELECT id, next_seq, next_traffic, clean FROM log";

pub(super) const PUT_BLOCK: &str = "INSERT OR REPLACE INTO traffic (first, count, first_at, last_at, seen_from, names, \
     kinds, ats, seen, namespaces, services, instances, callers, details, revisions, returned, statuses, \
     trace_ids, span_ids, checksum) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
pub(super) const SELECT_BLOCKS: &str = "SELECT first, count, first_at, last_at, seen_from, names, kinds, ats, seen, \
     namespaces, services, instances, callers, details, revisions, returned, statuses, trace_ids, span_ids, \
     checksum FROM traffic WHERE first >= ? ORDER BY first LIMIT ?";
pub(super) const SELECT_BLOCKS_BACK: &str = "SELECT first, count, first_at, last_at, seen_from, names, kinds, ats, \
     seen, namespaces, services, instances, callers, details, revisions, returned, statuses, trace_ids, span_ids, \
     checksum FROM traffic WHERE first < ? ORDER BY first DESC LIMIT ?";
/// The block that holds a number, if any does: the last one that begins at or before it.
pub(super) const SELECT_BLOCK_OF: &str =
    "SELECT coalesce(max(first), ?1) FROM traffic WHERE first <= ?1";
/// The blocks that begin after one number and up to another, and reach beyond a third.
pub(super) const SELECT_BLOCKS_AMONG: &str = "SELECT first, count, first_at, last_at, seen_from, names, kinds, ats, \
     seen, namespaces, services, instances, callers, details, revisions, returned, statuses, trace_ids, span_ids, \
     checksum FROM traffic WHERE first > ?1 AND first <= ?2 AND first + count > ?3 ORDER BY first";
pub(super) const SELECT_FIRST_AFTER: &str =
    "SELECT first FROM traffic WHERE first > ? ORDER BY first LIMIT 1";
pub(super) const SELECT_MARKS: &str = "SELECT next_seq, next_traffic, first_seq, first_traffic, derived_seq, \
     segmented_traffic, counted_lookups, counted_heartbeats FROM log";
/// No block and no period reaches from this number to the next: see V4 of the schema.
pub(super) const SELECT_ENDED: &str = "SELECT ended_traffic FROM log";
pub(super) const MOVE_TRAFFIC: &str = "UPDATE log SET next_traffic = ?2 WHERE next_traffic = ?1";
pub(super) const SET_CLEAN: &str = "UPDATE log SET clean = ?";
pub(super) const FIRST_CHANGE_AT: &str = "SELECT at FROM changes ORDER BY seq LIMIT 1";
pub(super) const LAST_AT: &str = "SELECT max(coalesce((SELECT at FROM changes ORDER BY seq DESC LIMIT 1), 0), \
     coalesce((SELECT last_at FROM traffic ORDER BY first DESC LIMIT 1), 0))";

/// How long a connection waits for another one's lock: longer than any of ours is held.
pub(super) const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// How long the WAL stays when it is started anew (32 MiB): what is there already is written over and synced in half the
/// time that new space takes, whose size has to be synced too. What it grows to under a steady load, and as much again.
pub(super) const WAL_BYTES_KEPT: i64 = 32 << 20;

/// What a connection needs to know before it writes.
pub(super) fn prepare_for_writing(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Checkpoints are the checkpointer's, apart from the commits.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What a burst has made of the WAL is given back when it starts anew.
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    connection.busy_timeout(BUSY)
}

/// SQLite's integers are signed; numbers of events stay far below the edge.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// The numbers of events begin at 1.
fn positive(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<u64> {
    match unsigned(row, column)? {
        0 => Err(rusqlite::Error::IntegralValueOutOfRange(column, 0)),
        number => Ok(number),
    }
}

pub(super) fn insert_change(
    statement: &mut CachedStatement<'_>,
    row: &Row,
) -> rusqlite::Result<()> {
    statement.execute(params![
        signed(row.seq),
        row.at,
        row.kind,
        row.namespace,
        row.service,
        row.instance,
        row.caller,
        row.trace_id,
        row.span_id,
        row.cause.map(signed),
        row.node,
        row.format,
        row.data,
        row.checksum,
    ])?;
    Ok(())
}

/// A text, also where the file says that it is none or no UTF-8: the row's checksum will tell, and its place can
/// be named.
pub(super) fn text(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        // What is whole is checked faster than what may have to be mended is gone through.
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        }),
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
    })
}

/// Bytes, in the same way.
pub(super) fn bytes(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        ValueRef::Integer(_) | ValueRef::Real(_) => Some(Vec::new()),
    })
}

/// A number, in the same way; what is none or out of range reads as the largest one.
pub(super) fn number<T: TryFrom<i64> + Bounded>(
    row: &SqlRow<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => T::try_from(number).unwrap_or(T::LARGEST),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => T::LARGEST,
    })
}

pub(super) trait Bounded {
    const LARGEST: Self;
}

impl Bounded for i64 {
    const LARGEST: Self = Self::MAX;
}

impl Bounded for u64 {
    const LARGEST: Self = Self::MAX;
}

impl Bounded for u32 {
    const LARGEST: Self = Self::MAX;
}

impl Bounded for usize {
    const LARGEST: Self = Self::MAX;
}

pub(super) fn change_of(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let cause: Option<i64> = match row.get_ref(9)? {
        ValueRef::Null => None,
        _ => Some(number(row, 9)?),
    };
    Ok(Row {
        seq: unsigned(row, 0)?,
        at: number(row, 1)?,
        kind: text(row, 2)?.unwrap_or_default(),
        namespace: text(row, 3)?,
        service: text(row, 4)?,
        instance: text(row, 5)?,
        caller: text(row, 6)?,
        trace_id: bytes(row, 7)?,
        span_id: bytes(row, 8)?,
        cause: cause.map(|cause| u64::try_from(cause).unwrap_or(u64::MAX)),
        node: text(row, 10)?.unwrap_or_default(),
        format: number(row, 11)?,
        data: text(row, 12)?.unwrap_or_default(),
        checksum: number(row, 13)?,
    })
}

/// The columns of a change as they stand in the page, and its checksum; none if one of them is not of its type, which
/// [`change_of`] has words for.
pub(super) fn columns_of<'a>(row: &'a SqlRow<'_>) -> rusqlite::Result<Option<(Columns<'a>, u32)>> {
    let bytes = |column: usize| -> rusqlite::Result<Option<&'a [u8]>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Null => Some(&[][..]),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
            ValueRef::Integer(_) | ValueRef::Real(_) => None,
        })
    };
    let number = |column: usize| -> rusqlite::Result<Option<i64>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Null => Some(0),
            ValueRef::Integer(number) => Some(number),
            ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => None,
        })
    };
    let positive = |column: usize| -> rusqlite::Result<Option<u64>> {
        Ok(number(column)?.and_then(|number| u64::try_from(number).ok()))
    };
    let small = |column: usize| -> rusqlite::Result<Option<u32>> {
        Ok(number(column)?.and_then(|number| u32::try_from(number).ok()))
    };
    let numbers = (positive(0)?, number(1)?, positive(9)?, small(11)?, small(13)?);
    let (Some(seq), Some(at), Some(cause), Some(format), Some(checksum)) = numbers else {
        return Ok(None);
    };
    let texts = [2, 3, 4, 5, 6, 7, 8, 10, 12].map(bytes);
    let mut found = [&[][..]; 9];
    for (place, text) in found.iter_mut().zip(texts) {
        let Some(text) = text? else { return Ok(None) };
        *place = text;
    }
    let [kind, namespace, service, instance, caller, trace_id, span_id, node, data] = found;
    let names = [namespace, service, instance, caller];
    let ids = [trace_id, span_id];
    Ok(Some((
        Columns { numbers: (seq, at, cause, format), kind, names, ids, node, data },
        checksum,
    )))
}

pub(super) fn put_block(
    statement: &mut CachedStatement<'_>,
    block: &Block,
) -> rusqlite::Result<()> {
    let [ats, seen, namespaces, services, instances, callers, details, revisions, returned] =
        &block.numbers;
    statement.execute(params![
        signed(block.first),
        signed(block.count as u64),
        block.first_at,
        block.last_at,
        signed(block.seen_from),
        block.names,
        block.kinds,
        ats,
        seen,
        namespaces,
        services,
        instances,
        callers,
        details,
        revisions,
        returned,
        block.statuses,
        block.trace_ids,
        block.span_ids,
        block.checksum,
    ])?;
    Ok(())
}

pub(super) fn block_of(row: &SqlRow<'_>) -> rusqlite::Result<Block> {
    let column = |column: usize| -> rusqlite::Result<Vec<u8>> {
        Ok(bytes(row, column)?.unwrap_or_default())
    };
    let mut numbers: [Vec<u8>; NUMBERS] = Default::default();
    for (position, digits) in numbers.iter_mut().enumerate() {
        *digits = column(7 + position)?;
    }
    Ok(Block {
        first: unsigned(row, 0)?,
        count: number(row, 1)?,
        first_at: number(row, 2)?,
        last_at: number(row, 3)?,
        seen_from: number(row, 4)?,
        names: text(row, 5)?.unwrap_or_default(),
        kinds: column(6)?,
        numbers,
        statuses: column(16)?,
        trace_ids: column(17)?,
        span_ids: column(18)?,
        checksum: number(row, 19)?,
    })
}

/// The one row of the table `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) id: String,
    pub(super) seq: u64,
    pub(super) traffic: u64,
    pub(super) clean: bool,
}

pub(super) fn next(connection: &Connection) -> rusqlite::Result<Next> {
    connection.query_row(SELECT_NEXT, [], |row| {
        Ok(Next {
            id: row.get(0)?,
            seq: positive(row, 1)?,
            traffic: positive(row, 2)?,
            clean: row.get(3)?,
        })
    })
}

/// How far everything has come: the rest of that row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks {
    /// The number of the next change.
    pub(super) next_seq: u64,
    /// The number of the next traffic event.
    pub(super) next_traffic: u64,
    /// The first change that is kept.
    pub(super) first_seq: u64,
    /// The first traffic event that is kept.
    pub(super) first_traffic: u64,
    /// The last change that is in a segment.
    pub(super) segmented_seq: u64,
    /// The last traffic event that is in a segment.
    pub(super) segmented_traffic: u64,
    /// The last one whose minute is counted.
    pub(super) counted_lookups: u64,
    /// The last one whose period is in the runs.
    pub(super) counted_heartbeats: u64,
}

pub(super) fn marks(connection: &Connection) -> rusqlite::Result<Marks> {
    connection.prepare_cached(SELECT_MARKS)?.query_row([], |row| {
        Ok(Marks {
            next_seq: positive(row, 0)?,
            next_traffic: positive(row, 1)?,
            first_seq: positive(row, 2)?,
            first_traffic: positive(row, 3)?,
            segmented_seq: unsigned(row, 4)?,
            segmented_traffic: unsigned(row, 5)?,
            counted_lookups: unsigned(row, 6)?,
            counted_heartbeats: unsigned(row, 7)?,
        })
    })
}

/// The number with which the block begins that holds `number`; itself if none does.
pub(super) fn block_of_number(connection: &Connection, number: u64) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(SELECT_BLOCK_OF)?;
    statement.query_row([signed(number)], |row| unsigned(row, 0))
}

/// The blocks that hold numbers of `low..=high`, as far as they can be read: what a damaged page hides is stepped
/// over, and is then a hole between the numbers of two blocks.
pub(super) fn blocks_among(
    connection: &Connection,
    low: u64,
    high: u64,
) -> rusqlite::Result<Vec<Block>> {
    let mut statement = connection.prepare_cached(SELECT_BLOCKS_AMONG)?;
    let mut found: Vec<Block> = Vec::new();
    // No block is longer than that.
    let mut after = signed(low).saturating_sub(BLOCK as i64);
    loop {
        let mut rows = statement.query([after, signed(high), signed(low.saturating_sub(1))])?;
        loop {
            match rows.next().and_then(|row| row.map(block_of).transpose()) {
                Ok(Some(block)) => {
                    after = signed(block.first);
                    found.push(block);
                }
                Ok(None) => return Ok(found),
                Err(error) if is_damage(&error) => break,
                Err(error) => return Err(error),
            }
        }
        drop(rows);
        // The row that can't be read is passed by its number; if not even that can be read, by what a block holds.
        let hidden: rusqlite::Result<i64> =
            connection.prepare_cached(SELECT_FIRST_AFTER)?.query_row([after], |row| row.get(0));
        after = match hidden {
            Ok(first) => first,
            Err(error) if is_damage(&error) => after.saturating_add(BLOCK as i64),
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(found),
            Err(error) => return Err(error),
        };
        if after >= signed(high) {
            return Ok(found);
        }
    }
}

/// Whether the file is not what SQLite wrote.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// The first change and the first traffic event that are kept.
pub(super) fn first(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection.query_row("SELECT first_seq, first_traffic FROM log", [], |row| {
        Ok((positive(row, 0)?, positive(row, 1)?))
    })
}

/// What the log knows of a past that is not in it any more, or never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// The first change that this log ever held.
    pub(super) born_seq: u64,
    /// The first traffic event that it ever held.
    pub(super) born_traffic: u64,
    /// Minutes since 1970: the counts of those before are gone.
    pub(super) first_minute: Option<i64>,
    /// When the first change that retention took happened, and the first traffic event, where that was noted.
    pub(super) began_at: [Option<i64>; 2],
}

const HAS_BEFORE: &str = "SELECT count(*) FROM pragma_table_info('log') WHERE name = 'born_seq'";
const SELECT_BEFORE: &str = "SELECT born_seq, born_traffic, first_minute, \
     (SELECT began_at FROM compactions WHERE class = ?1), (SELECT began_at FROM compactions WHERE class = ?2) FROM log";

/// That; of a file that an older program wrote, nothing is known.
pub(super) fn before(connection: &Connection) -> rusqlite::Result<Before> {
    let is_there: bool = connection.prepare_cached(HAS_BEFORE)?.query_row([], |row| row.get(0))?;
    if !is_there {
        return Ok(Before {
            born_seq: 1,
            born_traffic: 1,
            first_minute: None,
            began_at: [None; 2],
        });
    }
    let classes = [Class::Changes.as_str(), Class::Traffic.as_str()];
    connection.prepare_cached(SELECT_BEFORE)?.query_row(classes, |row| {
        Ok(Before {
            born_seq: positive(row, 0)?,
            born_traffic: positive(row, 1)?,
            first_minute: row.get(2)?,
            began_at: [row.get(3)?, row.get(4)?],
        })
    })
}

/// The parameters of a range query.
pub(super) fn range(from: u64, limit: usize) -> [i64; 2] {
    [signed(from), i64::try_from(limit).unwrap_or(i64::MAX)]
}

/// The parameters of moving a head.
pub(super) fn from_to(from: u64, to: u64) -> [i64; 2] {
    [signed(from), signed(to)]
}

/// How far retention and the background work have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeping {
    /// The last change.
    pub head: u64,
    /// The last traffic event.
    pub traffic_head: u64,
    /// The first change that is kept.
    pub first: u64,
    /// The first traffic event that is kept.
    pub first_traffic: u64,
    /// The last change that was derived from.
    pub derived: u64,
    /// The last traffic event that was derived from.
    pub derived_traffic: u64,
    /// Snapshots that can be used.
    pub snapshots: u64,
    /// The newest of them: of which change, and when that happened.
    pub snapshot: Option<(u64, i64)>,
    /// What retention took last, of each class, and the change that tells it, if one does already.
    pub compactions: Vec<(Compacted, Option<u64>)>,
}

const SELECT_KEEPING: &str = "SELECT next_seq - 1, next_traffic - 1, first_seq, first_traffic, derived_seq, derived_traffic, \
     (SELECT count(*) FROM snapshots WHERE complete = 1), \
     (SELECT max(seq) FROM snapshots WHERE complete = 1), \
     (SELECT at FROM snapshots WHERE complete = 1 ORDER BY seq DESC LIMIT 1) FROM log";
const SELECT_COMPACTIONS: &str =
    "SELECT class, first, last, first_at, last_at, bytes, told FROM compactions ORDER BY class";

pub(super) fn keeping(connection: &Connection) -> rusqlite::Result<Keeping> {
    let mut keeping = connection.prepare_cached(SELECT_KEEPING)?.query_row([], |row| {
        let at: Option<i64> = row.get(8)?;
        let seq: Option<i64> = row.get(7)?;
        Ok(Keeping {
            head: unsigned(row, 0)?,
            traffic_head: unsigned(row, 1)?,
            first: unsigned(row, 2)?,
            first_traffic: unsigned(row, 3)?,
            derived: unsigned(row, 4)?,
            derived_traffic: unsigned(row, 5)?,
            snapshots: unsigned(row, 6)?,
            snapshot: seq.and_then(|seq| u64::try_from(seq).ok()).zip(at),
            compactions: Vec::new(),
        })
    })?;
    let mut select = connection.prepare_cached(SELECT_COMPACTIONS)?;
    let rows = select.query_map([], |row| {
        let class: String = row.get(0)?;
        let told = unsigned(row, 6)?;
        let compacted = Compacted {
            class: if class == Class::Traffic.as_str() { Class::Traffic } else { Class::Changes },
            first: unsigned(row, 1)?,
            last: unsigned(row, 2)?,
            from: Timestamp(row.get(3)?),
            until: Timestamp(row.get(4)?),
            bytes: unsigned(row, 5)?,
        };
        Ok((compacted, (told > 0).then_some(told)))
    })?;
    keeping.compactions = rows.collect::<rusqlite::Result<_>>()?;
    Ok(keeping)
}
