//! Stretches of time, and what is not there of them: shared by the questions that look over many events.

use std::ops::ControlFlow;

use super::archive::{Archive, Error, EventQuery, Missing, Reason, Subject};
use super::moment::Moment;
use crate::domain::event::{Event, Kind, Note};
use crate::domain::{Change, Timestamp};

/// A minute in microseconds.
pub(super) const MINUTE: i64 = 60_000_000;

/// Events read at once.
const PAGE: usize = 100;

/// When the minute of an instant began.
pub(super) fn minute_of(at: Timestamp) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(MINUTE))
}

/// The gaps that the log itself tells of and that reach into the time from `since` to `until`: what it could not
/// write, and what the end of a process may have taken.
pub(super) fn gaps(
    archive: &dyn Archive,
    since: Timestamp,
    until: Timestamp,
) -> Result<Vec<Missing>, Error> {
    let mut found = Vec::new();
    for kind in [Kind::LogGap, Kind::Recovered] {
        // Such an event stands at the end of what it tells of.
        let mut query = EventQuery {
            limit: PAGE,
            kind: Some(kind),
            since: Some(Moment::At(since)),
            ..EventQuery::default()
        };
        loop {
            let page = archive.events(&query)?;
            for record in &page.events {
                archive.changes(Subject::All, record.seq..=record.seq, &mut |change| {
                    found.extend(gap(&change).filter(|gap| gap.from <= until));
                    ControlFlow::Break(())
                })?;
            }
            let Some(next) = page.next else { break };
            query.cursor = Some(next);
        }
    }
    Ok(found)
}

fn gap(change: &Change) -> Option<Missing> {
    let (from, until, reason) = match &change.event {
        Event::Note(Note::LogGap(gap)) => (gap.from, gap.until, Reason::LogGap),
        Event::Note(Note::Recovered(recovered)) => {
            (recovered.traffic_missing_from?, change.at, Reason::Crash)
        }
        _ => return None,
    };
    Some(Missing { from, until, reason, events: "".into() })
}

/// Those of what traffic misses that only the file can tell; [`gaps`] tells the others.
pub(super) fn of_the_file(missing: Vec<Missing>) -> impl Iterator<Item = Missing> {
    missing.into_iter().filter(|missing| match missing.reason {
        Reason::Retention | Reason::NotImported | Reason::Damaged => true,
        Reason::LogGap | Reason::Crash => false,
    })
}

/// Puts them in order, each once.
pub(super) fn tidy(missing: &mut Vec<Missing>) {
    missing.sort_by(|a, b| {
        (a.from, a.until, a.reason, &a.events).cmp(&(b.from, b.until, b.reason, &b.events))
    });
    missing.dedup();
}
