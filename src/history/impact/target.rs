//! Which departure is asked about, and what the instance last said before it.

use std::ops::ControlFlow;

use serde::Deserialize;

use super::After;
use crate::domain::event::{Event, Kind};
use crate::domain::{Change, InstanceId, InstanceKey, Namespace, Seq, ServiceKey, ServiceName};
use crate::domain::{Timestamp, TraceRef};
use crate::history::archive::{Archive, Error, EventQuery, Order, Subject};
use crate::history::moment::Moment;
use crate::history::record::{EventId, Record};

/// Heartbeats read at once while the last one of a life is looked for.
const PAGE: usize = 16;

/// Which departure is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest one of this instance.
    Newest(InstanceKey),
    /// That of whoever left this service last without goodbye; in order, if nobody did without.
    NewestOf(ServiceKey),
    /// This event, which must be of those that are named.
    Event {
        /// Its number.
        seq: Seq,
        /// In this namespace.
        namespace: Option<Namespace>,
        /// Of this service.
        service: Option<ServiceName>,
        /// Of this instance.
        instance: Option<InstanceId>,
    },
}

/// Why there is nothing to look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No departure of the instance is in the log.
    NoDeparture,
    /// No such change is kept.
    UnknownEvent,
    /// The change is something else.
    NotADeparture(Kind),
    /// It is the departure of another instance than the one named.
    Another(InstanceKey),
}

/// What an instance last said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignOfLife {
    /// `heartbeat` or `registered`.
    pub kind: Kind,
    /// Its event.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// In which trace.
    pub trace: TraceRef,
}

/// The departure that is asked about.
pub(super) fn departure(
    archive: &dyn Archive,
    target: &Target,
) -> Result<Result<Change, Refusal>, Error> {
    let seq = match target {
        Target::Newest(key) => {
            let mut newest = None;
            for kind in [Kind::Expired, Kind::Deregistered] {
                newest = newest.max(newest_of(archive, about(key), kind)?);
            }
            match newest {
                Some(seq) => seq,
                None => return Ok(Err(Refusal::NoDeparture)),
            }
        }
        Target::NewestOf(service) => {
            let mut last = newest_of(archive, about_service(service), Kind::Expired)?;
            if last.is_none() {
                last = newest_of(archive, about_service(service), Kind::Deregistered)?;
            }
            match last {
                Some(seq) => seq,
                None => return Ok(Err(Refusal::NoDeparture)),
            }
        }
        Target::Event { seq, .. } => *seq,
    };
    let Some(change) = change(archive, seq)? else { return Ok(Err(Refusal::UnknownEvent)) };
    let kind = change.event.kind();
    let (Kind::Expired | Kind::Deregistered, Some(key)) = (kind, change.event.key()) else {
        return Ok(Err(Refusal::NotADeparture(kind)));
    };
    if let Target::Event { namespace, service, instance, .. } = target
        && (namespace.as_ref().is_some_and(|name| *name != key.service.namespace)
            || service.as_ref().is_some_and(|name| *name != key.service.service)
            || instance.as_ref().is_some_and(|name| *name != key.instance))
    {
        return Ok(Err(Refusal::Another(key.clone())));
    }
    Ok(Ok(change))
}

fn newest_of(archive: &dyn Archive, about: EventQuery, kind: Kind) -> Result<Option<Seq>, Error> {
    let page = archive.events(&EventQuery {
        limit: 1,
        order: Order::Descending,
        kind: Some(kind),
        ..about
    })?;
    Ok(page.events.first().map(|record| record.seq))
}

fn about(key: &InstanceKey) -> EventQuery {
    EventQuery { instance: Some(key.instance.clone()), ..about_service(&key.service) }
}

fn about_service(key: &ServiceKey) -> EventQuery {
    EventQuery {
        namespace: Some(key.namespace.clone()),
        service: Some(key.service.clone()),
        ..EventQuery::default()
    }
}

/// One change; none if it is not kept.
fn change(archive: &dyn Archive, seq: Seq) -> Result<Option<Change>, Error> {
    let mut found = None;
    archive.changes(Subject::All, seq..=seq, &mut |change| {
        found = Some(change);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Which life ended: what caused a departure is mostly the registration that began it. Where it is something else, such as
/// the end of a guard that had held the expiry back, the state before knows.
pub(super) fn life_of(
    archive: &dyn Archive,
    departure: &Change,
    key: &InstanceKey,
) -> Result<Seq, Error> {
    let cause = match departure.cause {
        Some(cause) => Some((cause, change(archive, cause)?)),
        None => None,
    };
    let before = Seq(departure.seq.0.saturating_sub(1));
    let service = match cause {
        Some((life, Some(Change { event: Event::Registered { .. }, .. }))) => return Ok(life),
        // Retention took it: only a registration is that much older than the departure.
        Some((life, None)) => return Ok(life),
        Some(_) | None => archive.service(&key.service, before)?.unwrap_or_default(),
    };
    let instance = service.instances.get(&key.instance);
    instance.map(|instance| instance.incarnation).ok_or_else(|| {
        Error::Unreadable(format!("{key} left with change {} and did not live", departure.seq))
    })
}

/// The last sign of life before `departure`, what is after it, and the version that it saw.
pub(super) fn last_sign_of_life(
    archive: &dyn Archive,
    departure: &Change,
    key: &InstanceKey,
    life: Seq,
) -> Result<(SignOfLife, After, Seq), Error> {
    let (registration, registered) = last_registration(archive, departure, key, life)?;
    let named = match &departure.event {
        Event::Expired { overdue, .. } => overdue.last_heartbeat,
        _ => None,
    };
    let heartbeat = match named {
        Some(heartbeat) => {
            let seen =
                archive.event_if_readable(EventId::Traffic(heartbeat.id))?.map(|event| event.seq);
            let id = EventId::Traffic(heartbeat.id);
            let (at, trace) = (heartbeat.at, heartbeat.trace);
            // Where the event itself has gone, only its time can say whether the registration came later.
            let seen = seen.unwrap_or(if at >= registration.at { registered } else { life });
            let sign = SignOfLife { kind: Kind::Heartbeat, id, at, trace };
            Some((sign, seen.max(life)))
        }
        None => newest_heartbeat(archive, departure.seq, key, life)?,
    };
    Ok(match heartbeat {
        Some((sign, seen)) if seen >= registered => {
            (sign, After::Heartbeat(sign.id.number()), seen)
        }
        _ => (registration, After::Registration(registered, registration.at), registered),
    })
}

/// The last registration of that life. Where retention has taken it, the state still knows when the life began.
fn last_registration(
    archive: &dyn Archive,
    departure: &Change,
    key: &InstanceKey,
    life: Seq,
) -> Result<(SignOfLife, Seq), Error> {
    let mut last: Option<Change> = None;
    archive.changes(Subject::Instance(key), life..=departure.seq, &mut |change| {
        if change.event.kind() == Kind::Registered {
            last = Some(change);
        }
        ControlFlow::Continue(())
    })?;
    let kind = Kind::Registered;
    if let Some(Change { seq, at, trace, .. }) = last {
        return Ok((SignOfLife { kind, id: EventId::Change(seq.0), at, trace }, seq));
    }
    let before = Seq(departure.seq.0.saturating_sub(1));
    let service = archive.service(&key.service, before)?.unwrap_or_default();
    let at = service.instances.get(&key.instance).map(|instance| instance.registered_at);
    let (at, trace) = (at.unwrap_or_default(), TraceRef::default());
    Ok((SignOfLife { kind, id: EventId::Change(life.0), at, trace }, life))
}

/// The newest heartbeat of that life in the traffic, and the version that it saw.
fn newest_heartbeat(
    archive: &dyn Archive,
    departure: Seq,
    key: &InstanceKey,
    life: Seq,
) -> Result<Option<(SignOfLife, Seq)>, Error> {
    let mut query = EventQuery {
        limit: PAGE,
        order: Order::Descending,
        kind: Some(Kind::Heartbeat),
        since: Some(Moment::Version(life)),
        until: Some(Moment::Version(Seq(departure.0.saturating_sub(1)))),
        ..about(key)
    };
    loop {
        let page = archive.events(&query)?;
        let own = |record: &&Record| incarnation_of(record) == Some(life);
        if let Some(Record { id, seq, at, trace, kind, .. }) = page.events.iter().find(own) {
            let sign = SignOfLife { kind: *kind, id: *id, at: *at, trace: *trace };
            return Ok(Some((sign, *seq)));
        }
        let Some(next) = page.next else { return Ok(None) };
        query.cursor = Some(next);
    }
}

/// Which life a heartbeat renewed.
fn incarnation_of(heartbeat: &Record) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Renewed {
        incarnation: u64,
    }
    serde_json::from_str(&heartbeat.data).ok().map(|Renewed { incarnation }| Seq(incarnation))
}
