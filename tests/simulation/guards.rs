//! The guard's rules, read off the events alone: when it may begin, that nobody expires while it holds, and that it
//! ends. Kept apart from the guard's own code, of which this knows nothing.

use std::collections::{BTreeMap, BTreeSet};

use rollcall::domain::event::{GuardEnd, GuardInputs, Guarded, Note};
use rollcall::domain::{Change, Event, InstanceKey, Registry};

/// Late and gone ones from which on a guard may begin.
const MINIMUM: u64 = 3;
/// Instances from which on the whole registry is guarded.
const REGISTRY_MINIMUM: u64 = 10;
/// How much longer than its limit a guard may be found to hold, in milliseconds: turns and writes take their time.
const SLACK: u64 = 1_000;

/// Which guards hold. Instants are milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    /// Those that hold.
    open: BTreeMap<Guarded, Open>,
    /// Those that have let go, and whose late ones have not all gone or come back since.
    spent: BTreeSet<Guarded>,
    /// Those that have let go last.
    past: BTreeMap<Guarded, Past>,
    /// Whom a guard has spared: since when it is silent, and until when the guard that held it first might hold.
    held: BTreeMap<InstanceKey, (u64, u64)>,
}

/// A guard that holds. Instants are milliseconds.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// When it was found to hold.
    since: u64,
    /// Its limit, counted from when it was about to be written: a turn may last, and it holds since some time in it.
    early: u64,
    /// Its limit, counted from when it was found.
    until: u64,
}

/// A guard that has let go. Instants are milliseconds.
#[derive(Debug, Clone, Copy)]
struct Past {
    open: Open,
    /// When it was found to have let go.
    left: u64,
    /// When it let go because its service was heard again: who is late then has a fresh ttl, within its limit.
    recovered: Option<u64>,
}

fn suspicious(inputs: GuardInputs) -> bool {
    let GuardInputs { late, gone, living } = inputs;
    late + gone >= MINIMUM && 2 * (late + gone) > living + gone
}

impl Guards {
    /// Reads one change, which was about to be written at `tried` and found at `now`; `registry` is the state after it,
    /// and whom it is about was heard last at `silent_since`.
    pub(crate) fn read(
        &mut self,
        change: &Change,
        registry: &Registry,
        (tried, now): (u64, u64),
        silent_since: u64,
    ) -> Result<(), String> {
        self.spent.retain(|over| late(registry, over) > 0);
        match &change.event {
            Event::Note(Note::GuardEntered(entered)) => {
                let (over, inputs) = (entered.over.clone(), entered.inputs);
                let few = over.is_none() && inputs.living + inputs.gone < REGISTRY_MINIMUM;
                if !suspicious(inputs) || few {
                    return Err(format!("a guard over {over:?} began with {inputs:?}"));
                }
                if self.spent.contains(&over) {
                    return Err(format!("a guard over {over:?} began again too early"));
                }
                let limit = entered.limit.millis();
                let open = Open { since: now, early: tried + limit, until: now + limit };
                if self.open.insert(over.clone(), open).is_some() {
                    return Err(format!("a guard over {over:?} began twice"));
                }
            }
            Event::Note(Note::GuardLeft(left)) => {
                let Some(open) = self.open.remove(&left.over) else {
                    return Err(format!("a guard over {:?} ended that did not hold", left.over));
                };
                self.spent.insert(left.over.clone());
                let recovered = (left.end == GuardEnd::Recovered).then_some(now);
                self.past.insert(left.over.clone(), Past { open, left: now, recovered });
            }
            Event::Expired { key, .. } if self.holds(&Some(key.service.clone())) => {
                // Nobody is held for longer than the guard that held it first might.
                let was_held = [Some(key.service.clone()), None].iter().any(|over| {
                    let past = self.past.get(over);
                    past.is_some_and(|Past { open, .. }| {
                        open.since >= silent_since && open.early <= now + SLACK
                    })
                });
                if !was_held {
                    return Err(format!("{key} expires while a guard holds: {:?}", self.open));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a guard holds over a service, or over all of them.
    fn holds(&self, over: &Guarded) -> bool {
        self.open.contains_key(over) || self.open.contains_key(&None)
    }

    /// Whether an instance that was silent from `since` to `now` may be there still, although its ttl has passed.
    pub(crate) fn spares(&mut self, key: &InstanceKey, ttl: u64, since: u64, now: u64) -> bool {
        let over = [Some(key.service.clone()), None];
        // Until when it is spared, and until when that guard might have held.
        let open = over.iter().filter_map(|over| self.open.get(over));
        let open = open.map(|open| (open.until, open.until));
        let past: Vec<&Past> = over.iter().filter_map(|over| self.past.get(over)).collect();
        let fresh = past.iter().filter_map(|past| {
            let limit = past.open.until;
            Some(((past.recovered? + ttl).min(limit), limit))
        });
        // One that has let go in this turn, which may have lasted: it held when the turn began and looked who is due.
        let just = past.iter().filter(|past| past.left > now);
        let just = just.map(|past| (past.open.until, past.open.until));
        let Some((until, limit)) = open.chain(fresh).chain(just).max() else { return false };
        let held = self.held.entry(key.clone()).or_insert((since, limit));
        if held.0 != since {
            // It was heard of meanwhile.
            *held = (since, limit);
        }
        now < until.min(held.1)
    }

    /// Checks after a turn that began at `began` that no guard holds which could have let go in it; `awake` is since when
    /// the registry could.
    pub(crate) fn check(&self, began: u64, awake: u64) -> Result<(), String> {
        for (over, Open { since, until, .. }) in &self.open {
            if began > *until && began > awake + SLACK {
                return Err(format!("the guard over {over:?} holds since {since}, at {began}"));
            }
        }
        Ok(())
    }
}

/// How many are late in the scope of a guard.
fn late(registry: &Registry, over: &Guarded) -> usize {
    let services = registry.services().filter(|(key, _)| over.as_ref().is_none_or(|o| o == *key));
    services
        .flat_map(|(_, service)| service.instances.values())
        .filter(|instance| instance.signals.late)
        .count()
}
