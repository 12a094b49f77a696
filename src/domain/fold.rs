//! Event by event, the state. Holds no rules, reads no clock and cannot fail: what is folded was
//! decided before, perhaps years ago by an older version.

use std::sync::Arc;

use super::event::{Change, Event, Outcome};
use super::ids::{InstanceKey, Seq};
use super::instance::Instance;
use super::registry::{PreImage, Registry};

/// Folds `change` into `registry`; the answer takes it back.
///
/// An event about an instance that does not live changes nothing but the head:
/// [`super::invariants::check_change`] is what notices it.
pub fn fold(registry: &mut Registry, change: &Change) -> PreImage {
    let mut before = registry.advance(change.seq, change.at);
    match &change.event {
        Event::Registered { outcome: Outcome::Unchanged, .. }
        | Event::Updated { outcome: Outcome::Unchanged, .. }
        | Event::Note(_) => {}
        Event::Registered { instance, .. } | Event::Updated { instance, .. } => {
            registry.set(&instance.key, Some(Arc::clone(instance)), change.seq, &mut before);
        }
        Event::ModeChanged { from, to, .. } if from == to => {}
        Event::ModeChanged { key, to, .. } => {
            modify(registry, key, change.seq, &mut before, |instance| instance.mode = *to);
        }
        Event::StatusChanged { key, to, .. } => {
            modify(registry, key, change.seq, &mut before, |instance| instance.status = *to);
        }
        Event::Deregistered { key, .. } | Event::Expired { key, .. } => {
            if registry.instance(key).is_some() {
                registry.set(key, None, change.seq, &mut before);
            }
        }
    }
    before
}

fn modify(
    registry: &mut Registry,
    key: &InstanceKey,
    seq: Seq,
    before: &mut PreImage,
    edit: impl FnOnce(&mut Instance),
) {
    if let Some(instance) = registry.instance(key) {
        let mut instance = Instance::clone(instance);
        edit(&mut instance);
        instance.revision = seq;
        registry.set(key, Some(Arc::new(instance)), seq, before);
    }
}
