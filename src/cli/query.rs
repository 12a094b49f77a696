//! The commands that ask a registry about its present: `services`, `instances`, `lookup`, `health`.
//!
//! Each asks by the client, shows the answer, and turns "found" or "not found" into the exit code. Called by
//! [`super::run`].

use std::io::Write;

use serde_json::Value;

use super::output::{self, Output};
use super::{Error, Exit, Registry, key_value};
use crate::client::{Client, Filter, Instance, Service};
use crate::domain::Millis;

/// Arguments of `services`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall services
  rollcall services --prefix pay --output json")]
pub(super) struct ServicesArgs {
    /// Only services whose names begin so
    #[arg(long)]
    prefix: Option<String>,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `instances`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall instances
  rollcall instances orders
  rollcall instances orders --output json

Exit code 1: the service was never registered.")]
pub(super) struct InstancesArgs {
    /// The service; without it, all services
    service: Option<String>,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `lookup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall lookup orders
  rollcall lookup orders --tag canary --zone eu-1a
  rollcall lookup orders --meta env=prod --output json
  rollcall lookup orders --by-load
  rollcall lookup orders --status any

Exit code 1: nobody may be called, or the service was never registered.")]
pub(super) struct LookupArgs {
    /// The service
    service: String,
    /// Only instances with this tag; all of them, when given several times
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Only instances with this metadata
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Only instances in this zone
    #[arg(long)]
    zone: Option<String>,
    /// Only instances of this version
    #[arg(long)]
    version: Option<String>,
    /// Instances of this status (any, healthy, unstable, failed), whether offered or not
    #[arg(long)]
    status: Option<String>,
    /// Instances of this mode (active, standby, draining), whether offered or not
    #[arg(long)]
    mode: Option<String>,
    /// Those that said the least load first
    #[arg(long)]
    by_load: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Asks GET /readyz. Exit code 0: ready; 1: not ready, or no answer.

Example, in a compose file:
  healthcheck:
    test: [\"CMD\", \"rollcall\", \"health\"]")]
pub(super) struct HealthArgs {
    /// Address of the registry
    #[arg(long, env = "ROLLCALL_URL", default_value = crate::client::DEFAULT_URL, hide_env_values = true)]
    url: String,
}

/// Runs `services`.
pub(super) async fn services(args: ServicesArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let services = all_services(&client, args.prefix.as_deref()).await?;
    match args.registry.output {
        Output::Json => output::json(out, &serde_json::json!({ "services": services }))?,
        Output::Table => {
            let header = ["NAMESPACE", "SERVICE", "INSTANCES", "HEALTHY", "REVISION"];
            let mut table = output::table(&header);
            for one in &services {
                let numbers = [one.instances, one.healthy, one.revision].map(|n| n.to_string());
                let names = [one.namespace.clone(), one.service.clone()];
                table.add_row(names.into_iter().chain(numbers).collect::<Vec<_>>());
            }
            output::write_table(out, &table)?;
        }
    }
    Ok(if services.is_empty() { Exit::No } else { Exit::Done })
}

async fn all_services(client: &Client, prefix: Option<&str>) -> Result<Vec<Service>, Error> {
    let mut page = client.services(prefix, None).await?;
    let mut services = page.services;
    while let Some(cursor) = page.next {
        page = client.services(prefix, Some(&cursor)).await?;
        services.append(&mut page.services);
    }
    Ok(services)
}

/// Runs `instances`.
pub(super) async fn instances(args: InstancesArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let services = match args.service {
        Some(service) => vec![service],
        None => all_services(&client, None).await?.into_iter().map(|one| one.service).collect(),
    };
    let filter = Filter { status: Some("any".to_owned()), lease: true, ..Filter::default() };
    let mut instances = Vec::new();
    for service in &services {
        instances.append(&mut client.lookup(service, &filter).await?.instances);
    }
    match args.registry.output {
        Output::Json => output::json(out, &serde_json::json!({ "instances": instances }))?,
        Output::Table => {
            let header = [
                "SERVICE",
                "INSTANCE",
                "ADDRESS",
                "STATUS",
                "MODE",
                "VERSION",
                "ZONE",
                "TAGS",
                "TTL",
                "HEARTBEAT",
            ];
            let mut table = output::table(&header);
            for one in &instances {
                let mut row = vec![one.service.clone(), one.instance.clone(), one.authority()];
                row.extend(["status", "mode", "version", "zone"].map(|field| one.text(field)));
                row.extend([tags(one), one.text("ttl"), last_heartbeat(one)]);
                table.add_row(row);
            }
            output::write_table(out, &table)?;
        }
    }
    Ok(Exit::Done)
}

/// Runs `lookup`.
pub(super) async fn lookup(
    args: LookupArgs,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let filter = Filter {
        tags: args.tags,
        metadata: args.metadata,
        zone: args.zone,
        version: args.version,
        status: args.status,
        mode: args.mode,
        lease: false,
        by_load: args.by_load,
    };
    let offer = args.registry.client()?.lookup(&args.service, &filter).await?;
    match args.registry.output {
        Output::Json => output::json(out, &offer)?,
        Output::Table if offer.instances.is_empty() => {
            writeln!(errors, "no instance of {} may be called now", offer.service)?;
        }
        Output::Table => {
            let mut table =
                output::table(&["INSTANCE", "ADDRESS", "STATUS", "VERSION", "ZONE", "TAGS"]);
            for one in &offer.instances {
                let mut row = vec![one.instance.clone(), one.authority()];
                row.extend(["status", "version", "zone"].map(|field| one.text(field)));
                row.push(tags(one));
                table.add_row(row);
            }
            output::write_table(out, &table)?;
            if offer.degraded {
                writeln!(
                    errors,
                    "degraded: nobody healthy is left, these are called for want of better"
                )?;
            }
        }
    }
    Ok(if offer.instances.is_empty() { Exit::No } else { Exit::Done })
}

/// Runs `health`.
pub(super) async fn health(args: HealthArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let url = if args.url.is_empty() { crate::client::DEFAULT_URL } else { &args.url };
    match Client::new(url, "rollcall-health")?.ready().await {
        Ok(()) => {
            writeln!(out, "ready")?;
            Ok(Exit::Done)
        }
        // Docker reserves every code but 0 and 1, so "no answer" is "no" here.
        Err(why) => {
            writeln!(out, "not ready: {why}")?;
            Ok(Exit::No)
        }
    }
}

fn tags(instance: &Instance) -> String {
    let tags = instance.rest.get("tags").and_then(|tags| tags.as_array());
    let words = tags.into_iter().flatten().filter_map(|tag| tag.as_str());
    words.collect::<Vec<_>>().join(",")
}

/// How long ago the last heartbeat was, to the second beyond ten of them.
fn last_heartbeat(instance: &Instance) -> String {
    let lease = instance.rest.get("lease");
    let field = |name: &str| lease.and_then(|lease| lease.get(name));
    if field("last_heartbeat_at").is_none_or(Value::is_null) {
        return "never".to_owned();
    }
    match field("age_ms").and_then(Value::as_u64) {
        Some(ms @ ..10_000) => format!("{} ago", Millis::from_millis(ms)),
        Some(ms) => format!("{} s ago", ms / 1_000),
        None => String::new(),
    }
}
