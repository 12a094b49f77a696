//! How loaded instances say they are, and lookups that order by it.

use serde_json::{Value, json};

use crate::harness::Server;

const ORDERS: &str = "/v1/services/orders/instances";

async fn says(server: &Server, instance: &str, load: Value) {
    let path = format!("{ORDERS}/{instance}/heartbeat");
    assert_eq!(server.call("PUT", &path, Some(json!({"load": load}))).await.0, 200);
}

async fn order(server: &Server, query: &str) -> Vec<String> {
    let (_, answer) = server.call("GET", &format!("{ORDERS}?{query}"), None).await;
    let instances = answer["instances"].as_array().unwrap();
    instances.iter().map(|one| one["instance"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_loaded_come_first_and_those_unknown_last() {
    let server = Server::start().await;
    for instance in ["a", "b", "c", "d", "e"] {
        server.register("orders", instance, "15s").await;
    }
    for (instance, load) in [("b", json!(7)), ("c", json!(0.42)), ("d", json!(0.42))] {
        says(&server, instance, load).await;
    }
    // Two say the same and two say nothing: the order of ids decides.
    assert_eq!(order(&server, "order=load").await, ["c", "d", "b", "a", "e"]);
    assert_eq!(order(&server, "").await, ["a", "b", "c", "d", "e"]);
    // A heartbeat that says nothing of it leaves what was said; one of a list counts as well.
    assert_eq!(server.beat("orders", "b").await.0, 200);
    let list = json!({"instances": [{"service": "orders", "instance": "e", "load": 0},
                                    {"service": "orders", "instance": "c", "load": 9.5}]});
    assert_eq!(server.call("POST", "/v1/heartbeats", Some(list)).await.1["renewed"], 2);
    assert_eq!(order(&server, "order=load").await, ["e", "d", "b", "c", "a"]);

    let lease = |answer: &Value| answer["lease"].get("load").cloned();
    let one = async |id| server.call("GET", &format!("{ORDERS}/{id}"), None).await.1;
    assert_eq!(lease(&one("c").await), Some(json!(9.5)));
    assert_eq!(lease(&one("a").await), None, "it said none");
    let (_, leases) = server.call("GET", &format!("{ORDERS}?include=lease"), None).await;
    assert_eq!(lease(&leases["instances"][1]), Some(json!(7.0)));
    // A registration of the same life keeps it, also with another ttl; another life has said nothing.
    server.register("orders", "b", "30s").await;
    assert_eq!(lease(&one("b").await), Some(json!(7.0)));
    assert_eq!(server.call("DELETE", &format!("{ORDERS}/b"), None).await.0, 204);
    server.register("orders", "b", "15s").await;
    assert_eq!(lease(&one("b").await), None);
    server.stop().await;
}

/// The load moves without a revision: no etag can stand for such an answer. Whom it hands out is what the revision
/// says, and the event of the lookup holds no more than that.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_by_load_is_never_unchanged_and_its_event_is_that_of_any_other() {
    let server = Server::start().await;
    server.register("orders", "a", "15s").await;
    let plain = server.send("GET", ORDERS, &[], None).await;
    let etag = plain.header("etag").to_owned();
    for held in [etag.as_str(), "*"] {
        let path = format!("{ORDERS}?order=load");
        let answer = server.send("GET", &path, &[("if-none-match", held)], None).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, ""));
        assert_eq!(answer.text, plain.text, "one instance has one order");
    }
    let again = server.send("GET", ORDERS, &[("if-none-match", &etag)], None).await;
    assert_eq!(again.status, 304);

    let both = server.send("GET", &format!("{ORDERS}?order=load&at=@3"), &[], None).await;
    let told = (both.status.as_u16(), &both.json["errors"][0]["field"]);
    assert_eq!(told, (422, &json!("order")), "loads are not remembered");

    let path = "/v1/events?kind=lookup&service=orders";
    let lookups = async || {
        let (_, answer) = server.call("GET", path, None).await;
        answer["events"].as_array().unwrap().clone()
    };
    let events =
        crate::harness::eventually("the lookups", lookups, |events| events.len() == 4).await;
    let filters: Vec<&Value> = events.iter().map(|event| &event["data"]["filter"]).collect();
    assert_eq!(filters, [""; 4], "{events:?}");
    server.stop().await;
}
