//! What is not there, and why: what retention took, what damage hides, what was never written. An answer that
//! crosses such a gap names it.

use std::ops::RangeInclusive;

use super::scan::{ChangeScan, Wanted, times_around};
use crate::domain::event::{Class, Event, Kind, Note};
use crate::domain::{Change, Seq, Timestamp};
use crate::history::{Missing, Moment, Order, Reason};
use crate::log::ReadError;
use crate::log::sqlite::Reader;
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::rows::{self, signed};

/// The time of a moment; none if there is none, or if it is older than what is kept.
pub(super) fn instant(
    reader: &Reader,
    moment: Option<Moment>,
) -> Result<Option<Timestamp>, ReadError> {
    Ok(match moment {
        None => None,
        Some(Moment::At(at)) => Some(at),
        Some(Moment::Version(Seq(seq))) => {
            let mut found = reader.rows(Seq(seq), 1)?;
            found.pop().filter(|row| row.seq == seq).map(|row| Timestamp(row.at))
        }
    })
}

/// What is not there of a class before the number `first`, if that lies in the time that is wanted: what retention took,
/// and, in a log that was made of a part of another one, what never came.
pub(super) fn retained(
    reader: &Reader,
    class: Class,
    first: u64,
    since: Option<Timestamp>,
    until: Timestamp,
) -> Result<Vec<Missing>, ReadError> {
    if first <= 1 {
        return Ok(Vec::new());
    }
    let sql = match class {
        Class::Changes => "SELECT at FROM changes WHERE seq >= ? ORDER BY seq LIMIT 1",
        Class::Traffic => "SELECT first_at FROM traffic WHERE first >= ? ORDER BY first LIMIT 1",
    };
    let mut statement = reader.connection.prepare_cached(sql).map_err(storage)?;
    let kept = statement.query_row([signed(first)], |row| row.get(0).map(Timestamp));
    let before = rows::before(&reader.connection).map_err(storage)?;
    let taken = oldest_taken(reader, class, &before)?;
    // The oldest that is kept ends what is gone; where nothing is kept, the one who removed it says until when.
    let ended = match kept {
        Ok(at) => at,
        Err(_) => taken.map_or(until, |(_, until)| until),
    };
    let born = match class {
        Class::Changes => before.born_seq,
        Class::Traffic => before.born_traffic,
    };
    let born = born.clamp(1, first);
    let began = taken.map_or(ended, |(from, _)| from.min(ended));
    let from = match (since, before.began_at[class as usize]) {
        (Some(since), Some(_)) => since.max(began),
        // What is on record may not be the first that went.
        (Some(since), None) => since,
        (None, _) => began,
    };
    let parts = [
        // When the first of what never came happened is not known.
        (Reason::NotImported, 1..=born - 1, since.unwrap_or(began).min(began), began),
        (Reason::Retention, born..=first - 1, from, ended),
    ];
    let is_wanted = |(_, numbers, from, ended): &(_, RangeInclusive<u64>, Timestamp, Timestamp)| {
        !numbers.is_empty() && since.is_none_or(|since| since <= *ended) && *from <= until
    };
    let missing = |(reason, numbers, from, ended): (Reason, _, Timestamp, Timestamp)| Missing {
        from: from.min(ended),
        until: ended.min(until),
        reason,
        events: shown(letter(class), &numbers),
    };
    Ok(parts.into_iter().filter(is_wanted).map(missing).collect())
}

/// From when and until when the removals reach: from the very first one, if that was noted, else as far as is on record.
fn oldest_taken(
    reader: &Reader,
    class: Class,
    before: &rows::Before,
) -> Result<Option<(Timestamp, Timestamp)>, ReadError> {
    let mut taken: Option<(Timestamp, Timestamp)> = None;
    notes(reader, &[Kind::Compacted], None, |change| {
        if let Event::Note(Note::Compacted(compacted)) = &change.event
            && compacted.class == class
        {
            let (from, until) = taken.unwrap_or((compacted.from, compacted.until));
            taken = Some((from.min(compacted.from), until.max(compacted.until)));
        }
    })?;
    // The newest removal may not be told yet; the events that told of those before may have gone themselves.
    for (compacted, _) in rows::keeping(&reader.connection).map_err(storage)?.compactions {
        if compacted.class == class {
            let (from, until) = taken.unwrap_or((compacted.from, compacted.until));
            taken = Some((from.min(compacted.from), until.max(compacted.until)));
        }
    }
    let began = before.began_at[class as usize].map(Timestamp);
    Ok(taken.map(|(from, until)| (began.unwrap_or(from), until)))
}

/// What damage hides: numbers that should be there. What retention took meanwhile is none.
pub(super) fn damaged(
    reader: &Reader,
    class: Class,
    first: u64,
    holes: &[RangeInclusive<u64>],
) -> Vec<Missing> {
    let mut holes: Vec<_> =
        holes.iter().map(|hole| *hole.start().max(&first)..=*hole.end()).collect();
    holes.retain(|hole| !hole.is_empty());
    holes.sort_unstable_by_key(|hole| *hole.start());
    let mut whole: Vec<RangeInclusive<u64>> = Vec::new();
    for hole in holes {
        match whole.last_mut() {
            Some(last) if *hole.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(hole.end());
            }
            _ => whole.push(hole),
        }
    }
    let missing = |hole: &RangeInclusive<u64>| {
        let (from, until) = times_around(reader, class, hole);
        let events = shown(letter(class), hole);
        Missing { from, until, reason: Reason::Damaged, events }
    };
    whole.iter().map(missing).collect()
}

/// What was never written although it happened in `[from, until]`: gaps of the log, and crashes.
pub(super) fn unwritten(
    reader: &Reader,
    from: Timestamp,
    until: Timestamp,
) -> Result<Vec<Missing>, ReadError> {
    let mut missing = Vec::new();
    // Each is recorded when it is over, so that nothing recorded before `from` reaches into it.
    notes(reader, &[Kind::LogGap, Kind::Recovered], Some(from), |change| {
        let gap = match &change.event {
            Event::Note(Note::LogGap(gap)) => Some((gap.from, gap.until, Reason::LogGap)),
            Event::Note(Note::Recovered(recovered)) => {
                recovered.traffic_missing_from.map(|at| (at, change.at, Reason::Crash))
            }
            _ => None,
        };
        if let Some((began, ended, reason)) = gap
            && began <= until
            && ended >= from
        {
            missing.push(Missing { from: began, until: ended, reason, events: "".into() });
        }
    })?;
    Ok(missing)
}

/// Shows the registry's own changes of some kinds.
fn notes(
    reader: &Reader,
    kinds: &[Kind],
    since: Option<Timestamp>,
    mut visit: impl FnMut(&Change),
) -> Result<(), ReadError> {
    let marks = rows::marks(&reader.connection).map_err(storage)?;
    let wanted = Wanted { kinds, since, ..Wanted::default() };
    let scan = ChangeScan::new(reader, &marks, wanted, Order::Ascending, 1..=u64::MAX);
    let mut scan = scan.stepping_over();
    while let Some(changes) = scan.next()? {
        changes.iter().for_each(&mut visit);
    }
    Ok(())
}

fn letter(class: Class) -> &'static str {
    match class {
        Class::Changes => "",
        Class::Traffic => "t",
    }
}

fn shown(letter: &str, numbers: &RangeInclusive<u64>) -> Box<str> {
    match (numbers.start(), numbers.end()) {
        (first, last) if first == last => format!("{letter}{first}").into(),
        (first, last) => format!("{letter}{first} to {letter}{last}").into(),
    }
}
