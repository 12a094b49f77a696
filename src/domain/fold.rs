//! Event by event, the state. Holds no rules, reads no clock and cannot fail: what is folded was
//! decided before, perhaps years ago by an older version.

use std::sync::Arc;

use super::event::{Change, Event, Outcome};
use super::health::Signals;
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
        Event::ModeChanged { key, from, to, until } => {
            let same = registry.instance(key).is_none_or(|i| from == to && i.drain_until == *until);
            if !same {
                modify(registry, key, change.seq, &mut before, |instance| {
                    (instance.mode, instance.drain_until) = (*to, *until);
                });
            }
        }
        Event::StatusChanged { key, from, to, signals, .. } if from == to => {
            signal(registry, key, *signals, &mut before);
        }
        Event::StatusChanged { key, to, signals, .. } => {
            modify(registry, key, change.seq, &mut before, |instance| {
                (instance.status, instance.signals) = (*to, *signals);
            });
        }
        Event::Deregistered { key, .. } | Event::Expired { key, .. } => {
            if registry.instance(key).is_some() {
                registry.set(key, None, change.seq, &mut before);
            }
        }
    }
    before
}

/// Notes signals that leave the status as it is: nothing that a lookup answers moves, and no revision does.
fn signal(registry: &mut Registry, key: &InstanceKey, signals: Signals, before: &mut PreImage) {
    let revision = registry.service(&key.service).map(|service| service.revision);
    if let (Some(instance), Some(revision)) = (registry.instance(key), revision) {
        let instance = Instance { signals, ..Instance::clone(instance) };
        registry.set(key, Some(Arc::new(instance)), revision, before);
    }
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
