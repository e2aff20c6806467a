//! finetest.

pub mod config;
pub mod data;
pub mod error;
pub mod record;
pub mod scenario;
