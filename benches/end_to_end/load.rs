//! The two loops of load. The closed one sends the next request when the last one is answered, and finds the
//! highest rate. The open one sends at fixed instants whatever happens, and finds how long callers wait: a request
//! that had to wait for its connection counts from the instant at which it should have been sent, so that a
//! stall of the server is seen by everybody whom it would have met.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Failure;
use crate::http1::{Answer, Connection};
use crate::requests::Requests;
use crate::work::Work;

/// Share of a measurement that goes before it.
const WARM_UP: f64 = 0.1;

/// Requests that may wait for one connection in the open loop.
pub(crate) const BEHIND_MAX: usize = 65_536;

/// Shorter than this the pacing thread does not sleep, but sends a little early: a sleep takes as long.
const NAP: Duration = Duration::from_micros(50);

/// What one measurement has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests answered, warm-up included: what the server must have counted.
    pub(crate) answered: u64,
    /// Requests refused with 503, where that is allowed.
    pub(crate) refused: u64,
    /// Nanoseconds of each request that was answered within the measured time.
    latencies: Vec<u64>,
    seconds: f64,
}

/// The one below which `share` of these stay, sorting them if they are not; NaN of nothing.
pub(crate) fn quantile(numbers: &mut [u64], share: f64) -> f64 {
    if !numbers.is_sorted() {
        numbers.sort_unstable();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is a length"
    )]
    let rank = (numbers.len() as f64 * share) as usize;
    let last = numbers.len().saturating_sub(1);
    numbers.get(rank.min(last)).map_or(f64::NAN, |number| *number as f64)
}

impl Seen {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// Notes an answer to what was sent at `sent_at`; it counts if it came within the measured time. When it came.
    pub(crate) fn note(&mut self, times: Times, sent_at: Instant) -> Instant {
        let answered_at = now();
        self.answered += 1;
        if (times.counts..times.end).contains(&answered_at) {
            self.latencies.push(nanos(answered_at - sent_at));
        }
        answered_at
    }

    /// The latency in microseconds below which `share` of the requests stay. Sorts at the first call.
    pub(crate) fn quantile(&mut self, share: f64) -> f64 {
        quantile(&mut self.latencies, share) / 1_000.0
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.latencies.extend(other.latencies);
        self.seconds = other.seconds;
    }
}

/// When a measurement begins, counts and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    begin: Instant,
    pub(crate) counts: Instant,
    pub(crate) end: Instant,
}

impl Times {
    /// A measurement of so many seconds that begins now.
    pub(crate) fn of(seconds: f64) -> Self {
        Self::after(Duration::from_secs_f64(seconds * WARM_UP), seconds)
    }

    /// The same with another time before it that does not count.
    pub(crate) fn after(warm_up: Duration, seconds: f64) -> Self {
        let begin = now();
        let counts = begin + warm_up;
        Self { begin, counts, end: counts + Duration::from_secs_f64(seconds) }
    }

    /// What is seen in it, before anything was.
    pub(crate) fn seen(&self) -> Seen {
        Seen { seconds: (self.end - self.counts).as_secs_f64(), ..Seen::default() }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Whether the answer is the right one, or a refusal that is allowed.
fn check(answer: &Answer, work: Work, may_refuse: bool) -> Result<bool, Failure> {
    match answer.status {
        status if work.is_answered_by(status) => Ok(true),
        503 if may_refuse => Ok(false),
        status => Err(format!("a {} was answered {status}", work.name()).into()),
    }
}

/// Who sends what, for how long.
pub(crate) struct Load<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) address: SocketAddr,
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// The requests of the connection with this number.
    pub(crate) requests: &'a dyn Fn(u64) -> Requests,
}

/// Connections with the requests of each.
pub(crate) type Connected = Vec<(Connection, Requests)>;

impl Load<'_> {
    /// Connects all, before time begins to count.
    pub(crate) fn connect(&self) -> Result<Connected, Failure> {
        let requests = (0..self.connections as u64).map(self.requests);
        self.runtime.block_on(async {
            let mut connected = Vec::with_capacity(self.connections);
            for requests in requests {
                connected.push((Connection::open(self.address).await?, requests));
            }
            Ok(connected)
        })
    }

    /// As fast as the server answers, over all connections.
    pub(crate) fn closed(&self) -> Result<Seen, Failure> {
        let connected = self.connect()?;
        self.closed_over(connected, Times::of(self.seconds))
    }

    /// The same over connections that are there.
    pub(crate) fn closed_over(&self, connected: Connected, times: Times) -> Result<Seen, Failure> {
        let work = self.work;
        self.runtime.block_on(async {
            let mut connections = JoinSet::new();
            for (connection, requests) in connected {
                connections.spawn(one_closed(connection, requests, work, times));
            }
            gathered(connections, times).await
        })
    }

    /// `rate` requests a second, in turn over all connections.
    pub(crate) fn open(&self, rate: f64) -> Result<Seen, Failure> {
        let connected = self.connect()?;
        self.paced(connected, Times::of(self.seconds), rate, false)
    }

    /// The same of a server that may refuse some.
    pub(crate) fn open_refusable(&self, rate: f64) -> Result<Seen, Failure> {
        let connected = self.connect()?;
        self.paced(connected, Times::of(self.seconds), rate, true)
    }

    /// The same over connections that are there.
    pub(crate) fn open_over(
        &self,
        connected: Connected,
        times: Times,
        rate: f64,
    ) -> Result<Seen, Failure> {
        self.paced(connected, times, rate, false)
    }

    fn paced(
        &self,
        connected: Connected,
        times: Times,
        rate: f64,
        may_refuse: bool,
    ) -> Result<Seen, Failure> {
        let mut connections = JoinSet::new();
        let mut queues = Vec::new();
        for (connection, requests) in connected {
            let (queue, intended) = mpsc::channel(BEHIND_MAX);
            queues.push(queue);
            let one = one_open((connection, requests), self.work, may_refuse, times, intended);
            connections.spawn_on(one, self.runtime.handle());
        }
        let paced = pace(times, Duration::from_secs_f64(1.0 / rate), queues);
        let all = self.runtime.block_on(gathered(connections, times))?;
        // A connection that failed says more than its queue that is gone.
        paced.map(|()| all)
    }
}

/// What all of them have seen, once the last one has ended.
pub(crate) async fn gathered(
    mut connections: JoinSet<Result<Seen, Failure>>,
    times: Times,
) -> Result<Seen, Failure> {
    let mut all = times.seen();
    while let Some(ended) = connections.join_next().await {
        all.add(ended??);
    }
    Ok(all)
}

async fn one_closed(
    mut connection: Connection,
    mut requests: Requests,
    work: Work,
    times: Times,
) -> Result<Seen, Failure> {
    let mut seen = times.seen();
    let mut sent_at = now();
    while sent_at < times.end {
        let answer = connection.exchange(requests.next()).await?;
        check(&answer, work, false)?;
        sent_at = seen.note(times, sent_at);
    }
    Ok(seen)
}

/// Hands every connection its instants when they come. A thread that sleeps: the runtime's timer knows only whole
/// milliseconds and would send in bursts; and one for all, as one for each would cost more than the servers.
pub(crate) fn pace(
    times: Times,
    between: Duration,
    queues: Vec<mpsc::Sender<Instant>>,
) -> Result<(), Failure> {
    let mut intended = times.begin;
    for queue in queues.iter().cycle() {
        if intended >= times.end {
            break;
        }
        let early = intended.saturating_duration_since(now());
        if early > NAP {
            std::thread::sleep(early);
        }
        queue
            .try_send(intended)
            .map_err(|_| "a connection has ended, or is further behind than can be measured")?;
        intended += between;
    }
    Ok(())
}

async fn one_open(
    (mut connection, mut requests): (Connection, Requests),
    work: Work,
    may_refuse: bool,
    times: Times,
    mut queue: mpsc::Receiver<Instant>,
) -> Result<Seen, Failure> {
    let mut seen = times.seen();
    let mut free_at = now();
    while let Some(intended) = queue.recv().await {
        // That this task woke late is not the server's doing; that it was not free is.
        let from = if free_at > intended { intended } else { now() };
        let answer = connection.exchange(requests.next()).await?;
        let right = check(&answer, work, may_refuse)?;
        free_at = now();
        if !right {
            seen.refused += 1;
            continue;
        }
        seen.answered += 1;
        if intended >= times.counts {
            seen.latencies.push(nanos(free_at - from));
        }
    }
    Ok(seen)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
