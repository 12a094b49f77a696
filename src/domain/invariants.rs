//! What must always hold. Shared by the property tests, replay and `rollcall verify`.

use std::collections::BTreeMap;

use super::event::{Change, Event, Outcome};
use super::ids::Seq;
use super::registry::Registry;

/// A rule that does not hold, in words for the one who reads the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(what())) }
}

/// Checks that `change` can follow the state `registry`, before it is folded.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check_change(registry: &Registry, change: &Change) -> Result<(), Violation> {
    let (seq, expected) = (change.seq, registry.head().next());
    ensure(seq == expected, || format!("change {seq} stands where {expected} is due"))?;
    ensure(change.at >= registry.at(), || format!("change {seq} is older than the one before it"))?;
    if let Some(cause) = change.cause {
        ensure(cause < seq, || {
            format!("change {seq} names {cause}, which is not before it, as its cause")
        })?;
    }
    let living = change.event.key().and_then(|key| registry.instance(key));
    match &change.event {
        Event::Registered { outcome, instance } => {
            let fits = match outcome {
                Outcome::Created => {
                    living.is_none() && instance.incarnation == seq && instance.revision == seq
                }
                Outcome::Replaced => living.is_some() && instance.revision == seq,
                Outcome::Unchanged => living == Some(instance),
            };
            ensure(fits, || {
                format!(
                    "change {seq}: a registration that is {outcome} does not fit the state before it"
                )
            })
        }
        Event::Updated { outcome, instance, .. } => {
            let fits = match outcome {
                Outcome::Created => false,
                Outcome::Replaced => {
                    living.is_some_and(|l| l.incarnation == instance.incarnation)
                        && instance.revision == seq
                }
                Outcome::Unchanged => living == Some(instance),
            };
            ensure(fits, || {
                format!(
                    "change {seq}: an update that is {outcome} does not fit the state before it"
                )
            })
        }
        Event::ModeChanged { from, .. } => ensure(living.is_some_and(|l| l.mode == *from), || {
            format!("change {seq}: the instance was not in mode {from}")
        }),
        Event::StatusChanged { from, to, signals, .. } => {
            ensure(living.is_some_and(|l| l.status == *from), || {
                format!("change {seq}: the instance was not {from}")
            })?;
            ensure(signals.status() == *to, || {
                format!("change {seq}: {to} does not follow from what speaks for and against it")
            })
        }
        Event::Deregistered { .. } | Event::Expired { .. } => {
            ensure(living.is_some(), || format!("change {seq}: an instance left that did not live"))
        }
        Event::Note(super::event::Note::Checkpoint { digest, instances, services }) => ensure(
            *digest == registry.digest()
                && *instances == registry.instance_count() as u64
                && *services == registry.service_count() as u64,
            || {
                format!(
                    "change {seq}: the checkpoint says {instances} instances in {services} services with digest {digest:016x}, folding gives {} in {} with {:016x}",
                    registry.instance_count(),
                    registry.service_count(),
                    registry.digest()
                )
            },
        ),
        Event::Note(_) => Ok(()),
    }
}

/// Checks the whole state.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check_registry(registry: &Registry) -> Result<(), Violation> {
    let head = registry.head();
    let mut count = 0;
    let mut namespaces = BTreeMap::new();
    for (key, service) in registry.services() {
        *namespaces.entry(&key.namespace).or_insert(0) += service.instances.len();
        ensure(service.revision > Seq::ZERO && service.revision <= head, || {
            format!("service {key} has revision {} at head {head}", service.revision)
        })?;
        let mut before = None;
        for instance in service.instances.values() {
            count += 1;
            let id = &instance.key.instance;
            ensure(&instance.key.service == key && before < Some(id), || {
                format!("instance {} stands under {key}, or not in its place", instance.key)
            })?;
            before = Some(id);
            ensure(instance.signals.status() == instance.status, || {
                format!("instance {}: its status does not follow from its signals", instance.key)
            })?;
            ensure(
                instance.incarnation <= instance.revision && instance.revision <= service.revision,
                || {
                    format!(
                        "instance {}: incarnation ≤ revision ≤ its service's revision does not hold",
                        instance.key
                    )
                },
            )?;
        }
    }
    for (namespace, living) in namespaces {
        ensure(living == registry.instances_in(namespace), || {
            format!(
                "{living} instances live in {namespace}, {} are counted",
                registry.instances_in(namespace)
            )
        })?;
    }
    ensure(count == registry.instance_count(), || {
        format!(
            "{count} instances stand in the services, {} are counted",
            registry.instance_count()
        )
    })
}
