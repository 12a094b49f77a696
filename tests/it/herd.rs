//! Many at once: none refused, none lost.

use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;

use rollcall::config::Settings;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Options, PATIENCE, Raw, Server};

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

/// Those who come at once and find no place wait for one: their connections are taken and none is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_wait_to_be_accepted() {
    let settings: fn(&mut Settings) = |settings| settings.max_connections = 1;
    let server =
        Server::start_with(Options { settings: Some(settings), ..Options::default() }).await;
    let mut first = server.connect().await;
    let mut others = Vec::new();
    for number in 0..1_000 {
        // A queue that is full lets nobody in, and the next one would try for minutes.
        let connected = tokio::time::timeout(PATIENCE, server.connect()).await;
        others.push(connected.unwrap_or_else(|_| panic!("number {number} is not let in")));
    }
    let ask = b"GET /livez HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n\r\n";
    first.write_all(ask).await.unwrap();
    assert_eq!(Raw::read(&mut first).await.status(), 200);
    for mut other in others {
        other.write_all(ask).await.unwrap();
        assert_eq!(Raw::read(&mut other).await.status(), 200);
    }
    server.stop().await;
}
