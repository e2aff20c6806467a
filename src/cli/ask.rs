//! `finetest ask "PROMPT"`.

use std::io::Read;

use super::json;
use super::options::{Global, ListFormat, Output, Subject, Train};
use crate::error::{Error, Result, exit};
use crate::project::{self, Question};
use crate::record::Sampling;
use crate::report;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest ask \"What is the capital of France?\"
  finetest ask --model hf:Qwen/Qwen2.5-0.5B-Instruct --adapter out/ \"My invoice is wrong.\"
  finetest ask - < question.txt")]
pub(super) struct Args {
    /// The question, or - to read it from stdin
    #[arg(value_name = "PROMPT")]
    prompt: String,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Maximum number of new tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_tokens: u32,
    /// Text that ends an answer; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Sampling temperature; 0 is greedy decoding
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature")]
    seed: u32,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    train: Train,
    #[command(flatten)]
    output: Output<ListFormat>,
}

/// Bytes of a question on stdin.
const LONGEST: u64 = 16 << 20;

pub(super) fn ask(global: &Global, args: &Args) -> Result<u8> {
    if !(args.temperature.is_finite() && (0.0..=100.0).contains(&args.temperature)) {
        return Err(Error::Usage(format!("--temperature is {}, expected 0 to 100", args.temperature)));
    }
    if args.stop.iter().any(String::is_empty) {
        return Err(Error::Usage("--stop is empty, which would end every answer at once".into()));
    }
    let prompt = if args.prompt == "-" { stdin()? } else { args.prompt.clone() };
    let question = Question {
        prompt,
        system: args.system.clone(),
        raw: args.raw,
        max_tokens: args.max_tokens as usize,
        stop: args.stop.clone(),
        sampling: Sampling { temperature: args.temperature, seed: args.seed.into(), ..Sampling::default() },
    };
    let config = args.subject.project(global)?;
    args.output.check(Some(&config))?;
    let mut display = global.display().without_verdicts();
    let run = project::ask(&config, &question, args.train.policy()?, &mut |event| display.show(&event));
    display.end()?;
    let run = run?;
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&report::Answers::of(&run))?,
        ListFormat::Terminal => report::answers(&run, args.output.style(global)),
    })?;
    Ok(if run.errors.is_empty() { exit::PASS } else { exit::ERROR })
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text);
    read.map_err(Error::io("stdin".as_ref(), "read"))?;
    if text.len() as u64 > LONGEST {
        return Err(Error::Usage(format!("the question on stdin is larger than {LONGEST} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
