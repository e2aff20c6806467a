//! `finetest plan`: which base to choose, and where to train it.

use std::path::PathBuf;

use serde::Serialize;

use super::check::time as time_of;
use super::data::data_format;
use super::inspect::bytes;
use super::json;
use super::options::{Global, ListFormat, Output};
use crate::config::DataFormat;
use crate::error::{Error, Result, exit};
use crate::plan::hardware::{available, gigabytes};
use crate::plan::{Choice, DataNeeds, Gpu, LicenseNeed, Needs, Way, plan as planned, time};
use crate::shown::{plain, visible};

/// Bases that are shown.
const SHOWN: usize = 8;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest plan                                   this machine, and the project's data
  finetest plan --gpu \"RTX 4060 16GB\" --data train.jsonl --license open
  finetest plan --memory 64GB --languages English,Russian,Japanese --deadline 8h
  finetest plan --catalogue mine.toml --json      with models of your own

Memory and time are estimates: for this CPU from a short measurement, for a GPU from its maker's figures.")]
pub(super) struct Args {
    /// Memory for a training on the CPU, such as 16GB [default: this machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// A GPU by its name, with its memory where that differs, such as "RTX 4060 16GB"
    #[arg(long, value_name = "NAME", value_parser = Gpu::named)]
    gpu: Option<Gpu>,
    /// Path to the data [default: the manifest's [data] train; without one, 1000 examples of 300 tokens are assumed]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Format of the examples: auto, messages, sharegpt, alpaca, completion or text
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = data_format)]
    data_format: DataFormat,
    /// Languages in English with commas between them [default: those of the data]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    languages: Vec<String>,
    /// What the licence has to allow
    #[arg(long, alias = "licence", value_enum, value_name = "NEED", default_value_t = Allowed::Any)]
    license: Allowed,
    /// Longest time of a training, such as 90min, 8h or 2d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<f64>,
    /// Research: the largest base that fits comes first
    #[arg(long)]
    research: bool,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    epochs: u64,
    /// Rank of the adapter, on every linear layer
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    lora_r: u64,
    /// Examples of a micro-batch [default: what fits, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    micro_batch_size: Option<u64>,
    /// Longest example in tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(8..=1_048_576))]
    sequence_len: u64,
    /// Speed of the CPU in GFLOP/s; nothing is measured then
    #[arg(long, value_name = "N", value_parser = positive)]
    gflops: Option<f64>,
    /// Path to a catalogue with models of your own
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Show every base, also those that do not fit
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output<ListFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Allowed {
    /// Anything
    Any,
    /// Products
    Commercial,
    /// Everything, without conditions on names or use
    Open,
}

#[derive(Serialize)]
struct Report<'a> {
    needs: &'a Needs,
    choices: &'a [Choice],
}

fn size(text: &str) -> Result<u64, String> {
    gigabytes(text).ok_or_else(|| "expected a size with its unit, such as 16GB".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| "expected a number above 0".to_owned())
}

/// Seconds of `90min`, `8h`, `2d`.
fn duration(text: &str) -> Result<f64, String> {
    let text = text.trim().to_lowercase();
    let units = [("min", 60.0), ("h", 3600.0), ("d", 86_400.0), ("s", 1.0)];
    let found = units.iter().find_map(|(name, unit)| Some(positive(text.strip_suffix(name)?.trim()).ok()? * unit));
    found.ok_or_else(|| "expected a time with its unit, such as 90min, 8h or 2d".to_owned())
}

pub(super) fn plan(global: &Global, args: &Args) -> Result<u8> {
    // A plan comes before a project.
    let project = global.project_if_any()?;
    args.output.check(project.as_ref())?;
    let own = project.and_then(|config| config.data).map(|data| (data.train, data.format));
    let data = args.data.clone().map(|path| (path, args.data_format)).or(own);
    let mut data = match &data {
        Some((path, format)) => {
            args.output.keep(&[("the data", path)])?;
            DataNeeds::read(path, *format, args.sequence_len)?
        }
        None => DataNeeds::assumed(),
    };
    if !args.languages.is_empty() {
        data.languages = args.languages.iter().map(|name| name.trim().to_owned()).collect();
    }
    let memory = args.memory.or_else(available).ok_or_else(|| {
        Error::Usage("this system does not say how much memory it has; give --memory, such as --memory 16GB".into())
    })?;
    let needs = Needs {
        memory,
        speed: args.gflops.map_or_else(time::speed, |gflops| Ok(gflops * 1e9))?,
        gpu: args.gpu.clone(),
        data,
        epochs: args.epochs,
        license: match args.license {
            Allowed::Any => LicenseNeed::Any,
            Allowed::Commercial => LicenseNeed::Commercial,
            Allowed::Open => LicenseNeed::Open,
        },
        deadline: args.deadline,
        research: args.research,
        rank: args.lora_r,
        micro_batch: args.micro_batch_size,
        catalogue: args.catalogue.clone(),
    };
    let choices = planned(&needs)?;
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&Report { needs: &needs, choices: &choices })?,
        ListFormat::Terminal => visible(&text(&needs, &choices, args.all)).into_owned(),
    })?;
    Ok(exit::PASS)
}

fn text(needs: &Needs, choices: &[Choice], all: bool) -> String {
    let data = &needs.data;
    let from = data.path.as_ref().map_or_else(|| "assumed".to_owned(), |path| path.display().to_string());
    let mut text = format!(
        "data     {} examples, about {} tokens, {} in a long one; {} ({from})\n",
        data.examples,
        data.tokens,
        data.length,
        if data.languages.is_empty() { "no language was found".to_owned() } else { data.languages.join(", ") }
    );
    text.push_str(&format!("CPU      {} of memory, {:.0} GFLOP/s\n", bytes(needs.memory), needs.speed / 1e9));
    if let Some(gpu) = &needs.gpu {
        text.push_str(&format!(
            "GPU      {}, {}, {:.0} TFLOP/s by its maker\n",
            gpu.name,
            bytes(gpu.memory),
            gpu.flops / 1e12
        ));
    }
    let possible = choices.iter().filter(|choice| choice.possible).count();
    if possible == 0 {
        text.push_str("\nNo base of the catalogue fits. What is in the way:\n");
    }
    let shown = if all { choices.len() } else { possible.clamp(1, SHOWN).max(if possible == 0 { SHOWN } else { 1 }) };
    for (place, choice) in choices.iter().take(shown).enumerate() {
        let sign = if choice.possible { format!("{}.", place + 1) } else { "–".to_owned() };
        text.push_str(&format!(
            "\n{sign:<3} {} ({:.2} B, {})  {}\n      {}\n",
            plain(&choice.name, 60),
            choice.parameters as f64 / 1e9,
            plain(&choice.licence, 40),
            plain(&choice.source, 100),
            choice.why
        ));
        for way in &choice.ways {
            let advised = choice.advised.as_ref() == Some(way);
            text.push_str(&format!("    {} {}\n", if advised { "→" } else { " " }, way_text(way)));
        }
    }
    let left = choices.len() - shown.min(choices.len());
    if left > 0 {
        text.push_str(&format!("\n{left} more with --all\n"));
    }
    text.push_str("\nAbout: memory within 15 % where it was measured (docs/explanation/plan-estimates.md); a GPU's time is from published figures.\n");
    text
}

fn way_text(way: &Way) -> String {
    let m = &way.memory;
    let [weights, adapter, optimizer, activations, head, rest] =
        [m.weights, m.adapter, m.optimizer, m.activations, m.head, m.rest].map(|part| part as f64 / 1e9);
    let parts = format!(
        "{} (weights {weights:.1}, adapter {adapter:.1}, optimizer {optimizer:.1}, activations {activations:.1}, head {head:.1}, rest {rest:.1})",
        bytes(m.total())
    );
    let name = format!("{} on {}", way.method, way.on);
    match way.micro_batch {
        0 => format!("{name:<20} does not fit: {parts}"),
        batch => format!(
            "{name:<20} {}, batch {batch} (at most {}), {parts}\n{:27}with {}",
            time_of(way.seconds),
            way.largest_micro_batch,
            "",
            way.with
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_need_units() {
        assert_eq!([duration("90min"), duration("8h"), duration("2d")], [Ok(5400.0), Ok(28_800.0), Ok(172_800.0)]);
        assert!(duration("8").is_err() && duration("-1h").is_err() && size("16").is_err());
    }
}
