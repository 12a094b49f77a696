//! `rollcall watch`: every change as it happens, without a hole, across restarts of the registry.
//!
//! The stream finds its way back by itself; this module shows what it brings, and says on standard error whenever it was
//! away or something is lost. Called by [`super::run`].

use std::io::Write;

use super::output::{self, Output};
use super::{Error, Exit, Interrupt, Registry, events};
use crate::client::{self, Client, Event, Notice, Oldest, WatchQuery};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows changes the moment that they are durable, until Ctrl-C; json is one object a line. A stream that breaks is
taken up again after the last event that was shown, so that each is shown once; breaks and gaps are told on standard
error. To see what happened before as well, begin --after a version: 0 is the beginning.

Examples:
  rollcall watch
  rollcall watch --service orders --kind registered --kind expired
  rollcall watch --after 1234 --output json
  rollcall watch --traffic

Exit code 1: what was asked for is no longer kept, or has not happened yet.")]
pub(super) struct Args {
    /// Only events of this service
    #[arg(long)]
    service: Option<String>,
    /// Only events of this kind; of all of these, when given several times
    #[arg(long = "kind")]
    kinds: Vec<String>,
    /// Begin after this change; without it, with the next one
    #[arg(long, value_name = "SEQ")]
    after: Option<String>,
    /// Heartbeats, lookups and watches too
    #[arg(long)]
    traffic: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Runs the command.
pub(super) async fn run(
    args: Args,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Error> {
    let client = args.registry.client()?;
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    let query = WatchQuery {
        service: args.service,
        kinds: args.kinds,
        after: args.after,
        traffic: args.traffic,
    };
    let form = args.registry.output;
    tokio::select! {
        ended = watch(&client, query, form, out, errors) => ended.map(|()| Exit::Done),
        () = interrupt.wait() => Ok(Exit::Done),
    }
}

/// Shows what comes, for ever.
async fn watch(
    client: &Client,
    mut query: WatchQuery,
    form: Output,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Error> {
    let mut stream = client.watch(query.clone());
    loop {
        match stream.next().await {
            Ok(Notice::Event { event, .. }) => show(out, form, &event)?,
            Ok(Notice::Lost { why, pause }) => {
                let pause = pause.as_secs_f64();
                writeln!(errors, "rollcall: {why}; back in {pause:.1} s")?;
            }
            Err(error) => {
                // A stream that was away for longer than events are kept goes on behind the gap.
                let Some((from, oldest)) = gap(stream.last_id(), &error) else {
                    return Err(error.into());
                };
                writeln!(
                    errors,
                    "rollcall: what happened after {from} and up to @{}, {}, is no longer kept",
                    oldest.seq, oldest.at
                )?;
                query.after = Some(oldest.seq.to_string());
                stream = client.watch(query.clone());
            }
        }
    }
}

/// Between which places a stream that was open has lost events, if that is why it can't go on.
fn gap<'a>(last_id: Option<&'a str>, error: &client::Error) -> Option<(&'a str, Oldest)> {
    let client::Error::Refused(problem) = error else { return None };
    let oldest = problem.oldest.clone().filter(|_| problem.status == 410)?;
    let last_id = last_id?;
    // Behind where it was, or it would be told the same again.
    let seen: u64 = last_id.split(',').next()?.parse().ok()?;
    (oldest.seq > seen).then_some((last_id, oldest))
}

fn show(out: &mut dyn Write, form: Output, event: &Event) -> Result<(), Error> {
    match form {
        Output::Json => output::json_line(out, event)?,
        Output::Table => writeln!(out, "{}", events::line(event))?,
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Problem;

    #[test]
    fn only_a_stream_that_was_open_goes_on_behind_a_gap() {
        let oldest = Oldest { seq: 100, at: "2026-11-21T08:00:00.000000Z".into() };
        let refused = |status| {
            let problem = Problem { status, oldest: Some(oldest.clone()), ..Problem::default() };
            client::Error::Refused(Box::new(problem))
        };
        assert_eq!(gap(Some("42,t7"), &refused(410)), Some(("42,t7", oldest.clone())));
        assert_eq!(gap(None, &refused(410)), None, "the user asked for what is gone");
        assert_eq!(gap(Some("100"), &refused(410)), None, "it would be the same again");
        assert_eq!(gap(Some("42"), &refused(422)), None);
    }
}
