//! Where handles come from: the recorder of one instance, and families of handles by closed labels.
//!
//! Histograms are not the recorder's: it keeps each observation, with its time, until somebody moves it into its bucket,
//! which costs a request as much as finding its service. They are [`super::shards`], and write themselves on the page.
//!
//! Nor are gauges with an open label, of which there may be thousands: the recorder copies, hashes and formats the labels of
//! all its series anew for each page, some two microseconds a series.
//!
//! Only this file speaks to the recorder. A handle is described when it is first asked for, from the table in
//! [`crate::telemetry::names`], so no series can be on the page without its help. Callers: the groups of
//! [`super`].

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::PrometheusRecorder;
use parking_lot::Mutex;

use super::shards::{Buckets, Tally};
use crate::telemetry::names::{Kind, LabelValue, METRICS};
use crate::yielding;

/// A recorder, cheap to clone.
#[derive(Clone)]
pub(super) struct Source(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    histograms: Mutex<Vec<Series>>,
    /// By name.
    open_gauges: Mutex<BTreeMap<&'static str, Vec<OpenGauge>>>,
    /// Counters that count for themselves, each with the recorder's, which shows what they have counted.
    tallies: Mutex<Vec<(Arc<Tally>, Counter)>>,
}

/// A histogram with its name and labels.
struct Series {
    name: &'static str,
    labels: Vec<(&'static str, SharedString)>,
    /// The labels as the page has them, each with its comma.
    text: String,
    buckets: Arc<Buckets>,
}

/// A gauge with the labels as the page has them.
struct OpenGauge {
    labels: String,
    /// The bits of its number.
    value: Arc<AtomicU64>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Gauges with open labels that are written in one stretch, some ten microseconds.
const STRETCH: usize = 64;

const METADATA: Metadata<'static> = Metadata::new("rollcall", Level::INFO, None);

impl Source {
    /// Takes the recorder over and describes every metric of the table.
    pub(super) fn new(recorder: PrometheusRecorder) -> Self {
        for metric in METRICS {
            let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => {}
            }
        }
        let (histograms, tallies) = (Mutex::default(), Mutex::default());
        let open_gauges = Mutex::default();
        Self(Arc::new(Inner { recorder, histograms, open_gauges, tallies }))
    }

    pub(super) fn counter<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Counter {
        self.0.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A counter that every request moves.
    fn busy_counter<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Counter {
        let tally = Arc::<Tally>::default();
        self.0.tallies.lock().push((Arc::clone(&tally), self.counter(name, labels)));
        Counter::from_arc(tally)
    }

    pub(super) fn gauge<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Gauge {
        self.0.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A gauge with a label whose values nobody knows beforehand; to be asked for once for each of them.
    pub(super) fn open_gauge(&self, name: &'static str, labels: &[(&str, &str)]) -> Gauge {
        let value = Arc::<AtomicU64>::default();
        // Names keep a rule that leaves no character which would need an escape.
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let gauge = OpenGauge { labels: labels.join(","), value: Arc::clone(&value) };
        self.0.open_gauges.lock().entry(name).or_default().push(gauge);
        Gauge::from_arc(value)
    }

    pub(super) fn histogram<V: Into<SharedString>>(
        &self,
        name: &'static str,
        labels: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Histogram {
        let labels: Vec<_> = labels.into_iter().map(|(key, value)| (key, value.into())).collect();
        let mut histograms = self.0.histograms.lock();
        let known = histograms.iter().find(|known| known.name == name && known.labels == labels);
        if let Some(known) = known {
            return Histogram::from_arc(Arc::clone(&known.buckets));
        }
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let bounds = match metric.map(|metric| metric.kind) {
            Some(Kind::Histogram(bounds)) => bounds,
            Some(Kind::Counter | Kind::Gauge) | None => &[],
        };
        let buckets = Arc::new(Buckets::new(bounds));
        let mut text = String::new();
        for (key, value) in &labels {
            // Closed words and templates: none of them has a character that would need an escape.
            let _ = write!(text, "{key}=\"{value}\",");
        }
        histograms.push(Series { name, labels, text, buckets: Arc::clone(&buckets) });
        Histogram::from_arc(buckets)
    }

    /// Keeps everybody else from looking at the histograms, as rendering a page does.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Drop {
        self.0.histograms.lock()
    }

    /// A gauge without labels.
    pub(super) fn plain_gauge(&self, name: &'static str) -> Gauge {
        self.gauge::<&'static str>(name, [])
    }

    /// A histogram without labels.
    pub(super) fn plain_histogram(&self, name: &'static str) -> Histogram {
        self.histogram::<&'static str>(name, [])
    }

    /// Lets the recorder know what the busy counters have counted, before it is asked.
    pub(super) fn settle(&self) {
        for (tally, counter) in self.0.tallies.lock().iter() {
            counter.absolute(tally.sum());
        }
    }

    /// Appends the histograms to a page.
    pub(super) fn append_to(&self, page: &mut String) {
        for metric in METRICS.iter().filter(|metric| matches!(metric.kind, Kind::Histogram(_))) {
            // For as short as can be, as a failure of a kind that was not seen before enters a series.
            let histograms = self.0.histograms.lock();
            let mut series =
                histograms.iter().filter(|series| series.name == metric.name).peekable();
            if series.peek().is_none() {
                continue;
            }
            let (name, help) = (metric.name, metric.help);
            // Writing to a String cannot fail.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} histogram");
            series.for_each(|series| series.append_to(page));
            page.push('\n');
            drop(histograms);
            yielding::pause();
        }
        let names: Vec<&'static str> = self.0.open_gauges.lock().keys().copied().collect();
        for name in names {
            let help = METRICS.iter().find(|metric| metric.name == name).map_or("", |m| m.help);
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge");
            let mut shown = 0;
            while let more @ 1.. = self.append_gauges(page, name, shown) {
                shown += more;
                yielding::pause();
            }
            page.push('\n');
        }
    }

    /// Appends the next gauges of this name, after those that are shown; how many. Few, because who has a new one to enter
    /// waits meanwhile.
    fn append_gauges(&self, page: &mut String, name: &str, shown: usize) -> usize {
        let all = self.0.open_gauges.lock();
        let rest = all.get(name).into_iter().flatten().skip(shown).take(STRETCH);
        rest.map(|OpenGauge { labels, value }| {
            let value = f64::from_bits(value.load(Relaxed));
            let _ = writeln!(page, "{name}{{{labels}}} {value}");
        })
        .count()
    }
}

impl Series {
    fn append_to(&self, page: &mut String) {
        let (name, labels, shown) = (self.name, &self.text, self.buckets.show());
        for (bound, count) in &shown.below {
            let _ = writeln!(page, "{name}_bucket{{{labels}le=\"{bound}\"}} {count}");
        }
        let count = shown.count;
        let _ = writeln!(page, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}");
        let labels = match labels.strip_suffix(',') {
            Some(labels) => format!("{{{labels}}}"),
            None => String::new(),
        };
        let _ = writeln!(page, "{name}_sum{labels} {}\n{name}_count{labels} {count}", shown.sum);
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

    /// Of counters that every request moves.
    pub(super) fn busy_counters(source: &Source, name: &'static str, label: &'static str) -> Self {
        Self::new(|value: L| source.busy_counter(name, [(label, value.text())]))
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
