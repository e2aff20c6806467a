//! The example project's scenarios, as tests.

finetest::scenarios!();
