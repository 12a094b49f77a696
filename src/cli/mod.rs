//! The command line: what can be asked for, who answers it, and with which exit code it ends.
//!
//! Each command is a module with its arguments and a `run`. Commands that look at a registry are clients of its HTTP
//! contract like any other program; only `serve`, `replay`, `events --data` and those that are about the file of a log
//! (`verify`, `backup`, `restore`, `export`, `import`) reach into the server's own modules, each in one function. Output
//! goes through the writers that [`run`] was given, so that a broken pipe is an ordinary end
//! and tests can read it. Called by `main`.

mod backup;
mod bench;
mod drain;
mod events;
mod export;
mod import;
mod interrupt;
mod output;
mod past;
mod progress;
mod query;
mod register;
mod reload;
mod replay;
mod restore;
mod serve;
mod top;
mod verify;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::client::{self, Client};
use crate::{config, demo};
pub(crate) use interrupt::Interrupt;
use output::Output;
pub(crate) use output::{table, write_table};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for questions: yes, or something was found
  1  the answer is no: not found, not ready, not clean
  2  the command line, a setting or a field was refused
  3  no registry was reached, or it failed

Every command has examples: rollcall COMMAND --help";

/// A service registry that remembers.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a registry
    Serve(Box<serve::Args>),
    /// Run a small fleet of services that use a registry, one of which dies now and then
    Demo(demo::Args),
    /// List the services
    Services(query::ServicesArgs),
    /// List instances with their leases, also those that are not offered
    Instances(query::InstancesArgs),
    /// Ask who of a service may be called now
    Lookup(query::LookupArgs),
    /// Register an instance, and keep it registered with --keep-alive
    Register(register::Args),
    /// Take an instance off the registry
    Deregister(register::DeregisterArgs),
    /// Offer an instance to nobody new, and take it off the registry at a deadline
    Drain(drain::Args),
    /// Show what happened, and with --follow what happens
    Events(events::Args),
    /// Show changes the moment that they happen, across restarts
    Watch(watch::Args),
    /// Show the events of a trace
    Trace(past::TraceArgs),
    /// Show the registry as it was at an instant
    At(past::AtArgs),
    /// Show what changed between two instants
    Diff(past::DiffArgs),
    /// Show the lives of an instance
    History(past::HistoryArgs),
    /// Say why an instance left, or why it stands as it does
    Why(past::WhyArgs),
    /// Show who was handed an instance that was dead already
    Impact(past::ImpactArgs),
    /// Show who looks up whom
    Graph(past::GraphArgs),
    /// Check a log for damage: numbers, checksums, invariants
    Verify(verify::Args),
    /// Copy the log of a registry, which may be running, to a file
    Backup(backup::Args),
    /// Make a data directory of a backup
    Restore(restore::Args),
    /// Write events as lines of JSON, with the state that they begin at
    Export(export::Args),
    /// Make a data directory of an export
    Import(import::Args),
    /// Walk through the past: a read-only registry in which what was recorded happens again
    Replay(replay::Args),
    /// Show what a registry is doing now: rates, latencies, who asks for whom, who flaps
    Top(top::Args),
    /// Put a registry under load, and say what it answered how fast
    Bench(Box<bench::Args>),
    /// Ask whether a registry is ready; for the health check of a container
    Health(query::HealthArgs),
    /// Write the completions of a shell to standard output
    #[command(
        after_help = "Example:\n  rollcall completions bash > /etc/bash_completion.d/rollcall"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How the program ends; see `rollcall --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or yes.
    Done = 0,
    /// 1: no, or not found.
    No = 1,
    /// 2: what was asked for is not understood or not allowed.
    Usage = 2,
    /// 3: no registry was reached, or it failed.
    Failed = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The registry's refusal, or its silence.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Settings were refused.
    #[error(transparent)]
    Settings(#[from] config::Error),
    /// What was asked for is not understood.
    #[error("{0}")]
    Usage(String),
    /// Standard output or another channel to the user failed.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// A part of the program that this command runs failed.
    #[error("cannot {doing}")]
    Failed {
        /// What was being done, as it follows "cannot".
        doing: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// A failure of another part while it was `doing` something.
    pub(crate) fn failed(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Settings(_) | Self::Usage(_) => Exit::Usage,
            Self::Client(client::Error::Address { .. } | client::Error::Name(_)) => Exit::Usage,
            Self::Client(error) => match error.status() {
                Some(404 | 409 | 410 | 412) => Exit::No,
                Some(400 | 403 | 413 | 422) => Exit::Usage,
                _ => Exit::Failed,
            },
            Self::Output(_) | Self::Failed { .. } => Exit::Failed,
        }
    }

    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Runs the command; what goes wrong is told on `errors`.
///
/// A reader that went away (`rollcall events | head`) has seen what it wanted: that is no error.
pub async fn run(cli: Cli, out: &mut (dyn Write + Send), errors: &mut (dyn Write + Send)) -> Exit {
    let ended = match cli.command {
        Command::Serve(args) => serve::run(*args, out).await,
        Command::Demo(args) => demo::run(args, out).await,
        Command::Services(args) => query::services(args, out).await,
        Command::Instances(args) => query::instances(args, out).await,
        Command::Lookup(args) => query::lookup(args, out, errors).await,
        Command::Register(args) => register::run(args, out, errors).await,
        Command::Deregister(args) => register::deregister(args, out).await,
        Command::Drain(args) => drain::run(args, out).await,
        Command::Events(args) => events::run(args, out, errors).await,
        Command::Watch(args) => watch::run(args, out, errors).await,
        Command::Trace(args) => past::trace(args, out, errors).await,
        Command::At(args) => past::at(args, out, errors).await,
        Command::Diff(args) => past::diff(args, out).await,
        Command::History(args) => past::history(args, out).await,
        Command::Why(args) => past::why(args, out, errors).await,
        Command::Impact(args) => past::impact(args, out, errors).await,
        Command::Graph(args) => past::graph(args, out).await,
        Command::Verify(args) => verify::run(&args, out, errors),
        Command::Backup(args) => backup::run(&args, out, errors),
        Command::Restore(args) => restore::run(&args, out, errors),
        Command::Export(args) => export::run(&args, out, errors),
        Command::Import(args) => import::run(&args, out, errors),
        Command::Replay(args) => replay::run(args, out, errors).await,
        Command::Top(args) => top::run(args, out).await,
        Command::Bench(args) => bench::run(*args, out, errors).await,
        Command::Health(args) => query::health(args, out).await,
        Command::Completions { shell } => completions(shell, out),
    };
    match ended.and_then(|exit| Ok(out.flush().map(|()| exit)?)) {
        Ok(exit) => exit,
        Err(error) if error.is_broken_pipe() => Exit::Done,
        Err(error) => {
            // Nobody is left to tell when standard error is closed too.
            let _ = writeln!(errors, "rollcall: {}", client::chain(&error));
            error.exit()
        }
    }
}

fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<Exit, Error> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rollcall", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Done)
}

/// The registry that a command asks, and how it shows the answer.
#[derive(Debug, clap::Args)]
struct Registry {
    /// Address of the registry
    #[arg(long, env = "ROLLCALL_URL", default_value = client::DEFAULT_URL, hide_env_values = true)]
    url: String,
    /// Namespace of the services
    #[arg(long)]
    namespace: Option<String>,
    /// Name under which the registry records who asks: service or service/instance
    #[arg(long, default_value = "rollcall-cli")]
    caller: String,
    /// Form of the output: table for people, json for programs
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Registry {
    fn client(&self) -> Result<Client, Error> {
        // Compose files set variables to nothing for want of a value.
        let url = if self.url.is_empty() { client::DEFAULT_URL } else { &self.url };
        Ok(Client::new(url, &self.caller)?.in_namespace(self.namespace.clone()))
    }
}

/// Reads `KEY=VALUE` from the command line.
fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests;
