//! Finds events without reading all of them: reads the stretches that can hold what is wanted, and takes out what
//! is.
//!
//! Traffic is read block by block with its checksum, so that damage can't hide a match: whatever numbers of a
//! stretch that was read are not there, are given back as holes.

use std::ops::RangeInclusive;

use rusqlite::types::Value;

use super::stretches::Stretches;
use crate::domain::event::{Class, Kind};
use crate::domain::traffic::Numbered;
use crate::domain::{Change, Timestamp};
use crate::history::Order;
use crate::log::ReadError;
use crate::log::blocks::{BLOCK, Block};
use crate::log::columns::{self, Column, Columns};
use crate::log::segments::{Role, Sought};
use crate::log::sqlite::Reader;
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::rows::{self, Marks, signed};
use crate::log::sqlite::writer::decode_change;

/// Changes that are read with one statement.
const CHANGES: usize = 128;

/// What is wanted, in the words that both classes share. What is `None` or empty lets all through.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) kinds: &'a [Kind],
    pub(super) namespace: Option<&'a str>,
    pub(super) service: Option<&'a str>,
    /// Only what is about no service.
    pub(super) unnamed: bool,
    pub(super) instance: Option<&'a str>,
    pub(super) caller: Option<&'a str>,
    pub(super) trace_id: Option<[u8; 16]>,
    /// The versions that the events saw.
    pub(super) seen: Option<RangeInclusive<u64>>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Wanted<'_> {
    fn sought(&self, class: Class) -> Sought {
        let sought = Sought::everything(class);
        let sought = if self.unnamed { sought.without_name(Role::Service) } else { sought };
        sought
            .of_kinds(self.kinds)
            .with_name(Role::Namespace, self.namespace)
            .with_name(Role::Service, self.service)
            .with_name(Role::Instance, self.instance)
            .with_name(Role::Caller, self.caller)
            .of_trace(self.trace_id)
            .seeing(self.seen.clone().unwrap_or(0..=u64::MAX))
    }

    fn names(&self) -> [(Column, Option<&str>); 4] {
        [
            (Column::Namespace, self.namespace),
            (Column::Service, self.service),
            (Column::Instance, self.instance),
            (Column::Caller, self.caller),
        ]
    }
}

/// Matching traffic, stretch by stretch.
pub(super) struct TrafficScan<'a> {
    stretches: Stretches<'a>,
    wanted: Wanted<'a>,
    /// How a text that has to be in a block is written there.
    needles: Vec<String>,
    /// Numbers that should have been there.
    pub(super) holes: Vec<RangeInclusive<u64>>,
}

impl<'a> TrafficScan<'a> {
    /// Of the numbers in `range`, as far as they are in the log.
    pub(super) fn new(
        reader: &'a Reader,
        marks: &Marks,
        wanted: Wanted<'a>,
        order: Order,
        range: RangeInclusive<u64>,
    ) -> Self {
        let mut low = (*range.start()).max(marks.first_traffic);
        let mut high = (*range.end()).min(marks.next_traffic.saturating_sub(1));
        if let Some(since) = wanted.since {
            low = low.max(first_of_block(reader, low, high, |first_at| first_at < since));
        }
        if let Some(until) = wanted.until
            && low <= high
        {
            let first = first_of_block(reader, low, high, |first_at| first_at <= until);
            high = high.min(first.saturating_add(BLOCK as u64));
        }
        let needles = wanted.names().into_iter().filter_map(|(_, name)| {
            name.filter(|name| !name.is_empty())
                .map(|name| serde_json::to_string(name).unwrap_or_default())
        });
        let needles = needles.collect();
        let (class, sought) = (Class::Traffic, wanted.sought(Class::Traffic));
        let stretches = Stretches::new(reader, class, order, sought, (low, high));
        Self { stretches, wanted, needles, holes: Vec::new() }
    }

    /// The matches of the next stretch, in order; none at the end.
    ///
    /// # Errors
    /// [`ReadError`]; damage is a hole instead.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Numbered>>, ReadError> {
        let Some(stretch) = self.stretches.next() else { return Ok(None) };
        let connection = &self.stretches.reader.connection;
        let blocks =
            rows::blocks_among(connection, *stretch.start(), *stretch.end()).map_err(storage)?;
        let mut events = Vec::new();
        let mut next = *stretch.start();
        for block in &blocks {
            let before = events.len();
            if self.matches(block, &stretch, &mut events).is_err() {
                events.truncate(before);
                continue;
            }
            if block.first > next {
                self.holes.push(next..=block.first - 1);
            }
            next = next.max(block.first.saturating_add(block.count as u64));
        }
        if next <= *stretch.end() {
            self.holes.push(next..=*stretch.end());
        }
        if self.stretches.order == Order::Descending {
            events.reverse();
        }
        Ok(Some(events))
    }

    /// Takes the matches out of a block.
    fn matches(
        &self,
        block: &Block,
        stretch: &RangeInclusive<u64>,
        events: &mut Vec<Numbered>,
    ) -> Result<(), String> {
        let wanted = &self.wanted;
        if !self.needles.iter().all(|needle| block.names.contains(needle))
            || wanted.trace_id.is_some_and(|id| block.trace_ids.chunks(16).all(|of| of != id))
        {
            return columns::check(block);
        }
        let columns = Columns::open(block)?;
        let names = wanted.names();
        for n in 0..columns.len() {
            let number = columns.event_number(n);
            let form = columns.form(n).ok_or("an unknown kind")?;
            if !stretch.contains(&number)
                || !(wanted.kinds.is_empty() || wanted.kinds.contains(&form.kind()))
                || wanted.trace_id.is_some_and(|id| columns.trace_id(n) != id)
            {
                continue;
            }
            let mut all = true;
            if wanted.unnamed {
                let position = columns.position(Column::Service, n).ok_or("an unknown text")?;
                all = columns.text(position).is_none();
            }
            for (column, name) in &names {
                if let Some(name) = name {
                    let position = columns.position(*column, n).ok_or("an unknown text")?;
                    all = all && columns.text(position).unwrap_or_default() == *name;
                }
            }
            if !all {
                continue;
            }
            let event = columns.event(n)?;
            let at = event.traffic.at;
            if wanted.since.is_none_or(|since| at >= since)
                && wanted.until.is_none_or(|until| at <= until)
                && wanted.seen.as_ref().is_none_or(|seen| seen.contains(&event.traffic.seen.0))
            {
                events.push(event);
            }
        }
        Ok(())
    }
}

/// The first number of the last block in `low..=high` whose first instant `is_before`; `low` if there is none, or if it
/// can't be read: then more is looked through than needed.
fn first_of_block(
    reader: &Reader,
    low: u64,
    high: u64,
    is_before: impl Fn(Timestamp) -> bool,
) -> u64 {
    bisect(reader, SELECT_BLOCK_TIME, low, high, is_before)
}

const SELECT_BLOCK_TIME: &str =
    "SELECT first, first_at FROM traffic WHERE first <= ? ORDER BY first DESC LIMIT 1";
const SELECT_CHANGE_TIME: &str =
    "SELECT seq, at FROM changes WHERE seq <= ? ORDER BY seq DESC LIMIT 1";

/// The last row in `low..=high` whose instant `is_before`: numbers and times only grow together.
fn bisect(
    reader: &Reader,
    sql: &str,
    low: u64,
    high: u64,
    is_before: impl Fn(Timestamp) -> bool,
) -> u64 {
    let look = |number: u64| -> rusqlite::Result<(u64, Timestamp)> {
        let mut statement = reader.connection.prepare_cached(sql)?;
        statement.query_row([signed(number)], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), Timestamp(row.get(1)?)))
        })
    };
    let (mut from, mut to) = (low, high);
    while from < to {
        let middle = from + (to - from).div_ceil(2);
        match look(middle) {
            Ok((first, at)) if is_before(at) => {
                if first >= to {
                    return first;
                }
                // Everything up to `middle` is of that row.
                from = middle.max(first);
            }
            Ok((first, _)) if first <= low => return low,
            Ok((first, _)) => to = first - 1,
            Err(rusqlite::Error::QueryReturnedNoRows) => from = middle,
            Err(_) => return low,
        }
    }
    look(from).map_or(low, |(first, _)| first.max(low))
}

/// Matching changes, a few at a time.
pub(super) struct ChangeScan<'a> {
    stretches: Stretches<'a>,
    wanted: Wanted<'a>,
    kinds: Option<String>,
    stretch: Option<RangeInclusive<u64>>,
    /// Numbers that can't be read; none are passed over if this is not there.
    pub(super) holes: Option<Vec<RangeInclusive<u64>>>,
}

impl<'a> ChangeScan<'a> {
    /// Of the numbers in `range`, as far as they are in the log.
    pub(super) fn new(
        reader: &'a Reader,
        marks: &Marks,
        wanted: Wanted<'a>,
        order: Order,
        range: RangeInclusive<u64>,
    ) -> Self {
        let seen = wanted.seen.clone().unwrap_or(0..=u64::MAX);
        let mut low = (*range.start()).max(marks.first_seq).max(*seen.start());
        let mut high = (*range.end()).min(marks.next_seq.saturating_sub(1)).min(*seen.end());
        if let Some(since) = wanted.since {
            low = low.max(bisect(reader, SELECT_CHANGE_TIME, low, high, |at| at < since));
        }
        if let Some(until) = wanted.until
            && low <= high
        {
            high = bisect(reader, SELECT_CHANGE_TIME, low, high, |at| at <= until);
        }
        let words = wanted.kinds.iter().map(|kind| kind.as_str());
        let kinds = words.collect::<Vec<_>>().join(",");
        let kinds = (!wanted.kinds.is_empty()).then(|| format!(",{kinds},"));
        let (class, sought) = (Class::Changes, wanted.sought(Class::Changes));
        let stretches = Stretches::new(reader, class, order, sought, (low, high));
        Self { stretches, wanted, kinds, stretch: None, holes: None }
    }

    /// Steps over what is damaged, and keeps its numbers.
    pub(super) fn stepping_over(self) -> Self {
        Self { holes: Some(Vec::new()), ..self }
    }

    /// The next matches, in order; none at the end.
    ///
    /// # Errors
    /// [`ReadError`], for damage too unless that is stepped over.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Change>>, ReadError> {
        let stretch = self.stretch.take().or_else(|| self.stretches.next());
        let Some(stretch) = stretch else { return Ok(None) };
        let (low, high) = (*stretch.start(), *stretch.end());
        let read = match self.read(low, high) {
            Err(error) if rows::is_damage(&error) && self.holes.is_some() => {
                return Ok(Some(self.one_by_one(&stretch)));
            }
            read => read.map_err(storage)?,
        };
        let last = read.last().map_or(0, |row| row.seq);
        if read.len() == CHANGES {
            let rest = match self.stretches.order {
                Order::Ascending => last.saturating_add(1)..=high,
                Order::Descending => low..=last.saturating_sub(1),
            };
            self.stretch = Some(rest).filter(|rest| !rest.is_empty());
        }
        let mut changes = Vec::with_capacity(read.len());
        for row in &read {
            match (decode_change(row), &mut self.holes) {
                (Ok(change), _) => changes.push(change),
                (Err(_), Some(holes)) => holes.push(row.seq..=row.seq),
                (Err(error), None) => return Err(error),
            }
        }
        let Wanted { since, until, .. } = self.wanted;
        changes.retain(|change| {
            since.is_none_or(|since| change.at >= since)
                && until.is_none_or(|until| change.at <= until)
        });
        Ok(Some(changes))
    }

    /// The same where a page is damaged.
    fn one_by_one(&mut self, stretch: &RangeInclusive<u64>) -> Vec<Change> {
        let mut changes = Vec::new();
        for seq in stretch.clone() {
            let read = self.read(seq, seq).map_err(storage);
            let read =
                read.and_then(|rows| rows.iter().map(decode_change).collect::<Result<Vec<_>, _>>());
            match (read, &mut self.holes) {
                (Ok(found), _) => changes.extend(found),
                (Err(_), Some(holes)) => holes.push(seq..=seq),
                (Err(_), None) => {}
            }
        }
        if self.stretches.order == Order::Descending {
            changes.reverse();
        }
        changes
    }

    fn read(&self, low: u64, high: u64) -> rusqlite::Result<Vec<crate::log::codec::Row>> {
        let sql = match self.stretches.order {
            Order::Ascending => rows::SELECT_MATCHING_CHANGES,
            Order::Descending => rows::SELECT_MATCHING_CHANGES_BACK,
        };
        let mut statement = self.stretches.reader.connection.prepare_cached(sql)?;
        let text =
            |text: Option<&str>| text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
        let wanted = &self.wanted;
        let parameters = [
            Value::Integer(signed(low)),
            Value::Integer(signed(high)),
            text(self.kinds.as_deref()),
            text(wanted.namespace),
            text(wanted.service),
            text(wanted.instance),
            text(wanted.caller),
            wanted.trace_id.map_or(Value::Null, |id| Value::Blob(id.to_vec())),
            Value::Integer(i64::try_from(CHANGES).unwrap_or(i64::MAX)),
        ];
        statement.query_map(rusqlite::params_from_iter(parameters), rows::change_of)?.collect()
    }
}

/// When the events of a hole happened, as far as its neighbours can tell.
pub(super) fn times_around(
    reader: &Reader,
    class: Class,
    hole: &RangeInclusive<u64>,
) -> (Timestamp, Timestamp) {
    let (before, after, step) = match class {
        Class::Changes => (
            "SELECT at FROM changes WHERE seq < ? ORDER BY seq DESC LIMIT 1",
            "SELECT at FROM changes WHERE seq >= ? ORDER BY seq LIMIT 1",
            1,
        ),
        Class::Traffic => (
            "SELECT last_at FROM traffic WHERE first < ? ORDER BY first DESC LIMIT 1",
            "SELECT first_at FROM traffic WHERE first >= ? ORDER BY first LIMIT 1",
            BLOCK as u64,
        ),
    };
    let look = |sql: &str, number: u64| -> Option<Timestamp> {
        let mut statement = reader.connection.prepare_cached(sql).ok()?;
        statement.query_row([signed(number)], |row| row.get(0).map(Timestamp)).ok()
    };
    // A neighbour may be damaged too: then the next one is asked, within reason.
    let tries = || (0..64_u64).map(|n| n * step);
    let before = tries().find_map(|n| look(before, hole.start().saturating_sub(n)));
    let after = tries().find_map(|n| look(after, hole.end().saturating_add(1 + n)));
    let from = before.or(after).unwrap_or_default();
    (from, after.unwrap_or(from).max(from))
}

/// The event of this number, out of the block that holds it.
///
/// # Errors
/// [`ReadError`] if that is damaged.
pub(super) fn event_of(blocks: &[Block], number: u64) -> Result<Option<Numbered>, ReadError> {
    let Some(block) = blocks.last() else { return Ok(None) };
    let damaged = |what| ReadError::Damaged {
        place: format!("the traffic block from t{}", block.first),
        what,
    };
    let columns = Columns::open(block).map_err(damaged)?;
    let place = number.checked_sub(block.first).and_then(|n| usize::try_from(n).ok());
    let place = place.filter(|n| *n < columns.len());
    place.map(|n| columns.event(n).map_err(damaged)).transpose()
}
