//! Prometheus' service discovery: every instance is a target, with labels to choose and to relabel by.

use serde_json::{Value, json};

use crate::harness::{Server, eventually};

/// A server with a fleet: (namespace, service, instance, body).
async fn fleet() -> Server {
    let server = Server::start().await;
    for (namespace, service, instance, body) in [
        (
            "default",
            "orders",
            "orders-1",
            json!({"address": "10.0.0.7", "port": 8080, "version": "1.4.2", "zone": "eu-1a",
                   "tags": ["canary", "eu"], "metadata": {"env": "prod", "team.name-1": "a \"b\""}}),
        ),
        (
            "default",
            "orders",
            "orders-2",
            json!({"address": "fe80::1", "port": 9090, "protocol": "grpc", "mode": "draining"}),
        ),
        ("default", "web", "web-1", json!({"address": "web.internal", "port": 80, "tags": ["eu"]})),
        ("shop", "orders", "orders-1", json!({"address": "10.1.0.7", "port": 8080})),
    ] {
        let path = format!("/v1/services/{service}/instances/{instance}?namespace={namespace}");
        assert_eq!(server.call("PUT", &path, Some(body)).await.0, 201);
    }
    server
}

/// The targets that a query finds.
async fn targets(server: &Server, query: &str) -> Vec<String> {
    let (status, groups) = server.call("GET", &format!("/v1/sd/prometheus{query}"), None).await;
    assert_eq!(status, 200, "{groups}");
    let targets = |group: &Value| group["targets"][0].as_str().unwrap().to_owned();
    groups.as_array().unwrap().iter().map(targets).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_a_target_with_everything_that_is_known_of_it() {
    let server = fleet().await;
    let answer = server.send("GET", "/v1/sd/prometheus?service=orders", &[], None).await;
    // Prometheus refuses any other type.
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    let label = |name: &str| format!("__meta_rollcall_{name}");
    let group = |target: &str, labels: &[(&str, &str)]| {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(name, value)| (label(name), json!(value))).collect();
        json!({"targets": [target], "labels": labels})
    };
    let expected = [
        group(
            "10.0.0.7:8080",
            &[
                ("namespace", "default"),
                ("service", "orders"),
                ("instance", "orders-1"),
                ("zone", "eu-1a"),
                ("version", "1.4.2"),
                ("protocol", "http"),
                ("mode", "active"),
                ("status", "healthy"),
                ("tags", ",canary,eu,"),
                ("metadata_env", "prod"),
                ("metadata_team_name_1", "a \"b\""),
            ],
        ),
        group(
            "[fe80::1]:9090",
            &[
                ("namespace", "default"),
                ("service", "orders"),
                ("instance", "orders-2"),
                ("zone", ""),
                ("version", ""),
                ("protocol", "grpc"),
                ("mode", "draining"),
                ("status", "healthy"),
                ("tags", ""),
            ],
        ),
        group(
            "10.1.0.7:8080",
            &[
                ("namespace", "shop"),
                ("service", "orders"),
                ("instance", "orders-1"),
                ("zone", ""),
                ("version", ""),
                ("protocol", "http"),
                ("mode", "active"),
                ("status", "healthy"),
                ("tags", ""),
            ],
        ),
    ];
    assert_eq!(answer.json, json!(expected));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_chosen_by_namespace_service_and_tags() {
    let server = fleet().await;
    let (one, two) = ("10.0.0.7:8080", "[fe80::1]:9090");
    let (web, shop) = ("web.internal:80", "10.1.0.7:8080");
    for (query, expected) in [
        ("", &[one, two, web, shop][..]),
        ("?namespace=default", &[one, two, web]),
        ("?namespace=shop&service=orders", &[shop]),
        ("?tag=eu", &[one, web]),
        ("?tag=eu&tag=canary", &[one]),
        ("?tag=can", &[]),
        // Prometheus asks before a service is there, and goes on asking: that is no error.
        ("?service=nobody", &[]),
        ("?namespace=nowhere", &[]),
    ] {
        assert_eq!(targets(&server, query).await, expected, "{query}");
    }
    // Each of them is one event, with the service that was asked for, if one was.
    let query = "SELECT data, service FROM events WHERE kind = 'lookup' ORDER BY id";
    let rows = eventually("the lookups", async || server.sql(query), |rows| rows.len() == 8).await;
    let asked: Vec<&Value> =
        rows.iter().map(|row| &row[1]).filter(|name| !name.is_null()).collect();
    assert_eq!(asked, ["orders", "nobody"]);
    let all: Value = serde_json::from_str(rows[0][0].as_str().unwrap()).unwrap();
    assert_eq!((&all["returned"], &all["status"]), (&json!(4), &json!(200)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_do_well_is_scraped_until_it_has_gone() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let path = "/v1/services/orders/instances/orders-1/heartbeat";
    server.call("PUT", path, Some(json!({"health": "failing"}))).await;
    let (_, groups) = server.call("GET", "/v1/sd/prometheus", None).await;
    assert_eq!(groups[0]["labels"]["__meta_rollcall_status"], "failed", "{groups}");
    server.advance(15_000);
    eventually("it has gone", async || targets(&server, "").await, Vec::is_empty).await;
    server.stop().await;
}
