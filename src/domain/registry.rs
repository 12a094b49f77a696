//! The folded state: which services there are, and who lives in them.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::check::{Check, Detector};
use super::health::{ProbeVerdict, Signals};
use super::ids::{InstanceKey, Namespace, Seq, ServiceKey};
use super::instance::Instance;
use super::roster::Roster;
use super::time::{Millis, Timestamp};

/// One service: it stays, once it was registered, also when nobody is left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// The `seq` of the last change of what a lookup of it can answer.
    pub revision: Seq,
    /// Who lives there, in the order of their ids.
    pub instances: Roster,
}

/// The state after a change. Equal histories make equal registries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    head: Seq,
    at: Timestamp,
    services: BTreeMap<ServiceKey, Service>,
    instances: usize,
    /// How many instances live in each namespace; those without one are not here.
    namespaces: BTreeMap<Namespace, usize>,
    digest: u64,
}

/// What one fold replaced; gives the state before it back. Undo in the reverse order of folding.
#[derive(Debug)]
#[must_use = "without it a failed append can't be taken back"]
pub struct PreImage {
    head: Seq,
    at: Timestamp,
    entry: Option<EntryBefore>,
}

impl PreImage {
    /// Of whom something was replaced, and what; none as the instance where it did not live.
    #[must_use]
    pub fn replaced(&self) -> Option<(&InstanceKey, Option<&Arc<Instance>>)> {
        self.entry.as_ref().map(|entry| (&entry.key, entry.instance.as_ref()))
    }
}

#[derive(Debug)]
struct EntryBefore {
    key: InstanceKey,
    instance: Option<Arc<Instance>>,
    /// None where the service did not exist.
    revision: Option<Seq>,
}

impl Registry {
    /// The state after change `head`, put together from what was kept of it; for snapshots only. Everything else
    /// folds.
    #[must_use]
    pub fn from_parts(
        head: Seq,
        at: Timestamp,
        services: impl IntoIterator<Item = (ServiceKey, Service)>,
    ) -> Self {
        let mut registry = Self::from_digested(head, at, services, 0);
        let living = registry.services.values().flat_map(|service| service.instances.values());
        registry.digest = living.fold(0, |sum: u64, one| sum.wrapping_add(digest_of(one)));
        registry
    }

    /// The same for whoever has added up [`digest_of`] of all these instances, on several threads perhaps.
    #[must_use]
    pub fn from_digested(
        head: Seq,
        at: Timestamp,
        services: impl IntoIterator<Item = (ServiceKey, Service)>,
        digest: u64,
    ) -> Self {
        let services: BTreeMap<ServiceKey, Service> = services.into_iter().collect();
        let instances = services.values().map(|service| service.instances.len()).sum();
        let mut namespaces = BTreeMap::new();
        for (key, service) in &services {
            count(&mut namespaces, &key.namespace, 0, service.instances.len());
        }
        Self { head, at, services, instances, namespaces, digest }
    }

    /// The last change folded.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.head
    }

    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// How many instances live.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        self.instances
    }

    /// How many instances live in a namespace. Costs one look-up, whatever their number.
    #[must_use]
    pub fn instances_in(&self, namespace: &Namespace) -> usize {
        self.namespaces.get(namespace).copied().unwrap_or_default()
    }

    /// How many services are known.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// A hash of all instances and revisions' owners: the sum of the hashes of each instance, so that
    /// it costs one instance a change and does not depend on the order of arrival. Two registries with
    /// the same instances have the same digest; it is stable across versions of the program.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// All services in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Service)> {
        self.services.iter()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// One living instance.
    #[must_use]
    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.services.get(&key.service)?.instances.get(&key.instance)
    }

    /// Moves the head; for the fold only.
    pub(super) fn advance(&mut self, head: Seq, at: Timestamp) -> PreImage {
        let before = PreImage { head: self.head, at: self.at, entry: None };
        self.head = head;
        self.at = at;
        before
    }

    /// Puts, replaces or (with `None`) removes an instance and moves its service's revision; for the
    /// fold only.
    pub(super) fn set(
        &mut self,
        key: &InstanceKey,
        instance: Option<Arc<Instance>>,
        revision: Seq,
        before: &mut PreImage,
    ) {
        let existed = self.services.get(&key.service).map(|service| service.revision);
        let old = self.replace(key, instance, revision);
        before.entry = Some(EntryBefore { key: key.clone(), instance: old, revision: existed });
    }

    /// Takes a fold back.
    pub fn undo(&mut self, before: PreImage) {
        self.head = before.head;
        self.at = before.at;
        if let Some(EntryBefore { key, instance, revision }) = before.entry {
            self.replace(&key, instance, revision.unwrap_or_default());
            if revision.is_none() {
                self.services.remove(&key.service);
            }
        }
    }

    fn replace(
        &mut self,
        key: &InstanceKey,
        instance: Option<Arc<Instance>>,
        revision: Seq,
    ) -> Option<Arc<Instance>> {
        if !self.services.contains_key(&key.service) {
            self.services.insert(key.service.clone(), Service::default());
        }
        let service = self.services.get_mut(&key.service)?;
        service.revision = revision;
        let after = instance.as_deref().map_or(0, digest_of);
        let living = instance.is_some();
        let old = match instance {
            Some(instance) => service.instances.insert(sharing(service, instance)),
            None => service.instances.remove(&key.instance),
        };
        let before = old.as_deref().map_or(0, digest_of);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        let (gone, came) = (usize::from(old.is_some()), usize::from(living));
        self.instances = self.instances + came - gone;
        if came != gone {
            count(&mut self.namespaces, &key.service.namespace, gone, came);
        }
        old
    }
}

/// This instance with the texts that it has in common with one that stands around its place, as all of a service often
/// have: it is what is kept for long. Which texts lie where is no part of an instance's value.
fn sharing(service: &Service, instance: Arc<Instance>) -> Arc<Instance> {
    let around = service.instances.around(&instance.key.instance);
    let alike = around.clone().find(|other| other.labels == instance.labels);
    let shared = alike.or(around.clone().next()).and_then(|other| instance.shared_with(other));
    drop(around);
    shared.map_or(instance, Arc::new)
}

/// Moves the count of a namespace. An empty one is forgotten, so that equal states are equal whatever came before.
fn count(namespaces: &mut BTreeMap<Namespace, usize>, name: &Namespace, gone: usize, came: usize) {
    match namespaces.get_mut(name) {
        Some(living) => {
            *living = (*living + came).saturating_sub(gone);
            if *living == 0 {
                namespaces.remove(name);
            }
        }
        None if came > gone => {
            namespaces.insert(name.clone(), came - gone);
        }
        None => {}
    }
}

/// What one instance adds to [`Registry::digest`]: a hash of every field, in the order written here, texts with
/// their length before them. Changing this changes what `checkpoint` events of the past say: do not.
#[must_use]
pub fn digest_of(instance: &Instance) -> u64 {
    fn text(hasher: &mut Xxh3Default, text: &str) {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    }
    fn number(hasher: &mut Xxh3Default, number: u64) {
        hasher.write(&number.to_le_bytes());
    }
    let mut hasher = Xxh3Default::new();
    let h = &mut hasher;
    text(h, instance.key.service.namespace.as_str());
    text(h, instance.key.service.service.as_str());
    text(h, instance.key.instance.as_str());
    number(h, instance.incarnation.0);
    text(h, &instance.endpoint.address);
    number(h, u64::from(instance.endpoint.port));
    text(h, &instance.endpoint.protocol);
    text(h, instance.labels.version().unwrap_or(""));
    text(h, instance.labels.zone().unwrap_or(""));
    number(h, u64::from(instance.weight));
    let (tags, metadata) = (instance.labels.tags(), instance.labels.metadata());
    number(h, tags.len() as u64);
    for tag in tags {
        text(h, tag);
    }
    number(h, metadata.len() as u64);
    for (key, value) in metadata {
        text(h, key);
        text(h, value);
    }
    text(h, instance.mode.as_str());
    text(h, instance.status.as_str());
    number(h, instance.ttl.map_or(u64::MAX, Millis::millis));
    h.write(&instance.registered_at.micros().to_le_bytes());
    number(h, instance.revision.0);
    later_fields(h, instance);
    h.finish()
}

/// The fields that came later: each adds something only where it is not what instances were before it.
fn later_fields(h: &mut Xxh3Default, instance: &Instance) {
    let mut field = |name: &str, value: &dyn std::fmt::Debug| {
        h.write(name.as_bytes());
        h.write(format!("{value:?}").as_bytes());
    };
    let Signals { late, reported_failing, probe, flapping } = instance.signals;
    if instance.signals != Signals::implied_by(instance.status) {
        field("signals", &(late, reported_failing, probe.map(ProbeVerdict::as_str), flapping));
    }
    if let Detector::Phi { threshold_milli } = instance.detector {
        field("phi", &threshold_milli);
    }
    if let Some(until) = instance.drain_until {
        field("drain", &until.micros());
    }
    if let Some(check) = &instance.check {
        let Check { kind, port, path, method, expect, service, tls, .. } = &**check;
        field("check", &(kind.as_str(), port, path, method.as_str(), expect, service, tls));
        let Check { interval, timeout, initial_delay, failures, passes, .. } = &**check;
        let times = [interval, timeout, initial_delay].map(|time| time.millis());
        let removed = check.deregister_after.map(Millis::millis);
        field("rhythm", &(times, failures, passes, removed));
        field("from", &check.registered_from.map(|from| from.to_string()));
    }
}
