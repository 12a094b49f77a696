//! Baggage of requests in the data of their events: what is allowed and nothing else, on every way, and still there after
//! a restart.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Options, Server, eventually};

const ORDERS: &str = "/v1/services/orders/instances";
const ORDERS_1: &str = "/v1/services/orders/instances/orders-1";
const BEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";
const HEADERS: [(&str, &str); 2] = [
    ("baggage", "tenant=acme%20%E2%82%AC;p=1, session=secret ,user.tier = gold"),
    ("baggage", "broken,=x,user.tier=\"q\""),
];

async fn start(data: &TempDir, keys: &str) -> Server {
    let settings: fn(&mut rollcall::config::Settings) = match keys {
        "" => |_| {},
        _ => |settings| settings.baggage_keys = "tenant,user.tier".parse().unwrap(),
    };
    let data = Some(data.path().to_owned());
    Server::start_with(Options { data, settings: Some(settings), ..Options::default() }).await
}

/// Kind and baggage of every event about the service, in the order of its class.
async fn told(server: &Server) -> Vec<(String, Value)> {
    let (status, page) = server.call("GET", "/v1/events?service=orders&limit=1000", None).await;
    assert_eq!(status, 200, "{page}");
    let mut told: Vec<(String, Value)> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["kind"].as_str().unwrap().to_owned(), event["data"]["baggage"].clone()))
        .collect();
    told.sort_by(|one, other| one.0.cmp(&other.0));
    told
}

/// One of everything that is about an instance. Gives how many events that makes.
async fn ask(server: &Server, headers: &[(&str, &str)]) -> usize {
    let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "1h"});
    let requests = [
        ("PUT", ORDERS_1, Some(body)),
        // The short way and the long one, of both.
        ("GET", ORDERS, None),
        ("GET", "/v1/services/orders/instances?status=healthy", None),
        ("PUT", BEAT, None),
        ("PUT", BEAT, Some(json!({"load": 0.5}))),
        ("PUT", BEAT, Some(json!({"load": 0.5, "note": "warm"}))),
        // At once, as nothing was held.
        ("GET", "/v1/services/orders/instances?wait=5s&after=0", None),
        ("PATCH", ORDERS_1, Some(json!({"weight": 7}))),
    ];
    let count = requests.len();
    for (method, path, body) in requests {
        let answer = server.send(method, path, headers, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", answer.text);
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_brings_along_is_in_its_event_for_good() {
    let data = TempDir::new().unwrap();
    let server = start(&data, "tenant,user.tier").await;
    let count = ask(&server, &HEADERS).await;
    let all =
        eventually("all events", async || told(&server).await, |all| all.len() == count).await;
    let brought = json!({"tenant": "acme €", "user.tier": "gold"});
    for (kind, baggage) in &all {
        assert_eq!(baggage, &brought, "{kind}: {all:?}");
    }
    let kinds = |kind: &str| all.iter().filter(|(known, _)| known == kind).count();
    assert_eq!(
        ["heartbeat", "lookup", "registered", "updated"].map(kinds),
        [3, 3, 1, 1],
        "{all:?}"
    );
    // In SQL too, beside what the event says anyway; and never among the labels.
    let rows = server.sql(
        "SELECT kind, json_extract(data, '$.baggage.tenant'), json_extract(data, '$.filter') FROM events \
         WHERE service = 'orders' ORDER BY kind, 3",
    );
    assert!(rows.iter().all(|row| row[1] == "acme €"), "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row[2] == "status=healthy").count(), 1, "{rows:?}");
    let page = server.page().await.0;
    assert!(!page.contains("acme") && !page.contains("gold"), "{page}");
    server.stop().await;

    // Another run, which is to record none: what was, stays, and what comes has none.
    let server = start(&data, "").await;
    assert_eq!(told(&server).await, all);
    let more = ask(&server, &HEADERS).await;
    let both = async || told(&server).await;
    let both = eventually("more events", both, |both| both.len() == count + more).await;
    assert_eq!(both.iter().filter(|(_, baggage)| *baggage == brought).count(), count);
    assert_eq!(both.iter().filter(|(_, baggage)| baggage.is_null()).count(), more);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_baggage_leaves_what_it_always_left() {
    let mut left = Vec::new();
    for keys in ["", "tenant,user.tier"] {
        let data = TempDir::new().unwrap();
        let server = start(&data, keys).await;
        let count = ask(&server, &[("baggage", "session=secret")]).await;
        eventually("all events", async || told(&server).await, |all| all.len() == count).await;
        let changes = "SELECT format, data FROM changes WHERE service = 'orders' ORDER BY seq";
        let traffic = "SELECT kinds, names, details FROM traffic WHERE count > 1";
        let formats = server.sql(changes);
        assert!(formats.iter().all(|row| row[0] == 1), "{formats:?}");
        let kinds: Vec<String> =
            server.sql(traffic).iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|kinds| !kinds.contains('6')), "{kinds:?}");
        left.push((formats.len(), kinds.len()));
        server.stop().await;
    }
    assert_eq!(left[0], left[1]);
}
