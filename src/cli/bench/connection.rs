//! One keep-alive connection to the registry, which sends one request at a time. Opens anew when the registry closes it,
//! and knows nothing of what it sends.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take until its request counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the registry is.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Host as the system resolves it, and port.
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    /// Both as the header `host` has them.
    pub(super) authority: Arc<str>,
    /// What goes before each path, without a slash at its end.
    pub(super) base: Arc<str>,
}

type Sender = http1::SendRequest<Full<Bytes>>;
type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// Its body.
    pub(super) body: Bytes,
}

/// A connection, open or to be opened.
pub(super) struct Connection {
    target: Target,
    open: Option<(Sender, Driver)>,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(target: Target) -> io::Result<Self> {
        let mut connection = Self { target, open: None };
        connection.reopen().await?;
        Ok(connection)
    }

    async fn reopen(&mut self) -> io::Result<()> {
        let address = (&*self.target.host, self.target.port);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        self.open = Some((sender, Box::pin(driver)));
        Ok(())
    }

    /// Sends a request and reads its answer. After an error, the next one opens the connection anew.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        // Whoever has nothing to say for long is hung up on: that is no failure of the next request.
        if let Some((_, driver)) = &mut self.open {
            let ended = poll_fn(|context| Poll::Ready(driver.as_mut().poll(context).is_ready()));
            if ended.await {
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.reopen().await?;
        }
        // A request that fails, or is given up, leaves no half answer behind for the next one.
        let Some((mut sender, mut driver)) = self.open.take() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let ask = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Answer { status, body })
        };
        // The connection is driven here: a task of its own would cost as much as the request.
        let both = async {
            tokio::pin!(ask);
            tokio::select! {
                answer = &mut ask => answer.map(|answer| (answer, false)),
                // What it has received by then can still be read.
                _ = driver.as_mut() => ask.await.map(|answer| (answer, true)),
            }
        };
        let (answer, ended) =
            tokio::time::timeout(ANSWER_TIMEOUT, both).await?.map_err(io::Error::other)?;
        if !ended {
            self.open = Some((sender, driver));
        }
        Ok(answer)
    }
}
