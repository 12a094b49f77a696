//! Waiting for changes: long polls and streams, over sockets.

mod crowd;
mod polls;
mod resume;
mod streams;

use serde_json::Value;

use crate::harness::{PATIENCE, Server, eventually};

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) data: Value,
}

impl Told {
    /// The number of its change: of a pair, the first.
    pub(crate) fn change(&self) -> u64 {
        self.id.split(',').next().unwrap().parse().unwrap()
    }
}

/// A stream as a client without any knowledge of it reads it.
pub(crate) struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    /// Opens `/v1/watch` with this query, and with this `last-event-id` if it is not empty.
    pub(crate) async fn open(url: &str, query: &str, last_event_id: &str) -> Self {
        let mut request = reqwest::Client::new().get(format!("{url}/v1/watch{query}"));
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{query} {last_event_id}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next block that is not only a comment or an id; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = block.lines().filter_map(|line| line.split_once(": "));
                    lines
                        .into_iter()
                        .find(|(known, _)| *known == name)
                        .map(|(_, value)| value.to_owned())
                };
                let told = field("data").map(|data| Told {
                    id: field("id").unwrap_or_default(),
                    event: field("event").unwrap(),
                    data: serde_json::from_str(&data).unwrap(),
                });
                self.text = rest.to_owned();
                if told.is_some() {
                    return told;
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("the stream says something in time").ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next `count` events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Told> {
        let mut told = Vec::new();
        while told.len() < count {
            told.push(self.next().await.expect("the stream goes on"));
        }
        told
    }
}

/// Waits until so many watchers of a transport are there.
async fn watchers(server: &Server, transport: &str, count: f64) {
    let label = format!("transport=\"{transport}\"");
    let seen = async || server.page().await.sum("rollcall_watchers", &[&label]);
    eventually("watchers", seen, |seen| *seen == count).await;
}

/// The last change.
async fn head(server: &Server) -> u64 {
    server.call("GET", "/v1/status", None).await.1["head"].as_u64().unwrap()
}
