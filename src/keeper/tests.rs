//! The keeper's decisions, over work that only notes that it was asked for.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use super::duties::budgets;
use super::*;
use crate::clock::ManualClock;
use crate::domain::command::Register;
use crate::domain::event::{self, Event};
use crate::domain::{Command, Seq, TraceRef};
use crate::log::memory::{Fault, MemoryLog};
use crate::log::upkeep::{Budgets, Removed, ServiceState, Standing, Written};
use crate::registrar::{self, Phase, Refused, Request, Telemetry};
use crate::telemetry::metrics::MetricsConfig;
use crate::telemetry::spans::Tracer;
use crate::testing::{START, key, register};
use crate::watch::Hub;

#[derive(Debug, Default)]
struct State {
    calls: Vec<&'static str>,
    /// The work that fails.
    fails: Option<&'static str>,
    /// Slices that are left to derive.
    derive: usize,
    retain: VecDeque<Removed>,
    untold: Vec<Compacted>,
    told: Vec<(Compacted, Seq)>,
    snapshots: Vec<(Seq, Vec<ServiceState>)>,
    standing: Standing,
    /// Whom each slice of deriving and of retention costs time.
    costs: Option<Arc<Starved>>,
}

/// A machine that gives the keeper a hundredth of a processor: each slice works for 3 ms and takes 300.
#[derive(Debug)]
struct Starved {
    clock: Arc<ManualClock>,
    worked: AtomicU64,
}

impl Starved {
    fn slice(&self) {
        self.worked.fetch_add(3_000, Relaxed);
        self.clock.advance(Millis::from_millis(300));
    }
}

impl Clock for Starved {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn monotonic(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn awake_since(&self) -> Monotonic {
        self.clock.awake_since()
    }

    /// The time that is rested for passes.
    fn park(&self, until: Monotonic) {
        self.clock.advance(Millis::from_millis(until.micros_since(self.monotonic()) / 1_000));
    }

    fn worked_micros(&self) -> Option<u64> {
        Some(self.worked.load(Relaxed))
    }
}

/// Clones share it.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<State>>);

impl Script {
    fn call<T>(&self, name: &'static str, act: impl FnOnce(&mut State) -> T) -> Result<T, Failed> {
        let mut state = self.0.lock();
        state.calls.push(name);
        if state.fails == Some(name) {
            return Err(Failed("no luck".into()));
        }
        if let Some(starved) = &state.costs
            && ["derive", "retain"].contains(&name)
        {
            starved.slice();
        }
        Ok(act(&mut state))
    }

    fn calls(&self, name: &str) -> usize {
        self.0.lock().calls.iter().filter(|call| **call == name).count()
    }
}

impl Upkeep for Script {
    fn heed(&mut self, _: Arc<AtomicBool>) {}

    fn longest_hold(&mut self) -> Duration {
        Duration::from_millis(3)
    }

    fn standing(&mut self) -> Result<Standing, Failed> {
        self.call("standing", |state| state.standing)
    }

    fn derive(&mut self) -> Result<bool, Failed> {
        self.call("derive", |state| {
            state.derive = state.derive.saturating_sub(1);
            state.derive > 0
        })
    }

    fn snapshot(
        &mut self,
        seq: Seq,
        services: &mut dyn Iterator<Item = ServiceState>,
        _: Millis,
    ) -> Result<Written, Failed> {
        self.call("snapshot", |state| {
            state.snapshots.push((seq, services.collect()));
            state.standing.snapshot = Some((seq, START));
            Written { seq, bytes: 1 }
        })
    }

    fn retain(&mut self, _: &Budgets) -> Result<Option<Removed>, Failed> {
        self.call("retain", |state| {
            let removed = state.retain.pop_front();
            if let Some(Removed::Events(what)) = removed {
                state.untold.push(what);
            }
            removed
        })
    }

    fn untold(&mut self) -> Result<Vec<Compacted>, Failed> {
        self.call("untold", |state| {
            let first = state.untold.first().copied();
            first
                .zip(state.untold.last())
                .map(|(first, last)| Compacted { first: first.first, ..*last })
                .into_iter()
                .collect()
        })
    }

    fn told(&mut self, told: &Compacted, by: Seq) -> Result<(), Failed> {
        self.call("told", |state| {
            state.told.push((*told, by));
            state.untold.clear();
        })
    }

    fn reclaim(&mut self) -> Result<bool, Failed> {
        self.call("reclaim", |_| false)
    }
}

/// A keeper that is turned by hand, beside a registrar that runs.
struct Rig {
    keeper: Keeper,
    script: Script,
    log: MemoryLog,
    clock: Arc<ManualClock>,
    registrar: registrar::Running,
}

const CONFIG: Config = Config {
    policy: Policy { traffic_age: None, traffic_bytes: None, changes_age: None },
    retention_interval: Duration::from_secs(30),
    snapshot_every: 5,
    snapshot_max_age: Duration::from_secs(3_600),
};

async fn parts(script: &Script) -> (Parts, MemoryLog, Arc<ManualClock>, registrar::Running) {
    let (log, clock) = (MemoryLog::new(), ManualClock::new(START));
    let metrics = Metrics::new(&MetricsConfig::default());
    let projection = Arc::new(Projection::default());
    let running = registrar::start(
        Box::new(log.clone()),
        Arc::clone(&projection),
        Hub::new(Arc::clone(&projection)),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Telemetry { metrics: Arc::clone(&metrics), tracer: Tracer::off() },
        &registrar::Config::default(),
    )
    .unwrap();
    assert_eq!(running.readiness.settled().await, Phase::Ready);
    let parts = Parts {
        upkeep: Box::new(script.clone()),
        projection,
        registrar: running.handle.clone(),
        readiness: running.readiness.clone(),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        metrics,
    };
    (parts, log, clock, running)
}

impl Rig {
    async fn new() -> Self {
        let script = Script::default();
        let (parts, log, clock, registrar) = parts(&script).await;
        let keeper = Keeper::new(parts, CONFIG, Arc::default());
        Self { keeper, script, log, clock, registrar }
    }

    async fn register(&self, instance: &str) -> Result<(), Refused> {
        // Nobody expires, however far the clock goes.
        let ttl = Some(Millis::from_millis(24 * 3_600_000));
        let command = Command::Register(Register { ttl, ..register(&key("orders", instance)) });
        let request = Request { command, caller: None, trace: TraceRef::default(), baggage: None };
        self.registrar.handle.submit(request).await.map(drop)
    }

    fn turn(&mut self, times: usize) {
        for _ in 0..times {
            self.keeper.turn();
        }
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Millis::from_millis(seconds * 1_000));
    }

    /// Turns until so many removals are told.
    async fn turn_until_told(&mut self, times: usize) {
        for _ in 0..100_000 {
            if self.script.0.lock().told.len() >= times {
                return;
            }
            self.turn(1);
            tokio::task::yield_now().await;
        }
        panic!("not told: {:?}", self.script);
    }

    fn compacted(&self) -> Vec<(Seq, u64, u64)> {
        let changes = self.log.changes().into_iter();
        let of = |change: crate::domain::Change| match change.event {
            Event::Note(event::Note::Compacted(what)) => {
                assert_eq!(change.caller, None, "it is the registry's own");
                Some((change.seq, what.first, what.last))
            }
            _ => None,
        };
        changes.filter_map(of).collect()
    }
}

fn removed(first: u64, last: u64) -> Removed {
    Removed::Events(Compacted {
        class: event::Class::Traffic,
        first,
        last,
        from: START,
        until: START,
        bytes: 1,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_with_growing_pauses_and_holds_up_nothing_else() {
    let mut rig = Rig::new().await;
    rig.script.0.lock().fails = Some("derive");
    rig.turn(5);
    assert_eq!((rig.script.calls("derive"), rig.script.calls("standing")), (1, 5));
    for (seconds, calls) in
        [(1, 2), (1, 2), (1, 3), (3, 3), (1, 4), (600, 5), (600, 6), (600, 7), (59, 7), (1, 8)]
    {
        rig.pass(seconds);
        rig.turn(3);
        assert_eq!(rig.script.calls("derive"), calls, "after {seconds} more seconds");
    }
    rig.script.0.lock().fails = None;
    rig.pass(60);
    rig.turn(3);
    assert_eq!(rig.script.calls("derive"), 11, "each turn, now that it works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_written_when_enough_has_changed_or_the_last_one_is_old() {
    let mut rig = Rig::new().await;
    // `started` and `recovered`.
    rig.register("a").await.unwrap();
    rig.register("b").await.unwrap();
    rig.turn(2);
    assert_eq!(rig.script.calls("snapshot"), 0, "four changes");
    rig.register("c").await.unwrap();
    rig.turn(2);
    let written = rig.script.0.lock().snapshots.pop().unwrap();
    assert_eq!(written.0, Seq(5));
    let [service] = &written.1[..] else { panic!("{written:?}") };
    let ids: Vec<&str> =
        service.instances.iter().map(|l| l.instance.key.instance.as_str()).collect();
    assert_eq!((ids, service.revision), (vec!["a", "b", "c"], Seq(5)));
    assert_eq!(rig.script.calls("snapshot"), 1, "and none of the same version");

    rig.pass(3_600);
    rig.turn(2);
    assert_eq!(rig.script.calls("snapshot"), 1, "it is old, but nothing has changed");
    rig.register("d").await.unwrap();
    rig.turn(1);
    assert_eq!(rig.script.0.lock().standing.snapshot, Some((Seq(6), START)));
    rig.script.0.lock().standing.snapshot = Some((Seq(6), rig.clock.wall()));
    rig.register("e").await.unwrap();
    rig.pass(3_599);
    rig.turn(1);
    assert_eq!(rig.script.calls("snapshot"), 2, "something has changed, but it is not old");
    let page = rig.keeper.parts.metrics.page().render();
    assert!(page.contains("rollcall_snapshots_total{outcome=\"written\"} 2\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_rests_while_the_log_has_failed_and_tells_afterwards() {
    let mut rig = Rig::new().await;
    rig.script.0.lock().retain = [removed(1, 256), removed(257, 512)].into();
    rig.log.set_fault(Fault::Unavailable);
    // What the registrar can't write makes the log a failed one; the keeper's own note does it as well.
    rig.turn(1);
    assert_eq!(rig.script.calls("retain"), 3);
    assert!(matches!(rig.register("a").await, Err(Refused::Failed { .. })));
    let calls = rig.script.0.lock().calls.len();
    rig.turn(5);
    assert_eq!(rig.script.0.lock().calls.len(), calls, "nothing is asked of a log that has failed");
    rig.log.set_fault(Fault::None);
    rig.turn_until_told(1).await;
    let told = rig.script.0.lock().told.clone();
    let [(what, by)] = told[..] else { panic!("{told:?}") };
    assert_eq!(rig.compacted(), [(by, 1, 512)], "once, and all of it");
    assert_eq!((what.first, what.last), (1, 512));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budgets_are_enforced_now_and_then_and_told_once_an_hour() {
    let mut rig = Rig::new().await;
    rig.script.0.lock().retain = [removed(1, 256)].into();
    rig.turn_until_told(1).await;
    let retained = rig.script.calls("retain");
    assert_eq!((retained, rig.script.calls("reclaim")), (2, 1), "until there is no more");
    rig.turn(3);
    assert_eq!(rig.script.calls("retain"), retained, "not before it is due again");
    rig.script.0.lock().retain = [removed(257, 512)].into();
    rig.pass(30);
    rig.turn(2);
    assert_eq!(rig.script.calls("retain"), retained + 2);
    rig.script.0.lock().retain = [removed(513, 768)].into();
    rig.pass(3_500);
    rig.turn(5);
    assert_eq!(rig.compacted().len(), 1, "the second one waits for the hour");
    rig.pass(100);
    rig.turn_until_told(2).await;
    let compacted: Vec<_> = rig.compacted().iter().map(|what| (what.1, what.2)).collect();
    assert_eq!(compacted, [(1, 256), (257, 768)]);
    let page = rig.keeper.parts.metrics.page().render();
    let counted = "rollcall_retention_removed_events_total{class=\"traffic\"} 768\n";
    assert!(page.contains(counted), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ended_is_derived_from_and_goes_at_once() {
    let mut rig = Rig::new().await;
    rig.script.0.lock().retain = [Removed::Ended, removed(1, 256)].into();
    assert!(rig.keeper.turn(), "there is something to do at once");
    let calls = rig.script.0.lock().calls.clone();
    assert_eq!((rig.script.calls("retain"), rig.script.calls("reclaim")), (1, 0), "{calls:?}");
    rig.turn(1);
    assert_eq!(rig.script.0.lock().calls[calls.len()], "derive");
    assert_eq!((rig.script.calls("retain"), rig.script.calls("reclaim")), (3, 1));
    rig.turn(1);
    assert_eq!(rig.script.calls("retain"), 3, "it is not due again");
}

/// Deriving that never comes to an end leaves the others their turn, and the thread ends when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn endless_work_starves_nobody_and_can_be_stopped() {
    let script = Script::default();
    script.0.lock().derive = usize::MAX;
    let (parts, _log, _clock, _registrar) = parts(&script).await;
    let running = start(parts, CONFIG).unwrap();
    while script.calls("retain") == 0 {
        tokio::task::yield_now().await;
    }
    tokio::task::spawn_blocking(move || running.stop()).await.unwrap();
    let calls = script.0.lock().calls.len();
    assert!(script.calls("derive") > 100 && calls == script.0.lock().calls.len());
}

/// There is always more to derive, and the budgets are enforced all the same.
#[tokio::test(flavor = "multi_thread")]
async fn retention_goes_on_where_others_leave_hardly_any_of_the_processor() {
    let mut rig = Rig::new().await;
    let starved = Arc::new(Starved { clock: Arc::clone(&rig.clock), worked: AtomicU64::new(0) });
    rig.keeper.parts.clock = Arc::clone(&starved) as Arc<dyn Clock>;
    let old = (0..100).map(|n| removed(256 * n + 1, 256 * (n + 1)));
    {
        let mut state = rig.script.0.lock();
        (state.derive, state.retain) = (usize::MAX, old.collect());
        state.costs = Some(starved);
    }
    let began = rig.clock.monotonic();
    let mut first = None;
    while !rig.script.0.lock().retain.is_empty() {
        rig.turn(1);
        let passed = rig.clock.monotonic().since(began);
        if rig.script.calls("retain") > 0 {
            first.get_or_insert(passed);
        }
        assert!(passed < Millis::from_millis(200_000), "{:?}", rig.script.calls("retain"));
    }
    assert!(first.is_some_and(|first| first < Millis::from_millis(12_000)), "{first:?}");
}

#[test]
fn a_rest_follows_the_work_and_not_the_waiting() {
    let rest = |took, worked, times| pauses::rest_micros(took, worked, times);
    assert_eq!(rest(3_000, Some(3_000), 9), 27_000, "a processor of its own");
    assert_eq!(rest(300_000, Some(3_000), 9), 27_000 + 297_000, "a hundredth of one");
    assert_eq!(rest(3_000, None, 9), 27_000, "where it is not known");
    assert_eq!(rest(3_000, Some(4_000), 9), 27_000, "the two clocks are not read at once");
    assert_eq!(rest(10_000_000, Some(1), 9), 1_000_000);
    assert_eq!(rest(u64::MAX, None, u32::MAX), 1_000_000);
}

#[test]
fn ages_become_instants_and_traffic_goes_with_its_changes() {
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3_600));
    let ago = |hours: i64| Timestamp(START.0 - hours * 3_600_000_000);
    let policy = Policy { traffic_age: hours(5), traffic_bytes: Some(7), changes_age: hours(9) };
    let expected = Budgets {
        traffic_until: ago(5),
        traffic_bytes: 7,
        traffic_ended: Timestamp(START.0 - 5 * 3_600_000_000 / 8),
        changes_until: ago(9),
        rollups_until: ago(9),
    };
    assert_eq!(budgets(&policy, START), expected);
    let short = Policy { changes_age: hours(2), ..policy };
    assert_eq!(budgets(&short, START).traffic_until, ago(2));
    assert_eq!(budgets(&short, START).traffic_ended.0, START.0 - 2 * 3_600_000_000 / 8);
    let ever = budgets(&Policy::default(), START);
    assert_eq!(
        (ever.traffic_until, ever.changes_until),
        (Timestamp(i64::MIN), Timestamp(i64::MIN))
    );
    assert_eq!(ever.traffic_bytes, u64::MAX);
}
