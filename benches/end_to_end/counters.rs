//! Whether the registry has counted and logged all that it was sent: a fast server that loses events is broken.

use std::net::SocketAddr;

use crate::Failure;
use crate::http1::Client;
use crate::servers::await_that;
use crate::work::Work;

/// How many requests of each kind the registry has answered.
#[derive(Debug, Default)]
pub(crate) struct Ledger([u64; Work::ALL.len()]);

impl Ledger {
    /// Notes `answered` more requests.
    pub(crate) fn add(&mut self, work: Work, answered: u64) {
        self.0[work as usize] += answered;
    }

    /// What all work that `work` shares its route with makes of requests, and all work that it shares its kind of
    /// event with, of events.
    fn expected(&self, work: Work) -> (u64, u64) {
        let sum = |belongs: &dyn Fn(Work) -> bool, each: &dyn Fn(Work) -> u64| -> u64 {
            let work = Work::ALL.into_iter().filter(|other| belongs(*other));
            work.map(|other| self.0[other as usize] * each(other)).sum()
        };
        let requests = sum(&|other| other.route() == work.route(), &|_| 1);
        (requests, sum(&|other| other.event() == work.event(), &Work::events))
    }

    /// Waits until the registry's own counters are what was sent: requests by route, and events in the log by kind.
    pub(crate) fn check(&self, server: SocketAddr) -> Result<(), Failure> {
        Work::ALL.into_iter().try_for_each(|work| self.check_one(server, work))
    }

    fn check_one(&self, server: SocketAddr, work: Work) -> Result<(), Failure> {
        let mut client = Client::open(server)?;
        let sent = self.expected(work);
        let mut found = (0, 0);
        let agreed = await_that("the counters are what was sent", || {
            let (status, page) = client.get("/metrics")?;
            if status != 200 {
                return Err(format!("/metrics was answered {status}").into());
            }
            found = (requests(&page, work), events(&page, work));
            // More than was sent will not become less.
            Ok(found == sent || found.0 > sent.0 || found.1 > sent.1)
        });
        if found == sent {
            return agreed;
        }
        Err(format!(
            "{}: {} requests and {} events were answered, but {} and {} counted",
            work.name(),
            sent.0,
            sent.1,
            found.0,
            found.1
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
