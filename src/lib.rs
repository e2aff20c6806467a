//! finetest.

pub mod config;
pub mod data;
pub mod error;
#[cfg(feature = "candle")]
pub mod model;
pub mod record;
