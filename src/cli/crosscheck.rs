//! `finetest crosscheck`.

use super::json;
use super::options::{Global, ListFormat, Output, Train, backends};
use crate::compare::crosscheck::Limits;
use crate::config::BackendName;
use crate::error::{Error, Result, exit};
use crate::{project, report};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Backend to compare with candle: llama-cpp, or remote for the server of the project [default: remote where the manifest has it,
    /// else llama-cpp]
    #[arg(long, value_name = "NAME", value_parser = backends(), conflicts_with = "exact")]
    against: Option<BackendName>,
    /// Run llama.cpp with f32 weights and activations, so that rounding to 8 bits is no difference
    #[arg(long)]
    exact: bool,
    /// Minimum top-1 agreement per arm, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    min_same_top1: f64,
    /// Maximum mean KL divergence per arm, in nats/token [default: no limit]
    #[arg(long, value_name = "NATS")]
    max_kl: Option<f64>,
    /// Maximum number of cases per arm whose verdict differs between the backends
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_flips: usize,
    /// Maximum number of tokenizer tests that may differ
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_texts: usize,
    #[command(flatten)]
    train: Train,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn crosscheck(global: &Global, args: &Args) -> Result<u8> {
    if !(0.0..=1.0).contains(&args.min_same_top1) {
        return Err(Error::Usage(format!("--min-same-top1 is {}, expected 0 to 1", args.min_same_top1)));
    }
    if let Some(most) = args.max_kl.filter(|most| most.is_nan() || *most < 0.0) {
        return Err(Error::Usage(format!("--max-kl is {most}, expected 0 or more")));
    }
    let config = global.project()?;
    args.output.check(Some(&config))?;
    let other = other(args, config.backend)?;
    let mut display = global.display();
    let Args { min_same_top1, max_kl, max_flips, max_texts, .. } = *args;
    let limits = Limits { min_same_top1, max_kl, max_flips, max_texts };
    let check = project::crosscheck(&config, other, args.train.policy()?, limits, &mut |event| display.show(&event));
    display.finish();
    let check = check?;
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&check)?,
        ListFormat::Terminal => report::crosscheck(&check, args.output.style(global)),
    })?;
    Ok(match &check {
        check if !check.errors.is_empty() => exit::ERROR,
        check if check.passed => exit::PASS,
        _ => exit::GATE_FAILED,
    })
}

/// What candle is compared with, when this program has it.
fn other(args: &Args, of_project: BackendName) -> Result<BackendName> {
    let name = match (args.against, of_project) {
        (Some(BackendName::Candle), _) => {
            return Err(Error::Usage(
                "--against is candle, which is the reference; expected llama-cpp or remote".into(),
            ));
        }
        (Some(name), _) => name,
        (None, BackendName::Remote) if !args.exact => BackendName::Remote,
        (None, _) if args.exact => BackendName::LlamaCppF32,
        (None, _) => BackendName::LlamaCpp,
    };
    BackendName::parse(name.as_str()).map_err(|why| Error::Usage(format!("the other backend is {why}")))
}
