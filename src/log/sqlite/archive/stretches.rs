//! Goes along the numbers of one class from segment to segment, and gives the stretches that have to be read: those whose
//! segment says that what is sought can be there, and those that no sound segment stands for. Whoever looks for a trace
//! asks the segments' traces instead, which are a table of their own.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::domain::event::Class;
use crate::history::Order;
use crate::log::segments::{Sought, TracesView, View};
use crate::log::sqlite::Reader;
use crate::log::sqlite::rows::signed;

/// Numbers that are read at once where there is no segment.
const PIECE: u64 = 1_024;

/// Segments that are looked at with one statement.
const SEGMENTS: usize = 256;

/// The stretches of one class that have to be read, from one end to the other.
pub(super) struct Stretches<'a> {
    pub(super) reader: &'a Reader,
    class: Class,
    pub(super) order: Order,
    sought: Sought,
    low: u64,
    high: u64,
    found: VecDeque<Found>,
    more: bool,
}

/// A sound segment.
#[derive(Clone, Copy, Debug)]
struct Found {
    first: u64,
    last: u64,
    wanted: bool,
}

impl<'a> Stretches<'a> {
    /// The stretches of the numbers from `low` to `high`.
    pub(super) fn new(
        reader: &'a Reader,
        class: Class,
        order: Order,
        sought: Sought,
        (low, high): (u64, u64),
    ) -> Self {
        let (found, more) = (VecDeque::new(), true);
        Self { reader, class, order, sought, low, high, found, more }
    }

    /// The next stretch that may hold what is wanted.
    pub(super) fn next(&mut self) -> Option<RangeInclusive<u64>> {
        loop {
            if self.low > self.high || self.sought.is_nothing() {
                return None;
            }
            if self.found.is_empty() && self.more {
                self.look();
            }
            let Some(found) = self.found.front().copied() else {
                return Some(self.piece(self.low, self.high));
            };
            let ahead = match self.order {
                Order::Ascending if found.last < self.low => {
                    self.found.pop_front();
                    continue;
                }
                Order::Descending if found.first > self.high => {
                    self.found.pop_front();
                    continue;
                }
                Order::Ascending => found.first > self.low,
                Order::Descending => found.last < self.high,
            };
            if ahead {
                // Before the next segment there is a stretch without one.
                return Some(match self.order {
                    Order::Ascending => self.piece(self.low, self.high.min(found.first - 1)),
                    Order::Descending => self.piece(self.low.max(found.last + 1), self.high),
                });
            }
            self.found.pop_front();
            let stretch = self.low.max(found.first)..=self.high.min(found.last);
            self.pass(&stretch);
            if found.wanted {
                return Some(stretch);
            }
        }
    }

    /// What to read at once of a stretch without a segment.
    fn piece(&mut self, low: u64, high: u64) -> RangeInclusive<u64> {
        let piece = match self.order {
            Order::Ascending => low..=high.min(low.saturating_add(PIECE - 1)),
            Order::Descending => low.max(high.saturating_sub(PIECE - 1))..=high,
        };
        self.pass(&piece);
        piece
    }

    fn pass(&mut self, stretch: &RangeInclusive<u64>) {
        match self.order {
            Order::Ascending => self.low = stretch.end().saturating_add(1),
            // Numbers begin at 1, so that nothing is left below.
            Order::Descending => match stretch.start().checked_sub(1) {
                Some(high) => self.high = high,
                None => self.low = u64::MAX,
            },
        }
    }

    /// Looks at the next segments. What can't be read of them is as if it were not there.
    fn look(&mut self) {
        let sql = match (self.sought.is_traced(), self.class, self.order) {
            (false, Class::Changes, Order::Ascending) => SELECT_CHANGE_SEGMENTS,
            (false, Class::Changes, Order::Descending) => SELECT_CHANGE_SEGMENTS_BACK,
            (false, Class::Traffic, Order::Ascending) => SELECT_TRAFFIC_SEGMENTS,
            (false, Class::Traffic, Order::Descending) => SELECT_TRAFFIC_SEGMENTS_BACK,
            (true, Class::Changes, Order::Ascending) => SELECT_CHANGE_TRACES,
            (true, Class::Changes, Order::Descending) => SELECT_CHANGE_TRACES_BACK,
            (true, Class::Traffic, Order::Ascending) => SELECT_TRAFFIC_TRACES,
            (true, Class::Traffic, Order::Descending) => SELECT_TRAFFIC_TRACES_BACK,
        };
        let (mut seen, mut end) = (0, None);
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.reader.connection.prepare_cached(sql)?;
            let limit = i64::try_from(SEGMENTS).unwrap_or(i64::MAX);
            let mut rows = statement.query([signed(self.low), signed(self.high), limit])?;
            while let Some(row) = rows.next()? {
                seen += 1;
                end = Some(number(row, 0)?);
                let found = match self.sought.is_traced() {
                    true => traces_of(row, &self.sought)?,
                    false => segment_of(row, &self.sought)?,
                };
                self.found.extend(found);
            }
            Ok(())
        };
        let readable = read().is_ok();
        // Damaged segments alone: what follows them is looked at when the stretch that they stood for has been read.
        self.more = readable && seen == SEGMENTS;
        if self.found.is_empty() && end.is_some() {
            self.more = false;
        }
    }
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> &'r [u8] {
    match row.get_ref(column) {
        Ok(ValueRef::Blob(bytes)) => bytes,
        _ => &[],
    }
}

fn checksum(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    row.get::<_, i64>(column).map(|checksum| u32::try_from(checksum).unwrap_or(0))
}

/// What a segment's row says; none if it is not what was written.
fn segment_of(row: &Row<'_>, sought: &Sought) -> rusqlite::Result<Option<Found>> {
    let segment = View {
        first: number(row, 0)?,
        last: number(row, 1)?,
        seen_from: number(row, 2)?,
        seen_to: number(row, 3)?,
        kinds: number(row, 4)?,
        names: blob(row, 5),
        checksum: checksum(row, 6)?,
    };
    let View { first, last, .. } = segment;
    let wanted = sought.may_be_in(&segment);
    Ok(segment.is_sound().then_some(Found { first, last, wanted }))
}

/// The same of a row of traces.
fn traces_of(row: &Row<'_>, sought: &Sought) -> rusqlite::Result<Option<Found>> {
    let traces = TracesView {
        first: number(row, 0)?,
        last: number(row, 1)?,
        trace_ids: blob(row, 2),
        checksum: checksum(row, 3)?,
    };
    let TracesView { first, last, .. } = traces;
    let wanted = sought.may_be_traced_in(&traces);
    Ok(traces.is_sound().then_some(Found { first, last, wanted }))
}

/// Rows from the one that holds a number on.
macro_rules! select {
    ($columns:literal, $table:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM ",
            $table,
            " WHERE first >= coalesce((SELECT max(first) FROM ",
            $table,
            " WHERE first <= ?1), ?1) AND first <= ?2 ORDER BY first ",
            $order,
            " LIMIT ?3"
        )
    };
}
macro_rules! segments {
    ($table:literal, $order:literal) => {
        select!("first, last, seen_from, seen_to, kinds, names, checksum", $table, $order)
    };
}
macro_rules! traces {
    ($table:literal, $order:literal) => {
        select!("first, last, trace_ids, checksum", $table, $order)
    };
}

const SELECT_CHANGE_SEGMENTS: &str = segments!("change_segments", "ASC");
const SELECT_CHANGE_SEGMENTS_BACK: &str = segments!("change_segments", "DESC");
const SELECT_TRAFFIC_SEGMENTS: &str = segments!("traffic_segments", "ASC");
const SELECT_TRAFFIC_SEGMENTS_BACK: &str = segments!("traffic_segments", "DESC");
const SELECT_CHANGE_TRACES: &str = traces!("change_traces", "ASC");
const SELECT_CHANGE_TRACES_BACK: &str = traces!("change_traces", "DESC");
const SELECT_TRAFFIC_TRACES: &str = traces!("traffic_traces", "ASC");
const SELECT_TRAFFIC_TRACES_BACK: &str = traces!("traffic_traces", "DESC");
