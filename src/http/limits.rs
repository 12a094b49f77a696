//! The limits as the status and the metrics show them: what each is, and how much of it is used.

use serde::Serialize;

use super::Api;
use super::admission::{Rate, Used};
use crate::domain::Quotas;
use crate::telemetry::metrics::set_count;
use crate::telemetry::names::{Limit, RequestClass};

#[derive(Serialize)]
pub(super) struct Limits {
    connections: Fill,
    requests: Fill,
    watchers: Fill,
    past_reads: Fill,
    watchers_per_caller: Option<usize>,
    caller_rate: Option<u32>,
    caller_burst: Option<u32>,
    instances_per_namespace: Option<u32>,
    instances_per_service: Option<u32>,
    shedding: Option<Shedding>,
}

#[derive(Serialize)]
struct Fill {
    used: usize,
    limit: usize,
}

impl From<Used> for Fill {
    fn from(Used { used, limit }: Used) -> Self {
        Self { used, limit }
    }
}

/// What is refused because too much is asked.
#[derive(Serialize)]
struct Shedding {
    /// How long a lookup may wait for its turn.
    queue_time_ms: f64,
    /// How long it waits.
    waits_ms: f64,
    refused: Refused,
}

/// Shares of what comes.
#[derive(Serialize)]
struct Refused {
    heartbeat: f64,
    change: f64,
    lookup: f64,
    other: f64,
}

/// The limits of this server.
pub(super) fn of(api: &Api) -> Limits {
    let (door, config) = (&api.admission, api.admission.config());
    let seen = door.seen();
    let share = |class| (seen.share(class) * 1_000.0).round() / 1_000.0;
    let millis = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    let Quotas { namespace, service } = api.config.quotas;
    Limits {
        connections: door.connections_used().into(),
        requests: door.requests_used().into(),
        watchers: door.watchers_used().into(),
        past_reads: door.past_used().into(),
        watchers_per_caller: config.watchers_per_caller,
        caller_rate: config.caller_rate.map(|Rate { per_second, .. }| per_second),
        caller_burst: config.caller_rate.map(|Rate { burst, .. }| burst),
        instances_per_namespace: namespace,
        instances_per_service: service,
        shedding: config.queue_time.map(|queue_time| Shedding {
            queue_time_ms: millis(queue_time),
            waits_ms: millis(seen.waited),
            refused: Refused {
                heartbeat: share(RequestClass::Heartbeat),
                change: share(RequestClass::Change),
                lookup: share(RequestClass::Lookup),
                other: share(RequestClass::Other),
            },
        }),
    }
}

/// Brings the gauges of the limits up to this moment.
pub(super) fn gauges(api: &Api) {
    let (door, metrics) = (&api.admission, &api.metrics.door);
    for (limit, Used { used, limit: most }) in [
        (Limit::Connections, door.connections_used()),
        (Limit::Requests, door.requests_used()),
        (Limit::Watchers, door.watchers_used()),
        (Limit::PastReads, door.past_used()),
    ] {
        set_count(metrics.limit_used.get(limit), used as u64);
        set_count(metrics.limit_max.get(limit), most as u64);
    }
}
