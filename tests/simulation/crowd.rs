//! Everybody who talks to the registry: instances that beat, and those who change and look things up. They do it as
//! the HTTP layer would on their behalf (`http/heartbeat.rs`), and they know the truth: when each instance was last
//! heard of. What the registry decides is judged by that, see [`super::truth`].
//!
//! The crowd goes on while the log takes its time, as callers do while a write is synced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;
use rollcall::clock::{Clock, ManualClock};
use rollcall::domain::command::{Deregister, Heartbeat, Judge, Precondition, Register, Update};
use rollcall::domain::health::{Evidence, ProbeOutcome, ProbeVerdict};
use rollcall::domain::instance::{Endpoint, Health, Metadata};
use rollcall::domain::selection::Filter;
use rollcall::domain::traffic::{Detail, Traffic};
use rollcall::domain::{Command, InstanceKey, Millis, Mode, Seq, ServiceKey, Timestamp, TraceRef};
use rollcall::lease::Lease;
use rollcall::lease::word::Mark;
use rollcall::projection::{Entry, EntryRef, Projection};
use rollcall::registrar::{Applied, Handle, LogCondition, QueuedTraffic, Refused, Request};

use crate::member::{Member, State};
use crate::transcript::Transcript;
use crate::truth::{LastBeat, Tried, Truth};

/// The registry, as long as it runs.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) projection: Arc<Projection>,
    pub(crate) handle: Handle,
}

/// What a call was about.
#[derive(Debug, Clone)]
enum Asked {
    Register(usize),
    Beat(usize, Option<Health>),
    Leave(usize),
    Other,
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A command that waits for its answer.
struct Call {
    asked: Asked,
    trace: TraceRef,
    answer: Answer<Result<Applied, Refused>>,
}

/// Everybody.
pub(crate) struct Crowd {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) random: Rng,
    pub(crate) transcript: Transcript,
    pub(crate) connection: Option<Connection>,
    /// The registry is about to end: it takes no new requests, and answers those that it has.
    pub(crate) closing: bool,
    pub(crate) members: Vec<Member>,
    /// What each instance has let the registry know of itself.
    pub(crate) truth: BTreeMap<InstanceKey, Truth>,
    /// When each change was about to be written, the last time that it was tried.
    pub(crate) tried: BTreeMap<Seq, Tried>,
    /// Since when the registry that runs is ready.
    pub(crate) ready_at: u64,
    /// Zones that the registry can't be reached from.
    pub(crate) cut: BTreeSet<u64>,
    /// A command was sent: the registrar is to take a turn.
    pub(crate) asked: bool,
    /// Rules that were found broken.
    pub(crate) broken: Vec<String>,
    /// Changes that were acknowledged, with the trace of their request.
    pub(crate) acknowledged: Vec<(Seq, TraceRef)>,
    /// Traces of requests that were refused: none of them may be in the log.
    pub(crate) refused: BTreeSet<[u8; 16]>,
    /// What a lookup of a service answered at a revision.
    answered: BTreeMap<(ServiceKey, Seq), String>,
    agenda: BinaryHeap<Reverse<(u64, u32, usize)>>,
    calls: Vec<Call>,
    recordings: Vec<Answer<Result<(), Refused>>>,
    traces: u64,
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowd").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

/// The milliseconds of the monotonic clock.
pub(crate) fn millis(clock: &ManualClock) -> u64 {
    clock.monotonic().0 / 1_000
}

macro_rules! note {
    ($crowd:expr, $($text:tt)*) => {{
        let now = $crate::crowd::millis(&$crowd.clock);
        $crowd.transcript.note(now, format_args!($($text)*));
    }};
}
pub(crate) use note;

/// A patch that changes nothing yet.
fn update(key: &InstanceKey) -> Update {
    Update {
        key: key.clone(),
        mode: None,
        drain_until: None,
        weight: None,
        tags: None,
        metadata: None,
        precondition: Precondition::None,
    }
}

impl Crowd {
    /// Nobody yet.
    pub(crate) fn new(clock: Arc<ManualClock>, random: Rng, transcript: Transcript) -> Self {
        Self {
            clock,
            random,
            transcript,
            connection: None,
            closing: false,
            members: Vec::new(),
            truth: BTreeMap::new(),
            tried: BTreeMap::new(),
            ready_at: 0,
            cut: BTreeSet::new(),
            asked: false,
            broken: Vec::new(),
            acknowledged: Vec::new(),
            refused: BTreeSet::new(),
            answered: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            calls: Vec::new(),
            recordings: Vec::new(),
            traces: 0,
        }
    }

    /// The present, in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        millis(&self.clock)
    }

    /// Has member `who` act at `at`.
    pub(crate) fn schedule(&mut self, who: usize, at: u64) {
        // Those of one instant act in an order that the seed decides.
        let order = self.random.u32(..);
        self.agenda.push(Reverse((at, order, who)));
    }

    /// When the next of them acts.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets `span` milliseconds pass and everybody act whose time comes.
    pub(crate) fn pass(&mut self, span: u64) {
        // What was answered by now is heard now, and not at the end.
        self.hear();
        let end = self.now() + span;
        while let Some(Reverse((at, _, who))) = self.agenda.peek().copied() {
            if at > end {
                break;
            }
            self.agenda.pop();
            self.advance_to(at);
            self.act(who);
        }
        self.advance_to(end);
    }

    /// The one whose time has come acts.
    pub(crate) fn act_one(&mut self) {
        if let Some(Reverse((at, _, who))) = self.agenda.pop() {
            self.advance_to(at);
            self.act(who);
        }
    }

    /// Lets time pass until `at`, if that is to come.
    pub(crate) fn advance_to(&self, at: u64) {
        let span = at.saturating_sub(self.now());
        if span > 0 {
            self.clock.advance(Millis::from_millis(span));
        }
    }

    fn act(&mut self, who: usize) {
        let now = self.now();
        let member = &mut self.members[who];
        match member.state {
            State::Down => {
                member.scheduled = false;
                return;
            }
            State::Frozen(until) | State::Gasping(until) if now < until => {
                return self.schedule(who, until);
            }
            State::Frozen(_) => member.state = State::Up,
            State::Gasping(_) => return self.last_word(who),
            State::Up => {}
        }
        let (pause, zone) = (member.interval(), member.zone);
        let jitter = self.random.u64(0..=pause / 5);
        self.schedule(who, now + pause - pause / 10 + jitter);
        self.speak(who, zone);
    }

    /// Member `who` says that it lives, if the registry can hear it.
    fn speak(&mut self, who: usize, zone: u64) {
        let member = &self.members[who];
        let reachable = self.connection.is_some() && !self.closing && !self.cut.contains(&zone);
        if !reachable || member.waits {
            return;
        }
        match (member.incarnation, member.ttl) {
            (Some(incarnation), Some(_)) => self.beat(who, incarnation),
            (Some(_), None) => {
                let key = member.key.clone();
                if self.entry(&key).is_none() {
                    // It was taken out, and whoever put it in does so again.
                    self.members[who].incarnation = None;
                }
            }
            (None, _) => self.register(who),
        }
    }

    /// Member `who` speaks for the last time.
    fn last_word(&mut self, who: usize) {
        let zone = self.members[who].zone;
        self.speak(who, zone);
        let member = &mut self.members[who];
        (member.state, member.incarnation, member.scheduled) = (State::Down, None, false);
    }

    fn trace(&mut self) -> TraceRef {
        self.traces += 1;
        let mut trace = TraceRef { trace_id: [0xc1; 16], span_id: [1; 8] };
        trace.trace_id[8..].copy_from_slice(&self.traces.to_be_bytes());
        trace
    }

    fn submit(&mut self, asked: Asked, command: Command) {
        let trace = self.trace();
        let Some(Connection { handle, .. }) = self.connection.clone() else { return };
        if let Asked::Register(who) | Asked::Beat(who, _) | Asked::Leave(who) = asked {
            self.members[who].waits = true;
        }
        let request = Request { command, caller: Some("simulation".into()), trace, baggage: None };
        let answer = Box::pin(async move { handle.submit(request).await });
        self.calls.push(Call { asked, trace, answer });
        self.asked = true;
        self.hear();
    }

    fn register(&mut self, who: usize) {
        let member = &self.members[who];
        let register = Register {
            key: member.key.clone(),
            endpoint: Endpoint {
                address: "10.0.0.7".into(),
                port: member.port,
                protocol: "http".into(),
            },
            version: None,
            zone: None,
            weight: None,
            tags: Box::default(),
            metadata: Metadata::default(),
            mode: None,
            ttl: member.ttl.map(Millis::from_millis),
            detector: member.detector,
            check: member.check.clone(),
            precondition: Precondition::None,
        };
        note!(self, "{} registers, port {}", member.key, member.port);
        self.submit(Asked::Register(who), Command::Register(register));
    }

    fn entry(&self, key: &InstanceKey) -> Option<Entry> {
        let ServiceKey { namespace, service } = &key.service;
        let projection = &self.connection.as_ref()?.projection;
        let view = projection.service(namespace.as_str(), service.as_str())?;
        view.entry(key.instance.as_str()).map(EntryRef::owned)
    }

    /// As `http/heartbeat.rs` renews.
    fn beat(&mut self, who: usize, incarnation: Seq) {
        let key = self.members[who].key.clone();
        let Some(entry) = self.entry(&key).filter(|e| e.instance.incarnation == incarnation) else {
            note!(self, "{key} beats and is not known");
            self.members[who].incarnation = None;
            return;
        };
        let said = self.members[who].says.take();
        let flips = said.is_some_and(|health| health.contradicts(entry.instance.signals));
        let renewed = entry.lease.renew(self.clock.monotonic(), self.clock.wall());
        if !flips && renewed.is_ok() {
            note!(self, "{key} beats");
            self.heard_of(&key);
            self.record(&key, incarnation, Arc::clone(&entry.lease));
            return;
        }
        note!(self, "{key} beats, says {said:?}, and has to ask: {:?}", entry.lease.word().read());
        if entry.lease.word().read().mark() != Mark::Closed {
            let now = self.now();
            self.truth.entry(key.clone()).or_default().arrived = now;
        }
        let heartbeat = Heartbeat { key, incarnation: Some(incarnation), health: said };
        self.submit(Asked::Beat(who, said), Command::Heartbeat(heartbeat));
    }

    /// The registry has taken a sign of life of `key` now.
    fn heard_of(&mut self, key: &InstanceKey) {
        let now = self.now();
        let truth = self.truth.entry(key.clone()).or_default();
        (truth.heard, truth.arrived) = (now, now);
    }

    fn record(&mut self, key: &InstanceKey, incarnation: Seq, lease: Arc<Lease>) {
        let Some(Connection { projection, handle }) = self.connection.clone() else { return };
        let trace = self.trace();
        let (length, capacity) = handle.buffer_fill();
        let truth = self.truth.entry(key.clone()).or_default();
        // One that finds the buffer full may not be in the log in time, or never.
        truth.last_beat = if length < capacity { LastBeat::In(trace) } else { LastBeat::Unsure };
        let detail =
            Detail::Heartbeat { incarnation, load: None, health: None, note: None, baggage: None };
        let traffic = Traffic {
            at: self.clock.wall(),
            seen: projection.head(),
            namespace: Some(key.service.namespace.clone()),
            service: Some(key.service.service.clone()),
            instance: Some(key.instance.clone()),
            caller: "simulation".into(),
            trace,
            detail,
        };
        self.send(handle, QueuedTraffic { traffic, lease: Some(lease) });
    }

    fn send(&mut self, handle: Handle, event: QueuedTraffic) {
        self.recordings.push(Box::pin(async move { handle.record(event).await }));
        self.hear();
    }

    /// Hears every answer that has come.
    pub(crate) fn hear(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        self.recordings.retain_mut(|recording| recording.as_mut().poll(&mut context).is_pending());
        let mut calls = std::mem::take(&mut self.calls);
        let mut answered = Vec::new();
        calls.retain_mut(|call| match call.answer.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                answered.push((call.asked.clone(), call.trace, answer));
                false
            }
        });
        // What an answer leads to may have sent new ones.
        self.calls.splice(0..0, calls);
        for (asked, trace, answer) in answered {
            self.answered(&asked, trace, answer);
        }
    }

    fn answered(&mut self, asked: &Asked, trace: TraceRef, answer: Result<Applied, Refused>) {
        match &answer {
            Ok(applied) => {
                let change = applied.change.as_ref().map(|change| change.seq);
                note!(self, "{asked:?} is answered: {change:?}");
                self.acknowledged.extend(change.map(|seq| (seq, trace)));
                let head = self.connection.as_ref().map(|open| open.projection.head());
                if let (Some(seq), Some(head)) = (change, head)
                    && seq > head
                {
                    self.broken.push(format!("change {seq} was acknowledged at head {head}"));
                }
            }
            Err(refused) => {
                note!(self, "{asked:?} is refused: {refused}");
                if !matches!(refused, Refused::Stopping | Refused::Slow(_)) {
                    self.refused.insert(trace.trace_id);
                }
            }
        }
        let (Asked::Register(who) | Asked::Beat(who, _) | Asked::Leave(who)) = *asked else {
            return;
        };
        self.members[who].waits = false;
        match asked {
            Asked::Register(_) => self.registered(who, answer),
            Asked::Beat(_, said) => self.beaten(who, *said, answer),
            Asked::Leave(_) if answer.is_ok() => self.members[who].incarnation = None,
            Asked::Leave(_) | Asked::Other => {}
        }
    }

    fn registered(&mut self, who: usize, answer: Result<Applied, Refused>) {
        let Ok(applied) = answer else { return };
        let key = self.members[who].key.clone();
        let Some(instance) = applied.instance else {
            // It left again within the very group that it came with.
            return;
        };
        self.heard_of(&key);
        let truth = self.truth.entry(key).or_default();
        if truth.incarnation != Some(instance.incarnation) {
            (truth.incarnation, truth.last_beat) = (Some(instance.incarnation), LastBeat::None);
        }
        let member = &mut self.members[who];
        if member.state != State::Down && !self.cut.contains(&member.zone) {
            member.incarnation = Some(instance.incarnation);
        }
    }

    fn beaten(&mut self, who: usize, said: Option<Health>, answer: Result<Applied, Refused>) {
        let key = self.members[who].key.clone();
        match answer {
            Ok(Applied { instance: Some(instance), lease: Some(lease), .. }) => {
                self.heard_of(&key);
                self.record(&key, instance.incarnation, lease);
            }
            Ok(_) | Err(Refused::Rejected(_)) => self.members[who].incarnation = None,
            Err(Refused::Failed { .. }) => {
                // As the handler does: the living must not lose their lease over a log that fails.
                let Some(entry) = self.entry(&key) else { return };
                let now = self.clock.monotonic().0;
                if entry.lease.word().renew_unless_closed(now).is_ok() {
                    entry.lease.saw_heartbeat(self.clock.wall());
                    self.heard_of(&key);
                    if said.is_none() {
                        self.record(&key, entry.instance.incarnation, Arc::clone(&entry.lease));
                    } else {
                        self.members[who].says = said;
                    }
                }
            }
            Err(_) => self.members[who].says = said,
        }
    }

    /// Member `who` says goodbye, and goes whether it is heard or not.
    pub(crate) fn leave(&mut self, who: usize) {
        let member = &mut self.members[who];
        member.state = State::Down;
        if member.incarnation.is_some() && !member.waits && !self.cut.contains(&member.zone) {
            let (key, reason) = (member.key.clone(), Some("scale-in".into()));
            let leave = Deregister { key, reason, precondition: Precondition::None };
            self.submit(Asked::Leave(who), Command::Deregister(leave));
        }
        self.members[who].incarnation = None;
    }

    /// An operator drains member `who`, for so many milliseconds.
    pub(crate) fn drain(&mut self, who: usize, span: i64) {
        let mut update = update(&self.members[who].key);
        update.mode = Some(Mode::Draining);
        update.drain_until = Some(Timestamp(self.clock.wall().0 + span * 1_000));
        note!(self, "an operator drains {} for {span} ms", update.key);
        self.submit(Asked::Other, Command::Update(update));
    }

    /// An operator changes something about member `who`.
    pub(crate) fn operate(&mut self, who: usize) {
        let key = self.members[who].key.clone();
        let mut update = update(&key);
        match self.random.u8(..8) {
            0 => update.mode = Some(Mode::Draining),
            1 => {
                update.mode = Some(Mode::Draining);
                let span = self.random.i64(500..5_000) * 1_000;
                update.drain_until = Some(Timestamp(self.clock.wall().0 + span));
            }
            2 => update.mode = Some(Mode::Standby),
            3 | 4 => update.mode = Some(Mode::Active),
            5 => update.tags = Some(["canary".into()].into()),
            _ => update.weight = Some(self.random.u16(..4)),
        }
        note!(self, "an operator patches {key}: {:?} {:?}", update.mode, update.weight);
        self.submit(Asked::Other, Command::Update(update));
    }

    /// A probe of member `who` has come to a verdict.
    pub(crate) fn probed(&mut self, who: usize) {
        let key = self.members[who].key.clone();
        let Some(entry) = self.entry(&key).filter(|e| e.instance.check.is_some()) else { return };
        let verdict = ProbeVerdict::ALL[self.random.usize(1..ProbeVerdict::ALL.len())];
        note!(self, "the probe of {key} says {verdict}");
        let evidence = Evidence {
            outcome: ProbeOutcome::Timeout,
            status: None,
            latency: Millis::from_millis(5),
            error: None,
            in_a_row: 1,
        };
        let incarnation = entry.instance.incarnation;
        self.submit(Asked::Other, Command::Judge(Judge { key, incarnation, verdict, evidence }));
    }

    /// Somebody looks a service up. Of one revision there is one answer.
    pub(crate) fn look_up(&mut self, key: &ServiceKey) {
        let Some(Connection { projection, handle }) = self.connection.clone() else { return };
        let Some(view) = projection.service(key.namespace.as_str(), key.service.as_str()) else {
            return;
        };
        let (offered, tier) = view.select(&Filter::default());
        let ids: Vec<&str> = offered.iter().map(|e| e.instance.key.instance.as_str()).collect();
        let shown = format!("{ids:?} of {tier:?}");
        note!(self, "a lookup of {key}@{} gives {shown}", view.revision);
        let revision = view.revision;
        let before = self.answered.entry((key.clone(), revision)).or_insert(shown.clone());
        if *before != shown {
            let text = format!("{key}@{revision} was answered {before}, and now {shown}");
            self.broken.push(text);
        }
        let detail = Detail::Lookup {
            filter: "".into(),
            revision,
            returned: u32::try_from(offered.len()).unwrap_or(u32::MAX),
            status: 200,
            held: None,
            baggage: None,
        };
        let traffic = Traffic {
            at: self.clock.wall(),
            seen: projection.head().max(revision),
            namespace: Some(key.namespace.clone()),
            service: Some(key.service.clone()),
            instance: None,
            caller: "simulation".into(),
            trace: self.trace(),
            detail,
        };
        self.send(handle, QueuedTraffic { traffic, lease: None });
    }

    /// The registry is gone: whoever waits finds that out. Unless it ended in order, traffic that was not written yet
    /// is lost.
    pub(crate) fn disconnect(&mut self, in_order: bool) {
        (self.connection, self.closing) = (None, false);
        self.hear();
        self.recordings.clear();
        for truth in self.truth.values_mut().filter(|_| !in_order) {
            truth.last_beat = LastBeat::Unsure;
        }
        for member in &mut self.members {
            member.waits = false;
        }
    }

    /// Whether the log can be written, as the registry says.
    pub(crate) fn log_works(&self) -> bool {
        let handle = self.connection.as_ref().map(|open| &open.handle);
        handle.is_some_and(|handle| handle.log_condition() == LogCondition::Writable)
    }
}
