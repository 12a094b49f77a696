//! The whole server over sockets, beside its limit: lookups, heartbeats and registrations against `rollcall serve`
//! and against a bare axum server that answers the same bytes from a constant. In one run and in turn, so that a
//! noisy machine disturbs both; what counts is the ratio.
//!
//! ```text
//!   this process ── load over keep-alive connections ──▶ rollcall serve       (A)
//!        │                                          └──▶ this program --bare  (B)
//!        └── A B A B ... closed loop: the highest rate;  A B A B ... open loop at a share of it: latency
//! ```
//!
//! Run by `cargo bench --bench end_to_end`; `-- --quick` is the form for CI, which fails only on being broken: a
//! wrong status, or a registry that has not counted what it was sent. What the figures mean is in
//! `benches/README.md`.

mod bare;
mod checks;
mod counters;
mod expiry;
mod fleet;
mod http1;
mod load;
mod memory;
mod options;
mod overload;
mod report;
mod rounds;
mod servers;
mod watchers;
mod work;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use options::Options;

/// Whatever ends a run; nobody but the one who reads it handles it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse().settled();
    let done = match &options.bare {
        Some(bodies) => bare::serve(bodies),
        None if options.overload > 0 => overload::run(&options),
        None if options.expiries > 0 => expiry::run(&options),
        None if options.watchers > 0 => watchers::run(&options),
        None if options.checks > 0 => checks::run(&options),
        None => rounds::run(&options).and_then(|report| report.show(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when standard error is closed too.
            let _ = writeln!(std::io::stderr(), "end_to_end: {failure}");
            ExitCode::FAILURE
        }
    }
}
