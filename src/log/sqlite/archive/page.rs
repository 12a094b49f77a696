//! Events in pages.
//!
//! Changes and traffic are two streams, each in the order of its own numbers. A page merges them: a traffic
//! event stands after the change that it saw and before the next one. The place between two pages is
//! therefore a pair of numbers, and nothing is skipped or repeated between them, whatever is appended meanwhile.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::gaps;
use super::scan::{ChangeScan, TrafficScan, Wanted};
use crate::domain::event::Class;
use crate::domain::{Seq, Timestamp};
use crate::history::{EventId, EventPage, EventQuery, Missing, Moment, Order, Position, Record};
use crate::log::ReadError;
use crate::log::record::{of_change as change_record, of_traffic as traffic_record};
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::rows::{self, Marks};
use crate::log::sqlite::{Reader, archive::scan};

/// What the query wants, in the words of both classes.
fn wanted(query: &EventQuery) -> Wanted<'_> {
    let time = |moment| match moment {
        Some(Moment::At(at)) => Some(at),
        Some(Moment::Version(_)) | None => None,
    };
    let version = |moment| match moment {
        Some(Moment::Version(seq)) => Some(seq.0),
        Some(Moment::At(_)) | None => None,
    };
    let seen = version(query.since).unwrap_or(0)..=version(query.until).unwrap_or(u64::MAX);
    Wanted {
        kinds: query.kind.as_slice(),
        namespace: query.namespace.as_ref().map(|name| name.as_str()),
        service: query.service.as_ref().map(|name| name.as_str()),
        instance: query.instance.as_ref().map(|name| name.as_str()),
        caller: query.caller.as_deref(),
        trace_id: query.trace_id,
        seen: Some(seen),
        unnamed: false,
        since: time(query.since),
        until: time(query.until),
    }
}

/// The numbers of a class that the query has still to be asked of.
fn range(query: &EventQuery, class: Class) -> RangeInclusive<u64> {
    let reached = query.cursor.map(|Position { change, traffic }| match class {
        Class::Changes => change,
        Class::Traffic => traffic,
    });
    match query.order {
        Order::Ascending => reached.map_or(1, |number| number.saturating_add(1))..=u64::MAX,
        Order::Descending => 1..=reached.map_or(u64::MAX, |number| number.saturating_sub(1)),
    }
}

enum Source<'a> {
    Changes(ChangeScan<'a>),
    Traffic(TrafficScan<'a>),
}

/// One class of event; gives only what the query wants.
struct Stream<'a> {
    source: Source<'a>,
    waiting: VecDeque<Record>,
    ended: bool,
}

impl<'a> Stream<'a> {
    fn new(reader: &'a Reader, marks: &Marks, query: &'a EventQuery, class: Class) -> Self {
        let (wanted, range) = (wanted(query), range(query, class));
        let source = match class {
            Class::Changes => {
                let scan = ChangeScan::new(reader, marks, wanted, query.order, range);
                Source::Changes(scan.stepping_over())
            }
            Class::Traffic => {
                Source::Traffic(TrafficScan::new(reader, marks, wanted, query.order, range))
            }
        };
        Self { source, waiting: VecDeque::new(), ended: false }
    }

    fn peek(&mut self) -> Result<Option<&Record>, ReadError> {
        while self.waiting.is_empty() && !self.ended {
            match &mut self.source {
                Source::Changes(scan) => match scan.next()? {
                    Some(changes) => self.waiting.extend(changes.iter().map(change_record)),
                    None => self.ended = true,
                },
                Source::Traffic(scan) => match scan.next()? {
                    Some(events) => self.waiting.extend(events.iter().map(traffic_record)),
                    None => self.ended = true,
                },
            }
        }
        Ok(self.waiting.front())
    }

    fn holes(&self) -> &[RangeInclusive<u64>] {
        match &self.source {
            Source::Changes(scan) => scan.holes.as_deref().unwrap_or_default(),
            Source::Traffic(scan) => &scan.holes,
        }
    }
}

/// One event. One that is kept and not found is damaged: numbers have no holes.
pub(super) fn event(reader: &Reader, id: EventId) -> Result<Option<Record>, ReadError> {
    let found = match id {
        EventId::Change(number) => {
            let found = reader.changes(Seq(number), 1)?;
            found.first().filter(|change| change.seq.0 == number).map(change_record)
        }
        EventId::Traffic(number) => {
            let blocks = rows::blocks_among(&reader.connection, number, number).map_err(storage)?;
            scan::event_of(&blocks, number)?.as_ref().map(traffic_record)
        }
    };
    if found.is_some() {
        return Ok(found);
    }
    // Asked afterwards: retention may have taken it meanwhile.
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let (number, kept, letter) = match id {
        EventId::Change(number) => (number, marks.first_seq..marks.next_seq, ""),
        EventId::Traffic(number) => (number, marks.first_traffic..marks.next_traffic, "t"),
    };
    if kept.contains(&number) {
        let (place, what) = (format!("event {letter}{number}"), "its row can't be read".to_owned());
        return Err(ReadError::Damaged { place, what });
    }
    Ok(None)
}

/// Merges the two streams into one page.
pub(super) fn page(reader: &Reader, query: &EventQuery) -> Result<EventPage, ReadError> {
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let mut changes = Stream::new(reader, &marks, query, Class::Changes);
    let mut traffic = Stream::new(reader, &marks, query, Class::Traffic);
    let start = match query.order {
        Order::Ascending => 0,
        Order::Descending => u64::MAX,
    };
    let mut reached = query.cursor.unwrap_or(Position { change: start, traffic: start });
    let mut page = EventPage::default();
    loop {
        let change = changes.peek()?.map(|record| record.seq);
        let seen = traffic.peek()?.map(|record| record.seq);
        let change_first = match (change, seen, query.order) {
            (None, None, _) => break,
            (change, seen, _) if change.is_none() || seen.is_none() => change.is_some(),
            (change, seen, Order::Ascending) => change <= seen,
            (change, seen, Order::Descending) => change > seen,
        };
        if page.events.len() >= query.limit {
            page.next = Some(reached);
            break;
        }
        let stream = if change_first { &mut changes } else { &mut traffic };
        if let Some(record) = stream.waiting.pop_front() {
            match record.id {
                EventId::Change(number) => reached.change = number,
                EventId::Traffic(number) => reached.traffic = number,
            }
            page.events.push(record);
        }
    }
    page.missing =
        missing(reader, query, [(Class::Changes, &changes), (Class::Traffic, &traffic)])?;
    Ok(page)
}

/// What the page would hold if it had been kept.
fn missing(
    reader: &Reader,
    query: &EventQuery,
    streams: [(Class, &Stream<'_>); 2],
) -> Result<Vec<Missing>, ReadError> {
    // Asked again: retention may have taken something while the page was read.
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let mut missing = Vec::new();
    for (class, stream) in streams {
        if query.kind.is_some_and(|kind| kind.class() != class) {
            continue;
        }
        let first = match class {
            Class::Changes => marks.first_seq,
            Class::Traffic => marks.first_traffic,
        };
        // What is gone lies before everything else: a page knows of it that begins or ends there.
        let range = range(query, class);
        let borders = match query.order {
            Order::Ascending => *range.start() < first,
            Order::Descending => first > 1 && stream.ended,
        };
        if borders {
            let since = gaps::instant(reader, query.since)?;
            let until = gaps::instant(reader, query.until)?.unwrap_or(Timestamp(i64::MAX));
            missing.extend(gaps::retained(reader, class, first, since, until)?);
        }
        missing.extend(gaps::damaged(reader, class, first, stream.holes()));
    }
    Ok(missing)
}
