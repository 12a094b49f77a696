//! Reads what stays of traffic: counts of lookups by the minute, runs of heartbeats by the hour.

use rusqlite::params;

use crate::domain::{InstanceKey, Millis, Seq, Timestamp};
use crate::history::{
    Counted, Error, HeartbeatRun, LookupCount, Missing, Reason, TrafficQuery, Visit,
};
use crate::log::ReadError;
use crate::log::rollup::{Counted as Row, Minute};
use crate::log::sqlite::Reader;
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::rows::{self, signed};

/// Rows of minutes that are read with one statement.
const MINUTES: usize = 64;

const MINUTE: i64 = 60_000_000;

const SELECT_MINUTES: &str = "SELECT minute, part, last, names, counts, checksum FROM lookup_minutes \
     WHERE (minute, part) > (?1, ?2) AND minute <= ?3 AND last <= ?4 ORDER BY minute, part LIMIT ?5";

/// Minutes of the widest step over rows whose very numbers can't be read.
const STEP_MAX: i64 = 64;

/// Where the next row stands, which may be readable where its content is not.
const SELECT_NEXT_MINUTE: &str = "SELECT minute, part FROM lookup_minutes \
     WHERE (minute, part) > (?1, ?2) AND minute <= ?3 ORDER BY minute, part LIMIT 1";

const SELECT_RUNS: &str = "SELECT incarnation, first_at, last_at, count, widest_gap, widest_gap_at \
     FROM heartbeat_runs WHERE namespace = ? AND service = ? AND instance = ? ORDER BY incarnation, hour";

/// The counts of the minutes that begin in the wanted time, and how far they reach. What is damaged is stepped over and
/// named.
pub(super) fn lookup_counts(
    reader: &Reader,
    query: &TrafficQuery,
    visit: &mut dyn FnMut(LookupCount) -> Visit,
) -> Result<Counted, Error> {
    let mut missing = Vec::new();
    // Read first: what is counted meanwhile is not shown.
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let through = marks.counted_lookups;
    let since = query.since.map_or(i64::MIN, |at| at.0.div_euclid(MINUTE));
    // A minute that has begun before `since` is not of its time.
    let since = since.saturating_add(i64::from(query.since.is_some_and(|at| at.0 % MINUTE != 0)));
    let until = query.until.map_or(i64::MAX, |at| at.0.div_euclid(MINUTE));
    let mut place = (since, 0);
    loop {
        // Where one of many can't be read, each is read alone.
        let mut found = minutes(reader, place, until, through, MINUTES);
        if matches!(&found, Err(error) if rows::is_damage(error)) {
            found = minutes(reader, place, until, through, 1);
        }
        let found = match found {
            Err(error) if rows::is_damage(&error) => {
                let (next, hidden) = step_over(reader, place, until).map_err(storage)?;
                missing.push(hidden);
                let Some(next) = next else { return Ok(Counted { through, missing }) };
                place = next;
                continue;
            }
            found => found.map_err(storage)?,
        };
        let Some(last) = found.last() else { return Ok(Counted { through, missing }) };
        place = (last.minute, last.part);
        for minute in &found {
            let mut counts = Vec::new();
            // Of a row that is harmed nothing is believed: it is shown when all of it has been read.
            let read = minute.read(&mut |count| {
                if includes(query, &count) {
                    counts.push(owned(minute, &count));
                }
            });
            if read.is_err() {
                missing.push(unread(minute.minute, minute.minute));
                continue;
            }
            for count in counts {
                if visit(count).is_break() {
                    return Ok(Counted { through, missing });
                }
            }
        }
    }
}

/// The counts of the minutes from one to another can't be read.
fn unread(first: i64, last: i64) -> Missing {
    let begins = |minute: i64| minute.saturating_mul(MINUTE);
    let (from, until) = (Timestamp(begins(first)), Timestamp(begins(last.saturating_add(1)) - 1));
    Missing { from, until, reason: Reason::Damaged, events: "".into() }
}

/// Behind which place the rows can be read again, none if nothing follows, and what is hidden up to there. Where not
/// even the number of the next row can be read, it is looked for a step further on, and then in larger ones.
fn step_over(
    reader: &Reader,
    place: (i64, u64),
    until: i64,
) -> rusqlite::Result<(Option<(i64, u64)>, Missing)> {
    let minute = |sql: &str| -> Option<i64> {
        let at = reader.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        at.ok().map(|at| at.div_euclid(MINUTE))
    };
    // The log itself bounds where it makes sense to look: counts are kept as long as changes.
    let first = minute(rows::FIRST_CHANGE_AT).unwrap_or(0).max(place.0);
    let last = minute(rows::LAST_AT).unwrap_or(i64::MAX).min(until);
    let mut next = reader.connection.prepare_cached(SELECT_NEXT_MINUTE)?;
    let (mut after, mut step) = (place, 0);
    loop {
        let found = next.query_row(params![after.0, signed(after.1), until], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
        });
        match found {
            // It is this row that can't be read; behind a step it has not been looked at yet.
            Ok(found) if step == 0 => return Ok((Some(found), unread(found.0, found.0))),
            Ok(_) => return Ok((Some(after), unread(first, after.0))),
            Err(rusqlite::Error::QueryReturnedNoRows) => break,
            Err(error) if rows::is_damage(&error) => {}
            Err(error) => return Err(error),
        }
        if after.0 >= last {
            break;
        }
        step = (2 * step).clamp(1, STEP_MAX);
        after = (after.0.max(first).saturating_add(step), u64::MAX);
    }
    Ok((None, unread(first, last)))
}

fn minutes(
    reader: &Reader,
    (minute, part): (i64, u64),
    until: i64,
    through: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Minute>> {
    let mut statement = reader.connection.prepare_cached(SELECT_MINUTES)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = statement.query_map(
        params![minute, signed(part), until, signed(through), limit],
        |row| {
            Ok(Minute {
                minute: row.get(0)?,
                part: row.get::<_, i64>(1)?.cast_unsigned(),
                last: rows::number(row, 2)?,
                // Whatever stands there: the checksum tells.
                names: rows::text(row, 3)?.unwrap_or_default(),
                counts: rows::bytes(row, 4)?.unwrap_or_default(),
                checksum: rows::number(row, 5)?,
            })
        },
    )?;
    found.collect()
}

fn includes(query: &TrafficQuery, count: &Row<'_>) -> bool {
    let same = |wanted: Option<&str>, found| wanted.is_none() || wanted == found;
    same(query.namespace.as_ref().map(|name| name.as_str()), count.namespace)
        && same(query.service.as_ref().map(|name| name.as_str()), count.service)
        && same(query.instance.as_ref().map(|name| name.as_str()), count.instance)
        && !(query.unnamed && count.service.is_some())
        && query.caller.as_ref().is_none_or(|caller| **caller == *count.caller)
        && query.from.is_none_or(|from| count.last >= from)
        && query.to.is_none_or(|to| count.first <= to)
}

fn owned(minute: &Minute, count: &Row<'_>) -> LookupCount {
    LookupCount {
        minute: minute.begins(),
        namespace: count.namespace.map(Into::into),
        service: count.service.map(Into::into),
        instance: count.instance.map(Into::into),
        caller: count.caller.into(),
        filter: count.filter.into(),
        revision: Seq(count.revision),
        status: count.status,
        count: count.count,
        first: count.first,
        last: count.last,
        first_at: count.first_at,
        last_at: count.last_at,
    }
}

/// The runs of an instance, and the number of the last traffic event that is in them.
pub(super) fn heartbeat_runs(
    reader: &Reader,
    key: &InstanceKey,
) -> Result<(Vec<HeartbeatRun>, u64), ReadError> {
    let read = || -> rusqlite::Result<(Vec<HeartbeatRun>, u64)> {
        // One snapshot for both: a run that is being written must not be counted twice.
        let transaction = reader.connection.unchecked_transaction()?;
        let through = rows::marks(&transaction)?.counted_heartbeats;
        let mut statement = transaction.prepare_cached(SELECT_RUNS)?;
        let (namespace, service) = (key.service.namespace.as_str(), key.service.service.as_str());
        let runs =
            statement.query_map(params![namespace, service, key.instance.as_str()], |row| {
                let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
                Ok(HeartbeatRun {
                    incarnation: Seq(number(0)?),
                    first_at: Timestamp(row.get(1)?),
                    last_at: Timestamp(row.get(2)?),
                    count: number(3)?,
                    widest_gap: Millis::from_millis(number(4)? / 1_000),
                    widest_gap_at: Timestamp(row.get(5)?),
                })
            })?;
        Ok((runs.collect::<Result<_, _>>()?, through))
    };
    read().map_err(storage)
}
