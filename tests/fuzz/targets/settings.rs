//! Settings from flags, variables and a file, as text.
//!
//! A line of an input is one setting: `--name=value` is a flag, `NAME=value` in capitals a variable (ours and
//! OpenTelemetry's); all other lines together are the file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use clap::{Args as _, FromArgMatches as _};
use rollcall::app;
use rollcall::config::{Effective, Flags};

/// What is in force can be printed, and gives the same settings when it is fed back; the rest is a list of refusals.
pub(super) fn settings(data: &[u8]) {
    let (mut flags, mut variables, mut file) = (Vec::new(), BTreeMap::new(), Vec::new());
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let (name, value) = match text.iter().position(|byte| *byte == b'=') {
            Some(equals) => (&text[..equals], &text[equals + 1..]),
            None => (text, &[][..]),
        };
        let is_capital = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'_';
        if name.starts_with(b"--") && !name.starts_with(b"--config") {
            flags.push(OsString::from_vec(text.to_vec()));
        } else if !name.is_empty() && name.iter().all(is_capital) && name != b"ROLLCALL_CONFIG" {
            let name = String::from_utf8_lossy(name).into_owned();
            variables.insert(name, OsString::from_vec(value.to_vec()));
        } else {
            file.extend_from_slice(line);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rollcall.toml");
    std::fs::write(&path, &file).unwrap();
    let lookup = |name: &str| match name {
        "ROLLCALL_CONFIG" => Some(path.clone().into_os_string()),
        _ => variables.get(name).cloned(),
    };
    let command = Flags::augment_args(clap::Command::new("fuzz").no_binary_name(true));
    let Ok(matches) = command.try_get_matches_from(flags) else { return };
    let Ok(flags) = Flags::from_arg_matches(&matches) else { return };
    let effective = match flags.resolve(&lookup) {
        Ok(effective) => effective,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let Effective { settings, .. } = &effective;
    // Where a value was refused, the start says so and ends.
    drop(app::tracing_config(settings, |name| lookup(name)?.into_string().ok()));
    let printed = effective.to_toml();
    std::fs::write(&path, &printed).unwrap();
    let only_file = |name: &str| (name == "ROLLCALL_CONFIG").then(|| path.clone().into_os_string());
    match Flags::default().resolve(&only_file) {
        Ok(again) => assert_eq!(again.settings, *settings, "{printed}"),
        Err(error) => panic!("{error}\n{printed}"),
    }
}
