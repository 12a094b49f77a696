//! The only place that asks what time it is.
//!
//! Three readings, because they answer three questions: `wall` is written down and shown, `monotonic`
//! measures leases, `awake_since` tells how long the process has been running without a stall. A lease
//! counts from its last renewal or from `awake_since`, whichever is later: that one rule gives every
//! lease a fresh grace after a start and after a stall, and a registry that slept evicts nobody.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::{self, Thread, ThreadId};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::domain::{Millis, Timestamp};

/// A gap between two signs of life of the whole process that counts as a stall (SIGSTOP, a paused
/// virtual machine, heavy swapping). Far above what a busy scheduler does; half of the shortest ttl, so
/// that a stall that is not noticed evicts nobody who beats at a quarter of it.
pub const STALL: Duration = Duration::from_millis(500);

/// How often the process proves that it runs.
const PULSE: Duration = Duration::from_millis(50);

/// A reading of the monotonic clock: microseconds since some start that never changes within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// This instant and `span` more.
    #[must_use]
    pub fn plus(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.micros()))
    }

    /// How long after `earlier` this is; nothing if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis::from_millis(self.micros_since(earlier) / 1_000)
    }

    /// The same in microseconds.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Time, as the registry sees it. Injected, so that tests decide what it is.
pub trait Clock: Send + Sync + Debug {
    /// Wall time. May jump.
    fn wall(&self) -> Timestamp;

    /// Monotonic time. Never jumps back.
    fn monotonic(&self) -> Monotonic;

    /// Since when the process has been running without a stall of more than [`STALL`]. Asking is itself
    /// a sign of life.
    fn awake_since(&self) -> Monotonic;

    /// Blocks the calling thread until it is unparked or this clock reaches `until`. May return early:
    /// the caller looks for itself what there is to do.
    fn park(&self, until: Monotonic);

    /// Microseconds for which the calling thread has had a processor so far; none where the system does not say.
    fn worked_micros(&self) -> Option<u64>;
}

/// The machine's clocks, and a thread that proves every 50 ms that the process runs.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
    pulse: Arc<Pulse>,
}

#[derive(Debug)]
struct Pulse {
    last: AtomicU64,
    awake_since: AtomicU64,
    /// For how long the machine was suspended since it was switched on, as far as was seen.
    slept: AtomicU64,
}

impl Pulse {
    /// Notes that the process runs at `now`, on a machine that was suspended for `slept` until then. A gap since the last
    /// note moves `awake_since`, and so does a suspend, which the clock of the leases does not see.
    fn beat(&self, now: u64, slept: u64) -> u64 {
        let last = self.last.fetch_max(now, SeqCst);
        let seen = self.slept.fetch_max(slept, SeqCst);
        let gap = now.saturating_sub(last).max(slept.saturating_sub(seen));
        if u128::from(gap) > STALL.as_micros() {
            self.awake_since.fetch_max(now, SeqCst);
        }
        self.awake_since.load(SeqCst)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
impl SystemClock {
    /// Starts the clock. Its thread ends when the clock is dropped.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let origin = Instant::now();
        // One second on the clock from the beginning, so that 0 can stand for "never".
        let pulse = Arc::new(Pulse {
            last: AtomicU64::new(1_000_000),
            awake_since: AtomicU64::new(1_000_000),
            slept: AtomicU64::new(slept_micros()),
        });
        let weak = Arc::downgrade(&pulse);
        thread::Builder::new().name("rollcall-pulse".into()).spawn(move || {
            while let Some(pulse) = weak.upgrade() {
                pulse.beat(micros_since(origin), slept_micros());
                drop(pulse);
                thread::sleep(PULSE);
            }
        })?;
        Ok(Arc::new(Self { origin, pulse }))
    }
}

fn micros_since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1_000_000)
}

/// For how long the machine was suspended since it was switched on, in microseconds: what the clock of the system that
/// goes on meanwhile is ahead of the one that does not, on which leases run. Without the grace that follows from it,
/// who had little left of its lease when the machine went to sleep would be evicted before it has noticed that the
/// registry is back.
#[cfg(target_os = "linux")]
fn slept_micros() -> u64 {
    use rustix::time::ClockId;
    // In this order, so that a pause between the two readings makes less of it and not more.
    let with_sleep = system_micros(ClockId::Boottime);
    with_sleep.saturating_sub(system_micros(ClockId::Monotonic))
}

/// What a clock of the system shows.
#[cfg(target_os = "linux")]
fn system_micros(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000).saturating_add(nanos.unwrap_or(0) / 1_000)
}

/// Elsewhere a suspend is seen only if the clock of the leases goes on meanwhile: then it is a stall like any other.
#[cfg(not(target_os = "linux"))]
fn slept_micros() -> u64 {
    0
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        // Before 1970 only a broken clock can be; it reads as the epoch.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(micros_since(self.origin))
    }

    fn awake_since(&self) -> Monotonic {
        Monotonic(self.pulse.beat(micros_since(self.origin), slept_micros()))
    }

    fn park(&self, until: Monotonic) {
        let micros = until.micros_since(self.monotonic());
        if micros > 0 {
            thread::park_timeout(Duration::from_micros(micros));
        }
    }

    #[cfg(target_os = "linux")]
    fn worked_micros(&self) -> Option<u64> {
        Some(system_micros(rustix::time::ClockId::ThreadCPUTime))
    }

    #[cfg(not(target_os = "linux"))]
    fn worked_micros(&self) -> Option<u64> {
        None
    }
}

/// How long a piece of work takes in real time, whatever clock leases run on. For metrics only.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins to measure.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since then.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that only moves when told to. For tests and simulation.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<ManualState>,
}

#[derive(Debug)]
struct ManualState {
    wall: Timestamp,
    monotonic: Monotonic,
    awake_since: Monotonic,
    parked: HashMap<ThreadId, Thread>,
}

impl ManualClock {
    /// A clock that shows `wall` and stands still.
    #[must_use]
    pub fn new(wall: Timestamp) -> Arc<Self> {
        let start = Monotonic(1_000_000);
        let state =
            ManualState { wall, monotonic: start, awake_since: start, parked: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Lets `span` pass while the process runs.
    pub fn advance(&self, span: Millis) {
        self.change(|state| {
            state.monotonic = state.monotonic.plus(span);
            state.wall = Timestamp(state.wall.0 + i64::try_from(span.micros()).unwrap_or(0));
        });
    }

    /// Lets `span` pass while the process is stopped.
    pub fn stall(&self, span: Millis) {
        self.change(|state| {
            state.monotonic = state.monotonic.plus(span);
            state.wall = Timestamp(state.wall.0 + i64::try_from(span.micros()).unwrap_or(0));
            state.awake_since = state.monotonic;
        });
    }

    /// Lets `span` pass while the machine is suspended: the clock of the leases stands still.
    pub fn suspend(&self, span: Millis) {
        self.change(|state| {
            state.wall = Timestamp(state.wall.0 + i64::try_from(span.micros()).unwrap_or(0));
            state.awake_since = state.monotonic;
        });
    }

    /// Makes the wall clock jump by `micros`, which leaves monotonic time alone.
    pub fn jump(&self, micros: i64) {
        self.change(|state| state.wall = Timestamp(state.wall.0 + micros));
    }

    fn change(&self, edit: impl FnOnce(&mut ManualState)) {
        let mut state = self.state.lock();
        edit(&mut state);
        state.parked.values().for_each(Thread::unpark);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        self.state.lock().wall
    }

    fn monotonic(&self) -> Monotonic {
        self.state.lock().monotonic
    }

    fn awake_since(&self) -> Monotonic {
        self.state.lock().awake_since
    }

    /// Waits for an `unpark` or a movement of the clock, but at most a few real milliseconds: what is
    /// paced by real work, such as flushing traffic, goes on while this clock stands still.
    fn park(&self, until: Monotonic) {
        let current = thread::current();
        {
            let mut state = self.state.lock();
            if state.monotonic >= until {
                return;
            }
            state.parked.insert(current.id(), current);
        }
        thread::park_timeout(Duration::from_millis(5));
    }

    /// As if the one thread that asks had a processor all the time.
    fn worked_micros(&self) -> Option<u64> {
        Some(self.monotonic().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_between_beats_moves_the_grace() {
        let pulse = Pulse {
            last: AtomicU64::new(0),
            awake_since: AtomicU64::new(0),
            slept: AtomicU64::new(7),
        };
        assert_eq!(pulse.beat(200_000, 7), 0);
        assert_eq!(pulse.beat(700_000, 7), 0, "exactly the limit is no stall");
        assert_eq!(pulse.beat(1_200_001, 7), 1_200_001);
        assert_eq!(pulse.beat(1_300_000, 7), 1_200_001);
        assert_eq!(pulse.beat(1_250_000, 7), 1_200_001, "a reading from before does no harm");
        assert_eq!(pulse.beat(1_310_000, 500_007), 1_200_001, "exactly the limit again");
        assert_eq!(pulse.beat(1_320_000, 60_500_007), 1_320_000, "a minute of sleep");
        assert_eq!(pulse.beat(1_330_000, 60_500_007), 1_320_000, "once");
        assert_eq!(pulse.beat(1_340_000, 60_000_000), 1_320_000, "and never back");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_waits_does_not_work() {
        let clock = SystemClock::start().unwrap();
        let (began, worked) = (clock.monotonic(), clock.worked_micros().unwrap());
        while clock.monotonic().since(began) < Millis::from_millis(20) {
            clock.park(clock.monotonic().plus(Millis::from_millis(20)));
        }
        let waited = clock.worked_micros().unwrap() - worked;
        assert!(waited < 10_000, "{waited}");
        let mut sum = 0_u64;
        // It comes to an end only if the clock of the thread moves.
        while clock.worked_micros().unwrap() < worked + waited + 1_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_running_machine_does_not_seem_to_sleep() {
        let readings: Vec<u64> = (0..10_000).map(|_| slept_micros()).collect();
        let (least, most) = (readings.iter().min(), readings.iter().max());
        let spread = most.zip(least).map_or(0, |(most, least)| most - least);
        assert!(u128::from(spread) < STALL.as_micros(), "{spread}");
    }
}
