//! finetest.

pub mod config;
pub mod data;
pub mod error;
pub mod record;
pub mod scenario;

pub use data::{Dataset, Example};
pub use scenario::{Case, Check, Scenario};
