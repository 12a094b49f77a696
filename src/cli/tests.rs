//! The command line as a whole: it parses, its help keeps its promises, its answers end with the right code.

use clap::CommandFactory as _;

use super::*;
use crate::client::Problem;

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in Cli::command().get_subcommands_mut() {
        let help = command.render_help().to_string();
        let name = command.get_name();
        assert!(
            help.contains(&format!("  rollcall {name}")) || help.contains("\"rollcall\""),
            "{help}"
        );
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    for line in [
        "register orders --port 0",
        "register orders --port 65536",
        "register orders --port 80 --meta env",
        "lookup",
        "events --limit many",
        "serve --lissen 127.0.0.1:1",
        "demo --rate 0",
    ] {
        let words = std::iter::once("rollcall").chain(line.split(' '));
        let error = Cli::try_parse_from(words).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_exit_code_tells_no_from_wrong_from_failed() {
    let refused = |status| {
        let problem = Problem { status, ..Problem::default() };
        Error::Client(client::Error::Refused(Box::new(problem))).exit()
    };
    assert_eq!(
        [404, 410, 403, 422, 400, 503, 500].map(refused),
        [Exit::No, Exit::No, Exit::Usage, Exit::Usage, Exit::Usage, Exit::Failed, Exit::Failed]
    );
}

/// A reader that has gone away.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_went_away_is_no_error() {
    let cli = Cli::try_parse_from(["rollcall", "completions", "bash"]).expect("valid");
    let mut errors = Vec::new();
    assert_eq!(run(cli, &mut Gone, &mut errors).await, Exit::Done);
    assert!(errors.is_empty());
}

#[tokio::test]
async fn no_registry_is_a_failure_that_says_what_to_do() {
    // Bound and not listening: nobody answers here, and nobody else can begin to.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("its address"));
    let cli = Cli::try_parse_from(["rollcall", "services", "--url", &url]).expect("valid");
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    assert_eq!(run(cli, &mut out, &mut errors).await, Exit::Failed);
    let errors = String::from_utf8(errors).expect("text");
    assert!(
        errors.contains(&url) && errors.contains("start one with `rollcall serve`"),
        "{errors}"
    );
    assert!(out.is_empty());
}
