//! Which leases are due: looks at those whose entry came up, marks them, and makes the commands that say so.
//!
//! Those that have run out are only found here, and closed when it is known whether the guard lets them go
//! ([`super::guard`]).

use std::collections::VecDeque;

use crate::clock::{Clock, Monotonic};
use crate::domain::command::{Command, Heartbeat};
use crate::domain::event::{Arithmetic, Overdue};
use crate::domain::{Millis, Seq, Timestamp};
use crate::lease::queue::{DeadlineQueue, Tracked};
use crate::lease::word::{Mark, Reading};
use crate::yielding;

/// A lease that was found to have run out, whose expiry is not decided yet.
#[derive(Debug)]
pub(super) struct Overrun {
    pub(super) tracked: Tracked,
    /// When that was found: very many may be found at once, and go to the log some thousand at a time.
    pub(super) found: Monotonic,
}

/// What is to be decided about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Two thirds of the ttl have passed.
    Late,
    /// The ttl has passed.
    Expired,
    /// It was renewed while it was marked late.
    Revived,
}

/// A lease that is due, marked accordingly.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) tracked: Tracked,
    pub(super) verdict: Verdict,
    /// The mark before, to be restored if the append fails.
    before: Mark,
    seen: Reading,
    counts_from: Monotonic,
    /// When it was found to be due: its arithmetic is as of then.
    found: Monotonic,
    /// The silence that the lease allowed.
    allowed: Millis,
    /// When the lease is to be looked at again once this is decided; never, for one that has run out.
    next: Option<Monotonic>,
    /// The end of the guard that had held it, if one had.
    cause: Option<Seq>,
    /// Whether it is among the ripe leases as well, and so looked at again anyway.
    ripe: bool,
}

/// Takes due leases from the queue, up to `limit` that are late or revived. Those that have run out are put into `ripe`,
/// unmarked; those that were renewed go back with their new deadline.
pub(super) fn due(
    queue: &mut DeadlineQueue,
    clock: &dyn Clock,
    limit: usize,
    ripe: &mut VecDeque<Overrun>,
) -> Vec<Due> {
    let now = clock.monotonic();
    let awake_since = clock.awake_since();
    let mut found = Vec::new();
    let mut looked_at = 0;
    while found.len() < limit
        && let Some(tracked) = queue.pop_due(now)
    {
        yielding::step(looked_at);
        looked_at += 1;
        let lease = &tracked.lease;
        let (Some(late_after), Some(expires_after)) = (lease.late_after(), lease.expires_after())
        else {
            continue;
        };
        let seen = lease.word().read();
        if seen.mark() == Mark::Closed {
            continue;
        }
        let counts_from = Monotonic(seen.renewed_at()).max(awake_since);
        let (late_at, expires_at) = (counts_from.plus(late_after), counts_from.plus(expires_after));
        // One that is renewed from now on is late then at the earliest: where a stall has put the expiry off, or φ waits
        // long after it doubts, that is before it would have expired; and where φ learns meanwhile to doubt sooner, before
        // it would have been late.
        let soonest = now.plus(lease.late_at_least().unwrap_or(late_after));
        let (late_at_look, look_again) = (late_at.min(soonest), expires_at.min(soonest));
        let verdict = match seen.mark() {
            _ if now >= expires_at => {
                ripe.push_back(Overrun { tracked, found: clock.monotonic() });
                continue;
            }
            Mark::Open if now >= late_at => Verdict::Late,
            // Only a renewal revives, not the grace that a stall gives.
            Mark::Late
                if Monotonic(seen.renewed_at()).plus(late_after) > now
                    && lease.renewed_in_this_run(seen) =>
            {
                Verdict::Revived
            }
            Mark::Late => {
                queue.push(look_again, tracked);
                continue;
            }
            Mark::Open | Mark::Closed => {
                queue.push(late_at_look, tracked);
                continue;
            }
        };
        let (mark, next) = match verdict {
            Verdict::Late => (Mark::Late, look_again),
            Verdict::Revived | Verdict::Expired => (Mark::Open, late_at_look),
        };
        if !lease.word().mark(seen, mark) {
            // Renewed between the two looks: it lives. Look again when its new deadline comes.
            queue.push(soonest, tracked);
            continue;
        }
        let allowed = if verdict == Verdict::Late { late_after } else { expires_after };
        found.push(Due {
            tracked,
            verdict,
            before: seen.mark(),
            seen,
            counts_from,
            found: now,
            allowed,
            next: Some(next),
            cause: None,
            ripe: false,
        });
    }
    found
}

/// How a ripe lease stands when it is looked at once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ripe {
    /// It has run out, and was not marked late before: nobody had the time.
    Unmarked,
    /// It has run out.
    Marked,
    /// It was renewed, or has left.
    Gone,
}

/// Looks at a ripe lease once more.
pub(super) fn look(tracked: &Tracked, clock: &dyn Clock) -> Ripe {
    let (lease, seen) = (&tracked.lease, tracked.lease.word().read());
    // In this order: a stall between the two readings gives the lease its grace.
    let now = clock.monotonic();
    let counts_from = lease.counts_from(clock.awake_since());
    let ripe = lease.expires_after().is_some_and(|allowed| counts_from.plus(allowed) <= now);
    match seen.mark() {
        Mark::Closed => Ripe::Gone,
        _ if !ripe => Ripe::Gone,
        Mark::Late => Ripe::Marked,
        Mark::Open => Ripe::Unmarked,
    }
}

/// Closes a ripe lease, whose expiry is to be decided; or, with another verdict, marks it late, which leaves it to be
/// decided. Gives the lease back if it was renewed meanwhile.
pub(super) fn mark_ripe(
    Overrun { tracked, found }: Overrun,
    clock: &dyn Clock,
    verdict: Verdict,
    cause: Option<Seq>,
) -> Result<Due, Tracked> {
    let lease = &tracked.lease;
    let seen = lease.word().read();
    let now = clock.monotonic();
    let counts_from = lease.counts_from(clock.awake_since());
    let (Some(late_after), Some(expires_after)) = (lease.late_after(), lease.expires_after())
    else {
        return Err(tracked);
    };
    let (mark, allowed, next) = match verdict {
        Verdict::Late => (Mark::Late, late_after, Some(counts_from.plus(expires_after))),
        Verdict::Expired | Verdict::Revived => (Mark::Closed, expires_after, None),
    };
    let runs_out = counts_from.plus(expires_after);
    let ripe = runs_out <= now;
    // Renewed since, while nothing could be decided, and silent for as long again: that is found only now.
    let found = if found < runs_out { now } else { found };
    if !ripe || seen.mark() == Mark::Closed || !lease.word().mark(seen, mark) {
        return Err(tracked);
    }
    let before = seen.mark();
    let ripe = false;
    Ok(Due { tracked, verdict, before, seen, counts_from, found, allowed, next, cause, ripe })
}

impl Due {
    /// The command, with its arithmetic as of the instant at which it was found to be due. The traffic that was waiting
    /// has its numbers when this is asked, so that the last heartbeat can be named.
    pub(super) fn command(&self, clock: &dyn Clock, registered_at: Timestamp) -> Command {
        let Tracked { key, incarnation, lease } = &self.tracked;
        let found = self.found;
        let last_heartbeat = lease.last_heartbeat();
        let gap = if lease.renewed_in_this_run(self.seen) {
            found.since(Monotonic(self.seen.renewed_at()))
        } else {
            // The last sign of life was in another run: only wall time spans both.
            let sign_of_life = last_heartbeat.map_or(registered_at, |heartbeat| heartbeat.at);
            let waited = clock.monotonic().since(found).millis();
            let silent = clock.wall().since(sign_of_life).millis().saturating_sub(waited);
            Millis::from_millis(silent).max(found.since(self.counts_from))
        };
        // What has no ttl is never due.
        let ttl = lease.ttl().unwrap_or_default();
        let deadline = self.counts_from.plus(self.allowed);
        let counted = found.since(self.counts_from);
        let accrual = lease.accrual(counted);
        let expected = accrual.map_or(ttl.millis() / 4, |accrual| accrual.mean_gap.millis());
        let interval = expected.max(1);
        let overdue = Overdue {
            key: key.clone(),
            incarnation: *incarnation,
            arithmetic: Arithmetic {
                last_heartbeat,
                ttl,
                gap,
                missed: u32::try_from(gap.millis() / interval).unwrap_or(u32::MAX),
                late: found.since(deadline),
                grace: Millis::from_millis(gap.millis().saturating_sub(counted.millis())),
                accrual,
            },
            cause: self.cause,
        };
        match self.verdict {
            Verdict::Late => Command::MarkLate(overdue),
            Verdict::Expired => Command::Expire(overdue),
            Verdict::Revived => Command::Heartbeat(Heartbeat {
                key: key.clone(),
                incarnation: Some(*incarnation),
                health: None,
            }),
        }
    }

    /// When it was found to be due.
    pub(super) fn found(&self) -> Monotonic {
        self.found
    }

    /// Whether a guard had held it back.
    pub(super) fn was_held(&self) -> bool {
        self.cause.is_some()
    }

    /// The same for a lease that stays among the ripe ones: nobody has to look at it again.
    pub(super) fn stays_ripe(self) -> Self {
        Self { next: None, ripe: true, ..self }
    }

    /// It was decided: puts the lease back for its next look.
    pub(super) fn settle(self, queue: &mut DeadlineQueue) {
        if let Some(next) = self.next {
            queue.push(next, self.tracked);
        }
    }

    /// Takes the mark back: nothing was decided. The lease is looked at again at once.
    pub(super) fn take_back(self, queue: &mut DeadlineQueue, now: Monotonic) {
        self.tracked.lease.word().unmark(self.before);
        if !self.ripe {
            queue.push(now, self.tracked);
        }
    }
}
