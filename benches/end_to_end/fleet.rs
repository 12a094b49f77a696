//! The fleet that lookups and heartbeats are about, registered over HTTP like any other.

use std::net::SocketAddr;

use crate::Failure;
use crate::http1::Client;
use crate::options::Options;
use crate::requests::{Entrant, Requests};
use crate::work::Work;

/// Clients that register at once; a group commit takes what waits.
const CLIENTS: usize = 64;

/// The same of a fleet that would take minutes otherwise; what their connections take does not count beside it.
const CLIENTS_OF_MANY: usize = 256;

/// From so many instances on.
const MANY: usize = 100_000;

/// Registers `services` services of `instances` instances each; how many registrations that were.
pub(crate) fn register(
    address: SocketAddr,
    options: &Options,
    services: usize,
    instances: usize,
) -> Result<u64, Failure> {
    register_each(address, options, services, instances, Entrant::fleet)
}

/// The same with the instances that `entrant` makes of their numbers.
pub(crate) fn register_each(
    address: SocketAddr,
    options: &Options,
    services: usize,
    instances: usize,
    entrant: impl Fn(usize, usize) -> Entrant + Copy + Send,
) -> Result<u64, Failure> {
    let clients = if services * instances < MANY { CLIENTS } else { CLIENTS_OF_MANY };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || -> Result<u64, Failure> {
                    let mut client = Client::open(address)?;
                    let mut requests = Requests::new(Work::Registration, options, number as u64);
                    let mut registered = 0;
                    // In turn over all, so that few services of many instances have many clients too.
                    for member in (number..services * instances).step_by(clients) {
                        let entrant = entrant(member / instances, member % instances);
                        let answer = client.exchange(requests.register(&entrant))?;
                        if answer.status != 201 {
                            let body = String::from_utf8_lossy(client.body(&answer)).into_owned();
                            return Err(format!("registering: {} {body}", answer.status).into());
                        }
                        registered += 1;
                    }
                    Ok(registered)
                })
            })
            .collect();
        let mut registered = 0;
        for thread in threads {
            registered += thread.join().map_err(|_| "a registering thread panicked")??;
        }
        Ok(registered)
    })
}
