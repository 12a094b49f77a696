//! Whom probes trust: the authorities of the system, or those of a given file.
//!
//! A file is read at the start, so that a mistake in it is told to the operator and not to each check. The system's are read
//! when the first probe needs them: most registries probe nobody by TLS. It must never fall back to trusting anybody.
//! Called by [`super::dial`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{self, CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where the trusted authorities are from; a setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// The system knows them.
    #[default]
    System,
    /// They are in this PEM file, and nobody else is trusted.
    File(PathBuf),
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FromStr for Roots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(if text == "system" { Self::System } else { Self::File(PathBuf::from(text)) })
    }
}

/// Why a file of authorities can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It can't be read, or it is no PEM.
    #[error("can't read the certificates of --check-ca {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pki_types::pem::Error,
    },
    /// It holds no certificate that could sign others.
    #[error("--check-ca {} holds no certificate of an authority (a PEM section CERTIFICATE)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What a connection speaks once it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Alpn {
    Http1,
    Http2,
}

/// A configuration for each protocol.
#[derive(Debug, Clone)]
struct Configs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Configs {
    fn of(roots: RootCertStore) -> Result<Self, String> {
        let config = |alpn: &[u8]| {
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            Ok::<_, String>(Arc::new(config))
        };
        Ok(Self { http1: config(b"http/1.1")?, http2: config(b"h2")? })
    }
}

/// Makes connections that are encrypted, with whom is trusted.
#[derive(Debug)]
pub(super) struct Tls {
    configs: OnceCell<Result<Configs, String>>,
}

impl Tls {
    pub(super) fn new(roots: &Roots) -> Result<Self, RootsError> {
        let configs = match roots {
            Roots::System => OnceCell::new(),
            Roots::File(path) => OnceCell::new_with(Some(Configs::of(from_file(path)?))),
        };
        Ok(Self { configs })
    }

    /// Encrypts a connection to the server of this name, a DNS name or an address.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        alpn: Alpn,
        stream: S,
    ) -> Result<TlsStream<S>, String> {
        let configs = self.configs.get_or_init(of_system).await.as_ref().map_err(Clone::clone)?;
        let config = match alpn {
            Alpn::Http1 => &configs.http1,
            Alpn::Http2 => &configs.http2,
        };
        let name = host.trim_end_matches('.').to_owned();
        let name = ServerName::try_from(name).map_err(|error| format!("{host}: {error}"))?;
        let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        connected.map_err(|error| format!("no TLS connection: {error}"))
    }
}

fn from_file(path: &Path) -> Result<RootCertStore, RootsError> {
    let unreadable = |source| RootsError::Unreadable { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add_parsable_certificates([certificate.map_err(unreadable)?]);
    }
    if roots.is_empty() {
        return Err(RootsError::Empty { path: path.to_owned() });
    }
    Ok(roots)
}

/// The authorities of the system. Without any, each probe by TLS fails and says why.
async fn of_system() -> Result<Configs, String> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(format!(
            "the system has no certificates of authorities{why}: give some with --check-ca"
        ));
    }
    Configs::of(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_authority_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for text in [None, Some(""), Some("hello"), Some("-----BEGIN CERTIFICATE-----\n!\n")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let refused = Tls::new(&Roots::File(path.clone())).unwrap_err();
            assert!(refused.to_string().contains("ca.pem"), "{refused}");
        }
        assert!(Tls::new(&Roots::System).is_ok());
    }
}
