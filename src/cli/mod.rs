//! The command line: `finetest`, also callable as `cargo finetest`. One file a subcommand.
//!
//! Results go to stdout, progress and notes to stderr.

mod crosscheck;
mod export;
mod gate;
pub(crate) mod github;
pub(crate) mod interrupt;
mod logits;
pub(crate) mod progress;
mod report;
mod run;
mod sizes;
mod train;
mod verdicts;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{BackendName, Config};
use crate::error::{Error, Result, exit};
use crate::report::Style;
use crate::shown::visible;

const AFTER: &str = "\
Exit codes: 0 passed, 100 the gate failed, 1 an error, 2 wrong usage, 4 nothing ran.

Environment:
  FINETEST_TRAIN   auto (default), never or always: whether `run` may train the adapter
  FINETEST_CACHE   directory of downloaded models
  FINETEST_WORKER_PROGRAM  the finetest that runs llama.cpp as a child; default: this program
  HF_ENDPOINT, HF_HOME, HF_TOKEN are honoured for hf: sources, pip's own settings for pypi: sources
  NO_COLOR         not empty: no colours, whatever CLICOLOR_FORCE says
  CLICOLOR_FORCE   not empty and not 0: colours, also where no terminal is";

/// Fine-tuned language models, tested the way code is.
#[derive(Debug, Parser)]
#[command(name = "finetest", version, after_help = AFTER)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Args)]
struct Global {
    /// The project's manifest; default: finetest.toml here or in the nearest directory above
    #[arg(long, global = true, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Inference backend: candle, llama-cpp, or llama-cpp-f32 (weights in f32, for a small model) [default: from the manifest, or candle]
    #[arg(long, global = true, value_name = "NAME")]
    backend: Option<String>,
    /// Threads to compute with; default: all cores
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print JSON instead of a report
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no notes
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask every arm every scenario, report and gate (the default). Trains the adapter first if it has to
    Run {
        /// Print what happens as JSON lines, an event each, and the gate's decision last; no report
        #[arg(long, conflicts_with = "json")]
        events: bool,
    },
    /// Train the adapter, if there is none that fits recipe, data and base
    Train {
        /// Train even if the adapter is up to date. Resumes an interrupted training; restarts a finished one
        #[arg(long)]
        force: bool,
        /// Print what happens as JSON lines, an event each, and the training's summary last
        #[arg(long, conflicts_with = "json")]
        events: bool,
    },
    /// Gate a recorded run by the manifest's [gate]
    Gate {
        /// A run.json
        run: PathBuf,
    },
    /// Report a recorded run
    Report {
        /// A run.json
        run: PathBuf,
        /// terminal, markdown or junit
        #[arg(long, value_name = "FORMAT", default_value = "terminal")]
        format: report::Format,
    },
    /// Run the project on candle and on llama.cpp, and tell a difference of the serving from one of the fine-tune
    Crosscheck(crosscheck::Args),
    /// Write the adapter, or base and adapter merged, in a form that other programs read
    Export(export::Args),
    /// Write the logits of every position of a text: to compare a model with any other implementation
    Logits(logits::Args),
    /// Parameters, bytes, KV cache and LoRA of a model, from its configuration alone
    Sizes(sizes::Args),
}

/// Runs the command line with these arguments (the program's name first) and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    #[cfg(feature = "llama-cpp")]
    if let Some(ended) = crate::backend::llama_cpp::worker::serve::serve_if_asked() {
        return ended;
    }
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // `cargo finetest …` calls `cargo-finetest finetest …`.
    if arguments.get(1).is_some_and(|a| a == "finetest") {
        arguments.remove(1);
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::PASS });
        }
    };
    interrupt::install();
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", visible(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: &Cli) -> Result<u8> {
    let global = &cli.global;
    backend(global)?;
    set_threads(global)?;
    match cli.command.as_ref().unwrap_or(&Command::Run { events: false }) {
        Command::Run { events } => run::run(global, *events),
        Command::Train { force, events } => train::train(global, *force, *events),
        Command::Gate { run } => gate::gate(global, run),
        Command::Report { run, format } => report::report(global, run, *format),
        Command::Crosscheck(args) => crosscheck::crosscheck(global, args),
        Command::Export(args) => export::export(global, args),
        Command::Logits(args) => logits::logits(global, args),
        Command::Sizes(args) => sizes::sizes(global, args),
    }
}

fn set_threads(global: &Global) -> Result<()> {
    let Some(threads) = global.threads else {
        return Ok(());
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
    pool.map_err(|e| Error::failed(format!("--threads {threads}: {e}")))
}

fn config(global: &Global) -> Result<Config> {
    let mut config = match &global.manifest {
        Some(path) => Config::load(path),
        None => {
            let here = std::env::current_dir().map_err(Error::io(".".as_ref(), "read"))?;
            let found = Config::find(&here)?;
            // Shown and recorded as a person would write it.
            Config::load(found.strip_prefix(&here).unwrap_or(&found))
        }
    }?;
    config.backend = backend(global)?.unwrap_or(config.backend);
    Ok(config)
}

/// The backend that the command line names.
fn backend(global: &Global) -> Result<Option<BackendName>> {
    let parse = |name: &String| BackendName::parse(name).map_err(|e| Error::Usage(format!("--backend is {e}")));
    global.backend.as_ref().map(parse).transpose()
}

/// Prints notes, unless none are wanted.
fn notes(global: &Global, notes: impl IntoIterator<Item = String>) {
    let mut err = std::io::stderr().lock();
    for note in notes.into_iter().filter(|_| !global.quiet) {
        let _ = writeln!(err, "note: {}", visible(&note));
    }
}

/// Prints a result.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        // A reader that has enough (`| head`) is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: "stdout".into(), action: "write", source: error })
        }
        _ => Ok(()),
    }
}

/// Prints an event as a line of JSON.
fn json_line(event: &impl serde::Serialize) -> Result<()> {
    let line = serde_json::to_string(event).map_err(|e| Error::failed(e.to_string()))?;
    print(&(line + "\n"))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| Error::failed(e.to_string()))
}

fn style() -> Style {
    let variable = |name: &str| std::env::var(name).ok();
    let color = colored(variable("NO_COLOR"), variable("CLICOLOR_FORCE"), std::io::stdout().is_terminal());
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(|columns| *columns > 0);
    let width = columns.or_else(progress::terminal_width).unwrap_or(100);
    Style { color, width }
}

/// Whether to colour. `NO_COLOR` says no when it is there and not empty, whatever its value (no-color.org), and wins over
/// `CLICOLOR_FORCE`, which says yes unless it is `0` (bixense.com/clicolors: with `NO_COLOR`, no colour "no matter what").
fn colored(no_color: Option<String>, force: Option<String>, terminal: bool) -> bool {
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    given(no_color).is_none() && (given(force).is_some_and(|force| force != "0") || terminal)
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
