//! What rollcall says of itself: trace context, metrics, spans, log lines.
//!
//! Export never blocks a request and never fails one. One fact is one call: [`signals`] writes the log line and
//! the metrics together. Nothing here knows the registry's types, so every other module may use it.
//!
//! - [`propagation`]: ids in and out of headers, made at the start of each request
//! - [`names`]: every metric and every label value
//! - [`metrics`]: handles resolved once, and the page
pub mod metrics;
pub mod names;
pub mod propagation;
