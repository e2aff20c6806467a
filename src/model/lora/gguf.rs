//! llama.cpp's form: a GGUF file of A and B by GGUF's names, in GGUF's order of rows, all experts of a layer together. Written and
//! read by the same tables.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::{Adapter, Module};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::model::architecture::outline::Outline;
use crate::model::decoder::weights::Weights;
use crate::model::formats::gguf::Header;
use crate::model::formats::mapped::map_file;
use crate::model::formats::{IS_LFS_POINTER, LFS_POINTER};
use crate::model::ops::low_rank::{LoraPair, LowRank};

/// What llama.cpp divides by the rank when we wrote the file; B holds the rest of a layer's scale.
pub(crate) const ALPHA: f32 = 16.0;
const KIND: &str = "general.type";
const ARCHITECTURE: &str = "general.architecture";
const METHOD: &str = "adapter.type";
const LORA_ALPHA: &str = "adapter.lora.alpha";
/// The first of the models that it was made from.
const BASE: &str = "general.base_model.0.name";
/// Where that lies, on the hub as a rule.
const BASE_URL: &str = "general.base_model.0.repo_url";
const HUB: &str = "https://huggingface.co/";
/// Tokens that switch an adapter on in the middle of a text.
const INVOCATION: &str = "adapter.alora.invocation_tokens";

/// Is this path a GGUF adapter's, and not a PEFT directory's? Any file is: some programs keep theirs without an ending.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.is_file() || (!path.is_dir() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
}

/// What llama.cpp wants to know of an adapter.
pub(crate) fn metadata(outline: &Outline, alpha: f32) -> [(&'static str, Value); 4] {
    let text = |value: &str| Value::String(value.to_owned());
    [
        (ARCHITECTURE, text(&outline.architecture)),
        (KIND, text("adapter")),
        (METHOD, text("lora")),
        (LORA_ALPHA, Value::F32(alpha)),
    ]
}

/// Refuses what llama.cpp's form has no place for.
pub(crate) fn cannot_hold(directory: &Path, what: &str) -> Error {
    let message =
        format!("the adapter has {what}, which llama.cpp's adapters cannot hold; export --format merged-gguf");
    Error::model(directory, message)
}

/// A and B of every layer for a file whose alpha is [`ALPHA`]; `directory` is the adapter's, for messages.
///
/// # Errors
/// A layer that has no name in GGUF; experts of one layer with unequal ranks.
pub(crate) fn tensors(tuned: &LowRank, outline: &Outline, directory: &Path) -> Result<Vec<(String, QTensor)>> {
    let named = |path: &str| {
        let unnamed = || Error::model(directory, format!("`{path}` has no name in GGUF"));
        outline.gguf(path).map(|name| format!("{name}.weight")).ok_or_else(unnamed)
    };
    let f32s = |tensor: &Tensor| QTensor::quantize(&tensor.contiguous()?, GgmlDType::F32);
    let scaled = |pair: &LoraPair| -> Result<Tensor> {
        let factor = pair.scale * pair.a.dim(0)? as f64 / f64::from(ALPHA);
        Ok((&pair.b * factor)?)
    };
    let mut tensors = Vec::new();
    let mut experts: BTreeMap<String, BTreeMap<usize, &LoraPair>> = BTreeMap::new();
    for (path, pair) in &tuned.pairs {
        let name = named(path)?;
        if let Some(expert) = outline.expert(path) {
            experts.entry(name).or_default().insert(expert, pair);
            continue;
        }
        let b = scaled(pair)?;
        let b = match outline.order(path, b.dim(0)?) {
            None => b,
            Some(order) => {
                let mut back = vec![0u32; order.len()];
                order.iter().enumerate().for_each(|(row, at)| back[*at] = row as u32);
                b.index_select(&Tensor::new(back, &Device::Cpu)?, 0)?
            }
        };
        tensors.push((format!("{name}.lora_a"), f32s(&pair.a)?));
        tensors.push((format!("{name}.lora_b"), f32s(&b)?));
    }
    for (name, pairs) in experts {
        let count = outline.experts;
        let Some(first) = pairs.values().next() else { continue };
        if pairs.values().any(|pair| pair.a.shape() != first.a.shape()) {
            return Err(cannot_hold(directory, "experts of unequal rank"));
        }
        let (zero_a, zero_b) = (first.a.zeros_like()?, first.b.zeros_like()?);
        let a: Vec<Tensor> = (0..count).map(|e| pairs.get(&e).map_or(&zero_a, |p| &p.a).clone()).collect();
        let b = (0..count).map(|e| pairs.get(&e).map_or(Ok(zero_b.clone()), |p| scaled(p)));
        tensors.push((format!("{name}.lora_a"), f32s(&Tensor::stack(&a, 0)?)?));
        tensors.push((format!("{name}.lora_b"), f32s(&Tensor::stack(&b.collect::<Result<Vec<_>>>()?, 0)?)?));
    }
    Ok(tensors)
}

/// Reads a GGUF adapter for `base`: by Hugging Face's names, in its order of rows, an expert at a time, in f32.
///
/// # Errors
/// A file that is truncated or corrupt, is no LoRA adapter, was made for another architecture, lacks half of a pair, or holds a
/// tensor that fits no layer of the base or is not finite.
pub(super) fn load(path: &Path, base: &Outline) -> Result<Adapter> {
    open_regular(path)?;
    let map = map_file(path)?;
    if !map.starts_with(b"GGUF") {
        let message = if map.starts_with(LFS_POINTER) {
            IS_LFS_POINTER
        } else {
            "is neither a GGUF file nor a directory as PEFT writes it; give one of them"
        };
        return Err(Error::model(path, message));
    }
    let header = Header::read(path, &map)?;
    let alpha = described(path, &header, base)?;
    if let Some((name, info)) = header.tensors.iter().find(|(_, info)| info.kind.candle().is_none()) {
        let kind = info.kind;
        let message = format!(
            "tensor `{name}` is in {kind}, which is not read in an adapter; convert it again with --outtype f32 or f16"
        );
        return Err(Error::model(path, message));
    }
    let weights = Weights::gguf(path, &map, &header, str::to_owned)?;
    let reader = Reader { path, header: &header, weights, base };
    let mut modules = BTreeMap::new();
    let mut tensors: Vec<&String> = header.tensors.keys().collect();
    tensors.sort_unstable();
    for stem in tensors.into_iter().map(|name| reader.stem(name)).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        reader.pair(stem, alpha, &mut modules)?;
    }
    let Some(first) = modules.values().next() else {
        return Err(Error::model(path, "holds no LoRA tensors"));
    };
    let r = first.rank;
    let alpha = first.scale * r as f64;
    let base = header.metadata.get(BASE).and_then(|name| name.to_string().ok()).cloned().unwrap_or_default();
    Ok(Adapter {
        r,
        alpha,
        dropout: 0.0,
        base,
        revision: None,
        path: path.to_path_buf(),
        targets: None,
        modules,
        saved: BTreeMap::new(),
    })
}

/// The base that a GGUF adapter names, as the hub does where it can be told; nothing is read but the header.
///
/// # Errors
/// A file that is no GGUF adapter.
pub(super) fn base_of(path: &Path) -> Result<String> {
    open_regular(path)?;
    let map = map_file(path)?;
    let metadata = Header::read(path, &map)?.metadata;
    let text = |key: &str| metadata.get(key).and_then(|value| value.to_string().ok()).map_or("", String::as_str);
    if text(KIND) != "adapter" {
        return Err(Error::model(path, format!("metadata `{KIND}` is not `adapter`; expected a LoRA adapter")));
    }
    Ok(text(BASE_URL).strip_prefix(HUB).unwrap_or(text(BASE)).to_owned())
}

/// Checks what the file says of itself; gives its alpha, where 0 leaves B·A as it is, as in llama.cpp.
fn described(path: &Path, header: &Header, base: &Outline) -> Result<f64> {
    let text = |key: &str| match header.metadata.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(other) => {
            let got = other.value_type();
            Err(Error::model(path, format!("metadata `{key}` is {got:?}, expected a string")))
        }
    };
    let refuse = |key: &str, got: Option<&str>, expected: &str, what: &str| {
        let got = got.map_or_else(|| "is missing".to_owned(), |got| format!("is `{got}`"));
        Err(Error::model(path, format!("metadata `{key}` {got}, expected `{expected}`; {what}")))
    };
    let architecture = text(ARCHITECTURE)?;
    if architecture == Some("controlvector") {
        return Err(Error::model(
            path,
            "is a control vector, and only LoRA adapters are supported; merge it into the base",
        ));
    }
    let kind = text(KIND)?;
    if kind != Some("adapter") {
        return refuse(KIND, kind, "adapter", "give an adapter as llama.cpp's convert_lora_to_gguf.py writes it");
    }
    let method = text(METHOD)?;
    if method != Some("lora") {
        return refuse(METHOD, method, "lora", "only LoRA adapters are supported; merge it into the base");
    }
    if header.metadata.contains_key(INVOCATION) {
        let message = format!("metadata `{INVOCATION}` is there: an adapter that tokens switch on is not supported");
        return Err(Error::model(path, message));
    }
    let expected = base.architecture.as_str();
    if architecture != Some(expected) {
        let what = "it was made for another base; give [model] the base that it was trained on";
        return refuse(ARCHITECTURE, architecture, expected, what);
    }
    match header.metadata.get(LORA_ALPHA) {
        None => Ok(0.0),
        Some(Value::F32(alpha)) if alpha.is_finite() => Ok(f64::from(*alpha)),
        Some(Value::F32(alpha)) => {
            Err(Error::model(path, format!("metadata `{LORA_ALPHA}` is {alpha}, expected a finite number")))
        }
        Some(other) => {
            let got = other.value_type();
            Err(Error::model(path, format!("metadata `{LORA_ALPHA}` is {got:?}, expected F32")))
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    header: &'a Header,
    weights: Weights,
    base: &'a Outline,
}

impl Reader<'_> {
    /// What is before `.lora_a` in a tensor's name; `None` for a B whose A is there.
    fn stem<'n>(&self, name: &'n str) -> Result<Option<&'n str>> {
        let (stem, other) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(stem), _) => (stem, "lora_b"),
            (_, Some(stem)) => (stem, "lora_a"),
            _ => {
                let message = format!(
                    "tensor `{name}` is not known, expected `LAYER.weight.lora_a` and `LAYER.weight.lora_b` alone; \
                     convert the adapter again without it"
                );
                return Err(Error::model(self.path, message));
            }
        };
        if !self.weights.has(&format!("{stem}.{other}")) {
            let message =
                format!("tensor `{stem}.{other}` is missing, and `{name}` is there; convert the adapter again");
            return Err(Error::model(self.path, message));
        }
        Ok(name.ends_with(".lora_a").then_some(stem))
    }

    /// Puts a pair, or those of all experts, among the modules.
    fn pair(&self, stem: &str, alpha: f64, modules: &mut BTreeMap<String, Module>) -> Result<()> {
        let tensor = stem.strip_suffix(".weight").unwrap_or("");
        let (count, paths) = (self.base.stacked(tensor), self.base.paths(tensor));
        if paths.iter().any(|path| self.base.vocabulary_paths().contains(&path.as_str())) {
            let message = format!(
                "tensor `{stem}.lora_a` changes the embedding or the head, which is not supported in an adapter; \
                 merge it into the base, or train without `embed_tokens` and `lm_head`"
            );
            return Err(Error::model(self.path, message));
        }
        // Another name than GGUF's would be taken for a second pair of the same layer.
        let named = |path: &&String| self.base.gguf(path).as_deref() == Some(tensor);
        let Some([out_features, in_features]) =
            paths.first().filter(named).and_then(|path| self.base.layers.get(path).copied())
        else {
            return Err(self.unknown(stem));
        };
        let [a, b] = ["lora_a", "lora_b"].map(|kind| format!("{stem}.{kind}"));
        let shape = |name: &str| self.weights.shape(name).unwrap_or_default();
        let rank = shape(&a).iter().rev().nth(1).copied().unwrap_or(0);
        let expected = |pair: [usize; 2]| count.into_iter().chain(pair).collect::<Vec<_>>();
        if rank == 0 || shape(&a) != expected([rank, in_features]) || shape(&b) != expected([out_features, rank]) {
            let (got_a, got_b) = (shape(&a), shape(&b));
            let of = count.map_or_else(String::new, |count| format!("{count}, "));
            let message = format!(
                "tensors `{a}` and `lora_b` have shapes {got_a:?} and {got_b:?}, expected [{of}rank, {in_features}] and \
                 [{of}{out_features}, rank]; it was made for another base"
            );
            return Err(Error::model(self.path, message));
        }
        let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f64 };
        for (expert, path) in paths.into_iter().enumerate() {
            let expert = count.map(|count| (count, expert));
            let (a, mut b) =
                (self.values(&a, expert, [rank, in_features])?, self.values(&b, expert, [out_features, rank])?);
            if let Some(order) = self.base.order(&path, out_features) {
                b = order.into_iter().flat_map(|at| &b[at * rank..(at + 1) * rank]).copied().collect();
            }
            let module = Module { a, b, rank, in_features, out_features, scale, magnitude: None, bias: None };
            modules.insert(path, module);
        }
        Ok(())
    }

    /// A matrix, or one of several, in f32.
    fn values(&self, name: &str, expert: Option<(usize, usize)>, [rows, cols]: [usize; 2]) -> Result<Vec<f32>> {
        let matrix = match expert {
            None => self.weights.matrix(name, rows, cols)?,
            Some((count, expert)) => self.weights.slab(name, [count, rows, cols], expert, 0..rows)?,
        };
        if matrix.has_non_finite() {
            return Err(Error::model(self.path, format!("tensor `{name}` holds NaN or infinite values")));
        }
        let mut values = Vec::with_capacity(rows * cols);
        matrix.for_blocks(|_, block| values.extend_from_slice(block));
        Ok(values)
    }

    fn unknown(&self, stem: &str) -> Error {
        let tensor_name = |path: &String| Some(format!("{}.weight", self.base.gguf(path)?));
        let known: Vec<String> = self.base.layers.keys().filter_map(tensor_name).collect();
        let nearest = self.weights.nearest_of(stem, known.iter().map(String::as_str));
        let nearest = nearest.map_or_else(String::new, |name| format!(", expected one as `{name}.lora_a`"));
        let architecture = self.header.metadata.get(ARCHITECTURE).and_then(|v| v.to_string().ok());
        let message = format!(
            "tensor `{stem}.lora_a` changes no layer of this {} that an adapter can change{nearest}; it was made for another \
             base, or has to be merged into it",
            architecture.map_or("model", String::as_str)
        );
        Error::model(self.path, message)
    }
}
