//! rollcall, a service registry that remembers.
//!
//! Services register, heartbeat and look each other up over HTTP; each of those, and every expiry, is an event with a number and a
//! trace id, appended to a SQLite log and folded into an in-memory projection that answers reads.
//!
//! ```text
//!   cli ─▶ app ─▶ http ─▶ registrar ─▶ log ─▶ domain
//!                  └────▶ projection ─▶ lease ─▶ domain
//! ```
//!
//! Begin at [`domain`] for the rules, at [`registrar`] for how a change happens, at [`log`] for what is kept, at
//! [`http`] for the contract, at [`app`] for how it all hangs together. ARCHITECTURE.md has the reasons.

pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod history;
pub mod http;
pub mod keeper;
pub mod lease;
pub mod log;
pub mod probe;
pub mod projection;
pub mod registrar;
pub mod replay;
pub mod rfc3339;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod watch;
mod yielding;
