//! Where settings come from: flags, variables, the file, and which of them wins.
//!
//! It deals in text and names and knows no setting by name. It must never read the process environment by itself: the
//! caller hands in a lookup, so that tests need not change what all threads share. Called by [`super`] and, for
//! [`Flags`], by the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};

use super::value::Value;
use super::{SPECS, Settings};

/// Looks a variable of the environment up; [`process_variables`] is the real one.
pub type Variables<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The environment of this process, for [`Flags::resolve`].
#[must_use]
pub fn process_variables(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// One row of the table of settings.
pub(super) struct Spec {
    /// Name in `snake_case`: the key of the file.
    pub(super) name: &'static str,
    /// The same in `kebab-case`, without dashes before it.
    pub(super) flag: String,
    /// The same in upper case, prefixed.
    pub(super) variable: String,
    /// One sentence for people.
    pub(super) help: &'static str,
    /// What stands for the value in the help.
    pub(super) placeholder: &'static str,
    /// Text that is read when no source has the setting.
    pub(super) default: &'static str,
    /// Whether the flag may stand without a value.
    pub(super) switch: bool,
}

impl Spec {
    fn arg(&'static self) -> Arg {
        let (help, variable, default) =
            (self.help.trim_end_matches('.'), &self.variable, self.default);
        let arg = Arg::new(self.name)
            .long(self.flag.as_str())
            .value_name(self.placeholder)
            .help(format!("{help} [env: {variable}] [default: {default}]"));
        if self.switch {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg
        }
    }
}

/// The settings that were given on the command line, as text, and the file that was named there.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    given: BTreeMap<&'static str, String>,
    file: Option<PathBuf>,
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(
                "TOML file with settings; flags and variables win over it [env: ROLLCALL_CONFIG]",
            );
        command.arg(file).args(SPECS.iter().map(Spec::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |spec: &Spec| {
            matches.get_one::<String>(spec.name).map(|text| (spec.name, text.clone()))
        };
        Ok(Self {
            given: SPECS.iter().filter_map(given).collect(),
            file: matches.get_one("config").cloned(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Flags {
    /// Reads the other sources and decides each setting.
    ///
    /// A variable that is empty counts as absent, as compose files set them so for want of a value.
    ///
    /// # Errors
    /// The file that cannot be read, or all settings that are refused, each with its source.
    pub fn resolve(&self, variables: &Variables<'_>) -> Result<Effective, Error> {
        let mut refused = Vec::new();
        let mut found = Found(BTreeMap::new());
        for spec in SPECS.iter() {
            found.0.insert(spec.name, (spec.default.to_owned(), Source::Default));
        }
        let variable = |name: &str| variables(name).filter(|text| !text.is_empty());
        if let Some(path) =
            self.file.clone().or_else(|| variable("ROLLCALL_CONFIG").map(PathBuf::from))
        {
            found.take_file(path, &mut refused)?;
        }
        for spec in SPECS.iter() {
            let source = Source::Variable(spec.variable.clone());
            match variable(&spec.variable).map(OsString::into_string) {
                Some(Ok(text)) => drop(found.0.insert(spec.name, (text, source))),
                Some(Err(_)) => refused.push(Refused::new(spec.name, source, "must be UTF-8")),
                None => {}
            }
            if let Some(text) = self.given.get(spec.name) {
                found.0.insert(spec.name, (text.clone(), Source::Flag(format!("--{}", spec.flag))));
            }
        }
        let settings = Settings::read(&found, &mut refused);
        match settings {
            Some(settings) if refused.is_empty() => Ok(Effective { settings, found }),
            _ => Err(Error::Refused(refused)),
        }
    }
}

/// The text of each setting and the source that won.
#[derive(Clone, Debug)]
pub(super) struct Found(BTreeMap<&'static str, (String, Source)>);

impl Found {
    fn take_file(&mut self, path: PathBuf, refused: &mut Vec<Refused>) -> Result<(), Error> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(Error::Unreadable { path, source }),
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(source) => {
                return Err(Error::NotToml { path, source: Box::new(source) });
            }
        };
        for (key, value) in table {
            let source = Source::File(path.clone());
            let Some(spec) = SPECS.iter().find(|spec| spec.name == key) else {
                refused.push(Refused::new(
                    &key,
                    source,
                    "is no setting; `rollcall serve --help` lists them",
                ));
                continue;
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(truth) => truth.to_string(),
                toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    let kind = value.type_str();
                    refused.push(Refused::new(
                        &key,
                        source,
                        &format!("must be a single value, was a {kind}"),
                    ));
                    continue;
                }
            };
            self.0.insert(spec.name, (text, source));
        }
        Ok(())
    }

    /// Parses and checks one setting; a refusal goes into `refused`.
    pub(super) fn read<T: Value>(
        &self,
        name: &'static str,
        check: impl FnOnce(&T) -> Result<(), String>,
        refused: &mut Vec<Refused>,
    ) -> Option<T> {
        let (text, source) =
            self.0.get(name).expect("every row was given its default before it is read");
        let checked = T::parse(text).and_then(|value| check(&value).map(|()| value));
        checked.map_err(|why| refused.push(Refused::new(name, source.clone(), &why))).ok()
    }
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This flag of the command line, with its dashes.
    Flag(String),
    /// This variable of the environment.
    Variable(String),
    /// This file.
    File(PathBuf),
    /// The table in [`crate::config`].
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Settings that hold, and where each came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The typed values.
    pub settings: Settings,
    found: Found,
}

impl Effective {
    /// The settings as a TOML file that gives the same settings again, with help and source as comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (spec, (name, value)) in SPECS.iter().zip(self.settings.values()) {
            let source = &self.found.0[name].1;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# {}\n# from: {source}\n{name} = {value}\n", spec.help);
        }
        text.truncate(text.trim_end().len() + 1);
        text
    }
}

/// One setting that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The setting, or what was meant to be one.
    pub setting: String,
    /// Where it came from.
    pub source: Source,
    /// What is wrong and what would be allowed.
    pub why: String,
}

impl Refused {
    fn new(setting: &str, source: Source, why: &str) -> Self {
        Self { setting: setting.to_owned(), source, why: why.to_owned() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}) {}", self.setting, self.source, self.why)
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file is no TOML; the source names line and column.
    #[error("the configuration file {} is not TOML", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: Box<toml::de::Error>,
    },
    /// Settings were refused: all of them, not the first one.
    #[error("{}", list(.0))]
    Refused(Vec<Refused>),
}

fn list(refused: &[Refused]) -> String {
    let lines: Vec<String> = refused.iter().map(|one| format!("  {one}")).collect();
    let noun =
        if lines.len() == 1 { "1 setting is" } else { &format!("{} settings are", lines.len()) };
    format!("{noun} refused:\n{}", lines.join("\n"))
}
