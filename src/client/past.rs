//! Questions about the past. The answers are shown by people's tools and handed on by programs, so that they stay what
//! the server said: JSON, with every field that it has.

use reqwest::Method;
use serde_json::Value;

use super::{Client, Error};

/// An answer about the past, and the version that it is of, if the server says one.
#[derive(Clone, Debug)]
pub struct Past {
    /// What was said.
    pub body: Value,
    /// The version of the state that it reflects.
    pub seq: Option<u64>,
}

/// The parameters of a question, as the contract names them.
pub type Parameters<'a> = [(&'a str, String)];

impl Client {
    /// Asks for what is at this path below `/v1`.
    ///
    /// # Errors
    /// See [`Error`]; so for all methods that ask the server.
    async fn past(&self, path: &[&str], query: &Parameters<'_>) -> Result<Past, Error> {
        let path: Vec<&str> = std::iter::once("v1").chain(path.iter().copied()).collect();
        let response = self.answer(self.request(Method::GET, &path)?.query(query)).await?;
        let seq = response.headers().get("rollcall-seq");
        let seq = seq.and_then(|seq| seq.to_str().ok()).and_then(|seq| seq.parse().ok());
        Ok(Past { body: self.read(response).await?, seq })
    }

    /// Who of a service would have been answered then: `query` has `at` and any filter.
    pub async fn lookup_at(&self, service: &str, query: &Parameters<'_>) -> Result<Past, Error> {
        self.past(&["services", service, "instances"], query).await
    }

    /// A page of the services that there were then: `query` has `at`, and `cursor` from the second page on.
    pub async fn services_at(&self, query: &Parameters<'_>) -> Result<Past, Error> {
        self.past(&["services"], query).await
    }

    /// One event, by its id.
    pub async fn event(&self, id: &str) -> Result<Past, Error> {
        self.past(&["events", id], &[]).await
    }

    /// The events of a trace.
    pub async fn trace(&self, trace_id: &str) -> Result<Past, Error> {
        self.past(&["traces", trace_id], &[]).await
    }

    /// What changed between two instants.
    pub async fn diff(&self, query: &Parameters<'_>) -> Result<Past, Error> {
        self.past(&["diff"], query).await
    }

    /// The lives of an instance.
    pub async fn history(
        &self,
        service: &str,
        instance: &str,
        query: &Parameters<'_>,
    ) -> Result<Past, Error> {
        self.past(&["services", service, "instances", instance, "history"], query).await
    }

    /// Why an instance left, or why it is as it is.
    pub async fn why(
        &self,
        service: &str,
        instance: &str,
        query: &Parameters<'_>,
    ) -> Result<Past, Error> {
        self.past(&["services", service, "instances", instance, "why"], query).await
    }

    /// Who was handed an instance that was dead already.
    pub async fn impact(&self, query: &Parameters<'_>) -> Result<Past, Error> {
        self.past(&["impact"], query).await
    }

    /// Who looks up whom.
    pub async fn graph(&self, query: &Parameters<'_>) -> Result<Past, Error> {
        self.past(&["graph"], query).await
    }

    /// The same as a drawing: `query` has a `format` that is not JSON.
    pub async fn drawing(&self, query: &Parameters<'_>) -> Result<String, Error> {
        let request = self.request(Method::GET, &["v1", "graph"])?.query(query);
        let body = self.bytes(self.answer(request).await?).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
