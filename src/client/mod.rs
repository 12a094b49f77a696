//! A typed client of the HTTP contract: what the command line and the demo know of a registry.
//!
//! It speaks version 1 of the contract and nothing else: it must not share types with the server, because then a change
//! that breaks every other client would go unseen by this one. It retries nothing but a stream of changes ([`Watch`]), which
//! knows where it was; else who calls it knows whether a second try makes sense. Fields that the answers have beyond those named here are kept in `rest`, so that output for
//! programs loses none. Called by the command line and the demo.

mod error;
mod lease;
mod past;
mod watch;
mod wire;

use std::fmt;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use error::{Error, FieldError, Oldest, Problem};
pub use lease::{Lease, Renewed};
pub use past::{Parameters, Past};
pub use watch::{Notice, Watch, WatchQuery};
pub use wire::{
    Check, Event, EventPage, Filter, Instance, Offer, Registration, Renewal, Service, ServicePage,
    authority,
};

/// Where a registry listens unless somebody says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7655";

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer may take; above the 5 s after which the server itself gives up on a slow log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to one registry; cheap to clone, and clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    caller: String,
    namespace: Option<String>,
    traceparent: Option<String>,
}

impl Client {
    /// A client of the registry at `url` that gives its name as `caller` (`service` or `service/instance`).
    ///
    /// # Errors
    /// [`Error::Address`] when `url` is not an `http://` address.
    pub fn new(url: &str, caller: &str) -> Result<Self, Error> {
        let address = |why: String| Error::Address { url: url.to_owned(), why };
        let base = Url::parse(url).map_err(|error| address(error.to_string()))?;
        if base.scheme() != "http" || base.cannot_be_a_base() {
            return Err(address("it must begin with http://".to_owned()));
        }
        // A registry is a neighbour: what HTTP_PROXY says of the internet would only lead astray.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|error| address(chain(&error)))?;
        Ok(Self { http, base, caller: caller.to_owned(), namespace: None, traceparent: None })
    }

    /// The same client for names in `namespace`; `None` leaves the choice to the server.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<String>) -> Self {
        self.namespace = namespace;
        self
    }

    /// The same client with this `traceparent` on each request.
    #[must_use]
    pub fn traced(mut self, traceparent: impl fmt::Display) -> Self {
        self.traceparent = Some(traceparent.to_string());
        self
    }

    /// The address of the registry.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Where it is, for whoever opens connections of its own: host and port, both as the header `host` has them, and what
    /// goes before each path, without a slash at its end.
    pub(crate) fn place(&self) -> (String, u16, String, String) {
        let port = self.base.port_or_known_default().unwrap_or(80);
        let authority = self.base.host_str().unwrap_or_default();
        // In an address, IPv6 stands in brackets; whoever resolves names wants it without.
        let host = authority.trim_start_matches('[').trim_end_matches(']').to_owned();
        let base = self.base.path().trim_end_matches('/').to_owned();
        (host, port, format!("{authority}:{port}"), base)
    }

    /// Registers an instance, or replaces its registration.
    ///
    /// # Errors
    /// See [`Error`]; so for all methods that ask the server.
    pub async fn register(
        &self,
        service: &str,
        id: &str,
        registration: &Registration,
    ) -> Result<Instance, Error> {
        let request = self.request(Method::PUT, &["v1", "services", service, "instances", id])?;
        self.json(request.json(registration)).await
    }

    /// Renews the lease of an instance, of this life of it if `incarnation` is given.
    pub async fn heartbeat(
        &self,
        service: &str,
        id: &str,
        incarnation: Option<u64>,
    ) -> Result<Renewal, Error> {
        let request =
            self.request(Method::PUT, &["v1", "services", service, "instances", id, "heartbeat"])?;
        let body = incarnation.map(|incarnation| serde_json::json!({ "incarnation": incarnation }));
        self.json(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// Takes an instance off the registry; the reason is kept in the event.
    pub async fn deregister(
        &self,
        service: &str,
        id: &str,
        reason: Option<&str>,
    ) -> Result<(), Error> {
        let request =
            self.request(Method::DELETE, &["v1", "services", service, "instances", id])?;
        let reason: Vec<_> = reason.map(|reason| ("reason", reason)).into_iter().collect();
        self.answer(request.query(&reason)).await.map(drop)
    }

    /// Sets what is wanted of an instance: `active`, `standby` or `draining`, the last one with or without the time when
    /// it is to be taken off.
    pub async fn set_mode(
        &self,
        service: &str,
        id: &str,
        mode: &str,
        deadline: Option<&str>,
    ) -> Result<Instance, Error> {
        let request = self.request(Method::PATCH, &["v1", "services", service, "instances", id])?;
        let query: Vec<_> = deadline.map(|deadline| ("deadline", deadline)).into_iter().collect();
        self.json(request.query(&query).json(&serde_json::json!({ "mode": mode }))).await
    }

    /// Who of a service may be called now, or who matches the filter.
    pub async fn lookup(&self, service: &str, filter: &Filter) -> Result<Offer, Error> {
        let request = self.request(Method::GET, &["v1", "services", service, "instances"])?;
        self.json(request.query(&filter.query())).await
    }

    /// One instance with its lease.
    pub async fn instance(&self, service: &str, id: &str) -> Result<Instance, Error> {
        self.json(self.request(Method::GET, &["v1", "services", service, "instances", id])?).await
    }

    /// One page of the services whose names begin with `prefix`, after `cursor`.
    pub async fn services(
        &self,
        prefix: Option<&str>,
        cursor: Option<&str>,
    ) -> Result<ServicePage, Error> {
        let query: Vec<_> = [("prefix", prefix), ("cursor", cursor)]
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect();
        self.json(self.request(Method::GET, &["v1", "services"])?.query(&query)).await
    }

    /// One page of events; the query's names are those of the contract.
    pub async fn events(&self, query: &[(&str, String)]) -> Result<EventPage, Error> {
        self.json(self.request(Method::GET, &["v1", "events"])?.query(query)).await
    }

    /// What the registry says of itself.
    pub async fn status(&self) -> Result<Value, Error> {
        self.json(self.request(Method::GET, &["v1", "status"])?).await
    }

    /// Succeeds when the registry has replayed its log and answers.
    pub async fn ready(&self) -> Result<(), Error> {
        self.answer(self.request(Method::GET, &["readyz"])?).await.map(drop)
    }

    /// The page of metrics, as Prometheus reads it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let body = self.bytes(self.answer(self.request(Method::GET, &["metrics"])?).await?).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, Error> {
        let mut url = self.base.clone();
        for segment in path {
            // An address drops such segments in silence, and the request would go to another resource.
            if matches!(*segment, "" | "." | "..") {
                return Err(Error::Name((*segment).to_owned()));
            }
        }
        url.path_segments_mut()
            .expect("the constructor refused addresses without a path")
            .pop_if_empty()
            .extend(path);
        let mut request = self.http.request(method, url).header("rollcall-caller", &self.caller);
        if let Some(namespace) = &self.namespace {
            request = request.query(&[("namespace", namespace)]);
        }
        if let Some(traceparent) = &self.traceparent {
            request = request.header("traceparent", traceparent);
        }
        Ok(request)
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, Error> {
        let unreachable = |error: reqwest::Error| Error::Unreachable {
            url: self.url().to_owned(),
            why: chain(&error.without_url()),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(unreachable)?;
        Err(Error::Refused(Box::new(Problem::from_answer(status, &body))))
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        self.read(self.answer(request).await?).await
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let body = self.bytes(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.unreadable(error.to_string()))
    }

    async fn bytes(&self, response: Response) -> Result<Vec<u8>, Error> {
        let body = response.bytes().await;
        Ok(body.map_err(|error| self.unreadable(chain(&error.without_url())))?.into())
    }

    fn unreadable(&self, why: String) -> Error {
        Error::Unreadable { url: self.url().to_owned(), why }
    }
}

/// An error with its causes: the HTTP library's own text ends at "error sending request".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_to_another_resource() {
        let client = Client::new("http://localhost:1/base/", "test").expect("an address");
        let url = |path: &[&str]| {
            client
                .request(Method::GET, path)
                .map(|r| r.build().expect("complete").url().to_string())
        };
        assert_eq!(url(&["v1", "a/b?c"]).expect("a path"), "http://localhost:1/base/v1/a%2Fb%3Fc");
        assert!(matches!(url(&["v1", "..", "status"]), Err(Error::Name(_))));
        assert!(matches!(Client::new("https://localhost", "test"), Err(Error::Address { .. })));
        assert!(matches!(Client::new("localhost:7655", "test"), Err(Error::Address { .. })));
    }
}
