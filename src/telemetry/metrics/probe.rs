//! Metrics of the registry's probes: how many there are, how long they take, what comes of them, and whether they are made
//! when they are due. Callers: the prober.

use ::metrics::{Counter, Gauge, Histogram};

use super::source::{Family, Grid, Source};
use crate::telemetry::names::{self, CheckKind, LabelValue, ProbeOutcome, Verdict, label};

/// Handles of the prober.
#[derive(Debug)]
pub struct ProbeMetrics {
    /// Instances that are probed.
    pub checks: Family<CheckKind, Gauge>,
    /// Probes that ended.
    pub probes: Grid<CheckKind, ProbeOutcome, Counter>,
    /// Seconds of one probe.
    pub duration_seconds: Grid<CheckKind, ProbeOutcome, Histogram>,
    /// Probes under way.
    pub in_flight: Gauge,
    /// Seconds from when a probe was due to when it was begun.
    pub lag_seconds: Histogram,
    /// Verdicts that changed, by what they are now.
    pub verdicts: Family<Verdict, Counter>,
}

impl ProbeMetrics {
    pub(super) fn new(source: &Source) -> Self {
        Self {
            checks: Family::gauges(source, names::CHECKS, label::KIND),
            probes: Grid::new(|kind, outcome| source.counter(names::PROBES, labels(kind, outcome))),
            duration_seconds: Grid::new(|kind, outcome| {
                source.histogram(names::PROBE_DURATION, labels(kind, outcome))
            }),
            in_flight: source.plain_gauge(names::PROBES_IN_FLIGHT),
            lag_seconds: source.plain_histogram(names::PROBE_LAG),
            verdicts: Family::counters(source, names::VERDICTS, label::VERDICT),
        }
    }
}

fn labels(kind: CheckKind, outcome: ProbeOutcome) -> [(&'static str, &'static str); 2] {
    [(label::KIND, kind.text()), (label::OUTCOME, outcome.text())]
}
