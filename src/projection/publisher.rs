//! The writing side of the projection. There is one, and the registrar has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use super::{Entry, Projection, ServiceCell, ServiceView};
use crate::domain::registry::Service;
use crate::domain::{Instance, InstanceKey, Registry, Seq, ServiceKey, Status};
use crate::lease::Lease;

/// A lease that publishing has made, because a life or a ttl began. Its deadline is to be watched.
#[derive(Debug)]
pub struct Grant {
    /// Whose.
    pub instance: Arc<Instance>,
    /// The lease.
    pub lease: Arc<Lease>,
}

/// What publishing did, for the registrar to go on with.
#[derive(Debug, Default)]
pub struct Published {
    /// Leases that began.
    pub granted: Vec<Grant>,
    /// Entries whose instance has left or got another lease.
    pub ended: Vec<Arc<Entry>>,
    /// How the numbers of instances moved, a row for each service and status where they did.
    pub shifts: Vec<Shift>,
    /// Instances with a check that came, changed or left; none of the last.
    checked: Vec<(InstanceKey, Option<Arc<Instance>>)>,
}

impl Published {
    /// Notes that `instance` came in the stead of `before`, if there is something to probe or was.
    fn moved(&mut self, before: Option<&Entry>, instance: Option<&Arc<Instance>>) {
        let had = before.map(|before| &before.instance).filter(|before| before.check.is_some());
        let has = instance.filter(|instance| instance.check.is_some());
        if let Some(either) = has.or(had) {
            self.checked.push((either.key.clone(), has.cloned()));
        }
    }
}

/// The number of instances of a service with a status moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Which service.
    pub service: ServiceKey,
    /// Which status.
    pub status: Status,
    /// By how many.
    pub change: i32,
}

/// Publishes views.
#[derive(Debug)]
pub struct Publisher {
    projection: Arc<Projection>,
}

impl Publisher {
    /// The publisher of `projection`. There must be no second one.
    #[must_use]
    pub fn new(projection: Arc<Projection>) -> Self {
        Self { projection }
    }

    /// The projection that it publishes to.
    #[must_use]
    pub fn projection(&self) -> &Arc<Projection> {
        &self.projection
    }

    /// Publishes `registry` in the stead of what was published: services that it does not know are no longer known.
    /// For a replay that jumps; the present of a living registry only moves on.
    pub fn replace(
        &self,
        registry: &Registry,
        grant: impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    ) -> Published {
        let mut left = Published::default();
        {
            let mut index = self.projection.index.write();
            index.retain(|key, cell| {
                let stays = registry.service(key).is_some();
                if !stays {
                    let before = cell.view();
                    self.projection.population.add(&before, -1);
                    let nobody = ServiceView::new(key.clone(), before.revision, Box::default());
                    left.shifts.extend(shifts(key, Some(&before), &nobody));
                    left.ended.extend(before.entries.iter().cloned());
                    self.projection.services.pin().remove(key);
                }
                stays
            });
        }
        let all = registry.services().map(|(key, _)| key.clone()).collect();
        let mut published = self.publish(registry, &all, grant);
        published.shifts.append(&mut left.shifts);
        published.ended.append(&mut left.ended);
        published
    }

    /// Publishes the services in `touched` as `registry` has them, then its head. `grant` makes the lease
    /// of an instance that needs a new one, and is shown the one before if it was of the same life.
    pub fn publish(
        &self,
        registry: &Registry,
        touched: &BTreeSet<ServiceKey>,
        grant: impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    ) -> Published {
        self.publish_as(registry, registry.head(), touched, grant)
    }

    /// The same as version `head`, where what `registry` has folded since concerns no instance and may not show yet.
    pub fn publish_as(
        &self,
        registry: &Registry,
        head: Seq,
        touched: &BTreeSet<ServiceKey>,
        grant: impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    ) -> Published {
        let mut published = Published::default();
        let mut index = self.projection.index.write();
        for key in touched {
            let Some(service) = registry.service(key) else { continue };
            let cell = index.get(key);
            let before = cell.map(|cell| cell.view());
            let view = next_view(key, service, before.as_deref(), &grant, &mut published);
            self.projection.population.add(&view, 1);
            if let Some(before) = &before {
                self.projection.population.add(before, -1);
            }
            published.shifts.extend(shifts(key, before.as_deref(), &view));
            match cell {
                Some(cell) => cell.view.store(Arc::new(view)),
                None => {
                    let cell = Arc::new(ServiceCell { view: ArcSwap::from_pointee(view) });
                    index.insert(key.clone(), Arc::clone(&cell));
                    self.projection.services.pin().insert(key.clone(), cell);
                }
            }
        }
        self.projection.checks.note(std::mem::take(&mut published.checked));
        self.projection.head.store(head.0, Ordering::Release);
        published
    }
}

fn shifts<'a>(
    key: &'a ServiceKey,
    before: Option<&ServiceView>,
    after: &ServiceView,
) -> impl Iterator<Item = Shift> + 'a {
    let count = |view: &ServiceView, status: Status| {
        let with_status = view.entries.iter().filter(|entry| entry.instance.status == status);
        i32::try_from(with_status.count()).unwrap_or(i32::MAX)
    };
    let moved = [Status::Healthy, Status::Unstable, Status::Failed].map(|status| {
        (status, count(after, status) - before.map_or(0, |view| count(view, status)))
    });
    let moved = moved.into_iter().filter(|(_, change)| *change != 0);
    moved.map(|(status, change)| Shift { service: key.clone(), status, change })
}

/// The view of `service` that follows `before`: entries of unchanged instances are shared, leases of
/// living ones are kept.
fn next_view(
    key: &ServiceKey,
    service: &Service,
    before: Option<&ServiceView>,
    grant: &impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    published: &mut Published,
) -> ServiceView {
    let mut old = before.map_or(&[][..], |before| &before.entries).iter().peekable();
    let mut entries = Vec::with_capacity(service.instances.len());
    for (id, instance) in &service.instances {
        // Both sides are sorted by id: what the old one has and the new one has not, has left.
        while let Some(left) = old.next_if(|entry| entry.instance.key.instance < *id) {
            published.moved(Some(left), None);
            published.ended.push(Arc::clone(left));
        }
        let same = old.next_if(|entry| entry.instance.key.instance == *id);
        if same.is_none_or(|entry| !Arc::ptr_eq(&entry.instance, instance)) {
            published.moved(same.map(|entry| &**entry), Some(instance));
        }
        entries.push(match same {
            Some(entry) if Arc::ptr_eq(&entry.instance, instance) => Arc::clone(entry),
            Some(entry)
                if entry.instance.incarnation == instance.incarnation
                    && entry.instance.ttl == instance.ttl
                    && entry.instance.detector == instance.detector =>
            {
                Arc::new(Entry::new(Arc::clone(instance), Arc::clone(&entry.lease)))
            }
            replaced => {
                published.ended.extend(replaced.cloned());
                let same_life = replaced
                    .filter(|entry| entry.instance.incarnation == instance.incarnation)
                    .map(|entry| &*entry.lease);
                let lease = Arc::new(grant(instance, same_life));
                let instance = Arc::clone(instance);
                published
                    .granted
                    .push(Grant { instance: Arc::clone(&instance), lease: Arc::clone(&lease) });
                Arc::new(Entry::new(instance, lease))
            }
        });
    }
    for left in old {
        published.moved(Some(left), None);
        published.ended.push(Arc::clone(left));
    }
    ServiceView::new(key.clone(), service.revision, entries.into_boxed_slice())
}
