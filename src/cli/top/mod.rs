//! `rollcall top`: what a registry is doing now, in a terminal. Rates and latencies from its metrics, the busiest services
//! and callers from its graph, who flaps from its events; nothing that it asks is logged as a lookup.
//!
//! Called by [`super::run`].

mod figures;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use self::figures::{Reading, Route};
use super::output::{self, Output};
use super::{Error, Exit, Interrupt, Registry};
use crate::client::Client;
use crate::clock::Stopwatch;

/// Lines of each list.
const ROWS: usize = 8;

/// Over which time services, callers and flapping instances are looked at.
const WINDOW: &str = "-1m";

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Rates and latencies are those of the last interval; the lists below are of the last minute.

Examples:
  rollcall top
  rollcall top --interval 5 --url http://registry:7655
  rollcall top --once --output json")]
pub(super) struct Args {
    /// Seconds between two looks, 0.1 to 3600
    #[arg(long, default_value_t = 2.0, value_parser = interval)]
    interval: f64,
    /// Look once, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    registry: Registry,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.ok_or_else(|| "give seconds, 0.1 to 3600".to_owned())
}

/// Somebody, and how often.
#[derive(Debug, Serialize)]
struct Often {
    name: String,
    times: u64,
}

/// One look.
#[derive(Debug, Serialize)]
struct Look {
    head: Option<u64>,
    services: f64,
    healthy: f64,
    unstable: f64,
    failed: f64,
    lookups_per_second: f64,
    heartbeats_per_second: f64,
    changes_per_second: f64,
    refused_per_second: f64,
    waiting_changes: f64,
    waiting_traffic: f64,
    guards: f64,
    resident_bytes: f64,
    cores: f64,
    routes: Vec<Route>,
    busiest_services: Vec<Often>,
    busiest_callers: Vec<Often>,
    flapping: Vec<Often>,
}

/// Runs the command.
pub(super) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    let in_place = std::io::stdout().is_terminal() && !args.once;
    let mut before = Reading::of(&client.metrics().await?);
    let mut since = Stopwatch::start();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(args.interval)) => {}
            () = interrupt.wait() => return Ok(Exit::Done),
        }
        let after = Reading::of(&client.metrics().await?);
        let seconds = since.elapsed().as_secs_f64();
        since = Stopwatch::start();
        let look = look(&client, &before, &after, seconds).await?;
        match args.registry.output {
            Output::Json if args.once => output::json(out, &look)?,
            Output::Json => output::json_line(out, &look)?,
            Output::Table => {
                if in_place {
                    // Home, and everything below it away (ECMA-48: CUP, ED).
                    write!(out, "\x1b[H\x1b[J")?;
                }
                show(out, client.url(), &look)?;
            }
        }
        out.flush()?;
        if args.once {
            return Ok(Exit::Done);
        }
        before = after;
    }
}

async fn look(
    client: &Client,
    before: &Reading,
    after: &Reading,
    seconds: f64,
) -> Result<Look, Error> {
    let sum = |name, label| after.sum(name, label);
    // A registry that started again in between counts from nothing.
    let more = |name, label| (sum(name, label) - before.sum(name, label)).max(0.0);
    let rate = |name, label| more(name, label) / seconds;
    let events = |kind| more("rollcall_events_total", Some(("kind", kind)));
    let [lookups, heartbeats] = ["lookup", "heartbeat"].map(events);
    let streams: f64 = ["watch_opened", "watch_closed", "notified"].map(events).iter().sum();
    let changes = more("rollcall_events_total", None) - lookups - heartbeats - streams;
    let status = |status| sum("rollcall_instances", Some(("status", status)));
    let graph = client.graph(&[("since", WINDOW.to_owned())]).await?;
    let edges = graph.body.get("edges").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let flaps = [("kind", "status_changed"), ("since", WINDOW), ("limit", "1000")];
    let flaps = client.events(&flaps.map(|(name, value)| (name, value.to_owned()))).await?;
    let flapping = flaps.events.iter().filter_map(|event| {
        let [service, instance] = ["service", "instance"].map(|key| event.rest.get(key)?.as_str());
        Some((format!("{}/{}", service?, instance?), 1))
    });
    let mut flapping = often(flapping);
    // Once is no flapping.
    flapping.retain(|one| one.times > 1);
    let edge = |edge: &Value, end| {
        let name = edge.get(end)?.as_str()?.to_owned();
        Some((name, edge.get("lookups")?.as_u64()?))
    };
    Ok(Look {
        head: graph.seq,
        services: sum("rollcall_services", None),
        healthy: status("healthy"),
        unstable: status("unstable"),
        failed: status("failed"),
        lookups_per_second: lookups / seconds,
        heartbeats_per_second: heartbeats / seconds,
        changes_per_second: changes.max(0.0) / seconds,
        refused_per_second: rate("rollcall_requests_refused_total", None),
        waiting_changes: sum("rollcall_event_queue_length", Some(("class", "change"))),
        waiting_traffic: sum("rollcall_event_queue_length", Some(("class", "traffic"))),
        guards: sum("rollcall_guard_active", None),
        resident_bytes: sum("process_resident_memory_bytes", None),
        cores: rate("process_cpu_seconds_total", None),
        routes: figures::routes(before, after, seconds),
        busiest_services: often(edges.iter().filter_map(|one| edge(one, "service"))),
        busiest_callers: often(edges.iter().filter_map(|one| edge(one, "caller"))),
        flapping,
    })
}

/// The names with the highest sums, the highest first.
fn often(counted: impl Iterator<Item = (String, u64)>) -> Vec<Often> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (name, times) in counted {
        *sums.entry(name).or_default() += times;
    }
    let mut often: Vec<Often> =
        sums.into_iter().map(|(name, times)| Often { name, times }).collect();
    often.sort_by_key(|one| std::cmp::Reverse(one.times));
    often.truncate(ROWS);
    often
}

fn show(out: &mut dyn Write, url: &str, look: &Look) -> std::io::Result<()> {
    writeln!(
        out,
        "{url}  change {}  services: {}, instances: {} healthy, {} unstable, {} failed{}",
        look.head.unwrap_or_default(),
        look.services,
        look.healthy,
        look.unstable,
        look.failed,
        if look.guards > 0.0 { "  GUARD HOLDS" } else { "" },
    )?;
    writeln!(
        out,
        "per second: {:.1} lookups, {:.1} heartbeats, {:.1} changes, {:.1} refused; waiting: {} changes, {} events; \
         {:.2} cores, {:.1} MB\n",
        look.lookups_per_second,
        look.heartbeats_per_second,
        look.changes_per_second,
        look.refused_per_second,
        look.waiting_changes,
        look.waiting_traffic,
        look.cores,
        look.resident_bytes / 1e6,
    )?;
    let mut table = output::table(&["ROUTE", "PER SECOND", "P50", "P99", "FAILED"]);
    for Route { route, rate, failed, p50, p99 } in look.routes.iter().take(ROWS) {
        table.add_row(vec![
            route.clone(),
            format!("{rate:.1}"),
            format!("{:.2} ms", p50 * 1e3),
            format!("{:.2} ms", p99 * 1e3),
            format!("{:.1} %", failed * 100.0),
        ]);
    }
    output::write_table(out, &table)?;
    for (header, rows) in [
        (["BUSIEST SERVICES", "LOOKUPS"], &look.busiest_services),
        (["BUSIEST CALLERS", "LOOKUPS"], &look.busiest_callers),
        (["FLAPPING", "CHANGES OF STATUS"], &look.flapping),
    ] {
        if !rows.is_empty() {
            writeln!(out)?;
            let mut table = output::table(&header);
            rows.iter().for_each(|Often { name, times }| {
                table.add_row(vec![name.clone(), times.to_string()]);
            });
            output::write_table(out, &table)?;
        }
    }
    Ok(())
}
