//! `finetest calibrate`.

use super::json;
use super::options::{Global, ListFormat, Output, Subject};
use super::print;
use crate::error::{Result, exit};
use crate::project::{self, CalibrateOptions, Calibration, LEAST_NULLS};
use crate::shown::visible;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest calibrate --model hf:Qwen/Qwen2.5-0.5B-Instruct
  finetest calibrate --pack facts --pack constraints
  finetest calibrate --adapter out --dry-run        null adapters as large as this one

It writes scenarios/pack-NAME.toml, without the questions that the base can neither lose nor win, and adds [gate] to a manifest without one.")]
pub(super) struct Args {
    /// Pack of control cases; may be given several times [default: all that the base can be asked]
    #[arg(long, value_name = "NAME")]
    pack: Vec<String>,
    /// Number of null adapters, random ones that jitter is measured with
    #[arg(long, value_name = "N", default_value_t = LEAST_NULLS)]
    nulls: usize,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn calibrate(global: &Global, args: &Args) -> Result<u8> {
    let config = args.subject.project(global)?;
    args.output.check(Some(&config))?;
    let options = CalibrateOptions { packs: args.pack.clone(), nulls: args.nulls, write: !args.dry_run };
    let mut display = global.display().without_verdicts();
    let found = project::calibrate(&config, &options, &mut |event| display.show(&event));
    display.end()?;
    let found = found?;
    match args.output.format() {
        ListFormat::Json => args.output.print(&json(&found)?)?,
        ListFormat::Terminal => print(&text(&found))?,
    }
    Ok(exit::PASS)
}

fn text(found: &Calibration) -> String {
    let mut text = format!("{}\n\n", visible(&found.base));
    let width = found.packs.iter().map(|pack| pack.name.len()).max().unwrap_or(0).max(4);
    text.push_str(&format!("{:<width$}  questions  passed  partly  dead\n", "pack"));
    for pack in &found.packs {
        let (name, dead) = (&pack.name, pack.dead.len());
        text.push_str(&format!(
            "{name:<width$}  {:>9}  {:>6}  {:>6}  {dead:>4}\n",
            pack.questions, pack.passed, pack.partly
        ));
    }
    for pack in found.packs.iter().filter(|pack| !pack.dead.is_empty()) {
        text.push_str(&format!("dead in {}: {}\n", pack.name, pack.dead.join(", ")));
    }
    let jitter = &found.jitter;
    text.push('\n');
    if let Some(share) = found.rephrasing {
        text.push_str(&format!(
            "rephrasing   base fails {:.1} % of the other wordings of what it passes\n",
            100.0 * share
        ));
    }
    // Adding 0 makes −0 be 0.
    let range = |values: [f64; 3]| {
        let [least, mean, most] = values.map(|value| (value * 1e3).round() / 1e3 + 0.0);
        format!("{least:.3} to {most:.3}, mean {mean:.3}")
    };
    text.push_str(&format!("nulls        {} random adapters with {}\n", jitter.nulls, visible(&jitter.like)));
    text.push_str(&format!("drift        {} nats/token\n", range(jitter.drift)));
    text.push_str(&format!("choice loss  {} nats\n", range(jitter.choice_loss)));
    text.push_str(&format!("net loss     {} of right choices\n\n", range(jitter.net_loss)));
    text.push_str(&found.gate.join("\n"));
    text.push_str("\n\n");
    for file in &found.written.files {
        text.push_str(&format!("written  {}\n", visible(file)));
    }
    if !found.written.gate {
        text.push_str("The manifest's own [gate] is as it was: paste these lines where you want them.\n");
    }
    text
}
