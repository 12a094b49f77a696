//! What the registry probes in these tests: real servers on ports of their own, which do what the test says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What a target does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// Answers with these header lines after `HTTP/1.1 ` and this body.
    Answers(String, &'static str),
    /// Takes the request and says nothing.
    Hangs,
    /// Ends the connection with the request unread, which resets it.
    Resets,
}

impl Behaviour {
    /// An answer with this status and body.
    pub(crate) fn answers(status: &str, body: &'static str) -> Self {
        Self::Answers(status.to_owned(), body)
    }
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    heads: Vec<String>,
    connections: usize,
}

/// An HTTP server of one's own making; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _running: JoinSet<()>,
}

impl Target {
    /// Starts one on 127.0.0.1.
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, behaviour).await
    }

    /// Starts one on this address.
    pub(crate) async fn start_at(address: Ipv4Addr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { behaviour, heads: Vec::new(), connections: 0 };
        let state = Arc::new(Mutex::new(state));
        let mut running = JoinSet::new();
        let shared = Arc::clone(&state);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, _running: running }
    }

    pub(crate) fn now(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    /// The heads of all requests that came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    /// How many connections came.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        if matches!(state.lock().unwrap().behaviour, Behaviour::Resets) {
            return;
        }
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                Ok(_) | Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let bare = head.starts_with("HEAD ");
        let behaviour = {
            let mut state = state.lock().unwrap();
            state.heads.push(head);
            state.behaviour.clone()
        };
        let Behaviour::Answers(status, body) = behaviour else {
            // It hangs, or has begun to reset since.
            return std::future::pending().await;
        };
        let length = body.len();
        let body = if bare { "" } else { body };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// An authority that signs certificates, made for one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes its certificate to a file.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }

    /// A server of `router` by TLS, HTTP/1.1 and HTTP/2, whose certificate is for this name or address.
    pub(crate) async fn serves(&self, name: &str, router: axum::Router) -> Encrypted {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                connections.spawn(async move {
                    // One who does not trust the certificate goes away.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Encrypted { address, _running: running }
    }
}

/// A server by TLS; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Encrypted {
    pub(crate) address: SocketAddr,
    _running: JoinSet<()>,
}

/// A resolver that knows one answer at a time, for every name.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Vec<IpAddr>>);

impl Names {
    /// From now on, every name means these addresses.
    pub(crate) fn mean(&self, addresses: &[&str]) {
        *self.0.lock().unwrap() = addresses.iter().map(|text| text.parse().unwrap()).collect();
    }
}

impl rollcall::probe::Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str) -> rollcall::probe::Resolved<'a> {
        Box::pin(std::future::ready(Ok(self.0.lock().unwrap().clone())))
    }
}
