//! Derives from the events what finds them and what stays of them: segments, and the roll-ups of traffic.
//!
//! ```text
//!   changes ────────────────────────▶ change_segments, change_traces     derived_seq
//!   traffic, complete blocks only ─┬▶ traffic_segments, traffic_traces   segmented_traffic
//!                                  ├▶ lookup_minutes                     counted_lookups      ┐ the lower one is
//!                                  └▶ heartbeat_runs                     counted_heartbeats   ┘ derived_traffic
//! ```
//!
//! One slice a call: reading and computing need no lock ([`Deriver::prepare`]), writing is one small transaction
//! ([`Deriver::write`]), which moves the marks too. What a period gathers is in memory until it is over; after a crash
//! it is gathered again from the marks on, into the same rows.
//! A damaged block is left out of every segment, so that each search that comes near it notices and names it.
//! Called by the upkeep, on a connection of its own; never by the registrar.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::rows::{self, Marks, signed};
use crate::domain::event::Kind;
use crate::log::blocks::{BLOCK, Block};
use crate::log::columns::{Columns, Parsed};
use crate::log::rollup::{Beats, Lookups, Minute, Run};
use crate::log::segments::{self, Builder, Role, Segment, Traces};
use crate::yielding;

/// Blocks of traffic that are read in one slice.
const BLOCKS: usize = 16;

/// Minutes after which a slice ends: in quiet times a block holds many.
const MINUTES: usize = 64;

/// Runs of heartbeats that are written in one slice: two milliseconds, if each is on a page of its own.
const RUNS: usize = 256;

const PUT_CHANGE_SEGMENT: &str = "INSERT OR REPLACE INTO change_segments \
     (first, last, seen_from, seen_to, kinds, names, checksum) VALUES (?,?,?,?,?,?,?)";
const PUT_TRAFFIC_SEGMENT: &str = "INSERT OR REPLACE INTO traffic_segments \
     (first, last, seen_from, seen_to, kinds, names, checksum) VALUES (?,?,?,?,?,?,?)";
const PUT_CHANGE_TRACES: &str =
    "INSERT OR REPLACE INTO change_traces (first, last, trace_ids, checksum) VALUES (?,?,?,?)";
const PUT_TRAFFIC_TRACES: &str =
    "INSERT OR REPLACE INTO traffic_traces (first, last, trace_ids, checksum) VALUES (?,?,?,?)";
const PUT_MINUTE: &str = "INSERT OR REPLACE INTO lookup_minutes (minute, part, last, names, counts, checksum) \
     VALUES (?,?,?,?,?,?)";
const PUT_RUN: &str = "INSERT OR REPLACE INTO heartbeat_runs (namespace, service, instance, incarnation, hour, \
     first_at, last_at, count, widest_gap, widest_gap_at, through) VALUES (?,?,?,?,?,?,?,?,?,?,?)";
const SELECT_RUN: &str = "SELECT hour, first_at, last_at, count, widest_gap, widest_gap_at, through \
     FROM heartbeat_runs WHERE namespace = ? AND service = ? AND instance = ? AND incarnation = ? AND hour <= ? \
     ORDER BY hour DESC LIMIT 1";
const MOVE_MARKS: &str = "UPDATE log SET derived_seq = ?1, segmented_traffic = ?2, counted_lookups = ?3, \
     counted_heartbeats = ?4, derived_traffic = min(?3, ?4)";

/// Derives slice by slice. After an error it begins again from what is stored.
#[derive(Debug)]
pub(super) struct Deriver {
    state: Option<State>,
    sizes: Sizes,
}

/// What a segment stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Changes.
    pub(super) changes: usize,
    /// Blocks of traffic.
    pub(super) blocks: usize,
}

impl Default for Deriver {
    fn default() -> Self {
        Self::with(Sizes { changes: segments::CHANGES, blocks: segments::BLOCKS })
    }
}

#[derive(Debug)]
struct State {
    marks: Marks,
    sizes: Sizes,
    /// The next number to be read.
    next: u64,
    segment: Option<(Builder, usize)>,
    parsed: Parsed,
    lookups: Lookups,
    beats: Beats,
    /// Runs that wait to be written, period by period, each with the number up to which it reaches.
    runs: VecDeque<(VecDeque<Run>, u64)>,
    /// The number at which retention ended a period last, as far as that has been done here.
    ended: u64,
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(super) struct Slice {
    changes: Option<(Segment, Traces)>,
    traffic: Vec<(Segment, Traces)>,
    minutes: Vec<Minute>,
    runs: Vec<Run>,
    moves: bool,
}

impl Deriver {
    /// Derives with segments of these sizes.
    pub(super) fn with(sizes: Sizes) -> Self {
        Self { state: None, sizes }
    }

    /// Does one slice; whether there may be more. For those who have nobody to share the write lock with.
    ///
    /// # Errors
    /// Those of SQLite; the next call begins again from what is stored.
    pub(super) fn derive(&mut self, connection: &mut Connection) -> rusqlite::Result<bool> {
        let slice = self.prepare(connection)?;
        slice.map_or(Ok(false), |slice| self.write(connection, slice).map(|()| true))
    }

    /// Reads what comes next and works out what is to be written. It needs no lock; none if there is nothing to do.
    ///
    /// # Errors
    /// Those of SQLite.
    pub(super) fn prepare(&mut self, connection: &Connection) -> rusqlite::Result<Option<Slice>> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => State::new(connection, self.sizes)?,
        };
        // Read before the blocks: what ends before it is complete.
        let mut ended = connection.prepare_cached(rows::SELECT_ENDED)?;
        let ended = ended.query_row([], |row| rows::unsigned(row, 0))?;
        let now = rows::marks(connection)?;
        let slice = match state.runs.is_empty() {
            false => Some(state.write_runs(connection)?),
            true => match state.changes(connection, &now)? {
                Some(slice) => Some(slice),
                None => state.traffic(connection, &now, ended)?,
            },
        };
        self.state = Some(state);
        Ok(slice)
    }

    /// Writes a slice: one transaction, about a millisecond.
    ///
    /// # Errors
    /// Those of SQLite; nothing of the slice is written then.
    pub(super) fn write(
        &mut self,
        connection: &mut Connection,
        slice: Slice,
    ) -> rusqlite::Result<()> {
        if slice.is_empty() {
            return Ok(());
        }
        // Put back when it is done: on an error what is stored decides.
        let Some(state) = self.state.take() else { return Ok(()) };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        slice.write(&transaction, &state.marks)?;
        transaction.commit()?;
        self.state = Some(state);
        Ok(())
    }
}

impl State {
    fn new(connection: &Connection, sizes: Sizes) -> rusqlite::Result<Self> {
        let marks = rows::marks(connection)?;
        let Marks { segmented_traffic, counted_lookups, counted_heartbeats, .. } = marks;
        let reached = segmented_traffic.min(counted_lookups).min(counted_heartbeats);
        // Periods end anywhere in a block.
        let next = rows::block_of_number(connection, reached.saturating_add(1));
        Ok(Self {
            marks,
            sizes,
            next: next.or_else(|error| match rows::is_damage(&error) {
                true => Ok(reached.saturating_add(1)),
                false => Err(error),
            })?,
            segment: None,
            parsed: Parsed::default(),
            lookups: Lookups::default(),
            beats: Beats::default(),
            runs: VecDeque::new(),
            ended: 0,
        })
    }

    /// The next segment of changes, if there are enough of them.
    fn changes(&mut self, connection: &Connection, now: &Marks) -> rusqlite::Result<Option<Slice>> {
        let first = self.marks.segmented_seq.saturating_add(1).max(now.first_seq);
        let last = first.saturating_add(self.sizes.changes as u64 - 1);
        if last >= now.next_seq {
            return Ok(None);
        }
        let mut slice = Slice { moves: true, ..Slice::default() };
        match segment_of_changes(connection, first, last) {
            Ok(segment) => slice.changes = segment,
            // Without a segment the stretch is always searched, and the damage found each time.
            Err(error) if rows::is_damage(&error) => {}
            Err(error) => return Err(error),
        }
        self.marks.segmented_seq = last;
        Ok(Some(slice))
    }

    /// The next blocks of traffic that will not change any more: `ended` is where retention ended the last one.
    fn traffic(
        &mut self,
        connection: &Connection,
        now: &Marks,
        ended: u64,
    ) -> rusqlite::Result<Option<Slice>> {
        let from = self.next.max(now.first_traffic);
        let blocks = match read_blocks(connection, from) {
            Ok(blocks) => blocks,
            Err(error) if rows::is_damage(&error) => {
                let last = from.saturating_add((BLOCKS * BLOCK) as u64 - 1);
                let last = last.min(now.next_traffic.saturating_sub(1));
                let blocks = rows::blocks_among(connection, from, last)?;
                if blocks.is_empty() && last >= from {
                    // Nothing here can be read, and what is next to it may be.
                    self.next = last.saturating_add(1);
                    return Ok(Some(Slice::default()));
                }
                blocks
            }
            Err(error) => return Err(error),
        };
        let mut slice = Slice::default();
        let mut any = false;
        for block in &blocks {
            let end = block.first.saturating_add(block.count as u64);
            let complete =
                block.count >= BLOCK || end < now.next_traffic || end <= ended.saturating_add(1);
            if !complete || slice.minutes.len() >= MINUTES {
                break;
            }
            self.end_period(ended, block.first, &mut slice);
            self.block(block, &mut slice);
            yielding::pause();
            self.next = end.max(self.next.saturating_add(1));
            any = true;
        }
        any |= self.end_period(ended, self.next, &mut slice);
        slice.moves = slice.moves || !slice.traffic.is_empty() || !slice.minutes.is_empty();
        Ok(any.then_some(slice))
    }

    fn block(&mut self, block: &Block, slice: &mut Slice) {
        let Ok(columns) = Columns::open(block) else {
            self.end_segment(slice);
            return;
        };
        // Damage that a checksum does not show costs this block its counts, and its segment's blocks the segment.
        let is_read = self.parsed.read(&columns).is_ok();
        if block.first > self.marks.segmented_traffic {
            // A hole in the numbers is damage, and stays outside too.
            if self.segment.as_ref().is_some_and(|(builder, _)| !builder.reaches(block.first)) {
                self.end_segment(slice);
            }
            let (builder, blocks) =
                self.segment.get_or_insert_with(|| (Builder::new(block.first), 0));
            *blocks += 1;
            let full = *blocks >= self.sizes.blocks;
            if !is_read || describe(&columns, &self.parsed, builder).is_none() {
                self.segment = None;
            } else if full {
                self.end_segment(slice);
            }
        }
        if !is_read {
            return;
        }
        let (parsed, after) = (&self.parsed, self.marks.counted_lookups);
        if let Ok(Some(through)) = self.lookups.take(&columns, parsed, after, &mut slice.minutes) {
            self.marks.counted_lookups = through;
            slice.moves = true;
        }
        let mut closed = Vec::new();
        self.beats.take(&columns, parsed, self.marks.counted_heartbeats, &mut closed);
        let closed = closed.into_iter().map(|(runs, through)| (runs.into(), through));
        self.runs.extend(closed);
    }

    /// Ends the periods at the number `ended` if it lies before `next`, the number of what is taken next; whether it did.
    fn end_period(&mut self, ended: u64, next: u64, slice: &mut Slice) -> bool {
        if ended <= self.ended || next <= ended {
            return false;
        }
        self.ended = ended;
        // After a start some of it may have been done, and what came after it, too.
        if self.marks.counted_lookups < ended {
            slice.minutes.extend(self.lookups.end());
            self.marks.counted_lookups = ended;
            slice.moves = true;
        }
        if self.marks.counted_heartbeats < ended {
            self.runs.push_back((self.beats.end().into(), ended));
        }
        true
    }

    fn end_segment(&mut self, slice: &mut Slice) {
        if let Some((builder, _)) = self.segment.take() {
            let segment = builder.finish();
            self.marks.segmented_traffic = segment.0.last;
            slice.traffic.push(segment);
        }
    }

    /// The next runs of the period that waits.
    fn write_runs(&mut self, connection: &Connection) -> rusqlite::Result<Slice> {
        let mut slice = Slice { moves: true, ..Slice::default() };
        while slice.runs.len() < RUNS
            && let Some((runs, through)) = self.runs.front_mut()
        {
            // One period at a time: the next one looks at what this one has written.
            while slice.runs.len() < RUNS
                && let Some(run) = runs.pop_front()
            {
                let stored = stored_run(connection, &run)?;
                slice.runs.extend(run.after(stored.as_ref()));
                yielding::step(slice.runs.len());
            }
            if runs.is_empty() {
                self.marks.counted_heartbeats = *through;
                self.runs.pop_front();
                break;
            }
        }
        Ok(slice)
    }
}

impl Slice {
    fn is_empty(&self) -> bool {
        !self.moves
    }

    fn write(&self, transaction: &Transaction<'_>, marks: &Marks) -> rusqlite::Result<()> {
        let put = |segment_sql: &str, traces_sql: &str, (segment, traces): &(Segment, Traces)| {
            transaction.prepare_cached(segment_sql)?.execute(params![
                signed(segment.first),
                signed(segment.last),
                signed(segment.seen_from),
                signed(segment.seen_to),
                signed(segment.kinds),
                segment.names,
                segment.checksum,
            ])?;
            transaction.prepare_cached(traces_sql)?.execute(params![
                signed(traces.first),
                signed(traces.last),
                traces.trace_ids,
                traces.checksum,
            ])
        };
        if let Some(segment) = &self.changes {
            put(PUT_CHANGE_SEGMENT, PUT_CHANGE_TRACES, segment)?;
        }
        for segment in &self.traffic {
            put(PUT_TRAFFIC_SEGMENT, PUT_TRAFFIC_TRACES, segment)?;
        }
        for Minute { minute, part, last, names, counts, checksum } in &self.minutes {
            yielding::pause();
            transaction.prepare_cached(PUT_MINUTE)?.execute(params![
                minute,
                signed(*part),
                signed(*last),
                names,
                counts,
                checksum
            ])?;
        }
        for (position, run) in self.runs.iter().enumerate() {
            yielding::step(position);
            let Life { namespace, service, instance, incarnation } = life(&run.life);
            transaction.prepare_cached(PUT_RUN)?.execute(params![
                namespace,
                service,
                instance,
                incarnation,
                run.hour,
                run.first_at,
                run.last_at,
                signed(run.count),
                run.widest_gap,
                run.widest_gap_at,
                signed(run.through),
            ])?;
        }
        let marks = [
            marks.segmented_seq,
            marks.segmented_traffic,
            marks.counted_lookups,
            marks.counted_heartbeats,
        ];
        transaction.prepare_cached(MOVE_MARKS)?.execute(marks.map(signed))?;
        Ok(())
    }
}

struct Life<'a> {
    namespace: &'a str,
    service: &'a str,
    instance: &'a str,
    incarnation: i64,
}

fn life(text: &str) -> Life<'_> {
    let mut parts = text.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (namespace, service, instance) = (part(), part(), part());
    Life { namespace, service, instance, incarnation: part().parse().unwrap_or(0) }
}

fn stored_run(connection: &Connection, run: &Run) -> rusqlite::Result<Option<Run>> {
    let Life { namespace, service, instance, incarnation } = life(&run.life);
    let mut statement = connection.prepare_cached(SELECT_RUN)?;
    let found =
        statement.query_row(params![namespace, service, instance, incarnation, run.hour], |row| {
            Ok(Run {
                life: run.life.clone(),
                hour: row.get(0)?,
                first_at: row.get(1)?,
                last_at: row.get(2)?,
                count: row.get::<_, i64>(3)?.unsigned_abs(),
                widest_gap: row.get(4)?,
                widest_gap_at: row.get(5)?,
                through: row.get::<_, i64>(6)?.unsigned_abs(),
            })
        });
    found.optional()
}

fn read_blocks(connection: &Connection, from: u64) -> rusqlite::Result<Vec<Block>> {
    let mut statement = connection.prepare_cached(rows::SELECT_BLOCKS)?;
    statement.query_map(rows::range(from, BLOCKS), rows::block_of)?.collect()
}

/// Tells the segment what is in a block; none if that can't be told.
fn describe(columns: &Columns<'_>, parsed: &Parsed, builder: &mut Builder) -> Option<()> {
    const ROLES: [Role; 4] = [Role::Namespace, Role::Service, Role::Instance, Role::Caller];
    let seen = parsed.seen.iter().fold((u64::MAX, 0), |(from, to), seen| {
        (seen.min(&from).to_owned(), seen.max(&to).to_owned())
    });
    let seen =
        (columns.seen_from().saturating_add(seen.0), columns.seen_from().saturating_add(seen.1));
    let mut kinds = 0;
    for form in &parsed.forms {
        kinds |= segments::bit((*form)?.kind());
    }
    let last = columns.event_number(columns.len().saturating_sub(1));
    builder.events(last, seen, kinds);
    builder.traces(columns.trace_ids());
    // A bit for each role in which a text was seen.
    let mut roles = vec![0_u8; columns.texts()];
    for (positions, role) in parsed.positions.iter().zip(ROLES) {
        for position in positions {
            *roles.get_mut(*position as usize)? |= 1 << role as u8;
        }
    }
    for (position, seen) in roles.into_iter().enumerate() {
        for role in ROLES {
            if seen >> role as u8 & 1 == 1 {
                builder.name(role, columns.text(position));
            }
        }
    }
    Some(())
}

/// The segment of the changes from `first` to `last`; none if one of them is not what was written.
fn segment_of_changes(
    connection: &Connection,
    first: u64,
    last: u64,
) -> rusqlite::Result<Option<(Segment, Traces)>> {
    let mut builder = Builder::new(first);
    let mut statement = connection.prepare_cached(rows::SELECT_CHANGES)?;
    let limit = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
    let mut next = first;
    let found = statement.query_map(rows::range(first, limit), rows::change_of)?;
    for (position, row) in found.enumerate() {
        yielding::step(position);
        let row = row?;
        let Some(kind) = Kind::parse(&row.kind) else { return Ok(None) };
        if row.checksum != row.expected_checksum() || row.seq != next {
            return Ok(None);
        }
        next += 1;
        builder.events(row.seq, (row.seq, row.seq), segments::bit(kind));
        let names = [
            (Role::Namespace, &row.namespace),
            (Role::Service, &row.service),
            (Role::Instance, &row.instance),
            (Role::Caller, &row.caller),
        ];
        for (role, name) in names {
            builder.name(role, name.as_deref());
        }
        builder.traces(row.trace_id.as_deref());
    }
    Ok((next > last).then(|| builder.finish()))
}
