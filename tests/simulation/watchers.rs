//! Those who watch: streams of changes that resume where they were, and long polls. They move only when they are
//! woken, so that a wake-up that is lost is found: a change that is published and that somebody waits for must have
//! reached him when the hub's turn is over.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use rollcall::domain::{Kind, Seq, ServiceKey};
use rollcall::projection::Projection;
use rollcall::watch::{Feed, Hub, Mark, Next, StreamFilter, Woken};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::archive::Stored;

/// Real time within which a reading of the log has to end. Nothing is ever waited for this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says whether a future is to be polled.
struct Bell {
    rung: AtomicBool,
    thread: Thread,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Something that waits, and is polled only when it was woken.
pub(crate) struct Sleeper<T> {
    bell: Arc<Bell>,
    work: Pin<Box<dyn Future<Output = T>>>,
}

impl<T> Sleeper<T> {
    /// It is polled once to begin with.
    pub(crate) fn new(work: impl Future<Output = T> + 'static) -> Self {
        let bell = Bell { rung: AtomicBool::new(true), thread: thread::current() };
        Self { bell: Arc::new(bell), work: Box::pin(work) }
    }

    /// Polls it if it was woken; what came of it if it has ended.
    pub(crate) fn turn(&mut self) -> Option<T> {
        while self.bell.rung.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(Arc::clone(&self.bell));
            if let Poll::Ready(done) = self.work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(done);
            }
        }
        None
    }
}

/// What a stream handed over, and how it ended.
#[derive(Default)]
struct Handed {
    text: String,
    error: Option<String>,
}

struct Stream {
    told: u64,
    /// It does not read, as a slow reader.
    paused: bool,
    open: Option<(Sleeper<()>, Arc<Mutex<Handed>>)>,
}

struct LongPoll {
    service: ServiceKey,
    held: Seq,
    open: Option<Sleeper<Woken>>,
}

/// Everybody who watches.
pub(crate) struct Watchers {
    streams: Vec<Stream>,
    polls: Vec<LongPoll>,
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

async fn read(hub: Arc<Hub>, stored: Stored, told: u64, handed: Arc<Mutex<Handed>>) {
    let from = Some(Mark { change: told, traffic: None });
    let cut = Arc::new(Notify::new());
    let mut feed =
        match Feed::open(&hub, Arc::new(stored), StreamFilter::default(), from, cut).await {
            Ok(feed) => feed,
            Err(error) => {
                handed.lock().error = Some(error.to_string());
                return;
            }
        };
    loop {
        match feed.next(far()).await {
            Ok(Next::Told(delivery)) => {
                handed.lock().text.push_str(&String::from_utf8_lossy(&delivery.bytes));
            }
            Ok(Next::Quiet) => {}
            Ok(Next::Closing) => return,
            Err(error) => {
                handed.lock().error = Some(format!("{error:?}"));
                return;
            }
        }
    }
}

impl Watchers {
    /// So many streams and long polls, of the services in turn.
    pub(crate) fn new((streams, polls): (usize, usize), services: &[ServiceKey]) -> Self {
        let stream = |_| Stream { told: 0, paused: false, open: None };
        let poll = |n: usize| {
            let service = services[n % services.len()].clone();
            LongPoll { service, held: Seq::ZERO, open: None }
        };
        Self { streams: (0..streams).map(stream).collect(), polls: (0..polls).map(poll).collect() }
    }

    /// Every connection ends.
    pub(crate) fn disconnect(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.open = None);
        self.polls.iter_mut().for_each(|poll| poll.open = None);
    }

    /// Some stop reading, go on, or connect anew.
    pub(crate) fn stir(&mut self, random: &mut Rng) {
        for stream in &mut self.streams {
            match random.u8(..) {
                0..4 => stream.paused = true,
                4..16 => stream.paused = false,
                16..20 => stream.open = None,
                _ => {}
            }
        }
    }

    /// Nobody is slow any more.
    pub(crate) fn resume(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.paused = false);
    }

    /// What is published is told to everybody who reads. `history` has the kind of every change up to the head.
    pub(crate) fn turn(
        &mut self,
        hub: &Arc<Hub>,
        projection: &Projection,
        stored: &Stored,
        history: &[Kind],
    ) -> Result<(), String> {
        for stream in self.streams.iter_mut().filter(|stream| !stream.paused) {
            stream.turn(hub, stored, projection.head().0, history)?;
        }
        self.polls.iter_mut().try_for_each(|poll| poll.turn(hub, projection))
    }
}

impl Stream {
    fn turn(
        &mut self,
        hub: &Arc<Hub>,
        stored: &Stored,
        head: u64,
        history: &[Kind],
    ) -> Result<(), String> {
        let told = self.told;
        let (sleeper, handed) = self.open.get_or_insert_with(|| {
            let handed = Arc::new(Mutex::new(Handed::default()));
            let (hub, stored) = (Arc::clone(hub), stored.clone());
            (Sleeper::new(read(hub, stored, told, Arc::clone(&handed))), handed)
        });
        let mut waits = 0;
        loop {
            let ended = sleeper.turn().is_some();
            let Handed { text, error } = std::mem::take(&mut *handed.lock());
            self.told = check(&text, self.told, history)?;
            if let Some(error) = error {
                return Err(format!("a stream that was told {told} ended: {error}"));
            }
            if self.told == head {
                return Ok(());
            }
            if ended || self.told > head || waits > 200 {
                return Err(format!("a stream was told up to {} at head {head}", self.told));
            }
            // It reads the log on a thread of its own, or was never woken.
            waits += 1;
            thread::park_timeout(PATIENCE / 200);
        }
    }
}

/// Checks that `text` goes on where the stream was; gives the last number.
fn check(text: &str, mut told: u64, history: &[Kind]) -> Result<u64, String> {
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("id: ") {
            if id != (told + 1).to_string() {
                return Err(format!("a stream was told {id} after {told}"));
            }
            told += 1;
        } else if let Some(kind) = line.strip_prefix("event: ") {
            let index = usize::try_from(told).unwrap_or(0).saturating_sub(1);
            if history.get(index).is_none_or(|known| known.as_str() != kind) {
                return Err(format!("a stream was told that {told} is {kind}"));
            }
        }
    }
    Ok(told)
}

impl LongPoll {
    fn turn(&mut self, hub: &Arc<Hub>, projection: &Projection) -> Result<(), String> {
        let ServiceKey { namespace, service } = self.service.clone();
        let view = projection.service(namespace.as_str(), service.as_str());
        let revision = view.map_or(Seq::ZERO, |view| view.revision);
        if revision < self.held {
            return Err(format!("{} went back from {} to {revision}", self.service, self.held));
        }
        let sleeper = self.open.get_or_insert_with(|| {
            let (waiting, held) = (hub.wait_for(self.service.clone()), self.held);
            Sleeper::new(async move { waiting.above(held, far()).await })
        });
        match sleeper.turn() {
            Some(_) if revision > self.held => {
                (self.held, self.open) = (revision, None);
                // The next one begins at once, and finds nothing new.
                self.turn(hub, projection)
            }
            Some(woken) => Err(format!("a poll of {} at {revision}: {woken:?}", self.service)),
            None if revision > self.held => {
                Err(format!("a poll of {} was not woken for {revision}", self.service))
            }
            None => Ok(()),
        }
    }
}
