//! The meeting place: who waits is written down here, who publishes looks here.
//!
//! No wake-up is lost, because each side first writes and then reads: a watcher counts itself and then looks at the
//! view; the registrar publishes the view and then looks at the count. A fence between the two steps of each (the
//! pattern of Dekker) makes sure that at least one of them sees the other.
//!
//! The registrar does not wake everybody itself: ten thousand wake-ups take milliseconds. It says what moved, and a task
//! ([`Hub::run`]) does the waking. Only the one who has waited longest at a place is woken at once, so that the first word
//! of a change is on its way before the task has its turn, and before the change is acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::notices::{Notice, Notices};
use super::ring::Ring;
use super::stall::{Progress, Streams};
use super::told::{Told, ToldTraffic};
use crate::clock::{Clock, Monotonic};
use crate::domain::traffic::{Numbered, Traffic};
use crate::domain::{Change, Seq, ServiceKey};
use crate::projection::Projection;
use crate::telemetry::spans::Tracer;

/// Most bytes of each class that are kept at hand for streams.
const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Streams that may read the log at the same time: each takes a thread that may block.
const READING_MAX: usize = 4;
/// How often streams are looked at for readers that take nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The long polls of one service.
#[derive(Debug, Default)]
struct Place {
    woken: Notify,
    /// The revision that was told last.
    revision: AtomicU64,
    /// When it was found durable, in microseconds of the monotonic clock.
    durable: AtomicU64,
    /// The change that led to it, if it is noted.
    notice: Mutex<Option<Arc<Notice>>>,
    /// Whether it stands in the list of those to wake.
    listed: AtomicBool,
}

/// A place, and how many wait in it.
#[derive(Debug)]
struct Held {
    place: Arc<Place>,
    watchers: usize,
}

/// Who waits for what.
#[derive(Debug)]
pub struct Hub {
    projection: Arc<Projection>,
    /// Long polls and streams together: with none of them, publishing costs one look at this.
    watchers: AtomicUsize,
    /// Streams that are told of traffic.
    of_traffic: AtomicUsize,
    places: Mutex<HashMap<ServiceKey, Held, RandomState>>,
    pub(super) streams: Streams,
    pub(super) changes: Mutex<Ring<Arc<Told>>>,
    pub(super) traffic: Mutex<Ring<Arc<ToldTraffic>>>,
    to_wake: Mutex<Vec<Arc<Place>>>,
    rings_moved: AtomicBool,
    bell: Notify,
    news: watch::Sender<u64>,
    notices: Notices,
    closing: AtomicBool,
    pub(super) reading: Semaphore,
}

impl Hub {
    /// A hub over what is published to `projection`.
    #[must_use]
    pub fn new(projection: Arc<Projection>) -> Arc<Self> {
        Arc::new(Self {
            projection,
            watchers: AtomicUsize::new(0),
            of_traffic: AtomicUsize::new(0),
            places: Mutex::default(),
            streams: Streams::default(),
            changes: Mutex::new(Ring::new(RING_BYTES_MAX)),
            traffic: Mutex::new(Ring::new(RING_BYTES_MAX)),
            to_wake: Mutex::default(),
            rings_moved: AtomicBool::new(false),
            bell: Notify::new(),
            news: watch::Sender::new(0),
            notices: Notices::default(),
            closing: AtomicBool::new(false),
            reading: Semaphore::new(READING_MAX),
        })
    }

    /// From now on those who are told leave spans, if that tracer makes any.
    pub fn trace(&self, tracer: Tracer, clock: Arc<dyn Clock>) {
        self.notices.go_to(tracer, clock);
    }

    /// Tells that `changes`, which touched the services `touched`, are durable since `now` and can be read. Called by
    /// the registrar, once a group. Waits for nobody.
    pub fn published<'a>(
        &self,
        changes: &[Arc<Change>],
        touched: impl Iterator<Item = &'a ServiceKey>,
        now: Monotonic,
    ) {
        fence(Ordering::SeqCst);
        if self.watchers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut moved = false;
        let notices = self.notices.note(changes, now);
        let places = self.places.lock();
        if !places.is_empty() {
            for (key, place) in touched.filter_map(|key| Some((key, &places.get(key)?.place))) {
                // The last of a service's changes is the one whose revision it has now.
                let of_service = |notice: &&Arc<Notice>| notice.is_about(key);
                let notice = notices.iter().rev().find(of_service);
                moved |= self.list(key, place, now, notice);
            }
        }
        drop(places);
        if let Some(first) = changes.first().filter(|_| self.streams.any()) {
            // The first ones found room, those without a trace left out.
            let mut notices = notices.into_iter().peekable();
            let told = |change: &Arc<Change>| {
                let notice = notices.next_if(|notice| notice.is_of(change));
                Arc::new(Told::new(Arc::clone(change), Some(now), notice))
            };
            self.changes.lock().push(first.seq.0, changes.iter().map(told));
            self.rings_moved.store(true, Ordering::Release);
            moved = true;
        }
        if moved {
            self.bell.notify_one();
        }
    }

    /// Lists a place for waking if the revision of its service has moved.
    fn list(
        &self,
        key: &ServiceKey,
        place: &Arc<Place>,
        now: Monotonic,
        notice: Option<&Arc<Notice>>,
    ) -> bool {
        let revision = self.revision(key);
        if place.revision.fetch_max(revision.0, Ordering::AcqRel) >= revision.0 {
            return false;
        }
        place.durable.store(now.0, Ordering::Release);
        *place.notice.lock() = notice.cloned();
        if !place.listed.swap(true, Ordering::AcqRel) {
            self.to_wake.lock().push(Arc::clone(place));
        }
        // With nobody there just now, the next one to come looks once more for nothing.
        place.woken.notify_one();
        true
    }

    /// Tells that `events`, numbered from `first` on, are in the log. Called by the registrar, once a slice.
    pub fn logged(&self, first: u64, events: &[Traffic]) {
        fence(Ordering::SeqCst);
        if self.of_traffic.load(Ordering::Relaxed) == 0 {
            return;
        }
        let told = (first..).zip(events).map(|(number, traffic)| {
            Arc::new(ToldTraffic::new(Numbered { number, traffic: traffic.clone() }))
        });
        self.traffic.lock().push(first, told);
        self.rings_moved.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    /// Wakes those for whom something moved, and cuts off streams whose connection has taken nothing for
    /// `write_timeout`; until it is dropped.
    pub async fn run(&self, write_timeout: Duration) {
        let mut looks = interval(LOOK_EVERY.min(write_timeout / 4).max(Duration::from_millis(1)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.bell.notified() => self.wake(),
                _ = looks.tick() => {
                    self.streams.cut_stuck(write_timeout);
                    self.notices.look();
                }
            }
        }
    }

    fn wake(&self) {
        let places = std::mem::take(&mut *self.to_wake.lock());
        for place in places {
            // First off the list: what moves from here on lists it again.
            place.listed.store(false, Ordering::SeqCst);
            place.woken.notify_waiters();
        }
        if self.rings_moved.swap(false, Ordering::AcqRel) {
            self.tell_streams();
        }
    }

    fn tell_streams(&self) {
        self.news.send_modify(|turn| *turn = turn.wrapping_add(1));
    }

    /// Ends all waiting: long polls answer with what there is, streams say goodbye.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        for held in self.places.lock().values() {
            held.place.woken.notify_waiters();
        }
        self.tell_streams();
    }

    /// Whether nobody is to wait any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Takes a place among those who wait for a service, which need not exist.
    #[must_use]
    pub fn wait_for(self: &Arc<Self>, key: ServiceKey) -> Waiting {
        let place = {
            let mut places = self.places.lock();
            let held = places.entry(key.clone()).or_insert_with(|| {
                let place = Place::default();
                // What is published so far, whoever comes here sees for himself.
                place.revision.store(self.revision(&key).0, Ordering::Release);
                Held { place: Arc::new(place), watchers: 0 }
            });
            held.watchers += 1;
            Arc::clone(&held.place)
        };
        self.count();
        Waiting { hub: Arc::clone(self), key, place }
    }

    /// One watcher more; what it looks at from here on is no older than what the registrar published without seeing it.
    fn count(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn revision(&self, key: &ServiceKey) -> Seq {
        let ServiceKey { namespace, service } = key;
        let revision = self
            .projection
            .with_service(namespace.as_str(), service.as_str(), |cell| cell.guard().revision);
        revision.unwrap_or_default()
    }

    /// The version that is published.
    pub(super) fn head(&self) -> Seq {
        self.projection.head()
    }

    /// The same, once what is being published is published: see [`Projection::settled_head`].
    pub(super) fn settled_head(&self) -> Seq {
        self.projection.settled_head()
    }

    /// Begins a stream, of traffic too or not. Its connection ends when `cut` is notified.
    pub(super) fn begin(self: &Arc<Self>, traffic: bool, cut: Arc<Notify>) -> Stream {
        let (number, progress) = self.streams.open(cut);
        if traffic {
            self.of_traffic.fetch_add(1, Ordering::Relaxed);
        }
        self.count();
        Stream { hub: Arc::clone(self), news: self.news.subscribe(), number, progress, traffic }
    }

    /// Long polls, services that are waited for, and streams.
    #[must_use]
    pub fn fill(&self) -> (usize, usize, usize) {
        let streams = self.streams.count();
        let watchers = self.watchers.load(Ordering::Relaxed);
        (watchers.saturating_sub(streams), self.places.lock().len(), streams)
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The revision is above the one that was held.
    Changed,
    /// Time is up.
    Unchanged,
    /// The registry shuts down.
    Closing,
}

/// A place among those who wait for a service; given back when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    hub: Arc<Hub>,
    key: ServiceKey,
    place: Arc<Place>,
}

impl Waiting {
    /// Waits until the service's revision is above `after`, at most until `until`.
    pub async fn above(&self, after: Seq, until: Instant) -> Woken {
        loop {
            // Listen before looking, so that what moves in between is not missed: this hears from its making on.
            let woken = self.place.woken.notified();
            if self.hub.revision(&self.key) > after {
                return Woken::Changed;
            }
            if self.hub.is_closing() {
                return Woken::Closing;
            }
            if timeout_at(until, woken).await.is_err() {
                // A change of the last moment counts.
                let changed = self.hub.revision(&self.key) > after;
                return if changed { Woken::Changed } else { Woken::Unchanged };
            }
        }
    }

    /// When the last change that was waited for was found durable; none if none came while anybody waited.
    #[must_use]
    pub fn durable(&self) -> Option<Monotonic> {
        match self.place.durable.load(Ordering::Acquire) {
            0 => None,
            micros => Some(Monotonic(micros)),
        }
    }

    /// That change, if it is noted.
    #[must_use]
    pub fn notice(&self) -> Option<Arc<Notice>> {
        self.place.notice.lock().clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hub.watchers.fetch_sub(1, Ordering::Relaxed);
        let mut places = self.hub.places.lock();
        let Some(held) = places.get_mut(&self.key) else { return };
        held.watchers -= 1;
        if held.watchers == 0 {
            places.remove(&self.key);
            if places.is_empty() {
                // Names come from outside: what a crowd of them took is given back.
                places.shrink_to_fit();
            }
        }
    }
}

/// An open stream; it is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) hub: Arc<Hub>,
    /// Moves when the rings do.
    pub(super) news: watch::Receiver<u64>,
    pub(super) progress: Arc<Progress>,
    number: u64,
    traffic: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.watchers.fetch_sub(1, Ordering::Relaxed);
        if self.traffic && self.hub.of_traffic.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.hub.traffic.lock().clear();
        }
        if self.hub.streams.forget(self.number) == 0 {
            self.hub.changes.lock().clear();
        }
    }
}
