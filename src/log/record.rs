//! Events of the domain as the records that everybody shows: pages, streams, exports.
//!
//! `data` is the stored payload, so that a stream that is told of a change at once says the very text that a page
//! says of it years later. Nothing here reads or writes. Called by the archive and by [`crate::watch`].

use super::{Numbered, blocks, codec};
use crate::domain::Change;
use crate::history::{EventId, Record};

/// A change as a record.
#[must_use]
pub fn of_change(change: &Change) -> Record {
    let (key, service) = (change.event.key(), change.event.service());
    Record {
        id: EventId::Change(change.seq.0),
        seq: change.seq,
        at: change.at,
        kind: change.event.kind(),
        namespace: service.map(|service| service.namespace.as_str().into()),
        service: service.map(|service| service.service.as_str().into()),
        instance: key.map(|key| key.instance.as_str().into()),
        caller: change.caller.as_deref().map(Into::into),
        trace: change.trace,
        cause: change.cause,
        data: codec::data_of(change).into(),
    }
}

/// A traffic event as a record.
#[must_use]
pub fn of_traffic(numbered: &Numbered) -> Record {
    let Numbered { number, traffic } = numbered;
    Record {
        id: EventId::Traffic(*number),
        seq: traffic.seen,
        at: traffic.at,
        kind: traffic.detail.kind(),
        namespace: traffic.namespace.as_ref().map(|name| name.as_str().into()),
        service: traffic.service.as_ref().map(|name| name.as_str().into()),
        instance: traffic.instance.as_ref().map(|name| name.as_str().into()),
        caller: Some((*traffic.caller).into()),
        trace: traffic.trace,
        cause: None,
        data: blocks::data_of(&traffic.detail).into(),
    }
}
