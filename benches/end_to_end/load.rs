//! The two loops of load. The closed one sends the next request when the last one is answered, and finds the
//! highest rate. The open one sends at fixed instants whatever happens, and finds how long callers wait: a request
//! that had to wait for its connection counts from the instant at which it should have been sent, so that a
//! stall of the server is seen by everybody whom it would have met.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Failure;
use crate::http1::{Answer, Client, Connection};
use crate::options::Options;
use crate::work::{Requests, Work};

/// Share of a measurement that goes before it.
const WARM_UP: f64 = 0.1;

/// What one measurement has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests answered, warm-up included: what the server must have counted.
    pub(crate) answered: u64,
    /// Nanoseconds of each request that was answered within the measured time.
    latencies: Vec<u64>,
    seconds: f64,
}

impl Seen {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// The latency in microseconds below which `share` of the requests stay. Sorts at the first call.
    pub(crate) fn quantile(&mut self, share: f64) -> f64 {
        if !self.latencies.is_sorted() {
            self.latencies.sort_unstable();
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length is a length"
        )]
        let rank = (self.latencies.len() as f64 * share) as usize;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(rank.min(last)).map_or(f64::NAN, |nanos| *nanos as f64 / 1_000.0)
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.latencies.extend(other.latencies);
        self.seconds = other.seconds;
    }
}

/// When a measurement begins, counts and ends.
#[derive(Debug, Clone, Copy)]
struct Times {
    begin: Instant,
    counts: Instant,
    end: Instant,
}

impl Times {
    fn of(options: &Options) -> Self {
        let begin = now();
        let counts = begin + Duration::from_secs_f64(options.seconds * WARM_UP);
        Self { begin, counts, end: counts + Duration::from_secs_f64(options.seconds) }
    }

    fn seen(&self) -> Seen {
        Seen { seconds: (self.end - self.counts).as_secs_f64(), ..Seen::default() }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn now() -> Instant {
    Instant::now()
}

fn check(answer: &Answer, work: Work) -> Result<(), Failure> {
    match answer.status {
        200 | 201 => Ok(()),
        status => Err(format!("a {} was answered {status}", work.name()).into()),
    }
}

/// As fast as the server answers, over all connections.
pub(crate) fn closed(
    runtime: &Runtime,
    address: SocketAddr,
    work: Work,
    options: &Options,
    seed: u64,
) -> Result<Seen, Failure> {
    let times = Times::of(options);
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        for number in 0..options.connections as u64 {
            let requests = Requests::new(work, options, seed + number);
            connections.spawn(one_closed(address, requests, work, times));
        }
        let mut all = times.seen();
        while let Some(ended) = connections.join_next().await {
            all.add(ended??);
        }
        Ok(all)
    })
}

async fn one_closed(
    address: SocketAddr,
    mut requests: Requests,
    work: Work,
    times: Times,
) -> Result<Seen, Failure> {
    let mut connection = Connection::open(address).await?;
    let mut seen = times.seen();
    let mut sent_at = now();
    while sent_at < times.end {
        let answer = connection.exchange(requests.next()).await?;
        check(&answer, work)?;
        let answered_at = now();
        seen.answered += 1;
        if (times.counts..times.end).contains(&answered_at) {
            seen.latencies.push(nanos(answered_at - sent_at));
        }
        sent_at = answered_at;
    }
    Ok(seen)
}

/// `rate` requests a second, in turn over all connections.
pub(crate) fn open(
    address: SocketAddr,
    work: Work,
    rate: f64,
    options: &Options,
    seed: u64,
) -> Result<Seen, Failure> {
    let times = Times::of(options);
    let between = Duration::from_secs_f64(1.0 / rate);
    let count = u32::try_from(options.connections)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let requests = Requests::new(work, options, seed + u64::from(number));
                let first = times.begin + between * number;
                scope
                    .spawn(move || one_open(address, requests, work, times, first, between * count))
            })
            .collect();
        let mut all = times.seen();
        for thread in threads {
            all.add(thread.join().map_err(|_| "a thread of the load panicked")??);
        }
        Ok(all)
    })
}

fn one_open(
    address: SocketAddr,
    mut requests: Requests,
    work: Work,
    times: Times,
    first: Instant,
    between: Duration,
) -> Result<Seen, Failure> {
    let mut client = Client::open(address)?;
    let mut seen = times.seen();
    let mut intended = first;
    while intended < times.end {
        let request = requests.next();
        let free_at = now();
        let from = if free_at < intended {
            std::thread::sleep(intended - free_at);
            // That this thread woke late is not the server's doing.
            now()
        } else {
            intended
        };
        let answer = client.exchange(request)?;
        check(&answer, work)?;
        seen.answered += 1;
        if intended >= times.counts {
            seen.latencies.push(nanos(now() - from));
        }
        intended += between;
    }
    Ok(seen)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
