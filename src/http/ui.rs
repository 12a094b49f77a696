//! The registry's own page, for people: files that are part of the program, so that it needs no network and no build.
//!
//! ```text
//!   /            a browser is sent to the page; anybody else is told that there is nothing here
//!   /ui          the page
//!   /ui/{file}   what it is made of: modules, styles, the icon
//! ```
//!
//! The page asks the API of this module's neighbours like any other client, and in the name `rollcall-ui`. It must never
//! load anything from elsewhere or run what stands in an answer: the policy that goes with each file says so to the
//! browser. The files are in `ui/` at the top of the repository, beside the dashboards, because they are no Rust.
//! Called by the router.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::names::Path;
use super::problem::Problem;
use super::{accept, etag};

/// Nothing from elsewhere, nothing inline, nobody's frame, and no form that goes anywhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// Kept by the browser and asked for each time, which costs a 304: modules name each other without a version, and a page of
/// two releases would be worse than a request.
const KEEP_AND_ASK: HeaderValue = HeaderValue::from_static("no-cache");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct File {
    name: &'static str,
    media: &'static str,
    body: Bytes,
    tag: Bytes,
}

/// One entry per file: what is not named here is not served, whatever a path says.
macro_rules! files {
    ($($media:ident $name:literal),+ $(,)?) => {
        [$(File::of($name, $media, include_bytes!(concat!("../../ui/", $name)))),+]
    };
}

/// What a browser asks for under `/ui/`.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let files = files![
        HTML "index.html",
        CSS "page.css",
        CSS "views.css",
        SVG "icon.svg",
        SCRIPT "main.js",
        SCRIPT "api.js",
        SCRIPT "dom.js",
        SCRIPT "words.js",
        SCRIPT "links.js",
        SCRIPT "live.js",
        SCRIPT "table.js",
        SCRIPT "services.js",
        SCRIPT "service.js",
        SCRIPT "instance.js",
        SCRIPT "timeline.js",
        SCRIPT "impact.js",
        SCRIPT "graph.js",
        SCRIPT "layers.js",
        SCRIPT "past.js",
        SCRIPT "events.js",
    ];
    files.into()
});

impl File {
    fn of(name: &'static str, media: &'static str, body: &'static [u8]) -> Self {
        let tag = Bytes::from(format!("\"ui-{:032x}\"", xxh3_128(body)));
        Self { name, media, body: Bytes::from_static(body), tag }
    }

    /// The file, or that the client has it already.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let held = etag::held(asked, &self.tag);
        let mut response = Response::new(match held {
            Some(_) => Body::empty(),
            None => Body::from(self.body.clone()),
        });
        if held.is_some() {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        if held.is_none() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        }
        headers.insert(ETAG, etag::header(held.as_ref().unwrap_or(&self.tag)));
        headers.insert(CACHE_CONTROL, KEEP_AND_ASK);
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, SAME_ORIGIN);
        response
    }
}

/// `GET /ui`
pub(super) async fn page(request: Request) -> Result<Response, Problem> {
    named("index.html", request.headers())
}

/// `GET /ui/{file}`
pub(super) async fn file(path: Path, request: Request) -> Result<Response, Problem> {
    named(path.get("file"), request.headers())
}

fn named(name: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let file = FILES.iter().find(|file| file.name == name).ok_or(Problem::UnknownPath)?;
    Ok(file.answer(asked))
}

/// `GET /` and `GET /ui/`: a browser that was given no more than the address is shown the page. Whoever does not ask for
/// HTML by name is a program, and hears that there is nothing at this path.
pub(super) async fn front(request: Request) -> Result<Response, Problem> {
    let names_html = request
        .headers()
        .get_all(axum::http::header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("text/html")));
    if !names_html || !accept::allows(request.headers(), "text/html") {
        return Err(Problem::UnknownPath);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    // Relative, so that it holds behind a proxy that serves the registry below a path of its own.
    let location = if request.uri().path() == "/" { "ui" } else { "../ui" };
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(location));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that a file's text gives to its neighbours: `./name` in modules, `ui/name` in the page.
    fn named_by(text: &str) -> Vec<&str> {
        ["\"./", "\"ui/"]
            .iter()
            .flat_map(|mark| text.split(mark).skip(1))
            .filter_map(|rest| rest.split('"').next())
            .collect()
    }

    #[test]
    fn every_file_is_served_and_every_name_in_them_is_a_file() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut served: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        there.sort_unstable();
        served.sort_unstable();
        assert_eq!(there, served);
        for file in FILES.iter() {
            let text = std::str::from_utf8(&file.body).unwrap();
            for name in named_by(text) {
                assert!(served.contains(&name), "{} names {name}, which is not there", file.name);
            }
        }
    }

    #[test]
    fn no_file_reaches_elsewhere_or_makes_markup_of_text() {
        // The namespace of SVG is a name and no address.
        let elsewhere = ["https://", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML"];
        let inline =
            ["document.write", "eval(", "new Function", " onclick=", " style=", "<script>"];
        for file in FILES.iter() {
            let text = std::str::from_utf8(&file.body).unwrap();
            for banned in elsewhere.iter().chain(&inline) {
                assert!(!text.contains(banned), "{} has {banned}", file.name);
            }
            let others = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!others.contains("http://"), "{} names an address", file.name);
        }
    }
}
