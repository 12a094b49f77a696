//! Whether a command is accepted, and which event it makes. All rules are here.

use std::sync::Arc;

use super::command::{
    Command, Deregister, Heartbeat, MetadataPatch, Precondition, Register, Update,
};
use super::event::{Change, Event, Note, Outcome, Overdue, StatusReason};
use super::ids::{InstanceKey, Seq};
use super::instance::{Health, Instance, Metadata, Mode, Status};
use super::limits::{METADATA_KEYS_MAX, WEIGHT_DEFAULT};
use super::registry::Registry;
use super::time::Timestamp;

/// Why a command was refused. A value, not a failure: the caller is told, nothing is logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such service was ever registered.
    #[error("no service of this name was ever registered")]
    UnknownService,
    /// The service is known, the instance does not live.
    #[error("this instance is not registered")]
    UnknownInstance,
    /// The heartbeat is of another life of the instance.
    #[error("the instance that lives is incarnation {current}, the heartbeat is of {given}")]
    OtherIncarnation {
        /// The one that lives.
        current: Seq,
        /// The one that was given.
        given: Seq,
    },
    /// `if-none-match: *`, but the id is in use.
    #[error("the id is in use by incarnation {incarnation}")]
    InUse {
        /// The one that lives.
        incarnation: Seq,
    },
    /// `if-match`, but the instance has changed or left.
    #[error("the instance is not the one that the etag was given for")]
    Stale,
    /// The merge patch would leave too many metadata keys.
    #[error("metadata would have {was} keys, at most {METADATA_KEYS_MAX} are allowed")]
    TooMuchMetadata {
        /// Keys after the patch.
        was: usize,
    },
}

/// An accepted command: what happened, and what led to it. `None` of both means that the command was
/// right and changes nothing (a heartbeat that finds the status as it should be).
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The event.
    pub event: Event,
    /// The change that led to it.
    pub cause: Option<Seq>,
}

impl Decision {
    fn of(event: Event) -> Self {
        Self { event, cause: None }
    }

    fn caused_by(event: Event, cause: Seq) -> Self {
        Self { event, cause: Some(cause) }
    }

    /// The change that this decision becomes as the next one of `registry`.
    #[must_use]
    pub fn into_change(
        self,
        registry: &Registry,
        at: Timestamp,
        caller: Option<Arc<str>>,
        trace: super::ids::TraceRef,
    ) -> Change {
        Change {
            seq: registry.head().next(),
            at: at.max(registry.at()),
            caller,
            trace,
            cause: self.cause,
            event: self.event,
        }
    }
}

/// Decides `command` against `registry` at the instant `now`. The event, if there is one, is the next
/// change: its `seq` is the head's successor.
///
/// # Errors
/// A [`Rejection`]; nothing has happened then.
pub fn decide(
    registry: &Registry,
    command: &Command,
    now: Timestamp,
) -> Result<Option<Decision>, Rejection> {
    match command {
        Command::Register(register) => decide_register(registry, register, now).map(Some),
        Command::Update(update) => decide_update(registry, update).map(Some),
        Command::Deregister(deregister) => decide_deregister(registry, deregister).map(Some),
        Command::Heartbeat(heartbeat) => decide_heartbeat(registry, heartbeat),
        Command::MarkLate(overdue) => Ok(decide_late(registry, overdue)),
        Command::Expire(overdue) => Ok(decide_expire(registry, overdue)),
        Command::Note(note) => Ok(Some(Decision::of(Event::Note(note.clone())))),
        Command::Checkpoint => Ok(Some(Decision::of(Event::Note(Note::Checkpoint {
            digest: registry.digest(),
            instances: registry.instance_count() as u64,
            services: registry.service_count() as u64,
        })))),
    }
}

/// The living instance, if the precondition holds of it.
fn require<'a>(
    registry: &'a Registry,
    key: &InstanceKey,
    precondition: Precondition,
) -> Result<&'a Arc<Instance>, Rejection> {
    let living = registry.instance(key);
    check(precondition, living)?;
    living.ok_or_else(|| match registry.service(&key.service) {
        Some(_) => Rejection::UnknownInstance,
        None => Rejection::UnknownService,
    })
}

fn check(precondition: Precondition, living: Option<&Arc<Instance>>) -> Result<(), Rejection> {
    match (precondition, living) {
        (Precondition::None, _) | (Precondition::Free, None) | (Precondition::Present, Some(_)) => {
            Ok(())
        }
        (Precondition::Free, Some(living)) => {
            Err(Rejection::InUse { incarnation: living.incarnation })
        }
        (Precondition::Revision(Some(revision)), Some(living)) if living.revision == revision => {
            Ok(())
        }
        (Precondition::Present | Precondition::Revision(_), _) => Err(Rejection::Stale),
    }
}

fn decide_register(
    registry: &Registry,
    register: &Register,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let living = registry.instance(&register.key);
    check(register.precondition, living)?;
    let seq = registry.head().next();
    // Another address or port is another process: a new life, which has said nothing of itself yet.
    let same_life = living.filter(|living| {
        living.endpoint.address == register.endpoint.address
            && living.endpoint.port == register.endpoint.port
    });
    let status = match same_life.map(|living| living.status) {
        Some(Status::Failed) => Status::Failed,
        Some(Status::Healthy | Status::Unstable) | None => Status::Healthy,
    };
    let candidate = Instance {
        key: register.key.clone(),
        incarnation: same_life.map_or(seq, |living| living.incarnation),
        endpoint: register.endpoint.clone(),
        version: register.version.clone(),
        zone: register.zone.clone(),
        weight: register.weight.or(living.map(|l| l.weight)).unwrap_or(WEIGHT_DEFAULT),
        tags: register.tags.clone(),
        metadata: register.metadata.clone(),
        mode: register.mode.or(living.map(|l| l.mode)).unwrap_or(Mode::Active),
        status,
        ttl: register.ttl,
        registered_at: same_life.map_or(now.max(registry.at()), |living| living.registered_at),
        revision: living.map_or(seq, |living| living.revision),
    };
    Ok(Decision::of(match living {
        None => Event::Registered { outcome: Outcome::Created, instance: Arc::new(candidate) },
        Some(living) if **living == candidate => {
            Event::Registered { outcome: Outcome::Unchanged, instance: Arc::clone(living) }
        }
        Some(_) => {
            let instance = Arc::new(Instance { revision: seq, ..candidate });
            Event::Registered { outcome: Outcome::Replaced, instance }
        }
    }))
}

fn decide_update(registry: &Registry, update: &Update) -> Result<Decision, Rejection> {
    let living = require(registry, &update.key, update.precondition)?;
    if let Update { mode: Some(to), weight: None, tags: None, metadata: None, .. } = update {
        let key = living.key.clone();
        return Ok(Decision::of(Event::ModeChanged { key, from: living.mode, to: *to }));
    }
    let mut next = Instance::clone(living);
    next.mode = update.mode.unwrap_or(next.mode);
    next.weight = update.weight.unwrap_or(next.weight);
    next.tags = update.tags.clone().unwrap_or(next.tags);
    next.metadata = match &update.metadata {
        None => next.metadata,
        Some(MetadataPatch::Clear) => Metadata::default(),
        Some(MetadataPatch::Merge(patch)) => next.metadata.patched(patch),
    };
    if next.metadata.len() > METADATA_KEYS_MAX {
        return Err(Rejection::TooMuchMetadata { was: next.metadata.len() });
    }
    let fields: Vec<&'static str> = [
        ("mode", next.mode != living.mode),
        ("weight", next.weight != living.weight),
        ("tags", next.tags != living.tags),
        ("metadata", next.metadata != living.metadata),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect();
    Ok(Decision::of(if fields.is_empty() {
        Event::Updated { outcome: Outcome::Unchanged, fields, instance: Arc::clone(living) }
    } else {
        next.revision = registry.head().next();
        Event::Updated { outcome: Outcome::Replaced, fields, instance: Arc::new(next) }
    }))
}

fn decide_deregister(registry: &Registry, deregister: &Deregister) -> Result<Decision, Rejection> {
    let living = require(registry, &deregister.key, deregister.precondition)?;
    let event = Event::Deregistered { key: living.key.clone(), reason: deregister.reason.clone() };
    Ok(Decision::caused_by(event, living.incarnation))
}

fn decide_heartbeat(
    registry: &Registry,
    heartbeat: &Heartbeat,
) -> Result<Option<Decision>, Rejection> {
    let living = require(registry, &heartbeat.key, Precondition::None)?;
    if let Some(given) = heartbeat.incarnation
        && given != living.incarnation
    {
        return Err(Rejection::OtherIncarnation { current: living.incarnation, given });
    }
    let (to, reason) = match (heartbeat.health, living.status) {
        (Some(Health::Failing), _) => (Status::Failed, StatusReason::SelfReport),
        (Some(Health::Passing), Status::Failed) => (Status::Healthy, StatusReason::SelfReport),
        (None, Status::Failed) => (Status::Failed, StatusReason::SelfReport),
        (_, Status::Healthy | Status::Unstable) => (Status::Healthy, StatusReason::Recovery),
    };
    Ok(status_changed(living, to, reason, |event| {
        if let Event::StatusChanged { health, .. } = event {
            *health = heartbeat.health;
        }
    }))
}

fn decide_late(registry: &Registry, overdue: &Overdue) -> Option<Decision> {
    let living = overdue_instance(registry, overdue)?;
    if living.status != Status::Healthy {
        return None;
    }
    status_changed(living, Status::Unstable, StatusReason::LateHeartbeat, |event| {
        if let Event::StatusChanged { overdue: arithmetic, .. } = event {
            *arithmetic = Some(overdue.arithmetic);
        }
    })
}

fn decide_expire(registry: &Registry, overdue: &Overdue) -> Option<Decision> {
    let living = overdue_instance(registry, overdue)?;
    let event = Event::Expired { key: living.key.clone(), overdue: overdue.arithmetic };
    Some(Decision::caused_by(event, living.incarnation))
}

fn overdue_instance<'a>(registry: &'a Registry, overdue: &Overdue) -> Option<&'a Arc<Instance>> {
    registry.instance(&overdue.key).filter(|living| living.incarnation == overdue.incarnation)
}

fn status_changed(
    living: &Instance,
    to: Status,
    reason: StatusReason,
    complete: impl FnOnce(&mut Event),
) -> Option<Decision> {
    if living.status == to {
        return None;
    }
    let mut event = Event::StatusChanged {
        key: living.key.clone(),
        from: living.status,
        to,
        reason,
        health: None,
        overdue: None,
    };
    complete(&mut event);
    Some(Decision::caused_by(event, living.incarnation))
}
