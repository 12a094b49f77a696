//! SIGHUP to a real process: what can be changed while it runs is changed, what is wrong changes nothing.

use std::fs::File;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::crash::Child;
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_wrong_ones_change_nothing() {
    let folder = TempDir::new().unwrap();
    let [settings, lines] = ["rollcall.toml", "lines"].map(|name| folder.path().join(name));
    std::fs::write(&settings, "log_level = 'warn'").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]);
    command.arg(folder.path().join("data")).arg("--config").arg(&settings);
    command.stdout(Stdio::piped()).stderr(File::create(&lines).unwrap());
    let child = Child::spawn(command).ready().await;

    let told = async |file: &str, message: &str| {
        std::fs::write(&settings, file).unwrap();
        kill_process(child.pid(), Signal::HUP).unwrap();
        let read = async || std::fs::read_to_string(&lines).unwrap();
        eventually(message, read, |text| text.contains(message)).await
    };
    // Still at `warn`: what went well has no line, what went wrong has one.
    let text = told("log_level = 'loud=x'", "settings can't be read again").await;
    assert!(text.contains("log_level (from "), "{text}");
    let text =
        told("default_ttl = '20s'", "default_ttl have changed, and hold from the next").await;
    // Without the row the level is the default, at once: the same reading has told so.
    assert!(text.contains("log_level hold from now on"), "{text}");
    told("trace_caller_rate = 3", "trace_caller_rate hold from now on").await;
    child.terminate();
}
