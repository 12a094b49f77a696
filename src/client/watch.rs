//! Waiting for changes: a stream that finds its way back by itself, and the lookup that waits.
//!
//! A stream breaks when either side restarts, and is meant to: it comes back with the id that it saw last, and gets each
//! event once. It tells its caller of every break, so that a person sees why nothing comes. It must never pass over a
//! refusal: what is no longer kept (410) is for the caller to decide on. Called by the command line.

use std::time::Duration;

use reqwest::{Method, Response};

use super::{ANSWER_TIMEOUT, Client, Error, Event, Filter, Offer, chain};

/// The server says something at least every 15 s; after three times that, the other end is gone.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A stream has no end of its own; a request needs one.
const NO_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Pause before the first attempt to come back, unless the server asks for another one.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Longest line: an instance with all that the contract lets it carry is a tenth of that.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// What a stream is to tell; the namespace is the client's.
#[derive(Clone, Debug, Default)]
pub struct WatchQuery {
    /// Events of this service.
    pub service: Option<String>,
    /// Events of these kinds; empty is all.
    pub kinds: Vec<String>,
    /// After this change, or pair of change and traffic event (`42,t1093`); `None` begins with the next change.
    pub after: Option<String>,
    /// Heartbeats, lookups and streams too.
    pub traffic: bool,
}

impl WatchQuery {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let mut pairs: Vec<(&'static str, &str)> = Vec::new();
        pairs.extend(self.service.as_deref().map(|service| ("service", service)));
        pairs.extend(self.kinds.iter().map(|kind| ("kind", kind.as_str())));
        pairs.extend(self.after.as_deref().map(|after| ("after", after)));
        pairs.extend(self.traffic.then_some(("traffic", "true")));
        pairs
    }
}

/// What a stream has to say.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An event, and the id to resume after it.
    Event {
        /// The id of the stream: `42`, or with traffic `42,t1093`.
        id: String,
        /// The event.
        event: Box<Event>,
    },
    /// The stream broke. The next call comes back to it, after this pause.
    Lost {
        /// Why.
        why: String,
        /// How long it will wait.
        pause: Duration,
    },
}

/// A stream of events.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    query: WatchQuery,
    last_id: Option<String>,
    open: Option<(Response, Parser)>,
    ever_open: bool,
    /// What the server asked for.
    retry: Duration,
    /// How long to wait before the next attempt, and the attempts that failed in a row.
    pause: Option<Duration>,
    failures: u32,
}

impl Client {
    /// A stream of events. Nothing is asked before [`Watch::next`].
    #[must_use]
    pub fn watch(&self, query: WatchQuery) -> Watch {
        Watch {
            client: self.clone(),
            query,
            last_id: None,
            open: None,
            ever_open: false,
            retry: PAUSE,
            pause: None,
            failures: 0,
        }
    }

    /// A lookup that is answered as soon as the service's revision is above `after`, else after `wait` with the
    /// unchanged list.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lookup_after(
        &self,
        service: &str,
        filter: &Filter,
        after: u64,
        wait: Duration,
    ) -> Result<Offer, Error> {
        let request = self.request(Method::GET, &["v1", "services", service, "instances"])?;
        let waiting = [("after", after.to_string()), ("wait", format!("{}ms", wait.as_millis()))];
        let request = request.query(&filter.query()).query(&waiting);
        self.json(request.timeout(wait.saturating_add(ANSWER_TIMEOUT))).await
    }
}

impl Watch {
    /// The id to resume after; none before the first answer.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Waits for the next event, and comes back to a stream that broke.
    ///
    /// # Errors
    /// [`Error::Refused`] if the registry refuses what is asked, [`Error::Unreachable`] if it could not be reached even
    /// once; a stream that was open once is never given up.
    pub async fn next(&mut self) -> Result<Notice, Error> {
        loop {
            if let Some(pause) = self.pause.take() {
                tokio::time::sleep(pause).await;
            }
            let Some((response, parser)) = &mut self.open else {
                if let Err(error) = self.connect().await {
                    return self.lost(error);
                }
                continue;
            };
            if let Some(block) = parser.next() {
                if let Some(notice) = self.take(block)? {
                    return Ok(notice);
                }
                continue;
            }
            let why = match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
                Ok(Ok(Some(bytes))) => match parser.feed(&bytes) {
                    Ok(()) => continue,
                    Err(why) => why.to_owned(),
                },
                Ok(Ok(None)) => "the registry has ended the stream".to_owned(),
                Ok(Err(error)) => chain(&error.without_url()),
                Err(_) => format!("nothing came for {} s", SILENCE_MAX.as_secs()),
            };
            return Ok(self.broke(why));
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let request = self.client.request(Method::GET, &["v1", "watch"])?;
        let mut request = request.query(&self.query.pairs()).timeout(NO_TIMEOUT);
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.client.answer(request)).await;
        let unreachable = |_| Error::Unreachable {
            url: self.client.url().to_owned(),
            why: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        };
        let response = answer.map_err(unreachable)??;
        self.open = Some((response, Parser::default()));
        self.ever_open = true;
        Ok(())
    }

    /// An attempt failed: to be tried again, or not.
    fn lost(&mut self, error: Error) -> Result<Notice, Error> {
        // A registry that replays or is busy says 503 or 429; any other refusal would be repeated for ever.
        let passes = match error.status() {
            Some(status) => status >= 500 || status == 429,
            None => matches!(error, Error::Unreachable { .. }),
        };
        if !passes || !self.ever_open {
            return Err(error);
        }
        Ok(self.broke(error.to_string()))
    }

    fn broke(&mut self, why: String) -> Notice {
        self.open = None;
        let factor = 2_u32.saturating_pow(self.failures.min(8));
        self.failures += 1;
        let pause = self.retry.saturating_mul(factor).min(PAUSE_MAX.max(self.retry));
        self.pause = Some(pause);
        Notice::Lost { why, pause }
    }

    fn take(&mut self, block: Block) -> Result<Option<Notice>, Error> {
        if let Some(retry) = block.retry {
            self.retry = retry;
        }
        if block.event == "end" {
            #[derive(serde::Deserialize)]
            struct End {
                reason: String,
            }
            let end = serde_json::from_str::<End>(&block.data);
            let reason = end.map_or_else(|_| "it does not say why".to_owned(), |end| end.reason);
            return Ok(Some(self.broke(format!("the registry has ended the stream: {reason}"))));
        }
        if block.data.is_empty() {
            self.last_id = block.id.or(self.last_id.take());
            return Ok(None);
        }
        let event = serde_json::from_str(&block.data).map_err(|error| Error::Unreadable {
            url: self.client.url().to_owned(),
            why: error.to_string(),
        })?;
        self.failures = 0;
        self.last_id = block.id.or(self.last_id.take());
        let id = self.last_id.clone().unwrap_or_default();
        Ok(Some(Notice::Event { id, event: Box::new(event) }))
    }
}

/// One block of a stream: what stands between two empty lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    id: Option<String>,
    event: String,
    data: String,
    retry: Option<Duration>,
}

/// Takes server-sent events apart, wherever the network has cut them.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    block: Block,
    done: std::collections::VecDeque<Block>,
}

impl Parser {
    fn next(&mut self) -> Option<Block> {
        self.done.pop_front()
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > LINE_BYTES_MAX {
                return Err("a line is longer than any event can be");
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.take(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str) {
        if line.is_empty() {
            let block = std::mem::take(&mut self.block);
            if block != Block::default() {
                self.done.push_back(block);
            }
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.block.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.block.event),
            "data" if self.block.data.is_empty() => value.clone_into(&mut self.block.data),
            "data" => {
                self.block.data.push('\n');
                self.block.data.push_str(value);
            }
            "retry" => self.block.retry = value.parse().ok().map(Duration::from_millis),
            // A comment, or a field of a later version.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_taken_apart_wherever_it_is_cut() {
        let text = ":\n\nretry: 250\nid: 41\n\nid: 42\r\nevent: registered\r\ndata: {\"ü\":1}\r\n\r\n:\nid: 50\n\ndata:a\ndata: b\n\n";
        let mut whole = Parser::default();
        whole.feed(text.as_bytes()).unwrap();
        let mut bytewise = Parser::default();
        for byte in text.as_bytes() {
            bytewise.feed(&[*byte]).unwrap();
        }
        assert_eq!(whole.done, bytewise.done);
        let id = |id: &str| Some(id.to_owned());
        let retry = Some(Duration::from_millis(250));
        let (event, data) = ("registered".to_owned(), "{\"ü\":1}".to_owned());
        assert_eq!(
            Vec::from(whole.done),
            [
                Block { id: id("41"), retry, ..Block::default() },
                Block { id: id("42"), event, data, ..Block::default() },
                Block { id: id("50"), ..Block::default() },
                Block { data: "a\nb".into(), ..Block::default() },
            ]
        );
        let endless = vec![b'x'; LINE_BYTES_MAX + 1];
        assert!(Parser::default().feed(&endless).is_err());
    }
}
