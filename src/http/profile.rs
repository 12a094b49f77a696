//! `GET /debug/pprof/profile`: what the process spends its processor time on, for `go tool pprof` and whatever else reads its
//! form. Only where the operator allows it, by the setting `profiling`. Called by the router.
//!
//! The request lasts as long as it looks, and a registry that is told to stop does not wait for it: it gets what was seen
//! by then. Whoever goes away ends their profile. It must never do any of that on a thread that others wait for.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use super::spec::{Method, Operation, Parameter, Shape, answer};
use super::{Api, Shared};
use crate::telemetry::profile::{self, Turn};
use crate::telemetry::signals;

/// Where it is, as Go's programs have it, so that their tools find it.
pub(super) const PATH: &str = "/debug/pprof/profile";
/// How often it is looked whether the registry stops.
const STEP: Duration = Duration::from_millis(100);

/// `GET /debug/pprof/profile`
pub(super) const PROFILE: Operation = Operation {
    method: Method::Get,
    id: "profile",
    summary: "What the process spends its processor time on; only with the setting profiling.",
    query: &[Parameter::new("seconds", "For how long it is looked.", Shape::Count(1, 60, 10))],
    headers: &[],
    body: None,
    answers: &[answer(200, "The profile, as pprof reads it: packed with gzip.", "Profile")],
};

pub(super) async fn profile(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    if !api.config.profiling {
        return Err(Problem::NotProfiling);
    }
    let mut faults = Faults::default();
    let seconds = Query::read(request.uri().query(), &PROFILE, &mut faults).count("seconds");
    faults.check()?;
    let packed = take(&api, Duration::from_secs(seconds)).await?;
    let mut response = Response::new(Body::from(packed));
    let headers = response.headers_mut();
    let media = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, media);
    let name = HeaderValue::from_static("attachment; filename=\"profile.pb.gz\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}

/// Takes one on a thread of its own. Dropped, it lets go of that thread's channel, which ends the profile.
async fn take(api: &Api, time: Duration) -> Result<Vec<u8>, Problem> {
    let turn = Turn::take().map_err(refused)?;
    let (enough, told) = sync_channel(1);
    let mut taking = tokio::task::spawn_blocking(move || profile::take(turn, time, &told));
    let taken = loop {
        tokio::select! {
            taken = &mut taking => break taken,
            () = tokio::time::sleep(STEP) => if api.hub.is_closing() {
                // Full means that it was told before.
                let _ = enough.try_send(());
            }
        }
    };
    // What panicked has been reported by the hook of the process; and as long as `enough` lives here, there is a profile.
    taken.map_err(|_| Problem::Internal)?.map_err(refused)?.ok_or(Problem::Internal)
}

fn refused(error: profile::Error) -> Problem {
    match error {
        profile::Error::Running => Problem::ProfileRunning,
        profile::Error::Refused(_) | profile::Error::Unwritten(_) => {
            signals::profile_failed(&error);
            Problem::Internal
        }
    }
}
