//! The library against what we did not write, and the order of its rooms.

#[cfg(feature = "candle")]
mod candle_transformers;
mod layering;
#[cfg(feature = "candle")]
mod model_source;
#[cfg(feature = "candle")]
mod peft;
#[cfg(feature = "candle")]
#[path = "../commands/support.rs"]
mod support;
#[cfg(feature = "candle")]
mod tokenizer;
