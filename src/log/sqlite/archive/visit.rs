//! Shows events of one class to somebody who has to see all that are wanted.

use std::ops::{ControlFlow, RangeInclusive};

use crate::domain::traffic::Numbered;
use crate::domain::{Change, Seq};
use crate::history::{Missing, Subject, TrafficQuery, Visit};
use crate::log::ReadError;
use crate::log::sqlite::Reader;

/// Changes read at once.
const CHANGES: usize = 512;

/// Blocks of traffic read at once.
const BLOCKS: usize = 4;

pub(super) fn changes(
    reader: &Reader,
    subject: Subject<'_>,
    range: RangeInclusive<Seq>,
    visit: &mut dyn FnMut(Change) -> Visit,
) -> Result<(), ReadError> {
    let (mut from, to) = range.into_inner();
    while from <= to {
        let found = reader.changes(from, CHANGES)?;
        let Some(last) = found.last() else { break };
        from = last.seq.next();
        for change in found.into_iter().take_while(|change| change.seq <= to) {
            if subject.includes(change.event.key()) && visit(change) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
    }
    Ok(())
}

pub(super) fn traffic(
    reader: &Reader,
    wanted: &TrafficQuery,
    visit: &mut dyn FnMut(Numbered) -> Visit,
) -> Result<Vec<Missing>, ReadError> {
    let mut from = wanted.from.unwrap_or(1);
    let is_past = |event: &Numbered| {
        wanted.to.is_some_and(|to| event.number > to)
            || wanted.until.is_some_and(|until| event.traffic.at > until)
    };
    loop {
        let found = reader.traffic(from, BLOCKS)?;
        let Some(last) = found.last() else { return Ok(Vec::new()) };
        from = last.number + 1;
        let past = is_past(last);
        for event in found {
            if wanted.includes(&event) && visit(event) == ControlFlow::Break(()) {
                return Ok(Vec::new());
            }
        }
        if past {
            return Ok(Vec::new());
        }
    }
}
