//! finetest.

#[cfg(feature = "candle")]
pub mod adapter;
pub mod backend;
#[cfg(feature = "candle")]
pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
#[cfg(feature = "candle")]
pub(crate) mod engine;
pub mod error;
pub(crate) mod files;
pub mod gate;
#[cfg(feature = "candle")]
pub mod harness;
#[cfg(feature = "candle")]
pub mod model;
#[cfg(feature = "candle")]
pub mod project;
pub mod record;
pub mod report;
pub mod run;
pub mod scenario;
pub mod snapshot;
#[cfg(feature = "candle")]
pub mod train;

pub use compare::{Comparison, Flip};
pub use config::Config;
pub use data::{Dataset, Example};
pub use error::{Error, Result};
pub use gate::decide;
pub use record::{Decision, RunRecord};
pub use report::Report;
pub use scenario::{Case, Check, Scenario};

#[doc(hidden)]
pub use insta;
