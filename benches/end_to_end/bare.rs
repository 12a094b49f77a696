//! The other server: axum with the same version, runtime and connection settings, whose handlers answer constants.
//! It routes the same paths and parses the same bodies, and has no registry behind it: what it reaches is what
//! axum can reach on this machine.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Json;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::serve::ListenerExt as _;
use serde::Deserialize;

use crate::Failure;
use crate::watchers;
use crate::work::Work;

/// A registration's body, read as far as it is written here and checked no further.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is parsed, which is the work")]
struct Registration {
    address: String,
    port: u16,
    version: Option<String>,
    zone: Option<String>,
    tags: Vec<String>,
    metadata: std::collections::BTreeMap<String, String>,
    ttl: String,
}

/// A heartbeat's body.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is parsed, which is the work")]
struct Heartbeat {
    load: Option<f64>,
}

/// Serves the constants in the folder `bodies` until it is killed. The first line on standard output is the URL.
pub(crate) fn serve(bodies: &Path) -> Result<(), Failure> {
    // As `rollcall` itself builds its runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let body = |work: Work| std::fs::read(bodies.join(work.file())).map(Bytes::from);
    let (lookup, heartbeat, registration) =
        (body(Work::Lookup)?, body(Work::Heartbeat)?, body(Work::Registration)?);
    let event = std::fs::read(bodies.join(watchers::EVENT)).unwrap_or_default();
    let waiting = watchers::Waiting::new(lookup.clone(), registration.clone(), event.into());
    let router = Router::new()
        .route(Work::Lookup.route().1, get(async move || constant(&lookup)))
        .route(Work::Heartbeat.route().1, put(async move |_: Json<Heartbeat>| constant(&heartbeat)))
        .route(
            Work::Registration.route().1,
            put(async move |_: Json<Registration>| constant(&registration)),
        )
        .route("/bare/up", get(async || "up"))
        .merge(waiting.routes());
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // The same queue of those who wait to be accepted.
        let listener = rollcall::app::listen(any)?;
        let mut out = std::io::stdout();
        writeln!(out, "http://{}", listener.local_addr()?)?;
        out.flush()?;
        // A socket that refuses the option is slower, and says so in the figures.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, router).await?;
        Ok(())
    })
}

pub(crate) fn constant(body: &Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.clone()).into_response()
}
