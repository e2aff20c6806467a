//! The library against what we did not write, the order of its modules, and the pages about it.

#[cfg(feature = "candle")]
mod candle_transformers;
mod docs;
mod layering;
#[cfg(feature = "candle")]
mod model_source;
mod package;
mod pages;
#[cfg(feature = "candle")]
mod peft;
mod schemas;
#[cfg(feature = "candle")]
#[path = "../commands/support.rs"]
mod support;
#[cfg(feature = "candle")]
mod tokenizer;
