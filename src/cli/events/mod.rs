//! `rollcall events`: what happened, and with `--follow` what happens.
//!
//! The pages come from a server or from the file of a log; both answer the same questions in the same form, so that this
//! module asks once. It never changes what it reads. Called by [`super::run`].

mod stored;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::output::{self, Output};
use super::{Error, Exit, Interrupt, Registry, past};
use crate::client::{self, Client, Event, EventPage};
use crate::domain::Timestamp;
use crate::rfc3339;

/// How long to wait at the end of the log before looking again.
const PAUSE: Duration = Duration::from_millis(300);

/// How long to wait for a registry that has gone.
const RECONNECT: Duration = Duration::from_secs(1);

/// How many events are asked for at a time.
const PAGE: usize = 500;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows the newest events, the oldest of them first; json is one object a line. What the log misses of them is told at the
end: to people on standard error, in json as a last line without an id: {\"complete\":false,\"missing\":[...]}.

Examples:
  rollcall events
  rollcall events --follow --kind expired
  rollcall events --service orders --limit 1000 --output json
  rollcall events --since -10m --until -5m --kind status_changed
  rollcall events --trace-id 0af7651916cd43dd8448eb211c80319c
  rollcall events --data ./rollcall-data --follow

Exit code 1: no event matches.")]
pub(super) struct Args {
    /// Read the log in this data directory instead of asking a registry, which may be running
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Go on with what happens, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How many of the newest events to show
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only events of this service
    #[arg(long)]
    service: Option<String>,
    /// Only events of this instance
    #[arg(long)]
    instance: Option<String>,
    /// Only events of this kind, such as registered, expired, heartbeat or lookup
    #[arg(long)]
    kind: Option<String>,
    /// Only events of this trace
    #[arg(long)]
    trace_id: Option<String>,
    /// Only events since this instant: RFC 3339, an age (-5m) or a version (@1234)
    #[arg(long, allow_hyphen_values = true)]
    since: Option<String>,
    /// Only events until this instant, in the same forms
    #[arg(long, allow_hyphen_values = true, conflicts_with = "follow")]
    until: Option<String>,
    #[command(flatten)]
    registry: Registry,
}

/// A part of the log: at most so many events, the newest first, from where a cursor or an instant says.
struct Window<'a> {
    limit: usize,
    cursor: Option<&'a str>,
    since: Option<&'a str>,
}

/// Where pages come from.
enum Pages {
    Server(Client),
    Log(stored::Stored),
}

impl Pages {
    async fn page(&self, args: &Args, window: &Window<'_>) -> Result<EventPage, Error> {
        match self {
            Self::Server(client) => Ok(client.events(&query(args, window)).await?),
            Self::Log(stored) => stored.page(window),
        }
    }
}

/// The query as the contract writes it.
fn query(args: &Args, window: &Window<'_>) -> Vec<(&'static str, String)> {
    let given = [
        ("service", args.service.as_deref()),
        ("instance", args.instance.as_deref()),
        ("kind", args.kind.as_deref()),
        ("trace_id", args.trace_id.as_deref()),
        ("since", window.since),
        ("until", args.until.as_deref()),
        ("cursor", window.cursor),
        ("order", Some("desc")),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
    given.chain([("limit", window.limit.to_string())]).collect()
}

/// Runs the command.
pub(super) async fn run(
    args: Args,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let pages = match &args.data {
        Some(data) => Pages::Log(stored::Stored::open(data, &args)?),
        None => Pages::Server(args.registry.client()?),
    };
    let Newest { events: newest, missing } =
        newest(&pages, &args, args.limit, args.since.as_deref()).await?;
    for event in newest.iter().rev() {
        show(out, args.registry.output, event)?;
    }
    tell_missing(args.registry.output, &missing, out, errors)?;
    out.flush()?;
    if !args.follow {
        return Ok(if newest.is_empty() { Exit::No } else { Exit::Done });
    }
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    tokio::select! {
        ended = follow(&pages, &args, &newest, out, errors) => ended.map(|()| Exit::Done),
        () = interrupt.wait() => Ok(Exit::Done),
    }
}

/// Says what the log misses of what was asked for.
fn tell_missing(
    form: Output,
    missing: &[Value],
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let told = serde_json::json!({"complete": false, "missing": missing});
    match form {
        Output::Json => output::json_line(out, &told),
        Output::Table => past::tell_missing(errors, &told),
    }
}

/// Events, the newest first, and what is missing among them.
#[derive(Default)]
struct Newest {
    events: Vec<Event>,
    missing: Vec<Value>,
}

/// The newest events since an instant, at most so many.
async fn newest(
    pages: &Pages,
    args: &Args,
    limit: usize,
    since: Option<&str>,
) -> Result<Newest, Error> {
    let mut found = Newest::default();
    let mut cursor: Option<String> = None;
    while found.events.len() < limit {
        let limit = PAGE.min(limit - found.events.len());
        let mut page =
            pages.page(args, &Window { limit, cursor: cursor.as_deref(), since }).await?;
        found.events.append(&mut page.events);
        // Each page tells the gaps that it touches.
        page.missing.retain(|gap| !found.missing.contains(gap));
        found.missing.append(&mut page.missing);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Shows what comes after `shown` (the newest first), for ever.
///
/// It asks for the last two seconds again and again, from the newest event backwards, and shows what it does not know by
/// its id yet. Going forward from the last one would miss heartbeats and lookups: they reach the log up to 100 ms
/// after the changes among which they belong.
async fn follow(
    pages: &Pages,
    args: &Args,
    shown: &[Event],
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Error> {
    let mut since = window_of(shown).or_else(|| args.since.clone());
    let mut known: HashSet<String> = shown.iter().map(|event| event.id.clone()).collect();
    // What lies in the window and was beyond the limit is old, too: it stands behind the newest one shown. Times
    // would not tell, as an event that came meanwhile may have the same.
    if let Some(last) = shown.first() {
        let window = patiently(pages, args, since.as_deref(), errors).await?;
        let old = window.into_iter().skip_while(|event| event.id != last.id);
        known.extend(old.map(|event| event.id));
    }
    loop {
        // Until something is found, any age does that is longer than the pause, and not the age of the whole log.
        let window = since.as_deref().or(Some("-30s"));
        let found = patiently(pages, args, window, errors).await?;
        for event in found.iter().rev().filter(|event| !known.contains(&event.id)) {
            show(out, args.registry.output, event)?;
        }
        out.flush()?;
        if !found.is_empty() {
            since = window_of(&found);
            known = found.into_iter().map(|event| event.id).collect();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// All events since an instant, the newest first, however long it takes until there is an answer: a registry that is
/// restarted comes back, and its log with it, so that nothing is missed meanwhile.
async fn patiently(
    pages: &Pages,
    args: &Args,
    since: Option<&str>,
    errors: &mut dyn Write,
) -> Result<Vec<Event>, Error> {
    let mut away = false;
    loop {
        match newest(pages, args, usize::MAX, since).await {
            Err(error) if error.exit() == Exit::Failed => {
                if !std::mem::replace(&mut away, true) {
                    writeln!(errors, "rollcall: {}; trying again", client::chain(&error))?;
                }
                tokio::time::sleep(RECONNECT).await;
            }
            found => return found.map(|found| found.events),
        }
    }
}

/// Two seconds before the newest of these events.
fn window_of(events: &[Event]) -> Option<String> {
    let newest = rfc3339::parse(&events.first()?.at)?;
    Some(rfc3339::format(Timestamp(newest.micros() - 2_000_000)))
}

fn show(out: &mut dyn Write, form: Output, event: &Event) -> io::Result<()> {
    match form {
        Output::Json => output::json_line(out, event),
        Output::Table => writeln!(out, "{}", line(event)),
    }
}

/// One line for people: time, id, kind, whom it is about, who asked, in which trace, and what else it says.
pub(super) fn line(event: &Event) -> String {
    let text = |field: &str| event.rest.get(field).and_then(Value::as_str);
    let about = match (text("service"), text("instance")) {
        (Some(service), Some(instance)) => format!("{service}/{instance}"),
        (service, _) => service.unwrap_or("-").to_owned(),
    };
    let mut line = format!("{}  {:>7}  {:<14}  {about:<24}", event.at, event.id, event.kind);
    for (word, field) in [("by", "caller"), ("trace", "trace_id")] {
        if let Some(value) = text(field) {
            line.push_str(&format!("  {word} {value}"));
        }
    }
    let data = event.rest.get("data").and_then(Value::as_object);
    for (name, value) in data.into_iter().flatten() {
        match value {
            Value::Null => {}
            // A whole instance would fill the line and the next ones; where it is called says enough.
            Value::Object(instance) if name == "instance" => {
                let part = |field: &str| instance.get(field).map(Value::to_string);
                let (address, port) = (part("address"), part("port"));
                let address = address.unwrap_or_default();
                line.push_str(&format!(
                    "  at {}:{}",
                    address.trim_matches('"'),
                    port.unwrap_or_default()
                ));
            }
            // An event inside an event: when it was tells it apart, the rest is in the JSON.
            Value::Object(event) if event.get("at").is_some_and(Value::is_string) => {
                let at = event["at"].as_str().unwrap_or_default();
                line.push_str(&format!("  {name}={at}"));
            }
            Value::String(text) => line.push_str(&format!("  {name}={text:?}")),
            other => line.push_str(&format!("  {name}={other}")),
        }
    }
    line
}
