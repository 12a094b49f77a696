//! rollcall, a service registry that remembers.
pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod history;
pub mod http;
pub mod lease;
pub mod log;
pub mod projection;
pub mod registrar;
pub mod rfc3339;
pub mod telemetry;
