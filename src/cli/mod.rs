//! The command line: `finetest`, also callable as `cargo finetest`. One file a subcommand.
//!
//! Results go to stdout, progress and notes to stderr.

mod ask;
mod calibrate;
mod check;
mod compare;
mod crosscheck;
mod data;
mod diagnose;
mod export;
mod gate;
pub(crate) mod github;
mod help;
mod init;
mod inspect;
pub(crate) mod interrupt;
mod list;
mod logits;
mod merge;
mod new;
mod options;
mod plan;
pub(crate) mod progress;
#[cfg(test)]
mod reference;
mod report;
mod run;
mod runs;
mod schema;
mod snapshots;
mod train;
mod verdicts;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{Error, Result, exit};
use crate::shown::visible;
use options::Global;

const AFTER: &str = "\
Exit codes: 0 passed, 100 the gate failed, 1 an error, 2 wrong usage, 4 nothing ran.

Without a command, finetest runs `finetest run`, and takes its options.";

const AFTER_LONG: &str = "\
Exit codes:
  0    passed
  1    an error: something could not be read, computed or written
  2    wrong usage
  4    nothing ran: there is no scenario, or no case is selected
  100  the gate failed, or there is no gate

Environment:
  FINETEST_MANIFEST        path to the manifest, as --config
  FINETEST_TRAIN           auto, never or always, as --train
  FINETEST_CACHE           directory of downloaded models [default: ~/.cache/finetest]
  FINETEST_WORKER_PROGRAM  the finetest that runs llama.cpp as a child process [default: this program]
  CI                       if set, the adapter is not trained unless --train or FINETEST_TRAIN says so
  HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN   as huggingface_hub reads them, for hf: sources
  PIP_*                    pip's own settings, for pypi: sources
  NO_COLOR                 if not empty: no colors
  CLICOLOR_FORCE           if neither empty nor 0: colors without a terminal
  COLUMNS                  width of the output
  INSTA_UPDATE, INSTA_PENDING_DIR   as insta reads them, for `finetest snapshots`

Without a command, finetest runs `finetest run`, and takes its options.";

/// Test a fine-tuned language model against its base: what it gained, and what it forgot.
#[derive(Debug, Parser)]
#[command(name = "finetest", version, after_help = AFTER, after_long_help = AFTER_LONG)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Those of `run`, which is the default command.
    #[command(flatten)]
    run: run::Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a manifest and first scenarios for an adapter, for training data, or for an empty folder
    Init(init::Args),
    /// Add a scenario, also from a JSONL or CSV file
    New(new::Args),
    /// Check the project without running a model: files, data, sizes, and how long a run will take
    Check(check::Args),
    /// List the tests
    List(list::Args),
    /// Run the scenarios on base and tuned, report and gate (the default command)
    Run(run::Args),
    /// Train the adapter if it is missing or out of date
    Train(train::Args),
    /// Ask base and tuned one question, and show both answers
    Ask(ask::Args),
    /// Show, accept or reject changed answers
    Snapshots(snapshots::Args),
    /// Find control cases and thresholds for a base: what it can do, and how much it jitters
    Calibrate(calibrate::Args),
    /// Gate a recorded run by the manifest's thresholds
    Gate(gate::Args),
    /// Join the parts of a run that several machines shared, report and gate
    Merge(merge::Args),
    /// Report a recorded run
    Report(report::Args),
    /// Compare two recorded runs: what broke, what was fixed
    Compare(compare::Args),
    /// List recorded runs
    Runs(runs::Args),
    /// Write the adapter, or base and adapter merged, in a form that other programs read
    Export(export::Args),
    /// Rank base models by what fits this machine or a GPU, its data, languages, licence and deadline
    Plan(plan::Args),
    /// Show what a model is, its size and its traps, without its weights; and what is in an adapter
    #[command(alias = "sizes")]
    Inspect(inspect::Args),
    /// Say what a training's losses show: overfitting, jumps, a rate that is too high or too low
    Diagnose(diagnose::Args),
    /// Check, clean, split and describe training data
    Data(data::Args),
    /// Compare candle with llama.cpp, or with the server of this project
    Crosscheck(crosscheck::Args),
    /// Write the logits of every position of a text, to compare a model with another implementation
    #[command(hide = true)]
    Logits(logits::Args),
    /// Print the JSON Schema of a manifest, a scenario file, or a run record
    Schema(schema::Args),
    /// Print a completion script for a shell
    Completions(help::CompletionsArgs),
    /// Print the manual page
    Man,
}

/// The command line's definition. Options of `run` that may stand without it are not shown twice.
pub(crate) fn command() -> clap::Command {
    Cli::command().mut_args(|arg| if arg.is_global_set() { arg } else { arg.hide(true) })
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
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
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
    global.set_threads()?;
    if cli.command.is_some() && cli.run != run::Options::default() {
        let message = "an option stands before the command and belongs behind it: finetest COMMAND --OPTION";
        return Err(Error::Usage(message.into()));
    }
    match &cli.command {
        None => run::run(global, &cli.run, &[]),
        Some(Command::Run(args)) => run::run(global, &args.options, &args.filters),
        Some(Command::Init(args)) => init::init(global, args),
        Some(Command::New(args)) => new::new(global, args),
        Some(Command::Check(args)) => check::check(global, args),
        Some(Command::List(args)) => list::list(global, args),
        Some(Command::Train(args)) => train::train(global, args),
        Some(Command::Ask(args)) => ask::ask(global, args),
        Some(Command::Snapshots(args)) => snapshots::snapshots(global, args),
        Some(Command::Calibrate(args)) => calibrate::calibrate(global, args),
        Some(Command::Gate(args)) => gate::gate(global, args),
        Some(Command::Merge(args)) => merge::merge(global, args),
        Some(Command::Report(args)) => report::report(global, args),
        Some(Command::Compare(args)) => compare::compare(global, args),
        Some(Command::Runs(args)) => runs::runs(global, args),
        Some(Command::Export(args)) => export::export(global, args),
        Some(Command::Plan(args)) => plan::plan(global, args),
        Some(Command::Inspect(args)) => inspect::inspect(global, args),
        Some(Command::Diagnose(args)) => diagnose::diagnose(global, args),
        Some(Command::Data(args)) => data::data(global, args),
        Some(Command::Crosscheck(args)) => crosscheck::crosscheck(global, args),
        Some(Command::Logits(args)) => logits::logits(global, args),
        Some(Command::Schema(args)) => schema::schema(args),
        Some(Command::Completions(args)) => help::completions(args),
        Some(Command::Man) => help::man(),
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
