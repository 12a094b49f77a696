//! The two versions of HTTP as clients use them to the full: pipelines, many requests on one connection, encoded answers.

mod encodings;
mod http2;
mod pipelines;
