//! Every metric of rollcall: name, type, unit, help, labels, buckets; and every label value that is allowed.
//!
//! Names are a contract with dashboards and alerts: a rename is a breaking change and says so in its commit.
//! Nothing outside `telemetry` writes a metric name, and no label here is ever an id, an address, a raw path or
//! a message. Metrics of parts that do not exist yet are not listed: a name on this page has a value on
//! `/metrics`. Callers: [`super::metrics`]; the test that compares the dashboards with this table.

/// What kind of series a metric has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises; begins at 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in the given buckets (upper bounds, ascending, in the metric's unit).
    Histogram(&'static [f64]),
}

/// What a metric's value is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Seconds; for a timestamp, seconds since 1970 in UTC.
    Seconds,
    /// Bytes.
    Bytes,
    /// A part of a whole, 1 being all of it.
    Ratio,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, without the suffixes that a histogram's series get.
    pub name: &'static str,
    /// Type and, for a histogram, buckets.
    pub kind: Kind,
    /// Unit of the value.
    pub unit: Unit,
    /// One line for the reader of `/metrics`.
    pub help: &'static str,
    /// Label keys, in the order in which they are given to the recorder.
    pub labels: &'static [&'static str],
}

/// Buckets of requests, in seconds: OpenTelemetry's for HTTP, and finer ones below, so that stock dashboards
/// stay right and microsecond lookups are still seen.
pub const BUCKETS_FAST: &[f64] = &[
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25,
    0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Buckets of work on the log, in seconds.
pub const BUCKETS_DB: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
/// Buckets of waiting for a deadline, in seconds.
pub const BUCKETS_WAIT: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets of batch sizes, in events.
pub const BUCKETS_BATCH: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
/// Buckets of the gap between two heartbeats over the ttl; 0.25 is the recommended interval, 1 the expiry.
pub const BUCKETS_GAP: &[f64] = &[0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.67, 0.8, 1.0, 1.5];

/// Label keys.
pub mod label {
    #![expect(
        missing_docs,
        reason = "a key says what it is, and its values are the enums of this file"
    )]
    pub const METHOD: &str = "http_request_method";
    pub const ROUTE: &str = "http_route";
    pub const STATUS_CODE: &str = "http_response_status_code";
    pub const ERROR_TYPE: &str = "error_type";
    pub const KIND: &str = "kind";
    pub const OUTCOME: &str = "outcome";
    pub const CLASS: &str = "class";
    pub const REASON: &str = "reason";
    pub const DB_OPERATION: &str = "db_operation_name";
    pub const DB_COLLECTION: &str = "db_collection_name";
    pub const PART: &str = "part";
    pub const STATUS: &str = "status";
    pub const MODE: &str = "mode";
    pub const SERVICE: &str = "service";
    pub const PHASE: &str = "phase";
    pub const WORK: &str = "work";
    pub const TRANSPORT: &str = "transport";
    pub const RESULT: &str = "result";
    pub const LIMIT: &str = "limit";
    pub const SCOPE: &str = "scope";
    pub const VERSION: &str = "version";
    pub const REVISION: &str = "revision";
    pub const VERDICT: &str = "verdict";
    pub const RUSTC: &str = "rustc";
}

macro_rules! metrics {
    ($($const:ident = $name:literal, $kind:expr, $unit:ident, [$($label:ident),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $const: &str = $name;)*

        /// All metrics, in the order of the documentation.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $const,
            kind: $kind,
            unit: Unit::$unit,
            help: $help,
            labels: &[$(label::$label),*],
        }),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

metrics! {
    HTTP_REQUEST_DURATION = "http_server_request_duration_seconds", Histogram(BUCKETS_FAST), Seconds,
        [METHOD, ROUTE, STATUS_CODE, ERROR_TYPE], "Time from the head of a request to the end of its answer.";
    HTTP_ACTIVE_REQUESTS = "http_server_active_requests", Gauge, Count,
        [METHOD], "Requests being answered now.";
    REQUESTS_REFUSED = "rollcall_requests_refused_total", Counter, Count,
        [CLASS, REASON], "Requests that were told to come back, because a limit was met or too much was asked.";
    SHED_SHARE = "rollcall_shed_ratio", Gauge, Ratio,
        [CLASS], "Share of the requests of a class that is refused now, because more is asked than can be done.";
    TURN_WAIT = "rollcall_turn_wait_seconds", Histogram(BUCKETS_FAST), Seconds,
        [], "Time that a task which was ready waited for its turn on a worker.";
    LIMIT_USED = "rollcall_limit_used", Gauge, Count,
        [LIMIT], "How much of a limit of the server is used.";
    LIMIT_MAX = "rollcall_limit_max", Gauge, Count,
        [LIMIT], "What the limit is.";
    EVENTS = "rollcall_events_total", Counter, Count,
        [KIND, OUTCOME], "Events appended to the log.";
    COMMAND_QUEUE_WAIT = "rollcall_command_queue_wait_seconds", Histogram(BUCKETS_DB), Seconds,
        [], "Time a command waited for the writer.";
    APPEND_DURATION = "rollcall_event_append_duration_seconds", Histogram(BUCKETS_DB), Seconds,
        [CLASS], "Time from queueing an event to its being durable.";
    QUEUE_LENGTH = "rollcall_event_queue_length", Gauge, Count,
        [CLASS], "Events waiting for the writer.";
    QUEUE_CAPACITY = "rollcall_event_queue_capacity", Gauge, Count,
        [CLASS], "Most events that may wait for the writer.";
    EVENTS_REFUSED = "rollcall_events_refused_total", Counter, Count,
        [CLASS, REASON], "Events that the log could not take; must stay 0.";
    DB_OPERATION_DURATION = "db_client_operation_duration_seconds", Histogram(BUCKETS_DB), Seconds,
        [DB_OPERATION, DB_COLLECTION], "Time of one transaction on the log.";
    COMMIT_BATCH = "rollcall_commit_batch_events", Histogram(BUCKETS_BATCH), Count,
        [], "Events in one transaction.";
    LOG_HEAD_SEQ = "rollcall_log_head_seq", Gauge, Count,
        [], "Number of the last change that is durable.";
    PROJECTION_SEQ = "rollcall_projection_seq", Gauge, Count,
        [], "Number of the last change that reads can see; the lag is the difference to the log's head.";
    LOG_SIZE = "rollcall_log_size_bytes", Gauge, Bytes,
        [PART], "Size of the log on disk.";
    DISK_FREE = "rollcall_disk_free_bytes", Gauge, Bytes,
        [], "What the file system of the log still has for this process.";
    LOOKUPS = "rollcall_lookups_total", Counter, Count,
        [OUTCOME], "Lookups by what they were answered.";
    INSTANCES = "rollcall_instances", Gauge, Count,
        [STATUS, MODE], "Instances registered now.";
    SERVICES = "rollcall_services", Gauge, Count,
        [], "Services with at least one instance now.";
    SERVICE_INSTANCES = "rollcall_service_instances", Gauge, Count,
        [SERVICE, STATUS], "Instances of the first services seen, the rest under _other.";
    HEARTBEAT_GAP = "rollcall_heartbeat_gap_ratio", Histogram(BUCKETS_GAP), Ratio,
        [], "Gap between two heartbeats of an instance over its ttl; at 1 it expires.";
    HEARTBEATS_LATE = "rollcall_heartbeats_late_total", Counter, Count,
        [OUTCOME], "Leases that passed two thirds of their ttl, and those that a heartbeat then revived.";
    EXPIRY_LATENESS = "rollcall_expiry_lateness_seconds", Histogram(BUCKETS_WAIT), Seconds,
        [], "Time from a lease's deadline to its expiry in the log.";
    EXPIRIES = "rollcall_expiries_total", Counter, Count,
        [REASON], "Instances that the registry removed.";
    FLAP_DAMPINGS = "rollcall_flap_dampings_total", Counter, Count,
        [OUTCOME], "Instances that were held at unstable because their status changed too often, and what became of it.";
    DAMPED_INSTANCES = "rollcall_damped_instances", Gauge, Count,
        [], "Instances held at unstable now because their status changed too often.";
    CHECKS = "rollcall_checks", Gauge, Count,
        [KIND], "Instances that the registry probes.";
    PROBES = "rollcall_probes_total", Counter, Count,
        [KIND, OUTCOME], "Probes that ended.";
    PROBE_DURATION = "rollcall_probe_duration_seconds", Histogram(BUCKETS_FAST), Seconds,
        [KIND, OUTCOME], "Time of one probe, up to its time limit.";
    PROBES_IN_FLIGHT = "rollcall_probes_in_flight", Gauge, Count,
        [], "Probes under way.";
    PROBE_LAG = "rollcall_probe_lag_seconds", Histogram(BUCKETS_WAIT), Seconds,
        [], "Time from when a probe was due to when it was begun.";
    VERDICTS = "rollcall_probe_verdicts_total", Counter, Count,
        [VERDICT], "Verdicts that probes came to anew, by what they are now.";
    GUARD_ACTIVE = "rollcall_guard_active", Gauge, Count,
        [SCOPE], "Guards against mass expiry that hold: over services, and over the registry as a whole.";
    GUARD_HELD = "rollcall_guard_held_instances", Gauge, Count,
        [], "Instances whose lease has run out and whose expiry a guard holds back.";
    GUARD_ENTERED = "rollcall_guard_entered_total", Counter, Count,
        [SCOPE], "Times that a guard against mass expiry was entered.";
    WATCHERS = "rollcall_watchers", Gauge, Count,
        [TRANSPORT], "Long polls that wait and streams that are open.";
    WATCH_DURATION = "rollcall_watch_duration_seconds", Histogram(BUCKETS_WAIT), Seconds,
        [TRANSPORT, OUTCOME], "Time from the head of a long poll or stream to its end.";
    NOTIFY_DURATION = "rollcall_notify_duration_seconds", Histogram(BUCKETS_WAIT), Seconds,
        [TRANSPORT], "Time from a change being durable to its being handed to a watcher's connection.";
    REPLAY_DURATION = "rollcall_replay_duration_seconds", Gauge, Seconds,
        [PHASE], "Time that the last replay took.";
    REPLAY_EVENTS = "rollcall_replay_events", Gauge, Count,
        [PHASE], "Events that the last replay read.";
    DERIVE_LAG = "rollcall_derive_lag_events", Gauge, Count,
        [CLASS], "Events in the log that are not searched fast yet, nor rolled up.";
    SNAPSHOTS = "rollcall_snapshots_total", Counter, Count,
        [OUTCOME], "Snapshots of the state by whether they were written.";
    SNAPSHOT_DURATION = "rollcall_snapshot_duration_seconds", Histogram(BUCKETS_DB), Seconds,
        [], "Time that a snapshot took in the background.";
    RETENTION_REMOVED = "rollcall_retention_removed_events_total", Counter, Count,
        [CLASS], "Events that were older or more than what is kept.";
    KEEPER_SLICE = "rollcall_keeper_slice_seconds", Histogram(BUCKETS_DB), Seconds,
        [WORK], "Time of one slice of background work on the log.";
    READY_TIMESTAMP = "rollcall_ready_timestamp_seconds", Gauge, Seconds,
        [], "When the registry became ready; 0 before.";
    TRACE_CONTEXT = "rollcall_trace_context_total", Counter, Count,
        [RESULT], "Requests by whether their caller propagates trace context.";
    SPANS = "rollcall_spans_total", Counter, Count,
        [RESULT], "Spans kept or not, and what became of the kept ones.";
    STDERR_LINES_DROPPED = "rollcall_stderr_lines_dropped_total", Counter, Count,
        [], "Log lines lost because whoever reads standard error was too slow.";
    LOG_RECORDS = "rollcall_log_records_total", Counter, Count,
        [RESULT], "What became of the log lines that were to reach the collector (otlp_logs).";
    BUILD_INFO = "rollcall_build_info", Gauge, Count,
        [VERSION, REVISION, RUSTC], "Always 1; the labels say what is running.";
    PROCESS_CPU = "process_cpu_seconds_total", Counter, Seconds,
        [], "User and system CPU time.";
    PROCESS_OPEN_FDS = "process_open_fds", Gauge, Count,
        [], "Open file descriptors.";
    PROCESS_MAX_FDS = "process_max_fds", Gauge, Count,
        [], "Most file descriptors that may be open.";
    PROCESS_VIRTUAL_MEMORY = "process_virtual_memory_bytes", Gauge, Bytes,
        [], "Virtual memory.";
    PROCESS_RESIDENT_MEMORY = "process_resident_memory_bytes", Gauge, Bytes,
        [], "Resident memory.";
    PROCESS_START_TIME = "process_start_time_seconds", Gauge, Seconds,
        [], "When the process started.";
    PROCESS_THREADS = "process_threads", Gauge, Count,
        [], "Threads of the process.";
    RUNTIME_WORKERS = "rollcall_runtime_workers", Gauge, Count,
        [], "Worker threads of the asynchronous runtime.";
    RUNTIME_BUSY = "rollcall_runtime_busy_seconds_total", Counter, Seconds,
        [], "Time that the runtime's workers spent running tasks, summed.";
    RUNTIME_TASKS = "rollcall_runtime_alive_tasks", Gauge, Count,
        [], "Tasks that have started and not ended.";
    RUNTIME_QUEUE = "rollcall_runtime_global_queue_length", Gauge, Count,
        [], "Tasks waiting in the runtime's shared queue.";
}

macro_rules! label_values {
    ($($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* #[doc = concat!("`", $text, "`")] $variant,)*
        }

        impl $name {
            /// All values, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value as the label has it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl LabelValue for $name {
            const VALUES: &'static [Self] = Self::ALL;

            fn text(self) -> &'static str {
                self.as_str()
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

label_values! {
    /// Request methods; what is none of them is `_OTHER`, as OpenTelemetry names it.
    Method {
        Get = "GET",
        Head = "HEAD",
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
        Delete = "DELETE",
        Options = "OPTIONS",
        Trace = "TRACE",
        Connect = "CONNECT",
        Other = "_OTHER",
    }

    /// Why a request failed on this side. Empty, which Prometheus reads as absent, for all that did not: a 4xx
    /// is the caller's error.
    ErrorType {
        None = "",
        /// A fault of rollcall: 500.
        Internal = "internal",
        /// Replay is still running.
        NotReady = "not_ready",
        /// The log has failed: changes are refused.
        LogFailed = "log_failed",
        /// The log is slow and the time limit of the request passed.
        LogSlow = "log_slow",
        /// More is asked than can be done: the request was told to come back.
        Overloaded = "overloaded",
        /// The request took longer than allowed.
        Timeout = "timeout",
        /// The client went away before its answer.
        Cancelled = "cancelled",
    }

    /// Classes of request, the most important first.
    RequestClass {
        Heartbeat = "heartbeat",
        /// Registrations, updates, deregistrations.
        Change = "change",
        /// Who may be called now, and long polls and streams for it.
        Lookup = "lookup",
        /// Lists, the past, discovery for Prometheus.
        Other = "other",
    }

    /// Why a request was told to come back.
    RefusedRequest {
        /// Its caller asks more often than it may.
        CallerRate = "caller_rate",
        /// Its caller has as many long polls and streams as it may.
        CallerWatchers = "caller_watchers",
        /// There are as many long polls and streams as there may be.
        Watchers = "watchers",
        /// The namespace is full.
        NamespaceFull = "namespace_full",
        /// The service is full.
        ServiceFull = "service_full",
        /// As many requests are in progress as may be.
        InProgress = "in_progress",
        /// Those before it wait too long.
        Overload = "overload",
        /// As many questions about the past are worked on as may be.
        Past = "past",
    }

    /// Limits that are used and given back.
    Limit {
        /// Connections that are open.
        Connections = "connections",
        /// Requests in progress.
        Requests = "requests",
        /// Long polls that wait and streams that are open.
        Watchers = "watchers",
        /// Questions about the past that are worked on.
        PastReads = "past_reads",
    }

    /// The two classes of event.
    Class {
        Change = "change",
        Traffic = "traffic",
    }

    /// Kinds of event that are appended.
    EventKind {
        Registered = "registered",
        Updated = "updated",
        ModeChanged = "mode_changed",
        StatusChanged = "status_changed",
        SignalsChanged = "signals_changed",
        GuardEntered = "guard_entered",
        GuardLeft = "guard_left",
        Deregistered = "deregistered",
        Expired = "expired",
        Started = "started",
        Recovered = "recovered",
        LogGap = "log_gap",
        Checkpoint = "checkpoint",
        Heartbeat = "heartbeat",
        Lookup = "lookup",
        Compacted = "compacted",
        WatchOpened = "watch_opened",
        WatchClosed = "watch_closed",
        Notified = "notified",
    }

    /// What a registration did; everything else just is.
    EventOutcome {
        Done = "done",
        Created = "created",
        Replaced = "replaced",
        Unchanged = "unchanged",
    }

    /// What a lookup was answered.
    LookupOutcome {
        /// At least one instance of the best tiers, or of those that were asked for.
        Hit = "hit",
        /// The service is known, the list is empty.
        Empty = "empty",
        /// Only unstable instances are left.
        Degraded = "degraded",
        /// 404: never registered.
        Unknown = "unknown",
        /// 304.
        NotModified = "not_modified",
        /// 5xx.
        Error = "error",
    }

    /// Status of an instance.
    Status {
        Healthy = "healthy",
        Unstable = "unstable",
        Failed = "failed",
    }

    /// Mode of an instance.
    Mode {
        Active = "active",
        Standby = "standby",
        Draining = "draining",
    }

    /// What a probe does.
    CheckKind {
        Http = "http",
        Tcp = "tcp",
        Grpc = "grpc",
    }

    /// What came of a probe.
    ProbeOutcome {
        Passed = "passed",
        /// Answered otherwise than it should be.
        Rejected = "rejected",
        /// No connection, or one that broke off.
        Unreachable = "unreachable",
        Timeout = "timeout",
        /// The address may not be probed, or no longer.
        Forbidden = "forbidden",
        /// The registry's own fault: it tells nothing of the instance, and counts for nothing.
        Panicked = "panicked",
    }

    /// What probes say of an instance.
    Verdict {
        Pending = "pending",
        Passing = "passing",
        Suspect = "suspect",
        Failing = "failing",
    }

    /// Why the log did not take an event.
    RefusedReason {
        /// The queue stayed full until the caller's time limit.
        QueueFull = "queue_full",
        /// The log has failed, and a change was refused with 503.
        LogFailed = "log_failed",
        /// The log has failed, and traffic was served that the queue could not hold.
        LogGap = "log_gap",
    }

    /// What a transaction did.
    DbOperation {
        Insert = "INSERT",
        Select = "SELECT",
        Delete = "DELETE",
        Checkpoint = "CHECKPOINT",
    }

    /// What a transaction did it to.
    DbCollection {
        Events = "events",
        Traffic = "traffic",
        Snapshots = "snapshots",
    }

    /// Parts of the log on disk.
    LogPart {
        Changes = "changes",
        Traffic = "traffic",
        Wal = "wal",
        Snapshots = "snapshots",
    }

    /// What became of a lease that passed two thirds of its ttl.
    LateOutcome {
        /// A heartbeat came before the ttl had passed.
        Revived = "revived",
        /// The instance was marked unstable.
        Unstable = "unstable",
    }

    /// Why the registry removed an instance.
    ExpiryReason {
        /// No heartbeat for a whole ttl.
        NoHeartbeat = "no_heartbeat",
        /// The same, held back by the guard for a while.
        AfterGuard = "after_guard",
        /// Its drain had a deadline, which has passed.
        Drained = "drained",
        /// Its check had been failing for as long as its registration allows.
        CheckFailed = "check_failed",
    }

    /// What became of the damping of an instance.
    DampingOutcome {
        /// It is held at unstable from now on.
        Begun = "begun",
        /// It was quiet for long enough and was let go.
        Settled = "settled",
        /// It left, or began another life.
        Left = "left",
    }

    /// Over whom a guard holds.
    GuardScope {
        /// The registry as a whole.
        Registry = "registry",
        /// One service.
        Service = "service",
    }

    /// How a watcher is told.
    Transport {
        /// A request that is answered when something changed.
        LongPoll = "longpoll",
        /// A stream of server-sent events.
        Sse = "sse",
    }

    /// How a long poll or a stream ended.
    WatchOutcome {
        /// Long poll: the revision moved.
        Changed = "changed",
        /// Long poll: it did not.
        Unchanged = "unchanged",
        /// The client went away.
        Left = "left",
        /// Stream: its reader was too slow and was cut off.
        Slow = "slow",
        /// The registry shuts down.
        Shutdown = "shutdown",
        /// The log could not be read, or what was told could not be recorded.
        Error = "error",
    }

    /// Steps of a replay.
    ReplayPhase {
        Snapshot = "snapshot",
        Tail = "tail",
    }

    /// Whether a snapshot was written.
    SnapshotOutcome {
        Written = "written",
        Failed = "failed",
    }

    /// Background work on the log.
    Work {
        /// Making events searchable and rolling them up.
        Derive = "derive",
        /// Writing the state.
        Snapshot = "snapshot",
        /// Removing what is beyond the budgets.
        Retain = "retain",
        /// Giving free space back to the file system.
        Reclaim = "reclaim",
        /// Looking how the log stands, and saying what went.
        Look = "look",
    }

    /// What became of a span. kept = exported + export_failed + dropped_queue + those still queued.
    SpanResult {
        Kept = "kept",
        /// A request whose span was not worth keeping.
        Unsampled = "unsampled",
        Exported = "exported",
        ExportFailed = "export_failed",
        /// The queue was full.
        DroppedQueue = "dropped_queue",
    }

    /// What became of a log line that was to reach the collector.
    RecordResult {
        Exported = "exported",
        ExportFailed = "export_failed",
        /// The queue was full.
        DroppedQueue = "dropped_queue",
    }

    /// What a request's headers said of its trace.
    ContextResult {
        /// One well-formed `traceparent`: its trace is continued.
        Valid = "valid",
        /// No `traceparent`: a new trace.
        Absent = "absent",
        /// More than one, or one that breaks a rule: a new trace, and no error for the caller.
        Malformed = "malformed",
    }
}

/// A closed set of label values; implemented by the enums of this file and by nothing else.
pub trait LabelValue: Copy + 'static {
    /// All values, in the order of declaration.
    const VALUES: &'static [Self];

    /// The value as the label has it.
    fn text(self) -> &'static str;

    /// Place of the value in [`Self::VALUES`].
    fn index(self) -> usize;
}

/// Value of `http_route` for requests that match no route.
pub const ROUTE_UNMATCHED: &str = "_unmatched";
/// Value of `service` for those beyond the limit.
pub const SERVICE_OTHER: &str = "_other";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut seen = HashSet::new();
        for metric in METRICS {
            let Metric { name, kind, unit, help, .. } = *metric;
            assert!(seen.insert(name), "{name} twice");
            assert!(help.ends_with('.'), "{name}: {help}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            let bare = name.trim_end_matches("_total");
            if unit == Unit::Seconds {
                assert!(bare.ends_with("_seconds"), "{name}");
            }
            assert_eq!(bare.ends_with("_bytes"), unit == Unit::Bytes, "{name}");
            if let Kind::Histogram(buckets) = kind {
                assert!(buckets.is_sorted_by(|low, high| low < high), "{name}");
            }
        }
    }
}
