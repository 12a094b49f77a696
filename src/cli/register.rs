//! `rollcall register` and `deregister`: an instance that cannot speak to the registry itself is spoken for.
//!
//! With `--keep-alive` it does what a well-behaved client does: heartbeats at the interval that the server recommends,
//! registers again when the registry does not know it any more, and takes itself off at the end. It never fights for an
//! id: when another process has taken it over, it ends. Called by [`super::run`].

use std::collections::BTreeMap;
use std::io::Write;

use super::output::{self, Output};
use super::{Error, Exit, Interrupt, Registry, key_value};
use crate::client::{Client, Instance, Lease, Registration, Renewed};

/// Arguments of `register`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall register orders --port 8080
  rollcall register orders --id orders-1 --port 8080 --tag canary --meta env=prod --zone eu-1a --ttl 30s
  rollcall register orders --port 8080 --keep-alive

With --keep-alive it runs until Ctrl-C or SIGTERM and then deregisters the instance. Without, the instance expires
after its ttl unless somebody else sends heartbeats. Exit code 1: another process has taken the id over.")]
pub(super) struct Args {
    /// The service
    service: String,
    /// Id of the instance; without one, a new unique one
    #[arg(long)]
    id: Option<String>,
    /// IP address or DNS name under which the instance is called
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
    /// Port under which the instance is called
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// http, https, grpc, tcp, udp or another short name; the server's default is http
    #[arg(long)]
    protocol: Option<String>,
    /// Version of the software
    #[arg(long)]
    version: Option<String>,
    /// Where it runs
    #[arg(long)]
    zone: Option<String>,
    /// Share of the calls, 0 to 10000; the server's default is 100
    #[arg(long)]
    weight: Option<u32>,
    /// A tag; may be given several times
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Metadata; may be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// active, standby or draining
    #[arg(long)]
    mode: Option<String>,
    /// Length of the lease, such as 15s
    #[arg(long)]
    ttl: Option<String>,
    /// Send heartbeats until Ctrl-C or SIGTERM, then deregister
    #[arg(long)]
    keep_alive: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `deregister`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  rollcall deregister orders orders-1 --reason scale-in

Exit code 1: there is no such instance.")]
pub(super) struct DeregisterArgs {
    /// The service
    service: String,
    /// Id of the instance
    id: String,
    /// Why; kept in the event
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    registry: Registry,
}

/// Runs `register`.
pub(super) async fn run(
    args: Args,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    // Listening begins before the registration, so that a signal at any time finds the instance taken off again.
    let interrupt = Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    let client = args.registry.client()?;
    let id = args.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let registration = Registration {
        address: args.address,
        port: args.port,
        protocol: args.protocol,
        version: args.version,
        zone: args.zone,
        weight: args.weight,
        tags: args.tags,
        metadata: args.metadata.into_iter().collect::<BTreeMap<_, _>>(),
        mode: args.mode,
        ttl: args.ttl,
    };
    let lease = Lease::take(&client, &args.service, &id, registration).await?;
    match args.registry.output {
        Output::Json => output::json_line(out, lease.instance())?,
        Output::Table => tell(out, lease.instance())?,
    }
    out.flush()?;
    if args.keep_alive {
        keep_alive(&client, lease, interrupt, errors).await
    } else {
        Ok(Exit::Done)
    }
}

/// Runs `deregister`.
pub(super) async fn deregister(args: DeregisterArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    client.deregister(&args.service, &args.id, args.reason.as_deref()).await?;
    if args.registry.output == Output::Table {
        writeln!(out, "deregistered {}/{}", args.service, args.id)?;
    }
    Ok(Exit::Done)
}

fn tell(out: &mut dyn Write, instance: &Instance) -> std::io::Result<()> {
    let (service, id, incarnation) = (&instance.service, &instance.instance, instance.incarnation);
    let (place, ttl) = (instance.authority(), instance.text("ttl"));
    writeln!(out, "registered {service}/{id} at {place}, ttl {ttl}, incarnation {incarnation}")
}

/// Sends heartbeats until a signal comes, or until another process has taken the id over.
async fn keep_alive(
    client: &Client,
    mut lease: Lease,
    mut interrupt: Interrupt,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    loop {
        match lease.renew(client).await {
            Ok(Renewed::Same) => {}
            Ok(Renewed::Again) => tell(errors, lease.instance())?,
            Err(error) if error.status() == Some(409) => return Err(error.into()),
            // The registry may be starting: the lease outlives some missing heartbeats.
            Err(error) => writeln!(errors, "no heartbeat: {error}")?,
        }
        tokio::select! {
            () = tokio::time::sleep(lease.interval()) => {}
            () = interrupt.wait() => break,
        }
    }
    lease.release(client, "rollcall register was told to stop").await?;
    Ok(Exit::Done)
}
