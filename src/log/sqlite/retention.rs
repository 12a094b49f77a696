//! Takes what is beyond the budgets away, from the oldest end, one slice a call.
//!
//! ```text
//!   traffic   blocks, oldest first, only those that were derived from: deleted, and the first kept number raised, in
//!             one transaction
//!   changes   up to a snapshot: the first kept number is raised above it at once, so that whoever asks for a state
//!             finds a whole one; the rows before it, no part of the log any more, then go in slices
//!   roll-ups  by their minute or hour
//! ```
//!
//! Numbers never start again: the next ones are stored and not touched here. The newest block is not taken while the
//! writer may be writing it again. Where all that could go waits for more traffic (a period to be over, a block to be
//! full), the period is *ended* here: blocks and roll-ups end at the last number that there is, and go in the next turn.
//! So a registry that falls silent forgets in time, and a small budget holds. What went is noted in the table
//! `compactions` in the same transaction. Called by [`super::SqliteUpkeep`] on its own connection, each slice in its turn
//! at the gate.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
    params_from_iter,
};

use super::gate::Gate;
use super::rows::{self, signed, unsigned};
use super::sizes::{self, block_bytes};
use super::snapshots;
use super::upkeep::{Trouble, write};
use crate::domain::Timestamp;
use crate::domain::event::{Class, Compacted};
use crate::log::blocks::BLOCK;
use crate::log::upkeep::{Budgets, Removed};
use crate::telemetry::signals;

const BOUNDS: &str = "SELECT first_seq, next_seq, first_traffic, derived_traffic, next_traffic, ended_traffic FROM log";

const OLDEST_BLOCKS: &str = concat!(
    "SELECT first, count, first_at, last_at, ",
    block_bytes!(),
    " FROM traffic WHERE first >= ?1 AND first + count - 1 <= ?2 \
     AND (first < (SELECT max(first) FROM traffic) OR first + count - 1 <= ?4) ORDER BY first LIMIT ?3"
);
const NEXT_BLOCK: &str =
    "SELECT first, first_at FROM traffic WHERE first > ?1 ORDER BY first LIMIT 1";
const DELETE_BLOCKS: &str = "DELETE FROM traffic WHERE first >= ?1 AND first <= ?2";
const DELETE_TRAFFIC_SEGMENTS: &str =
    "DELETE FROM traffic_segments WHERE first <= ?1 AND last <= ?1";
const DELETE_TRAFFIC_TRACES: &str = "DELETE FROM traffic_traces WHERE first <= ?1 AND last <= ?1";
/// Since when a block waits that begins there.
const WAITING_SINCE: &str = "SELECT first_at FROM traffic WHERE first >= ?1 ORDER BY first LIMIT 1";
/// Never before the last end has been reached by what is derived: after a crash the same roll-ups must come of it.
const END_TRAFFIC: &str = "UPDATE log SET ended_traffic = next_traffic - 1 \
     WHERE derived_traffic >= ended_traffic AND ended_traffic < next_traffic - 1 RETURNING next_traffic";
const RAISE_TRAFFIC: &str = "UPDATE log SET first_traffic = ?1";

const OLD_CHANGES: &str = "SELECT seq, at, octet_length(data) + coalesce(octet_length(service), 0) \
     + coalesce(octet_length(instance), 0) + coalesce(octet_length(caller), 0) + 64 \
     FROM changes WHERE seq >= ?1 AND seq < ?2 ORDER BY seq LIMIT ?3";
const DELETE_CHANGES: &str = "DELETE FROM changes WHERE seq >= ?1 AND seq <= ?2";
const DELETE_CHANGE_SEGMENTS: &str = "DELETE FROM change_segments WHERE first <= ?1 AND last <= ?1";
const DELETE_CHANGE_TRACES: &str = "DELETE FROM change_traces WHERE first <= ?1 AND last <= ?1";
const FIRST_CHANGE_AT: &str = "SELECT at FROM changes WHERE seq >= ?1 ORDER BY seq LIMIT 1";
const RAISE_CHANGES: &str = "UPDATE log SET first_seq = ?1";

const OLD_MINUTES: &str =
    "SELECT minute, part FROM lookup_minutes WHERE minute < ?1 ORDER BY minute, part LIMIT ?2";
const DELETE_MINUTES: &str =
    "DELETE FROM lookup_minutes WHERE minute < ?1 OR (minute = ?1 AND part <= ?2)";
const RAISE_MINUTES: &str = "UPDATE log SET first_minute = max(coalesce(first_minute, ?1), ?1)";
const SOME_RUNS: &str = "SELECT namespace, service, instance, incarnation, hour FROM heartbeat_runs \
     WHERE (namespace, service, instance, incarnation, hour) > (?1, ?2, ?3, ?4, ?5) \
     ORDER BY namespace, service, instance, incarnation, hour LIMIT ?6";
const DELETE_RUN: &str = "DELETE FROM heartbeat_runs WHERE namespace = ?1 AND service = ?2 AND instance = ?3 \
     AND incarnation = ?4 AND hour = ?5";

/// Adds to what is not told yet; what has been told makes room. When the very first of it happened stays.
const NOTE: &str = "INSERT INTO compactions (class, first, last, first_at, last_at, bytes, told, began_at) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?4) ON CONFLICT (class) DO UPDATE SET \
     first = iif(told = 0, first, excluded.first), first_at = iif(told = 0, first_at, excluded.first_at), \
     bytes = iif(told = 0, bytes, 0) + excluded.bytes, last = excluded.last, last_at = excluded.last_at, told = 0";
const ADD_BYTES: &str = "UPDATE compactions SET bytes = bytes + ?2 WHERE class = ?1 AND told = 0";
const TOLD: &str = "UPDATE compactions SET told = ?3 WHERE class = ?1 AND last = ?2";

/// Runs of heartbeats looked at in one slice; it takes no lock to read.
const RUNS_LOOKED_AT: i64 = 1_024;

const MICROS_A_MINUTE: i64 = 60_000_000;
const MICROS_AN_HOUR: i64 = 60 * MICROS_A_MINUTE;

/// How long a slice should hold the write lock: half of what is allowed, as the next one may be slower.
const HOLD: Duration = Duration::from_millis(1);

/// How many rows a slice takes, learnt from how long the last ones held the lock.
#[derive(Debug)]
pub(super) struct Pace {
    rows: usize,
    most: usize,
}

impl Pace {
    pub(super) fn new(rows: usize, most: usize) -> Self {
        Self { rows, most }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A slice of `taken` rows held the lock for so long.
    pub(super) fn learn(&mut self, held: Duration, taken: usize) {
        if held > HOLD {
            self.rows = (taken.min(self.rows) / 2).max(1);
        } else if held < HOLD / 4 && taken >= self.rows {
            self.rows = (self.rows * 2).min(self.most);
        }
    }
}

/// What retention remembers between its slices. All of it can be lost.
#[derive(Debug)]
pub(super) struct Retention {
    /// About the bytes of traffic that are left, while it is being removed.
    traffic_left: Option<u64>,
    /// Changes before this one could not be removed: their pages are damaged.
    passed_over: u64,
    /// The roll-ups of heartbeats that were looked at in this pass, and of which hour the last whole pass was.
    runs_after: Option<[Value; 5]>,
    runs_until: i64,
    blocks: Pace,
    changes: Pace,
    rollups: Pace,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            traffic_left: None,
            passed_over: 0,
            runs_after: None,
            runs_until: i64::MIN,
            blocks: Pace::new(4, 512),
            changes: Pace::new(64, 8_192),
            rollups: Pace::new(64, 4_096),
        }
    }
}

/// Where the log begins and ends.
struct Bounds {
    first: u64,
    next: u64,
    first_traffic: u64,
    derived_traffic: u64,
    next_traffic: u64,
    ended_traffic: u64,
}

/// A block or a change, as far as removing it needs to know it.
struct Old {
    first: u64,
    last: u64,
    from: Timestamp,
    until: Timestamp,
    bytes: u64,
}

impl Retention {
    /// Removes the next slice; none when all is within the budgets.
    pub(super) fn slice(
        &mut self,
        connection: &mut Connection,
        gate: &Gate,
        budgets: &Budgets,
    ) -> Result<Option<Removed>, Trouble> {
        let bounds = connection.prepare_cached(BOUNDS)?.query_row([], |row| {
            Ok(Bounds {
                first: unsigned(row, 0)?,
                next: unsigned(row, 1)?,
                first_traffic: unsigned(row, 2)?,
                derived_traffic: unsigned(row, 3)?,
                next_traffic: unsigned(row, 4)?,
                ended_traffic: unsigned(row, 5)?,
            })
        })?;
        if let Some(removed) = self.traffic(connection, gate, &bounds, budgets)? {
            return Ok(Some(Removed::Events(removed)));
        }
        if end_period(connection, gate, &bounds, budgets)? {
            return Ok(Some(Removed::Ended));
        }
        if let Some(removed) = self.changes(connection, gate, &bounds)? {
            return Ok(Some(removed));
        }
        if let Some(removed) = raise_horizon(connection, gate, &bounds, budgets)? {
            return Ok(Some(Removed::Events(removed)));
        }
        Ok(self.rollups(connection, gate, budgets.rollups_until)?)
    }

    fn traffic(
        &mut self,
        connection: &mut Connection,
        gate: &Gate,
        bounds: &Bounds,
        budgets: &Budgets,
    ) -> rusqlite::Result<Option<Compacted>> {
        let left = match self.traffic_left {
            Some(left) => left,
            None => sizes::traffic(connection)?,
        };
        let over = left.saturating_sub(budgets.traffic_bytes);
        let oldest = oldest_blocks(connection, bounds, self.blocks.rows())?;
        let mut bytes = 0;
        let slice: Vec<&Old> = oldest
            .iter()
            .take_while(|block| {
                let goes = block.until < budgets.traffic_until || bytes < over;
                bytes += block.bytes;
                goes
            })
            .collect();
        let Some(removed) = sum(Class::Traffic, slice.iter().copied()) else {
            self.traffic_left = None;
            return Ok(None);
        };
        let done = write(connection, gate, |transaction| {
            delete(
                transaction,
                DELETE_BLOCKS,
                removed.first,
                slice.last().map_or(0, |block| block.first),
            )?;
            transaction.prepare_cached(DELETE_TRAFFIC_SEGMENTS)?.execute([signed(removed.last)])?;
            transaction.prepare_cached(DELETE_TRAFFIC_TRACES)?.execute([signed(removed.last)])?;
            transaction.prepare_cached(RAISE_TRAFFIC)?.execute([signed(removed.last + 1)])?;
            note(transaction, &removed)
        });
        match done {
            Ok(((), held)) => self.blocks.learn(held, slice.len()),
            Err(error) if is_damage(&error) && slice.len() > 1 => {
                // One by one, so that only what can't be removed stays.
                self.blocks = Pace::new(1, self.blocks.most);
                return self.traffic(connection, gate, bounds, budgets);
            }
            Err(error) if is_damage(&error) => {
                // The row stays in the file and is no part of the log any more.
                let place = format!("the traffic block from t{}", removed.first);
                signals::removal_passed_over(&place, &error);
                write(connection, gate, |transaction| {
                    transaction
                        .prepare_cached(RAISE_TRAFFIC)?
                        .execute([signed(removed.last + 1)])?;
                    note(transaction, &removed)
                })?;
            }
            Err(error) => return Err(error),
        }
        self.traffic_left = Some(left.saturating_sub(removed.bytes));
        Ok(Some(removed))
    }

    fn changes(
        &mut self,
        connection: &mut Connection,
        gate: &Gate,
        bounds: &Bounds,
    ) -> rusqlite::Result<Option<Removed>> {
        let limit = i64::try_from(self.changes.rows()).unwrap_or(i64::MAX);
        let old: Vec<Old> = connection
            .prepare_cached(OLD_CHANGES)?
            .query_map(params![signed(self.passed_over), signed(bounds.first), limit], |row| {
                let (seq, at) = (unsigned(row, 0)?, Timestamp(row.get(1)?));
                let bytes: Option<i64> = row.get(2)?;
                let bytes = u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
                Ok(Old { first: seq, last: seq, from: at, until: at, bytes })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let Some(removed) = sum(Class::Changes, old.iter()) else { return Ok(None) };
        let done = write(connection, gate, |transaction| {
            delete(transaction, DELETE_CHANGES, removed.first, removed.last)?;
            transaction.prepare_cached(DELETE_CHANGE_SEGMENTS)?.execute([signed(removed.last)])?;
            transaction.prepare_cached(DELETE_CHANGE_TRACES)?.execute([signed(removed.last)])?;
            transaction
                .prepare_cached(ADD_BYTES)?
                .execute(params![Class::Changes.as_str(), signed(removed.bytes)])?;
            Ok(())
        });
        match done {
            Ok(((), held)) => self.changes.learn(held, old.len()),
            Err(error) if is_damage(&error) && old.len() > 1 => {
                self.changes = Pace::new(1, self.changes.most);
                return self.changes(connection, gate, bounds);
            }
            Err(error) if is_damage(&error) => {
                signals::removal_passed_over(&format!("change {}", removed.first), &error);
                self.passed_over = removed.last + 1;
            }
            Err(error) => return Err(error),
        }
        Ok(Some(Removed::Rows(old.len())))
    }

    fn rollups(
        &mut self,
        connection: &mut Connection,
        gate: &Gate,
        until: Timestamp,
    ) -> rusqlite::Result<Option<Removed>> {
        let minutes = self.minutes(connection, gate, until.micros().div_euclid(MICROS_A_MINUTE))?;
        if minutes > 0 {
            return Ok(Some(Removed::Rows(minutes)));
        }
        self.runs(connection, gate, until.micros().div_euclid(MICROS_AN_HOUR))
    }

    fn minutes(
        &mut self,
        connection: &mut Connection,
        gate: &Gate,
        until: i64,
    ) -> rusqlite::Result<usize> {
        let limit = i64::try_from(self.rollups.rows()).unwrap_or(i64::MAX);
        let old: Vec<(i64, i64)> = connection
            .prepare_cached(OLD_MINUTES)?
            .query_map([until, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let Some(&(minute, part)) = old.last() else { return Ok(0) };
        let (_, held) = write(connection, gate, |transaction| {
            transaction.prepare_cached(RAISE_MINUTES)?.execute([minute.saturating_add(1)])?;
            transaction.prepare_cached(DELETE_MINUTES)?.execute([minute, part])
        })?;
        self.rollups.learn(held, old.len());
        Ok(old.len())
    }

    /// Looks through the runs of heartbeats, which are in the order of their names and not of their times: a pass
    /// through all of them when another hour is beyond its budget, and no more often.
    fn runs(
        &mut self,
        connection: &mut Connection,
        gate: &Gate,
        until: i64,
    ) -> rusqlite::Result<Option<Removed>> {
        let nothing_is_too_old = until <= 0;
        if nothing_is_too_old || (self.runs_after.is_none() && until <= self.runs_until) {
            return Ok(None);
        }
        let after = self.runs_after.clone().unwrap_or_else(|| {
            [text(""), text(""), text(""), Value::Integer(0), Value::Integer(0)]
        });
        let limit = Value::Integer(RUNS_LOOKED_AT);
        let looked_at: Vec<[Value; 5]> = connection
            .prepare_cached(SOME_RUNS)?
            .query_map(params_from_iter(after.iter().cloned().chain([limit])), |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])
            })?
            .collect::<rusqlite::Result<_>>()?;
        let is_old = |run: &&[Value; 5]| matches!(run[4], Value::Integer(hour) if hour < until);
        let some: Vec<&[Value; 5]> =
            looked_at.iter().filter(is_old).take(self.rollups.rows()).collect();
        if !some.is_empty() {
            let ((), held) = write(connection, gate, |transaction| {
                let mut delete = transaction.prepare_cached(DELETE_RUN)?;
                for run in &some {
                    delete.execute(params_from_iter(run.iter()))?;
                }
                Ok(())
            })?;
            self.rollups.learn(held, some.len());
            // The rest of what was looked at is looked at again: what went is not there any more.
            return Ok(Some(Removed::Rows(some.len())));
        }
        match looked_at.last() {
            Some(last) => self.runs_after = Some(last.clone()),
            None => (self.runs_after, self.runs_until) = (None, until),
        }
        Ok(self.runs_after.is_some().then_some(Removed::Rows(0)))
    }
}

/// The oldest blocks that may go. Those before a page that can't be read come first, by themselves; then all that it
/// hides, as if it were one block.
fn oldest_blocks(
    connection: &Connection,
    bounds: &Bounds,
    limit: usize,
) -> rusqlite::Result<Vec<Old>> {
    let mut statement = connection.prepare_cached(OLDEST_BLOCKS)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![
        signed(bounds.first_traffic),
        signed(bounds.derived_traffic),
        limit,
        signed(bounds.ended_traffic)
    ])?;
    let mut found = Vec::new();
    loop {
        match rows.next().and_then(|row| row.map(old_block).transpose()) {
            Ok(Some(block)) => found.push(block),
            Ok(None) => return Ok(found),
            Err(error) if is_damage(&error) => break,
            Err(error) => return Err(error),
        }
    }
    if found.is_empty() {
        found.extend(hidden_blocks(connection, bounds)?);
    }
    Ok(found)
}

fn old_block(row: &Row<'_>) -> rusqlite::Result<Old> {
    let (first, count) = (unsigned(row, 0)?, unsigned(row, 1)?);
    // A row that is damaged may hold anything.
    let bytes: Option<i64> = row.get(4)?;
    Ok(Old {
        first,
        last: first.saturating_add(count).saturating_sub(1),
        from: Timestamp(row.get(2)?),
        until: Timestamp(row.get(3)?),
        bytes: sizes::on_disk(u64::try_from(bytes.unwrap_or(0)).unwrap_or(0)),
    })
}

/// What lies between the first kept number and the next block that can be read; none if there is none yet, or if it
/// was not derived from up to there. Of its times no more is known than that they were before that block's.
fn hidden_blocks(connection: &Connection, bounds: &Bounds) -> rusqlite::Result<Option<Old>> {
    let mut statement = connection.prepare_cached(NEXT_BLOCK)?;
    let mut after = bounds.first_traffic.saturating_sub(1);
    while after < bounds.derived_traffic {
        let next = statement
            .query_row([signed(after)], |row| Ok((unsigned(row, 0)?, Timestamp(row.get(1)?))))
            .optional();
        match next {
            Ok(Some((next, at))) => {
                let (first, last) = (bounds.first_traffic, next.saturating_sub(1));
                let may_go = (first..=bounds.derived_traffic).contains(&last);
                return Ok(may_go.then_some(Old { first, last, from: at, until: at, bytes: 0 }));
            }
            Ok(None) => return Ok(None),
            // No block is longer than that.
            Err(error) if is_damage(&error) => after = after.saturating_add(BLOCK as u64),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Ends the present period of traffic if what is in it should have been derived from by now, or takes more than it may;
/// whether it did. For all that may go has gone.
fn end_period(
    connection: &mut Connection,
    gate: &Gate,
    bounds: &Bounds,
    budgets: &Budgets,
) -> rusqlite::Result<bool> {
    let waiting = bounds.derived_traffic.max(bounds.first_traffic.saturating_sub(1)) + 1;
    let is_being_derived = bounds.derived_traffic < bounds.ended_traffic;
    if waiting >= bounds.next_traffic || is_being_derived {
        return Ok(false);
    }
    let first = rows::block_of_number(connection, waiting).or_else(unless_damaged(waiting))?;
    let since: Option<i64> = connection
        .prepare_cached(WAITING_SINCE)?
        .query_row([signed(first)], |row| row.get(0))
        .optional()
        .or_else(unless_damaged(None))?;
    let is_due = since.is_some_and(|at| Timestamp(at) < budgets.traffic_ended);
    if !is_due && sizes::traffic(connection)? <= budgets.traffic_bytes {
        return Ok(false);
    }
    let turn = gate.enter();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let next: Option<u64> = transaction
        .prepare_cached(END_TRAFFIC)?
        .query_row([], |row| unsigned(row, 0))
        .optional()?;
    if let Some(next) = next {
        // Before anybody can see the end: the block that is there now must not be continued then.
        gate.set_seal(&turn, next);
    }
    transaction.commit()?;
    Ok(next.is_some())
}

/// Makes `instead` of what can't be read because its page is damaged.
fn unless_damaged<T>(instead: T) -> impl FnOnce(rusqlite::Error) -> rusqlite::Result<T> {
    move |error| if is_damage(&error) { Ok(instead) } else { Err(error) }
}

/// Makes the newest snapshot that is old enough the beginning of what is kept.
fn raise_horizon(
    connection: &mut Connection,
    gate: &Gate,
    bounds: &Bounds,
    budgets: &Budgets,
) -> Result<Option<Compacted>, Trouble> {
    // One that is damaged can't be stood on.
    let found = snapshots::horizon(connection, budgets.changes_until)?;
    // Never the newest change: one is always kept.
    let Some((seq, at)) = found.filter(|(seq, _)| seq.0 + 1 < bounds.next) else {
        return Ok(None);
    };
    let first_at: Option<i64> = connection
        .prepare_cached(FIRST_CHANGE_AT)?
        .query_row([signed(bounds.first)], |row| row.get(0))
        .optional()?;
    let removed = Compacted {
        class: Class::Changes,
        first: bounds.first,
        last: seq.0,
        from: first_at.map_or(at, Timestamp),
        until: at,
        // The rows are still there: each slice adds what it took.
        bytes: 0,
    };
    write(connection, gate, |transaction| {
        transaction.prepare_cached(RAISE_CHANGES)?.execute([signed(removed.last + 1)])?;
        note(transaction, &removed)
    })?;
    Ok(Some(removed))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// What a slice of `old` events comes to; none if it is empty.
fn sum<'a>(class: Class, old: impl Iterator<Item = &'a Old>) -> Option<Compacted> {
    old.map(|old| Compacted {
        class,
        first: old.first,
        last: old.last,
        from: old.from,
        until: old.until,
        bytes: old.bytes,
    })
    .reduce(|all, next| Compacted {
        last: next.last,
        until: next.until,
        bytes: all.bytes + next.bytes,
        ..all
    })
}

fn delete(
    transaction: &Transaction<'_>,
    sql: &str,
    first: u64,
    last: u64,
) -> rusqlite::Result<usize> {
    transaction.prepare_cached(sql)?.execute([signed(first), signed(last)])
}

fn note(transaction: &Transaction<'_>, removed: &Compacted) -> rusqlite::Result<()> {
    let Compacted { class, first, last, from, until, bytes } = *removed;
    transaction.prepare_cached(NOTE)?.execute(params![
        class.as_str(),
        signed(first),
        signed(last),
        from.micros(),
        until.micros(),
        signed(bytes)
    ])?;
    Ok(())
}

/// Notes that the change `by` tells of the removal `what`; one that has grown meanwhile stays to be told.
pub(super) fn told(
    connection: &mut Connection,
    gate: &Gate,
    what: &Compacted,
    by: u64,
) -> rusqlite::Result<()> {
    write(connection, gate, |transaction| {
        transaction.prepare_cached(TOLD)?.execute(params![
            what.class.as_str(),
            signed(what.last),
            signed(by)
        ])?;
        Ok(())
    })?;
    Ok(())
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}
