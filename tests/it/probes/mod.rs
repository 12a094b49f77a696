//! The registry probes its instances, over real sockets: what passes, what fails, and what is told of it.
//!
//! Probes run in real time here, with short intervals; no instance has a lease that could speak, too.

mod life;
mod target;
mod whereto;

use std::net::SocketAddr;

use axum::routing::get;
use rollcall::config::{Roots, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic_health::ServingStatus;

use crate::harness::{Options, Server, eventually};
use target::{Authority, Behaviour, Target};

const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";

fn up() -> Behaviour {
    Behaviour::answers("200 OK", "all is up")
}

/// A registration of one that is only probed.
fn registration(address: SocketAddr, check: Value) -> Value {
    let mut check = check;
    for (name, value) in
        [("interval", json!("100ms")), ("timeout", json!("1s")), ("failures", json!(2))]
    {
        check.as_object_mut().unwrap().entry(name).or_insert(value);
    }
    json!({"address": address.ip().to_string(), "port": address.port(), "ttl": "none", "check": check})
}

/// What a test does to its instances within seconds would be flapping.
fn undamped(settings: &mut Settings) {
    settings.flap_limit = 0;
}

async fn start() -> Server {
    let settings = Some(undamped as fn(&mut _));
    Server::start_with(Options { system_clock: true, settings, ..Options::default() }).await
}

/// Registers `orders/orders-1` with this check; gives its JSON.
async fn register(server: &Server, address: SocketAddr, check: Value) -> Value {
    let (status, json) = server.call("PUT", ORDERS_1, Some(registration(address, check))).await;
    assert!(status.is_success(), "{status} {json}");
    json
}

/// Waits until `orders/orders-1` has this status; gives why.
async fn becomes(server: &Server, status: &str) -> String {
    let ask = async || server.status_of("orders", "orders-1").await.unwrap_or_default();
    eventually(&format!("to become {status}"), ask, |now| now == status).await;
    let (_, why) = server.call("GET", &format!("{ORDERS_1}/why"), None).await;
    why["summary"].as_str().unwrap_or_default().to_owned()
}

/// The data of all changes of status, in order.
fn moves(server: &Server) -> Vec<Value> {
    let query = "SELECT data FROM events WHERE kind = 'status_changed' ORDER BY seq";
    let parse = |row: Vec<Value>| serde_json::from_str(row[0].as_str().unwrap()).unwrap();
    server.sql(query).into_iter().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_check_decides_the_status_and_says_why() {
    let (server, target) = (start().await, Target::start(up()).await);
    let elsewhere = Target::start(up()).await;
    let check = json!({"kind": "http", "path": "/health?deep=1", "expect": "is up"});
    let registered = register(&server, target.address, check).await;
    assert_eq!((&registered["status"], &registered["ttl"]), (&json!("unstable"), &json!("none")));
    let expected = json!({
        "kind": "http", "path": "/health?deep=1", "method": "GET", "expect": "is up", "tls": false,
        "interval": "100ms", "timeout": "1s", "initial_delay": "0s", "failures": 2, "passes": 1,
        "deregister_after": null,
    });
    assert_eq!(registered["check"], expected);
    let url = format!("http://{}/health?deep=1", target.address);
    let why = becomes(&server, "healthy").await;
    assert!(why.contains(&format!("its http check GET {url} passed once, after ")), "{why}");

    let redirect = format!("302 Found\r\nlocation: http://{}/", elsewhere.address);
    for (behaviour, told) in [
        (Behaviour::answers("503 Service Unavailable", "all is up"), "answered 503 Service"),
        (Behaviour::answers("200 OK", "down"), "the body does not hold \"is up\""),
        (Behaviour::Answers(redirect, ""), "redirects are not followed"),
        (Behaviour::Resets, "no answer"),
        (Behaviour::Hangs, "no whole answer within 1s"),
    ] {
        target.now(behaviour);
        let why = becomes(&server, "failed").await;
        assert!(why.contains(&format!("its http check GET {url} failed twice in a row")), "{why}");
        assert!(why.contains(told) && why.contains("in trace "), "{told}: {why}");
        assert!(server.offered("orders").await.is_empty(), "{told}");
        target.now(up());
        becomes(&server, "healthy").await;
    }
    assert_eq!(elsewhere.connections(), 0);

    let moves = moves(&server);
    let verdicts: Vec<_> = moves.iter().map(|data| &data["signals"]["probe"]).collect();
    assert!(verdicts.windows(2).all(|pair| pair[0] != pair[1]), "only changes: {verdicts:?}");
    assert!(verdicts.len() >= 16, "{verdicts:?}");
    let failed = moves.iter().find(|data| data["to"] == "failed").unwrap();
    assert_eq!((&failed["reason"], &failed["probe"]["status"]), (&json!("probe"), &json!(503)));
    assert_eq!(failed["probe"]["in_a_row"], 2);

    // Passing probes make no events, and share their connection.
    let (connections, requests) = (target.connections(), target.heads().len());
    eventually("more probes", async || target.heads().len(), |now| *now >= requests + 5).await;
    assert_eq!(target.connections(), connections);
    let head = target.heads().pop().unwrap();
    assert!(head.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{head}");
    for line in [format!("host: {}", target.address), "user-agent: rollcall-check/".to_owned()] {
        assert!(head.contains(&line), "{line} in {head}");
    }

    let page = server.page().await;
    assert!((page.sum("rollcall_checks", &["kind=\"http\""]) - 1.0).abs() < 0.1);
    for outcome in ["passed", "rejected", "unreachable", "timeout"] {
        let labels = ["kind=\"http\"", &format!("outcome=\"{outcome}\"")];
        assert!(page.sum("rollcall_probes_total", &labels) >= 1.0, "{outcome}");
        assert!(page.sum("rollcall_probe_duration_seconds_count", &labels) >= 1.0, "{outcome}");
    }
    assert!(page.sum("rollcall_probe_verdicts_total", &["verdict=\"failing\""]) >= 5.0);
    assert!(page.sum("rollcall_probe_lag_seconds_count", &[]) >= 16.0);

    assert_eq!(server.call("DELETE", ORDERS_1, None).await.0, 204);
    let known = async || server.page().await.sum("rollcall_checks", &[]);
    eventually("the check is gone", known, |checks| *checks < 0.1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_check_asks_for_no_body() {
    let (server, target) = (start().await, Target::start(up()).await);
    register(&server, target.address, json!({"kind": "http", "method": "HEAD"})).await;
    becomes(&server, "healthy").await;
    let requests = target.heads().len();
    eventually("more probes", async || target.heads().len(), |now| *now >= requests + 2).await;
    assert!(target.heads().iter().all(|head| head.starts_with("HEAD /health HTTP/1.1\r\n")));
    assert_eq!(target.connections(), 1, "what follows the head of an answer is the next answer");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_check_passes_where_somebody_listens() {
    let server = start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    register(&server, address, json!({"kind": "tcp", "failures": 1})).await;
    let why = becomes(&server, "healthy").await;
    assert!(why.contains(&format!("its tcp check of {address} passed")), "{why}");
    drop(listener);
    let why = becomes(&server, "failed").await;
    assert!(why.contains("failed twice in a row") && why.contains("refused"), "{why}");
    let _listener = TcpListener::bind(address).await.unwrap();
    becomes(&server, "healthy").await;
    // With `failures: 1` the second probe confirms the first at once: there is nothing between.
    let statuses: Vec<_> = moves(&server).iter().map(|data| data["to"].clone()).collect();
    assert_eq!(statuses, ["healthy", "failed", "healthy"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_check_asks_the_health_service() {
    let server = start().await;
    let (health, service) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route_service("/grpc.health.v1.Health/Check", service);
    let mut running = JoinSet::new();
    running.spawn(axum::serve(listener, router).into_future());

    let check = json!({"kind": "grpc", "service": "orders.v1"});
    register(&server, address, check).await;
    let why = becomes(&server, "failed").await;
    assert!(why.contains("does not know the service \"orders.v1\""), "{why}");
    health.set_service_status("orders.v1", ServingStatus::Serving).await;
    let why = becomes(&server, "healthy").await;
    assert!(why.contains(&format!("its grpc check of {address}, service orders.v1 ")), "{why}");
    health.set_service_status("orders.v1", ServingStatus::NotServing).await;
    let why = becomes(&server, "failed").await;
    assert!(why.contains("the health service answered NOT_SERVING"), "{why}");
    // The server as a whole serves all the time.
    register(&server, address, json!({"kind": "grpc"})).await;
    becomes(&server, "healthy").await;
    running.shutdown().await;
    let why = becomes(&server, "failed").await;
    assert!(why.contains("no connection to"), "{why}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_by_tls_trusts_the_given_authority_and_nobody_else() {
    let (data, trusted, other) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
    trusted.write(&data.path().join("ca.pem"));
    let server = Server::start_with(Options {
        data: Some(data.path().to_owned()),
        system_clock: true,
        settings: Some(|settings| settings.check_ca = Roots::File(settings.data.join("ca.pem"))),
        ..Options::default()
    })
    .await;
    let (_health, service) = tonic_health::server::health_reporter();
    let router = axum::Router::new()
        .route("/health", get(async || "up"))
        .route_service("/grpc.health.v1.Health/Check", service);
    let good = trusted.serves("127.0.0.1", router.clone()).await;
    let unknown = other.serves("127.0.0.1", router.clone()).await;
    let misnamed = trusted.serves("10.0.0.7", router).await;

    let secured = |address, kind: &str, protocol: &str| {
        let mut body = registration(address, json!({"kind": kind}));
        body["protocol"] = json!(protocol);
        body
    };
    for (address, kind, protocol, status, told) in [
        (good.address, "http", "https", "healthy", " GET https://127.0.0.1:"),
        (unknown.address, "http", "https", "failed", "no TLS connection: invalid peer certificate"),
        (good.address, "grpc", "grpcs", "healthy", "grpc check of 127.0.0.1:"),
        (
            misnamed.address,
            "grpc",
            "grpcs",
            "failed",
            "no TLS connection: invalid peer certificate",
        ),
        (misnamed.address, "http", "https", "failed", "not valid for name"),
    ] {
        let body = secured(address, kind, protocol);
        let (code, answer) = server.call("PUT", ORDERS_1, Some(body)).await;
        assert!(code.is_success(), "{answer}");
        assert_eq!(answer["check"]["tls"], true);
        let why = becomes(&server, status).await;
        assert!(why.contains(told), "{kind} {protocol}: {why}");
    }
    server.stop().await;
}
