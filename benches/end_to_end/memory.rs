//! Resident memory of a registry of its own: at the start, with the instances in it, and after every service was
//! looked up once, when all answers are kept.

use serde::Serialize;

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::options::Options;
use crate::servers::Server;

/// What a registry takes, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Instances registered, of three tags and three pairs of metadata each.
    pub(crate) instances: usize,
    /// Before the first request.
    pub(crate) at_start: u64,
    /// With all instances.
    pub(crate) registered: u64,
    /// After a lookup of every service.
    pub(crate) looked_up: u64,
}

/// Measures; none where the system does not say, or where it was not wanted.
pub(crate) fn measure(options: &Options) -> Result<Option<Memory>, Failure> {
    let services = options.memory / options.instances.max(1);
    if services == 0 {
        return Ok(None);
    }
    let dir = tempfile::tempdir_in(&options.dir)?;
    let server = Server::rollcall(dir.path(), options)?;
    let Some(at_start) = server.resident_bytes() else { return Ok(None) };
    fleet::register(server.address, options, services, options.instances)?;
    let registered = server.resident_bytes().unwrap_or_default();
    let mut client = Client::open(server.address)?;
    for service in 0..services {
        let (status, _) = client.get(&format!("/v1/services/service-{service:05}/instances"))?;
        if status != 200 {
            return Err(format!("a lookup was answered {status}").into());
        }
    }
    let looked_up = server.resident_bytes().unwrap_or_default();
    server.end()?;
    Ok(Some(Memory { instances: services * options.instances, at_start, registered, looked_up }))
}
