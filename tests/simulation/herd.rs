//! A thousand instances find the registry gone for twice their ttl, and return within the second in which it is back.

use fastrand::Rng;
use rollcall::domain::Kind;

use crate::plan::Plan;
use crate::runtime;
use crate::world::World;

/// Milliseconds that each lease lasts; heartbeats come at a quarter of it, so that all return within a second.
const TTL: u64 = 4_000;

#[test]
fn a_herd_returns_and_nobody_is_evicted() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let plan = Plan::quiet(vec![50; 20], TTL);
    let mut world = World::with(plan, Rng::with_seed(1), false);
    world.go_on(3 * TTL).unwrap();
    assert_eq!(world.shadow.instance_count(), 1_000);
    world.crash("killed", 2 * TTL);
    world.go_on(2 * TTL + 5_000).unwrap();
    let crowd = world.crowd.lock();
    let late = crowd.truth.values().filter(|truth| truth.heard < crowd.ready_at).count();
    assert_eq!(late, 0, "all have renewed within five seconds");
    drop(crowd);
    world.go_on(3 * TTL).unwrap();
    world.check_peace().unwrap();
    assert!(!world.history.contains(&Kind::Expired), "nobody was evicted");
    assert_eq!(world.shadow.instance_count(), 1_000);
}
