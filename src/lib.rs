//! rollcall, a service registry that remembers.
pub mod clock;
pub mod domain;
pub mod lease;
pub mod projection;
pub mod registrar;
pub mod telemetry;
