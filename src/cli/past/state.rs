//! `rollcall at`: the registry as it was. `rollcall diff`: what changed between two instants.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{items, number, parameters, text, whom};
use crate::cli::output::{self, Output};
use crate::cli::{Error, Exit, Registry};
use crate::client::{Client, authority};
use crate::history::spoken::counted;

/// Arguments of `at`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Answers what the registry would have answered then. An instant is RFC 3339, an age (-5m) or a version (@1234).

Examples:
  rollcall at -5m
  rollcall at @1234 --service orders
  rollcall at 2026-11-21T08:00:00Z --service orders --all --output json

Exit code 1: there was nobody, the service was not known then, or history that old is not kept.")]
pub(in crate::cli) struct AtArgs {
    /// The instant
    #[arg(allow_hyphen_values = true)]
    instant: String,
    /// Who of this service would have been answered; without it, the list of services
    #[arg(long)]
    service: Option<String>,
    /// With --service: all instances, whether they were offered or not
    #[arg(long, requires = "service")]
    all: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An instant is RFC 3339, an age (-5m) or a version (@1234). + came, - left, ~ changed.

Examples:
  rollcall diff --from -10m
  rollcall diff --from @1200 --to @1234
  rollcall diff --from 2026-11-21T08:00:00Z --to 2026-11-21T08:05:00Z --service orders

Exit code 1: nothing is different, or history that old is not kept.")]
pub(in crate::cli) struct DiffArgs {
    /// The earlier instant
    #[arg(long, allow_hyphen_values = true)]
    from: String,
    /// The later one; now, if not given
    #[arg(long, allow_hyphen_values = true)]
    to: Option<String>,
    /// Only this service
    #[arg(long)]
    service: Option<String>,
    /// Most entries of each list: that came, that left, that changed
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    registry: Registry,
}

/// Runs `at`.
pub(in crate::cli) async fn at(
    args: AtArgs,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let Some(service) = &args.service else {
        return services(&client, &args, out, errors).await;
    };
    let all = args.all.then(|| "any".to_owned());
    let query = parameters([("at", Some(args.instant.clone())), ("status", all)]);
    let then = client.lookup_at(service, &query).await?;
    let instances = items(&then.body, "/instances");
    match args.registry.output {
        Output::Json => output::json(out, &then.body)?,
        Output::Table if instances.is_empty() => {
            writeln!(errors, "no instance of {service} could have been called then")?;
        }
        Output::Table => {
            let header = ["INSTANCE", "ADDRESS", "STATUS", "MODE", "WEIGHT", "VERSION", "ZONE"];
            let mut table = output::table(&header);
            for one in instances {
                let mut row = vec![text(one, "/instance"), address(one)];
                row.extend(
                    ["/status", "/mode", "/weight", "/version", "/zone"]
                        .map(|name| text(one, name)),
                );
                table.add_row(row);
            }
            output::write_table(out, &table)?;
        }
    }
    tell_version(errors, then.seq)?;
    if then.body.get("degraded") == Some(&Value::Bool(true)) {
        writeln!(
            errors,
            "degraded: nobody healthy was left, these were called for want of better"
        )?;
    }
    Ok(if instances.is_empty() { Exit::No } else { Exit::Done })
}

async fn services(
    client: &Client,
    args: &AtArgs,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let mut page = client.services_at(&[("at", args.instant.clone())]).await?;
    let seq = page.seq;
    let mut services = items(&page.body, "/services").to_vec();
    while let Some(cursor) = page.body.get("next").and_then(Value::as_str) {
        // An age moves on while one turns the pages; the version does not.
        let at = seq.map_or_else(|| args.instant.clone(), |seq| format!("@{seq}"));
        page = client.services_at(&[("at", at), ("cursor", cursor.to_owned())]).await?;
        services.extend_from_slice(items(&page.body, "/services"));
    }
    match args.registry.output {
        Output::Json => output::json(out, &json!({ "services": services }))?,
        Output::Table if services.is_empty() => {
            writeln!(errors, "no service was known then")?;
        }
        Output::Table => {
            let header = ["NAMESPACE", "SERVICE", "INSTANCES", "HEALTHY", "REVISION"];
            let fields = ["/namespace", "/service", "/instances", "/healthy", "/revision"];
            let mut table = output::table(&header);
            for one in &services {
                table.add_row(fields.map(|name| text(one, name)).to_vec());
            }
            output::write_table(out, &table)?;
        }
    }
    tell_version(errors, seq)?;
    Ok(if services.is_empty() { Exit::No } else { Exit::Done })
}

fn tell_version(errors: &mut dyn Write, seq: Option<u64>) -> io::Result<()> {
    seq.map_or(Ok(()), |seq| writeln!(errors, "as of version @{seq}"))
}

fn address(instance: &Value) -> String {
    let port = instance.get("port").and_then(Value::as_u64).unwrap_or(0);
    authority(&text(instance, "/address"), u16::try_from(port).unwrap_or(0))
}

/// Runs `diff`.
pub(in crate::cli) async fn diff(args: DiffArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let query = parameters([
        ("from", Some(args.from)),
        ("to", args.to),
        ("service", args.service),
        ("limit", args.limit.map(|limit| limit.to_string())),
    ]);
    let diff = args.registry.client()?.diff(&query).await?.body;
    match args.registry.output {
        Output::Json => output::json(out, &diff)?,
        Output::Table => show_diff(out, &diff)?,
    }
    let moved = ["/came", "/left", "/changed"].iter().any(|part| !items(&diff, part).is_empty());
    Ok(if moved { Exit::Done } else { Exit::No })
}

pub(super) fn show_diff(out: &mut dyn Write, diff: &Value) -> io::Result<()> {
    let edge = |name: &str| {
        format!("{} (@{})", text(diff, &format!("/{name}/at")), text(diff, &format!("/{name}/seq")))
    };
    writeln!(out, "from  {}\nto    {}\n", edge("from"), edge("to"))?;
    let mut table = output::table(&["", "INSTANCE", "WHAT", "EVENT"]);
    for one in items(diff, "/came") {
        // Some servers say by which event it came, as they do for those that left.
        let instance = one.get("instance").filter(|inner| inner.is_object()).unwrap_or(one);
        table.add_row(vec!["+".into(), whom(instance), address(instance), text(one, "/event/id")]);
    }
    for one in items(diff, "/left") {
        let instance = one.get("instance").unwrap_or(one);
        let what = format!("{} at {}", text(one, "/event/kind"), text(one, "/event/at"));
        table.add_row(vec!["-".into(), whom(instance), what, text(one, "/event/id")]);
    }
    for one in items(diff, "/changed") {
        let fields = one.get("fields").and_then(Value::as_object);
        let fields = fields.into_iter().flatten().map(|(name, values)| {
            format!("{name} {} -> {}", text(values, "/0"), text(values, "/1"))
        });
        let events: Vec<String> = items(one, "/events").iter().map(|id| text(id, "")).collect();
        let what = fields.collect::<Vec<_>>().join(", ");
        table.add_row(vec!["~".into(), whom(one), what, events.join(" ")]);
    }
    if table.row_count() == 0 {
        writeln!(out, "nothing is different")?;
    } else {
        output::write_table(out, &table)?;
    }
    let passed = diff.get("passed").and_then(Value::as_u64).unwrap_or(0);
    if passed > 0 {
        let came_and_left = counted(passed, "instance came and left", "instances came and left");
        writeln!(out, "\n{came_and_left} between the two")?;
    }
    let more = ["came", "left", "changed"].map(|list| {
        let more = number(diff, &format!("/left_out/{list}"));
        (more > 0).then(|| format!("{more} more that {list}"))
    });
    let more: Vec<String> = more.into_iter().flatten().collect();
    if !more.is_empty() {
        writeln!(out, "\nleft out: {}; --limit or --service shows them", more.join(", "))?;
    }
    super::tell_missing(out, diff)
}
