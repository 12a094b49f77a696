//! The health service of gRPC, version 1: `grpc.health.v1.Health/Check` is called, and `SERVING` passes.
//!
//! Tonic speaks; what it speaks over is a connection that [`super::dial`] made. Its channel can't dial by itself: when its
//! connection is gone, the channel is, too, and the next probe makes another. Called by [`super::runner`].

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::dial::{Aim, Dialer, Failure, Stream};
use super::http::{AGENT, chain};
use super::pool::{Place, Pool};
use super::tls::Alpn;
use crate::domain::Check;
use crate::domain::health::ProbeOutcome;

/// Most bytes of an answer; it holds one small number.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Connections kept.
pub(super) type Kept = Pool<Channel>;

/// Asks the health service of a check.
pub(super) async fn probe(
    dialer: &Dialer,
    kept: &Kept,
    aim: &Aim<'_>,
    check: &Check,
    traceparent: &str,
    may_reuse: bool,
) -> Result<Option<u16>, Failure> {
    let addresses = dialer.addresses(aim).await?;
    let tls = check.tls.then(|| Box::from(aim.host));
    let place = |address| Place { address, tls: tls.clone() };
    if may_reuse
        && let Some((channel, place)) = addresses.iter().find_map(|address| {
            let place = place(*address);
            Some((kept.take(&place, Instant::now())?, place))
        })
    {
        match ask(kept, place, channel, aim, check, traceparent).await {
            // It may have been closed while it was idle: a new one tells.
            Err(failure) if failure.outcome == ProbeOutcome::Unreachable => {}
            answered => return answered,
        }
    }
    let (stream, address) = dialer.dial(aim, &addresses, check.tls.then_some(Alpn::Http2)).await?;
    let opening = timeout_at(aim.deadline, open(aim, check.tls, stream)).await;
    let channel = opening.map_err(|_| aim.no_answer())??;
    ask(kept, place(address), channel, aim, check, traceparent).await
}

/// A channel over this one connection.
async fn open(aim: &Aim<'_>, tls: bool, stream: Stream) -> Result<Channel, Failure> {
    let unusable = |error: &dyn std::error::Error| Failure::unreachable(chain(error));
    let authority = aim.authority();
    let scheme = if tls { "https" } else { "http" };
    let origin: Uri =
        format!("{scheme}://{authority}").parse().map_err(|error| unusable(&error))?;
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .and_then(|endpoint| endpoint.origin(origin).user_agent(AGENT))
        .map_err(|error| unusable(&error))?;
    let only = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = only.lock().take();
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection is gone");
        std::future::ready(stream.map(TokioIo::new).ok_or_else(gone))
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| unusable(&error))
}

async fn ask(
    kept: &Kept,
    place: Place,
    channel: Channel,
    aim: &Aim<'_>,
    check: &Check,
    traceparent: &str,
) -> Result<Option<u16>, Failure> {
    let mut request = Request::new(HealthCheckRequest { service: check.service.to_string() });
    if let Ok(value) = traceparent.parse::<MetadataValue<Ascii>>() {
        request.metadata_mut().insert("traceparent", value);
    }
    let mut client = HealthClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    let answered = timeout_at(aim.deadline, client.check(request)).await;
    let answered = answered.map_err(|_| aim.no_answer())?;
    let serving = match answered {
        Ok(answer) => answer.into_inner().status,
        // What came over the connection has no source; what kept it from coming has.
        Err(status) if status.source().is_some() => {
            return Err(Failure::unreachable(format!("no answer: {}", chain(&status))));
        }
        Err(status) => {
            kept.put(place, channel, Instant::now());
            return Err(Failure::new(ProbeOutcome::Rejected, refused(&status, check)));
        }
    };
    kept.put(place, channel, Instant::now());
    let number = u16::try_from(serving).ok();
    match ServingStatus::try_from(serving) {
        Ok(ServingStatus::Serving) => Ok(number),
        other => {
            let name = other.map_or("an unknown status", |status| status.as_str_name());
            let error = format!("the health service answered {name}");
            Err(Failure { outcome: ProbeOutcome::Rejected, status: number, error })
        }
    }
}

fn refused(status: &Status, check: &Check) -> String {
    match status.code() {
        Code::NotFound => {
            format!("the health service does not know the service {:?}", check.service)
        }
        Code::Unimplemented => {
            "the server has no health service (grpc.health.v1.Health)".to_owned()
        }
        code => format!("the health service refused: {code:?}: {}", status.message()),
    }
}
