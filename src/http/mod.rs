//! The HTTP contract: requests in, commands and reads out, answers back.
//!
//! ```text
//!   server ─▶ router ─▶ scope (ids, time, caller, limits; metrics and span at the end)
//!                         └▶ handler ─▶ faults ─▶ 4xx
//!                               │         (query, fields, etag: each part of a request has its reader)
//!                               ├─ changes ─▶ registrar, and waits
//!                               ├─ heartbeats ─▶ lease, then the registrar's traffic buffer
//!                               ├─ reads ─▶ projection, then the same buffer
//!                               └─ the past ─▶ archive, on a thread that may block; no event
//! ```
//!
//! It must never see the log or SQL (the past comes through [`crate::history`]), never decide what a command
//! does, and never answer a lookup or heartbeat whose event has no place in the log. Built by `app`, which
//! hands in the listener, the clock and the end.

mod accept;
mod admission;
mod aside;
mod body;
mod caller;
mod check;
mod cursor;
mod detector;
mod diff;
mod drain;
mod encoding;
mod etag;
mod events;
mod express;
mod faults;
mod fields;
mod graph;
mod heads;
mod heartbeat;
mod held;
mod impact;
mod instants;
mod kept;
mod life;
mod limits;
mod longpoll;
mod lookup;
mod names;
mod openapi;
mod operation;
mod overview;
mod past;
mod pieces;
mod problem;
mod profile;
mod query;
mod registration;
mod renewed;
mod replay;
mod router;
mod scope;
mod sd;
mod server;
mod services;
mod spec;
mod stream;
mod streams;
mod ui;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use uuid::Uuid;

use crate::clock::{Clock, Monotonic};
use crate::domain::event::Kind;
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{
    Command, InstanceId, InstanceKey, Millis, Namespace, Quotas, Seq, ServiceKey, ServiceName,
    Timestamp, TraceRef,
};
use crate::history::{self, Archive, Policy, Record};
use crate::lease::Lease;
use crate::probe::allowed::Networks;
use crate::projection::{Entry, EntryRef, Projection};
use crate::registrar::{Applied, Handle, QueuedTraffic, Readiness, Refused, Request};
use crate::telemetry::baggage::BaggageKeys;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::propagation::{SpanId, TraceId};
use crate::telemetry::spans::Tracer;
use crate::watch::Hub;
use admission::Admission;
pub use admission::{Config as AdmissionConfig, Rate};
use cursor::Cursors;
use encoding::Encoder;
use etag::Tags;
use instants::Present;
use problem::Problem;
pub use router::router;
use scope::Scope;
pub use server::{listen, serve};

/// Settings of the HTTP server.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a client may take to send a body.
    pub request_timeout: Duration,
    /// How long a client may take to send a head, also the first one after connecting.
    pub header_timeout: Duration,
    /// From how many bytes on an answer is encoded for clients that take that; none is never.
    pub encode_from: Option<usize>,
    /// Who is let in.
    pub admission: admission::Config,
    /// How many instances there may be, to be shown.
    pub quotas: Quotas,
    /// How long requests in progress are waited for at the end.
    pub shutdown_timeout: Duration,
    /// Lease of an instance that registers without a ttl.
    pub default_ttl: Millis,
    /// Where checks may go besides the address that registers.
    pub check_networks: Networks,
    /// Which baggage of requests becomes part of their events.
    pub baggage_keys: BaggageKeys,
    /// Whether every request gets a log line.
    pub log_requests: bool,
    /// Whether profiles of the process are given out.
    pub profiling: bool,
    /// What is kept of the past, to be shown.
    pub policy: Policy,
    /// Where a trace can be seen, with `{trace_id}` and `{span_id}` in it; none where spans go nowhere.
    pub trace_url: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            encode_from: Some(4 * 1024),
            admission: admission::Config::default(),
            quotas: Quotas::default(),
            shutdown_timeout: Duration::from_secs(10),
            default_ttl: crate::domain::limits::TTL_DEFAULT,
            check_networks: Networks::default(),
            baggage_keys: BaggageKeys::default(),
            log_requests: false,
            profiling: false,
            policy: Policy::default(),
            trace_url: None,
        }
    }
}

/// Everything that the API stands on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What reads are answered from.
    pub projection: Arc<Projection>,
    /// Where changes and traffic go.
    pub registrar: Handle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Where spans go.
    pub tracer: Tracer,
    /// The id that the log was born with.
    pub log_id: Uuid,
    /// Settings.
    pub config: Config,
    /// Whether replay is done.
    pub readiness: Readiness,
    /// The past.
    pub history: Arc<dyn Archive>,
    /// Where changes are waited for.
    pub hub: Arc<Hub>,
    /// What steers it, if this registry replays the past.
    pub replay: Option<crate::replay::Handle>,
}

/// What every handler holds.
#[derive(Debug)]
pub struct Api {
    parts: Parts,
    started_at: Monotonic,
    started_wall: Timestamp,
    admission: Admission,
    log_header: HeaderValue,
    encoder: Encoder,
    tags: Tags,
    cursors: Cursors,
}

type Shared = Arc<Api>;

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// Whom a traffic event is about.
#[derive(Debug, Default)]
struct About {
    namespace: Option<Namespace>,
    service: Option<ServiceName>,
    instance: Option<InstanceId>,
}

impl Api {
    /// The API over these parts; the process counts as started now.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let log_id = parts.log_id;
        // Never given back, once a registry: every answer would otherwise count its reference, on a number that all
        // threads share.
        let log_id_text: &'static str = String::leak(log_id.to_string());
        let log_header = HeaderValue::from_static(log_id_text);
        Arc::new(Self {
            started_at: parts.clock.monotonic(),
            started_wall: parts.clock.wall(),
            admission: Admission::new(parts.config.admission.clone()),
            log_header,
            encoder: Encoder::of(parts.config.encode_from),
            tags: Tags::of(log_id),
            cursors: Cursors::of(log_id),
            parts,
        })
    }

    /// Sends a command in the name of this request and waits until its effect can be read.
    async fn submit(&self, scope: &Scope, command: Command) -> Result<Applied, Refused> {
        let request = Request {
            command,
            caller: Some(Arc::clone(scope.caller())),
            trace: scope.trace(),
            baggage: scope.baggage().cloned(),
        };
        scope.waits_for_log();
        let submitted = self.registrar.submit(request).await;
        match &submitted {
            Ok(applied) => scope.changed(applied),
            // A refusal for what the state is, is of a version too.
            Err(Refused::Rejected(_)) => scope.reflects(self.projection.head()),
            Err(_) => {}
        }
        submitted
    }

    /// The present, which instants are read against.
    fn present(&self) -> Present {
        Present { now: self.clock.wall(), head: self.projection.settled_head() }
    }

    /// An instance that lives, with its lease.
    fn living(&self, key: &InstanceKey) -> Result<Entry, Problem> {
        let ServiceKey { namespace, service } = &key.service;
        let (namespace, service) = (namespace.as_str(), service.as_str());
        let found = self.projection.with_service(namespace, service, |cell| {
            cell.guard().entry(key.instance.as_str()).map(EntryRef::owned)
        });
        found.ok_or(Problem::UnknownService)?.ok_or(Problem::UnknownInstance)
    }

    /// Asks the archive, on a thread that may block, once it is its turn.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Archive) -> Result<T, history::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.admission.past().await?;
        let question = move |archive: &dyn Archive| {
            let answer = question(archive);
            drop(turn);
            answer
        };
        self.ask_at_once(question).await
    }

    /// The same without waiting for a turn: for what has to be known when there is none.
    async fn ask_at_once<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Archive) -> Result<T, history::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let archive = Arc::clone(&self.history);
        let answer = tokio::task::spawn_blocking(move || question(&*archive)).await;
        // A question that panicked has been reported by the hook of the process.
        Ok(answer.map_err(|_| Problem::Internal)??)
    }

    /// Where the span of an event of that time can be seen; none if no place is set, or the span was not kept. Where it
    /// is not known whether it was, because it was long ago or before the last start, the place is given.
    fn trace_url(&self, trace: TraceRef, at: Timestamp) -> Option<String> {
        let template = self.config.trace_url.as_deref()?;
        let (trace_id, span_id) =
            (TraceId::from_bytes(trace.trace_id)?, SpanId::from_bytes(trace.span_id)?);
        let micros = u64::try_from(at.micros()).unwrap_or(0);
        if at >= self.started_wall && self.tracer.was_kept(span_id, micros) == Some(false) {
            return None;
        }
        let text = template.replace("{trace_id}", &trace_id.to_string());
        Some(text.replace("{span_id}", &span_id.to_string()))
    }

    /// The same for an event of the log.
    fn trace_url_of(&self, event: &Record) -> Option<String> {
        let at = match event.kind {
            // They are of the span of the request that began their stream, whenever that was.
            Kind::Notified | Kind::WatchClosed => event.at.min(self.started_wall),
            _ => event.at,
        };
        self.trace_url(event.trace, at)
    }

    /// Gives a traffic event of this request its place on the way to the log.
    async fn record(
        &self,
        scope: &Scope,
        about: About,
        seen: Seq,
        detail: Detail,
        lease: Option<Arc<Lease>>,
    ) -> Result<(), Problem> {
        let detail = detail.with_baggage(scope.baggage().cloned());
        let traffic =
            self.traffic(Arc::clone(scope.caller()), scope.trace(), (about, seen, detail));
        Ok(self.registrar.record(QueuedTraffic { traffic, lease }).await?)
    }

    /// A traffic event of now: who did it in which trace, about whom, what of the state it saw, and what it was.
    fn traffic(
        &self,
        caller: Arc<str>,
        trace: TraceRef,
        (about, seen, detail): (About, Seq, Detail),
    ) -> Traffic {
        let About { namespace, service, instance } = about;
        let at = self.clock.wall();
        Traffic { at, seen, namespace, service, instance, caller, trace, detail }
    }
}
