//! How long it takes: products that are needed, over how many a second.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use super::hardware::Gpu;
use crate::error::{Error, Result};
use crate::model::{DecoderSpec, Sizes};

/// How fast prompts are computed, as a share of [`speed`]: measured on the example project.
pub(crate) const READING: f64 = 0.9;
/// How fast answers are decoded in batches, as a share of it.
pub(crate) const DECODING: f64 = 0.35;
/// Products of a training step for each of reading: forward, and backward through the base to the inputs.
pub(crate) const TRAINING: f64 = 2.0;
/// Share of an example's tokens that are learnt, where it is not known: an answer is about a quarter of it.
const LEARNT: f64 = 0.25;
/// Tokens that take as long as what each micro-batch costs whatever its length: weights become f32 once, the adapter and its gradients are
/// copied. From the runs of `docs/explanation/plan-estimates.md`.
const OVERHEAD: f64 = 64.0;
/// Factor on the time of a step when gradient checkpointing computes its blocks again.
const AGAIN: f64 = 1.5;
/// How long the speed is measured.
const MEASURED: Duration = Duration::from_millis(250);
/// Share of a GPU's published speed that trainers reach: 30 to 50 % are reported for dense models of these sizes.
const REACHED: f64 = 0.35;
/// How much longer a step on NF4 weights takes, by QLoRA's authors and users.
const NF4: f64 = 1.3;

/// Multiplications and additions a second, of a product of the size that a small model has.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn speed() -> Result<f64> {
    let (rows, inner, cols) = (256, 1024, 1024);
    let fail = |error: candle_core::Error| Error::failed(error.to_string());
    let a = Tensor::ones((rows, inner), DType::F32, &Device::Cpu).map_err(fail)?;
    let b = Tensor::ones((inner, cols), DType::F32, &Device::Cpu).map_err(fail)?;
    let (mut best, mut tries, began) = (f64::MAX, 0, Instant::now());
    // Long enough for the threads to be awake and for a neighbour to be away.
    while tries < 5 || began.elapsed() < MEASURED {
        tries += 1;
        let started = Instant::now();
        a.matmul(&b).map_err(fail)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(2.0 * (rows * inner * cols) as f64 / best.max(1e-9))
}

/// What a training computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Tokens of all steps.
    pub(crate) tokens: f64,
    /// Micro-batches of all steps.
    pub(crate) batches: f64,
}

/// Seconds to train here. No product is made with the embedding, and with the head only where a token is learnt.
pub(crate) fn here(spec: &DecoderSpec, amount: Amount, checkpointing: bool, speed: f64) -> f64 {
    let again = if checkpointing { AGAIN } else { 1.0 };
    let table = spec.vocab_size as f64 * spec.hidden_size as f64;
    let tables = if spec.tied_head { 1.0 } else { 2.0 };
    let blocks = (Sizes::of(spec).active_parameters as f64 - tables * table).max(0.0);
    let tokens = amount.tokens + OVERHEAD * amount.batches;
    2.0 * (blocks * again + LEARNT * table) * TRAINING * tokens / READING / speed
}

/// Seconds to train on so many tokens on a GPU, with blocks computed again.
pub(super) fn on_gpu(active: u64, tokens: f64, quantised: bool, gpu: &Gpu) -> f64 {
    let slower = if quantised { NF4 } else { 1.0 };
    2.0 * active as f64 * TRAINING * AGAIN * tokens * slower / (REACHED * gpu.flops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_grows_with_the_work_and_falls_with_the_speed() {
        assert!(speed().expect("memory") > 1e6);
        let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/config.json");
        let spec = DecoderSpec::from_config(&config).expect("a model");
        let amount = |tokens, batches| Amount { tokens, batches };
        let one = here(&spec, amount(1000.0, 5.0), false, 1e9);
        assert!((here(&spec, amount(2000.0, 10.0), false, 2e9) - one).abs() < 1e-9);
        assert!((here(&spec, amount(1320.0, 0.0), false, 1e9) - one).abs() < 1e-9);
        assert!((1.2..1.5).contains(&(here(&spec, amount(1000.0, 5.0), true, 1e9) / one)));
        let gpu = Gpu::named("A100").expect("a GPU");
        // Six operations for each of 8e9 weights and a million tokens, at 35 % of 312 TFLOP/s.
        let seconds = on_gpu(8_000_000_000, 1e6, false, &gpu);
        assert!((400.0..480.0).contains(&seconds), "{seconds}");
        assert!(on_gpu(8_000_000_000, 1e6, true, &gpu) > seconds);
    }
}
