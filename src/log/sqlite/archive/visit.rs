//! Shows events of one class to somebody who has to see all that are wanted.

use std::ops::{ControlFlow, RangeInclusive};

use super::gaps;
use super::scan::{self, ChangeScan, TrafficScan, Wanted};
use crate::domain::event::Class;
use crate::domain::traffic::Numbered;
use crate::domain::{Change, Seq, Timestamp};
use crate::history::{Missing, Order, Subject, TrafficQuery, Visit};
use crate::log::ReadError;
use crate::log::sqlite::Reader;
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::rows;

/// The changes of `subject`. A damaged one among them is an error: who folds them must not miss one.
pub(super) fn changes(
    reader: &Reader,
    subject: Subject<'_>,
    range: RangeInclusive<Seq>,
    visit: &mut dyn FnMut(Change) -> Visit,
) -> Result<(), ReadError> {
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let (service, instance) = match subject {
        Subject::All => (None, None),
        Subject::Service(service) => (Some(service), None),
        Subject::Instance(key) => (Some(&key.service), Some(key.instance.as_str())),
    };
    let wanted = Wanted {
        namespace: service.map(|key| key.namespace.as_str()),
        service: service.map(|key| key.service.as_str()),
        instance,
        ..Wanted::default()
    };
    let range = range.start().0..=range.end().0;
    let mut scan = ChangeScan::new(reader, &marks, wanted, Order::Ascending, range);
    while let Some(changes) = scan.next()? {
        for change in changes {
            if subject.includes(&change.event) && visit(change) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The traffic that `wanted` asks for, and what of the wanted stretch is not there.
pub(super) fn traffic(
    reader: &Reader,
    query: &TrafficQuery,
    visit: &mut dyn FnMut(Numbered) -> Visit,
) -> Result<Vec<Missing>, ReadError> {
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let wanted = Wanted {
        kinds: query.kinds,
        namespace: query.namespace.as_ref().map(|name| name.as_str()),
        service: query.service.as_ref().map(|name| name.as_str()),
        instance: query.instance.as_ref().map(|name| name.as_str()),
        caller: query.caller.as_deref(),
        unnamed: query.unnamed,
        since: query.since,
        until: query.until,
        ..Wanted::default()
    };
    let range = query.from.unwrap_or(1)..=query.to.unwrap_or(u64::MAX);
    let mut scan = TrafficScan::new(reader, &marks, wanted, Order::Ascending, range.clone());
    // Who has seen enough wants to know what is missing up to there.
    let mut stopped = None;
    'scan: while let Some(events) = scan.next()? {
        for event in events {
            let (at, number) = (event.traffic.at, event.number);
            if query.includes(&event) && visit(event) == ControlFlow::Break(()) {
                stopped = Some((at, number));
                break 'scan;
            }
        }
    }
    let (from, until) = stretch(reader, query, &range)?;
    let until = stopped.map_or(until, |(at, _)| until.min(at));
    // Asked again: retention may have taken something meanwhile.
    let first = rows::marks(&reader.connection).map_err(storage)?.first_traffic;
    let mut missing = Vec::new();
    if *range.start() < first {
        missing.extend(gaps::retained(reader, Class::Traffic, first, query.since, until)?);
    }
    missing.extend(gaps::unwritten(reader, from, until)?);
    let holes: Vec<_> = scan
        .holes
        .iter()
        .filter(|hole| stopped.is_none_or(|(_, number)| *hole.start() <= number))
        .cloned()
        .collect();
    missing.extend(gaps::damaged(reader, Class::Traffic, first, &holes));
    Ok(missing)
}

/// The time that is wanted, as far as numbers or instants bound it.
fn stretch(
    reader: &Reader,
    query: &TrafficQuery,
    range: &RangeInclusive<u64>,
) -> Result<(Timestamp, Timestamp), ReadError> {
    let at = |number: Option<u64>| -> Result<Option<Timestamp>, ReadError> {
        let Some(number) = number else { return Ok(None) };
        let blocks = rows::blocks_among(&reader.connection, number, number).map_err(storage)?;
        match scan::event_of(&blocks, number) {
            Ok(event) => Ok(event.map(|event| event.traffic.at)),
            // A damaged one is said to be missing anyway; its neighbours bound the time.
            Err(ReadError::Damaged { .. }) => {
                let (from, until) = scan::times_around(reader, Class::Traffic, &(number..=number));
                Ok(Some(if number == *range.start() { from } else { until }))
            }
            Err(error @ ReadError::Storage(_)) => Err(error),
        }
    };
    let (first, last) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
    let from = at(query.from)?.unwrap_or(first).max(query.since.unwrap_or(first));
    let until = at(query.to)?.unwrap_or(last).min(query.until.unwrap_or(last));
    Ok((from, until))
}
