//! What the registrar says of itself: metrics, log lines and spans of groups, sweeps and flushes. Keeps
//! the telling apart from the doing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::handle::Timings;
use super::per_second::PerSecond;
use crate::clock::{Clock, Monotonic};
use crate::domain::command::Ground;
use crate::domain::event::{
    Event, GuardEnd, GuardEntered, GuardInputs, GuardLeft, Guarded, Kind, Note, StatusReason,
};
use crate::domain::{Change, InstanceKey, Mode, Seq, Status, Timestamp, TraceRef};
use crate::lease::guard::Holding;
use crate::log::AppendError;
use crate::projection::{Projection, Shift};
use crate::telemetry::keep::{Ending, Outcome, Pace};
use crate::telemetry::metrics::{Metrics, set_count};
use crate::telemetry::names::{
    self, Class, DampingOutcome, DbCollection, DbOperation, EventKind, EventOutcome, ExpiryReason,
    GuardScope, LateOutcome, RefusedReason,
};
use crate::telemetry::propagation::{SpanId, TraceContext, TraceId};
use crate::telemetry::signals;
use crate::telemetry::spans::{KeyValue, LINKS_MAX, SpanKind, SpanLink, SpanRecord, Tracer};
use crate::yielding;

/// What is known of a change besides what it says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// Since when it was waited for.
    pub(super) waited_since: Timestamp,
    /// Whether a guard had held it back.
    pub(super) guarded: bool,
    /// When the sweep found what it decides.
    pub(super) found: Option<Monotonic>,
}

impl Before {
    /// What is known of one of the registry's own, which nobody else has waited for.
    pub(super) fn of_own(taken: Timestamp) -> Self {
        Self { waited_since: taken, guarded: false, found: None }
    }

    /// Seconds until it was durable.
    fn durable_after(&self, timings: &Timings) -> f64 {
        seconds(self.waited_since, timings.appended)
    }
}

/// The means of telling.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Counters, gauges, histograms.
    pub metrics: Arc<Metrics>,
    /// Spans.
    pub tracer: Tracer,
}

/// A moment of the log as the tracer wants it.
#[must_use]
pub fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(at.micros()).unwrap_or(0))
}

/// The event kind as the metrics have it.
#[must_use]
pub fn event_kind(kind: Kind) -> EventKind {
    match kind {
        Kind::Registered => EventKind::Registered,
        Kind::Updated => EventKind::Updated,
        Kind::ModeChanged => EventKind::ModeChanged,
        Kind::StatusChanged => EventKind::StatusChanged,
        Kind::SignalsChanged => EventKind::SignalsChanged,
        Kind::GuardEntered => EventKind::GuardEntered,
        Kind::GuardLeft => EventKind::GuardLeft,
        Kind::Deregistered => EventKind::Deregistered,
        Kind::Expired => EventKind::Expired,
        Kind::Started => EventKind::Started,
        Kind::Recovered => EventKind::Recovered,
        Kind::LogGap => EventKind::LogGap,
        Kind::Checkpoint => EventKind::Checkpoint,
        Kind::Heartbeat => EventKind::Heartbeat,
        Kind::Lookup => EventKind::Lookup,
        Kind::Compacted => EventKind::Compacted,
        Kind::WatchOpened => EventKind::WatchOpened,
        Kind::WatchClosed => EventKind::WatchClosed,
        Kind::Notified => EventKind::Notified,
    }
}

fn event_outcome(change: &Change) -> EventOutcome {
    match (&change.event, change.event.outcome()) {
        (Event::Registered { .. }, "created") => EventOutcome::Created,
        (Event::Registered { .. }, "replaced") => EventOutcome::Replaced,
        (Event::Registered { .. }, _) => EventOutcome::Unchanged,
        _ => EventOutcome::Done,
    }
}

fn seconds(from: Timestamp, until: Timestamp) -> f64 {
    // Wall times of one process, microseconds apart: what a jumping clock makes negative counts as nothing.
    Duration::from_micros(u64::try_from(until.micros() - from.micros()).unwrap_or(0)).as_secs_f64()
}

impl Telemetry {
    /// A group of changes is durable and published, with what is known of each beside it: counts them, before anybody
    /// is answered, so that whoever was answered finds himself counted.
    pub(super) fn appended(
        &self,
        batch: &[Arc<Change>],
        before: &[Before],
        timings: &Timings,
        clock: &dyn Clock,
    ) {
        let log = &self.metrics.log;
        log.db_operation_seconds
            .get(DbOperation::Insert, DbCollection::Events)
            .record(seconds(timings.decided, timings.appended));
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most some thousand events")]
        log.batch_events.record(batch.len() as f64);
        if let Some(last) = batch.last() {
            set_count(&log.head_seq, last.seq.0);
            set_count(&log.projection_seq, last.seq.0);
        }
        let now = clock.monotonic();
        for (position, (change, before)) in batch.iter().zip(before).enumerate() {
            yielding::step(position);
            log.command_wait_seconds.record(seconds(before.waited_since, timings.taken));
            log.append_seconds.get(Class::Change).record(before.durable_after(timings));
            let delay = before.found.map_or(0, |found| now.micros_since(found));
            self.counted_by_reason(change, before.guarded, Duration::from_micros(delay));
            log.events.get(event_kind(change.event.kind()), event_outcome(change)).increment(1);
        }
    }

    /// Says what [`Self::appended`] has counted, in lines and a span. To hand them over wakes other threads, which takes
    /// longer than to decide a change: that is done after the answers.
    pub(super) fn told(
        &self,
        batch: &[Arc<Change>],
        before: &[Before],
        timings: &Timings,
        now: Monotonic,
        lines: &mut PerSecond,
    ) {
        for (position, (change, before)) in batch.iter().zip(before).enumerate() {
            yielding::step(position);
            guard_line(change);
            if lines.take(now) {
                line(change, Duration::from_secs_f64(before.durable_after(timings)));
            }
        }
        self.insert_span(batch, timings, now);
    }

    /// Changes of the past have happened again, and `head` is the version that is shown. They are counted like new
    /// ones, so that dashboards can look at a replay, and leave no line: they are nobody's news.
    pub fn replayed(&self, changes: &[Arc<Change>], shifts: &[Shift], head: Seq) {
        let log = &self.metrics.log;
        for change in changes {
            self.counted_by_reason(change, false, Duration::ZERO);
            let kind = event_kind(change.event.kind());
            log.events.get(kind, event_outcome(change)).increment(1);
        }
        self.shifted(shifts);
        set_count(&log.head_seq, head.0);
        set_count(&log.projection_seq, head.0);
    }

    /// Counts what lease sweeps and heartbeats did; `delay` is how long what a sweep found took to become durable.
    fn counted_by_reason(&self, change: &Change, guarded: bool, delay: Duration) {
        let registry = &self.metrics.registry;
        match &change.event {
            Event::StatusChanged { reason: StatusReason::LateHeartbeat, .. } => {
                registry.heartbeats_late.get(LateOutcome::Unstable).increment(1);
            }
            Event::StatusChanged { reason: StatusReason::Recovery, .. } => {
                registry.heartbeats_late.get(LateOutcome::Revived).increment(1);
            }
            // The guard's doing is no lateness of the sweep.
            Event::Expired { .. } if guarded => {
                registry.expiries.get(ExpiryReason::AfterGuard).increment(1);
            }
            Event::Note(Note::GuardEntered(GuardEntered { over, .. })) => {
                registry.guard_entered.get(scope_label(over)).increment(1);
            }
            Event::Expired { overdue, .. } => {
                registry.expiries.get(ExpiryReason::NoHeartbeat).increment(1);
                let found_late = overdue.late.to_duration().as_secs_f64();
                registry.expiry_lateness_seconds.record(found_late + delay.as_secs_f64());
            }
            _ => {}
        }
    }

    /// The span of the transaction: a root of its own, linked to the requests in it.
    fn insert_span(&self, batch: &[Arc<Change>], timings: &Timings, now: Monotonic) {
        let context = TraceContext::root();
        let took = Duration::from_secs_f64(seconds(timings.decided, timings.appended));
        if !self.keep(&context, took, now) {
            return;
        }
        let (start, end) = (system_time(timings.decided), system_time(timings.appended));
        let mut span =
            SpanRecord::new("INSERT events", SpanKind::Client, context.sampled(), start, end);
        span.attributes = vec![
            KeyValue::new("db.system.name", "sqlite"),
            KeyValue::new("db.operation.name", "INSERT"),
            KeyValue::new("db.collection.name", "events"),
            KeyValue::new(
                "db.operation.batch.size",
                i64::try_from(batch.len()).unwrap_or(i64::MAX),
            ),
        ];
        let traces = batch.iter().map(|change| change.trace);
        span.links = traces.filter_map(|trace| link(trace, "request")).take(LINKS_MAX).collect();
        self.tracer.emit(span);
    }

    fn keep(&self, context: &TraceContext, elapsed: Duration, now: Monotonic) -> bool {
        let outcome = Outcome {
            ending: Ending::Well,
            changed: true,
            elapsed,
            pace: Pace::Change,
            now: Duration::from_micros(now.0),
        };
        self.tracer.is_on() && self.tracer.keep(context, &outcome).is_some()
    }

    /// The spans of a sweep that expired somebody: one for the sweep, and one each for those who have one by `spans`.
    pub(super) fn swept(
        &self,
        sweep: &TraceContext,
        started: Timestamp,
        expired: &[(Arc<Change>, Option<TraceRef>)],
        clock: &dyn Clock,
        spans: &mut PerSecond,
    ) {
        let ended = clock.wall();
        let took = Duration::from_secs_f64(seconds(started, ended));
        if expired.is_empty() || !self.keep(sweep, took, clock.monotonic()) {
            return;
        }
        let (start, end) = (system_time(started), system_time(ended));
        let mut span =
            SpanRecord::new("expire sweep", SpanKind::Internal, sweep.sampled(), start, end);
        let count = i64::try_from(expired.len()).unwrap_or(i64::MAX);
        span.attributes = vec![KeyValue::new("rollcall.expire.count", count)];
        self.tracer.emit(span);
        let now = clock.monotonic();
        for (change, registration) in expired.iter().take_while(|_| spans.take(now)) {
            let Event::Expired { key, overdue } = &change.event else { continue };
            let context = context_of(change.trace, Some(sweep.span_id)).sampled();
            let mut span = SpanRecord::new("expire", SpanKind::Internal, context, start, end);
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            span.attributes = vec![
                KeyValue::new("rollcall.service", key.service.service.to_string()),
                KeyValue::new("rollcall.instance", key.instance.to_string()),
                KeyValue::new("rollcall.event.seq", number(change.seq.0)),
                KeyValue::new("rollcall.event.kind", Kind::Expired.as_str()),
                KeyValue::new("rollcall.lease.ttl_ms", number(overdue.ttl.millis())),
                KeyValue::new("rollcall.lease.late_ms", number(overdue.late.millis())),
                KeyValue::new("rollcall.event.cause", number(change.cause.unwrap_or_default().0)),
            ];
            let heartbeat = overdue.last_heartbeat.and_then(|h| link(h.trace, "last_heartbeat"));
            let registration = registration.and_then(|trace| link(trace, "registration"));
            span.links = heartbeat.into_iter().chain(registration).collect();
            self.tracer.emit(span);
        }
    }

    /// The span of a replay that began at `started`, with its phases, the snapshot and the tail: how many events each folded,
    /// and how long it took.
    pub(super) fn replay_span(
        &self,
        started: Timestamp,
        phases: [(u64, Duration); 2],
        now: Monotonic,
    ) {
        let context = TraceContext::root();
        let took = phases.iter().map(|(_, took)| *took).sum();
        if !self.keep(&context, took, now) {
            return;
        }
        let span = |name: &'static str, context: TraceContext, events: u64, from, until| {
            let mut span = SpanRecord::new(name, SpanKind::Internal, context, from, until);
            let events = i64::try_from(events).unwrap_or(i64::MAX);
            span.attributes = vec![KeyValue::new("rollcall.replay.events", events)];
            span
        };
        let (context, start) = (context.sampled(), system_time(started));
        let events = phases.iter().map(|(events, _)| events).sum();
        self.tracer.emit(span("replay", context, events, start, start + took));
        let mut from = start;
        for (name, (events, took)) in ["snapshot", "tail"].into_iter().zip(phases) {
            self.tracer.emit(span(name, context.child(), events, from, from + took));
            from += took;
        }
    }

    /// How the guards stand.
    pub(super) fn guards(&self, holding: &[Holding], held: u64) {
        let registry = &self.metrics.registry;
        let over_registry = holding.iter().filter(|guard| guard.over.is_none()).count() as u64;
        let over_services = holding.len() as u64 - over_registry;
        set_count(registry.guard_active.get(GuardScope::Registry), over_registry);
        set_count(registry.guard_active.get(GuardScope::Service), over_services);
        set_count(&registry.guard_held, held);
    }

    /// A slice of traffic is in the log.
    pub(super) fn flushed(
        &self,
        kinds: &[u64; Kind::ALL.len()],
        ages: &[(f64, usize)],
        took: Duration,
    ) {
        let log = &self.metrics.log;
        for (kind, count) in Kind::ALL.iter().zip(kinds).filter(|(_, count)| **count > 0) {
            log.events.get(event_kind(*kind), EventOutcome::Done).increment(*count);
        }
        log.db_operation_seconds
            .get(DbOperation::Insert, DbCollection::Traffic)
            .record(took.as_secs_f64());
        for (age, count) in ages {
            log.append_seconds.get(Class::Traffic).record_many(*age, *count);
        }
    }

    /// An instance was taken out of the registry because a deadline of its own had passed.
    pub(super) fn retired(&self, ground: Ground) {
        let reason = match ground {
            Ground::Drained { .. } => ExpiryReason::Drained,
            Ground::Failed { .. } => ExpiryReason::CheckFailed,
        };
        self.metrics.registry.expiries.get(reason).increment(1);
    }

    /// The damping of an instance began or ended, and so many are damped now.
    pub(super) fn damping(&self, outcome: DampingOutcome, damped: u64) {
        self.metrics.registry.dampings.get(outcome).increment(1);
        self.damped(damped);
    }

    /// So many instances are damped.
    pub(super) fn damped(&self, damped: u64) {
        set_count(&self.metrics.registry.damped, damped);
    }

    /// Changes were refused because the log has failed.
    pub(super) fn refused(&self, changes: u64) {
        let refused = &self.metrics.log.refused;
        refused.get(Class::Change, RefusedReason::LogFailed).increment(changes);
    }

    /// Traffic was served and not stored.
    pub(super) fn lost(&self, events: u64) {
        self.metrics.log.refused.get(Class::Traffic, RefusedReason::LogGap).increment(events);
    }

    /// The log failed.
    pub(super) fn log_failed(&self, error: &AppendError) {
        signals::log_failed(error);
    }

    /// Instances came, went or changed status.
    pub(super) fn shifted(&self, shifts: &[Shift]) {
        for Shift { service, status, change } in shifts {
            let status = status_label(*status);
            let counts = &self.metrics.registry.service_instances;
            match service.namespace.as_str() {
                "default" => counts.adjust(service.service.as_str(), status, *change),
                _ => counts.adjust(&service.to_string(), status, *change),
            }
        }
    }
}

fn scope_label(over: &Guarded) -> GuardScope {
    match over {
        None => GuardScope::Registry,
        Some(_) => GuardScope::Service,
    }
}

/// The line of a change.
fn line(change: &Change, elapsed: Duration) {
    let key = change.event.key();
    signals::changed(&signals::Change {
        seq: change.seq.0,
        kind: event_kind(change.event.kind()),
        outcome: event_outcome(change),
        about: key.map(|InstanceKey { service, instance }| {
            [service.namespace.as_str(), service.service.as_str(), instance.as_str()]
        }),
        context: &context_of(change.trace, None),
        elapsed,
    });
}

/// The line of a guard that was entered or left: somebody may have to look.
fn guard_line(change: &Change) {
    let name = |over: &Guarded| match over {
        None => "the whole registry".to_owned(),
        Some(service) => service.to_string(),
    };
    match &change.event {
        Event::Note(Note::GuardEntered(GuardEntered { over, inputs, limit })) => {
            let GuardInputs { late, gone, living } = *inputs;
            signals::guard_entered(&name(over), late, gone, living, limit.to_duration());
        }
        Event::Note(Note::GuardLeft(GuardLeft { over, end, held, held_for, .. })) => {
            let evicts = *end == GuardEnd::Elapsed;
            signals::guard_left(&name(over), end.as_str(), *held, held_for.to_duration(), evicts);
        }
        _ => {}
    }
}

fn status_label(status: Status) -> names::Status {
    match status {
        Status::Healthy => names::Status::Healthy,
        Status::Unstable => names::Status::Unstable,
        Status::Failed => names::Status::Failed,
    }
}

/// Sets the gauges that are read off rather than counted; for each rendering of the page.
pub fn gauges(metrics: &Metrics, projection: &Projection, handle: &super::Handle) {
    for status in [Status::Healthy, Status::Unstable, Status::Failed] {
        for (mode, label) in [
            (Mode::Active, names::Mode::Active),
            (Mode::Standby, names::Mode::Standby),
            (Mode::Draining, names::Mode::Draining),
        ] {
            let count = u64::try_from(projection.population().of(status, mode)).unwrap_or(0);
            set_count(metrics.registry.instances.get(status_label(status), label), count);
        }
    }
    set_count(&metrics.registry.services, projection.service_count() as u64);
    let fills = [(Class::Change, handle.inbox_fill()), (Class::Traffic, handle.buffer_fill())];
    for (class, (length, capacity)) in fills {
        set_count(metrics.log.queue_length.get(class), length as u64);
        set_count(metrics.log.queue_capacity.get(class), capacity as u64);
    }
}

/// A link to where something happened, if that is known; `what` it is to the span.
#[must_use]
pub fn link(trace: TraceRef, what: &'static str) -> Option<SpanLink> {
    let trace_id = TraceId::from_bytes(trace.trace_id)?;
    let span_id = SpanId::from_bytes(trace.span_id)?;
    Some(SpanLink { trace_id, span_id, attributes: vec![KeyValue::new("rollcall.link", what)] })
}

/// The context that an event was written in. An event without one gets ids that nothing refers to.
fn context_of(trace: TraceRef, parent: Option<SpanId>) -> TraceContext {
    let mut context = TraceContext::root();
    context.trace_id = TraceId::from_bytes(trace.trace_id).unwrap_or(context.trace_id);
    context.span_id = SpanId::from_bytes(trace.span_id).unwrap_or(context.span_id);
    context.parent = parent;
    context
}
