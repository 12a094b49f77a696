//! The other servers, which have no registry behind them: axum with the same version, runtime and connection settings,
//! whose handlers answer constants, and hyper without axum. Both route the same paths, parse the same bodies and answer
//! the bytes of the registry's answers: what they reach is what can be reached on this machine.

mod axum;
mod hyper;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::Failure;
use crate::work::Work;

pub(crate) use self::axum::{constant, serve};
pub(crate) use self::hyper::serve as serve_hyper;

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

/// One of a batch of heartbeats.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is parsed, which is the work")]
struct Member {
    service: String,
    instance: String,
}

/// The body of a batch of heartbeats.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "it is parsed, which is the work")]
struct Batch {
    instances: Vec<Member>,
}

/// What is answered.
struct Bodies {
    lookup: Bytes,
    filtered: Bytes,
    heartbeat: Bytes,
    batch: Bytes,
    registration: Bytes,
}

impl Bodies {
    fn read(dir: &Path) -> Result<Self, Failure> {
        let body = |work: Work| std::fs::read(dir.join(work.file())).map(Bytes::from);
        Ok(Self {
            lookup: body(Work::Lookup)?,
            filtered: body(Work::Filtered)?,
            heartbeat: body(Work::Heartbeat)?,
            batch: body(Work::Batch)?,
            registration: body(Work::Registration)?,
        })
    }
}

/// Listens, with the same queue of those who wait to be accepted, and says where. To be called in a runtime.
fn listen() -> Result<TcpListener, Failure> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = rollcall::app::listen(any)?;
    let mut out = std::io::stdout();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    out.flush()?;
    Ok(listener)
}
