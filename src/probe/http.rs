//! A page is asked for, and its status, and perhaps its body, are looked at.
//!
//! HTTP/1.1 over hyper's connections, which are kept between probes. A connection belongs to the probe that uses it: no task
//! drives it meanwhile, and one that the server closed while it was idle is noticed when it is taken up again, and replaced.
//! Redirects are not followed: one is an answer like any other, and not a good one. It must never read more of a body than
//! [`BODY_BYTES_MAX`]. Called by [`super::runner`].

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::dial::{Aim, Dialer, Failure, Stream};
use super::pool::{Place, Pool};
use super::tls::Alpn;
use crate::domain::Check;
use crate::domain::check::CheckMethod;
use crate::domain::health::ProbeOutcome;

/// Most of a body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What a probe calls itself.
pub(super) const AGENT: &str = concat!("rollcall-check/", env!("CARGO_PKG_VERSION"));

type Driver = http1::Connection<TokioIo<Stream>, Empty<Bytes>>;

/// A connection that no task drives.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: Driver,
}

/// Connections kept.
pub(super) type Kept = Pool<Connection>;

/// What went wrong on a connection.
struct Broken {
    failure: Failure,
    /// Whether nothing of an answer came: a kept connection that had been closed looks so.
    silent: bool,
}

/// Asks for the page of a check.
pub(super) async fn probe(
    dialer: &Dialer,
    kept: &Kept,
    aim: &Aim<'_>,
    check: &Check,
    traceparent: &[u8],
    may_reuse: bool,
) -> Result<Option<u16>, Failure> {
    let addresses = dialer.addresses(aim).await?;
    let tls = check.tls.then(|| Box::from(aim.host));
    let place = |address| Place { address, tls: tls.clone() };
    if may_reuse
        && let Some((connection, place)) = addresses.iter().find_map(|address| {
            let place = place(*address);
            Some((kept.take(&place, Instant::now())?, place))
        })
    {
        match exchange(kept, place, connection, aim, check, traceparent).await {
            Err(Broken { silent: true, .. }) => {}
            answered => return answered.map_err(|broken| broken.failure),
        }
    }
    let alpn = check.tls.then_some(Alpn::Http1);
    let (stream, address) = dialer.dial(aim, &addresses, alpn).await?;
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (sender, driver) = shaken.map_err(|error| Failure::unreachable(chain(&error)))?;
    let connection = Connection { sender, driver };
    let answered = exchange(kept, place(address), connection, aim, check, traceparent).await;
    answered.map_err(|broken| broken.failure)
}

/// One request and its answer; the connection is kept if it can be used again.
async fn exchange(
    kept: &Kept,
    place: Place,
    mut connection: Connection,
    aim: &Aim<'_>,
    check: &Check,
    traceparent: &[u8],
) -> Result<Option<u16>, Broken> {
    let request = request(aim, check, traceparent)
        .map_err(|error| Broken { failure: Failure::unreachable(error), silent: false })?;
    let Connection { sender, driver } = &mut connection;
    let answering = async {
        let silent = |error: hyper::Error| Broken {
            failure: Failure::unreachable(format!("no answer: {}", chain(&error))),
            silent: true,
        };
        sender.ready().await.map_err(silent)?;
        let answer = sender.send_request(request).await.map_err(silent)?;
        read(answer, check).await.map_err(|failure| Broken { failure, silent: false })
    };
    let answered = timeout_at(aim.deadline, driving(driver, answering)).await;
    let (status, whole) =
        answered.map_err(|_| Broken { failure: aim.no_answer(), silent: false })??;
    if whole {
        // It needs another turn to become free; one that ends instead, as the server may have said, is not kept.
        let free = timeout_at(aim.deadline, driving(driver, sender.ready())).await;
        if let Ok(Ok(())) = free {
            kept.put(place, connection, Instant::now());
        }
    }
    Ok(Some(status))
}

/// Lets `work` happen while the connection that it happens on moves on.
async fn driving<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut ended = false;
    poll_fn(|context| {
        // How it ended, the work is told in its own way.
        ended = ended || Pin::new(&mut *driver).poll(context).is_ready();
        work.as_mut().poll(context)
    })
    .await
}

fn request(
    aim: &Aim<'_>,
    check: &Check,
    traceparent: &[u8],
) -> Result<Request<Empty<Bytes>>, String> {
    let method = match check.method {
        CheckMethod::Get => Method::GET,
        CheckMethod::Head => Method::HEAD,
    };
    let request = Request::builder()
        .method(method)
        .uri(&*check.path)
        .header(HOST, aim.authority())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header("traceparent", traceparent)
        .body(Empty::new());
    // The path was looked at when it was registered; an older log may hold anything.
    request.map_err(|error| format!("no request can be made of {:?}: {error}", check.path))
}

/// Looks at the answer: its status, and whether its body came to its end here.
async fn read(answer: Response<Incoming>, check: &Check) -> Result<(u16, bool), Failure> {
    let status = answer.status();
    let rejected = |error: String| Failure {
        outcome: ProbeOutcome::Rejected,
        status: Some(status.as_u16()),
        error,
    };
    if status.is_redirection() {
        let error = format!("answered {status}, and redirects are not followed");
        return Err(rejected(error));
    }
    if !status.is_success() {
        return Err(rejected(format!("answered {status}")));
    }
    let mut body = answer.into_body();
    let mut seen: Vec<u8> = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure {
            outcome: ProbeOutcome::Unreachable,
            status: Some(status.as_u16()),
            error: format!("answered {status}, and the body broke off: {}", chain(&error)),
        })?;
        if let Ok(data) = frame.into_data() {
            let room = BODY_BYTES_MAX - seen.len();
            seen.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                whole = false;
                break;
            }
        }
    }
    match check.expect.as_deref() {
        Some(expected) if !holds(&seen, expected.as_bytes()) => {
            let part = if whole { "body" } else { "first 64 KiB of the body" };
            Err(rejected(format!("answered {status}, but the {part} does not hold {expected:?}")))
        }
        Some(_) | None => Ok((status.as_u16(), whole)),
    }
}

fn holds(body: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || body.windows(expected.len()).any(|window| window == expected)
}

/// An error with its causes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
