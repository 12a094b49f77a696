//! The state after a change, and how it is stored: a header, and for each service one or more parts that stand alone.
//!
//! Snapshots only shorten the way: whatever is in one was folded from changes, and folding the changes after it
//! gives what folding all of them would have given. Pure: the rows are written and read by the log that keeps
//! them ([`super::sqlite`]). It must never give back what was not stored: each part has a checksum, and the
//! header one over all of theirs.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::codec::{
    self, DecodeError, StoredHeartbeat, StoredInstance, Text, hex, load_heartbeat, load_instance,
    payload, store_heartbeat, store_instance,
};
use super::upkeep::{Living, ServiceState};
use crate::domain::event::{Event, HeartbeatRef};
use crate::domain::registry::{Service, digest_of};
use crate::domain::{
    Change, Instance, Namespace, Registry, Seq, ServiceKey, ServiceName, Timestamp, TraceRef, fold,
};

/// The newest version of part; one without anything newer in it is written as the first.
pub const FORMAT: u32 = 2;

/// About how long a part gets before the next one begins: it is written in one go, while others wait.
const PART_BYTES: usize = 128 * 1_024;

/// What is known of a living instance beyond the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Life {
    /// Its last heartbeat, as far as it is known.
    pub last_heartbeat: Option<HeartbeatRef>,
    /// The trace of the registration that began this life.
    pub registration: TraceRef,
}

/// What is known of each of the living, by incarnation, which no two lives of a log share: it is the number of the change
/// that began the life. There may be a million of them, and a number is found and kept at a fraction of three names.
pub type Lives = HashMap<Seq, Life, RandomState>;

/// The state after a change, with what a registry needs beside it to go on from there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The state.
    pub registry: Registry,
    /// What is known of those who live in it.
    pub lives: Lives,
    /// Heartbeats with a lower number are known to `lives`, but for those that were being noted at that moment: at
    /// most one flush of traffic.
    pub next_traffic: u64,
}

impl Snapshot {
    /// Folds the next change. Heartbeats are traffic: those after the snapshot are not known from changes.
    pub fn fold(&mut self, change: &Change) {
        let begins = matches!(&change.event, Event::Registered { instance, .. } if instance.incarnation == change.seq);
        let ends = matches!(&change.event, Event::Deregistered { .. } | Event::Expired { .. });
        if begins || ends {
            // A life may also begin where another one of the same name has not ended before.
            let key = change.event.key();
            if let Some(ended) = key.and_then(|key| self.registry.instance(key)) {
                self.lives.remove(&ended.incarnation);
            }
        }
        if begins {
            let life = Life { registration: change.trace, ..Life::default() };
            self.lives.insert(change.seq, life);
        }
        // What is in the log is not taken back.
        drop(fold(&mut self.registry, change));
    }

    /// The services as they are written, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = ServiceState> {
        self.registry.services().map(|(key, service)| ServiceState {
            key: key.clone(),
            revision: service.revision,
            instances: service.instances.values().map(|instance| self.living(instance)).collect(),
        })
    }

    /// The same, encoded, with the header that belongs to it.
    #[must_use]
    pub fn encode(&self) -> (Header, Vec<Part>) {
        let (mut tally, mut all) = (Tally::default(), Vec::new());
        for state in self.services() {
            let parts = encode(self.registry.head(), &state);
            tally.add(&state, &parts);
            all.extend(parts);
        }
        (tally.header(self.registry.head(), self.registry.at(), self.next_traffic), all)
    }

    fn living(&self, instance: &Arc<Instance>) -> Living {
        let life = self.lives.get(&instance.incarnation).copied().unwrap_or_default();
        let Life { last_heartbeat, registration } = life;
        Living { instance: Arc::clone(instance), last_heartbeat, registration }
    }
}

/// What a snapshot is, without what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Header {
    /// After which change.
    pub seq: u64,
    /// When that happened, in microseconds since the epoch.
    pub at: i64,
    /// See [`Snapshot::next_traffic`].
    pub next_traffic: u64,
    /// Services known.
    pub services: u64,
    /// Instances alive.
    pub instances: u64,
    /// Hash of them, in hexadecimal.
    pub digest: String,
    /// Bytes of all parts, about.
    pub bytes: u64,
    /// CRC-32 over the above and over the names and checksums of all parts.
    pub checksum: u32,
}

/// One service of a snapshot, or a part of a large one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Part {
    /// Of which snapshot.
    pub seq: u64,
    /// Of which service.
    pub namespace: String,
    /// See above.
    pub service: String,
    /// The service's revision.
    pub revision: u64,
    /// 0, 1, 2, ...
    pub part: u64,
    /// How many parts this service has.
    pub parts: u64,
    /// Version of `instances`.
    pub format: u32,
    /// CRC-32 over everything else.
    pub checksum: u32,
    /// JSON.
    pub instances: String,
}

#[derive(Serialize, Deserialize)]
struct StoredLiving<'a> {
    #[serde(borrow)]
    instance: StoredInstance<'a>,
    #[serde(borrow)]
    lease: StoredLease<'a>,
}

#[derive(Serialize, Deserialize)]
struct StoredLease<'a> {
    #[serde(borrow)]
    last_heartbeat: Option<StoredHeartbeat<Text<'a>>>,
    #[serde(borrow)]
    trace_id: Text<'a>,
    #[serde(borrow)]
    span_id: Text<'a>,
}

impl Part {
    /// The checksum that the other fields call for.
    #[must_use]
    pub fn expected_checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for number in [self.seq, self.revision, self.part, self.parts, u64::from(self.format)] {
            crc.update(&number.to_le_bytes());
        }
        for text in [&self.namespace, &self.service, &self.instances] {
            crc.update(&(text.len() as u64).to_le_bytes());
            crc.update(text.as_bytes());
        }
        crc.finalize()
    }

    /// Takes the part apart.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not what [`encode`] wrote.
    pub fn decode(&self) -> Result<ServiceState, DecodeError> {
        let expected = self.expected_checksum();
        if self.checksum != expected {
            return Err(DecodeError::Checksum { found: self.checksum, expected });
        }
        if self.format > FORMAT {
            return Err(DecodeError::Newer(self.format));
        }
        let stored: Vec<StoredLiving<'_>> =
            serde_json::from_str(&self.instances).map_err(payload)?;
        let mut instances: Vec<Living> = Vec::with_capacity(stored.len());
        for living in stored {
            let near = instances.last().map(|living| Arc::clone(&living.instance));
            instances.push(load_living(living, near.as_deref())?);
        }
        Ok(ServiceState {
            key: ServiceKey {
                namespace: Namespace::new(&self.namespace).map_err(payload)?,
                service: ServiceName::new(&self.service).map_err(payload)?,
            },
            revision: Seq(self.revision),
            instances,
        })
    }

    /// About how much it takes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.namespace.len() + self.service.len() + self.instances.len() + 40) as u64
    }
}

fn load_living(stored: StoredLiving<'_>, near: Option<&Instance>) -> Result<Living, DecodeError> {
    let StoredLease { last_heartbeat, trace_id, span_id } = &stored.lease;
    Ok(Living {
        last_heartbeat: last_heartbeat.as_ref().map(load_heartbeat).transpose()?,
        registration: codec::trace_of(trace_id, span_id)?,
        instance: Arc::new(load_instance(stored.instance, near)?),
    })
}

/// Encodes a service of snapshot `seq`: as one part, or as several if it is large.
#[must_use]
pub fn encode(seq: Seq, state: &ServiceState) -> Vec<Part> {
    let mut texts = vec![String::from("[")];
    for living in &state.instances {
        let stored = StoredLiving {
            instance: store_instance(&living.instance),
            lease: StoredLease {
                last_heartbeat: living.last_heartbeat.map(store_heartbeat),
                trace_id: hex(&living.registration.trace_id).into(),
                span_id: hex(&living.registration.span_id).into(),
            },
        };
        let text = serde_json::to_string(&stored).expect("strings and numbers are always JSON");
        if texts.last().is_some_and(|last| last.len() + text.len() > PART_BYTES) {
            texts.push(String::from("["));
        }
        if let Some(last) = texts.last_mut() {
            if last.len() > 1 {
                last.push(',');
            }
            last.push_str(&text);
        }
    }
    let parts = texts.len() as u64;
    let plain = state.instances.iter().all(|living| codec::is_plain(&living.instance));
    let format = if plain { 1 } else { FORMAT };
    let part = |(part, text): (u64, String)| {
        let mut part = Part {
            seq: seq.0,
            namespace: state.key.namespace.to_string(),
            service: state.key.service.to_string(),
            revision: state.revision.0,
            part,
            parts,
            format,
            checksum: 0,
            instances: text + "]",
        };
        part.checksum = part.expected_checksum();
        part
    };
    (0..).zip(texts).map(part).collect()
}

/// Which parts there are, in the order of their names: what a header's checksum holds together. It can be had without
/// reading what the parts hold.
#[derive(Clone, Debug, Default)]
pub struct List(crc32fast::Hasher);

impl List {
    /// The next part.
    pub fn add(&mut self, namespace: &str, service: &str, checksum: u32) {
        for text in [namespace, service] {
            self.0.update(&(text.len() as u64).to_le_bytes());
            self.0.update(text.as_bytes());
        }
        self.0.update(&checksum.to_le_bytes());
    }
}

/// Adds up what a header says of its parts, while these go by in the order of their names.
#[derive(Debug, Default)]
pub struct Tally {
    services: u64,
    instances: u64,
    digest: u64,
    bytes: u64,
    list: List,
}

impl Tally {
    /// The next service, and what it was encoded to.
    pub fn add(&mut self, state: &ServiceState, parts: &[Part]) {
        self.services += 1;
        self.instances += state.instances.len() as u64;
        for living in &state.instances {
            self.digest = self.digest.wrapping_add(digest_of(&living.instance));
        }
        for part in parts {
            self.bytes += part.bytes();
            self.list.add(&part.namespace, &part.service, part.checksum);
        }
    }

    /// The header of the snapshot of this version.
    #[must_use]
    pub fn header(&self, seq: Seq, at: Timestamp, next_traffic: u64) -> Header {
        let mut header = Header {
            seq: seq.0,
            at: at.micros(),
            next_traffic,
            services: self.services,
            instances: self.instances,
            digest: format!("{:016x}", self.digest),
            bytes: self.bytes,
            checksum: 0,
        };
        header.checksum = header.expected_checksum(&self.list);
        header
    }
}

impl Header {
    fn expected_checksum(&self, parts: &List) -> u32 {
        let mut crc = parts.0.clone();
        for number in [self.seq, self.next_traffic, self.services, self.instances, self.bytes] {
            crc.update(&number.to_le_bytes());
        }
        crc.update(&self.at.to_le_bytes());
        crc.update(self.digest.as_bytes());
        crc.finalize()
    }

    /// Whether this header belongs to these parts.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub fn check(&self, parts: &List) -> Result<(), DecodeError> {
        let expected = self.expected_checksum(parts);
        if self.checksum == expected {
            return Ok(());
        }
        Err(DecodeError::Checksum { found: self.checksum, expected })
    }
}

/// A part that was taken apart, with what of it the header's sums are made of.
#[derive(Debug)]
pub struct Decoded {
    state: ServiceState,
    checksum: u32,
    digest: u64,
}

impl Decoded {
    /// Takes a part apart. Any thread may do that: it is most of the work of reading a snapshot.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not what was written.
    pub fn of(part: &Part) -> Result<Self, DecodeError> {
        let state = part.decode()?;
        let instances = state.instances.iter();
        let digest = instances.fold(0, |sum: u64, l| sum.wrapping_add(digest_of(&l.instance)));
        Ok(Self { state, checksum: part.checksum, digest })
    }
}

/// Puts a snapshot together from its parts, which come in the order of their names.
#[derive(Debug)]
pub struct Builder {
    header: Header,
    list: List,
    services: Vec<(ServiceKey, Service)>,
    lives: Lives,
    digest: u64,
}

impl Builder {
    /// A builder of what `header` says.
    #[must_use]
    pub fn new(header: Header) -> Self {
        // What a damaged header claims reserves no memory.
        let (list, services, lives) = (List::default(), Vec::new(), Lives::default());
        Self { header, list, services, lives, digest: 0 }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not what was written.
    pub fn add(&mut self, part: &Part) -> Result<(), DecodeError> {
        self.put(Decoded::of(part)?);
        Ok(())
    }

    /// The same, taken apart. One that is not the next is found out by [`Builder::finish`].
    pub fn put(&mut self, part: Decoded) {
        let Decoded { state, checksum, digest } = part;
        let ServiceKey { namespace, service } = &state.key;
        self.list.add(namespace.as_str(), service.as_str(), checksum);
        self.digest = self.digest.wrapping_add(digest);
        self.lives.reserve(state.instances.len());
        for Living { instance, last_heartbeat, registration } in &state.instances {
            let life = Life { last_heartbeat: *last_heartbeat, registration: *registration };
            self.lives.insert(instance.incarnation, life);
        }
        join(&mut self.services, state);
    }

    /// The snapshot.
    ///
    /// # Errors
    /// [`DecodeError`]: the parts are not those that belong to the header.
    pub fn finish(self) -> Result<Snapshot, DecodeError> {
        let Self { header, list, services, lives, digest } = self;
        header.check(&list)?;
        let registry =
            Registry::from_digested(Seq(header.seq), Timestamp(header.at), services, digest);
        let says = (header.services, header.instances, header.digest);
        let holds = (
            registry.service_count() as u64,
            registry.instance_count() as u64,
            format!("{:016x}", registry.digest()),
        );
        if says != holds {
            return Err(payload(format!(
                "it says {} services, {} instances, hash {}, and holds {}, {}, {}",
                says.0, says.1, says.2, holds.0, holds.1, holds.2
            )));
        }
        Ok(Snapshot { registry, lives, next_traffic: header.next_traffic })
    }
}

/// Adds a part's instances to the services put together so far.
fn join(services: &mut Vec<(ServiceKey, Service)>, state: ServiceState) {
    let ServiceState { key, revision, instances } = state;
    if services.last().is_none_or(|(last, _)| *last != key) {
        services.push((key, Service { revision, ..Service::default() }));
    }
    if let Some((_, service)) = services.last_mut() {
        let living = instances.into_iter().map(|living| living.instance);
        service.instances.extend(living);
    }
}

/// One service from all of its parts, in their order; none of none.
///
/// # Errors
/// [`DecodeError`]: a part is missing, or not what was written.
pub fn service_of(parts: &[Part]) -> Result<Option<Service>, DecodeError> {
    let Some(first) = parts.first() else { return Ok(None) };
    if !parts.iter().map(|part| part.part).eq(0..first.parts) {
        return Err(payload(format!("{} of {} parts are there", parts.len(), first.parts)));
    }
    let mut services = Vec::with_capacity(1);
    for part in parts {
        join(&mut services, part.decode()?);
    }
    Ok(services.pop().map(|(_, service)| service))
}
