//! `rollcall replay`: a registry that walks through the past, steered in the terminal or by the API.
//!
//! It reads the log and changes nothing. In a terminal, lines steer it: line by line, because a raw terminal that a
//! crash leaves behind is worse than a second key. Called by [`super::run`].

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Error, Exit, Interrupt};
use crate::app;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Flags, Settings, process_variables};
use crate::domain::{Millis, Timestamp};
use crate::history::{self, Archive, Moment, Version};
use crate::log::sqlite::{SqliteArchive, database_of};
use crate::replay::{Config, Handle, Place, Playing, Position, Refused, Speed, StartError, Steer};
use crate::rfc3339;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::Records;
use crate::telemetry::spans::Tracer;

/// Lines that may wait to be obeyed.
const LINES_MAX: usize = 16;

/// What lines can say.
const KEYS: &str = "\
Enter or p   play or pause        +  -    twice as fast, half as fast
10x          that fast            -5m +30s  back or on by so much
@1234        to a version         2026-11-21T08:00:00Z  to an instant
?            where is it          q    end";

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A read-only registry on an address of its own: lookups, lists, events, history and metrics answer as they would have
then; changes and heartbeats are refused (403), and nothing leaves a trace in the log. The log may be in use.

Instants are RFC 3339, ages (-90m, before now) or versions (@1234). The first line on standard output is its address.
It is steered by GET and PATCH /v1/replay, with {\"state\":\"paused\"}, {\"speed\":\"10x\"} or {\"at\":\"@1234\"}, and in
a terminal by lines:

  Enter or p  play or pause       +  -                  twice as fast, half as fast
  10x         that fast           -5m +30s              back or on by so much
  @1234       to a version        2026-11-21T08:00:00Z  to an instant
  ?           where is it         q                     end

Examples:
  rollcall replay ./rollcall-data
  rollcall replay ./rollcall-data --from -90m --to -60m --speed 10x
  rollcall replay backup.db --from @1200 --to @1300 --paused --listen 127.0.0.1:7700
  curl -X PATCH -H 'content-type: application/json' -d '{\"at\":\"@1234\"}' http://127.0.0.1:7656/v1/replay")]
pub(super) struct Args {
    /// A data directory, or the file of a log or a backup
    data: PathBuf,
    /// Where the replay begins; the first change that is kept, if not given
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    from: Option<String>,
    /// Where it ends; the last change, if not given
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    to: Option<String>,
    /// How fast, as a multiple of the recorded pace: 0.01x to 100000x
    #[arg(long, default_value = "1x", value_parser = Speed::parse)]
    speed: Speed,
    /// Stand still at the beginning until it is told to go on
    #[arg(long)]
    paused: bool,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7656")]
    listen: SocketAddr,
}

/// Runs the command.
pub(super) async fn run(
    args: Args,
    out: &mut (dyn Write + Send),
    errors: &mut (dyn Write + Send),
) -> Result<Exit, Error> {
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("hear signals", error))?;
    // What the environment says of log lines, limits and links holds here too; where to listen and what to read are
    // the living registry's own affair.
    let settings = Flags::default().resolve(&process_variables)?.settings;
    let settings = Settings { listen: args.listen, data: args.data.clone(), ..settings };
    let metrics = app::metrics(&settings);
    let tracer = Tracer::off();
    let _lines = logs::init_logs(
        settings.log_format,
        &settings.log_level,
        (&tracer, &Records::off()),
        &metrics,
    )
    .map_err(|error| Error::failed("write log lines", error))?;
    let replay = build(&args, &app::within_the_system(settings), metrics).await?;
    writeln!(out, "{}", replay.url())?;
    out.flush()?;
    let handle = replay.handle();
    let mut lines = std::io::stdin().is_terminal().then(read_lines);
    if lines.is_some() {
        writeln!(errors, "{KEYS}\n{}", told(&handle.position()))?;
    }
    let shutdown = CancellationToken::new();
    // Boxed: it holds the whole server, which would otherwise make every command's future as large.
    let mut serving = Box::pin(replay.run(shutdown.clone()));
    let mut written = Ok(());
    loop {
        tokio::select! {
            () = &mut serving => break,
            () = interrupt.wait() => break,
            line = next(&mut lines) => match line {
                Some(line) => match obey(&handle, &line).await {
                    Some(answer) => written = writeln!(errors, "{answer}"),
                    None => break,
                },
                None => lines = None,
            },
        }
        if written.is_err() {
            break;
        }
    }
    shutdown.cancel();
    serving.await;
    written?;
    Ok(Exit::Done)
}

async fn build(
    args: &Args,
    settings: &Settings,
    metrics: Arc<Metrics>,
) -> Result<app::Replay, Error> {
    let clock = SystemClock::start().map_err(|error| Error::failed("start the clock", error))?;
    let moment = |flag: &str, text: &Option<String>| {
        let now = clock.wall();
        let read = |text: &String| match Moment::parse(text, now) {
            None => Err(Error::Usage(format!("{flag} {}, was {text:?}", Moment::FORMS))),
            Some(Moment::At(at)) if at > now => {
                Err(Error::Usage(format!("{flag} must not be in the future, was {text:?}")))
            }
            Some(moment) => Ok(moment),
        };
        text.as_ref().map(read).transpose()
    };
    let config = Config {
        from: moment("--from", &args.from)?,
        to: moment("--to", &args.to)?,
        speed: args.speed,
        play: !args.paused,
    };
    let doing = format!("replay {}", args.data.display());
    let (archive, log_id) = open(&args.data, &doing)?;
    let listener = app::listen(settings.listen).map_err(|error| Error::failed(&doing, error))?;
    let parts = app::ReplayParts { listener, clock, archive, log_id, metrics };
    let settings = settings.clone();
    let built =
        tokio::task::spawn_blocking(move || app::Replay::build(&settings, parts, config)).await;
    match built.map_err(|error| Error::failed(&doing, error))? {
        Ok(replay) => Ok(replay),
        Err(app::ReplayError::Start(error)) => Err(refused(doing, error)),
        Err(error) => Err(Error::failed(doing, error)),
    }
}

/// A stretch that can't be replayed, with what could be.
fn refused(doing: String, error: StartError) -> Error {
    let shown = |version: Version| place(Place { at: version.at, seq: version.seq });
    match error {
        StartError::History(history::Error::Gone { oldest }) => Error::Usage(format!(
            "--from is older than what is kept: the oldest state is that of {}",
            shown(oldest)
        )),
        StartError::History(history::Error::Ahead { newest }) => Error::Usage(format!(
            "--from and --to must not be beyond the last change, {}",
            shown(newest)
        )),
        StartError::Backwards { .. } => {
            Error::Usage(format!("{error}: --from must not be after --to"))
        }
        StartError::History(_) | StartError::Empty | StartError::Thread(_) => {
            Error::failed(doing, error)
        }
    }
}

fn open(data: &Path, doing: &str) -> Result<(Arc<dyn Archive>, uuid::Uuid), Error> {
    let archive =
        SqliteArchive::open(&database_of(data)).map_err(|error| Error::failed(doing, error))?;
    let log_id = archive.log_id().map_err(|error| Error::failed(doing, error))?;
    Ok((Arc::new(archive), uuid::Uuid::parse_str(&log_id).unwrap_or_default()))
}

/// The lines of standard input as they come. The thread ends with the process: nothing else ends a read of a terminal.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next line; never, if there are none.
async fn next(lines: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Steer(Steer),
    Tell,
    End,
}

/// Reads a line, seen from where the replay stands.
fn wish(line: &str, now: &Position) -> Option<Wish> {
    let steer = match line.trim() {
        "q" | "quit" | "exit" => return Some(Wish::End),
        "?" | "h" | "help" => return Some(Wish::Tell),
        "" | "p" => Steer { play: Some(now.state != Playing::Playing), ..Steer::default() },
        "+" => Steer { speed: Some(now.speed.doubled()), ..Steer::default() },
        "-" => Steer { speed: Some(now.speed.halved()), ..Steer::default() },
        text if text.ends_with('x') => {
            Steer { speed: Some(Speed::parse(text).ok()?), ..Steer::default() }
        }
        text => {
            let at = match text.strip_prefix('+') {
                Some(span) => {
                    let micros = i64::try_from(Millis::parse(span).ok()?.micros()).ok()?;
                    Moment::At(Timestamp(now.place.at.micros().checked_add(micros)?))
                }
                None => Moment::parse(text, now.place.at)?,
            };
            Steer { at: Some(at), ..Steer::default() }
        }
    };
    Some(Wish::Steer(steer))
}

/// Does what a line says; what is to be told then, or nothing at the end.
async fn obey(handle: &Handle, line: &str) -> Option<String> {
    match wish(line, &handle.position()) {
        Some(Wish::End) => None,
        Some(Wish::Tell) => Some(format!("{KEYS}\n{}", told(&handle.position()))),
        None => Some(format!("{:?} is not understood\n{KEYS}", line.trim())),
        Some(Wish::Steer(steer)) => Some(match handle.steer(steer).await {
            Ok(position) => told(&position),
            Err(Refused::Outside { from, to }) => {
                format!("the replay goes from {} to {}", place(from), place(to))
            }
            Err(refused) => refused.to_string(),
        }),
    }
}

fn place(place: Place) -> String {
    format!("{} (@{})", rfc3339::format(place.at), place.seq)
}

fn told(position: &Position) -> String {
    let mut line = format!(
        "{:<7} at {}, {}, from {} to {}",
        position.state.as_str(),
        place(position.place),
        position.speed,
        place(position.from),
        place(position.to)
    );
    if let Some(cause) = &position.trouble {
        line.push_str(&format!("; it stopped because {cause}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Seq;

    #[test]
    fn lines_steer_from_where_the_replay_stands() {
        let at = |at, seq| Place { at: Timestamp(at), seq: Seq(seq) };
        let now = Position {
            place: at(100_000_000, 7),
            from: at(0, 1),
            to: at(900_000_000, 90),
            speed: Speed::NORMAL,
            state: Playing::Paused,
            trouble: None,
        };
        let play = |play| Some(Wish::Steer(Steer { play: Some(play), ..Steer::default() }));
        let go = |at| Some(Wish::Steer(Steer { at: Some(at), ..Steer::default() }));
        let pace =
            |text| Some(Wish::Steer(Steer { speed: Speed::parse(text).ok(), ..Steer::default() }));
        assert_eq!(wish("", &now), play(true));
        assert_eq!(wish("p ", &Position { state: Playing::Playing, ..now.clone() }), play(false));
        assert_eq!(wish("+", &now), pace("2x"));
        assert_eq!(wish("-", &now), pace("0.5x"));
        assert_eq!(wish("25x", &now), pace("25x"));
        assert_eq!(wish("@42", &now), go(Moment::Version(Seq(42))));
        assert_eq!(wish("-40s", &now), go(Moment::At(Timestamp(60_000_000))));
        assert_eq!(wish("+40s", &now), go(Moment::At(Timestamp(140_000_000))));
        assert_eq!(wish("q", &now), Some(Wish::End));
        for line in ["faster", "x", "+soon", "5 minutes"] {
            assert_eq!(wish(line, &now), None, "{line}");
        }
    }
}
