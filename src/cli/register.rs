//! `rollcall register` and `deregister`: an instance that cannot speak to the registry itself is spoken for.
//!
//! With `--keep-alive` it does what a well-behaved client does: heartbeats at the interval that the server recommends,
//! registers again when the registry does not know it any more, and takes itself off at the end. It never fights for an
//! id: when another process has taken it over, it ends. Called by [`super::run`].

use std::collections::BTreeMap;
use std::io::Write;

use super::output::{self, Output};
use super::{Error, Exit, Interrupt, Registry, key_value};
use crate::client::{Check, Client, Instance, Lease, Registration, Renewed};

/// Arguments of `register`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall register orders --port 8080
  rollcall register orders --id orders-1 --port 8080 --tag canary --meta env=prod --zone eu-1a --ttl 30s
  rollcall register orders --port 8080 --keep-alive
  rollcall register orders --port 8080 --check-http /health --check-interval 5s --ttl none

With --keep-alive it runs until Ctrl-C or SIGTERM and then deregisters the instance. Without, the instance expires
after its ttl unless somebody else sends heartbeats. With --ttl none and a check it needs none: the registry probes it,
and it stays until it is deregistered. Exit code 1: another process has taken the id over.")]
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
    /// Length of the lease, such as 15s; none for an instance that is only probed
    #[arg(long)]
    ttl: Option<String>,
    #[command(flatten)]
    check: CheckArgs,
    /// Send heartbeats until Ctrl-C or SIGTERM, then deregister
    #[arg(long)]
    keep_alive: bool,
    #[command(flatten)]
    registry: Registry,
}

/// How the registry is to probe the instance.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Have the registry ask for this page of the instance, such as /health; a status of 2xx passes
    #[arg(long, value_name = "PATH", group = "check_kind")]
    check_http: Option<String>,
    /// Have the registry open a connection to the instance
    #[arg(long, group = "check_kind")]
    check_tcp: bool,
    /// Have the registry ask the gRPC health service of the instance, for this service or for the server as a whole
    #[arg(long, value_name = "SERVICE", group = "check_kind", num_args = 0..=1, default_missing_value = "")]
    check_grpc: Option<String>,
    /// What the body of the page must hold
    #[arg(long, value_name = "TEXT", requires = "check_http")]
    check_expect: Option<String>,
    /// From one probe to the next, such as 10s
    #[arg(long, value_name = "DURATION", requires = "check_kind")]
    check_interval: Option<String>,
    /// How long a probe may take, such as 2s
    #[arg(long, value_name = "DURATION", requires = "check_kind")]
    check_timeout: Option<String>,
}

impl CheckArgs {
    fn check(self) -> Option<Check> {
        let kind = match &self {
            Self { check_http: Some(_), .. } => "http",
            Self { check_grpc: Some(_), .. } => "grpc",
            Self { check_tcp: true, .. } => "tcp",
            Self { check_tcp: false, .. } => return None,
        };
        Some(Check {
            kind: kind.to_owned(),
            path: self.check_http,
            expect: self.check_expect,
            service: self.check_grpc,
            interval: self.check_interval,
            timeout: self.check_timeout,
        })
    }
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
        check: args.check.check(),
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
