//! The prober as it runs, where a probe does not come to its end: the registry's own fault must not become a silence
//! about an instance.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::net::TcpListener;

use super::testing::check;
use super::*;
use crate::clock::ManualClock;
use crate::domain::check::CheckKind;
use crate::domain::command::Register;
use crate::domain::health::ProbeVerdict;
use crate::domain::instance::Endpoint;
use crate::domain::{Check, Command, Millis, TraceRef};
use crate::log::memory::MemoryLog;
use crate::registrar::{self, Phase, Request};
use crate::telemetry::metrics::{Metrics, MetricsConfig};
use crate::telemetry::spans::Tracer;
use crate::testing::{START, key, register};
use crate::watch::Hub;

/// A resolver with a bug that shows once.
#[derive(Debug, Default)]
struct PanicsOnce(AtomicUsize);

impl Resolve for PanicsOnce {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolved<'a> {
        Box::pin(async {
            assert!(self.0.fetch_add(1, SeqCst) > 0, "planted by a test");
            Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_probe_panicked_is_probed_again() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let clock = ManualClock::new(START);
    let projection = Arc::new(Projection::default());
    let metrics = Metrics::new(&MetricsConfig::default());
    let telemetry = Telemetry { metrics: Arc::clone(&metrics), tracer: Tracer::off() };
    let running = registrar::start(
        Box::new(MemoryLog::new()),
        Arc::clone(&projection),
        Hub::new(Arc::clone(&projection)),
        Arc::clone(&clock) as Arc<dyn Clock>,
        telemetry.clone(),
        &registrar::Config::default(),
    )
    .unwrap();
    assert_eq!(running.readiness.settled().await, Phase::Ready);
    let port = listener.local_addr().unwrap().port();
    let register = Register {
        endpoint: Endpoint { address: "orders.test".into(), port, protocol: "tcp".into() },
        // Nobody expires, however far the clock goes.
        ttl: Some(Millis::from_millis(24 * 3_600_000)),
        check: Some(Arc::new(Check { kind: CheckKind::Tcp, ..check() })),
        ..register(&key("orders", "a"))
    };
    let command = Command::Register(register);
    let request = Request { command, caller: None, trace: TraceRef::default(), baggage: None };
    running.handle.submit(request).await.unwrap();

    let config = Config {
        networks: "127.0.0.0/8".parse().unwrap(),
        roots: Roots::System,
        concurrency: 1,
        idle_connections: 1,
    };
    let resolver = Arc::new(PanicsOnce::default());
    let parts = Parts {
        projection: Arc::clone(&projection),
        registrar: running.handle.clone(),
        readiness: running.readiness.clone(),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        telemetry,
        resolver: Arc::clone(&resolver) as Arc<dyn Resolve>,
    };
    let service = Service::build(config, parts).unwrap();
    let verdict = || {
        let view = projection.service("default", "orders")?;
        view.entry("a")?.instance.signals.probe
    };
    let passing = async {
        while verdict() != Some(ProbeVerdict::Passing) {
            clock.advance(Millis::from_millis(1_000));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::select! {
        () = service.run(CancellationToken::new()) => panic!("the prober ended"),
        seen = tokio::time::timeout(patience, passing) => {
            seen.unwrap_or_else(|_| panic!("the verdict is {:?} still", verdict()));
        }
    }
    assert!(resolver.0.load(SeqCst) >= 2);
    let page = metrics.page().render();
    let counted = "rollcall_probes_total{kind=\"tcp\",outcome=\"panicked\"} 1\n";
    assert!(page.contains(counted), "{page}");
    assert!(page.contains("rollcall_probes_in_flight 0\n"), "{page}");
}
