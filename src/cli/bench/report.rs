//! The figures of a load: a line while it goes on, a table and a histogram at its end, or JSON. Shows what was seen and
//! leaves nothing out.

use std::fmt::Write as _;
use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::load::Load;
use super::seen::Outcome;
use super::work::Kind;
use super::{Measured, Plan};
use crate::cli::output::{table, write_table};

/// Shares of the requests that are answered within the latency that is told.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.999_9)];
/// Characters of the longest bar.
const BAR: u64 = 40;

/// All there is to tell.
pub(super) struct Report<'a> {
    pub(super) version: String,
    pub(super) measured: Measured,
    pub(super) plan: &'a Plan,
    pub(super) rate: Option<f64>,
}

/// One line about a load that goes on.
pub(super) fn so_far(load: &Load) -> String {
    let outcomes = load.seen.outcomes(&Kind::ALL);
    let seconds = load.counted().as_secs_f64();
    if seconds == 0.0 {
        return "warming up".to_owned();
    }
    let mut all = outcomes[0].latencies.clone();
    for outcome in &outcomes[1..] {
        all.add(&outcome.latencies).expect("all have the same bounds");
    }
    let lost: u64 = outcomes.iter().map(Outcome::lost).sum();
    format!(
        "{seconds:5.0} s  {:>9.0}/s  p50 {}  p99 {}  max {}  {lost} refused or failed",
        per_second(all.len(), seconds),
        span(all.value_at_quantile(0.5)),
        span(all.value_at_quantile(0.99)),
        span(all.max()),
    )
}

impl Outcome {
    /// Requests that were refused or failed.
    fn lost(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.failed
    }
}

impl Report<'_> {
    /// Whether everything that was due was done.
    pub(super) fn is_whole(&self) -> bool {
        self.measured.unsent == 0 && self.measured.outcomes.iter().all(|seen| seen.lost() == 0)
    }

    /// As JSON; latencies are seconds.
    pub(super) fn json(&self) -> Value {
        let Plan { url, namespace, work, connections, services, instances, .. } = self.plan;
        let Measured { outcomes, unsent, seconds, interrupted } = &self.measured;
        json!({
            "url": url, "version": self.version, "work": work.name(),
            "loop": if self.rate.is_some() { "open" } else { "closed" }, "rate": self.rate,
            "connections": connections, "services": services, "instances": instances,
            "namespace": namespace, "seconds": seconds, "interrupted": interrupted, "unsent": unsent,
            "results": outcomes.iter().map(|outcome| result(outcome, *seconds)).collect::<Vec<_>>(),
        })
    }

    /// As a table, and a histogram for each kind of request.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Plan { url, work, connections, services, instances, .. } = self.plan;
        let Measured { outcomes, unsent, seconds, interrupted } = &self.measured;
        let way = match self.rate {
            Some(rate) => format!("open loop at {rate}/s"),
            None => "closed loop".to_owned(),
        };
        writeln!(
            out,
            "{} on {url} (rollcall {}): {way}, {connections} connections, {services} services of {instances}, {seconds:.1} s{}",
            work.name(),
            self.version,
            if *interrupted { ", interrupted" } else { "" },
        )?;
        writeln!(out)?;
        let mut rows = table(&[
            "WORK", "REQUESTS", "RATE/S", "P50", "P90", "P99", "P99.9", "MAX", "REFUSED", "FAILED",
        ]);
        for Outcome { kind, latencies, refused, failed } in outcomes {
            let at = |share| span(latencies.value_at_quantile(share));
            rows.add_row(vec![
                kind.name().to_owned(),
                latencies.len().to_string(),
                format!("{:.0}", per_second(latencies.len(), *seconds)),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                span(latencies.max()),
                by_status(refused),
                failed.to_string(),
            ]);
        }
        write_table(out, &rows)?;
        for outcome in outcomes.iter().filter(|outcome| !outcome.latencies.is_empty()) {
            writeln!(out)?;
            let mut rows = table(&[outcome.kind.name(), "REQUESTS", "SHARE", ""]);
            let buckets = buckets(&outcome.latencies);
            let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
            for (up_to, count) in buckets {
                let length = usize::try_from((count * BAR).div_ceil(most)).unwrap_or_default();
                let share = 100.0 * ratio(count, outcome.latencies.len());
                rows.add_row(vec![
                    format!("up to {}", span(up_to)),
                    count.to_string(),
                    format!("{share:.2} %"),
                    "█".repeat(length),
                ]);
            }
            write_table(out, &rows)?;
        }
        if *unsent > 0 {
            writeln!(out)?;
            writeln!(
                out,
                "{unsent} requests were due and not sent in time: the registry is slower than the rate, and the latencies \
                 above leave these out"
            )?;
        }
        Ok(())
    }
}

fn result(outcome: &Outcome, seconds: f64) -> Value {
    let Outcome { kind, latencies, refused, failed } = outcome;
    let mut latency = serde_json::Map::new();
    for (name, share) in QUANTILES {
        latency.insert(name.to_owned(), json!(in_seconds(latencies.value_at_quantile(share))));
    }
    latency.insert("max".to_owned(), json!(in_seconds(latencies.max())));
    latency.insert("mean".to_owned(), json!(latencies.mean() / 1e9));
    let refused: serde_json::Map<_, _> =
        refused.iter().map(|(status, count)| (status.to_string(), json!(count))).collect();
    let buckets: Vec<_> = buckets(latencies)
        .into_iter()
        .map(|(up_to, count)| json!({"up_to": in_seconds(up_to), "requests": count}))
        .collect();
    json!({
        "work": kind.name(), "requests": latencies.len(), "rate": per_second(latencies.len(), seconds),
        "latency_seconds": latency, "histogram": buckets, "refused": refused, "failed": failed,
    })
}

/// How many requests took how long, between limits of 1, 2 and 5 times a power of ten: the upper limit in nanoseconds,
/// and those above the one before. Begins and ends where there are any.
fn buckets(latencies: &Histogram<u64>) -> Vec<(u64, u64)> {
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    let mut limits = (3..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let mut limit = 0;
    // One by one, because what the histogram keeps as one value may lie on both sides of a limit.
    for step in latencies.iter_recorded() {
        while step.value_iterated_to() > limit {
            limit = limits.next().unwrap_or(u64::MAX);
            if !buckets.is_empty() || step.value_iterated_to() <= limit {
                buckets.push((limit, 0));
            }
        }
        if let Some((_, count)) = buckets.last_mut() {
            *count += step.count_at_value();
        }
    }
    buckets
}

fn by_status(refused: &std::collections::BTreeMap<u16, u64>) -> String {
    if refused.is_empty() {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (status, count) in refused {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(text, "{separator}{count} x {status}");
    }
    text
}

/// Nanoseconds as people say them.
fn span(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{:.0} µs", in_seconds(nanos) * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", in_seconds(nanos) * 1e3),
        _ => format!("{:.2} s", in_seconds(nanos)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure with a few digits")]
fn in_seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "a figure with a few digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a figure with a few digits")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_request_once() {
        let mut latencies = Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("bounds");
        assert_eq!(buckets(&latencies), []);
        for nanos in [60_000, 61_000, 99_000, 150_000, 1_500_000, 1_999_999, 2_000_001, 70_000_000]
        {
            latencies.record(nanos).expect("within the bounds");
        }
        let buckets = buckets(&latencies);
        assert_eq!(buckets.first(), Some(&(100_000, 3)));
        assert_eq!(buckets[1], (200_000, 1));
        assert_eq!(buckets.last(), Some(&(100_000_000, 1)));
        assert_eq!(buckets.len(), 10, "{buckets:?}");
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 8);
    }

    #[test]
    fn spans_are_said_in_their_unit() {
        let said = [63_000, 1_250_000, 2_345_000_000].map(span);
        assert_eq!(said, ["63 µs", "1.2 ms", "2.35 s"]);
    }
}
