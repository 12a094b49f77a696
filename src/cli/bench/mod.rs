//! `rollcall bench`: puts a registry under load and says what it answered how fast.
//!
//! It works on a fleet of its own in a namespace of its own, which it registers before and takes off after the load, also
//! when it is interrupted. It must not touch anything else in the registry, and not leave anything out of its figures in
//! silence: what was refused, failed or never sent is told beside them. Called by [`super::run`].
//!
//! ```text
//!   register the fleet ─▶ warm up ─▶ load (closed: as fast as it goes; open: at a rate) ─▶ remove the fleet ─▶ figures
//!                                      └ Ctrl-C ──────────────────────────────────────────▲
//! ```

mod connection;
mod fleet;
mod load;
mod report;
mod seen;
mod work;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{Error, Exit, Interrupt};
use crate::client::{self, Client};
use crate::domain::{Millis, Namespace};
use connection::{Connection, Target};
use load::{Extent, Load};
use report::Report;
use work::Work;

/// How often it is told how far the load has come.
const TELLS: Duration = Duration::from_secs(1);
/// What the leases of the fleet last beyond the load. Whoever is killed leaves the fleet behind for as long.
const LEASE_BEYOND: Duration = Duration::from_secs(10 * 60);

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall bench http://127.0.0.1:7655
  rollcall bench http://registry:7655 --work heartbeat --connections 64 --duration 30s
  rollcall bench http://registry:7655 --work mixed --rate 2000
  rollcall bench http://registry:7655 --work register --requests 10000 --output json

It writes to the registry. Before the load it registers --services times --instances instances in a namespace that it makes
up (or --namespace, which must be empty) and takes them off afterwards, also on Ctrl-C; a second Ctrl-C leaves them to
expire. All of it stays in the history: every registration, heartbeat and lookup of the load is an event like any other,
and the names of the services stay known. On a registry that others use it competes with them.

Without --rate, each connection sends its next request when the last one is answered (a closed loop): that finds the
highest rate, but not how long callers wait, because a registry that stalls is asked less. With --rate, requests are due at
fixed instants, and one that had to wait for its connection counts from when it was due (no coordinated omission).
The program and the registry share the machine if they run on the same one: the figures then are of both.

Exit code 1: some requests were refused, failed or could not be sent in time.")]
pub(super) struct Args {
    /// Address of the registry
    #[arg(env = "ROLLCALL_URL", default_value = client::DEFAULT_URL, hide_env_values = true)]
    url: String,
    /// What is asked
    #[arg(long, value_enum, default_value_t = Work::Lookup)]
    work: Work,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests a second over all connections, at fixed instants; without it, as many as are answered
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// How long the load is measured
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long it runs before it is measured; 0s for not at all
    #[arg(long, default_value = "1s", value_parser = duration_or_none)]
    warm_up: Duration,
    /// End after so many requests instead, all of them measured
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["duration", "warm_up"])]
    requests: Option<u64>,
    /// Services in the fleet
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    services: u32,
    /// Instances of each service
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    instances: u32,
    /// Namespace of the fleet, in which nobody else may be; without one, a new unique one
    #[arg(long)]
    namespace: Option<String>,
    /// Name under which the registry records who asks: service or service/instance
    #[arg(long, default_value = "rollcall-bench")]
    caller: String,
    /// Form of the output: table for people, json for programs
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.01..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "it must be a number from 0.01 to 10000000".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration_or_none(text)?;
    if duration.is_zero() { Err("it must be longer than 0s".to_owned()) } else { Ok(duration) }
}

fn duration_or_none(text: &str) -> Result<Duration, String> {
    let duration =
        Millis::parse(text).map(Millis::to_duration).map_err(|error| error.to_string())?;
    let most = Duration::from_secs(12 * 3_600);
    if duration > most { Err("it must be at most 12h".to_owned()) } else { Ok(duration) }
}

/// What a load is about.
#[derive(Clone, Debug)]
struct Plan {
    target: Target,
    namespace: Arc<str>,
    caller: Arc<str>,
    work: Work,
    connections: usize,
    services: usize,
    instances: usize,
    ttl_seconds: u64,
    url: Arc<str>,
}

impl Plan {
    /// The error of a registry that can't be spoken to.
    fn unreachable(&self, error: &std::io::Error) -> Error {
        let (url, why) = (self.url.to_string(), client::chain(error));
        client::Error::Unreachable { url, why }.into()
    }
}

impl Args {
    fn plan(&self, client: &Client) -> Result<Plan, Error> {
        let made_up = || format!("bench-{:08x}", fastrand::u32(..));
        let namespace = self.namespace.clone().unwrap_or_else(made_up);
        Namespace::new(&namespace)
            .map_err(|error| Error::Usage(format!("--namespace {namespace:?}: {error}")))?;
        if hyper::header::HeaderValue::from_str(&self.caller).is_err() {
            return Err(Error::Usage(format!(
                "--caller {:?} can't be sent in a header",
                self.caller
            )));
        }
        let (host, port, authority, base) = client.place();
        let lasts = self.warm_up + self.duration + LEASE_BEYOND;
        // How long a number of requests takes is not known.
        let lasts = self.requests.map_or(lasts, |_| Duration::from_secs(24 * 3_600));
        Ok(Plan {
            target: Target {
                host: host.into(),
                port,
                authority: authority.into(),
                base: base.into(),
            },
            namespace: namespace.into(),
            caller: self.caller.as_str().into(),
            work: self.work,
            connections: self.connections as usize,
            services: self.services as usize,
            instances: self.instances as usize,
            ttl_seconds: lasts.as_secs(),
            url: client.url().into(),
        })
    }

    fn extent(&self) -> Extent {
        let Self { warm_up, duration, .. } = *self;
        self.requests.map_or(Extent::Time { warm_up, duration }, Extent::Requests)
    }
}

/// Runs `bench`.
pub(super) async fn run(
    args: Args,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    // From here on a signal ends the load and not the program, so that the fleet is taken off again.
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    let url = if args.url.is_empty() { client::DEFAULT_URL } else { &args.url };
    let client = Client::new(url, &args.caller)?;
    let plan = args.plan(&client)?;
    let version = client.status().await?["version"].as_str().unwrap_or("?").to_owned();
    refuse_others(&client, &plan).await?;
    let fleet = plan.services * plan.instances;
    let _ = writeln!(errors, "registering {fleet} instances in namespace {}", plan.namespace);
    let measured = measure(&args, &plan, &mut interrupt, errors).await;
    let removed = remove(&plan, &mut interrupt, errors).await;
    let report = Report { version, measured: measured?, plan: &plan, rate: args.rate };
    match args.output {
        Output::Json => super::output::json(out, &report.json())?,
        Output::Table => report.write(out)?,
    }
    removed?;
    Ok(if report.is_whole() { Exit::Done } else { Exit::No })
}

/// A namespace in which somebody is already is somebody else's.
async fn refuse_others(client: &Client, plan: &Plan) -> Result<(), Error> {
    let own = client.clone().in_namespace(Some(plan.namespace.to_string()));
    let mut cursor = None;
    loop {
        let page = own.services(None, cursor.as_deref()).await?;
        if let Some(service) = page.services.iter().find(|service| service.instances > 0) {
            return Err(Error::Usage(format!(
                "namespace {} has instances already, of {} for one; choose another one",
                plan.namespace, service.service
            )));
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// What a load came to.
struct Measured {
    outcomes: Vec<seen::Outcome>,
    unsent: u64,
    seconds: f64,
    interrupted: bool,
}

/// Registers the fleet and runs the load, until it is over or interrupted.
async fn measure(
    args: &Args,
    plan: &Plan,
    interrupt: &mut Interrupt,
    errors: &mut dyn Write,
) -> Result<Measured, Error> {
    let stop = CancellationToken::new();
    let mut interrupted = false;
    let mut registering = std::pin::pin!(fleet::register(plan, &stop));
    let registered = loop {
        tokio::select! {
            registered = registering.as_mut() => break registered,
            () = interrupt.wait(), if !interrupted => {
                interrupted = true;
                stop.cancel();
            }
        }
    };
    registered?;
    let mut connections = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let opened = Connection::open(plan.target.clone()).await;
        connections.push(opened.map_err(|error| plan.unreachable(&error))?);
    }
    let load = Load::of(plan, args.extent());
    if interrupted {
        load.stop.cancel();
    }
    let mut running = std::pin::pin!(load.run(connections, args.rate));
    let mut tells = tokio::time::interval_at(tokio::time::Instant::now() + TELLS, TELLS);
    tells.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let cut_off = async {
        match load.cut_off() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let mut cut_off = std::pin::pin!(cut_off);
    let ended = loop {
        tokio::select! {
            ended = running.as_mut() => break ended,
            () = interrupt.wait() => {
                interrupted = true;
                load.stop.cancel();
            }
            () = cut_off.as_mut(), if !load.stop.is_cancelled() => load.stop.cancel(),
            _ = tells.tick() => {
                let _ = writeln!(errors, "{}", report::so_far(&load));
            }
        }
    };
    let seconds = load.counted().as_secs_f64();
    ended.map_err(|error| plan.unreachable(&error))?;
    let outcomes = load.seen.outcomes(plan.work.kinds());
    Ok(Measured { outcomes, unsent: load.seen.unsent_count(), seconds, interrupted })
}

/// Takes the fleet off; a signal meanwhile leaves the rest of it to expire.
async fn remove(
    plan: &Plan,
    interrupt: &mut Interrupt,
    errors: &mut dyn Write,
) -> Result<(), Error> {
    let _ = writeln!(errors, "removing the fleet");
    let stop = CancellationToken::new();
    let mut removing = std::pin::pin!(fleet::remove(plan, &stop));
    let mut hurried = false;
    let removed = loop {
        tokio::select! {
            removed = removing.as_mut() => break removed,
            () = interrupt.wait(), if !hurried => {
                hurried = true;
                stop.cancel();
            }
        }
    };
    if hurried || removed.is_err() {
        let Plan { namespace, ttl_seconds, .. } = plan;
        let _ = writeln!(
            errors,
            "some instances stay in namespace {namespace} until they expire, {ttl_seconds} s after their registration"
        );
    }
    removed
}
