//! PEFT's directory: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::config::PeftConfig;
use super::keys::ends;
use super::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, Module, Saved};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::model::formats::safetensors::{EncodedTensor, Read, read_tensors, write_tensors};

pub(crate) const PREFIX: &str = "base_model.model.";

/// Reads a PEFT directory.
///
/// # Errors
/// A file that is missing, corrupt or contradicts the other; a kind of adapter that is not supported, by name.
pub(crate) fn load(directory: &Path) -> Result<Adapter> {
    let config = PeftConfig::read(directory).map_err(|error| explained(directory, error))?;
    let weights = directory.join(ADAPTER_WEIGHTS);
    if !weights.exists() && directory.join("adapter_model.bin").exists() {
        let message =
            "there is only adapter_model.bin: a pickle can run code when it is read; save the adapter as safetensors";
        return Err(Error::model(directory, message));
    }
    let mut tensors = read_tensors(&weights)?;
    let saved = saved(&config, &mut tensors);
    let kept: HashSet<&str> = saved.keys().flat_map(|path| ends(path)).collect();
    if let Some(absent) = config.modules_to_save.iter().find(|name| !kept.contains(name.as_str())) {
        return Err(Error::model(&weights, format!("holds no tensor of `{absent}`, which modules_to_save names")));
    }
    let modules = modules(&weights, &config, tensors)?;
    let changes = |m: &Module| m.scale != 0.0 || m.magnitude.is_some() || m.bias.is_some();
    if saved.is_empty() && !modules.values().any(changes) {
        return Err(config.no_alpha());
    }
    Ok(Adapter {
        r: config.r,
        alpha: config.lora_alpha,
        dropout: config.lora_dropout,
        base: config.base,
        revision: config.revision,
        path: directory.to_path_buf(),
        targets: config.targets,
        modules,
        saved,
    })
}

/// What is there instead, when there is no configuration.
fn explained(directory: &Path, error: Error) -> Error {
    let missing = matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
    let config = directory.join(ADAPTER_CONFIG);
    if !missing || !directory.is_dir() || config.symlink_metadata().is_ok() {
        return error;
    }
    let hint = if ["config.json", "model.safetensors"].iter().any(|name| directory.join(name).is_file()) {
        "this is a whole model, not an adapter: name it as [model] source"
    } else {
        "expected a directory as PEFT's save_pretrained writes it, or a GGUF adapter"
    };
    Error::model(directory, format!("has no {ADAPTER_CONFIG}; {hint}"))
}

/// Takes the matrices of `modules_to_save` out of a file's tensors.
fn saved(config: &PeftConfig, tensors: &mut BTreeMap<String, Read>) -> BTreeMap<String, Saved> {
    let names: HashSet<&str> = config.modules_to_save.iter().map(String::as_str).collect();
    let path = |name: &String| Some(name.strip_prefix(PREFIX)?.strip_suffix(".weight")?.to_owned());
    let named = |path: &str| ends(path).any(|end| names.contains(end));
    let found: Vec<(String, String)> =
        tensors.keys().filter_map(|key| Some((key.clone(), path(key)?))).filter(|(_, path)| named(path)).collect();
    let take = |(key, path): (String, String)| {
        let Read { shape, values } = tensors.remove(&key)?;
        Some((path, Saved { shape, values }))
    };
    found.into_iter().filter_map(take).collect()
}

/// The tensors of a file, taken out one after another.
struct Tensors<'a> {
    path: &'a Path,
    all: BTreeMap<String, Read>,
}

impl Tensors<'_> {
    fn take(&mut self, name: &str) -> Result<Read> {
        let missing = || Error::model(self.path, format!("tensor `{name}` is missing"));
        self.all.remove(name).ok_or_else(missing)
    }

    /// A pair of `rank`: A (rank, in) and B (out, rank).
    fn pair(&mut self, module: &str, rank: usize) -> Result<(Read, Read)> {
        let a = self.take(&format!("{PREFIX}{module}.lora_A.weight"))?;
        let b = self.take(&format!("{PREFIX}{module}.lora_B.weight"))?;
        let fits = matches!((a.shape.as_slice(), b.shape.as_slice()), ([ra, _], [_, rb]) if *ra == rank && *rb == rank);
        if fits {
            return Ok((a, b));
        }
        let (got_a, got_b) = (&a.shape, &b.shape);
        let message = format!(
            "`{module}`: lora_A has shape {got_a:?} and lora_B {got_b:?}, expected rank {rank} from {ADAPTER_CONFIG}"
        );
        Err(Error::model(self.path, message))
    }
}

fn modules(path: &Path, config: &PeftConfig, tensors: BTreeMap<String, Read>) -> Result<BTreeMap<String, Module>> {
    let mut tensors = Tensors { path, all: tensors };
    let mut modules = BTreeMap::new();
    for experts in fused_paths(config, &tensors) {
        fused(&experts, config, &mut tensors, &mut modules)?;
    }
    let stem = |name: &String| Some(name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?.to_owned());
    let stems: Vec<String> = tensors.all.keys().filter_map(stem).collect();
    for module in stems {
        let rank = config.rank(&module);
        let (a, b) = tensors.pair(&module, rank)?;
        let (in_features, out_features) = (a.shape[1], b.shape[0]);
        let scale = config.scale(&module, rank);
        let vector = |read: Option<Read>, name: &str| match read {
            Some(read) if read.shape != [out_features] => {
                let got = &read.shape;
                Err(Error::model(path, format!("`{module}`: {name} has shape {got:?}, expected [{out_features}]")))
            }
            read => Ok(read.map(|read| read.values)),
        };
        let magnitude = if config.use_dora {
            Some(tensors.take(&format!("{PREFIX}{module}.lora_magnitude_vector"))?)
        } else {
            None
        };
        let magnitude = vector(magnitude, "lora_magnitude_vector")?;
        let names = ["bias", "base_layer.bias"].map(|name| format!("{PREFIX}{module}.{name}"));
        let bias = if config.bias == "none" { None } else { names.iter().find_map(|name| tensors.all.remove(name)) };
        let bias = vector(bias, "bias")?;
        let (a, b) = (a.values, b.values);
        modules.insert(module.clone(), Module { a, b, rank, in_features, out_features, scale, magnitude, bias });
    }
    if let Some(rest) = tensors.all.keys().next() {
        let whole = ["embed_tokens.weight", "lm_head.weight", "wte.weight"].iter().any(|end| rest.ends_with(end));
        if whole {
            let message = format!(
                "tensor `{rest}` is a whole embedding or head, which PEFT saves when tokens were added to the base's vocabulary; \
                 give [model] the base with those tokens, or train without new tokens"
            );
            return Err(Error::model(path, message));
        }
        let known = "expected ….lora_A.weight with ….lora_B.weight, or what `use_dora` and `bias` add to such a layer";
        return Err(Error::model(path, format!("tensor `{rest}` is not known: {known}")));
    }
    if modules.is_empty() {
        return Err(Error::model(path, "holds no LoRA tensors"));
    }
    Ok(modules)
}

/// Paths of the experts that `target_parameters` adapts: `model.layers.3.mlp.experts`.
fn fused_paths(config: &PeftConfig, tensors: &Tensors<'_>) -> BTreeSet<String> {
    let targets = config.target_parameters.iter();
    let experts: HashSet<&str> = targets.filter_map(|target| Some(target.rsplit_once('.')?.0)).collect();
    let stem = |name: &String| {
        let name = name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?;
        let name = name.strip_suffix(".base_layer").unwrap_or(name);
        ends(name).any(|end| experts.contains(end)).then(|| name.to_owned())
    };
    tensors.all.keys().filter_map(stem).collect()
}

/// (in_features, out_features, E·r) of the fused tensors A and B, where B holds `parts` layers; `None` if the shapes do not fit.
fn fused_shape([a, b]: [&Read; 2], rank: usize, parts: usize) -> Option<(usize, usize, usize)> {
    let ([stacked, in_features], [out_features, across]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return None;
    };
    let fits = stacked == across && *stacked > 0 && stacked.is_multiple_of(rank) && out_features.is_multiple_of(parts);
    fits.then_some((*in_features, *out_features, *across))
}

/// Adapters of all experts in two tensors each: with E experts and rank r, A is (E·r, in), one expert after another, and B is
/// (out, r·E), the expert's index the fastest. The first of `target_parameters` is the innermost, `base_layer`. Gate and up are
/// one parameter, and share their A.
fn fused(
    experts: &str,
    config: &PeftConfig,
    tensors: &mut Tensors<'_>,
    modules: &mut BTreeMap<String, Module>,
) -> Result<()> {
    let targets: Vec<&String> = config
        .target_parameters
        .iter()
        .filter(|t| t.rsplit_once('.').is_some_and(|(e, _)| experts.ends_with(e)))
        .collect();
    if config.use_dora || config.bias != "none" {
        return Err(Error::model(tensors.path, "target_parameters together with use_dora or bias is not supported"));
    }
    for (place, target) in targets.iter().enumerate() {
        let parameter = target.rsplit('.').next().unwrap_or_default();
        let parts: &[&str] = match parameter {
            "gate_up_proj" => &["gate_proj", "up_proj"],
            "down_proj" => &["down_proj"],
            _ => {
                let message =
                    format!("target_parameters names `{target}`, expected gate_up_proj or down_proj of experts");
                return Err(Error::model(tensors.path, message));
            }
        };
        let module = format!("{experts}{}", ".base_layer".repeat(targets.len() - 1 - place));
        let a = tensors.take(&format!("{PREFIX}{module}.lora_A.weight"))?;
        let b = tensors.take(&format!("{PREFIX}{module}.lora_B.weight"))?;
        let rank = config.rank(target);
        let (in_features, out_features, across) = fused_shape([&a, &b], rank, parts.len()).ok_or_else(|| {
            let (got_a, got_b) = (&a.shape, &b.shape);
            let message = format!(
                "`{module}`: lora_A has shape {got_a:?} and lora_B {got_b:?}, expected experts × rank {rank} from {ADAPTER_CONFIG}"
            );
            Error::model(tensors.path, message)
        })?;
        let (count, part) = (across / rank, out_features / parts.len());
        let scale = config.scale(target, rank);
        for expert in 0..count {
            let own = a.values[expert * rank * in_features..(expert + 1) * rank * in_features].to_vec();
            for (i, name) in parts.iter().enumerate() {
                let rows = i * part..(i + 1) * part;
                let at = |row: usize| (0..rank).map(move |r| row * across + r * count + expert);
                let b_own = rows.flat_map(at).map(|at| b.values[at]).collect();
                let (a, out_features) = (own.clone(), part);
                let module =
                    Module { a, b: b_own, rank, in_features, out_features, scale, magnitude: None, bias: None };
                modules.insert(format!("{experts}.{expert}.{name}"), module);
            }
        }
    }
    Ok(())
}

/// Writes a PEFT directory. Each file is replaced at once or not at all.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn save(adapter: &Adapter, directory: &Path, dtype: AdapterDtype) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    let kind = if dtype == AdapterDtype::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    let mut buffers: Vec<EncodedTensor> = Vec::new();
    for (path, m) in &adapter.modules {
        for (side, shape, values) in [("A", [m.rank, m.in_features], &m.a), ("B", [m.out_features, m.rank], &m.b)] {
            let name = format!("{PREFIX}{path}.lora_{side}.weight");
            buffers.push(EncodedTensor { name, shape: shape.to_vec(), dtype: kind, bytes: encode(values, dtype) });
        }
    }
    write_tensors(&directory.join(ADAPTER_WEIGHTS), &buffers)?;
    let config = serde_json::to_string_pretty(&config_json(adapter)).map_err(|e| Error::failed(e.to_string()))?;
    write_atomically(&directory.join(ADAPTER_CONFIG), config.as_bytes())
}

fn encode(values: &[f32], dtype: AdapterDtype) -> Vec<u8> {
    match dtype {
        AdapterDtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        AdapterDtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    }
}

fn config_json(adapter: &Adapter) -> Value {
    let mut targets: Vec<&str> = adapter.modules.keys().filter_map(|path| path.rsplit('.').next()).collect();
    targets.sort_unstable();
    targets.dedup();
    // A path of its own is a pattern too.
    let unlike = |m: &&Module| m.rank != adapter.r || m.scale != adapter.alpha / adapter.r as f64;
    let others: Vec<(&String, &Module)> = adapter.modules.iter().filter(|(_, m)| unlike(m)).collect();
    let ranks: BTreeMap<&String, usize> = others.iter().map(|(path, m)| (*path, m.rank)).collect();
    let alphas: BTreeMap<&String, Value> =
        others.iter().map(|(path, m)| (*path, number(m.scale * m.rank as f64))).collect();
    json!({
        "base_model_name_or_path": adapter.base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": number(adapter.alpha),
        "lora_dropout": adapter.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": adapter.r,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    })
}

/// 16 rather than 16.0, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
