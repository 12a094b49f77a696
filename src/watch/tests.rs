//! Hub and feed without sockets: over a registry and an archive in memory that can lose its oldest end.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::clock::Monotonic;
use crate::domain::registry::Service;
use crate::domain::traffic::{Detail, Numbered, Traffic};
use crate::domain::{
    Change, Command, InstanceKey, Registry, Seq, ServiceKey, TraceRef, decide, fold,
};
use crate::history::{
    self, Archive, Counted, EventId, EventPage, EventQuery, Extent, HeartbeatRun, LogFigures,
    LookupCount, Missing, Moment, Record, Subject, TrafficQuery, Version, Visit,
};
use crate::lease::Lease;
use crate::projection::{Projection, Publisher};
use crate::testing::{START, deregister, key, register};

/// The log: what it holds from the first number of each class on that is kept.
#[derive(Debug, Default)]
struct Kept {
    changes: Vec<Arc<Change>>,
    traffic: Vec<Numbered>,
    first_change: u64,
    first_traffic: u64,
}

#[derive(Debug, Clone, Default)]
struct InMemory(Arc<Mutex<Kept>>);

impl Archive for InMemory {
    fn figures(&self) -> Result<LogFigures, history::Error> {
        let traffic_head = self.0.lock().traffic.len() as u64;
        Ok(LogFigures { traffic_head, ..LogFigures::default() })
    }

    fn extent(&self) -> Result<Extent, history::Error> {
        let kept = self.0.lock();
        let version = |seq: u64| Version { seq: Seq(seq), at: START };
        Ok(Extent {
            oldest: version(kept.first_change.saturating_sub(1)),
            newest: version(kept.changes.len() as u64),
            first_change: kept.first_change.max(1),
            first_traffic: kept.first_traffic.max(1),
            last_traffic: kept.traffic.len() as u64,
            ..Extent::default()
        })
    }

    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), history::Error> {
        let kept = self.0.lock();
        for change in &kept.changes {
            let wanted = change.seq.0 >= kept.first_change && range.contains(&change.seq);
            if wanted && subject.includes(&change.event) && visit((**change).clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, history::Error> {
        let kept = self.0.lock();
        for event in &kept.traffic {
            let there = event.number >= kept.first_traffic && wanted.includes(event);
            if there && visit(event.clone()).is_break() {
                break;
            }
        }
        Ok(Vec::new())
    }

    fn version(&self, _: Moment) -> Result<Version, history::Error> {
        Ok(Version::default())
    }

    fn events(&self, _: &EventQuery) -> Result<EventPage, history::Error> {
        Ok(EventPage::default())
    }

    fn event(&self, _: EventId) -> Result<Option<Record>, history::Error> {
        Ok(None)
    }

    fn state(&self, _: Seq) -> Result<Registry, history::Error> {
        Ok(Registry::default())
    }

    fn service(&self, _: &ServiceKey, _: Seq) -> Result<Option<Service>, history::Error> {
        Ok(None)
    }

    fn lookup_counts(
        &self,
        _: &TrafficQuery,
        _: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, history::Error> {
        Ok(Counted::default())
    }

    fn heartbeat_runs(&self, _: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), history::Error> {
        Ok((Vec::new(), 0))
    }
}

/// The writer's side: appends to the archive, publishes, tells the hub; and the task that wakes.
struct Rig {
    archive: InMemory,
    registry: Registry,
    publisher: Publisher,
    hub: Arc<Hub>,
    now: u64,
    running: JoinSet<()>,
}

impl Rig {
    fn new() -> Self {
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let mut running = JoinSet::new();
        let waker = Arc::clone(&hub);
        running.spawn(async move { waker.run(Duration::from_secs(30)).await });
        let (archive, publisher) = (InMemory::default(), Publisher::new(projection));
        Self { archive, registry: Registry::default(), publisher, hub, now: 1, running }
    }

    /// One group.
    fn commit(&mut self, commands: impl IntoIterator<Item = Command>) {
        let mut batch = Vec::new();
        for command in commands {
            let decision = decide(&self.registry, &command, START).unwrap().unwrap();
            let change = decision.into_change(&self.registry, START, None, TraceRef::default());
            drop(fold(&mut self.registry, &change));
            batch.push(Arc::new(change));
        }
        self.archive.0.lock().changes.extend(batch.iter().cloned());
        let keys = batch.iter().filter_map(|change| change.event.key());
        let touched: BTreeSet<ServiceKey> = keys.map(|key| key.service.clone()).collect();
        let grant = |instance: &Arc<crate::domain::Instance>, _: Option<&Lease>| {
            Lease::granted(instance.ttl, Monotonic(self.now), TraceRef::default())
        };
        self.publisher.publish(&self.registry, &touched, grant);
        self.now += 1;
        self.hub.published(&batch, touched.iter(), Monotonic(self.now));
    }

    fn register(&mut self, service: &str, instance: &str) {
        self.commit([Command::Register(register(&key(service, instance)))]);
    }

    /// One flush of lookups that saw the present version.
    fn flush(&mut self, service: &str, count: usize) {
        let events: Vec<Traffic> =
            (0..count).map(|_| lookup(service, self.registry.head())).collect();
        let first = {
            let mut kept = self.archive.0.lock();
            let first = kept.traffic.len() as u64 + 1;
            let numbered = (first..).zip(events.iter().cloned());
            kept.traffic.extend(numbered.map(|(number, traffic)| Numbered { number, traffic }));
            first
        };
        self.hub.logged(first, &events);
    }

    async fn open(&self, filter: StreamFilter, from: Option<Mark>) -> Result<Feed, OpenError> {
        let archive = Arc::new(self.archive.clone());
        Feed::open(&self.hub, archive, filter, from, Arc::<Notify>::default()).await
    }
}

fn lookup(service: &str, seen: Seq) -> Traffic {
    let key = key(service, "x").service;
    Traffic {
        at: START,
        seen,
        namespace: Some(key.namespace),
        service: Some(key.service),
        instance: None,
        caller: "web".into(),
        trace: TraceRef::default(),
        detail: Detail::Lookup {
            filter: Box::default(),
            revision: seen,
            returned: 0,
            status: 200,
            held: None,
            baggage: None,
        },
    }
}

fn after(change: u64) -> Option<Mark> {
    Some(Mark { change, traffic: None })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Everything that a feed has to say now: the ids in their order.
async fn drain(feed: &mut Feed) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let mark = feed.mark();
        let delivery = match feed.next(Instant::now()).await.unwrap() {
            Next::Told(delivery) => delivery,
            // A stretch that was passed over is as quiet as the end.
            Next::Quiet if feed.mark() != mark => continue,
            Next::Quiet | Next::Closing => return ids,
        };
        let text = String::from_utf8(delivery.bytes.to_vec()).unwrap();
        let found = text.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.extend(found.map(str::to_owned));
    }
}

fn numbers(range: RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn only_the_watchers_of_what_moved_are_woken_and_nothing_stays() {
    let mut rig = Rig::new();
    rig.register("orders", "a");
    let names = ["orders", "web", "unknown"];
    let waiting = names.map(|name| rig.hub.wait_for(key(name, "a").service));
    let again = rig.hub.wait_for(key("orders", "a").service);
    assert_eq!(rig.hub.fill(), (4, 3, 0));
    let [orders, web, unknown] = &waiting;
    assert_eq!(orders.above(Seq(0), soon()).await, Woken::Changed, "it is above already");
    let now = Instant::now() + Duration::from_millis(20);
    assert_eq!(orders.above(Seq(1), now).await, Woken::Unchanged);
    let (woken, ()) = tokio::join!(again.above(Seq(1), soon()), async {
        tokio::task::yield_now().await;
        // An unchanged registration is published and moves nothing.
        rig.register("orders", "a");
        let now = Instant::now() + Duration::from_millis(20);
        assert_eq!(web.above(Seq(0), now).await, Woken::Unchanged);
        assert_eq!(again.durable(), None, "nobody was woken");
        rig.commit(["b", "c"].map(|i| Command::Register(register(&key("orders", i)))));
    });
    assert_eq!((woken, again.durable()), (Woken::Changed, Some(Monotonic(rig.now))));
    let (woken, ()) = tokio::join!(unknown.above(Seq(0), soon()), async {
        tokio::task::yield_now().await;
        rig.hub.close();
    });
    assert_eq!(woken, Woken::Closing);
    assert_eq!(web.above(Seq(0), soon()).await, Woken::Closing, "nobody waits any more");
    drop((waiting, again));
    assert_eq!(rig.hub.fill(), (0, 0, 0));
    rig.running.shutdown().await;
}

/// Watchers that come just when the registrar publishes: each is woken, or sees the change by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    const ROUNDS: u64 = 2_000;
    let mut rig = Rig::new();
    let (saw, mut seen) = tokio::sync::mpsc::channel(16);
    let mut watchers = JoinSet::new();
    // With a new place each time, or with one that is kept and has to be listed for waking again and again.
    let kinds = [true, true, false];
    for renews in kinds {
        let (hub, saw) = (Arc::clone(&rig.hub), saw.clone());
        watchers.spawn(async move {
            let mut waiting = hub.wait_for(key("orders", "a").service);
            for held in (0..ROUNDS).map(Seq) {
                if renews {
                    drop(waiting);
                    waiting = hub.wait_for(key("orders", "a").service);
                }
                assert_eq!(waiting.above(held, soon()).await, Woken::Changed, "after {held}");
                saw.send(()).await.unwrap();
            }
        });
    }
    for round in 0..ROUNDS {
        let command = match round % 2 {
            0 => Command::Register(register(&key("orders", "a"))),
            _ => deregister(&key("orders", "a")),
        };
        rig.commit([command]);
        // The next change meets them on their way back into their places.
        for _ in kinds {
            let saw = tokio::time::timeout_at(soon(), seen.recv()).await;
            saw.expect("everybody is woken").unwrap();
        }
    }
    watchers.join_all().await;
    assert_eq!(rig.hub.fill(), (0, 0, 0));
}

#[tokio::test]
async fn a_feed_goes_from_the_log_to_the_present_without_a_seam() {
    let mut rig = Rig::new();
    for number in 0..300 {
        rig.register("orders", &format!("i{number}"));
    }
    rig.commit((0..200).map(|number| deregister(&key("orders", &format!("i{number}")))));
    let mut gone = rig.open(StreamFilter::default(), after(290)).await.unwrap();
    assert_eq!(drain(&mut gone).await, numbers(291..=500), "short ones, many to a delivery");
    drop(gone);
    let mut all = rig.open(StreamFilter::default(), after(7)).await.unwrap();
    let mut now = rig.open(StreamFilter::default(), None).await.unwrap();
    assert_eq!(drain(&mut all).await, numbers(8..=500));
    for number in 0..50 {
        rig.register("web", &format!("i{number}"));
    }
    assert_eq!(drain(&mut all).await, numbers(501..=550));
    assert_eq!(drain(&mut now).await, numbers(501..=550));
    let web = key("web", "a").service;
    let filter = StreamFilter {
        namespace: Some(web.namespace),
        service: Some(web.service),
        ..StreamFilter::default()
    };
    let mut web = rig.open(filter, after(0)).await.unwrap();
    assert_eq!(drain(&mut web).await, numbers(501..=550));
    assert_eq!(web.mark(), Mark { change: 550, traffic: None });
    // What is passed over moves the mark.
    rig.register("orders", "last");
    assert!(drain(&mut web).await.is_empty());
    assert_eq!(web.mark().change, 551);
    // Nobody looks: the ring is let go. Who comes then finds everything in the log.
    drop((all, now, web));
    assert_eq!((rig.hub.fill(), rig.hub.changes.lock().after(550, 1).is_none()), ((0, 0, 0), true));
    rig.register("orders", "unseen");
    let mut late = rig.open(StreamFilter::default(), after(549)).await.unwrap();
    assert_eq!(drain(&mut late).await, numbers(550..=552));
}

#[tokio::test]
async fn traffic_and_changes_are_merged_as_the_log_has_them() {
    let mut rig = Rig::new();
    let mut expected = Vec::new();
    for round in 1..=100_u64 {
        rig.register("orders", &format!("i{round}"));
        rig.flush("orders", 3);
        expected.push(format!("{round},t{}", 3 * (round - 1)));
        expected.extend((3 * round - 2..=3 * round).map(|t| format!("{round},t{t}")));
    }
    let traffic = StreamFilter { traffic: true, ..StreamFilter::default() };
    let start = Some(Mark { change: 0, traffic: Some(0) });
    let mut feed = rig.open(traffic.clone(), start).await.unwrap();
    assert_eq!(drain(&mut feed).await, expected, "from the log");
    let middle = &expected[217];
    let mut again = rig.open(traffic.clone(), Mark::parse(middle)).await.unwrap();
    assert_eq!(drain(&mut again).await, expected[218..]);
    // A number alone: the traffic that saw it.
    let mut alone = rig.open(traffic.clone(), after(100)).await.unwrap();
    assert_eq!(drain(&mut alone).await, ["100,t298", "100,t299", "100,t300"]);
    rig.register("orders", "now");
    rig.flush("orders", 2);
    assert_eq!(drain(&mut feed).await, ["101,t300", "101,t301", "101,t302"], "as it happens");
    let ahead = rig.open(traffic, Mark::parse("101,t303")).await.unwrap_err();
    assert_eq!(ahead, OpenError::Ahead(Mark { change: 101, traffic: Some(302) }));
}

/// What is passed over is not forgotten when the order is decided: behind it may stand what comes first.
#[tokio::test]
async fn a_change_waits_for_the_traffic_before_it_however_much_is_passed_over() {
    let mut rig = Rig::new();
    rig.register("orders", "a");
    let orders = key("orders", "a").service;
    let filter =
        StreamFilter { service: Some(orders.service), traffic: true, ..StreamFilter::default() };
    let mut live = rig.open(filter.clone(), None).await.unwrap();
    rig.flush("web", 500);
    rig.flush("orders", 1);
    rig.register("web", "a");
    rig.register("orders", "b");
    let expected = ["1,t501", "3,t501"];
    assert_eq!(drain(&mut live).await, expected);
    let mark = Some(Mark { change: 1, traffic: Some(0) });
    let mut stored = rig.open(filter, mark).await.unwrap();
    assert_eq!(drain(&mut stored).await, expected);
}

#[tokio::test]
async fn what_is_no_longer_kept_is_said_and_never_passed_over() {
    let mut rig = Rig::new();
    for number in 0..400 {
        rig.register("orders", &format!("i{number}"));
    }
    let mut slow = rig.open(StreamFilter::default(), after(0)).await.unwrap();
    assert!(matches!(slow.next(soon()).await, Ok(Next::Told(_))));
    rig.archive.0.lock().first_change = 350;
    assert_eq!(slow.next(soon()).await.unwrap_err(), Error::Gone, "retention was faster");
    let oldest = Version { seq: Seq(349), at: START };
    for from in [0, 100, 348] {
        let gone = rig.open(StreamFilter::default(), after(from)).await.unwrap_err();
        assert_eq!(gone, OpenError::Gone(oldest), "after {from}");
    }
    let mut oldest = rig.open(StreamFilter::default(), after(349)).await.unwrap();
    assert_eq!(drain(&mut oldest).await, numbers(350..=400));
    let ahead = rig.open(StreamFilter::default(), after(401)).await.unwrap_err();
    assert_eq!(ahead, OpenError::Ahead(Mark { change: 400, traffic: None }));
    // A log that does not hold what was published is not a log without news.
    rig.archive.0.lock().changes.truncate(390);
    let mut broken = rig.open(StreamFilter::default(), after(389)).await.unwrap();
    assert!(matches!(broken.next(soon()).await, Err(Error::Unreadable(_))));
}

#[tokio::test]
async fn a_single_change_is_the_same_bytes_for_everybody() {
    let mut rig = Rig::new();
    let mut feeds = Vec::new();
    for _ in 0..3 {
        feeds.push(rig.open(StreamFilter::default(), None).await.unwrap());
    }
    rig.register("orders", "a");
    let mut places = BTreeSet::new();
    for feed in &mut feeds {
        let Ok(Next::Told(delivery)) = feed.next(soon()).await else { panic!("nothing came") };
        assert_eq!((delivery.changes, delivery.durable), (1, Some(Monotonic(rig.now))));
        places.insert(delivery.bytes.as_ptr() as usize);
    }
    assert_eq!(places.len(), 1, "put into words once");
}

#[test]
fn a_mark_has_one_form() {
    for mark in ["0", "42", "42,t1093"] {
        assert_eq!(Mark::parse(mark).unwrap().to_string(), mark);
    }
    for other in
        ["", "t1", "42,", "42,1", "42,t", "-1", "+1", "1,t+2", " 1", "99999999999999999999"]
    {
        assert_eq!(Mark::parse(other), None, "{other}");
    }
}
