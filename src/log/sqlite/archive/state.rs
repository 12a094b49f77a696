//! The state after a change: folded from the changes up to it.

use crate::domain::registry::Service;
use crate::domain::{Registry, Seq, ServiceKey, fold};
use crate::history::{Error, Extent, Moment, Version};
use crate::log::sqlite::Reader;

/// Changes read at once.
const CHANGES: usize = 8_192;

/// What is kept.
pub(super) fn extent(reader: &Reader) -> Result<Extent, Error> {
    let (_, next, next_traffic) = reader.next()?;
    let newest = reader.changes_back(Seq(next.0 - 1), 1)?;
    let newest = newest.first().map_or_else(Version::default, |c| Version { seq: c.seq, at: c.at });
    Ok(Extent {
        oldest: Version::default(),
        newest,
        first_change: u64::from(newest.seq > Seq::ZERO),
        first_traffic: u64::from(next_traffic > 1),
        last_traffic: next_traffic - 1,
    })
}

/// The version at a moment.
pub(super) fn version(reader: &Reader, moment: Moment) -> Result<Version, Error> {
    let Extent { newest, .. } = extent(reader)?;
    // The last change that is not after the moment: both numbers and times only grow.
    let (mut low, mut high) = (0, newest.seq.0);
    match moment {
        Moment::Version(seq) if seq > newest.seq => return Err(Error::Ahead { newest }),
        Moment::Version(seq) => (low, high) = (seq.0, seq.0),
        Moment::At(at) => {
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                let found = reader.changes_back(Seq(middle), 1)?;
                match found.first() {
                    Some(change) if change.at > at => high = middle - 1,
                    _ => low = middle,
                }
            }
        }
    }
    debug_assert_eq!(low, high);
    let found = reader.changes_back(Seq(low), 1)?;
    Ok(found.first().map_or_else(Version::default, |c| Version { seq: c.seq, at: c.at }))
}

/// The whole state after change `at`.
pub(super) fn state(reader: &Reader, at: Seq) -> Result<Registry, Error> {
    let Extent { newest, .. } = extent(reader)?;
    if at > newest.seq {
        return Err(Error::Ahead { newest });
    }
    let mut registry = Registry::default();
    while registry.head() < at {
        let changes = reader.changes(registry.head().next(), CHANGES)?;
        if changes.is_empty() {
            break;
        }
        for change in changes.iter().take_while(|change| change.seq <= at) {
            drop(fold(&mut registry, change));
        }
    }
    Ok(registry)
}

/// One service after change `at`.
pub(super) fn service(
    reader: &Reader,
    key: &ServiceKey,
    at: Seq,
) -> Result<Option<Service>, Error> {
    Ok(state(reader, at)?.service(key).cloned())
}
