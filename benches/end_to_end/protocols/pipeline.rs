//! HTTP/1.1, pipelined: requests that are written at once, and their answers, read one after the other.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::is_about;
use super::lookups::{Expected, Lookup};
use crate::Failure;
use crate::http1::{Answer, parse};
use crate::load::{Seen, Times, now};
use crate::requests::Requests;

/// A connection on which many requests are under way.
#[derive(Debug)]
pub(super) struct Pipeline {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the answer begins that is read now.
    begin: usize,
    /// Where the bytes end that have come.
    end: usize,
}

impl Pipeline {
    /// Connects.
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024], begin: 0, end: 0 })
    }

    /// Sends requests.
    pub(super) async fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.write_all(requests).await
    }

    /// Waits for the next answer, and gives its status and its body.
    pub(super) async fn next(&mut self) -> io::Result<(u16, &[u8])> {
        loop {
            let come = &self.buffer[self.begin..self.end];
            match parse(come)?.filter(|answer| answer.bytes() <= come.len()) {
                Some(answer) => {
                    let begin = self.begin;
                    self.begin += answer.bytes();
                    return Ok((answer.status, self.body(&answer, begin)));
                }
                None => self.read().await?,
            }
        }
    }

    /// Whether nothing has come but the answers that were read.
    pub(super) fn is_drained(&self) -> bool {
        self.begin == self.end
    }

    fn body(&self, answer: &Answer, begin: usize) -> &[u8] {
        answer.body_in(&self.buffer[begin..])
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.is_drained() {
            (self.begin, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            // What was read makes room first.
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
            if self.end == self.buffer.len() {
                self.buffer.resize(2 * self.end, 0);
            }
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has hung up")),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }
}

/// Writes `depth` lookups at once, as soon as all before them are answered, until the time is over.
pub(super) async fn closed(
    mut pipeline: Pipeline,
    mut requests: Requests,
    depth: usize,
    expected: Expected,
    times: Times,
) -> Result<Seen, Failure> {
    let mut seen = times.seen();
    let (mut written, mut asked) = (Vec::new(), Vec::with_capacity(depth));
    let mut sent_at = now();
    while sent_at < times.end {
        written.clear();
        asked.clear();
        for _ in 0..depth {
            let request = requests.next();
            asked.push(Lookup::read(request)?.service()?.to_owned());
            written.extend_from_slice(request);
        }
        pipeline.send(&written).await?;
        for service in &asked {
            let (status, body) = pipeline.next().await?;
            if status != 200 || !is_about(body, expected.of(service)) {
                let body = String::from_utf8_lossy(body).into_owned();
                let failure =
                    format!("a pipelined lookup of {service} was answered {status} {body}");
                return Err(failure.into());
            }
            seen.note(times, sent_at);
        }
        if !pipeline.is_drained() {
            return Err("more answers came than were asked for".into());
        }
        sent_at = now();
    }
    Ok(seen)
}
