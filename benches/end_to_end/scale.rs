//! A million instances: so many heartbeats a second in batches, from instances that beat four times in their ttl; some of
//! them die one after the other. Nobody who lives may expire, who is dead must soon; and lookups are measured before and
//! meanwhile.
//!
//! At 66,000 heartbeats a second and a ttl of 15 s, of which a quarter is the recommended interval, 240,000 can beat: more
//! would be late. The others live by a long ttl, and are as much state to carry.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rollcall::log::sqlite::FILE;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Failure;
use crate::http1::Connection;
use crate::load::{self, BEHIND_MAX, Load, Seen, Times, now, pace};
use crate::logs::{DATA, Fleet};
use crate::options::Options;
use crate::requests::{Entrant, Requests};
use crate::servers::Server;
use crate::sheet::Sheet;
use crate::work::Work;

/// Instances of a service.
const PER_SERVICE: usize = 100;

/// Heartbeats of a batch: what an agent sends for the instances on its machine.
const PER_BATCH: usize = 100;

/// Connections that batches come over, and as many for lookups.
const CONNECTIONS: usize = 16;

/// Lookups a second.
const LOOKUPS: f64 = 1_000.0;

/// Who beats when, and who dies.
#[derive(Clone, Copy)]
struct Choir {
    services: usize,
    /// Those of each service who beat.
    beating: usize,
    ttl: Duration,
    /// Batches for all of them.
    batches: usize,
    /// Heartbeats a second.
    beats: usize,
}

impl Choir {
    fn of(options: &Options) -> Self {
        let services = (options.scale / PER_SERVICE).max(1);
        // Four leases long, which is a minute; the small form has no time for that.
        let seconds = if options.quick { 2 } else { 15 };
        let ttl = Duration::from_secs(seconds);
        // In a quarter of the ttl.
        let beats = options.beats * usize::try_from(seconds).unwrap_or(usize::MAX) / 4;
        let beating = (beats / services).clamp(1, PER_SERVICE);
        let batches = (services * beating).div_ceil(PER_BATCH);
        Self { services, beating, ttl, batches, beats: options.beats }
    }

    fn length(&self) -> Duration {
        4 * self.ttl
    }

    fn entrant(self) -> impl Fn(usize, usize) -> Entrant {
        move |service, instance| {
            let entrant = Entrant::fleet(service, instance);
            if instance < self.beating { Entrant { ttl: self.ttl, ..entrant } } else { entrant }
        }
    }

    /// One of ten services has somebody who dies.
    fn dies(&self, service: usize, instance: usize) -> bool {
        instance == 0 && service.is_multiple_of(10)
    }

    /// How long after the beginning he is heard no more: so that his end is seen before the end of all.
    fn last_heard(&self, service: usize) -> Duration {
        (self.length() - 2 * self.ttl) * u32::try_from(service).unwrap_or(u32::MAX)
            / u32::try_from(self.services).unwrap_or(1)
    }

    /// Who is in a batch and still beats, counted over the whole fleet. The members of one are of many services.
    fn members(&self, batch: usize, after: Duration) -> impl Iterator<Item = usize> {
        let all = (batch..self.services * self.beating).step_by(self.batches);
        all.filter_map(move |nth| {
            let (service, instance) = (nth / self.beating, nth % self.beating);
            let gone = self.dies(service, instance) && after > self.last_heard(service);
            (!gone).then_some(service * PER_SERVICE + instance)
        })
    }
}

/// Measures and shows the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let choir = Choir::of(options);
    let options = &Options { services: choir.services, instances: PER_SERVICE, ..options.clone() };
    let dir = tempfile::tempdir_in(&options.dir)?;
    let (services, entrant) = (choir.services, choir.entrant());
    Fleet { services, instances: PER_SERVICE, entrant, snapshot: true }.write(dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = Server::rollcall(dir.path(), options)?;
    let lookups = |seconds: f64, seed: u64| {
        Load {
            runtime: &runtime,
            address: server.address,
            work: Work::Lookup,
            connections: CONNECTIONS,
            seconds,
            requests: &|number| Requests::new(Work::Lookup, options, seed + number),
        }
        .open_refusable(LOOKUPS)
    };
    // Leases began anew when it was ready: a quarter of them is gone after this, and another after the first beats.
    let mut idle = lookups(choir.ttl.as_secs_f64() / 4.0, 1)?;
    let before = server.cpu();
    let (beats, lookups) = std::thread::scope(|scope| {
        let address = server.address;
        let runtime = &runtime;
        let beats = scope.spawn(move || beat(runtime, address, choir, options));
        let lookups = lookups(choir.length().as_secs_f64() * 0.9, 1_000);
        (beats.join(), lookups)
    });
    let mut beats = beats.map_err(|_| "the thread that beats panicked")??;
    let mut lookups = lookups?;
    let used = server.cpu().zip(before).map(|(after, before)| after - before);
    let resident = server.resident_bytes();
    server.end()?;
    let ends = ends(dir.path(), &choir)?;

    let mut sheet = Sheet::new("scale", options);
    sheet.figure("instances", (choir.services * PER_SERVICE) as f64, "");
    sheet.figure("of them beat", (choir.services * choir.beating) as f64, "");
    sheet.figure("heartbeats renewed", beats.members as f64 / choir.length().as_secs_f64(), "1/s");
    sheet.figure("a batch waits, p99", beats.quantile(0.99), "ms");
    sheet.figure("batches refused", beats.refused as f64, "");
    // Whoever was sent too late expired rightly: on a machine that is too busy, this tells whose fault it was.
    sheet.figure("a batch waits at most", beats.quantile(1.0), "ms");
    sheet.figure("heartbeats sent", choir.beats as f64, "1/s");
    if let Some(used) = used {
        let share = used.as_secs_f64() / choir.length().as_secs_f64();
        sheet.figure("processor time of the registry", share, "cores");
    }
    if let Some(resident) = resident {
        sheet.figure("resident", resident as f64 / 1e6, "MB");
    }
    sheet.figure("died and were found", ends.found as f64, "");
    note(&mut sheet, &ends, &mut idle, &mut lookups);
    // A stall of the machine gives everybody a fresh lease, so that some may not be found within the minute.
    sheet.at_least("scale: dead that were found", ends.found as f64, ends.dead as f64, "");
    sheet.show(options)
}

fn note(sheet: &mut Sheet, ends: &Ends, idle: &mut Seen, lookups: &mut Seen) {
    for (when, seen) in [("without the load", &mut *idle), ("with it", &mut *lookups)] {
        sheet.figure(format!("lookup, p50 {when}"), seen.quantile(0.5), "µs");
        sheet.figure(format!("lookup, p99 {when}"), seen.quantile(0.99), "µs");
    }
    sheet.figure("lookups refused", (idle.refused + lookups.refused) as f64, "");
    sheet.at_most("scale: false expiries", ends.wrong as f64, 0.0, "");
    sheet.at_most("scale: detection late, p99", ends.late_p99, 100.0, " ms");
    let ratio = lookups.quantile(0.99) / idle.quantile(0.99);
    sheet.at_most("scale: lookup p99 over that without the load", ratio, 3.0, "");
}

/// What the heartbeats met with.
#[derive(Default)]
struct Beats {
    /// Nanoseconds of each batch.
    latencies: Vec<u64>,
    members: usize,
    /// Batches answered with 503.
    refused: usize,
}

impl Beats {
    /// In milliseconds.
    fn quantile(&mut self, share: f64) -> f64 {
        load::quantile(&mut self.latencies, share) / 1e6
    }
}

/// Everybody beats in his turn, batch by batch, until the time is up.
fn beat(
    runtime: &Runtime,
    address: SocketAddr,
    choir: Choir,
    options: &Options,
) -> Result<Beats, Failure> {
    let mut connected = Vec::new();
    for number in 0..CONNECTIONS as u64 {
        let connection = runtime.block_on(Connection::open(address))?;
        connected.push((connection, Requests::new(Work::Batch, options, number)));
    }
    let mut tasks = JoinSet::new();
    let mut queues = Vec::new();
    // The warm-up of a tenth is on top.
    let times = Times::of(choir.length().as_secs_f64() / 1.1);
    let began = now();
    for (number, (connection, requests)) in connected.into_iter().enumerate() {
        let (queue, intended) = mpsc::channel(BEHIND_MAX);
        queues.push(queue);
        let turns = (number..).step_by(CONNECTIONS).map(move |turn| turn % choir.batches);
        let one = one(connection, requests, choir, began, turns, intended);
        tasks.spawn_on(one, runtime.handle());
    }
    let between = Duration::from_secs_f64(PER_BATCH as f64 / choir.beats as f64);
    let paced = pace(times, between, queues);
    let all = runtime.block_on(async {
        let mut all = Beats::default();
        while let Some(ended) = tasks.join_next().await {
            let ended: Beats = ended??;
            all.latencies.extend(ended.latencies);
            all.members += ended.members;
            all.refused += ended.refused;
        }
        Ok::<_, Failure>(all)
    })?;
    // A connection that failed says more than its queue that is gone.
    paced.map(|()| all)
}

async fn one(
    mut connection: Connection,
    mut requests: Requests,
    choir: Choir,
    began: Instant,
    mut turns: impl Iterator<Item = usize> + Send,
    mut queue: mpsc::Receiver<Instant>,
) -> Result<Beats, Failure> {
    let mut seen = Beats::default();
    while let Some(intended) = queue.recv().await {
        let Some(batch) = turns.next() else { break };
        let members: Vec<usize> = choir.members(batch, intended - began).collect();
        let answer = connection.exchange(requests.batch(members.iter().copied())).await?;
        // Who is refused beats again in his next turn, as a client would.
        if answer.status == 503 {
            seen.refused += 1;
            continue;
        }
        if answer.status != 200 {
            let body = String::from_utf8_lossy(connection.body(&answer));
            return Err(format!("a batch was answered {} {body}", answer.status).into());
        }
        // Who is unknown has expired, which the log will say.
        let body: serde_json::Value = serde_json::from_slice(connection.body(&answer))?;
        let renewed = body["renewed"].as_u64().unwrap_or_default();
        seen.members += usize::try_from(renewed)?;
        seen.latencies.push(load::nanos(intended.elapsed()));
    }
    Ok(seen)
}

/// What the log says of the expiries.
struct Ends {
    dead: usize,
    found: usize,
    /// Expired, and alive.
    wrong: usize,
    /// Milliseconds.
    late_p99: f64,
}

fn ends(dir: &Path, choir: &Choir) -> Result<Ends, Failure> {
    let mut dead: HashSet<(String, String)> = (0..choir.services)
        .filter(|service| choir.dies(*service, 0))
        .map(|service| Entrant::fleet(service, 0).names())
        .collect();
    let mut ends = Ends { dead: dead.len(), found: 0, wrong: 0, late_p99: f64::NAN };
    let connection = rusqlite::Connection::open(dir.join(DATA).join(FILE))?;
    // Not through the view of events, which would unfold millions of heartbeats.
    let mut statement = connection.prepare(
        "SELECT service, instance, json_extract(data, '$.late_ms') FROM changes WHERE kind = 'expired'",
    )?;
    let mut late = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if dead.remove(&(row.get(0)?, row.get(1)?)) {
            ends.found += 1;
            late.push(row.get::<_, f64>(2)?);
        } else {
            ends.wrong += 1;
        }
    }
    late.sort_by(f64::total_cmp);
    if let Some(late) = late.get((late.len() * 99 / 100).min(late.len().saturating_sub(1))) {
        ends.late_p99 = *late;
    }
    Ok(ends)
}
