//! Long answers in gzip and zstd: the same bytes once decoded, a tag for each form, and nothing for who did not ask.

use std::io::Read as _;

use rollcall::config::{Settings, Size};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Options, Server};

const LIST: &str = "/v1/services/orders/instances";

/// An answer whose body is not text.
struct Coded {
    status: u16,
    headers: reqwest::header::HeaderMap,
    bytes: Vec<u8>,
}

impl Coded {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as it was before it was encoded.
    fn decoded(&self) -> Vec<u8> {
        match self.header("content-encoding") {
            "gzip" => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&*self.bytes).read_to_end(&mut plain).unwrap();
                plain
            }
            "zstd" => zstd::stream::decode_all(&*self.bytes).unwrap(),
            other => {
                assert_eq!(other, "");
                self.bytes.clone()
            }
        }
    }
}

async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Coded {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = server.http.request(method, format!("{}{path}", server.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Coded { status, headers, bytes: response.bytes().await.unwrap().to_vec() }
}

async fn get(server: &Server, path: &str, accepted: &str) -> Coded {
    ask(server, "GET", path, &[("accept-encoding", accepted)]).await
}

/// A registry with `count` instances of one service.
async fn with(count: usize, settings: Option<fn(&mut Settings)>) -> Server {
    let server = Server::start_with(Options { settings, ..Options::default() }).await;
    let mut clients = JoinSet::new();
    for id in 0..count {
        let request = server.http.put(format!("{}{LIST}/orders-{id:04}", server.url));
        let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m", "zone": "eu-1a",
                          "tags": ["canary", "blue"], "metadata": {"env": "prod"}});
        let request = request.header("content-type", "application/json").body(body.to_string());
        clients.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert!(clients.join_all().await.into_iter().all(|status| status == 201));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_comes_in_the_coding_that_was_asked_for() {
    let server = with(60, None).await;
    let paths = [
        LIST,
        "/v1/services/orders/instances?tag=canary",
        "/v1/services/orders/instances?at=@40",
        "/v1/events?limit=60",
        "/v1/diff?from=@2&to=@60",
        "/v1/sd/prometheus",
        "/openapi.json",
    ];
    for path in paths {
        let plain = ask(&server, "GET", path, &[]).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, ""), "{path}");
        assert_eq!(plain.header("vary"), "accept-encoding", "{path}");
        assert!(plain.bytes.len() > 4_096, "{path}");
        for (accepted, coding) in [("gzip", "gzip"), ("zstd, gzip;q=0.9", "zstd")] {
            let coded = get(&server, path, accepted).await;
            assert_eq!((coded.status, coded.header("content-encoding")), (200, coding), "{path}");
            assert_eq!(coded.header("vary"), "accept-encoding", "{path}");
            assert_eq!(coded.header("content-type"), plain.header("content-type"));
            assert_eq!(coded.header("content-length"), coded.bytes.len().to_string());
            assert!(coded.bytes.len() * 3 < plain.bytes.len(), "{path}: {}", coded.bytes.len());
            if path != "/v1/events?limit=60" {
                assert_eq!(coded.decoded(), plain.bytes, "{path}");
                // A second time nothing is encoded for it where it was kept: it must not show.
                let again = get(&server, path, accepted).await;
                assert_eq!(
                    (again.header("content-encoding"), &again.bytes),
                    (coding, &coded.bytes)
                );
            }
            let head = ask(&server, "HEAD", path, &[("accept-encoding", accepted)]).await;
            assert_eq!((head.status, head.bytes.len()), (200, 0), "{path}");
            for name in ["content-encoding", "vary", "etag"] {
                assert_eq!(head.header(name), coded.header(name), "{path}: {name}");
            }
            if path != "/v1/events?limit=60" {
                assert_eq!(head.header("content-length"), coded.header("content-length"), "{path}");
            }
        }
        for accepted in ["identity", "gzip;q=0", "br, deflate", "*;q=0", "", "gzip;q=7"] {
            let same = get(&server, path, accepted).await;
            assert_eq!((same.status, same.header("content-encoding")), (200, ""), "{accepted}");
            assert!(same.bytes.starts_with(b"{") || same.bytes.starts_with(b"["), "{path}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_has_its_tag_and_is_held_by_it() {
    let server = with(60, None).await;
    for path in [LIST, "/v1/services/orders/instances?tag=canary"] {
        let plain = ask(&server, "GET", path, &[]).await.header("etag").to_owned();
        let inner = plain.strip_suffix('"').unwrap();
        for coding in ["gzip", "zstd"] {
            let tag = get(&server, path, coding).await.header("etag").to_owned();
            assert_eq!(tag, format!("{inner}-{coding}\""));
            for (held, accepted, status) in [
                (tag.as_str(), coding, 304),
                (tag.as_str(), "gzip, zstd", 304),
                // What it holds it can no longer read.
                (tag.as_str(), "identity", 200),
                (tag.as_str(), "br", 200),
                // The plain form can always be read.
                (plain.as_str(), coding, 304),
                ("\"other\"", coding, 200),
            ] {
                let headers = [("if-none-match", held), ("accept-encoding", accepted)];
                let answer = ask(&server, "GET", path, &headers).await;
                assert_eq!(answer.status, status, "{path} {held} {accepted}");
                if status == 304 {
                    assert_eq!((answer.header("etag"), answer.bytes.len()), (held, 0));
                    assert_eq!(answer.header("vary"), "accept-encoding");
                    assert_eq!(answer.header("content-encoding"), "");
                }
            }
        }
    }
    // A long poll is answered in its coding, too.
    let revision = ask(&server, "GET", LIST, &[]).await.header("rollcall-seq").to_owned();
    let path = format!("{LIST}?after={revision}&wait=10m");
    let change = async {
        server.register("orders", "one-more", "10m").await;
    };
    let (told, ()) = tokio::join!(get(&server, &path, "zstd"), change);
    assert_eq!((told.status, told.header("content-encoding")), (200, "zstd"));
    let list: Value = serde_json::from_slice(&told.decoded()).unwrap();
    assert_eq!(list["instances"].as_array().unwrap().len(), 61);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_short_or_a_change_or_a_stream_comes_as_it_is() {
    let server = with(3, None).await;
    let all = "gzip, zstd";
    for path in [LIST, "/readyz", "/v1/services"] {
        let short = get(&server, path, all).await;
        assert_eq!((short.status, short.header("content-encoding")), (200, ""), "{path}");
        assert_eq!(short.header("vary"), "", "{path}");
        assert!(short.bytes.starts_with(b"{"), "{path}");
    }
    let problem = get(&server, "/v1/services/nobody/instances", all).await;
    assert_eq!((problem.status, problem.header("content-encoding")), (404, ""));
    // As long as a registration may be: a change is answered plainly, and the instance that is read then is not.
    let metadata: serde_json::Map<String, Value> =
        (0..20).map(|key| (format!("key-{key}"), json!("v".repeat(1_000)))).collect();
    let body = json!({"address": "10.0.0.7", "port": 80, "ttl": "10m", "metadata": metadata});
    let path = format!("{LIST}/long");
    let accept = [("accept-encoding", all)];
    let put = server.send("PUT", &path, &accept, Some(body.clone())).await;
    assert_eq!((put.status.as_u16(), put.header("content-encoding")), (201, ""));
    assert_eq!(put.json["metadata"], body["metadata"]);
    let seq = put.header("rollcall-seq");
    let then = get(&server, &format!("{path}?at=@{seq}"), all).await;
    assert_eq!(then.header("content-encoding"), "zstd");
    // The tag of a form is as good a precondition as the plain one.
    let condition = [("if-match", then.header("etag")), ("accept-encoding", all)];
    let again = server.send("PUT", &path, &condition, Some(body)).await;
    assert_eq!((again.status.as_u16(), again.header("content-encoding")), (200, ""));
    assert_eq!(again.header("etag"), put.header("etag"));

    let stream = server.send("GET", "/v1/watch?after=0", &accept, None).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(stream.header("content-encoding"), "");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_threshold_is_a_setting() {
    let server = with(3, Some(|settings| settings.encode_from = Some(Size(256)))).await;
    assert_eq!(get(&server, LIST, "gzip").await.header("content-encoding"), "gzip");
    server.stop().await;
    let server = with(60, Some(|settings| settings.encode_from = None)).await;
    let plain = get(&server, LIST, "gzip").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", ""));
    server.stop().await;
}
