//! Metrics of those who wait for changes: how many there are, how long they stay, how soon they are told.
//!
//! Long polls are here and not among the requests, where their waiting would drown the lookups. No service and no
//! caller is ever a label. Callers: the HTTP layer.

use ::metrics::{Gauge, Histogram};

use super::source::{Family, Grid, Source};
use crate::telemetry::names::{self, LabelValue, Transport, WatchOutcome, label};

/// Handles of long polls and streams.
#[derive(Debug)]
pub struct WatchMetrics {
    watchers: Family<Transport, Gauge>,
    /// Seconds from the head of a long poll or stream to its end. Pairs that cannot be have a handle that does nothing.
    pub duration_seconds: Grid<Transport, WatchOutcome, Histogram>,
    /// Seconds from a change being durable to its being handed to a watcher's connection.
    pub notify_seconds: Family<Transport, Histogram>,
}

impl WatchMetrics {
    pub(super) fn new(source: &Source) -> Self {
        use WatchOutcome::{Changed, Error, Left, Shutdown, Slow, Unchanged};
        Self {
            watchers: Family::gauges(source, names::WATCHERS, label::TRANSPORT),
            duration_seconds: Grid::new(|transport: Transport, outcome: WatchOutcome| {
                match (transport, outcome) {
                    (Transport::LongPoll, Slow) | (Transport::Sse, Changed | Unchanged) => {
                        return Histogram::noop();
                    }
                    (_, Changed | Unchanged | Left | Slow | Shutdown | Error) => {}
                }
                let labels =
                    [(label::TRANSPORT, transport.text()), (label::OUTCOME, outcome.text())];
                source.histogram(names::WATCH_DURATION, labels)
            }),
            notify_seconds: Family::histograms(source, names::NOTIFY_DURATION, label::TRANSPORT),
        }
    }

    /// Counts a watcher until the guard is dropped, however it ends.
    pub fn watching(&self, transport: Transport) -> Watching {
        let gauge = self.watchers.get(transport).clone();
        gauge.increment(1.0);
        Watching(gauge)
    }
}

/// A watcher; counts down on drop.
#[derive(Debug)]
#[must_use = "the watcher counts as gone when this is dropped"]
pub struct Watching(Gauge);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
