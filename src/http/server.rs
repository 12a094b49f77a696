//! Sockets: accepts connections, speaks HTTP/1.1 and HTTP/2 (with prior knowledge) on them, ends in order.
//!
//! At most so many connections are open at once: further ones wait in the listener's backlog, where they cost
//! nothing. A connection has its time for a head and is then cut; an error of accepting never ends the server.
//! Called by `app`, which gives the listener and the token that ends it.
//!
//! ```text
//!                        HTTP/1.1                              HTTP/2
//!   requests at once     1; others of a pipeline wait in       STREAMS_MAX on a connection, the rest wait with the
//!                        the socket and are answered in order  client; reset ones count (RESETS_PENDING_MAX)
//!   head                 100 headers, 400 KiB                  HEAD_BYTES_MAX
//!   silence, slow heads  `heads`: header_timeout a head        `streams`: header_timeout without an open request
//! ```
//!
//! Small answers leave at once (`TCP_NODELAY`). Answers to a pipeline are not gathered into fewer writes, though hyper
//! could: what it holds back could be an answer that stands before a long poll.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{Builder, Connection};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::aside::Aside;
use super::caller::Peer;
use super::express::{Beat, Express, Found};
use super::heads::{Heads, Open, Watch};
use super::router::router;
use super::streams::{Activity, Streams};
use super::{Api, Config, admission};

/// Pause after a failed accept: with no file descriptors left, trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Streams that a client may have reset before the server came to look at them; with one more the connection ends
/// (ENHANCE_YOUR_CALM). A client that opens and resets without end would otherwise have work begun for nothing, whatever
/// the limit of streams at once ("rapid reset", CVE-2023-44487). The library's own default, written down because it is
/// relied on.
const RESETS_PENDING_MAX: usize = 20;
/// Streams of one connection that the server may reset because of what the client sent, before the connection ends
/// ("made you reset", CVE-2025-8671).
const RESETS_PROVOKED_MAX: usize = 256;
/// Longest head on HTTP/2, as RFC 9113 counts it (section 6.5.2): the longest path and query with room for the headers, so
/// that what is too long is refused as it is on HTTP/1. A longer head is answered 431 by the library.
const HEAD_BYTES_MAX: u32 = 32 * 1024;
/// How long an HTTP/2 connection that was asked to end, because nothing went on, may go on with nothing.
const GOODBYE: Duration = Duration::from_secs(1);
/// How an HTTP/2 connection begins (RFC 9113, section 3.4). No method of HTTP/1 does.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`, 4,096 on Linux). Libraries
/// take 128: a herd that connects at once overflows that, and the system then drops what it had half let in, so that
/// clients see a second's delay or a reset connection.
const BACKLOG: u32 = 4_096;

/// Listens on `address`, for [`serve`].
///
/// # Errors
/// The system's.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A registry that is started again must not wait until the connections of the last one are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `api` on `listener` until `stop` is cancelled, then finishes what was begun, within the time that
/// the settings give it. Whether all of it was finished.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) -> bool {
    let connections = TaskTracker::new();
    let places = Arc::clone(api.admission.connections());
    let config = &api.config.clone();
    // Ends with this function.
    let mut sensing = JoinSet::new();
    sensing.spawn(admission::sense(Arc::clone(&api)));
    let server = Arc::new(Server {
        builders: Builders::new(),
        router: router(Arc::clone(&api)),
        express: Arc::new(Express::new(Arc::clone(&api))),
        stop,
        cut: CancellationToken::new(),
        config: config.clone(),
    });
    while let Some((place, stream, address)) = server.accept(&listener, &places).await {
        let (server, api) = (Arc::clone(&server), Arc::clone(&api));
        connections.spawn(async move {
            let _open = api.admission.opened();
            server.connection(stream, address).await;
            drop(place);
        });
    }
    // Nobody new is let in while the others finish.
    drop(listener);
    connections.close();
    let finished = tokio::time::timeout(config.shutdown_timeout, connections.wait()).await.is_ok();
    server.cut.cancel();
    connections.wait().await;
    finished
}

/// What makes connections.
struct Builders {
    http1: http1::Builder,
    either: Builder<TokioExecutor>,
}

impl Builders {
    fn new() -> Self {
        let mut http1 = http1::Builder::new();
        // `heads` gives them their time.
        http1.header_read_timeout(None);
        let mut either = Builder::new(TokioExecutor::new());
        either.http1().header_read_timeout(None);
        either
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_PROVOKED_MAX)
            .max_header_list_size(HEAD_BYTES_MAX);
        Self { http1, either }
    }
}

/// Whether what the client sent first may be the beginning of HTTP/2, or is none at all. It is left to be read.
///
/// Where hyper finds out by reading, its buffer begins with these few bytes, and has to double to 16 KiB before it
/// reads on: that was a third of what a waiting client costs.
async fn may_be_http2(stream: &TcpStream) -> bool {
    let mut first = [0; HTTP2_PREFACE.len()];
    // Whoever reads next meets the error again.
    let sent = stream.peek(&mut first).await.unwrap_or(0);
    HTTP2_PREFACE.starts_with(&first[..sent])
}

struct Server {
    builders: Builders,
    router: Router,
    express: Arc<Express>,
    /// Ends accepting and asks connections to finish.
    stop: CancellationToken,
    /// Ends connections that did not.
    cut: CancellationToken,
    config: Config,
}

impl Server {
    /// The next connection, once there is a place for it; none when the server stops.
    async fn accept(
        &self,
        listener: &TcpListener,
        places: &Arc<Semaphore>,
    ) -> Option<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
        let next = async {
            // The semaphore is never closed.
            let place = Arc::clone(places).acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, address)) => return Some((place, stream, address)),
                    Err(error) => {
                        tracing::warn!("accepting a connection failed: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            accepted = next => accepted,
        }
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("no TCP_NODELAY for {address}: {error}");
        }
        let heads = Arc::new(Heads::default());
        let peer = Arc::new(Peer::at(address));
        let own_cut = Arc::clone(&peer.cut);
        let (router, express) = (self.router.clone(), Arc::clone(&self.express));
        let heads_too = Arc::clone(&heads);
        let requests = Requests(Arc::new(Asking { router, express, peer, heads: heads_too }));
        let opened = Instant::now();
        let watch = Watch::new(self.config.header_timeout, opened);
        let mut look = pin!(tokio::time::sleep_until(opened + self.config.header_timeout));
        let may_be_http2 = tokio::select! {
            biased;
            found = may_be_http2(&stream) => found,
            () = self.cut.cancelled() => return,
            () = self.stop.cancelled() => return,
            () = look.as_mut() => return,
        };
        look.as_mut().reset(watch.next(Instant::now()));
        let limits = Limits { look, watch, heads, own_cut };
        let io = TokioIo::new(stream);
        let ended = if may_be_http2 {
            let activity = Activity::default();
            let streams = Streams { requests, activity: activity.clone() };
            let connection = self.builders.either.serve_connection(io, streams);
            let finish = |connection: Pin<&mut _>| Connection::graceful_shutdown(connection);
            // Boxed, as few have it: all connections would be as large otherwise.
            Box::pin(self.drive(connection, finish, limits, Some(activity))).await
        } else {
            let connection = self.builders.http1.serve_connection(io, requests);
            let finish = |connection: Pin<&mut _>| http1::Connection::graceful_shutdown(connection);
            self.drive(connection, finish, limits, None).await
        };
        if let Err(error) = ended {
            tracing::debug!("connection of {address}: {error}");
        }
    }

    /// Serves a connection until it has ended or is to end; `finish` asks it to end after the requests it has, which is
    /// also done once there is no `activity`.
    async fn drive<C, E>(
        &self,
        connection: C,
        finish: impl Fn(Pin<&mut C>),
        limits: Limits<'_>,
        activity: Option<Activity>,
    ) -> Result<(), Box<dyn Error + Send + Sync>>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let Limits { mut look, mut watch, heads, own_cut } = limits;
        let mut connection = pin!(connection);
        let mut own_cut = pin!(own_cut.notified());
        let idle = |limit: Duration| {
            let activity = activity.clone();
            activity.map(|activity| Box::pin(async move { activity.idle(limit).await }))
        };
        let mut quiet = idle(self.config.header_timeout);
        let (mut waits_for_heads, mut finishing, mut leaving) = (true, false, false);
        loop {
            let happened = {
                let beside = pin!(async {
                    tokio::select! {
                        biased;
                        () = self.cut.cancelled() => Beside::Cut,
                        () = own_cut.as_mut() => Beside::Cut,
                        () = self.stop.cancelled(), if !finishing => Beside::Stop,
                        () = or_never(&mut quiet) => Beside::Quiet,
                        () = look.as_mut(), if waits_for_heads => Beside::Look,
                    }
                });
                let mut beside = Aside::new(beside);
                let either = poll_fn(|context| match connection.as_mut().poll(context) {
                    Poll::Ready(ended) => Poll::Ready(Err(ended)),
                    Poll::Pending => Pin::new(&mut beside).poll(context).map(Ok),
                });
                either.await
            };
            match happened {
                Err(ended) => return ended.map_err(Into::into),
                Ok(Beside::Cut) => return Ok(()),
                Ok(Beside::Stop) => {
                    finishing = true;
                    finish(connection.as_mut());
                }
                Ok(Beside::Quiet) => {
                    // A client that does not even read would never answer the farewell.
                    if leaving {
                        return Ok(());
                    }
                    leaving = true;
                    finish(connection.as_mut());
                    quiet = idle(GOODBYE);
                }
                Ok(Beside::Look) => {
                    let now = Instant::now();
                    if watch.is_overdue(&heads, now) {
                        return Ok(());
                    }
                    // From its first request on, HTTP/2 is watched by its activity.
                    waits_for_heads = activity.is_none() || !heads.any();
                    look.as_mut().reset(watch.next(now));
                }
            }
        }
    }
}

/// What happens beside the requests of a connection.
enum Beside {
    /// It is to end at once.
    Cut,
    /// The server stops.
    Stop,
    /// Nothing was asked for a while.
    Quiet,
    /// It is time to look whether the next head is overdue.
    Look,
}

/// Waits for what is there.
async fn or_never(future: &mut Option<Pin<Box<impl Future<Output = ()>>>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// What ends a connection before its time.
struct Limits<'a> {
    look: Pin<&'a mut Sleep>,
    watch: Watch,
    heads: Arc<Heads>,
    own_cut: Arc<Notify>,
}

/// The requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct Requests(Arc<Asking>);

/// What all requests of a connection need.
#[derive(Debug)]
struct Asking {
    router: Router,
    express: Arc<Express>,
    peer: Arc<Peer>,
    heads: Arc<Heads>,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let asking = &*self.0;
        asking.heads.came();
        match asking.express.answer(&request, &asking.peer) {
            Found::Answered(response) => Answering::Done(Some(asking.heads.follow(response))),
            Found::Beat(beat) => Answering::Beat(Some((beat, request)), self.clone()),
            Found::Unusual => self.the_long_way(request.map(Body::new)),
        }
    }
}

impl Requests {
    fn the_long_way(&self, mut request: Request) -> Answering {
        let Asking { router, peer, heads, .. } = &*self.0;
        request.extensions_mut().insert(Arc::clone(peer));
        // A router is always ready; calling one borrows it mutably for no reason but the trait.
        Answering::Routed(router.clone().call(request), heads.open())
    }
}

/// An answer on its way. Without a box: each connection has room for one.
pub(super) enum Answering {
    /// It is there, once.
    Done(Option<Response>),
    /// Its body is still to be read, at the first poll: hyper puts it there after it has called.
    Beat(Option<(Beat, Request<Incoming>)>, Requests),
    /// The router makes it.
    Routed(RouteFuture<Infallible>, Open),
}

impl Future for Answering {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Self::Beat(beat, requests) = this
            && let Some((beat, request)) = beat.take()
        {
            let Asking { express, peer, .. } = &*requests.0;
            match beat.answer(express, peer, request, context) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(request) => *this = requests.the_long_way(request.map(Body::new)),
            }
        }
        match this {
            // The answer is under way before the request is not.
            Self::Routed(routed, open) => {
                Pin::new(routed).poll(context).map_ok(|response| open.follow(response))
            }
            Self::Done(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Nobody polls what has ended.
                None => Poll::Pending,
            },
            Self::Beat(..) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn only_what_may_become_http2_is_taken_for_it_and_all_of_it_is_left() {
        for (sent, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], false),
            (b"PUT / HTTP/1.1\r\n", false),
            (b"PRI * HTTP/1.1\r\n", false),
            (b"PRI * HT", true),
            (b"P", true),
            (HTTP2_PREFACE, true),
            (b"", true),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            client.write_all(sent).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(may_be_http2(&server).await, expected, "{:?}", sent.escape_ascii());
            let mut read = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut server, &mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }
}
