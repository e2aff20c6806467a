//! Training data.

#[cfg(feature = "candle")]
pub mod encode;
