//! Events as streams tell them: each is put into words once, for all who are told.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::notices::Notice;
use super::ring::Weighed;
use crate::clock::Monotonic;
use crate::domain::event::Event;
use crate::domain::instance::Instance;
use crate::domain::traffic::{Detail, Numbered};
use crate::domain::{Change, Seq};
use crate::history::Record;
use crate::log::record;

/// What an event weighs beside its texts of free length: its own fields, and the text made of it.
const WEIGHT: usize = 1_024;

/// The words of an event: the line `id:` of a stream of changes, then all the rest.
#[derive(Debug)]
struct Words {
    whole: Bytes,
    rest_at: usize,
}

impl Words {
    fn of(record: &Record) -> Self {
        // A record is made of texts and numbers alone: there is nothing in it that can't be written.
        let json = serde_json::to_string(record).unwrap_or_default();
        let id = format!("id: {}\n", record.id);
        let rest_at = id.len();
        let whole = format!("{id}event: {}\ndata: {json}\n\n", record.kind.as_str());
        Self { whole: whole.into(), rest_at }
    }
}

/// A change that is told to streams.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) change: Arc<Change>,
    /// When it was found durable; none for one that was read from the log.
    pub(super) durable: Option<Monotonic>,
    /// Who counts those that are told, if it is noted.
    pub(super) notice: Option<Arc<Notice>>,
    words: OnceLock<Words>,
}

impl Told {
    pub(super) fn new(
        change: Arc<Change>,
        durable: Option<Monotonic>,
        notice: Option<Arc<Notice>>,
    ) -> Self {
        Self { change, durable, notice, words: OnceLock::new() }
    }

    fn words(&self) -> &Words {
        self.words.get_or_init(|| Words::of(&record::of_change(&self.change)))
    }

    /// All of it, as a stream of changes says it.
    pub(super) fn whole(&self) -> &Bytes {
        &self.words().whole
    }

    /// All of it but the id.
    pub(super) fn rest(&self) -> &[u8] {
        let Words { whole, rest_at } = self.words();
        &whole[*rest_at..]
    }

    pub(super) fn seq(&self) -> Seq {
        self.change.seq
    }
}

impl Weighed for Arc<Told> {
    fn weight(&self) -> usize {
        let texts = |instance: &Instance| {
            let tags: usize = instance.labels.tags().map(str::len).sum();
            let pairs = instance.labels.metadata().map(|(key, value)| key.len() + value.len());
            // Once in the instance, once in the words.
            2 * (tags + pairs.sum::<usize>())
        };
        WEIGHT
            + match &self.change.event {
                Event::Registered { instance, .. } | Event::Updated { instance, .. } => {
                    texts(instance)
                }
                Event::Deregistered { reason, .. } => reason.as_ref().map_or(0, |r| 2 * r.len()),
                Event::ModeChanged { .. }
                | Event::StatusChanged { .. }
                | Event::Expired { .. }
                | Event::Note(_) => 0,
            }
            // Once as it is, once in the words.
            + self.change.baggage.as_ref().map_or(0, |baggage| 2 * baggage.bytes())
    }
}

/// A traffic event that is told to streams.
#[derive(Debug)]
pub(super) struct ToldTraffic {
    pub(super) event: Numbered,
    words: OnceLock<Words>,
}

impl ToldTraffic {
    pub(super) fn new(event: Numbered) -> Self {
        Self { event, words: OnceLock::new() }
    }

    /// All of it but the id.
    pub(super) fn rest(&self) -> &[u8] {
        let words = self.words.get_or_init(|| Words::of(&record::of_traffic(&self.event)));
        &words.whole[words.rest_at..]
    }

    pub(super) fn seen(&self) -> Seq {
        self.event.traffic.seen
    }
}

impl Weighed for Arc<ToldTraffic> {
    fn weight(&self) -> usize {
        WEIGHT
            + match &self.event.traffic.detail {
                Detail::Lookup { filter, .. }
                | Detail::WatchOpened { filter, .. }
                | Detail::WatchClosed { filter, .. }
                | Detail::Notified { filter, .. } => 2 * filter.len(),
                Detail::Heartbeat { note, .. } => note.as_ref().map_or(0, |note| 2 * note.len()),
            }
            + self.event.traffic.detail.baggage().map_or(0, |baggage| 2 * baggage.bytes())
    }
}
