//! finetest.

pub mod compare;
pub mod config;
pub mod error;
pub mod gate;
pub mod record;
pub mod report;
pub mod snapshot;

pub use compare::{Comparison, Flip};
pub use gate::decide;
pub use record::Decision;
pub use report::Report;

#[doc(hidden)]
pub use insta;
