//! A check and an instance for the tests of probes and of what is told of them.

use std::sync::Arc;

use crate::domain::check::{CheckKind, CheckMethod};
use crate::domain::health::ProbeVerdict;
use crate::domain::instance::Endpoint;
use crate::domain::limits::{CHECK_INTERVAL_DEFAULT, CHECK_TIMEOUT_DEFAULT};
use crate::domain::{
    Check, Detector, Instance, InstanceId, InstanceKey, Labels, Millis, Mode, Namespace, Seq,
    ServiceKey, ServiceName, Signals, Timestamp,
};

/// An HTTP check with the defaults.
pub(crate) fn check() -> Check {
    Check {
        kind: CheckKind::Http,
        port: None,
        path: "/health".into(),
        method: CheckMethod::Get,
        expect: None,
        service: "".into(),
        tls: false,
        interval: CHECK_INTERVAL_DEFAULT,
        timeout: CHECK_TIMEOUT_DEFAULT,
        initial_delay: Millis::ZERO,
        failures: 3,
        passes: 1,
        deregister_after: None,
        registered_from: None,
    }
}

/// An instance of `orders` with this check and this verdict.
pub(crate) fn instance(id: &str, check: Check, verdict: ProbeVerdict) -> Arc<Instance> {
    let service = ServiceKey {
        namespace: Namespace::default(),
        service: ServiceName::new("orders").unwrap(),
    };
    let signals = Signals { probe: Some(verdict), ..Signals::default() };
    Arc::new(Instance {
        key: InstanceKey { service, instance: InstanceId::new(id).unwrap() },
        incarnation: Seq(1),
        endpoint: Endpoint { address: "10.0.0.7".into(), port: 8080, protocol: "http".into() },
        labels: Labels::default(),
        weight: 100,
        mode: Mode::Active,
        drain_until: None,
        status: signals.status(),
        signals,
        ttl: None,
        detector: Detector::Fixed,
        check: Some(Arc::new(check)),
        registered_at: Timestamp(0),
        revision: Seq(1),
    })
}
