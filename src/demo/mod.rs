//! `rollcall demo`: a small fleet of real services on a real registry, one of which dies now and then.
//!
//! ```text
//!   visitors ──▶ web (2) ──▶ orders (3) ──▶ payments (2)
//!                                    └────▶ inventory (2)
//! ```
//!
//! Every arrow is an HTTP call to an address that the registry was asked for just before, with trace headers on both. It
//! knows the registry by its HTTP contract only, as any fleet would; the one exception is a registry of its own when
//! none is there (see `registry`). It is the load of the compose file and of the end-to-end check, so it must need
//! nothing but this program. Called by the command line.
//!
//! - `fleet`: who runs, who is killed, who comes back
//! - `member`: one instance: listener, lease, work, its own page of metrics
//! - `call`: a lookup and a call to one of those handed out
//! - `story`: what is told in the terminal

mod call;
mod fleet;
mod member;
mod metrics;
mod registry;
mod spans;
mod story;
mod visitors;

use std::io::Write;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep};

use crate::cli::{Error, Exit, Interrupt};
use crate::domain::Millis;
use fleet::Fleet;
use registry::Registry;
use spans::Tracing;
use story::{Story, Telling};
use visitors::Visitors;

/// How often the table of figures is shown.
const SUMMARY_EVERY: Duration = Duration::from_secs(10);

/// How many happenings may wait to be told; it is a terminal, one lost line more or less harms nobody.
const TELLINGS_MAX: usize = 1024;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --url and ROLLCALL_URL it uses the registry on the default address, and if none is there, starts one of its own
in a temporary folder. Spans are exported when OTEL_EXPORTER_OTLP_ENDPOINT is set.

Examples:
  rollcall demo
  rollcall demo --url http://127.0.0.1:7655 --rate 100 --kill-every 10s
  rollcall demo --duration 1m

Ends with Ctrl-C, SIGTERM or --duration; exit code 1 if it ran for its duration and no visitor was served.")]
pub(crate) struct Args {
    /// Address of the registry
    #[arg(long, env = "ROLLCALL_URL", hide_env_values = true)]
    url: Option<String>,
    /// Requests a second that visitors send to web
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Lease of each member
    #[arg(long, default_value = "4s", value_parser = duration)]
    ttl: Duration,
    /// How often a member is killed without a word; 0 for never
    #[arg(long, default_value = "20s", value_parser = duration)]
    kill_every: Duration,
    /// How long a killed member stays away
    #[arg(long, default_value = "15s", value_parser = duration)]
    revive_after: Duration,
    /// End after this time; without it, at Ctrl-C
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Address on which the members listen, each on a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Address or name under which the members register; needed when they listen on all addresses
    #[arg(long, value_name = "ADDRESS", required_if_eq_any([("bind", "0.0.0.0"), ("bind", "::")]))]
    advertise: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let refused = |_| "it must be a duration such as 500ms, 15s or 2m".to_owned();
    Millis::parse(text).map(Millis::to_duration).map_err(refused)
}

/// Runs the command.
pub(crate) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<Exit, Error> {
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    let registry = tokio::select! {
        found = registry::find(args.url.clone()) => found?,
        () = interrupt.wait() => return Ok(Exit::Done),
    };
    let (telling, tellings) = mpsc::channel(TELLINGS_MAX);
    let tracing = Tracing::start()?;
    let ended = {
        let world = World { registry: &registry, tracing: &tracing, telling: Telling(telling) };
        play(&args, &world, tellings, &mut interrupt, out).await
    };
    tracing.shutdown().await;
    registry.stop().await?;
    ended
}

/// What all parts of the demo share.
struct World<'a> {
    registry: &'a Registry,
    tracing: &'a Tracing,
    telling: Telling,
}

/// From the first registration to the last deregistration.
async fn play(
    args: &Args,
    world: &World<'_>,
    mut tellings: mpsc::Receiver<story::Happening>,
    interrupt: &mut Interrupt,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Error> {
    let mut fleet = Fleet::start(args, world).await?;
    let mut story = Story::begin(out, world.registry, &fleet)?;
    let mut visitors = Visitors::new(args.rate, fleet.caller("visitors", "visitors")?);
    let mut summary = later_and_every(SUMMARY_EVERY);
    let mut kill = later_and_every(args.kill_every);
    let mut look = interval(Duration::from_millis(100));
    let end = sleep(args.duration.unwrap_or(Duration::MAX));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = visitors.next() => {}
            Some(happening) = tellings.recv() => story.tell(out, &happening)?,
            _ = summary.tick() => story.summary(out, &fleet)?,
            _ = kill.tick(), if !args.kill_every.is_zero() => fleet.kill_one(),
            _ = look.tick() => fleet.revive_due().await,
            () = interrupt.wait() => break,
            () = &mut end => break,
        }
    }
    visitors.stop();
    story.summary(out, &fleet)?;
    let served = fleet.totals().of("web").served.load(Relaxed);
    fleet.stop().await;
    while let Ok(happening) = tellings.try_recv() {
        story.tell(out, &happening)?;
    }
    if world.registry.stays() {
        story.end(out)?;
    }
    Ok(if args.duration.is_some() && served == 0 { Exit::No } else { Exit::Done })
}

/// A beat whose first tick comes after one period, not at once. A period of zero never ticks: the caller asks first.
fn later_and_every(period: Duration) -> tokio::time::Interval {
    let period = if period.is_zero() { SUMMARY_EVERY } else { period };
    let mut beat = interval_at(Instant::now() + period, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    beat
}

#[cfg(test)]
mod tests;
