//! The base model: where its files come from, its tokenizer, its chat template, and the decoder.
//!
//! From the bottom: `formats` (files' forms) and `sources` (bytes to disk); `architecture` (what a model is, without weights) and
//! `tokenizer`; `ops` (numbers); `decoder`; and [`open`](self), which puts them together.

pub mod architecture;
pub(crate) mod decoder;
pub(crate) mod formats;
pub(crate) mod lora;
mod open;
pub(crate) mod ops;
pub mod sources;
pub mod tokenizer;

pub use architecture::sizes::Sizes;
pub use architecture::{DecoderSpec, Family};
#[cfg(feature = "llama-cpp")]
pub(crate) use open::context;
pub use open::gguf_spec;
pub(crate) use open::{Limits, Opened, limits, load_decoder, open_outlined, outline, spec_of};
pub use sources::{ModelFiles, ModelKind, SourceEvent};
pub use tokenizer::{ChatTemplate, Tokenizer};
