//! Changes as they are stored: columns for what is searched, JSON for the rest.
//!
//! The stored payload is a type of its own, apart from the domain's and from the API's, so that a renamed
//! field changes neither the disk nor the wire. What the view `events` and the API show as `data` is this
//! payload. Its version is [`FORMAT`]; payloads of every past version stay readable for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::row::{Columns, Row, checksum};
use crate::domain::check::{CheckKind, CheckMethod};
use crate::domain::event::{
    Accrual, Arithmetic, Class, Compacted, Event, GuardEnd, GuardEntered, GuardInputs, GuardLeft,
    Guarded, HeartbeatRef, Kind, LogGap, Note, Outcome, Recovered, StatusReason,
};
use crate::domain::health::{Evidence, Flaps, ProbeOutcome, ProbeVerdict};
use crate::domain::instance::{Endpoint, Health, Metadata, Mode, NO_TTL, Status};
use crate::domain::{
    Change, Check, Detector, Instance, InstanceId, InstanceKey, Millis, Namespace, Seq, ServiceKey,
    ServiceName, Signals, Timestamp, TraceRef,
};
use crate::rfc3339;

/// The newest version of payload. What needs nothing newer is written as the oldest that can say it, so that a log
/// without checks, guards and damping can be read by the programs of before.
pub const FORMAT: u32 = 2;

/// The version of payload of before there were checks.
const FORMAT_PLAIN: u32 = 1;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The checksum is not the one of the content.
    #[error("checksum {found:08x}, the content has {expected:08x}")]
    Checksum {
        /// Stored.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// Written by a newer version of the program.
    #[error("payload format {0} is newer than this program, which knows up to {FORMAT}")]
    Newer(u32),
    /// Not a payload of its kind.
    #[error("{0}")]
    Payload(String),
}

pub(super) fn payload(what: impl ToString) -> DecodeError {
    DecodeError::Payload(what.to_string())
}

/// An instance, stored: in events and in snapshots.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInstance {
    namespace: String,
    service: String,
    instance: String,
    incarnation: u64,
    address: Box<str>,
    port: u16,
    protocol: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Box<str>>,
    weight: u16,
    tags: Box<[Box<str>]>,
    metadata: BTreeMap<Box<str>, Box<str>>,
    mode: String,
    status: String,
    ttl: String,
    registered_at: String,
    revision: u64,
    // From format 2 on, and only where they say something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signals: Option<StoredSignals>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detector: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phi_threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<StoredCheck>,
}

#[derive(Serialize, Deserialize)]
struct StoredSignals {
    late: bool,
    reported_failing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<String>,
    flapping: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredCheck {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    path: Box<str>,
    method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expect: Option<Box<str>>,
    service: Box<str>,
    tls: bool,
    interval: String,
    timeout: String,
    initial_delay: String,
    failures: u32,
    passes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deregister_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_from: Option<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct StoredEvidence {
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    latency_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Box<str>>,
    in_a_row: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredFlaps {
    changes: u32,
    window: String,
}

#[derive(Serialize, Deserialize)]
struct StoredGuardEntered {
    late: u64,
    gone: u64,
    living: u64,
    limit: String,
}

#[derive(Serialize, Deserialize)]
struct StoredGuardLeft {
    reason: String,
    late: u64,
    gone: u64,
    living: u64,
    held_ms: u64,
    held: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredRegistered {
    outcome: String,
    instance: StoredInstance,
}

#[derive(Serialize, Deserialize)]
struct StoredUpdated {
    outcome: String,
    fields: Vec<String>,
    instance: StoredInstance,
}

#[derive(Serialize, Deserialize)]
struct StoredMode {
    from: String,
    to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredStatus {
    from: String,
    to: String,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signals: Option<StoredSignals>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<StoredEvidence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flaps: Option<StoredFlaps>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    overdue: Option<StoredOverdue>,
}

#[derive(Serialize, Deserialize)]
struct StoredDeregistered {
    #[serde(default)]
    reason: Option<Box<str>>,
}

/// A reference to a heartbeat, stored: in events and in snapshots.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredHeartbeat {
    at: String,
    id: String,
    trace_id: String,
    span_id: String,
}

#[derive(Serialize, Deserialize)]
struct StoredOverdue {
    last_heartbeat: Option<StoredHeartbeat>,
    ttl: String,
    gap_ms: u64,
    missed: u32,
    late_ms: u64,
    /// Left out where it is nothing, which it nearly always is.
    #[serde(default, skip_serializing_if = "is_zero")]
    grace_ms: u64,
    // From format 2 on, and only where φ decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phi: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean_gap_ms: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct StoredStarted {
    version: Box<str>,
    node: Box<str>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecovered {
    changes: u64,
    traffic: u64,
    instances: u64,
    services: u64,
    took_ms: u64,
    clean: bool,
    #[serde(default)]
    traffic_missing_from: Option<String>,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct StoredGap {
    from: String,
    until: String,
    lookups: u64,
    heartbeats: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredCompacted {
    class: String,
    first: String,
    last: String,
    from: String,
    until: String,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredCheckpoint {
    digest: String,
    instances: u64,
    services: u64,
}

/// Encodes a change as the row that `node` appends.
#[must_use]
pub fn encode(change: &Change, node: &str) -> Row {
    let (key, service) = (change.event.key(), change.event.service());
    let name = |name: Option<&str>| name.map(ToOwned::to_owned);
    let ids = change.trace.is_some().then_some(change.trace);
    let mut row = Row {
        seq: change.seq.0,
        at: change.at.micros(),
        kind: change.event.kind().as_str().to_owned(),
        namespace: name(service.map(|service| service.namespace.as_str())),
        service: name(service.map(|service| service.service.as_str())),
        instance: name(key.map(|key| key.instance.as_str())),
        caller: name(change.caller.as_deref()),
        trace_id: ids.map(|ids| ids.trace_id.to_vec()),
        span_id: ids.map(|ids| ids.span_id.to_vec()),
        cause: change.cause.map(|cause| cause.0),
        node: node.to_owned(),
        format: format_of(&change.event),
        data: encode_event(&change.event),
        checksum: 0,
    };
    row.checksum = row.expected_checksum();
    row
}

/// The payload of an event as JSON: its `data` in the API and in the view.
#[must_use]
pub fn encode_event(event: &Event) -> String {
    let encoded = match event {
        Event::Registered { outcome, instance } => serde_json::to_string(&StoredRegistered {
            outcome: outcome.to_string(),
            instance: store_instance(instance),
        }),
        Event::Updated { outcome, fields, instance } => serde_json::to_string(&StoredUpdated {
            outcome: outcome.to_string(),
            fields: fields.iter().map(ToString::to_string).collect(),
            instance: store_instance(instance),
        }),
        Event::ModeChanged { from, to, until, .. } => serde_json::to_string(&StoredMode {
            from: from.to_string(),
            to: to.to_string(),
            until: until.map(rfc3339::format),
        }),
        Event::StatusChanged {
            from, to, signals, reason, health, overdue, probe, flaps, ..
        } => serde_json::to_string(&StoredStatus {
            from: from.to_string(),
            to: to.to_string(),
            reason: reason.to_string(),
            health: health.map(|health| health.to_string()),
            signals: store_signals(*signals, *to),
            probe: probe.as_ref().map(store_evidence),
            flaps: flaps.map(|flaps| StoredFlaps {
                changes: flaps.changes,
                window: flaps.window.to_string(),
            }),
            overdue: overdue.as_ref().map(store_overdue),
        }),
        Event::Deregistered { reason, .. } => {
            serde_json::to_string(&StoredDeregistered { reason: reason.clone() })
        }
        Event::Expired { overdue, .. } => serde_json::to_string(&store_overdue(overdue)),
        Event::Note(Note::Started { version, node }) => {
            serde_json::to_string(&StoredStarted { version: version.clone(), node: node.clone() })
        }
        Event::Note(Note::Recovered(recovered)) => serde_json::to_string(&StoredRecovered {
            changes: recovered.changes,
            traffic: recovered.traffic,
            instances: recovered.instances,
            services: recovered.services,
            took_ms: recovered.took.millis(),
            clean: recovered.clean,
            traffic_missing_from: recovered.traffic_missing_from.map(rfc3339::format),
            digest: format!("{:016x}", recovered.digest),
        }),
        Event::Note(Note::LogGap(gap)) => serde_json::to_string(&StoredGap {
            from: rfc3339::format(gap.from),
            until: rfc3339::format(gap.until),
            lookups: gap.lookups,
            heartbeats: gap.heartbeats,
        }),
        Event::Note(Note::GuardEntered(entered)) => serde_json::to_string(&StoredGuardEntered {
            late: entered.inputs.late,
            gone: entered.inputs.gone,
            living: entered.inputs.living,
            limit: entered.limit.to_string(),
        }),
        Event::Note(Note::GuardLeft(left)) => serde_json::to_string(&StoredGuardLeft {
            reason: left.end.to_string(),
            late: left.inputs.late,
            gone: left.inputs.gone,
            living: left.inputs.living,
            held_ms: left.held_for.millis(),
            held: left.held,
        }),
        Event::Note(Note::Compacted(compacted)) => serde_json::to_string(&StoredCompacted {
            class: compacted.class.to_string(),
            first: event_id(compacted.class, compacted.first),
            last: event_id(compacted.class, compacted.last),
            from: rfc3339::format(compacted.from),
            until: rfc3339::format(compacted.until),
            bytes: compacted.bytes,
        }),
        Event::Note(Note::Checkpoint { digest, instances, services }) => {
            serde_json::to_string(&StoredCheckpoint {
                digest: format!("{digest:016x}"),
                instances: *instances,
                services: *services,
            })
        }
    };
    encoded.expect("these types hold nothing that JSON can't: string keys, no maps of other keys")
}

/// The oldest version of payload that can say all of `event`.
fn format_of(event: &Event) -> u32 {
    let plain = match event {
        Event::Registered { instance, .. } | Event::Updated { instance, .. } => is_plain(instance),
        Event::ModeChanged { until, .. } => until.is_none(),
        Event::StatusChanged { from, to, signals, probe, flaps, overdue, .. } => {
            from != to
                && *signals == Signals::implied_by(*to)
                && probe.is_none()
                && flaps.is_none()
                && overdue.is_none_or(|overdue| overdue.accrual.is_none())
        }
        Event::Expired { overdue, .. } => overdue.accrual.is_none(),
        Event::Deregistered { .. } => true,
        Event::Note(note) => !matches!(note, Note::GuardEntered(_) | Note::GuardLeft(_)),
    };
    if plain { FORMAT_PLAIN } else { FORMAT }
}

/// Whether an instance has nothing that came with format 2.
pub(super) fn is_plain(instance: &Instance) -> bool {
    instance.ttl.is_some()
        && instance.check.is_none()
        && instance.detector == Detector::Fixed
        && instance.drain_until.is_none()
        && instance.signals == Signals::implied_by(instance.status)
}

/// The id of an event, as the API writes it.
fn event_id(class: Class, number: u64) -> String {
    match class {
        Class::Changes => number.to_string(),
        Class::Traffic => format!("t{number}"),
    }
}

/// The number in an id that [`event_id`] wrote.
fn number_of(id: &str) -> Result<u64, DecodeError> {
    id.strip_prefix('t').unwrap_or(id).parse().map_err(payload)
}

pub(super) fn store_instance(instance: &Instance) -> StoredInstance {
    let text = |text: &str| Box::<str>::from(text);
    let phi = instance.detector.threshold();
    StoredInstance {
        namespace: instance.key.service.namespace.to_string(),
        service: instance.key.service.service.to_string(),
        instance: instance.key.instance.to_string(),
        incarnation: instance.incarnation.0,
        address: instance.endpoint.address.clone(),
        port: instance.endpoint.port,
        protocol: instance.endpoint.protocol.clone(),
        version: instance.version.clone(),
        zone: instance.zone.clone(),
        weight: instance.weight,
        tags: instance.tags.clone(),
        metadata: instance.metadata.iter().map(|(k, v)| (text(k), text(v))).collect(),
        mode: instance.mode.to_string(),
        status: instance.status.to_string(),
        ttl: instance.ttl_text(),
        registered_at: rfc3339::format(instance.registered_at),
        revision: instance.revision.0,
        drain_until: instance.drain_until.map(rfc3339::format),
        signals: store_signals(instance.signals, instance.status),
        detector: phi.map(|_| instance.detector.as_str().to_owned()),
        phi_threshold: phi,
        check: instance.check.as_deref().map(store_check),
    }
}

/// Signals, where they are not what the status alone tells.
fn store_signals(signals: Signals, status: Status) -> Option<StoredSignals> {
    let Signals { late, reported_failing, probe, flapping } = signals;
    let probe = probe.map(|verdict| verdict.to_string());
    let stored = StoredSignals { late, reported_failing, probe, flapping };
    (signals != Signals::implied_by(status)).then_some(stored)
}

fn store_check(check: &Check) -> StoredCheck {
    StoredCheck {
        kind: check.kind.to_string(),
        port: check.port,
        path: check.path.clone(),
        method: check.method.to_string(),
        expect: check.expect.clone(),
        service: check.service.clone(),
        tls: check.tls,
        interval: check.interval.to_string(),
        timeout: check.timeout.to_string(),
        initial_delay: check.initial_delay.to_string(),
        failures: check.failures,
        passes: check.passes,
        deregister_after: check.deregister_after.map(|after| after.to_string()),
        registered_from: check.registered_from,
    }
}

fn store_evidence(evidence: &Evidence) -> StoredEvidence {
    StoredEvidence {
        outcome: evidence.outcome.to_string(),
        status: evidence.status,
        latency_ms: evidence.latency.millis(),
        error: evidence.error.clone(),
        in_a_row: evidence.in_a_row,
    }
}

fn store_overdue(overdue: &Arithmetic) -> StoredOverdue {
    StoredOverdue {
        last_heartbeat: overdue.last_heartbeat.map(store_heartbeat),
        ttl: overdue.ttl.to_string(),
        gap_ms: overdue.gap.millis(),
        missed: overdue.missed,
        late_ms: overdue.late.millis(),
        grace_ms: overdue.grace.millis(),
        phi: overdue.accrual.map(Accrual::phi),
        threshold: overdue.accrual.map(Accrual::threshold),
        mean_gap_ms: overdue.accrual.map(|accrual| accrual.mean_gap.millis()),
    }
}

pub(super) fn store_heartbeat(heartbeat: HeartbeatRef) -> StoredHeartbeat {
    StoredHeartbeat {
        at: rfc3339::format(heartbeat.at),
        id: format!("t{}", heartbeat.id),
        trace_id: hex(&heartbeat.trace.trace_id),
        span_id: hex(&heartbeat.trace.span_id),
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// Reads `N` bytes of lower-case hexadecimal.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Decodes a row.
///
/// # Errors
/// [`DecodeError`]: the row is not what [`encode`] wrote.
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
        event: decode_event(row)?,
    })
}

fn decode_event(row: &Row) -> Result<Event, DecodeError> {
    fn read<'a, T: Deserialize<'a>>(row: &'a Row) -> Result<T, DecodeError> {
        serde_json::from_str(&row.data).map_err(payload)
    }
    let kind =
        Kind::parse(&row.kind).ok_or_else(|| payload(format!("unknown kind {:?}", row.kind)))?;
    Ok(match kind {
        Kind::Registered => {
            let stored: StoredRegistered = read(row)?;
            let outcome = word(Outcome::parse, &stored.outcome)?;
            Event::Registered { outcome, instance: Arc::new(load_instance(stored.instance)?) }
        }
        Kind::Updated => {
            let stored: StoredUpdated = read(row)?;
            const FIELDS: [&str; 5] = ["mode", "drain_until", "weight", "tags", "metadata"];
            let known = |field: &String| FIELDS.into_iter().find(|known| known == field);
            Event::Updated {
                outcome: word(Outcome::parse, &stored.outcome)?,
                fields: stored.fields.iter().filter_map(known).collect(),
                instance: Arc::new(load_instance(stored.instance)?),
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
        service: ServiceKey {
            namespace: Namespace::new(namespace).map_err(payload)?,
            service: ServiceName::new(service).map_err(payload)?,
        },
        instance: InstanceId::new(instance).map_err(payload)?,
    })
}

fn guarded(row: &Row) -> Result<Guarded, DecodeError> {
    match (&row.namespace, &row.service) {
        (Some(namespace), Some(service)) => Ok(Some(ServiceKey {
            namespace: Namespace::new(namespace).map_err(payload)?,
            service: ServiceName::new(service).map_err(payload)?,
        })),
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

pub(super) fn load_instance(stored: StoredInstance) -> Result<Instance, DecodeError> {
    let status = word(Status::parse, &stored.status)?;
    Ok(Instance {
        key: key(&stored.namespace, &stored.service, &stored.instance)?,
        incarnation: Seq(stored.incarnation),
        endpoint: Endpoint {
            address: stored.address,
            port: stored.port,
            protocol: stored.protocol,
        },
        version: stored.version,
        zone: stored.zone,
        weight: stored.weight,
        tags: stored.tags,
        metadata: stored.metadata.into_iter().collect::<Metadata>(),
        mode: word(Mode::parse, &stored.mode)?,
        drain_until: stored.drain_until.map(|text| instant(&text)).transpose()?,
        status,
        signals: load_signals(stored.signals.as_ref(), status)?,
        ttl: match stored.ttl.as_str() {
            NO_TTL => None,
            text => Some(Millis::parse(text).map_err(payload)?),
        },
        detector: load_detector(stored.detector.as_deref(), stored.phi_threshold)?,
        check: stored.check.map(load_check).transpose()?.map(Arc::new),
        registered_at: instant(&stored.registered_at)?,
        revision: Seq(stored.revision),
    })
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

pub(super) fn load_heartbeat(stored: &StoredHeartbeat) -> Result<HeartbeatRef, DecodeError> {
    let id = stored.id.strip_prefix('t').and_then(|id| id.parse().ok());
    Ok(HeartbeatRef {
        at: instant(&stored.at)?,
        id: id.ok_or_else(|| payload("the heartbeat's id is no traffic id"))?,
        trace: trace_of(&stored.trace_id, &stored.span_id)?,
    })
}

pub(super) fn trace_of(trace_id: &str, span_id: &str) -> Result<TraceRef, DecodeError> {
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
