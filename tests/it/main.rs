//! The registry over real sockets: one binary, a module per feature.
//!
//! Most tests run the very server that production runs, in this process, on a port of its own, with a SQLite log in a directory of
//! its own; those that kill or starve a process run the built program. Time that leases see is a manual clock.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod backup;
mod bad_input;
mod baggage;
mod bench_command;
mod collector;
mod command_line;
mod crash;
mod detector;
mod discovery;
mod disk;
mod doors;
mod drain;
mod events;
mod expiry;
mod express;
mod failure;
mod flaps;
mod graph;
mod guard;
mod harness;
mod herd;
mod impact;
mod kept;
mod lifecycle;
mod limits;
mod linear;
mod lines;
mod load;
mod log_records;
mod metrics;
mod outage;
mod page;
mod past;
mod probes;
mod profile;
mod readme;
mod reload;
mod replay;
mod restart;
mod retention;
mod stall;
mod trace_context;
mod tracing;
mod watch;
