//! The fleet that a load is about: registered before it, in a namespace of its own, and taken off after it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::connection::{Answer, Connection};
use super::work::Requests;
use crate::cli::Error;
use crate::client::{self, Problem};

/// Clients that register or deregister at once; a group commit takes what waits.
const CLIENTS: usize = 32;

/// What is done with each instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Register,
    Deregister,
}

impl Step {
    fn request(self, requests: &Requests, service: usize, instance: usize) -> Request<Full<Bytes>> {
        match self {
            Self::Register => requests.register(service, instance, 1),
            Self::Deregister => requests.deregister(service, instance),
        }
    }

    /// Whether it is done; one that was not there need not be taken off.
    fn is_done(self, status: u16) -> bool {
        (200..300).contains(&status) || self == Self::Deregister && status == 404
    }
}

/// Registers all of it.
///
/// # Errors
/// The first refusal or failure; some may be registered then. Comes back early when `stop` is cancelled.
pub(super) async fn register(plan: &Plan, stop: &CancellationToken) -> Result<(), Error> {
    each(plan, Step::Register, stop).await
}

/// Takes all of it off.
///
/// # Errors
/// The first refusal or failure; some may still be there then. Comes back early when `stop` is cancelled.
pub(super) async fn remove(plan: &Plan, stop: &CancellationToken) -> Result<(), Error> {
    each(plan, Step::Deregister, stop).await
}

async fn each(plan: &Plan, step: Step, stop: &CancellationToken) -> Result<(), Error> {
    let next = Arc::new(AtomicUsize::new(0));
    let all = plan.services * plan.instances;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS.min(all) {
        let (plan, next, stop) = (plan.clone(), Arc::clone(&next), stop.clone());
        clients.spawn(async move {
            let requests = Requests::of(&plan, 0);
            let mut connection = Connection::open(plan.target.clone()).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= all || stop.is_cancelled() {
                    return Ok::<_, io::Error>(None);
                }
                let (service, instance) = (number / plan.instances, number % plan.instances);
                let answer =
                    connection.exchange(step.request(&requests, service, instance)).await?;
                if !step.is_done(answer.status) {
                    return Ok(Some(answer));
                }
            }
        });
    }
    let mut ended = Ok(());
    while let Some(client) = clients.join_next().await {
        let failed = match client.map_err(io::Error::other).and_then(|ended| ended) {
            Ok(None) => continue,
            Ok(Some(answer)) => refusal(&answer),
            Err(error) => plan.unreachable(&error),
        };
        // The others need not go on, and what they meet then is of no interest.
        next.store(all, Ordering::Relaxed);
        ended = ended.and(Err(failed));
    }
    ended
}

fn refusal(answer: &Answer) -> Error {
    let status = hyper::StatusCode::from_u16(answer.status).unwrap_or_default();
    client::Error::Refused(Box::new(Problem::from_answer(status, &answer.body))).into()
}
