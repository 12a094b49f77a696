//! Many at once: none refused, none lost.

use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Options, Server};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_registrations_from_a_thousand_clients() {
    let server =
        Arc::new(Server::start_with(Options { system_clock: true, ..Options::default() }).await);
    let mut clients = JoinSet::new();
    for client in 0..1_000 {
        let server = Arc::clone(&server);
        clients.spawn(async move {
            for turn in 0..10 {
                let path = format!("/v1/services/s{}/instances/i{client}-{turn}", client % 50);
                let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m"});
                let (status, answer) = server.call("PUT", &path, Some(body)).await;
                assert_eq!(status, 201, "{answer}");
            }
        });
    }
    clients.join_all().await;
    let (_, list) = server.call("GET", "/v1/services?limit=1000", None).await;
    let services = list["services"].as_array().unwrap();
    let instances: u64 =
        services.iter().map(|service| service["instances"].as_u64().unwrap()).sum();
    assert_eq!((services.len(), instances), (50, 10_000));
    let rows = server
        .sql("SELECT count(*), count(DISTINCT instance) FROM changes WHERE kind = 'registered'");
    assert_eq!(rows[0], [json!(10_000), json!(10_000)]);
    Arc::into_inner(server).unwrap().stop().await;
}
