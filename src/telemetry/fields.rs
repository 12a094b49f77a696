//! Every field that a log line of the registry may have, with what it means: the one place that says so.
//!
//! Lines are for machines as much as for people, so that a field's name is a promise like a metric's. A test reads the
//! sources and finds lines with fields that are not here, and fields that no line has; `docs/SIGNALS.md` shows the table.
//! It decides nothing. Read by that test, and by whoever adds a line to [`super::signals`].

/// A field of log lines.
#[derive(Debug, Clone, Copy)]
pub struct LogField {
    /// Its name. The words before a dot say what it belongs to.
    pub name: &'static str,
    /// What its values are: a text, a number, and in which unit.
    pub values: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

const fn field(name: &'static str, values: &'static str, meaning: &'static str) -> LogField {
    LogField { name, values, meaning }
}

/// What every line has, by whomever it is written.
pub const COMMON_FIELDS: &[LogField] = &[
    field("timestamp", "RFC 3339", "When the line was written."),
    field(
        "level",
        "ERROR, WARN, INFO, DEBUG, TRACE",
        "ERROR needs a human, WARN is degraded but served, INFO is the life of the process and every change.",
    ),
    field("target", "text", "Which part wrote it; what `log_level` filters by."),
    field("message", "text", "What happened, readable without the rest."),
];

/// What lines say besides, each where it is known.
pub const LOG_FIELDS: &[LogField] = &[
    field("trace_id", "32 hexadecimal digits", "The trace that it happened in."),
    field("span_id", "16 hexadecimal digits", "The span of that."),
    field("route", "text", "Template of the route that was asked."),
    field("method", "text", "Method of the request."),
    field("status", "number", "HTTP status of the answer."),
    field("duration_ms", "milliseconds", "How long it took."),
    field(
        "error.type",
        "word",
        "Why it failed: the label `error_type` of metrics, or which part broke.",
    ),
    field("event.seq", "number", "Number of the change, as in `/v1/events/{id}`."),
    field("event.kind", "word", "Kind of the change."),
    field("outcome", "word", "What a registration did."),
    field("namespace", "text", "Namespace of the instance."),
    field("service", "text", "Service of the instance."),
    field("instance", "text", "The instance."),
    field("kind", "word", "Kind of a check."),
    field("address", "text", "Address that is listened on."),
    field("url", "URL", "Where the registry is to be found."),
    field("version", "text", "Version of the program."),
    field("data", "path", "Directory of the log."),
    field("log_id", "text", "Which log it is."),
    field("connections", "number", "How many connections may be open."),
    field("wanted", "number", "How many the settings ask for."),
    field("done", "number", "Changes replayed so far."),
    field("total", "number", "Changes to be replayed."),
    field("events", "number", "Events that were read."),
    field("instances", "number", "Instances alive."),
    field("services", "number", "Services with an instance."),
    field("place", "text", "What of the log is damaged."),
    field("free_pages", "number", "Pages of the file that hold nothing."),
    field("bytes", "bytes", "Size of a snapshot."),
    field("work", "word", "Kind of background work: the label `work` of metrics."),
    field(
        "lookups_lost",
        "number",
        "Lookups that are not in the log because it could not be written.",
    ),
    field("heartbeats_lost", "number", "Heartbeats of the same."),
    field("guard.over", "text", "Over whom a guard holds: a service, or the registry."),
    field("late", "number", "Instances that are late."),
    field("gone", "number", "Instances that have just expired."),
    field("living", "number", "Instances alive."),
    field("limit_ms", "milliseconds", "For how long the guard holds at most."),
    field("held", "number", "Instances whom the guard held."),
    field("held_for_ms", "milliseconds", "For how long it held."),
    field("end", "word", "Why it let go."),
    field("waited_ms", "milliseconds", "How long requests wait for their turn."),
    field("left_out", "number", "Changes without a line of their own (`log_change_rate`)."),
    field("taken", "list", "Settings that were changed, and hold."),
    field("changed", "list", "Settings that were changed, and need a restart."),
    field("step", "text", "Step of the orderly end."),
    field("spans", "number", "Spans that did not reach the collector."),
    field("records", "number", "Log records that did not reach the collector."),
];
