//! What the prober says of itself: metrics of every probe, spans of those that are worth it.
//!
//! Each probe has a trace of its own, whose ids go along with the request and into the event of a verdict. Whether its span
//! is kept is decided at its end, as with requests, but under caps of their own: an outage in which all probes fail must not
//! take the places of failed requests. No instance and no address is ever a label. Called by [`super::runner`].

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;

use super::runner::trace_ref;
use super::schedule::{Found, Job, Prober};
use crate::clock::Monotonic;
use crate::domain::check::{CheckKind, CheckMethod};
use crate::domain::health::{ProbeOutcome, ProbeVerdict};
use crate::domain::{Instance, Seq, Timestamp, TraceRef};
use crate::projection::Projection;
use crate::registrar::Telemetry;
use crate::registrar::observe::{link, system_time};
use crate::telemetry::keep::{Ending, Outcome, Pace};
use crate::telemetry::metrics::set_count;
use crate::telemetry::names;
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::signals;
use crate::telemetry::spans::{KeyValue, SpanKind, SpanRecord, Status};

/// Tells of probes.
#[derive(Debug)]
pub(super) struct Telling {
    telemetry: Telemetry,
    projection: Arc<Projection>,
}

/// A probe as its span will tell it.
#[derive(Debug)]
pub(super) struct Span {
    context: TraceContext,
    sampled: bool,
    job: Job,
    took: Duration,
    ended: Timestamp,
    found: Option<Found>,
}

impl Span {
    /// What goes along with the probe.
    pub(super) fn traceparent(&self) -> String {
        let context = if self.sampled { self.context.sampled() } else { self.context };
        String::from_utf8_lossy(&context.traceresponse()).into_owned()
    }

    /// The ids for the event.
    pub(super) fn trace(&self) -> TraceRef {
        trace_ref(&self.context)
    }

    pub(super) fn took(self, took: Duration) -> Self {
        Self { took, ..self }
    }

    pub(super) fn ended(self, found: &Found, ended: Timestamp) -> Self {
        Self { found: Some(found.clone()), ended, ..self }
    }
}

impl Telling {
    pub(super) fn new(telemetry: Telemetry, projection: Arc<Projection>) -> Self {
        Self { telemetry, projection }
    }

    /// These are all that are probed.
    pub(super) fn known(&self, prober: &Prober) {
        for kind in CheckKind::ALL {
            let checks = self.telemetry.metrics.probe.checks.get(kind_label(*kind));
            set_count(checks, prober.of_kind(*kind) as u64);
        }
    }

    /// So many probes are under way.
    pub(super) fn under_way(&self, probes: usize) {
        set_count(&self.telemetry.metrics.probe.in_flight, probes as u64);
    }

    /// A probe was begun.
    pub(super) fn begun(&self, job: &Job) {
        let lag = job.lag.to_duration().as_secs_f64();
        self.telemetry.metrics.probe.lag_seconds.record(lag);
    }

    /// The span of a probe that begins.
    pub(super) fn span(&self, job: &Job) -> Span {
        let context = TraceContext::root();
        let sampled = self.telemetry.tracer.samples(&context);
        Span {
            context,
            sampled,
            job: job.clone(),
            took: Duration::ZERO,
            ended: Timestamp::default(),
            found: None,
        }
    }

    /// A probe ended.
    pub(super) fn found(&self, span: &Span, found: &Found) {
        let (kind, outcome) = (kind_label(span.job.check.kind), outcome_label(found.outcome));
        let metrics = &self.telemetry.metrics.probe;
        metrics.probes.get(kind, outcome).increment(1);
        metrics.duration_seconds.get(kind, outcome).record(span.took.as_secs_f64());
    }

    /// A probe panicked, which is a fault of this registry and not of the instance.
    pub(super) fn panicked(&self, job: &Job, error: &JoinError) {
        let kind = kind_label(job.check.kind);
        let counted = self.telemetry.metrics.probe.probes.get(kind, names::ProbeOutcome::Panicked);
        signals::probe_panicked(counted, kind, &job.instance.key, error);
    }

    /// A verdict is another one now.
    pub(super) fn judged(&self, verdict: ProbeVerdict) {
        self.telemetry.metrics.probe.verdicts.get(verdict_label(verdict)).increment(1);
    }

    /// Keeps the span of a probe if it is worth it; `led_to` is the change that it led to, and the verdict of that.
    pub(super) fn emit(&self, span: Span, led_to: Option<(Seq, ProbeVerdict)>, now: Monotonic) {
        let tracer = &self.telemetry.tracer;
        let Some(found) = &span.found else { return };
        let outcome = Outcome {
            // That somebody else is unwell is no failure of this registry, and is found again with every turn.
            ending: match found.outcome {
                ProbeOutcome::Passed => Ending::Well,
                _ => Ending::Refused,
            },
            changed: led_to.is_some(),
            elapsed: span.took,
            // How slow it is, is the instance's affair: it has its time limit.
            pace: Pace::Unhurried,
            now: Duration::from_micros(now.0),
        };
        if let Some(reason) = tracer.keep_probe(&span.context, &outcome) {
            let mut record = self.record(&span, found, led_to);
            record.attributes.push(KeyValue::new("rollcall.keep", reason.as_str()));
            tracer.emit(record);
        }
    }

    fn record(
        &self,
        span: &Span,
        found: &Found,
        led_to: Option<(Seq, ProbeVerdict)>,
    ) -> SpanRecord {
        let Job { instance, check, .. } = &span.job;
        let end = system_time(span.ended);
        let start = end.checked_sub(span.took).unwrap_or(end);
        let context = span.context.sampled();
        let mut record = SpanRecord::new("probe", SpanKind::Client, context, start, end);
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let port = check.port.unwrap_or(instance.endpoint.port);
        record.attributes = vec![
            KeyValue::new("rollcall.service", instance.key.service.service.to_string()),
            KeyValue::new("rollcall.instance", instance.key.instance.to_string()),
            KeyValue::new("rollcall.check.kind", check.kind.as_str()),
            KeyValue::new("rollcall.check.outcome", found.outcome.as_str()),
            KeyValue::new("server.address", instance.endpoint.address.to_string()),
            KeyValue::new("server.port", i64::from(port)),
        ];
        let status = found.status.map(i64::from);
        match check.kind {
            CheckKind::Http => {
                let method = match check.method {
                    CheckMethod::Get => "GET",
                    CheckMethod::Head => "HEAD",
                };
                record.attributes.push(KeyValue::new("http.request.method", method));
                record.attributes.push(KeyValue::new("url.path", check.path.to_string()));
                let status =
                    status.map(|status| KeyValue::new("http.response.status_code", status));
                record.attributes.extend(status);
            }
            CheckKind::Grpc => {
                record.attributes.push(KeyValue::new("rpc.system", "grpc"));
                record.attributes.push(KeyValue::new("rpc.service", "grpc.health.v1.Health"));
                record.attributes.push(KeyValue::new("rpc.method", "Check"));
            }
            CheckKind::Tcp => {}
        }
        if let Some((seq, verdict)) = led_to {
            record.attributes.push(KeyValue::new("rollcall.check.verdict", verdict.as_str()));
            record.attributes.push(KeyValue::new("rollcall.event.seq", number(seq.0)));
        }
        if found.outcome != ProbeOutcome::Passed {
            record.attributes.push(KeyValue::new("error.type", found.outcome.as_str()));
            record.status = Status::error(found.error.as_deref().unwrap_or_default().to_owned());
        }
        record.links.extend(self.registration(instance).and_then(|of| link(of, "registration")));
        record
    }

    /// The trace of the registration that began the life of an instance.
    fn registration(&self, instance: &Instance) -> Option<TraceRef> {
        let key = &instance.key;
        let view = self
            .projection
            .service(key.service.namespace.as_str(), key.service.service.as_str())?;
        let entry = view.entry(key.instance.as_str())?;
        (entry.instance.incarnation == instance.incarnation).then(|| entry.lease.registration())
    }
}

fn kind_label(kind: CheckKind) -> names::CheckKind {
    match kind {
        CheckKind::Http => names::CheckKind::Http,
        CheckKind::Tcp => names::CheckKind::Tcp,
        CheckKind::Grpc => names::CheckKind::Grpc,
    }
}

fn outcome_label(outcome: ProbeOutcome) -> names::ProbeOutcome {
    match outcome {
        ProbeOutcome::Passed => names::ProbeOutcome::Passed,
        ProbeOutcome::Rejected => names::ProbeOutcome::Rejected,
        ProbeOutcome::Unreachable => names::ProbeOutcome::Unreachable,
        ProbeOutcome::Timeout => names::ProbeOutcome::Timeout,
        ProbeOutcome::Forbidden => names::ProbeOutcome::Forbidden,
    }
}

fn verdict_label(verdict: ProbeVerdict) -> names::Verdict {
    match verdict {
        ProbeVerdict::Pending => names::Verdict::Pending,
        ProbeVerdict::Passing => names::Verdict::Passing,
        ProbeVerdict::Suspect => names::Verdict::Suspect,
        ProbeVerdict::Failing => names::Verdict::Failing,
    }
}
