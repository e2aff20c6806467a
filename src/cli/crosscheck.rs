//! `finetest crosscheck`.

use super::Global;
#[cfg(feature = "llama-cpp")]
use super::{config, json, print, progress::Display, style};
#[cfg(feature = "llama-cpp")]
use crate::compare::crosscheck::Limits;
#[cfg(feature = "llama-cpp")]
use crate::config::BackendName;
use crate::error::{Error, Result};
#[cfg(feature = "llama-cpp")]
use crate::{
    error::exit,
    project::{self, TrainPolicy},
    report,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run llama.cpp on the weights in f32, as candle computes with a small model: what then differs is not the rounding of
    /// activations to 8 bits
    #[arg(long)]
    exact: bool,
    /// Least share of positions at which both find the same token likeliest, of each arm
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    min_same_top1: f64,
    /// Most of the mean KL divergence of each arm, in nats/token; none unless given
    #[arg(long, value_name = "NATS")]
    max_kl: Option<f64>,
    /// Most cases of an arm whose verdict differs between the backends
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_flips: usize,
    /// Most of the texts that are hard to tokenise which the backends may cut into other tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_texts: usize,
}

#[cfg(feature = "llama-cpp")]
pub(super) fn crosscheck(global: &Global, args: &Args) -> Result<u8> {
    if !(0.0..=1.0).contains(&args.min_same_top1) {
        return Err(Error::Usage(format!("--min-same-top1 is {}, expected 0 to 1", args.min_same_top1)));
    }
    if let Some(most) = args.max_kl.filter(|most| most.is_nan() || *most < 0.0) {
        return Err(Error::Usage(format!("--max-kl is {most}, expected 0 or more")));
    }
    let config = config(global)?;
    let mut display = Display::new(global.quiet);
    let other = if args.exact { BackendName::LlamaCppF32 } else { BackendName::LlamaCpp };
    let Args { min_same_top1, max_kl, max_flips, max_texts, .. } = *args;
    let limits = Limits { min_same_top1, max_kl, max_flips, max_texts };
    let check =
        project::crosscheck(&config, other, TrainPolicy::from_env()?, limits, &mut |event| display.show(&event));
    display.finish();
    let check = check?;
    print(&if global.json { json(&check)? } else { report::crosscheck(&check, style()) })?;
    Ok(match &check {
        check if !check.errors.is_empty() => exit::ERROR,
        check if check.passed => exit::PASS,
        _ => exit::GATE_FAILED,
    })
}

/// There is nothing to compare candle with.
#[cfg(not(feature = "llama-cpp"))]
pub(super) fn crosscheck(_: &Global, args: &Args) -> Result<u8> {
    let _ = (args.exact, args.min_same_top1, args.max_kl, args.max_flips, args.max_texts);
    let why = crate::config::BackendName::parse("llama-cpp").err().unwrap_or_default();
    Err(Error::Usage(format!("the other backend is {why}")))
}
