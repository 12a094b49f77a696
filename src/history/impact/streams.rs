//! Streams and long polls that held the instance.
//!
//! A stream held it if it covers the service, was open between the last sign of life and the departure, and knew of
//! that life: it began after the registration (who begins there has read the list), or it was told of it. It held it until the first
//! `notified` that reaches the departure; one whose `kind=` leaves departures out is never told. Opened after the
//! departure, it is none of these: it reads the past.
//!
//! The events of one stream have the same trace and span. The end of a process ends its streams without an event.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::domain::event::Kind;
use crate::domain::traffic::{Detail, Numbered, Traffic};
use crate::domain::{Change, InstanceKey, Seq, Timestamp, TraceRef};
use crate::history::archive::{Archive, Error, EventQuery, Order};
use crate::history::moment::Moment;

/// Starts of the registry that are looked at after the last sign of life.
const STARTS: usize = 100;

/// A stream that held the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Whose.
    pub caller: Arc<str>,
    /// Since when it was open; none if that is not kept.
    pub opened: Option<Timestamp>,
    /// When it was told that the instance has left.
    pub told_at: Option<Timestamp>,
    /// When it ended, if it did before it was told, or as long as the search went on.
    pub closed: Option<Timestamp>,
    /// What it is told of, as a canonical query string.
    pub filter: Box<str>,
    /// Its trace.
    pub trace: TraceRef,
}

/// A long poll that waited, or came, with a list that held the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongPoll {
    /// Whose.
    pub caller: Arc<str>,
    /// The revision that it held.
    pub revision: Seq,
    /// When it was told that the instance has left.
    pub told_at: Timestamp,
    /// Its trace.
    pub trace: TraceRef,
}

/// When the registry started around the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts {
    /// The last start before the window.
    before: Seq,
    /// Those since.
    since: Vec<(Seq, Timestamp)>,
}

impl Restarts {
    /// Those around the last sign of life, which saw version `seen`.
    pub(super) fn around(archive: &dyn Archive, seen: Seq) -> Result<Self, Error> {
        let starts = EventQuery { kind: Some(Kind::Started), ..EventQuery::default() };
        let (limit, order) = (1, Order::Descending);
        let until = Some(Moment::Version(seen));
        let before = archive.events(&EventQuery { limit, order, until, ..starts.clone() })?;
        let since = Some(Moment::Version(seen.next()));
        let since = archive.events(&EventQuery { limit: STARTS, since, ..starts })?;
        Ok(Self {
            before: before.events.first().map_or(Seq::ZERO, |record| record.seq),
            since: since.events.iter().map(|record| (record.seq, record.at)).collect(),
        })
    }
}

/// A stream as far as it has been followed.
#[derive(Debug)]
struct Followed {
    stream: Stream,
    /// The version that it saw when it began; none if that is not kept.
    since: Option<Seq>,
    /// Whether it knows of the life that ended.
    knows: bool,
    /// Whether it is of one service, so that its events are found under that name.
    named: bool,
    filter: Covering,
}

impl Followed {
    /// Whether it began after the departure.
    fn is_late(&self, departure: Seq) -> bool {
        self.since.is_some_and(|since| since >= departure)
    }

    /// When the process ended that served it: the next start says so.
    fn lost(&self, restarts: &Restarts) -> Option<(Seq, Timestamp)> {
        restarts.since.iter().find(|(start, _)| self.since < Some(*start)).copied()
    }
}

/// What of the filter of a stream matters here.
#[derive(Clone, Copy, Debug)]
struct Covering {
    /// Registrations are let through.
    arrivals: bool,
    /// The departure is let through.
    departure: bool,
}

impl Covering {
    /// That of a stream with this filter, if it is told of the service at all.
    fn of(filter: &str, key: &InstanceKey, departure: Kind) -> Option<Self> {
        let (mut kinds, mut any) = (Vec::new(), true);
        for (name, value) in form_urlencoded::parse(filter.as_bytes()) {
            match &*name {
                "namespace" if *value != *key.service.namespace.as_str() => return None,
                "service" if *value != *key.service.service.as_str() => return None,
                "kind" => {
                    any = false;
                    kinds.extend(value.split(',').map(Kind::parse));
                }
                _ => {}
            }
        }
        let lets_through = |kind| any || kinds.contains(&Some(kind));
        Some(Self { arrivals: lets_through(Kind::Registered), departure: lets_through(departure) })
    }
}

/// All streams of a window.
#[derive(Debug)]
pub(super) struct Streams {
    key: InstanceKey,
    life: Seq,
    departure: Seq,
    kind: Kind,
    restarts: Restarts,
    followed: HashMap<TraceRef, Followed>,
    polls: Vec<LongPoll>,
}

impl Streams {
    /// None yet.
    pub(super) fn new(
        key: &InstanceKey,
        life: Seq,
        departure: &Change,
        restarts: Restarts,
    ) -> Self {
        Self {
            key: key.clone(),
            life,
            departure: departure.seq,
            kind: departure.event.kind(),
            restarts,
            followed: HashMap::new(),
            polls: Vec::new(),
        }
    }

    /// The start of the registry before which no stream lives on into the window.
    pub(super) fn last_start(&self) -> Seq {
        self.restarts.before
    }

    /// Takes an event from before the window: a stream that ended there is of no interest.
    pub(super) fn see_before(&mut self, event: &Numbered) {
        let Traffic { detail, seen, trace, .. } = &event.traffic;
        if matches!(detail, Detail::WatchClosed { .. }) {
            self.followed.remove(trace);
        } else if *seen >= self.restarts.before {
            self.see(event);
        }
    }

    /// Takes an event of a stream; when it tells its caller of the departure, the time of that.
    pub(super) fn see(&mut self, event: &Numbered) -> Option<Timestamp> {
        let Traffic { detail, at, seen, trace, .. } = &event.traffic;
        let (life, departure) = (self.life, self.departure);
        match detail {
            Detail::WatchOpened { filter, after } => {
                let followed = self.follow(&event.traffic, filter)?;
                followed.since = Some(*seen);
                followed.stream.opened = Some(*at);
                followed.knows = *after >= life;
                None
            }
            Detail::Notified { filter, through, .. } => {
                let followed = self.follow(&event.traffic, filter)?;
                if *through < departure {
                    followed.knows |= *through >= life && followed.filter.arrivals;
                    return None;
                }
                // One whose beginning is not kept began before all that is, and with that before the departure.
                followed.knows |= followed.since.is_none();
                if !followed.filter.departure {
                    return None;
                }
                followed.stream.told_at.get_or_insert(*at);
                Some(*at)
            }
            Detail::WatchClosed { .. } => {
                if let Some(followed) = self.followed.get_mut(trace) {
                    followed.stream.closed = Some(*at);
                    if !followed.knows || followed.is_late(departure) {
                        self.followed.remove(trace);
                    }
                }
                None
            }
            Detail::Heartbeat { .. } | Detail::Lookup { .. } => None,
        }
    }

    /// The stream that an event is of, from now on followed if it is told of the service.
    fn follow(&mut self, traffic: &Traffic, filter: &str) -> Option<&mut Followed> {
        match self.followed.entry(traffic.trace) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(entry) => {
                let covering = Covering::of(filter, &self.key, self.kind)?;
                let stream = Stream {
                    caller: Arc::clone(&traffic.caller),
                    opened: None,
                    told_at: None,
                    closed: None,
                    filter: filter.into(),
                    trace: traffic.trace,
                };
                let named = traffic.service.is_some();
                let (since, knows, filter) = (None, false, covering);
                Some(entry.insert(Followed { stream, since, knows, named, filter }))
            }
        }
    }

    /// A long poll was answered with the departure; its caller held the instance with revision `held`.
    pub(super) fn polled(&mut self, event: &Numbered, held: Seq) {
        let Traffic { caller, at, trace, .. } = &event.traffic;
        let (caller, trace) = (Arc::clone(caller), *trace);
        self.polls.push(LongPoll { caller, revision: held, told_at: *at, trace });
    }

    /// Whose streams may still be told, in the run of the registry that an event which saw `seen` is of: those of one
    /// service if `named`, else those of many.
    pub(super) fn waiting(&self, seen: Seq, named: bool) -> impl Iterator<Item = &Arc<str>> {
        let waits = move |followed: &&Followed| {
            let Followed { stream, knows, filter, .. } = followed;
            *knows
                && followed.named == named
                && filter.departure
                && stream.told_at.is_none()
                && stream.closed.is_none()
                && !followed.is_late(self.departure)
                && followed.lost(&self.restarts).is_none_or(|(start, _)| seen < start)
        };
        self.followed.values().filter(waits).map(|followed| &followed.stream.caller)
    }

    /// Those that held the instance, in the order in which they began.
    pub(super) fn finish(self) -> (Vec<Stream>, Vec<LongPoll>) {
        let Self { followed, restarts, departure, mut polls, .. } = self;
        let mut streams: Vec<Stream> = followed
            .into_values()
            .filter(|followed| followed.knows && !followed.is_late(departure))
            .map(|followed| {
                let lost = followed.lost(&restarts);
                let mut stream = followed.stream;
                if stream.told_at.is_none() {
                    stream.closed = stream.closed.or(lost.map(|(_, at)| at));
                }
                stream
            })
            .collect();
        streams.sort_by(|a, b| (a.opened, &a.caller).cmp(&(b.opened, &b.caller)));
        polls.sort_by(|a, b| (a.told_at, &a.caller).cmp(&(b.told_at, &b.caller)));
        (streams, polls)
    }
}
