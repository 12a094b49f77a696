//! Facts: each function says one thing that happened, in a log line and in the metrics at once.
//!
//! Written together, the two cannot disagree. A name says what was seen, in the past tense. Levels: error needs
//! a human, warn is degraded but served, info is the life of the process and every change, debug each request.
//! Nothing here decides, blocks or fails. Callers: every part.

use std::error::Error;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};

use super::metrics::{
    Counter, DoorMetrics, KeeperMetrics, LogMetrics, ReplayMetrics, RouteMetrics, WatchMetrics,
    set_count,
};
use super::names::{
    CheckKind, Class, ErrorType, EventKind, EventOutcome, Method, RefusedReason, RefusedRequest,
    ReplayPhase, RequestClass, SnapshotOutcome, Transport, WatchOutcome, Work,
};
use super::propagation::TraceContext;

/// An error with all its causes, `first: second: third`, for the one line that reports it.
struct Chain<'a>(&'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// In milliseconds, to the microsecond: more digits than that are noise.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The process began to serve.
pub fn started(version: &str, data: &Path, url: &str, log_id: &dyn Display) {
    info!(version, data = %data.display(), url, log_id = %log_id, "rollcall {version} listens on {url}");
}

/// Fewer connections than the settings ask for.
pub fn connections_limited(connections: u32, wanted: u32, needed: u64) {
    warn!(
        connections,
        wanted,
        "max_connections is {connections} instead of {wanted}, as far as the system lets this process open files: raise its \
         limit to {needed} (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of a container), or lower the setting"
    );
}

/// Replay goes on.
pub fn replaying(done: u64, total: u64) {
    info!(done, total, "replayed {done} of {total} changes");
}

/// A replay can't read what comes next. What it has shown so far goes on being answered.
pub fn replay_stopped(error: &dyn Error) {
    warn!("the replay stands still: {}", Chain(error));
}

/// Old traffic is not what was written. The registry serves all the same.
pub fn traffic_damaged(place: &str, what: &str) {
    warn!(place, "{place} is damaged: {what}; last heartbeats before it are not known");
}

/// A snapshot is not what was written. The state is folded from the one before it.
pub fn snapshot_damaged(place: &str, what: &str) {
    warn!(place, "{place} is damaged: {what}; recovering from what comes before it");
}

/// Retention could not remove something, because its page is damaged. It is left in the file.
pub fn removal_passed_over(place: &str, cause: &dyn Error) {
    warn!(
        place,
        "{place} is too old to be kept and can't be removed, the file is damaged there: {}",
        Chain(cause)
    );
}

/// Free space could not be given back to the file system, because a page that would have to move is damaged. Said once a
/// start: the space is used for what comes next.
pub fn space_not_returned(free_pages: u64, cause: &dyn Error) {
    warn!(
        free_pages,
        "{free_pages} free pages can't be given back to the file system, the file is damaged there: {}; what comes next \
         fills them; `rollcall verify` names the damage, `rollcall export` and `import` make a whole file",
        Chain(cause)
    );
}

/// A probe panicked. Its check goes on with its next turn.
pub fn probe_panicked(
    counted: &Counter,
    kind: CheckKind,
    instance: &dyn Display,
    cause: &dyn Error,
) {
    counted.increment(1);
    let kind = kind.as_str();
    error!(
        error.r#type = "probe_panicked",
        kind,
        instance = %instance,
        "a {kind} probe of {instance} panicked, which is a bug of this registry; it counts for nothing, and the instance \
         is probed again in its next turn: {}",
        Chain(cause)
    );
}

/// A kind of background work began to fail. Once a failure: it is tried again.
pub fn upkeep_failing(work: Work, cause: &dyn Error) {
    let name = work.as_str();
    warn!(
        error.r#type = "upkeep_failed",
        work = name,
        "background work ({name}) fails and is tried again; requests are served as before: {}",
        Chain(cause)
    );
}

/// It works again.
pub fn upkeep_resumed(work: Work) {
    let name = work.as_str();
    info!(work = name, "background work ({name}) goes on");
}

/// A snapshot of the state was written.
pub fn snapshot_written(metrics: &KeeperMetrics, seq: u64, bytes: u64, elapsed: Duration) {
    metrics.snapshots.get(SnapshotOutcome::Written).increment(1);
    metrics.snapshot_seconds.record(elapsed.as_secs_f64());
    info!(
        event.seq = seq,
        bytes,
        duration_ms = millis(elapsed),
        "snapshot of version {seq} written"
    );
}

/// Figures of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Recovered {
    /// Instances read from a snapshot, and how long that took.
    pub snapshot: (u64, Duration),
    /// Events read after it, and how long that took.
    pub tail: (u64, Duration),
    /// Number of the last change.
    pub head_seq: u64,
    /// Instances alive.
    pub instances: u64,
    /// Services with an instance.
    pub services: u64,
    /// When the registry became ready.
    pub ready_at: SystemTime,
}

/// The state was folded from the log, and the registry is ready.
pub fn recovered(metrics: &ReplayMetrics, figures: &Recovered) {
    for (phase, (events, elapsed)) in
        [(ReplayPhase::Snapshot, figures.snapshot), (ReplayPhase::Tail, figures.tail)]
    {
        set_count(metrics.events.get(phase), events);
        metrics.seconds.get(phase).set(elapsed.as_secs_f64());
    }
    let since_epoch = figures.ready_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics.ready_timestamp_seconds.set(since_epoch.as_secs_f64());
    let events = figures.snapshot.0 + figures.tail.0;
    let duration_ms = millis(figures.snapshot.1 + figures.tail.1);
    info!(
        event.seq = figures.head_seq,
        events,
        duration_ms,
        instances = figures.instances,
        services = figures.services,
        "recovered {} instances of {} services from {events} events in {duration_ms:.1} ms",
        figures.instances,
        figures.services,
    );
}

/// A change that was appended.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Its number.
    pub seq: u64,
    /// What happened.
    pub kind: EventKind,
    /// What a registration did; [`EventOutcome::Done`] for all else.
    pub outcome: EventOutcome,
    /// Namespace, service and instance; none for the registry's own events.
    pub about: Option<[&'a str; 3]>,
    /// The trace it happened in.
    pub context: &'a TraceContext,
    /// How long it was waited for, until it was durable.
    pub elapsed: Duration,
}

/// The settings were read again, and these hold from now on.
pub fn settings_taken(taken: &[&str]) {
    match taken {
        [] => info!("settings read again: nothing has changed"),
        taken => {
            let taken = taken.join(", ");
            info!(taken, "settings read again: {taken} hold from now on");
        }
    }
}

/// The settings were read again, and these have changed but can't be changed while the server runs.
pub fn settings_need_restart(changed: &[&str]) {
    let changed = changed.join(", ");
    warn!(changed, "settings read again: {changed} have changed, and hold from the next start on");
}

/// The settings were to be read again, and can't be.
pub fn settings_refused(cause: &dyn Error) {
    warn!("settings can't be read again, all stay as they were: {}", Chain(cause));
}

/// So many changes had no line of their own in the second that is over, because very many came at once.
pub fn lines_left_out(left_out: u64) {
    info!(
        left_out,
        "{left_out} more changes came at once and have no line here (log_change_rate); GET /v1/events has them all"
    );
}

/// A change is durable and can be seen.
pub fn changed(change: &Change<'_>) {
    let Change { seq, about, .. } = *change;
    let kind = change.kind.as_str();
    let [namespace, service, instance] = about.map_or([None; 3], |about| about.map(Some));
    // The registry's own events are about nobody; most others are in the default namespace.
    let whom = match about {
        None => String::new(),
        Some(["default", service, instance]) => format!(" {service}/{instance}"),
        Some([namespace, service, instance]) => format!(" {namespace}/{service}/{instance}"),
    };
    // As texts, which cost a fraction of values that are asked to write themselves: every change has this line.
    let (trace_id, span_id) = (change.context.trace_id.to_hex(), change.context.span_id.to_hex());
    info!(
        event.seq = seq,
        event.kind = kind,
        outcome = change.outcome.as_str(),
        namespace,
        service,
        instance,
        duration_ms = millis(change.elapsed),
        trace_id = std::str::from_utf8(&trace_id).unwrap_or_default(),
        span_id = std::str::from_utf8(&span_id).unwrap_or_default(),
        "{kind}{whom}"
    );
}

/// How long requests wait can't be measured: none will be refused for that.
pub fn not_sensing(cause: &dyn Error) {
    warn!(
        "how long requests wait can't be measured, none is refused for overload until the next start: {}",
        Chain(cause)
    );
}

/// So many leases ran out at once that nobody expires for a while.
pub fn guard_entered(over: &dyn Display, late: u64, gone: u64, living: u64, limit: Duration) {
    warn!(
        guard.over = %over,
        late,
        gone,
        living,
        limit_ms = millis(limit),
        "the guard over {over} holds: {} of {} instances are late or have just expired; nobody expires until enough of \
         them are back, or for {limit:?}",
        late + gone,
        living + gone
    );
}

/// A guard let go. `evicts` says that those who are still silent are believed to be dead now.
pub fn guard_left(over: &dyn Display, end: &str, held: u64, held_for: Duration, evicts: bool) {
    let held_for_ms = millis(held_for);
    if evicts {
        warn!(
            guard.over = %over, end, held, held_for_ms,
            "the guard over {over} has held for as long as it may: who is still silent of the {held} whom it held expires"
        );
    } else {
        info!(guard.over = %over, end, held, held_for_ms, "the guard over {over} let go: {end}");
    }
}

/// The log could not take events. Counted, and not logged one by one: [`log_failed`] says why, once.
pub fn refused(metrics: &LogMetrics, class: Class, reason: RefusedReason, events: u64) {
    metrics.refused.get(class, reason).increment(events);
}

/// The log can no longer be written. Once a failure, not once a refused change.
pub fn log_failed(cause: &dyn Error) {
    error!(
        error.r#type = ErrorType::LogFailed.as_str(),
        "the log cannot be written, changes are refused: {}",
        Chain(cause)
    );
}

/// The log is written again after a failure.
pub fn log_resumed(gap: Duration, lookups_lost: u64, heartbeats_lost: u64) {
    warn!(
        duration_ms = millis(gap),
        lookups_lost,
        heartbeats_lost,
        "the log is written again; events of the gap that did not fit are lost"
    );
}

/// The server can be reached from other machines, and anybody may change the registry.
pub fn listening_beyond_loopback(address: SocketAddr) {
    warn!(%address, "listening on {address}, beyond this machine, and there is no authentication yet");
}

/// A step of the orderly end is over. `finished` is false if its time limit ended it.
pub fn shutdown_step(name: &str, elapsed: Duration, finished: bool) {
    let duration_ms = millis(elapsed);
    if finished {
        info!(step = name, duration_ms, "shutdown: {name}");
    } else {
        warn!(step = name, duration_ms, "shutdown: {name} did not finish in time");
    }
}

/// Kept spans did not reach the collector before the end.
pub fn spans_lost(spans: u64) {
    if spans > 0 {
        warn!(spans, "shutdown: {spans} spans did not reach the collector");
    }
}

/// A setting was not understood and is ignored.
pub fn setting_ignored(what: &str) {
    warn!("{what}");
}

/// Exports of spans began to fail. Once a failure; `rollcall_spans_total` counts the spans.
pub(super) fn export_failing(cause: &dyn Error) {
    warn!(error.r#type = "export_failed", "spans do not reach the collector: {}", Chain(cause));
}

/// Exports of spans work again.
pub(super) fn export_resumed() {
    info!("spans reach the collector again");
}

/// Exports of log records began to fail. Once a failure; `rollcall_log_records_total` counts the records.
pub(super) fn records_failing(cause: &dyn Error) {
    let cause = Chain(cause);
    warn!(error.r#type = "export_failed", "log records do not reach the collector: {cause}");
}

/// Exports of log records work again.
pub(super) fn records_resumed() {
    info!("log records reach the collector again");
}

/// Log lines did not reach the collector before the end.
pub fn records_lost(records: u64) {
    if records > 0 {
        warn!(records, "shutdown: {records} log records did not reach the collector");
    }
}

/// More is asked than can be done, and some requests are refused from now on. Once an episode; `requests_refused` counts.
pub fn shedding_began(waited: Duration) {
    let waited_ms = millis(waited);
    warn!(
        error.r#type = ErrorType::Overloaded.as_str(),
        waited_ms,
        "more is asked than can be done, requests wait {waited_ms} ms for their turn: some are refused with 503, questions about \
         the past and lists first, heartbeats last"
    );
}

/// Nobody is refused for that any more.
pub fn shedding_ended() {
    info!("everything that is asked is done again");
}

/// A request was told to come back.
pub fn request_refused(metrics: &DoorMetrics, class: RequestClass, reason: RefusedRequest) {
    metrics.refused.get(class, reason).increment(1);
}

/// A request at its end.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Its ids.
    pub context: &'a TraceContext,
    /// Its method.
    pub method: Method,
    /// Status of the answer.
    pub status: u16,
    /// Why it failed, if it did.
    pub error: ErrorType,
    /// From its head to the end of its answer.
    pub elapsed: Duration,
}

/// A request was answered. `log` gives it a line at info; a failed one has a line in any case, except where one
/// line has told the cause of all of them: a replay that runs, a log that has failed.
pub fn answered(metrics: &RouteMetrics, request: &Answered<'_>, log: bool) {
    metrics.observe(request.method, request.status, request.error, request.elapsed.as_secs_f64());
    request_line(metrics, request, log);
}

/// A long poll ended. It is not among the requests, where its waiting would drown the lookups.
pub fn long_poll_ended(
    metrics: &WatchMetrics,
    outcome: WatchOutcome,
    route: &RouteMetrics,
    request: &Answered<'_>,
    log: bool,
) {
    let seconds = request.elapsed.as_secs_f64();
    metrics.duration_seconds.get(Transport::LongPoll, outcome).record(seconds);
    request_line(route, request, log);
}

/// A stream began: its head was answered. It is counted when it ends.
pub fn stream_began(route: &RouteMetrics, request: &Answered<'_>, log: bool) {
    request_line(route, request, log);
}

/// A stream ended, after so long.
pub fn stream_ended(metrics: &WatchMetrics, outcome: WatchOutcome, elapsed: Duration) {
    metrics.duration_seconds.get(Transport::Sse, outcome).record(elapsed.as_secs_f64());
}

/// A change that was waited for was handed to a connection, so long after it was durable.
pub fn watcher_told(metrics: &WatchMetrics, transport: Transport, elapsed: Duration) {
    metrics.notify_seconds.get(transport).record(elapsed.as_secs_f64());
}

/// A profile of the process could not be taken.
pub fn profile_failed(error: &dyn Error) {
    warn!(error.r#type = "profile_failed", "no profile: {}", Chain(error));
}

/// A stream can't go on because the log can't be read, or what it told can't be recorded.
pub fn stream_broken(cause: &dyn Display) {
    warn!(error.r#type = "log_unreadable", "a stream of changes has ended: {cause}");
}

fn request_line(metrics: &RouteMetrics, request: &Answered<'_>, log: bool) {
    let told_elsewhere =
        matches!(request.error, ErrorType::NotReady | ErrorType::LogFailed | ErrorType::Overloaded);
    let failed = request.error != ErrorType::None && !told_elsewhere;
    if !failed && !log {
        return;
    }
    let Answered { context, status, .. } = *request;
    let (route, method, duration_ms) =
        (metrics.route(), request.method.as_str(), millis(request.elapsed));
    // The level of a line is fixed where it is written, so there are two.
    if failed {
        warn!(
            trace_id = %context.trace_id, span_id = %context.span_id, route, method, status, duration_ms,
            error.r#type = request.error.as_str(), "{method} {route} {status}"
        );
    } else {
        info!(
            trace_id = %context.trace_id, span_id = %context.span_id, route, method, status, duration_ms,
            "{method} {route} {status}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("commit failed")]
    struct CommitFailed(#[source] std::io::Error);

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = CommitFailed(std::io::Error::other("disk full"));
        assert_eq!(Chain(&error).to_string(), "commit failed: disk full");
    }
}
