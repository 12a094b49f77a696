//! Settings from all their sources at once, as an operator would mix them.

use clap::Args as _;
use clap::FromArgMatches as _;

use super::*;

fn flags(args: &[&str]) -> Flags {
    let command = Flags::augment_args(clap::Command::new("test").no_binary_name(true));
    Flags::from_arg_matches(&command.try_get_matches_from(args).expect("the flags exist"))
        .expect("they are text")
}

fn variables(
    pairs: &'static [(&'static str, &'static str)],
) -> impl Fn(&str) -> Option<std::ffi::OsString> {
    move |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into())
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("rollcall.toml");
    std::fs::write(&path, text).expect("the file is written");
    let path = path.to_str().expect("temporary paths are UTF-8").to_owned();
    (folder, path)
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let (_folder, path) =
        file("listen = '127.0.0.1:1'\ndefault_ttl = 20\nlog_requests = true\ntrace_root_ratio = 1");
    let environment = variables(&[
        ("ROLLCALL_LISTEN", "127.0.0.1:2"),
        ("ROLLCALL_DEFAULT_TTL", "30s"),
        ("ROLLCALL_DATA", ""),
    ]);
    let effective = flags(&["--config", &path, "--listen", "localhost:3"])
        .resolve(&environment)
        .expect("all valid");

    let expected = Settings {
        listen: ([127, 0, 0, 1], 3).into(),
        default_ttl: Duration::from_secs(30),
        log_requests: true,
        trace_root_ratio: 1.0,
        ..Settings::default()
    };
    assert_eq!(effective.settings, expected);
}

#[test]
fn a_switch_may_stand_alone_or_have_a_value() {
    assert!(flags(&["--log-requests"]).resolve(&|_| None).expect("valid").settings.log_requests);
    assert!(
        !flags(&["--log-requests=off"]).resolve(&|_| None).expect("valid").settings.log_requests
    );
}

#[test]
fn everything_wrong_is_reported_at_once_with_source_and_remedy() {
    let (_folder, path) =
        file("default_ttl = '48h'\nlissen = '127.0.0.1:1'\nnode = ['a']\ntraffic_flush = '1s'");
    let environment =
        variables(&[("ROLLCALL_LOG_LEVEL", "inof"), ("ROLLCALL_COMMAND_QUEUE", "-1")]);
    let error = flags(&["--config", &path, "--listen", "example.org:80"])
        .resolve(&environment)
        .expect_err("much is wrong");
    let text = error.to_string().replace(&path, "FILE");
    for line in [
        "7 settings are refused:",
        "lissen (from FILE) is no setting; `rollcall serve --help` lists them",
        "node (from FILE) must be a single value, was a array",
        "listen (from --listen) must be an IP address and a port, such as 127.0.0.1:7655 or [::]:7655, was \"example.org:80\"",
        "command_queue (from ROLLCALL_COMMAND_QUEUE) must be a whole number from 0 to 4294967295, was \"-1\"",
        "default_ttl (from FILE) must be 1s to 24h, was 48h",
        "traffic_flush (from FILE) must be 1ms to 100ms, was 1s",
        "log_level (from ROLLCALL_LOG_LEVEL) must be one of off, error, warn, info, debug, trace",
    ] {
        assert!(text.contains(line), "missing: {line}\nin: {text}");
    }
}

#[test]
fn what_is_printed_can_be_fed_back_and_names_the_sources() {
    let environment = variables(&[("ROLLCALL_DATA", "/a \"quoted\" place")]);
    let given = flags(&["--trace-slow-read=1.5s", "--synchronous", "normal"]);
    let first = given.resolve(&environment).expect("valid");
    let printed = first.to_toml();
    assert!(printed.contains("# from: ROLLCALL_DATA\n"), "{printed}");
    assert!(printed.contains("# from: --synchronous\nsynchronous = \"normal\"\n"), "{printed}");

    let (_folder, path) = file(&printed);
    let second = flags(&["--config", &path]).resolve(&|_| None).expect("its own output is valid");
    assert_eq!(second.settings, first.settings);
}

#[test]
fn a_file_that_is_missing_or_broken_is_an_error_with_its_cause() {
    let missing = flags(&["--config", "/nowhere/rollcall.toml"]).resolve(&|_| None);
    assert!(matches!(missing, Err(Error::Unreadable { .. })));
    let (_folder, path) = file("listen = ");
    assert!(matches!(flags(&["--config", &path]).resolve(&|_| None), Err(Error::NotToml { .. })));
}
