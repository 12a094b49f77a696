//! Of the changes between a state and a later one, those without which the fold would end elsewhere.
//!
//! Read backwards, most changes have been overtaken: an effective registration or update holds the whole instance as
//! it was afterwards, so that nothing before it matters to that instance, and only the last effective change of a
//! service gives its revision. What is overtaken is neither copied out of its page nor taken apart, which is most
//! of the work. Its checksum is compared all the same: a damaged name must not put a change where it is overlooked.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use rusqlite::Connection;

use crate::domain::event::{Event, Outcome};
use crate::domain::{Change, Seq};
use crate::log::ReadError;
use crate::log::codec::{self, Columns, FORMAT};
use crate::log::sqlite::Reader;
use crate::log::sqlite::rows;
use crate::log::sqlite::writer::decode_change;

/// Changes read at once.
const CHANGES: u64 = 8_192;

/// How the payload of a registration or an update begins that changed nothing, in [`FORMAT`].
const UNCHANGED: &[u8] = br#"{"outcome":"unchanged","#;

/// Between two names: a character that no name has.
const BETWEEN: u8 = 0x1F;

/// Why they can't be had.
#[derive(Debug)]
pub(super) enum Missing {
    /// This change is not there.
    Change(Seq),
    /// The log can't be read.
    Unreadable(ReadError),
}

/// The changes after `after` up to `to` that matter to the state after `to`, the oldest first.
pub(super) fn between(reader: &Reader, after: Seq, to: Seq) -> Result<Vec<Change>, Missing> {
    let mut found = Found::default();
    let mut next = to;
    while next > after {
        next = found.step(reader.connection(), after, next)?;
    }
    found.needed.reverse();
    Ok(found.needed)
}

#[derive(Default)]
struct Found {
    /// The newest first.
    needed: Vec<Change>,
    /// Instances of which a change is needed that holds all of them.
    settled: HashSet<Box<[u8]>, RandomState>,
    /// Services of which a change is needed that gives their revision.
    revised: HashSet<Box<[u8]>, RandomState>,
    /// Names, put together to be looked for.
    name: Vec<u8>,
}

impl Found {
    /// Reads some changes from `next` down, and gives the next one below them.
    fn step(&mut self, connection: &Connection, after: Seq, next: Seq) -> Result<Seq, Missing> {
        let storage = |error: rusqlite::Error| {
            Missing::Unreadable(ReadError::Storage(error.to_string().into()))
        };
        let mut statement =
            connection.prepare_cached(rows::SELECT_CHANGES_BETWEEN_BACK).map_err(storage)?;
        let range = [after.0, next.0, CHANGES].map(rows::signed);
        let mut read = statement.query(range).map_err(storage)?;
        let mut next = next;
        let until = Seq(next.0.saturating_sub(CHANGES).max(after.0));
        while next > until {
            let Some(row) = read.next().map_err(storage)? else {
                return Err(Missing::Change(next));
            };
            let seq: i64 = row.get(0).map_err(storage)?;
            if u64::try_from(seq) != Ok(next.0) {
                return Err(Missing::Change(next));
            }
            // The last one gives the state its version and its time.
            let last = self.needed.is_empty();
            let overtaken = match rows::columns_of(row).map_err(storage)? {
                Some((columns, checksum)) => {
                    !last && checksum == codec::checksum(&columns) && self.is_overtaken(&columns)
                }
                None => false,
            };
            if !overtaken {
                let row = rows::change_of(row).map_err(storage)?;
                self.need(decode_change(&row).map_err(Missing::Unreadable)?);
            }
            next = Seq(next.0 - 1);
        }
        Ok(next)
    }

    fn is_overtaken(&mut self, columns: &Columns<'_>) -> bool {
        let [namespace, service, instance, _] = columns.names;
        // The registry's own, and what found everything as it was asked for, change nothing but the head.
        if instance.is_empty()
            || (columns.numbers.3 <= FORMAT && columns.data.starts_with(UNCHANGED))
        {
            return true;
        }
        let length = join(&mut self.name, [namespace, service, instance]);
        self.settled.contains(&*self.name) && self.revised.contains(&self.name[..length])
    }

    fn need(&mut self, change: Change) {
        if let Some(key) = change.event.key() {
            let names = [
                key.service.namespace.as_str().as_bytes(),
                key.service.service.as_str().as_bytes(),
                key.instance.as_str().as_bytes(),
            ];
            let length = join(&mut self.name, names);
            let (effective, whole) = match &change.event {
                Event::Registered { outcome, .. } | Event::Updated { outcome, .. } => {
                    (*outcome != Outcome::Unchanged, true)
                }
                Event::ModeChanged { from, to, .. } => (from != to, false),
                Event::StatusChanged { from, to, .. } => (from != to, false),
                Event::Deregistered { .. } | Event::Expired { .. } => (true, false),
                Event::Note(_) => (false, false),
            };
            if effective {
                self.revised.insert(self.name[..length].into());
            }
            if effective && whole {
                self.settled.insert(self.name[..].into());
            }
        }
        self.needed.push(change);
    }
}

/// Puts the names of an instance together; how long those of its service are.
fn join(name: &mut Vec<u8>, [namespace, service, instance]: [&[u8]; 3]) -> usize {
    name.clear();
    name.extend_from_slice(namespace);
    name.push(BETWEEN);
    name.extend_from_slice(service);
    let length = name.len();
    name.push(BETWEEN);
    name.extend_from_slice(instance);
    length
}
