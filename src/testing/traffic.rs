//! Random traffic, and blocks of it as older programs wrote them.

use std::sync::Arc;

use proptest::option;
use proptest::prelude::*;

use super::history::{health, instant, keys, text};
use super::{START, trace};
use crate::domain::traffic::{CloseReason, Detail, Traffic};
use crate::domain::{Baggage, Seq, Timestamp};
use crate::log::blocks::{Block, NUMBERS};
use crate::log::columns::{Column, Columns};

/// Numbers that fill every width of column.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        1_u64..10,
        any::<u32>().prop_map(u64::from),
        Just(1 << 53),
        Just(i64::MAX as u64)
    ]
}

/// Baggage of every shape, mostly none.
pub(crate) fn baggage() -> impl Strategy<Value = Option<Arc<Baggage>>> {
    let pairs = proptest::collection::btree_map("[a-z.*]{1,9}", ".{0,40}", 0..4);
    pairs.prop_map(|pairs| {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Baggage::new(pairs).map(Arc::new)
    })
}

fn heartbeats() -> impl Strategy<Value = Detail> {
    let load = any::<f64>().prop_filter("JSON knows finite numbers only", |load| load.is_finite());
    (number(), option::of(load), option::of(health()), option::of(text())).prop_map(
        |(incarnation, load, health, note)| Detail::Heartbeat {
            incarnation: Seq(incarnation),
            load,
            health,
            note,
            baggage: None,
        },
    )
}

fn lookups() -> impl Strategy<Value = Detail> {
    (text(), number(), any::<u32>(), 100_u16..=999, option::of(number())).prop_map(
        |(filter, revision, returned, status, held)| Detail::Lookup {
            filter,
            revision: Seq(revision),
            returned,
            status,
            held: held.map(Seq),
            baggage: None,
        },
    )
}

fn streams() -> impl Strategy<Value = Detail> {
    let reason = proptest::sample::select(CloseReason::ALL);
    prop_oneof![
        (text(), number())
            .prop_map(|(filter, after)| Detail::WatchOpened { filter, after: Seq(after) }),
        (text(), number(), reason).prop_map(|(filter, through, reason)| Detail::WatchClosed {
            filter,
            through: Seq(through),
            reason
        }),
        (text(), number(), any::<u32>()).prop_map(|(filter, through, events)| Detail::Notified {
            filter,
            through: Seq(through),
            events
        }),
    ]
}

/// What many events have in common, as those of one client or of a quiet fleet do: a bit for each field.
fn make_alike(events: &mut [Traffic], fields: u8) {
    let Some((one, others)) = events.split_first_mut() else { return };
    let one = &*one;
    for other in others {
        let shares = |field: u8| fields >> field & 1 == 1;
        if shares(0) {
            other.at = one.at;
        }
        if shares(1) {
            other.seen = one.seen;
        }
        if shares(2) {
            (other.namespace, other.service) = (one.namespace.clone(), one.service.clone());
        }
        if shares(2) && (shares(3) || one.service.is_none()) {
            other.instance = one.instance.clone();
        }
        if shares(4) {
            other.caller = Arc::clone(&one.caller);
        }
        if shares(5) {
            other.detail = one.detail.clone();
        }
    }
}

/// Events in the order of their times, with names and numbers of every kind; often they have something in common.
pub(crate) fn traffic(
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Traffic>> {
    let names = (option::of(keys()), any::<bool>());
    let detail = (prop_oneof![heartbeats(), lookups(), streams()], baggage())
        .prop_map(|(detail, baggage)| detail.with_baggage(baggage));
    let event = (instant(), number(), names, text(), any::<u8>(), detail).prop_map(
        |(at, seen, (key, with_instance), caller, n, detail)| Traffic {
            at,
            seen: Seq(seen),
            namespace: key.as_ref().map(|key| key.service.namespace.clone()),
            service: key.as_ref().map(|key| key.service.service.clone()),
            instance: key.filter(|_| with_instance).map(|key| key.instance),
            caller: Arc::from(caller),
            trace: trace(n),
            detail,
        },
    );
    let alike = prop_oneof![2 => Just(0), 1 => any::<u8>()];
    (proptest::collection::vec(event, count), alike).prop_map(|(mut events, alike)| {
        make_alike(&mut events, alike);
        events.sort_by_key(|event| event.at);
        events
    })
}

/// A block as it was written until schema 4: its numbers as digits, for each event as many as the widest takes, three
/// for a status. Held to blocks that such a program wrote by `tests/fixtures/blocks_v1.jsonl`.
pub(crate) fn as_digits(block: &Block) -> Block {
    const COLUMNS: [Column; NUMBERS] = [
        Column::At,
        Column::Seen,
        Column::Namespace,
        Column::Service,
        Column::Instance,
        Column::Caller,
        Column::Detail,
        Column::Revision,
        Column::Returned,
    ];
    let columns = Columns::open(block).unwrap();
    let every = 0..columns.len();
    let digits = |column| {
        let numbers = every.clone().map(|n| columns.number(column, n).unwrap());
        let width = numbers.clone().map(|number| number.to_string().len()).max().unwrap();
        numbers.flat_map(|number| format!("{number:0width$}").into_bytes()).collect()
    };
    let kinds = every.clone().map(|n| columns.form(n).unwrap().number().to_string());
    let statuses = every.clone().map(|n| format!("{:03}", columns.status(n).unwrap()));
    let mut block = Block {
        kinds: kinds.collect::<String>().into(),
        numbers: COLUMNS.map(digits),
        statuses: statuses.collect::<String>().into(),
        ..block.clone()
    };
    block.checksum = block.expected_checksum();
    block
}

/// A lookup that can be told from others by `n`.
pub(crate) fn lookup(n: usize) -> Traffic {
    Traffic {
        at: Timestamp(START.0 + i64::try_from(n).unwrap()),
        seen: Seq(0),
        namespace: None,
        service: None,
        instance: None,
        caller: "tests".into(),
        trace: trace(1),
        detail: Detail::Lookup {
            filter: format!("tag={n}").into(),
            revision: Seq(0),
            returned: 0,
            status: 404,
            held: None,
            baggage: None,
        },
    }
}
