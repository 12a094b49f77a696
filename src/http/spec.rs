//! The description of every operation: what the router routes, what the query reader lets through and what
//! the OpenAPI document says are one table, so that they can't differ. Plain constants; written beside each
//! handler, read by [`super::router`], [`super::query`] and [`super::openapi`].

use axum::routing::MethodFilter;

/// One method of one path.
#[derive(Debug)]
pub(super) struct Operation {
    /// Its method; GET answers HEAD too.
    pub(super) method: Method,
    /// Its name in generated clients.
    pub(super) id: &'static str,
    /// What it does.
    pub(super) summary: &'static str,
    /// The query parameters that it takes; all others are refused.
    pub(super) query: &'static [Parameter],
    /// The request headers that matter to it, beside those that matter to all.
    pub(super) headers: &'static [&'static str],
    /// Its body, if it takes one.
    pub(super) body: Option<BodySpec>,
    /// Its answers, beside the problems that every operation can answer.
    pub(super) answers: &'static [Answer],
}

/// The methods that the contract uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// For the router.
    pub(super) fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Put => MethodFilter::PUT,
            Self::Post => MethodFilter::POST,
            Self::Patch => MethodFilter::PATCH,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    /// As OpenAPI writes it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Post => "post",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// A query parameter.
#[derive(Debug)]
pub(super) struct Parameter {
    /// Its name; `meta.*` stands for all that begin so.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) about: &'static str,
    /// Which values it has.
    pub(super) shape: Shape,
    /// Whether it may come more than once.
    pub(super) repeats: bool,
}

impl Parameter {
    /// A parameter that comes at most once.
    pub(super) const fn new(name: &'static str, about: &'static str, shape: Shape) -> Self {
        Self { name, about, shape, repeats: false }
    }

    /// The same, and it may come more than once.
    pub(super) const fn repeated(self) -> Self {
        Self { repeats: true, ..self }
    }
}

/// Which values a parameter has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// Any text up to so many characters.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number from the first to the second, the third if there is none.
    Count(u64, u64, u64),
}

/// A request body.
#[derive(Debug)]
pub(super) struct BodySpec {
    /// Its schema in the OpenAPI document.
    pub(super) schema: &'static str,
    /// Whether it may be left out.
    pub(super) optional: bool,
    /// Most bytes of it.
    pub(super) limit: usize,
    /// Its media types, the first one being assumed where none is given.
    pub(super) media: &'static [&'static str],
}

/// JSON alone.
pub(super) const JSON: &[&str] = &["application/json"];
/// JSON, and the name that a merge patch has (RFC 7396).
pub(super) const MERGE_PATCH: &[&str] = &["application/json", "application/merge-patch+json"];

/// An answer that is no problem.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// When it is given.
    pub(super) about: &'static str,
    /// The schema of its body in the OpenAPI document; none for an empty one.
    pub(super) schema: Option<&'static str>,
}

/// An answer with a body.
pub(super) const fn answer(status: u16, about: &'static str, schema: &'static str) -> Answer {
    Answer { status, about, schema: Some(schema) }
}

/// An answer without one.
pub(super) const fn empty(status: u16, about: &'static str) -> Answer {
    Answer { status, about, schema: None }
}

/// `namespace`, where absent means `default`.
pub(super) const NAMESPACE: Parameter =
    Parameter::new("namespace", "The namespace; `default` if absent.", Shape::Text(63));
/// `namespace`, where absent means all.
pub(super) const ANY_NAMESPACE: Parameter =
    Parameter::new("namespace", "The namespace; all of them if absent.", Shape::Text(63));
