//! A registry that walks through the past: what was recorded happens again, in its own order and pace.
//!
//! ```text
//!   Archive ── state at `from` ──▶ engine (a thread: folds change after change when its time comes)
//!      │                             │ publishes                       ▲ pause, speed, seek
//!      │                             ▼                                 │
//!      │                         Projection ──▶ http, as of a live one ┴── Handle
//!      └── cut (nothing after the replayed present is told) ──▶ http
//! ```
//!
//! It must never write: no log is opened for writing, no lease runs, nothing expires by itself. An instance leaves
//! when the recorded event says so. It knows no HTTP; `app` puts the API in front of it, and the command line and
//! `http` steer it by its [`Handle`].

mod cut;
mod engine;
mod handle;
mod tape;

pub use cut::Cut;
pub use engine::{Config, Publishing, Running, StartError, start};
pub use handle::{Handle, Refused, Steer};
pub use tape::{InvalidSpeed, Place, Playing, Position, ReplayClock, Speed};
