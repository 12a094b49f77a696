//! The spans of telling: who reads a change's trace finds how many were told of it, and how soon.
//!
//! One span for a change that was told to anybody, made a second or two later: by then those who keep up have been
//! told, and it is known whether the span of the change itself was kept, which is the condition. Whoever reads more
//! slowly is not counted. Nothing is noted unless spans are exported and somebody waits, and then for a bounded number
//! of changes. It must never make those who publish or tell wait. Caller: [`super::Hub`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::clock::{Clock, Monotonic};
use crate::domain::{Change, ServiceKey};
use crate::telemetry::propagation::{SpanId, TraceContext, TraceId};
use crate::telemetry::spans::{KeyValue, SpanKind, SpanLink, SpanRecord, Tracer};

/// Changes that are noted between two looks, which are a second apart.
const CHANGES_MAX: usize = 100;

/// A change that is being told.
#[derive(Debug)]
pub struct Notice {
    change: Arc<Change>,
    durable: Monotonic,
    watchers: AtomicU32,
    /// When it was told last, in microseconds of the monotonic clock.
    last: AtomicU64,
}

impl Notice {
    /// Whether it is of this change.
    pub(super) fn is_of(&self, change: &Arc<Change>) -> bool {
        Arc::ptr_eq(&self.change, change)
    }

    /// Whether it is about this service.
    pub(super) fn is_about(&self, key: &ServiceKey) -> bool {
        self.change.event.service() == Some(key)
    }

    /// It was handed to the connection of one more watcher.
    pub fn told(&self, now: Monotonic) {
        self.last.fetch_max(now.0, Ordering::AcqRel);
        self.watchers.fetch_add(1, Ordering::AcqRel);
    }
}

/// Where the spans go, and what their times are.
#[derive(Debug)]
struct Teller {
    tracer: Tracer,
    clock: Arc<dyn Clock>,
}

/// The changes that are being told.
#[derive(Debug, Default)]
pub(super) struct Notices {
    teller: OnceLock<Teller>,
    /// Since the last look.
    fresh: Mutex<Vec<Arc<Notice>>>,
    /// Before it.
    ripe: Mutex<Vec<Arc<Notice>>>,
}

impl Notices {
    /// From now on there are spans, if that tracer makes any.
    pub(super) fn go_to(&self, tracer: Tracer, clock: Arc<dyn Clock>) {
        if tracer.is_on() {
            // Said once, at the start; a second time changes nothing.
            let _ = self.teller.set(Teller { tracer, clock });
        }
    }

    /// Notes these changes, which are durable since `now`; those that find room.
    pub(super) fn note(&self, changes: &[Arc<Change>], now: Monotonic) -> Vec<Arc<Notice>> {
        if self.teller.get().is_none() {
            return Vec::new();
        }
        let mut fresh = self.fresh.lock();
        let room = CHANGES_MAX.saturating_sub(fresh.len());
        let noted = changes.iter().filter(|change| change.trace.is_some()).take(room);
        let noted: Vec<_> = noted
            .map(|change| {
                let (change, last) = (Arc::clone(change), AtomicU64::new(now.0));
                Arc::new(Notice { change, durable: now, watchers: AtomicU32::new(0), last })
            })
            .collect();
        fresh.extend(noted.iter().cloned());
        noted
    }

    /// Looks: makes the spans of what was noted before the last look, and lets what came since get ripe.
    pub(super) fn look(&self) {
        let Some(Teller { tracer, clock }) = self.teller.get() else { return };
        let fresh = std::mem::take(&mut *self.fresh.lock());
        let ripe = std::mem::replace(&mut *self.ripe.lock(), fresh);
        for notice in ripe {
            if let Some(span) = notice.span(tracer, &**clock) {
                tracer.emit(span);
            }
        }
    }
}

impl Notice {
    /// Its span; none if nobody was told, or the change has none.
    fn span(&self, tracer: &Tracer, clock: &dyn Clock) -> Option<SpanRecord> {
        let watchers = self.watchers.load(Ordering::Acquire);
        let change = &*self.change;
        let trace_id = TraceId::from_bytes(change.trace.trace_id)?;
        let span_id = SpanId::from_bytes(change.trace.span_id)?;
        let at = u64::try_from(change.at.micros()).unwrap_or(0);
        if watchers == 0 || tracer.was_kept(span_id, at) != Some(true) {
            return None;
        }
        let (now, wall) = (clock.monotonic(), clock.wall().micros());
        let wall = UNIX_EPOCH + Duration::from_micros(u64::try_from(wall).unwrap_or(0));
        let then = |at: Monotonic| -> SystemTime {
            wall.checked_sub(Duration::from_micros(now.micros_since(at))).unwrap_or(wall)
        };
        let (start, end) = (self.durable, Monotonic(self.last.load(Ordering::Acquire)));
        let context = TraceContext::root().sampled();
        let mut span =
            SpanRecord::new("notify", SpanKind::Producer, context, then(start), then(end));
        span.attributes = vec![
            KeyValue::new("rollcall.watchers", i64::from(watchers)),
            KeyValue::new("rollcall.event.seq", i64::try_from(change.seq.0).unwrap_or(i64::MAX)),
            KeyValue::new("rollcall.event.kind", change.event.kind().as_str()),
        ];
        let service = change.event.service().map(|key| key.service.to_string());
        span.attributes.extend(service.map(|service| KeyValue::new("rollcall.service", service)));
        let attributes = vec![KeyValue::new("rollcall.link", "change")];
        span.links = vec![SpanLink { trace_id, span_id, attributes }];
        Some(span)
    }
}
