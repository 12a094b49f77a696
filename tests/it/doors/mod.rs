//! The two versions of HTTP as clients use them to the full: pipelines, and many requests on one connection.

mod http2;
mod pipelines;
