//! Those who wait, on the driver's side: a connection and a task each, which say when their first byte came.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::now;
use crate::Failure;
use crate::options::Options;

/// Connections that are opened at once: a backlog has its limit.
const OPENING: usize = 200;

/// All of them.
pub(super) struct Crowd {
    told: mpsc::Receiver<Instant>,
    rounds: watch::Sender<u64>,
    count: usize,
    tasks: JoinSet<Result<(), Failure>>,
}

impl Crowd {
    /// Connects everybody and lets them wait.
    pub(super) async fn gather(
        address: SocketAddr,
        poll: &'static str,
        stream: &'static str,
        options: &Options,
    ) -> Result<Self, Failure> {
        let count = options.watchers + options.streams;
        let (tell, told) = mpsc::channel(count.max(1));
        let (rounds, round) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let mut connection = TcpStream::connect(address).await?;
            connection.set_nodelay(true)?;
            let (tell, round) = (tell.clone(), round.clone());
            if number < options.watchers {
                tasks.spawn(polls(connection, poll, tell, round));
            } else {
                let request = format!("GET {stream} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
                connection.write_all(request.as_bytes()).await?;
                tasks.spawn(streams(connection, tell));
            }
            if number % OPENING == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Self { told, rounds, count, tasks })
    }

    /// Waits until everybody was told; when the first and the last one were.
    pub(super) async fn told(&mut self) -> Result<(Instant, Instant), Failure> {
        let mut times = Vec::with_capacity(self.count);
        while times.len() < self.count {
            tokio::select! {
                Some(time) = self.told.recv() => times.push(time),
                Some(ended) = self.tasks.join_next() => ended??,
            }
        }
        let (first, last) = (times.iter().min(), times.iter().max());
        first.copied().zip(last.copied()).ok_or_else(|| "nobody waits".into())
    }

    /// Hangs up.
    pub(super) async fn leave(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Lets the long polls wait again.
    pub(super) fn again(&self) {
        self.rounds.send_modify(|round| *round += 1);
    }
}

/// A long poll after the other: each holds the revision that the answer before it had.
async fn polls(
    mut connection: TcpStream,
    path: &'static str,
    tell: mpsc::Sender<Instant>,
    mut round: watch::Receiver<u64>,
) -> Result<(), Failure> {
    // The bytes of a whole answer of a few instances.
    let mut buffer = vec![0; 4 * 1024];
    let mut held = revision(&mut connection, path, &mut buffer, None).await?.0;
    loop {
        let (next, first) = revision(&mut connection, path, &mut buffer, Some(held)).await?;
        held = next;
        tell.send(first).await?;
        if round.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Asks, for something above `after` if there is one; the revision, and when its first byte came.
async fn revision(
    connection: &mut TcpStream,
    path: &str,
    buffer: &mut [u8],
    after: Option<usize>,
) -> Result<(usize, Instant), Failure> {
    let query = after.map_or(String::new(), |after| format!("?after={after}&wait=10m"));
    let request =
        format!("GET {path}{query} HTTP/1.1\r\nhost: 127.0.0.1\r\nrollcall-caller: driver\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut filled = connection.read(buffer).await?;
    let first = now();
    loop {
        let text = std::str::from_utf8(&buffer[..filled])?;
        let header = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(known, _)| *known == name).and_then(|(_, value)| value.parse().ok())
        };
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && header("content-length").is_some_and(|length: usize| body.len() >= length)
        {
            if !head.starts_with("HTTP/1.1 200") {
                return Err(format!("a long poll was answered {head}").into());
            }
            return Ok((header("rollcall-seq").unwrap_or(0), first));
        }
        match connection.read(&mut buffer[filled..]).await? {
            0 => return Err("the server has hung up, or the answer is longer than expected".into()),
            read => filled += read,
        }
    }
}

/// A stream: each event is one telling, and the head none.
async fn streams(mut connection: TcpStream, tell: mpsc::Sender<Instant>) -> Result<(), Failure> {
    let mut buffer = vec![0; 4 * 1024];
    let mut rest = Vec::new();
    loop {
        let read = connection.read(&mut buffer).await?;
        let came = now();
        if read == 0 {
            return Ok(());
        }
        rest.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&rest);
        if let Some(at) = text.find("data: ")
            && let Some(end) = text[at..].find("\n\n")
        {
            let after = at + end + 2;
            rest.drain(..after);
            if tell.send(came).await.is_err() {
                return Ok(());
            }
        }
    }
}
