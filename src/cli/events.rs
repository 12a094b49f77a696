//! `rollcall events`: what happened, and with `--follow` what happens.
//!
//! The pages come from a server or from the file of a log; both answer the same questions in the same form, so that this
//! module asks once. It never changes what it reads. Called by [`super::run`].

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::output::{self, Output};
use super::{Error, Exit, Interrupt, Registry};
use crate::client::{Client, Event, EventPage};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::event::Kind;
use crate::domain::{InstanceId, ServiceName};
use crate::history::{EventQuery, EventReader as _, Moment, Order, Position};
use crate::log::sqlite::{History, database_of};
use crate::telemetry::propagation::TraceId;

/// How long to wait at the end of the log before looking again.
const PAUSE: Duration = Duration::from_millis(300);

/// How many events are asked for at a time.
const PAGE: usize = 500;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows the newest events, the oldest of them first; json is one object a line.

Examples:
  rollcall events
  rollcall events --follow --kind expired
  rollcall events --service orders --limit 1000 --output json
  rollcall events --trace-id 0af7651916cd43dd8448eb211c80319c
  rollcall events --data ./rollcall-data --follow

Exit code 1: no event matches.")]
pub(super) struct Args {
    /// Read the log in this data directory instead of asking a registry; it may be running
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
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
    #[command(flatten)]
    registry: Registry,
}

impl Args {
    /// The filters as the contract writes them.
    fn filters(&self) -> Vec<(&'static str, String)> {
        let filters = [
            ("service", &self.service),
            ("instance", &self.instance),
            ("kind", &self.kind),
            ("trace_id", &self.trace_id),
        ];
        filters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// Where pages come from.
enum Pages {
    Server(Client),
    Log(History),
}

impl Pages {
    async fn page(&self, query: &[(&str, String)]) -> Result<EventPage, Error> {
        match self {
            Self::Server(client) => Ok(client.events(query).await?),
            Self::Log(history) => page_of_log(history, query),
        }
    }
}

/// The page that a server on this log would answer to `GET /v1/events` with this query.
fn page_of_log(history: &History, query: &[(&str, String)]) -> Result<EventPage, Error> {
    let page =
        history.events(&query_of(query)?).map_err(|error| Error::failed("read the log", error))?;
    let events =
        page.events.iter().map(|record| serde_json::from_value(serde_json::to_value(record)?));
    let events: Result<Vec<Event>, serde_json::Error> = events.collect();
    Ok(EventPage {
        events: events.map_err(|error| Error::failed("read an event of the log", error))?,
        next: page.next.map(|Position { change, traffic }| format!("{change},{traffic}")),
    })
}

/// The query as the log understands it.
fn query_of(query: &[(&str, String)]) -> Result<EventQuery, Error> {
    let refused = |name: &str, why: &dyn std::fmt::Display| {
        Error::Refused(format!("--{} {why}", name.replace('_', "-")))
    };
    let mut wanted = EventQuery { limit: PAGE, ..EventQuery::default() };
    let now = SystemClock::start().map_err(|error| Error::failed("start the clock", error))?.wall();
    for (name, value) in query {
        match *name {
            "limit" => wanted.limit = value.parse().unwrap_or(PAGE),
            "order" if value == "desc" => wanted.order = Order::Descending,
            "cursor" => {
                let numbers = value.split_once(',');
                wanted.cursor = numbers.and_then(|(change, traffic)| {
                    Some(Position { change: change.parse().ok()?, traffic: traffic.parse().ok()? })
                });
            }
            "service" => {
                let service = ServiceName::new(value);
                wanted.service = Some(service.map_err(|error| refused(name, &error))?);
            }
            "instance" => {
                let instance = InstanceId::new(value);
                wanted.instance = Some(instance.map_err(|error| refused(name, &error))?);
            }
            "kind" => {
                let kind = Kind::parse(value);
                wanted.kind = Some(kind.ok_or_else(|| refused(name, &"is no kind of event"))?);
            }
            "trace_id" => {
                let trace_id = TraceId::parse(value.as_bytes());
                wanted.trace_id = Some(trace_id.map_err(|error| refused(name, &error))?.to_bytes());
            }
            "since" => {
                let since = Moment::parse(value, now);
                let why = "must be RFC 3339, an age such as -5m, or a version such as @1234";
                wanted.since = Some(since.ok_or_else(|| refused(name, &why))?);
            }
            _ => {}
        }
    }
    Ok(wanted)
}

/// Runs the command.
pub(super) async fn run(args: Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let pages = match &args.data {
        Some(data) => {
            let doing = || format!("read the log in {}", data.display());
            let opened = History::open(&database_of(data));
            Pages::Log(opened.map_err(|error| Error::failed(doing(), error))?)
        }
        None => Pages::Server(args.registry.client()?),
    };
    let newest = newest(&pages, &args).await?;
    for event in &newest {
        show(out, args.registry.output, event)?;
    }
    out.flush()?;
    if !args.follow {
        return Ok(if newest.is_empty() { Exit::No } else { Exit::Done });
    }
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    tokio::select! {
        ended = follow(&pages, &args, &newest, out) => ended.map(|()| Exit::Done),
        () = interrupt.wait() => Ok(Exit::Done),
    }
}

/// The newest events up to the limit, the oldest first.
async fn newest(pages: &Pages, args: &Args) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    let mut cursor = None;
    while events.len() < args.limit {
        let mut query = args.filters();
        query.extend(args.since.iter().map(|since| ("since", since.clone())));
        query.push(("order", "desc".to_owned()));
        query.push(("limit", PAGE.min(args.limit - events.len()).to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let mut page = pages.page(&query).await?;
        events.append(&mut page.events);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    events.reverse();
    Ok(events)
}

/// Shows what comes after `shown`, for ever.
///
/// The last page is asked for again and again, by the same cursor, until it is full: what is on it already was shown
/// and is known by its id. So nothing is missed or shown twice, and what is remembered stays as small as a page.
async fn follow(
    pages: &Pages,
    args: &Args,
    shown: &[Event],
    out: &mut dyn Write,
) -> Result<(), Error> {
    let since = shown.last().map(|event| event.at.clone()).or_else(|| args.since.clone());
    let mut known: HashSet<String> = shown.iter().map(|event| event.id.clone()).collect();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = args.filters();
        query.extend(since.iter().map(|since| ("since", since.clone())));
        query.push(("order", "asc".to_owned()));
        query.push(("limit", PAGE.to_string()));
        query.extend(cursor.iter().map(|cursor| ("cursor", cursor.clone())));
        let page = pages.page(&query).await?;
        let mut news = false;
        for event in &page.events {
            if known.insert(event.id.clone()) {
                show(out, args.registry.output, event)?;
                news = true;
            }
        }
        out.flush()?;
        if let Some(next) = page.next {
            cursor = Some(next);
            known.clear();
        } else if !news {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn show(out: &mut dyn Write, form: Output, event: &Event) -> io::Result<()> {
    match form {
        Output::Json => output::json_line(out, event),
        Output::Table => writeln!(out, "{}", line(event)),
    }
}

/// One line for people: time, id, kind, whom it is about, who asked, in which trace, and what else it says.
fn line(event: &Event) -> String {
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
    match event.rest.get("data") {
        None | Some(Value::Null) => {}
        Some(data) => line.push_str(&format!("  {data}")),
    }
    line
}
