//! What rollcall says of itself: trace context, metrics, spans, log lines.
//!
//! Export never blocks a request and never fails one. One fact is one call: [`signals`] writes the log line and
//! the metrics together. Nothing here knows the registry's types, so every other module may use it.
//!
//! - [`ids`]: trace ids and span ids
//! - [`propagation`]: ids in and out of headers, made at the start of each request
//! - [`names`]: every metric and every label value
//! - [`metrics`]: handles resolved once, and the page
//! - [`config`]: OpenTelemetry's standard variables
//! - [`baggage`]: the allowed part of what a request brings along, for its event
//! - [`keep`]: which spans are kept, decided at the end of a request
//! - [`export`]: the queue to the collector, counted
//! - [`spans`]: the tracer that makes a kept span from its ids and times
//! - [`fields`]: what log lines say, in a table
//! - [`logs`]: log lines on standard error
//! - [`records`]: log lines as OTLP records, if the settings say so
//! - [`signals`]: facts, each with its line and its metrics

pub mod baggage;
pub mod config;
pub mod export;
pub mod fields;
pub mod ids;
pub mod keep;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod profile;
pub mod propagation;
pub mod records;
pub mod signals;
pub mod spans;
