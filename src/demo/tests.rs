//! The demo against a real registry: what a member's death looks like to those who call it.

use clap::Parser as _;
use tokio::sync::mpsc::error::TryRecvError;

use super::call::Failure;
use super::story::Happening;
use super::*;
use crate::client::Client;

/// The arguments as the command line would read them.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_is_a_failed_call_that_the_log_can_explain() {
    let args = Line::parse_from(["demo", "--ttl", "30s"]).args;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let registry = registry::start_own(folder.path().join("data")).await.expect("a registry");
    let tracing = Tracing::start().expect("tracing is off without variables");
    let (telling, mut tellings) = mpsc::channel(TELLINGS_MAX);
    let world = World { registry: &registry, tracing: &tracing, telling: Telling(telling) };
    let mut fleet = Fleet::start(&args, &world).await.expect("a fleet");
    let visitor = fleet.caller("visitors", "visitors").expect("a caller");

    let context = visitor.spans.root();
    assert_eq!(visitor.call(&context, "web").await, Ok(()));
    // The visitor looks for web, web for orders, orders for payments and inventory: one trace.
    assert_eq!(lookups_in(&registry, &context.trace_id.to_string(), 4).await.len(), 4);

    // The middle of the chain loses one of three: a visitor is served, or sees that a call behind web failed.
    fleet.kill_one();
    assert!(
        matches!(tellings.try_recv(), Ok(Happening::Killed { instance }) if instance.starts_with("orders-"))
    );
    let mut failed = None;
    for _ in 0..200 {
        let context = visitor.spans.root();
        match visitor.call(&context, "web").await {
            Ok(()) => {}
            Err(failure) => {
                assert_eq!(failure, Failure::Peer);
                failed = Some(context.trace_id);
                break;
            }
        }
    }
    let failed =
        failed.expect("one of three is dead and handed out: 200 calls miss it once in 10^35 runs");
    match tellings.try_recv() {
        Ok(Happening::HandedDead { caller, instance, trace_id }) => {
            assert!(
                caller.starts_with("web/") && instance.starts_with("orders-"),
                "{caller} {instance}"
            );
            assert_eq!(trace_id, failed);
        }
        other => panic!("a failed call should have been told, was {other:?}"),
    }
    assert_eq!(lookups_in(&registry, &failed.to_string(), 2).await.len(), 2);
    assert!(matches!(tellings.try_recv(), Err(TryRecvError::Empty)));

    fleet.stop().await;
    let client = Client::new(registry.url(), "test").expect("an address");
    let services = client.services(None, None).await.expect("a page").services;
    let left: Vec<_> = services.iter().filter(|one| one.instances > 0).collect();
    assert_eq!(left.len(), 1, "only the dead one said no goodbye: {left:?}");
    registry.stop().await.expect("an orderly end");
}

/// The lookups of a trace, once there are so many; they reach the log within 100 ms.
async fn lookups_in(
    registry: &Registry,
    trace_id: &str,
    count: usize,
) -> Vec<crate::client::Event> {
    let client = Client::new(registry.url(), "test").expect("an address");
    let query = [("trace_id", trace_id.to_owned()), ("kind", "lookup".to_owned())];
    for _ in 0..500 {
        let events = client.events(&query).await.expect("a page").events;
        if events.len() >= count {
            return events;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the log does not hold {count} lookups of trace {trace_id}");
}
