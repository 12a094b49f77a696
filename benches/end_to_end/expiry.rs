//! So many at once: all leases of a fleet run out at the same instant, with the guard switched off. How long until
//! each of them was found and was in the log, and what lookups of those who live had to wait meanwhile.
//!
//! ```text
//!   register ─▶ stop and go on ─▶ idle lookups ─▶ 2/3 ttl: all are late ─▶ ttl: all expire, lookups meanwhile
//!               (a fresh ttl for all, from the same instant on)
//! ```

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::load::{Load, Seen};
use crate::options::Options;
use crate::requests::{DOOMED_TTL, Entrant, Requests};
use crate::servers::Server;
use crate::work::Work;

/// Instances of a service that expires.
const PER_SERVICE: usize = 50;

/// Connections that they come over.
const CONNECTIONS: usize = 64;

/// Lookups a second, before and meanwhile.
const RATE: f64 = 1_000.0;

/// For how long the registry is stopped: more than what counts as a stall.
const STOPPED: Duration = Duration::from_millis(1_500);

/// How long before the deadline, and after all have left, lookups are still measured at most.
const MARGIN: Duration = Duration::from_millis(300);

/// What the log says of the expiries.
#[derive(Debug, Default)]
struct Logged {
    /// Milliseconds from the deadline until it was found, sorted.
    late: Vec<f64>,
    /// Milliseconds from the deadline until it was decided and written, sorted.
    decided: Vec<f64>,
}

/// Measures one wave and prints the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::tempdir_in(&options.dir)?;
    let server = Server::rollcall(dir.path(), options)?;
    let services = options.expiries.div_ceil(PER_SERVICE);
    let wanted = (services * PER_SERVICE) as u64;
    let begun = now();
    fleet::register(server.address, options, options.services, options.instances)?;
    fleet::register_each(server.address, options, services, PER_SERVICE, Entrant::doomed)?;
    let registered_in = begun.elapsed();
    server.signal("STOP")?;
    std::thread::sleep(STOPPED);
    let fresh = now();
    server.signal("CONT")?;

    let lookups = |seconds: f64, seed: u64| {
        let requests = |number| Requests::new(Work::Lookup, options, seed + number);
        let (runtime, address, work) = (&runtime, server.address, Work::Lookup);
        Load { runtime, address, work, connections: CONNECTIONS, seconds, requests: &requests }
            .open(RATE)
    };
    let mut idle = lookups(options.seconds, 1)?;
    let mut client = Client::open(server.address)?;
    let before = head(&mut client)?;
    sleep_until(fresh + DOOMED_TTL * 2 / 3);
    // The wave of those who are late says how long the next one will take.
    let late_in = await_head(&mut client, before + wanted)?;
    let deadline = fresh + DOOMED_TTL;
    if now() + MARGIN > deadline {
        return Err("they were not all late before the first of them expired: fewer".into());
    }
    sleep_until(deadline.checked_sub(MARGIN).unwrap_or(deadline));
    let mut meanwhile = lookups((late_in + 2 * MARGIN).as_secs_f64(), 1_000)?;
    let gone_in = await_head(&mut client, before + 2 * wanted)?;
    server.end()?;
    let logged = logged(&dir.path().join("data"))?;
    if logged.late.len() as u64 != wanted {
        return Err(format!("{} of {wanted} expired", logged.late.len()).into());
    }
    show(options, registered_in, late_in, gone_in, &logged, &mut idle, &mut meanwhile)
}

/// The version of the registry's state.
fn head(client: &mut Client) -> Result<u64, Failure> {
    let (_, status) = client.get("/v1/status")?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    status["head"].as_u64().ok_or_else(|| "a status without a head".into())
}

/// Waits until the head is `wanted`; how long that took.
fn await_head(client: &mut Client, wanted: u64) -> Result<Duration, Failure> {
    let begun = now();
    crate::servers::await_that("all were decided", || Ok(head(client)? >= wanted))?;
    Ok(begun.elapsed())
}

fn logged(data: &Path) -> Result<Logged, Failure> {
    let connection = rusqlite::Connection::open(data.join("rollcall.db"))?;
    let mut statement = connection.prepare(
        "SELECT json_extract(data, '$.late_ms'), julianday(at) * 86400000.0 FROM events WHERE kind = 'expired'",
    )?;
    let mut logged = Logged::default();
    let mut deadline = f64::INFINITY;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (late, at): (u32, f64) = (row.get(0)?, row.get(1)?);
        deadline = deadline.min(at - f64::from(late));
        logged.late.push(late.into());
        logged.decided.push(at);
    }
    // Whoever is decided first was found just before.
    logged.decided.iter_mut().for_each(|at| *at -= deadline);
    logged.late.sort_unstable_by(f64::total_cmp);
    logged.decided.sort_unstable_by(f64::total_cmp);
    Ok(logged)
}

fn show(
    options: &Options,
    registered_in: Duration,
    late_in: Duration,
    gone_in: Duration,
    logged: &Logged,
    idle: &mut Seen,
    meanwhile: &mut Seen,
) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let Options { synchronous, services, instances, .. } = options;
    let count = logged.late.len();
    let rank = |times: &[f64], percent: usize| {
        times.get((count * percent / 100).min(count - 1)).copied().unwrap_or(f64::NAN)
    };
    writeln!(
        out,
        "{count} instances expire at once, changes synced {synchronous}, guard off; registered in {registered_in:?}"
    )?;
    writeln!(
        out,
        "all marked late within {late_in:?}; looked for after the lookups, all gone {gone_in:?} later"
    )?;
    for (what, times) in [("found", &logged.late), ("decided and written", &logged.decided)] {
        writeln!(
            out,
            "deadline until {what}: median {:.0} ms, 99 % {:.0} ms, last {:.0} ms",
            rank(times, 50),
            rank(times, 99),
            rank(times, 100)
        )?;
    }
    writeln!(out, "lookups of {services} services of {instances} at {RATE}/s:")?;
    for (when, seen) in [("idle", &mut *idle), ("meanwhile", &mut *meanwhile)] {
        let (p50, p99) = (seen.quantile(0.5), seen.quantile(0.99));
        writeln!(
            out,
            "  {when}: p50 {p50:.0} µs, p99 {p99:.0} µs, highest {:.0} µs",
            seen.quantile(1.0)
        )?;
    }
    writeln!(out, "  p99 meanwhile / idle: {:.2}", meanwhile.quantile(0.99) / idle.quantile(0.99))?;
    Ok(())
}

fn sleep_until(then: Instant) {
    std::thread::sleep(then.saturating_duration_since(now()));
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn now() -> Instant {
    Instant::now()
}
