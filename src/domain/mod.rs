//! The rules of the registry, and nothing else: what exists, which commands are accepted, which
//! events they cause, and how events fold into state.
//!
//! Everything here is pure. No module below may read a clock, draw a random number, touch a file or
//! a socket, log or count: replay, simulation and every later transport reuse it as it is. It uses
//! `std`, `thiserror`, a hash function and the encoding of query strings.
//!
//! ```text
//!   Command ──decide(&Registry, now)──▶ Event ──fold(&mut Registry)──▶ Registry
//!                    │                                   ▲
//!                    └──▶ Rejection (a value, 4xx)       └── the same function, live and replayed
//! ```

pub mod baggage;
pub mod check;
pub mod command;
pub mod decide;
pub mod event;
pub mod fold;
pub mod health;
pub mod ids;
pub mod instance;
pub mod invariants;
pub mod labels;
pub mod limits;
pub mod quotas;
pub mod registry;
pub mod roster;
pub mod selection;
pub mod time;
pub mod traffic;

#[cfg(test)]
mod tests;

pub use baggage::Baggage;
pub use check::{Check, Detector};
pub use command::Command;
pub use decide::{Rejection, decide};
pub use event::{Change, Event, Kind};
pub use fold::fold;
pub use health::Signals;
pub use ids::{InstanceId, InstanceKey, Namespace, Seq, ServiceKey, ServiceName, TraceRef};
pub use instance::{Instance, Mode, Status};
pub use labels::Labels;
pub use quotas::{Quota, Quotas};
pub use registry::Registry;
pub use roster::Roster;
pub use time::{Millis, Timestamp};
