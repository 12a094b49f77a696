//! Leases: how long an instance may stay silent.
//!
//! A lease belongs to one life (incarnation) of an instance and to one ttl. HTTP threads renew it with one atomic operation;
//! the registrar alone marks it late, closes it and opens it again. The words of a lease and the races
//! between the two are in [`word`]; nothing here knows the log, the network or the clock. How long a silence may last is
//! fixed by the ttl, or learned from the heartbeats ([`phi`]) by those that asked for that.

mod adaptive;
pub mod guard;
pub mod phi;
pub mod queue;
pub mod word;

use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::clock::Monotonic;
use crate::domain::event::{Accrual, HeartbeatRef};
use crate::domain::{Detector, Millis, Timestamp, TraceRef};
use adaptive::Adaptive;
use word::{Mark, Word};

/// No load: heartbeats say only numbers.
const NO_LOAD: u64 = f64::NAN.to_bits();

/// The atomics of the lease word: `tests/lease_race.rs` compiles the same source with loom's.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// One lease. There is one for each instance, so that its size counts: a test holds it.
#[derive(Debug)]
pub struct Lease {
    /// In milliseconds; 0 is none. A day fits easily.
    ttl_ms: u32,
    /// Whether it stands for one of which nothing is known, in a registry that shows the past.
    for_show: bool,
    /// Whether its instance was replayed from the log: what came before is known in wall time only.
    replayed: bool,
    /// When it was granted in this run.
    granted_at: Monotonic,
    /// The trace of the registration that began this life.
    registration: TraceRef,
    word: Word,
    /// Wall time of the last renewal by heartbeat, in microseconds; 0 is none yet. For showing only.
    last_wall: AtomicI64,
    /// The last heartbeat whose event has its number; the registrar writes it.
    last_heartbeat: Mutex<Heard>,
    /// The load that the instance said last, as the bits of a number.
    load: AtomicU64,
    /// What was learned of its heartbeats, if it asked for that.
    adaptive: Option<Box<Adaptive>>,
}

/// The last heartbeat that has a number; numbers begin with 1, and 0 is none. Packed, so that the lock beside it takes one
/// byte and not eight; it is only ever copied whole.
#[derive(Debug, Clone, Copy, Default)]
#[repr(Rust, packed)]
struct Heard(HeartbeatRef);

impl Heard {
    fn of(heartbeat: Option<HeartbeatRef>) -> Self {
        Self(heartbeat.unwrap_or_default())
    }

    fn get(self) -> Option<HeartbeatRef> {
        let heartbeat = self.0;
        (heartbeat.id > 0).then_some(heartbeat)
    }
}

/// A ttl as a lease keeps it. What the API lets through is at most a day.
fn kept(ttl: Option<Millis>) -> u32 {
    ttl.map_or(0, |ttl| u32::try_from(ttl.millis().max(1)).unwrap_or(u32::MAX))
}

impl Lease {
    /// A lease that begins at `now`, with the registration that happened in this trace.
    #[must_use]
    pub fn granted(ttl: Option<Millis>, now: Monotonic, registration: TraceRef) -> Self {
        Self {
            ttl_ms: kept(ttl),
            granted_at: now,
            registration,
            for_show: false,
            replayed: false,
            word: Word::new(now.0, Mark::Open),
            last_wall: AtomicI64::new(0),
            last_heartbeat: Mutex::new(Heard::default()),
            load: AtomicU64::new(NO_LOAD),
            adaptive: None,
        }
    }

    /// The same lease under this detector, which has learned nothing yet. Without a ttl there is nothing to detect.
    #[must_use]
    pub fn judged_by(mut self, detector: Detector) -> Self {
        self.adaptive = match (detector, self.ttl()) {
            (Detector::Phi { threshold_milli }, Some(ttl)) => {
                Some(Box::new(Adaptive::new(threshold_milli, ttl)))
            }
            (Detector::Phi { .. }, None) | (Detector::Fixed, _) => None,
        };
        self
    }

    /// The lease that follows this one when the same life goes on with another ttl or detector. What is known of that
    /// life goes on, too; but not the rhythm of its heartbeats, which follows the ttl.
    #[must_use]
    pub fn regranted(&self, ttl: Option<Millis>, now: Monotonic) -> Self {
        Self {
            last_wall: AtomicI64::new(self.last_wall.load(Relaxed)),
            last_heartbeat: Mutex::new(Heard::of(self.last_heartbeat())),
            load: AtomicU64::new(self.load.load(Relaxed)),
            ..Self::granted(ttl, now, self.registration)
        }
    }

    /// The place of a lease in a registry that shows the past: how it stood then is not known, so that no answer may
    /// show it.
    #[must_use]
    pub fn for_show(ttl: Option<Millis>) -> Self {
        Self { for_show: true, ..Self::granted(ttl, Monotonic(0), TraceRef::default()) }
    }

    /// Whether nothing is known of it.
    #[must_use]
    pub fn is_for_show(&self) -> bool {
        self.for_show
    }

    /// The lease of an instance that was replayed from the log. When it was renewed is not known on this
    /// run's clock, so that it counts from `now`: the grace of a fresh start.
    #[must_use]
    pub fn replayed(
        ttl: Option<Millis>,
        late: bool,
        last_heartbeat: Option<HeartbeatRef>,
        registration: TraceRef,
        now: Monotonic,
    ) -> Self {
        let mark = if late { Mark::Late } else { Mark::Open };
        Self {
            ttl_ms: kept(ttl),
            granted_at: now,
            registration,
            for_show: false,
            replayed: true,
            word: Word::new(now.0, mark),
            last_wall: AtomicI64::new(last_heartbeat.map_or(0, |heartbeat| heartbeat.at.micros())),
            last_heartbeat: Mutex::new(Heard::of(last_heartbeat)),
            load: AtomicU64::new(NO_LOAD),
            adaptive: None,
        }
    }

    /// Whether `reading` is of a renewal that happened in this run, so that the monotonic clock knows the
    /// gap since then.
    #[must_use]
    pub fn renewed_in_this_run(&self, reading: word::Reading) -> bool {
        !self.replayed || reading.renewed_at() > self.granted_at.0
    }

    /// How long a renewal lasts; none for an instance that is only probed, whose lease never runs out.
    #[must_use]
    pub fn ttl(&self) -> Option<Millis> {
        (self.ttl_ms > 0).then(|| Millis::from_millis(self.ttl_ms.into()))
    }

    /// The trace of the registration that began this life; all zero if it is not known.
    #[must_use]
    pub fn registration(&self) -> TraceRef {
        self.registration
    }

    /// How long after a renewal the instance turns `unstable`: two thirds of the ttl, or what φ has learned. None if
    /// it never does.
    #[must_use]
    pub fn late_after(&self) -> Option<Millis> {
        let learned = self.adaptive.as_ref().and_then(|adaptive| adaptive.bounds());
        let fixed =
            || self.ttl().map(|ttl| Millis::from_millis(ttl.millis().saturating_mul(2) / 3));
        learned.map(|bounds| bounds.late_after).or_else(fixed)
    }

    /// How long after a renewal it may turn late at the earliest, whatever is learned by then: who looks at it so often
    /// misses nothing, although no heartbeat moves its place in the queue. None if it never does.
    #[must_use]
    pub fn late_at_least(&self) -> Option<Millis> {
        if self.adaptive.is_some() { self.ttl().map(phi::least_late) } else { self.late_after() }
    }

    /// How long after a renewal the lease runs out: the ttl, or what φ has learned. None if it never does.
    #[must_use]
    pub fn expires_after(&self) -> Option<Millis> {
        let learned = self.adaptive.as_ref().and_then(|adaptive| adaptive.bounds());
        learned.map(|bounds| bounds.gone_after).or_else(|| self.ttl())
    }

    /// How suspicious this silence is to the adaptive detector; none if it does not decide, or not yet.
    #[must_use]
    pub fn accrual(&self, silence: Millis) -> Option<Accrual> {
        self.adaptive.as_ref()?.accrual(silence)
    }

    /// The word, for the registrar and for tests.
    #[must_use]
    pub fn word(&self) -> &Word {
        &self.word
    }

    /// Renews the lease. Returns the gap since the renewal before, or none if that was in another run.
    ///
    /// # Errors
    /// The mark that the registrar has put on it: the heartbeat has to become a command, and its answer is the
    /// registrar's. A late lease is renewed all the same and stays marked: its command may wait for a slow log for
    /// longer than the lease lasts, and who was heard of must not expire meanwhile.
    pub fn renew(&self, now: Monotonic, wall: Timestamp) -> Result<Option<Millis>, Mark> {
        let renewed = self.renew_open(now, wall);
        if renewed.is_err()
            && let Ok(previous) = self.word.renew_unless_closed(now.0)
        {
            self.last_wall.store(wall.micros(), Relaxed);
            self.learn(now, Monotonic(previous));
        }
        renewed
    }

    /// Renews the lease only if it bears no mark. Returns the gap since the renewal before, or none if that was in
    /// another run.
    ///
    /// # Errors
    /// The mark; nothing was changed then.
    pub fn renew_open(&self, now: Monotonic, wall: Timestamp) -> Result<Option<Millis>, Mark> {
        let previous = self.word.renew(now.0)?;
        self.last_wall.store(wall.micros(), Relaxed);
        Ok(self.learn(now, Monotonic(previous)))
    }

    /// Opens the lease for a heartbeat that went through the registrar, which alone calls this. Its gap was learned when it
    /// came: what has passed since then is how long it had to wait.
    pub fn revive(&self, now: Monotonic, wall: Timestamp) {
        self.word.open(now.0);
        self.last_wall.store(wall.micros(), Relaxed);
    }

    /// The gap since the renewal before, unless that was in another run; the adaptive detector learns it.
    fn learn(&self, now: Monotonic, previous: Monotonic) -> Option<Millis> {
        let known = !self.replayed || previous > self.granted_at;
        let gap = known.then(|| now.since(previous))?;
        if let Some(adaptive) = &self.adaptive {
            adaptive.learn(gap);
        }
        Some(gap)
    }

    /// The load that the instance said last; none if it never said one in this run.
    #[must_use]
    pub fn load(&self) -> Option<f64> {
        Some(f64::from_bits(self.load.load(Relaxed))).filter(|load| !load.is_nan())
    }

    /// Notes the load that a heartbeat said.
    pub fn says_load(&self, load: f64) {
        self.load.store(load.to_bits(), Relaxed);
    }

    /// When the last heartbeat came, if one did.
    #[must_use]
    pub fn last_heartbeat_at(&self) -> Option<Timestamp> {
        match self.last_wall.load(Relaxed) {
            0 => None,
            micros => Some(Timestamp(micros)),
        }
    }

    /// Notes the time of a heartbeat that went through the registrar.
    pub fn saw_heartbeat(&self, wall: Timestamp) {
        self.last_wall.store(wall.micros(), Relaxed);
    }

    /// The last heartbeat that has a number in the log.
    #[must_use]
    pub fn last_heartbeat(&self) -> Option<HeartbeatRef> {
        self.last_heartbeat.lock().get()
    }

    /// Notes the number of a heartbeat; for the registrar.
    pub fn logged_heartbeat(&self, heartbeat: HeartbeatRef) {
        *self.last_heartbeat.lock() = Heard(heartbeat);
    }

    /// Since when the lease counts: its last renewal, or the end of the last stall.
    #[must_use]
    pub fn counts_from(&self, awake_since: Monotonic) -> Monotonic {
        Monotonic(self.word.read().renewed_at()).max(awake_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// With the two counts of an `Arc` it fills 128 bytes, which is what allocators give out.
    #[test]
    fn a_million_leases_are_not_larger_than_they_have_to_be() {
        assert!(size_of::<Lease>() <= 112, "{}", size_of::<Lease>());
    }

    /// A lease under the adaptive detector after ten regular heartbeats, the last one at 5 s.
    fn learned() -> Lease {
        let ttl = Some(Millis::from_millis(2_000));
        let lease = Lease::granted(ttl, Monotonic(0), TraceRef::default());
        let lease = lease.judged_by(Detector::phi(8.0).unwrap());
        for beat in 1..=10 {
            lease.renew(Monotonic(beat * SECOND / 2), Timestamp(1)).unwrap();
        }
        lease
    }

    /// Seed 862 of the simulation: how long the registrar took to answer was learned in the stead of the silence before.
    #[test]
    fn a_heartbeat_that_has_to_ask_is_learned_like_any_other() {
        let (plain, asks) = (learned(), learned());
        assert!(asks.late_after() < Some(Millis::from_millis(1_333)), "it has learned something");
        let (came, answered) = (Monotonic(6 * SECOND), Monotonic(6 * SECOND + 5_000));
        plain.renew(came, Timestamp(2)).unwrap();
        assert!(asks.word().mark(asks.word().read(), Mark::Late));
        assert_eq!(asks.renew(came, Timestamp(2)), Err(Mark::Late));
        asks.revive(answered, Timestamp(2));
        let bounds = |lease: &Lease| (lease.late_after(), lease.expires_after());
        assert_eq!(bounds(&asks), bounds(&plain));
    }
}
