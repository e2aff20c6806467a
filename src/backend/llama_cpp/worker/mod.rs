//! llama.cpp: one loaded model, a context of its own for each arm, many sequences a batch.
//!
//! Only the worker process calls it (see [`serve`]): ggml ends the process when one of its asserts does not hold. What runs here
//! uses `llama-cpp-2`'s safe interface alone. Adapters are loaded before any context exists, since loading one takes the model
//! mutably; base and tuned never share a context, so they never share a cache.
//!
//! Logits come as close to those of other programs as llama.cpp lets them: the cache is kept in f32, and flash attention, which
//! rounds its values to f16, is off.

mod feed;
mod gpu;
mod logs;
mod raw;
pub(crate) mod serve;
mod session;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::{LlamaChatMessage, LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::token::LlamaToken;

use super::protocol::{Opened, Opening};
use crate::error::{Error, Result};
use crate::record::Message;
use feed::{BATCH, Shape};
pub(crate) use logs::pass_on;
#[cfg(test)]
pub(crate) use raw::Differentiator;

/// Name and version, as they decide an answer; the version is the one that `Cargo.toml` pins.
pub(crate) const VERSION: &str = "llama-cpp 0.1.160";
/// The same on weights widened to f32.
pub(crate) const VERSION_F32: &str = "llama-cpp 0.1.160 f32";

/// Set in a debug build by a test: a prompt that holds this token makes ggml abort, by an assert of its own.
const ABORT_AT: &str = "FINETEST_TEST_ABORT_AT_TOKEN";

/// A model and the adapters of its arms.
pub(crate) struct Session {
    backend: &'static LlamaBackend,
    /// Nothing while an untouched copy has the memory of its GPU.
    loaded: Option<Loaded>,
    opening: Opening,
}

struct Loaded {
    model: LlamaModel,
    /// `None` is base. llama.cpp frees adapters with their model.
    arms: Vec<Option<LlamaLoraAdapter>>,
}

impl Session {
    /// Loads the model, then the adapters.
    ///
    /// # Errors
    /// A processor without what ggml is built for; a file that llama.cpp refuses, with what it says of it.
    pub(crate) fn open(opening: &Opening) -> Result<Self> {
        let backend = prepare()?;
        let loaded = Some(Loaded::of(backend, opening)?);
        Ok(Self { backend, loaded, opening: opening.clone() })
    }

    /// Where it computes, when that is a GPU.
    ///
    /// # Errors
    /// As [`gpu::check`]; to be asked before [`Self::open`].
    pub(super) fn placed(opening: &Opening) -> Result<Option<String>> {
        prepare()?;
        opening.placement.as_ref().map(gpu::check).transpose()
    }

    /// Model and adapters; they are loaded again if they were let go.
    fn loaded(&mut self) -> Result<&mut Loaded> {
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => Loaded::of(self.backend, &self.opening)?,
        };
        Ok(self.loaded.insert(loaded))
    }

    /// What the model is.
    ///
    /// # Errors
    /// It cannot be loaded again. So below.
    pub(crate) fn opened(&mut self) -> Result<Opened> {
        let model = &self.loaded()?.model;
        let vocabulary = usize::try_from(model.n_vocab()).unwrap_or(0);
        Ok(Opened { vocabulary, context: model.n_ctx_train() as usize })
    }

    /// Tokens of a text, special tokens spelt in it recognised, nothing put before or after it.
    pub(crate) fn tokenize(&mut self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.loaded()?.model.vocab().tokenize(text.as_bytes(), false, true);
        Ok(tokens.into_iter().map(|token| token.0 as u32).collect())
    }

    /// A conversation's text with the assistant's header behind it, as llama.cpp itself writes it: by a form built into it that it takes
    /// for the model's template, and no Jinja. Nothing where it has none.
    pub(crate) fn render(&mut self, messages: &[Message]) -> Result<Option<String>> {
        let model = &self.loaded()?.model;
        let Ok(template) = model.chat_template(None) else { return Ok(None) };
        let message = |m: &Message| LlamaChatMessage::new(m.role.clone(), m.content.clone()).ok();
        let Some(chat) = messages.iter().map(message).collect::<Option<Vec<_>>>() else { return Ok(None) };
        Ok(model.apply_chat_template(&template, &chat, true).ok())
    }

    /// The bytes of every token.
    fn pieces(&mut self) -> Result<Vec<Vec<u8>>> {
        let model = &self.loaded()?.model;
        let vocabulary = model.vocab();
        Ok((0..model.n_vocab()).map(|token| vocabulary.token_to_piece(LlamaToken(token), true, None)).collect())
    }

    /// Contexts of these arms, all of one shape.
    fn contexts(&mut self, arms: &[usize], shape: &Shape) -> Result<Vec<LlamaContext<'_>>> {
        let mut contexts = Vec::new();
        let (backend, threads) = (self.backend, self.opening.threads);
        let Loaded { model, arms: adapters } = self.loaded()?;
        for arm in arms {
            let mut context = context(backend, model, threads, shape)?;
            let adapter = adapters.get_mut(*arm).ok_or_else(|| Error::failed(format!("there is no arm {arm}")))?;
            if let Some(adapter) = adapter {
                let set = context.lora_adapter_set(adapter, 1.0);
                set.map_err(|e| Error::failed(format!("llama.cpp does not take the adapter: {e}")))?;
            }
            contexts.push(context);
        }
        Ok(contexts)
    }
}

impl Loaded {
    fn of(backend: &LlamaBackend, opening: &Opening) -> Result<Self> {
        let mut model = load(backend, opening)?;
        let mut arms = Vec::new();
        for path in &opening.arms {
            arms.push(match path {
                None => None,
                Some(path) => Some(load_adapter(&mut model, path, &opening.model)?),
            });
        }
        Ok(Self { model, arms })
    }
}

/// What comes before the first call.
fn prepare() -> Result<&'static LlamaBackend> {
    check_processor()?;
    backend()
}

/// Initialises llama.cpp, once a process.
fn backend() -> Result<&'static LlamaBackend> {
    static BACKEND: OnceLock<std::result::Result<LlamaBackend, String>> = OnceLock::new();
    logs::to_tracing();
    let backend = BACKEND.get_or_init(|| LlamaBackend::init().map_err(|e| e.to_string()));
    backend.as_ref().map_err(|why| Error::failed(format!("llama.cpp cannot start: {why}")))
}

/// llama-cpp-sys-2 builds ggml for AVX2 whatever Rust is built for, and ggml does not look before it uses it.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("AVX2", std::is_x86_feature_detected!("avx2")),
            ("FMA", std::is_x86_feature_detected!("fma")),
            ("F16C", std::is_x86_feature_detected!("f16c")),
            ("BMI2", std::is_x86_feature_detected!("bmi2")),
        ];
        let missing: Vec<&str> = has.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            let message =
                format!("llama.cpp is built for AVX2, and this processor has no {missing}; use --backend candle");
            return Err(Error::failed(message));
        }
    }
    Ok(())
}

/// What llama.cpp said last, behind `: `, when it said something.
fn because() -> String {
    let errors = logs::take_errors();
    if errors.is_empty() { String::new() } else { format!(": {errors}") }
}

fn load(backend: &LlamaBackend, opening: &Opening) -> Result<LlamaModel> {
    let path = opening.model.as_path();
    if !path.is_file() {
        return Err(Error::model(path, "is no file; llama.cpp reads a GGUF file"));
    }
    // Weights are repacked for the processor where llama.cpp does that (its default, which the safe interface cannot turn off).
    // That suits evaluation: adapters are kept out of repacked buffers. Training on such a model is not possible; it needs a load
    // of its own.
    let params = gpu::params(opening.placement.as_ref())?;
    LlamaModel::load_from_file(backend, path, &params).map_err(|error| {
        Error::model(path, format!("llama.cpp cannot load it{}", or(because(), &format!(": {error}"))))
    })
}

fn load_adapter(model: &mut LlamaModel, path: &Path, base: &Path) -> Result<LlamaLoraAdapter> {
    if !path.is_file() {
        return Err(Error::model(path, "is no file; llama.cpp reads a GGUF adapter"));
    }
    model.lora_adapter_init(path).map_err(|error| {
        let why = or(because(), &format!(": {error}"));
        Error::model(path, format!("llama.cpp cannot put this adapter on {}{why}", base.display()))
    })
}

fn or(text: String, other: &str) -> String {
    if text.is_empty() { other.to_owned() } else { text }
}

fn context<'m>(
    backend: &LlamaBackend,
    model: &'m LlamaModel,
    threads: usize,
    shape: &Shape,
) -> Result<LlamaContext<'m>> {
    let threads = i32::try_from(threads.max(1)).unwrap_or(1);
    let params = LlamaContextParams::default()
        .with_n_ctx(shape.cells().try_into().ok())
        .with_n_batch(BATCH as u32)
        .with_n_ubatch(BATCH as u32)
        .with_n_seq_max(shape.sequences())
        // A stream of the cache for each sequence: attention then sees that sequence's cells only.
        .with_kv_unified(false)
        .with_swa_full(true)
        .with_type_k(KvCacheType::F32)
        .with_type_v(KvCacheType::F32)
        .with_flash_attention_policy(llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_no_perf(true);
    model.new_context(backend, params).map_err(|error| {
        let (cells, why) = (shape.cells(), or(because(), &format!(": {error}")));
        Error::failed(format!("llama.cpp cannot make a context of {cells} tokens (out of memory?){why}"))
    })
}

/// Lets ggml abort when a test asks for it: the assert is its own, about a sequence that does not exist.
fn abort_for_a_test(context: &mut LlamaContext<'_>, tokens: &[u32]) {
    if cfg!(debug_assertions)
        && let Some(at) = std::env::var(ABORT_AT).ok().and_then(|token| token.parse().ok())
        && tokens.contains(&at)
    {
        context.copy_cache(i32::MAX, 0, -1);
    }
}
