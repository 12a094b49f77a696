//! `rollcall graph`: who looks up whom.

use std::io::Write;

use serde_json::Value;

use super::{items, number, parameters, tell_missing, text};
use crate::cli::output::{self, Output};
use crate::cli::{Error, Exit, Registry};

/// How a graph is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A row for each pair.
    Table,
    /// For Markdown that draws it.
    Mermaid,
    /// For Graphviz.
    Dot,
    /// For programs.
    Json,
}

/// Arguments of `graph`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows who looked up which service, how often, and how often in vain. Callers need not be registered.
An instant is RFC 3339, an age (-5m) or a version (@1234).

Examples:
  rollcall graph
  rollcall graph --since -1h --format mermaid
  rollcall graph --format dot | dot -Tsvg > graph.svg

Exit code 1: nobody looked anybody up.")]
pub(in crate::cli) struct GraphArgs {
    /// From when on
    #[arg(long, allow_hyphen_values = true)]
    since: Option<String>,
    /// Until when
    #[arg(long, allow_hyphen_values = true)]
    until: Option<String>,
    /// Form of the graph; --output json is --format json
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    registry: Registry,
}

/// Runs `graph`.
pub(in crate::cli) async fn graph(args: GraphArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let format = match (args.format, args.registry.output) {
        (Format::Table, Output::Json) => Format::Json,
        (format, _) => format,
    };
    let drawing = match format {
        Format::Mermaid => Some("mermaid"),
        Format::Dot => Some("dot"),
        Format::Table | Format::Json => None,
    };
    let query = parameters([
        ("since", args.since),
        ("until", args.until),
        ("format", drawing.map(str::to_owned)),
    ]);
    if drawing.is_some() {
        let text = client.drawing(&query).await?;
        write!(out, "{text}{}", if text.ends_with('\n') { "" } else { "\n" })?;
        return Ok(Exit::Done);
    }
    let graph = client.graph(&query).await?.body;
    match format {
        Format::Json => output::json(out, &graph)?,
        Format::Table | Format::Mermaid | Format::Dot => show_graph(out, &graph)?,
    }
    Ok(if items(&graph, "/edges").is_empty() { Exit::No } else { Exit::Done })
}

pub(super) fn show_graph(out: &mut dyn Write, graph: &Value) -> std::io::Result<()> {
    let mut table =
        output::table(&["CALLER", "SERVICE", "LOOKUPS", "PER SECOND", "FAILED", "LAST"]);
    for edge in items(graph, "/edges") {
        let rate = edge.get("rate").and_then(Value::as_f64).unwrap_or(0.0);
        let failed = edge.get("failed").and_then(Value::as_f64).unwrap_or(0.0);
        table.add_row(vec![
            text(edge, "/caller"),
            text(edge, "/service"),
            number(edge, "/lookups").to_string(),
            format!("{rate:.2}"),
            format!("{:.1} %", failed * 100.0),
            text(edge, "/last"),
        ]);
    }
    if table.row_count() == 0 {
        writeln!(out, "nobody looked anybody up")?;
    } else {
        output::write_table(out, &table)?;
    }
    tell_missing(out, graph)
}
