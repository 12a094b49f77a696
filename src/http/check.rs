//! The field `check` of a registration: read, with all faults at once, and shown again.
//!
//! Whether the registry may go where the check would lead is decided here for an address, so that who registers hears of
//! it; for a name it is decided at each probe, because only then it is known what the name means. It must never resolve a
//! name. Called by [`super::registration`] and [`super::wire`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::uri::PathAndQuery;
use serde::Serialize;

use super::fields::{Fields, type_of};
use crate::domain::check::{CheckKind, CheckMethod};
use crate::domain::limits::{
    CHECK_COUNT_MAX, CHECK_FAILURES_DEFAULT, CHECK_INTERVAL_DEFAULT, CHECK_INTERVAL_MAX,
    CHECK_INTERVAL_MIN, CHECK_PASSES_DEFAULT, CHECK_TEXT_CHARS_MAX, CHECK_TIMEOUT_DEFAULT,
};
use crate::domain::{Check, Millis};
use crate::probe::allowed::Networks;

/// Path of an HTTP check that names none.
const PATH_DEFAULT: &str = "/health";
/// Protocols whose instances are probed by TLS unless the check says otherwise.
const ENCRYPTED: [&str; 2] = ["https", "grpcs"];

/// What a check depends on beside its own fields.
pub(super) struct Around<'a> {
    /// The instance's address, if it is one.
    pub(super) address: Option<&'a str>,
    /// The instance's protocol.
    pub(super) protocol: &'a str,
    /// Where the registration comes from.
    pub(super) registered_from: Option<IpAddr>,
    /// Where probes may go besides.
    pub(super) networks: &'a Networks,
}

/// Takes the check, if there is one.
pub(super) fn read(fields: &mut Fields<'_>, around: &Around<'_>) -> Option<Arc<Check>> {
    let object = match fields.take("check")? {
        serde_json::Value::Object(object) => object,
        other => {
            let was = type_of(&other);
            fields.invalid(
                "check",
                format!("must be an object such as {{\"kind\": \"http\"}}, was {was}"),
            );
            return None;
        }
    };
    if let Some(address) = around.address.and_then(|address| address.parse::<IpAddr>().ok())
        && let Err(forbidden) = around.networks.check(address, around.registered_from)
    {
        fields.invalid("check", forbidden.to_string());
    }
    let mut inner = fields.inner("check", object);
    let check = read_fields(&mut inner, around);
    inner.finish();
    check.map(Arc::new)
}

fn read_fields(fields: &mut Fields<'_>, around: &Around<'_>) -> Option<Check> {
    if !fields.has("kind") {
        fields.invalid("kind", "is required: http, tcp or grpc");
    }
    let kind = fields.word("kind", CheckKind::ALL, CheckKind::parse, CheckKind::as_str);
    // Without a kind it is not known which of the others belong to it: they are read, and not held against it.
    let of = |kinds: &[CheckKind]| kind.is_none_or(|kind| kinds.contains(&kind));
    let (http, grpc) = (of(&[CheckKind::Http]), of(&[CheckKind::Grpc]));
    let only = |fields: &mut Fields<'_>, name: &str, fits: bool, which: &str| {
        if !fits && fields.has(name) {
            fields.invalid(name, format!("is for {which} only: leave it out"));
            fields.take(name);
        }
    };
    only(fields, "path", http, "kind \"http\"");
    only(fields, "method", http, "kind \"http\"");
    only(fields, "expect", http, "kind \"http\"");
    only(fields, "service", grpc, "kind \"grpc\"");
    only(fields, "tls", http || grpc, "kind \"http\" and \"grpc\"");
    let path = fields.checked("path", path);
    let method = fields.word("method", CheckMethod::ALL, CheckMethod::parse, CheckMethod::as_str);
    let expect = fields.text("expect", CHECK_TEXT_CHARS_MAX);
    if expect.is_some() && method == Some(CheckMethod::Head) {
        fields.invalid("expect", "needs the body, which HEAD leaves out: use the method GET");
    }
    let service = fields.text("service", CHECK_TEXT_CHARS_MAX);
    let tls = fields.truth("tls");
    let port = match fields.has("port") {
        true => fields.port("port"),
        false => None,
    };
    let span =
        |fields: &mut Fields<'_>, name, least| fields.duration(name, least, CHECK_INTERVAL_MAX);
    let interval = span(fields, "interval", CHECK_INTERVAL_MIN);
    let timeout = span(fields, "timeout", CHECK_INTERVAL_MIN);
    let initial_delay = span(fields, "initial_delay", Millis::ZERO);
    let deregister_after = span(fields, "deregister_after", CHECK_INTERVAL_MIN);
    let count = |fields: &mut Fields<'_>, name| {
        let number = fields.integer(name, 1, u64::from(CHECK_COUNT_MAX))?;
        u32::try_from(number).ok()
    };
    let failures = count(fields, "failures").unwrap_or(CHECK_FAILURES_DEFAULT);
    let passes = count(fields, "passes").unwrap_or(CHECK_PASSES_DEFAULT);
    let kind = kind?;
    Some(Check {
        kind,
        port,
        path: path.unwrap_or_else(|| if http { PATH_DEFAULT.into() } else { "".into() }),
        method: method.unwrap_or(CheckMethod::Get),
        expect,
        service: service.unwrap_or_default(),
        tls: kind != CheckKind::Tcp && tls.unwrap_or_else(|| ENCRYPTED.contains(&around.protocol)),
        interval: interval.unwrap_or(CHECK_INTERVAL_DEFAULT),
        timeout: timeout.unwrap_or(CHECK_TIMEOUT_DEFAULT),
        initial_delay: initial_delay.unwrap_or(Millis::ZERO),
        failures,
        passes,
        deregister_after,
        registered_from: around.registered_from,
    })
}

/// A path, with a query if need be, as it will stand in the request.
fn path(text: &str) -> Result<Box<str>, String> {
    let was = text.chars().count();
    if was > CHECK_TEXT_CHARS_MAX {
        return Err(format!("must be at most {CHECK_TEXT_CHARS_MAX} characters, was {was}"));
    }
    let wrong =
        "must begin with / and hold only what a URL's path and query may, such as \"/health\"";
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !text.starts_with('/') || !printable || text.parse::<PathAndQuery>().is_err() {
        return Err(wrong.to_owned());
    }
    Ok(text.into())
}

/// A check as answered: what was registered, with the defaults that were taken.
#[derive(Serialize)]
pub(super) struct CheckText<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<bool>,
    interval: String,
    timeout: String,
    initial_delay: String,
    failures: u32,
    passes: u32,
    deregister_after: Option<String>,
}

impl<'a> CheckText<'a> {
    /// The text of this check.
    pub(super) fn of(check: &'a Check) -> Self {
        let http = check.kind == CheckKind::Http;
        Self {
            kind: check.kind.as_str(),
            port: check.port,
            path: http.then_some(&*check.path),
            method: http.then_some(check.method.as_str()),
            expect: check.expect.as_deref(),
            service: (check.kind == CheckKind::Grpc).then_some(&*check.service),
            tls: (check.kind != CheckKind::Tcp).then_some(check.tls),
            interval: check.interval.to_string(),
            timeout: check.timeout.to_string(),
            initial_delay: check.initial_delay.to_string(),
            failures: check.failures,
            passes: check.passes,
            deregister_after: check.deregister_after.map(|after| after.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::faults::Faults;
    use crate::http::problem::Problem;

    /// The check as answered, or the fields that were refused.
    fn read_one(check: &Value, protocol: &str) -> Result<Value, Vec<String>> {
        let mut faults = Faults::default();
        let Value::Object(object) = json!({"check": check}) else { unreachable!() };
        let mut fields = Fields::new(object, "", &mut faults);
        let around = Around {
            address: Some("10.0.0.7"),
            protocol,
            registered_from: "10.0.0.7".parse().ok(),
            networks: &Networks::default(),
        };
        let read = read(&mut fields, &around);
        fields.finish();
        match faults.check() {
            Ok(()) => Ok(serde_json::to_value(CheckText::of(&read.unwrap())).unwrap()),
            Err(Problem::InvalidFields { errors }) => {
                Err(errors.into_iter().map(|error| error.field).collect())
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        let timing = json!({
            "interval": "10s", "timeout": "2s", "initial_delay": "0s", "failures": 3, "passes": 1,
            "deregister_after": null,
        });
        for (check, protocol, own) in [
            (
                json!({"kind": "http"}),
                "http",
                json!({"kind": "http", "path": "/health", "method": "GET", "tls": false}),
            ),
            (
                json!({"kind": "http"}),
                "https",
                json!({"kind": "http", "path": "/health", "method": "GET", "tls": true}),
            ),
            (json!({"kind": "tcp"}), "https", json!({"kind": "tcp"})),
            (
                json!({"kind": "grpc", "tls": false, "service": "orders.v1", "port": 1}),
                "grpcs",
                json!({"kind": "grpc", "service": "orders.v1", "tls": false, "port": 1}),
            ),
        ] {
            let mut expected = timing.clone();
            for (name, value) in own.as_object().unwrap() {
                expected[name] = value.clone();
            }
            let answered = read_one(&check, protocol).unwrap();
            assert_eq!(answered, expected);
            // What was answered can be registered again, and is the same then.
            assert_eq!(read_one(&answered, protocol).unwrap(), expected);
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (check, fields) in [
            (json!("http"), &["check"][..]),
            (json!({}), &["check.kind"]),
            (json!({"kind": "icmp"}), &["check.kind"]),
            (json!({"kind": "tcp", "path": "/x"}), &["check.path"]),
            (json!({"kind": "tcp", "method": "GET"}), &["check.method"]),
            (json!({"kind": "grpc", "expect": "up"}), &["check.expect"]),
            (json!({"kind": "http", "service": "x"}), &["check.service"]),
            (json!({"kind": "tcp", "tls": true}), &["check.tls"]),
            (json!({"kind": "http", "tls": "yes"}), &["check.tls"]),
            (json!({"kind": "http", "path": "health"}), &["check.path"]),
            (json!({"kind": "http", "path": "/a b"}), &["check.path"]),
            (json!({"kind": "http", "path": "/a\r\nx: y"}), &["check.path"]),
            (json!({"kind": "http", "path": "/a#b"}), &["check.path"]),
            (json!({"kind": "http", "path": "http://elsewhere/"}), &["check.path"]),
            (json!({"kind": "http", "path": format!("/{}", "a".repeat(256))}), &["check.path"]),
            (json!({"kind": "http", "method": "POST"}), &["check.method"]),
            (json!({"kind": "http", "method": "HEAD", "expect": "up"}), &["check.expect"]),
            (json!({"kind": "http", "port": 0}), &["check.port"]),
            (json!({"kind": "http", "interval": "99ms"}), &["check.interval"]),
            (json!({"kind": "http", "interval": "none"}), &["check.interval"]),
            (json!({"kind": "http", "timeout": "25h"}), &["check.timeout"]),
            (json!({"kind": "http", "initial_delay": -1}), &["check.initial_delay"]),
            (json!({"kind": "http", "deregister_after": 0}), &["check.deregister_after"]),
            (
                json!({"kind": "http", "failures": 0, "passes": 101}),
                &["check.failures", "check.passes"],
            ),
        ] {
            let refused = read_one(&check, "http").expect_err("refused");
            assert_eq!(refused, fields, "{check}");
        }
    }
}
