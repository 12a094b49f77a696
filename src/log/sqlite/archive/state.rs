//! The state after a change: that of the nearest snapshot before it, and the changes since then folded into it.
//!
//! Nothing here supposes that changes are numbered from 1 on: where the kept ones begin stands in the table `log`, and
//! the snapshot below them holds what came before. A damaged snapshot is passed over; recovery and `verify` say so.

use std::ops::ControlFlow;

use super::{tail, visit};
use crate::domain::registry::Service;
use crate::domain::{Registry, Seq, ServiceKey, Timestamp, fold};
use crate::history::{Error, Extent, Moment, Subject, Version};
use crate::log::sqlite::reader::storage;
use crate::log::sqlite::{Reader, rows};
use crate::log::{ReadError, Snapshot};

/// A minute in microseconds.
const MINUTE: i64 = 60_000_000;

/// Changes read at once.
const CHANGES: usize = 8_192;

/// What is kept.
pub(in crate::log::sqlite) fn extent(reader: &Reader) -> Result<Extent, Error> {
    let (first, first_traffic) = reader.first()?;
    let (_, next, next_traffic) = reader.next()?;
    let before = rows::before(&reader.connection).map_err(storage)?;
    // A state below the first change but one leads nowhere: the changes that followed it are gone.
    let snapshots = reader.snapshots(Seq(first.0 - 1), Seq(u64::MAX))?;
    let standing = |found: Option<&(Seq, Timestamp)>| {
        found.map_or_else(Version::default, |(seq, at)| Version { seq: *seq, at: *at })
    };
    let newest = reader.changes_back(Seq(next.0 - 1), 1)?;
    let newest = match newest.first() {
        Some(change) => Version { seq: change.seq, at: change.at },
        // No change is kept, or there never was one.
        None => standing(snapshots.last()),
    };
    let oldest = match first {
        Seq(1) => Version::default(),
        _ if snapshots.is_empty() => newest,
        _ => standing(snapshots.first()),
    };
    Ok(Extent {
        oldest,
        newest,
        first_change: if next > first { first.0 } else { 0 },
        first_traffic: if next_traffic > first_traffic { first_traffic } else { 0 },
        last_traffic: next_traffic - 1,
        imported: first.0 > 1 && first.0 == before.born_seq,
        counted_from: before
            .first_minute
            .map_or_else(Timestamp::default, |minute| Timestamp(minute.saturating_mul(MINUTE))),
    })
}

/// The version at a moment.
pub(in crate::log::sqlite) fn version(reader: &Reader, moment: Moment) -> Result<Version, Error> {
    let Extent { oldest, newest, .. } = extent(reader)?;
    match moment {
        Moment::Version(seq) if seq > newest.seq => Err(Error::Ahead { newest }),
        Moment::Version(seq) if seq < oldest.seq => Err(Error::Gone { oldest }),
        Moment::Version(seq) => Ok(found(reader, seq, oldest)?),
        Moment::At(at) if at < oldest.at => Err(Error::Gone { oldest }),
        Moment::At(at) => {
            // The last change that is not after the moment: both numbers and times only grow.
            let (mut low, mut high) = (oldest.seq.0, newest.seq.0);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                match reader.changes_back(Seq(middle), 1)?.first() {
                    Some(change) if change.at > at => high = middle - 1,
                    _ => low = middle,
                }
            }
            Ok(found(reader, Seq(low), oldest)?)
        }
    }
}

/// When a version began.
fn found(reader: &Reader, seq: Seq, oldest: Version) -> Result<Version, ReadError> {
    if seq == oldest.seq {
        return Ok(oldest);
    }
    let change = reader.changes_back(seq, 1)?;
    Ok(change.first().map_or(oldest, |change| Version { seq: change.seq, at: change.at }))
}

/// The snapshots from which `at` can be reached, the nearest first.
fn bases(reader: &Reader, at: Seq) -> Result<Vec<Seq>, Error> {
    let Extent { oldest, newest, .. } = extent(reader)?;
    if at > newest.seq {
        return Err(Error::Ahead { newest });
    }
    if at < oldest.seq {
        return Err(Error::Gone { oldest });
    }
    let found = reader.snapshots(oldest.seq, at)?;
    Ok(found.into_iter().rev().map(|(seq, _)| seq).collect())
}

/// Where to begin: what `load` gives of the nearest of these snapshots that is whole, or the empty beginning.
fn begin<T: Default>(
    reader: &Reader,
    bases: &[Seq],
    mut load: impl FnMut(Seq) -> Result<Option<T>, ReadError>,
) -> Result<T, Error> {
    for seq in bases {
        match load(*seq) {
            Ok(Some(base)) => return Ok(base),
            Ok(None) | Err(ReadError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match reader.first()?.0 {
        Seq(1) => Ok(T::default()),
        first => Err(Error::Unreadable(format!(
            "the changes before {first} are gone, and no snapshot of the state asked for is whole"
        ))),
    }
}

/// What was read of the changes from `from` on, or the reason why one of them is not there.
fn missing_is_gone<T>(
    reader: &Reader,
    from: Seq,
    read: Result<T, tail::Missing>,
) -> Result<T, Error> {
    match read {
        Ok(read) => Ok(read),
        Err(tail::Missing::Change(seq)) => {
            still_kept(reader, from)?;
            Err(Error::Unreadable(format!("change {seq} is missing")))
        }
        Err(tail::Missing::Unreadable(error)) => Err(error.into()),
    }
}

/// Retention may have taken the changes that were about to be folded: then the state can't be told any more.
fn still_kept(reader: &Reader, from: Seq) -> Result<(), Error> {
    if reader.first()?.0 <= from {
        return Ok(());
    }
    Err(Error::Gone { oldest: extent(reader)?.oldest })
}

/// The whole state after change `at`.
pub(super) fn state(reader: &Reader, at: Seq) -> Result<Registry, Error> {
    let bases = bases(reader, at)?;
    let mut registry =
        begin(reader, &bases, |seq| Ok(reader.snapshot(seq)?.map(|snapshot| snapshot.registry)))?;
    let from = registry.head().next();
    for change in missing_is_gone(reader, from, tail::between(reader, registry.head(), at))? {
        drop(fold(&mut registry, &change));
    }
    Ok(registry)
}

/// The same with what is known of each life, for which every change counts: heartbeats only as of the snapshot that
/// it begins at.
pub(in crate::log::sqlite) fn snapshot(reader: &Reader, at: Seq) -> Result<Snapshot, Error> {
    let bases = bases(reader, at)?;
    let mut state = begin(reader, &bases, |seq| reader.snapshot(seq))?;
    while state.registry.head() < at {
        let reached = state.registry.head();
        let from = reached.next();
        let limit = usize::try_from(at.0 - reached.0).unwrap_or(CHANGES).min(CHANGES);
        let changes = reader.changes(from, limit)?;
        if changes.first().is_none_or(|change| change.seq != from) {
            still_kept(reader, from)?;
            return Err(Error::Unreadable(format!("change {from} is missing")));
        }
        for change in &changes {
            state.fold(change);
        }
    }
    Ok(state)
}

/// One service after change `at`.
pub(super) fn service(
    reader: &Reader,
    key: &ServiceKey,
    at: Seq,
) -> Result<Option<Service>, Error> {
    let bases = bases(reader, at)?;
    let mut registry = begin(reader, &bases, |seq| {
        Ok(reader.snapshot_service(seq, key)?.map(|(began, service)| {
            Registry::from_parts(seq, began, service.map(|service| (key.clone(), service)))
        }))
    })?;
    let from = registry.head().next();
    visit::changes(reader, Subject::Service(key), from..=at, &mut |change| {
        drop(fold(&mut registry, &change));
        ControlFlow::Continue(())
    })?;
    still_kept(reader, from)?;
    Ok(registry.service(key).cloned())
}
