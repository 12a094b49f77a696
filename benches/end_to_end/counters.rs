//! Whether the registry has counted and logged all that it was sent: a fast server that loses events is broken.

use std::net::SocketAddr;

use crate::Failure;
use crate::http1::Client;
use crate::servers::await_that;
use crate::work::Work;

/// How many requests of each kind the registry has answered.
#[derive(Debug, Default)]
pub(crate) struct Ledger([u64; 3]);

impl Ledger {
    /// Notes `answered` more requests.
    pub(crate) fn add(&mut self, work: Work, answered: u64) {
        self.0[work as usize] += answered;
    }

    /// Requests of this kind so far.
    pub(crate) fn of(&self, work: Work) -> u64 {
        self.0[work as usize]
    }

    /// Waits until the registry's own counters of this kind of work are what was sent: requests, and events
    /// in the log.
    pub(crate) fn check(&self, server: SocketAddr, work: Work) -> Result<(), Failure> {
        let mut client = Client::open(server)?;
        let sent = self.of(work);
        let mut found = (0, 0);
        let agreed = await_that("the counters are what was sent", || {
            let (status, page) = client.get("/metrics")?;
            if status != 200 {
                return Err(format!("/metrics was answered {status}").into());
            }
            found = (requests(&page, work), events(&page, work));
            // More than was sent will not become less.
            Ok(found == (sent, sent) || found.0 > sent || found.1 > sent)
        });
        if found == (sent, sent) {
            return agreed;
        }
        let (requests, events) = found;
        let name = work.name();
        Err(format!(
            "{sent} {name}s were answered, but {requests} requests and {events} events counted"
        )
        .into())
    }
}

fn requests(page: &str, work: Work) -> u64 {
    let (method, route) = work.route();
    let labels = [format!("http_request_method=\"{method}\""), format!("http_route=\"{route}\"")];
    total(page, "http_server_request_duration_seconds_count", &labels)
}

fn events(page: &str, work: Work) -> u64 {
    total(page, "rollcall_events_total", &[format!("kind=\"{}\"", work.event())])
}

/// The sum over all series of a metric that have these labels.
fn total(page: &str, metric: &str, labels: &[String]) -> u64 {
    let series = page.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{'));
    series
        .filter(|rest| labels.iter().all(|label| rest.contains(label)))
        .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}
