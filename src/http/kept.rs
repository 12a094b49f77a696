//! What the status says of the past: how much is to be kept, how much is, and what went last.

use serde::Serialize;

use crate::domain::Millis;
use crate::domain::event::{Class, Compacted};
use crate::domain::{Seq, Timestamp};
use crate::history::{EventId, Extent, LogFigures, Policy, Version};
use crate::rfc3339;

#[derive(Serialize)]
pub(super) struct Kept {
    budgets: Budgets,
    covered: Covered,
    /// The oldest state that can be told.
    oldest: Shown,
    first_change: u64,
    first_traffic: u64,
    snapshots: Snapshots,
    to_derive: ToDerive,
    compactions: Vec<Compaction>,
}

/// None is without limit.
#[derive(Serialize)]
struct Budgets {
    traffic_age: Option<String>,
    traffic_bytes: Option<u64>,
    changes_age: Option<String>,
}

/// What is there under each budget.
#[derive(Serialize)]
struct Covered {
    /// Under `traffic_age` and `traffic_bytes`; none if all of it has gone.
    traffic: Option<Stretch>,
    /// Under `changes_age`.
    changes: Option<Stretch>,
    /// Under `changes_age` too: since when counts by the minute stand in for lookups that have gone; none if all of
    /// them are there.
    counts_from: Option<String>,
}

#[derive(Serialize)]
struct Stretch {
    first: String,
    last: String,
    /// About, and of the file: the write-ahead log comes on top.
    bytes: u64,
}

#[derive(Serialize)]
struct Shown {
    seq: u64,
    at: Option<String>,
}

#[derive(Serialize)]
struct Snapshots {
    count: u64,
    newest: Option<Shown>,
    bytes: u64,
}

#[derive(Serialize)]
struct ToDerive {
    changes: u64,
    traffic: u64,
}

#[derive(Serialize)]
struct Compaction {
    class: &'static str,
    first: String,
    last: String,
    from: String,
    until: String,
    bytes: u64,
    /// The event that tells it.
    event: Option<String>,
}

pub(super) fn kept(policy: &Policy, figures: &LogFigures, extent: &Extent) -> Kept {
    let age = |age: Option<std::time::Duration>| age.map(|age| Millis::from(age).to_string());
    Kept {
        budgets: Budgets {
            traffic_age: age(policy.traffic_age),
            traffic_bytes: policy.traffic_bytes,
            changes_age: age(policy.changes_age),
        },
        covered: Covered {
            traffic: (extent.first_traffic > 0).then(|| Stretch {
                first: EventId::Traffic(extent.first_traffic).to_string(),
                last: EventId::Traffic(extent.last_traffic).to_string(),
                bytes: figures.traffic_bytes,
            }),
            changes: (extent.first_change > 0).then(|| Stretch {
                first: EventId::Change(extent.first_change).to_string(),
                last: EventId::Change(extent.newest.seq.0).to_string(),
                bytes: figures.changes_bytes,
            }),
            counts_from: (extent.counted_from > Timestamp::default())
                .then(|| rfc3339::format(extent.counted_from)),
        },
        oldest: shown(extent.oldest),
        first_change: figures.first_change,
        first_traffic: figures.first_traffic,
        snapshots: Snapshots {
            count: figures.snapshots,
            newest: figures.newest_snapshot.map(shown),
            bytes: figures.snapshots_bytes,
        },
        to_derive: ToDerive {
            changes: figures.changes_to_derive,
            traffic: figures.traffic_to_derive,
        },
        compactions: figures.compactions.iter().map(compaction).collect(),
    }
}

fn shown(version: Version) -> Shown {
    let is_beginning = version.seq == Seq::ZERO;
    Shown { seq: version.seq.0, at: (!is_beginning).then(|| rfc3339::format(version.at)) }
}

fn compaction((what, event): &(Compacted, Option<Seq>)) -> Compaction {
    let id = |number: u64| match what.class {
        Class::Changes => EventId::Change(number).to_string(),
        Class::Traffic => EventId::Traffic(number).to_string(),
    };
    Compaction {
        class: what.class.as_str(),
        first: id(what.first),
        last: id(what.last),
        from: rfc3339::format(what.from),
        until: rfc3339::format(what.until),
        bytes: what.bytes,
        event: event.map(|seq| EventId::Change(seq.0).to_string()),
    }
}
