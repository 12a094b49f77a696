//! Each of the keeper's duties: when it is due, and its slices. Called by the keeper's loop.

use super::{Keeper, Telling};
use crate::clock::Stopwatch;
use crate::domain::event::{self, Note};
use crate::domain::{Millis, Seq, Timestamp};
use crate::history::Policy;
use crate::log::upkeep::{Budgets, Living, Removed, ServiceState, Standing};
use crate::projection::ServiceView;
use crate::telemetry::metrics::set_count;
use crate::telemetry::names::{Class, SnapshotOutcome, Work};
use crate::telemetry::signals;

/// Slices of one duty after which the others get their chance: under a load that never ends, one of them may not
/// either.
const TURN: usize = 512;

/// How many times as long as a slice of deriving the pause after it is: a tenth of one core at most, so that lookups,
/// which pay for every millisecond of it at their tail, hardly notice. An event costs about 0.3 µs to derive from: at this
/// pace 300,000 a second, and no registry hands out as many lookups on a core that it shares.
const DERIVE_REST: u32 = 9;

/// How many times as long as a slice of giving space back the pause after it is. Nothing waits for that space, and each
/// page that is moved is written twice, into the log that the next change syncs.
const RECLAIM_REST: u32 = 4;

/// How long a removal may wait to be told, after the one before was: the log of changes must not fill with the news
/// that old events go, which they do all the time.
const TELL_EVERY: Millis = Millis::from_millis(3_600_000);

/// Changes go up to a snapshot, traffic in whole periods: with so many of them within the age to which these are kept,
/// that is an eighth of it late at most.
const HORIZONS: u32 = 8;

impl Keeper {
    /// Derives what there is to be derived; whether there is more.
    pub(super) fn derive(&mut self) -> bool {
        let done = self.slices(TURN, DERIVE_REST, |keeper| {
            keeper.attempt(Work::Derive, |upkeep| upkeep.derive())
        });
        done == Some(true)
    }

    pub(super) fn show_lag(&self, standing: &Standing) {
        let lag = &self.parts.metrics.keeper.derive_lag;
        set_count(lag.get(Class::Change), standing.head.0.saturating_sub(standing.derived.0));
        let traffic = standing.traffic_head.saturating_sub(standing.derived_traffic);
        set_count(lag.get(Class::Traffic), traffic);
    }

    pub(super) fn snapshot_is_due(&self, standing: &Standing) -> bool {
        let (last, at) = standing.snapshot.unwrap_or((Seq::ZERO, self.started_at));
        let changes = self.parts.projection.head().0.saturating_sub(last.0);
        let instances = u64::try_from(self.parts.projection.population().total()).unwrap_or(0);
        let age = self.parts.clock.wall().since(at);
        changes >= self.config.snapshot_every.max(instances)
            || (changes > 0 && age.to_duration() >= self.config.snapshot_max_age)
    }

    pub(super) fn snapshot(&mut self) {
        // The views are of one version and never change; what they say of heartbeats is read as the snapshot goes.
        let (seq, views) = self.parts.projection.views(None);
        let mut services = views.into_iter().map(|view| state_of(&view));
        let kept_for = self.config.policy.changes_age.map(|age| Millis::from(age).millis());
        let apart = Millis::from_millis(kept_for.map_or(u64::MAX, |age| age / u64::from(HORIZONS)));
        let took = Stopwatch::start();
        let failures = self.pauses.failures(Work::Snapshot);
        let written =
            self.attempt(Work::Snapshot, |upkeep| upkeep.snapshot(seq, &mut services, apart));
        let metrics = &self.parts.metrics.keeper;
        if let Some(written) = written {
            signals::snapshot_written(metrics, written.seq.0, written.bytes, took.elapsed());
        } else if self.pauses.failures(Work::Snapshot) > failures {
            metrics.snapshots.get(SnapshotOutcome::Failed).increment(1);
        }
    }

    /// Removes what is beyond the budgets, then gives free space back; whether there is more.
    pub(super) fn retain(&mut self) -> bool {
        self.retaining = true;
        let budgets = budgets(&self.config.policy, self.parts.clock.wall());
        let mut ended = false;
        let removed = self.slices(TURN, 1, |keeper| match keeper.remove(&budgets)? {
            Some(Removed::Ended) => {
                ended = true;
                Some(false)
            }
            removed => Some(removed.is_some()),
        });
        if removed != Some(false) || ended {
            // What was ended is derived from in the next turn, and goes then.
            return removed == Some(true) || ended;
        }
        let reclaimed = self.slices(TURN, RECLAIM_REST, |keeper| {
            keeper.attempt(Work::Reclaim, |upkeep| upkeep.reclaim())
        });
        if reclaimed == Some(true) {
            return true;
        }
        let interval = Millis::from(self.config.retention_interval);
        self.retain_at = self.parts.clock.monotonic().plus(interval);
        self.retaining = false;
        self.tell();
        false
    }

    /// One slice, and what it did; none if it was not done.
    fn remove(&mut self, budgets: &Budgets) -> Option<Option<Removed>> {
        let removed = self.attempt(Work::Retain, |upkeep| upkeep.retain(budgets))?;
        if let Some(Removed::Events(events)) = &removed {
            self.owing = true;
            let class = match events.class {
                event::Class::Changes => Class::Change,
                event::Class::Traffic => Class::Traffic,
            };
            let count = events.last.saturating_sub(events.first) + 1;
            self.parts.metrics.keeper.removed.get(class).increment(count);
        }
        Some(removed)
    }

    /// Tells what went and is not told yet. What can't be told now, or could not, is told together with what goes
    /// until it can: it is noted in the log's file until a `compacted` event has its number.
    pub(super) fn tell(&mut self) {
        let now = self.parts.clock.monotonic();
        for mut telling in std::mem::take(&mut self.telling) {
            match telling.noted.outcome() {
                None => self.telling.push(telling),
                Some(Ok(by)) => {
                    self.told_at[telling.what.class as usize] = Some(now);
                    // If this fails, it is told twice: better than never.
                    let what = telling.what;
                    self.owing |=
                        self.attempt(Work::Look, |upkeep| upkeep.told(&what, by)).is_none();
                }
                Some(Err(_)) => self.owing = true,
            }
        }
        if !self.owing || self.retaining || !self.telling.is_empty() {
            return;
        }
        let Some(untold) = self.attempt(Work::Look, |upkeep| upkeep.untold()) else { return };
        self.owing = false;
        for what in untold {
            let told_at = self.told_at[what.class as usize];
            let is_due = told_at.is_none_or(|at| now >= at.plus(TELL_EVERY));
            let noted = is_due
                .then(|| self.parts.registrar.note(Note::Compacted(what)))
                .and_then(Result::ok);
            match noted {
                Some(noted) => self.telling.push(Telling { what, noted }),
                None => self.owing = true,
            }
        }
    }
}

/// The state of a service, for a snapshot.
fn state_of(view: &ServiceView) -> ServiceState {
    let living = view.entries.iter().map(|entry| Living {
        instance: std::sync::Arc::clone(entry.instance),
        last_heartbeat: entry.lease.last_heartbeat(),
        registration: entry.lease.registration(),
    });
    ServiceState { key: view.key.clone(), revision: view.revision, instances: living.collect() }
}

/// What `policy` means at `now`.
pub(super) fn budgets(policy: &Policy, now: Timestamp) -> Budgets {
    let ever = Timestamp(i64::MIN);
    let before = |age: Option<std::time::Duration>| {
        age.map_or(ever, |age| {
            let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            Timestamp(now.micros().saturating_sub(micros))
        })
    };
    let changes_until = before(policy.changes_age);
    let traffic_age = policy.traffic_age.into_iter().chain(policy.changes_age).min();
    Budgets {
        traffic_until: before(traffic_age),
        traffic_ended: before(traffic_age.map(|age| age / HORIZONS)),
        traffic_bytes: policy.traffic_bytes.unwrap_or(u64::MAX),
        changes_until,
        rollups_until: changes_until,
    }
}
