//! The two loops of load. The closed one sends the next request when the last one is answered, and finds the highest
//! rate. The open one sends at fixed instants whatever happens, and finds how long callers wait: a request that had to
//! wait for its connection counts from the instant at which it should have been sent, so that a stall of the registry
//! is seen by everybody whom it would have met (no "coordinated omission").

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::connection::Connection;
use super::seen::Seen;
use super::work::Requests;

/// Requests that may wait for one connection in the open loop; with one more the load ends.
const BEHIND_MAX: usize = 16_384;
/// How long what was due is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shorter than this the pacing thread does not sleep, but sends a little early: a sleep takes as long.
const NAP: Duration = Duration::from_micros(50);
/// The longest that it sleeps, so that it hears soon that the load is over.
const NAP_MAX: Duration = Duration::from_millis(50);

/// How long the load goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    /// So long, after a time that is not counted.
    Time { warm_up: Duration, duration: Duration },
    /// So many requests.
    Requests(u64),
}

/// What all connections share.
pub(super) struct Load {
    plan: Plan,
    pub(super) seen: Arc<Seen>,
    /// Requests that may still be begun.
    left: AtomicU64,
    begin: Instant,
    /// From when on answers count.
    counts: Instant,
    end: Option<Instant>,
    /// Ends it before its time; set at its end, too.
    pub(super) stop: CancellationToken,
}

impl Load {
    /// A load that begins now.
    pub(super) fn of(plan: &Plan, extent: Extent) -> Arc<Self> {
        let begin = Instant::now();
        let (warm_up, end, left) = match extent {
            Extent::Time { warm_up, duration } => {
                (warm_up, Some(begin + warm_up + duration), u64::MAX)
            }
            Extent::Requests(count) => (Duration::ZERO, None, count),
        };
        Arc::new(Self {
            plan: plan.clone(),
            seen: Arc::new(Seen::of(plan)),
            left: AtomicU64::new(left),
            begin,
            counts: begin + warm_up,
            end,
            stop: CancellationToken::new(),
        })
    }

    /// How long it has been counting.
    pub(super) fn counted(&self) -> Duration {
        Instant::now().saturating_duration_since(self.counts)
    }

    /// When it is cut off, if what was due by its end is still not done; never, if its end is a number of requests.
    pub(super) fn cut_off(&self) -> Option<Instant> {
        self.end.map(|end| end + PATIENCE)
    }

    /// Whether another request may be begun.
    fn goes_on(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        !self.stop.is_cancelled()
            && self.end.is_none_or(|end| Instant::now() < end)
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Runs it to its end over these connections.
    ///
    /// # Errors
    /// When the registry can't be connected to any more, or is too far behind.
    pub(super) async fn run(
        self: &Arc<Self>,
        connections: Vec<Connection>,
        rate: Option<f64>,
    ) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        match rate {
            None => {
                for (number, connection) in connections.into_iter().enumerate() {
                    tasks.spawn(Arc::clone(self).closed(number, connection));
                }
            }
            Some(rate) => {
                let mut queues = Vec::new();
                for (number, connection) in connections.into_iter().enumerate() {
                    let (queue, intended) = mpsc::channel(BEHIND_MAX);
                    queues.push(queue);
                    tasks.spawn(Arc::clone(self).open(number, connection, intended));
                }
                let load = Arc::clone(self);
                let between = Duration::from_secs_f64(1.0 / rate);
                tasks.spawn_blocking(move || load.pace(between, &queues));
            }
        }
        let mut ended = Ok(());
        while let Some(task) = tasks.join_next().await {
            let task = task.map_err(io::Error::other).and_then(|ended| ended);
            if task.is_err() {
                // The others end, too; the first error is the one that is told.
                self.stop.cancel();
                ended = ended.and(task);
            }
        }
        ended
    }

    async fn closed(self: Arc<Self>, number: usize, mut connection: Connection) -> io::Result<()> {
        let mut requests = Requests::of(&self.plan, number);
        while self.goes_on() {
            let sent = Instant::now();
            self.exchange(number, &mut connection, &mut requests, sent).await?;
        }
        Ok(())
    }

    async fn open(
        self: Arc<Self>,
        number: usize,
        mut connection: Connection,
        mut queue: mpsc::Receiver<Instant>,
    ) -> io::Result<()> {
        let mut requests = Requests::of(&self.plan, number);
        let mut free = self.begin;
        while let Some(intended) = queue.recv().await {
            if self.stop.is_cancelled() {
                self.seen.unsent();
                continue;
            }
            // That this task woke late is not the registry's doing; that it was not free is.
            let from = if free > intended { intended } else { Instant::now() };
            self.exchange(number, &mut connection, &mut requests, from).await?;
            free = Instant::now();
        }
        Ok(())
    }

    /// Hands every connection its instants when they come. A thread that sleeps: the runtime's timer knows only whole
    /// milliseconds and would send in bursts.
    fn pace(&self, between: Duration, queues: &[mpsc::Sender<Instant>]) -> io::Result<()> {
        let mut intended = self.begin;
        for queue in queues.iter().cycle() {
            loop {
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                let early = intended.saturating_duration_since(Instant::now());
                if early <= NAP {
                    break;
                }
                std::thread::sleep(early.min(NAP_MAX));
            }
            if self.end.is_some_and(|end| intended >= end) || !self.goes_on() {
                return Ok(());
            }
            match queue.try_send(intended) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    let text = "the registry is further behind this rate than can be measured; lower --rate";
                    return Err(io::Error::other(text));
                }
                // It says itself why.
                Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
            }
            intended += between;
        }
        Ok(())
    }

    /// One request; what became of it is noted. Fails only if there is no registry any more.
    async fn exchange(
        &self,
        number: usize,
        connection: &mut Connection,
        requests: &mut Requests,
        from: Instant,
    ) -> io::Result<()> {
        let (kind, request) = requests.next();
        let answer = connection.exchange(request).await;
        let now = Instant::now();
        let counts = from >= self.counts;
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.seen.answered(number, kind, counts.then(|| now - from));
            }
            Ok(answer) => self.seen.refused(kind, answer.status),
            Err(error) => {
                self.seen.failed(kind);
                // A registry that is gone is not asked another million times.
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    return Err(error);
                }
                tracing::debug!("a {} failed: {error}", kind.name());
            }
        }
        Ok(())
    }
}
