//! Connections to what is probed: the name is resolved for each probe, each address is checked after that, and exactly
//! the address that was checked is dialled.
//!
//! There is no other way out of this module's parent: neither HTTP nor gRPC resolves a name or opens a socket itself. So
//! a name that pointed to an allowed address when it was registered and points elsewhere now gains nothing, and no
//! redirect can lead anywhere. Called by [`super::http`], [`super::tcp`] and [`super::grpc`].

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::allowed::Networks;
use super::tls::{Alpn, Tls};
use crate::domain::Millis;
use crate::domain::health::ProbeOutcome;

/// Most addresses of a name that are tried by one probe.
const ADDRESSES_MAX: usize = 4;

/// The addresses of a name, at some time.
pub type Resolved<'a> = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// What finds the addresses of a name. Injected, so that tests decide what a name means.
pub trait Resolve: Send + Sync + Debug {
    /// The addresses of `host` now, the best first.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolved<'a>;
}

/// The resolver of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolved<'a> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Why a probe did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) outcome: ProbeOutcome,
    pub(super) status: Option<u16>,
    pub(super) error: String,
}

impl Failure {
    pub(super) fn new(outcome: ProbeOutcome, error: impl Into<String>) -> Self {
        Self { outcome, status: None, error: error.into() }
    }

    pub(super) fn unreachable(error: impl Into<String>) -> Self {
        Self::new(ProbeOutcome::Unreachable, error)
    }
}

/// Whom a probe is to reach, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aim<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) registered_from: Option<IpAddr>,
    pub(super) timeout: Millis,
    pub(super) deadline: Instant,
}

impl Aim<'_> {
    /// Host and port as a URL has them.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub(super) fn no_answer(&self) -> Failure {
        let timeout = self.timeout;
        Failure::new(ProbeOutcome::Timeout, format!("no whole answer within {timeout}"))
    }
}

/// A connection, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static> Io for T {}
/// Any of them.
pub(super) type Stream = Box<dyn Io>;

/// Makes connections to where probes may go.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) networks: Networks,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) tls: Tls,
}

impl Dialer {
    /// The addresses that may be dialled for this probe.
    pub(super) async fn addresses(&self, aim: &Aim<'_>) -> Result<Vec<SocketAddr>, Failure> {
        let found = match aim.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let resolved = timeout_at(aim.deadline, self.resolver.resolve(aim.host)).await;
                let late = || {
                    let error = format!("{} was not resolved within {}", aim.host, aim.timeout);
                    Failure::new(ProbeOutcome::Timeout, error)
                };
                resolved.map_err(|_| late())?.map_err(|error| {
                    Failure::unreachable(format!("{} does not resolve: {error}", aim.host))
                })?
            }
        };
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len().min(ADDRESSES_MAX));
        for address in found {
            match self.networks.check(address, aim.registered_from) {
                Ok(()) => allowed.push(SocketAddr::new(address.to_canonical(), aim.port)),
                Err(forbidden) => refused = refused.or(Some(forbidden)),
            }
        }
        allowed.truncate(ADDRESSES_MAX);
        match (allowed.is_empty(), refused) {
            (false, _) => Ok(allowed),
            (true, Some(forbidden)) => {
                Err(Failure::new(ProbeOutcome::Forbidden, forbidden.to_string()))
            }
            (true, None) => Err(Failure::unreachable(format!("{} has no address", aim.host))),
        }
    }

    /// A connection to the first of `addresses` that takes one; the time that is left is shared among them.
    pub(super) async fn connect(
        &self,
        aim: &Aim<'_>,
        addresses: &[SocketAddr],
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let mut failure = Failure::unreachable("there is no address to connect to");
        for (tried, address) in addresses.iter().enumerate() {
            let left = aim.deadline.saturating_duration_since(Instant::now());
            let shares = u32::try_from(addresses.len() - tried).unwrap_or(1);
            let until = Instant::now() + left / shares;
            failure = match timeout_at(until, TcpStream::connect(address)).await {
                // A connection to a port of this machine that nobody listens on may meet itself.
                Ok(Ok(stream)) if stream.local_addr().ok() == Some(*address) => {
                    Failure::unreachable(format!("nobody listens at {address}"))
                }
                Ok(Ok(stream)) => {
                    // Requests are small and sent whole; one that can't be told so works all the same.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, *address));
                }
                Ok(Err(error)) => {
                    Failure::unreachable(format!("no connection to {address}: {error}"))
                }
                Err(_) => {
                    let error = format!("no connection to {address} within {}", aim.timeout);
                    Failure::new(ProbeOutcome::Timeout, error)
                }
            };
        }
        Err(failure)
    }

    /// The same, encrypted if `tls` says so.
    pub(super) async fn dial(
        &self,
        aim: &Aim<'_>,
        addresses: &[SocketAddr],
        tls: Option<Alpn>,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let (stream, address) = self.connect(aim, addresses).await?;
        let Some(alpn) = tls else { return Ok((Box::new(stream), address)) };
        let encrypted = timeout_at(aim.deadline, self.tls.connect(aim.host, alpn, stream)).await;
        match encrypted {
            Ok(Ok(stream)) => Ok((Box::new(stream), address)),
            Ok(Err(error)) => Err(Failure::unreachable(error)),
            Err(_) => {
                let error = format!("no TLS connection to {address} within {}", aim.timeout);
                Err(Failure::new(ProbeOutcome::Timeout, error))
            }
        }
    }
}
