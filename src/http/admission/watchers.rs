//! How many may wait for changes: all together, and of one caller. Long polls and streams count alike.
//!
//! Callers are only counted where there is a limit for one, and only while they wait: what is kept is bounded by the
//! limit on all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Full {
    /// That on all watchers.
    All(usize),
    /// That on those of one caller.
    Caller(usize),
}

/// Who waits.
#[derive(Debug)]
pub(super) struct Watchers {
    max: usize,
    per_caller: Option<usize>,
    count: AtomicUsize,
    callers: Mutex<HashMap<Arc<str>, usize, RandomState>>,
}

/// A place among those who wait; given back when it is dropped.
#[derive(Debug)]
pub(in crate::http) struct Place {
    watchers: Arc<Watchers>,
    /// Only where callers are counted.
    caller: Option<Arc<str>>,
}

impl Watchers {
    pub(super) fn new(max: usize, per_caller: Option<usize>) -> Arc<Self> {
        Arc::new(Self { max, per_caller, count: AtomicUsize::new(0), callers: Mutex::default() })
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A place for one more.
    pub(super) fn enter(self: &Arc<Self>, caller: &Arc<str>) -> Result<Place, Full> {
        let one_more = |count: usize| (count < self.max).then_some(count + 1);
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map_err(|_| Full::All(self.max))?;
        // From here on a refusal gives the place back.
        let mut place = Place { watchers: Arc::clone(self), caller: None };
        if let Some(max) = self.per_caller {
            let mut callers = self.callers.lock();
            let own = callers.entry(Arc::clone(caller)).or_default();
            if *own >= max {
                return Err(Full::Caller(max));
            }
            *own += 1;
            place.caller = Some(Arc::clone(caller));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.watchers.count.fetch_sub(1, Ordering::Relaxed);
        let Some(caller) = &self.caller else { return };
        let mut callers = self.watchers.callers.lock();
        if let Some(own) = callers.get_mut(caller) {
            *own -= 1;
            if *own == 0 {
                callers.remove(caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_for_all_and_for_each_and_given_back() {
        let watchers = Watchers::new(3, Some(2));
        let [web, app] = ["web", "app"].map(Arc::<str>::from);
        let first = watchers.enter(&web).unwrap();
        let second = watchers.enter(&web).unwrap();
        assert_eq!(watchers.enter(&web).unwrap_err(), Full::Caller(2));
        assert_eq!(watchers.count(), 2, "a refusal takes no place");
        let third = watchers.enter(&app).unwrap();
        assert_eq!(watchers.enter(&app).unwrap_err(), Full::All(3));
        drop(first);
        let again = watchers.enter(&app).unwrap();
        drop((second, third, again));
        assert_eq!(watchers.count(), 0);
        assert!(watchers.callers.lock().is_empty(), "no name is kept of who has left");
    }
}
