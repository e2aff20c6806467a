//! The base model: where its files come from, its tokenizer and its chat template.

mod pretokenizer;
pub mod source;
pub mod template;
pub mod tokenizer;

pub use source::{ModelFiles, ModelKind, SourceEvent};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
