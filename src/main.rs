//! The program: reads the command line, runs what it asks for, and ends with its exit code.
//!
//! No logic lives here; it is in [`rollcall::cli`], where tests reach it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use rollcall::cli::{self, Cli, Exit};

fn main() -> ExitCode {
    // Ends the process itself: with 0 after --help, with 2 after a wrong command line.
    let cli = Cli::parse();
    let mut errors = std::io::stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody is left to tell when standard error is closed too.
            let _ = writeln!(errors, "rollcall: the system refuses threads: {error}");
            return Exit::Failed.into();
        }
    };
    runtime.block_on(cli::run(cli, &mut std::io::stdout(), &mut errors)).into()
}
