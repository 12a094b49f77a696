//! The fleet that lookups and heartbeats are about, registered over HTTP like any other.

use std::net::SocketAddr;

use crate::Failure;
use crate::http1::Client;
use crate::options::Options;
use crate::work::{Requests, Work};

/// Clients that register at once; a group commit takes what waits.
const CLIENTS: usize = 64;

/// Registers `services` services of `instances` instances each; how many registrations that were.
pub(crate) fn register(
    address: SocketAddr,
    options: &Options,
    services: usize,
    instances: usize,
) -> Result<u64, Failure> {
    register_each(address, options, services, instances, Requests::fleet)
}

/// The same with the registration that `request` makes of each.
pub(crate) fn register_each(
    address: SocketAddr,
    options: &Options,
    services: usize,
    instances: usize,
    request: for<'a> fn(&'a mut Requests, usize, usize) -> &'a [u8],
) -> Result<u64, Failure> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || -> Result<u64, Failure> {
                    let mut client = Client::open(address)?;
                    let mut requests = Requests::new(Work::Registration, options, number as u64);
                    let mut registered = 0;
                    for service in (number..services).step_by(CLIENTS) {
                        for instance in 0..instances {
                            let answer =
                                client.exchange(request(&mut requests, service, instance))?;
                            if answer.status != 201 {
                                let body =
                                    String::from_utf8_lossy(client.body(&answer)).into_owned();
                                return Err(format!("registering: {} {body}", answer.status).into());
                            }
                            registered += 1;
                        }
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
