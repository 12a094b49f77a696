//! The prober with its network: gives what is due to tasks, and takes back what they found.
//!
//! One loop owns the schedule; each probe is a task of its own, and so is each judgement on its way to the registrar. Both
//! are in sets that end with the loop. Probes run in real time, their turns on the injected clock. It must never have more
//! probes under way than the setting allows: the others wait, and how late they are is told. Called by [`super::Service`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::dial::{Aim, Dialer, Failure};
use super::schedule::{Due, Found, Job, Judgement, Prober};
use super::telling::{Span, Telling};
use super::{Parts, grpc, http, tcp};
use crate::clock::Stopwatch;
use crate::domain::check::CheckKind;
use crate::domain::health::ProbeOutcome;
use crate::domain::{Command, Millis, TraceRef};
use crate::registrar::{Applied, Phase, Refused, Request};
use crate::telemetry::propagation::TraceContext;

/// Longest wait for something that is due: an injected clock may move without notice.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// Shortest wait: what is due within it is begun together.
const GATHER: Duration = Duration::from_millis(5);

/// Most judgements on their way to the registrar at once: they must not fill its inbox when everything fails together. The
/// next ones are said a little later.
const JUDGEMENTS_MAX: usize = 1_024;

/// How often connections that were idle for too long are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// The network's part of the prober, shared by its tasks.
#[derive(Debug)]
struct Network {
    dialer: Dialer,
    http: http::Kept,
    grpc: grpc::Kept,
}

/// A probe that has ended.
struct Ended {
    job: Job,
    found: Found,
    span: Span,
}

/// A judgement that was answered.
struct Answered {
    judgement: Judgement,
    answer: Result<Applied, Refused>,
    span: Option<Span>,
}

/// The prober's loop and what it owns.
#[derive(Debug)]
pub(super) struct Runner {
    network: Arc<Network>,
    concurrency: usize,
    prober: Prober,
    parts: Parts,
    telling: Telling,
    probes: JoinSet<Ended>,
    judgements: JoinSet<Answered>,
    /// What each task is about, so that one that panics loses nothing.
    probing: HashMap<Id, Job>,
    judging: HashMap<Id, Judgement>,
}

impl Runner {
    pub(super) fn new(dialer: Dialer, concurrency: usize, idle: usize, parts: Parts) -> Self {
        let network = Network { dialer, http: http::Kept::new(idle), grpc: grpc::Kept::new(idle) };
        let telling = Telling::new(parts.telemetry.clone(), Arc::clone(&parts.projection));
        Self {
            network: Arc::new(network),
            concurrency,
            prober: Prober::new(),
            parts,
            telling,
            probes: JoinSet::new(),
            judgements: JoinSet::new(),
            probing: HashMap::new(),
            judging: HashMap::new(),
        }
    }

    /// Probes for as long as it is polled.
    pub(super) async fn run(mut self) {
        if self.parts.readiness.settled().await != Phase::Ready {
            return std::future::pending().await;
        }
        let projection = Arc::clone(&self.parts.projection);
        projection.follow_checks();
        let mut sweep = Instant::now() + SWEEP_EVERY;
        loop {
            let pause = self.pause();
            tokio::select! {
                () = projection.checks().wait() => {
                    self.prober.follow(projection.checks().take(), self.parts.clock.monotonic());
                    self.telling.known(&self.prober);
                }
                Some(ended) = self.probes.join_next_with_id() => self.ended(ended),
                Some(answered) = self.judgements.join_next_with_id() => self.answered(answered),
                // With nothing to probe and nothing under way there is nothing to wait for but the bell.
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
            self.begin();
            let now = Instant::now();
            if now >= sweep {
                self.network.http.sweep(now);
                self.network.grpc.sweep(now);
                sweep = now + SWEEP_EVERY;
            }
        }
    }

    /// How long nothing is due, within bounds; none if nothing ever is.
    fn pause(&self) -> Option<Duration> {
        let due = self.prober.next_due()?;
        if self.probes.len() >= self.concurrency {
            // A probe that ends makes room, and wakes this loop.
            return Some(LOOK_AFTER);
        }
        let left = due.micros_since(self.parts.clock.monotonic());
        Some(Duration::from_micros(left).clamp(GATHER, LOOK_AFTER))
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let clock = &self.parts.clock;
        let room = self.concurrency.saturating_sub(self.probes.len());
        let (awake, now) = (clock.awake_since(), clock.monotonic());
        for due in self.prober.due(now, awake, room) {
            match due {
                Due::Probe(job) => {
                    self.telling.begun(&job);
                    let (network, span) = (Arc::clone(&self.network), self.telling.span(&job));
                    let task = self.probes.spawn(probe(network, job.clone(), span));
                    self.probing.insert(task.id(), job);
                }
                Due::Judge(judgement) => self.submit(judgement, None),
            }
        }
        self.telling.under_way(self.probes.len());
    }

    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let Ended { job, found, span } = match ended {
            Ok((id, ended)) => {
                self.probing.remove(&id);
                ended
            }
            Err(error) => {
                if let Some(job) = self.probing.remove(&error.id()) {
                    self.telling.panicked(&job, &error);
                    self.prober.abandoned(&job, self.parts.clock.monotonic());
                }
                return;
            }
        };
        let clock = &self.parts.clock;
        let (now, awake) = (clock.monotonic(), clock.awake_since());
        let span = span.ended(&found, clock.wall());
        self.telling.found(&span, &found);
        let trace = span.trace();
        match self.prober.done(&job, found, trace, now, awake) {
            Some(judgement) => self.submit(judgement, Some(span)),
            None => self.telling.emit(span, None, now),
        }
    }

    fn submit(&mut self, judgement: Judgement, span: Option<Span>) {
        if self.judgements.len() >= JUDGEMENTS_MAX {
            let now = self.parts.clock.monotonic();
            let _further = self.prober.answered(&judgement, false, now);
            if let Some(span) = span {
                self.telling.emit(span, None, now);
            }
            return;
        }
        let registrar = self.parts.registrar.clone();
        let asked = judgement.clone();
        let task = self.judgements.spawn(async move {
            let command = Command::Judge(judgement.judge.clone());
            let request = Request { command, caller: None, trace: judgement.trace, baggage: None };
            let answer = registrar.submit(request).await;
            Answered { judgement, answer, span }
        });
        self.judging.insert(task.id(), asked);
    }

    fn answered(&mut self, answered: Result<(Id, Answered), JoinError>) {
        let now = self.parts.clock.monotonic();
        let Answered { judgement, answer, span } = match answered {
            Ok((id, answered)) => {
                self.judging.remove(&id);
                answered
            }
            Err(error) => {
                // Nobody knows whether the registrar has it: it is said again, which changes nothing if it has.
                if let Some(judgement) = self.judging.remove(&error.id()) {
                    let _further = self.prober.answered(&judgement, false, now);
                }
                return;
            }
        };
        // One that the state refuses is of an instance that has left meanwhile: there is nothing to say again.
        let accepted = matches!(answer, Ok(_) | Err(Refused::Rejected(_)));
        let applied = answer.ok();
        let change = applied.as_ref().and_then(|applied| applied.change.as_deref());
        if change.is_some() {
            self.telling.judged(judgement.judge.verdict);
        }
        if let Some(span) = span {
            let led_to = change.map(|change| (change.seq, judgement.judge.verdict));
            self.telling.emit(span, led_to, now);
        }
        if let Some(further) = self.prober.answered(&judgement, accepted, now) {
            self.submit(further, None);
        }
    }
}

/// Makes one probe, within its time limit.
async fn probe(network: Arc<Network>, job: Job, span: Span) -> Ended {
    let watch = Stopwatch::start();
    let check = &job.check;
    let aim = Aim {
        host: &job.instance.endpoint.address,
        port: check.port.unwrap_or(job.instance.endpoint.port),
        registered_from: check.registered_from,
        timeout: check.timeout,
        deadline: Instant::now() + check.timeout.to_duration(),
    };
    let traceparent = span.traceparent();
    let Network { dialer, http, grpc } = &*network;
    let outcome: Result<Option<u16>, Failure> = match check.kind {
        CheckKind::Http => {
            http::probe(dialer, http, &aim, check, traceparent.as_bytes(), job.may_reuse).await
        }
        CheckKind::Tcp => tcp::probe(dialer, &aim).await,
        CheckKind::Grpc => {
            grpc::probe(dialer, grpc, &aim, check, &traceparent, job.may_reuse).await
        }
    };
    let took = watch.elapsed();
    let latency = Millis::from(took);
    let found = match outcome {
        Ok(status) => Found { outcome: ProbeOutcome::Passed, status, latency, error: None },
        Err(Failure { outcome, status, error }) => {
            Found { outcome, status, latency, error: Some(error.into()) }
        }
    };
    let span = span.took(took);
    Ended { job, found, span }
}

/// A trace of its own, as an event holds it.
pub(super) fn trace_ref(context: &TraceContext) -> TraceRef {
    TraceRef { trace_id: context.trace_id.to_bytes(), span_id: context.span_id.to_bytes() }
}
