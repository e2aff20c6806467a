//! finetest.

#[cfg(feature = "candle")]
pub mod adapter;
pub mod config;
pub mod data;
#[cfg(feature = "candle")]
pub(crate) mod engine;
pub mod error;
pub(crate) mod files;
#[cfg(feature = "candle")]
pub mod model;
pub mod record;
pub mod scenario;
#[cfg(feature = "candle")]
pub mod train;

pub use error::{Error, Result};
