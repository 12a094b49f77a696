//! The bare axum server.

use std::path::Path;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Json, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::serve::ListenerExt as _;

use super::{Batch, Bodies, Heartbeat, Registration, listen};
use crate::Failure;
use crate::watchers;
use crate::work::Work;

/// Serves the constants in the folder `bodies` until it is killed, over HTTP/1.1 and HTTP/2. The first line on standard
/// output is the URL. Without `at_once` the system may hold small answers back (no `TCP_NODELAY`).
pub(crate) fn serve(bodies: &Path, at_once: bool) -> Result<(), Failure> {
    // As `rollcall` itself builds its runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let event = std::fs::read(bodies.join(watchers::EVENT)).unwrap_or_default();
    let Bodies { lookup, filtered, heartbeat, batch, registration } = Bodies::read(bodies)?;
    let waiting = watchers::Waiting::new(lookup.clone(), registration.clone(), event.into());
    let looked_up = async move |request: Request| looked_up(&request, &lookup, &filtered);
    let router = Router::new()
        .route(Work::Lookup.route().1, get(looked_up))
        .route(Work::Heartbeat.route().1, put(async move |_: Json<Heartbeat>| constant(&heartbeat)))
        .route(Work::Batch.route().1, post(async move |_: Json<Batch>| constant(&batch)))
        .route(
            Work::Registration.route().1,
            put(async move |_: Json<Registration>| constant(&registration)),
        )
        .route("/bare/up", get(async || "up"))
        .merge(waiting.routes());
    runtime.block_on(async {
        // A socket that refuses the option is slower, and says so in the figures.
        let listener = listen()?.tap_io(move |stream| drop(stream.set_nodelay(at_once)));
        axum::serve(listener, router).await?;
        Ok(())
    })
}

/// Who has a tag has the newest answer; who asks for something has asked for the filter.
fn looked_up(request: &Request, lookup: &Bytes, filtered: &Bytes) -> Response {
    match request.headers().get(IF_NONE_MATCH) {
        Some(tag) => {
            (StatusCode::NOT_MODIFIED, [(ETAG, tag.clone())], Body::empty()).into_response()
        }
        None if request.uri().query().is_some() => constant(filtered),
        None => constant(lookup),
    }
}

pub(crate) fn constant(body: &Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.clone()).into_response()
}
