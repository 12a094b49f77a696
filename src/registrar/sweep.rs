//! Which leases are due: looks at those whose entry came up, marks them, and makes the commands that say so.

use std::sync::Arc;

use crate::clock::{Clock, Monotonic};
use crate::domain::command::{Command, Heartbeat};
use crate::domain::event::{Arithmetic, Overdue};
use crate::domain::{Millis, Timestamp};
use crate::lease::queue::{DeadlineQueue, Tracked};
use crate::lease::word::{Mark, Reading};

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
    pub(super) tracked: Arc<Tracked>,
    pub(super) verdict: Verdict,
    /// The mark before, to be restored if the append fails.
    before: Mark,
    seen: Reading,
    counts_from: Monotonic,
    /// The silence that the lease allowed.
    allowed: Millis,
    /// When the lease is to be looked at again once this is decided; never, for one that has run out.
    next: Option<Monotonic>,
}

/// Takes up to `limit` due leases from the queue; those that were renewed go back with their new deadline.
pub(super) fn due(queue: &mut DeadlineQueue, clock: &dyn Clock, limit: usize) -> Vec<Due> {
    let now = clock.monotonic();
    let awake_since = clock.awake_since();
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(tracked) = queue.pop_due(now)
    {
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
        let verdict = match seen.mark() {
            _ if now >= expires_at => Verdict::Expired,
            Mark::Open if now >= late_at => Verdict::Late,
            // Only a renewal revives, not the grace that a stall gives.
            Mark::Late
                if Monotonic(seen.renewed_at()).plus(late_after) > now
                    && lease.renewed_in_this_run(seen) =>
            {
                Verdict::Revived
            }
            Mark::Late => {
                // Where a stall has put the expiry off, one that is renewed now may be late again before it.
                queue.push(expires_at.min(now.plus(late_after)), tracked);
                continue;
            }
            Mark::Open | Mark::Closed => {
                queue.push(late_at, tracked);
                continue;
            }
        };
        let mark = match verdict {
            Verdict::Expired => Mark::Closed,
            Verdict::Late => Mark::Late,
            Verdict::Revived => Mark::Open,
        };
        if !lease.word().mark(seen, mark) {
            // Renewed between the two looks: it lives. Look again when its new deadline comes.
            queue.push(now.plus(late_after), tracked);
            continue;
        }
        let next = match verdict {
            Verdict::Late => Some(expires_at),
            Verdict::Revived => Some(late_at),
            Verdict::Expired => None,
        };
        let allowed = if verdict == Verdict::Late { late_after } else { expires_after };
        found.push(Due { tracked, verdict, before: seen.mark(), seen, counts_from, allowed, next });
    }
    found
}

impl Due {
    /// The command, with its arithmetic as of now. The traffic that was waiting has its numbers by then, so
    /// that the last heartbeat can be named.
    pub(super) fn command(&self, clock: &dyn Clock, registered_at: Timestamp) -> Command {
        let Tracked { key, incarnation, lease } = &*self.tracked;
        let now = clock.monotonic();
        let last_heartbeat = lease.last_heartbeat();
        let gap = if lease.renewed_in_this_run(self.seen) {
            now.since(Monotonic(self.seen.renewed_at()))
        } else {
            // The last sign of life was in another run: only wall time spans both.
            let sign_of_life = last_heartbeat.map_or(registered_at, |heartbeat| heartbeat.at);
            clock.wall().since(sign_of_life).max(now.since(self.counts_from))
        };
        // What has no ttl is never due.
        let ttl = lease.ttl().unwrap_or_default();
        let deadline = self.counts_from.plus(self.allowed);
        let interval = (ttl.millis() / 4).max(1);
        let overdue = Overdue {
            key: key.clone(),
            incarnation: *incarnation,
            arithmetic: Arithmetic {
                last_heartbeat,
                ttl,
                gap,
                missed: u32::try_from(gap.millis() / interval).unwrap_or(u32::MAX),
                late: now.since(deadline),
                grace: Millis::from_millis(
                    gap.millis().saturating_sub(now.since(self.counts_from).millis()),
                ),
            },
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

    /// It was decided: puts the lease back for its next look.
    pub(super) fn settle(self, queue: &mut DeadlineQueue) {
        if let Some(next) = self.next {
            queue.push(next, self.tracked);
        }
    }

    /// Takes the mark back: nothing was decided. The lease is looked at again at once.
    pub(super) fn take_back(self, queue: &mut DeadlineQueue, now: Monotonic) {
        self.tracked.lease.word().unmark(self.before);
        queue.push(now, self.tracked);
    }
}
