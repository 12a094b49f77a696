//! What the tests of several modules share: names, plain commands, random histories. In test builds only.

pub(crate) mod archive;
pub(crate) mod history;
pub(crate) mod traffic;

use std::sync::Arc;

use proptest::test_runner::{Config as ProptestConfig, RngSeed};

use crate::domain::command::{Deregister, Heartbeat, Precondition, Register, Update};
use crate::domain::instance::{Endpoint, Metadata};
use crate::domain::{
    Command, Detector, InstanceId, InstanceKey, Millis, Namespace, ServiceKey, ServiceName,
    Timestamp, TraceRef,
};

/// 2026-11-21T08:00:00Z, where the tests' wall clocks start.
pub(crate) const START: Timestamp = Timestamp(1_795_248_000_000_000);

/// The key of an instance in the default namespace.
pub(crate) fn key(service: &str, instance: &str) -> InstanceKey {
    key_in("default", service, instance)
}

/// The key of an instance.
pub(crate) fn key_in(namespace: &str, service: &str, instance: &str) -> InstanceKey {
    InstanceKey {
        service: ServiceKey {
            namespace: Namespace::new(namespace).unwrap(),
            service: ServiceName::new(service).unwrap(),
        },
        instance: InstanceId::new(instance).unwrap(),
    }
}

/// Metadata of these pairs.
pub(crate) fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// The plainest registration: port 8080, a ttl of 15 s, nothing else.
pub(crate) fn register(key: &InstanceKey) -> Register {
    Register {
        key: key.clone(),
        endpoint: Endpoint { address: "10.0.0.7".into(), port: 8080, protocol: "http".into() },
        version: None,
        zone: None,
        weight: None,
        tags: Box::default(),
        metadata: Metadata::default(),
        mode: None,
        ttl: Some(Millis::from_millis(15_000)),
        detector: Detector::Fixed,
        check: None,
        precondition: Precondition::None,
    }
}

/// A patch that changes nothing yet.
pub(crate) fn update(key: &InstanceKey) -> Update {
    Update {
        key: key.clone(),
        mode: None,
        drain_until: None,
        weight: None,
        tags: None,
        metadata: None,
        precondition: Precondition::None,
    }
}

/// A goodbye without a reason.
pub(crate) fn deregister(key: &InstanceKey) -> Command {
    let (reason, precondition) = (None, Precondition::None);
    Command::Deregister(Deregister { key: key.clone(), reason, precondition })
}

/// A heartbeat of whichever life there is, that says nothing.
pub(crate) fn heartbeat(key: &InstanceKey) -> Heartbeat {
    Heartbeat { key: key.clone(), incarnation: None, health: None }
}

/// A trace that can be told from others by `n`, which is not 0.
pub(crate) fn trace(n: u8) -> TraceRef {
    TraceRef { trace_id: [n; 16], span_id: [n; 8] }
}

/// A caller's name.
pub(crate) fn caller() -> Option<Arc<str>> {
    Some("tests".into())
}

/// Settings of a property test: `cases` of them from the same seed each time, so that a run can be repeated.
/// `PROPTEST_RNG_SEED` takes another one, `PROPTEST_CASES` multiplies them: 2560 runs ten times as many.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let given = ProptestConfig::default();
    let rng_seed = match given.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        seed @ RngSeed::Fixed(_) => seed,
    };
    let more = given.cases / 256;
    ProptestConfig { cases: cases * more.max(1), rng_seed, failure_persistence: None, ..given }
}
