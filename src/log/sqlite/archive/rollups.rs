//! Reads what stays of traffic: counts of lookups by the minute, runs of heartbeats by the hour.

use std::ops::ControlFlow;

use rusqlite::params;

use crate::domain::{InstanceKey, Millis, Seq, Timestamp};
use crate::history::{Error, HeartbeatRun, LookupCount, TrafficQuery, Visit};
use crate::log::ReadError;
use crate::log::rollup::{Counted, Minute};
use crate::log::sqlite::Reader;
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::rows::{self, signed};

/// Rows of minutes that are read with one statement.
const MINUTES: usize = 64;

const MINUTE: i64 = 60_000_000;

const SELECT_MINUTES: &str = "SELECT minute, part, last, names, counts, checksum FROM lookup_minutes \
     WHERE (minute, part) > (?1, ?2) AND minute <= ?3 AND last <= ?4 ORDER BY minute, part LIMIT ?5";

const SELECT_RUNS: &str = "SELECT incarnation, first_at, last_at, count, widest_gap, widest_gap_at \
     FROM heartbeat_runs WHERE namespace = ? AND service = ? AND instance = ? ORDER BY incarnation, hour";

/// The counts of the minutes that begin in the wanted time, and the last number that is counted.
pub(super) fn lookup_counts(
    reader: &Reader,
    query: &TrafficQuery,
    visit: &mut dyn FnMut(LookupCount) -> Visit,
) -> Result<u64, Error> {
    // Read first: what is counted meanwhile is not shown.
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let through = marks.counted_lookups;
    let since = query.since.map_or(i64::MIN, |at| at.0.div_euclid(MINUTE));
    // A minute that has begun before `since` is not of its time.
    let since = since.saturating_add(i64::from(query.since.is_some_and(|at| at.0 % MINUTE != 0)));
    let until = query.until.map_or(i64::MAX, |at| at.0.div_euclid(MINUTE));
    let mut place = (since, 0);
    loop {
        let found = minutes(reader, place, until, through).map_err(storage)?;
        let Some(last) = found.last() else { return Ok(through) };
        place = (last.minute, last.part);
        for minute in &found {
            let mut flow = ControlFlow::Continue(());
            let read = minute.read(&mut |count| {
                if flow.is_continue() && includes(query, &count) {
                    flow = visit(owned(minute, &count));
                }
            });
            read.map_err(|what| ReadError::Damaged {
                place: format!("the lookups of the minute from {}", minute.begins().0),
                what,
            })?;
            if flow.is_break() {
                return Ok(through);
            }
        }
    }
}

fn minutes(
    reader: &Reader,
    (minute, part): (i64, u64),
    until: i64,
    through: u64,
) -> rusqlite::Result<Vec<Minute>> {
    let mut statement = reader.connection.prepare_cached(SELECT_MINUTES)?;
    let limit = i64::try_from(MINUTES).unwrap_or(i64::MAX);
    let found = statement.query_map(
        params![minute, signed(part), until, signed(through), limit],
        |row| {
            Ok(Minute {
                minute: row.get(0)?,
                part: row.get::<_, i64>(1)?.cast_unsigned(),
                last: row.get::<_, i64>(2)?.cast_unsigned(),
                names: row.get(3)?,
                counts: row.get(4)?,
                checksum: u32::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
            })
        },
    )?;
    found.collect()
}

fn includes(query: &TrafficQuery, count: &Counted<'_>) -> bool {
    let same = |wanted: Option<&str>, found| wanted.is_none() || wanted == found;
    same(query.namespace.as_ref().map(|name| name.as_str()), count.namespace)
        && same(query.service.as_ref().map(|name| name.as_str()), count.service)
        && same(query.instance.as_ref().map(|name| name.as_str()), count.instance)
        && !(query.unnamed && count.service.is_some())
        && query.caller.as_ref().is_none_or(|caller| **caller == *count.caller)
        && query.from.is_none_or(|from| count.last >= from)
        && query.to.is_none_or(|to| count.first <= to)
}

fn owned(minute: &Minute, count: &Counted<'_>) -> LookupCount {
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
