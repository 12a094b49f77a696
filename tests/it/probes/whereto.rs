//! Where probes may go: what is refused when it is registered, and what a name gains that changes its mind (nothing).

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::target::{Names, Target};
use super::{ORDERS_1, becomes, register, registration, undamped, up};
use crate::harness::{Options, Server, eventually};

/// What a refused registration says of `check` or `ttl`.
async fn refused(server: &Server, body: Value) -> Vec<(String, String)> {
    let (status, problem) = server.call("PUT", ORDERS_1, Some(body)).await;
    assert_eq!(status, 422, "{problem}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors = problem["errors"].as_array().unwrap();
    errors.iter().map(|error| (text(&error["field"]), text(&error["message"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_may_not_go_there_is_refused_with_the_remedy() {
    let server = Server::start().await;
    let with = |address: &str| {
        let mut body = registration(([10, 0, 0, 7], 80).into(), json!({"kind": "http"}));
        body["address"] = json!(address);
        body
    };
    for (address, told) in [
        ("10.0.0.7", "--check-networks 10.0.0.7/32"),
        ("127.0.0.2", "the address that registered (127.0.0.1)"),
        ("169.254.169.254", "169.254.169.254 is a metadata address: no check may go there"),
        ("169.254.1.1", "link-local: no check may go there"),
        ("::ffff:169.254.1.1", "link-local: no check may go there"),
        ("fd00:ec2::254", "a metadata address: no check may go there"),
        ("0.0.0.0", "unspecified: no check may go there"),
        ("224.0.0.1", "a multicast address: no check may go there"),
    ] {
        let errors = refused(&server, with(address)).await;
        assert_eq!(errors.len(), 1, "{errors:?}");
        let (field, message) = &errors[0];
        assert!(field == "check" && message.contains(told), "{address}: {field}: {message}");
    }
    assert_eq!(server.status_of("orders", "orders-1").await, None, "nothing was registered");
    // Without a check any address may be registered, but then there must be a lease.
    let endless = json!({"address": "10.0.0.7", "port": 80, "ttl": "none"});
    let errors = refused(&server, endless).await;
    assert!(errors[0].0 == "ttl" && errors[0].1.contains("needs a check"), "{errors:?}");
    server.stop().await;

    let server = Server::start_with(Options {
        settings: Some(|settings| {
            settings.check_networks = "10.0.0.0/8,169.254.0.0/16".parse().unwrap();
        }),
        ..Options::default()
    })
    .await;
    let (status, registered) = server.call("PUT", ORDERS_1, Some(with("10.0.0.7"))).await;
    assert_eq!(status, 201, "{registered}");
    let (status, again) = server.call("PUT", ORDERS_1, Some(with("10.0.0.7"))).await;
    assert_eq!((status.as_u16(), again), (200, registered), "the same again changes nothing");
    let errors = refused(&server, with("169.254.1.1")).await;
    assert!(errors[0].1.contains("no check may go there"), "listed or not: {errors:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_mind_is_not_followed() {
    let names = Arc::new(Names::default());
    names.mean(&["127.0.0.1"]);
    let server = Server::start_with(Options {
        system_clock: true,
        resolver: Some(Arc::clone(&names) as _),
        settings: Some(undamped),
        ..Options::default()
    })
    .await;
    let target = Target::start(up()).await;
    // Another interface of this machine, at the same port as far as the check is concerned.
    let inside = Target::start_at(Ipv4Addr::new(127, 0, 0, 2), up()).await;
    let check = json!({"kind": "http"});
    let mut body = registration(target.address, check.clone());
    body["address"] = json!("orders.example");
    let (status, answer) = server.call("PUT", ORDERS_1, Some(body.clone())).await;
    assert_eq!(status, 201, "what a name means is not asked at registration: {answer}");
    becomes(&server, "healthy").await;
    let host = format!("host: orders.example:{}", target.address.port());
    assert!(target.heads()[0].contains(&host), "{}", target.heads()[0]);

    for forbidden in ["127.0.0.2", "169.254.169.254", "::ffff:127.0.0.2"] {
        names.mean(&[forbidden]);
        let why = becomes(&server, "failed").await;
        assert!(why.contains(forbidden.trim_start_matches("::ffff:")), "{forbidden}: {why}");
        let requests = target.heads().len();
        let count =
            async || server.page().await.sum("rollcall_probes_total", &["outcome=\"forbidden\""]);
        let seen = count().await;
        eventually("more refused probes", count, |now| *now >= seen + 3.0).await;
        assert_eq!(target.heads().len(), requests, "nor does the old connection serve");
        names.mean(&["127.0.0.1"]);
        becomes(&server, "healthy").await;
    }
    // The port is the other server's now: only the address keeps the probe away from it.
    body["check"]["port"] = json!(inside.address.port());
    names.mean(&["127.0.0.2"]);
    assert!(server.call("PUT", ORDERS_1, Some(body)).await.0.is_success());
    becomes(&server, "failed").await;
    assert_eq!(inside.connections(), 0);
    // Of several addresses, the one that is allowed is taken.
    names.mean(&["169.254.169.254", "127.0.0.1"]);
    register(&server, target.address, check).await;
    becomes(&server, "healthy").await;
    server.stop().await;
}
