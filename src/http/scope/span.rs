//! The span of a request, made at its end and only if it is kept: attributes after the stable HTTP
//! conventions of OpenTelemetry (1.x, "HTTP server"), the steps of a change as children.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, Request, Uri, Version, header};

use super::{Exchange, Watch};
use crate::domain::{Change, InstanceId, ServiceName, Timestamp};
use crate::http::caller::Peer;
use crate::registrar::Timings;
use crate::telemetry::keep::{Ending, KeepReason, Outcome, Pace};
use crate::telemetry::metrics::Exemplars;
use crate::telemetry::names::{ErrorType, RequestClass};
use crate::telemetry::propagation::{ContextResult, TraceContext, join_tracestate};
use crate::telemetry::signals::Answered;
use crate::telemetry::spans::{KeyValue, SpanKind, SpanRecord, Status};

/// What is held of a request in case its span is kept; every part is a shared buffer or a number.
#[derive(Debug)]
pub(in crate::http) struct Seed {
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    peer: Option<Arc<Peer>>,
    tracestate: Vec<HeaderValue>,
}

impl Seed {
    /// What is held of `request`, which came from `peer`.
    pub(in crate::http) fn of<B>(
        request: &Request<B>,
        peer: Option<Arc<Peer>>,
        context: &TraceContext,
    ) -> Self {
        let headers = request.headers();
        let tracestate = match context.result {
            ContextResult::Valid => headers.get_all("tracestate").iter().cloned().collect(),
            ContextResult::Absent | ContextResult::Malformed => Vec::new(),
        };
        Self {
            uri: request.uri().clone(),
            version: request.version(),
            host: headers.get(header::HOST).cloned(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            peer,
            tracestate,
        }
    }

    fn attributes(&self) -> Vec<KeyValue> {
        // Room for all that a span can have: to grow by doubling would copy those of each kept lookup three times.
        let mut attributes = Vec::with_capacity(ATTRIBUTES_MAX);
        attributes.extend([
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("url.path", self.uri.path().to_owned()),
        ]);
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        attributes.extend(self.uri.query().map(|q| KeyValue::new("url.query", q.to_owned())));
        attributes.extend(match self.version {
            Version::HTTP_10 => Some(KeyValue::new("network.protocol.version", "1.0")),
            Version::HTTP_11 => Some(KeyValue::new("network.protocol.version", "1.1")),
            Version::HTTP_2 => Some(KeyValue::new("network.protocol.version", "2")),
            _ => None,
        });
        let authority = self.uri.authority().map(|authority| authority.as_str().to_owned());
        if let Some(authority) = authority.or_else(|| self.host.as_ref().and_then(text)) {
            let (host, port) = split_authority(&authority);
            attributes.push(KeyValue::new("server.address", host.to_owned()));
            attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
        }
        if let Some(agent) = self.user_agent.as_ref().and_then(text) {
            attributes.push(KeyValue::new("user_agent.original", agent));
        }
        if let Some(peer) = &self.peer {
            let address = peer.address.ip().to_canonical().to_string();
            attributes.push(KeyValue::new("client.address", address));
        }
        attributes
    }
}

/// Most attributes of a request's span: eight of its seed, and those of what became of it.
const ATTRIBUTES_MAX: usize = 17;

fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':').map(|(host, port)| (host, port.parse().ok())) {
        Some((host, Some(port))) => (host.trim_matches(['[', ']']), Some(port)),
        _ => (authority.trim_matches(['[', ']']), None),
    }
}

fn system_time(instant: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(instant.micros()).unwrap_or(0))
}

impl Exchange {
    /// Decides about the span, and makes it.
    pub(super) fn keep(&self, seed: &Seed, answered: &Answered<'_>, now: Duration) {
        let api = &*self.layer.api;
        let facts = self.scope.0.facts.lock();
        let pace = match (facts.waited_for_log, self.class) {
            (true, _) => Pace::Change,
            (false, Some(RequestClass::Other)) => Pace::Question,
            (false, _) => Pace::Read,
        };
        // To have waited for a change is not to be slow.
        let idle = match facts.watch {
            Some(Watch::LongPoll(_, idle)) => idle,
            Some(Watch::Stream) | None => Duration::ZERO,
        };
        let outcome = Outcome {
            ending: match answered.error {
                ErrorType::None => Ending::Well,
                ErrorType::NotReady | ErrorType::Overloaded => Ending::Refused,
                ErrorType::Internal
                | ErrorType::LogFailed
                | ErrorType::LogSlow
                | ErrorType::Timeout
                | ErrorType::Cancelled => Ending::Failed,
            },
            changed: facts.change.is_some(),
            elapsed: answered.elapsed.saturating_sub(idle),
            pace,
            now,
        };
        let Some(reason) = api.tracer.keep(answered.context, &outcome) else { return };
        let kept = Kept {
            route: self.layer.route.metrics.route(),
            started: self.started_wall,
            answered,
            service: facts.service.as_ref(),
            instance: facts.instance.as_ref(),
            change: facts.change.as_ref().map(|(change, _)| &**change),
            reason,
        };
        let record = kept.record(seed);
        let tracestate = record.tracestate.clone();
        api.tracer.emit(record);
        // Streams and long polls are no latencies.
        if facts.watch.is_none() {
            kept.exemplify(&api.metrics.exemplars);
        }
        if let Some((_, timings)) = &facts.change {
            let durable_after = timings.appended.micros().saturating_sub(timings.queued.micros());
            let seconds =
                Duration::from_micros(durable_after.try_into().unwrap_or(0)).as_secs_f64();
            api.metrics.exemplars.change(answered.context, seconds, timings.appended);
        }
        if let Some((_, timings)) = &facts.change
            && reason.with_children()
        {
            for step in steps(answered.context, timings) {
                // All spans of a trace carry the state that it came with.
                api.tracer.emit(SpanRecord { tracestate: tracestate.clone(), ..step });
            }
        }
    }
}

/// A request whose span is kept.
pub(in crate::http) struct Kept<'a> {
    /// The template of its route.
    pub(in crate::http) route: &'static str,
    /// When it came.
    pub(in crate::http) started: Timestamp,
    /// How it ended.
    pub(in crate::http) answered: &'a Answered<'a>,
    /// The service that it was about.
    pub(in crate::http) service: Option<&'a ServiceName>,
    /// The instance of that.
    pub(in crate::http) instance: Option<&'a InstanceId>,
    /// What it changed.
    pub(in crate::http) change: Option<&'a Change>,
    /// Why its span is kept.
    pub(in crate::http) reason: KeepReason,
}

impl Kept<'_> {
    /// Makes it the exemplar of its latency.
    pub(in crate::http) fn exemplify(&self, exemplars: &Exemplars) {
        let elapsed = i64::try_from(self.answered.elapsed.as_micros()).unwrap_or(i64::MAX);
        let ended = Timestamp(self.started.micros().saturating_add(elapsed));
        exemplars.request(self.route, self.answered, ended);
    }

    /// Its span.
    pub(in crate::http) fn record(&self, seed: &Seed) -> SpanRecord {
        let Self { route, answered, reason, .. } = *self;
        let (method, start) = (answered.method.as_str(), system_time(self.started));
        let mut record = SpanRecord::new(
            format!("{method} {route}"),
            SpanKind::Server,
            *answered.context,
            start,
            start + answered.elapsed,
        );
        record.tracestate = join_tracestate(seed.tracestate.iter().map(HeaderValue::as_bytes));
        record.attributes = seed.attributes();
        record.attributes.extend([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
            KeyValue::new("http.response.status_code", i64::from(answered.status)),
            KeyValue::new("rollcall.keep", reason.as_str()),
        ]);
        if answered.error != ErrorType::None {
            record.attributes.push(KeyValue::new("error.type", answered.error.as_str()));
            record.status = Status::error("");
        }
        let named = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
        let service = self.service.map(|service| named("rollcall.service", service.as_str()));
        let instance = self.instance.map(|id| named("rollcall.instance", id.as_str()));
        record.attributes.extend(service.into_iter().chain(instance));
        if let Some(change) = self.change {
            let seq = i64::try_from(change.seq.0).unwrap_or(i64::MAX);
            record.attributes.push(KeyValue::new("rollcall.event.seq", seq));
            let kind = change.event.kind().as_str();
            record.attributes.push(KeyValue::new("rollcall.event.kind", kind));
        }
        record
    }
}

/// The steps of a change, one after the other, as children of its request.
fn steps(context: &TraceContext, timings: &Timings) -> [SpanRecord; 4] {
    let step = |name: &'static str, from: Timestamp, until: Timestamp| {
        let mut record = SpanRecord::new(
            name,
            SpanKind::Internal,
            context.child(),
            system_time(from),
            system_time(until),
        );
        let batch = i64::try_from(timings.batch).unwrap_or(i64::MAX);
        record.attributes.push(KeyValue::new("rollcall.batch.size", batch));
        record
    };
    [
        step("queue", timings.queued, timings.taken),
        step("decide", timings.taken, timings.decided),
        step("append", timings.decided, timings.appended),
        step("publish", timings.appended, timings.published),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_splits_into_host_and_port() {
        assert_eq!(split_authority("localhost:7655"), ("localhost", Some(7655)));
        assert_eq!(split_authority("[::1]:7655"), ("::1", Some(7655)));
        assert_eq!(split_authority("registry"), ("registry", None));
    }
}
