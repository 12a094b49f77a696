//! A lookup that waits: answered as soon as the service's revision is above the one that the client holds, else at
//! the end of its time with what there is.
//!
//! It works for a service that does not exist yet. What is answered, and the event of it, is the lookup's own; the
//! event says besides what was held. A client that goes away while it waits leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use super::scope::Scope;
use super::spec::{Parameter, Shape};
use super::{Api, Shared};
use crate::clock::Monotonic;
use crate::domain::limits::{WAIT_DEFAULT, WAIT_MAX};
use crate::domain::{Millis, Seq, ServiceKey};
use crate::projection::Projection;
use crate::telemetry::names::{Transport, WatchOutcome};
use crate::telemetry::signals;
use crate::watch::{Notice, Woken};

/// `after`
pub(super) const AFTER: Parameter = Parameter::new(
    "after",
    "Wait for a revision above this one; 0 waits for a service that does not exist yet.",
    Shape::Text(20),
);
/// `wait`
pub(super) const WAIT: Parameter =
    Parameter::new("wait", "How long to wait, up to 10m; 30s if absent.", Shape::Text(20));

/// What a long poll asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    after: Seq,
    limit: Duration,
}

/// A wait that is over.
#[derive(Debug)]
pub(super) struct Waited {
    /// The revision that the client said it held.
    pub(super) held: Seq,
    /// When the change that it waited for was found durable.
    durable: Option<Monotonic>,
    /// That change, if it is noted.
    notice: Option<Arc<Notice>>,
}

impl Waited {
    /// The answer is on its way.
    pub(super) fn told(&self, api: &Api) {
        if let Some(durable) = self.durable {
            let now = api.clock.monotonic();
            if let Some(notice) = &self.notice {
                notice.told(now);
            }
            let elapsed = Duration::from_micros(now.micros_since(durable));
            signals::watcher_told(&api.metrics.watch, Transport::LongPoll, elapsed);
        }
    }
}

/// Reads what a lookup says of waiting; none if it does not wait.
pub(super) fn read(
    query: &Query<'_>,
    projection: &Projection,
    faults: &mut Faults,
) -> Option<Wait> {
    let (after, wait) = (query.get("after"), query.get("wait"));
    // Whoever reads `at` refuses it beside these two; once is enough.
    if query.get("at").is_some() {
        return None;
    }
    let limit = wait.map_or(Some(WAIT_DEFAULT), |text| match Millis::parse(text) {
        Ok(wait) if wait <= WAIT_MAX => Some(wait),
        Ok(wait) => {
            faults.invalid("wait", format!("must be at most {WAIT_MAX}, was {wait}"));
            None
        }
        Err(error) => {
            faults.malformed("wait", error.to_string());
            None
        }
    });
    let Some(after) = after else {
        if wait.is_some() {
            faults.invalid("wait", "needs after, the revision that is held");
        }
        return None;
    };
    match after.parse().map(Seq) {
        Ok(after) if after <= projection.head() || after <= projection.settled_head() => {
            Some(Wait { after, limit: limit?.to_duration() })
        }
        Ok(_) => {
            let head = projection.head();
            let message = format!("must not be above the present version, which is {head}");
            faults.invalid("after", message);
            None
        }
        Err(_) => {
            faults.malformed("after", "must be a revision: a whole number");
            None
        }
    }
}

/// Waits. Boxed by its caller, so that lookups that do not wait need not hold the room for it.
///
/// # Errors
/// If too many wait already.
pub(super) async fn wait(
    api: &Shared,
    scope: &Scope,
    key: &ServiceKey,
    wait: Wait,
) -> Result<Waited, Problem> {
    let Wait { after, limit } = wait;
    let place = api.admission.watch(scope.caller())?;
    if let Some(class) = scope.take_place() {
        api.admission.leave(class);
    }
    let began = api.clock.monotonic();
    scope.waits();
    let waiting = api.hub.wait_for(key.clone());
    let counted = api.metrics.watch.watching(Transport::LongPoll);
    let woken = waiting.above(after, Instant::now() + limit).await;
    drop((counted, place));
    let idle = Duration::from_micros(api.clock.monotonic().micros_since(began));
    let outcome = match woken {
        Woken::Changed => WatchOutcome::Changed,
        Woken::Unchanged => WatchOutcome::Unchanged,
        Woken::Closing => WatchOutcome::Shutdown,
    };
    scope.waited(outcome, idle);
    // A change that came before it waited was not waited for.
    let durable = waiting.durable().filter(|at| woken == Woken::Changed && *at >= began);
    let notice = durable.and_then(|_| waiting.notice());
    Ok(Waited { held: after, durable, notice })
}
