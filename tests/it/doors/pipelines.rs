//! HTTP/1.1: a client that does not wait for the answer before it asks again.

use tokio::io::AsyncWriteExt as _;

use crate::harness::{Raw, Server, eventually};

const LIST: &str = "/v1/services/orders/instances";

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_answered_in_order_each_request_by_itself() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let body = r#"{"address":"10.0.0.7","port":8080,"ttl":"10m"}"#;
    let put = |id: usize| {
        let length = body.len();
        format!("PUT {LIST}/i{id} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let trace = |n: usize| format!("{n:032x}");
    let get = |n: usize, path: &str| {
        let parent = format!("traceparent: 00-{}-00000000000000aa-00\r\n", trace(n));
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n{parent}\r\n")
    };
    // Slow and fast ones, one that fails: nobody overtakes, and nobody is answered for another.
    let many = [
        put(1),
        get(1, LIST),
        put(2),
        get(2, LIST),
        get(3, "/v1/services/nobody/instances"),
        get(4, "/v1/services?limit=none"),
        put(3),
        get(5, LIST),
    ];
    connection.write_all(many.concat().as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    for _ in &many {
        let answer = Raw::read(&mut connection).await;
        let offered = answer.json["instances"].as_array().map_or(0, Vec::len);
        let trace = answer.header("traceresponse").get(3..35).unwrap_or("").to_owned();
        seen.push((answer.status(), offered, trace));
    }
    let own = |place: usize| seen[place].2.clone();
    assert_eq!(
        seen,
        [
            (201, 0, own(0)),
            (200, 1, trace(1)),
            (201, 0, own(2)),
            (200, 2, trace(2)),
            (404, 0, trace(3)),
            (400, 0, trace(4)),
            (201, 0, own(6)),
            (200, 3, trace(5)),
        ]
    );
    // Each lookup is an event of its own, in that order.
    let query =
        "SELECT trace_id FROM events WHERE kind = 'lookup' ORDER BY CAST(trim(id, 't') AS INTEGER)";
    let rows = eventually("all are in the log", async || server.sql(query), |r| r.len() == 4).await;
    let rows: Vec<_> = rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
    assert_eq!(rows, [1, 2, 3, 5].map(trace));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_not_held_back_by_one_that_waits_behind_it() {
    let server = Server::start().await;
    server.register("orders", "i1", "10m").await;
    let mut connection = server.connect().await;
    let head = " HTTP/1.1\r\nhost: x\r\n\r\n";
    let revision = server.call("GET", LIST, None).await.1["revision"].as_u64().unwrap();
    let many = format!(
        "GET {LIST}{head}GET {LIST}?after={revision}&wait=10m{head}GET {LIST}{head}GET /livez{head}"
    );
    connection.write_all(many.as_bytes()).await.unwrap();
    assert_eq!(Raw::read(&mut connection).await.json["revision"], revision);
    // The long poll is still waiting: only now is there something to tell it.
    let changed = server.register("orders", "i2", "10m").await;
    for _ in 0..2 {
        let answer = Raw::read(&mut connection).await;
        assert_eq!(answer.json["revision"], changed["revision"]);
    }
    assert_eq!(Raw::read(&mut connection).await.status(), 200);
    server.stop().await;
}
