//! Exemplars: beside a bucket of a latency histogram, the last observation in it whose span was kept, with its trace. They
//! make of a dot in a heatmap the very request behind it.
//!
//! The recorder knows none, so they are kept beside it, and put on the page when it is rendered in the form of
//! OpenMetrics ([`super::open`]). Written at the end of a kept request, some hundreds a second at most, and never for one
//! whose span was not kept: a link must not lead nowhere. Callers: the HTTP layers.

use std::collections::HashMap;
use std::fmt::Write as _;

use parking_lot::Mutex;

use crate::domain::Timestamp;
use crate::telemetry::names::{self, Class, Kind, LabelValue, label};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::signals::Answered;

/// One observation of a kept request.
#[derive(Debug, Clone, Copy)]
struct Exemplar {
    context: TraceContext,
    seconds: f64,
    at: Timestamp,
}

/// What is known of one bucket's series: an exemplar for each of its upper bounds, and for what is beyond the last.
type Buckets = Vec<Option<Exemplar>>;

/// All exemplars, by histogram and labels.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<HashMap<String, Buckets>>);

impl Exemplars {
    /// A request was answered on `route` and its span was kept.
    pub fn request(&self, route: &str, answered: &Answered<'_>, at: Timestamp) {
        let Answered { context, method, status, error, elapsed } = answered;
        let status = status.to_string();
        let labels = [
            (label::METHOD, method.text()),
            (label::ROUTE, route),
            (label::STATUS_CODE, &status),
            (label::ERROR_TYPE, error.text()),
        ];
        let seconds = elapsed.as_secs_f64();
        self.put(
            names::HTTP_REQUEST_DURATION,
            &labels,
            Exemplar { context: **context, seconds, at },
        );
    }

    /// A change was durable after `seconds`, and the span of its request was kept.
    pub fn change(&self, context: &TraceContext, seconds: f64, at: Timestamp) {
        let labels = [(label::CLASS, Class::Change.text())];
        self.put(names::APPEND_DURATION, &labels, Exemplar { context: *context, seconds, at });
    }

    fn put(&self, name: &str, labels: &[(&str, &str)], exemplar: Exemplar) {
        let Some(bounds) = bounds_of(name) else { return };
        let mut series = format!("{name}_bucket{{");
        for (place, (key, value)) in labels.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            // Into a string; and no label value of these has anything to escape.
            let _ = write!(series, "{comma}{key}=\"{value}\"");
        }
        let bucket = bounds.partition_point(|bound| *bound < exemplar.seconds);
        let mut all = self.0.lock();
        let buckets = all.entry(series).or_insert_with(|| vec![None; bounds.len() + 1]);
        buckets[bucket] = Some(exemplar);
    }

    /// The exemplar of a bucket as OpenMetrics has it behind the bucket's value, ` # {...} value time`; `series` is the
    /// bucket's line as far as its last label, `bound` what that says.
    pub(super) fn text(&self, series: &str, bound: &str) -> Option<String> {
        let all = self.0.lock();
        let buckets = all.get(series)?;
        let bounds = bounds_of(series.split_once("_bucket{")?.0)?;
        let place = match bound {
            "+Inf" => bounds.len(),
            bound => {
                let bound: f64 = bound.parse().ok()?;
                bounds.iter().position(|known| known.total_cmp(&bound).is_eq())?
            }
        };
        let Exemplar { context, seconds, at } = buckets.get(place).copied().flatten()?;
        let (trace_id, span_id) = (context.trace_id, context.span_id);
        let (whole, micros) =
            (at.micros().div_euclid(1_000_000), at.micros().rem_euclid(1_000_000));
        Some(format!(
            " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {seconds} {whole}.{micros:06}"
        ))
    }
}

/// The upper bounds of a histogram's buckets.
fn bounds_of(name: &str) -> Option<&'static [f64]> {
    names::METRICS.iter().find(|metric| metric.name == name).and_then(|metric| match metric.kind {
        Kind::Histogram(bounds) => Some(bounds),
        Kind::Counter | Kind::Gauge => None,
    })
}
