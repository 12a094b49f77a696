//! From the log to a state that can serve: replay, the last heartbeats, a check, leases with a fresh grace.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::readiness::{Phase, Readiness};
use super::thread::Registrar;
use crate::clock::Monotonic;
use crate::domain::event::{Event, HeartbeatRef, Note, Recovered};
use crate::domain::traffic::Detail;
use crate::domain::{InstanceKey, Seq, ServiceKey, Timestamp, fold, invariants};
use crate::lease::Lease;
use crate::log::{AppendError, ReadError};
use crate::telemetry::signals;

/// Changes read at once.
const CHUNK: usize = 8_192;

/// Traffic events read backwards to find the last heartbeats: what is older than these millions is not
/// worth the wait, every lease has a fresh grace anyway.
const TRAFFIC_MAX: u64 = 1_000_000;

/// Why a registry can't serve.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The log can't be read, or something in it is not what was written.
    #[error("replay stopped; `rollcall verify` says more")]
    Read(#[from] ReadError),
    /// A change does not follow from those before it.
    #[error(
        "replay stopped at a change that does not follow from those before it; `rollcall verify` says more"
    )]
    Violation(#[from] invariants::Violation),
    /// The log can't be written.
    #[error("the log can't be written")]
    Write(#[from] AppendError),
}

/// What is known of the run before.
struct Before {
    clean: bool,
    last_at: Option<Timestamp>,
}

impl Registrar {
    /// Brings the state up to the head of the log and publishes it.
    pub(super) fn recover(
        &mut self,
        readiness: &Readiness,
        version: &str,
        node: &str,
    ) -> Result<(), RecoverError> {
        let clock = Arc::clone(&self.shared.clock);
        let (started, ready_wall) = (clock.monotonic(), clock.wall());
        let before = Before { last_at: self.log.last_at(), clean: self.log.begin()? };
        let total = self.log.head();
        self.replay(readiness, total)?;
        invariants::check_registry(&self.registry)?;
        let (heartbeats, traffic) = self.last_heartbeats()?;
        self.publish_recovered(&heartbeats, clock.monotonic());
        let took = clock.monotonic().since(started);
        let recovered = Recovered {
            changes: total.0,
            traffic,
            instances: self.registry.instance_count() as u64,
            services: self.registry.service_count() as u64,
            took,
            clean: before.clean,
            traffic_missing_from: before.last_at.filter(|_| !before.clean),
            digest: self.registry.digest(),
        };
        signals::recovered(
            &self.telemetry.metrics.replay,
            &signals::Recovered {
                snapshot: (0, std::time::Duration::ZERO),
                tail: (recovered.changes + traffic, took.to_duration()),
                head_seq: total.0,
                instances: recovered.instances,
                services: recovered.services,
                ready_at: super::observe::system_time(ready_wall),
            },
        );
        self.note(Note::Started { version: version.into(), node: node.into() });
        self.note(Note::Recovered(recovered.clone()));
        readiness.set_ready(recovered);
        Ok(())
    }

    fn replay(&mut self, readiness: &Readiness, total: Seq) -> Result<(), RecoverError> {
        loop {
            let from = self.registry.head().next();
            readiness.set(Phase::Replaying { done: self.registry.head().0, total: total.0 });
            let changes = self.log.read(from, CHUNK)?;
            if changes.is_empty() {
                return Ok(());
            }
            for change in &changes {
                invariants::check_change(&self.registry, change)?;
                match &change.event {
                    Event::Registered { instance, .. } if instance.incarnation == change.seq => {
                        self.origins.insert(change.seq, change.trace);
                    }
                    Event::Deregistered { .. } | Event::Expired { .. } => {
                        self.origins.remove(&change.cause.unwrap_or_default());
                    }
                    _ => {}
                }
                // What is in the log is not taken back.
                drop(fold(&mut self.registry, change));
            }
        }
    }

    /// The last heartbeat of each living instance, and how many traffic events were read for it.
    fn last_heartbeats(&mut self) -> Result<(HashMap<InstanceKey, HeartbeatRef>, u64), ReadError> {
        let mut wanted: HashMap<InstanceKey, Seq> = self
            .registry
            .services()
            .flat_map(|(_, service)| service.instances.values())
            .map(|instance| (instance.key.clone(), instance.incarnation))
            .collect();
        let mut found = HashMap::new();
        let mut before = self.log.next_number();
        let mut read = 0;
        while !wanted.is_empty() && before > 1 && read < TRAFFIC_MAX {
            let events = match self.log.read_back(before, CHUNK) {
                // Traffic is no state: what is damaged there costs the names of some last heartbeats.
                Err(ReadError::Damaged { place, what }) => {
                    signals::traffic_damaged(&place, &what);
                    break;
                }
                read => read?,
            };
            let Some(oldest) = events.last() else { break };
            before = oldest.number;
            read += events.len() as u64;
            for event in events {
                let Detail::Heartbeat { incarnation, .. } = event.traffic.detail else { continue };
                let (Some(namespace), Some(service), Some(instance)) =
                    (event.traffic.namespace, event.traffic.service, event.traffic.instance)
                else {
                    continue;
                };
                let key = InstanceKey { service: ServiceKey { namespace, service }, instance };
                if wanted.get(&key) == Some(&incarnation) {
                    wanted.remove(&key);
                    let (at, id, trace) = (event.traffic.at, event.number, event.traffic.trace);
                    found.insert(key, HeartbeatRef { at, id, trace });
                }
            }
        }
        Ok((found, read))
    }

    fn publish_recovered(
        &mut self,
        heartbeats: &HashMap<InstanceKey, HeartbeatRef>,
        now: Monotonic,
    ) {
        let all: BTreeSet<ServiceKey> =
            self.registry.services().map(|(key, _)| key.clone()).collect();
        let published = self.publisher.publish(&self.registry, &all, |instance| {
            let last = heartbeats.get(&instance.key).copied();
            Lease::replayed(instance.ttl, instance.status, last, now)
        });
        self.watch(published.granted, now);
        self.telemetry.shifted(&published.shifts);
    }
}
