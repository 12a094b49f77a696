//! The bare hyper server: what is left when axum is taken away too.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::{Batch, Bodies, Heartbeat, Registration, listen};
use crate::Failure;

/// Serves the constants in the folder `bodies` until it is killed. The first line on standard output is the URL.
pub(crate) fn serve(bodies: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bodies = Arc::new(Bodies::read(bodies)?);
    runtime.block_on(async {
        let listener = listen()?;
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            // A socket that refuses the option is slower, and says so in the figures.
            drop(stream.set_nodelay(true));
            let bodies = Arc::clone(&bodies);
            let service = service_fn(move |request| answer(Arc::clone(&bodies), request));
            connections
                .spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            while connections.try_join_next().is_some() {}
        }
    })
}

/// Routes by method, number of segments and last segment, as no router can do it for less.
async fn answer(
    bodies: Arc<Bodies>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    let path = request.uri().path();
    let (segments, last) = (path.split('/').count(), path.rsplit('/').next());
    let body = match (request.method(), segments, last) {
        (&Method::GET, 5, Some("instances")) => match request.headers().get(IF_NONE_MATCH) {
            Some(tag) => return Ok(not_modified(tag.clone())),
            None if request.uri().query().is_some() => &bodies.filtered,
            None => &bodies.lookup,
        },
        (&Method::PUT, 7, Some("heartbeat")) => {
            parsed::<Heartbeat>(request).await?;
            &bodies.heartbeat
        }
        (&Method::POST, 3, Some("heartbeats")) => {
            parsed::<Batch>(request).await?;
            &bodies.batch
        }
        (&Method::PUT, 6, Some(_)) => {
            parsed::<Registration>(request).await?;
            &bodies.registration
        }
        _ => return Err(format!("nothing is served at {path}").into()),
    };
    let mut response = Response::new(Full::new(body.clone()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn not_modified(tag: HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(ETAG, tag);
    response
}

async fn parsed<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let bytes = request.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&bytes)?)
}
