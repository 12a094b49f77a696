//! Payloads back into events. Every text in a row comes from a disk: nothing of it is believed before it was checked, and
//! what is wrong is named. Called by whoever reads the log.

use std::sync::Arc;

use serde::Deserialize;

use super::stored::{
    StoredCheck, StoredCheckpoint, StoredCompacted, StoredDeregistered, StoredEvidence,
    StoredFlaps, StoredGap, StoredGuardEntered, StoredGuardLeft, StoredHeartbeat, StoredInstance,
    StoredMode, StoredOverdue, StoredRecovered, StoredRegistered, StoredSignals, StoredStarted,
    StoredStatus, StoredUpdated,
};
use super::{DecodeError, FORMAT, FORMAT_CHECKS, Row, payload, unhex};
use crate::domain::check::{CheckKind, CheckMethod};
use crate::domain::event::{
    Accrual, Arithmetic, Class, Compacted, Event, GuardEnd, GuardEntered, GuardInputs, GuardLeft,
    Guarded, HeartbeatRef, Kind, LogGap, Note, Outcome, Recovered, StatusReason,
};
use crate::domain::health::{Evidence, Flaps, ProbeOutcome, ProbeVerdict};
use crate::domain::instance::{Endpoint, Health, Mode, NO_TTL, Status};
use crate::domain::{
    Baggage, Change, Check, Detector, Instance, InstanceId, InstanceKey, Labels, Millis, Namespace,
    Seq, ServiceKey, ServiceName, Signals, Timestamp, TraceRef,
};
use crate::log::baggage::{self, StoredBaggage};
use crate::rfc3339;
/// Decodes a row.
///
/// # Errors
/// [`DecodeError`]: the row is not what `encode` wrote.
pub fn decode(row: &Row) -> Result<Change, DecodeError> {
    let expected = row.expected_checksum();
    if row.checksum != expected {
        return Err(DecodeError::Checksum { found: row.checksum, expected });
    }
    if row.format > FORMAT {
        return Err(DecodeError::Newer(row.format));
    }
    let trace = match (&row.trace_id, &row.span_id) {
        (Some(trace_id), Some(span_id)) => TraceRef {
            trace_id: trace_id.as_slice().try_into().map_err(payload)?,
            span_id: span_id.as_slice().try_into().map_err(payload)?,
        },
        _ => TraceRef::default(),
    };
    Ok(Change {
        seq: Seq(row.seq),
        at: Timestamp(row.at),
        caller: row.caller.as_deref().map(Arc::from),
        trace,
        cause: row.cause.map(Seq),
        baggage: baggage_of(row)?,
        event: decode_event(row)?,
    })
}

/// What the payload has of baggage. Only a format that may have some is looked at for it.
fn baggage_of(row: &Row) -> Result<Option<Arc<Baggage>>, DecodeError> {
    #[derive(Deserialize)]
    struct Beside {
        baggage: Option<StoredBaggage>,
    }
    if row.format <= FORMAT_CHECKS {
        return Ok(None);
    }
    let beside: Beside = serde_json::from_str(&row.data).map_err(payload)?;
    Ok(baggage::load(beside.baggage))
}

fn decode_event(row: &Row) -> Result<Event, DecodeError> {
    fn read<'a, T: Deserialize<'a>>(row: &'a Row) -> Result<T, DecodeError> {
        serde_json::from_str(&row.data).map_err(payload)
    }
    let kind =
        Kind::parse(&row.kind).ok_or_else(|| payload(format!("unknown kind {:?}", row.kind)))?;
    Ok(match kind {
        Kind::Registered => {
            let stored: StoredRegistered<'_> = read(row)?;
            let outcome = word(Outcome::parse, &stored.outcome)?;
            Event::Registered { outcome, instance: Arc::new(load_instance(stored.instance, None)?) }
        }
        Kind::Updated => {
            let stored: StoredUpdated<'_> = read(row)?;
            const FIELDS: [&str; 5] = ["mode", "drain_until", "weight", "tags", "metadata"];
            let known = |field: &String| FIELDS.into_iter().find(|known| known == field);
            Event::Updated {
                outcome: word(Outcome::parse, &stored.outcome)?,
                fields: stored.fields.iter().filter_map(known).collect(),
                instance: Arc::new(load_instance(stored.instance, None)?),
            }
        }
        Kind::ModeChanged => {
            let stored: StoredMode = read(row)?;
            Event::ModeChanged {
                key: key_of(row)?,
                from: word(Mode::parse, &stored.from)?,
                to: word(Mode::parse, &stored.to)?,
                until: stored.until.map(|text| instant(&text)).transpose()?,
            }
        }
        Kind::StatusChanged | Kind::SignalsChanged => {
            let stored: StoredStatus = read(row)?;
            let to = word(Status::parse, &stored.to)?;
            Event::StatusChanged {
                key: key_of(row)?,
                from: word(Status::parse, &stored.from)?,
                to,
                signals: load_signals(stored.signals.as_ref(), to)?,
                reason: word(StatusReason::parse, &stored.reason)?,
                health: stored.health.map(|health| word(Health::parse, &health)).transpose()?,
                overdue: stored.overdue.map(load_overdue).transpose()?,
                probe: stored.probe.map(load_evidence).transpose()?,
                flaps: stored.flaps.map(load_flaps).transpose()?,
            }
        }
        Kind::Deregistered => {
            let stored: StoredDeregistered = read(row)?;
            Event::Deregistered { key: key_of(row)?, reason: stored.reason }
        }
        Kind::Expired => Event::Expired { key: key_of(row)?, overdue: load_overdue(read(row)?)? },
        Kind::Started => {
            let StoredStarted { version, node } = read(row)?;
            Event::Note(Note::Started { version, node })
        }
        Kind::Recovered => {
            let stored: StoredRecovered = read(row)?;
            Event::Note(Note::Recovered(Recovered {
                changes: stored.changes,
                traffic: stored.traffic,
                instances: stored.instances,
                services: stored.services,
                took: Millis::from_millis(stored.took_ms),
                clean: stored.clean,
                traffic_missing_from: stored
                    .traffic_missing_from
                    .map(|text| instant(&text))
                    .transpose()?,
                digest: digest(&stored.digest)?,
            }))
        }
        Kind::LogGap => {
            let stored: StoredGap = read(row)?;
            Event::Note(Note::LogGap(LogGap {
                from: instant(&stored.from)?,
                until: instant(&stored.until)?,
                lookups: stored.lookups,
                heartbeats: stored.heartbeats,
            }))
        }
        Kind::Checkpoint => {
            let stored: StoredCheckpoint = read(row)?;
            Event::Note(Note::Checkpoint {
                digest: digest(&stored.digest)?,
                instances: stored.instances,
                services: stored.services,
            })
        }
        Kind::GuardEntered => {
            let stored: StoredGuardEntered = read(row)?;
            let StoredGuardEntered { late, gone, living, limit } = stored;
            Event::Note(Note::GuardEntered(GuardEntered {
                over: guarded(row)?,
                inputs: GuardInputs { late, gone, living },
                limit: Millis::parse(&limit).map_err(payload)?,
            }))
        }
        Kind::GuardLeft => {
            let stored: StoredGuardLeft = read(row)?;
            let StoredGuardLeft { late, gone, living, held_ms, held, .. } = stored;
            Event::Note(Note::GuardLeft(GuardLeft {
                over: guarded(row)?,
                inputs: GuardInputs { late, gone, living },
                end: word(GuardEnd::parse, &stored.reason)?,
                held_for: Millis::from_millis(held_ms),
                held,
            }))
        }
        Kind::Compacted => {
            let stored: StoredCompacted = read(row)?;
            Event::Note(Note::Compacted(Compacted {
                class: word(Class::parse, &stored.class)?,
                first: number_of(&stored.first)?,
                last: number_of(&stored.last)?,
                from: instant(&stored.from)?,
                until: instant(&stored.until)?,
                bytes: stored.bytes,
            }))
        }
        Kind::Heartbeat | Kind::Lookup | Kind::WatchOpened | Kind::WatchClosed | Kind::Notified => {
            return Err(payload(format!("{kind} is traffic, not a change")));
        }
    })
}

/// The number in an id that [`super::write::encode`] wrote.
fn number_of(id: &str) -> Result<u64, DecodeError> {
    id.strip_prefix('t').unwrap_or(id).parse().map_err(payload)
}

fn word<T>(parse: impl Fn(&str) -> Option<T>, text: &str) -> Result<T, DecodeError> {
    parse(text).ok_or_else(|| payload(format!("unknown word {text:?}")))
}

fn instant(text: &str) -> Result<Timestamp, DecodeError> {
    rfc3339::parse(text).ok_or_else(|| payload(format!("not an instant: {text:?}")))
}

fn digest(text: &str) -> Result<u64, DecodeError> {
    u64::from_str_radix(text, 16).map_err(payload)
}

fn key(namespace: &str, service: &str, instance: &str) -> Result<InstanceKey, DecodeError> {
    Ok(InstanceKey {
        service: service_key(namespace, service)?,
        instance: InstanceId::new(instance).map_err(payload)?,
    })
}

fn service_key(namespace: &str, service: &str) -> Result<ServiceKey, DecodeError> {
    Ok(ServiceKey {
        namespace: Namespace::new(namespace).map_err(payload)?,
        service: ServiceName::new(service).map_err(payload)?,
    })
}

fn guarded(row: &Row) -> Result<Guarded, DecodeError> {
    match (&row.namespace, &row.service) {
        (Some(namespace), Some(service)) => service_key(namespace, service).map(Some),
        (None, None) => Ok(None),
        _ => Err(payload("half of the service's name is missing")),
    }
}

fn key_of(row: &Row) -> Result<InstanceKey, DecodeError> {
    match (&row.namespace, &row.service, &row.instance) {
        (Some(namespace), Some(service), Some(instance)) => key(namespace, service, instance),
        _ => Err(payload("the names of the instance are missing")),
    }
}

/// The instance of a payload. Texts that `near` has too, which stands beside it, are taken from there.
pub(in crate::log) fn load_instance(
    stored: StoredInstance<'_>,
    near: Option<&Instance>,
) -> Result<Instance, DecodeError> {
    let status = word(Status::parse, &stored.status)?;
    let service = near.map(|near| &near.key.service).filter(|service| {
        (service.service.as_str(), service.namespace.as_str())
            == (&*stored.service, &*stored.namespace)
    });
    let service = match service {
        Some(service) => service.clone(),
        None => service_key(&stored.namespace, &stored.service)?,
    };
    let mut instance = Instance {
        key: InstanceKey { service, instance: InstanceId::new(&stored.instance).map_err(payload)? },
        incarnation: Seq(stored.incarnation),
        endpoint: Endpoint {
            address: stored.address.as_ref().into(),
            port: stored.port,
            protocol: stored.protocol.as_ref().into(),
        },
        labels: Labels::from_sorted(
            stored.version.as_deref(),
            stored.zone.as_deref(),
            stored.tags.iter().map(AsRef::as_ref),
            stored.metadata.iter(),
        ),
        weight: stored.weight,
        mode: word(Mode::parse, &stored.mode)?,
        drain_until: stored.drain_until.map(|text| instant(&text)).transpose()?,
        status,
        signals: load_signals(stored.signals.as_ref(), status)?,
        ttl: match &*stored.ttl {
            NO_TTL => None,
            text => Some(Millis::parse(text).map_err(payload)?),
        },
        detector: load_detector(stored.detector.as_deref(), stored.phi_threshold)?,
        check: stored.check.map(load_check).transpose()?.map(Arc::new),
        registered_at: instant(&stored.registered_at)?,
        revision: Seq(stored.revision),
    };
    if let Some(near) = near {
        instance.share(near);
    }
    Ok(instance)
}

fn load_signals(stored: Option<&StoredSignals>, status: Status) -> Result<Signals, DecodeError> {
    let Some(stored) = stored else { return Ok(Signals::implied_by(status)) };
    let probe = stored.probe.as_deref().map(|verdict| word(ProbeVerdict::parse, verdict));
    Ok(Signals {
        late: stored.late,
        reported_failing: stored.reported_failing,
        probe: probe.transpose()?,
        flapping: stored.flapping,
    })
}

fn load_detector(name: Option<&str>, threshold: Option<f64>) -> Result<Detector, DecodeError> {
    match (name, threshold) {
        (None | Some("fixed"), _) => Ok(Detector::Fixed),
        (Some("phi"), Some(threshold)) => {
            Detector::phi(threshold).ok_or_else(|| payload("the threshold of φ is out of bounds"))
        }
        (Some(name), _) => Err(payload(format!("unknown detector {name:?}"))),
    }
}

fn load_check(stored: StoredCheck) -> Result<Check, DecodeError> {
    let length = |text: &str| Millis::parse(text).map_err(payload);
    Ok(Check {
        kind: word(CheckKind::parse, &stored.kind)?,
        port: stored.port,
        path: stored.path,
        method: word(CheckMethod::parse, &stored.method)?,
        expect: stored.expect,
        service: stored.service,
        tls: stored.tls,
        interval: length(&stored.interval)?,
        timeout: length(&stored.timeout)?,
        initial_delay: length(&stored.initial_delay)?,
        failures: stored.failures,
        passes: stored.passes,
        deregister_after: stored.deregister_after.as_deref().map(length).transpose()?,
        registered_from: stored.registered_from,
    })
}

fn load_evidence(stored: StoredEvidence) -> Result<Evidence, DecodeError> {
    Ok(Evidence {
        outcome: word(ProbeOutcome::parse, &stored.outcome)?,
        status: stored.status,
        latency: Millis::from_millis(stored.latency_ms),
        error: stored.error,
        in_a_row: stored.in_a_row,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "like its neighbours, for `map`")]
fn load_flaps(stored: StoredFlaps) -> Result<Flaps, DecodeError> {
    let window = Millis::parse(&stored.window).map_err(payload)?;
    Ok(Flaps { changes: stored.changes, window })
}

pub(in crate::log) fn load_heartbeat<T: AsRef<str>>(
    stored: &StoredHeartbeat<T>,
) -> Result<HeartbeatRef, DecodeError> {
    let id = stored.id.as_ref().strip_prefix('t').and_then(|id| id.parse().ok());
    Ok(HeartbeatRef {
        at: instant(stored.at.as_ref())?,
        id: id.ok_or_else(|| payload("the heartbeat's id is no traffic id"))?,
        trace: trace_of(stored.trace_id.as_ref(), stored.span_id.as_ref())?,
    })
}

pub(in crate::log) fn trace_of(trace_id: &str, span_id: &str) -> Result<TraceRef, DecodeError> {
    let ids = unhex(trace_id).zip(unhex(span_id));
    let (trace_id, span_id) = ids.ok_or_else(|| payload("a trace is no hexadecimal"))?;
    Ok(TraceRef { trace_id, span_id })
}

/// A number in thousandths; none if it is no number of them.
fn thousandths(number: f64) -> Option<u32> {
    let milli = (number * 1_000.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number within the bounds"
    )]
    (0.0..=f64::from(u32::MAX)).contains(&milli).then_some(milli as u32)
}

fn load_accrual(stored: &StoredOverdue) -> Result<Option<Accrual>, DecodeError> {
    let (Some(phi), Some(threshold), Some(mean_gap)) =
        (stored.phi, stored.threshold, stored.mean_gap_ms)
    else {
        return Ok(None);
    };
    let (phi_milli, threshold_milli) = thousandths(phi)
        .zip(thousandths(threshold))
        .ok_or_else(|| payload("φ or its threshold is out of bounds"))?;
    let mean_gap = Millis::from_millis(mean_gap);
    Ok(Some(Accrual { phi_milli, threshold_milli, mean_gap }))
}

fn load_overdue(stored: StoredOverdue) -> Result<Arithmetic, DecodeError> {
    let accrual = load_accrual(&stored)?;
    Ok(Arithmetic {
        accrual,
        last_heartbeat: stored.last_heartbeat.as_ref().map(load_heartbeat).transpose()?,
        ttl: Millis::parse(&stored.ttl).map_err(payload)?,
        gap: Millis::from_millis(stored.gap_ms),
        missed: stored.missed,
        late: Millis::from_millis(stored.late_ms),
        grace: Millis::from_millis(stored.grace_ms),
    })
}
