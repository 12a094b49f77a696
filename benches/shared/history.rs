//! Histories to measure with: seeded, so that every run measures the same events, and made by the very rules of
//! the registry, so that they are such as a log holds. Used by both benches.

use std::sync::Arc;

use fastrand::Rng;
use rollcall::domain::command::{Deregister, Precondition, Register, Update};
use rollcall::domain::instance::Endpoint;
use rollcall::domain::traffic::{Detail, Traffic};
use rollcall::domain::{
    Change, Command, Detector, InstanceId, InstanceKey, Millis, Mode, Namespace, Registry, Seq,
    ServiceKey, ServiceName, Timestamp, TraceRef, decide, fold,
};

/// The instant at which histories begin: 2026-11-21T08:00:00Z.
const BEGIN: Timestamp = Timestamp(1_795_248_000_000_000);

/// How many services the random histories are about.
pub(crate) const SERVICES: usize = 200;

/// How many instances of each.
pub(crate) const INSTANCES: usize = 5;

/// Changes that are handed on at once.
const GROUP: usize = 1_024;

/// The name of service `number`.
pub(crate) fn service(number: usize) -> ServiceKey {
    ServiceKey {
        namespace: Namespace::default(),
        service: ServiceName::new(&format!("service-{number:04}")).expect("a legal name"),
    }
}

fn key(service_number: usize, instance: usize) -> InstanceKey {
    let service = service(service_number);
    let id = format!("{}-{instance}", service.service);
    InstanceKey { service, instance: InstanceId::new(&id).expect("a legal name") }
}

/// A trace of which nothing is known but that it is one.
fn trace(rng: &mut Rng) -> TraceRef {
    TraceRef { trace_id: rng.u128(1..).to_be_bytes(), span_id: rng.u64(1..).to_be_bytes() }
}

/// `changes` with the numbers after `head`.
pub(crate) fn renumbered(changes: &[Arc<Change>], head: Seq) -> Vec<Arc<Change>> {
    let numbers = head.0 + 1..;
    let change = |(seq, change): (u64, &Arc<Change>)| {
        Arc::new(Change { seq: Seq(seq), ..Change::clone(change) })
    };
    numbers.zip(changes).map(change).collect()
}

/// A registration with three tags and three pairs of metadata.
pub(crate) fn register(key: InstanceKey, rng: &mut Rng) -> Register {
    let text = |text: &str| -> Box<str> { text.into() };
    Register {
        key,
        endpoint: Endpoint {
            address: format!("10.0.{}.{}", rng.u8(..), rng.u8(..)).into(),
            port: 8080,
            protocol: "http".into(),
        },
        version: Some(format!("1.4.{}", rng.u8(..)).into()),
        zone: Some(text(if rng.bool() { "eu-1a" } else { "eu-1b" })),
        weight: None,
        tags: ["canary", "blue", "edge"].map(text).into(),
        metadata: [("env", "prod"), ("team", "checkout"), ("region", "eu-1")]
            .map(|(key, value)| (text(key), text(value)))
            .into_iter()
            .collect(),
        mode: None,
        ttl: Some(Millis::from_millis(15_000)),
        detector: Detector::Fixed,
        check: None,
        precondition: Precondition::None,
    }
}

fn update(key: InstanceKey, mode: Option<Mode>, weight: Option<u16>) -> Command {
    Command::Update(Update {
        key,
        mode,
        drain_until: None,
        weight,
        tags: None,
        metadata: None,
        precondition: Precondition::None,
    })
}

/// A command of the mix that a fleet under steady deployment makes: mostly registrations, some patches, some
/// that leave.
fn command(rng: &mut Rng) -> Command {
    let key = key(rng.usize(..SERVICES), rng.usize(..INSTANCES));
    match rng.u8(..10) {
        0..=5 => Command::Register(register(key, rng)),
        6 => update(key, None, Some(rng.u16(1..=200))),
        7 => update(key, Some(if rng.bool() { Mode::Active } else { Mode::Draining }), None),
        _ => Command::Deregister(Deregister {
            key,
            reason: Some("scale-in".into()),
            precondition: Precondition::None,
        }),
    }
}

/// `count` changes that follow from each other, the first with the number 1.
pub(crate) fn random(seed: u64, count: usize) -> Vec<Arc<Change>> {
    let mut all = Vec::new();
    random_in_groups(seed, count, |group| all.append(group));
    all
}

/// The same handed on in groups: a million at once would take as much memory as what is measured.
pub(crate) fn random_in_groups(
    seed: u64,
    count: usize,
    mut group: impl FnMut(&mut Vec<Arc<Change>>),
) {
    let mut rng = Rng::with_seed(seed);
    let mut builder = Builder::default();
    let mut made = 0;
    while made < count {
        let wanted = GROUP.min(count - made);
        while builder.changes.len() < wanted {
            let command = command(&mut rng);
            builder.take(&command, &mut rng);
        }
        made += wanted;
        group(&mut builder.changes);
        builder.changes.clear();
    }
}

/// A registry of [`SERVICES`] services with [`INSTANCES`] instances each, all of them offered.
pub(crate) fn full_registry() -> Registry {
    let mut rng = Rng::with_seed(7);
    let mut builder = Builder::default();
    for number in 0..SERVICES {
        for instance in 0..INSTANCES {
            let command = Command::Register(register(key(number, instance), &mut rng));
            builder.take(&command, &mut rng);
        }
    }
    builder.registry
}

#[derive(Default)]
struct Builder {
    registry: Registry,
    changes: Vec<Arc<Change>>,
}

impl Builder {
    /// Takes what comes of `command`; one that the rules refuse adds nothing.
    fn take(&mut self, command: &Command, rng: &mut Rng) {
        let after = i64::from(rng.u8(..)) * 1_000;
        let now = Timestamp(self.registry.at().max(BEGIN).0 + after);
        if let Ok(Some(decision)) = decide(&self.registry, command, now) {
            let caller = Some(Arc::from("deployer"));
            let change = decision.into_change(&self.registry, now, caller, trace(rng));
            // Nothing here is ever taken back.
            drop(fold(&mut self.registry, &change));
            self.changes.push(Arc::new(change));
        }
    }
}

/// `count` events of traffic: nine lookups to one heartbeat, by ten callers.
pub(crate) fn traffic(seed: u64, count: usize) -> Vec<Traffic> {
    let mut rng = Rng::with_seed(seed);
    let keys: Vec<InstanceKey> = (0..SERVICES).map(|number| key(number, 0)).collect();
    let callers: Vec<Arc<str>> = (0..10).map(|n| Arc::from(format!("caller-{n}"))).collect();
    let mut at = BEGIN.0;
    let mut event = || {
        let InstanceKey { service, instance } =
            rng.choice(&keys).expect("there are services").clone();
        let heartbeat = rng.u8(..10) == 0;
        at += i64::from(rng.u8(..40));
        Traffic {
            at: Timestamp(at),
            seen: Seq(1_000),
            namespace: Some(service.namespace),
            service: Some(service.service),
            instance: heartbeat.then_some(instance),
            caller: Arc::clone(rng.choice(&callers).expect("there are callers")),
            trace: trace(&mut rng),
            detail: if heartbeat {
                Detail::Heartbeat {
                    incarnation: Seq(rng.u64(1..1_000)),
                    load: None,
                    health: None,
                    note: None,
                    baggage: None,
                }
            } else {
                Detail::Lookup {
                    filter: "".into(),
                    revision: Seq(rng.u64(1..1_000)),
                    returned: 5,
                    status: 200,
                    held: None,
                    baggage: None,
                }
            },
        }
    };
    (0..count).map(|_| event()).collect()
}
