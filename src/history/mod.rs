//! The past: questions about it, what must be known to answer them, and the answers worked out, as plain
//! values.
//!
//! ```text
//!   http, cli ── a question ──▶ history ── Archive ──▶ log/sqlite (or whoever holds the log)
//!                              diff, lives, why, impact, graph: pure, over what the archive shows
//! ```
//!
//! It stands between the two so that neither knows the other: no SQL, no HTTP. [`Archive`] is implemented over the
//! log and handed in by `app`.

mod archive;
mod diff;
mod gaps;
pub mod graph;
pub mod impact;
mod lives;
mod moment;
mod policy;
mod probed;
mod record;
pub mod spoken;
mod stretch;
mod walk;
mod why;

#[cfg(test)]
mod tests;

pub use archive::{
    Archive, Counted, Error, EventPage, EventQuery, Extent, HeartbeatRun, LogFigures, LookupCount,
    Missing, NoArchive, Order, Position, Reason, Subject, TrafficQuery, Visit,
};
pub use diff::{Changed, Diff, Difference, LeftOut, Moved, Scope, Value, diff};
pub use gaps::Gap;
pub use lives::{Flap, InstanceHistory, LifeStory, RAW_MAX, lives};
pub use moment::{Moment, Version};
pub use policy::Policy;
pub use record::{EventId, Record};
pub use walk::Unseen;
pub use why::{Alive, Answer, Which, Why, why};
