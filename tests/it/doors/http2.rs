//! HTTP/2 with prior knowledge: the same contract, many requests at once on one connection, and its own limits.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::harness::{Options, PATIENCE, Server, eventually};

const LIST: &str = "/v1/services/orders/instances";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection, which ends with it.
struct Http2 {
    sender: SendRequest<Sent>,
    connection: JoinSet<hyper::Result<()>>,
}

type Sent = BoxBody<Bytes, std::convert::Infallible>;
type Incoming = Response<hyper::body::Incoming>;

impl Http2 {
    async fn open(server: &Server) -> Self {
        let stream = server.connect().await;
        let executor = TokioExecutor::new();
        let io = TokioIo::new(stream);
        let (sender, driver) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        let mut connection = JoinSet::new();
        connection.spawn(driver);
        Self { sender, connection }
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<Incoming> {
        self.send(method, path, headers, Full::new(body.into()).boxed()).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Sent,
    ) -> hyper::Result<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://registry{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request.body(body).unwrap()).await
    }

    /// Waits until the server has ended the connection.
    async fn ended(&mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.connection.join_next()).await;
        ended.expect("the connection goes on").unwrap().unwrap().unwrap();
    }
}

/// Status, headers and body.
async fn whole(answer: Incoming) -> (u16, hyper::HeaderMap, Value) {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_its_traces() {
    let server = Server::start().await;
    let client = Http2::open(&server).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str()), ("rollcall-caller", "web/web-1")];
    let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m"}).to_string();
    let put = client.ask("PUT", &format!("{LIST}/i1"), &headers, body).await.unwrap();
    assert_eq!(put.version(), hyper::Version::HTTP_2);
    let (status, answered, instance) = whole(put).await;
    assert_eq!((status, &instance["instance"]), (201, &json!("i1")));
    let told = answered["traceresponse"].to_str().unwrap();
    assert!(told.starts_with(&format!("00-{trace}-")), "{told}");

    let found = client.ask("GET", LIST, &headers, "").await.unwrap();
    let (status, answered, list) = whole(found).await;
    assert_eq!((status, &list["instances"]), (200, &json!([instance])));
    let etag = answered["etag"].to_str().unwrap().to_owned();
    let again = client.ask("GET", LIST, &[("if-none-match", &etag)], "").await.unwrap();
    assert_eq!(whole(again).await.0, 304);
    let (status, _, problem) = whole(client.ask("GET", "/v2", &headers, "").await.unwrap()).await;
    assert_eq!((status, &problem["trace_id"]), (404, &json!(trace)));

    let query = "SELECT kind, caller, trace_id FROM events WHERE service = 'orders' ORDER BY id";
    let rows = eventually("all are in the log", async || server.sql(query), |r| r.len() == 3).await;
    for (row, kind) in rows.iter().zip(["registered", "lookup"]) {
        assert_eq!(row[..], [json!(kind), json!("web/web-1"), json!(trace)]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_a_poll_do_not_hold_up_what_comes_beside_them() {
    let server = Server::start().await;
    let first = server.register("orders", "i1", "10m").await;
    let mut client = Http2::open(&server).await;
    let mut stream = client.ask("GET", "/v1/watch?service=orders", &[], "").await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let after = &first["revision"];
    let path = format!("{LIST}?after={after}&wait=10m");
    let poll = client.ask("GET", &path, &[], "");
    let others = async {
        for _ in 0..300 {
            assert_eq!(whole(client.ask("GET", LIST, &[], "").await.unwrap()).await.0, 200);
        }
        let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": "10m"}).to_string();
        whole(client.ask("PUT", &format!("{LIST}/i2"), &[], body).await.unwrap()).await.2
    };
    let (poll, changed) = tokio::join!(poll, others);
    assert_eq!(whole(poll.unwrap()).await.2["revision"], changed["revision"]);
    let mut told = String::new();
    while !told.contains("\"i2\"") {
        let frame = tokio::time::timeout(PATIENCE, stream.frame()).await.unwrap().unwrap().unwrap();
        told.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(told.contains(&format!("id: {}\n", changed["revision"])), "{told}");
    // A stream is told that the server stops, and its connection ends after that.
    let stopping = tokio::join!(server.stop(), stream.collect());
    let end = stopping.1.unwrap().to_bytes();
    assert!(end.starts_with(b"event: end\n"), "{end:?}");
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_heads_and_bodies_are_those_of_the_contract() {
    let options = Options {
        settings: Some(|settings| settings.request_timeout = Duration::from_secs(1)),
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    let client = Http2::open(&server).await;
    let path = format!("{LIST}/i1");
    let long = format!("{{\"address\":\"{}\"}}", "x".repeat(70_000));
    let (status, _, problem) = whole(client.ask("PUT", &path, &[], long).await.unwrap()).await;
    assert_eq!((status, &problem["type"]), (413, &json!("/problems/body-too-large")));
    let uri = format!("{LIST}?tag={}", "x".repeat(16_500));
    let (status, _, problem) = whole(client.ask("GET", &uri, &[], "").await.unwrap()).await;
    assert_eq!((status, &problem["type"]), (414, &json!("/problems/uri-too-long")));
    // Beyond that it is the library that refuses, and the connection goes on.
    let headers = [("x-long", "x".repeat(33_000))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(client.ask("GET", LIST, &headers, "").await.unwrap().status(), 431);
    let unknown = client.ask("GET", LIST, &[], "").await.unwrap();
    assert_eq!(whole(unknown).await.0, 404);
    // A body that does not come is given up, and nothing but its own request suffers.
    let never = Full::new(Bytes::from("{")).with_trailers(std::future::pending()).boxed();
    let slow = client.send("PUT", &path, &[], never).await.unwrap();
    let (status, _, problem) = whole(slow).await;
    assert_eq!((status, &problem["type"]), (408, &json!("/problems/body-timeout")));
    assert_eq!(whole(client.ask("GET", LIST, &[], "").await.unwrap()).await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_goes_on_ends() {
    let options = Options {
        settings: Some(|settings| settings.header_timeout = Duration::from_secs(1)),
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    let revision = server.register("orders", "i1", "10m").await["revision"].clone();
    // Whoever waits for something is not idle, however long that takes.
    let waiting = Http2::open(&server).await;
    let path = format!("{LIST}?after={revision}&wait=4s");
    let poll = async { whole(waiting.ask("GET", &path, &[], "").await.unwrap()).await };
    let others = async {
        let mut idle = Http2::open(&server).await;
        assert_eq!(whole(idle.ask("GET", LIST, &[], "").await.unwrap()).await.0, 200);
        idle.ended().await;
        // A head that comes in pieces asks for nothing yet; nor does one who says nothing after the preface.
        for begun in [frame(HEADERS, 0, 1, LOOKUP), Vec::new()] {
            let mut raw = server.connect().await;
            let settings = frame(SETTINGS, 0, 0, &[]);
            raw.write_all(&[PREFACE, &settings, &begun].concat()).await.unwrap();
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(PATIENCE, raw.read_to_end(&mut rest)).await;
            // A reset is an end, too.
            let _ = ended.expect("the connection goes on");
        }
    };
    let ((status, _, list), ()) = tokio::join!(poll, others);
    assert_eq!((status, &list["instances"][0]["instance"]), (200, &json!("i1")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let server = Server::start().await;
    server.register("orders", "i1", "10m").await;
    let neighbour = Http2::open(&server).await;
    let mut flood = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (1..20_000).step_by(2) {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, LOOKUP));
        flood.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let (mut reader, mut writer) = server.connect().await.into_split();
    let mut sending = JoinSet::new();
    // The server stops reading at some point of it.
    sending.spawn(async move { drop(writer.write_all(&flood).await) });
    let calm = tokio::time::timeout(PATIENCE, goaway(&mut reader)).await.expect("it goes on");
    assert_eq!(calm, Some(ENHANCE_YOUR_CALM));
    drop(reader);
    sending.join_all().await;
    assert_eq!(whole(neighbour.ask("GET", LIST, &[], "").await.unwrap()).await.0, 200);
    // What was begun of it is over.
    let active = async || server.page().await.sum("http_server_active_requests", &["GET"]);
    eventually("only the asking one", active, |count| *count <= 1.0).await;
    server.stop().await;
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// GET, http, the path of [`LIST`] and an authority, as HPACK writes what was not said before (RFC 7541).
const LOOKUP: &[u8] = b"\x82\x86\x04\x1d/v1/services/orders/instances\x01\x01x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames up to the last farewell of a connection: why it ends; none if it ends without a word.
async fn goaway(connection: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    let mut reason = None;
    loop {
        let mut head = [0; 9];
        if connection.read_exact(&mut head).await.is_err() {
            return reason;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if connection.read_exact(&mut payload).await.is_err() {
            return reason;
        }
        if head[3] == GOAWAY {
            reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
}
