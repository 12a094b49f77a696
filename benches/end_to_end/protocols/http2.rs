//! HTTP/2 with prior knowledge: the same lookups as over HTTP/1.1, many under way on a connection, by hyper's client.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::is_about;
use super::lookups::{Expected, Lookup};
use crate::Failure;
use crate::load::{Seen, Times, now};
use crate::requests::Requests;

/// A connection, which ends with it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// What moves its bytes.
    driver: JoinSet<hyper::Result<()>>,
}

impl Connection {
    /// Connects, without asking whether the server speaks HTTP/2.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { sender, driver })
    }
}

/// On each of `requests` one lookup after the other, all of them over one connection, until the time is over.
pub(super) async fn closed(
    connection: Connection,
    requests: Vec<Requests>,
    expected: Expected,
    times: Times,
) -> Result<Seen, Failure> {
    let Connection { sender, driver } = connection;
    let mut streams = JoinSet::new();
    for requests in requests {
        streams.spawn(one(sender.clone(), requests, expected, times));
    }
    let seen = crate::load::gathered(streams, times).await;
    drop(driver);
    seen
}

async fn one(
    mut sender: SendRequest<Empty<Bytes>>,
    mut requests: Requests,
    expected: Expected,
    times: Times,
) -> Result<Seen, Failure> {
    let mut seen = times.seen();
    let mut sent_at = now();
    while sent_at < times.end {
        let (request, service) = {
            let lookup = Lookup::read(requests.next())?;
            let request = Request::get(format!("http://127.0.0.1{}", lookup.path))
                .header("rollcall-caller", "driver")
                .header("traceparent", lookup.traceparent)
                .body(Empty::new())?;
            (request, lookup.service()?.to_owned())
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let (status, version) = (response.status(), response.version());
        let body = response.into_body().collect().await?.to_bytes();
        if status != 200 || version != Version::HTTP_2 || !is_about(&body, expected.of(&service)) {
            let body = String::from_utf8_lossy(&body);
            let failure = format!("a lookup of {service} was answered {version:?} {status} {body}");
            return Err(failure.into());
        }
        sent_at = seen.note(times, sent_at);
    }
    Ok(seen)
}
