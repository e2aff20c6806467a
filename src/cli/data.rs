//! `finetest data`: looks at training data before anything is trained on it.

mod coverage;
mod mix;

use std::path::{Path, PathBuf};

use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use super::json;
use super::options::{Global, ListFormat, Output};
use crate::config::{Config, DataFormat};
use crate::data::check::{self, CheckOptions, Cleaned, DataReport, Severity};
use crate::data::divide::{DivideOptions, divide};
use crate::data::stats::{self, DataStats, Divergences, Lengths, Shares};
use crate::error::{Error, Result, exit};
use crate::project::data_options;
use crate::run::RunEvent;
use crate::shown::visible;

/// Shares of a property that are named.
const SHOWN: usize = 6;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Find what is wrong with examples: duplicates, broken text, wrong roles, secrets, leaks into the tests
    Check(CheckArgs),
    /// Write a file without what `check` would leave out, and a ledger of that
    Clean(CleanArgs),
    /// Divide a file into one to train on and one to validate with
    Split(SplitArgs),
    /// Show what a file consists of, by language, script, kind and length, and how far that is from other files
    Stats(StatsArgs),
    /// Show how well a model's tokenizer covers a file: tokens per character by script, and characters that fall back to bytes
    Coverage(coverage::CoverageArgs),
    /// Write a file with a share of other data in it, so that what the model knows is asked for again
    Mix(mix::MixArgs),
}

#[derive(Debug, clap::Args)]
struct Input {
    /// Path to the data: JSON Lines, a JSON array, CSV or TSV, also with gzip or zstd [default: the manifest's [data] train]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Format of the examples: auto, messages, sharegpt, alpaca, completion or text
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = data_format)]
    data_format: DataFormat,
    /// Path to a file whose prompts the data must not have; may be given several times. In a project its validation data and scenarios are among them
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Number of tokens of an example that are learnt [default: the manifest's [train] sequence_len]
    #[arg(long, value_name = "N", value_parser = tokens)]
    sequence_len: Option<usize>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest data check                      the data of the project
  finetest data check train.jsonl.gz --against heldout.jsonl
  finetest data check train.csv --limit 50 --fail-on warning

It exits with 100 if something is found of the severity of --fail-on, or a worse one.")]
struct CheckArgs {
    #[command(flatten)]
    input: Input,
    /// Number of findings of each kind that are shown; all are counted
    #[arg(long, value_name = "N", default_value_t = 5)]
    limit: usize,
    /// The least severity that the command fails for
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = FailOn::Error)]
    fail_on: FailOn,
    #[command(flatten)]
    output: Output<ListFormat>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest data clean train.jsonl -o clean.jsonl
  finetest data clean train.csv -o clean.jsonl --keep near-duplicate --keep html

The ledger has each item that was left out, with its line and why. Nothing else is changed, and no file is overwritten.")]
struct CleanArgs {
    #[command(flatten)]
    input: Input,
    /// Path to the new file, JSON Lines
    #[arg(long, short, value_name = "FILE", required = true)]
    output: PathBuf,
    /// Path to the ledger [default: the new file's, with .left-out.jsonl at its end]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Kind of finding that is no reason to leave an example out; may be given several times
    #[arg(long, value_name = "KIND")]
    keep: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest data split all.jsonl --train train.jsonl --validation validation.jsonl
  finetest data split all.jsonl --by source --share 0.2 --train train.jsonl --validation validation.jsonl

An example's side depends on its own group alone, so examples that you add later move no other. No file is overwritten.")]
struct SplitArgs {
    /// Path to the data
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Path to the new file to train on, JSON Lines
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Path to the new file to validate with, JSON Lines
    #[arg(long, value_name = "FILE")]
    validation: PathBuf,
    /// Share of the groups that validate
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    share: f64,
    /// Seed of the division
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Key of a line whose value is its group, for example its source [default: examples with the same prompt are a group]
    #[arg(long, value_name = "KEY")]
    by: Option<String>,
    /// Format of the examples: auto, messages, sharegpt, alpaca, completion or text
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = data_format)]
    data_format: DataFormat,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest data stats                      the data of the project, and its validation data
  finetest data stats train.jsonl --against reference.jsonl

A divergence is 0 for the same shares, and 1 for nothing in common (Jensen-Shannon, in bits).")]
struct StatsArgs {
    /// Path to the data [default: the manifest's [data] train]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Path to a file to compare with; may be given several times [default: the manifest's [data] validation]
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Format of the examples: auto, messages, sharegpt, alpaca, completion or text
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = data_format)]
    data_format: DataFormat,
    #[command(flatten)]
    output: Output<ListFormat>,
}

fn tokens(text: &str) -> Result<usize, String> {
    let tokens = text.parse::<usize>().ok().filter(|tokens| *tokens > 0);
    tokens.ok_or_else(|| "expected a whole number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "expected a number above 0 and below 1".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Never,
}

/// A format by its name in the manifest.
pub(super) fn data_format(name: &str) -> Result<DataFormat, String> {
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    DataFormat::deserialize(name).map_err(|error| error.to_string().replace('`', ""))
}

pub(super) fn data(global: &Global, args: &Args) -> Result<u8> {
    match &args.command {
        Command::Check(args) => check(global, args),
        Command::Clean(args) => clean(global, args),
        Command::Split(args) => split(global, args),
        Command::Stats(args) => stats(global, args),
        Command::Coverage(args) => coverage::show(global, args),
        Command::Mix(args) => mix::run(global, args),
    }
}

fn split(global: &Global, args: &SplitArgs) -> Result<u8> {
    let SplitArgs { file, train, validation, .. } = args;
    check_free("data split", [train, validation])?;
    if same_place(train, validation) {
        return Err(Error::Usage("--train and --validation are the same file".into()));
    }
    let options = DivideOptions { format: args.data_format, share: args.share, seed: args.seed, by: args.by.clone() };
    let done =
        reading(global, "splitting data", &[file], |on_read| divide(file, &options, [train, validation], on_read))?;
    super::print(&visible(&format!(
        "train      {:>8}  {}\nvalidation {:>8}  {}\n",
        done.train,
        train.display(),
        done.validation,
        validation.display()
    )))?;
    Ok(exit::PASS)
}

fn stats(global: &Global, args: &StatsArgs) -> Result<u8> {
    let (path, project) = data_file(global, args.file.as_ref())?;
    args.output.check(project.as_ref())?;
    args.output.keep(&[("the data", &path)])?;
    let own = project.as_ref().and_then(|config| config.data.as_ref()).filter(|data| data.train == path);
    let mut against = args.against.clone();
    if against.is_empty() {
        against.extend(own.and_then(|data| data.validation.clone()));
    }
    let paths: Vec<&Path> = std::iter::once(&path).chain(&against).map(PathBuf::as_path).collect();
    let found: Vec<DataStats> = reading(global, "reading data", &paths, |on_read| {
        paths.iter().map(|path| stats::stats(path, args.data_format, on_read)).collect()
    })?;
    let divergences: Vec<Divergences> = found[1..].iter().map(|other| found[0].divergences(other)).collect();
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&Compared { files: &found, divergences: &divergences })?,
        ListFormat::Terminal => visible(&stats_text(&found, &divergences)).into_owned(),
    })?;
    Ok(exit::PASS)
}

/// What `data stats` prints: the files, and how far the first is from each other one.
#[derive(Serialize)]
struct Compared<'a> {
    files: &'a [DataStats],
    divergences: &'a [Divergences],
}

fn stats_text(files: &[DataStats], divergences: &[Divergences]) -> String {
    let mut text = String::new();
    for (i, file) in files.iter().enumerate() {
        let unreadable = if file.unreadable == 0 { String::new() } else { format!(", {} unreadable", file.unreadable) };
        text.push_str(&format!("{}: {}{unreadable}\n", file.path.display(), examples(file.examples)));
        let shares = |shares: &Shares| {
            let named = shares.0.iter().take(SHOWN).map(|(name, share)| format!("{name} {:.1} %", 100.0 * share));
            let more =
                if shares.0.len() > SHOWN { format!(", and {} more", shares.0.len() - SHOWN) } else { String::new() };
            named.collect::<Vec<_>>().join(", ") + &more
        };
        let lengths =
            |l: Lengths| format!("{} to {} characters, median {}, a tenth above {}", l.least, l.most, l.median, l.p90);
        let from = i.checked_sub(1).map(|other| divergences[other]);
        let rows = [
            ("languages", shares(&file.languages), from.map(|from| from.languages)),
            ("scripts", shares(&file.scripts), from.map(|from| from.scripts)),
            ("answers are", shares(&file.kinds), from.map(|from| from.kinds)),
            ("prompts", lengths(file.prompts), None),
            ("answers", lengths(file.answers), None),
        ];
        for (name, told, divergence) in rows {
            let divergence = divergence.map_or_else(String::new, |bits| format!("  (divergence {bits:.3})"));
            text.push_str(&format!("  {name:<12} {told}{divergence}\n"));
        }
    }
    text
}

/// The file that is named, or the project's own, and the project.
fn data_file(global: &Global, named: Option<&PathBuf>) -> Result<(PathBuf, Option<Config>)> {
    // A file needs no project.
    let project = if named.is_some() { global.project_if_any()? } else { Some(global.project()?) };
    let own = project.as_ref().and_then(|config| config.data.as_ref()).map(|data| data.train.clone());
    let path = named.cloned().or(own);
    let path = path.ok_or_else(|| Error::Usage("the manifest has no [data]; give the FILE".into()))?;
    Ok((path, project))
}

/// Whether two files that are not there yet would be one.
fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (folder.canonicalize().ok(), path.file_name().map(ToOwned::to_owned))
    };
    a == b || place(a) == place(b)
}

/// Refuses to write over a file.
fn check_free(command: &str, files: [&Path; 2]) -> Result<()> {
    match files.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => {
            let why = format!("already exists; nothing was written, since `{command}` overwrites no file");
            Err(Error::input(path, None, why))
        }
        None => Ok(()),
    }
}

fn check(global: &Global, args: &CheckArgs) -> Result<u8> {
    let (path, options, project) = args.input.resolve(global, args.limit)?;
    args.output.check(project.as_ref())?;
    let read = options.validation.iter().map(|other| ("a file of --against", other.as_path()));
    args.output.keep(&std::iter::once(("the data", path.as_path())).chain(read).collect::<Vec<_>>())?;
    let (report, _) = looked_at(global, &path, &options)?;
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&report)?,
        ListFormat::Terminal => visible(&text(&report)).into_owned(),
    })?;
    let bad = match args.fail_on {
        FailOn::Error => report.of(Severity::Error),
        FailOn::Warning => report.of(Severity::Error) + report.of(Severity::Warning),
        FailOn::Never => 0,
    };
    Ok(if bad == 0 { exit::PASS } else { exit::GATE_FAILED })
}

fn clean(global: &Global, args: &CleanArgs) -> Result<u8> {
    if let Some(unknown) = args.keep.iter().find(|name| check::kinds().all(|kind| kind.name != name.as_str())) {
        let known: Vec<&str> = check::kinds().map(|kind| kind.name).collect();
        return Err(Error::Usage(format!(
            "--keep {unknown}: there is no such kind of finding; expected one of {}",
            known.join(", ")
        )));
    }
    let ledger_path = args.ledger.clone().unwrap_or_else(|| {
        let mut name = args.output.as_os_str().to_owned();
        name.push(".left-out.jsonl");
        name.into()
    });
    check_free("data clean", [&args.output, &ledger_path])?;
    if same_place(&args.output, &ledger_path) {
        return Err(Error::Usage("--output and --ledger are the same file".into()));
    }
    let (path, options, _) = args.input.resolve(global, 0)?;
    let (report, ledger) = looked_at(global, &path, &options)?;
    let places = [args.output.as_path(), &ledger_path];
    let done = reading(global, "cleaning data", &[&path], |on_read| {
        check::clean(&path, (&ledger, &args.keep), places, on_read)
    })?;
    super::print(&visible(&cleaned(&report, done, [&args.output, &ledger_path])))?;
    Ok(exit::PASS)
}

/// What of a check or cleaning is shown while it runs.
fn looked_at(global: &Global, path: &Path, options: &CheckOptions) -> Result<(DataReport, check::Ledger)> {
    reading(global, "checking data", &[path], |on_read| check::check(path, options, on_read))
}

/// Shows how much of some files is read while `work` reads each once.
fn reading<T>(
    global: &Global,
    what: &str,
    files: &[&Path],
    work: impl FnOnce(&mut dyn FnMut(u64)) -> Result<T>,
) -> Result<T> {
    let bytes = |path: &&Path| path.metadata().map_or(0, |about| about.len());
    let all: u64 = files.iter().map(bytes).sum();
    let mut display = global.display();
    let mut begun = false;
    let done = work(&mut |bytes| {
        if !std::mem::replace(&mut begun, true) {
            display.show(&RunEvent::Stage { what: what.into(), units: all as usize, bytes: true });
        }
        display.show(&RunEvent::Advanced { units: bytes as usize, tokens: 0 });
    });
    display.finish();
    done
}

impl Input {
    /// The file, what it is checked for, and the project that it belongs to.
    fn resolve(&self, global: &Global, shown: usize) -> Result<(PathBuf, CheckOptions, Option<Config>)> {
        let (path, project) = data_file(global, self.file.as_ref())?;
        let in_project = |config| data_options(config, &path, self.data_format);
        let alone = || CheckOptions { format: self.data_format, ..CheckOptions::default() };
        let mut options = project.as_ref().map_or_else(alone, in_project);
        options.sequence_len = self.sequence_len.or(options.sequence_len);
        options.validation.splice(0..0, self.against.clone());
        options.shown = shown;
        Ok((path, options, project))
    }
}

fn text(report: &DataReport) -> String {
    let path = report.path.display();
    let mut text = String::new();
    for count in &report.counts {
        let sign = match count.severity {
            Severity::Error => '✗',
            Severity::Warning => '!',
            Severity::Note => '·',
        };
        text.push_str(&format!("{sign} {}: {}\n", count.kind, examples(count.items)));
        for finding in &count.shown {
            text.push_str(&format!("    {path}:{}: {}\n", finding.line, finding.message));
        }
        let more = count.items - count.shown.len();
        if more > 0 && !count.shown.is_empty() {
            text.push_str(&format!("    and {more} more\n"));
        }
    }
    report.notes.iter().for_each(|note| text.push_str(&format!("? {note}\n")));
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("{path}: {}", examples(report.items)));
    text.push_str(&match report.left_out {
        0 => ", none of which `finetest data clean` would leave out\n".to_owned(),
        n => format!("; `finetest data clean` would leave out {n} and keep {}\n", report.items - n),
    });
    text
}

fn examples(n: usize) -> String {
    if n == 1 { "1 example".to_owned() } else { format!("{n} examples") }
}

fn cleaned(report: &DataReport, done: Cleaned, [to, ledger]: [&Path; 2]) -> String {
    let mut text = String::new();
    for count in report.counts.iter().filter(|count| count.severity > Severity::Note) {
        text.push_str(&format!("{:<18} {}\n", count.kind, examples(count.items)));
    }
    text.push_str(&format!(
        "kept      {:>8}  {}\nleft out  {:>8}  {}\n",
        done.kept,
        to.display(),
        done.left_out,
        ledger.display()
    ));
    text
}
