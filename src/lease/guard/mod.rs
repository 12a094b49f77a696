//! The guard against mass expiry: whether so many leases running out at once can be believed.
//!
//! When most instances of a service fall silent within one ttl, it is more likely that the registry can't hear them than
//! that all have died. So each service, and the registry as a whole (which is what protects services of two), is a
//! scope that is watched by three figures:
//!
//! ```text
//!   late    leases past two thirds of their ttl          n = living + gone
//!   gone    leases that ran out within their last ttl    threatened: late + gone > share × n
//!   living  leases that live, the late ones among them
//!
//!            an expiry is due, threatened, late + gone ≥ minimum
//!      OPEN ──────────────────────────────────────────────────────▶ GUARDED   nobody expires
//!       ▲                                                              │
//!       │ late = 0                  no longer threatened: recovered,   │
//!       └──────────────── SPENT ◀── or after the limit: elapsed ───────┘
//!                    who is late expires
//! ```
//!
//! **The limit** is `limit_ttls` times the *largest* ttl among the late ones, at most `limit_max`: a guard that
//! held for five of its shortest ttl would let those go that have hardly been asked twice. **Recovered** means that the
//! reason to enter has gone. Those who are late then have one fresh ttl, as after a stall of the registry: where a network heals,
//! half of the instances are heard a heartbeat before the other half. **No instance is held for longer than the guard that first
//! held it may last**, whatever other guards do: it is out within its ttl and that limit.
//!
//! Pure: no clock, no log, no randomness. What is known comes from changes that are in the log, so that a failed append
//! has nothing to undo here. A heartbeat that changes no status never gets here. Called by the registrar.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Monotonic;
use crate::domain::event::{GuardEnd, GuardEntered, GuardInputs, GuardLeft, Guarded};
use crate::domain::{Millis, Seq, ServiceKey, Timestamp};

/// By which figures the guard decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// A scope is threatened if more than this share of it is late or gone.
    pub share: f64,
    /// How many must be late or gone, so that a small service is not guarded for one instance.
    pub minimum: u64,
    /// From how many instances on the registry as a whole is guarded, those that have gone among them.
    pub registry_minimum: u64,
    /// For how many ttls a guard holds.
    pub limit_ttls: u32,
    /// For how long it holds at most.
    pub limit_max: Millis,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            share: 0.5,
            minimum: 3,
            registry_minimum: 10,
            limit_ttls: 5,
            limit_max: Millis::from_millis(600_000),
        }
    }
}

impl Policy {
    fn threatens(&self, inputs: GuardInputs) -> bool {
        let GuardInputs { late, gone, living } = inputs;
        // Exact: there are fewer than 2^53 instances.
        (late + gone) as f64 > self.share * (living + gone) as f64
    }

    fn limit(&self, ttl: Millis) -> Millis {
        let limit = ttl.millis().saturating_mul(u64::from(self.limit_ttls));
        Millis::from_millis(limit).min(self.limit_max)
    }
}

/// A lease, as far as the guard counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of which life.
    pub incarnation: Seq,
    /// How long a renewal lasts.
    pub ttl: Millis,
    /// Whether it is past two thirds of that.
    pub late: bool,
}

/// When something about a guard happened, by both clocks, and the event that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number of the event.
    pub seq: Seq,
    /// Its time.
    pub at: Timestamp,
    /// The same on the clock of the leases.
    pub now: Monotonic,
}

/// What is to become of a lease that has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// It stays, and is looked at again then at the latest.
    Held(Monotonic),
    /// It expires; because of this change, if a guard had held it.
    Expires(Option<Seq>),
}

/// A guard that holds, for those who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Over whom.
    pub over: Guarded,
    /// Since when.
    pub since: Timestamp,
    /// The event that says so.
    pub entered: Seq,
    /// How long it holds at most.
    pub limit: Millis,
    /// The figures by which it was entered.
    pub inputs: GuardInputs,
    /// The figures as they are.
    pub present: GuardInputs,
    /// Whose expiry is held back.
    pub held: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Open,
    Guarded { mark: Mark, limit: Millis, inputs: GuardInputs },
    Spent { mark: Mark, until: Monotonic, end: GuardEnd },
}

/// A service, or the registry as a whole.
#[derive(Debug)]
struct Scope {
    living: u64,
    late: u64,
    /// How many of the late ones have which ttl.
    late_ttls: BTreeMap<Millis, u64>,
    gone: u64,
    /// How many of the gone ones count until when.
    gone_until: BTreeMap<Monotonic, u64>,
    held: u64,
    phase: Phase,
}

impl Scope {
    fn new() -> Self {
        Self {
            living: 0,
            late: 0,
            late_ttls: BTreeMap::new(),
            gone: 0,
            gone_until: BTreeMap::new(),
            held: 0,
            phase: Phase::Open,
        }
    }

    fn count(&mut self, standing: Standing) {
        self.living += 1;
        if standing.late {
            self.late += 1;
            *self.late_ttls.entry(standing.ttl).or_default() += 1;
        }
    }

    fn discount(&mut self, standing: Standing) {
        self.living = self.living.saturating_sub(1);
        if standing.late {
            self.late = self.late.saturating_sub(1);
            if let Some(count) = self.late_ttls.get_mut(&standing.ttl) {
                *count -= 1;
                if *count == 0 {
                    self.late_ttls.remove(&standing.ttl);
                }
            }
        }
    }

    /// A guard that was spent may be entered again once nobody is late any more.
    fn rest(&mut self) {
        if self.late == 0 && matches!(self.phase, Phase::Spent { .. }) {
            self.phase = Phase::Open;
        }
    }

    fn inputs(&mut self, now: Monotonic) -> GuardInputs {
        while let Some(first) = self.gone_until.first_entry()
            && *first.key() <= now
        {
            self.gone = self.gone.saturating_sub(first.remove());
        }
        GuardInputs { late: self.late, gone: self.gone, living: self.living }
    }

    /// When the guard ends at the latest, if it holds.
    fn guarded_until(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Guarded { mark, limit, .. } => Some(mark.now.plus(limit)),
            Phase::Open | Phase::Spent { .. } => None,
        }
    }

    /// The event that ended the guard, and until when those who were late then are spared, if they are.
    fn ended(&self, ttl: Millis) -> Option<(Mark, Monotonic)> {
        match self.phase {
            Phase::Spent { mark, until, end: GuardEnd::Recovered } => {
                Some((mark, mark.now.plus(ttl).min(until)))
            }
            // Nobody, from the limit on; not only from when the log had the note of it, which may be after the turn in which
            // this is asked began to look.
            Phase::Spent { mark, until, .. } => Some((mark, until.min(mark.now))),
            Phase::Open | Phase::Guarded { .. } => None,
        }
    }

    fn enters(
        &mut self,
        policy: &Policy,
        at_least: u64,
        more_late: u64,
        now: Monotonic,
    ) -> Option<GuardInputs> {
        let counted = self.inputs(now);
        let inputs = GuardInputs { late: counted.late + more_late, ..counted };
        let enough =
            inputs.late + inputs.gone >= policy.minimum && inputs.living + inputs.gone >= at_least;
        (matches!(self.phase, Phase::Open) && enough && policy.threatens(inputs)).then_some(inputs)
    }

    fn leaves(&mut self, policy: &Policy, over: Guarded, now: Monotonic) -> Option<GuardLeft> {
        let Phase::Guarded { mark, limit, .. } = self.phase else { return None };
        let inputs = self.inputs(now);
        let end = match () {
            () if now >= mark.now.plus(limit) => GuardEnd::Elapsed,
            () if !policy.threatens(inputs) => GuardEnd::Recovered,
            () => return None,
        };
        Some(self.left(over, inputs, end, mark, now))
    }

    fn left(
        &self,
        over: Guarded,
        inputs: GuardInputs,
        end: GuardEnd,
        entered: Mark,
        now: Monotonic,
    ) -> GuardLeft {
        GuardLeft { over, inputs, end, held_for: now.since(entered.now), held: self.held }
    }
}

/// The guard over all services and the registry as a whole.
#[derive(Debug)]
pub struct Guard {
    policy: Policy,
    services: HashMap<ServiceKey, Scope>,
    registry: Scope,
    /// Services that are guarded, so that nobody looks for them among all.
    guarded: Vec<ServiceKey>,
    /// Until when each life whose expiry is held back is held at most.
    held: HashMap<Seq, Monotonic>,
    /// How often a figure has moved, for those who show them.
    moves: u64,
}

impl Guard {
    /// A guard that has seen nobody yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            services: HashMap::new(),
            registry: Scope::new(),
            guarded: Vec::new(),
            held: HashMap::new(),
            moves: 0,
        }
    }

    /// The lease of an instance of `service` stood like `before` and stands like `after`; none where there is none.
    pub fn shift(
        &mut self,
        service: &ServiceKey,
        before: Option<Standing>,
        after: Option<Standing>,
    ) {
        if before == after {
            return;
        }
        self.moves += 1;
        if !self.services.contains_key(service) {
            self.services.insert(service.clone(), Scope::new());
        }
        let Some(scope) = self.services.get_mut(service) else { return };
        for scope in [&mut *scope, &mut self.registry] {
            before.into_iter().for_each(|before| scope.discount(before));
            after.into_iter().for_each(|after| scope.count(after));
        }
        if let Some(before) = before
            && after.is_none_or(|after| !after.late || after.incarnation != before.incarnation)
            && self.held.remove(&before.incarnation).is_some()
        {
            scope.held = scope.held.saturating_sub(1);
            self.registry.held = self.registry.held.saturating_sub(1);
        }
        scope.rest();
        self.registry.rest();
    }

    /// A lease of this ttl ran out, and its instance has left.
    pub fn expired(&mut self, service: &ServiceKey, ttl: Millis, now: Monotonic) {
        self.moves += 1;
        let until = now.plus(ttl);
        for scope in self.services.get_mut(service).into_iter().chain([&mut self.registry]) {
            // What does not count any more goes here too, so that it does not heap up where nobody asks.
            scope.inputs(now);
            scope.gone += 1;
            *scope.gone_until.entry(until).or_default() += 1;
        }
    }

    /// The log says that a guard holds.
    pub fn entered(&mut self, entered: &GuardEntered, mark: Mark) {
        self.moves += 1;
        let GuardEntered { over, inputs, limit } = entered;
        let Some(scope) = scope_of(&mut self.services, &mut self.registry, over) else { return };
        scope.phase = Phase::Guarded { mark, limit: *limit, inputs: *inputs };
        if let Some(service) = over
            && !self.guarded.contains(service)
        {
            self.guarded.push(service.clone());
        }
    }

    /// The log says that a guard has let go.
    pub fn left(&mut self, left: &GuardLeft, mark: Mark) {
        self.moves += 1;
        let GuardLeft { over, end, .. } = left;
        let Some(scope) = scope_of(&mut self.services, &mut self.registry, over) else { return };
        let until = scope.guarded_until().unwrap_or(mark.now);
        scope.phase = Phase::Spent { mark, until, end: *end };
        scope.rest();
        self.guarded.retain(|guarded| over.as_ref() != Some(guarded));
    }

    /// Whether any guard holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.guarded.is_empty() || self.registry.guarded_until().is_some()
    }

    /// Which guards over these services or over the registry are to be entered, now that expiries of these services are
    /// due. `services` says of each how many of its leases are late and not counted yet.
    pub fn to_enter<'a>(
        &mut self,
        services: impl IntoIterator<Item = (&'a ServiceKey, u64)>,
        now: Monotonic,
    ) -> Vec<GuardEntered> {
        let mut entering = Vec::new();
        let mut more_late = 0;
        for (service, more) in services {
            more_late += more;
            let Some(scope) = self.services.get_mut(service) else { continue };
            if let Some(inputs) = scope.enters(&self.policy, 0, more, now) {
                let largest = scope.late_ttls.last_key_value().map(|(ttl, _)| *ttl);
                entering.push((Some(service.clone()), inputs, largest));
            }
        }
        let at_least = self.policy.registry_minimum;
        if let Some(inputs) = self.registry.enters(&self.policy, at_least, more_late, now) {
            let largest = self.registry.late_ttls.last_key_value().map(|(ttl, _)| *ttl);
            entering.push((None, inputs, largest));
        }
        let entered = |(over, inputs, largest): (Guarded, GuardInputs, Option<Millis>)| {
            GuardEntered { over, inputs, limit: self.policy.limit(largest.unwrap_or_default()) }
        };
        entering.into_iter().map(entered).collect()
    }

    /// Which guards have to let go.
    pub fn to_leave(&mut self, now: Monotonic) -> Vec<GuardLeft> {
        let Self { policy, services, registry, guarded, .. } = self;
        let of_services = guarded.iter().filter_map(|service| {
            services.get_mut(service)?.leaves(policy, Some(service.clone()), now)
        });
        let mut leaving: Vec<GuardLeft> = of_services.collect();
        leaving.extend(registry.leaves(policy, None, now));
        leaving
    }

    /// All guards that hold, as they let go when the registry stops: leases begin anew when it starts.
    pub fn to_stop(&mut self, now: Monotonic) -> Vec<GuardLeft> {
        let stopped = |over: Guarded, scope: &mut Scope| {
            let Phase::Guarded { mark, .. } = scope.phase else { return None };
            let inputs = scope.inputs(now);
            Some(scope.left(over, inputs, GuardEnd::Stopped, mark, now))
        };
        let Self { services, registry, guarded, .. } = self;
        let of_services = guarded
            .iter()
            .filter_map(|service| stopped(Some(service.clone()), services.get_mut(service)?));
        let mut leaving: Vec<GuardLeft> = of_services.collect();
        leaving.extend(stopped(None, registry));
        leaving
    }

    /// What is to become of a lease of `service` that has run out.
    pub fn judge(
        &mut self,
        service: &ServiceKey,
        incarnation: Seq,
        ttl: Millis,
        now: Monotonic,
    ) -> Sentence {
        let Some(scope) = self.services.get_mut(service) else { return Sentence::Expires(None) };
        let registry = &mut self.registry;
        let until = scope.guarded_until().max(registry.guarded_until());
        let held = self.held.get(&incarnation).copied();
        let end = match (until, held) {
            (Some(until), None) => {
                self.held.insert(incarnation, until);
                self.moves += 1;
                scope.held += 1;
                registry.held += 1;
                until
            }
            // The guard that held it first may be over, and have held for longer than those that hold now.
            (Some(until), Some(held)) => until.min(held),
            (None, held) => {
                let spared = [scope.ended(ttl), registry.ended(ttl)].into_iter().flatten();
                let spared = spared.map(|(_, until)| until).max().unwrap_or(now);
                held.map_or(spared, |held| spared.min(held))
            }
        };
        if now < end {
            // Looked at now and then: one that has come back is watched again soon.
            let pause = Millis::from_millis((ttl.millis() / 4).max(1));
            return Sentence::Held(now.plus(pause).min(end));
        }
        let causes = [scope.ended(ttl), registry.ended(ttl)].into_iter().flatten();
        let cause = causes.map(|(mark, _)| mark.seq).max();
        Sentence::Expires(cause.filter(|_| held.is_some()))
    }

    /// The guards that hold.
    pub fn holding(&mut self, now: Monotonic) -> Vec<Holding> {
        let holding = |over: Guarded, scope: &mut Scope| {
            let Phase::Guarded { mark, limit, inputs } = scope.phase else { return None };
            let present = scope.inputs(now);
            let (since, entered, held) = (mark.at, mark.seq, scope.held);
            Some(Holding { over, since, entered, limit, inputs, present, held })
        };
        let Self { services, registry, guarded, .. } = self;
        let mut all: Vec<Holding> = holding(None, registry).into_iter().collect();
        all.extend(
            guarded
                .iter()
                .filter_map(|service| holding(Some(service.clone()), services.get_mut(service)?)),
        );
        all
    }

    /// How often a figure has moved by something else than time.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// How many expiries are held back.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.len() as u64
    }

    /// The figures of a service, or of the registry.
    pub fn inputs(&mut self, over: &Guarded, now: Monotonic) -> GuardInputs {
        let scope = scope_of(&mut self.services, &mut self.registry, over);
        scope.map_or_else(GuardInputs::default, |scope| scope.inputs(now))
    }
}

fn scope_of<'a>(
    services: &'a mut HashMap<ServiceKey, Scope>,
    registry: &'a mut Scope,
    over: &Guarded,
) -> Option<&'a mut Scope> {
    match over {
        None => Some(registry),
        Some(service) => services.get_mut(service),
    }
}

#[cfg(test)]
mod tests;
