//! Where handles come from: the recorder of one instance, and families of handles by closed labels.
//!
//! Only this file speaks to the recorder. A handle is described when it is first asked for, from the table in
//! [`crate::telemetry::names`], so no series can be on the page without its help. Callers: the groups of
//! [`super`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::PrometheusRecorder;

use crate::telemetry::names::{self, Kind, LabelValue};

/// A recorder, cheap to clone.
#[derive(Clone)]
pub(super) struct Source(Arc<PrometheusRecorder>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

const METADATA: Metadata<'static> = Metadata::new("rollcall", Level::INFO, None);

impl Source {
    /// Takes the recorder over and describes every metric of the table.
    pub(super) fn new(recorder: PrometheusRecorder) -> Self {
        for metric in names::METRICS {
            let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        Self(Arc::new(recorder))
    }

    pub(super) fn counter<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Counter {
        self.0.register_counter(&key(name, labels), &METADATA)
    }

    pub(super) fn gauge<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Gauge {
        self.0.register_gauge(&key(name, labels), &METADATA)
    }

    pub(super) fn histogram<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Histogram {
        self.0.register_histogram(&key(name, labels), &METADATA)
    }

    /// A gauge without labels.
    pub(super) fn plain_gauge(&self, name: &'static str) -> Gauge {
        self.gauge::<&'static str>(name, [])
    }

    /// A histogram without labels.
    pub(super) fn plain_histogram(&self, name: &'static str) -> Histogram {
        self.histogram::<&'static str>(name, [])
    }
}

fn key<V: Into<SharedString>>(
    name: &'static str,
    labels: impl IntoIterator<Item = (&'static str, V)>,
) -> Key {
    let labels: Vec<Label> =
        labels.into_iter().map(|(key, value)| Label::new(key, value)).collect();
    Key::from_parts(name, labels)
}

/// One handle for each value of a label.
#[derive(Debug)]
pub struct Family<L, H> {
    handles: Box<[H]>,
    values: PhantomData<L>,
}

impl<L: LabelValue, H> Family<L, H> {
    pub(super) fn new(make: impl FnMut(L) -> H) -> Self {
        Self { handles: L::VALUES.iter().copied().map(make).collect(), values: PhantomData }
    }

    /// The handle for one value: an index, no look-up.
    pub fn get(&self, value: L) -> &H {
        &self.handles[value.index()]
    }
}

impl<L: LabelValue> Family<L, Counter> {
    pub(super) fn counters(source: &Source, name: &'static str, label: &'static str) -> Self {
        Self::new(|value: L| source.counter(name, [(label, value.text())]))
    }
}

impl<L: LabelValue> Family<L, Gauge> {
    pub(super) fn gauges(source: &Source, name: &'static str, label: &'static str) -> Self {
        Self::new(|value: L| source.gauge(name, [(label, value.text())]))
    }
}

impl<L: LabelValue> Family<L, Histogram> {
    pub(super) fn histograms(source: &Source, name: &'static str, label: &'static str) -> Self {
        Self::new(|value: L| source.histogram(name, [(label, value.text())]))
    }
}

/// One handle for each pair of values of two labels.
#[derive(Debug)]
pub struct Grid<A, B, H>(Family<A, Family<B, H>>);

impl<A: LabelValue, B: LabelValue, H> Grid<A, B, H> {
    pub(super) fn new(mut make: impl FnMut(A, B) -> H) -> Self {
        Self(Family::new(|a| Family::new(|b| make(a, b))))
    }

    /// The handle for one pair: two indexes, no look-up.
    pub fn get(&self, a: A, b: B) -> &H {
        self.0.get(a).get(b)
    }
}
