//! `rollcall drain`: an operator takes an instance out of service without a restart of it, and back. Called by
//! [`super::run`].

use std::io::Write;

use super::output::{self, Output};
use super::{Error, Exit, Registry};

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rollcall drain orders orders-1
  rollcall drain orders orders-1 --deadline 30s
  rollcall drain orders orders-1 --undo

A draining instance finishes what it has and is offered to nobody new. With a deadline it is deregistered then; without,
it drains until it leaves or the drain is undone. Exit code 1: there is no such instance.")]
pub(super) struct Args {
    /// The service
    service: String,
    /// Id of the instance
    id: String,
    /// When it is taken out of the registry: a duration such as 30s, or an instant; at most 24h from now
    #[arg(long)]
    deadline: Option<String>,
    /// Make it active again
    #[arg(long, conflicts_with = "deadline")]
    undo: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Runs `drain`.
pub(super) async fn run(args: Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let mode = if args.undo { "active" } else { "draining" };
    let deadline = args.deadline.as_deref();
    let instance = client.set_mode(&args.service, &args.id, mode, deadline).await?;
    match args.registry.output {
        Output::Json => output::json_line(out, &instance)?,
        Output::Table => {
            let (name, until) =
                (format!("{}/{}", args.service, args.id), instance.text("drain_until"));
            match (mode, until.as_str()) {
                ("active", _) => writeln!(out, "{name} is active")?,
                (_, "") => writeln!(out, "{name} is draining")?,
                (_, until) => writeln!(out, "{name} is draining and leaves at {until}")?,
            }
        }
    }
    Ok(Exit::Done)
}
