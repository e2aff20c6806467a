//! PEFT's directory: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Adapter, Module};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// File of an adapter's hyper-parameters.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// File of its tensors.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: HashMap<String, usize>,
    #[serde(default)]
    alpha_pattern: HashMap<String, f64>,
}

/// Keys of `adapter_config.json` that change what the tensors mean and that are not supported; an adapter is refused when one of
/// them is set.
const REFUSED: [&str; 13] = [
    "use_dora",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "lora_bias",
    "use_bdlora",
    "use_qalora",
    "fan_in_fan_out",
    "kasa_config",
    "monteclora_config",
];

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Reads a PEFT directory.
///
/// # Errors
/// A file that is missing, corrupt or contradicts the other; a kind of adapter that is not supported, by name.
pub(crate) fn load(directory: &Path) -> Result<Adapter> {
    let path = directory.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    let raw: Value = serde_json::from_str(&text).map_err(|e| Error::input(&path, e.line(), e.to_string()))?;
    if let Some(key) = REFUSED.iter().find(|key| raw.get(**key).is_some_and(is_set)) {
        return Err(Error::input(&path, None, format!("{key} is set, and is not supported")));
    }
    if let Some(bias) = raw.get("bias").and_then(Value::as_str).filter(|b| *b != "none") {
        return Err(Error::input(&path, None, format!("bias is \"{bias}\", expected \"none\"")));
    }
    let config: PeftConfig = serde_json::from_value(raw).map_err(|e| Error::input(&path, None, e.to_string()))?;
    if config.peft_type != "LORA" {
        return Err(Error::input(&path, None, format!("peft_type is {}, expected LORA", config.peft_type)));
    }
    if config.r == 0 {
        return Err(Error::input(&path, None, "r is 0, expected at least 1"));
    }
    let weights = directory.join(ADAPTER_WEIGHTS);
    if !weights.exists() && directory.join("adapter_model.bin").exists() {
        let message =
            "there is only adapter_model.bin: a pickle can run code when it is read; save the adapter as safetensors";
        return Err(Error::model(directory, message));
    }
    let modules = modules(&weights, &config, read_tensors(&weights)?)?;
    let base = config.base_model_name_or_path.unwrap_or_default();
    Ok(Adapter { r: config.r, alpha: config.lora_alpha, dropout: config.lora_dropout, base, modules })
}

/// A tensor read from a safetensors file.
pub(crate) struct Read {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// All tensors of a safetensors file, widened to f32.
///
/// # Errors
/// It is missing, truncated or corrupt, holds NaN, or numbers that are not f32, f16 or bf16.
pub(crate) fn read_tensors(path: &Path) -> Result<BTreeMap<String, Read>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::model(path, format!("not a safetensors file, truncated or corrupt: {e}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                return Err(Error::model(path, format!("tensor `{name}` holds {other:?}, expected F32, F16 or BF16")));
            }
        };
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::model(path, format!("tensor `{name}` holds NaN or infinite values")));
        }
        tensors.insert(name.to_owned(), Read { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

fn modules(path: &Path, config: &PeftConfig, mut tensors: BTreeMap<String, Read>) -> Result<BTreeMap<String, Module>> {
    let names: Vec<String> = tensors.keys().cloned().collect();
    let mut modules = BTreeMap::new();
    for name in names {
        let Some(module) = name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(".lora_A.weight")) else {
            if name.ends_with(".lora_B.weight") {
                continue;
            }
            return Err(Error::model(
                path,
                format!("tensor `{name}` is not known: expected {PREFIX}….lora_A.weight or .lora_B.weight"),
            ));
        };
        let b_name = format!("{PREFIX}{module}.lora_B.weight");
        let (Some(a), Some(b)) = (tensors.remove(&name), tensors.remove(&b_name)) else {
            return Err(Error::model(path, format!("tensor `{b_name}` is missing")));
        };
        let rank = pattern(&config.rank_pattern, module).unwrap_or(config.r);
        let ([a_rank, inside], [outside, b_rank]) = (a.shape.as_slice(), b.shape.as_slice()) else {
            return Err(Error::model(
                path,
                format!("tensor `{name}` has shape {:?}, expected two dimensions", a.shape),
            ));
        };
        if *a_rank != rank || *b_rank != rank {
            let (got_a, got_b) = (&a.shape, &b.shape);
            let message = format!(
                "`{module}`: lora_A has shape {got_a:?} and lora_B {got_b:?}, expected rank {rank} from {ADAPTER_CONFIG}"
            );
            return Err(Error::model(path, message));
        }
        let alpha = pattern(&config.alpha_pattern, module).unwrap_or(config.lora_alpha);
        let scale = if config.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 };
        let (inside, outside) = (*inside, *outside);
        modules.insert(module.to_owned(), Module { a: a.values, b: b.values, rank, inside, outside, scale });
    }
    if let Some(orphan) = tensors.keys().next() {
        return Err(Error::model(path, format!("tensor `{orphan}` has no lora_A beside it")));
    }
    if modules.is_empty() {
        return Err(Error::model(path, "holds no LoRA tensors"));
    }
    Ok(modules)
}

/// PEFT's patterns: a key is a module's path or the end of it.
fn pattern<T: Copy>(patterns: &HashMap<String, T>, module: &str) -> Option<T> {
    let fits = |key: &str| module == key || module.strip_suffix(key).is_some_and(|rest| rest.ends_with('.'));
    patterns.iter().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len()).map(|(_, value)| *value)
}

/// Writes a PEFT directory. Each file is replaced at once or not at all.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn save(adapter: &Adapter, directory: &Path, dtype: AdapterDtype) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    let mut buffers: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (path, m) in &adapter.modules {
        buffers.push((format!("{PREFIX}{path}.lora_A.weight"), vec![m.rank, m.inside], encode(&m.a, dtype)));
        buffers.push((format!("{PREFIX}{path}.lora_B.weight"), vec![m.outside, m.rank], encode(&m.b, dtype)));
    }
    let kind = if dtype == AdapterDtype::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    write_tensors(&directory.join(ADAPTER_WEIGHTS), kind, &buffers)?;
    let config = serde_json::to_string_pretty(&config_json(adapter)).map_err(|e| Error::failed(e.to_string()))?;
    write_atomically(&directory.join(ADAPTER_CONFIG), config.as_bytes())
}

fn encode(values: &[f32], dtype: AdapterDtype) -> Vec<u8> {
    match dtype {
        AdapterDtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        AdapterDtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    }
}

/// Writes tensors of one kind as safetensors, at once or not at all.
pub(crate) fn write_tensors(path: &Path, kind: Dtype, tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Result<()> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(kind, shape.clone(), bytes).map_err(|e| Error::failed(format!("{name}: {e}")))?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::failed(e.to_string()))?;
    write_atomically(path, &bytes)
}

fn config_json(adapter: &Adapter) -> Value {
    let mut targets: Vec<&str> = adapter.modules.keys().filter_map(|path| path.rsplit('.').next()).collect();
    targets.sort_unstable();
    targets.dedup();
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
        "rank_pattern": {},
        "alpha_pattern": {},
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
