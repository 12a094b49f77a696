//! Clients that send too much, too slowly, not to the end, or what is hardly HTTP.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    BEAT, GOOD, ORDERS, ORDERS_1, assert_problem, events, nothing_happened, request, server,
};
use crate::harness::{Options, Raw, Server, eventually};

/// A body in one chunk, and the chunk that ends it.
fn chunked(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let length = format!("{:x}\r\n", body.len());
    [head.as_bytes(), length.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_refused_and_the_client_sees_why() {
    let (server, before) = server().await;
    let padded = |length: usize| format!("{GOOD}{}", " ".repeat(length - GOOD.len())).into_bytes();
    for (path, method, limit) in
        [(ORDERS_1, "PUT", 65_536), (BEAT, "PUT", 65_536), ("/v1/heartbeats", "POST", 1 << 20)]
    {
        let body = padded(limit + 1);
        for request in [request(method, path, &[], &body), chunked(method, path, &body)] {
            let mut connection = server.connect().await;
            connection.write_all(&request).await.unwrap();
            let answer = Raw::read(&mut connection).await;
            assert_problem(&answer, 413, "body-too-large", &[], path);
            if limit < 1 << 20 {
                // The connection goes on: what was left of the body has been read.
                let next = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
                connection.write_all(next).await.unwrap();
                assert_eq!(Raw::read(&mut connection).await.status(), 200, "{path}");
            }
        }
    }
    // Far too much: the answer comes while the client still sends, and then the end.
    let connection = server.connect().await;
    let (mut reader, mut writer) = connection.into_split();
    let body = vec![b' '; 20 << 20];
    let sending = async {
        let sent = writer.write_all(&request("PUT", ORDERS_1, &[], &body)).await;
        (sent, writer)
    };
    let reading = async {
        let mut seen = Vec::new();
        let _ = reader.read_to_end(&mut seen).await;
        seen
    };
    let ((sent, _writer), seen) = tokio::join!(sending, reading);
    assert!(sent.is_err(), "twenty mebibytes were read");
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 413 ") && seen.contains("body-too-large"), "{seen}");
    nothing_happened(&server, &before).await;

    // At its limit it is taken.
    let answer = server.raw(&request("PUT", ORDERS_1, &[], &padded(65_536))).await;
    assert_eq!(answer.status(), 200, "{}", answer.json);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hardly_http_ends_its_connection_and_nothing_else() {
    let (server, before) = server().await;
    let many: String = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET {ORDERS} HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let huge = format!("GET {ORDERS} HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let cases: &[(&str, &[u8], &[u16])] = &[
        ("10,000 headers", many.as_bytes(), &[431]),
        ("a header of a mebibyte", huge.as_bytes(), &[431]),
        ("no HTTP", b"\x00\x01\x02\r\n\r\n", &[400]),
        ("a control character in a path", b"GET /a\x01b HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
        ("a line break in a header", b"GET / HTTP/1.1\r\nhost: x\ry\r\n\r\n", &[400]),
        (
            "two lengths",
            b"PUT / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            &[400],
        ),
        ("a length below 0", b"PUT / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", &[400]),
    ];
    for (what, bytes, statuses) in cases {
        let mut connection = server.connect().await;
        let _ = connection.write_all(bytes).await;
        let answer = Raw::read(&mut connection).await;
        assert!(statuses.contains(&answer.status()), "{what}: {}", answer.head);
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest).await;
        assert_eq!(rest, b"", "{what}: the connection goes on");
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_given_up() {
    let options = Options {
        settings: Some(|settings| {
            settings.request_timeout = Duration::from_secs(1);
            settings.header_timeout = Duration::from_secs(1);
        }),
        ..Options::default()
    };
    let server = Server::start_with(options).await;
    let before = events(&server);
    let head = format!("PUT {ORDERS_1} HTTP/1.1\r\nhost: x\r\ncontent-length: 34\r\n\r\n{{");
    let answer = server.raw(head.as_bytes()).await;
    assert_problem(&answer, 408, "body-timeout", &[], "a slow body");
    assert_eq!(answer.header("connection"), "close");
    // All are opened before the first is waited for: they run out together.
    let mut silent = Vec::new();
    for part in ["", "P", "PUT / HTTP/1.1\r\nho", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut connection = server.connect().await;
        connection.write_all(part.as_bytes()).await.unwrap();
        silent.push((part, connection));
    }
    for (part, mut connection) in silent {
        // Nobody asked for anything, so nothing is answered; but it ends.
        let answer = Raw::read(&mut connection).await;
        assert_eq!(answer.head, "", "{part:?}");
    }
    nothing_happened(&server, &before).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_in_mid_body_does_nothing() {
    let server = Server::start().await;
    let before = events(&server);
    let half = format!("PUT {ORDERS_1} HTTP/1.1\r\nhost: x\r\ncontent-length: 34\r\n\r\n{{\"addr");
    // Closed on both sides: nobody is left to be answered.
    let mut connection = server.connect().await;
    connection.write_all(half.as_bytes()).await.unwrap();
    drop(connection);
    // On one side only: the other one sees the answer.
    let mut connection = server.connect().await;
    connection.write_all(half.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let answer = Raw::read(&mut connection).await;
    assert_problem(&answer, 400, "malformed-request", &[], "the end in mid-body");
    let ended = async || {
        let page = server.page().await;
        page.sum("http_server_request_duration_seconds_count", &["method=\"PUT\""])
    };
    eventually("both are over", ended, |count| *count == 2.0).await;
    let active = async || {
        let page = server.page().await;
        page.sum("http_server_active_requests", &["method=\"PUT\""])
    };
    eventually("none is left", active, |count| *count == 0.0).await;
    nothing_happened(&server, &before).await;
    server.stop().await;
}
