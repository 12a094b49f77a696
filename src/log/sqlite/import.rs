//! A data directory made of the lines of an export.
//!
//! Every line is checked: that it is what its kind says, that it has the next number, that its change follows from the
//! state before it. What is not right is named by its line, and then nothing is left behind. Numbers are kept; the log
//! gets an id of its own. Called by the command line.

use std::io::{self, BufRead, Read as _};
use std::path::Path;

use rusqlite::{Connection, params};

use super::backup::{self, Copied, CopyError};
use super::lines::{EventLine, HeaderLine, Numbers, PartLine, VERSION};
use super::snapshots::{self, Slices as _};
use super::target::{Target, TargetError};
use super::{FILE, OpenError, open_and_migrate, rows};
use crate::domain::Timestamp;
use crate::domain::invariants;
use crate::domain::traffic::Traffic;
use crate::history::EventId;
use crate::log::blocks::{self, BLOCK};
use crate::log::codec;
use crate::log::snapshot::{Builder, Snapshot};

/// The longest line: far beyond the largest event and the largest part of a state.
const LINE_MAX: u64 = 16 * 1_024 * 1_024;

/// Lines of one transaction.
const BATCH: u64 = 10_000;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line is not what it must be.
    #[error("line {number}: {what}")]
    Line {
        /// Which one, from 1.
        number: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The lines can't be read.
    #[error("can't read the export")]
    Input(#[from] io::Error),
    /// The directory can't be had.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The new database can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new database can't be written.
    #[error("can't write the new log")]
    Sqlite(#[from] rusqlite::Error),
    /// It was written and can't be finished.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

/// Lines with their numbers.
struct Lines<'a> {
    input: &'a mut dyn BufRead,
    number: u64,
    line: Vec<u8>,
}

impl Lines<'_> {
    /// The next line; none at the end.
    fn next(&mut self) -> Result<Option<&str>, ImportError> {
        self.line.clear();
        let read = self.input.take(LINE_MAX + 1).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read as u64 > LINE_MAX {
            return Err(self.wrong(format!("it is longer than {LINE_MAX} bytes")));
        }
        let number = self.number;
        let text = std::str::from_utf8(&self.line)
            .map_err(|_| ImportError::Line { number, what: "it is not UTF-8".to_owned() })?;
        Ok(Some(text.trim_end()))
    }

    fn wrong(&self, what: impl ToString) -> ImportError {
        ImportError::Line { number: self.number, what: what.to_string() }
    }
}

/// Makes the data directory `data`, which is empty or not there, of the export that `input` gives. `progress` is told
/// the lines read so far.
///
/// # Errors
/// [`ImportError`]; then `data` is as it was.
pub fn import(
    input: &mut dyn BufRead,
    data: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Copied, ImportError> {
    let mut lines = Lines { input, number: 0, line: Vec::new() };
    // Before anything is made.
    let header = header(&mut lines)?;
    let target = Target::new(data)?;
    let mut connection = open_and_migrate(&target.path())?;
    // What is interrupted has no name, and is made anew.
    connection.pragma_update(None, "journal_mode", "MEMORY")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.execute(
        "INSERT INTO log (one, id, next_seq, next_traffic, clean, first_seq, first_traffic, derived_seq, \
         derived_traffic, segmented_traffic, counted_lookups, counted_heartbeats, born_seq, born_traffic) \
         VALUES (1, ?1, ?2 + 1, ?3 + 1, 1, ?4, ?5, ?4 - 1, ?5 - 1, ?5 - 1, ?5 - 1, ?5 - 1, ?4, ?5)",
        params![
            uuid::Uuid::new_v4().to_string(),
            rows::signed(header.changes.last),
            rows::signed(header.traffic.last),
            rows::signed(header.changes.first),
            rows::signed(header.traffic.first),
        ],
    )?;
    let state = base(&mut connection, &header, &mut lines)?;
    let mut writer = Writer {
        state,
        changes: header.changes,
        traffic: header.traffic,
        next_traffic: header.traffic.first,
        last_at: Timestamp(i64::MIN),
        block: Vec::new(),
    };
    writer.events(&mut connection, &mut lines, progress)?;
    backup::close(connection)?;
    target.finish()?;
    Ok(backup::copied(&data.join(FILE))?)
}

fn header(lines: &mut Lines<'_>) -> Result<HeaderLine, ImportError> {
    let Some(text) = lines.next()? else {
        let what = "there is nothing: it must be what `rollcall export` wrote".to_owned();
        return Err(ImportError::Line { number: 1, what });
    };
    let header: HeaderLine = serde_json::from_str(text).map_err(|error| {
        lines.wrong(format!("this is not the first line of an export: {error}"))
    })?;
    if header.export > VERSION {
        return Err(lines.wrong(format!(
            "export: version {} is newer than this program, which knows up to {VERSION}",
            header.export
        )));
    }
    for (field, Numbers { first, last }) in
        [("changes", header.changes), ("traffic", header.traffic)]
    {
        if first == 0 || last >= i64::MAX.unsigned_abs() || first > last + 1 {
            return Err(lines.wrong(format!("{field}: {first} to {last} is no range of numbers")));
        }
    }
    if header.base.as_ref().map_or(0, |base| base.seq) + 1 != header.changes.first {
        return Err(lines.wrong("base: it must be the state right before the first change"));
    }
    Ok(header)
}

/// The state that the events begin at, also put into the new log.
fn base(
    connection: &mut Connection,
    header: &HeaderLine,
    lines: &mut Lines<'_>,
) -> Result<Snapshot, ImportError> {
    let Some(base) = &header.base else { return Ok(Snapshot::default()) };
    let mut builder = Builder::new(base.clone());
    for _ in 0..header.parts {
        let Some(text) = lines.next()? else {
            return Err(lines.wrong("the export ends after this line: its state is cut off"));
        };
        let part: Result<PartLine, _> = serde_json::from_str(text);
        let part = part.map_err(|error| lines.wrong(error))?.part(base.seq);
        builder.add(&part).map_err(|error| lines.wrong(error))?;
    }
    let state = builder.finish();
    let state =
        state.map_err(|error| lines.wrong(format!("the state before it is not whole: {error}")))?;
    invariants::check_registry(&state.registry).map_err(|error| lines.wrong(error))?;
    snapshots::write_base(connection, base, &mut state.services())?;
    Ok(state)
}

/// The new log, while events come in.
struct Writer {
    state: Snapshot,
    changes: Numbers,
    traffic: Numbers,
    next_traffic: u64,
    last_at: Timestamp,
    /// Traffic events that are not written yet: less than a block.
    block: Vec<Traffic>,
}

impl Writer {
    fn events(
        &mut self,
        connection: &mut Connection,
        lines: &mut Lines<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ImportError> {
        let mut more = true;
        while more {
            let until = lines.number + BATCH;
            // What is wrong in a line comes out as a value: the transaction's own errors are SQLite's.
            let batch = connection.slice(|transaction| {
                while lines.number < until {
                    match self.event(transaction, lines) {
                        Ok(true) => {}
                        Ok(false) => return Ok(Ok(false)),
                        Err(ImportError::Sqlite(error)) => return Err(error),
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Ok(Ok(true))
            })?;
            more = batch?;
            progress(lines.number);
        }
        let head = self.state.registry.head().0;
        if head != self.changes.last || self.next_traffic != self.traffic.last + 1 {
            return Err(lines.wrong(format!(
                "the export ends here, at change {head} and traffic event t{}; its first line promises {} and t{}: it was cut off",
                self.next_traffic - 1,
                self.changes.last,
                self.traffic.last
            )));
        }
        Ok(())
    }

    /// Takes the next event; whether there was one.
    fn event(
        &mut self,
        connection: &Connection,
        lines: &mut Lines<'_>,
    ) -> Result<bool, ImportError> {
        let Some(text) = lines.next()? else {
            self.flush(connection)?;
            return Ok(false);
        };
        let event: Result<EventLine, _> = serde_json::from_str(text);
        let event = event.map_err(|error| lines.wrong(error))?;
        match event.id().map_err(|what| lines.wrong(what))? {
            EventId::Change(number) => {
                let row = event.row(number).map_err(|what| lines.wrong(what))?;
                let change = codec::decode(&row).map_err(|error| lines.wrong(error))?;
                // Searches go by the one, the state by the other.
                let same = codec::encode(&change, &row.node);
                if (&row.namespace, &row.service, &row.instance)
                    != (&same.namespace, &same.service, &same.instance)
                {
                    return Err(lines.wrong("namespace, service, instance: data names others"));
                }
                if number > self.changes.last {
                    let last = self.changes.last;
                    return Err(
                        lines.wrong(format!("the first line promises changes up to {last}"))
                    );
                }
                invariants::check_change(&self.state.registry, &change)
                    .map_err(|violation| lines.wrong(violation))?;
                self.state.fold(&change);
                rows::insert_change(&mut connection.prepare_cached(rows::INSERT_CHANGE)?, &row)?;
            }
            EventId::Traffic(number) => {
                let traffic = event.traffic().map_err(|what| lines.wrong(what))?;
                let (due, last) = (self.next_traffic, self.traffic.last);
                if number != due || number > last {
                    return Err(lines.wrong(format!(
                        "id: t{number} stands where t{due} is due, of traffic up to t{last}"
                    )));
                }
                if traffic.at < self.last_at {
                    return Err(lines.wrong("at: it is older than the traffic event before it"));
                }
                // What it saw may lie after the end of the stretch: a lookup is timed when it begins.
                self.last_at = traffic.at;
                self.next_traffic += 1;
                self.block.push(traffic);
                if self.block.len() == BLOCK {
                    self.flush(connection)?;
                }
            }
        }
        Ok(true)
    }

    fn flush(&mut self, connection: &Connection) -> Result<(), ImportError> {
        if !self.block.is_empty() {
            let first = self.next_traffic - self.block.len() as u64;
            let block = blocks::encode(first, &self.block);
            rows::put_block(&mut connection.prepare_cached(rows::PUT_BLOCK)?, &block)?;
            self.block.clear();
        }
        Ok(())
    }
}
