//! `rollcall impact`: who was handed an instance that was dead already.

use std::io::{self, Write};

use serde_json::Value;

use super::departures::{Departures, instance_of_change};
use super::{items, number, parameters, tell_missing, text};
use crate::cli::output::{self, Output};
use crate::cli::{Error, Exit, Registry};
use crate::history::spoken::counted;

/// Traces of one caller that are shown; all of them are in the JSON.
const TRACES_SHOWN: usize = 5;

/// Arguments of `impact`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows who was handed an instance between its last sign of life and its leaving, until when each of them held it, and
traces in which that happened. Without an instance it takes the one that left the service last without goodbye, says
so, and lists the others.

Examples:
  rollcall impact orders
  rollcall impact orders orders-2
  rollcall impact orders --seq 57 --output json

Exit code 1: nobody was handed it, or nobody has left the service.")]
pub(in crate::cli) struct ImpactArgs {
    /// The service
    service: String,
    /// The instance; without it, the one that left last without goodbye
    instance: Option<String>,
    /// The change by which it left, if it left more than once
    #[arg(long)]
    seq: Option<u64>,
    /// Most traces a caller
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    registry: Registry,
}

/// Runs `impact`.
pub(in crate::cli) async fn impact(
    args: ImpactArgs,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let (instance, seq) = match (args.instance, args.seq) {
        (Some(instance), seq) => (instance, seq),
        (None, Some(seq)) => (instance_of_change(&client, seq).await?, Some(seq)),
        (None, None) => {
            let departures = Departures::of(&client, &args.registry, &args.service).await?;
            let Some(newest) = departures.newest() else {
                writeln!(errors, "{}", departures.nobody())?;
                return Ok(Exit::No);
            };
            departures.tell(errors, &newest)?;
            (newest.instance.to_owned(), Some(newest.seq))
        }
    };
    let query = parameters([
        ("service", Some(args.service)),
        ("instance", Some(instance)),
        ("seq", seq.map(|seq| seq.to_string())),
        ("limit", args.limit.map(|limit| limit.to_string())),
    ]);
    let impact = client.impact(&query).await?.body;
    match args.registry.output {
        Output::Json => output::json(out, &impact)?,
        Output::Table => show_impact(out, &impact)?,
    }
    let held = ["/callers", "/streams"].iter().any(|part| !items(&impact, part).is_empty());
    Ok(if held { Exit::Done } else { Exit::No })
}

/// When somebody learnt that the instance was gone.
fn until(at: &str) -> String {
    if at.is_empty() { "not told yet".to_owned() } else { at.to_owned() }
}

pub(super) fn show_impact(out: &mut dyn Write, impact: &Value) -> io::Result<()> {
    let instance = text(impact, "/instance/instance");
    let (kind, at) = (text(impact, "/departure/kind"), text(impact, "/departure/at"));
    writeln!(out, "{instance} {kind} at {at} (event {})", text(impact, "/departure/id"))?;
    let sign = |name: &str| text(impact, &format!("/last_sign_of_life/{name}"));
    let kind = match sign("kind").as_str() {
        "registered" => "its registration".to_owned(),
        other => format!("a {other}"),
    };
    let mut line = format!("its last sign of life was {kind} at {}", sign("at"));
    if !sign("trace_id").is_empty() {
        line.push_str(&format!(", trace {}", sign("trace_id")));
    }
    writeln!(out, "{line}")?;
    let callers = items(impact, "/callers");
    let lookups = number(impact, "/lookups");
    match callers.len() as u64 {
        0 => writeln!(out, "\nnobody was handed it in between")?,
        callers => writeln!(
            out,
            "\nhanded out {} in between, to {}:\n",
            counted(lookups, "time", "times"),
            counted(callers, "caller", "callers")
        )?,
    }
    show_callers(out, callers)?;
    show_streams(out, items(impact, "/streams"))?;
    show_traces(out, callers)?;
    tell_missing(out, impact)
}

fn show_callers(out: &mut dyn Write, callers: &[Value]) -> io::Result<()> {
    if callers.is_empty() {
        return Ok(());
    }
    let confirmed = callers.iter().any(|caller| number(caller, "/confirmations") > 0);
    let mut header = vec!["CALLER", "LOOKUPS", "FIRST", "LAST", "HELD UNTIL"];
    if confirmed {
        header.push("CONFIRMED");
    }
    let mut table = output::table(&header);
    for caller in callers {
        let about =
            if caller.get("approximate") == Some(&Value::Bool(true)) { "about " } else { "" };
        let mut row = vec![
            text(caller, "/caller"),
            format!("{about}{}", number(caller, "/lookups")),
            text(caller, "/first"),
            text(caller, "/last"),
            until(&text(caller, "/held_until")),
        ];
        if confirmed {
            row.push(number(caller, "/confirmations").to_string());
        }
        table.add_row(row);
    }
    output::write_table(out, &table)
}

fn show_streams(out: &mut dyn Write, streams: &[Value]) -> io::Result<()> {
    if streams.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nwatched it on a stream:\n")?;
    let mut table = output::table(&["CALLER", "OPENED", "TOLD AT"]);
    for stream in streams {
        let told = until(&text(stream, "/told_at"));
        table.add_row(vec![text(stream, "/caller"), text(stream, "/opened"), told]);
    }
    output::write_table(out, &table)
}

fn show_traces(out: &mut dyn Write, callers: &[Value]) -> io::Result<()> {
    let mut headed = false;
    for caller in callers {
        let traces = items(caller, "/traces");
        for trace in traces.iter().take(TRACES_SHOWN) {
            if !std::mem::replace(&mut headed, true) {
                writeln!(out, "\nopen one:")?;
            }
            let place = match text(trace, "/trace_url") {
                none if none.is_empty() => format!("trace {}", text(trace, "/trace_id")),
                url => url,
            };
            writeln!(out, "  {} {}  {place}", text(trace, "/at"), text(caller, "/caller"))?;
        }
        let more = traces.len().saturating_sub(TRACES_SHOWN);
        if more > 0 {
            writeln!(out, "  and {more} more of {}: --output json", text(caller, "/caller"))?;
        }
    }
    Ok(())
}
