//! The program: reads the command line, runs what it asks for, and ends with its exit code.
//!
//! No logic lives here; it is in [`rollcall::cli`], where tests reach it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use rollcall::cli::{self, Cli, Exit};
use tikv_jemallocator::Jemalloc;

/// The system's allocator keeps what a crowd of watchers took long after they have gone; this one gives free pages back
/// within some ten seconds, by threads of its own, also when nothing is asked of it any more. Only the program has it:
/// the library leaves the choice to whoever links it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

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
