//! The guard's rules, read off the events alone: when it may begin, that nobody expires while it holds, and that it
//! ends. Kept apart from the guard's own code, of which this knows nothing.

use std::collections::BTreeMap;

use rollcall::domain::event::{GuardEnd, GuardInputs, Guarded, Note};
use rollcall::domain::{Change, Event, Registry};

/// Late and gone ones from which on a guard may begin.
const MINIMUM: u64 = 3;
/// Instances from which on the whole registry is guarded.
const REGISTRY_MINIMUM: u64 = 10;
/// How much longer than its limit a guard may be found to hold, in milliseconds: turns and writes take their time.
const SLACK: u64 = 1_000;

/// Which guards hold.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    /// Since when, and how long at most, in milliseconds.
    open: BTreeMap<Guarded, (u64, u64)>,
    /// Those that held for as long as they may, and whose late ones have not all gone or come back since.
    spent: BTreeMap<Guarded, ()>,
}

fn suspicious(inputs: GuardInputs) -> bool {
    let GuardInputs { late, gone, living } = inputs;
    late + gone >= MINIMUM && 2 * (late + gone) > living + gone
}

impl Guards {
    /// Reads one change, which was found at `now`; `registry` is the state after it.
    pub(crate) fn read(
        &mut self,
        change: &Change,
        registry: &Registry,
        now: u64,
    ) -> Result<(), String> {
        self.spent.retain(|over, ()| late(registry, over) > 0);
        match &change.event {
            Event::Note(Note::Started { .. }) => {
                self.open.clear();
                self.spent.clear();
            }
            Event::Note(Note::GuardEntered(entered)) => {
                let (over, inputs) = (entered.over.clone(), entered.inputs);
                let few = over.is_none() && inputs.living + inputs.gone < REGISTRY_MINIMUM;
                if !suspicious(inputs) || few {
                    return Err(format!("a guard over {over:?} began with {inputs:?}"));
                }
                if self.spent.contains_key(&over) {
                    return Err(format!("a guard over {over:?} began again too early"));
                }
                if self.open.insert(over.clone(), (now, entered.limit.millis())).is_some() {
                    return Err(format!("a guard over {over:?} began twice"));
                }
            }
            Event::Note(Note::GuardLeft(left)) => {
                if self.open.remove(&left.over).is_none() {
                    return Err(format!("a guard over {:?} ended that did not hold", left.over));
                }
                if left.end == GuardEnd::Elapsed {
                    self.spent.insert(left.over.clone(), ());
                }
            }
            Event::Expired { key, .. } if self.holds(&Some(key.service.clone())) => {
                return Err(format!("{key} expires while a guard holds: {:?}", self.open));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a guard holds over a service, or over all of them.
    pub(crate) fn holds(&self, over: &Guarded) -> bool {
        self.open.contains_key(over) || self.open.contains_key(&None)
    }

    /// Checks that none holds for longer than it may; `awake` is since when the registry could have let go.
    pub(crate) fn check(&self, now: u64, awake: u64) -> Result<(), String> {
        for (over, (since, limit)) in &self.open {
            if now > (since + limit).max(awake) + SLACK {
                return Err(format!("the guard over {over:?} holds since {since}, at {now}"));
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
