//! A stretch of a log as lines of JSON, beside a registry that may be running.
//!
//! What is exported can be imported: a stretch that does not begin at the beginning carries the state that it begins
//! at. It changes nothing, and tells nothing that is not whole: a damaged event ends it with its name. Called by the
//! command line.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;

use super::archive::state;
use super::lines::{EventLine, HeaderLine, Numbers, PartLine, VERSION};
use super::{OpenError, Reader, database_of};
use crate::domain::{Seq, Timestamp};
use crate::history::{self, Extent, Moment};
use crate::log::codec::{self, Row};
use crate::log::{Numbered, ReadError};

/// Changes read at once.
const CHANGES: usize = 2_048;

/// Blocks of traffic read at once.
const BLOCKS: usize = 16;

/// Which events are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// From this instant on, or from this change on; none is the oldest state that is kept.
    pub from: Option<Moment>,
    /// Up to this instant, or up to this change; none is the present.
    pub to: Option<Moment>,
    /// Without heartbeats, lookups and watches.
    pub without_traffic: bool,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The log's id.
    pub log_id: String,
    /// The first change; one more than the last if there is none.
    pub first: u64,
    /// The last change.
    pub last: u64,
    /// Traffic events.
    pub traffic: u64,
}

/// Why there is no export, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An event can't be read, or is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The past that was asked for can't be told.
    #[error(transparent)]
    History(#[from] history::Error),
    /// It ends before it begins.
    #[error("there is nothing from change {from} to change {to}: --to lies before --from")]
    Backwards {
        /// The first one that was asked for.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// The output can't be written.
    #[error("can't write the export")]
    Output(#[from] io::Error),
}

impl From<serde_json::Error> for ExportError {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(_) => Self::Output(error.into()),
            // What the checksums let through is JSON.
            None => Self::Read(ReadError::Storage(error.to_string().into())),
        }
    }
}

/// Writes the events in `range` of the log in `data` (a directory, or the file itself) to `out`. `progress` is told
/// the events written so far.
///
/// # Errors
/// [`ExportError`]; what was written until then is no whole export, and an import says so.
pub fn export(
    data: &Path,
    range: Range,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, ExportError> {
    let reader = Reader::open_current(&database_of(data))?;
    // Both ends before anything else: a traffic event that is in the log now saw a change that is.
    let (log_id, next, next_traffic) = reader.next()?;
    let extent = state::extent(&reader)?;
    let newest = Seq(next.0 - 1);
    let first = first_change(&reader, &extent, range.from)?;
    let last = match range.to {
        None => newest,
        Some(moment) => state::version(&reader, moment)?.seq.min(newest),
    };
    if first.0 > last.0 + 1 {
        return Err(ExportError::Backwards { from: first.0, to: last.0 });
    }
    let traffic =
        traffic_range(&reader, range, (first, last), (extent.first_traffic, next_traffic))?;
    let base = Seq(first.0 - 1);
    let base = match base {
        Seq::ZERO => None,
        _ => Some(state::snapshot(&reader, base)?.encode()),
    };
    let header = HeaderLine {
        export: VERSION,
        log_id: log_id.clone(),
        changes: Numbers { first: first.0, last: last.0 },
        traffic,
        parts: base.as_ref().map_or(0, |(_, parts)| parts.len() as u64),
        base: base.as_ref().map(|(header, _)| header.clone()),
    };
    line(out, &header)?;
    for part in base.into_iter().flat_map(|(_, parts)| parts) {
        line(out, &PartLine::new(part)?)?;
    }
    events(&reader, header.changes, traffic, out, progress)?;
    out.flush()?;
    let traffic = traffic.last + 1 - traffic.first;
    Ok(Exported { log_id, first: first.0, last: last.0, traffic })
}

fn line(out: &mut dyn Write, line: &impl serde::Serialize) -> Result<(), ExportError> {
    serde_json::to_writer(&mut *out, line)?;
    Ok(out.write_all(b"\n")?)
}

/// The first change that is wanted; the state before it can be told.
fn first_change(
    reader: &Reader,
    extent: &Extent,
    from: Option<Moment>,
) -> Result<Seq, history::Error> {
    let oldest = extent.oldest;
    match from {
        None => Ok(oldest.seq.next()),
        Some(Moment::Version(seq)) if seq <= oldest.seq && oldest.seq > Seq::ZERO => {
            Err(history::Error::Gone { oldest })
        }
        Some(Moment::Version(seq)) if seq > extent.newest.seq.next() => {
            Err(history::Error::Ahead { newest: extent.newest })
        }
        Some(Moment::Version(seq)) => Ok(seq.max(Seq(1))),
        Some(Moment::At(at)) => {
            let before = Moment::At(Timestamp(at.micros().saturating_sub(1)));
            state::version(reader, before).map(|version| version.seq.next())
        }
    }
}

/// The numbers of the traffic that belongs to the changes: by time, as both classes have that in common.
fn traffic_range(
    reader: &Reader,
    range: Range,
    (first, last): (Seq, Seq),
    (first_traffic, next_traffic): (u64, u64),
) -> Result<Numbers, ExportError> {
    let begin = first_traffic.max(1);
    let none = Numbers { first: begin, last: begin - 1 };
    if range.without_traffic || next_traffic <= begin {
        return Ok(none);
    }
    let began = |seq: Seq| -> Result<Option<Timestamp>, ReadError> {
        let found = reader.changes(seq, 1)?;
        Ok(found.first().filter(|change| change.seq == seq).map(|change| change.at))
    };
    let from = match range.from {
        None => Some(Timestamp(i64::MIN)),
        Some(Moment::At(at)) => Some(at),
        Some(Moment::Version(_)) => began(first)?,
    };
    // The first instant that does not belong to it any more.
    let until = match range.to {
        None => None,
        Some(Moment::At(at)) => Some(Timestamp(at.micros().saturating_add(1))),
        Some(Moment::Version(_)) => began(last.next())?,
    };
    let find = |at: Option<Timestamp>| match at {
        Some(at) => first_at(reader, at, (begin, next_traffic)),
        None => Ok(next_traffic),
    };
    let (from, until) = (find(from)?, find(until)?);
    Ok(Numbers { first: from, last: until.max(from) - 1 })
}

/// The first traffic event at an instant or after it, in `low..high`; `high` if there is none: numbers and times grow
/// together.
fn first_at(reader: &Reader, at: Timestamp, (low, high): (u64, u64)) -> Result<u64, ReadError> {
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low) / 2;
        match reader.traffic(middle, 1)?.first() {
            Some(event) if event.traffic.at < at => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Both classes merged: a traffic event stands after the change that it saw.
fn events(
    reader: &Reader,
    changes: Numbers,
    traffic: Numbers,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ExportError> {
    let (mut next_change, mut next_traffic) = (changes.first, traffic.first);
    let mut rows: VecDeque<Row> = VecDeque::new();
    let mut beats: VecDeque<Numbered> = VecDeque::new();
    let gone = |what: String| ReadError::Storage(format!("{what} is not there any more").into());
    let mut written = 0;
    loop {
        if rows.is_empty() && next_change <= changes.last {
            let left = usize::try_from(changes.last + 1 - next_change).unwrap_or(CHANGES);
            rows.extend(reader.rows(Seq(next_change), left.min(CHANGES))?);
            if rows.front().is_none_or(|row| row.seq != next_change) {
                return Err(gone(format!("change {next_change}")).into());
            }
        }
        if beats.is_empty() && next_traffic <= traffic.last {
            beats.extend(reader.traffic(next_traffic, BLOCKS)?);
            if beats.front().is_none_or(|event| event.number != next_traffic) {
                return Err(gone(format!("traffic event t{next_traffic}")).into());
            }
        }
        let change_first = match (rows.front(), beats.front()) {
            (None, None) => break,
            (Some(row), Some(event)) => row.seq <= event.traffic.seen.0,
            (row, _) => row.is_some(),
        };
        if change_first {
            let Some(row) = rows.pop_front() else { break };
            let place = || format!("change {}", row.seq);
            codec::decode(&row)
                .map_err(|e| ReadError::Damaged { place: place(), what: e.to_string() })?;
            next_change = row.seq + 1;
            line(out, &EventLine::of_change(row)?)?;
        } else {
            let Some(event) = beats.pop_front() else { break };
            next_traffic = event.number + 1;
            line(out, &EventLine::of_traffic(&event)?)?;
            if next_traffic > traffic.last {
                beats.clear();
            }
        }
        written += 1;
        progress(written);
    }
    Ok(())
}
