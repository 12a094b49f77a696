//! The ways in over HTTP: bodies, query strings, headers, cursors, the ids of streams, and whatever comes over a
//! connection.
//!
//! The first byte of an input chooses what is asked, as a letter (`a` is the first), so that an input can be read and
//! written by people; the rest is what comes from outside.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::registry::{INSTANCE, Registry};

const HEARTBEAT: &str = "/v1/services/orders/instances/orders-1/heartbeat";
const JSON: &str = "application/json";

/// How long something that may wait for a change is waited for.
const A_MOMENT: Duration = Duration::from_millis(3);

/// What the first byte chooses of `choices`, and the rest.
fn choose<'a, 'd, T>(choices: &'a [T], data: &'d [u8]) -> Option<(&'a T, &'d [u8])> {
    let (first, rest) = data.split_first()?;
    Some((&choices[usize::from(first.wrapping_sub(b'a')) % choices.len()], rest))
}

/// Bodies of everything that takes one.
pub(super) fn body(data: &[u8]) {
    const TAKERS: [(&str, &str, &str); 7] = [
        ("PUT", INSTANCE, JSON),
        ("POST", "/v1/register", JSON),
        ("PATCH", INSTANCE, JSON),
        ("PATCH", INSTANCE, "application/merge-patch+json"),
        ("PUT", HEARTBEAT, JSON),
        ("POST", "/v1/heartbeats", JSON),
        ("PUT", "/v1/services/fuzz/instances/x?namespace=other", JSON),
    ];
    let Some(((method, path, media), body)) = choose(&TAKERS, data) else { return };
    let request = Request::builder().method(*method).uri(*path).header("content-type", *media);
    let request = request.body(Body::from(Bytes::copy_from_slice(body))).unwrap();
    Registry::with(async |registry| drop(registry.answer(request).await));
}

/// Query strings of everything that takes one; `wait` makes an answer wait, and is not waited for.
pub(super) fn query(data: &[u8]) {
    const READERS: [(&str, &str); 22] = [
        ("GET", "/v1/services/orders/instances"),
        ("GET", "/v1/services"),
        ("GET", "/v1/namespaces"),
        ("GET", INSTANCE),
        ("GET", "/v1/sd/prometheus"),
        ("GET", "/v1/events"),
        ("GET", "/v1/diff"),
        ("GET", "/v1/services/orders/instances/orders-1/history"),
        ("GET", "/v1/services/orders/instances/orders-2/why"),
        ("GET", "/v1/impact"),
        ("GET", "/v1/graph"),
        ("DELETE", "/v1/services/nobody/instances/x"),
        ("HEAD", "/v1/watch"),
        ("GET", "/v1/events/1"),
        ("GET", "/v1/traces/0af7651916cd43dd8448eb211c80319c"),
        ("GET", "/v1/status"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/v1/services/orders-2/instances/orders-2"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/services/unknown/instances"),
        ("HEAD", "/v1/services/orders/instances"),
    ];
    let Some(((method, path), query)) = choose(&READERS, data) else { return };
    let Ok(query) = std::str::from_utf8(query) else { return };
    let Ok(uri) = format!("{path}?{query}").parse::<Uri>() else { return };
    let request = Request::builder().method(*method).uri(uri).body(Body::empty()).unwrap();
    Registry::with(async |registry| {
        if query.contains("wait") || query.contains('%') {
            let _ = tokio::time::timeout(A_MOMENT, registry.answer(request)).await;
        } else {
            drop(registry.answer(request).await);
        }
    });
}

/// Headers, one a line, on requests that look at them.
pub(super) fn headers(data: &[u8]) {
    const BODY: &str = r#"{"weight":7}"#;
    const READERS: [(&str, &str, &str); 7] = [
        ("GET", "/v1/services/orders/instances", ""),
        ("PATCH", INSTANCE, BODY),
        ("PUT", INSTANCE, r#"{"address":"10.0.0.7","port":8080}"#),
        ("PUT", HEARTBEAT, ""),
        ("GET", "/metrics", ""),
        ("GET", "/v1/nothing", ""),
        ("HEAD", "/v1/watch", ""),
    ];
    let Some(((method, path, body), lines)) = choose(&READERS, data) else { return };
    let mut request =
        Request::builder().method(*method).uri(*path).body(Body::from(*body)).unwrap();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let parsed = HeaderName::from_bytes(name).ok().zip(HeaderValue::from_bytes(value).ok());
        // No connection gives more than hyper takes; a map of headers has an end of its own.
        if let Some((name, value)) = parsed.filter(|_| request.headers().len() < 100) {
            request.headers_mut().append(name, value);
        }
    }
    Registry::with(async |registry| drop(registry.answer(request).await));
}

/// Cursors: `a` and `b` of the two lists with the right log and list in them, `c` and `d` as they come.
pub(super) fn cursor(data: &[u8]) {
    const LISTS: [(&str, Option<u8>); 4] = [
        ("/v1/services?limit=1&cursor=", Some(b's')),
        ("/v1/events?limit=2&cursor=", Some(b'e')),
        ("/v1/services?limit=1&cursor=", None),
        ("/v1/events?limit=2&cursor=", None),
    ];
    let Some(((path, letter), place)) = choose(&LISTS, data) else { return };
    Registry::with(async |registry| {
        let cursor = match letter {
            Some(letter) => {
                let bytes = [registry.log_id.as_bytes(), &[*letter][..], place].concat();
                rollcall::log::codec::hex(&bytes)
            }
            None => String::from_utf8_lossy(place).into_owned(),
        };
        let Ok(uri) = format!("{path}{cursor}").parse::<Uri>() else { return };
        drop(registry.answer(Request::builder().uri(uri).body(Body::empty()).unwrap()).await);
    });
}

/// Where streams begin and resume; a stream that is opened is read for a moment.
pub(super) fn stream_id(data: &[u8]) {
    let Some((how, id)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(id);
    let path = match how % 4 {
        0 => "/v1/watch".to_owned(),
        1 => "/v1/watch?traffic=true".to_owned(),
        2 => format!("/v1/watch?after={text}"),
        _ => format!("/v1/watch?traffic=true&service=orders&after={text}"),
    };
    let (Ok(uri), Ok(last)) = (path.parse::<Uri>(), HeaderValue::from_bytes(id)) else { return };
    let mut request = Request::builder().uri(uri);
    if how % 4 < 2 {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Body::empty()).unwrap();
    Registry::with(async |registry| {
        let response = registry.begin(request).await;
        let status = response.status().as_u16();
        assert!([200, 400, 410, 422].contains(&status), "{path}: {status}");
        if status != 200 {
            return;
        }
        let mut body = response.into_body();
        while let Ok(Some(frame)) = tokio::time::timeout(A_MOMENT, body.frame()).await {
            let frame = frame.unwrap().into_data().unwrap();
            assert!(std::str::from_utf8(&frame).is_ok(), "{path}: {frame:?}");
        }
    });
}

/// Whatever a client sends over its connection, whole requests or none, HTTP/1.1 or HTTP/2.
pub(super) fn connection(data: &[u8]) {
    Registry::with(async |registry| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = rollcall::http::serve(listener, Arc::clone(&registry.api), stop.clone());
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // A server that has seen enough closes; what it answered is read all the same.
            let _ = stream.write_all(data).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            // Requests that wait for a change or follow a stream have no end of their own.
            let _ = tokio::time::timeout(A_MOMENT * 10, stream.read_to_end(&mut answer)).await;
            assert!(!answer.starts_with(b"HTTP/1.1 500"), "{}", answer.escape_ascii());
            stop.cancel();
        };
        tokio::join!(served, client);
    });
}
