//! Who is asking, for the log: the header `rollcall-caller`, else the product in `user-agent`, else the
//! peer's address. What breaks the rule of names is recorded as `unknown`: this text comes from outside and
//! ends on disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::domain::ids::check_name;
use crate::domain::limits::NAME_CHARS_MAX;

/// The header in which a caller names itself.
pub(super) const CALLER: HeaderName = HeaderName::from_static("rollcall-caller");

/// What is recorded for a caller whose name can't be.
const UNKNOWN: &str = "unknown";

/// Most names that one thread keeps at hand; a real fleet has far fewer, an attacker can make any number.
const KEPT_MAX: usize = 1_024;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
    /// The name of a caller that has no better one.
    name: Arc<str>,
    /// Ends the connection: whoever is notified here gets no further.
    pub(super) cut: Arc<Notify>,
}

impl Peer {
    /// The peer at this address.
    pub(super) fn at(address: SocketAddr) -> Self {
        let ip: IpAddr = address.ip().to_canonical();
        let name = Arc::from(allowed(&ip.to_string()));
        Self { address, name, cut: Arc::default() }
    }
}

/// The address at the other end of a request, if it is known.
pub(super) fn address(request: &Request) -> Option<IpAddr> {
    Some(request.extensions().get::<Arc<Peer>>()?.address.ip().to_canonical())
}

thread_local! {
    /// Texts of headers that came before, with the name that each stands for: the same few callers come
    /// again and again, and an answer then costs no allocation.
    static KEPT: RefCell<HashMap<Box<[u8]>, Arc<str>, RandomState>> = RefCell::default();
}

/// The caller of a request with these headers, from this peer if it is known.
pub(super) fn of(headers: &HeaderMap, peer: Option<&Peer>) -> Arc<str> {
    if let Some(value) = headers.get(CALLER) {
        return kept(value.as_bytes(), named);
    }
    if let Some(value) = headers.get(header::USER_AGENT) {
        return kept(value.as_bytes(), product);
    }
    peer.map_or_else(|| Arc::from(UNKNOWN), |peer| Arc::clone(&peer.name))
}

fn kept(text: &[u8], read: impl FnOnce(&[u8]) -> &str) -> Arc<str> {
    KEPT.with_borrow_mut(|kept| {
        if let Some(name) = kept.get(text) {
            return Arc::clone(name);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let name: Arc<str> = Arc::from(read(text));
        kept.insert(text.into(), Arc::clone(&name));
        name
    })
}

/// `service`, or `service/instance`.
fn named(text: &[u8]) -> &str {
    let Ok(text) = std::str::from_utf8(text) else { return UNKNOWN };
    let (service, instance) = text.split_once('/').unwrap_or((text, "none"));
    if allowed(service) == service && allowed(instance) == instance { text } else { UNKNOWN }
}

/// The product of `product/version (comment)`.
fn product(text: &[u8]) -> &str {
    let Ok(text) = std::str::from_utf8(text) else { return UNKNOWN };
    allowed(text.split(['/', ' ', '(', ';']).next().unwrap_or(""))
}

fn allowed(name: &str) -> &str {
    if check_name(name, NAME_CHARS_MAX).is_ok() { name } else { UNKNOWN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_name_there_is_and_unknown_for_what_breaks_the_rule() {
        let peer = Peer::at("127.0.0.1:5000".parse().unwrap());
        let caller = |lines: &[(HeaderName, &'static str)]| {
            let headers = lines.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect();
            of(&headers, Some(&peer)).to_string()
        };
        let agent = (header::USER_AGENT, "curl/8.5.0");
        assert_eq!(caller(&[]), "127.0.0.1");
        assert_eq!(caller(std::slice::from_ref(&agent)), "curl");
        assert_eq!(caller(&[(header::USER_AGENT, "Go-http-client/1.1")]), "Go-http-client");
        assert_eq!(caller(&[(header::USER_AGENT, "(bot)")]), "unknown");
        for (text, expected) in [
            ("web", "web"),
            ("web/web-1", "web/web-1"),
            ("web/", "unknown"),
            ("/web-1", "unknown"),
            ("a/b/c", "unknown"),
            ("a b", "unknown"),
            ("", "unknown"),
        ] {
            assert_eq!(caller(&[(CALLER, text), agent.clone()]), expected, "{text:?}");
        }
        assert_eq!(of(&HeaderMap::new(), None).as_ref(), "unknown");
        let mapped = Peer::at("[::ffff:10.0.0.7]:5000".parse().unwrap());
        assert_eq!(of(&HeaderMap::new(), Some(&mapped)).as_ref(), "10.0.0.7");
    }
}
