//! Reads blocks: a column at a time where only some events are wanted, or a column is all that is asked for;
//! the whole event where one is; and the columns of numbers at once ([`Parsed`]), for those who need all of them.
//!
//! Opening a block checks its checksum and its lengths, so that nothing that a file can hold makes a panic later, and
//! nothing that is damaged is taken for what was written. The other direction is [`super::blocks::encode`]; blocks
//! whose numbers an older program wrote as text are read just the same, for ever.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use super::baggage::load as load_baggage;
use super::blocks::{Block, Carrying, Closed, Form, NUMBERS, Polled, Said};
use super::cells::Cells;
use crate::domain::ids::InvalidName;
use crate::domain::instance::Health;
use crate::domain::traffic::{CloseReason, Detail, Numbered, Traffic};
use crate::domain::{InstanceId, Namespace, Seq, ServiceName, Timestamp, TraceRef};

/// The columns of numbers, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Microseconds after the block's first instant.
    At,
    /// Versions after the lowest one.
    Seen,
    /// A position in the names.
    Namespace,
    /// A position in the names.
    Service,
    /// A position in the names.
    Instance,
    /// A position in the names.
    Caller,
    /// A position in the names.
    Detail,
    /// What the form of the event says.
    Revision,
    /// What the form of the event says.
    Returned,
}

/// A text of a block; borrowed unless it has escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A block whose checksum and lengths are right.
#[derive(Debug)]
pub struct Columns<'a> {
    block: &'a Block,
    numbers: [Cells<'a>; NUMBERS],
    kinds: Cells<'a>,
    statuses: Cells<'a>,
    names: Vec<Option<Text<'a>>>,
}

const MISSING: &str = "a column has the wrong length";

impl<'a> Columns<'a> {
    /// Opens a block.
    ///
    /// # Errors
    /// What is wrong with it: it is not what [`super::blocks::encode`] made.
    pub fn open(block: &'a Block) -> Result<Self, String> {
        check(block)?;
        let count = block.count;
        // Each event has ids of its own: no count is larger than what is there, whatever the columns leave away.
        let sized = count > 0
            && Some(block.trace_ids.len()) == count.checked_mul(16)
            && Some(block.span_ids.len()) == count.checked_mul(8);
        if !sized {
            return Err(MISSING.to_owned());
        }
        let packed = block.is_packed();
        let measure = |column, pairs, digits| {
            let cells = match packed {
                true => Cells::packed(column, count, pairs),
                false => Cells::digits(column, count, digits),
            };
            cells.ok_or(MISSING)
        };
        let kinds = measure(&block.kinds, 1..=1, 1..=1)?;
        let statuses = measure(&block.statuses, 1..=2, 3..=3)?;
        let mut numbers = [kinds; NUMBERS];
        for (cells, column) in numbers.iter_mut().zip(&block.numbers) {
            *cells = measure(column, 1..=10, 1..=20)?;
        }
        let names =
            serde_json::from_str(&block.names).map_err(|error| format!("names: {error}"))?;
        Ok(Self { block, numbers, kinds, statuses, names })
    }

    /// Events in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.block.count
    }

    /// Whether there is none, which no block of ours is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.count == 0
    }

    /// The number of event `n` of the block.
    #[must_use]
    pub fn event_number(&self, n: usize) -> u64 {
        self.block.first.saturating_add(n as u64)
    }

    /// A column's number of event `n`; none if it is not a number.
    #[must_use]
    pub fn number(&self, column: Column, n: usize) -> Option<u64> {
        self.numbers[column as usize].number(n)
    }

    /// How event `n` is laid out; none if this program does not know it.
    #[must_use]
    pub fn form(&self, n: usize) -> Option<Form> {
        self.kinds.number(n).and_then(Form::parse)
    }

    /// The trace id of event `n`; empty if there is no such event.
    #[must_use]
    pub fn trace_id(&self, n: usize) -> &'a [u8] {
        self.block.trace_ids.get(16 * n..16 * (n + 1)).unwrap_or_default()
    }

    /// The status of event `n`.
    #[must_use]
    pub fn status(&self, n: usize) -> Option<u16> {
        self.statuses.number(n).and_then(|status| u16::try_from(status).ok())
    }

    /// When event `n` happened.
    #[must_use]
    pub fn at(&self, n: usize) -> Option<Timestamp> {
        let after = i64::try_from(self.number(Column::At, n)?).ok()?;
        Some(Timestamp(self.block.first_at.saturating_add(after)))
    }

    /// Which version event `n` saw.
    #[must_use]
    pub fn seen(&self, n: usize) -> Option<u64> {
        Some(self.block.seen_from.saturating_add(self.number(Column::Seen, n)?))
    }

    /// All trace ids, 16 bytes each.
    pub fn trace_ids(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.block.trace_ids.chunks_exact(16)
    }

    /// When the first event happened.
    #[must_use]
    pub fn first_at(&self) -> i64 {
        self.block.first_at
    }

    /// The lowest version that an event saw, after which the others count.
    #[must_use]
    pub fn seen_from(&self) -> u64 {
        self.block.seen_from
    }

    /// How many positions the names have.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.names.len()
    }

    /// The text at a position; none where there is none.
    #[must_use]
    pub fn text(&self, position: usize) -> Option<&str> {
        self.names.get(position)?.as_ref().map(|text| &*text.0)
    }

    /// The position of a text of event `n`; none if it is not one of the names.
    #[must_use]
    pub fn position(&self, column: Column, n: usize) -> Option<usize> {
        let position = usize::try_from(self.number(column, n)?).ok()?;
        (position < self.names.len()).then_some(position)
    }

    /// The filter of a lookup: its detail, or a part of that for a long poll.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn filter(&self, n: usize) -> Result<Cow<'_, str>, String> {
        let text = self.named(Column::Detail, n)?.unwrap_or_default();
        match self.form(n) {
            Some(Form::LongPoll) => {
                let polled: Polled = serde_json::from_str(text).map_err(|e| broken(n, &e))?;
                Ok(Cow::Owned(polled.filter.into()))
            }
            Some(Form::LookupCarrying) => {
                let carrying: Carrying = serde_json::from_str(text).map_err(|e| broken(n, &e))?;
                Ok(Cow::Owned(carrying.filter.into()))
            }
            _ => Ok(Cow::Borrowed(text)),
        }
    }

    fn cell(&self, column: Column, n: usize) -> Result<u64, String> {
        self.number(column, n).ok_or_else(|| format!("event {n}: not a number"))
    }

    fn named(&self, column: Column, n: usize) -> Result<Option<&str>, String> {
        let position = self.position(column, n);
        let position =
            position.ok_or_else(|| format!("event {n} names a text that is not there"))?;
        Ok(self.text(position))
    }

    /// Event `n`, whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn event(&self, n: usize) -> Result<Numbered, String> {
        let checked = |error: InvalidName| format!("event {n}: a name {error}");
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(self.trace_id(n).get(..16).ok_or(MISSING)?);
        let span = self.block.span_ids.get(8 * n..8 * (n + 1));
        span_id.copy_from_slice(span.ok_or(MISSING)?);
        let name = |column| self.named(column, n);
        let traffic = Traffic {
            at: self.at(n).ok_or_else(|| format!("event {n}: not an instant"))?,
            seen: Seq(self.seen(n).ok_or_else(|| format!("event {n}: not a version"))?),
            namespace: name(Column::Namespace)?.map(Namespace::new).transpose().map_err(checked)?,
            service: name(Column::Service)?.map(ServiceName::new).transpose().map_err(checked)?,
            instance: name(Column::Instance)?.map(InstanceId::new).transpose().map_err(checked)?,
            caller: Arc::from(name(Column::Caller)?.unwrap_or_default()),
            trace: TraceRef { trace_id, span_id },
            detail: self.detail(n)?,
        };
        Ok(Numbered { number: self.event_number(n), traffic })
    }

    fn detail(&self, n: usize) -> Result<Detail, String> {
        let form = self
            .form(n)
            .ok_or_else(|| format!("event {n} is of a kind that this program does not know"))?;
        let revision = Seq(self.cell(Column::Revision, n)?);
        let returned = self.cell(Column::Returned, n)?;
        let returned = u32::try_from(returned).map_err(|error| error.to_string())?;
        let status = self.status(n).ok_or_else(|| format!("event {n}: not a status"))?;
        let text = self.named(Column::Detail, n)?.unwrap_or_default();
        Ok(match form {
            Form::Heartbeat => {
                let said: Said = match text {
                    "" => Said::default(),
                    said => serde_json::from_str(said).map_err(|error| broken(n, &error))?,
                };
                Detail::Heartbeat {
                    incarnation: revision,
                    load: said.load,
                    health: said.health.as_deref().and_then(Health::parse),
                    note: said.note,
                    baggage: load_baggage(said.baggage),
                }
            }
            Form::Lookup => {
                let (filter, held, baggage) = (text.into(), None, None);
                Detail::Lookup { filter, revision, returned, status, held, baggage }
            }
            Form::LongPoll => {
                let Polled { filter, held } =
                    serde_json::from_str(text).map_err(|error| broken(n, &error))?;
                let (held, baggage) = (Some(Seq(held)), None);
                Detail::Lookup { filter, revision, returned, status, held, baggage }
            }
            Form::LookupCarrying => {
                let Carrying { filter, held, baggage } =
                    serde_json::from_str(text).map_err(|error| broken(n, &error))?;
                let (held, baggage) = (held.map(Seq), load_baggage(Some(baggage)));
                Detail::Lookup { filter, revision, returned, status, held, baggage }
            }
            Form::WatchOpened => Detail::WatchOpened { filter: text.into(), after: revision },
            Form::WatchClosed => {
                let Closed { filter, reason } =
                    serde_json::from_str(text).map_err(|error| broken(n, &error))?;
                let reason = CloseReason::parse(&reason)
                    .ok_or_else(|| format!("event {n}: unknown reason {reason:?}"))?;
                Detail::WatchClosed { filter, through: revision, reason }
            }
            Form::Notified => {
                Detail::Notified { filter: text.into(), through: revision, events: returned }
            }
        })
    }
}

/// The columns that deriving needs, parsed once for all who take part in it, into memory that is used again for the
/// next block.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Microseconds after the block's first instant.
    pub ats: Vec<u64>,
    /// Versions after the block's lowest one.
    pub seen: Vec<u64>,
    /// Positions in the names: namespaces, services, instances, callers, details. Each of them is there.
    pub positions: [Vec<u32>; 5],
    /// The revisions.
    pub revisions: Vec<u64>,
    /// The statuses.
    pub statuses: Vec<u16>,
    /// The forms; none if this program does not know it.
    pub forms: Vec<Option<Form>>,
}

/// The columns of positions in the names.
const POSITIONS: [Column; 5] =
    [Column::Namespace, Column::Service, Column::Instance, Column::Caller, Column::Detail];

impl Parsed {
    /// Takes the numbers of a block in the place of those of the last one.
    ///
    /// # Errors
    /// What is wrong with the block. The numbers are of no use then.
    pub fn read(&mut self, columns: &Columns<'_>) -> Result<(), String> {
        let names = &columns.names;
        let parse = |column: Column, numbers: &mut Vec<u64>| {
            let read = columns.numbers[column as usize].read(numbers);
            read.ok_or_else(|| {
                format!("the column {column:?} holds something that is not a number")
            })
        };
        parse(Column::At, &mut self.ats)?;
        parse(Column::Seen, &mut self.seen)?;
        for (positions, column) in self.positions.iter_mut().zip(POSITIONS) {
            // The revisions come last, and lend their room.
            parse(column, &mut self.revisions)?;
            let known = |position: &u64| *position < names.len() as u64;
            if !self.revisions.iter().all(known) {
                return Err(format!("the column {column:?} names a text that is not there"));
            }
            positions.clear();
            let small = |position: &u64| u32::try_from(*position).unwrap_or(u32::MAX);
            positions.extend(self.revisions.iter().map(small));
        }
        columns.statuses.read(&mut self.revisions).ok_or("a status is not a number")?;
        self.statuses.clear();
        let status = |status: &u64| u16::try_from(*status).unwrap_or(u16::MAX);
        self.statuses.extend(self.revisions.iter().map(status));
        self.forms.clear();
        self.forms.extend((0..columns.len()).map(|n| columns.form(n)));
        parse(Column::Revision, &mut self.revisions)
    }
}

/// Whether the block is what was written, as far as its checksum can tell.
///
/// # Errors
/// What is wrong with it.
pub fn check(block: &Block) -> Result<(), String> {
    let expected = block.expected_checksum();
    if block.checksum != expected {
        return Err(format!("checksum {:08x}, the content has {expected:08x}", block.checksum));
    }
    Ok(())
}

fn broken(n: usize, error: &serde_json::Error) -> String {
    format!("event {n}: {error}")
}

impl Block {
    /// Takes the block apart.
    ///
    /// # Errors
    /// What is wrong with it: it is not what [`super::blocks::encode`] made.
    pub fn decode(&self) -> Result<Vec<Numbered>, String> {
        let columns = Columns::open(self)?;
        (0..columns.len()).map(|n| columns.event(n)).collect()
    }
}
