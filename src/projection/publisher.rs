//! The writing side of the projection. There is one, and the registrar has it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use arc_swap::ArcSwap;

use super::sheet::{Entries, EntryRef, Sheet};
use super::{Entry, Projection, ServiceCell, ServiceView};
use crate::domain::registry::Service;
use crate::domain::roster::Leaf;
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
    pub ended: Vec<Entry>,
    /// How the numbers of instances moved, a row for each service and status where they did.
    pub shifts: Vec<Shift>,
    /// Instances with a check that came, changed or left; none of the last.
    checked: Vec<(InstanceKey, Option<Arc<Instance>>)>,
}

impl Published {
    /// Notes that `instance` came in the stead of `before`, if there is something to probe or was.
    fn moved(&mut self, before: Option<EntryRef<'_>>, instance: Option<&Arc<Instance>>) {
        let had = before.map(|before| before.instance).filter(|before| before.check.is_some());
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
                    let nobody = ServiceView::new(key.clone(), before.revision, Entries::default());
                    left.shifts.extend(shifts(key, Some(&before), &nobody));
                    left.ended.extend(before.entries.iter().map(EntryRef::owned));
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
        self.projection.head.store(head.0, Release);
        published
    }
}

fn shifts<'a>(
    key: &'a ServiceKey,
    before: Option<&ServiceView>,
    after: &ServiceView,
) -> impl Iterator<Item = Shift> + 'a {
    let count = |view: &ServiceView, status: Status| {
        i32::try_from(view.entries.count_status(status)).unwrap_or(i32::MAX)
    };
    let moved = [Status::Healthy, Status::Unstable, Status::Failed].map(|status| {
        (status, count(after, status) - before.map_or(0, |view| count(view, status)))
    });
    let moved = moved.into_iter().filter(|(_, change)| *change != 0);
    moved.map(|(status, change)| Shift { service: key.clone(), status, change })
}

/// The view of `service` that follows `before`. Sheets whose leaf is where it was are shared: what lies between two of
/// them was changed, and is gone through. Leases of the living are kept.
///
/// ```text
///   before   [a][b][c]      [d][e]        both are in the order of the ids, so that what is not shared and begins first
///   after    [a][ ][c][ ][ ][d][ ]        is looked at first, and no shared one is passed over
/// ```
fn next_view(
    key: &ServiceKey,
    service: &Service,
    before: Option<&ServiceView>,
    grant: &impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    published: &mut Published,
) -> ServiceView {
    let mut old = before.map_or(&[][..], |before| before.entries.sheets());
    let mut new = service.instances.leaves();
    let mut sheets = Vec::with_capacity(new.len());
    loop {
        let (mut left, mut came) = (old, new);
        while let Some((gone, more)) = first_unshared(old, new) {
            (old, new) = (&old[gone..], &new[more..]);
        }
        left = &left[..left.len() - old.len()];
        came = &came[..came.len() - new.len()];
        sheets.extend(changed(left, came, grant, published));
        let ([shared, after @ ..], [_, rest @ ..]) = (old, new) else { break };
        sheets.push(Arc::clone(shared));
        (old, new) = (after, rest);
    }
    ServiceView::new(key.clone(), service.revision, Entries::new(sheets.into()))
}

/// Whether to pass over the first of the old sheets, the first of the new leaves, or both; none if they are shared, or there
/// are no more of either.
fn first_unshared(old: &[Arc<Sheet>], new: &[Leaf]) -> Option<(usize, usize)> {
    let id = |leaf: &Leaf| leaf.first().map(|first| first.key.instance.clone());
    match (old.first(), new.first()) {
        (None, None) => None,
        (Some(_), None) => Some((1, 0)),
        (None, Some(_)) => Some((0, 1)),
        (Some(sheet), Some(leaf)) if Arc::ptr_eq(sheet.leaf(), leaf) => None,
        (Some(sheet), Some(leaf)) => Some(match id(sheet.leaf()).cmp(&id(leaf)) {
            Ordering::Less => (1, 0),
            Ordering::Equal => (1, 1),
            Ordering::Greater => (0, 1),
        }),
    }
}

/// The sheets of these leaves, which have come in the stead of those sheets.
fn changed(
    left: &[Arc<Sheet>],
    came: &[Leaf],
    grant: &impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    published: &mut Published,
) -> Vec<Arc<Sheet>> {
    let mut old = left.iter().flat_map(|sheet| sheet.iter()).peekable();
    let mut sheets = Vec::with_capacity(came.len());
    for (number, leaf) in came.iter().enumerate() {
        let mut leases = Vec::with_capacity(leaf.len());
        for instance in leaf.iter() {
            // Both sides are sorted by id: what the old one has and the new one has not, has left.
            let id = &instance.key.instance;
            while let Some(gone) = old.next_if(|entry| entry.instance.key.instance < *id) {
                published.moved(Some(gone), None);
                published.ended.push(gone.owned());
            }
            let same = old.next_if(|entry| entry.instance.key.instance == *id);
            leases.push(lease_of(instance, same, grant, published));
        }
        let sheet = Sheet::new(Arc::clone(leaf), leases.into());
        // Where one was divided, both halves follow it.
        sheets.push(Arc::new(match left.get(number).or_else(|| left.last()) {
            Some(before) => sheet.after(before),
            None => sheet,
        }));
    }
    for gone in old {
        published.moved(Some(gone), None);
        published.ended.push(gone.owned());
    }
    sheets
}

/// The lease of an instance that stands where `before` stood: the same, if that is of the same life and its rules did not
/// change.
fn lease_of(
    instance: &Arc<Instance>,
    before: Option<EntryRef<'_>>,
    grant: &impl Fn(&Arc<Instance>, Option<&Lease>) -> Lease,
    published: &mut Published,
) -> Arc<Lease> {
    if let Some(entry) = before
        && Arc::ptr_eq(entry.instance, instance)
    {
        return Arc::clone(entry.lease);
    }
    published.moved(before, Some(instance));
    let same_life = before.filter(|entry| entry.instance.incarnation == instance.incarnation);
    let same_rules = |entry: &EntryRef<'_>| {
        entry.instance.ttl == instance.ttl && entry.instance.detector == instance.detector
    };
    if let Some(entry) = same_life.filter(same_rules) {
        return Arc::clone(entry.lease);
    }
    published.ended.extend(before.map(EntryRef::owned));
    let lease = Arc::new(grant(instance, same_life.map(|entry| &**entry.lease)));
    let granted = Grant { instance: Arc::clone(instance), lease: Arc::clone(&lease) };
    published.granted.push(granted);
    lease
}
