//! The ways to speak to the registry beside each other, and the limits of its connections: lookups one by one, pipelined
//! and over HTTP/2 ([`lookups`]); what those who have a place notice of those who wait for one, and how long these wait
//! ([`limit`]); and whether an answer ever waits for an acknowledgement ([`delays`]).
//!
//! Called by `main` for `--protocols`. It must not fail for a time, only for a wrong answer or a wrong counter.

mod delays;
mod http2;
mod limit;
mod lookups;
mod pipeline;

use std::path::Path;

use crate::Failure;
use crate::options::Options;
use crate::sheet::Sheet;
use crate::work::Work;

/// Measures all three and shows the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut sheet = Sheet::new("protocols", options);
    lookups::run(&runtime, options, &mut sheet)?;
    limit::run(&runtime, options, &mut sheet)?;
    delays::run(&runtime, options, &mut sheet)?;
    sheet.show(options)
}

/// Lets a bare server in this folder answer every lookup with these bytes.
fn keep(dir: &Path, lookup: &[u8]) -> Result<(), Failure> {
    for work in Work::ALL {
        let body = if work == Work::Lookup { lookup } else { b"{}" };
        std::fs::write(dir.join(work.file()), body)?;
    }
    Ok(())
}

/// What an answer with this body is about, if it is a list of instances in the default namespace; with the quotation mark
/// after it.
fn is_about(body: &[u8], service: &str) -> bool {
    body.strip_prefix(br#"{"namespace":"default","service":""#)
        .and_then(|rest| rest.strip_prefix(service.as_bytes()))
        .is_some_and(|rest| rest.starts_with(b"\""))
}
