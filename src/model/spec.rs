//! What a decoder is, as data: read from `config.json` or from GGUF metadata.
//!
//! A family is a variant of [`Family`], its rules of reading a configuration here, and its table of tensor names in
//! `names.rs`; the decoder itself knows only the [`DecoderSpec`].

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as GgufValue};
use serde::Deserialize;

use crate::error::{Error, Result};

/// A family of models that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3.x and what has its form: SmolLM2, TinyLlama, …
    Llama,
}

impl Family {
    const ALL: [Self; 1] = [Self::Llama];

    /// Its name in `config.json` (`model_type`) and in GGUF (`general.architecture`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
        }
    }

    fn from_name(path: &Path, name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
            Error::model(path, format!("model family `{name}` is not known; known are: {}", known.join(", ")))
        })
    }
}

/// How the frequencies of rotary embeddings are stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor` (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// By how much low frequencies are divided.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high.
        high_freq_factor: f64,
        /// The context of pre-training.
        original_context: usize,
    },
    /// Each frequency divided by its own factor, as GGUF's `rope_freqs.weight` says.
    Factors(Vec<f64>),
}

/// Shape and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// ε of the RMS norms.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their stretching.
    pub rope_scaling: RopeScaling,
    /// The head is the embedding.
    pub tied_head: bool,
    /// q, k, v and o have biases.
    pub attention_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Tokens that end a text, from the configuration.
    pub eos: Vec<u32>,
}

impl DecoderSpec {
    /// Reads a Hugging Face `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// A key that is missing, has another type, or names a family, activation or scaling that is not known.
    pub fn from_config(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let config: Config = serde_json::from_str(&text).map_err(|e| Error::input(path, e.line(), e.to_string()))?;
        let family = Family::from_name(path, &config.model_type)?;
        if config.hidden_act != "silu" {
            let got = &config.hidden_act;
            return Err(Error::model(
                path,
                format!("hidden_act is `{got}`, expected `silu` for the family {}", family.name()),
            ));
        }
        let rope = config.rope_parameters.or(config.rope_scaling).unwrap_or_default();
        let spec = Self {
            family,
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
            head_dim: config.head_dim.unwrap_or(config.hidden_size / config.num_attention_heads.max(1)),
            intermediate_size: config.intermediate_size,
            norm_eps: config.rms_norm_eps,
            rope_theta: rope.rope_theta.or(config.rope_theta).unwrap_or(10_000.0),
            rope_scaling: rope.scaling(path)?,
            tied_head: config.tie_word_embeddings,
            attention_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            context: config.max_position_embeddings,
            eos: config.eos_token_id.map(Ids::into_vec).unwrap_or_default(),
        };
        spec.check(path)?;
        Ok(spec)
    }

    /// Reads a GGUF file's metadata.
    ///
    /// # Errors
    /// As [`Self::from_config`].
    pub(crate) fn from_gguf(path: &Path, content: &Content) -> Result<Self> {
        let meta = Metadata { path, content };
        let architecture = meta.text("general.architecture")?;
        let family = Family::from_name(path, &architecture)?;
        let key = |name: &str| format!("{architecture}.{name}");
        let vocab_size = match content.tensor_infos.get("token_embd.weight").map(|t| t.shape.dims()) {
            Some([vocab, _]) => *vocab,
            _ => return Err(Error::model(path, "tensor `token_embd.weight` is missing or not a matrix")),
        };
        let hidden_size = meta.count(&key("embedding_length"))?;
        let heads = meta.count(&key("attention.head_count"))?;
        let factors = match content.tensor_infos.contains_key("rope_freqs.weight") {
            true => RopeScaling::Factors(Vec::new()),
            false => meta.rope_scaling(&key("rope.scaling"))?,
        };
        let spec = Self {
            family,
            vocab_size,
            hidden_size,
            layers: meta.count(&key("block_count"))?,
            heads,
            kv_heads: meta.optional(&key("attention.head_count_kv"), GgufValue::to_u64)?.map_or(heads, |n| n as usize),
            head_dim: match meta.optional(&key("attention.key_length"), GgufValue::to_u64)? {
                Some(n) => n as usize,
                None => hidden_size / heads.max(1),
            },
            intermediate_size: meta.count(&key("feed_forward_length"))?,
            norm_eps: meta.number(&key("attention.layer_norm_rms_epsilon"))?,
            rope_theta: meta.optional(&key("rope.freq_base"), GgufValue::to_f64_any)?.unwrap_or(10_000.0),
            rope_scaling: factors,
            tied_head: !content.tensor_infos.contains_key("output.weight"),
            attention_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
            mlp_bias: content.tensor_infos.contains_key("blk.0.ffn_gate.bias"),
            context: meta.count(&key("context_length"))?,
            eos: meta.optional("tokenizer.ggml.eos_token_id", GgufValue::to_u32)?.into_iter().collect(),
        };
        spec.check(path)?;
        Ok(spec)
    }

    /// Frequencies of the rotary embedding, `head_dim / 2` of them, stretched.
    #[must_use]
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        let plain = (0..half).map(|i| self.rope_theta.powf(-(2.0 * i as f64) / self.head_dim as f64));
        match &self.rope_scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let context = *original_context as f64;
                let stretch = |f: f64| {
                    let wavelength = std::f64::consts::TAU / f;
                    if wavelength > context / low_freq_factor {
                        f / factor
                    } else if wavelength < context / high_freq_factor {
                        f
                    } else {
                        let ramp = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - ramp) * f / factor + ramp * f
                    }
                };
                plain.map(stretch).collect()
            }
        }
    }

    fn check(&self, path: &Path) -> Result<()> {
        let counts = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.context),
        ];
        const MOST: usize = 1 << 28;
        if let Some((key, value)) = counts.iter().find(|(_, n)| *n == 0 || *n > MOST) {
            return Err(Error::model(path, format!("{key} is {value}, expected 1 to {MOST}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv) = (self.heads, self.kv_heads);
            return Err(Error::model(
                path,
                format!("{heads} attention heads do not divide among {kv} key-value heads"),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::model(path, format!("head_dim is {}, expected an even number", self.head_dim)));
        }
        if !(self.norm_eps > 0.0 && self.rope_theta > 0.0) {
            let message =
                format!("rms_norm_eps is {} and rope_theta {}, expected both above 0", self.norm_eps, self.rope_theta);
            return Err(Error::model(path, message));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    max_position_embeddings: usize,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    eos_token_id: Option<Ids>,
}

fn silu() -> String {
    "silu".into()
}

#[derive(Default, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl Rope {
    fn scaling(&self, path: &Path) -> Result<RopeScaling> {
        let missing = |key: &str| Error::model(path, format!("rope_scaling has no {key}"));
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: self.factor.ok_or_else(|| missing("factor"))? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: self.factor.ok_or_else(|| missing("factor"))?,
                low_freq_factor: self.low_freq_factor.ok_or_else(|| missing("low_freq_factor"))?,
                high_freq_factor: self.high_freq_factor.ok_or_else(|| missing("high_freq_factor"))?,
                original_context: self
                    .original_max_position_embeddings
                    .ok_or_else(|| missing("original_max_position_embeddings"))?,
            }),
            Some(other) => {
                Err(Error::model(path, format!("rope_type `{other}` is not known; known are: default, linear, llama3")))
            }
        }
    }
}

/// One token or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl Metadata<'_> {
    fn optional<T>(&self, key: &str, read: impl Fn(&GgufValue) -> candle_core::Result<T>) -> Result<Option<T>> {
        let value = self.content.metadata.get(key).map(read).transpose();
        value.map_err(|e| Error::model(self.path, format!("metadata `{key}`: {e}")))
    }

    fn required<T>(&self, key: &str, read: impl Fn(&GgufValue) -> candle_core::Result<T>) -> Result<T> {
        self.optional(key, read)?.ok_or_else(|| Error::model(self.path, format!("metadata `{key}` is missing")))
    }

    fn text(&self, key: &str) -> Result<String> {
        self.required(key, |v| v.to_string().cloned())
    }

    fn count(&self, key: &str) -> Result<usize> {
        Ok(self.required(key, GgufValue::to_u64)? as usize)
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.required(key, GgufValue::to_f64_any)
    }

    fn rope_scaling(&self, prefix: &str) -> Result<RopeScaling> {
        let kind = self.optional(&format!("{prefix}.type"), |v| v.to_string().cloned())?;
        match kind.as_deref() {
            None | Some("none") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: self.number(&format!("{prefix}.factor"))? }),
            Some(other) => {
                Err(Error::model(self.path, format!("rope scaling `{other}` is not known; known are: none, linear")))
            }
        }
    }
}

/// GGUF writers store one number as f32 or f64.
trait AnyFloat {
    fn to_f64_any(&self) -> candle_core::Result<f64>;
}

impl AnyFloat for GgufValue {
    fn to_f64_any(&self) -> candle_core::Result<f64> {
        self.to_f32().map(f64::from).or_else(|_| self.to_f64())
    }
}
