//! PEFT's directory: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Adapter, Module, Saved};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// File of an adapter's hyper-parameters.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// File of its tensors.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
pub(crate) const PREFIX: &str = "base_model.model.";

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
    use_dora: bool,
    #[serde(default = "none")]
    bias: String,
    target_parameters: Option<Vec<String>>,
    modules_to_save: Option<Vec<String>>,
    #[serde(default, deserialize_with = "or_default")]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default, deserialize_with = "or_default")]
    alpha_pattern: BTreeMap<String, f64>,
}

impl PeftConfig {
    /// alpha/r, or alpha/√r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
    fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let alpha = pattern(&self.alpha_pattern, module)?.unwrap_or(self.lora_alpha);
        Ok(if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
    }
}

fn none() -> String {
    "none".into()
}

/// `null` is what is not there.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// Keys of `adapter_config.json` that change what the tensors mean and that are not supported; an adapter is refused when one of
/// them is set.
const REFUSED: [&str; 10] = [
    "ensure_weight_tying",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "lora_bias",
    "use_bdlora",
    "use_qalora",
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

/// Ways to begin that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, …) change the base's weights too, and the
/// adapter is for that changed base alone.
const STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// Says no to an adapter of a changed base, or of another task than continuing a text.
fn check_start(path: &Path, raw: &Value) -> Result<()> {
    match raw.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(start)) if STARTS.contains(&start.as_str()) => {}
        Some(other) => {
            let message = format!(
                "init_lora_weights is {other}, which changes the base's own weights: the adapter is not for the base as it is; \
                 save it with PEFT's path_initial_model_for_weight_conversion first"
            );
            return Err(Error::input(path, None, message));
        }
    }
    match raw.get("task_type") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(task)) if task == "CAUSAL_LM" => Ok(()),
        Some(other) => Err(Error::input(path, None, format!("task_type is {other}, expected CAUSAL_LM"))),
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
    check_start(&path, &raw)?;
    let config: PeftConfig = serde_json::from_value(raw).map_err(|e| Error::input(&path, None, e.to_string()))?;
    if config.peft_type != "LORA" {
        return Err(Error::input(&path, None, format!("peft_type is {}, expected LORA", config.peft_type)));
    }
    if !["none", "all", "lora_only"].contains(&config.bias.as_str()) {
        let bias = &config.bias;
        return Err(Error::input(
            &path,
            None,
            format!("bias is {bias:?}, expected \"none\", \"all\" or \"lora_only\""),
        ));
    }
    if config.r == 0 || config.rank_pattern.values().any(|rank| *rank == 0) {
        return Err(Error::input(&path, None, "r is 0, expected at least 1"));
    }
    let weights = directory.join(ADAPTER_WEIGHTS);
    if !weights.exists() && directory.join("adapter_model.bin").exists() {
        let message =
            "there is only adapter_model.bin: a pickle can run code when it is read; save the adapter as safetensors";
        return Err(Error::model(directory, message));
    }
    let mut tensors = read_tensors(&weights)?;
    let saved = saved(&config, &mut tensors);
    let kept = |name: &String| saved.keys().any(|path| path == name || path.ends_with(&format!(".{name}")));
    if let Some(absent) = config.modules_to_save.iter().flatten().find(|name| !kept(name)) {
        return Err(Error::model(&weights, format!("holds no tensor of `{absent}`, which modules_to_save names")));
    }
    let modules = modules(&weights, &config, tensors)?;
    let base = config.base_model_name_or_path.unwrap_or_default();
    Ok(Adapter { r: config.r, alpha: config.lora_alpha, dropout: config.lora_dropout, base, modules, saved })
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

/// Takes the matrices of `modules_to_save` out of a file's tensors.
fn saved(config: &PeftConfig, tensors: &mut BTreeMap<String, Read>) -> BTreeMap<String, Saved> {
    let names = config.modules_to_save.iter().flatten();
    let path = |name: &String| Some(name.strip_prefix(PREFIX)?.strip_suffix(".weight")?.to_owned());
    let named = |path: &str| names.clone().any(|name| path == name || path.ends_with(&format!(".{name}")));
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
        let rank = pattern(&config.rank_pattern, &module)?.unwrap_or(config.r);
        let (a, b) = tensors.pair(&module, rank)?;
        let (inside, outside) = (a.shape[1], b.shape[0]);
        let scale = config.scale(&module, rank)?;
        let vector = |read: Option<Read>, name: &str| match read {
            Some(read) if read.shape != [outside] => {
                let got = &read.shape;
                Err(Error::model(path, format!("`{module}`: {name} has shape {got:?}, expected [{outside}]")))
            }
            read => Ok(read.map(|read| read.values)),
        };
        let magnitude = match config.use_dora {
            true => Some(tensors.take(&format!("{PREFIX}{module}.lora_magnitude_vector"))?),
            false => None,
        };
        let magnitude = vector(magnitude, "lora_magnitude_vector")?;
        let names = ["bias", "base_layer.bias"].map(|name| format!("{PREFIX}{module}.{name}"));
        let bias = if config.bias == "none" { None } else { names.iter().find_map(|name| tensors.all.remove(name)) };
        let bias = vector(bias, "bias")?;
        let (a, b) = (a.values, b.values);
        modules.insert(module.clone(), Module { a, b, rank, inside, outside, scale, magnitude, bias });
    }
    if let Some(rest) = tensors.all.keys().next() {
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
    let targets = config.target_parameters.iter().flatten();
    let ends: BTreeSet<&str> = targets.filter_map(|target| Some(target.rsplit_once('.')?.0)).collect();
    let stem = |name: &String| {
        let name = name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?;
        let name = name.strip_suffix(".base_layer").unwrap_or(name);
        ends.iter().any(|end| name == *end || name.ends_with(&format!(".{end}"))).then(|| name.to_owned())
    };
    tensors.all.keys().filter_map(stem).collect()
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
        .flatten()
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
        let rank = pattern(&config.rank_pattern, target)?.unwrap_or(config.r);
        let ([stacked, inside], [outside, across]) = (a.shape.as_slice(), b.shape.as_slice()) else {
            return Err(Error::model(tensors.path, format!("`{module}`: its tensors have not two dimensions")));
        };
        if stacked != across || !stacked.is_multiple_of(rank) || !outside.is_multiple_of(parts.len()) || *stacked == 0 {
            let (got_a, got_b) = (&a.shape, &b.shape);
            let message = format!(
                "`{module}`: lora_A has shape {got_a:?} and lora_B {got_b:?}, expected experts × rank {rank} from {ADAPTER_CONFIG}"
            );
            return Err(Error::model(tensors.path, message));
        }
        let (count, part) = (stacked / rank, outside / parts.len());
        let scale = config.scale(target, rank)?;
        for expert in 0..count {
            let own = a.values[expert * rank * inside..(expert + 1) * rank * inside].to_vec();
            for (i, name) in parts.iter().enumerate() {
                let rows = i * part..(i + 1) * part;
                let at = |row: usize| (0..rank).map(move |r| row * across + r * count + expert);
                let b_own = rows.flat_map(at).map(|at| b.values[at]).collect();
                let (inside, outside) = (*inside, part);
                let module =
                    Module { a: own.clone(), b: b_own, rank, inside, outside, scale, magnitude: None, bias: None };
                modules.insert(format!("{experts}.{expert}.{name}"), module);
            }
        }
    }
    Ok(())
}

/// PEFT's patterns: a key is a regular expression for a module's path or its end after a dot.
fn pattern<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Result<Option<T>> {
    for (key, value) in patterns {
        let whole = regex::RegexBuilder::new(&format!("^(?:.*\\.)?(?:{key})$")).size_limit(1 << 20).build();
        let whole =
            whole.map_err(|_| Error::failed(format!("the adapter's pattern {key:?} is not a regular expression")))?;
        if whole.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Writes a PEFT directory. Each file is replaced at once or not at all.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn save(adapter: &Adapter, directory: &Path, dtype: AdapterDtype) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    let kind = if dtype == AdapterDtype::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    let mut buffers: Vec<Stored> = Vec::new();
    for (path, m) in &adapter.modules {
        buffers.push((format!("{PREFIX}{path}.lora_A.weight"), vec![m.rank, m.inside], kind, encode(&m.a, dtype)));
        buffers.push((format!("{PREFIX}{path}.lora_B.weight"), vec![m.outside, m.rank], kind, encode(&m.b, dtype)));
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

/// A tensor's name, shape, type and bytes.
pub(crate) type Stored = (String, Vec<usize>, Dtype, Vec<u8>);

/// Writes tensors as safetensors, at once or not at all.
pub(crate) fn write_tensors(path: &Path, tensors: &[Stored]) -> Result<()> {
    let views = tensors.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| Error::failed(format!("{name}: {e}")))?;
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
