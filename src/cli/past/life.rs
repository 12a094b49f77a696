//! One instance: `rollcall history` and `rollcall why`; and one trace: `rollcall trace`.

use std::io::{self, Write};

use serde_json::Value;

use super::departures::{Departures, instance_of_change};
use super::{event_line, items, number, parameters, tell_missing, text};
use crate::cli::output::{self, Output};
use crate::cli::{Error, Exit, Registry};
use crate::domain::Millis;
use crate::history::spoken::counted;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows each life of an instance: when it began and ended, what changed in it, where its heartbeats had the widest
gaps, and how much it flaps. Instances that have left are answered for, too.

Examples:
  rollcall history orders orders-1
  rollcall history orders orders-1 --limit 20 --output json

Exit code 1: there never was such an instance, as far as the log is kept.")]
pub(in crate::cli) struct HistoryArgs {
    /// The service
    service: String,
    /// The instance
    instance: String,
    /// How many lives and changes at most, the newest ones
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Says in a sentence why an instance left, with who, when, from where and the arithmetic; or why it stands as it does.
Without an instance it takes the one that left the service last without goodbye, else the one that left last, and says so.

Examples:
  rollcall why orders
  rollcall why orders orders-1
  rollcall why orders --seq 57

Exit code 1: there never was such an instance, or nobody has left the service.")]
pub(in crate::cli) struct WhyArgs {
    /// The service
    service: String,
    /// The instance; without it, the one that left last without goodbye
    instance: Option<String>,
    /// The change by which it left, if it left more than once
    #[arg(long)]
    seq: Option<u64>,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows the events that happened in a trace, and where the trace can be seen.

Example:
  rollcall trace 0af7651916cd43dd8448eb211c80319c

Exit code 1: no event of that trace is in the log.")]
pub(in crate::cli) struct TraceArgs {
    /// The trace: 32 hexadecimal digits
    trace_id: String,
    #[command(flatten)]
    registry: Registry,
}

/// Runs `history`.
pub(in crate::cli) async fn history(args: HistoryArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let query = parameters([("limit", args.limit.map(|limit| limit.to_string()))]);
    let client = args.registry.client()?;
    let history = client.history(&args.service, &args.instance, &query).await?.body;
    match args.registry.output {
        Output::Json => output::json(out, &history)?,
        Output::Table => show_history(out, &args.service, &args.instance, &history)?,
    }
    Ok(if items(&history, "/lives").is_empty() { Exit::No } else { Exit::Done })
}

pub(super) fn show_history(
    out: &mut dyn Write,
    service: &str,
    instance: &str,
    history: &Value,
) -> io::Result<()> {
    let flap = history.get("flap_score").and_then(Value::as_f64).unwrap_or(0.0);
    writeln!(out, "{service}/{instance}, flap score {flap:.2} (0 is steady, 1 never rests)")?;
    for life in items(history, "/lives") {
        let until = match text(life, "/until") {
            living if living.is_empty() => "now, it lives".to_owned(),
            until => format!("{until}, {}", text(life, "/ended_by/kind")),
        };
        let (incarnation, from) = (text(life, "/incarnation"), text(life, "/from"));
        writeln!(out, "\nincarnation {incarnation}: {from} to {until}")?;
        for event in items(life, "/transitions") {
            writeln!(out, "  {}", event_line(event))?;
        }
        let gaps: Vec<String> = items(life, "/widest_gaps")
            .iter()
            .map(|gap| {
                let width = Millis::from_millis(number(gap, "/gap_ms"));
                let ended = match text(gap, "/ended_by").as_str() {
                    "" => String::new(),
                    kind => format!(", when it {kind}"),
                };
                format!("{width} until {}{ended}", text(gap, "/at"))
            })
            .collect();
        if !gaps.is_empty() {
            writeln!(out, "  widest gaps: {}", gaps.join("; "))?;
        }
    }
    let [lives, transitions] =
        ["/left_out/lives", "/left_out/transitions"].map(|pointer| number(history, pointer));
    if lives + transitions > 0 {
        writeln!(
            out,
            "\nleft out: {} and {}; --limit shows more",
            counted(lives, "older life", "older lives"),
            counted(transitions, "older change", "older changes"),
        )?;
    }
    if let Some(since) = history.get("gaps_exact_since").and_then(Value::as_str) {
        writeln!(out, "\ngaps before {since} are known by the hour only")?;
    }
    tell_missing(out, history)
}

/// Runs `why`.
pub(in crate::cli) async fn why(
    args: WhyArgs,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let service = &args.service;
    let (instance, seq) = match (args.instance, args.seq) {
        (Some(instance), seq) => (instance, seq),
        (None, Some(seq)) => (instance_of_change(&client, seq).await?, Some(seq)),
        (None, None) => {
            let departures = Departures::of(&client, &args.registry, service).await?;
            let Some(newest) = departures.newest() else {
                writeln!(errors, "{}", departures.nobody())?;
                return Ok(Exit::No);
            };
            departures.tell(errors, &newest)?;
            (newest.instance.to_owned(), Some(newest.seq))
        }
    };
    let query = parameters([("seq", seq.map(|seq| seq.to_string()))]);
    let why = client.why(service, &instance, &query).await?.body;
    match args.registry.output {
        Output::Json => output::json(out, &why)?,
        Output::Table => show_why(out, service, &instance, &why)?,
    }
    Ok(Exit::Done)
}

pub(super) fn show_why(
    out: &mut dyn Write,
    service: &str,
    instance: &str,
    why: &Value,
) -> io::Result<()> {
    writeln!(out, "{}\n", text(why, "/summary"))?;
    if why.get("event").is_some_and(Value::is_object) {
        writeln!(out, "event           {}", event_line(&why["event"]))?;
    }
    if why.get("arithmetic").is_some_and(Value::is_object) {
        let [gap, allowed, late, grace] = ["/gap_ms", "/allowed_ms", "/late_ms", "/grace_ms"]
            .map(|field| Millis::from_millis(number(&why["arithmetic"], field)).to_string());
        let ttl = text(why, "/arithmetic/ttl");
        let mut line = format!(
            "arithmetic      {gap} of silence = {allowed} allowed (ttl {ttl}) + {late} until it was noticed"
        );
        if grace != "0s" {
            line.push_str(&format!(" + {grace} of grace for the registry's own stall or restart"));
        }
        writeln!(out, "{line}")?;
    }
    for (what, pointer) in [
        ("trace", "/trace_url"),
        ("last heartbeat", "/last_heartbeat/trace_url"),
        ("registration", "/registration/trace_url"),
    ] {
        let url = text(why, pointer);
        if !url.is_empty() {
            writeln!(out, "{what:<15} {url}")?;
        }
    }
    tell_missing(out, why)?;
    let kind = text(why, "/event/kind");
    if kind == "expired" || kind == "deregistered" {
        let seq = text(why, "/event/id");
        writeln!(out, "\nwho was handed it: rollcall impact {service} {instance} --seq {seq}")?;
    }
    Ok(())
}

/// Runs `trace`.
pub(in crate::cli) async fn trace(
    args: TraceArgs,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let trace = args.registry.client()?.trace(&args.trace_id).await?.body;
    let events = items(&trace, "/events");
    match args.registry.output {
        Output::Json => output::json(out, &trace)?,
        Output::Table => show_trace(out, &trace)?,
    }
    if events.is_empty() {
        writeln!(errors, "no event of trace {} is in the log", args.trace_id)?;
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}

pub(super) fn show_trace(out: &mut dyn Write, trace: &Value) -> io::Result<()> {
    for event in items(trace, "/events") {
        writeln!(out, "{}", event_line(event))?;
    }
    let url = text(trace, "/trace_url");
    if !url.is_empty() {
        writeln!(out, "\nsee it: {url}")?;
    }
    tell_missing(out, trace)
}
