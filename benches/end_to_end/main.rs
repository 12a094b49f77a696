//! The whole server over sockets, beside its limits: `rollcall serve`, a bare axum server and a bare hyper one, which
//! answer the same bytes from a constant. In one run and in turn, so that a noisy machine disturbs all; what counts is
//! the ratio. Beside them the floor: what a flat file and plain SQLite take of the same events.
//!
//! ```text
//!   this process ── load over keep-alive connections ──▶ rollcall serve           (A)
//!        │  ▲                                        ├──▶ this program --bare       (B)
//!        │  └── spans over OTLP ── A                 └──▶ this program --bare-hyper (C)
//!        └── A B C A B C ... closed loop: the highest rate;  A B A B ... open loop at a share of it: latency
//! ```
//!
//! Run by `cargo bench --bench end_to_end`; each mode (`--start`, `--scale`, ...) is a measurement of its own. `-- --quick`
//! is the form for CI, which fails only on being broken: a wrong status, or a registry that has not counted what it was
//! sent. What the figures mean is in `benches/README.md`.

mod bare;
mod bytes;
mod checks;
mod churn;
mod counters;
mod expiry;
mod fleet;
mod floors;
mod growth;
#[path = "../shared/history.rs"]
#[expect(dead_code, reason = "the other bench uses the rest")]
mod history;
mod http1;
mod load;
mod logs;
mod memory;
mod nacos;
mod options;
mod overload;
#[path = "../shared/plain.rs"]
mod plain;
mod protocols;
mod report;
mod requests;
mod rounds;
mod scale;
mod servers;
mod sheet;
mod sink;
mod start;
mod tracing;
mod watchers;
mod work;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use options::{Cores, Options};
use sink::Sink;

/// Whatever ends a run; nobody but the one who reads it handles it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match (&options.bare, &options.bare_hyper) {
        (Some(bodies), _) => bare::serve(bodies, !options.bare_nagle),
        (None, Some(bodies)) => bare::serve_hyper(bodies),
        (None, None) => options.settled().and_then(measure),
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

fn measure(mut options: Options) -> Result<(), Failure> {
    if options.cores == Cores::Apart {
        servers::pin_driver()?;
    }
    let sink = match options.otlp.as_str() {
        "off" => None,
        "own" => Some(Sink::start()?),
        url => {
            options.endpoint = Some(url.to_owned());
            None
        }
    };
    if let Some(sink) = &sink {
        options.endpoint = Some(sink.url.clone());
    }
    let options = &options;
    if let Some(binary) = &options.nacos {
        return nacos::run(options, binary);
    }
    match () {
        () if options.overload > 0 => overload::run(options),
        () if options.expiries > 0 => expiry::run(options),
        () if options.watchers > 0 => watchers::run(options),
        () if options.checks > 0 => checks::run(options),
        () if options.start > 0 => start::run(options),
        () if options.memory > 0 => memory::run(options),
        () if options.scale > 0 => scale::run(options),
        () if options.churn > 0 => churn::run(options),
        () if options.growth > 0 => growth::run(options),
        () if options.tracing => tracing::run(options, sink.as_ref()),
        () if options.bytes > 0 => bytes::run(options),
        () if options.protocols => protocols::run(options),
        () => rounds::run(options, sink.as_ref()),
    }
}
