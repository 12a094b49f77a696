//! What the registry does when more is asked of it than it can do: how much of what it answers, how soon; how much it
//! refuses, of what and how soon.
//!
//! First a closed loop finds what it can carry of the mix. Then an open loop sends half of that, all and twice, whatever
//! comes back, over many connections: with few of them the queue would be the driver's own. An answer counts from the
//! instant at which its request should have been sent, a refusal from when it was.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::http1::Connection;
use crate::load::{self, Times};
use crate::options::Options;
use crate::requests::{Entrant, Requests, WIDE_SERVICES};
use crate::servers::Server;
use crate::work::Work;
use crate::{Failure, fleet};

/// Shares of what the registry can carry, in percent.
const LOADS: [u32; 3] = [50, 100, 200];

/// Connections of the closed loop.
const CLOSED: usize = 64;

/// From the beginning of a load until it counts: how the door meets it is shown apart.
const ONSET: Duration = Duration::from_secs(3);

/// Pause between measurements: what was refused comes back in five seconds at most for each class.
const PAUSE: Duration = Duration::from_secs(11);

/// The filter of lookups that look through a whole service: nobody's environment.
const NOBODY: &str = "tag=canary&zone=eu-1a&meta.env=none";

/// Kinds of request, in the order of the table.
const NAMES: [&str; 3] = ["heartbeat", "lookup", "past"];

/// What one kind of request met with.
#[derive(Debug, Default)]
struct Kind {
    /// Nanoseconds of each that was answered.
    answered: Vec<u64>,
    /// The same of each that was refused.
    refused: Vec<u64>,
}

/// What one measurement has seen.
#[derive(Debug, Default)]
struct Seen {
    /// By kind.
    kinds: [Kind; 3],
    /// Nanoseconds of each that was answered of what came in the [`ONSET`].
    onset: Vec<u64>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.onset.extend(other.onset);
        for (kind, other) in self.kinds.iter_mut().zip(other.kinds) {
            kind.answered.extend(other.answered);
            kind.refused.extend(other.refused);
        }
    }

    fn answered(&self) -> usize {
        self.kinds.iter().map(|kind| kind.answered.len()).sum()
    }
}

/// Makes requests of the mix.
struct Mix {
    rng: Rng,
    lookups: Requests,
    heartbeats: Requests,
    services: usize,
    /// Of a hundred.
    past: f64,
    beats: f64,
    /// Whether lookups look through a whole service.
    searched: bool,
    buffer: Vec<u8>,
}

impl Mix {
    fn new(options: &Options, seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            lookups: Requests::new(Work::Lookup, options, seed),
            heartbeats: Requests::new(Work::Heartbeat, options, seed),
            services: options.services,
            past: options.past,
            beats: options.heartbeats,
            searched: options.searched > 0,
            buffer: Vec::new(),
        }
    }

    fn next(&mut self) -> (usize, &[u8]) {
        let drawn = self.rng.f64() * 100.0;
        if drawn < self.past {
            let service = self.rng.usize(..self.services);
            (2, self.get(format_args!("/v1/events?service=service-{service:05}&limit=50")))
        } else if drawn < self.past + self.beats {
            (0, self.heartbeats.next())
        } else if self.searched {
            let service = self.rng.usize(..WIDE_SERVICES);
            (1, self.get(format_args!("/v1/services/wide-{service:05}/instances?{NOBODY}")))
        } else {
            (1, self.lookups.next())
        }
    }

    fn get(&mut self, path: std::fmt::Arguments<'_>) -> &[u8] {
        self.buffer.clear();
        write!(self.buffer, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            .expect("a vector takes what it is given");
        &self.buffer
    }
}

/// Runs it all and prints the table.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(&options.dir)?;
    let server = Server::rollcall(dir.path(), options)?;
    fleet::register(server.address, options, options.services, options.instances)?;
    fleet::register_each(server.address, options, WIDE_SERVICES, options.searched, Entrant::wide)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut rates, mut refused) = (Vec::new(), 0);
    for round in 0..options.rounds as u64 {
        let (rate, refused_now) = closed(&runtime, server.address, options, 1_000 * round)?;
        rates.push(rate);
        // Questions about the past may pile up before their few threads even where everybody waits for an answer.
        refused += refused_now;
    }
    rates.sort_unstable_by(f64::total_cmp);
    let capacity = rates[rates.len() / 2];
    let mut out = std::io::stdout();
    writeln!(
        out,
        "mix: {} % heartbeats, {} % questions about the past, the rest lookups{}; {} connections, {} s each\n\
         carried in a closed loop of {CLOSED} connections: {capacity:.0}/s ({:.0} to {:.0}), {refused} refused\n\n\
         | load | kind | asked/s | answered/s | p50 ms | p99 ms | refused | p50 ms of a refusal | p99 ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        options.heartbeats,
        options.past,
        match options.searched {
            0 => String::new(),
            count => format!(" that search {count} instances for nobody"),
        },
        options.overload,
        options.seconds,
        rates[0],
        rates[rates.len() - 1],
    )?;
    let mut onsets = String::new();
    for (turn, load) in LOADS.into_iter().enumerate() {
        std::thread::sleep(if options.quick { Duration::ZERO } else { PAUSE });
        let rate = capacity * f64::from(load) / 100.0;
        let mut seen = open(&runtime, server.address, rate, options, turn as u64 * 100_000)?;
        writeln!(
            onsets,
            "in the first {ONSET:?} of {load} %: p99 {:.0} ms",
            quantile(&mut seen.onset, 0.99)
        )?;
        for (kind, name) in seen.kinds.iter_mut().zip(NAMES) {
            let asked = kind.answered.len() + kind.refused.len();
            writeln!(
                out,
                "| {load} % | {name} | {:.0} | {:.0} | {:.2} | {:.2} | {:.1} % | {:.2} | {:.2} |",
                asked as f64 / options.seconds,
                kind.answered.len() as f64 / options.seconds,
                quantile(&mut kind.answered, 0.5),
                quantile(&mut kind.answered, 0.99),
                100.0 * kind.refused.len() as f64 / asked.max(1) as f64,
                quantile(&mut kind.refused, 0.5),
                quantile(&mut kind.refused, 0.99),
            )?;
        }
    }
    writeln!(out, "\n{onsets}")?;
    server.end()
}

/// In milliseconds; NaN of nothing.
fn quantile(nanos: &mut [u64], share: f64) -> f64 {
    load::quantile(nanos, share) / 1e6
}

/// The rate that is carried, and how many were refused.
fn closed(
    runtime: &Runtime,
    address: SocketAddr,
    options: &Options,
    seed: u64,
) -> Result<(f64, usize), Failure> {
    let times = Times::of(options.seconds);
    let seen = runtime.block_on(async {
        let mut connections = JoinSet::new();
        for number in 0..CLOSED as u64 {
            let mut mix = Mix::new(options, seed + number);
            connections.spawn(async move {
                let mut connection = Connection::open(address).await?;
                let mut seen = Seen::default();
                while load::now() < times.end {
                    let from = load::now();
                    exchange(&mut connection, &mut mix, from, times, &mut seen).await?;
                }
                Ok::<_, Failure>(seen)
            });
        }
        gathered(connections).await
    })?;
    let refused = seen.kinds.iter().map(|kind| kind.refused.len()).sum();
    Ok((seen.answered() as f64 / options.seconds, refused))
}

/// `rate` requests a second, whatever comes back.
fn open(
    runtime: &Runtime,
    address: SocketAddr,
    rate: f64,
    options: &Options,
    seed: u64,
) -> Result<Seen, Failure> {
    let mut connections = JoinSet::new();
    let mut queues = Vec::new();
    let opened = runtime.block_on(async {
        let mut opened = Vec::new();
        for _ in 0..options.overload {
            opened.push(Connection::open(address).await?);
        }
        Ok::<_, Failure>(opened)
    })?;
    let onset = if options.quick { Duration::ZERO } else { ONSET };
    let times = Times::after(onset, options.seconds);
    for (number, mut connection) in opened.into_iter().enumerate() {
        let (queue, mut intended) = mpsc::channel::<Instant>(load::BEHIND_MAX);
        queues.push(queue);
        let mut mix = Mix::new(options, seed + number as u64);
        connections.spawn_on(
            async move {
                let mut seen = Seen::default();
                let mut free_at = load::now();
                while let Some(intended) = intended.recv().await {
                    // That this task woke late is not the server's doing; that it was not free is.
                    let from = if free_at > intended { intended } else { load::now() };
                    exchange(&mut connection, &mut mix, from, times, &mut seen).await?;
                    free_at = load::now();
                }
                Ok::<_, Failure>(seen)
            },
            runtime.handle(),
        );
    }
    let paced = load::pace(times, Duration::from_secs_f64(1.0 / rate), queues);
    let all = runtime.block_on(gathered(connections))?;
    // A connection that failed says more than its queue that is gone.
    paced.map(|()| all)
}

async fn gathered(mut connections: JoinSet<Result<Seen, Failure>>) -> Result<Seen, Failure> {
    let mut all = Seen::default();
    while let Some(ended) = connections.join_next().await {
        all.add(ended??);
    }
    Ok(all)
}

/// One request of the mix and its answer.
async fn exchange(
    connection: &mut Connection,
    mix: &mut Mix,
    from: Instant,
    times: Times,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let sent = load::now();
    let (kind, request) = mix.next();
    let answer = connection.exchange(request).await?;
    let done = load::now();
    let counts = (times.counts..times.end).contains(&from);
    if answer.status == 200 && from < times.counts {
        seen.onset.push(load::nanos(done - from));
    }
    match answer.status {
        200 if counts => seen.kinds[kind].answered.push(load::nanos(done - from)),
        503 if counts => seen.kinds[kind].refused.push(load::nanos(done - sent)),
        200 | 503 => {}
        status => return Err(format!("a {} was answered {status}", NAMES[kind]).into()),
    }
    Ok(())
}
