//! What reads are answered from: an immutable view per service behind an atomic pointer.
//!
//! A lookup takes no lock, touches no SQL and allocates nothing per instance. Only the registrar
//! publishes, through its [`Publisher`]: the views first, then the head, so that a reader who loads the
//! head and then a view has seen at least that head.

mod checks;
#[cfg(test)]
mod churn_tests;
mod publisher;
mod sheet;
mod view;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use papaya::Equivalent;
use parking_lot::RwLock;

use crate::domain::{Mode, Namespace, Seq, ServiceKey, ServiceName, Status};
pub use checks::{Checks, Moved};
pub use publisher::{Grant, Published, Publisher, Shift};
pub use sheet::{Entries, Entry, EntryRef, Offer, Sheet, Write};
pub use view::{Answer, Content, ServiceView};

/// How often all views are gone through to find them of one version.
const VIEWS_TRIES: usize = 8;

/// A service's place: its present view.
#[derive(Debug)]
pub struct ServiceCell {
    view: ArcSwap<ServiceView>,
}

impl ServiceCell {
    /// The service as it is now.
    #[must_use]
    pub fn view(&self) -> Arc<ServiceView> {
        self.view.load_full()
    }

    /// The same without counting a reference, for as long as the guard lives; not to be held across an
    /// await.
    #[must_use]
    pub fn guard(&self) -> arc_swap::Guard<Arc<ServiceView>> {
        self.view.load()
    }
}

/// A service asked for by its names, without making a key.
struct NamesOf<'a> {
    namespace: &'a str,
    service: &'a str,
}

impl Hash for NamesOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As the derived hash of `ServiceKey`: two strings, one after the other.
        self.namespace.hash(state);
        self.service.hash(state);
    }
}

impl Equivalent<ServiceKey> for NamesOf<'_> {
    fn equivalent(&self, key: &ServiceKey) -> bool {
        key.service.as_str() == self.service && key.namespace.as_str() == self.namespace
    }
}

/// How many instances there are of each status and mode.
#[derive(Debug, Default)]
pub struct Population([[AtomicI64; 3]; 3]);

impl Population {
    /// Instances of this status and mode.
    #[must_use]
    pub fn of(&self, status: Status, mode: Mode) -> i64 {
        self.0[status as usize][mode as usize].load(Ordering::Relaxed)
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.0.iter().flatten().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn add(&self, view: &ServiceView, sign: i64) {
        for (status, mode) in
            Status::ALL.iter().flat_map(|status| Mode::ALL.iter().map(|mode| (*status, *mode)))
        {
            let count = i64::try_from(view.entries.count(status, mode)).unwrap_or(i64::MAX);
            if count != 0 {
                self.0[status as usize][mode as usize].fetch_add(sign * count, Ordering::Relaxed);
            }
        }
    }
}

/// One row of a list of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Which service.
    pub key: ServiceKey,
    /// Its revision.
    pub revision: Seq,
    /// Instances registered.
    pub instances: usize,
    /// Of these, healthy.
    pub healthy: u32,
}

/// The state as readers see it.
#[derive(Debug, Default)]
pub struct Projection {
    services: papaya::HashMap<ServiceKey, Arc<ServiceCell>, RandomState>,
    /// The same cells in the order of their names. Published under its lock, so that a list is of one version.
    index: RwLock<BTreeMap<ServiceKey, Arc<ServiceCell>>>,
    head: AtomicU64,
    population: Population,
    checks: Checks,
}

impl Projection {
    /// The version that is published.
    #[must_use]
    pub fn head(&self) -> Seq {
        Seq(self.head.load(Ordering::Acquire))
    }

    /// The version that is published when no publishing is going on: views come before their head, so that a client may
    /// have been handed a revision that [`Projection::head`] has not reached yet. For whoever is about to refuse a
    /// version as not being there; waits for the end of what is being published.
    #[must_use]
    pub fn settled_head(&self) -> Seq {
        // The publisher holds it from the first view to the head.
        let _settled = self.index.read();
        self.head()
    }

    /// How many instances of which kind there are.
    #[must_use]
    pub fn population(&self) -> &Population {
        &self.population
    }

    /// How many services are known.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.index.read().len()
    }

    /// Runs `read` on a service's place, if the service was ever registered.
    pub fn with_service<R>(
        &self,
        namespace: &str,
        service: &str,
        read: impl FnOnce(&ServiceCell) -> R,
    ) -> Option<R> {
        let services = self.services.pin();
        services.get(&NamesOf { namespace, service }).map(|cell| read(cell))
    }

    /// The service as it is now, if it was ever registered.
    #[must_use]
    pub fn service(&self, namespace: &str, service: &str) -> Option<Arc<ServiceView>> {
        self.with_service(namespace, service, ServiceCell::view)
    }

    /// Up to `limit` services after `after` whose names begin with `prefix`, in the order of their names,
    /// in one namespace or in all; the version they are of; and whether there are more.
    #[must_use]
    pub fn list(
        &self,
        namespace: Option<&Namespace>,
        prefix: &str,
        after: Option<&ServiceKey>,
        limit: usize,
    ) -> (Seq, Vec<Summary>, bool) {
        let index = self.index.read();
        let head = self.head();
        let mut rows = range(&index, namespace, after)
            .filter(|(key, _)| key.service.as_str().starts_with(prefix))
            .map(|(key, cell)| {
                let view = cell.guard();
                Summary {
                    key: key.clone(),
                    revision: view.revision,
                    instances: view.entries.len(),
                    healthy: view.healthy,
                }
            });
        let page: Vec<Summary> = rows.by_ref().take(limit).collect();
        let more = rows.next().is_some();
        (head, page, more)
    }

    /// Every service of one namespace or of all, and the version they are of: exactly that one, unless changes are
    /// published faster than the services can be gone through.
    #[must_use]
    pub fn views(&self, namespace: Option<&Namespace>) -> (Seq, Vec<Arc<ServiceView>>) {
        let mut tries = 0;
        loop {
            let head = self.head();
            let index = self.index.read();
            let found = range(&index, namespace, None).map(|(_, cell)| cell.view());
            let views: Vec<Arc<ServiceView>> = found.collect();
            tries += 1;
            // Views are published before their head: with none above the head, they are the state after it.
            if tries >= VIEWS_TRIES || views.iter().all(|view| view.revision <= head) {
                return (head, views);
            }
        }
    }

    /// Every namespace that has or had a service, with its number of services and instances.
    #[must_use]
    pub fn namespaces(&self) -> (Seq, Vec<(Namespace, usize, usize)>) {
        let index = self.index.read();
        let mut rows: Vec<(Namespace, usize, usize)> = Vec::new();
        for (key, cell) in index.iter() {
            if rows.last().is_none_or(|(namespace, ..)| *namespace != key.namespace) {
                rows.push((key.namespace.clone(), 0, 0));
            }
            if let Some((_, services, instances)) = rows.last_mut() {
                *services += 1;
                *instances += cell.guard().entries.len();
            }
        }
        (self.head(), rows)
    }
}

type Index = BTreeMap<ServiceKey, Arc<ServiceCell>>;

/// The part of the index in one namespace (or all of it) that comes after `after`.
fn range<'a>(
    index: &'a Index,
    namespace: Option<&'a Namespace>,
    after: Option<&ServiceKey>,
) -> impl Iterator<Item = (&'a ServiceKey, &'a Arc<ServiceCell>)> {
    // No service's name sorts before the shortest one, "0".
    let first = |namespace: &Namespace| {
        ServiceName::new("0")
            .ok()
            .map(|service| ServiceKey { namespace: namespace.clone(), service })
    };
    let start = match (after, namespace.and_then(first)) {
        (Some(after), Some(first)) if *after < first => Bound::Included(first),
        (Some(after), _) => Bound::Excluded(after.clone()),
        (None, Some(first)) => Bound::Included(first),
        (None, None) => Bound::Unbounded,
    };
    index
        .range((start, Bound::Unbounded))
        .take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == *namespace))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::domain::Command;
    use crate::lease::Lease;
    use crate::testing::archive::Past;
    use crate::testing::{key, register};

    /// A view can be read before the head has reached it: whoever was handed its revision must find it to be there.
    #[test]
    fn a_version_that_a_view_tells_is_below_the_settled_head() {
        let keys = [key("a", "1"), key("b", "1")];
        let mut past = Past::new();
        for key in &keys {
            past.happens(&Command::Register(register(key)));
        }
        let touched: BTreeSet<ServiceKey> = keys.iter().map(|key| key.service.clone()).collect();
        let projection = Arc::new(Projection::default());
        let publisher = Publisher::new(Arc::clone(&projection));
        let (asks, settled) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            publisher.publish(past.present(), &touched, |instance, _| {
                // The second service's lease: the first one's view is there, the head is not.
                if instance.key == keys[1] {
                    let view = projection.service("default", "a").unwrap();
                    assert!(view.revision > projection.head());
                    let _ = scope.spawn(|| {
                        asks.store(true, Ordering::Release);
                        settled.store(projection.settled_head().0, Ordering::Release);
                    });
                    while !asks.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    // One that does not wait would have answered by now.
                    (0..1_000).for_each(|_| std::thread::yield_now());
                }
                Lease::for_show(instance.ttl)
            });
        });
        assert_eq!(settled.into_inner(), past.head().seq.0);
    }

    #[test]
    fn whoever_is_in_a_view_is_found_and_nobody_else() {
        for count in [0_usize, 1, 5, 64, 65, 200] {
            let mut past = Past::new();
            for number in 0..count {
                past.happens(&Command::Register(register(&key("a", &format!("id-{number:03}")))));
            }
            let Some(service) = past.present().service(&key("a", "1").service) else {
                assert_eq!(count, 0);
                continue;
            };
            let view = ServiceView::of_the_past(key("a", "1").service, service);
            for number in 0..count + 2 {
                let id = format!("id-{number:03}");
                let found = view.entry(&id).map(|entry| entry.instance.key.instance.to_string());
                assert_eq!(found, (number < count).then_some(id), "of {count}");
            }
            assert!(view.entry("").is_none());
        }
    }
}
