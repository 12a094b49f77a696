//! One run: a registry, its crowd, its watchers and its troubles on one clock and one thread. The seed decides what
//! happens next; after each of the registrar's turns the rules of [`super::rules`] are checked.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, OnceLock};

use fastrand::Rng;
use parking_lot::Mutex;
use rollcall::clock::{Clock as _, ManualClock};
use rollcall::domain::instance::Health;
use rollcall::domain::{
    Check, Detector, InstanceId, InstanceKey, Kind, Millis, Namespace, Registry, ServiceKey,
    ServiceName, Timestamp,
};
use rollcall::log::memory::Fault;
use rollcall::projection::Projection;
use rollcall::registrar::{Stepped, Telemetry, Turn};
use rollcall::telemetry::metrics::{Metrics, MetricsConfig};
use rollcall::telemetry::spans::Tracer;
use rollcall::watch::Hub;

use crate::archive::Stored;
use crate::crowd::{Connection, Crowd, note};
use crate::disk::{Disk, Weather};
use crate::guards::Guards;
use crate::member::{Member, State};
use crate::plan::{Plan, Trouble};
use crate::transcript::Transcript;
use crate::verdicts::Verdicts;
use crate::watchers::{Sleeper, Watchers};

/// Where the wall clock of every run begins: 2026-11-21T08:00:00Z.
const START: Timestamp = Timestamp(1_795_248_000_000_000);
/// The registrar may rest for so many milliseconds: its flushes are 50 apart, its attempts to write again 100.
const REST: u64 = 100;
/// Members are numbered through; their ids say so.
const PORT: u16 = 8_080;

/// What comes next; those of one instant in an order that the seed decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// Somebody changes or looks up something.
    Chore,
    /// Something goes wrong.
    Trouble,
    /// The log is well again.
    Heal,
    /// The registry starts again.
    Start,
    /// The registrar takes a turn; of this number, so that one that was put off is passed over.
    Turn(u64),
    /// This goes wrong, as part of something greater.
    Also(Trouble),
    /// This member dies, as part of something greater.
    Fall(usize),
}

/// A registry that runs.
pub(crate) struct Running {
    pub(crate) registrar: Stepped,
    pub(crate) projection: Arc<Projection>,
    pub(crate) hub: Arc<Hub>,
    waking: Sleeper<()>,
}

/// Everything there is.
pub(crate) struct World {
    plan: Plan,
    clock: Arc<ManualClock>,
    pub(crate) crowd: Arc<Mutex<Crowd>>,
    pub(crate) disk: Disk,
    pub(crate) running: Option<Running>,
    /// What the log folds to, up to the head that is published.
    pub(crate) shadow: Registry,
    /// The kinds of these changes.
    pub(crate) history: Vec<Kind>,
    pub(crate) guards: Guards,
    pub(crate) verdicts: Verdicts,
    watchers: Watchers,
    random: Rng,
    agenda: BinaryHeap<Reverse<(u64, u32, Task)>>,
    turn: u64,
    turn_at: Option<u64>,
    pub(crate) works_since: u64,
    /// No operator changes anything: not any more, or never in a quiet world.
    peace: bool,
    /// The wall clock never jumped.
    pub(crate) keeps_time: bool,
}

/// What is counted is nobody's business here, so that all runs share it.
fn telemetry() -> Telemetry {
    static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| Metrics::new(&MetricsConfig::default()));
    Telemetry { metrics: Arc::clone(metrics), tracer: Tracer::off() }
}

fn service(n: usize) -> ServiceKey {
    let service = ServiceName::new(&format!("s{n}")).unwrap();
    ServiceKey { namespace: Namespace::default(), service }
}

fn check(deregister_after: Option<u64>) -> Arc<Check> {
    Arc::new(Check {
        kind: rollcall::domain::check::CheckKind::Tcp,
        port: None,
        path: "/".into(),
        method: rollcall::domain::check::CheckMethod::Get,
        expect: None,
        service: "".into(),
        tls: false,
        interval: Millis::from_millis(10_000),
        timeout: Millis::from_millis(2_000),
        initial_delay: Millis::ZERO,
        failures: 3,
        passes: 1,
        deregister_after: deregister_after.map(Millis::from_millis),
        registered_from: None,
    })
}

impl World {
    /// The world of `seed` at its beginning.
    pub(crate) fn new(seed: u64, aloud: bool) -> Self {
        let mut random = Rng::with_seed(seed);
        let plan = Plan::of(&mut random);
        Self::with(plan, random, aloud)
    }

    /// The world of a plan.
    pub(crate) fn with(plan: Plan, mut random: Rng, aloud: bool) -> Self {
        let clock = ManualClock::new(START);
        let mut crowd = Crowd::new(Arc::clone(&clock), random.fork(), Transcript::new(aloud));
        note!(crowd, "{plan:?}");
        let services: Vec<ServiceKey> = (0..plan.services.len()).map(service).collect();
        for (key, instances) in services.iter().zip(&plan.services) {
            for _ in 0..*instances {
                let who = crowd.members.len();
                let instance = InstanceId::new(&format!("i{who}")).unwrap();
                let mut one_of = |share: u64| random.u64(..1_000) < share;
                let probed = one_of(plan.probed);
                let leased = !(one_of(plan.only_probed) && probed);
                let detector = if one_of(plan.adaptive) { Detector::PHI } else { Detector::Fixed };
                crowd.members.push(Member {
                    key: InstanceKey { service: key.clone(), instance },
                    ttl: leased.then(|| plan.ttls[random.usize(..plan.ttls.len())]),
                    detector,
                    port: PORT,
                    zone: random.u64(..plan.zones),
                    check: probed.then(|| check(plan.deregister_after)),
                    state: State::Up,
                    scheduled: true,
                    incarnation: None,
                    waits: false,
                    says: None,
                });
                let at = crowd.now() + random.u64(..500);
                crowd.schedule(who, at);
            }
        }
        let watchers = Watchers::new(plan.watchers, &services);
        let crowd = Arc::new(Mutex::new(crowd));
        let mut world = Self {
            disk: Disk::new(Arc::clone(&crowd)),
            running: None,
            shadow: Registry::default(),
            history: Vec::new(),
            guards: Guards::default(),
            verdicts: Verdicts::new(plan.config.flap_window),
            watchers,
            agenda: BinaryHeap::new(),
            turn: 0,
            turn_at: None,
            works_since: 0,
            peace: plan.span == 0,
            keeps_time: plan.keeps_time(),
            plan,
            clock,
            crowd,
            random,
        };
        world.plan_task(0, Task::Start);
        world.plan_task(100, Task::Chore);
        world.plan_task(1_000, Task::Trouble);
        world
    }

    pub(crate) fn now(&self) -> u64 {
        self.crowd.lock().now()
    }

    fn plan_task(&mut self, after: u64, task: Task) {
        let at = self.now() + after;
        let order = self.random.u32(..);
        self.agenda.push(Reverse((at, order, task)));
    }

    /// Has the registrar take its next turn in `after` milliseconds, or earlier if that was planned.
    fn plan_turn(&mut self, after: u64) {
        let at = self.now() + after;
        if self.turn_at.is_some_and(|planned| planned <= at) {
            return;
        }
        self.turn += 1;
        self.turn_at = Some(at);
        self.plan_task(after, Task::Turn(self.turn));
    }

    /// Runs the whole plan; the rules that were found broken.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.go_on(self.plan.span)?;
        self.make_peace();
        // Long enough for every lease to run out, also where a guard has held it for as long as it may.
        self.go_on(8 * self.ttl() + 3_000)?;
        self.check_peace()?;
        self.stop_in_order()?;
        self.start()?;
        self.look()
    }

    /// The longest ttl.
    pub(crate) fn ttl(&self) -> u64 {
        self.plan.ttls.iter().max().copied().unwrap_or_default()
    }

    /// Lets `span` milliseconds pass.
    pub(crate) fn go_on(&mut self, span: u64) -> Result<(), String> {
        let end = self.now() + span;
        while self.now() < end {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let due = self.agenda.peek().map(|Reverse((at, order, _))| (*at, *order));
        let member_due = self.crowd.lock().next_due();
        let crowd_first = match (due, member_due) {
            (Some((at, order)), Some(member)) => member < at || (member == at && order % 2 == 0),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if crowd_first {
            self.crowd.lock().act_one();
        } else if let Some(Reverse((at, _, task))) = self.agenda.pop() {
            self.crowd.lock().advance_to(at);
            match task {
                Task::Chore => self.chore(),
                Task::Trouble => self.next_trouble()?,
                Task::Also(_) | Task::Fall(_) if self.peace => {}
                Task::Fall(who) => self.kill(|number, _| number == who),
                Task::Also(trouble) => self.trouble(trouble)?,
                Task::Heal => self.disk.set_weather(Weather::Fine),
                Task::Start => self.start()?,
                Task::Turn(number) if number == self.turn => self.take_turn()?,
                Task::Turn(_) => {}
            }
        }
        let asked = std::mem::take(&mut self.crowd.lock().asked);
        if asked && self.running.is_some() {
            let lag = self.random.u64(0..=2);
            self.plan_turn(lag);
        }
        let broken = self.crowd.lock().broken.first().cloned();
        broken.map_or(Ok(()), Err)
    }

    fn take_turn(&mut self) -> Result<(), String> {
        self.turn_at = None;
        let Some(running) = &mut self.running else { return Ok(()) };
        let began = self.crowd.lock().now();
        let worked = self.crowd.lock().log_works();
        let turn = running.registrar.turn();
        self.crowd.lock().hear();
        if self.disk.has_crashed() {
            let pause = self.random.u64(0..2 * self.ttl());
            self.crash("killed in a write", pause);
            return Ok(());
        }
        match turn {
            Turn::More => self.plan_turn(0),
            Turn::Rest(until) => {
                let rest = until.0.div_ceil(1_000).saturating_sub(self.now());
                if rest > REST {
                    return Err(format!("the registrar wants to rest for {rest} ms"));
                }
                let lag = if self.random.u8(..8) == 0 { self.random.u64(0..5) } else { 0 };
                self.plan_turn(rest + lag);
            }
            Turn::Done => return Err("the registrar ended without being told to".to_owned()),
        }
        self.look()?;
        let works = self.crowd.lock().log_works();
        if !(worked && works) {
            self.works_since = self.now();
        } else if !self.disk.has_crashed() {
            self.check_leases(began)?;
        }
        Ok(())
    }

    /// What is published is read, checked and told to those who watch.
    fn look(&mut self) -> Result<(), String> {
        self.read_changes()?;
        let Some(running) = &mut self.running else { return Ok(()) };
        running.waking.turn();
        self.watchers.stir(&mut self.random);
        let stored = Stored(self.disk.stored.clone());
        self.watchers.turn(&running.hub, &running.projection, &stored, &self.history)
    }

    fn chore(&mut self) {
        let mut crowd = self.crowd.lock();
        let who = self.random.usize(..crowd.members.len());
        if self.random.u8(..4) == 0 && crowd.connection.is_some() && !self.peace {
            crowd.operate(who);
        } else {
            let key = crowd.members[who].key.service.clone();
            crowd.look_up(&key);
        }
        drop(crowd);
        let pause = self.random.u64(20..600);
        self.plan_task(pause, Task::Chore);
    }

    /// Something goes wrong, and the next thing later on.
    fn next_trouble(&mut self) -> Result<(), String> {
        let trouble = self.plan.trouble(&mut self.random);
        let pause = self.random.u64(1..2 * self.plan.every);
        self.plan_task(pause, Task::Trouble);
        trouble.map_or(Ok(()), |trouble| self.trouble(trouble))
    }

    fn trouble(&mut self, trouble: Trouble) -> Result<(), String> {
        let ttl = self.ttl();
        let who = self.random.usize(..self.crowd.lock().members.len());
        note!(self.crowd.lock(), "trouble: {trouble:?}, i{who}");
        match trouble {
            Trouble::Kill => self.kill(|number, _| number == who),
            Trouble::KillZone => {
                let zone = self.crowd.lock().members[who].zone;
                self.kill(|_, member| member.zone == zone);
            }
            Trouble::Revive => self.revive(),
            Trouble::Freeze => {
                let until = self.now() + self.random.u64(100..3 * ttl);
                let member = &mut self.crowd.lock().members[who];
                if member.state == State::Up {
                    member.state = State::Frozen(until);
                }
            }
            Trouble::Cut => {
                let mut crowd = self.crowd.lock();
                let zone = crowd.members[who].zone;
                if !crowd.cut.remove(&zone) {
                    crowd.cut.insert(zone);
                }
            }
            Trouble::Leave => self.crowd.lock().leave(who),
            Trouble::Report => {
                let health = if self.random.bool() { Health::Failing } else { Health::Passing };
                self.crowd.lock().members[who].says = Some(health);
            }
            Trouble::Probe => self.crowd.lock().probed(who),
            Trouble::LogFails => {
                let faults = [Fault::Unavailable, Fault::UnknownIn, Fault::UnknownOut];
                let fault = faults[self.random.usize(..3)];
                let lasts = if self.random.bool() {
                    self.disk.set_weather(Weather::Failing(fault));
                    self.random.u64(20..2 * ttl)
                } else {
                    // When a deadline of the registry's own comes up; a drain that ends soon is one.
                    self.disk.set_trap(fault);
                    let span = self.random.i64(300..2_000);
                    self.crowd.lock().drain(who, span);
                    self.random.u64(2_000..5_000)
                };
                self.plan_task(lasts, Task::Heal);
            }
            Trouble::LogSlow => {
                self.disk.set_weather(Weather::Slow(self.random.u64(10..ttl)));
                let lasts = self.random.u64(50..5_000);
                self.plan_task(lasts, Task::Heal);
            }
            Trouble::Stall => self.clock.stall(Millis::from_millis(self.random.u64(600..6 * ttl))),
            Trouble::Crash => {
                let pause = self.random.u64(0..2 * ttl);
                self.crash("killed", pause);
            }
            Trouble::CrashInWrite => self.disk.kill_in_write(),
            Trouble::Restart => {
                self.stop_in_order()?;
                let pause = self.random.u64(0..2 * ttl);
                self.plan_task(pause, Task::Start);
            }
            Trouble::Gasp => self.gasp(who),
            Trouble::Wave => self.wave(who),
            Trouble::Jump => self.clock.jump(self.random.i64(-3_600..3_600) * 1_000_000),
        }
        Ok(())
    }

    /// Member `who` is silent until it is late, and speaks once more. Just before that the log becomes slow, or the
    /// registry stands still: what an instance and its registry have in common may be what is wrong.
    fn gasp(&mut self, who: usize) {
        let mut crowd = self.crowd.lock();
        let (now, key) = (crowd.now(), crowd.members[who].key.clone());
        let heard = crowd.truth.get(&key).map_or(now, |truth| truth.heard);
        let member = &mut crowd.members[who];
        let Some(ttl) = member.ttl.filter(|_| member.state == State::Up) else { return };
        let late = (heard + ttl * 2 / 3).max(now) - now;
        let until = now + late + self.random.u64(..ttl / 3);
        let last = self.random.bool();
        member.state = if last { State::Gasping(until) } else { State::Frozen(until) };
        drop(crowd);
        let also = [Trouble::LogSlow, Trouble::Stall, Trouble::Gasp];
        let also = also[self.random.usize(..also.len())];
        let after = late + self.random.u64(..ttl / 6);
        if also != Trouble::Gasp && self.plan.has(also) {
            self.plan_task(after, Task::Also(also));
        }
    }

    /// Member `who` and some after it die, a third of a ttl apart: one runs out while the next one turns late.
    fn wave(&mut self, who: usize) {
        let (members, apart) = (self.crowd.lock().members.len(), self.ttl() / 3);
        let dying = self.random.usize(2..=5).min(members);
        for (number, place) in (1..).zip(0..dying) {
            let after = number * apart + self.random.u64(..apart / 2);
            self.plan_task(after, Task::Fall((who + place) % members));
        }
        if self.plan.has(Trouble::LogSlow) {
            let after = 3 * apart + self.random.u64(..apart);
            self.plan_task(after, Task::Also(Trouble::LogSlow));
        }
    }

    fn kill(&mut self, whom: impl Fn(usize, &Member) -> bool) {
        for (number, member) in self.crowd.lock().members.iter_mut().enumerate() {
            if whom(number, member) {
                (member.state, member.incarnation) = (State::Down, None);
            }
        }
    }

    /// One that is down, or all of them, start again: some on another port, as another life.
    fn revive(&mut self) {
        let mut crowd = self.crowd.lock();
        let all = self.random.bool();
        let down = |member: &Member| member.state == State::Down && !member.waits;
        let down: Vec<usize> =
            (0..crowd.members.len()).filter(|who| down(&crowd.members[*who])).collect();
        for who in down.into_iter().take(if all { usize::MAX } else { 1 }) {
            let member = &mut crowd.members[who];
            member.state = State::Up;
            member.port = PORT + self.random.u16(..2);
            if !std::mem::replace(&mut member.scheduled, true) {
                let at = crowd.now() + self.random.u64(..200);
                crowd.schedule(who, at);
            }
        }
    }

    /// The registry's process is gone, and starts again in `pause` milliseconds.
    pub(crate) fn crash(&mut self, how: &str, pause: u64) {
        if self.running.take().is_none() {
            return;
        }
        let mut crowd = self.crowd.lock();
        note!(crowd, "the registry was {how}");
        crowd.disconnect(false);
        drop(crowd);
        self.end_run();
        self.plan_task(pause, Task::Start);
    }

    /// The registry ends as on SIGTERM: what waits gets into the log.
    fn stop_in_order(&mut self) -> Result<(), String> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        // As `app` does it: nothing new is taken before the registrar is told to end.
        self.crowd.lock().closing = true;
        running.hub.close();
        running.registrar.close();
        let mut turns = 0;
        let works = self.crowd.lock().log_works();
        while running.registrar.turn() != Turn::Done {
            self.crowd.lock().hear();
            turns += 1;
            if turns > 1_000 {
                return Err("the registrar does not end".to_owned());
            }
        }
        let works = works && self.crowd.lock().log_works() && !self.disk.has_crashed();
        let mut crowd = self.crowd.lock();
        note!(crowd, "the registry was stopped");
        crowd.disconnect(works);
        drop(crowd);
        drop(running);
        self.end_run();
        Ok(())
    }

    fn end_run(&mut self) {
        self.watchers.disconnect();
        self.turn += 1;
        self.turn_at = None;
    }

    /// A new process opens the log.
    fn start(&mut self) -> Result<(), String> {
        if self.running.is_some() {
            return Ok(());
        }
        // A new process has no stall behind it that it could know of.
        self.clock.stall(Millis::ZERO);
        self.disk.reopen();
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let registrar = Stepped::start(
            Box::new(self.disk.clone()),
            Arc::clone(&projection),
            Arc::clone(&hub),
            Arc::clone(&self.clock) as _,
            telemetry(),
            &self.plan.config,
        );
        let registrar = registrar.map_err(|error| format!("the registry can't start: {error}"))?;
        let mut crowd = self.crowd.lock();
        note!(crowd, "the registry starts at {}", projection.head());
        crowd.ready_at = crowd.now();
        let handle = registrar.handle();
        crowd.connection = Some(Connection { projection: Arc::clone(&projection), handle });
        drop(crowd);
        let waker = Arc::clone(&hub);
        let waking =
            Sleeper::new(async move { waker.run(std::time::Duration::from_secs(3_600)).await });
        self.running = Some(Running { registrar, projection, hub, waking });
        self.works_since = self.now();
        self.plan_turn(0);
        self.check_acknowledged()?;
        self.look()?;
        // A new process holds nobody, whether the log could take its `started` or not.
        self.guards = Guards::default();
        Ok(())
    }

    /// Nothing goes wrong any more, and everybody who is not dead is well.
    fn make_peace(&mut self) {
        note!(self.crowd.lock(), "peace");
        self.plan.silence();
        self.peace = true;
        self.disk.set_weather(Weather::Fine);
        self.watchers.resume();
        let mut crowd = self.crowd.lock();
        crowd.cut.clear();
        for member in crowd.members.iter_mut().filter(|member| member.state != State::Down) {
            member.state = State::Up;
        }
    }

    /// The hash of the transcript, and its length.
    pub(crate) fn digest(&self) -> (u64, u64) {
        self.crowd.lock().transcript.digest()
    }

    /// The last lines of the transcript.
    pub(crate) fn tail(&self) -> String {
        self.crowd.lock().transcript.tail()
    }

    /// When the process last began to run without a stall, or the log to work, whichever is later.
    pub(crate) fn awake(&self) -> u64 {
        (self.clock.awake_since().0 / 1_000).max(self.works_since)
    }
}
