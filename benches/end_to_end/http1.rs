//! As much of an HTTP/1.1 client as the measurement needs: a keep-alive connection, one request at a time, answers
//! with a `content-length`. A real client would cost as much as the servers that are measured.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long an answer may take before the run counts as broken.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer that has come in whole.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    head_bytes: usize,
    body_bytes: usize,
}

impl Answer {
    /// How long it is, with its head.
    pub(crate) fn bytes(&self) -> usize {
        self.head_bytes + self.body_bytes
    }

    /// Its body in the bytes that begin with it.
    pub(crate) fn body_in<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.head_bytes..self.bytes()]
    }
}

/// What has come in of an answer.
#[derive(Debug)]
struct Incoming {
    buffer: Vec<u8>,
    filled: usize,
}

impl Incoming {
    fn new() -> Self {
        Self { buffer: vec![0; 16 * 1024], filled: 0 }
    }

    /// Where the next bytes go.
    fn space(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        &mut self.buffer[self.filled..]
    }

    fn body(&self, answer: &Answer) -> &[u8] {
        answer.body_in(&self.buffer)
    }

    /// Takes note of `count` new bytes; the answer, if it is whole now.
    fn took(&mut self, count: usize) -> io::Result<Option<Answer>> {
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has hung up"));
        }
        self.filled += count;
        let answer = parse(&self.buffer[..self.filled])?;
        Ok(answer.filter(|answer| self.filled >= answer.bytes()))
    }
}

/// Reads the head, if it is there. The body may be incomplete.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let broken = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| broken("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
    let status: u16 = status.ok_or_else(|| broken("an answer without a status"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse().ok());
    let length = if matches!(status, 204 | 304) { Some(0) } else { length };
    let body_bytes = length.ok_or_else(|| broken("an answer without a content-length"))?;
    Ok(Some(Answer { status, head_bytes: end + 4, body_bytes }))
}

/// A connection for the closed loop: many of them on few threads.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: tokio::net::TcpStream,
    incoming: Incoming,
}

impl Connection {
    /// The body of the answer that came last.
    pub(crate) fn body(&self, answer: &Answer) -> &[u8] {
        self.incoming.body(answer)
    }

    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, incoming: Incoming::new() })
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.incoming.filled = 0;
        loop {
            let count = self.stream.read(self.incoming.space()).await?;
            if let Some(answer) = self.incoming.took(count)? {
                return Ok(answer);
            }
        }
    }
}

/// A connection that blocks, for what is asked aside.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    incoming: Incoming,
}

impl Client {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, incoming: Incoming::new() })
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        self.receive()
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// Whether nothing has come that was not read.
    pub(crate) fn is_silent(&self) -> io::Result<bool> {
        self.stream.set_nonblocking(true)?;
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match seen {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            seen => seen.map(|_| false),
        }
    }

    /// Waits for the answer to what was sent.
    pub(crate) fn receive(&mut self) -> io::Result<Answer> {
        self.incoming.filled = 0;
        loop {
            let count = self.stream.read(self.incoming.space())?;
            if let Some(answer) = self.incoming.took(count)? {
                return Ok(answer);
            }
        }
    }

    /// The body of the answer that came last.
    pub(crate) fn body(&self, answer: &Answer) -> &[u8] {
        self.incoming.body(answer)
    }

    /// A header of the answer that came last.
    pub(crate) fn header(&self, answer: &Answer, name: &str) -> Option<String> {
        let head = std::str::from_utf8(&self.incoming.buffer[..answer.head_bytes]).ok()?;
        let mut headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
        let (_, value) = headers.find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(value.trim().to_owned())
    }

    /// Asks for a path and gives status and body.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        let answer =
            self.exchange(format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").as_bytes())?;
        Ok((answer.status, String::from_utf8_lossy(self.body(&answer)).into_owned()))
    }
}
