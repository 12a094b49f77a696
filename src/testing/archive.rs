//! A past made by hand: an archive over plain lists, which can forget as retention does.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::START;
use super::history::Step;
use crate::domain::decide::Decision;
use crate::domain::event::{Class, Kind};
use crate::domain::registry::Service;
use crate::domain::traffic::{Detail, Numbered, Traffic};
use crate::domain::{
    Change, Command, InstanceKey, Registry, Seq, ServiceKey, Timestamp, TraceRef, decide, fold,
};
use crate::history::{
    Archive, Counted, Error, EventId, EventPage, EventQuery, Extent, HeartbeatRun, LogFigures,
    LookupCount, Missing, Moment, Order, Reason, Record, Subject, TrafficQuery, Version, Visit,
};
use crate::log::codec;

/// The past. Whoever tells it lets time pass between events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    registry: Registry,
    /// Every change.
    pub(crate) changes: Vec<Change>,
    /// All traffic, also what is forgotten.
    pub(crate) traffic: Vec<Numbered>,
    /// The first traffic event that is kept.
    pub(crate) first_traffic: u64,
    /// The last one that the counts by minute know.
    pub(crate) counted: u64,
    /// The counts of minutes before this are forgotten.
    pub(crate) counted_from: Timestamp,
    /// Milliseconds since the beginning.
    pub(crate) elapsed: u64,
    /// How many changes are forgotten; the state after the last of them is kept.
    pub(crate) changes_gone: usize,
    /// How often it still says that only the first is: the others go after they were said to be there.
    pub(crate) gone_unsaid: Arc<AtomicUsize>,
    /// The roll-ups of heartbeats.
    pub(crate) runs: Vec<HeartbeatRun>,
    /// What is not there of any traffic, beside what was forgotten.
    pub(crate) lost: Vec<Missing>,
}

impl Past {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { first_traffic: 1, ..Self::default() }
    }

    /// What comes of `steps`, of which some are refused.
    pub(crate) fn of(steps: &[Step]) -> Self {
        let (mut past, mut now) = (Self::new(), START);
        for step in steps {
            now = Timestamp(now.0 + step.wall);
            if let Ok(Some(decision)) = decide(&past.registry, &step.command(&past.registry), now) {
                past.take(decision, now);
            }
        }
        past
    }

    /// The newest version.
    pub(crate) fn head(&self) -> Version {
        self.at(self.changes.len())
    }

    /// The version after so many changes.
    pub(crate) fn at(&self, changes: usize) -> Version {
        let of = |change: &Change| Version { seq: change.seq, at: change.at };
        changes.checked_sub(1).map_or_else(Version::default, |last| of(&self.changes[last]))
    }

    /// The present instant.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(START.0 + i64::try_from(self.elapsed).unwrap() * 1_000)
    }

    /// A command that is accepted; the number of its change.
    pub(crate) fn happens(&mut self, command: &Command) -> Seq {
        let decision = decide(&self.registry, command, self.now()).unwrap().unwrap();
        self.take(decision, self.now());
        self.registry.head()
    }

    fn take(&mut self, decision: Decision, now: Timestamp) {
        let trace = trace(1, self.registry.head().0 + 1);
        let change = decision.into_change(&self.registry, now, None, trace);
        drop(fold(&mut self.registry, &change));
        self.changes.push(change);
    }

    /// The state now.
    pub(crate) fn present(&self) -> &Registry {
        &self.registry
    }

    /// A traffic event about `service`, or about one of its instances; its number.
    pub(crate) fn traffic(
        &mut self,
        caller: &str,
        service: Option<&ServiceKey>,
        instance: Option<&InstanceKey>,
        detail: Detail,
    ) -> u64 {
        let number = self.traffic.len() as u64 + 1;
        let traffic = Traffic {
            at: self.now(),
            seen: self.registry.head(),
            namespace: service.map(|key| key.namespace.clone()),
            service: service.map(|key| key.service.clone()),
            instance: instance.map(|key| key.instance.clone()),
            caller: Arc::from(caller),
            trace: trace(2, number),
            detail,
        };
        self.traffic.push(Numbered { number, traffic });
        number
    }

    /// A heartbeat; its number.
    pub(crate) fn beats(&mut self, key: &InstanceKey) -> u64 {
        let incarnation = self.registry.instance(key).unwrap().incarnation;
        let detail =
            Detail::Heartbeat { incarnation, load: None, health: None, note: None, baggage: None };
        self.traffic("self", Some(&key.service), Some(key), detail)
    }

    /// A lookup of the service as it is now; its number.
    pub(crate) fn looks_up(&mut self, caller: &str, key: &ServiceKey, status: u16) -> u64 {
        let revision = self.registry.service(key).map_or(Seq::ZERO, |service| service.revision);
        let filter = Box::default();
        let detail =
            Detail::Lookup { filter, revision, returned: 1, status, held: None, baggage: None };
        self.traffic(caller, Some(key), None, detail)
    }

    /// Forgets the traffic before `first`, as retention does: what goes has been counted.
    pub(crate) fn forget(&mut self, first: u64) {
        self.first_traffic = first;
        self.counted = self.counted.max(first - 1);
    }

    fn kept_changes(&self) -> impl Iterator<Item = &Change> {
        self.changes[self.changes_gone..].iter()
    }

    fn kept(&self) -> impl Iterator<Item = &Numbered> {
        self.traffic.iter().filter(|event| event.number >= self.first_traffic)
    }
}

/// A trace that can be told from others.
pub(crate) fn trace(class: u8, number: u64) -> TraceRef {
    let mut trace_id = [class; 16];
    trace_id[8..].copy_from_slice(&number.to_be_bytes());
    TraceRef { trace_id, span_id: number.to_be_bytes() }
}

fn of_change(change: &Change) -> Record {
    let (key, service) = (change.event.key(), change.event.service());
    Record {
        id: EventId::Change(change.seq.0),
        seq: change.seq,
        at: change.at,
        kind: change.event.kind(),
        namespace: service.map(|service| service.namespace.as_str().into()),
        service: service.map(|service| service.service.as_str().into()),
        instance: key.map(|key| key.instance.as_str().into()),
        caller: None,
        trace: change.trace,
        cause: change.cause,
        data: codec::data_of(change).into(),
    }
}

fn of_traffic(event: &Numbered) -> Record {
    let Numbered { number, traffic } = event;
    let data = match &traffic.detail {
        Detail::Heartbeat { incarnation, .. } => format!("{{\"incarnation\":{incarnation}}}"),
        _ => "{}".to_owned(),
    };
    Record {
        id: EventId::Traffic(*number),
        seq: traffic.seen,
        at: traffic.at,
        kind: traffic.detail.kind(),
        namespace: traffic.namespace.as_ref().map(|name| name.as_str().into()),
        service: traffic.service.as_ref().map(|name| name.as_str().into()),
        instance: traffic.instance.as_ref().map(|name| name.as_str().into()),
        caller: Some((*traffic.caller).into()),
        trace: traffic.trace,
        cause: None,
        data: data.into(),
    }
}

impl Archive for Past {
    fn figures(&self) -> Result<LogFigures, Error> {
        Ok(LogFigures::default())
    }

    fn extent(&self) -> Result<Extent, Error> {
        let last_traffic = self.traffic.len() as u64;
        let unsaid = self.gone_unsaid.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        let gone = if unsaid.is_ok() { self.changes_gone.min(1) } else { self.changes_gone };
        Ok(Extent {
            oldest: self.at(gone),
            newest: self.head(),
            first_change: gone as u64 + 1,
            first_traffic: if self.first_traffic > last_traffic { 0 } else { self.first_traffic },
            last_traffic,
            counted_from: self.counted_from,
            ..Extent::default()
        })
    }

    fn version(&self, moment: Moment) -> Result<Version, Error> {
        let reached = self.changes.iter().take_while(|change| match moment {
            Moment::At(at) => change.at <= at,
            Moment::Version(seq) => change.seq <= seq,
        });
        Ok(self.at(reached.count()))
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, Error> {
        let class = query.kind.map(Kind::class);
        let mut events: Vec<Record> = match class {
            Some(Class::Changes) => self.kept_changes().map(of_change).collect(),
            Some(Class::Traffic) => self.kept().map(of_traffic).collect(),
            None => return Err(Error::Unreadable("a kind has to be asked for here".into())),
        };
        let name = |wanted: Option<&str>, found: &Option<Box<str>>| {
            wanted.is_none() || wanted == found.as_deref()
        };
        events.retain(|record| {
            query.kind == Some(record.kind)
                && name(query.service.as_ref().map(|name| name.as_str()), &record.service)
                && name(query.instance.as_ref().map(|name| name.as_str()), &record.instance)
                && query.since.is_none_or(|since| match since {
                    Moment::At(at) => record.at >= at,
                    Moment::Version(seq) => record.seq >= seq,
                })
                && query.until.is_none_or(|until| match until {
                    Moment::At(at) => record.at <= at,
                    Moment::Version(seq) => record.seq <= seq,
                })
        });
        if query.order == Order::Descending {
            events.reverse();
        }
        events.truncate(query.limit);
        Ok(EventPage { events, next: None, missing: Vec::new() })
    }

    fn event(&self, id: EventId) -> Result<Option<Record>, Error> {
        Ok(match id {
            EventId::Change(number) => {
                self.kept_changes().find(|change| change.seq.0 == number).map(of_change)
            }
            EventId::Traffic(number) => {
                self.kept().find(|event| event.number == number).map(of_traffic)
            }
        })
    }

    fn state(&self, at: Seq) -> Result<Registry, Error> {
        if at.0 < self.changes_gone as u64 {
            return Err(Error::Gone { oldest: self.at(self.changes_gone) });
        }
        let mut registry = Registry::default();
        for change in self.changes.iter().take_while(|change| change.seq <= at) {
            drop(fold(&mut registry, change));
        }
        Ok(registry)
    }

    fn service(&self, key: &ServiceKey, at: Seq) -> Result<Option<Service>, Error> {
        Ok(self.state(at)?.service(key).cloned())
    }

    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error> {
        let wanted = self.kept_changes().filter(|change| range.contains(&change.seq));
        for change in wanted.filter(|change| subject.includes(&change.event)) {
            if visit(change.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error> {
        let gone = self.traffic.iter().filter(|event| event.number < self.first_traffic);
        let anyone = TrafficQuery { from: wanted.from, to: wanted.to, ..TrafficQuery::default() };
        let anyone = TrafficQuery { since: wanted.since, until: wanted.until, ..anyone };
        let gone: Vec<&Numbered> = gone.filter(|event| anyone.includes(event)).collect();
        let missing = gone.first().zip(gone.last()).map(|(first, last)| Missing {
            from: first.traffic.at,
            until: last.traffic.at,
            reason: Reason::Retention,
            events: format!("t{} to t{}", first.number, last.number).into(),
        });
        for event in self.kept().filter(|event| wanted.includes(event)) {
            if visit(event.clone()).is_break() {
                break;
            }
        }
        Ok(missing.into_iter().chain(self.lost.iter().cloned()).collect())
    }

    fn lookup_counts(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<Counted, Error> {
        let mut rows: BTreeMap<_, LookupCount> = BTreeMap::new();
        for Numbered { number, traffic } in &self.traffic {
            let Detail::Lookup { filter, revision, status, .. } = &traffic.detail else { continue };
            let minute = Timestamp(traffic.at.0 - traffic.at.0.rem_euclid(60_000_000));
            if *number > self.counted
                || minute < self.counted_from
                || wanted.since.is_some_and(|since| minute < since)
                || wanted.until.is_some_and(|until| minute > until)
                || (wanted.service.is_some() && wanted.service != traffic.service)
                || (wanted.namespace.is_some() && wanted.namespace != traffic.namespace)
            {
                continue;
            }
            let text = |name: Option<&str>| name.map(Box::<str>::from);
            let namespace = text(traffic.namespace.as_ref().map(|name| name.as_str()));
            let service = text(traffic.service.as_ref().map(|name| name.as_str()));
            let instance = text(traffic.instance.as_ref().map(|name| name.as_str()));
            let (caller, filter) = (Box::from(&*traffic.caller), filter.clone());
            let key = (minute, namespace, service, instance, caller, filter, *revision, *status);
            let row = rows.entry(key.clone()).or_insert_with(|| LookupCount {
                minute,
                namespace: key.1,
                service: key.2,
                instance: key.3,
                caller: key.4,
                filter: key.5,
                revision: *revision,
                status: *status,
                count: 0,
                first: *number,
                last: *number,
                first_at: traffic.at,
                last_at: traffic.at,
            });
            row.count += 1;
            (row.last, row.last_at) = (*number, traffic.at);
        }
        let mut rows: Vec<LookupCount> = rows.into_values().collect();
        rows.sort_by_key(|row| (row.minute, row.first));
        for row in rows {
            if visit(row).is_break() {
                break;
            }
        }
        Ok(Counted { through: self.counted, missing: Vec::new() })
    }

    fn heartbeat_runs(&self, _: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error> {
        Ok((self.runs.clone(), self.counted))
    }
}
