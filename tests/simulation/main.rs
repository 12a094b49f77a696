//! The whole registry in one thread, on a clock and with a luck that a seed decides: registrar, projection, leases, hub
//! and streams are the real ones; instances, network, disk and time are not. After each turn of the registrar the
//! rules are checked that a registry is judged by: nobody living is evicted, nobody dead is offered, nothing
//! acknowledged is lost, and who watches sees each change once.
//!
//! ```text
//! cargo test --test simulation                                    # some seeds
//! ROLLCALL_SIM_SEEDS=1000 cargo test --release --test simulation  # many
//! ROLLCALL_SIM_SEED=42 cargo test --test simulation -- --nocapture seeds   # one, told line by line
//! ```
//!
//! Every seed runs twice, and both transcripts must be the same. A seed that breaks a rule is printed with the end of
//! its transcript. `.ci/bugs` plants the bugs of `tests/simulation/bugs` one by one and counts the seeds until each is
//! found.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a seed is told to whoever runs it")]

mod archive;
mod crowd;
mod disk;
mod guards;
mod herd;
mod member;
mod plan;
mod rules;
mod transcript;
mod truth;
mod verdicts;
mod watchers;
mod world;

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::World;

/// Seeds of a run that is not told how many.
const SEEDS: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

/// What streams need to read the log, and timers to exist; no timer ever fires.
fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().max_blocking_threads(1).build().unwrap()
}

/// Runs a seed; the hash and the length of its transcript.
fn run(seed: u64, aloud: bool) -> (u64, u64) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut world = World::new(seed, aloud);
    if let Err(broken) = world.run() {
        let tail = world.tail();
        panic!("{tail}ROLLCALL_SIM_SEED={seed} breaks a rule: {broken}");
    }
    world.digest()
}

/// A seed that runs. If it panics, it is named, and nobody begins another one.
struct Run<'a> {
    seed: u64,
    next: &'a AtomicU64,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("ROLLCALL_SIM_SEED={} has failed", self.seed);
            self.next.store(u64::MAX / 2, Ordering::SeqCst);
        }
    }
}

/// Takes seeds from `next` up to `end` as long as none breaks a rule; the lines of their transcripts.
fn run_all(next: &AtomicU64, end: u64) -> u64 {
    let mut lines = 0;
    loop {
        let seed = next.fetch_add(1, Ordering::SeqCst);
        if seed >= end {
            return lines;
        }
        let _running = Run { seed, next };
        let once = run(seed, false);
        let again = run(seed, false);
        assert_eq!(once, again, "ROLLCALL_SIM_SEED={seed} does not repeat itself");
        lines += once.1;
    }
}

#[test]
fn seeds() {
    if let Some(seed) = number("ROLLCALL_SIM_SEED") {
        run(seed, true);
        return;
    }
    let (first, seeds) =
        (number("ROLLCALL_SIM_FIRST").unwrap_or(1), number("ROLLCALL_SIM_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let lines: u64 = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let runners: Vec<_> =
            (0..cores).map(|_| scope.spawn(|| run_all(&next, first + seeds))).collect();
        // What a runner panicked with was printed by then.
        runners.into_iter().map(|runner| runner.join().expect("a seed breaks a rule")).sum()
    });
    println!("{seeds} seeds from {first} on, each twice: {lines} lines of transcript");
}
