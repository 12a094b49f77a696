//! The body of the answer to a heartbeat. It says nothing that only one instance has, so that a fleet shares a handful of
//! texts, and each thread keeps those that it met: an answer then costs neither formatting nor memory. Called by
//! whatever answers one heartbeat.

use std::cell::RefCell;

use bytes::Bytes;

use super::wire;
use crate::domain::{Instance, Millis, Mode, Status};

/// Most texts that a thread keeps; every ttl makes others.
const KEPT_MAX: usize = 16;

/// What the text depends on.
type Form = (Status, Mode, Option<Millis>);

thread_local! {
    static KEPT: RefCell<Vec<(Form, Bytes)>> = const { RefCell::new(Vec::new()) };
}

/// The text for this instance.
pub(super) fn text(instance: &Instance) -> Bytes {
    let form = (instance.status, instance.mode, instance.ttl);
    KEPT.with_borrow_mut(|kept| {
        if let Some((_, text)) = kept.iter().find(|(known, _)| *known == form) {
            return text.clone();
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let text = wire::json(&wire::Renewed::of(instance));
        kept.push((form, text.clone()));
        text
    })
}
