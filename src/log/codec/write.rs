//! Events into payloads. Called by whoever appends, shows or exports changes.

use super::stored::{
    StoredCheck, StoredCheckpoint, StoredCompacted, StoredDeregistered, StoredEvidence,
    StoredFlaps, StoredGap, StoredGuardEntered, StoredGuardLeft, StoredHeartbeat, StoredInstance,
    StoredMode, StoredOverdue, StoredRecovered, StoredRegistered, StoredSignals, StoredStarted,
    StoredStatus, StoredUpdated,
};
use super::{FORMAT, FORMAT_CHECKS, FORMAT_PLAIN, Row, hex};
use crate::domain::event::{Accrual, Arithmetic, Class, Event, HeartbeatRef, Note};
use crate::domain::health::Evidence;
use crate::domain::{Change, Check, Detector, Instance, Signals, Status};
use crate::log::baggage;
use crate::rfc3339;
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
        format: format_of(change),
        data: data_of(change),
        checksum: 0,
    };
    row.checksum = row.expected_checksum();
    row
}

/// The payload of a change as JSON: its `data` in the API and in the view.
#[must_use]
pub fn data_of(change: &Change) -> String {
    let mut data = encode_event(&change.event);
    if let Some(baggage) = &change.baggage {
        baggage::put(&mut data, baggage);
    }
    data
}

/// The payload of an event alone, without what its request brought along.
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

/// The oldest version of payload that can say all of `change`.
fn format_of(change: &Change) -> u32 {
    if change.baggage.is_some() {
        return FORMAT;
    }
    let plain = match &change.event {
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
    if plain { FORMAT_PLAIN } else { FORMAT_CHECKS }
}

/// Whether an instance has nothing that came with format 2.
pub(in crate::log) fn is_plain(instance: &Instance) -> bool {
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

pub(in crate::log) fn store_instance(instance: &Instance) -> StoredInstance<'_> {
    let phi = instance.detector.threshold();
    let labels = &instance.labels;
    StoredInstance {
        namespace: instance.key.service.namespace.as_str().into(),
        service: instance.key.service.service.as_str().into(),
        instance: instance.key.instance.as_str().into(),
        incarnation: instance.incarnation.0,
        address: instance.endpoint.address.as_str().into(),
        port: instance.endpoint.port,
        protocol: instance.endpoint.protocol.as_str().into(),
        version: labels.version().map(Into::into),
        zone: labels.zone().map(Into::into),
        weight: instance.weight,
        tags: labels.tags().map(Into::into).collect(),
        metadata: labels.metadata().map(|(key, value)| (key.into(), value.into())).collect(),
        mode: instance.mode.as_str().into(),
        status: instance.status.as_str().into(),
        ttl: instance.ttl_text().into(),
        registered_at: rfc3339::format(instance.registered_at).into(),
        revision: instance.revision.0,
        drain_until: instance.drain_until.map(|until| rfc3339::format(until).into()),
        signals: store_signals(instance.signals, instance.status),
        detector: phi.map(|_| instance.detector.as_str().into()),
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

pub(in crate::log) fn store_heartbeat<T: From<String>>(
    heartbeat: HeartbeatRef,
) -> StoredHeartbeat<T> {
    StoredHeartbeat {
        at: rfc3339::format(heartbeat.at).into(),
        id: format!("t{}", heartbeat.id).into(),
        trace_id: hex(&heartbeat.trace.trace_id).into(),
        span_id: hex(&heartbeat.trace.span_id).into(),
    }
}
