//! Who looks up whom, how often, and with what success.
//!
//! ```text
//!         since                                                              until
//!           ├──┤ edge   ├──────────── whole minutes ───────────┤        edge ├──┤
//!   events  ████                                          ██████████████████████
//!   counts       ███████████████████████████████████████
//!                                                        └ counted up to here
//! ```
//!
//! Minutes that lie wholly within are counted already, as far as the counting has come; the edges and what came since
//! are read event by event, and so is what is left of the time whose counts have gone. Where the events of an edge have gone, its counts stand in for them, and the answer says
//! what it misses.
//!
//! An edge is a lookup of one service, or a read of one of its instances, whatever was answered; heartbeats are none, and
//! neither are reads over many services or namespaces. A caller `service/instance` counts as its service. Callers have no namespace:
//! one is taken for the registered service of its name in the namespace that it looks into, else in `default`; else
//! it is a caller and nothing more.
//!
//! Pure over [`Archive`]; asked by `http`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::archive::{Archive, Counted, Error, LookupCount, Missing, Reason, TrafficQuery};
use super::moment::{Moment, Version};
use super::stretch::{self, MINUTE};
use crate::domain::event::Kind;
use crate::domain::traffic::{Detail, Numbered};
use crate::domain::{Namespace, ServiceKey, ServiceName, Timestamp};

/// Edges that are told apart. Names come from the network.
const EDGES_MAX: usize = 20_000;

/// What no name can hold.
const SEPARATOR: &str = "\0";

/// Instances of callers that are told apart, all together.
const INSTANCES_MAX: usize = 100_000;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// From when on; a version stands for its instant.
    pub since: Moment,
    /// Until when.
    pub until: Moment,
    /// Lookups in this namespace; none is all.
    pub namespace: Option<Namespace>,
}

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeKind {
    /// A service that is, or was, registered.
    Service,
    /// Somebody who asks and never was registered.
    Caller,
    /// A name that was asked for and never was registered.
    Unknown,
}

impl NodeKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Caller => "caller",
            Self::Unknown => "unknown",
        }
    }
}

/// Who asks or is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Where it stands; none for a caller.
    pub namespace: Option<Box<str>>,
    /// Its name.
    pub name: Box<str>,
    /// What it is.
    pub kind: NodeKind,
}

impl Node {
    /// What it is called in edges and pictures: `namespace/service`, or the caller's name, which has no slash.
    #[must_use]
    pub fn id(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.to_string(),
        }
    }
}

/// The lookups of one service by one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who asked.
    pub caller: Node,
    /// Whom for.
    pub service: Node,
    /// How often.
    pub lookups: u64,
    /// How often the answer was a refusal: 4xx or 5xx.
    pub failed: u64,
    /// When last.
    pub last: Timestamp,
}

/// Who looks up whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// Where the time begins.
    pub since: Timestamp,
    /// Where it ends.
    pub until: Timestamp,
    /// Everybody, with how many instances of each asked, as far as callers name theirs.
    pub nodes: Vec<(Node, u64)>,
    /// The edges, in the order of their ends.
    pub edges: Vec<Edge>,
    /// Lookups of pairs that are too many to be told apart.
    pub others: u64,
    /// What could not be looked at.
    pub missing: Vec<Missing>,
}

/// The graph of a stretch of time; `is_registered` says whether a service is known.
///
/// # Errors
/// Those of the archive.
pub fn graph(
    archive: &dyn Archive,
    question: &Question,
    is_registered: &dyn Fn(&ServiceKey) -> bool,
) -> Result<Graph, Error> {
    let since = instant(archive, question.since)?;
    let until = instant(archive, question.until)?;
    let extent = archive.extent()?;
    let counted_from = extent.counted_from;
    let namespace = question.namespace.clone();
    let mut sum = Sum { namespace, since, until, counted_from, ..Sum::default() };
    let mut missing = sum.add_all(archive)?;
    missing.extend(stretch::gaps(archive, since, until)?);
    // Counts are kept as long as changes.
    if extent.oldest.at > since {
        let (until, reason) = (extent.oldest.at.min(until), extent.reason());
        missing.push(Missing { from: since, until, reason, events: "".into() });
    }
    stretch::tidy(&mut missing);
    Ok(sum.finish(missing, is_registered))
}

fn instant(archive: &dyn Archive, moment: Moment) -> Result<Timestamp, Error> {
    match moment {
        Moment::At(at) => Ok(at),
        Moment::Version(_) => archive.version(moment).map(|Version { at, .. }| at),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    lookups: u64,
    failed: u64,
    last: Timestamp,
}

/// The counts while they are added up.
#[derive(Debug, Default)]
struct Sum {
    namespace: Option<Namespace>,
    since: Timestamp,
    until: Timestamp,
    /// There are no counts before.
    counted_from: Timestamp,
    /// By caller, namespace and service in one text, put together in `pair` so that a known one costs no allocation.
    pairs: HashMap<Box<str>, Count>,
    pair: String,
    others: u64,
}

impl Sum {
    fn add_all(&mut self, archive: &dyn Archive) -> Result<Vec<Missing>, Error> {
        let (since, until) = (self.since, self.until);
        // The first minute that begins within, and the end of the last one that ends within.
        let first = stretch::minute_of(Timestamp(since.0.saturating_add(MINUTE - 1)));
        // Counts go with the changes of their time, and some of the events that they counted may still be there.
        let first = first.max(self.counted_from);
        let end = stretch::minute_of(Timestamp(until.0.saturating_add(1)));
        if first >= end {
            let wanted = self.wanted(since, until);
            return self.add_events(archive, &wanted, None);
        }
        let whole = self.wanted(first, Timestamp(end.0 - MINUTE));
        let Counted { through: counted, mut missing } =
            archive.lookup_counts(&whole, &mut |row| {
                self.add_row(&row);
                ControlFlow::Continue(())
            })?;
        for (from, to) in [(since, Timestamp(first.0 - 1)), (end, until)] {
            if from <= to {
                let mut edge = self.wanted(from, to);
                edge.to = Some(counted);
                missing.extend(self.add_events(archive, &edge, Some(counted))?);
            }
        }
        let mut fresh = self.wanted(since, until);
        fresh.from = Some(counted.saturating_add(1));
        missing.extend(self.add_events(archive, &fresh, None)?);
        Ok(missing)
    }

    fn wanted(&self, since: Timestamp, until: Timestamp) -> TrafficQuery {
        TrafficQuery {
            kinds: &[Kind::Lookup],
            namespace: self.namespace.clone(),
            since: Some(since),
            until: Some(until),
            ..TrafficQuery::default()
        }
    }

    /// Adds events one by one; where retention has taken them, the counts of their minutes.
    fn add_events(
        &mut self,
        archive: &dyn Archive,
        wanted: &TrafficQuery,
        counted: Option<u64>,
    ) -> Result<Vec<Missing>, Error> {
        let missing = archive.traffic(wanted, &mut |event| {
            self.add_event(&event);
            ControlFlow::Continue(())
        })?;
        let mut missing: Vec<Missing> = stretch::of_the_file(missing).collect();
        if missing.iter().any(|missing| missing.reason == Reason::Retention) {
            let kept = archive.extent()?.first_traffic;
            let begin = wanted.since.map(stretch::minute_of);
            let minutes = TrafficQuery { since: begin, from: None, to: None, ..wanted.clone() };
            let (since, until) = (wanted.since, wanted.until);
            let counts = archive.lookup_counts(&minutes, &mut |row| {
                // Rows of which a part is still there have been counted by that part.
                let gone = kept == 0 || row.last < kept;
                let within = Some(row.last_at) >= since && until.is_none_or(|u| row.first_at <= u);
                if gone && within && counted.is_none_or(|counted| row.last <= counted) {
                    self.add_row(&row);
                }
                ControlFlow::Continue(())
            })?;
            missing.extend(counts.missing);
        }
        Ok(missing)
    }

    fn add_row(&mut self, row: &LookupCount) {
        let (Some(namespace), Some(service)) = (&row.namespace, &row.service) else { return };
        let failed = if row.status >= 400 { row.count } else { 0 };
        let count = Count { lookups: row.count, failed, last: row.last_at };
        self.add(&row.caller, namespace, service, count);
    }

    fn add_event(&mut self, event: &Numbered) {
        let traffic = &event.traffic;
        let (Some(service), Detail::Lookup { status, .. }) = (&traffic.service, &traffic.detail)
        else {
            return;
        };
        let Some(namespace) = &traffic.namespace else { return };
        let count = Count { lookups: 1, failed: u64::from(*status >= 400), last: traffic.at };
        self.add(&traffic.caller, namespace.as_str(), service.as_str(), count);
    }

    fn add(&mut self, caller: &str, namespace: &str, service: &str, more: Count) {
        self.pair.clear();
        for part in [namespace, SEPARATOR, service, SEPARATOR, caller] {
            self.pair.push_str(part);
        }
        if let Some(count) = self.pairs.get_mut(self.pair.as_str()) {
            count.add(more);
        } else if self.pairs.len() < EDGES_MAX {
            self.pairs.insert(self.pair.as_str().into(), more);
        } else {
            self.others += more.lookups;
        }
    }

    fn finish(self, missing: Vec<Missing>, is_registered: &dyn Fn(&ServiceKey) -> bool) -> Graph {
        let known = |namespace: &str, name: &str| {
            let key = Namespace::new(namespace).ok().zip(ServiceName::new(name).ok());
            key.is_some_and(|(namespace, service)| {
                is_registered(&ServiceKey { namespace, service })
            })
        };
        let mut edges: BTreeMap<(Node, Node), Count> = BTreeMap::new();
        let mut nodes: BTreeMap<Node, BTreeSet<Box<str>>> = BTreeMap::new();
        let mut instances = 0;
        for (pair, count) in self.pairs {
            let mut parts = pair.splitn(3, SEPARATOR);
            let mut part = || parts.next().unwrap_or("");
            let (namespace, service, caller) = (part(), part(), part());
            let (name, instance) = caller.split_once('/').unwrap_or((caller, ""));
            let home = [namespace, "default"].into_iter().find(|home| known(home, name));
            let kind = if home.is_some() { NodeKind::Service } else { NodeKind::Caller };
            let from = Node { namespace: home.map(Box::from), name: name.into(), kind };
            let kind = match known(namespace, service) {
                true => NodeKind::Service,
                false => NodeKind::Unknown,
            };
            let to = Node { namespace: Some(namespace.into()), name: service.into(), kind };
            nodes.entry(to.clone()).or_default();
            let known_instances = nodes.entry(from.clone()).or_default();
            if !instance.is_empty() && instances < INSTANCES_MAX {
                instances += usize::from(known_instances.insert(instance.into()));
            }
            edges.entry((from, to)).or_default().add(count);
        }
        let edge = |((caller, service), count): ((Node, Node), Count)| {
            let Count { lookups, failed, last } = count;
            Edge { caller, service, lookups, failed, last }
        };
        Graph {
            since: self.since,
            until: self.until,
            nodes: nodes.into_iter().map(|(node, found)| (node, found.len() as u64)).collect(),
            edges: edges.into_iter().map(edge).collect(),
            others: self.others,
            missing,
        }
    }
}

impl Count {
    fn add(&mut self, more: Self) {
        self.lookups += more.lookups;
        self.failed += more.failed;
        self.last = self.last.max(more.last);
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::domain::Seq;
    use crate::testing::archive::Past;
    use crate::testing::{START, key, key_in};

    fn driven() -> Past {
        let mut rng = Rng::with_seed(3);
        let mut past = Past::new();
        let services = [key("orders", "x"), key("carts", "x"), key_in("shop", "orders", "x")];
        for _ in 0..300 {
            past.elapsed += rng.u64(..3_000);
            let caller = ["web/1", "web/2", "curl"][rng.usize(..3)];
            let status = if rng.u8(..5) == 0 { 404 } else { 200 };
            past.looks_up(caller, &services[rng.usize(..3)].service, status);
        }
        past
    }

    fn asked(past: &Past, since: u64, until: u64, namespace: Option<&str>) -> Graph {
        let at =
            |millis: u64| Moment::At(Timestamp(START.0 + i64::try_from(millis).unwrap() * 1_000));
        let namespace = namespace.map(|name| Namespace::new(name).unwrap());
        let question = Question { since: at(since), until: at(until), namespace };
        let registered = |key: &ServiceKey| key.service.as_str() != "curl";
        graph(past, &question, &registered).unwrap()
    }

    #[test]
    fn counts_and_events_add_up_to_the_same_wherever_they_meet() {
        let mut past = driven();
        let windows =
            [(0, 400_000), (59_999, 240_000), (60_000, 239_999), (61_000, 62_000), (10, 130_000)];
        for (since, until) in windows {
            past.counted = 0;
            let whole = asked(&past, since, until, None);
            let sum: u64 = whole.edges.iter().map(|edge| edge.lookups).sum();
            let within = past.traffic.iter().filter(|event| {
                let at = u64::try_from(event.traffic.at.0 - START.0).unwrap();
                (since * 1_000..=until * 1_000).contains(&at)
            });
            assert_eq!(sum, within.count() as u64, "{since} to {until}");
            for counted in (1..=past.traffic.len() as u64).step_by(7) {
                past.counted = counted;
                assert_eq!(asked(&past, since, until, None), whole, "counted to {counted}");
            }
        }
    }

    #[test]
    fn whole_minutes_outlive_their_events() {
        let mut past = driven();
        let (whole, edges) =
            (asked(&past, 60_000, 240_000, None), asked(&past, 30_000, 250_000, None));
        past.forget(past.traffic.len() as u64 + 1);
        assert_eq!(asked(&past, 60_000, 240_000, None), whole);
        let sum = |graph: &Graph| graph.edges.iter().map(|edge| edge.lookups).sum::<u64>();
        // Of the edges the minutes speak, which is too much rather than too little, and is said.
        let around = asked(&past, 30_000, 250_000, None);
        assert!(!around.missing.is_empty());
        assert!(sum(&around) >= sum(&edges), "{} of {}", sum(&around), sum(&edges));
    }

    #[test]
    fn events_whose_counts_have_gone_are_counted_themselves() {
        let mut past = driven();
        let whole = asked(&past, 0, 400_000, None);
        past.counted = past.traffic.len() as u64;
        // Some events of the forgotten minutes are there, and nothing is missing then.
        past.counted_from = Timestamp(START.0 + 3 * MINUTE);
        assert_eq!(asked(&past, 0, 400_000, None), whole);
        let kept = past.traffic.iter().find(|event| event.traffic.at.0 > START.0 + 2 * MINUTE);
        past.forget(kept.unwrap().number);
        let some = asked(&past, 0, 400_000, None);
        let sum: u64 = some.edges.iter().map(|edge| edge.lookups).sum();
        let left = past.traffic.iter().filter(|event| {
            event.number >= past.first_traffic && event.traffic.at.0 <= START.0 + 400_000_000
        });
        assert_eq!(sum, left.count() as u64);
        let [missing] = &some.missing[..] else { panic!("{:?}", some.missing) };
        assert_eq!(missing.reason, Reason::Retention);
        assert!(missing.until.0 <= START.0 + 2 * MINUTE, "{missing:?}");
    }

    #[test]
    fn a_caller_is_the_service_of_its_name_where_it_looks_or_by_default() {
        let mut past = Past::new();
        for caller in ["web/1", "web/2", "curl"] {
            past.looks_up(caller, &key_in("shop", "orders", "x").service, 200);
        }
        let at = Moment::At(past.now());
        let question = Question { since: Moment::Version(Seq(0)), until: at, namespace: None };
        let ids = |known: &'static str| {
            let registered = move |key: &ServiceKey| key.to_string() == known;
            let graph = graph(&past, &question, &registered).unwrap();
            let edges: Vec<_> = graph.edges.iter().map(|e| (e.caller.id(), e.lookups)).collect();
            edges
        };
        let web = |id: &str| vec![("curl".to_owned(), 1), (id.to_owned(), 2)];
        assert_eq!(ids("shop/web"), web("shop/web"));
        assert_eq!(ids("default/web"), web("default/web"));
        assert_eq!(ids("other/web"), web("web"));
        assert_eq!(asked(&past, 0, 0, Some("default")).edges, []);
    }
}
