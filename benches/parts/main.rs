//! Criterion benches of the parts: folding, appending, replaying, answering. Each stands in one group beside the
//! least that the same work can cost, so that what counts is the ratio and not the machine.
//!
//! Run by `cargo bench --bench parts`; what each group says is in `benches/README.md`. The whole server over
//! sockets is `benches/end_to_end`.

mod answered;
mod append;
mod detectors;
mod fold;
mod guard;
#[path = "../shared/history.rs"]
mod history;
mod impact;
mod lookup;
#[path = "../shared/plain.rs"]
#[expect(dead_code, reason = "the other bench uses the rest")]
mod plain;
mod replay;
mod retention;
mod search;
mod telemetry;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    retention::bench();
    fold::bench(&mut criterion);
    detectors::bench(&mut criterion);
    lookup::bench(&mut criterion);
    answered::bench(&mut criterion);
    guard::bench(&mut criterion);
    telemetry::bench(&mut criterion);
    append::changes(&mut criterion);
    append::traffic(&mut criterion);
    replay::bench(&mut criterion);
    impact::bench(&mut criterion);
    retention::bench();
    search::bench(&mut criterion);
    criterion.final_summary();
}
