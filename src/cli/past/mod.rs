//! The commands that ask a registry about its past: `at`, `diff`, `history`, `why`, `impact`, `graph`, `trace`.
//!
//! ```text
//!   state.rs       at, diff
//!   life.rs        history, why, trace
//!   impact.rs      impact
//!   graph.rs       graph
//!   departures.rs  whom a person means who knows only the name of a service
//! ```
//!
//! Answers are JSON that is shown, not types that are checked: a field that a newer server adds must disturb nobody, and
//! one that is missing leaves its place empty. `--output json` prints the answer as it came. Called by [`super::run`].

mod departures;
mod graph;
mod impact;
mod life;
mod state;

use std::io::{self, Write};

use serde_json::Value;

pub(super) use graph::{GraphArgs, graph};
pub(super) use impact::{ImpactArgs, impact};
pub(super) use life::{HistoryArgs, TraceArgs, WhyArgs, history, trace, why};
pub(super) use state::{AtArgs, DiffArgs, at, diff};

use super::events;
use crate::client::Event;

/// Parameters of a question; those that are not given are left out.
fn parameters<'a>(
    given: impl IntoIterator<Item = (&'a str, Option<String>)>,
) -> Vec<(&'a str, String)> {
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A field below `value`, given as a JSON pointer (RFC 6901), as text: empty when absent or null.
fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A whole number below `value`; 0 when absent.
fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The items of a list below `value`; none when absent.
fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// One event as one line, in the form of `rollcall events`; the JSON itself if it is none.
fn event_line(event: &Value) -> String {
    match serde_json::from_value::<Event>(event.clone()) {
        Ok(event) => events::line(&event),
        Err(_) => event.to_string(),
    }
}

/// Says what an answer could not take into account, if anything.
pub(super) fn tell_missing(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    let missing = items(answer, "/missing");
    if missing.is_empty() && answer.get("complete") != Some(&Value::Bool(false)) {
        return Ok(());
    }
    writeln!(out, "\nnot complete:")?;
    for gap in missing {
        let why = match text(gap, "/reason").as_str() {
            "retention" => "retention took what is older than the budget".to_owned(),
            "log_gap" => "the log could not be written".to_owned(),
            "crash" => {
                "the registry ended without order, the last moments may be missing".to_owned()
            }
            "damaged" => "the log is damaged there".to_owned(),
            other => other.to_owned(),
        };
        let events = match text(gap, "/events") {
            none if none.is_empty() => none,
            events => format!(" ({events})"),
        };
        let until = text(gap, "/until");
        match text(gap, "/from") {
            // The epoch stands for the beginning, whenever that was.
            from if from.starts_with("1970-01-01T00:00:00") => {
                writeln!(out, "  all before {until}: {why}{events}")?;
            }
            from => writeln!(out, "  {from} to {until}: {why}{events}")?,
        }
    }
    Ok(())
}

/// Whom an instance in an answer is: `orders/orders-1`, with its namespace where that is not the default one.
fn whom(instance: &Value) -> String {
    let [namespace, service, id] =
        ["/namespace", "/service", "/instance"].map(|name| text(instance, name));
    match namespace.as_str() {
        "" | "default" => format!("{service}/{id}"),
        _ => format!("{namespace}:{service}/{id}"),
    }
}

#[cfg(test)]
mod tests;
