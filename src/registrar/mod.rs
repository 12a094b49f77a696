//! The single writer of state: takes all that waits, decides each command in turn, appends the events in
//! one transaction, publishes what changed, answers.
//!
//! ```text
//!            Handle::submit          ┌───────────────── the registrar's thread ─────────────────┐
//!  HTTP ───────commands────▶ inbox ──▶ decide+fold each ─▶ append, sync ─▶ publish ─▶ answer    │
//!            Handle::record          │        ▲                  │ failed: undo, refuse          │
//!  HTTP ───────traffic─────▶ buffer ─▶ number, append            ▼                              │
//!                                    │  deadlines ─▶ MarkLate, Expire: commands like any other  │
//!                                    └──────────────────────────────────────────────────────────┘
//! ```
//!
//! It owns the folded state and the log's write side. It knows no HTTP. Both queues are bounded: a full
//! inbox refuses at once, a full traffic buffer lets its callers wait; see [`Refused`].

mod buffer;
mod handle;
mod inbox;

pub use buffer::QueuedTraffic;
pub use handle::{Applied, Handle, LogCondition, Refused, Request, Timings};
