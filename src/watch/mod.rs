//! Who waits for what: long polls for a service's next revision, streams for every change from a number on.
//!
//! ```text
//!   registrar ── after views and head are published ──▶ Hub ──▶ places: a service's long polls
//!        │                                              │  └──▶ rings: the newest changes (and traffic)
//!        └── the log ──▶ Archive ── what the rings have no longer ──▶ Feed ──▶ one stream
//!                                                       └───────────▶ Feed
//! ```
//!
//! A stream is a number: the last change that it was told or passed over. What comes next is taken from the ring, or
//! from the log where the ring does not reach back so far. As changes are numbered without a hole there is no seam to
//! get wrong between the two. Nothing is queued for a reader: one that does not read costs its place, no more.
//!
//! It must never make the registrar wait for a watcher, never hold anything that is named by those who ask for longer
//! than they wait, and never tell a change that is not in the log. Called by the registrar (publishes), by `http`
//! (waits) and by `app` (runs the waking).

mod feed;
mod filter;
mod hub;
mod notices;
mod ring;
mod stall;
#[cfg(test)]
mod tests;
mod told;

pub use feed::{Delivery, Error, Feed, Mark, Next, OpenError};
pub use filter::StreamFilter;
pub use hub::{Hub, Waiting, Woken};
pub use notices::Notice;
pub use stall::Progress;
