//! Why a request failed, in words that tell a person what to do next.
//!
//! It must keep what the server said as it was said; a remedy is added, never put in its place. Used by [`super`], shown
//! by the command line.

use std::fmt;

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use super::DEFAULT_URL;

/// Why a request has no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of the registry is not one.
    #[error(
        "{url:?} is no address of a registry: {why}; give one such as {DEFAULT_URL} with --url or ROLLCALL_URL"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name that cannot stand in a path.
    #[error("{0:?} is no name: it must begin with a letter or a digit")]
    Name(String),
    /// No answer at all.
    #[error(
        "no registry answers at {url} ({why}); start one with `rollcall serve`, or name another with --url or ROLLCALL_URL"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the network said.
        why: String,
    },
    /// The server said no, and why.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The server said yes, but in words that are not those of the contract.
    #[error(
        "the answer of {url} is not that of a registry: {why}; is it another server, or another version?"
    )]
    Unreadable {
        /// Who answered.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// The status of a refusal; `None` when there was no refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            Self::Address { .. }
            | Self::Name(_)
            | Self::Unreachable { .. }
            | Self::Unreadable { .. } => None,
        }
    }

    /// Whether the service or instance does not exist (or no longer).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// A refusal as the contract writes it (RFC 9457), and what it says to people.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Problem {
    /// A stable path that names the kind of refusal.
    pub r#type: String,
    /// The kind in words.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What is wrong with this very request.
    pub detail: String,
    /// The trace in which it was refused.
    pub trace_id: Option<String>,
    /// Each refused field.
    pub errors: Vec<FieldError>,
    /// Where history begins, if what was asked for is older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Oldest>,
}

/// The oldest version that can still be told.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Oldest {
    /// Its number.
    pub seq: u64,
    /// When it began.
    pub at: String,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct FieldError {
    /// The field or query parameter.
    pub field: String,
    /// What would be allowed, and what it was.
    pub message: String,
}

impl Problem {
    /// Reads a refusal; one in other words, as from a proxy, becomes a problem with its first 200 characters.
    pub(crate) fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_else(|_| Self {
            detail: String::from_utf8_lossy(body).trim().chars().take(200).collect(),
            ..Self::default()
        });
        problem.status = status.as_u16();
        if problem.title.is_empty() {
            status.canonical_reason().unwrap_or("refused").clone_into(&mut problem.title);
        }
        problem
    }

    fn remedy(&self) -> Option<String> {
        Some(match (self.status, &self.oldest) {
            (404, _) if self.r#type.ends_with("unknown-service") => {
                "`rollcall services` lists those that exist".to_owned()
            }
            (410, Some(Oldest { seq, at })) => {
                format!("the oldest instant that can be asked for is @{seq}, of {at}")
            }
            (429 | 503, _) => "try again in a moment".to_owned(),
            _ => return None,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        write!(f, " (status {}", self.status)?;
        if let Some(trace_id) = &self.trace_id {
            write!(f, ", trace {trace_id}")?;
        }
        f.write_str(")")?;
        for error in &self.errors {
            write!(f, "\n  {} {}", error.field, error.message)?;
        }
        self.remedy().map_or(Ok(()), |remedy| write!(f, "\n{remedy}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_what_the_server_said_with_fields_and_remedy() {
        let body = br#"{"type":"/problems/unknown-service","title":"Unknown service","status":404,
            "detail":"it was never registered","trace_id":"0af7651916cd43dd8448eb211c80319c"}"#;
        let problem = Problem::from_answer(StatusCode::NOT_FOUND, body);
        assert_eq!(
            problem.to_string(),
            "Unknown service: it was never registered (status 404, trace 0af7651916cd43dd8448eb211c80319c)\n\
             `rollcall services` lists those that exist"
        );
        let body = br#"{"title":"Refused","errors":[{"field":"port","message":"must be 1 to 65535, was 0"}]}"#;
        let problem = Problem::from_answer(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(problem.to_string(), "Refused (status 422)\n  port must be 1 to 65535, was 0");
    }

    #[test]
    fn history_that_is_gone_says_where_it_begins() {
        let body = br#"{"type":"/problems/history-gone","title":"History that old is not kept",
            "oldest":{"seq":41,"at":"2026-11-21T08:00:00.000000Z"}}"#;
        let problem = Problem::from_answer(StatusCode::GONE, body);
        assert_eq!(
            problem.to_string(),
            "History that old is not kept (status 410)\n\
             the oldest instant that can be asked for is @41, of 2026-11-21T08:00:00.000000Z"
        );
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_still_shown() {
        let problem = Problem::from_answer(StatusCode::BAD_GATEWAY, b"<html>no upstream</html>");
        assert_eq!(problem.to_string(), "Bad Gateway: <html>no upstream</html> (status 502)");
        let problem = Problem::from_answer(StatusCode::SERVICE_UNAVAILABLE, b"");
        assert_eq!(problem.to_string(), "Service Unavailable (status 503)\ntry again in a moment");
    }
}
