//! Which spans were kept lately, so that an event links to its span only if there is one.
//!
//! The log can't say it: an event is written while its request still runs, and whether the span is kept is decided at
//! the end of the request. So the ids of kept spans are remembered here, in a table of fixed size with one place for
//! each: a newer span takes the place of an older one, and the place knows until when it has forgotten something. What
//! it answers is therefore right or "not known", never a guess. It blocks nobody and grows with nothing. After a
//! restart nothing is known of what was before. Caller: [`super::Tracer`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::telemetry::propagation::SpanId;

/// Places: 2 MiB. At ten kept spans a second they tell of some hours, at the caps' most of some minutes.
const PLACES: usize = 1 << 17;

/// How much later than its span something may happen that the span led to: a change whose client did not wait for it.
const AFTERMATH: u64 = 60_000_000;

/// The ids of the spans that were kept last.
#[derive(Debug)]
pub(super) struct Recent(Box<[Place]>);

#[derive(Debug, Default)]
struct Place {
    /// The span that was kept last of those that belong here; 0 is none, which no id is.
    span: AtomicU64,
    /// Spans that ended up to then, in microseconds since 1970, may have been forgotten.
    forgotten_until: AtomicU64,
}

impl Recent {
    /// A table that knows of no span.
    pub(super) fn new() -> Self {
        Self((0..PLACES).map(|_| Place::default()).collect())
    }

    /// Remembers a span that was kept and ended then.
    pub(super) fn remember(&self, span: SpanId, ended: SystemTime) {
        let (place, span) = self.place(span);
        let since_epoch = ended.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ended = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        // Said before it happens: who does not find the older one must find that it was forgotten.
        if place.span.load(Ordering::Acquire) != 0 {
            place.forgotten_until.fetch_max(ended, Ordering::AcqRel);
        }
        // Two may have found the place empty.
        if place.span.swap(span, Ordering::AcqRel) != 0 {
            place.forgotten_until.fetch_max(ended, Ordering::AcqRel);
        }
    }

    /// Whether the span of what happened at this time, in microseconds since 1970, was kept; none if that is forgotten.
    pub(super) fn knows(&self, span: SpanId, at: u64) -> Option<bool> {
        let (place, span) = self.place(span);
        if place.span.load(Ordering::Acquire) == span {
            return Some(true);
        }
        let forgotten_until = place.forgotten_until.load(Ordering::Acquire);
        (forgotten_until == 0 || at > forgotten_until.saturating_add(AFTERMATH)).then_some(false)
    }

    /// Where a span belongs. A caller can't choose it: ids of our spans are ours, and random.
    fn place(&self, span: SpanId) -> (&Place, u64) {
        let number = u64::from_be_bytes(span.to_bytes());
        let index = usize::try_from(number % self.0.len() as u64).unwrap_or(0);
        (&self.0[index], number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn span(number: u64) -> SpanId {
        SpanId::from_bytes(number.to_be_bytes()).unwrap()
    }

    fn at(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn it_tells_kept_unkept_and_forgotten_spans_apart() {
        let recent = Recent::new();
        let places = PLACES as u64;
        let [older, newer, other] = [7, 7 + places, 7 + 2 * places].map(span);
        assert_eq!(recent.knows(older, 100), Some(false), "nothing was kept so far");
        recent.remember(older, at(100));
        assert_eq!(recent.knows(older, 90), Some(true));
        assert_eq!(recent.knows(other, 90), Some(false), "the one of this place is another");
        recent.remember(newer, at(200));
        assert_eq!(recent.knows(newer, 190), Some(true));
        assert_eq!(recent.knows(older, 90), None, "it was kept, and lost its place");
        assert_eq!(recent.knows(other, 200 + AFTERMATH), None);
        assert_eq!(recent.knows(other, 201 + AFTERMATH), Some(false), "nothing was lost since");
        assert_eq!(recent.knows(span(8), 1), Some(false), "its place is another");
    }

    #[test]
    fn no_kept_span_is_ever_taken_for_one_that_was_not() {
        let recent = Recent::new();
        // Three for each place, from several threads at once.
        let all: Vec<u64> = (1..=3 * PLACES as u64).collect();
        std::thread::scope(|scope| {
            for part in all.chunks(PLACES / 2) {
                let recent = &recent;
                scope.spawn(move || {
                    for number in part {
                        recent.remember(span(*number), at(*number));
                        assert_ne!(recent.knows(span(*number), *number), Some(false), "{number}");
                    }
                });
            }
        });
        let denied = all.iter().filter(|n| recent.knows(span(**n), **n) == Some(false)).count();
        assert_eq!(denied, 0);
        let known = all.iter().filter(|n| recent.knows(span(**n), **n).is_some()).count();
        assert_eq!(known, PLACES, "one for each place");
    }
}
