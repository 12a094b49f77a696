//! What the tests stand on: a started registrar, and a log that can be held up.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, ManualClock};
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{
    Change, Command, Event, Instance, InstanceKey, Registry, Rejection, Seq, ServiceKey, Status,
    Timestamp, TraceRef, fold,
};
use crate::log::memory::MemoryLog;
use crate::log::{Ack, AppendError, ChangeLog, Log, Numbered, ReadError, Snapshot, TrafficLog};
use crate::projection::{Entries, Entry, EntryRef, Projection};
use crate::registrar::{
    Applied, Config, Handle, Phase, QueuedTraffic, Refused, Request, Running, Telemetry, start,
};
use crate::telemetry::metrics::{Metrics, MetricsConfig};
use crate::telemetry::spans::Tracer;
use crate::testing::traffic::lookup;
use crate::testing::{START, caller, heartbeat, key, register, trace};
use crate::watch::Hub;

/// Reads until the value is the wanted one; gives up after some ten seconds and shows the last one.
pub(super) fn eventually<T: Debug>(read: impl Fn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let mut last = read();
    for _ in 0..10_000 {
        if wanted(&last) {
            return last;
        }
        std::thread::park_timeout(Duration::from_millis(1));
        last = read();
    }
    panic!("it did not come about; the last value was {last:?}");
}

/// Holds up appends until it is opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub(super) fn close(&self) {
        self.0.0.lock().closed = true;
    }

    pub(super) fn open(&self) {
        self.0.0.lock().closed = false;
        self.0.1.notify_all();
    }

    /// Waits until an append stands before the gate.
    pub(super) fn await_append(&self) {
        eventually(|| self.0.0.lock().waiting, |waiting| *waiting > 0);
    }

    fn pass(&self) {
        let mut state = self.0.0.lock();
        state.waiting += 1;
        while state.closed {
            self.0.1.wait(&mut state);
        }
        state.waiting -= 1;
    }
}

/// The log in memory behind a gate.
#[derive(Debug)]
struct Gated {
    log: MemoryLog,
    gate: Gate,
}

impl ChangeLog for Gated {
    fn head(&self) -> Seq {
        self.log.head()
    }

    fn append(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        self.gate.pass();
        self.log.append(expected, batch)
    }

    fn resolve(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        self.log.resolve(expected, batch)
    }

    fn read(&mut self, from: Seq, limit: usize) -> Result<Vec<Change>, ReadError> {
        self.log.read(from, limit)
    }

    fn first(&mut self) -> Result<Seq, ReadError> {
        self.log.first()
    }

    fn snapshots(&mut self) -> Result<Vec<Seq>, ReadError> {
        self.log.snapshots()
    }

    fn snapshot(&mut self, seq: Seq) -> Result<Option<Snapshot>, ReadError> {
        self.log.snapshot(seq)
    }
}

impl TrafficLog for Gated {
    fn next_number(&self) -> u64 {
        self.log.next_number()
    }

    fn append_traffic(&mut self, events: &[Traffic]) -> Result<(), AppendError> {
        self.gate.pass();
        self.log.append_traffic(events)
    }

    fn read_back(&mut self, before: u64, limit: usize) -> Result<Vec<Numbered>, ReadError> {
        self.log.read_back(before, limit)
    }
}

impl Log for Gated {
    fn id(&self) -> &str {
        self.log.id()
    }

    fn last_at(&mut self) -> Option<Timestamp> {
        self.log.last_at()
    }

    fn begin(&mut self) -> Result<bool, AppendError> {
        self.log.begin()
    }

    fn end(&mut self) -> Result<(), AppendError> {
        self.log.end()
    }
}

/// A started registrar with everything around it.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) log: MemoryLog,
    pub(super) gate: Gate,
    pub(super) clock: Arc<ManualClock>,
    pub(super) projection: Arc<Projection>,
    running: Running,
}

impl Rig {
    /// On an empty log.
    pub(super) async fn start() -> Self {
        Self::with(MemoryLog::new(), ManualClock::new(START), Config::default()).await
    }

    pub(super) async fn with(log: MemoryLog, clock: Arc<ManualClock>, config: Config) -> Self {
        // Long enough that no test waits for it to pass.
        let config = Config { write_timeout: Duration::from_secs(20), ..config };
        Self::impatient(log, clock, config).await
    }

    /// With the time limit of its callers as configured.
    pub(super) async fn impatient(log: MemoryLog, clock: Arc<ManualClock>, config: Config) -> Self {
        let (gate, projection) = (Gate::default(), Arc::new(Projection::default()));
        let telemetry =
            Telemetry { metrics: Metrics::new(&MetricsConfig::default()), tracer: Tracer::off() };
        let gated = Gated { log: log.clone(), gate: gate.clone() };
        let running = start(
            Box::new(gated),
            Arc::clone(&projection),
            Hub::new(Arc::clone(&projection)),
            Arc::clone(&clock) as Arc<dyn Clock>,
            telemetry,
            &config,
        )
        .unwrap();
        assert_eq!(running.readiness.settled().await, Phase::Ready);
        Self { log, gate, clock, projection, running }
    }

    pub(super) fn handle(&self) -> Handle {
        self.running.handle.clone()
    }

    /// Why a run on `log` can't begin.
    pub(super) async fn refusal(log: MemoryLog, clock: Arc<ManualClock>) -> String {
        let telemetry =
            Telemetry { metrics: Metrics::new(&MetricsConfig::default()), tracer: Tracer::off() };
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let running =
            start(Box::new(log), projection, hub, clock, telemetry, &Config::default()).unwrap();
        assert_eq!(running.readiness.settled().await, Phase::Failed);
        let refusal = running.stop().expect_err("it never served");
        std::error::Error::source(&refusal).map_or_else(String::new, ToString::to_string)
    }

    /// The wall clock's present time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Ends this run in order.
    pub(super) fn stop(self) -> (MemoryLog, Arc<ManualClock>) {
        self.running.stop().unwrap();
        (self.log, self.clock)
    }

    /// Ends this run in order and begins another one.
    pub(super) async fn restart(self) -> Self {
        let (log, clock) = self.stop();
        Self::with(log, clock, Config::default()).await
    }

    pub(super) async fn submit(&self, command: Command) -> Result<Applied, Refused> {
        self.handle().submit(request(command, trace(1))).await
    }

    /// Registers in the plainest way; the number of the change.
    pub(super) async fn put(&self, key: &InstanceKey) -> Seq {
        let applied = self.submit(Command::Register(register(key))).await.unwrap();
        applied.change.expect("a registration is always an event").seq
    }

    /// Everything that is due at the present time is decided when this returns: the sweep comes before the
    /// commands of its group, and this command leaves no event.
    pub(super) async fn settle(&self) {
        let nobody = Command::Heartbeat(heartbeat(&key("no-such-service", "x")));
        match self.submit(nobody).await {
            Err(Refused::Rejected(Rejection::UnknownService) | Refused::Failed { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Lets `millis` pass and everything happen that is due then.
    pub(super) async fn pass(&self, millis: u64) {
        self.clock.advance(crate::domain::Millis::from_millis(millis));
        self.settle().await;
    }

    pub(super) fn entry(&self, key: &InstanceKey) -> Option<Entry> {
        let ServiceKey { namespace, service } = &key.service;
        let view = self.projection.service(namespace.as_str(), service.as_str())?;
        view.entry(key.instance.as_str()).map(EntryRef::owned)
    }

    pub(super) fn status(&self, key: &InstanceKey) -> Option<Status> {
        self.entry(key).map(|entry| entry.instance.status)
    }

    /// A heartbeat as the HTTP layer does it: renews, or asks the registrar; then records. Says whether the
    /// registrar was asked, and what it changed.
    pub(super) async fn beat(
        &self,
        key: &InstanceKey,
        trace: TraceRef,
    ) -> Result<Option<Applied>, Refused> {
        let entry = self.entry(key).ok_or(Rejection::UnknownInstance)?;
        let renewed = entry.lease.renew(self.clock.monotonic(), self.clock.wall());
        let applied = match renewed {
            Ok(_) => None,
            Err(_) => {
                let command = Command::Heartbeat(heartbeat(key));
                Some(self.handle().submit(request(command, trace)).await?)
            }
        };
        let ServiceKey { namespace, service } = key.service.clone();
        let incarnation = entry.instance.incarnation;
        let traffic = Traffic {
            at: self.clock.wall(),
            seen: self.projection.head(),
            namespace: Some(namespace),
            service: Some(service),
            instance: Some(key.instance.clone()),
            caller: "tests".into(),
            trace,
            detail: Detail::Heartbeat {
                incarnation,
                load: None,
                health: None,
                note: None,
                baggage: None,
            },
        };
        let lease = Some(Arc::clone(&entry.lease));
        self.handle().record(QueuedTraffic { traffic, lease }).await?;
        Ok(applied)
    }

    /// Records a lookup of a service that never was.
    pub(super) async fn look_up(&self, n: usize) {
        let traffic = lookup(n);
        self.handle().record(QueuedTraffic { traffic, lease: None }).await.unwrap();
    }

    /// The changes after `seq`.
    pub(super) fn events_after(&self, seq: Seq) -> Vec<Event> {
        let changes = self.log.changes().into_iter().filter(|change| change.seq > seq);
        changes.map(|change| change.event).collect()
    }

    /// The last change.
    pub(super) fn last(&self) -> Change {
        self.log.changes().pop().expect("a started registry has changes")
    }

    /// All services with their revisions and instances, as readers see them.
    pub(super) fn published(&self) -> Vec<Published> {
        let (_, views) = self.projection.views(None);
        let row = |entries: &Entries| entries.iter().map(|e| Arc::clone(e.instance)).collect();
        views.iter().map(|view| (view.key.clone(), view.revision, row(&view.entries))).collect()
    }

    /// The same, folded from the log.
    pub(super) fn folded(&self) -> (Registry, Vec<Published>) {
        let mut registry = Registry::default();
        for change in self.log.changes() {
            drop(fold(&mut registry, &change));
        }
        let rows = registry
            .services()
            .map(|(key, service)| {
                let instances = service.instances.values().cloned().collect();
                (key.clone(), service.revision, instances)
            })
            .collect();
        (registry, rows)
    }
}

/// A service, its revision and its instances.
pub(super) type Published = (ServiceKey, Seq, Vec<Arc<Instance>>);

/// A request by the tests' caller.
pub(super) fn request(command: Command, trace: TraceRef) -> Request {
    Request { command, caller: caller(), trace, baggage: None }
}
