//! The kinds of work: what each is called, where it goes and what becomes of it. Their requests are in `requests`.

/// Heartbeats of one batch: the most that the registry takes.
pub(crate) const BATCH: usize = 1_000;

/// What is asked of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// The default answer of a service.
    Lookup,
    /// The same by a caller who has it already: 304.
    Unchanged,
    /// Those of a large service with a tag, in a zone, with a pair of metadata.
    Filtered,
    /// A renewed lease, with a load in its body.
    Heartbeat,
    /// A thousand of them in one request.
    Batch,
    /// A registration that is new or replaces another one: always a change, never an `unchanged`.
    Registration,
}

impl Work {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 6] = [
        Self::Lookup,
        Self::Unchanged,
        Self::Filtered,
        Self::Heartbeat,
        Self::Batch,
        Self::Registration,
    ];

    /// Its words in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Unchanged => "lookup, 304",
            Self::Filtered => "filtered lookup",
            Self::Heartbeat => "heartbeat",
            Self::Batch => "batch of 1,000 heartbeats",
            Self::Registration => "registration",
        }
    }

    /// The kind of event that a request of it becomes.
    pub(crate) fn event(self) -> &'static str {
        match self {
            Self::Lookup | Self::Unchanged | Self::Filtered => "lookup",
            Self::Heartbeat | Self::Batch => "heartbeat",
            Self::Registration => "registered",
        }
    }

    /// How many events that are.
    pub(crate) fn events(self) -> u64 {
        if self == Self::Batch { BATCH as u64 } else { 1 }
    }

    /// Method and route, as the metrics label them.
    pub(crate) fn route(self) -> (&'static str, &'static str) {
        match self {
            Self::Lookup | Self::Unchanged | Self::Filtered => {
                ("GET", "/v1/services/{service}/instances")
            }
            Self::Heartbeat => ("PUT", "/v1/services/{service}/instances/{instance}/heartbeat"),
            Self::Batch => ("POST", "/v1/heartbeats"),
            Self::Registration => ("PUT", "/v1/services/{service}/instances/{instance}"),
        }
    }

    /// Whether an answer of this status is the right one.
    pub(crate) fn is_answered_by(self, status: u16) -> bool {
        match self {
            Self::Unchanged => status == 304,
            Self::Registration => matches!(status, 200 | 201),
            Self::Lookup | Self::Filtered | Self::Heartbeat | Self::Batch => status == 200,
        }
    }

    /// The file with the body that the bare servers answer to it.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Lookup => "lookup.json",
            Self::Unchanged => "unchanged.json",
            Self::Filtered => "filtered.json",
            Self::Heartbeat => "heartbeat.json",
            Self::Batch => "batch.json",
            Self::Registration => "registration.json",
        }
    }
}
