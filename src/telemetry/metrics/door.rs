//! Metrics of the door: who is told to come back and why, and how much of each limit is used.
//!
//! No caller is ever a label. Callers: the HTTP layer.

use ::metrics::{Counter, Gauge, Histogram};

use super::source::{Family, Grid, Source};
use crate::telemetry::names::{self, LabelValue, Limit, RefusedRequest, RequestClass, label};

/// Handles of the door.
#[derive(Debug)]
pub struct DoorMetrics {
    /// Requests that were told to come back. Pairs that cannot be have a handle that does nothing.
    pub refused: Grid<RequestClass, RefusedRequest, Counter>,
    /// Share of a class that is refused because too much is asked.
    pub refused_share: Family<RequestClass, Gauge>,
    /// Seconds that a task which was ready waited for its turn.
    pub turn_seconds: Histogram,
    /// How much of a limit is used.
    pub limit_used: Family<Limit, Gauge>,
    /// What the limit is.
    pub limit_max: Family<Limit, Gauge>,
}

impl DoorMetrics {
    pub(super) fn new(source: &Source) -> Self {
        Self {
            refused: Grid::new(|class: RequestClass, reason: RefusedRequest| {
                let possible = match reason {
                    RefusedRequest::CallerRate
                    | RefusedRequest::InProgress
                    | RefusedRequest::Overload => true,
                    RefusedRequest::CallerWatchers | RefusedRequest::Watchers => {
                        class == RequestClass::Lookup
                    }
                    RefusedRequest::NamespaceFull | RefusedRequest::ServiceFull => {
                        class == RequestClass::Change
                    }
                    RefusedRequest::Past => class == RequestClass::Other,
                };
                if !possible {
                    return Counter::noop();
                }
                let labels = [(label::CLASS, class.text()), (label::REASON, reason.text())];
                source.counter(names::REQUESTS_REFUSED, labels)
            }),
            refused_share: Family::gauges(source, names::SHED_SHARE, label::CLASS),
            turn_seconds: source.plain_histogram(names::TURN_WAIT),
            limit_used: Family::gauges(source, names::LIMIT_USED, label::LIMIT),
            limit_max: Family::gauges(source, names::LIMIT_MAX, label::LIMIT),
        }
    }
}
