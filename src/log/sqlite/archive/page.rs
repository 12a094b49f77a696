//! Events in pages.
//!
//! Changes and traffic are two streams, each in the order of its own numbers. A page merges them: a traffic
//! event stands after the change that it saw and before the next one. The place between two pages is
//! therefore a pair of numbers, and nothing is skipped or repeated between them, whatever is appended meanwhile.

use crate::domain::Seq;
use crate::domain::event::{Class, Kind};
use crate::history::{EventId, EventPage, EventQuery, Moment, Order, Position, Record};
use crate::log::ReadError;
use crate::log::record::{of_change as change_record, of_traffic as traffic_record};
use crate::log::sqlite::Reader;

/// Changes read at once.
const CHANGES: usize = 512;

/// Blocks of traffic read at once.
const BLOCKS: usize = 4;

/// One class of event, read in steps from a place on; gives only what the query wants.
struct Stream<'a> {
    reader: &'a Reader,
    query: &'a EventQuery,
    class: Class,
    /// Where the next step begins; none at the end.
    at: Option<u64>,
    waiting: std::collections::VecDeque<Record>,
}

impl<'a> Stream<'a> {
    fn new(reader: &'a Reader, query: &'a EventQuery, class: Class) -> Self {
        let wanted = query.kind.is_none_or(|kind: Kind| kind.class() == class);
        let reached = query.cursor.map(|Position { change, traffic }| match class {
            Class::Changes => change,
            Class::Traffic => traffic,
        });
        let start = match query.order {
            Order::Ascending => reached.map_or(1, |number| number.saturating_add(1)),
            Order::Descending => reached.unwrap_or(u64::MAX),
        };
        Self { reader, query, class, at: wanted.then_some(start), waiting: Default::default() }
    }

    fn peek(&mut self) -> Result<Option<&Record>, ReadError> {
        while self.waiting.is_empty()
            && let Some(at) = self.at
        {
            let records = self.step(at)?;
            let past = records.last().is_some_and(|record| self.is_past(record));
            self.at = match (records.last(), self.query.order) {
                (None, _) => None,
                (Some(_), _) if past => None,
                (Some(last), Order::Ascending) => Some(last.id.number() + 1),
                (Some(last), Order::Descending) => Some(last.id.number()).filter(|n| *n > 1),
            };
            let query = self.query;
            self.waiting.extend(records.into_iter().filter(|record| matches(query, record)));
        }
        Ok(self.waiting.front())
    }

    fn step(&self, at: u64) -> Result<Vec<Record>, ReadError> {
        let Self { reader, query, .. } = self;
        Ok(match (self.class, query.order) {
            (Class::Changes, Order::Ascending) => {
                reader.changes(Seq(at), CHANGES)?.iter().map(change_record).collect()
            }
            (Class::Changes, Order::Descending) => {
                reader.changes_back(Seq(at - 1), CHANGES)?.iter().map(change_record).collect()
            }
            (Class::Traffic, Order::Ascending) => {
                reader.traffic(at, BLOCKS)?.iter().map(traffic_record).collect()
            }
            (Class::Traffic, Order::Descending) => {
                reader.traffic_back(at, BLOCKS)?.iter().map(traffic_record).collect()
            }
        })
    }

    /// Whether nothing wanted can come after `record`.
    fn is_past(&self, record: &Record) -> bool {
        match self.query.order {
            Order::Ascending => self.query.until.is_some_and(|until| is_after(record, until)),
            Order::Descending => self.query.since.is_some_and(|since| is_before(record, since)),
        }
    }
}

fn is_before(record: &Record, moment: Moment) -> bool {
    match moment {
        Moment::At(at) => record.at < at,
        Moment::Version(seq) => record.seq < seq,
    }
}

fn is_after(record: &Record, moment: Moment) -> bool {
    match moment {
        Moment::At(at) => record.at > at,
        Moment::Version(seq) => record.seq > seq,
    }
}

fn matches(query: &EventQuery, record: &Record) -> bool {
    fn same(wanted: Option<&str>, found: Option<&str>) -> bool {
        wanted.is_none() || wanted == found
    }
    same(query.namespace.as_ref().map(|name| name.as_str()), record.namespace.as_deref())
        && same(query.service.as_ref().map(|name| name.as_str()), record.service.as_deref())
        && same(query.instance.as_ref().map(|name| name.as_str()), record.instance.as_deref())
        && same(query.caller.as_deref(), record.caller.as_deref())
        && query.kind.is_none_or(|kind| kind == record.kind)
        && query.trace_id.is_none_or(|trace_id| trace_id == record.trace.trace_id)
        && query.since.is_none_or(|since| !is_before(record, since))
        && query.until.is_none_or(|until| !is_after(record, until))
}

/// One event.
pub(super) fn event(reader: &Reader, id: EventId) -> Result<Option<Record>, ReadError> {
    Ok(match id {
        EventId::Change(number) => {
            let found = reader.changes(Seq(number), 1)?;
            found.first().filter(|change| change.seq.0 == number).map(change_record)
        }
        EventId::Traffic(number) => {
            let found = reader.traffic(number, 1)?;
            found.first().filter(|event| event.number == number).map(traffic_record)
        }
    })
}

/// Merges the two streams into one page.
pub(super) fn page(reader: &Reader, query: &EventQuery) -> Result<EventPage, ReadError> {
    let mut changes = Stream::new(reader, query, Class::Changes);
    let mut traffic = Stream::new(reader, query, Class::Traffic);
    let start = match query.order {
        Order::Ascending => 0,
        Order::Descending => u64::MAX,
    };
    let mut reached = query.cursor.unwrap_or(Position { change: start, traffic: start });
    let mut events = Vec::new();
    loop {
        let change = changes.peek()?.map(|record| record.seq);
        let seen = traffic.peek()?.map(|record| record.seq);
        let change_first = match (change, seen, query.order) {
            (None, None, _) => return Ok(EventPage { events, next: None, missing: Vec::new() }),
            (change, seen, _) if change.is_none() || seen.is_none() => change.is_some(),
            (change, seen, Order::Ascending) => change <= seen,
            (change, seen, Order::Descending) => change > seen,
        };
        if events.len() >= query.limit {
            return Ok(EventPage { events, next: Some(reached), missing: Vec::new() });
        }
        let stream = if change_first { &mut changes } else { &mut traffic };
        if let Some(record) = stream.waiting.pop_front() {
            match record.id {
                EventId::Change(number) => reached.change = number,
                EventId::Traffic(number) => reached.traffic = number,
            }
            events.push(record);
        }
    }
}
