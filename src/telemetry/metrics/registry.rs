//! Metrics of the log, of the registry's state and of replay: handles, by the part that writes them.
//!
//! No caller and no instance is ever a label; a service is one only in [`ServiceInstances`], up to a limit.
//! Callers: the log's writer, the registrar, expiry, recovery, the keeper.

use std::collections::HashMap;

use ::metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;

use super::source::{Family, Grid, Source};
use crate::telemetry::names::{
    self, Class, DampingOutcome, DbCollection, DbOperation, EventKind, EventOutcome, ExpiryReason,
    GuardScope, LabelValue, LateOutcome, LogPart, LookupOutcome, Mode, RefusedReason, ReplayPhase,
    SERVICE_OTHER, SnapshotOutcome, Status, Work, label,
};

/// Handles of the log and its queues.
#[derive(Debug)]
pub struct LogMetrics {
    /// Events appended. Pairs that cannot be (an expiry that was `created`) have a handle that does nothing.
    pub events: Grid<EventKind, EventOutcome, Counter>,
    /// Seconds that a command waited for the writer.
    pub command_wait_seconds: Histogram,
    /// Seconds from queueing an event to its being durable.
    pub append_seconds: Family<Class, Histogram>,
    /// Events waiting for the writer.
    pub queue_length: Family<Class, Gauge>,
    /// Most events that may wait.
    pub queue_capacity: Family<Class, Gauge>,
    /// Events that the log could not take.
    pub refused: Grid<Class, RefusedReason, Counter>,
    /// Seconds of one transaction.
    pub db_operation_seconds: Grid<DbOperation, DbCollection, Histogram>,
    /// Events in one transaction.
    pub batch_events: Histogram,
    /// Number of the last durable change.
    pub head_seq: Gauge,
    /// Number of the last change that reads can see.
    pub projection_seq: Gauge,
    /// Bytes on disk.
    pub size_bytes: Family<LogPart, Gauge>,
    /// What the file system has left.
    pub disk_free_bytes: Gauge,
}

impl LogMetrics {
    pub(super) fn new(source: &Source) -> Self {
        Self {
            events: Grid::new(|kind: EventKind, outcome: EventOutcome| {
                // Only a registration has an outcome of its own.
                if (kind == EventKind::Registered) == (outcome == EventOutcome::Done) {
                    return Counter::noop();
                }
                source.counter(
                    names::EVENTS,
                    [(label::KIND, kind.text()), (label::OUTCOME, outcome.text())],
                )
            }),
            command_wait_seconds: source.plain_histogram(names::COMMAND_QUEUE_WAIT),
            append_seconds: Family::histograms(source, names::APPEND_DURATION, label::CLASS),
            queue_length: Family::gauges(source, names::QUEUE_LENGTH, label::CLASS),
            queue_capacity: Family::gauges(source, names::QUEUE_CAPACITY, label::CLASS),
            refused: Grid::new(|class: Class, reason: RefusedReason| {
                source.counter(
                    names::EVENTS_REFUSED,
                    [(label::CLASS, class.text()), (label::REASON, reason.text())],
                )
            }),
            db_operation_seconds: Grid::new(|operation: DbOperation, collection: DbCollection| {
                let labels = [
                    (label::DB_OPERATION, operation.text()),
                    (label::DB_COLLECTION, collection.text()),
                ];
                source.histogram(names::DB_OPERATION_DURATION, labels)
            }),
            batch_events: source.plain_histogram(names::COMMIT_BATCH),
            head_seq: source.plain_gauge(names::LOG_HEAD_SEQ),
            projection_seq: source.plain_gauge(names::PROJECTION_SEQ),
            size_bytes: Family::gauges(source, names::LOG_SIZE, label::PART),
            disk_free_bytes: source.plain_gauge(names::DISK_FREE),
        }
    }
}

/// Handles of the background work on the log.
#[derive(Debug)]
pub struct KeeperMetrics {
    /// Events that were not derived from yet.
    pub derive_lag: Family<Class, Gauge>,
    /// Snapshots.
    pub snapshots: Family<SnapshotOutcome, Counter>,
    /// Seconds of a snapshot.
    pub snapshot_seconds: Histogram,
    /// Events that retention took.
    pub removed: Family<Class, Counter>,
    /// Seconds of a slice.
    pub slice_seconds: Family<Work, Histogram>,
}

impl KeeperMetrics {
    pub(super) fn new(source: &Source) -> Self {
        Self {
            derive_lag: Family::gauges(source, names::DERIVE_LAG, label::CLASS),
            snapshots: Family::counters(source, names::SNAPSHOTS, label::OUTCOME),
            snapshot_seconds: source.plain_histogram(names::SNAPSHOT_DURATION),
            removed: Family::counters(source, names::RETENTION_REMOVED, label::CLASS),
            slice_seconds: Family::histograms(source, names::KEEPER_SLICE, label::WORK),
        }
    }
}

/// Handles of the registry's state and what happens to it.
#[derive(Debug)]
pub struct RegistryMetrics {
    /// Lookups by what they were answered.
    pub lookups: Family<LookupOutcome, Counter>,
    /// Instances now.
    pub instances: Grid<Status, Mode, Gauge>,
    /// Services with at least one instance now.
    pub services: Gauge,
    /// Instances by service, bounded.
    pub service_instances: ServiceInstances,
    /// Gap between two heartbeats over the ttl.
    pub heartbeat_gap_ratio: Histogram,
    /// Leases past two thirds of their ttl.
    pub heartbeats_late: Family<LateOutcome, Counter>,
    /// Seconds from a deadline to the expiry in the log.
    pub expiry_lateness_seconds: Histogram,
    /// Instances that the registry removed.
    pub expiries: Family<ExpiryReason, Counter>,
    /// Instances whose status changed too often.
    pub dampings: Family<DampingOutcome, Counter>,
    /// How many of them are held at unstable now.
    pub damped: Gauge,
    /// Guards that hold.
    pub guard_active: Family<GuardScope, Gauge>,
    /// Instances whose expiry they hold back.
    pub guard_held: Gauge,
    /// Guards that were entered.
    pub guard_entered: Family<GuardScope, Counter>,
}

impl RegistryMetrics {
    pub(super) fn new(source: &Source, service_series_max: usize) -> Self {
        Self {
            lookups: Family::busy_counters(source, names::LOOKUPS, label::OUTCOME),
            instances: Grid::new(|status: Status, mode: Mode| {
                source.gauge(
                    names::INSTANCES,
                    [(label::STATUS, status.text()), (label::MODE, mode.text())],
                )
            }),
            services: source.plain_gauge(names::SERVICES),
            service_instances: ServiceInstances::new(source, service_series_max),
            heartbeat_gap_ratio: source.plain_histogram(names::HEARTBEAT_GAP),
            heartbeats_late: Family::counters(source, names::HEARTBEATS_LATE, label::OUTCOME),
            expiry_lateness_seconds: source.plain_histogram(names::EXPIRY_LATENESS),
            expiries: Family::counters(source, names::EXPIRIES, label::REASON),
            dampings: Family::counters(source, names::FLAP_DAMPINGS, label::OUTCOME),
            damped: source.plain_gauge(names::DAMPED_INSTANCES),
            guard_active: Family::gauges(source, names::GUARD_ACTIVE, label::SCOPE),
            guard_held: source.plain_gauge(names::GUARD_HELD),
            guard_entered: Family::counters(source, names::GUARD_ENTERED, label::SCOPE),
        }
    }
}

/// `rollcall_service_instances`: the one open label, so the first services seen get series of their own and all
/// others share one. A service keeps its series for the life of the process, also at 0: the exporter cannot
/// take a series back, and one that changes owner would lie.
#[derive(Debug)]
pub struct ServiceInstances {
    source: Source,
    series_max: usize,
    own: Mutex<HashMap<String, Family<Status, Gauge>>>,
    other: Option<Family<Status, Gauge>>,
}

impl ServiceInstances {
    fn new(source: &Source, series_max: usize) -> Self {
        let other = (series_max > 0).then(|| Self::family(source, SERVICE_OTHER));
        Self { source: source.clone(), series_max, own: Mutex::new(HashMap::new()), other }
    }

    fn family(source: &Source, service: &str) -> Family<Status, Gauge> {
        Family::new(|status: Status| {
            let labels = [(label::SERVICE, service), (label::STATUS, status.text())];
            source.open_gauge(names::SERVICE_INSTANCES, &labels)
        })
    }

    /// Adds `change` instances of a status to a service; negative ones left it. Services of the same name in
    /// different namespaces are one here.
    pub fn adjust(&self, service: &str, status: Status, change: i32) {
        let Some(other) = &self.other else { return };
        let mut own = self.own.lock();
        if own.len() < self.series_max && !own.contains_key(service) {
            own.insert(service.to_owned(), Self::family(&self.source, service));
        }
        own.get(service).unwrap_or(other).get(status).increment(f64::from(change));
    }
}

/// Handles of the last replay.
#[derive(Debug)]
pub struct ReplayMetrics {
    /// Seconds that it took.
    pub seconds: Family<ReplayPhase, Gauge>,
    /// Events that it read.
    pub events: Family<ReplayPhase, Gauge>,
    /// When the registry became ready, in seconds since 1970; 0 before.
    pub ready_timestamp_seconds: Gauge,
}

impl ReplayMetrics {
    pub(super) fn new(source: &Source) -> Self {
        Self {
            seconds: Family::gauges(source, names::REPLAY_DURATION, label::PHASE),
            events: Family::gauges(source, names::REPLAY_EVENTS, label::PHASE),
            ready_timestamp_seconds: source.plain_gauge(names::READY_TIMESTAMP),
        }
    }
}
